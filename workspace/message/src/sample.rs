//! An ordinary envelope for tests and measurements, which change in it what matters to them. Behind the feature `sample`: no
//! part of a device has it.

use crate::{BodyType, Envelope, Mailbox, Precedence, Recipient, ReversePath, Route, RouteIndex, UnixMillis};

/// From the null sender to these addresses by one route, without any option.
///
/// # Panics
/// When an address is none.
#[must_use]
pub fn envelope(recipients: &[&str], (channel, peer): (&str, &str)) -> Envelope {
    Envelope {
        sender: ReversePath::Null,
        recipients: recipients.iter().map(|address| recipient(address)).collect(),
        routes: vec![route(channel, peer)],
        accepted_at: UnixMillis(0),
        precedence: Precedence::Routine,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: "inbound".to_owned(),
        client: "192.0.2.1".to_owned(),
        tls: None,
        identity: None,
    }
}

/// A recipient by the first route who wants to hear of nothing in particular.
///
/// # Panics
/// When the address is none.
#[must_use]
pub fn recipient(address: &str) -> Recipient {
    let address = Mailbox::parse(address).expect("whoever wants a sample gives an address");
    Recipient { address, route: RouteIndex(0), notify: None, original_recipient: None }
}

/// A route by its names.
#[must_use]
pub fn route(channel: &str, peer: &str) -> Route {
    Route { channel: channel.to_owned(), peer: peer.to_owned() }
}
