//! What QMGR remembers of each living message beside the scheduler's tree: enough to turn a durable outcome into the
//! scheduler's events.

use rustc_hash::FxHashMap;
use sternpost_link::store::{Effect, MessageFacts};
use sternpost_message::{
    MessageId, MessageSequence, MlistId, Precedence, ROUTE_DELAY_REPORT, ROUTE_FINAL_REPORT, RecipientRange,
    RouteIndex, UnixMillis,
};

/// One living message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    /// In lived time.
    pub(crate) accepted_at: UnixMillis,
    pub(crate) precedence: Precedence,
    /// The pending recipients of each route, ascending; empty when all are of route 0.
    recipients: Box<[(RecipientRange, RouteIndex)]>,
}

impl Message {
    pub(crate) fn of(facts: &MessageFacts, accepted_at: UnixMillis) -> Self {
        let is_plain = matches!(&facts.mlists[..], [only] if only.route == RouteIndex(0));
        let mut recipients: Vec<_> = if is_plain {
            Vec::new()
        } else {
            facts
                .mlists
                .iter()
                .flat_map(|mlist| mlist.pending.iter().map(|range| (*range, mlist.route)))
                .collect()
        };
        recipients.sort_unstable_by_key(|(range, _)| range.first);
        Self {
            id: facts.id,
            accepted_at,
            precedence: facts.precedence,
            recipients: recipients.into_boxed_slice(),
        }
    }

    /// Every Mlist that the message can have.
    pub(crate) fn mlists(&self, message: MessageSequence) -> impl Iterator<Item = MlistId> + use<> {
        let mut routes: Vec<_> = self.recipients.iter().map(|(_, route)| *route).collect();
        routes.sort_unstable();
        routes.dedup();
        if routes.is_empty() {
            routes.push(RouteIndex(0));
        }
        routes.extend([ROUTE_FINAL_REPORT, ROUTE_DELAY_REPORT]);
        routes.into_iter().map(move |route| MlistId { message, route })
    }

    /// Cuts a range at the borders of routes.
    fn by_route(&self, range: RecipientRange) -> Vec<(RecipientRange, RouteIndex)> {
        if self.recipients.is_empty() {
            return vec![(range, RouteIndex(0))];
        }
        let behind = self.recipients.partition_point(|(own, _)| own.end() <= range.first);
        self.recipients[behind..]
            .iter()
            .take_while(|(own, _)| own.first < range.end())
            .map(|(own, route)| {
                let first = own.first.max(range.first);
                (RecipientRange { first, count: own.end().min(range.end()) - first }, *route)
            })
            .collect()
    }
}

/// What a durable outcome means for the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The recipients of the Mlist need no more attempts.
    Settled { mlist: MlistId, recipients: RecipientRange, worked: bool },
    /// The attempt failed for now.
    Deferred { mlist: MlistId, recipients: RecipientRange, scope: sternpost_message::ErrorScope },
    /// A report is owed, of a failure or of a success.
    ReportOwed { recipients: RecipientRange },
}

/// All living messages.
#[derive(Debug, Default)]
pub(crate) struct Messages(FxHashMap<MessageSequence, Message>);

impl Messages {
    pub(crate) fn clear(&mut self) {
        self.0 = FxHashMap::default();
    }

    pub(crate) fn insert(&mut self, facts: &MessageFacts, accepted_at: UnixMillis) {
        self.0.insert(facts.sequence, Message::of(facts, accepted_at));
    }

    /// The first of them, if there is one.
    pub(crate) fn oldest(&self) -> Option<MessageSequence> {
        self.0.keys().min().copied()
    }

    pub(crate) fn get(&self, message: MessageSequence) -> Option<&Message> {
        self.0.get(&message)
    }

    pub(crate) fn remove(&mut self, message: MessageSequence) -> Option<Message> {
        self.0.remove(&message)
    }

    /// By its name; slow, for operators.
    pub(crate) fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.0.iter().find(|(_, message)| message.id == id).map(|(sequence, _)| *sequence)
    }

    /// Translates one effect on a range of recipients.
    pub(crate) fn consequences(
        &self,
        sequence: MessageSequence,
        range: RecipientRange,
        effect: Effect,
        out: &mut Vec<Consequence>,
    ) {
        let Some(message) = self.0.get(&sequence) else { return };
        let report = |route| MlistId { message: sequence, route };
        match effect {
            Effect::DelayReported => {
                let mlist = report(ROUTE_DELAY_REPORT);
                out.push(Consequence::Settled { mlist, recipients: range, worked: false });
            }
            Effect::Worked
            | Effect::WorkedReportOwed
            | Effect::Deferred(_)
            | Effect::Failed
            | Effect::Closed => {
                let worked = matches!(effect, Effect::Worked | Effect::WorkedReportOwed);
                for (recipients, route) in message.by_route(range) {
                    let mlist = report(route);
                    out.push(match effect {
                        Effect::Deferred(scope) => Consequence::Deferred { mlist, recipients, scope },
                        _ => Consequence::Settled { mlist, recipients, worked },
                    });
                }
                if matches!(effect, Effect::Failed | Effect::WorkedReportOwed) {
                    out.push(Consequence::ReportOwed { recipients: range });
                }
                if effect == Effect::Closed {
                    let mlist = report(ROUTE_FINAL_REPORT);
                    out.push(Consequence::Settled { mlist, recipients: range, worked: false });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::MlistFacts;

    fn range(first: u32, count: u32) -> RecipientRange {
        RecipientRange { first, count }
    }

    fn facts(routes: &[&[RecipientRange]]) -> MessageFacts {
        MessageFacts {
            id: MessageId([1; 16]),
            sequence: MessageSequence(7),
            accepted_at: UnixMillis(1),
            precedence: Precedence::Routine,
            content_octets: 1,
            delay_reported: false,
            mlists: (0_u16..)
                .zip(routes)
                .map(|(route, ranges)| MlistFacts {
                    route: RouteIndex(route),
                    channel: "smtp".into(),
                    peer: "a".into(),
                    pending: ranges.to_vec(),
                    attempts: 0,
                })
                .collect(),
            report_owed: Vec::new(),
        }
    }

    #[test]
    fn an_outcome_over_several_routes_settles_each_ones_share() {
        let mut messages = Messages::default();
        messages.insert(&facts(&[&[range(0, 2), range(5, 1)], &[range(2, 3)]]), UnixMillis(1));
        let mut out = Vec::new();
        messages.consequences(MessageSequence(7), range(1, 5), Effect::Worked, &mut out);
        let settled: Vec<_> = out
            .iter()
            .map(|one| match one {
                Consequence::Settled { mlist, recipients, worked: true } => {
                    (mlist.route.0, recipients.first, recipients.count)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(settled, [(0, 1, 1), (1, 2, 3), (0, 5, 1)]);
    }

    #[test]
    fn a_failure_settles_the_route_and_owes_a_report() {
        let mut messages = Messages::default();
        messages.insert(&facts(&[&[range(0, 1)]]), UnixMillis(1));
        let mut out = Vec::new();
        messages.consequences(MessageSequence(7), range(0, 1), Effect::Failed, &mut out);
        assert!(matches!(
            out[..],
            [Consequence::Settled { worked: false, .. }, Consequence::ReportOwed { .. }]
        ));
    }

    #[test]
    fn a_success_that_is_to_be_reported_settles_the_route_as_work_and_owes_a_report() {
        let mut messages = Messages::default();
        messages.insert(&facts(&[&[range(0, 1)]]), UnixMillis(1));
        let mut out = Vec::new();
        messages.consequences(MessageSequence(7), range(0, 1), Effect::WorkedReportOwed, &mut out);
        assert!(matches!(
            out[..],
            [Consequence::Settled { worked: true, .. }, Consequence::ReportOwed { .. }]
        ));
    }

    #[test]
    fn outcomes_of_a_message_that_is_gone_change_nothing() {
        let mut out = Vec::new();
        Messages::default().consequences(MessageSequence(1), range(0, 1), Effect::Worked, &mut out);
        assert!(out.is_empty());
    }
}
