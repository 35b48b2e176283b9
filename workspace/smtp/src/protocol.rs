//! Which of the two protocols a session speaks.

/// Mail goes on to an MTA, or ends in a message store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// To another MTA, which becomes responsible: outcomes are `Transferred`.
    #[default]
    Smtp,
    /// To a message store, one reply for each recipient behind the content: outcomes are `Delivered`. RFC 2033.
    Lmtp,
}
