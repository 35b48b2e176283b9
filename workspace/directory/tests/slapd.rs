//! The watch with a real slapd. Each test has a server of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use sternpost_config::{DomainPattern, Entry, ExampleParameters, Removals, Step, example_tree, next};
use sternpost_directory::testing::{BASE_DN, Options, Slapd, watch_pretending};
use sternpost_directory::{Bootstrap, DirectoryStatus, Handover, watch};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);
const PEER: &str = "cn=store,ou=shared,ou=sternpost,dc=lab";

fn tree() -> String {
    let pattern = |text: &str| text.parse::<DomainPattern>().expect("the domain of a test is one");
    let address = |text: &str| text.parse().expect("the address of a test is one");
    let parameters = ExampleParameters {
        node: "switch-1".into(),
        hostname: "relay.lab".into(),
        listener: address("127.0.0.1:2525"),
        smtp_peer: address("127.0.0.1:2526"),
        lmtp_peer: address("127.0.0.1:2527"),
        smtp_domains: vec![pattern("out.example"), pattern(".out.example")],
        lmtp_domains: vec![pattern("store.example"), pattern("пример.рф")],
    };
    example_tree(BASE_DN, &parameters)
}

/// A watch and what it has said.
struct Watched {
    task: JoinHandle<()>,
    handovers: Receiver<Handover>,
    statuses: Vec<DirectoryStatus>,
    entries: Vec<Entry>,
}

impl Watched {
    fn new(bootstrap: Bootstrap) -> Self {
        Self::of(|handover| watch(bootstrap, handover))
    }

    fn of<F: Future<Output = ()> + Send + 'static>(
        start: impl FnOnce(tokio::sync::mpsc::Sender<Handover>) -> F,
    ) -> Self {
        let (sender, handovers) = channel(16);
        Self { task: tokio::spawn(start(sender)), handovers, statuses: Vec::new(), entries: Vec::new() }
    }

    async fn one(&mut self) -> Handover {
        let handover = tokio::time::timeout(PATIENCE, self.handovers.recv()).await;
        let handover = handover
            .unwrap_or_else(|_| panic!("nothing came; {:?} {:?}", self.statuses, self.entries))
            .expect("the watch goes on");
        match &handover {
            Handover::Entries(entries) => self.entries.clone_from(entries),
            Handover::Status(status) => self.statuses.push(status.clone()),
        }
        handover
    }

    /// Waits for a set that fits.
    async fn entries(&mut self, fits: impl Fn(&[Entry]) -> bool) {
        loop {
            if matches!(self.one().await, Handover::Entries(_)) && fits(&self.entries) {
                return;
            }
        }
    }

    /// Waits for a status that fits.
    async fn status(&mut self, fits: impl Fn(&DirectoryStatus) -> bool) -> DirectoryStatus {
        loop {
            if let Handover::Status(status) = self.one().await
                && fits(&status)
            {
                return status;
            }
        }
    }

    async fn down(&mut self, words: &str) {
        let status = self.status(|status| !status.connected).await;
        assert!(status.text.contains(words), "{}", status.text);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn has(entries: &[Entry], dn: &str) -> bool {
    entries.iter().any(|entry| entry.dn == dn)
}

fn peer(name: &str) -> String {
    format!(
        "dn: cn={name},ou=shared,ou=sternpost,dc=lab\nobjectClass: sternpostPeer\ncn: {name}\n\
         sternpostChannel: smtp\nsternpostAddress: 192.0.2.7:25\n"
    )
}

fn peer_dn(name: &str) -> String {
    format!("cn={name},ou=shared,ou=sternpost,dc=lab")
}

#[test]
fn an_older_schema_is_brought_up_to_date_under_the_entries_that_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let schema = "cn={1}sternpost,cn=schema,cn=config";
    let update = sternpost_config::schema_update_ldif(schema);
    // The server forgets the newest class, as if it had never known it, and gets it with the update.
    let class = update.rfind("olcObjectClasses: ").expect("there are classes");
    slapd.reconfigure(&update[..class]);
    slapd.reconfigure(&update);
    slapd.add_ldif(
        "dn: cn=exercise,ou=shared,ou=sternpost,dc=lab\nobjectClass: sternpostMinimise\ncn: exercise\n\
         sternpostLowestPrecedence: flash\nsternpostMinimiseUntil: 20261123180000Z\n",
    );
    slapd.modify_ldif(&format!(
        "dn: {PEER}\nchangetype: modify\nreplace: description\ndescription: as before\n"
    ));
}

#[tokio::test]
async fn the_schema_and_the_example_tree_load_and_make_a_configuration_without_problems() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| entries.len() == 9).await;
    let step = next(None, watched.entries.clone(), "switch-1", Removals::Hold);
    let Step::InForce(generation) = step else { panic!("{step:?}") };
    assert_eq!(generation.problems, []);
    assert_eq!(generation.configuration.route("a.out.example").unwrap().peer, "next-hop");
    assert_eq!(generation.configuration.route("пример.рф").unwrap().peer, "store");
    assert!(watched.statuses.iter().any(|status| status.connected));
}

#[tokio::test]
async fn a_trust_entry_is_the_same_from_a_file_of_pem_and_from_folded_base64() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    let partner = include_str!("../../../provisioning/example/partner.ldif").replace("dc=example", BASE_DN);
    slapd.add_ldif(&tree());
    slapd.add_ldif(&partner);
    let value = partner.split_once("sternpostTrustCertificates: ").expect("the example has a certificate").1;
    let base64 = value.split("\n\n").next().expect("a text has a first part").replace("\n ", "\n");
    let file = dir.path().join("ca.pem");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    std::fs::write(&file, pem.repeat(2)).unwrap();
    slapd.add_ldif(&format!(
        "dn: cn=from-file,ou=shared,ou=sternpost,{BASE_DN}\nobjectClass: sternpostTrust\ncn: from-file\n\
         sternpostTrustCertificates:< file://{}\n",
        file.display()
    ));
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| entries.len() == 13).await;
    let step = next(None, watched.entries.clone(), "switch-1", Removals::Hold);
    let Step::InForce(generation) = step else { panic!("{step:?}") };
    assert_eq!(generation.problems, []);
    let [from_file, partner] = &generation.configuration.trusts[..] else {
        panic!("{:?}", generation.configuration.trusts)
    };
    assert_eq!((from_file.name.as_str(), partner.name.as_str()), ("from-file", "partner-ca"));
    assert_eq!(from_file.certificates, partner.certificates);
    assert_eq!(partner.certificates.len(), 1);
}

#[tokio::test]
async fn add_modify_delete_and_modrdn_are_seen_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, PEER)).await;
    let uuid = |entries: &[Entry], dn: &str| {
        entries
            .iter()
            .find(|entry| entry.dn == dn)
            .map(|entry| entry.uuid.clone())
            .expect("the entry is there")
    };
    let store = uuid(&watched.entries, PEER);
    let mut slowest = Duration::ZERO;

    let began = Instant::now();
    slapd.add_ldif(&peer("new"));
    watched.entries(|entries| has(entries, &peer_dn("new"))).await;
    slowest = slowest.max(began.elapsed());

    let began = Instant::now();
    slapd.modify_ldif(&format!(
        "dn: {PEER}\nchangetype: modify\nreplace: sternpostAddress\nsternpostAddress: 192.0.2.99:24\n"
    ));
    let is_changed = |entry: &Entry| entry.values("sternpostAddress") == ["192.0.2.99:24"];
    watched.entries(|entries| entries.iter().any(is_changed)).await;
    slowest = slowest.max(began.elapsed());

    let began = Instant::now();
    slapd.modify_ldif(&format!("dn: {PEER}\nchangetype: modrdn\nnewrdn: cn=shop\ndeleteoldrdn: 1\n"));
    watched.entries(|entries| has(entries, &peer_dn("shop")) && !has(entries, PEER)).await;
    slowest = slowest.max(began.elapsed());
    assert_eq!(uuid(&watched.entries, &peer_dn("shop")), store, "the entry is the same by its entryUUID");

    let began = Instant::now();
    slapd.modify_ldif(&format!("dn: {}\nchangetype: delete\n", peer_dn("new")));
    watched.entries(|entries| !has(entries, &peer_dn("new"))).await;
    slowest = slowest.max(began.elapsed());
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn a_change_in_steps_is_handed_over_at_rest_and_not_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| entries.len() == 9).await;
    // One ldapmodify, ten operations: all of them or none.
    let ldif: Vec<String> = (0..10).map(|n| peer(&format!("p{n}"))).collect();
    slapd.add_ldif(&ldif.join("\n"));
    watched.entries(|entries| entries.len() > 9).await;
    assert_eq!(watched.entries.len(), 19);
}

#[tokio::test]
async fn values_that_are_no_utf8_arrive_with_a_mark_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    // userPassword takes any octets; /zs= is FF 3B.
    let dn = "cn=odd,dc=lab";
    slapd.add_ldif(&format!(
        "dn: {dn}\nobjectClass: sternpostPeer\nobjectClass: extensibleObject\ncn: odd\nsternpostChannel: smtp\n\
         sternpostAddress: 192.0.2.7:25\nuserPassword:: /zs=\n"
    ));
    watched.entries(|entries| has(entries, dn)).await;
    let entry = watched.entries.iter().find(|entry| entry.dn == dn).unwrap();
    assert_eq!(entry.values("userPassword"), ["\u{FFFD};"]);
}

#[tokio::test]
async fn ldaps_with_a_trust_anchor_and_a_password_works() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), true);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, PEER)).await;
}

#[tokio::test]
async fn start_tls_with_a_password_works() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), true);
    slapd.add_ldif(&tree());
    let bootstrap = Bootstrap { uris: vec![slapd.uri()], start_tls: true, ..slapd.bootstrap("switch-1") };
    let mut watched = Watched::new(bootstrap);
    watched.entries(|entries| has(entries, PEER)).await;
}

#[tokio::test]
async fn sasl_external_works_by_ldaps_and_by_start_tls() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), true);
    slapd.add_ldif(&tree());
    let by_ldaps = Bootstrap { bind: slapd.external(), ..slapd.bootstrap("switch-1") };
    let by_start_tls = Bootstrap { uris: vec![slapd.uri()], start_tls: true, ..by_ldaps.clone() };
    for bootstrap in [by_ldaps, by_start_tls] {
        let mut watched = Watched::new(bootstrap);
        watched.entries(|entries| has(entries, PEER)).await;
    }
}

#[tokio::test]
async fn a_server_that_another_ca_vouches_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), true);
    let bootstrap = Bootstrap { trust_anchor: Some(dir.path().join("other-ca.pem")), ..slapd.bootstrap("x") };
    Watched::new(bootstrap.clone()).down("certificate is not vouched for by trust_anchor").await;
    let by_start_tls = Bootstrap { uris: vec![slapd.uri()], start_tls: true, ..bootstrap };
    Watched::new(by_start_tls).down("certificate is not vouched for by trust_anchor").await;
}

#[tokio::test]
async fn every_server_that_is_down_is_named_whichever_failed_last() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    let good = slapd.bootstrap("x");
    let uris = ["ldap://127.0.0.1:1", "ldap://127.0.0.1:2"].map(str::to_owned).to_vec();
    let mut watched = Watched::new(Bootstrap { uris, ..good });
    let both = watched.status(|status| status.text.contains("; ldap://127.0.0.1:2: ")).await;
    assert_eq!((both.connected, both.uri.as_str()), (false, "ldap://127.0.0.1:1"));
    // The next round says nothing new.
    let next = tokio::time::timeout(Duration::from_secs(2), watched.one()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn a_bootstrap_that_would_show_the_password_or_trust_anybody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    let good = slapd.bootstrap("x");
    let rows = [
        (Bootstrap { allow_plaintext: false, ..good.clone() }, "has no TLS"),
        (Bootstrap { start_tls: true, ..good.clone() }, "trust_anchor"),
        (Bootstrap { bind: slapd.external(), ..good.clone() }, "needs TLS"),
        (Bootstrap { uris: vec!["http://127.0.0.1".into()], ..good.clone() }, "is not ldaps"),
        (Bootstrap { uris: Vec::new(), ..good.clone() }, "names no server"),
    ];
    for (bootstrap, words) in rows {
        Watched::new(bootstrap).down(words).await;
    }
    std::fs::write(slapd.password_file(), "\n").unwrap();
    Watched::new(good.clone()).down("is empty").await;
    std::fs::write(slapd.password_file(), "wrong\n").unwrap();
    Watched::new(good).down("result 49").await;
}

#[tokio::test]
async fn after_a_restart_of_the_server_what_it_no_longer_has_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    slapd.add_ldif(&peer("gone"));
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, &peer_dn("gone"))).await;
    let known = watched.entries.len();
    // The server loses its session log, which it has in memory: it can only say what is still there (a present phase).
    slapd.unseen(|slapd| slapd.modify_ldif(&format!("dn: {}\nchangetype: delete\n", peer_dn("gone"))));
    watched.entries(|entries| !has(entries, &peer_dn("gone"))).await;
    assert_eq!(watched.entries.len(), known - 1);
}

#[tokio::test]
async fn a_directory_restored_from_a_backup_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    slapd.stop();
    slapd.back_up();
    slapd.restart();
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, PEER)).await;
    slapd.add_ldif(&peer("later"));
    watched.entries(|entries| has(entries, &peer_dn("later"))).await;
    // The cookie is now from the future of what comes back: result 53.
    slapd.stop();
    slapd.restore();
    slapd.restart();
    watched.entries(|entries| !has(entries, &peer_dn("later"))).await;
    assert!(has(&watched.entries, PEER));
    // And changes arrive again.
    slapd.add_ldif(&peer("after"));
    watched.entries(|entries| has(entries, &peer_dn("after"))).await;
}

#[tokio::test]
async fn a_corrupt_cookie_leaves_no_ghosts() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    for cookie in [
        &b"corrupt"[..],
        b"rid=000,csn=corrupt",
        b"csn=20000101000000.000000Z#000000#000#000000",
        b"\xff\x00",
    ] {
        let ghost = Entry { uuid: "ghost".into(), dn: "cn=ghost,dc=lab".into(), ..Entry::default() };
        let bootstrap = slapd.bootstrap("switch-1");
        let mut watched =
            Watched::of(|handover| watch_pretending(bootstrap, vec![ghost], cookie.to_vec(), handover));
        watched.entries(|entries| has(entries, PEER)).await;
        assert!(!has(&watched.entries, "cn=ghost,dc=lab"), "{}", String::from_utf8_lossy(cookie));
        slapd.add_ldif(&peer("after"));
        watched.entries(|entries| has(entries, &peer_dn("after"))).await;
        slapd.modify_ldif(&format!("dn: {}\nchangetype: delete\n", peer_dn("after")));
        watched.entries(|entries| !has(entries, &peer_dn("after"))).await;
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, PEER)).await;
    slapd.pause();
    watched.down("sign of life took too long").await;
    slapd.resume();
    watched.status(|status| status.connected).await;
    slapd.add_ldif(&peer("after"));
    watched.entries(|entries| has(entries, &peer_dn("after"))).await;
}

#[tokio::test]
async fn replies_that_are_no_ldap_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let hostile: [&'static [u8]; 5] = [
        &[0x30, 0x00],
        &[0x30, 0x03, 0x02, 0x01, 0x01],
        &[0x30, 0x05, 0x02, 0x01, 0x01, 0x42, 0x00],
        &[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff],
        b"SSH-2.0-nothing here speaks LDAP\r\n",
    ];
    for reply in hostile {
        // Says its piece to whoever asks something, for as long as the test listens.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("ldap://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(reply);
            }
        });
        let good = slapd.bootstrap("switch-1");
        let bootstrap = Bootstrap { uris: vec![uri.clone(), slapd.uri()], ..good };
        let mut watched = Watched::new(bootstrap);
        let status = watched.status(|status| !status.connected).await;
        assert_eq!(status.uri, uri);
        // The next server is tried, and works.
        watched.entries(|entries| has(entries, PEER)).await;
    }
}

/// One value of BER, of at most 65,535 octets.
fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let [high, low] = u16::try_from(body.len()).expect("the value is short").to_be_bytes();
    let length = if body.len() < 128 { vec![low] } else { vec![0x82, high, low] };
    [&[tag], &length[..], &body].concat()
}

/// An entry with its state (RFC 4533, 2.2), in answer to the third request.
fn synced_entry(number: u16, value: &[u8]) -> Vec<u8> {
    let uuid = [[0; 14].as_slice(), &number.to_be_bytes()].concat();
    let description = ber(0x30, &[&ber(4, &[b"description"]), &ber(0x31, &[&ber(4, &[value])])]);
    let entry = ber(0x64, &[&ber(4, &[b"cn=x,dc=lab"]), &ber(0x30, &[&description])]);
    let state = ber(0x30, &[&[10, 1, 1], &ber(4, &[&uuid])]);
    let control = ber(0x30, &[&ber(4, &[b"1.3.6.1.4.1.4203.1.9.1.2"]), &ber(4, &[&state])]);
    ber(0x30, &[&[2, 1, 3], &entry, &ber(0xa0, &[&control])])
}

/// A server that accepts any bind, says whether it has RFC 4533, and answers the third request as it likes.
fn hostile_after_the_bind(
    syncs: bool,
    answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static,
) -> String {
    let success = |id: u8, tag: u8| ber(0x30, &[&[2, 1, id], &[tag, 7, 10, 1, 0, 4, 0, 4, 0]]);
    let oid: &[u8] = if syncs { b"1.3.6.1.4.1.4203.1.9.1.1" } else { b"1.3.6.1.4.1.1466.20037" };
    let attribute = ber(0x30, &[&ber(4, &[b"supportedControl"]), &ber(0x31, &[&ber(4, &[oid])])]);
    let root = ber(0x30, &[&[2, 1, 2], &ber(0x64, &[&[4, 0], &ber(0x30, &[&attribute])])]);
    let replies = [success(1, 0x61), [root, success(2, 0x65)].concat()];
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let uri = format!("ldap://{}", listener.local_addr().expect("a listener has an address"));
    let dialogue = move |stream: &mut TcpStream| {
        for reply in &replies {
            if stream.read(&mut [0; 1024])? == 0 {
                return Ok(());
            }
            stream.write_all(reply)?;
        }
        if stream.read(&mut [0; 1024])? > 0 {
            answer(stream)?;
        }
        // Open until the client has had enough.
        stream.read(&mut [0; 1024]).map(drop)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().take(3) {
            let Ok(mut stream) = stream else { return };
            // The client may leave at any point: that is what the tests wait for.
            let _ = dialogue(&mut stream);
        }
    });
    uri
}

#[tokio::test]
async fn a_server_that_turns_hostile_after_the_bind_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let hostile: [&'static [u8]; 4] = [
        // A sync info message without content, an entry without content, an entry without its state, and a search
        // that answers with a bind.
        &[0x30, 5, 2, 1, 3, 0x79, 0],
        &[0x30, 5, 2, 1, 3, 0x64, 0],
        &[0x30, 9, 2, 1, 3, 0x64, 4, 4, 0, 0x30, 0],
        &[0x30, 12, 2, 1, 3, 0x61, 7, 10, 1, 0, 4, 0, 4, 0],
    ];
    for answer in hostile {
        let uri = hostile_after_the_bind(true, move |stream| stream.write_all(answer));
        let mut watched =
            Watched::new(Bootstrap { uris: vec![uri.clone(), slapd.uri()], ..slapd.bootstrap("x") });
        let status = watched.status(|status| !status.connected).await;
        assert_eq!(status.uri, uri);
        assert!(status.text.contains("does not follow the protocol"), "{answer:x?}: {}", status.text);
        watched.entries(|entries| has(entries, PEER)).await;
    }
}

#[tokio::test]
async fn reading_that_never_ends_is_given_up_at_its_deadline_and_the_next_server_tried() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    for (syncs, words) in [(true, "the refresh took too long"), (false, "the search took too long")] {
        let uri = hostile_after_the_bind(syncs, |stream| {
            loop {
                // A continuation, and the next one long before the deadline.
                stream.write_all(&[0x30, 8, 2, 1, 3, 0x73, 3, 4, 1, b'x'])?;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut bootstrap = Bootstrap { uris: vec![uri, slapd.uri()], ..slapd.bootstrap("x") };
        bootstrap.timings.refresh_timeout_ms = 1_000;
        bootstrap.timings.whoami_interval_ms = 60_000;
        let mut watched = Watched::new(bootstrap);
        watched.down(words).await;
        watched.entries(|entries| has(entries, PEER)).await;
    }
}

#[tokio::test]
async fn more_entries_than_a_configuration_can_be_are_given_up_and_the_next_server_tried() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    for syncs in [true, false] {
        let uri = hostile_after_the_bind(syncs, |stream| {
            let value = vec![b'x'; 60_000];
            (0..=u16::MAX).try_for_each(|number| stream.write_all(&synced_entry(number, &value)))
        });
        let mut bootstrap = Bootstrap { uris: vec![uri, slapd.uri()], ..slapd.bootstrap("x") };
        bootstrap.timings.whoami_interval_ms = 60_000;
        let mut watched = Watched::new(bootstrap);
        watched.down("its entries are more than 100000 or take more than 64 MiB").await;
        watched.entries(|entries| has(entries, PEER)).await;
    }
}

#[tokio::test]
async fn five_thousand_entries_come_in_one_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    slapd.stop();
    let ldif: Vec<String> = (0..5_000).map(|n| peer(&format!("p{n}"))).collect();
    slapd.add_ldif(&ldif.join("\n"));
    slapd.restart();
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|_| true).await;
    assert_eq!(watched.entries.len(), 5_009);
}

#[tokio::test]
async fn tables_become_a_directory_that_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    let tables = "[node]\nname = \"switch-1\"\nhostname = \"relay.lab\"\n\
        [[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:0\", \"[::1]:0\"]\nclient_networks = [\"10.0.0.0/8\"]\n\
        [[channel]]\nname = \"smtp\"\nkind = \"smtp\"\n\
        [[peer]]\nname = \"smtp\"\nchannel = \"smtp\"\naddress = \"127.0.0.1:25\"\n\
        [[route]]\ndomain = [\"пример.рф\", \"*\"]\npeer = \"smtp\"\nclient_networks_only = true\n\
        [qmgr]\nretry_step_s = 7\n";
    let entries = sternpost_config::entries_from_tables(tables).unwrap();
    slapd.add_ldif(&sternpost_config::entries_to_ldif(&entries, "", BASE_DN));
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|found| found.len() == entries.len()).await;
    let by_tables = sternpost_config::load(&entries, "");
    let by_directory = sternpost_config::load(&watched.entries, "switch-1");
    assert_eq!((by_tables.problems, by_directory.problems), (vec![], vec![]));
    assert_eq!(by_directory.configuration, by_tables.configuration);
    assert!(by_tables.configuration.is_some());
}

#[tokio::test]
async fn a_server_without_rfc_4533_is_polled() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start_with(dir.path(), Options { tls: false, syncprov: false });
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.status(|status| status.connected && status.text.contains("every 200 ms")).await;
    watched.entries(|entries| has(entries, PEER)).await;
    let began = Instant::now();
    slapd.modify_ldif(&format!("dn: {PEER}\nchangetype: modrdn\nnewrdn: cn=shop\ndeleteoldrdn: 1\n"));
    watched.entries(|entries| has(entries, &peer_dn("shop")) && !has(entries, PEER)).await;
    slapd.modify_ldif(&format!("dn: {}\nchangetype: delete\n", peer_dn("shop")));
    watched.entries(|entries| !has(entries, &peer_dn("shop"))).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn changes_arrive_after_each_of_twenty_deaths_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut slapd = Slapd::start(dir.path(), false);
    slapd.add_ldif(&tree());
    let mut watched = Watched::new(slapd.bootstrap("switch-1"));
    watched.entries(|entries| has(entries, PEER)).await;
    for round in 0..20 {
        slapd.kill();
        slapd.restart();
        slapd.modify_ldif(&format!(
            "dn: {PEER}\nchangetype: modify\nreplace: sternpostAddress\nsternpostAddress: 192.0.2.1:{}\n",
            round + 1
        ));
        let address = format!("192.0.2.1:{}", round + 1);
        watched
            .entries(|entries| {
                entries.iter().any(|entry| entry.values("sternpostAddress") == [address.as_str()])
            })
            .await;
        assert_eq!(watched.entries.len(), 9, "never a part of the set");
    }
}

#[tokio::test]
async fn a_watch_ends_when_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let slapd = Slapd::start(dir.path(), false);
    for uri in [slapd.uri(), "ldap://127.0.0.1:1".into()] {
        let bootstrap = Bootstrap { uris: vec![uri], ..slapd.bootstrap("switch-1") };
        let (sender, receiver) = channel(1);
        let task = tokio::spawn(watch(bootstrap, sender));
        drop(receiver);
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
    }
}
