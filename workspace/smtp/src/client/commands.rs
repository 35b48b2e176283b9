//! Commands and content as they go over the wire.

use super::{Extensions, Transaction, TransactionRecipient};
use crate::xtext::{is_original_recipient, is_xtext};
use memchr::memmem;
use sternpost_message::{BodyType, Diagnostic, EnhancedStatus, Notify, Ret};

/// Why a transaction cannot go to a peer with these extensions at all.
pub(super) fn obstacle(transaction: &Transaction, extensions: &Extensions) -> Option<Diagnostic> {
    let own = |subject, detail, text| Some(Diagnostic::own(EnhancedStatus::new(5, subject, detail), text));
    if extensions.size_octets_max.is_some_and(|octets_max| transaction.content_octets > octets_max) {
        return own(3, 4, "The message is larger than the peer takes");
    }
    if transaction.body == BodyType::EightBitMime && !extensions.eight_bit_mime {
        return own(6, 3, "The message needs 8BITMIME, which the peer does not offer");
    }
    if needs_smtputf8(transaction) && !extensions.smtputf8 {
        return own(6, 7, "The message needs SMTPUTF8, which the peer does not offer");
    }
    None
}

fn needs_smtputf8(transaction: &Transaction) -> bool {
    transaction.smtputf8
        || transaction.sender.mailbox().is_some_and(|mailbox| !mailbox.is_ascii())
        || transaction.recipients.iter().any(|recipient| !recipient.address.is_ascii())
}

/// Appends MAIL with the parameters that the peer knows, for a content that may grow by some octets on its way.
pub(super) fn mail(
    transaction: &Transaction,
    added_octets_max: u64,
    extensions: &Extensions,
    out: &mut Vec<u8>,
) {
    push(out, &["MAIL FROM:<", transaction.sender.mailbox().map_or("", |mailbox| mailbox.as_str()), ">"]);
    if extensions.size {
        push(out, &[" SIZE=", &(transaction.content_octets + added_octets_max).to_string()]);
    }
    if transaction.body == BodyType::EightBitMime {
        push(out, &[" BODY=8BITMIME"]);
    }
    if needs_smtputf8(transaction) {
        push(out, &[" SMTPUTF8"]);
    }
    if extensions.dsn {
        match transaction.ret {
            Some(Ret::Full) => push(out, &[" RET=FULL"]),
            Some(Ret::Headers) => push(out, &[" RET=HDRS"]),
            None => {}
        }
        // What is not xtext could end the line: it stays here.
        if let Some(id) = transaction.envelope_id.as_deref().filter(|id| !id.is_empty() && is_xtext(id)) {
            push(out, &[" ENVID=", id]);
        }
    }
    if let Some(priority) = transaction.mt_priority.filter(|_| extensions.mt_priority) {
        push(out, &[" MT-PRIORITY=", &priority.to_string()]);
    }
    push(out, &["\r\n"]);
}

/// Appends RCPT with the parameters that the peer knows.
pub(super) fn rcpt(recipient: &TransactionRecipient, extensions: &Extensions, out: &mut Vec<u8>) {
    push(out, &["RCPT TO:<", recipient.address.as_str(), ">"]);
    if extensions.dsn {
        if let Some(notify) = recipient.notify {
            push(out, &[" NOTIFY=", notify_words(notify)]);
        }
        let original = recipient.original_recipient.as_deref();
        if let Some(original) =
            original.filter(|original| is_original_recipient(original, extensions.smtputf8))
        {
            push(out, &[" ORCPT=", original]);
        }
    }
    push(out, &["\r\n"]);
}

const fn notify_words(notify: Notify) -> &'static str {
    match (notify.success, notify.failure, notify.delay) {
        (false, false, false) => "NEVER",
        (true, false, false) => "SUCCESS",
        (false, true, false) => "FAILURE",
        (false, false, true) => "DELAY",
        (true, true, false) => "SUCCESS,FAILURE",
        (true, false, true) => "SUCCESS,DELAY",
        (false, true, true) => "FAILURE,DELAY",
        (true, true, true) => "SUCCESS,FAILURE,DELAY",
    }
}

fn push(out: &mut Vec<u8>, words: &[&str]) {
    for word in words {
        out.extend_from_slice(word.as_bytes());
    }
}

/// Doubles dots at the start of lines. RFC 5321, 4.5.2.
///
/// A line starts behind CR LF. Behind LF alone, which no content of ours should hold, a dot is doubled as well: a peer
/// that takes LF for the end of a line must not see the end of the content there.
#[derive(Clone, Copy, Debug)]
pub(super) struct DotStuffer {
    /// The last two octets, or CR LF at the beginning.
    last: [u8; 2],
}

impl DotStuffer {
    pub(super) const fn new() -> Self {
        Self { last: *b"\r\n" }
    }

    /// Appends a piece.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(&end) = piece.last() else { return };
        out.reserve(piece.len() + 16);
        if self.last[1] == b'\n' && piece[0] == b'.' {
            out.push(b'.');
        }
        let mut from = 0;
        for at in memmem::find_iter(piece, b"\n.") {
            out.extend_from_slice(&piece[from..=at]);
            out.push(b'.');
            from = at + 1;
        }
        out.extend_from_slice(&piece[from..]);
        let before = if piece.len() > 1 { piece[piece.len() - 2] } else { self.last[1] };
        self.last = [before, end];
    }

    /// Appends the end: a last line without its CR LF gets it.
    pub(super) fn end(self, out: &mut Vec<u8>) {
        if self.last != *b"\r\n" {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_at_the_start_of_lines_are_doubled_however_the_content_is_cut() {
        let content = b".a\r\n.\r\n..\r\nb.\r\n.";
        for cut in 0..=content.len() {
            let (mut stuffer, mut out) = (DotStuffer::new(), Vec::new());
            stuffer.push(&content[..cut], &mut out);
            stuffer.push(&content[cut..], &mut out);
            stuffer.end(&mut out);
            assert_eq!(out, b"..a\r\n..\r\n...\r\nb.\r\n..\r\n.\r\n", "cut at {cut}");
        }
    }

    #[test]
    fn the_end_stands_on_a_line_of_its_own() {
        for (content, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b"a\n", b"a\n\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"\r\n", b"\r\n.\r\n"),
            (b"a\n.\nb\r\n", b"a\n..\nb\r\n.\r\n"),
        ] {
            let (mut stuffer, mut out) = (DotStuffer::new(), Vec::new());
            stuffer.push(content, &mut out);
            stuffer.end(&mut out);
            assert_eq!(out, wire);
        }
    }
}
