//! Who is let in: the connections of each listener and of each client, counted.
//!
//! What a message's precedence will be is not known when its client connects. So a connection counts as the highest
//! precedence that its client may ask for, and the last places of a listener are kept for who may ask for more: mail that
//! nobody hurries cannot keep out what is urgent.
//!
//! | when | reply |
//! |---|---|
//! | all places for a client of this class are taken | `421 4.3.2` |
//! | the client has as many connections as one may have | `421 4.7.0` |

use rustc_hash::FxHashMap;
use std::net::IpAddr;
use sternpost_config::Listener;
use sternpost_link::qmgr::ListenerConnections;
use sternpost_message::CivilPriority;

const NO_PLACE: &str = "421 4.3.2 too many connections, try again later\r\n";
const TOO_MANY_OF_YOURS: &str = "421 4.7.0 too many connections from your address, try again later\r\n";

/// The connections that are open, and how many were refused.
#[derive(Debug, Default)]
pub(super) struct Admission {
    by_listener: FxHashMap<String, Places>,
    /// Of each network that counts as one client.
    by_client: FxHashMap<IpAddr, u32>,
    open: u32,
}

/// One listener's places.
#[derive(Debug, Default)]
struct Places {
    /// Open connections by the class of their client: non-urgent, normal, urgent.
    open: [u32; 3],
    refused: u64,
}

/// A place that was given, to be given back.
#[derive(Debug)]
pub(super) struct Place {
    listener: String,
    class: CivilPriority,
    network: IpAddr,
}

impl Admission {
    /// Gives a place to a client whose highest precedence is of this class.
    ///
    /// # Errors
    /// The reply, when there is none for it.
    pub(super) fn admit(
        &mut self,
        listener: &Listener,
        class: CivilPriority,
        client: IpAddr,
    ) -> Result<Place, &'static str> {
        let network = client_network(client);
        let from_client = self.by_client.get(&network).copied().unwrap_or(0);
        let per_client_max = listener.connections_per_client_max_in_force();
        let places = self.by_listener.entry(listener.name.clone()).or_default();
        let refusal = if places.open.iter().sum::<u32>() >= listener.connections_max_of(class) {
            NO_PLACE
        } else if per_client_max > 0 && from_client >= per_client_max {
            TOO_MANY_OF_YOURS
        } else {
            places.open[class as usize] += 1;
            self.open += 1;
            *self.by_client.entry(network).or_insert(0) += 1;
            return Ok(Place { listener: listener.name.clone(), class, network });
        };
        places.refused += 1;
        Err(refusal)
    }

    /// Takes a place back: its connection has ended.
    pub(super) fn release(&mut self, place: Place) {
        let Place { listener, class, network } = place;
        self.open -= 1;
        if let Some(places) = self.by_listener.get_mut(&listener) {
            places.open[class as usize] -= 1;
        }
        if let Some(count) = self.by_client.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&network);
            }
        }
    }

    /// Connections that are open.
    pub(super) const fn open_count(&self) -> u32 {
        self.open
    }

    /// How it stands with these listeners.
    pub(super) fn status<'a>(
        &self,
        listeners: impl IntoIterator<Item = &'a Listener>,
    ) -> Vec<ListenerConnections> {
        let status = |listener: &Listener| {
            let places = self.by_listener.get(&listener.name);
            let [non_urgent, normal, urgent] = places.map_or([0; 3], |places| places.open);
            ListenerConnections {
                listener: listener.name.clone(),
                urgent,
                normal,
                non_urgent,
                max: listener.connections_max_in_force(),
                max_for_normal: listener.connections_max_of(CivilPriority::Normal),
                max_for_non_urgent: listener.connections_max_of(CivilPriority::NonUrgent),
                refused: places.map_or(0, |places| places.refused),
            }
        };
        listeners.into_iter().map(status).collect()
    }
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address, which one host may have to itself.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() & (u128::MAX << 64)).into()),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CivilPriority::{NonUrgent, Normal, Urgent};

    /// Ten places, of which two are for urgent mail, and one more for normal mail.
    fn listener(per_client_max: u32) -> Listener {
        let tables = format!(
            "[node]\nhostname = \"relay.example\"\n[[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:0\"]\n\
             connections_max = 10\nconnections_reserve_urgent = 2\nconnections_reserve_normal = 1\n\
             connections_per_client_max = {per_client_max}\n"
        );
        let entries = sternpost_config::entries_from_tables(&tables).unwrap();
        let loaded = sternpost_config::load(&entries, "");
        loaded.configuration.unwrap().listeners.remove(0)
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn each_class_fills_what_is_not_kept_for_a_higher_one() {
        let (listener, mut admission) = (listener(0), Admission::default());
        let mut fill =
            |class| (0..20).filter_map(|_| admission.admit(&listener, class, client(1)).ok()).count();
        assert_eq!([fill(NonUrgent), fill(Normal), fill(Urgent)], [7, 1, 2]);
        assert_eq!(admission.admit(&listener, Urgent, client(1)).unwrap_err(), NO_PLACE);
        let status = &admission.status([&listener])[0];
        assert_eq!((status.non_urgent, status.normal, status.urgent), (7, 1, 2));
        assert_eq!((status.max, status.max_for_normal, status.max_for_non_urgent), (10, 8, 7));
        // 13, 19 and 18 when they were filled, and one.
        assert_eq!((status.refused, admission.open_count()), (51, 10));
    }

    #[test]
    fn a_place_that_is_given_back_is_there_for_the_next() {
        let (listener, mut admission) = (listener(0), Admission::default());
        let mut places: Vec<_> =
            (0..7).map(|_| admission.admit(&listener, NonUrgent, client(1)).unwrap()).collect();
        assert!(admission.admit(&listener, NonUrgent, client(1)).is_err());
        admission.release(places.remove(0));
        assert!(admission.admit(&listener, NonUrgent, client(1)).is_ok());
        assert_eq!(admission.open_count(), 7);
    }

    #[test]
    fn places_that_the_urgent_have_taken_are_missing_for_all_others() {
        let (listener, mut admission) = (listener(0), Admission::default());
        (0..8).for_each(|_| drop(admission.admit(&listener, Urgent, client(1)).unwrap()));
        assert_eq!(admission.admit(&listener, Normal, client(2)).unwrap_err(), NO_PLACE);
        assert!(admission.admit(&listener, Urgent, client(2)).is_ok());
    }

    #[test]
    fn a_client_has_its_own_limit_whatever_it_may_ask_for() {
        let (listener, mut admission) = (listener(2), Admission::default());
        let places: Vec<_> = (0..2).map(|_| admission.admit(&listener, Urgent, client(1)).unwrap()).collect();
        assert_eq!(admission.admit(&listener, Urgent, client(1)).unwrap_err(), TOO_MANY_OF_YOURS);
        assert!(admission.admit(&listener, Urgent, client(2)).is_ok());
        places.into_iter().for_each(|place| admission.release(place));
        assert!(admission.admit(&listener, Urgent, client(1)).is_ok());
    }

    #[test]
    fn one_client_is_an_address_or_a_network_of_64_bits() {
        let rows = [
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (one, other, is_same) in rows {
            let [one, other] = [one, other].map(|text| client_network(text.parse().unwrap()));
            assert_eq!(one == other, is_same, "{one} {other}");
        }
    }
}
