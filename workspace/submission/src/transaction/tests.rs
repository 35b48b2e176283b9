use super::*;
use proptest::prelude::*;
use sternpost_message::{Notify, Precedence, PriorityField, PriorityPolicy, ReversePath};

const NOW: UnixMillis = UnixMillis(1_795_301_110_000);
const ID: MessageId = MessageId([7; 16]);

/// `inside.example` and what is below it, each with its own peer, are open to all; the rest goes out.
struct Example;

impl Routing for Example {
    fn route(&self, domain: &str) -> Option<RouteAnswer<'_>> {
        assert_eq!(domain, domain.to_lowercase(), "a submission asks in lower case");
        match domain {
            "inside.example" => {
                Some(RouteAnswer { channel: "smtp", peer: "inside".into(), open_to_all: true })
            }
            "a.inside.example" => Some(RouteAnswer { channel: "smtp", peer: "a".into(), open_to_all: true }),
            "b.inside.example" => Some(RouteAnswer { channel: "lmtp", peer: "a".into(), open_to_all: true }),
            "nowhere.example" => None,
            _ => Some(RouteAnswer { channel: "smtp", peer: "smart-host".into(), open_to_all: false }),
        }
    }
}

fn policy() -> Policy {
    Policy {
        hostname: "mx.example.net".into(),
        listener: "public".into(),
        client_is_listed: false,
        is_submission: false,
        recipients_max: 100,
        received_headers_max: 2,
        message_octets_max: 1000,
        postmaster: Mailbox::parse("postmaster@inside.example").ok(),
        priority_policy: PriorityPolicy::Stanag4406,
        precedence_max: Precedence::Routine,
        priority_fields: Vec::new(),
    }
}

/// For a client that may go anywhere, ask for every precedence, and by two fields.
fn trusting() -> Policy {
    Policy {
        client_is_listed: true,
        precedence_max: Precedence::Override,
        priority_fields: vec![PriorityField::MtPriority, PriorityField::Priority],
        ..policy()
    }
}

fn submission(policy: Policy) -> Submission {
    let session = SessionFacts {
        client: "192.0.2.1".into(),
        helo: "client.example".into(),
        protocol: "ESMTP",
        tls: None,
        identity: None,
    };
    Submission::new(Arc::new(policy), session)
}

fn mail(sender: &str) -> MailFacts {
    MailFacts::from_sender(ReversePath::Mailbox(Mailbox::parse(sender).unwrap()))
}

fn started(policy: Policy) -> Submission {
    let mut submission = submission(policy);
    assert_eq!(submission.sender(mail("ann@client.example")), Verdict::Accept);
    submission
}

fn to(recipient: &str) -> RecipientFacts {
    RecipientFacts::to_mailbox(Mailbox::parse(recipient).unwrap())
}

fn reply(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Reject(rejection) => format!("{} {}", rejection.code, rejection.status),
    }
}

#[test]
fn good_senders_are_nobody_a_mailbox_and_an_address_literal() {
    for sender in [ReversePath::Null, mail("a@b.example").sender, mail("a@[192.0.2.1]").sender] {
        assert_eq!(submission(policy()).sender(MailFacts::from_sender(sender)), Verdict::Accept);
    }
}

#[test]
fn a_sender_is_refused_for_its_size_its_octets_or_its_repetition() {
    let large = MailFacts { size: Some(1001), ..mail("a@b.example") };
    assert_eq!(reply(submission(policy()).sender(large.clone())), "552 5.3.4");
    assert_eq!(submission(policy()).sender(MailFacts { size: Some(1000), ..large }), Verdict::Accept);
    assert_eq!(reply(submission(policy()).sender(mail("é@b.example"))), "553 5.6.7");
    let utf8 = MailFacts { smtputf8: true, ..mail("é@b.example") };
    assert_eq!(submission(policy()).sender(utf8), Verdict::Accept);
    assert_eq!(reply(started(policy()).sender(mail("a@b.example"))), "503 5.5.1");
}

#[test]
fn who_may_send_where_is_a_table() {
    let rows = [
        // recipient, verdict for strangers, verdict for listed clients
        ("joe@inside.example", "accept", "accept"),
        ("joe@INSIDE.Example", "accept", "accept"),
        ("joe@far.example", "550 5.7.1", "accept"),
        ("joe@[192.0.2.9]", "550 5.7.1", "accept"),
        ("joe@nowhere.example", "550 5.7.1", "550 5.1.2"),
        ("é@inside.example", "553 5.6.7", "553 5.6.7"),
    ];
    for (recipient, stranger, listed) in rows {
        assert_eq!(reply(started(policy()).recipient(to(recipient), &Example)), stranger, "{recipient}");
        let policy = Policy { client_is_listed: true, ..policy() };
        assert_eq!(reply(started(policy).recipient(to(recipient), &Example)), listed, "{recipient}");
    }
}

#[test]
fn everybody_may_write_to_the_postmaster_without_a_domain() {
    let rows = [
        (Some("postmaster@inside.example"), "accept"),
        (Some("postmaster@far.example"), "accept"),
        (Some("postmaster@nowhere.example"), "451 4.3.5"),
        (None, "550 5.1.1"),
    ];
    for (postmaster, verdict) in rows {
        let postmaster = postmaster.map(|address| Mailbox::parse(address).unwrap());
        let mut submission = started(Policy { postmaster: postmaster.clone(), ..policy() });
        let address = ForwardPath::Postmaster;
        let facts = RecipientFacts { address, notify: None, original_recipient: None };
        assert_eq!(reply(submission.recipient(facts, &Example)), verdict);
        if verdict == "accept" {
            let envelope = submission.finish(NOW, ContentFacts::default()).unwrap().envelope;
            assert_eq!(Some(&envelope.recipients[0].address), postmaster.as_ref());
        }
    }
}

#[test]
fn the_postmaster_of_this_switch_is_the_configured_one() {
    let mut submission = started(policy());
    for address in ["PostMaster@MX.example.net", "postmaster@inside.example"] {
        assert_eq!(submission.recipient(to(address), &Example), Verdict::Accept);
    }
    let envelope = submission.finish(NOW, ContentFacts::default()).unwrap().envelope;
    let addresses: Vec<_> = envelope.recipients.iter().map(|recipient| recipient.address.as_str()).collect();
    assert_eq!(addresses, ["postmaster@inside.example"]);
    let nobody = Policy { postmaster: None, ..policy() };
    let verdict = started(nobody).recipient(to("postmaster@mx.example.net"), &Example);
    assert_eq!(reply(verdict), "550 5.7.1", "without a configured address it is a mailbox like any other");
}

#[test]
fn a_recipient_that_is_said_twice_is_kept_once() {
    let mut submission = started(Policy { recipients_max: 3, ..policy() });
    let never = || RecipientFacts { notify: Some(Notify::NEVER), ..to("joe@inside.example") };
    for facts in [to("joe@inside.example"), never(), to("Joe@inside.example")] {
        assert_eq!(submission.recipient(facts, &Example), Verdict::Accept);
    }
    for facts in [to("joe@inside.example"), to("joe@Inside.Example"), never()] {
        assert_eq!(submission.recipient(facts, &Example), Verdict::Accept, "also when no other one fits in");
    }
    assert_eq!(submission.recipients_count(), 3);
    assert_eq!(reply(submission.recipient(to("jim@inside.example"), &Example)), "452 4.5.3");
}

#[test]
fn commands_out_of_order_are_refused() {
    assert_eq!(reply(submission(policy()).recipient(to("joe@inside.example"), &Example)), "503 5.5.1");
    let rejection = started(policy()).finish(NOW, ContentFacts::default()).unwrap_err();
    assert_eq!(rejection.code, 503);
    assert_eq!(submission(policy()).finish(NOW, ContentFacts::default()).unwrap_err().code, 503);
}

#[test]
fn the_envelope_keeps_what_a_listed_client_said() {
    let mut submission = submission(trusting());
    let facts = MailFacts {
        size: Some(10),
        smtputf8: true,
        ret: Some(sternpost_message::Ret::Full),
        envelope_id: Some("QQ+2B1".into()),
        mt_priority: MtPriority::new(4).ok(),
        ..mail("ann@client.example")
    };
    assert_eq!(submission.sender(facts), Verdict::Accept);
    let original_recipient = Some("rfc822;joe@old.example".to_owned());
    let facts =
        RecipientFacts { original_recipient: original_recipient.clone(), ..to("joe@a.inside.example") };
    for facts in [facts, to("joe@b.inside.example"), to("jim@a.inside.example")] {
        assert_eq!(submission.recipient(facts, &Example), Verdict::Accept);
    }
    submission.content(b"Received: once\r\nSubject: x\r\n\r\nbody\r\n");
    let accepted = submission.finish(NOW, ContentFacts { eight_bit: true }).unwrap();
    assert_eq!((accepted.received_count, accepted.content_octets), (1, 36));
    let envelope = accepted.envelope;
    assert_eq!(envelope.precedence, Precedence::Flash);
    assert_eq!(envelope.mt_priority, MtPriority::new(4).ok());
    assert_eq!((envelope.body, envelope.smtputf8), (BodyType::EightBitMime, true));
    assert_eq!(
        (envelope.ret, envelope.envelope_id.as_deref()),
        (Some(sternpost_message::Ret::Full), Some("QQ+2B1"))
    );
    assert_eq!((envelope.source.as_str(), envelope.client.as_str()), ("public", "192.0.2.1"));
    assert_eq!(envelope.accepted_at, NOW);
    assert_eq!(envelope.recipients[0].original_recipient, original_recipient);
    let routes: Vec<_> = envelope.recipients.iter().map(|recipient| recipient.route.0).collect();
    assert_eq!(routes, [0, 1, 0]);
    let names: Vec<_> =
        envelope.routes.iter().map(|route| (route.channel.as_str(), route.peer.as_str())).collect();
    assert_eq!(names, [("smtp", "a"), ("lmtp", "a")]);
}

#[test]
fn a_stranger_may_lower_the_rank_of_mail_and_not_raise_it() {
    for (given, policy, precedence, kept) in [
        (6, trusting(), Precedence::Override, 6),
        (6, policy(), Precedence::Routine, -2),
        (-2, policy(), Precedence::Routine, -2),
        (-4, policy(), Precedence::Deferred, -4),
    ] {
        let mut submission = submission(policy);
        let mt_priority = MtPriority::new(given).ok();
        assert_eq!(
            submission.sender(MailFacts { mt_priority, ..mail("ann@client.example") }),
            Verdict::Accept
        );
        assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
        let accepted = submission.finish(NOW, ContentFacts::default()).unwrap();
        assert_eq!(accepted.envelope.precedence, precedence, "{given}");
        assert_eq!(accepted.envelope.mt_priority, MtPriority::new(kept).ok(), "{given}");
        assert_eq!(accepted.rank.is_lowered(), given != kept);
    }
}

#[test]
fn a_trusted_client_may_ask_by_the_header_section_and_the_trace_header_says_so() {
    let content = b"Subject: x\r\nMT-Priority: 4\r\n\r\nbody\r\n";
    for (policy, precedence, trace) in [
        (trusting(), Precedence::Flash, "(flash by mt-priority 4);"),
        (policy(), Precedence::Routine, "for <joe@inside.example>;"),
    ] {
        let is_trusting = policy == trusting();
        let mut submission = started(policy);
        assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
        assert_eq!(submission.rank_is_known(), !is_trusting);
        for octet in content.chunks(1) {
            submission.content(octet);
        }
        assert!(submission.rank_is_known());
        let header = String::from_utf8(submission.beginning(NOW, ID)).unwrap();
        assert!(header.contains(trace), "{header}");
        let envelope = submission.finish(NOW, ContentFacts::default()).unwrap().envelope;
        assert_eq!(envelope.precedence, precedence);
        assert_eq!(envelope.mt_priority.is_some(), is_trusting);
    }
}

#[test]
fn a_field_counts_also_where_the_content_ends_with_it() {
    let mut submission = started(trusting());
    assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
    submission.content(b"MT-Priority: 4");
    assert!(!submission.rank_is_known());
    submission.end_content();
    assert!(submission.rank_is_known());
    assert_eq!(submission.rank().precedence, Precedence::Flash);
    assert_eq!(
        submission.finish(NOW, ContentFacts::default()).unwrap().envelope.precedence,
        Precedence::Flash
    );
}

#[test]
fn a_parameter_makes_the_header_section_wait_for_nothing() {
    let mut submission = submission(trusting());
    let mt_priority = MtPriority::new(-4).ok();
    let verdict = submission.sender(MailFacts { mt_priority, ..mail("ann@client.example") });
    assert_eq!(verdict, Verdict::Accept);
    assert!(submission.rank_is_known());
    assert_eq!(submission.rank().precedence, Precedence::Deferred);
}

#[test]
fn without_a_priority_the_message_is_routine() {
    let mut submission = started(policy());
    assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
    let envelope = submission.finish(NOW, ContentFacts::default()).unwrap().envelope;
    assert_eq!((envelope.precedence, envelope.body), (Precedence::Routine, BodyType::SevenBit));
}

#[test]
fn a_looping_message_is_refused_and_known_before_its_end() {
    let mut submission = started(policy());
    assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
    submission.content(b"Received: 1\r\nReceived: 2\r\n");
    assert!(!submission.loop_detected());
    let mut looping = started(policy());
    assert_eq!(looping.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
    looping.content(b"Received: 1\r\nReceived: 2\r\nReceived:");
    assert!(looping.loop_detected());
    let rejection = looping.finish(NOW, ContentFacts::default()).unwrap_err();
    assert_eq!(rejection.to_string(), "554 5.4.6 The message loops: 3 Received fields");
    submission.content(b"\r\nReceived: in the body\r\n");
    assert!(!submission.loop_detected() && submission.finish(NOW, ContentFacts::default()).is_ok());
}

#[test]
fn a_content_over_the_limit_is_refused() {
    for (octets, is_accepted) in [(1000, true), (1001, false)] {
        let mut submission = started(policy());
        assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
        (0..octets).for_each(|_| submission.content(b"x"));
        assert_eq!(submission.is_too_large(), !is_accepted);
        let result = submission.finish(NOW, ContentFacts::default());
        assert_eq!(result.err().map(|rejection| rejection.code), (!is_accepted).then_some(552));
    }
}

#[test]
fn the_trace_header_names_a_recipient_only_when_it_is_the_only_one() {
    let mut submission = started(policy());
    let field = |submission: &Submission| String::from_utf8(submission.beginning(NOW, ID)).unwrap();
    assert_eq!(submission.recipient(to("joe@inside.example"), &Example), Verdict::Accept);
    assert!(field(&submission).contains("for <joe@inside.example>;"));
    assert_eq!(submission.recipient(to("jim@inside.example"), &Example), Verdict::Accept);
    assert!(!field(&submission).contains("joe") && !field(&submission).contains("jim"));
}

#[test]
fn the_trace_header_counts_as_one_received_field_at_the_next_switch() {
    let mut scan = HeaderScan::new();
    scan.feed(&started(policy()).beginning(NOW, ID));
    scan.feed(b"Subject: x\r\n\r\n");
    assert_eq!((scan.received_count(), scan.has_ended()), (1, true));
}

/// Every domain goes to a peer that no other routing here names.
struct NewPeer;

impl Routing for NewPeer {
    fn route(&self, _domain: &str) -> Option<RouteAnswer<'_>> {
        Some(RouteAnswer { channel: "smtp", peer: "new".into(), open_to_all: true })
    }
}

#[test]
fn an_envelope_without_room_for_another_route_takes_no_recipient_that_needs_one() {
    let mut submission = started(policy());
    // Filled directly: one by one, so many routes cost 2 × 10⁹ comparisons.
    let peer = |number: usize| Route { channel: "smtp".into(), peer: number.to_string() };
    submission.routes = (0..ROUTES_MAX).map(peer).collect();
    assert_eq!(reply(submission.recipient(to("joe@inside.example"), &NewPeer)), "452 4.5.3");
    let last = RouteAnswer { channel: "smtp", peer: "65532".into(), open_to_all: true };
    assert_eq!(submission.route_index(last), Some(RouteIndex(65_532)));
    assert!(submission.routes.len() < usize::from(ROUTE_DELAY_REPORT.0));
}

fn invariant_an_envelope_is_whole(envelope: &Envelope, recipients_max: usize) {
    assert!((1..=recipients_max).contains(&envelope.recipients.len()));
    assert!((1..=ROUTES_MAX).contains(&envelope.routes.len()));
    for (position, route) in envelope.routes.iter().enumerate() {
        assert!(!envelope.routes[..position].contains(route), "{route:?} occurs twice");
        let is_used = |recipient: &Recipient| usize::from(recipient.route.0) == position;
        assert!(envelope.recipients.iter().any(is_used), "{route:?} is used by nobody");
    }
    for (position, recipient) in envelope.recipients.iter().enumerate() {
        assert!(usize::from(recipient.route.0) < envelope.routes.len());
        assert!(!envelope.recipients[..position].iter().any(|other| is_same(other, recipient)));
        let answer = Example.route(&recipient.address.domain().to_lowercase()).unwrap();
        let route = &envelope.routes[usize::from(recipient.route.0)];
        assert_eq!((route.channel.as_str(), route.peer.as_str()), (answer.channel, &*answer.peer));
    }
}

proptest! {
    #[test]
    fn every_envelope_is_whole(
        recipients in proptest::collection::vec(
            ("[ab]{1,2}@((a\\.|B\\.)?inside\\.example|far\\.example|NOWHERE\\.example)", any::<bool>(), any::<bool>()),
            0..40,
        ),
        client_is_listed: bool,
        recipients_max in 1_usize..20,
    ) {
        let mut submission = started(Policy { client_is_listed, recipients_max, ..policy() });
        let mut accepted = Vec::new();
        for (address, is_silent, is_original) in recipients {
            let facts = RecipientFacts {
                notify: is_silent.then_some(Notify::NEVER),
                original_recipient: is_original.then(|| "rfc822;x".into()),
                ..to(&address)
            };
            if submission.recipient(facts.clone(), &Example).is_accept() {
                accepted.push(facts);
            }
        }
        let result = submission.finish(NOW, ContentFacts::default());
        prop_assert_eq!(result.is_ok(), !accepted.is_empty());
        if let Ok(result) = result {
            invariant_an_envelope_is_whole(&result.envelope, recipients_max);
            for facts in accepted {
                let ForwardPath::Mailbox(address) = facts.address else { unreachable!("only mailboxes were given") };
                let (notify, original_recipient) = (facts.notify, facts.original_recipient);
                let wanted = Recipient { address, route: RouteIndex(0), notify, original_recipient };
                prop_assert!(result.envelope.recipients.iter().any(|recipient| is_same(recipient, &wanted)));
            }
        }
    }

    #[test]
    fn the_content_may_be_cut_anywhere(
        pieces in proptest::collection::vec("(Received: x\r\n|A: b\r\n|Received|:|\r\n|x| ){0,4}", 0..10),
    ) {
        let verdict = |chunks: &[&[u8]]| {
            let mut submission = started(policy());
            assert!(submission.recipient(to("joe@inside.example"), &Example).is_accept());
            chunks.iter().for_each(|chunk| submission.content(chunk));
            submission.finish(NOW, ContentFacts::default())
        };
        let whole = pieces.concat();
        let cut: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        prop_assert_eq!(verdict(&cut), verdict(&[whole.as_bytes()]));
    }
}

fn alice() -> Option<Arc<crate::Identity>> {
    let senders = ["alice@example.org", "@lists.example.org"].map(|text| text.parse().unwrap()).to_vec();
    Some(Arc::new(crate::Identity { name: "alice".into(), senders }))
}

fn submitting(identity: Option<Arc<crate::Identity>>, policy: Policy) -> Submission {
    let mut submission = submission(policy);
    submission.session.identity = identity;
    submission
}

/// RFC 6409, section 6.1.
#[test]
fn a_user_sends_as_what_he_may_and_as_nobody_else_wherever_he_has_authenticated() {
    for is_submission in [true, false] {
        let rows = [
            ("alice@EXAMPLE.org", "accept"),
            ("any@lists.example.org", "accept"),
            ("bob@example.org", "550 5.7.1"),
            ("alice@example.org.evil", "550 5.7.1"),
        ];
        for (sender, wanted) in rows {
            let mut submission = submitting(alice(), Policy { is_submission, ..policy() });
            assert_eq!(reply(submission.sender(mail(sender))), wanted, "{sender}");
        }
        let mut submission = submitting(alice(), Policy { is_submission, ..policy() });
        assert_eq!(submission.sender(MailFacts::from_sender(ReversePath::Null)), Verdict::Accept);
    }
}

#[test]
fn where_users_submit_nobody_sends_who_has_not_authenticated() {
    let mut submission = submitting(None, Policy { is_submission: true, ..trusting() });
    assert_eq!(reply(submission.sender(mail("alice@example.org"))), "530 5.7.0");
    assert_eq!(reply(submission.sender(MailFacts::from_sender(ReversePath::Null))), "530 5.7.0");
    assert_eq!(reply(submission.recipient(to("x@inside.example"), &Example)), "503 5.5.1");
}

/// RFC 6409, sections 8.2 and 8.3.
#[test]
fn a_message_without_date_or_message_id_gets_one_where_users_submit_and_nowhere_else() {
    let id_field = format!("Message-ID: <{ID}@mx.example.net>\r\n");
    let date_field = format!("Date: {}\r\n", internet_date(NOW));
    let rows: [(&str, bool, bool); 8] = [
        ("Subject: x\r\n\r\nDate: y\r\n", true, true),
        ("dAte: x\r\n\r\n", false, true),
        ("Message-Id: x\r\n\r\n", true, false),
        ("Date: x\r\nMESSAGE-ID: y\r\n\r\nz", false, false),
        ("Resent-Date: x\r\nX-Message-ID: y\r\n\r\nz", true, true),
        ("Date: x", false, true),
        ("", true, true),
        ("no field\r\n", true, true),
    ];
    for (content, wants_date, wants_id) in rows {
        for is_submission in [true, false] {
            let mut submission = submitting(alice(), Policy { is_submission, ..policy() });
            assert_eq!(submission.sender(mail("alice@example.org")), Verdict::Accept);
            assert_eq!(submission.recipient(to("x@inside.example"), &Example), Verdict::Accept);
            for octet in content.as_bytes() {
                submission.content(&[*octet]);
            }
            submission.end_content();
            assert!(submission.beginning_is_known());
            let beginning = String::from_utf8(submission.beginning(NOW, ID)).unwrap();
            assert!(beginning.starts_with("Received: "));
            assert_eq!(beginning.contains(&date_field), wants_date && is_submission, "{content}");
            assert_eq!(beginning.contains(&id_field), wants_id && is_submission, "{content}");
            let accepted = submission.finish(NOW, ContentFacts::default()).unwrap();
            assert_eq!(accepted.envelope.identity.as_deref(), Some("alice"));
        }
    }
}

#[test]
fn what_stands_before_the_content_waits_for_the_header_section_and_not_for_ever() {
    let mut submission =
        submitting(alice(), Policy { is_submission: true, message_octets_max: 1 << 20, ..policy() });
    assert_eq!(submission.sender(mail("alice@example.org")), Verdict::Accept);
    submission.content(b"Subject: x\r\n");
    assert!(!submission.beginning_is_known());
    let long = format!("X: {}\r\n", "y".repeat(usize::try_from(crate::RANK_OCTETS_MAX).unwrap()));
    submission.content(long.as_bytes());
    assert!(submission.beginning_is_known());
    let beginning = String::from_utf8(submission.beginning(NOW, ID)).unwrap();
    assert!(!beginning.contains("Message-ID"), "a second one would be worse than none");
}
