//! Who may authenticate, and what a listener asks: what is read, what is wrong, and that no secret is ever repeated.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use sternpost_config::{
    AuthenticationPolicy, ChannelView, Configuration, Effect, HousekeeperView, InForce, Loaded, Mechanism,
    Removals, SmtpServerView, Step, entries_from_tables, load, next,
};
use sternpost_message::Mailbox;

const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

/// A site whose listener and users have these lines.
fn site(listener: &str, users: &str) -> String {
    format!(
        "[node]\nhostname = \"relay.example\"\n[[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:0\"]\n{listener}\n\
         [[channel]]\nname = \"smtp\"\nkind = \"smtp\"\n{users}\n"
    )
}

fn loaded(tables: &str) -> Loaded {
    load(&entries_from_tables(tables).unwrap(), "")
}

fn good(tables: &str) -> Configuration {
    let loaded = loaded(tables);
    assert_eq!(loaded.problems, [], "{tables}");
    loaded.configuration.unwrap()
}

fn alice(lines: &str) -> String {
    format!("[[user]]\nname = \"alice\"\nuser_verifiers = [\"{VERIFIER}\"]\n{lines}\n")
}

#[test]
fn a_user_has_a_name_verifiers_certificates_and_senders() {
    let lines = "user_name = \"Alice@Example.org\"\nuser_certificates = [\"email:alice@example.org\"]\n\
                 user_senders = [\"alice@example.org\", \"@lists.example.org\"]";
    let user = good(&site("auth = \"offered\"", &alice(lines))).users.remove(0);
    assert_eq!((user.name.as_str(), user.user_name.as_str()), ("alice", "alice@example.org"));
    assert_eq!((user.verifiers.len(), user.certificates.len()), (1, 1));
    let may = |sender: &str| user.senders.iter().any(|own| own.holds(&Mailbox::parse(sender).unwrap()));
    assert!(may("alice@example.org") && may("x@lists.example.org") && !may("bob@example.org"));
}

#[test]
fn a_listener_authenticates_nobody_unless_it_is_told_to_and_all_where_users_submit() {
    let listener = |lines: &str| good(&site(lines, "")).listeners.remove(0).authentication;
    let plain = listener("");
    assert_eq!((plain.policy, plain.is_submission), (AuthenticationPolicy::None, false));
    assert!(!plain.mechanisms.contains(&Mechanism::Anonymous) && plain.mechanisms.len() == 5);
    let submission =
        listener("submission = true\nauth_mechanisms = [\"plain\", \"scram-sha-256\", \"plain\"]");
    assert_eq!((submission.policy, submission.is_submission), (AuthenticationPolicy::Required, true));
    assert_eq!(submission.mechanisms, [Mechanism::ScramSha256, Mechanism::Plain]);
}

#[test]
fn what_restricts_and_cannot_be_read_restricts() {
    let rows = [
        ("auth = \"off\"", AuthenticationPolicy::Required, 5, "so required holds"),
        (
            "auth = \"none\"\nsubmission = true",
            AuthenticationPolicy::Required,
            5,
            "nobody submits without being known",
        ),
        (
            "auth = \"required\"\nauth_mechanisms = [\"cram-md5\"]",
            AuthenticationPolicy::Required,
            0,
            "cannot be read",
        ),
        (
            "auth = \"required\"\ntls = \"none\"\nauth_mechanisms = [\"plain\"]",
            AuthenticationPolicy::Required,
            1,
            "nobody can authenticate",
        ),
        (
            "auth = \"offered\"\nauth_mechanisms = [\"external\", \"plain\"]",
            AuthenticationPolicy::Offered,
            2,
            "external is not offered",
        ),
        (
            "auth_mechanisms = [\"plain\"]",
            AuthenticationPolicy::None,
            1,
            "no client of this listener authenticates",
        ),
    ];
    for (lines, policy, mechanisms, why) in rows {
        let loaded = loaded(&site(lines, ""));
        let authentication = loaded.configuration.unwrap().listeners.remove(0).authentication;
        assert_eq!((authentication.policy, authentication.mechanisms.len()), (policy, mechanisms), "{lines}");
        let said: String = loaded.problems.iter().map(ToString::to_string).collect();
        assert!(said.contains(why), "{lines}: {said}");
    }
}

#[test]
fn a_user_that_cannot_be_told_from_another_is_left_out_and_one_without_secrets_is_said() {
    let two = alice("")
        + "[[user]]\nname = \"other\"\nuser_name = \"ALICE\"\nuser_certificates = [\"dns:x.example\"]\n";
    let loaded_two = loaded(&site("", &two));
    assert_eq!(loaded_two.configuration.unwrap().users.len(), 1);
    assert_eq!(loaded_two.problems[0].effect, Effect::Dropped);
    let nobody = loaded(&site("", "[[user]]\nname = \"nobody\"\n"));
    assert!(
        nobody.problems[0].to_string().contains("nobody can authenticate as it"),
        "{:?}",
        nobody.problems
    );
}

#[test]
fn no_problem_repeats_a_password_or_a_verifier_wherever_it_was_pasted() {
    let secrets =
        ["correct-horse-battery", &VERIFIER.replace("4096", "1"), &format!("{VERIFIER}$"), VERIFIER];
    for secret in secrets {
        let wrong = format!("[[user]]\nname = \"a\"\nuser_verifiers = [\"{secret}\", \"{secret}\"]\n");
        let loaded = loaded(&site("", &wrong));
        assert!(!loaded.problems.is_empty());
        for problem in &loaded.problems {
            let said = problem.to_string();
            assert!(!said.contains("horse") && !said.contains("WG5d") && !said.contains("W22Z"), "{said}");
        }
    }
    for key in ["user_senders", "user_certificates"] {
        let wrong = format!("[[user]]\nname = \"a\"\n{key} = [\"{VERIFIER}\"]\n");
        let said: String = loaded(&site("", &wrong)).problems.iter().map(ToString::to_string).collect();
        assert!(said.contains("a verifier of a password cannot be read") && !said.contains("WG5d"), "{said}");
    }
}

#[test]
fn who_looks_at_the_configuration_sees_no_verifier() {
    let configuration = good(&site("auth = \"offered\"", &alice("")));
    let shown = toml::to_string(&configuration).unwrap();
    assert!(shown.contains("SCRAM-SHA-256, not shown") && !shown.contains("WG5d"), "{shown}");
    assert!(!format!("{configuration:?}").contains("WG5d"));
}

#[test]
fn users_go_to_the_server_that_asks_for_them_and_to_no_other_role() {
    for (lines, users) in [("", 0), ("auth = \"offered\"", 1), ("submission = true", 1)] {
        let configuration = good(&site(lines, &alice("")));
        let view = SmtpServerView::new(&configuration, |_| (9, 2));
        assert_eq!(view.users.len(), users, "{lines}");
        let octets = postcard::to_stdvec(&view).unwrap();
        assert_eq!(postcard::from_bytes::<SmtpServerView>(&octets).unwrap(), view);
        let holds = |octets: &[u8]| octets.windows(4).any(|window| window == b"WG5d");
        assert_eq!(holds(&octets), users > 0);
        let channel = postcard::to_stdvec(&ChannelView::new(&configuration, "smtp").unwrap()).unwrap();
        let housekeeper = postcard::to_stdvec(&HousekeeperView::new(&configuration).unwrap()).unwrap();
        assert!(!holds(&channel) && !holds(&housekeeper));
    }
}

fn in_force(previous: Option<&InForce>, tables: &str) -> InForce {
    match next(previous, entries_from_tables(tables).unwrap(), "", Removals::Hold) {
        Step::InForce(generation) => *generation,
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_kept_user_has_no_verifier_and_no_sender_that_the_new_version_has_not() {
    let first = in_force(None, &site("", &alice("user_senders = [\"a@x.example\", \"b@x.example\"]")));
    // The name is wrong, the password was taken away, and one sender.
    let wrong = "[[user]]\nname = \"alice\"\nuser_name = \"a b\"\nuser_senders = [\"a@x.example\"]\n";
    let second = in_force(Some(&first), &site("", wrong));
    let user = &second.configuration.users[0];
    assert_eq!((user.verifiers.len(), user.senders.len()), (0, 1));
}
