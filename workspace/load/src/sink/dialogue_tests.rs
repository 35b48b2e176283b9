use super::*;
use crate::content::Integrity;

fn play(options: &SinkOptions, pieces: &[&[u8]]) -> (String, Vec<Arrival>) {
    let mut dialogue = Dialogue::new(options);
    let mut input = Vec::new();
    let mut arrivals = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, event) = dialogue.take(&input);
            input.drain(..used);
            match event {
                Event::NeedInput => break,
                Event::Rejected | Event::StartTls => {}
                Event::Arrived(arrival) => {
                    arrivals.push(*arrival);
                    dialogue.accept();
                }
                Event::Close => return (codes(dialogue.replies()), arrivals),
            }
        }
    }
    (codes(dialogue.replies()), arrivals)
}

fn codes(replies: &[u8]) -> String {
    let text = std::str::from_utf8(replies).unwrap();
    let last = text.lines().filter(|line| line.as_bytes()[3] == b' ');
    last.map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
}

const PIPELINED: &[u8] = b"EHLO a\r\nMAIL FROM:<a@x> MT-PRIORITY=-3 BODY=8BITMIME SIZE=9\r\nRCPT TO:<b@y> NOTIFY=NEVER\r\n\
    RCPT TO:<\"c>\"@y>\r\nDATA\r\nSubject: s\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<d@y>\r\nBDAT 3\r\na\r\nBDAT 4 \
    LAST\r\n\nb\r\nQUIT\r\n";

#[test]
fn cutting_the_input_at_every_octet_gives_the_same_dialogue() {
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    let expected = "220 250 250 250 250 354 250 250 250 250 250 221";
    for cut in 0..=PIPELINED.len() {
        let (dialogue, arrivals) = play(&options, &[&PIPELINED[..cut], &PIPELINED[cut..]]);
        assert_eq!(dialogue, expected, "cut at {cut}");
        assert_eq!(arrivals.len(), 2);
        assert_eq!(arrivals[0].recipients, ["b@y", "\"c>\"@y"]);
        assert_eq!(arrivals[0].priority, Some(-3));
        assert_eq!(arrivals[0].inspected.content.as_deref(), Some(&b"Subject: s\r\n\r\n.dot\r\n"[..]));
        assert_eq!(arrivals[0].inspected.integrity, Integrity::Unknown);
        assert_eq!(arrivals[1].sender, "");
        assert_eq!(arrivals[1].inspected.content.as_deref(), Some(&b"a\r\n\nb\r\n"[..]));
    }
}

#[test]
fn lmtp_answers_for_each_recipient_and_knows_no_ehlo() {
    let options = SinkOptions { protocol: Protocol::Lmtp, ..SinkOptions::default() };
    let input = b"EHLO a\r\nLHLO a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@y>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    assert_eq!(play(&options, &[input]).0, "220 500 250 250 250 250 354 250 250 221");
}

#[test]
fn a_parameter_of_an_extension_that_is_not_offered_is_refused() {
    let options =
        SinkOptions { without: vec![Extension::MtPriority, Extension::Chunking], ..Default::default() };
    let input = b"EHLO a\r\nMAIL FROM:<a@x> MT-PRIORITY=1\r\nBDAT 1\r\n";
    assert_eq!(play(&options, &[input]).0, "220 250 555 500");
}

#[test]
fn recipients_that_match_a_rule_are_refused_and_content_without_recipient_too() {
    let reject_recipients = vec!["450:slow".parse().unwrap(), "bad".parse().unwrap()];
    let options = SinkOptions { reject_recipients, ..Default::default() };
    let input = b"EHLO a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<slow@y>\r\nRCPT TO:<bad@y>\r\nDATA\r\nBDAT 2 LAST\r\nxyNOOP\r\n";
    assert_eq!(play(&options, &[input]).0, "220 250 250 450 550 503 503 250");
}

#[test]
fn commands_out_of_order_and_nonsense_get_an_error_reply() {
    let options = SinkOptions::default();
    let input =
        b"MAIL FROM:<a@x>\r\nHELO a\r\nRCPT TO:<a@x>\r\nMAIL a@x\r\nMAIL FROM:<a@x> X=1\r\n\xff\xfe\r\n\r\n";
    assert_eq!(play(&options, &[input]).0, "220 503 250 503 501 555 500 500");
    let endless = vec![b'a'; COMMAND_OCTETS_MAX + 1];
    assert_eq!(play(&options, &[&endless]).0, "220 500");
}

#[test]
fn a_message_over_the_announced_size_is_refused_before_and_after_its_content() {
    let options = SinkOptions { message_octets_max: 4, ..Default::default() };
    let input = b"EHLO a\r\nMAIL FROM:<a@x> SIZE=5\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n123456\r\n.\r\nNOOP\r\n";
    let (dialogue, arrivals) = play(&options, &[input]);
    assert_eq!(dialogue, "220 250 552 250 250 354 552 250");
    assert!(arrivals.is_empty());
}

#[test]
fn what_was_said_before_a_handshake_is_forgotten_and_there_is_one() {
    let options = SinkOptions { offers_tls: true, ..Default::default() };
    let said = b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\nEHLO c\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\n";
    assert_eq!(play(&options, &[said]).0, "220 250 220 503 250 500 250");
    assert_eq!(play(&SinkOptions::default(), &[b"EHLO c\r\nSTARTTLS\r\n"]).0, "220 250 500");
}
