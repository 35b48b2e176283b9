//! Puts questions to the configured name servers (`hickory-resolver`), keeps the answers, and drives a [`Search`].
//!
//! Nothing of the system is read: no `resolv.conf`, no `hosts`, no search list. A question goes by UDP, and again by TCP when its
//! answer is truncated (RFC 7766, 5). Names that an RFC answers leave this host never ([`Question::special_answer`]).

use crate::{
    Answer, Cache, CacheBounds, Destinations, LookupFailure, NoDestination, Policy, Question, Record,
    RecordKind, Search, SecurityStatus, Step,
};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{self, Name, RData, RecordType};
use hickory_resolver::proto::serialize::txt::ParseError;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Records of one answer that are kept: the best exchangers, or the first addresses. With the answers that are kept this bounds
/// the memory that hostile zones can take: 4,096 answers × 64 records × at most 300 octets are 79 MB.
const RECORDS_MAX: usize = 64;
/// CNAME records that are followed in one answer; the library asks for at most 8 that lie in other zones.
const ALIASES_MAX: usize = 16;

/// Whether answers are validated by DNSSEC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// They are taken as they come.
    #[default]
    Off,
    /// By the DNSKEY records of the root zone that are trusted, in the text of a zone file, one a line. A closed network needs a
    /// signed root of its own: a key of another zone alone proves nothing, and every answer would be bogus.
    TrustAnchors(String),
}

/// What an operator configures of the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Recursive name servers with their ports, for UDP and TCP. Those that answer well and fast are preferred.
    pub name_servers: Vec<SocketAddr>,
    /// Time for one attempt: question and answer, with all name servers that are asked in it.
    pub attempt_timeout: Duration,
    /// Attempts for one question; at least 1.
    pub attempts: usize,
    /// Time for one question with all that belongs to it: attempts, aliases, and the keys by which it is validated.
    pub question_timeout: Duration,
    /// Questions that are under way at a time; further ones wait.
    pub questions_max: usize,
    /// Whether answers are validated.
    pub validation: Validation,
    /// What is kept.
    pub cache: CacheBounds,
}

impl Default for Settings {
    /// Everything but the name servers, which nobody can guess.
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            attempt_timeout: Duration::from_secs(5),
            attempts: 3,
            question_timeout: Duration::from_secs(30),
            questions_max: 256,
            validation: Validation::Off,
            cache: CacheBounds::default(),
        }
    }
}

/// Why settings make no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nobody to ask.
    #[error("no name server is configured: give the address of at least one")]
    NoNameServer,
    /// A name server without address or port.
    #[error("{0} cannot be a name server: give an address and a port that are not 0")]
    NameServer(SocketAddr),
    /// A time or a count that is 0.
    #[error("{0} is 0: give at least 1")]
    Zero(&'static str),
    /// A lower bound above its upper one.
    #[error("ttl_min is larger than ttl_max: no time would be within both")]
    TtlBounds,
    /// RFC 9520, section 3.2.
    #[error("failure_ttl is {} s: give 1 s to 300 s (RFC 9520)", .0.as_secs())]
    FailureTtl(Duration),
    /// Text that is no trust anchor.
    #[error("the trust anchors cannot be read: give DNSKEY records of the root zone, one a line")]
    TrustAnchors(#[source] ParseError),
    /// Text without a trust anchor.
    #[error("there is no trust anchor: give DNSKEY records of the root zone, or switch validation off")]
    NoTrustAnchor,
    /// The library.
    #[error("the resolver cannot be made")]
    Resolver(#[source] NetError),
}

/// Answers questions. Clones share connections, cache and bounds. Its futures need the runtime of tokio.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    library: TokioResolver,
    cache: Mutex<Cache>,
    under_way: Semaphore,
    question_timeout: Duration,
    is_validating: bool,
}

impl Resolver {
    /// Makes a resolver; nothing is sent yet.
    ///
    /// # Errors
    /// `SettingsError` says which setting is wrong and what to give instead.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        check(settings)?;
        let name_servers = settings.name_servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), name_servers.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = settings.attempt_timeout;
        // The library counts what follows the first.
        options.attempts = settings.attempts - 1;
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = true;
        options.preserve_intermediates = true;
        options.max_active_requests = settings.questions_max.saturating_mul(2);
        options.cache_size = 0;
        if let Validation::TrustAnchors(text) = &settings.validation {
            let anchors: TrustAnchors = text.parse().map_err(SettingsError::TrustAnchors)?;
            if anchors.is_empty() {
                return Err(SettingsError::NoTrustAnchor);
            }
            builder.options_mut().validate = true;
            builder = builder.with_trust_anchor(Arc::new(anchors));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                library: builder.build().map_err(SettingsError::Resolver)?,
                cache: Mutex::new(Cache::new(settings.cache.clone())),
                under_way: Semaphore::new(settings.questions_max.min(Semaphore::MAX_PERMITS)),
                question_timeout: settings.question_timeout,
                is_validating: settings.validation != Validation::Off,
            }),
        })
    }

    /// Where the mail of `domain` goes: the part behind the `@`, as it stands in the mailbox. `seed` as in [`Search::begin`].
    ///
    /// # Errors
    /// `NoDestination` says why nowhere, and whether trying again later may help.
    pub async fn destinations(
        &self,
        domain: &str,
        policy: &Policy,
        seed: u64,
    ) -> Result<Destinations, NoDestination> {
        let mut step = Search::begin(domain, policy, seed);
        loop {
            step = match step {
                Step::Found(destinations) => return Ok(destinations),
                Step::Nowhere(reason) => return Err(reason),
                Step::Ask(search, questions) => search.answer(&self.ask_all(questions).await),
            };
        }
    }

    /// Asks all at once. What is dropped meanwhile is not asked any further.
    async fn ask_all(&self, questions: Vec<Question>) -> HashMap<Question, Answer> {
        let mut tasks = JoinSet::new();
        for question in questions {
            let resolver = self.clone();
            tasks.spawn(async move {
                let answer = resolver.ask(&question).await;
                (question, answer)
            });
        }
        let mut answers = HashMap::new();
        while let Some(done) = tasks.join_next().await {
            // A task that has panicked leaves its question without an answer, and the search counts that as failed.
            answers.extend(done);
        }
        answers
    }

    /// The answer to one question: from an RFC, from what is kept, or from a name server.
    pub async fn ask(&self, question: &Question) -> Answer {
        if let Some(answer) = question.special_answer() {
            return answer;
        }
        if let Some(answer) = self.cache().get(Instant::now(), question) {
            return answer;
        }
        let lookup = async {
            // Never closed, so a permit always comes.
            let _permit = self.shared.under_way.acquire().await;
            let kind = match question.kind {
                RecordKind::Mx => RecordType::MX,
                RecordKind::A => RecordType::A,
                RecordKind::Aaaa => RecordType::AAAA,
            };
            let name = Name::from_ascii(format!("{}.", question.name)).map_err(NetError::from)?;
            self.shared.library.lookup(name.clone(), kind).await.map(|lookup| (name, lookup))
        };
        let (answer, ttl) = match tokio::time::timeout(self.shared.question_timeout, lookup).await {
            Err(_) => (Answer::Failed(LookupFailure::Timeout), None),
            Ok(Ok((name, lookup))) => self.read_records(&name, question.kind, &lookup),
            Ok(Err(error)) => self.read_error(error),
        };
        self.cache().put(Instant::now(), question, &answer, ttl);
        answer
    }

    /// Every change of the cache is whole before anything can panic.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only what belongs to the name: its CNAME records, and the records of the name to which they lead.
    fn read_records(&self, asked: &Name, kind: RecordKind, lookup: &Lookup) -> (Answer, Option<Duration>) {
        let mut owner = asked.clone();
        let mut read = Vec::new();
        for _ in 0..ALIASES_MAX {
            let alias = lookup.answers().iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == owner => Some((record, target.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            read.push(record);
            owner = target;
        }
        let mut records = Vec::new();
        for record in lookup.answers().iter().filter(|record| record.name == owner) {
            records.push(match (&record.data, kind) {
                (RData::MX(mx), RecordKind::Mx) => {
                    Record::Mx { preference: mx.preference, exchanger: mx.exchange.to_ascii() }
                }
                (RData::A(address), RecordKind::A) => Record::Address(address.0.into()),
                (RData::AAAA(address), RecordKind::Aaaa) => Record::Address(address.0.into()),
                _ => continue,
            });
            read.push(record);
        }
        let ttl = read.iter().map(|record| record.ttl).min().map(|ttl| Duration::from_secs(ttl.into()));
        let Some(status) = self.status(read.into_iter()) else {
            return (Answer::Failed(LookupFailure::Bogus), None);
        };
        if records.is_empty() {
            return (Answer::NoRecord { status }, ttl);
        }
        // Stable: addresses keep their order.
        records.sort_by_key(|record| match record {
            Record::Mx { preference, .. } => *preference,
            Record::Address(_) => 0,
        });
        records.truncate(RECORDS_MAX);
        let canonical =
            (owner != *asked).then(|| owner.to_ascii().trim_end_matches('.').to_ascii_lowercase());
        (Answer::Found { records, canonical, status }, ttl)
    }

    /// What the library gives for an error is often the answer that there is nothing.
    fn read_error(&self, error: NetError) -> (Answer, Option<Duration>) {
        let failure = match error {
            NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
                let authorities = nothing.authorities.iter().flat_map(|records| records.iter());
                return self.read_nothing(nothing.response_code, authorities);
            }
            NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. }) => {
                return self.read_nothing(response.response_code, response.authorities.iter());
            }
            NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus) => LookupFailure::Bogus,
            NetError::Dns(DnsError::ResponseCode(code)) => LookupFailure::Refused(code.to_string()),
            NetError::Timeout => LookupFailure::Timeout,
            NetError::Io(_) | NetError::NoConnections => LookupFailure::Unreachable(error.to_string()),
            other => LookupFailure::Unusable(other.to_string()),
        };
        (Answer::Failed(failure), None)
    }

    fn read_nothing<'a>(
        &self,
        code: ResponseCode,
        authorities: impl Iterator<Item = &'a rr::Record> + Clone,
    ) -> (Answer, Option<Duration>) {
        let ttl = authorities.clone().find_map(|record| match &record.data {
            // RFC 2308, section 5.
            RData::SOA(soa) => Some(Duration::from_secs(soa.minimum.min(record.ttl).into())),
            _ => None,
        });
        let proofs = authorities.filter(|record| {
            matches!(record.record_type(), RecordType::SOA | RecordType::NSEC | RecordType::NSEC3)
        });
        let answer = match (self.status(proofs), code) {
            (None, _) => Answer::Failed(LookupFailure::Bogus),
            (Some(status), ResponseCode::NXDomain) => Answer::NoSuchName { status },
            (Some(status), ResponseCode::NoError) => Answer::NoRecord { status },
            (Some(_), other) => Answer::Failed(LookupFailure::Refused(other.to_string())),
        };
        (answer, ttl)
    }

    /// What can be said of all records together; none when one is bogus, or when nothing is proven of it though a trust anchor
    /// stands above all. Where there is no record to look at, the library has found out that the name is not signed.
    fn status<'a>(&self, records: impl Iterator<Item = &'a rr::Record>) -> Option<SecurityStatus> {
        if !self.shared.is_validating {
            return Some(SecurityStatus::Indeterminate);
        }
        let mut weakest = None;
        for record in records {
            let status = match record.proof {
                Proof::Secure => SecurityStatus::Secure,
                Proof::Insecure => SecurityStatus::Insecure,
                Proof::Bogus | Proof::Indeterminate => return None,
            };
            weakest = Some(weakest.map_or(status, |other: SecurityStatus| other.weaker(status)));
        }
        Some(weakest.unwrap_or(SecurityStatus::Insecure))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("answers", &self.cache().len()).finish_non_exhaustive()
    }
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    if settings.name_servers.is_empty() {
        return Err(SettingsError::NoNameServer);
    }
    for address in &settings.name_servers {
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(SettingsError::NameServer(*address));
        }
    }
    let counts = [
        (settings.attempt_timeout.is_zero(), "attempt_timeout"),
        (settings.attempts == 0, "attempts"),
        (settings.question_timeout.is_zero(), "question_timeout"),
        (settings.questions_max == 0, "questions_max"),
    ];
    if let Some((_, name)) = counts.iter().find(|(is_zero, _)| *is_zero) {
        return Err(SettingsError::Zero(name));
    }
    if settings.cache.ttl_min > settings.cache.ttl_max {
        return Err(SettingsError::TtlBounds);
    }
    let failure_ttl = settings.cache.failure_ttl;
    if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&failure_ttl) {
        return Err(SettingsError::FailureTtl(failure_ttl));
    }
    Ok(())
}
