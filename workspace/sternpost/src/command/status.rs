//! `sternpost status`: what runs, where it listens, and how QMGR, the store and the credentials are.

use super::{CommandResult, credentials, exit_code};
use crate::ask::{self, AskError, Which};
use crate::output;
use serde_json::{Value, json};
use std::time::Duration;
use sternpost_link::Role;
use sternpost_link::qmgr::Question;
use sternpost_link::store::StoreStatus;
use sternpost_link::supervisor::{FailedListener, Failing, ListeningSocket, Running};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A role that does not stay has said why to the supervisor, and answers at once or not at all.
const FAILING_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Which switch, and how it is printed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost status\n  sternpost status --run-directory /run/sternpost --json\n\nExit status: 0 all is well, 1 a part does not answer, an entry is wrong, no configuration is in force, a listener does not\nlisten, a role does not stay, a credential cannot be used or ends within 14 days, a change is held or cannot be used, the log or its share of partial messages is full, a message\nis isolated, or the log was damaged when it was opened."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the three and prints.
///
/// # Errors
/// When the supervisor does not answer. A QMGR or store that does not is shown as such.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let status = ask::on_loop(look(&arguments.which, ask::ANSWER_MAX))?;
    if arguments.json {
        output::print_json(&status);
    } else {
        output::print(&text(&status));
    }
    Ok(exit_code(is_well(&status)))
}

/// What runs, where it listens, and how QMGR and the store are. A QMGR or store that does not answer in this time has an
/// `error`.
///
/// # Errors
/// When the supervisor does not answer.
pub(crate) async fn look(which: &Which, answer_max: Duration) -> Result<Value, AskError> {
    let running = ask::supervisor(which).await?;
    let patience = |role| {
        let does_not_stay = running.failing.iter().any(|failing| failing.role == role);
        if does_not_stay { answer_max.min(FAILING_ANSWER_MAX) } else { answer_max }
    };
    let (qmgr_max, store_max, signer_max) =
        (patience(Role::Qmgr), patience(Role::Store), patience(Role::Signer));
    let (qmgr, store, signer) = tokio::join!(
        tokio::time::timeout(qmgr_max, ask::qmgr(which, Question::Status)),
        tokio::time::timeout(store_max, ask::store_status(which)),
        tokio::time::timeout(signer_max, ask::credentials(which, false)),
    );
    let qmgr = qmgr.unwrap_or(Err(AskError::Silent { who: "QMGR", within: qmgr_max }));
    let store = store.unwrap_or(Err(AskError::Silent { who: "the store", within: store_max }));
    let signer = signer.unwrap_or(Err(AskError::Silent { who: "the signer", within: signer_max }));
    let part = |result: Result<Value, AskError>| match result {
        Ok(value) => value,
        Err(error) => json!({ "error": output::chain(&error) }),
    };
    let (store, qmgr) = (part(store.map(|status| store_value(&status))), part(qmgr));
    let credentials = signer.map(|credentials| credentials::value(&credentials, credentials::now_s()));
    Ok(json!({
        "version": running.version,
        "roles": running.processes.iter().map(role).collect::<Vec<_>>(),
        "listeners": running.listening.iter().map(listener).collect::<Vec<_>>(),
        "roles_failing": running.failing.iter().map(failing).collect::<Vec<_>>(),
        "listeners_failed": running.failed.iter().map(failed_listener).collect::<Vec<_>>(),
        "values": values(&store, &qmgr),
        "qmgr": qmgr,
        "store": store,
        "signer": part(credentials),
    }))
}

/// Whether nobody needs to look: every part answers, the whole configuration is in force, and there is room.
fn is_well(status: &Value) -> bool {
    let (configuration, credentials) = (&status["qmgr"]["configuration"], &status["signer"]);
    let lasts = |credential: &Value| credential["lasts"] == true;
    // Problems are a list, though an empty one, as soon as something is in force.
    configuration["problems"].as_array().is_some_and(Vec::is_empty)
        && configuration["held"].is_null()
        && configuration["unusable"].as_array().is_none_or(Vec::is_empty)
        && status["qmgr"]["recording"]["state"] != "failed"
        && status["store"]["full"] == false
        && status["store"]["partials_full"] == false
        && status["store"]["isolated"] == 0
        && status["store"]["damaged_places"] == 0
        && credentials["wrong"].as_array().is_some_and(Vec::is_empty)
        && credentials["usable"].as_array().is_some_and(|usable| usable.iter().all(lasts))
        && status["listeners_failed"].as_array().is_none_or(Vec::is_empty)
        && status["roles_failing"].as_array().is_none_or(Vec::is_empty)
}

/// A channel process is named by its channel, in `role` too.
fn role(running: &Running) -> Value {
    let role = if running.role.is_channel() { &running.name } else { running.role.name() };
    json!({
        "role": role,
        "name": running.name,
        "pid": running.pid,
        "starts": running.starts_count,
        "process": running.process,
    })
}

fn failing(failing: &Failing) -> Value {
    let next_start_at = failing
        .next_start_ms
        .and_then(|wait| (OffsetDateTime::now_utc() + Duration::from_millis(wait)).format(&Rfc3339).ok());
    json!({
        "role": failing.role.name(),
        "ends": failing.ends_count,
        "ends_in_hour": failing.ends_in_hour,
        "next_start_at": next_start_at,
        "why": failing.why,
    })
}

fn listener(socket: &ListeningSocket) -> Value {
    json!({
        "name": socket.listener,
        "address": socket.bound.to_string(),
        "configured": socket.configured.to_string(),
    })
}

fn failed_listener(failed: &FailedListener) -> Value {
    json!({
        "name": failed.listener,
        "configured": failed.configured.to_string(),
        "why": failed.why,
    })
}

/// The values that a self test may choose, from whoever obeys them; those of channels and listeners by their names. Null
/// for a part that does not answer.
fn values(store: &Value, qmgr: &Value) -> Value {
    json!({
        "method": store["method"],
        "batch_octets": store["batch_octets_max"],
        "channel_processes_max": qmgr["channel_processes_max"],
        "slots_per_process": qmgr["slots_per_process"],
        "connections_max": qmgr["connections_max"],
        "connections_per_client_max": qmgr["connections_per_client_max"],
    })
}

fn store_value(status: &StoreStatus) -> Value {
    json!({
        "messages": status.messages_count,
        "living_octets": status.living_octets,
        "log_octets": status.log_octets,
        "segments": status.segments_count,
        "segments_free": status.segments_free_count,
        "partials": status.partials_count,
        "partials_octets": status.partials_octets,
        "partials_full": status.partials_are_full,
        "isolated": status.isolated_count,
        "damaged_places": status.damaged_places_count,
        "full": status.is_full,
        "batches": status.batches_count,
        "written_octets": status.written_octets,
        "write_errors": status.write_errors_count,
        "backend": status.backend,
        "method": { "value": status.method, "from": status.method_from.name() },
        "batch_octets_max": { "value": status.batch_octets_max, "from": status.batch_from.name() },
    })
}

fn text(status: &Value) -> String {
    let cell = |row: &Value, key: &str| match &row[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows = |part: &str, keys: &[&str]| -> Vec<Vec<String>> {
        let rows = status[part].as_array().map_or(&[] as &[Value], Vec::as_slice);
        rows.iter().map(|row| keys.iter().map(|key| cell(row, key)).collect()).collect()
    };
    let mut out = output::table(
        &["ROLE", "PID", "STARTS", "PROCESS"],
        &rows("roles", &["name", "pid", "starts", "process"]),
    );
    out.push('\n');
    let failing = rows("roles_failing", &["role", "ends", "ends_in_hour", "next_start_at", "why"]);
    if !failing.is_empty() {
        out.push_str(&output::table(
            &["DOES NOT STAY", "IN A ROW", "IN AN HOUR", "NEXT START", "WHY"],
            &failing,
        ));
        out.push('\n');
    }
    out.push_str(&output::table(&["LISTENER", "ADDRESS"], &rows("listeners", &["name", "address"])));
    let failed = rows("listeners_failed", &["name", "why"]);
    if !failed.is_empty() {
        out.push('\n');
        out.push_str(&output::table(&["DOES NOT LISTEN", "WHY"], &failed));
    }
    let row = |name: &str, value: &Value| vec![name.to_owned(), cell(value, "value"), cell(value, "from")];
    let mut value_rows: Vec<Vec<String>> = Vec::new();
    for (name, value) in status["values"].as_object().into_iter().flatten() {
        match value.as_object() {
            Some(fields) if fields.get("from").is_some_and(Value::is_string) => {
                value_rows.push(row(name, value));
            }
            Some(of) => {
                value_rows.extend(of.iter().map(|(of, value)| row(&format!("{name} of {of}"), value)));
            }
            None => {}
        }
    }
    out.push('\n');
    out.push_str(&output::table(&["VALUE", "IS", "FROM"], &value_rows));
    for part in ["store", "qmgr", "signer"] {
        out.push_str(&format!("\n{part}\n"));
        for line in output::indented(&status[part]).lines() {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_process_has_its_channel_as_role() {
        let running =
            |role, name: &str, process| Running { role, name: name.into(), process, pid: 9, starts_count: 2 };
        assert_eq!(
            role(&running(Role::Channel, "out", 7)),
            json!({"role": "out", "name": "out", "pid": 9, "starts": 2, "process": 7})
        );
        assert_eq!(role(&running(Role::Store, "store", 0))["role"], "store");
    }

    #[test]
    fn the_exit_status_says_whether_somebody_must_look() {
        let well = json!({
            "qmgr": {"configuration": {"generation": 1, "problems": [], "unusable": [], "held": null}, "recording": null},
            "store": {"full": false, "partials_full": false, "isolated": 0, "damaged_places": 0},
            "signer": {"usable": [{"name": "mx", "lasts": true}], "wrong": []},
            "listeners_failed": [],
            "roles_failing": [],
        });
        assert!(is_well(&well));
        let mut recording = well.clone();
        for state in ["recording", "full"] {
            recording["qmgr"]["recording"] = json!({ "state": state });
            assert!(is_well(&recording), "{state}");
        }
        let rows = [
            ("/qmgr", json!({"error": "no answer"})),
            ("/store", json!({"error": "no answer"})),
            ("/signer", json!({"error": "no answer"})),
            ("/signer/wrong", json!([{"name": "mx", "why": "no key"}])),
            ("/signer/usable/0/lasts", json!(false)),
            ("/store/full", json!(true)),
            ("/store/partials_full", json!(true)),
            ("/store/isolated", json!(1)),
            ("/store/damaged_places", json!(1)),
            ("/listeners_failed", json!([{"name": "in"}])),
            ("/roles_failing", json!([{"role": "store"}])),
            ("/qmgr/recording", json!({"state": "failed", "why": "no room"})),
            ("/qmgr/configuration/problems", Value::Null),
            ("/qmgr/configuration/problems", json!([{"dn": "cn=out"}])),
            ("/qmgr/configuration/held", json!({"reason": "the node is gone", "would_remove": []})),
            ("/qmgr/configuration/unusable", json!([{"dn": "cn=north"}])),
        ];
        for (place, value) in rows {
            let mut status = well.clone();
            *status.pointer_mut(place).unwrap() = value;
            assert!(!is_well(&status), "{place}: {status}");
        }
    }

    #[test]
    fn people_get_tables_and_then_the_store_qmgr_and_the_signer() {
        let status = json!({
            "roles": [{"role": "store", "name": "store", "pid": 1, "starts": 1, "process": 0}],
            "listeners": [{"name": "in", "address": "127.0.0.1:25"}],
            "values": {
                "batch_octets": {"value": 262_144, "from": "self test"},
                "channel_processes_max": null,
                "connections_max": {"in": {"value": 9, "from": "operator"}, "from": {"value": 5, "from": "default"}},
            },
            "qmgr": {"error": "no answer"},
            "store": {"messages": 3},
            "signer": {"wrong": "none"},
        });
        let wanted = "ROLE   PID  STARTS  PROCESS\nstore  1    1       0\n\nLISTENER  ADDRESS\nin        127.0.0.1:25\n\n\
            VALUE                    IS      FROM\nbatch_octets             262144  self test\n\
            connections_max of from  5       default\nconnections_max of in    9       operator\n\nstore\n  messages: 3\n\nqmgr\n  error: no answer\n\nsigner\n  wrong: none\n";
        assert_eq!(text(&status), wanted);
    }
}
