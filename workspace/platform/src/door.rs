//! The door of a socket of the run directory: who connects is who the kernel says, and says nothing that is another
//! role's business.
//!
//! A refused link is closed, and the log says so once in ten seconds at most. Not here: which frames are whose business
//! (`sternpost-link`), and which user has which role (`image/roles.toml`).

use crate::link::Peer;
use crate::wire::Wire;
use std::cell::Cell;
use std::time::{Duration, Instant};
use sternpost_link::{Hello, PROTOCOL_VERSION, Role};

/// Between two lines about refused links, however many there are.
const TELL_PAUSE: Duration = Duration::from_secs(10);

/// Which users the roles of this switch are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// All roles, and operators, are this user or root.
    Same(u32),
    /// Each role is a user of its own.
    Separate {
        /// Those who may ask as operators.
        operators: Vec<u32>,
        /// The user of each role; what is not in it connects to nobody.
        roles: Vec<(Role, u32)>,
    },
}

impl Users {
    /// Whether a process of `uid` may say that it is `role`.
    #[must_use]
    pub fn may_be(&self, role: Role, uid: u32) -> bool {
        match self {
            Self::Same(own) => uid == *own || uid == 0,
            Self::Separate { operators, .. } if role == Role::Operator => operators.contains(&uid),
            Self::Separate { roles, .. } => roles.contains(&(role, uid)),
        }
    }
}

/// The door of one socket.
#[derive(Debug)]
pub struct Door {
    users: Users,
    told: Cell<Option<Instant>>,
    untold_count: Cell<u64>,
}

impl Door {
    /// A door for these users.
    #[must_use]
    pub const fn new(users: Users) -> Self {
        Self { users, told: Cell::new(None), untold_count: Cell::new(0) }
    }

    /// Takes the greeting of a link from whoever may say it, with the process id that the kernel gives; else the link is
    /// closed.
    pub fn admit(&self, link: &impl Wire, hello: Hello) -> Option<Hello> {
        let why = match link.peer() {
            Ok(peer) if hello.version == PROTOCOL_VERSION && self.users.may_be(hello.role, peer.uid) => {
                return Some(Hello { pid: peer.pid, ..hello });
            }
            Ok(_) if hello.version != PROTOCOL_VERSION => {
                format!("it speaks version {} of the protocol and not {PROTOCOL_VERSION}", hello.version)
            }
            Ok(_) => format!("its user is not the one of {}", hello.role.name()),
            Err(error) => format!("the kernel does not say who it is ({error})"),
        };
        self.refuse(link, &why);
        None
    }

    /// Closes a link for a reason.
    pub fn refuse(&self, link: &impl Wire, why: &str) {
        link.close();
        let Some(untold_count) = self.tells(Instant::now()) else { return };
        let Peer { uid, pid } = link.peer().unwrap_or(Peer { uid: u32::MAX, pid: 0 });
        tracing::warn!(
            event = "link.refused",
            uid,
            pid,
            why,
            untold_count,
            "a process was refused at a socket of the run directory"
        );
    }

    /// Whether a refusal is told now, and how many were not since the last one that was.
    fn tells(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now.saturating_duration_since(told) < TELL_PAUSE) {
            self.untold_count.set(self.untold_count.get() + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.untold_count.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Link, Listener, connect, listen};

    #[test]
    fn with_users_of_their_own_a_role_is_its_user_and_an_operator_one_of_the_operators() {
        let users =
            Users::Separate { operators: vec![0, 900], roles: vec![(Role::Store, 901), (Role::Qmgr, 902)] };
        assert!(users.may_be(Role::Store, 901) && users.may_be(Role::Qmgr, 902));
        assert!(users.may_be(Role::Operator, 900) && users.may_be(Role::Operator, 0));
        for (role, uid) in [
            (Role::Store, 902),
            (Role::Qmgr, 0),
            (Role::Directory, 903),
            (Role::Operator, 902),
            (Role::Qmgr, 900),
        ] {
            assert!(!users.may_be(role, uid), "{role:?} {uid}");
        }
    }

    #[test]
    fn with_one_user_every_role_is_that_user_or_root() {
        let users = Users::Same(1_000);
        assert!(users.may_be(Role::Store, 1_000) && users.may_be(Role::Operator, 0));
        assert!(!users.may_be(Role::Operator, 1_001));
    }

    #[test]
    fn refusals_are_told_once_in_a_while_and_none_is_forgotten() {
        let door = Door::new(Users::Same(0));
        let start = Instant::now();
        assert_eq!(door.tells(start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(door.tells(start + TELL_PAUSE / 2), None);
        }
        assert_eq!(door.tells(start + TELL_PAUSE), Some(1_000));
        assert_eq!(door.tells(start + 2 * TELL_PAUSE), Some(0));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_kernels_word_stands_for_the_process_id_and_a_strangers_link_is_closed() {
        let here = async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let listener = Listener::new(listen(&path).unwrap()).unwrap();
            let _here = Link::new(connect(&path).unwrap()).unwrap();
            let there = Link::new(listener.accept().await.unwrap()).unwrap();
            let uid = rustix::process::geteuid().as_raw();
            let says = |version| Hello {
                version,
                role: Role::Channel,
                pid: 1,
                process: 3,
                channel: "c".to_owned(),
                capacity: 4,
            };
            let admitted = Door::new(Users::Same(uid)).admit(&*there, says(PROTOCOL_VERSION)).unwrap();
            assert_eq!(admitted, Hello { pid: std::process::id(), ..says(PROTOCOL_VERSION) });
            let strangers = Users::Separate { operators: vec![uid], roles: vec![(Role::Channel, uid + 1)] };
            assert_eq!(Door::new(strangers).admit(&*there, says(PROTOCOL_VERSION)), None);
            let end = there.receive(&mut vec![0; sternpost_link::DATAGRAM_OCTETS_MAX]).await.unwrap_err();
            assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
            assert_eq!(Door::new(Users::Same(uid)).admit(&*there, says(PROTOCOL_VERSION + 1)), None);
        };
        tokio::task::LocalSet::new().run_until(here).await;
    }
}
