//! The search for the hosts that take the mail of a domain: a machine without I/O.
//!
//! First the MX records, then the addresses of every exchanger that is kept. What is decided where a standard leaves it open, or
//! where zones break it:
//!
//! - An exchanger that is an alias (CNAME) is followed, although RFC 2181, 10.3 forbids it to the zone and RFC 5321, 5.1 leaves it
//!   out of its scope. Others follow it; to refuse would lose mail by somebody else's slip and protect nobody, for whoever
//!   writes the MX record could write the other name.
//! - An exchanger that looks like an address (`192.0.2.1.`) is left out: it is a name that cannot exist.
//! - `MX 10 .` is a null MX like `MX 0 .`, if no other record stands beside it; beside others it is left out (RFC 7505, 3).
//! - An exchanger of which only one family could be looked up is tried at that one; one of which nothing is known is passed
//!   over while others have addresses, and makes the mail wait when no other has.
//! - Loopback and the unspecified address lead to this host, whoever wrote them into a zone.

use crate::remark::Remarks;
use crate::{
    Answer, Destinations, Exchanger, HostName, HostNameError, LookupFailure, NoDestination, Origin, Question,
    Reason, Record, RecordKind, Remark, SecurityStatus,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The families of addresses that are used, and which come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyOrder {
    /// IPv6 and IPv4 in turn, IPv6 first (RFC 8305, section 4): a family that is broken costs one attempt, not all of them.
    #[default]
    Interleaved,
    /// All of IPv6, then all of IPv4.
    Ipv6First,
    /// All of IPv4, then all of IPv6.
    Ipv4First,
    /// IPv6 alone; A records are not asked for.
    Ipv6Only,
    /// IPv4 alone; AAAA records are not asked for.
    Ipv4Only,
}

impl FamilyOrder {
    const fn kinds(self) -> &'static [RecordKind] {
        match self {
            Self::Ipv6Only => &[RecordKind::Aaaa],
            Self::Ipv4Only => &[RecordKind::A],
            Self::Interleaved | Self::Ipv6First | Self::Ipv4First => &[RecordKind::Aaaa, RecordKind::A],
        }
    }
}

/// Whether an address that leads to this host is this switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loopback {
    /// It is: mail for it would come back.
    #[default]
    Own,
    /// It is another program on this host, as in tests.
    Other,
}

/// What an operator has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The names of this switch.
    pub own_names: BTreeSet<HostName>,
    /// The addresses at which mail reaches this switch, also those before a translation of addresses.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Whether loopback is this switch.
    pub loopback: Loopback,
    /// Which families, in which order.
    pub family_order: FamilyOrder,
    /// The best exchangers that are kept; more only cost questions. At least 1.
    pub exchangers_max: usize,
    /// Addresses that are kept of each exchanger, of both families. At least 1.
    pub addresses_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            own_names: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            loopback: Loopback::default(),
            family_order: FamilyOrder::default(),
            exchangers_max: 16,
            addresses_max: 8,
        }
    }
}

impl Policy {
    /// Whether a connection to `address` would end at this switch.
    fn owns(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_this_host = address.is_loopback() || address.is_unspecified();
        self.own_addresses.contains(&address) || (is_this_host && self.loopback == Loopback::Own)
    }
}

/// What a search does next.
#[derive(Debug)]
pub enum Step<'a> {
    /// It wants answers to these questions; [`Search::answer`] goes on.
    Ask(Search<'a>, Vec<Question>),
    /// The mail goes here.
    Found(Destinations),
    /// The mail goes nowhere.
    Nowhere(NoDestination),
}

/// A search that waits for answers.
#[derive(Debug)]
pub struct Search<'a> {
    policy: &'a Policy,
    domain: HostName,
    /// Orders exchangers of equal preference.
    seed: u64,
    remarks: Remarks,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitsExchangers,
    AwaitsAddresses { candidates: Vec<Candidate>, exchanger_status: SecurityStatus },
}

/// An exchanger whose addresses are asked for.
#[derive(Debug)]
struct Candidate {
    origin: Origin,
    name: HostName,
}

impl<'a> Search<'a> {
    /// Begins with the domain of a mailbox, as it stands behind the `@`. `seed` decides the order of exchangers of equal
    /// preference (RFC 5321, 5.1: at random, to spread the load).
    #[must_use]
    pub fn begin(domain: &str, policy: &'a Policy, seed: u64) -> Step<'a> {
        let mut remarks = Remarks::default();
        if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return literal_step(literal, policy, remarks);
        }
        let domain = match HostName::parse(domain) {
            Ok(domain) => domain,
            Err(error) => return nowhere(Reason::NotADomain(error), remarks),
        };
        if policy.own_names.contains(&domain) {
            remarks.push(Remark::Own { name: domain, address: None });
            return nowhere(Reason::Loop, remarks);
        }
        let question = Question { name: domain.clone(), kind: RecordKind::Mx };
        Step::Ask(Self { policy, domain, seed, remarks, state: State::AwaitsExchangers }, vec![question])
    }

    /// Goes on with the answers to what was asked. A question that is missing among them counts as failed: mail
    /// waits rather than goes astray.
    #[must_use]
    pub fn answer(mut self, answers: &HashMap<Question, Answer>) -> Step<'a> {
        match std::mem::replace(&mut self.state, State::AwaitsExchangers) {
            State::AwaitsExchangers => self.take_exchangers(answers),
            State::AwaitsAddresses { candidates, exchanger_status } => {
                self.take_addresses(candidates, exchanger_status, answers)
            }
        }
    }

    fn take_exchangers(mut self, answers: &HashMap<Question, Answer>) -> Step<'a> {
        let question = Question { name: self.domain.clone(), kind: RecordKind::Mx };
        let (records, status) = match answers.get(&question).unwrap_or(&NOT_ASKED) {
            // RFC 5321, 5.1: never the address records instead, when it is not known that there is no MX record.
            Answer::Failed(failure) => {
                return nowhere(Reason::LookupFailed(question, failure.clone()), self.remarks);
            }
            Answer::NoSuchName { .. } => return nowhere(Reason::NoSuchDomain, self.remarks),
            Answer::NoRecord { status } => (Vec::new(), *status),
            Answer::Found { records, canonical, status } => {
                self.remark_alias(&question.name, canonical.as_deref());
                let mx = records.iter().filter_map(|record| match record {
                    Record::Mx { preference, exchanger } => Some((*preference, exchanger.as_str())),
                    Record::Address(_) => None,
                });
                (mx.collect(), *status)
            }
        };
        if records.is_empty() {
            self.remarks.push(Remark::ImplicitMx(self.domain.clone()));
            let candidate = Candidate { origin: Origin::ImplicitMx, name: self.domain.clone() };
            return self.ask_addresses(vec![candidate], status);
        }
        if records.iter().all(|(_, exchanger)| *exchanger == ".") {
            return nowhere(Reason::NullMx, self.remarks);
        }
        let mut exchangers = self.ordered(records);
        let own = exchangers.iter().find(|(_, name)| self.policy.own_names.contains(name)).cloned();
        if let Some((preference, name)) = own {
            let before = exchangers.len();
            exchangers.retain(|(other, _)| *other < preference);
            self.remarks.push(Remark::Own { name, address: None });
            self.remarks.push(Remark::Discarded { preference, count: before - exchangers.len() });
            if exchangers.is_empty() {
                return nowhere(Reason::Loop, self.remarks);
            }
        }
        if exchangers.is_empty() {
            return nowhere(Reason::NoUsableExchanger, self.remarks);
        }
        let (kept, found) = (self.policy.exchangers_max.max(1), exchangers.len());
        if found > kept {
            exchangers.truncate(kept);
            self.remarks.push(Remark::ExchangersCut { kept, found });
        }
        let candidates = exchangers
            .into_iter()
            .map(|(preference, name)| Candidate { origin: Origin::Mx(preference), name })
            .collect();
        self.ask_addresses(candidates, status)
    }

    /// The records that name a host, each host once, the best first, and equal ones in the order of the seed.
    fn ordered(&mut self, records: Vec<(u16, &str)>) -> Vec<(u16, HostName)> {
        let mut keyed = Vec::with_capacity(records.len());
        for (preference, exchanger) in records {
            match HostName::parse(exchanger) {
                Ok(name) => keyed.push((preference, name)),
                Err(error) => {
                    let exchanger = exchanger.to_owned();
                    self.remarks.push(Remark::NotAHostName { exchanger, preference, error });
                }
            }
        }
        // By name first, so that the seed alone decides, not the order in which a name server gives them.
        keyed.sort();
        let mut draw = self.seed;
        let mut drawn: Vec<_> = keyed
            .into_iter()
            .map(|(preference, name)| {
                draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
                (preference, mix(draw), name)
            })
            .collect();
        drawn.sort();
        let mut seen = HashSet::new();
        drawn.retain(|(_, _, name)| seen.insert(name.clone()));
        drawn.into_iter().map(|(preference, _, name)| (preference, name)).collect()
    }

    fn ask_addresses(mut self, candidates: Vec<Candidate>, exchanger_status: SecurityStatus) -> Step<'a> {
        let kinds = self.policy.family_order.kinds();
        let questions = candidates
            .iter()
            .flat_map(|candidate| {
                kinds.iter().map(|kind| Question { name: candidate.name.clone(), kind: *kind })
            })
            .collect();
        self.state = State::AwaitsAddresses { candidates, exchanger_status };
        Step::Ask(self, questions)
    }

    fn take_addresses(
        mut self,
        candidates: Vec<Candidate>,
        exchanger_status: SecurityStatus,
        answers: &HashMap<Question, Answer>,
    ) -> Step<'a> {
        let preferences: Vec<_> = candidates.iter().map(|candidate| candidate.origin.preference()).collect();
        let is_implicit = candidates.iter().any(|candidate| candidate.origin == Origin::ImplicitMx);
        let best = preferences.first().copied().unwrap_or_default();
        let mut exchangers = Vec::new();
        let mut failed: Option<(u16, Question, LookupFailure)> = None;
        for candidate in candidates {
            let preference = candidate.origin.preference();
            match self.addresses_of(&candidate.name, answers) {
                Addresses::Own(address) => {
                    exchangers.retain(|exchanger: &Exchanger| exchanger.origin.preference() < preference);
                    self.remarks.push(Remark::Own { name: candidate.name, address: Some(address) });
                    let count = preferences.iter().filter(|other| **other >= preference).count();
                    self.remarks.push(Remark::Discarded { preference, count });
                    // A failure of equal preference is discarded like an exchanger.
                    failed = failed.filter(|(failed_preference, ..)| *failed_preference < preference);
                    if preference == best {
                        return nowhere(Reason::Loop, self.remarks);
                    }
                    // All that follow are equal or worse.
                    break;
                }
                Addresses::Found { addresses, canonical, status } => exchangers.push(Exchanger {
                    origin: candidate.origin,
                    name: Some(candidate.name),
                    canonical,
                    addresses,
                    exchanger_status,
                    address_status: status,
                }),
                Addresses::Failed(question, failure) => {
                    failed.get_or_insert((preference, question, failure));
                }
                Addresses::None => {}
            }
        }
        if !exchangers.is_empty() {
            return Step::Found(Destinations { exchangers, remarks: self.remarks.into_vec() });
        }
        let reason = match failed {
            Some((_, question, failure)) => Reason::LookupFailed(question, failure),
            None if is_implicit => Reason::NoExchanger,
            None => Reason::NoUsableExchanger,
        };
        nowhere(reason, self.remarks)
    }

    fn addresses_of(&mut self, name: &HostName, answers: &HashMap<Question, Answer>) -> Addresses {
        let (mut ipv6, mut ipv4) = (Vec::new(), Vec::new());
        let mut alias = None;
        let mut weakest: Option<SecurityStatus> = None;
        let mut failed = None;
        let mut exists = true;
        for kind in self.policy.family_order.kinds() {
            let question = Question { name: name.clone(), kind: *kind };
            let family = if *kind == RecordKind::Aaaa { &mut ipv6 } else { &mut ipv4 };
            match answers.get(&question).unwrap_or(&NOT_ASKED) {
                Answer::Found { records, canonical, status } => {
                    weakest = Some(weakest.map_or(*status, |other| other.weaker(*status)));
                    if alias.is_none() {
                        alias.clone_from(canonical);
                    }
                    for record in records {
                        let Record::Address(address) = record else { continue };
                        if self.policy.owns(*address) {
                            return Addresses::Own(*address);
                        }
                        if is_unusable(*address) || address.is_ipv6() != (*kind == RecordKind::Aaaa) {
                            let name = name.to_string();
                            self.remarks.push(Remark::UnusableAddress { name, address: *address });
                        } else if !family.contains(address) {
                            family.push(*address);
                        }
                    }
                }
                Answer::Failed(failure) => {
                    self.remarks.push(Remark::Failed(question.clone(), failure.clone()));
                    failed.get_or_insert((question, failure.clone()));
                }
                Answer::NoSuchName { .. } => exists = false,
                Answer::NoRecord { .. } => {}
            }
        }
        self.remark_alias(name, alias.as_deref());
        let found = ipv6.len() + ipv4.len();
        if found == 0 {
            return match failed {
                Some((question, failure)) => Addresses::Failed(question, failure),
                None => {
                    let name = name.clone();
                    self.remarks.push(if exists {
                        Remark::NoAddress(name)
                    } else {
                        Remark::NoSuchExchanger(name)
                    });
                    Addresses::None
                }
            };
        }
        let addresses = self.in_order(ipv6, ipv4);
        if addresses.len() < found {
            let (name, kept) = (name.clone(), addresses.len());
            self.remarks.push(Remark::AddressesCut { name, kept, found });
        }
        let status = weakest.unwrap_or(SecurityStatus::Indeterminate);
        Addresses::Found { addresses, canonical: alias, status }
    }

    /// Both families in the order of the policy, and not more than it keeps: half of them for each family, and what one does
    /// not need for the other. Within a family the order is the name server's (RFC 5321, 5.1).
    fn in_order(&self, mut ipv6: Vec<IpAddr>, mut ipv4: Vec<IpAddr>) -> Vec<IpAddr> {
        let max = self.policy.addresses_max.max(1);
        ipv4.truncate((max / 2).max(max.saturating_sub(ipv6.len())));
        ipv6.truncate(max - ipv4.len());
        match self.policy.family_order {
            FamilyOrder::Ipv4First | FamilyOrder::Ipv4Only => ipv4.into_iter().chain(ipv6).collect(),
            FamilyOrder::Ipv6First | FamilyOrder::Ipv6Only => ipv6.into_iter().chain(ipv4).collect(),
            FamilyOrder::Interleaved => {
                let (mut first, mut second) = (ipv6.into_iter(), ipv4.into_iter());
                let mut addresses = Vec::new();
                loop {
                    let turn = [first.next(), second.next()];
                    if turn.iter().all(Option::is_none) {
                        return addresses;
                    }
                    addresses.extend(turn.into_iter().flatten());
                }
            }
        }
    }

    fn remark_alias(&mut self, name: &HostName, canonical: Option<&str>) {
        if let Some(canonical) = canonical {
            self.remarks.push(Remark::Alias { name: name.clone(), canonical: canonical.to_owned() });
        }
    }
}

/// In the place of an answer that is missing.
const NOT_ASKED: Answer = Answer::Failed(LookupFailure::NotAsked);

/// What is known of the addresses of one exchanger.
enum Addresses {
    Own(IpAddr),
    Found { addresses: Vec<IpAddr>, canonical: Option<String>, status: SecurityStatus },
    Failed(Question, LookupFailure),
    None,
}

fn nowhere<'a>(reason: Reason, remarks: Remarks) -> Step<'a> {
    Step::Nowhere(NoDestination { reason, remarks: remarks.into_vec() })
}

/// The domain is an address: nothing is asked. RFC 5321, 4.1.3.
fn literal_step<'a>(literal: &str, policy: &Policy, mut remarks: Remarks) -> Step<'a> {
    let address = match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            literal[5..].parse::<Ipv6Addr>().ok().map(IpAddr::from)
        }
        _ => literal.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    let Some(address) = address else {
        return nowhere(Reason::NotADomain(HostNameError::Characters), remarks);
    };
    if policy.owns(address) {
        return nowhere(Reason::Loop, remarks);
    }
    if is_unusable(address) {
        remarks.push(Remark::UnusableAddress { name: format!("[{literal}]"), address });
        return nowhere(Reason::NoUsableExchanger, remarks);
    }
    let kind = if address.is_ipv6() { RecordKind::Aaaa } else { RecordKind::A };
    if !policy.family_order.kinds().contains(&kind) {
        remarks.push(Remark::FamilyOff(address));
        return nowhere(Reason::NoUsableExchanger, remarks);
    }
    let exchanger = Exchanger {
        origin: Origin::Literal,
        name: None,
        canonical: None,
        addresses: vec![address],
        exchanger_status: SecurityStatus::Indeterminate,
        address_status: SecurityStatus::Indeterminate,
    };
    Step::Found(Destinations { exchangers: vec![exchanger], remarks: remarks.into_vec() })
}

/// Addresses to which TCP does not go, or not without more than an address: a link-local one lacks its interface, and an
/// IPv4-mapped one is an IPv4 address in the wrong record.
fn is_unusable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    }
}

/// Spreads the bits of a counter (SplitMix64): what a caller gives as seed may be any number.
const fn mix(counter: u64) -> u64 {
    let z = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
