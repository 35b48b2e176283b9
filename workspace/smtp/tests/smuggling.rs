//! Whatever stands around a dot, one message comes out or a refusal: no sequence but CR LF . CR LF ends content.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::sync::Arc;
use std::time::Instant;
use sternpost_smtp::server::{
    Answer, BareLineEndings, Input, Output, Question, ServerPolicy, ServerSession, replies,
};

/// What came of one session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    senders: Vec<String>,
    messages: Vec<Vec<u8>>,
    aborted: usize,
    replies: Vec<u8>,
}

fn run(bare_line_endings: BareLineEndings, pieces: &[&[u8]]) -> Heard {
    let now = Instant::now();
    let policy = ServerPolicy { bare_line_endings, ..ServerPolicy::new("mx.example.org") };
    let mut session = ServerSession::new(now, Arc::new(policy));
    let mut heard = Heard::default();
    let mut content = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && session.wants_input() {
            let taken = session.handle(now, Input::Octets(rest));
            rest = &rest[taken..];
            while let Some(output) = session.poll() {
                match output {
                    Output::Ask(question) => {
                        match question {
                            Question::Sender(mail) => heard.senders.push(mail.sender.to_string()),
                            Question::EndOfContent(_) => heard.messages.push(std::mem::take(&mut content)),
                            _ => {}
                        }
                        session.handle(now, Input::Answer(Answer::Accept));
                    }
                    Output::Content(octets) => content.extend(octets),
                    Output::TransactionAborted => {
                        content.clear();
                        heard.aborted += 1;
                    }
                    Output::Send(octets) => heard.replies.extend(octets),
                    Output::WakeAt(_) | Output::AuthenticationAborted | Output::StartTls | Output::Close => {}
                }
            }
        }
    }
    heard
}

const ENDS: [&str; 4] = ["", "\r", "\n", "\r\n"];

/// Every ending before and behind every number of dots, with the commands of a second message behind it.
fn attacks() -> Vec<(String, bool)> {
    let mut attacks = Vec::new();
    for twice in ENDS {
        for before in ENDS {
            for dots in [".", "..", ".\0"] {
                for behind in ENDS {
                    let is_end =
                        format!("{twice}{before}").ends_with("\r\n") && dots == "." && behind == "\r\n";
                    let attack = format!(
                        "first{twice}{before}{dots}{behind}MAIL FROM:<smuggled@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nsecond"
                    );
                    attacks.push((attack, is_end));
                }
            }
        }
    }
    attacks
}

fn session_octets(attack: &str) -> Vec<u8> {
    format!("EHLO c\r\nMAIL FROM:<honest@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n{attack}\r\n.\r\nQUIT\r\n")
        .into_bytes()
}

#[test]
fn nothing_but_the_one_sequence_makes_two_messages_of_one() {
    for bare_line_endings in [BareLineEndings::Refuse, BareLineEndings::Normalise] {
        for (attack, is_end) in attacks() {
            let octets = session_octets(&attack);
            let whole = run(bare_line_endings, &[&octets]);
            if is_end {
                // Also behind "CR CR LF", whose first CR is a fault of the message that ends there.
                assert_eq!(whole.senders, ["<honest@b>", "<smuggled@b>"], "{attack:?}");
                assert_eq!(whole.messages.len() + whole.aborted, 2, "{attack:?}");
            } else {
                assert_eq!(whole.senders, ["<honest@b>"], "{attack:?} {bare_line_endings:?}");
                assert_eq!(whole.messages.len() + whole.aborted, 1, "{attack:?} {bare_line_endings:?}");
            }
            assert!(whole.replies.ends_with(format!("{}\r\n", replies::CLOSING).as_bytes()), "{attack:?}");
            for cut in 1..octets.len() {
                let (head, tail) = octets.split_at(cut);
                assert_eq!(run(bare_line_endings, &[head, tail]), whole, "{attack:?} cut at {cut}");
            }
            let singly: Vec<_> = octets.chunks(1).collect();
            assert_eq!(run(bare_line_endings, &singly), whole, "{attack:?}");
        }
    }
}

#[test]
fn what_comes_out_has_no_bare_line_ending_and_is_refused_where_it_had_one() {
    for (attack, _) in attacks() {
        let octets = session_octets(&attack);
        let normalised = run(BareLineEndings::Normalise, &[&octets]);
        for message in &normalised.messages {
            let text = String::from_utf8_lossy(message).replace("\r\n", "");
            assert!(!text.contains(['\r', '\n']), "{attack:?} gave {message:?}");
        }
        let content = attack.replace("\r\n", "");
        let is_clean = !content.contains(['\r', '\n', '\0']);
        let refused = run(BareLineEndings::Refuse, &[&octets]);
        assert_eq!(refused.aborted == 0, is_clean, "{attack:?}");
    }
}

#[test]
fn a_command_behind_a_bare_line_feed_is_not_obeyed() {
    let heard =
        run(BareLineEndings::Normalise, &[b"EHLO c\r\nNOOP\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\nQUIT\r\n"]);
    assert_eq!(heard.senders, ["<a@b>"]);
}
