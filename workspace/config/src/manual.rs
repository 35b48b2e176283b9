//! The manual of the configuration, written out of the table of attributes: a page for `man`, and help on a terminal.

use crate::{Attribute, Class, Syntax, Values};
use std::fmt::Write;

/// The name of the page, and its section: file formats.
pub const MANUAL_PAGE: &str = "sternpost-configuration";
/// The section of the page.
pub const MANUAL_SECTION: u8 = 5;

const FITS: &str = "a String takes every text";

/// The page sternpost-configuration(5), in the macros of man(7).
#[must_use]
pub fn manual_page(version: &str) -> String {
    let mut out = format!(
        ".TH STERNPOST\\-CONFIGURATION {MANUAL_SECTION} \"\" \"sternpost {}\" \"Sternpost\"\n\
         .SH NAME\nsternpost\\-configuration \\- what a switch is told by its directory or its tables\n\
         .SH DESCRIPTION\n",
        escaped(version)
    );
    paragraph(
        &mut out,
        "A switch has its configuration from entries of an LDAP directory, or from tables in a TOML file. Both have the same model: \
         a section below is an object class of the directory and a table of the file, an attribute has a name in the directory and a key \
         in the table. A value that is missing has the default; one outside its bounds is an error that names entry and attribute, and \
         the entry keeps its last good version.",
    );
    out.push_str(".PP\n");
    paragraph(
        &mut out,
        "Every entry but a route has a cn, the key name in tables: its name, 1 to 64 of the characters A-Z a-z 0-9 . - _",
    );
    for class in Class::ALL {
        let brackets = if class.is_single() { ("[", "]") } else { ("[[", "]]") };
        writeln!(
            out,
            ".SH \"{} {}{}{}\"",
            escaped(class.name()),
            brackets.0,
            escaped(class.table()),
            brackets.1
        )
        .expect(FITS);
        paragraph(&mut out, class.description());
        for attribute in class.attributes() {
            writeln!(out, ".TP\n.BR {} \" (\" {} )", escaped(attribute.name), escaped(&attribute.key()))
                .expect(FITS);
            paragraph(&mut out, attribute.description);
            out.push_str(".br\n");
            paragraph(&mut out, &format!("{}.", facts(attribute)));
        }
    }
    out.push_str(
        ".SH SEE ALSO\n.BR sternpost (1),\n.BR sternpost\\-check\\-config (1),\n.BR sternpost\\-config\\-attributes (1),\n\
         .BR sternpost\\-provision\\-schema (1)\n",
    );
    out
}

/// An attribute for a terminal: its names, its class, what it says, and its bounds.
#[must_use]
pub fn attribute_help(attribute: &Attribute) -> String {
    format!(
        "{} (key {} of table {}, class {})\n  {}\n  {}.\n",
        attribute.name,
        attribute.key(),
        attribute.class.table(),
        attribute.class.name(),
        attribute.description,
        facts(attribute)
    )
}

/// Value, default and bounds, as one sentence without its full stop.
fn facts(attribute: &Attribute) -> String {
    let mut out = match attribute.syntax {
        Syntax::Text => "Text".to_owned(),
        Syntax::Template => "Text with placeholders".to_owned(),
        Syntax::Language => "A language tag".to_owned(),
        Syntax::Name => "The cn of an entry".to_owned(),
        Syntax::Credential => "The name of a credential".to_owned(),
        Syntax::Hostname => "A domain name".to_owned(),
        Syntax::DomainPattern => "A domain, .domain or *".to_owned(),
        Syntax::Mailbox => "A mailbox".to_owned(),
        Syntax::Integer => {
            let Attribute { min, max, unit, .. } = attribute;
            format!("A number from {min} to {max}, in {unit}")
        }
        Syntax::Boolean => "TRUE or FALSE".to_owned(),
        Syntax::Time => "YYYYMMDDhhmmssZ".to_owned(),
        Syntax::SocketAddress => "ADDRESS:PORT".to_owned(),
        Syntax::Address => "ADDRESS".to_owned(),
        Syntax::GroupHost => "PREFERENCE WEIGHT ADDRESS:PORT".to_owned(),
        Syntax::Network => "ADDRESS/PREFIX".to_owned(),
        Syntax::NetworkPrecedence => "ADDRESS/PREFIX PRECEDENCE".to_owned(),
        Syntax::Order(words) => {
            format!("Some of {}, the first one first, with blanks between; or none", words.join(", "))
        }
        Syntax::Choice(words) => format!("One of {}", words.join(", ")),
        Syntax::UserName => "A name of printable US-ASCII".to_owned(),
        Syntax::Verifier => "A verifier".to_owned(),
        Syntax::CertificateName => "email:ADDRESS, dns:NAME or sha256:DIGITS".to_owned(),
        Syntax::SenderPattern => "A mailbox or @DOMAIN".to_owned(),
        Syntax::Certificates => "PEM, or the base64 of DER".to_owned(),
    };
    out.push_str(match attribute.values {
        Values::OptionalOne => "",
        Values::RequiredOne => "; required",
        Values::OptionalMany => "; several may be given",
        Values::RequiredMany => "; one at least is required",
    });
    if !attribute.default.is_empty() {
        write!(out, "; the default is {}", attribute.default).expect(FITS);
    }
    out
}

/// Appends a line of text. At its beginning a dot or an apostrophe would be a request.
fn paragraph(out: &mut String, text: &str) {
    if text.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    writeln!(out, "{}", escaped(text)).expect(FITS);
}

/// Text as roff has it: a hyphen that can be copied, no escape of its own, ASCII alone.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\n' => out.push(' '),
            '"' => out.push_str("\\(dq"),
            character if character.is_ascii() => out.push(character),
            character => write!(out, "\\[u{:04X}]", u32::from(character)).expect(FITS),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ATTRIBUTES;

    #[test]
    fn the_manual_page_has_every_attribute_with_its_unit_default_and_bounds() {
        let page = manual_page("1.2.3");
        for attribute in ATTRIBUTES {
            let head = format!(".BR {} \" (\" {} )\n", attribute.name, attribute.key());
            let (_, rest) =
                page.split_once(&head).unwrap_or_else(|| panic!("{} is not there", attribute.name));
            let about = rest.split("\n.TP").next().unwrap_or_default();
            let mut wanted = vec![escaped(attribute.description)];
            if attribute.syntax == Syntax::Integer {
                wanted.push(format!("from {} to {}, in {}", attribute.min, attribute.max, attribute.unit));
            }
            if !attribute.default.is_empty() {
                wanted.push(format!("the default is {}", escaped(attribute.default)));
            }
            for words in wanted {
                assert!(about.contains(&words), "{}: {words}: {about}", attribute.name);
            }
        }
        for class in Class::ALL {
            assert!(page.contains(&format!(".SH \"{} [", class.name())), "{}", class.name());
        }
    }

    #[test]
    fn nothing_in_a_text_is_taken_for_a_request_or_an_escape() {
        let mut out = String::new();
        paragraph(&mut out, ".so /etc/passwd \\n \u{2013} -");
        assert_eq!(out, "\\&.so /etc/passwd \\en \\[u2013] \\-\n");
        assert!(manual_page("1").is_ascii());
    }

    #[test]
    fn help_names_unit_default_and_bounds() {
        let attribute = Attribute::find(Class::Qmgr, "retry_step_s").expect("the table has it");
        let wanted = "sternpostRetryStepS (key retry_step_s of table qmgr, class sternpostQmgr)\n  \
                      The wait grows by this with each failed attempt.\n  \
                      A number from 1 to 86400, in seconds; the default is 60.\n";
        assert_eq!(attribute_help(attribute), wanted);
    }
}
