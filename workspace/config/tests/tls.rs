//! What the configuration says about TLS, and what it says when it cannot be read or kept.

use sternpost_config::{
    ChannelView, ClientCertificates, Configuration, Effect, Entry, InForce, Listener, ListenerTls,
    ListenerTlsPolicy, Loaded, Peer, PeerReference, PeerTls, PeerTlsPolicy, Removals, SmtpServerView, Step,
    TlsVersion, Trust, TrustScope, entries_from_tables, load, next,
};

/// Of the shape of a certificate, in base64 and in DER; three of them.
const SMALL: [(&str, [u8; 5]); 3] = [
    ("MAMwAQA=", [0x30, 3, 0x30, 1, 0]),
    ("MAMwAQE=", [0x30, 3, 0x30, 1, 1]),
    ("MAMwAQI=", [0x30, 3, 0x30, 1, 2]),
];

const TABLES: &str = r#"
[node]
hostname = "relay.example"

[[trust]]
name = "partner"
trust_certificates = ["MAMwAQA=", "MAMwAQE="]

[[trust]]
name = "clients"
trust_certificates = "MAMwAQI="

[[listener]]
name = "inbound"
addresses = ["127.0.0.1:0"]
#listener

[[channel]]
name = "smtp"
kind = "smtp"

[[peer]]
name = "far"
channel = "smtp"
address = "192.0.2.1:25"
#peer

[[route]]
domain = "*"
peer = "far"
"#;

/// The tables with these lines of the listener and of the peer.
fn with(listener: &str, peer: &str) -> String {
    TABLES.replace("#listener", listener).replace("#peer", peer)
}

fn tables(toml: &str) -> Vec<Entry> {
    entries_from_tables(toml).expect("the tables of a test are well-formed")
}

fn loaded(toml: &str) -> (Configuration, Vec<(Option<String>, Effect)>) {
    let Loaded { configuration, problems, .. } = load(&tables(toml), "");
    let problems = problems.into_iter().map(|problem| (problem.attribute, problem.effect)).collect();
    (configuration.expect("the node is good"), problems)
}

fn of_listener(lines: &str) -> (ListenerTls, Vec<(Option<String>, Effect)>) {
    let (mut configuration, problems) = loaded(&with(lines, ""));
    (configuration.listeners.remove(0).tls, problems)
}

fn of_peer(lines: &str) -> (PeerTls, Vec<(Option<String>, Effect)>) {
    let (mut configuration, problems) = loaded(&with("", lines));
    (configuration.peers.remove(0).tls, problems)
}

fn in_force(previous: Option<&InForce>, toml: &str) -> InForce {
    match next(previous, tables(toml), "", Removals::Hold) {
        Step::InForce(generation) => *generation,
        step => panic!("{step:?}"),
    }
}

fn named(names: &[&str]) -> TrustScope {
    TrustScope::Named(names.iter().map(|&name| name.to_owned()).collect())
}

fn domains(names: &[&str]) -> Vec<PeerReference> {
    names.iter().map(|&name| PeerReference::Domain(name.to_owned())).collect()
}

#[test]
fn an_entry_that_says_nothing_of_tls_offers_it_and_takes_it_where_it_is_offered() {
    let (configuration, problems) = loaded(&with("", ""));
    assert_eq!(problems, []);
    assert_eq!(configuration.listeners[0].tls, ListenerTls::default());
    assert_eq!(configuration.listeners[0].tls.policy, ListenerTlsPolicy::Offered);
    let address = PeerReference::Address("192.0.2.1".parse().unwrap());
    let tls = PeerTls { references: vec![address], ..PeerTls::default() };
    assert_eq!(configuration.peers[0].tls, tls);
    assert_eq!((tls.policy, tls.version_min), (PeerTlsPolicy::Opportunistic, TlsVersion::Tls12));
}

#[test]
fn every_attribute_of_tls_is_in_the_configuration() {
    let listener = "tls = \"immediate\"\ntls_credential = \"mail\"\ntls_client_certificates = \"required\"\n\
                    tls_client_trust = \"clients\"\ntls_version_min = \"1.3\"";
    let peer = "peer_tls = \"mutual\"\npeer_tls_immediate = true\npeer_tls_names = [\"MX1.far.example\", \"far.example\"]\n\
                peer_tls_credential = \"mail\"\npeer_tls_trust = [\"partner\"]\npeer_tls_version_min = \"1.3\"";
    let (configuration, problems) = loaded(&with(listener, peer));
    assert_eq!(problems, []);
    let wanted = ListenerTls {
        policy: ListenerTlsPolicy::Immediate,
        credential: "mail".into(),
        client_certificates: ClientCertificates::Required,
        client_trust: named(&["clients"]),
        version_min: TlsVersion::Tls13,
    };
    assert_eq!(configuration.listeners[0].tls, wanted);
    let wanted = PeerTls {
        policy: PeerTlsPolicy::Mutual,
        immediate: true,
        references: domains(&["mx1.far.example", "far.example"]),
        credential: "mail".into(),
        trust: named(&["partner"]),
        version_min: TlsVersion::Tls13,
    };
    assert_eq!(configuration.peers[0].tls, wanted);
    let certificates = |name: &str| {
        let of_name = configuration.trusts.iter().find(|trust| trust.name == name);
        of_name.map(|trust| trust.certificates.clone())
    };
    assert_eq!(certificates("partner"), Some(vec![SMALL[0].1.to_vec(), SMALL[1].1.to_vec()]));
    assert_eq!(certificates("clients"), Some(vec![SMALL[2].1.to_vec()]));
}

#[test]
fn a_word_about_tls_that_cannot_be_read_restricts() {
    let (tls, problems) = of_listener("tls = \"maybe\"\ntls_version_min = \"1.1\"");
    assert_eq!((tls.policy, tls.version_min), (ListenerTlsPolicy::Required, TlsVersion::Tls13));
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|(_, effect)| *effect == Effect::FailsClosed), "{problems:?}");
    let (tls, _) = of_listener("tls_client_certificates = \"yes\"");
    assert_eq!(tls.client_certificates, ClientCertificates::Required);
    assert_eq!(tls.policy, ListenerTlsPolicy::Required, "who has no TLS has no certificate");
    let (tls, problems) = of_peer("peer_tls = \"encrypted\"\npeer_tls_version_min = \"1.0\"");
    assert_eq!((tls.policy, tls.version_min), (PeerTlsPolicy::Verified, TlsVersion::Tls13));
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|(_, effect)| *effect == Effect::FailsClosed), "{problems:?}");
}

/// Lines of an entry, the policy that holds then, and what is reported.
type Fit<Policy> = (&'static str, Policy, Option<(&'static str, Effect)>);

#[test]
fn what_does_not_fit_together_counts_as_the_stricter_and_is_a_problem_where_somebody_wrote_it() {
    use Effect::{FailsClosed, Ignored};
    let certificates = "sternpostTlsClientCertificates";
    let rows: [Fit<ListenerTlsPolicy>; 8] = [
        ("tls_client_certificates = \"required\"", ListenerTlsPolicy::Required, None),
        (
            "tls = \"offered\"\ntls_client_certificates = \"required\"",
            ListenerTlsPolicy::Required,
            Some(("sternpostTls", FailsClosed)),
        ),
        (
            "tls = \"none\"\ntls_client_certificates = \"required\"",
            ListenerTlsPolicy::Required,
            Some(("sternpostTls", FailsClosed)),
        ),
        ("tls = \"immediate\"\ntls_client_certificates = \"required\"", ListenerTlsPolicy::Immediate, None),
        ("tls_client_certificates = \"requested\"", ListenerTlsPolicy::Offered, None),
        (
            "tls = \"none\"\ntls_client_certificates = \"requested\"",
            ListenerTlsPolicy::None,
            Some((certificates, Ignored)),
        ),
        (
            "tls_client_trust = [\"clients\"]",
            ListenerTlsPolicy::Offered,
            Some(("sternpostTlsClientTrust", Ignored)),
        ),
        ("tls = \"none\"", ListenerTlsPolicy::None, None),
    ];
    for (lines, policy, problem) in rows {
        let (tls, problems) = of_listener(lines);
        assert_eq!(tls.policy, policy, "{lines}");
        let wanted: Vec<_> =
            problem.into_iter().map(|(name, effect)| (Some(name.to_owned()), effect)).collect();
        assert_eq!(problems, wanted, "{lines}");
    }
    let rows: [Fit<PeerTlsPolicy>; 10] = [
        ("peer_tls_immediate = true", PeerTlsPolicy::Required, None),
        (
            "peer_tls_immediate = true\npeer_tls = \"none\"",
            PeerTlsPolicy::Required,
            Some(("sternpostPeerTls", FailsClosed)),
        ),
        (
            "peer_tls_immediate = true\npeer_tls = \"opportunistic\"",
            PeerTlsPolicy::Required,
            Some(("sternpostPeerTls", FailsClosed)),
        ),
        ("peer_tls_immediate = true\npeer_tls = \"verified\"", PeerTlsPolicy::Verified, None),
        ("peer_tls = \"none\"", PeerTlsPolicy::None, None),
        (
            "peer_tls = \"required\"\npeer_tls_names = \"mx.example\"",
            PeerTlsPolicy::Required,
            Some(("sternpostPeerTlsNames", Ignored)),
        ),
        (
            "peer_tls_trust = \"partner\"",
            PeerTlsPolicy::Opportunistic,
            Some(("sternpostPeerTlsTrust", Ignored)),
        ),
        (
            "peer_tls = \"verified\"\npeer_tls_credential = \"mail\"",
            PeerTlsPolicy::Verified,
            Some(("sternpostPeerTlsCredential", Ignored)),
        ),
        ("peer_tls = \"mutual\"\npeer_tls_credential = \"mail\"", PeerTlsPolicy::Mutual, None),
        ("peer_tls = \"verified\"\npeer_tls_names = \"mx.example\"", PeerTlsPolicy::Verified, None),
    ];
    for (lines, policy, problem) in rows {
        let (tls, problems) = of_peer(lines);
        assert_eq!(tls.policy, policy, "{lines}");
        let wanted: Vec<_> =
            problem.into_iter().map(|(name, effect)| (Some(name.to_owned()), effect)).collect();
        assert_eq!(problems, wanted, "{lines}");
    }
}

#[test]
fn a_name_of_a_peer_is_a_domain_and_one_that_is_not_makes_the_check_no_weaker() {
    let long = format!("{}.example", "a".repeat(64));
    for name in ["*.example", "192.0.2.1", "[192.0.2.1]", "a b", "почта.рф", ":nobody ", "a@b", &long, ""]
    {
        let (tls, problems) =
            of_peer(&format!("peer_tls = \"verified\"\npeer_tls_names = [\"{name}\", \"mx.example\"]"));
        assert_eq!(tls.references, domains(&["mx.example"]), "{name}");
        assert_eq!(problems, [(Some("sternpostPeerTlsNames".to_owned()), Effect::FailsClosed)], "{name}");
        // The peer's address does not take the place of names that cannot be read.
        let (tls, problems) = of_peer(&format!("peer_tls = \"verified\"\npeer_tls_names = \"{name}\""));
        assert_eq!((tls.policy, tls.references), (PeerTlsPolicy::Verified, vec![]), "{name}");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
    let (configuration, _) =
        loaded(&with("", "peer_tls = \"verified\"").replace("192.0.2.1:25", "[::ffff:192.0.2.1]:25"));
    let address = PeerReference::Address("192.0.2.1".parse().unwrap());
    assert_eq!(configuration.peers[0].tls.references, [address]);
}

#[test]
fn a_trust_entry_that_is_not_there_vouches_for_nobody() {
    let (tls, problems) = of_peer("peer_tls = \"verified\"\npeer_tls_trust = [\"partner\", \"parnter\"]");
    assert_eq!(tls.trust, named(&["partner"]));
    assert_eq!(problems, [(Some("sternpostPeerTlsTrust".to_owned()), Effect::FailsClosed)]);
    let (tls, problems) = of_peer("peer_tls = \"verified\"\npeer_tls_trust = \"parnter\"");
    assert_eq!((tls.policy, tls.trust), (PeerTlsPolicy::Verified, named(&[])), "and not everybody");
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[1], (Some("sternpostPeerTls".to_owned()), Effect::FailsClosed));
    let (tls, problems) =
        of_listener("tls_client_certificates = \"required\"\ntls_client_trust = \"client\"");
    assert_eq!((tls.client_certificates, tls.client_trust), (ClientCertificates::Required, named(&[])));
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[1], (Some("sternpostTlsClientCertificates".to_owned()), Effect::FailsClosed));
}

#[test]
fn a_verified_peer_without_a_certificate_to_trust_stays_and_its_mail_waits() {
    let peer = "peer_tls = \"verified\"";
    let without_trust = |toml: String| {
        let (head, rest) = toml.split_once("[[trust]]").unwrap();
        format!("{head}[[listener]]{}", rest.split_once("[[listener]]").unwrap().1)
    };
    let entries = tables(&without_trust(with("tls_client_certificates = \"requested\"", peer)));
    let loaded = load(&entries, "");
    let texts: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("so no client's certificate is trusted"), "{texts:?}");
    assert!(texts[1].contains("so no mail goes there: it waits"), "{texts:?}");
    let configuration = loaded.configuration.unwrap();
    assert_eq!(configuration.peers[0].tls.policy, PeerTlsPolicy::Verified);
    assert_eq!(configuration.route("anywhere.example").unwrap().peer, "far", "no other peer gets it");
}

#[test]
fn a_certificate_that_cannot_be_read_vouches_for_nobody_and_the_others_stay() {
    let bad = with("", "peer_tls = \"verified\"").replace("\"MAMwAQE=\"", "\"MAMw\", \"MAMwAQA=\"");
    let (configuration, problems) = loaded(&bad);
    assert_eq!(problems, [(Some("sternpostTrustCertificates".to_owned()), Effect::FailsClosed)]);
    let partner = configuration.trusts.iter().find(|trust| trust.name == "partner").unwrap();
    assert_eq!(partner.certificates, [SMALL[0].1], "each once");
    // None is left: the entry vouches for nobody, and not its last good version either.
    let first = in_force(None, &with("", "peer_tls = \"verified\"\npeer_tls_trust = \"clients\""));
    let toml = with("", "peer_tls = \"verified\"\npeer_tls_trust = \"clients\"").replace("MAMwAQI=", "?");
    let second = in_force(Some(&first), &toml);
    let clients = second.configuration.trusts.iter().find(|trust| trust.name == "clients").unwrap();
    assert_eq!(clients.certificates, Vec::<Vec<u8>>::new());
    assert_eq!(second.problems.len(), 2, "{:?}", second.problems);
}

#[test]
fn a_private_key_in_the_directory_is_reported_and_never_repeated() {
    let key = "\"\"\"-----BEGIN PRIVATE KEY-----\\nU0VDUkVU\\n-----END PRIVATE KEY-----\\n\"\"\"";
    let rows = [
        (with("", "").replace("\"MAMwAQI=\"", key), "value 1 of 1 holds a private key"),
        (with(&format!("tls_credential = {key}"), ""), "a private key cannot be read"),
        (
            with("", &format!("peer_tls = \"verified\"\npeer_tls_names = {key}")),
            "a private key cannot be read",
        ),
        (
            with("", &format!("peer_tls = \"verified\"\npeer_tls_trust = {key}")),
            "no trust entry a private key",
        ),
    ];
    for (toml, wanted) in rows {
        let problems: Vec<String> =
            load(&tables(&toml), "").problems.iter().map(ToString::to_string).collect();
        let text = problems.join("\n");
        assert!(text.contains(wanted), "{text}");
        assert!(!text.contains("U0VDUkVU"), "{text}");
    }
}

#[test]
fn a_trust_entry_holds_a_thousand_certificates_and_no_more() {
    // 30 07 30 05 00 00, and three octets of which base64 makes four digits.
    let certificate =
        |number: u32| format!("-----BEGIN CERTIFICATE-----MAcwBQAA{number:04}-----END CERTIFICATE-----\\n");
    let of = |count: u32| {
        let all: String = (0..count).map(certificate).collect();
        load(&tables(&with("", "").replace("MAMwAQI=", &all)), "")
    };
    let full = of(1_000);
    assert_eq!(full.problems, []);
    let configuration = full.configuration.unwrap();
    assert!(configuration.trusts.iter().any(|trust| trust.certificates.len() == 1_000));
    let beyond = of(1_001);
    let [problem] = &beyond.problems[..] else { panic!("{:?}", beyond.problems) };
    assert!(problem.to_string().contains("has 1001 certificates; 1000 are the most"), "{problem}");
    assert_eq!(problem.effect, Effect::Dropped);
}

#[test]
fn a_kept_listener_is_as_strict_about_tls_as_either_version() {
    use ListenerTlsPolicy::{Immediate, None as Never, Offered, Required};
    // Good version, new one, and what the kept one then has. TLS from the first octet belongs to the port, which is the kept one's.
    let rows = [
        ("none", "none", Never),
        ("none", "offered", Offered),
        ("none", "required", Required),
        ("none", "immediate", Required),
        ("offered", "none", Offered),
        ("offered", "immediate", Required),
        ("required", "offered", Required),
        ("required", "immediate", Required),
        ("immediate", "none", Immediate),
        ("immediate", "required", Immediate),
        ("immediate", "immediate", Immediate),
        ("none", "maybe", Required),
        ("maybe", "none", Required),
        ("immediate", "maybe", Immediate),
    ];
    for (good, new, wanted) in rows {
        let first = in_force(None, &with(&format!("tls = \"{good}\""), ""));
        let second = in_force(Some(&first), &with(&format!("tls = \"{new}\"\nerrors_max = 0"), ""));
        assert_eq!(second.configuration.listeners[0].tls.policy, wanted, "{good} {new}");
    }
    let rows = [
        ("tls_client_certificates = \"required\"", "", ClientCertificates::Required, TlsVersion::Tls12),
        ("", "tls_client_certificates = \"requested\"", ClientCertificates::Requested, TlsVersion::Tls12),
        ("tls_version_min = \"1.3\"", "", ClientCertificates::None, TlsVersion::Tls13),
        ("", "tls_version_min = \"1.3\"", ClientCertificates::None, TlsVersion::Tls13),
        ("", "tls_client_certificates = \"?\"", ClientCertificates::Required, TlsVersion::Tls12),
    ];
    for (good, new, certificates, version) in rows {
        let first = in_force(None, &with(good, ""));
        let second = in_force(Some(&first), &with(&format!("{new}\nerrors_max = 0"), ""));
        let tls = &second.configuration.listeners[0].tls;
        assert_eq!((tls.client_certificates, tls.version_min), (certificates, version), "{good} {new}");
        let must = certificates == ClientCertificates::Required;
        assert_eq!(tls.policy.is_required(), must, "{good} {new}");
    }
}

#[test]
fn a_kept_peer_is_as_strict_about_tls_as_either_version() {
    use PeerTlsPolicy::{Mutual, None as Never, Opportunistic, Required, Verified};
    let rows = [
        ("peer_tls = \"none\"", "peer_tls = \"none\"", Never),
        ("peer_tls = \"none\"", "", Opportunistic),
        ("peer_tls = \"verified\"", "peer_tls = \"none\"", Verified),
        ("", "peer_tls = \"required\"", Required),
        ("peer_tls = \"verified\"", "peer_tls = \"mutual\"", Mutual),
        ("", "peer_tls = \"maybe\"", Verified),
        ("peer_tls = \"maybe\"", "peer_tls = \"none\"", Verified),
        // The new version requires TLS by another word, or may do so.
        ("", "peer_tls_immediate = true", Required),
        ("peer_tls = \"none\"", "peer_tls = \"none\"\npeer_tls_immediate = true", Required),
        ("peer_tls_immediate = true", "", Required),
    ];
    for (good, new, wanted) in rows {
        let first = in_force(None, &with("", good));
        let second = in_force(Some(&first), &with("", &format!("{new}\nassociations_max = 0")));
        assert_eq!(second.configuration.peers[0].tls.policy, wanted, "{good} {new}");
    }
    let first = in_force(None, &with("", ""));
    let mut entries = tables(&with("", ""));
    let peer = entries.iter_mut().find(|entry| entry.uuid == "peer/far").unwrap();
    peer.attributes.insert("sternpostpeertlsimmediate".into(), vec!["yes".into()]);
    let Step::InForce(second) = next(Some(&first), entries, "", Removals::Hold) else {
        panic!("not in force")
    };
    let tls = &second.configuration.peers[0].tls;
    assert_eq!((tls.policy, tls.immediate), (Required, false), "the port is the kept one's");
    assert_eq!(second.problems[0].effect, Effect::KeptLastGood);
}

#[test]
fn a_kept_version_takes_nobodys_word_that_either_version_does_not_take() {
    let address = vec![PeerReference::Address("192.0.2.1".parse().unwrap())];
    // Names and trust of the good version and of the new one; those of the kept one.
    let rows = [
        ("", "", address),
        ("\"a.example\", \"b.example\"", "\"b.example\", \"c.example\"", domains(&["b.example"])),
        ("\"a.example\"", "\"b.example\"", vec![]),
        ("\"a.example\"", "", vec![]),
        ("", "\"a.example\"", vec![]),
        ("\"a.example\"", "\"*\"", vec![]),
    ];
    for (good, new, references) in rows {
        let lines = |names: &str| format!("peer_tls = \"verified\"\npeer_tls_names = [{names}]\n");
        let first = in_force(None, &with("", &lines(good)));
        let bad = with("", &format!("{}associations_max = 0", lines(new)));
        let second = in_force(Some(&first), &bad);
        assert_eq!(second.configuration.peers[0].tls.references, references, "{good} → {new}");
        // It stays so while the entry is wrong, and after a start from the disk.
        assert_eq!(in_force(Some(&second), &bad).configuration, second.configuration, "{good} → {new}");
        let Step::InForce(again) = next(None, second.entries.clone(), "", Removals::Hold) else {
            panic!("not in force")
        };
        assert_eq!(again.configuration, second.configuration, "{good} → {new}");
    }
    let rows = [
        ("", "", TrustScope::All),
        ("\"partner\"", "", named(&["partner"])),
        ("", "\"partner\"", named(&["partner"])),
        ("\"partner\", \"clients\"", "\"clients\"", named(&["clients"])),
        ("\"partner\"", "\"clients\"", named(&[])),
        ("\"partner\"", "\"parnter\"", named(&[])),
    ];
    for (good, new, trust) in rows {
        let listener =
            |names: &str| format!("tls_client_certificates = \"required\"\ntls_client_trust = [{names}]\n");
        let peer = |names: &str| format!("peer_tls = \"verified\"\npeer_tls_trust = [{names}]\n");
        let first = in_force(None, &with(&listener(good), &peer(good)));
        let (listener, peer) = (listener(new) + "errors_max = 0", peer(new) + "associations_max = 0");
        let second = in_force(Some(&first), &with(&listener, &peer)).configuration;
        assert_eq!(second.peers[0].tls.trust, trust, "{good} → {new}");
        assert_eq!(second.listeners[0].tls.client_trust, trust, "{good} → {new}");
    }
    // A kept trust entry has the certificates that stand in both versions.
    let first = in_force(None, &with("", ""));
    let bad = with("", "").replace("[\"MAMwAQA=\", \"MAMwAQE=\"]", "[\"MAMwAQE=\", \"MAMwAQI=\"]");
    let mut entries = tables(&bad);
    let partner = entries.iter_mut().find(|entry| entry.uuid == "trust/partner").unwrap();
    partner.attributes.insert("cn".into(), vec!["not a name".into()]);
    let Step::InForce(second) = next(Some(&first), entries, "", Removals::Hold) else {
        panic!("not in force")
    };
    let partner = second.configuration.trusts.iter().find(|trust| trust.name == "partner").unwrap();
    assert_eq!(partner.certificates, [SMALL[1].1]);
}

#[test]
fn a_credential_is_a_name_and_never_a_path() {
    for name in ["../key", ".key", "a/b", "", "a b", &"a".repeat(65)] {
        let entries = tables(&with(&format!("tls_credential = \"{name}\""), ""));
        let loaded = load(&entries, "");
        assert_eq!(loaded.configuration.unwrap().listeners, [], "{name}");
        assert_eq!(loaded.problems[0].attribute.as_deref(), Some("sternpostTlsCredential"), "{name}");
        let entries = tables(&with("", &format!("peer_tls = \"mutual\"\npeer_tls_credential = \"{name}\"")));
        let loaded = load(&entries, "");
        assert_eq!(loaded.configuration.unwrap().peers, [], "{name}");
        assert_eq!(loaded.problems[0].attribute.as_deref(), Some("sternpostPeerTlsCredential"), "{name}");
    }
}

#[test]
fn each_role_sees_the_certificates_that_count_for_it_and_no_others() {
    let names =
        |trusts: &[Trust]| trusts.iter().map(|trust| trust.name.clone()).collect::<Vec<_>>().join(" ");
    let rows = [
        ("", "", "", ""),
        ("tls_client_certificates = \"requested\"", "", "clients partner", ""),
        ("tls_client_certificates = \"required\"\ntls_client_trust = \"clients\"", "", "clients", ""),
        ("tls_client_trust = \"clients\"", "peer_tls = \"required\"\npeer_tls_trust = \"partner\"", "", ""),
        ("", "peer_tls = \"verified\"\npeer_tls_trust = \"partner\"", "", "partner"),
        ("", "peer_tls = \"mutual\"", "", "clients partner"),
    ];
    for (listener, peer, server, channel) in rows {
        let (configuration, _) = loaded(&with(listener, peer));
        let view = SmtpServerView::new(&configuration, |_: &Listener| (9, 2));
        assert_eq!(names(&view.trusts), server, "{listener}");
        let view = ChannelView::new(&configuration, "smtp").unwrap();
        assert_eq!(names(&view.trusts), channel, "{peer}");
        assert_eq!(names(&ChannelView::new(&configuration, "housekeeper").unwrap().trusts), "");
        let octets = postcard::to_stdvec(&view).unwrap();
        assert_eq!(postcard::from_bytes::<ChannelView>(&octets).unwrap(), view);
    }
}

#[test]
fn certificates_that_are_gone_are_held_like_other_entries() {
    let first = in_force(None, &with("", ""));
    let entries: Vec<Entry> =
        tables(&with("", "")).into_iter().filter(|entry| !entry.uuid.starts_with("trust/")).collect();
    let held = next(Some(&first), entries, "", Removals::Hold);
    assert!(matches!(&held, Step::Held { would_remove, .. } if would_remove.len() == 2), "{held:?}");
}

#[test]
fn the_example_of_a_verified_peer_fits_the_example_tree() {
    let partner = include_str!("../../../provisioning/example/partner.ldif");
    let mut entries = tables(&with("", ""));
    // Lines that begin with a blank go on with the line before. RFC 2849, note 2.
    for record in partner.replace("\n ", "").split("\n\n") {
        let mut entry = Entry::default();
        for line in record.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(": ").expect("an attribute and its value");
            if name == "dn" {
                (entry.uuid, entry.dn) = (value.to_owned(), value.to_owned());
            } else {
                entry.attributes.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
            }
        }
        if entry.class().is_some() {
            entries.push(entry);
        }
    }
    let loaded = load(&entries, "");
    assert_eq!(loaded.problems, []);
    let configuration = loaded.configuration.unwrap();
    let peer: &Peer = configuration.peer("partner").unwrap();
    assert_eq!(peer.tls.policy, PeerTlsPolicy::Verified);
    assert_eq!(peer.tls.references, domains(&["mx1.partner.example", "mx2.partner.example"]));
    let certificates: Vec<_> = peer.tls.trust.certificates(&configuration.trusts).collect();
    assert_eq!(certificates.len(), 1);
    assert_eq!(configuration.route("partner.example").unwrap().peer, "partner");
}
