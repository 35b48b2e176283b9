//! The trace header that this switch prepends. RFC 5321, section 4.4.
//!
//! Everything that a client chose is reduced to what the grammar allows before it is written: no client can end the
//! field, start another one, or close the comment in which its address stands.

use crate::date::internet_date;
use crate::rank::{AskedBy, Rank};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use sternpost_message::{DOMAIN_OCTETS_MAX, Mailbox, MessageId, TlsFacts, UnixMillis};

/// What the field says.
pub(crate) struct Trace<'a> {
    pub helo: &'a str,
    pub client: &'a str,
    pub hostname: &'a str,
    pub protocol: &'a str,
    /// The TLS of the session.
    pub tls: Option<&'a TlsFacts>,
    pub smtputf8: bool,
    pub id: MessageId,
    /// The recipient, when there is exactly one: naming more would tell each of the others.
    pub only_recipient: Option<&'a Mailbox>,
    /// Said when somebody has asked for a priority.
    pub rank: Rank,
    pub at: UnixMillis,
}

/// The field with its line ends: three to seven lines of at most 400 octets.
pub(crate) fn received_field(trace: &Trace<'_>) -> Vec<u8> {
    let helo = name(trace.helo);
    let client = client_comment(trace.client);
    let hostname = name(trace.hostname);
    let protocol = protocol_keyword(trace.protocol, trace.smtputf8);
    let id = trace.id;
    let recipient = trace.only_recipient.filter(|mailbox| trace.smtputf8 || mailbox.is_ascii());
    let recipient = recipient.map(|mailbox| format!("\r\n\tfor <{mailbox}>")).unwrap_or_default();
    let tls = trace.tls.map(|tls| format!("\r\n\t{}", tls_clause(tls))).unwrap_or_default();
    let rank = rank(&trace.rank).map(|rank| format!("\r\n\t{rank}")).unwrap_or_default();
    let date = internet_date(trace.at);
    format!(
        "Received: from {helo} ({client})\r\n\
         \tby {hostname} (Sternpost) with {protocol} id {id}{recipient}{tls}{rank};\r\n\
         \t{date}\r\n"
    )
    .into_bytes()
}

/// RFC 8314, 7.4: the clauses for suite and group, and what there is no clause for as a comment.
fn tls_clause(tls: &TlsFacts) -> String {
    let group = tls.group.as_ref().map(|group| format!(" group {}", name(group))).unwrap_or_default();
    let certificate = tls.peer.as_ref().map(|peer| {
        let word = if peer.is_verified { "verified" } else { "not verified" };
        format!(";\r\n\tclient certificate {word}: {}", comment(&peer.subject))
    });
    let (suite, version) = (name(&tls.cipher_suite), comment(&tls.version));
    format!("tls {suite}{group} ({version}{})", certificate.unwrap_or_default())
}

/// What stands in a comment: in the place of each character that would have a meaning there, or none in a header, stands `?`.
fn comment(text: &str) -> String {
    let allowed = |c: char| matches!(c, ' '..='~') && !matches!(c, '(' | ')' | '\\');
    text.chars().map(|c| if allowed(c) { c } else { '?' }).collect()
}

/// What was asked for and what the message got. The clause PRIORITY is for the parameter (RFC 6710, section 7); of what a
/// field has asked for, a comment tells.
fn rank(rank: &Rank) -> Option<String> {
    let asked = rank.asked?;
    let (precedence, priority) = (rank.precedence, asked.priority);
    let lowered = if rank.is_lowered() { ", lowered" } else { "" };
    Some(match asked.by {
        AskedBy::Parameter => format!("PRIORITY {priority} ({precedence}{lowered})"),
        AskedBy::Field(field) => format!("({precedence} by {field} {priority}{lowered})"),
    })
}

/// A domain name or an address literal. In anything else each character that no domain name has becomes `?`.
fn name(text: &str) -> String {
    if text.is_empty() {
        return "unknown".to_owned();
    }
    if is_address_literal(text) {
        return text.to_owned();
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    text.chars().take(DOMAIN_OCTETS_MAX).map(|c| if allowed(c) { c } else { '?' }).collect()
}

fn is_address_literal(text: &str) -> bool {
    let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    match literal.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPv6:") => rest.parse::<Ipv6Addr>().is_ok(),
        _ => literal.parse::<Ipv4Addr>().is_ok(),
    }
}

/// The client's address as an address literal, or `unknown` (a client on a local socket has none).
fn client_comment(client: &str) -> String {
    let address =
        client.parse::<IpAddr>().or_else(|_| client.parse::<SocketAddr>().map(|socket| socket.ip()));
    match address.map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => format!("[{address}]"),
        Ok(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
        Err(_) => "unknown".to_owned(),
    }
}

/// The keyword behind `with`. A message with SMTPUTF8 has its own: `UTF8SMTP…` for `ESMTP…`, `UTF8LMTP…` for `LMTP…`
/// (RFC 6531, section 4.3).
fn protocol_keyword(protocol: &str, smtputf8: bool) -> String {
    match protocol.strip_prefix('E').unwrap_or(protocol) {
        plain if smtputf8 && (plain.starts_with("SMTP") || plain.starts_with("LMTP")) => {
            format!("UTF8{plain}")
        }
        _ => protocol.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Asked;
    use proptest::prelude::*;
    use sternpost_message::{MtPriority, PeerCertificate, Precedence, PriorityField};

    fn trace<'a>(helo: &'a str, client: &'a str, only_recipient: Option<&'a Mailbox>) -> Trace<'a> {
        let id = MessageId([0xab; 16]);
        let at = UnixMillis(1_795_301_110_000);
        let (hostname, protocol) = ("mx.example.net", "ESMTP");
        let rank = Rank { precedence: Precedence::Routine, priority: None, asked: None };
        let tls = None;
        Trace { helo, client, hostname, protocol, tls, smtputf8: false, id, only_recipient, rank, at }
    }

    fn text(trace: &Trace<'_>) -> String {
        String::from_utf8(received_field(trace)).unwrap()
    }

    #[test]
    fn tls_has_its_clauses_and_a_certificate_stands_in_a_comment_that_it_cannot_leave() {
        let peer = PeerCertificate {
            subject: "CN=client.example, O=a) by evil (\\\r\nX-Forged: y\u{fc}".to_owned(),
            fingerprint: [0; 32],
            is_verified: false,
        };
        let mut tls = TlsFacts {
            version: "TLSv1.3".to_owned(),
            cipher_suite: "TLS_AES_256_GCM_SHA384".to_owned(),
            group: Some("X25519".to_owned()),
            peer: Some(peer),
        };
        let with =
            |tls: &TlsFacts| text(&Trace { tls: Some(tls), ..trace("client.example", "192.0.2.1", None) });
        let field = with(&tls);
        let clause = "\r\n\ttls TLS_AES_256_GCM_SHA384 group X25519 (TLSv1.3;\r\n\tclient certificate not verified: \
                      CN=client.example, O=a? by evil ????X-Forged: y?);\r\n";
        assert!(field.contains(clause), "{field}");
        tls.peer = None;
        tls.group = None;
        assert!(with(&tls).contains("\r\n\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3);\r\n"));
    }

    #[test]
    fn the_field_names_client_switch_protocol_id_recipient_and_date() {
        let joe = Mailbox::parse("joe@example.org").unwrap();
        assert_eq!(
            text(&trace("client.example", "192.0.2.1", Some(&joe))),
            "Received: from client.example ([192.0.2.1])\r\n\
             \tby mx.example.net (Sternpost) with ESMTP id abababababababababababababababab\r\n\
             \tfor <joe@example.org>;\r\n\
             \tSat, 21 Nov 2026 22:45:10 +0000\r\n"
        );
    }

    #[test]
    fn the_field_says_where_the_precedence_comes_from() {
        let field = AskedBy::Field(PriorityField::MtPriority);
        let rows = [
            (AskedBy::Parameter, 4, 4, "PRIORITY 4 (flash)"),
            (AskedBy::Parameter, 6, 4, "PRIORITY 6 (flash, lowered)"),
            (field, 4, 4, "(flash by mt-priority 4)"),
            (field, 9, 4, "(flash by mt-priority 9, lowered)"),
        ];
        for (by, asked, got, wanted) in rows {
            let [asked, got] = [asked, got].map(|value| MtPriority::new(value).unwrap());
            let asked = Some(Asked { by, priority: asked });
            let rank = Rank { precedence: Precedence::Flash, priority: Some(got), asked };
            let field = text(&Trace { rank, ..trace("client.example", "192.0.2.1", None) });
            assert!(
                field.contains(&format!("id abababababababababababababababab\r\n\t{wanted};\r\n\tSat")),
                "{field}"
            );
        }
    }

    #[test]
    fn without_an_only_recipient_nobody_is_named() {
        let field = text(&trace("client.example", "192.0.2.1", None));
        assert!(
            !field.contains("for") && field.ends_with("ab;\r\n\tSat, 21 Nov 2026 22:45:10 +0000\r\n"),
            "{field}"
        );
    }

    #[test]
    fn addresses_become_literals() {
        let rows = [
            ("192.0.2.1", "[192.0.2.1]"),
            ("192.0.2.1:2525", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("[2001:db8::1]:25", "[IPv6:2001:db8::1]"),
            ("::ffff:192.0.2.1", "[192.0.2.1]"),
            ("", "unknown"),
            ("a) b\r\nX: y", "unknown"),
        ];
        for (client, comment) in rows {
            assert_eq!(client_comment(client), comment, "{client:?}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_made_harmless() {
        let rows = [
            ("mail.example", "mail.example"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[IPv6:::1]", "[IPv6:::1]"),
            ("[192.0.2.1", "?192.0.2.1"),
            ("[é:]", "????"),
            ("a) (b", "a???b"),
            ("a\r\nX: y", "a??X??y"),
            ("пример", "??????"),
            ("", "unknown"),
        ];
        for (helo, shown) in rows {
            assert_eq!(name(helo), shown, "{helo:?}");
        }
    }

    #[test]
    fn smtputf8_has_its_own_protocol_keywords() {
        let rows =
            [("ESMTP", "UTF8SMTP"), ("ESMTPSA", "UTF8SMTPSA"), ("SMTP", "UTF8SMTP"), ("LMTPS", "UTF8LMTPS")];
        for (protocol, keyword) in rows {
            assert_eq!(protocol_keyword(protocol, true), keyword);
            assert_eq!(protocol_keyword(protocol, false), protocol);
        }
    }

    proptest! {
        #[test]
        fn no_client_can_write_a_line_of_its_own(
            helo in "(?s).{0,300}",
            client in "(?s).{0,60}",
            hostname in "(?s).{0,60}",
            recipient in "(\"[ -~é]{0,20}\"|[a-zé.]{1,9})@[a-zé.]{1,20}",
            smtputf8: bool,
        ) {
            let recipient = Mailbox::parse(&recipient).ok();
            let mut trace = trace(&helo, &client, recipient.as_ref());
            (trace.hostname, trace.smtputf8) = (&hostname, smtputf8);
            let field = text(&trace);
            let lines: Vec<_> = field.split("\r\n").collect();
            let is_named = lines.len() == 5;
            prop_assert!(lines.len() == 4 || is_named && recipient.is_some(), "{}", field);
            prop_assert!(lines[0].starts_with("Received: from ") && lines[1].starts_with("\tby "));
            prop_assert!(!is_named || lines[2].starts_with("\tfor <"));
            prop_assert!(lines[lines.len() - 2].ends_with(" +0000") && lines.last() == Some(&""));
            for line in lines {
                prop_assert!(line.len() <= 400 && !line.contains(['\r', '\n', '\0']), "{line:?}");
            }
            prop_assert_eq!(field.lines().next().map(|line| line.matches(['(', ')']).count()), Some(2));
            prop_assert!(smtputf8 || field.is_ascii());
        }
    }
}
