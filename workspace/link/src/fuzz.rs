//! Entry points for fuzzing: octets as they could come from a link.

use crate::qmgr::{FromQmgr, ToQmgr};
use crate::signer::{FromSigner, ToSigner};
use crate::store::{FromStore, ToStore};
use crate::supervisor::{FromSupervisor, ToSupervisor};
use crate::{Frames, Outbox};
use serde::{Deserialize, Serialize};

/// Reads `datagram` as each link would; whatever is understood must survive being sent again.
pub fn fuzz_datagram(datagram: &[u8]) {
    read::<ToStore<'_>>(datagram);
    read::<FromStore>(datagram);
    read::<ToQmgr>(datagram);
    read::<FromQmgr>(datagram);
    read::<ToSigner>(datagram);
    read::<FromSigner>(datagram);
    read::<ToSupervisor>(datagram);
    read::<FromSupervisor>(datagram);
}

fn read<'a, F: Deserialize<'a> + Serialize>(datagram: &'a [u8]) {
    let Ok(mut frames) = Frames::open(datagram) else { return };
    let mut outbox = Outbox::default();
    while let Ok(Some(frame)) = frames.next_frame::<F>() {
        // A frame may grow when it is written in the shortest form again? It cannot: it fitted a datagram once.
        assert!(outbox.push(&frame).is_ok() || datagram.len() > crate::DATAGRAM_OCTETS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hello, PROTOCOL_VERSION, Role};
    use proptest::prelude::*;

    fn good() -> Vec<u8> {
        let mut outbox = Outbox::default();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            role: Role::Channel,
            pid: 7,
            process: 1,
            channel: "smtp".to_owned(),
            capacity: 64,
        };
        outbox.push(&ToQmgr::Hello(hello)).unwrap();
        outbox.push(&ToStore::Release { cells: vec![1, 2, 300] }).unwrap();
        outbox.front().unwrap().to_vec()
    }

    proptest! {
        #[test]
        fn any_octets_behind_a_good_header_are_frames_or_an_error(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut datagram = good()[..8].to_vec();
            datagram.extend_from_slice(&body);
            fuzz_datagram(&datagram);
        }

        #[test]
        fn a_good_datagram_with_changed_octets_is_frames_or_an_error(at in 0_usize..40, octet in any::<u8>()) {
            let mut datagram = good();
            let at = at % datagram.len();
            datagram[at] = octet;
            fuzz_datagram(&datagram);
        }
    }
}
