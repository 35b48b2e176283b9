//! xtext, the encoding of DSN parameters. RFC 3461, section 4.

/// Whether `text` is xtext: printable US-ASCII without space, `+` and `=`, or `+` and two upper-case hexadecimal
/// digits. May be empty.
pub(crate) fn is_xtext(text: &str) -> bool {
    let mut octets = text.bytes();
    let is_digit = |octet: Option<u8>| matches!(octet, Some(b'0'..=b'9' | b'A'..=b'F'));
    while let Some(octet) = octets.next() {
        let good = match octet {
            b'+' => is_digit(octets.next()) && is_digit(octets.next()),
            b'=' => false,
            _ => octet.is_ascii_graphic(),
        };
        if !good {
            return false;
        }
    }
    true
}

/// Whether `text` is the value of `ORCPT`: `addr-type ";" xtext`. With the type `utf-8` the address may hold UTF-8
/// where SMTPUTF8 is in force (RFC 6533, section 3).
pub(crate) fn is_original_recipient(text: &str, smtputf8: bool) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let kind_is_atom =
        !kind.is_empty() && kind.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    if !kind_is_atom || address.is_empty() {
        return false;
    }
    if kind.eq_ignore_ascii_case("utf-8") && smtputf8 {
        return address
            .chars()
            .all(|c| if c.is_ascii() { c.is_ascii_graphic() && c != '=' } else { !c.is_control() });
    }
    is_xtext(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_printable_ascii_with_two_digit_escapes() {
        for good in ["", "QQ314159", "a+2Bb", "+3D", "rfc822;a@b"] {
            assert!(is_xtext(good), "{good:?}");
        }
        for bad in ["+", "+2", "+2b", "a=b", "a b", "é", "\u{7f}"] {
            assert!(!is_xtext(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_original_recipient_has_a_type_and_an_address() {
        assert!(is_original_recipient("rfc822;joe+2B@example.org", false));
        assert!(is_original_recipient("utf-8;пример@пример.рф", true));
        for bad in ["rfc822", ";a@b", "rfc822;", "rfc 822;a", "rfc822;a=b", "utf-8;é@b"] {
            assert!(!is_original_recipient(bad, false), "{bad:?}");
        }
    }
}
