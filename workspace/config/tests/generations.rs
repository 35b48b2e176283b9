//! Sets of entries to configurations, and from one generation to the next.

use proptest::prelude::*;
use std::collections::BTreeMap;
use sternpost_config::{
    ATTRIBUTES, Attribute, BareLineEndings, Class, ClientCertificates, Effect, Entry, HOUSEKEEPER,
    HousekeeperView, InForce, NextHop, Removals, SmtpServerView, Step, Syntax, TrustScope,
    entries_from_tables, entries_to_tables, load, next,
};
use sternpost_message::{CivilPriority, Precedence, PriorityField, PriorityPolicy};

const TABLES: &str = r#"
[node]
hostname = "relay.example"

[[trust]]
name = "partner"
trust_certificates = "MAMwAQA="

[[listener]]
name = "inbound"
addresses = ["127.0.0.1:0"]
client_networks = ["127.0.0.0/8", "192.0.2.0/24"]

[[channel]]
name = "smtp"
kind = "smtp"

[[channel]]
name = "lmtp"
kind = "lmtp"

[[peer]]
name = "next-hop"
channel = "smtp"
address = "192.0.2.1:25"

[[peer]]
name = "store"
channel = "lmtp"
address = "[2001:db8::1]:24"

[[route]]
domain = ["example.org", ".example.org"]
peer = "store"

[[route]]
name = "smart-host"
domain = "*"
peer = "next-hop"

[qmgr]
qmgr_maxchans = 8

[[minimise]]
name = "exercise"
lowest_precedence = "immediate"
minimise_channel = "lmtp"
minimise_until = "20261123180000Z"

[[user]]
name = "alice"
user_name = "alice@example.org"
user_verifiers = ["SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="]
user_senders = ["alice@example.org"]
"#;

fn tables(toml: &str) -> Vec<Entry> {
    entries_from_tables(toml).expect("the tables of a test are well-formed")
}

fn in_force(previous: Option<&InForce>, toml: &str) -> InForce {
    match next(previous, tables(toml), "", Removals::Hold) {
        Step::InForce(generation) => *generation,
        step => panic!("{step:?}"),
    }
}

fn ldap(class: Class, dn: &str, attributes: &[(&str, &str)]) -> Entry {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    map.insert("objectclass".into(), vec!["top".into(), class.name().into()]);
    let name = dn.split([',', '=']).nth(1).expect("a DN has a value").to_owned();
    map.insert("cn".into(), vec![name]);
    for (name, value) in attributes {
        map.entry(name.to_ascii_lowercase()).or_default().push((*value).to_owned());
    }
    Entry { uuid: format!("uuid of {dn}"), dn: dn.into(), attributes: map }
}

#[test]
fn good_tables_become_a_configuration_without_problems() {
    let loaded = load(&tables(TABLES), "");
    assert_eq!(loaded.problems, []);
    let configuration = loaded.configuration.unwrap();
    assert_eq!(configuration.node.postmaster.as_str(), "postmaster@relay.example");
    assert_eq!(configuration.qmgr.qmgr_maxchans, Some(8));
    assert_eq!(configuration.listeners[0].message_octets_max, 115_343_360);
    assert_eq!(configuration.channels.len(), 3);
    assert!(configuration.channel(HOUSEKEEPER).is_some());
    assert!(HousekeeperView::new(&configuration).is_some());
}

#[test]
fn the_most_specific_route_counts_and_the_smart_host_is_not_open_to_all() {
    let configuration = load(&tables(TABLES), "").configuration.unwrap();
    let view = SmtpServerView::new(&configuration, |_| (9, 2));
    let rows = [
        ("example.org", "lmtp", "store", true),
        ("EXAMPLE.org", "lmtp", "store", true),
        ("a.b.example.org", "lmtp", "store", true),
        ("notexample.org", "smtp", "next-hop", false),
        ("[192.0.2.9]", "smtp", "next-hop", false),
        (".example.org", "smtp", "next-hop", false),
        ("", "smtp", "next-hop", false),
    ];
    for (domain, channel, peer, open_to_all) in rows {
        let destination = view.routes.destination(domain).unwrap();
        assert_eq!(
            (destination.channel, &*destination.peer, destination.open_to_all),
            (channel, peer, open_to_all)
        );
        if !domain.starts_with('.') {
            assert_eq!(configuration.route(domain), view.route(domain), "{domain}");
        }
    }
    assert!(view.listeners[0].lists("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!view.listeners[0].lists("198.51.100.1".parse().unwrap()));
}

#[test]
fn each_kind_of_wrong_value_is_reported_with_its_attribute_and_leaves_the_entry_out() {
    let rows = [
        ("hostname = \"relay.example\"", "hostname = \"a b\"", "sternpostHostname"),
        ("hostname = \"relay.example\"", "hostname = \"a@b\"", "sternpostHostname"),
        ("addresses = [\"127.0.0.1:0\"]", "addresses = [\"127.0.0.1\"]", "sternpostAddresses"),
        ("addresses = [\"127.0.0.1:0\"]", "", "sternpostAddresses"),
        (
            "addresses = [\"127.0.0.1:0\"]",
            "addresses = [\"[::]:25\"]\nrecipients_max = 99",
            "sternpostRecipientsMax",
        ),
        ("kind = \"smtp\"", "kind = \"SMTP\"", "sternpostKind"),
        ("kind = \"smtp\"", "kind = \"housekeeper\"", "sternpostKind"),
        ("kind = \"smtp\"", "kind = \"smtp\"\nprocesses_max = 257", "sternpostProcessesMax"),
        ("kind = \"smtp\"", "kind = \"smtp\"\nslots_reserve_urgent = 256", "sternpostSlotsReserveUrgent"),
        ("channel = \"smtp\"", "channel = \"smpt\"", "sternpostChannel"),
        ("channel = \"smtp\"", "channel = \"housekeeper\"", "sternpostChannel"),
        ("192.0.2.1:25", "192.0.2.1:0", "sternpostAddress"),
        ("192.0.2.1:25", "mx.example:25", "sternpostAddress"),
        ("peer = \"store\"", "peer = \"shop\"", "sternpostPeer"),
        ("domain = \"*\"", "domain = \"*.example\"", "sternpostDomain"),
        ("qmgr_maxchans = 8", "qmgr_maxchans = 2", "sternpostQmgrMaxchans"),
        ("qmgr_maxchans = 8", "retry_max_s = 59", "sternpostRetryMaxS"),
        ("name = \"inbound\"", "name = \"in bound\"", "cn"),
        ("hostname = \"relay.example\"", "hostname = \"a\u{FFFD}\"", "sternpostHostname"),
    ];
    for (good, bad, attribute) in rows {
        let loaded = load(&tables(&TABLES.replace(good, bad)), "");
        let problem = loaded.problems.iter().find(|problem| problem.attribute.as_deref() == Some(attribute));
        let problem = problem.unwrap_or_else(|| panic!("{bad}: {:?}", loaded.problems));
        assert_eq!(problem.effect, Effect::Dropped, "{bad}");
        assert!(loaded.wrong.contains(&problem.uuid) && !loaded.used.contains(&problem.uuid), "{bad}");
    }
}

#[test]
fn a_small_channel_that_says_nothing_of_reserves_has_none() {
    let toml = TABLES.replace("kind = \"smtp\"", "kind = \"smtp\"\nprocesses_max = 1\nslots_per_process = 2");
    let loaded = load(&tables(&toml), "");
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.configuration.unwrap().channel("smtp").unwrap().slots_reserve_urgent, 0);
}

#[test]
fn a_domain_in_two_routes_is_reported_and_goes_by_the_first() {
    let toml = format!(
        "{TABLES}\n[[route]]\nname = \"z\"\ndomain = [\"example.org\", \"else.example\"]\npeer = \"next-hop\""
    );
    let loaded = load(&tables(&toml), "");
    assert_eq!(loaded.problems.len(), 1);
    assert_eq!(loaded.problems[0].effect, Effect::Ignored);
    let configuration = loaded.configuration.unwrap();
    assert_eq!(configuration.route("example.org").unwrap().peer, "store");
    assert_eq!(configuration.route("else.example").unwrap().peer, "next-hop");
}

#[test]
fn a_wrong_entry_keeps_its_last_good_version_while_the_rest_goes_into_force() {
    let first = in_force(None, TABLES);
    let bad = TABLES.replace("192.0.2.1:25", "somewhere").replace("qmgr_maxchans = 8", "qmgr_maxchans = 9");
    let second = in_force(Some(&first), &bad);
    assert_eq!(second.configuration.peer("next-hop"), first.configuration.peer("next-hop"));
    assert_eq!(second.configuration.qmgr.qmgr_maxchans, Some(9));
    assert_eq!(second.problems.len(), 1);
    assert_eq!(second.problems[0].effect, Effect::KeptLastGood);
    assert_eq!(second.problems[0].attribute.as_deref(), Some("sternpostAddress"));
    // It is kept as long as it is wrong, also from disk, and no longer.
    let third = in_force(Some(&second), &bad);
    assert_eq!(third, second);
    let from_disk = next(None, third.entries.clone(), "", Removals::Hold);
    assert!(
        matches!(&from_disk, Step::InForce(g) if g.configuration == third.configuration),
        "{from_disk:?}"
    );
    assert_eq!(in_force(Some(&third), TABLES).problems, []);
}

#[test]
fn a_good_change_is_not_undone_by_a_bad_one_that_it_refers_to() {
    let first = in_force(None, TABLES);
    let bad_channel =
        TABLES.replace("kind = \"smtp\"", "kind = \"smpt\"").replace("192.0.2.1:25", "192.0.2.99:25");
    let second = in_force(Some(&first), &bad_channel);
    assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
    assert_eq!(second.configuration.channel("smtp"), first.configuration.channel("smtp"));
    let next_hop = NextHop::Address("192.0.2.99:25".parse().unwrap());
    assert_eq!(second.configuration.peer("next-hop").unwrap().next_hop, next_hop);
}

#[test]
fn twenty_thousand_entries_are_read_in_a_moment() {
    let peers: String = (0..10_000)
        .map(|n| {
            format!(
                "[[peer]]\nname = \"p{n}\"\nchannel = \"smtp\"\naddress = \"192.0.2.1:25\"\n\
                 [[route]]\ndomain = \"d{n}.example\"\npeer = \"p{n}\"\n"
            )
        })
        .collect();
    let tables =
        format!("[node]\nhostname = \"a.example\"\n[[channel]]\nname = \"smtp\"\nkind = \"smtp\"\n{peers}");
    let began = std::time::Instant::now();
    let first = in_force(None, &tables);
    let second = in_force(Some(&first), &tables.replace("192.0.2.1:25", "nowhere"));
    assert_eq!(second.configuration.routes.len(), 10_000);
    assert_eq!(second.problems.len(), 10_000);
    // About a second; a step that goes through all entries for each entry would take minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn the_nodes_own_entry_keeps_its_last_good_version_too() {
    let first = in_force(None, TABLES);
    let second = in_force(Some(&first), &TABLES.replace("relay.example", "not a name"));
    assert_eq!(second.configuration.node, first.configuration.node);
    let alone = next(None, tables(&TABLES.replace("relay.example", "not a name")), "", Removals::Hold);
    assert!(matches!(alone, Step::Unusable { problems } if problems.len() == 1));
}

#[test]
fn a_route_whose_peer_went_is_left_out_and_reported() {
    let first = in_force(None, TABLES);
    let without = TABLES
        .replace("[[peer]]\nname = \"store\"\nchannel = \"lmtp\"\naddress = \"[2001:db8::1]:24\"\n", "");
    let second = in_force(Some(&first), &without);
    assert!(second.configuration.peer("store").is_none());
    assert_eq!(second.configuration.route("example.org").unwrap().peer, "next-hop");
    assert_eq!(second.problems.len(), 1);
    assert_eq!(second.problems[0].effect, Effect::Dropped);
}

#[test]
fn a_network_that_cannot_be_read_allows_nothing() {
    let first = in_force(None, TABLES);
    let second = in_force(Some(&first), &TABLES.replace("192.0.2.0/24", "192.0.2.0/240"));
    let listener = &second.configuration.listeners[0];
    assert_eq!(listener.client_networks.len(), 1);
    assert!(!listener.lists("192.0.2.7".parse().unwrap()));
    assert_eq!(second.problems[0].effect, Effect::FailsClosed);
}

#[test]
fn a_kept_listener_grants_no_more_than_its_new_version() {
    let first = in_force(None, TABLES);
    let narrowed = TABLES.replace(", \"192.0.2.0/24\"", "").replace("[\"127.0.0.1:0\"]", "[\"nowhere\"]");
    let second = in_force(Some(&first), &narrowed);
    assert_eq!(second.problems[0].effect, Effect::KeptLastGood);
    let listener = &second.configuration.listeners[0];
    assert_eq!(listener.addresses, first.configuration.listeners[0].addresses);
    assert!(listener.lists("127.0.0.1".parse().unwrap()) && !listener.lists("192.0.2.7".parse().unwrap()));
}

#[test]
fn a_kept_listener_lets_nobody_ask_for_more_than_either_version_does() {
    let with = |lines: &str| TABLES.replace("name = \"inbound\"", &format!("name = \"inbound\"\n{lines}"));
    let two = "priority_fields = \"mt-priority priority\"\n";
    // Good version, new one, and what the kept one then has.
    let rows = [
        ("", "precedence_max = \"flash\"\n", Precedence::Flash, 0),
        ("precedence_max = \"flash\"\n", "", Precedence::Flash, 0),
        ("precedence_max = \"deferred\"\n", "precedence_max = \"flash\"\n", Precedence::Deferred, 0),
        ("", "precedence_max = \"high\"\n", Precedence::Routine, 0),
        ("precedence_max = \"deferred\"\n", "precedence_max = \"high\"\n", Precedence::Deferred, 0),
        ("precedence_max = \"deferred\"\n", "precedence_max = \"routine\"\n", Precedence::Deferred, 0),
        ("precedence_max = \"high\"\n", "", Precedence::Routine, 0),
        ("precedence_max = \"high\"\n", "precedence_max = \"deferred\"\n", Precedence::Deferred, 0),
        (two, two, Precedence::Override, 2),
        (two, "", Precedence::Override, 0),
        (two, "priority_fields = \"importance\"\n", Precedence::Override, 0),
    ];
    for (good, new, precedence_max, fields) in rows {
        let first = in_force(None, &with(good));
        let second = in_force(Some(&first), &with(&format!("{new}connections_max = 0\n")));
        let listener = &second.configuration.listeners[0];
        assert_eq!(
            (listener.precedence_max, listener.priority_fields.len()),
            (precedence_max, fields),
            "{good} {new}"
        );
    }
    let fresh = load(&tables(&with("priority_fields = \"priority mt-priority\"")), "").configuration.unwrap();
    assert_eq!(fresh.listeners[0].priority_fields, [PriorityField::Priority, PriorityField::MtPriority]);
}

#[test]
fn a_highest_precedence_that_cannot_be_read_is_that_of_ordinary_mail_under_each_policy() {
    let unreadable = [
        "precedence_max = \"high\"",
        "precedence_max = \"Flash\"",
        "precedence_max = \"flash override\"",
        "precedence_max = \"\"",
    ];
    for policy in PriorityPolicy::ALL {
        let with = |line: &str| {
            TABLES
                .replace("[node]\n", &format!("[node]\npriority_policy = \"{}\"\n", policy.name()))
                .replace("name = \"inbound\"", &format!("name = \"inbound\"\n{line}"))
        };
        let first = in_force(None, &with(""));
        for line in unreadable {
            let loaded = load(&tables(&with(line)), "");
            let [problem] = &loaded.problems[..] else { panic!("{line}: {:?}", loaded.problems) };
            assert_eq!(problem.attribute.as_deref(), Some("sternpostPrecedenceMax"));
            assert!(problem.reason.ends_with(", so ordinary holds"), "{problem}");
            let fresh = &loaded.configuration.unwrap().listeners[0];
            // The version before stays for another mistake, and allows no more either.
            let broken = with(&format!("{line}\nconnections_max = 0"));
            let kept = &in_force(Some(&first), &broken).configuration.listeners[0];
            for listener in [fresh, kept] {
                let own = listener.precedence_max_of("192.0.2.7".parse().unwrap(), policy.ordinary());
                assert_eq!(own, policy.ordinary(), "{} {line}", policy.name());
            }
        }
        let said = load(&tables(&with("precedence_max = \"ordinary\"")), "");
        assert_eq!(said.problems, []);
        assert_eq!(said.configuration.unwrap().listeners[0].precedence_max, policy.ordinary());
    }
}

#[test]
fn what_a_client_may_ask_for_is_the_highest_grant() {
    use Precedence::{Deferred, Flash, Priority, Routine};
    let lines = "name = \"inbound\"\nprecedence_max = \"deferred\"\n\
         precedence_networks = [\"198.51.100.0/24 flash\", \"192.0.2.7 priority\", \"203.0.113.0/24 high\"]";
    let loaded = load(&tables(&TABLES.replace("name = \"inbound\"", lines)), "");
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert_eq!(loaded.problems[0].effect, Effect::FailsClosed);
    let listener = &loaded.configuration.unwrap().listeners[0];
    let rows = [
        ("198.51.100.1", Flash),
        ("192.0.2.7", Priority),
        ("192.0.2.8", Deferred),
        ("203.0.113.1", Routine),
        ("::ffff:198.51.100.1", Flash),
    ];
    for (client, precedence) in rows {
        assert_eq!(listener.precedence_max_of(client.parse().unwrap(), Routine), precedence, "{client}");
    }
    assert!(!listener.lists("198.51.100.1".parse().unwrap()), "a grant opens no route");
}

#[test]
fn reserves_of_connections_leave_the_larger_half_to_everybody() {
    use CivilPriority::{NonUrgent, Normal, Urgent};
    // Most, reserves; what urgent, normal and non-urgent clients may fill.
    let rows = [
        (1000, 10, 10, [1000, 990, 980]),
        (1, 10, 10, [1, 1, 1]),
        (3, 10, 10, [3, 2, 2]),
        (10, 2, 9, [10, 8, 5]),
        (10, 0, 0, [10, 10, 10]),
    ];
    for (most, urgent, normal, wanted) in rows {
        let lines = format!(
            "name = \"inbound\"\nconnections_max = {most}\nconnections_reserve_urgent = {urgent}\n\
             connections_reserve_normal = {normal}"
        );
        let configuration =
            load(&tables(&TABLES.replace("name = \"inbound\"", &lines)), "").configuration.unwrap();
        let listener = &configuration.listeners[0];
        assert_eq!([Urgent, Normal, NonUrgent].map(|class| listener.connections_max_of(class)), wanted);
    }
}

#[test]
fn a_reserve_of_connections_that_nobody_can_use_is_not_kept_and_one_that_was_asked_for_is_a_problem() {
    const BOTH: &str = "connections_reserve_urgent = 30\nconnections_reserve_normal = 5\n";
    // Policy, client networks, further lines; what is kept, and how many problems there are.
    let rows = [
        ("STANAG4406", false, "", (0, 0), 0),
        ("STANAG4406", true, "", (10, 10), 0),
        ("STANAG4406", true, "precedence_max = \"immediate\"\n", (0, 10), 0),
        ("STANAG4406", false, "precedence_max = \"flash\"\n", (0, 0), 0),
        ("STANAG4406", false, "precedence_networks = [\"192.0.2.1 flash\"]\n", (10, 10), 0),
        ("STANAG4406", false, "precedence_networks = [\"192.0.2.1 priority\"]\n", (0, 10), 0),
        ("STANAG4406", false, BOTH, (0, 0), 2),
        ("STANAG4406", true, BOTH, (30, 5), 0),
        ("STANAG4406", false, "connections_reserve_urgent = 0\n", (0, 0), 0),
        // Ordinary mail is normal there.
        ("NSEP", false, "", (0, 10), 0),
        ("MIXER", false, BOTH, (0, 5), 1),
    ];
    for (policy, has_networks, lines, kept, problems) in rows {
        let listener = "client_networks = [\"127.0.0.0/8\", \"192.0.2.0/24\"]\n";
        let networks = if has_networks { listener } else { "" };
        let tables_of = TABLES
            .replace("[node]\n", &format!("[node]\npriority_policy = \"{policy}\"\n"))
            .replace(listener, &format!("{networks}{lines}"));
        let loaded = load(&tables(&tables_of), "");
        assert_eq!(loaded.problems.len(), problems, "{policy} {lines}: {:?}", loaded.problems);
        assert!(loaded.problems.iter().all(|problem| problem.effect == Effect::Ignored));
        let view = SmtpServerView::new(&loaded.configuration.unwrap(), |_| (1_000, 100));
        let listener = &view.listeners[0];
        let reserves = (listener.connections_reserve_urgent, listener.connections_reserve_normal);
        assert_eq!(reserves, kept, "{policy} {has_networks} {lines}");
        let for_everybody = listener.connections_max_of(CivilPriority::NonUrgent);
        assert_eq!(for_everybody, 1_000 - kept.0 - kept.1);
    }
}

#[test]
fn what_restricts_and_cannot_be_read_restricts() {
    let open = TABLES
        .replace("peer = \"store\"", "peer = \"store\"\nclient_networks_only = false")
        .replace("name = \"inbound\"", "name = \"inbound\"\nbare_line_endings = \"normalise\"");
    let first = in_force(None, &open);
    assert_eq!(first.configuration.listeners[0].bare_line_endings, BareLineEndings::Normalise);
    assert!(first.configuration.route("example.org").unwrap().is_open_to_all());
    let mut entries = tables(&open);
    for entry in &mut entries {
        for (name, values) in &mut entry.attributes {
            if name == "sternpostclientnetworksonly" || name == "sternpostbarelineendings" {
                *values = vec!["perhaps".into()];
            }
        }
    }
    let Step::InForce(second) = next(Some(&first), entries, "", Removals::Hold) else {
        panic!("not in force")
    };
    assert_eq!(second.configuration.listeners[0].bare_line_endings, BareLineEndings::Refuse);
    assert!(!second.configuration.route("example.org").unwrap().is_open_to_all());
    assert!(second.problems.iter().all(|problem| problem.effect == Effect::FailsClosed));
    // A version that is kept for another reason takes the restriction of the new one.
    let restricted = open.replace(
        "peer = \"store\"\nclient_networks_only = false",
        "peer = \"shop\"\nclient_networks_only = true",
    );
    let third = in_force(Some(&first), &restricted);
    assert_eq!(third.configuration.route("example.org").unwrap().peer, "store");
    assert!(!third.configuration.route("example.org").unwrap().is_open_to_all());
}

#[test]
fn a_change_that_takes_the_nodes_entry_or_a_fifth_of_a_class_is_held() {
    let peers = |count: usize| -> String {
        let peer = |n| format!("[[peer]]\nname = \"p{n}\"\nchannel = \"smtp\"\naddress = \"192.0.2.1:25\"\n");
        (0..count).map(peer).collect()
    };
    let channel = "[[channel]]\nname = \"smtp\"\nkind = \"smtp\"\n";
    let node = "[node]\nhostname = \"relay.example\"\n";
    let first = in_force(None, &format!("{node}{channel}{}", peers(10)));

    let held = next(Some(&first), tables(channel), "", Removals::Hold);
    assert!(
        matches!(&held, Step::Held { would_remove, .. } if would_remove == &["node \"node\""]),
        "{held:?}"
    );
    assert!(matches!(next(Some(&first), tables(channel), "", Removals::Confirmed), Step::Unusable { .. }));
    assert!(matches!(next(Some(&first), Vec::new(), "", Removals::Hold), Step::Held { .. }));

    let fewer = format!("{node}{channel}{}", peers(7));
    let held = next(Some(&first), tables(&fewer), "", Removals::Hold);
    assert!(matches!(&held, Step::Held { would_remove, .. } if would_remove.len() == 3), "{held:?}");
    let Step::InForce(confirmed) = next(Some(&first), tables(&fewer), "", Removals::Confirmed) else {
        panic!("a confirmed change goes into force")
    };
    assert_eq!(confirmed.configuration.peers.len(), 7);

    // A fifth is not more than a fifth, and one entry is never held.
    assert_eq!(in_force(Some(&first), &format!("{node}{channel}{}", peers(8))).configuration.peers.len(), 8);
    assert!(matches!(
        next(Some(&first), tables(&format!("{node}{}", peers(10))), "", Removals::Hold),
        Step::InForce(_)
    ));
}

#[test]
fn a_directory_that_was_filled_again_is_no_removal() {
    let first = in_force(None, TABLES);
    let mut entries = tables(TABLES);
    entries.iter_mut().for_each(|entry| entry.uuid.insert_str(0, "new "));
    assert!(matches!(next(Some(&first), entries, "", Removals::Hold), Step::InForce(_)));
}

#[test]
fn a_node_reads_its_own_and_shared_entries_and_own_ones_go_first() {
    let smtp = [("sternpostKind", "smtp")];
    let entries = [
        ldap(
            Class::Node,
            "cn=a,ou=nodes,dc=lab",
            &[("sternpostHostname", "a.example"), ("sternpostIdentity", "SN-1")],
        ),
        ldap(Class::Node, "cn=b,ou=nodes,dc=lab", &[("sternpostHostname", "b.example")]),
        ldap(Class::Listener, "cn=in,cn=A, ou=nodes,dc=lab", &[("sternpostAddresses", "127.0.0.1:25")]),
        ldap(Class::Listener, "cn=in,cn=b,ou=nodes,dc=lab", &[("sternpostAddresses", "127.0.0.1:26")]),
        ldap(Class::Channel, "cn=smtp,ou=shared,dc=lab", &smtp),
        ldap(
            Class::Channel,
            "cn=smtp,cn=b,ou=nodes,dc=lab",
            &[("sternpostKind", "smtp"), ("sternpostProcessesMax", "9")],
        ),
    ];
    let processes = |identity: &str| {
        let loaded = load(&entries, identity);
        assert_eq!(loaded.problems, [], "{identity}");
        let configuration = loaded.configuration.unwrap();
        let port = configuration.listeners[0].addresses[0].port();
        (configuration.node.hostname.clone(), port, configuration.channel("smtp").unwrap().processes_max)
    };
    assert_eq!(processes("sn-1"), ("a.example".into(), 25, 4));
    assert_eq!(processes("A"), ("a.example".into(), 25, 4));
    assert_eq!(processes("b"), ("b.example".into(), 26, 9));
    assert!(load(&entries, "c").configuration.is_none());
    assert!(load(&entries, "").configuration.is_none(), "two nodes and no identity");
}

#[test]
fn an_own_route_goes_before_a_shared_one_and_that_is_no_problem() {
    let entries = [
        ldap(Class::Node, "cn=a,dc=lab", &[("sternpostHostname", "a.example")]),
        ldap(Class::Channel, "cn=smtp,dc=lab", &[("sternpostKind", "smtp")]),
        ldap(
            Class::Peer,
            "cn=near,cn=a,dc=lab",
            &[("sternpostChannel", "smtp"), ("sternpostAddress", "192.0.2.1:25")],
        ),
        ldap(
            Class::Peer,
            "cn=far,dc=lab",
            &[("sternpostChannel", "smtp"), ("sternpostAddress", "192.0.2.2:25")],
        ),
        ldap(
            Class::Route,
            "cn=1,dc=lab",
            &[("sternpostDomain", "x.example"), ("sternpostDomain", "y.example"), ("sternpostPeer", "far")],
        ),
        ldap(
            Class::Route,
            "cn=2,cn=a,dc=lab",
            &[("sternpostDomain", "x.example"), ("sternpostPeer", "near")],
        ),
    ];
    let loaded = load(&entries, "a");
    assert_eq!(loaded.problems, []);
    let configuration = loaded.configuration.unwrap();
    assert_eq!(configuration.route("x.example").unwrap().peer, "near");
    assert_eq!(configuration.route("y.example").unwrap().peer, "far");
}

#[test]
fn an_attribute_that_the_class_does_not_have_is_ignored_and_reported() {
    let entries = [ldap(
        Class::Node,
        "cn=a,dc=lab",
        &[("sternpostHostname", "a.example"), ("sternpostPeer", "x"), ("description", "anything")],
    )];
    let loaded = load(&entries, "a");
    assert!(loaded.configuration.is_some());
    assert_eq!(loaded.problems.len(), 1);
    assert_eq!(loaded.problems[0].effect, Effect::Ignored);
}

#[test]
fn views_and_generations_survive_their_encoding() {
    let generation = in_force(None, TABLES);
    let view = SmtpServerView::new(&generation.configuration, |_| (9, 2));
    let octets = postcard::to_stdvec(&view).unwrap();
    assert_eq!(postcard::from_bytes::<SmtpServerView>(&octets).unwrap(), view);
    let octets = postcard::to_stdvec(&generation).unwrap();
    assert_eq!(postcard::from_bytes::<InForce>(&octets).unwrap(), generation);
}

/// A value that is right for the attribute, or one that is not.
fn value(attribute: &'static Attribute) -> BoxedStrategy<String> {
    let good = match attribute.syntax {
        Syntax::Integer => (attribute.min..=attribute.max).prop_map(|number| number.to_string()).boxed(),
        Syntax::Boolean => prop_oneof!["TRUE", "FALSE"].boxed(),
        Syntax::Choice(words) => proptest::sample::select(words).prop_map(str::to_owned).boxed(),
        Syntax::Name | Syntax::Credential => "[ab]".boxed(),
        Syntax::Hostname => "[a-c]{1,3}(\\.[a-c]{1,3})?".boxed(),
        Syntax::DomainPattern => "\\.?[a-c]{1,2}|\\*".boxed(),
        Syntax::Mailbox => "[a-z]{1,4}@[a-z]{1,4}".boxed(),
        Syntax::SocketAddress => "127\\.0\\.0\\.[1-9]:[1-9][0-9]{0,3}".boxed(),
        Syntax::GroupHost => "[0-9] [1-9] 127\\.0\\.0\\.[1-9]:[1-9][0-9]{0,3}".boxed(),
        Syntax::Address => "127\\.0\\.0\\.[1-9]".boxed(),
        Syntax::Network => "10\\.[0-9]\\.0\\.0/16".boxed(),
        Syntax::NetworkPrecedence => "10\\.[0-9]\\.0\\.0/16 (deferred|flash)".boxed(),
        Syntax::Order(words) => {
            proptest::sample::subsequence(words, 1..=words.len()).prop_map(|words| words.join(" ")).boxed()
        }
        Syntax::Text | Syntax::UserName => "[a-z]{1,4}".boxed(),
        Syntax::CertificateName => "(dns|email):[a-c]@[a-c]".boxed(),
        Syntax::SenderPattern => "[a-c]{0,1}@[a-c]{1,2}".boxed(),
        Syntax::Verifier => "SCRAM-SHA-256\\$4096:[a-z]{16}\\$[a-z]{42}A=:[a-z]{42}A=".boxed(),
        Syntax::Template => prop_oneof!["\\{recipients\\}", "[a-z]{1,4}", "\\{[a-z_]{1,9}\\}"].boxed(),
        Syntax::Language => "[a-z]{2}(-[A-Z]{2})?".boxed(),
        Syntax::Certificates => prop_oneof![
            "MAMwAQ[AEI]=",
            "-----BEGIN CERTIFICATE-----\nMAMwAQ[AEI]=\n-----END CERTIFICATE-----\n"
        ]
        .boxed(),
        Syntax::Time => "20[2-9][0-9](0[1-9]|1[0-2])(0[1-9]|1[0-9])([01][0-9])(00)?(00)?Z".boxed(),
    };
    match attribute.syntax {
        // Numbers and truths have a type of their own in tables: any other text would not come back.
        Syntax::Integer => {
            prop_oneof![4 => good, 1 => any::<u64>().prop_map(|number| number.to_string())].boxed()
        }
        Syntax::Boolean => good,
        _ => prop_oneof![8 => good, 1 => any::<String>()].boxed(),
    }
}

fn entry(class: Class, index: usize) -> impl Strategy<Value = Entry> {
    let attributes: Vec<_> = class
        .attributes()
        .map(|attribute| {
            let count = match (attribute.values.required(), attribute.values.single()) {
                (true, true) => 1..=1,
                (true, false) => 1..=3,
                (false, true) => 0..=1,
                (false, false) => 0..=3,
            };
            (Just(attribute), proptest::collection::vec(value(attribute), count))
        })
        .collect();
    attributes.prop_map(move |attributes| {
        let name =
            if class.is_single() { class.table().to_owned() } else { ["a", "b", "c"][index % 3].to_owned() };
        let mut map: BTreeMap<String, Vec<String>> = attributes
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(attribute, values)| (attribute.name.to_ascii_lowercase(), values))
            .collect();
        map.insert("objectclass".into(), vec![class.name().into()]);
        map.insert("cn".into(), vec![name.clone()]);
        Entry {
            uuid: format!("{}/{name}", class.table()),
            dn: format!("{} {name:?}", class.table()),
            attributes: map,
        }
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let all: Vec<_> = Class::ALL
        .into_iter()
        .flat_map(|class| {
            (0..if class.is_single() { 1 } else { 3 }).map(move |index| entry(class, index).boxed())
        })
        .collect();
    (all, any::<u32>()).prop_map(|(entries, mask)| {
        let is_in = |at: usize| at == 0 || mask >> at & 1 == 1;
        entries.into_iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, entry)| entry).collect()
    })
}

/// What holds of every configuration, whatever it was made from.
fn invariant_names_exist_and_bounds_hold(generation: &InForce) {
    let configuration = &generation.configuration;
    assert_eq!(configuration.channels.iter().filter(|channel| channel.name == HOUSEKEEPER).count(), 1);
    assert!(configuration.peers.iter().all(|peer| configuration.channel(&peer.channel).is_some()));
    assert!(configuration.routes.iter().all(|route| configuration.peer(&route.peer).is_some()));
    assert!(configuration.listeners.iter().all(|listener| !listener.addresses.is_empty()));
    let trusts = |name: &String| configuration.trusts.iter().any(|trust| trust.name == *name);
    let exist = |scope: &TrustScope| match scope {
        TrustScope::All => true,
        TrustScope::Named(names) => names.iter().all(trusts),
    };
    assert!(configuration.peers.iter().all(|peer| exist(&peer.tls.trust) && !peer.tls.credential.is_empty()));
    assert!(configuration.peers.iter().all(|peer| peer.tls.policy.is_required() || !peer.tls.immediate));
    for tls in configuration.listeners.iter().map(|listener| &listener.tls) {
        assert!(exist(&tls.client_trust) && !tls.credential.is_empty());
        assert!(tls.policy.is_required() || tls.client_certificates != ClientCertificates::Required);
    }
    let qmgr = &configuration.qmgr;
    let reserves = qmgr.qmgr_reserve_urgent + qmgr.qmgr_reserve_normal;
    assert!(qmgr.qmgr_maxchans.is_none_or(|maxchans| reserves < maxchans));
    assert!(qmgr.retry_step_s <= qmgr.retry_max_s);
    assert!(configuration.channels.iter().all(|channel| channel.processes_max >= 1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_to_entries_to_tables_is_the_same_and_means_the_same(entries in entries()) {
        let text = entries_to_tables(&entries, "");
        let back = entries_from_tables(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let sorted = |entries: &[Entry]| {
            let mut entries = entries.to_vec();
            entries.sort_by(|a, b| a.uuid.cmp(&b.uuid));
            entries
        };
        prop_assert_eq!(sorted(&back), sorted(&entries));
        prop_assert_eq!(load(&back, "").configuration, load(&entries, "").configuration);
        prop_assert_eq!(entries_to_tables(&back, ""), text);
    }

    #[test]
    fn any_two_sets_in_a_row_keep_the_invariants(first in entries(), second in entries()) {
        let Step::InForce(first) = next(None, first, "", Removals::Hold) else { return Ok(()) };
        invariant_names_exist_and_bounds_hold(&first);
        let Step::InForce(second) = next(Some(&first), second, "", Removals::Confirmed) else {
            return Err(TestCaseError::fail("a good node entry keeps the node alive"));
        };
        invariant_names_exist_and_bounds_hold(&second);
        let again = next(None, second.entries.clone(), "", Removals::Hold);
        prop_assert!(matches!(&again, Step::InForce(again) if again.configuration == second.configuration));
    }

    #[test]
    fn any_text_is_tables_or_an_error(text in ".{0,200}") {
        let _ = entries_from_tables(&text);
    }
}

#[test]
fn orders_to_wait_that_are_gone_are_never_held() {
    let two = format!("{TABLES}\n[[minimise]]\nname = \"x\"\nlowest_precedence = \"flash\"\n");
    let first = in_force(None, &two);
    assert_eq!(first.configuration.minimise.len(), 2);
    let none = TABLES.split("\n[[minimise]]").next().unwrap();
    assert_eq!(in_force(Some(&first), none).configuration.minimise, []);
}

#[test]
fn an_order_to_wait_is_shown_as_it_is_written() {
    let generation = in_force(None, TABLES);
    let order = &generation.configuration.minimise[0];
    let text = toml::to_string(order).unwrap();
    assert_eq!(
        text,
        "name = \"exercise\"\nlowest = \"immediate\"\nchannel = \"lmtp\"\nuntil = \"2026-11-23T18:00:00Z\"\n"
    );
    assert_eq!(&toml::from_str::<sternpost_config::Minimise>(&text).unwrap(), order);
}

#[test]
fn one_time_between_starts_alone_makes_no_entry_wrong() {
    let tables = TABLES.replace("qmgr_maxchans = 8", "qmgr_maxchans = 8\nqmgr_chan_time2 = 600");
    let generation = in_force(None, &tables);
    assert_eq!(generation.problems, []);
    assert_eq!(generation.configuration.qmgr.qmgr_chan_time2_ms, 600);
}

#[test]
fn an_order_to_wait_that_is_wrong_is_reported_and_says_where() {
    let problem = |lines: &str| {
        let entries = tables(&format!("{TABLES}\n[[minimise]]\nname = \"x\"\n{lines}"));
        let loaded = load(&entries, "");
        assert_eq!(loaded.configuration.unwrap().minimise.len(), 1, "the good one stays: {lines}");
        loaded.problems.into_iter().map(|problem| problem.to_string()).collect::<String>()
    };
    let rows = [
        (
            "lowest_precedence = \"high\"",
            "sternpostLowestPrecedence: \"high\" cannot be read (the entry is not in force). Say deferred, routine",
        ),
        (
            "lowest_precedence = \"flash\"\nminimise_channel = \"x400\"",
            "sternpostMinimiseChannel: there is no channel \"x400\" in force",
        ),
        (
            "lowest_precedence = \"flash\"\nminimise_peer = \"far\"",
            "sternpostMinimisePeer: there is no peer \"far\" in force",
        ),
        (
            "lowest_precedence = \"flash\"\nminimise_channel = \"smtp\"\nminimise_peer = \"store\"",
            "sternpostMinimisePeer: the peer \"store\" is not one of that channel",
        ),
        (
            "lowest_precedence = \"flash\"\nminimise_from = \"2026-11-23T18:00:00Z\"\nminimise_until = \"20261123180000Z\"",
            "sternpostMinimiseUntil: it ends before it begins, or at once",
        ),
    ];
    for (lines, wanted) in rows {
        let found = problem(lines);
        assert!(found.contains(wanted), "{found}");
    }
}

/// The classes of which a site need not have an entry.
const REPORTS: &str = r#"
[reports]
report_language = "en"

[[report_text]]
name = "fr"
report_text_kind = "delay"
report_text_language = "fr"
report_text_subject = "En attente"
report_text_body = "{recipients}"
"#;

#[test]
fn every_attribute_of_the_table_is_read() {
    // A wrong value of each attribute shows in the problems: no attribute is in the table for show.
    for attribute in ATTRIBUTES.iter().filter(|attribute| attribute.name != "sternpostIdentity") {
        let mut entries = tables(&format!("{TABLES}\n{REPORTS}"));
        let entry = entries.iter_mut().find(|entry| entry.class() == Some(attribute.class)).unwrap();
        entry.attributes.insert(attribute.name.to_ascii_lowercase(), vec!["\u{FFFD}".into()]);
        let loaded = load(&entries, "");
        let is_reported = loaded.problems.iter().any(|p| p.attribute.as_deref() == Some(attribute.name));
        assert!(is_reported, "{}: {:?}", attribute.name, loaded.problems);
    }
}
