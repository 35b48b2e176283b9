//! Where mail goes, from answers alone: a table of zones, one sentence of a standard a row.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use sternpost_dns::{
    Answer, Destinations, FamilyOrder, HostName, LookupFailure, Loopback, NoDestination, Origin, Policy,
    Question, Record, RecordKind, Remark, Search, SecurityStatus, Step,
};

const STATUS: SecurityStatus = SecurityStatus::Insecure;

/// The DNS of one case: one line for each answer, as in `MX example.org: 10 mx.example`, `A mx.example: 192.0.2.1, 192.0.2.2`,
/// `A alias.example -> mx.example: 192.0.2.1` or `AAAA mx.example: SERVFAIL`. A name that has a line exists.
struct Dns {
    answers: HashMap<Question, Answer>,
    names: HashSet<HostName>,
}

impl Dns {
    fn read(text: &str) -> Self {
        let mut answers = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (head, data) = line.split_once(": ").expect("a line is `KIND name: data`");
            let (kind, names) = head.split_once(' ').expect("a line is `KIND name: data`");
            let kind = match kind {
                "MX" => RecordKind::Mx,
                "A" => RecordKind::A,
                "AAAA" => RecordKind::Aaaa,
                other => panic!("{other} is no kind of record"),
            };
            let (name, canonical) = names.split_once(" -> ").map_or((names, None), |(a, b)| (a, Some(b)));
            let answer = match data {
                "NXDOMAIN" => Answer::NoSuchName { status: STATUS },
                "NODATA" => Answer::NoRecord { status: STATUS },
                "SERVFAIL" => Answer::Failed(LookupFailure::Refused("SERVFAIL".to_owned())),
                "TIMEOUT" => Answer::Failed(LookupFailure::Timeout),
                "BOGUS" => Answer::Failed(LookupFailure::Bogus),
                _ => Answer::Found {
                    records: data.split(", ").map(|item| record(kind, item)).collect(),
                    canonical: canonical.map(str::to_owned),
                    status: STATUS,
                },
            };
            answers.insert(Question { name: HostName::parse(name).unwrap(), kind }, answer);
        }
        let names = answers.keys().map(|question| question.name.clone()).collect();
        Self { answers, names }
    }

    fn ask(&self, question: &Question) -> Answer {
        self.answers.get(question).cloned().unwrap_or(if self.names.contains(&question.name) {
            Answer::NoRecord { status: STATUS }
        } else {
            Answer::NoSuchName { status: STATUS }
        })
    }

    fn search(&self, domain: &str, policy: &Policy, seed: u64) -> Result<Destinations, NoDestination> {
        let mut step = Search::begin(domain, policy, seed);
        loop {
            step = match step {
                Step::Found(destinations) => return Ok(destinations),
                Step::Nowhere(reason) => return Err(reason),
                Step::Ask(search, questions) => {
                    let answers = questions.into_iter().map(|question| {
                        let answer = self.ask(&question);
                        (question, answer)
                    });
                    search.answer(&answers.collect())
                }
            };
        }
    }
}

fn record(kind: RecordKind, item: &str) -> Record {
    match (kind, item.split_once(' ')) {
        (RecordKind::Mx, Some((preference, exchanger))) => {
            Record::Mx { preference: preference.parse().unwrap(), exchanger: exchanger.to_owned() }
        }
        _ => Record::Address(item.parse().unwrap()),
    }
}

fn policy() -> Policy {
    Policy {
        own_names: BTreeSet::from([HostName::parse("switch.example").unwrap()]),
        own_addresses: ["203.0.113.1", "2001:db8:ffff::1"].iter().map(|text| text.parse().unwrap()).collect(),
        ..Policy::default()
    }
}

/// `10 mx.example 192.0.2.1; 20 …`, or the status.
fn told(result: &Result<Destinations, NoDestination>) -> String {
    match result {
        Err(nowhere) => nowhere.status().to_string(),
        Ok(destinations) => {
            let mut text = String::new();
            for exchanger in &destinations.exchangers {
                let separator = if text.is_empty() { "" } else { "; " };
                let name = exchanger.name.as_ref().map_or("literal", HostName::as_str);
                write!(text, "{separator}{} {name}", exchanger.origin.preference()).unwrap();
                for address in &exchanger.addresses {
                    write!(text, " {address}").unwrap();
                }
            }
            text
        }
    }
}

/// Sentence, zone, where the mail of `example.org` goes.
const CASES: &[(&str, &str, &str)] = &[
    (
        "RFC 5321, 5.1: exchangers are tried from the lowest preference number up",
        "MX example.org: 20 b.example, 10 a.example
         A a.example: 192.0.2.1
         A b.example: 192.0.2.2",
        "10 a.example 192.0.2.1; 20 b.example 192.0.2.2",
    ),
    (
        "RFC 5321, 5.1: without an MX record the domain is its own exchanger, with preference 0",
        "A example.org: 192.0.2.1",
        "0 example.org 192.0.2.1",
    ),
    (
        "RFC 5321, 5.1: the domain's own address is not used when there are MX records, though none can be used",
        "MX example.org: 10 a.example
         A example.org: 192.0.2.1",
        "5.4.4",
    ),
    (
        "RFC 5321, 5.1: the domain's own address is not used when the question for MX records has failed",
        "MX example.org: SERVFAIL
         A example.org: 192.0.2.1",
        "4.4.3",
    ),
    ("RFC 5321, 5.1: a question that times out makes the mail wait", "MX example.org: TIMEOUT", "4.4.3"),
    ("RFC 4033, 5: a bogus answer is none", "MX example.org: BOGUS", "4.4.3"),
    ("RFC 5321, 5.1: a domain that does not exist is an error for ever", "MX example.org: NXDOMAIN", "5.1.2"),
    ("A domain with neither MX record nor address has no route", "MX example.org: NODATA", "5.4.4"),
    ("An implicit exchanger whose address cannot be found out waits", "AAAA example.org: SERVFAIL", "4.4.3"),
    (
        "RFC 5321, 5.1: a domain that is an alias is looked up as what it stands for",
        "MX example.org -> example.net: 10 a.example
         A a.example: 192.0.2.1",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 2181, 10.3 forbids an exchanger that is an alias; it is followed all the same",
        "MX example.org: 10 alias.example
         A alias.example -> a.example: 192.0.2.1",
        "10 alias.example 192.0.2.1",
    ),
    ("RFC 7505, 3: a null MX takes no mail", "MX example.org: 0 .", "5.1.10"),
    (
        "RFC 7505, 3: a null MX takes no mail, though the domain has an address",
        "MX example.org: 0 .
         A example.org: 192.0.2.1",
        "5.1.10",
    ),
    ("A null MX of another preference means the same", "MX example.org: 10 .", "5.1.10"),
    (
        "RFC 7505, 3: a null MX beside other records is none",
        "MX example.org: 0 ., 10 a.example
         A a.example: 192.0.2.1",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 5321, 5.1: an exchanger with an address in place of a name is left out",
        "MX example.org: 10 192.0.2.7., 20 a.example
         A a.example: 192.0.2.1",
        "20 a.example 192.0.2.1",
    ),
    ("An MX record that leads to an address alone cannot be used", "MX example.org: 10 192.0.2.7.", "5.4.4"),
    ("An MX record with what is no host name cannot be used", "MX example.org: 10 a\\032b.example.", "5.4.4"),
    (
        "An exchanger that does not exist, or has no address, is passed over",
        "MX example.org: 10 gone.example, 20 bare.example, 30 a.example
         MX bare.example: NODATA
         A a.example: 192.0.2.1",
        "30 a.example 192.0.2.1",
    ),
    (
        "An exchanger that cannot be looked up is passed over while another one has an address",
        "MX example.org: 10 slow.example, 20 a.example
         A slow.example: TIMEOUT
         A a.example: 192.0.2.1",
        "20 a.example 192.0.2.1",
    ),
    (
        "When no exchanger has an address and one could not be looked up, the mail waits",
        "MX example.org: 10 gone.example, 20 slow.example
         A slow.example: TIMEOUT",
        "4.4.3",
    ),
    (
        "An exchanger of which one family could not be looked up is tried at the other",
        "MX example.org: 10 a.example
         AAAA a.example: SERVFAIL
         A a.example: 192.0.2.1",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 8305, 4: both families in turn, IPv6 first, each in the order in which it came",
        "MX example.org: 10 a.example
         A a.example: 192.0.2.9, 192.0.2.1, 192.0.2.2
         AAAA a.example: 2001:db8::9, 2001:db8::1",
        "10 a.example 2001:db8::9 192.0.2.9 2001:db8::1 192.0.2.1 192.0.2.2",
    ),
    (
        "An address that comes twice is tried once",
        "MX example.org: 10 a.example
         A a.example: 192.0.2.1, 192.0.2.1",
        "10 a.example 192.0.2.1",
    ),
    (
        "An exchanger that comes twice is tried once, by its better preference",
        "MX example.org: 20 a.example, 10 A.Example.
         A a.example: 192.0.2.1",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 5321, 5.1: exchangers as good as this switch, and worse ones, are left out (by its name)",
        "MX example.org: 10 a.example, 20 switch.example, 20 b.example, 30 c.example
         A a.example: 192.0.2.1
         A b.example: 192.0.2.2
         A c.example: 192.0.2.3",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 5321, 5.1: exchangers as good as this switch, and worse ones, are left out (by its address)",
        "MX example.org: 10 a.example, 20 other.example, 20 b.example, 30 c.example
         A a.example: 192.0.2.1
         A b.example: 192.0.2.2
         AAAA other.example: 2001:db8:ffff::1
         A c.example: 192.0.2.3",
        "10 a.example 192.0.2.1",
    ),
    (
        "RFC 5321, 5.1: mail loops when this switch is the best exchanger (by its name)",
        "MX example.org: 10 SWITCH.example., 20 a.example
         A a.example: 192.0.2.1",
        "5.4.6",
    ),
    (
        "RFC 5321, 5.1: mail loops when this switch is the best exchanger (by its address)",
        "MX example.org: 10 other.example, 10 a.example
         A other.example: 203.0.113.1
         A a.example: 192.0.2.1",
        "5.4.6",
    ),
    ("Mail loops when the implicit exchanger is this switch", "A example.org: 203.0.113.1", "5.4.6"),
    (
        "An exchanger on loopback is this switch",
        "MX example.org: 10 a.example\nA a.example: 127.0.0.5",
        "5.4.6",
    ),
    (
        "The unspecified address leads to this host",
        "MX example.org: 10 a.example\nA a.example: 0.0.0.0",
        "5.4.6",
    ),
    (
        "Loopback in IPv4-mapped form is loopback",
        "MX example.org: 10 a.example\nAAAA a.example: ::ffff:127.0.0.1",
        "5.4.6",
    ),
    (
        "Nobody is behind a multicast, broadcast, link-local or mapped address",
        "MX example.org: 10 a.example
         A a.example: 224.0.0.1, 255.255.255.255, 169.254.0.1, 192.0.2.1
         AAAA a.example: ff02::1, fe80::1, ::ffff:192.0.2.9",
        "10 a.example 192.0.2.1",
    ),
    (
        "A better exchanger that could not be looked up makes the mail wait where this switch is the next one",
        "MX example.org: 10 slow.example, 20 switch.example
         A slow.example: TIMEOUT",
        "4.4.3",
    ),
    (
        "A failure of an exchanger as good as this switch is left out with it",
        "MX example.org: 10 gone.example, 20 slow.example, 20 other.example
         A slow.example: TIMEOUT
         A other.example: 203.0.113.1",
        "5.4.4",
    ),
];

#[test]
fn the_mail_of_a_domain_goes_where_the_standards_say() {
    for (sentence, zone, expected) in CASES {
        // The order of equal exchangers must not change any of these.
        for seed in 0..8 {
            let result = Dns::read(zone).search("example.org", &policy(), seed);
            assert_eq!(&told(&result), expected, "{sentence} (seed {seed}): {result:?}");
        }
    }
}

#[test]
fn rfc_5321_5_1_exchangers_of_equal_preference_come_in_random_order_that_the_seed_decides() {
    let zone = "MX example.org: 10 a.example, 10 b.example, 10 c.example, 20 d.example
        A a.example: 192.0.2.1\nA b.example: 192.0.2.2\nA c.example: 192.0.2.3\nA d.example: 192.0.2.4";
    let swapped = zone.replace("10 a.example, 10 b.example", "10 b.example, 10 a.example");
    let order = |zone: &str, seed| told(&Dns::read(zone).search("example.org", &policy(), seed));
    let mut orders = HashMap::new();
    for seed in 0..600 {
        let told = order(zone, seed);
        assert!(told.ends_with("; 20 d.example 192.0.2.4"), "{told}");
        assert_eq!(told, order(&swapped, seed), "the order of the name server decides nothing");
        *orders.entry(told).or_insert(0) += 1;
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
    // 100 are expected of each; fewer than 60 would be four deviations below.
    assert!(orders.values().all(|count| *count >= 60), "{orders:?}");
}

#[test]
fn the_order_of_the_families_is_the_operators_and_a_family_that_is_off_is_not_asked_for() {
    let zone = "MX example.org: 10 a.example
        A a.example: 192.0.2.1, 192.0.2.2\nAAAA a.example: 2001:db8::1, 2001:db8::2";
    let rows = [
        (FamilyOrder::Interleaved, "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"),
        (FamilyOrder::Ipv6First, "2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2"),
        (FamilyOrder::Ipv4First, "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2"),
        (FamilyOrder::Ipv6Only, "2001:db8::1 2001:db8::2"),
        (FamilyOrder::Ipv4Only, "192.0.2.1 192.0.2.2"),
    ];
    for (family_order, addresses) in rows {
        let policy = Policy { family_order, ..policy() };
        let result = Dns::read(zone).search("example.org", &policy, 0);
        assert_eq!(told(&result), format!("10 a.example {addresses}"));
    }
}

#[test]
fn a_zone_with_thousands_of_records_is_cut_and_the_best_are_kept_of_both_families() {
    let mx: Vec<_> = (0..3000).rev().map(|number| format!("{number} h{number}.example")).collect();
    let mut zone = format!("MX example.org: {}\n", mx.join(", "));
    let addresses: Vec<_> = (0..3000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    for number in 0..3000 {
        writeln!(
            zone,
            "A h{number}.example: {}",
            if number < 2 { addresses.join(", ") } else { addresses[0].clone() }
        )
        .unwrap();
    }
    zone.push_str("AAAA h0.example: 2001:db8::1, 2001:db8::2");
    let policy = Policy { exchangers_max: 3, addresses_max: 4, ..policy() };
    let found = Dns::read(&zone).search("example.org", &policy, 0).unwrap();
    assert_eq!(
        told(&Ok(found.clone())),
        "0 h0.example 2001:db8::1 10.1.0.0 2001:db8::2 10.1.0.1; 1 h1.example 10.1.0.0 10.1.0.1 10.1.0.2 10.1.0.3; \
         2 h2.example 10.1.0.0"
    );
    assert!(found.remarks.contains(&Remark::ExchangersCut { kept: 3, found: 3000 }), "{:?}", found.remarks);
    let name = HostName::parse("h0.example").unwrap();
    assert!(
        found.remarks.contains(&Remark::AddressesCut { name, kept: 4, found: 3002 }),
        "{:?}",
        found.remarks
    );
}

#[test]
fn thousands_of_bad_records_cost_no_question_and_few_remarks() {
    let mx: Vec<_> = (0..3000).map(|number| format!("{number} 192.0.2.{number}.")).collect();
    let result = Dns::read(&format!("MX example.org: {}", mx.join(", "))).search("example.org", &policy(), 0);
    let nowhere = result.unwrap_err();
    assert_eq!((nowhere.status().to_string(), nowhere.remarks.len()), ("5.4.4".to_owned(), 64));
    assert!(nowhere.diagnostic().text.len() <= 512);
}

#[test]
fn rfc_5321_4_1_3_an_address_literal_is_where_the_mail_goes_and_nothing_is_asked() {
    let rows = [
        ("[192.0.2.1]", "0 literal 192.0.2.1"),
        ("[IPv6:2001:db8::1]", "0 literal 2001:db8::1"),
        ("[ipv6:2001:db8::1]", "0 literal 2001:db8::1"),
        ("[203.0.113.1]", "5.4.6"),
        ("[127.0.0.1]", "5.4.6"),
        ("[IPv6:::1]", "5.4.6"),
        ("[224.0.0.1]", "5.4.4"),
        ("[2001:db8::1]", "5.1.2"),
        ("[nobody]", "5.1.2"),
    ];
    for (domain, expected) in rows {
        let (Step::Found(_) | Step::Nowhere(_)) = Search::begin(domain, &policy(), 0) else {
            panic!("{domain} asks");
        };
        assert_eq!(told(&Dns::read("").search(domain, &policy(), 0)), expected, "{domain}");
    }
    let policy = Policy { family_order: FamilyOrder::Ipv6Only, ..policy() };
    assert_eq!(told(&Dns::read("").search("[192.0.2.1]", &policy, 0)), "5.4.4");
}

#[test]
fn a_domain_that_is_no_name_is_never_asked_about() {
    for domain in ["", ".", "a..b", "192.0.2.1", "a b", "-a.example", "[", "[]"] {
        let Step::Nowhere(nowhere) = Search::begin(domain, &policy(), 0) else { panic!("{domain:?} asks") };
        assert_eq!(nowhere.status().to_string(), "5.1.2", "{domain:?}");
    }
}

#[test]
fn mail_for_a_name_of_the_switch_without_a_route_loops_and_nothing_is_asked() {
    let policy = policy();
    let Step::Nowhere(nowhere) = Search::begin("Switch.Example", &policy, 0) else { panic!("it asks") };
    assert_eq!(nowhere.status().to_string(), "5.4.6");
}

#[test]
fn a_domain_in_unicode_is_asked_about_by_its_a_labels() {
    let zone = "MX xn--bcher-kva.example: 10 a.example\nA a.example: 192.0.2.1";
    assert_eq!(told(&Dns::read(zone).search("Bücher.example", &policy(), 0)), "10 a.example 192.0.2.1");
}

#[test]
fn loopback_is_somebody_else_where_the_operator_says_so() {
    let policy = Policy { loopback: Loopback::Other, ..policy() };
    let zone = "MX example.org: 10 a.example\nA a.example: 127.0.0.5";
    assert_eq!(told(&Dns::read(zone).search("example.org", &policy, 0)), "10 a.example 127.0.0.5");
}

#[test]
fn an_answer_that_is_missing_makes_the_mail_wait() {
    let policy = policy();
    let Step::Ask(search, questions) = Search::begin("example.org", &policy, 0) else { panic!("it asks") };
    assert_eq!(questions.len(), 1);
    let Step::Nowhere(nowhere) = search.answer(&HashMap::new()) else { panic!("it is over") };
    assert!(nowhere.is_transient(), "{nowhere:?}");
}

#[test]
fn what_dnssec_says_of_exchanger_and_addresses_is_kept_apart_and_the_weaker_family_counts() {
    let policy = policy();
    let answer = |records: &str, kind, status| {
        let records = records.split(", ").map(|item| record(kind, item)).collect();
        Answer::Found { records, canonical: None, status }
    };
    let Step::Ask(search, questions) = Search::begin("example.org", &policy, 0) else { panic!("it asks") };
    let mx = answer("10 a.example", RecordKind::Mx, SecurityStatus::Secure);
    let Step::Ask(search, _) = search.answer(&HashMap::from([(questions[0].clone(), mx)])) else {
        panic!("it asks for addresses")
    };
    let question = |kind| Question { name: HostName::parse("a.example").unwrap(), kind };
    let answers = HashMap::from([
        (question(RecordKind::A), answer("192.0.2.1", RecordKind::A, SecurityStatus::Insecure)),
        (question(RecordKind::Aaaa), answer("2001:db8::1", RecordKind::Aaaa, SecurityStatus::Secure)),
    ]);
    let Step::Found(found) = search.answer(&answers) else { panic!("it is found") };
    let exchanger = &found.exchangers[0];
    assert_eq!(exchanger.origin, Origin::Mx(10));
    assert_eq!(
        (exchanger.exchanger_status, exchanger.address_status),
        (SecurityStatus::Secure, SecurityStatus::Insecure)
    );
}

#[test]
fn operators_read_which_record_led_to_what() {
    let zone = "MX example.org: 5 192.0.2.7., 10 alias.example, 20 switch.example, 30 b.example
        A alias.example -> a.example: TIMEOUT\nAAAA alias.example: NODATA";
    let diagnostic = Dns::read(zone).search("example.org", &policy(), 0).unwrap_err().diagnostic();
    assert_eq!(
        diagnostic.to_string(),
        "4.4.3 it cannot be found out where the mail of the domain goes: A of alias.example: no name server answered in \
         time; MX 5 192.0.2.7. is left out, for it is no host name: it looks like an address: the last label of a host \
         name is no number; switch.example is a name of this switch; mail exchangers of preference 20 and worse are left \
         out, for this switch is one of them: 2"
    );
    let zone = "MX example.org: 10 alias.example\nA alias.example -> a.example: 192.0.2.1";
    let found = Dns::read(zone).search("example.org", &policy(), 0).unwrap();
    let remarks: Vec<_> = found.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks, ["alias.example is an alias (CNAME) of a.example"]);
    let attempts: Vec<_> = found.attempts().map(|(host, address)| format!("{host} {address}")).collect();
    assert_eq!(attempts, ["alias.example (MX 10) 192.0.2.1"]);
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let record = prop_oneof![
        (any::<u16>(), "[a-c.0-9\\\\-]{0,6}")
            .prop_map(|(preference, exchanger)| Record::Mx { preference: preference % 4, exchanger }),
        any::<[u8; 4]>().prop_map(|octets| Record::Address(octets.into())),
        any::<[u8; 16]>().prop_map(|octets| Record::Address(octets.into())),
    ];
    prop_oneof![
        8 => proptest::collection::vec(record, 0..12)
            .prop_map(|records| Answer::Found { records, canonical: None, status: STATUS }),
        1 => Just(Answer::NoRecord { status: STATUS }),
        1 => Just(Answer::NoSuchName { status: STATUS }),
        1 => Just(Answer::Failed(LookupFailure::Timeout)),
    ]
}

proptest! {
    #[test]
    fn invariant_a_search_ends_and_its_destinations_are_ordered_bounded_and_never_this_switch(
        domain in "[a-c.\\[\\]:0-9]{0,12}",
        answers in proptest::collection::vec(any_answer(), 8),
        seed in any::<u64>(),
        exchangers_max in 0usize..4,
        addresses_max in 0usize..4,
    ) {
        let policy = Policy { exchangers_max, addresses_max, ..policy() };
        let mut step = Search::begin(&domain, &policy, seed);
        let mut rounds = 0;
        let result = loop {
            step = match step {
                Step::Found(found) => break Ok(found),
                Step::Nowhere(nowhere) => break Err(nowhere),
                Step::Ask(search, questions) => {
                    rounds += 1;
                    prop_assert!(!questions.is_empty() && rounds <= 2);
                    let numbered = questions.into_iter().enumerate();
                    let answer = |n: usize| answers[(n + rounds) % answers.len()].clone();
                    search.answer(&numbered.map(|(n, question)| (question, answer(n))).collect())
                }
            };
        };
        match result {
            Err(nowhere) => prop_assert!(matches!(nowhere.status().class, 4 | 5)),
            Ok(found) => {
                prop_assert!((1..=exchangers_max.max(1)).contains(&found.exchangers.len()));
                prop_assert!(found.exchangers.is_sorted_by_key(|exchanger| exchanger.origin.preference()));
                for exchanger in &found.exchangers {
                    prop_assert!((1..=addresses_max.max(1)).contains(&exchanger.addresses.len()));
                    prop_assert!(exchanger.addresses.iter().all(|address| !address.to_canonical().is_loopback()));
                }
            }
        }
    }
}
