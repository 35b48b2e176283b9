//! Paths and parameters of MAIL and RCPT. RFC 5321, section 4.1.2; RFC 1870, 3461, 4954, 6152, 6531, 6710.

use super::command::number;
use super::{Authentication, MailFrom, RcptTo, ServerPolicy, replies};
use crate::xtext::{is_original_recipient, is_xtext};
use sternpost_message::{BodyType, Mailbox, Notify, Ret, ReversePath};

/// RFC 3461, section 4.4.
const ENVELOPE_ID_OCTETS_MAX: usize = 100;
/// RFC 3461, section 4.2.
const ORIGINAL_RECIPIENT_OCTETS_MAX: usize = 500;

/// RFC 4954, section 5.
const SUBMITTER_OCTETS_MAX: usize = 500;

type Refusal = &'static str;

/// Reads what stands behind `MAIL FROM:`. `extended` after EHLO: only then are there parameters.
///
/// # Errors
/// The reply.
pub(crate) fn mail_from(text: &str, extended: bool, policy: &ServerPolicy) -> Result<MailFrom, Refusal> {
    let (path, rest) = path(text).ok_or(replies::MAIL_SYNTAX)?;
    let sender = if path.is_empty() {
        ReversePath::Null
    } else {
        ReversePath::Mailbox(mailbox(path).ok_or(replies::SENDER_ADDRESS)?)
    };
    let mut mail = MailFrom {
        sender,
        size: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        mt_priority: None,
    };
    let (mut body, mut submitter) = (None, None);
    for (keyword, value) in parameters(rest) {
        if !extended {
            return Err(replies::PARAMETER_UNKNOWN);
        }
        if keyword.eq_ignore_ascii_case("SIZE") {
            once(&mut mail.size, value.and_then(number))?;
        } else if keyword.eq_ignore_ascii_case("BODY") {
            once(&mut body, Some(body_type(value)?))?;
        } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
            flag(&mut mail.smtputf8, value)?;
        } else if keyword.eq_ignore_ascii_case("RET") {
            once(&mut mail.ret, value.and_then(ret))?;
        } else if keyword.eq_ignore_ascii_case("ENVID") {
            let good = value.filter(|value| value.len() <= ENVELOPE_ID_OCTETS_MAX && is_xtext(value));
            once(&mut mail.envelope_id, good.filter(|value| !value.is_empty()).map(str::to_owned))?;
        } else if keyword.eq_ignore_ascii_case("MT-PRIORITY") {
            once(&mut mail.mt_priority, value.and_then(|value| value.parse().ok()))?;
        } else if keyword.eq_ignore_ascii_case("AUTH") && policy.authentication != Authentication::Absent {
            // RFC 4954, section 5: who is not trusted to say for whom it submits is heard as if it had said `<>`. Nobody is, and
            // `<>` changes nothing.
            let is_good = |value: &&str| (1..=SUBMITTER_OCTETS_MAX).contains(&value.len()) && is_xtext(value);
            once(&mut submitter, value.filter(is_good))?;
        } else {
            return Err(replies::PARAMETER_UNKNOWN);
        }
    }
    mail.body = body.unwrap_or_default();
    if !mail.smtputf8 && mail.sender.mailbox().is_some_and(|mailbox| !mailbox.is_ascii()) {
        return Err(replies::NEEDS_SMTPUTF8);
    }
    if mail.size.is_some_and(|size| size > policy.message_octets_max) {
        return Err(replies::TOO_LARGE);
    }
    Ok(mail)
}

/// Reads what stands behind `RCPT TO:`. `smtputf8` is what MAIL said.
///
/// # Errors
/// The reply.
pub(crate) fn rcpt_to(
    text: &str,
    extended: bool,
    smtputf8: bool,
    policy: &ServerPolicy,
) -> Result<RcptTo, Refusal> {
    let (path, rest) = path(text).ok_or(replies::RCPT_SYNTAX)?;
    // RFC 5321, 4.1.1.3 and 4.5.1: <postmaster> without a domain is ours.
    let address = if path.eq_ignore_ascii_case("postmaster") {
        Mailbox::parse(&format!("{path}@{}", policy.hostname)).ok()
    } else {
        mailbox(path)
    };
    let mut rcpt = RcptTo {
        address: address.ok_or(replies::RECIPIENT_ADDRESS)?,
        notify: None,
        original_recipient: None,
    };
    for (keyword, value) in parameters(rest) {
        if !extended {
            return Err(replies::PARAMETER_UNKNOWN);
        }
        if keyword.eq_ignore_ascii_case("NOTIFY") {
            once(&mut rcpt.notify, value.and_then(notify))?;
        } else if keyword.eq_ignore_ascii_case("ORCPT") {
            let good = value.filter(|value| {
                value.len() <= ORIGINAL_RECIPIENT_OCTETS_MAX && is_original_recipient(value, smtputf8)
            });
            once(&mut rcpt.original_recipient, good.map(str::to_owned))?;
        } else {
            return Err(replies::PARAMETER_UNKNOWN);
        }
    }
    if !smtputf8 && !rcpt.address.is_ascii() {
        return Err(replies::NEEDS_SMTPUTF8);
    }
    Ok(rcpt)
}

/// The inside of `<…>` and what stands behind it. A `>` in a quoted string ends nothing.
fn path(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in inside.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &inside[at + 1..];
                return (rest.is_empty() || rest.starts_with(' ')).then_some((&inside[..at], rest));
            }
            _ => {}
        }
    }
    None
}

/// A mailbox, its source route taken off: RFC 5321, 4.1.1.3 wants it accepted and ignored.
fn mailbox(path: &str) -> Option<Mailbox> {
    let address = if path.starts_with('@') {
        let (route, address) = path.split_once(':')?;
        let route_is_good = route.split(',').all(|hop| hop.len() > 1 && hop.starts_with('@'));
        route_is_good.then_some(address)?
    } else {
        path
    };
    Mailbox::parse(address).ok()
}

/// The parameters: `keyword` or `keyword=value`, with spaces between.
fn parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Refusal> {
    match (slot.is_some(), value) {
        (true, _) => Err(replies::PARAMETER_TWICE),
        (false, None) => Err(replies::PARAMETER_VALUE),
        (false, value) => {
            *slot = value;
            Ok(())
        }
    }
}

fn flag(slot: &mut bool, value: Option<&str>) -> Result<(), Refusal> {
    match (std::mem::replace(slot, true), value) {
        (true, _) => Err(replies::PARAMETER_TWICE),
        (false, Some(_)) => Err(replies::PARAMETER_VALUE),
        (false, None) => Ok(()),
    }
}

fn body_type(value: Option<&str>) -> Result<BodyType, Refusal> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(BodyType::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(BodyType::EightBitMime),
        Some(value) if value.eq_ignore_ascii_case("BINARYMIME") => Err(replies::BODY_UNSUPPORTED),
        _ => Err(replies::PARAMETER_VALUE),
    }
}

fn ret(value: &str) -> Option<Ret> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Some(Ret::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Some(Ret::Headers),
        _ => None,
    }
}

/// `NEVER`, or a list of the others without repetition.
fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        let wish = match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
            _ if word.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
            _ if word.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
            _ => return None,
        };
        if std::mem::replace(wish, true) {
            return None;
        }
    }
    Some(notify)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> ServerPolicy {
        ServerPolicy { message_octets_max: 1000, ..ServerPolicy::new("mx.example.org") }
    }

    #[test]
    fn every_parameter_of_mail_is_understood() {
        let text = "<@hop,@hop2:\"a>b\"@example.org> SIZE=1000 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=Q+2B MT-PRIORITY=-4";
        let mail = mail_from(text, true, &policy()).unwrap();
        assert_eq!(mail.sender.to_string(), "<\"a>b\"@example.org>");
        assert_eq!((mail.size, mail.body, mail.smtputf8), (Some(1000), BodyType::EightBitMime, true));
        assert_eq!((mail.ret, mail.envelope_id.as_deref()), (Some(Ret::Headers), Some("Q+2B")));
        assert_eq!(mail.mt_priority.unwrap().get(), -4);
    }

    #[test]
    fn each_bad_mail_has_its_reply() {
        let rows = [
            ("a@b", replies::MAIL_SYNTAX),
            (" <a@b>", replies::MAIL_SYNTAX),
            ("<a@b", replies::MAIL_SYNTAX),
            ("<a@b>SIZE=1", replies::MAIL_SYNTAX),
            ("<a b@c>", replies::SENDER_ADDRESS),
            ("<@:a@b>", replies::SENDER_ADDRESS),
            ("<é@b>", replies::NEEDS_SMTPUTF8),
            ("<> SIZE=1001", replies::TOO_LARGE),
            ("<> SIZE=1 size=1", replies::PARAMETER_TWICE),
            ("<> SMTPUTF8 SMTPUTF8", replies::PARAMETER_TWICE),
            ("<> SMTPUTF8=1", replies::PARAMETER_VALUE),
            ("<> SIZE", replies::PARAMETER_VALUE),
            ("<> SIZE=-1", replies::PARAMETER_VALUE),
            ("<> BODY=9BIT", replies::PARAMETER_VALUE),
            ("<> BODY=BINARYMIME", replies::BODY_UNSUPPORTED),
            ("<> RET=SOME", replies::PARAMETER_VALUE),
            ("<> ENVID=", replies::PARAMETER_VALUE),
            ("<> ENVID=a+b", replies::PARAMETER_VALUE),
            ("<> MT-PRIORITY=10", replies::PARAMETER_VALUE),
            ("<> AUTH=<>", replies::PARAMETER_UNKNOWN),
        ];
        for (text, reply) in rows {
            assert_eq!(mail_from(text, true, &policy()), Err(reply), "{text}");
        }
        assert_eq!(mail_from("<> SIZE=1", false, &policy()), Err(replies::PARAMETER_UNKNOWN));
    }

    #[test]
    fn for_whom_a_client_submits_is_read_where_auth_is_offered_and_changes_nothing() {
        let policy = ServerPolicy { authentication: Authentication::Offered, ..policy() };
        let without = mail_from("<a@b>", true, &policy).unwrap();
        for value in ["<>", "joe@example.org", "e+3Dmc2@example.com"] {
            assert_eq!(mail_from(&format!("<a@b> AUTH={value}"), true, &policy).as_ref(), Ok(&without));
        }
        let long = "x".repeat(SUBMITTER_OCTETS_MAX + 1);
        for value in ["AUTH", "AUTH=", "AUTH=a+b", &format!("AUTH={long}")] {
            let refusal = mail_from(&format!("<a@b> {value}"), true, &policy);
            assert_eq!(refusal, Err(replies::PARAMETER_VALUE), "{value}");
        }
        assert_eq!(mail_from("<> AUTH=<> AUTH=<>", true, &policy), Err(replies::PARAMETER_TWICE));
    }

    #[test]
    fn every_parameter_of_rcpt_is_understood() {
        let text = "<joe@example.org> NOTIFY=SUCCESS,delay ORCPT=rfc822;joe+2Bx@example.org";
        let rcpt = rcpt_to(text, true, false, &policy()).unwrap();
        assert_eq!(rcpt.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(rcpt.original_recipient.as_deref(), Some("rfc822;joe+2Bx@example.org"));
        let postmaster = rcpt_to("<PostMaster>", true, false, &policy()).unwrap();
        assert_eq!(postmaster.address.as_str(), "PostMaster@mx.example.org");
    }

    #[test]
    fn the_longest_parameters_that_rfc_3461_promises_are_taken() {
        let orcpt = |octets: usize| format!("rfc822;{}", "x".repeat(octets - "rfc822;".len()));
        let rcpt = |octets| rcpt_to(&format!("<a@b> ORCPT={}", orcpt(octets)), true, false, &policy());
        assert_eq!(rcpt(500).unwrap().original_recipient, Some(orcpt(500)));
        assert_eq!(rcpt(501), Err(replies::PARAMETER_VALUE));
        let mail = |octets| mail_from(&format!("<> ENVID={}", "x".repeat(octets)), true, &policy());
        assert_eq!(mail(100).unwrap().envelope_id.map(|id| id.len()), Some(100));
        assert_eq!(mail(101), Err(replies::PARAMETER_VALUE));
    }

    #[test]
    fn each_bad_rcpt_has_its_reply() {
        let rows = [
            ("joe@b", replies::RCPT_SYNTAX),
            ("<>", replies::RECIPIENT_ADDRESS),
            ("<joe>", replies::RECIPIENT_ADDRESS),
            ("<é@b>", replies::NEEDS_SMTPUTF8),
            ("<a@b> NOTIFY=NEVER,DELAY", replies::PARAMETER_VALUE),
            ("<a@b> NOTIFY=DELAY,DELAY", replies::PARAMETER_VALUE),
            ("<a@b> NOTIFY=DELAY NOTIFY=DELAY", replies::PARAMETER_TWICE),
            ("<a@b> ORCPT=joe", replies::PARAMETER_VALUE),
            ("<a@b> SIZE=1", replies::PARAMETER_UNKNOWN),
        ];
        for (text, reply) in rows {
            assert_eq!(rcpt_to(text, true, false, &policy()), Err(reply), "{text}");
        }
    }
}
