//! What is looked at, in this order: the configuration, the queue, the credentials that listeners need, the listeners, the channels.

use super::{Finding, State, probe};
use crate::ask::{self, AskError, Which};
use crate::command::credentials;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use sternpost_config::{Configuration, ListenerTlsPolicy};
use sternpost_link::qmgr::Question;
use sternpost_link::signer::Credentials;
use sternpost_link::store::StoreStatus;
use sternpost_link::supervisor::{FailedListener, Failing, ListeningSocket};
use sternpost_tls::{Authentication, Outbound, ServerName, VersionMin};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Time for the greeting of a listener.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Time for the other end of a connection that is over.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Short lives of a role in a row that are no accident; the console says so from as many on.
const ENDS_MIN: u32 = 3;
/// Octets of a reply line with its CR LF. RFC 5321, 4.5.3.1.5.
const REPLY_OCTETS_MAX: u64 = 512;

/// Looks at everything. What rests on a part that is bad is not tried.
pub(super) async fn all(which: &Which) -> Vec<Finding> {
    let supervisor = match ask::supervisor(which).await {
        Ok(supervisor) => supervisor,
        Err(error) => return vec![Finding::of_error("switch", &error)],
    };
    let mut findings: Vec<Finding> = supervisor.failing.iter().filter_map(does_not_stay).collect();
    let configuration = configuration(which, &mut findings).await;
    let queue = queue(which).await;
    let can_probe = queue.state == State::Good;
    findings.push(queue);
    let Some(configuration) = configuration else { return findings };
    credentials(which, &configuration, &mut findings).await;
    listeners(&configuration, &supervisor.listening, &supervisor.failed, &mut findings).await;
    if can_probe {
        probe::all(which, &configuration, &mut findings).await;
    } else {
        findings.push(Finding::unknown("channels", "not tried: a probe needs the queue"));
    }
    findings
}

/// A role that dies once or twice is started again and forgotten. One that does so for ever is a defect of this switch, also
/// where nothing else misses it for a while: an update to it is not to be kept.
fn does_not_stay(failing: &Failing) -> Option<Finding> {
    let says = || format!("it ends again and again, {} times in a row: {}", failing.ends_count, failing.why);
    (failing.ends_count >= ENDS_MIN).then(|| Finding::bad(format!("role {}", failing.role.name()), says()))
}

/// What is said of the queue is said under this name.
pub(super) const QUEUE: &str = "queue";

async fn configuration(which: &Which, findings: &mut Vec<Finding>) -> Option<Configuration> {
    let what = "configuration";
    let mut answer = match ask::qmgr(which, Question::Configuration).await {
        Ok(answer) => answer,
        Err(AskError::Refused { why, .. }) => {
            findings.push(Finding::bad(what, why));
            return None;
        }
        Err(error) => {
            findings.push(Finding::of_error(what, &error));
            return None;
        }
    };
    let generation = answer["generation"].as_u64().unwrap_or(0);
    match serde_json::from_value(answer["configuration"].take()) {
        Ok(configuration) => {
            findings.push(Finding::good(what, format!("generation {generation} is in force")));
            Some(configuration)
        }
        Err(error) => {
            findings.push(Finding::unknown(what, format!("QMGR's answer cannot be read: {error}")));
            None
        }
    }
}

async fn queue(which: &Which) -> Finding {
    let (store, qmgr) = tokio::join!(ask::store_status(which), ask::qmgr(which, Question::Status));
    match (store, qmgr) {
        (Err(error), _) | (_, Err(error)) => Finding::of_error(QUEUE, &error),
        (Ok(store), Ok(qmgr)) => recovered(&store, &qmgr),
    }
}

/// A store that answers has recovered its log.
fn recovered(store: &StoreStatus, qmgr: &Value) -> Finding {
    let messages = match store.messages_count {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    };
    if qmgr["tree"] != "going" {
        let tree = qmgr["tree"].as_str().unwrap_or("unknown");
        return Finding::bad(
            QUEUE,
            format!("recovered, {messages}; QMGR does not schedule them yet: {tree}"),
        );
    }
    // A device whose peers are down fills up and is none the worse for it.
    let full = if store.is_full { "; full: new mail gets 452 until some has left" } else { "" };
    Finding::good(QUEUE, format!("recovered, {messages}{full}"))
}

/// The credentials without which listeners take no mail.
async fn credentials(which: &Which, configuration: &Configuration, findings: &mut Vec<Finding>) {
    let needed = configuration.listeners.iter().map(|listener| &listener.tls);
    let needed: BTreeSet<&str> =
        needed.filter(|tls| tls.policy.is_required()).map(|tls| tls.credential.as_str()).collect();
    if needed.is_empty() {
        return;
    }
    let credentials = match ask::credentials(which, false).await {
        Ok(credentials) => credentials,
        Err(error) => return findings.push(Finding::of_error("credentials", &error)),
    };
    findings.extend(needed.into_iter().map(|name| credential(name, &credentials, credentials::now_s())));
}

/// Whether clients can be shown this one.
fn credential(name: &str, credentials: &Credentials, now_s: i64) -> Finding {
    let what = format!("credential {name}");
    let wrong = credentials.wrong.iter().find(|wrong| wrong.name == name);
    match credentials.usable.iter().find(|credential| credential.name == name) {
        Some(credential) if credential.not_after_s <= now_s => {
            Finding::bad(what, format!("its certificate has ended: put a new one into {name}.pem"))
        }
        Some(_) => Finding::good(what, "it can be used".to_owned()),
        None => Finding::bad(
            what,
            wrong.map_or_else(
                || format!("it is not there: put {name}.pem into the folder of the credentials; until then a listener that requires TLS takes no mail"),
                |wrong| wrong.why.clone(),
            ),
        ),
    }
}

async fn listeners(
    configuration: &Configuration,
    listening: &[ListeningSocket],
    failed: &[FailedListener],
    findings: &mut Vec<Finding>,
) {
    let configured = configuration.listeners.iter().flat_map(|listener| {
        let is_immediate = listener.tls.policy == ListenerTlsPolicy::Immediate;
        listener.addresses.iter().map(move |address| (listener.name.as_str(), *address, is_immediate))
    });
    for (name, address, is_immediate) in configured {
        let what = format!("listener {name}");
        let socket = listening.iter().find(|socket| socket.listener == name && socket.configured == address);
        let failure = failed.iter().find(|failed| failed.listener == name && failed.configured == address);
        findings.push(match (socket, failure) {
            (Some(socket), _) => match greeting(reachable(socket.bound), is_immediate).await {
                Ok(line) => greeted(what, socket.bound, &line),
                Err(error) => {
                    let remedy = foreign_address(socket.bound.ip(), own_addresses().as_deref());
                    Finding::bad(what, format!("{} does not greet: {error}{remedy}", socket.bound))
                }
            },
            (None, Some(failed)) => Finding::bad(what, format!("does not listen: {}", failed.why)),
            (None, None) => Finding::bad(what, format!("does not listen on {address} yet")),
        });
    }
}

fn greeted(what: String, address: SocketAddr, line: &str) -> Finding {
    match line.get(..3) {
        Some("220") => Finding::good(what, format!("{address} answers 220")),
        // It answers; that so many others are there is not its fault.
        Some("421") => Finding::good(what, format!("{address} has all its connections: {line}")),
        _ => Finding::bad(what, format!("{address} answers {line:?} instead of 220")),
    }
}

/// The address at which this machine reaches a socket that is bound there.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match bound {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    if bound.ip().is_unspecified() { SocketAddr::new(loopback, bound.port()) } else { bound }
}

/// The addresses of this machine's interfaces; none when the kernel does not say.
fn own_addresses() -> Option<Vec<IpAddr>> {
    Some(if_addrs::get_if_addrs().ok()?.iter().map(if_addrs::Interface::ip).collect())
}

/// What to do when a listener's address is none of this machine's, as the end of a sentence. A socket for every
/// address, which the service manager has opened, serves such a listener without a word.
fn foreign_address(address: IpAddr, own: Option<&[IpAddr]>) -> String {
    let is_own = |own: &[IpAddr]| address.is_unspecified() || address.is_loopback() || own.contains(&address);
    if own.is_none_or(is_own) {
        return String::new();
    }
    format!("; {}", crate::supervisor::FOREIGN_ADDRESS)
}

/// The first line that a listener says, inside TLS where that begins with the first octet; then it is left in order.
async fn greeting(address: SocketAddr, is_immediate: bool) -> io::Result<String> {
    let reading = async {
        let stream = TcpStream::connect(address).await?;
        if !is_immediate {
            return first_line(stream).await;
        }
        // Whose certificate it is makes no difference here.
        let own = ServerName::IpAddress(address.ip().into());
        let outbound = Outbound::new(own, Authentication::Anybody, VersionMin::Tls12, None);
        first_line(outbound.map_err(io::Error::other)?.connect(stream).await?.0).await
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no greeting in time");
    tokio::time::timeout(GREETING_MAX, reading).await.unwrap_or_else(|_| Err(late()))
}

async fn first_line<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> io::Result<String> {
    let mut stream = BufReader::new(stream).take(REPLY_OCTETS_MAX);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut stream = stream.into_inner().into_inner();
    // The answer is here already; how the connection ends changes nothing.
    let _ = stream.write_all(b"QUIT\r\n").await;
    let _ = stream.flush().await;
    let mut rest = [0; 128];
    let _ = tokio::time::timeout(CLOSE_MAX, stream.read(&mut rest)).await;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_full_queue_is_good_and_says_so() {
        let status = StoreStatus { messages_count: 7, is_full: true, ..StoreStatus::default() };
        let finding = recovered(&status, &json!({ "tree": "going" }));
        assert_eq!(finding.state, State::Good);
        assert!(finding.says.contains("452"), "{finding:?}");
        let finding = recovered(&status, &json!({ "tree": "building" }));
        assert_eq!(finding.state, State::Bad);
    }

    #[test]
    fn a_listener_that_is_at_its_limit_answers_and_one_that_says_something_else_does_not() {
        let address = "192.0.2.1:25".parse().unwrap();
        let state = |line| greeted("listener in".into(), address, line).state;
        assert_eq!(state("220 mx.example.org ESMTP"), State::Good);
        assert_eq!(state("421 4.3.2 too many connections, try again later"), State::Good);
        assert_eq!((state(""), state("SSH-2.0"), state("554 no")), (State::Bad, State::Bad, State::Bad));
    }

    #[test]
    fn a_listener_on_an_address_of_another_machine_says_where_to_correct_it() {
        let own: &[IpAddr] = &["192.0.2.10".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let remedy = |address: &str, own| foreign_address(address.parse().unwrap(), own);
        for address in ["192.0.2.10", "127.0.0.2", "0.0.0.0", "::", "::1"] {
            assert_eq!(remedy(address, Some(own)), "", "{address}");
        }
        let said = remedy("192.0.2.99", Some(own));
        assert!(said.starts_with("; this machine does not have the address: "), "{said}");
        assert_eq!(remedy("192.0.2.99", None), "");
    }

    #[test]
    fn a_socket_for_every_address_is_reached_over_the_loopback() {
        let rows =
            [("0.0.0.0:25", "127.0.0.1:25"), ("[::]:25", "[::1]:25"), ("192.0.2.1:25", "192.0.2.1:25")];
        for (bound, wanted) in rows {
            assert_eq!(reachable(bound.parse().unwrap()), wanted.parse().unwrap());
        }
    }
}
