//! A message in short: one line of `sternpost queue list`.

use super::when;
use crate::ask::{self, AskError, Which};
use crate::output;
use serde_json::{Value, json};
use sternpost_link::store::{FromStore, MessageFacts, ToStore};
use sternpost_message::{MessageId, MessageSequence, RecipientRange, UnixMillis};

/// Asks the store.
///
/// # Errors
/// When it does not answer.
pub(super) async fn listed(which: &Which, limit: usize) -> Result<Vec<MessageFacts>, AskError> {
    let question = |from, count_max| ToStore::List { from, count_max };
    let page = |frame| match frame {
        FromStore::Listed { messages, next } => Some((messages, next)),
        _ => None,
    };
    ask::store(which)?.store_list(MessageSequence(0), limit, question, page).await
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: MessageId,
    pub(super) sequence: MessageSequence,
    pub(super) accepted_at: UnixMillis,
    pub(super) precedence: &'static str,
    pub(super) content_octets: u64,
    pub(super) recipients_pending: u64,
    /// Those of which a report is still to be made, or a word why there is none.
    pub(super) recipients_unreported: u64,
    pub(super) attempts: u16,
    /// `channel/peer`, of the routes on which recipients wait.
    pub(super) routes: Vec<String>,
}

fn recipients_count(ranges: &[RecipientRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}

impl Listed {
    pub(super) fn of_facts(facts: &MessageFacts) -> Self {
        Self {
            id: facts.id,
            sequence: facts.sequence,
            accepted_at: facts.accepted_at,
            precedence: facts.precedence.name(),
            content_octets: facts.content_octets,
            recipients_pending: facts.mlists.iter().map(|mlist| recipients_count(&mlist.pending)).sum(),
            recipients_unreported: recipients_count(&facts.report_owed),
            attempts: facts.mlists.iter().map(|mlist| mlist.attempts).max().unwrap_or(0),
            routes: facts.mlists.iter().map(|mlist| format!("{}/{}", mlist.channel, mlist.peer)).collect(),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "sequence": self.sequence.0,
            "accepted_at": when(self.accepted_at),
            "precedence": self.precedence,
            "content_octets": self.content_octets,
            "recipients_pending": self.recipients_pending,
            "recipients_unreported": self.recipients_unreported,
            "attempts": self.attempts,
            "routes": self.routes,
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            when(self.accepted_at),
            self.precedence.to_owned(),
            self.content_octets.to_string(),
            self.recipients_pending.to_string(),
            self.recipients_unreported.to_string(),
            self.attempts.to_string(),
            self.routes.join(", "),
        ]
    }
}

const HEADER: [&str; 8] =
    ["ID", "ACCEPTED", "PRECEDENCE", "OCTETS", "PENDING", "UNREPORTED", "ATTEMPTS", "CHANNEL/PEER"];

pub(super) fn print_list(messages: &[Listed], json: bool) {
    if json {
        output::print_json(&Value::Array(messages.iter().map(Listed::json).collect()));
    } else {
        let rows: Vec<_> = messages.iter().map(Listed::row).collect();
        output::print(&output::table(&HEADER, &rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::MlistFacts;
    use sternpost_message::{Precedence, RouteIndex};

    #[test]
    fn a_line_counts_only_what_waits() {
        let range = |first, count| RecipientRange { first, count };
        let mlist = |route, peer: &str, pending: Vec<RecipientRange>, attempts| MlistFacts {
            route: RouteIndex(route),
            channel: "smtp".into(),
            peer: peer.into(),
            pending,
            attempts,
        };
        let facts = MessageFacts {
            id: MessageId([1; 16]),
            sequence: MessageSequence(4),
            accepted_at: UnixMillis(1_500),
            precedence: Precedence::Flash,
            content_octets: 4_096,
            delay_reported: false,
            mlists: vec![mlist(0, "a", vec![range(5, 1)], 7), mlist(1, "b", vec![range(0, 2)], 3)],
            report_owed: vec![range(3, 1)],
        };
        let line = Listed::of_facts(&facts).row();
        let wanted = [
            "01010101010101010101010101010101",
            "1970-01-01T00:00:01.5Z",
            "flash",
            "4096",
            "3",
            "1",
            "7",
            "smtp/a, smtp/b",
        ];
        assert_eq!(line, wanted);
    }
}
