//! The LDAP schema and the reference documentation, written out of the table of attributes.
//!
//! The files below `provisioning/` are what installers load and read; a test compares them with what is written here.

use crate::{ATTRIBUTES, Attribute, Class, Syntax, Values};
use std::fmt::Write;

/// The schema for OpenLDAP's `cn=config`, as it stands in `provisioning/schema/sternpost.ldif`.
pub const SCHEMA_LDIF: &str = include_str!("../../../provisioning/schema/sternpost.ldif");

/// The arc of all our OIDs: a UUID in decimal (X.667, 6.3).
const ARC: &str = "2.25.146305558723835557463360382969814036306";

const FITS: &str = "a String takes every text";

/// The schema, from the table.
#[must_use]
pub fn schema_ldif() -> String {
    let head = "# The schema of Sternpost for OpenLDAP (cn=config). Load it once per server:\n\
         #   ldapadd -H ldapi:/// -Y EXTERNAL -f sternpost.ldif\n\
         # A test keeps this file equal to the table of attributes in workspace/config.\n\
         dn: cn=sternpost,cn=schema,cn=config\n\
         objectClass: olcSchemaConfig\n\
         cn: sternpost\n";
    format!("{head}{}{}", attribute_types(), object_classes())
}

/// A modification that brings an older schema, which the server has below this name, up to date. Entries that use it stay
/// as they are: a newer schema only adds.
#[must_use]
pub fn schema_update_ldif(dn: &str) -> String {
    format!(
        "dn: {dn}\nchangetype: modify\nreplace: olcAttributeTypes\n{}-\nreplace: olcObjectClasses\n{}",
        attribute_types(),
        object_classes()
    )
}

fn attribute_types() -> String {
    let mut out = String::new();
    for attribute in ATTRIBUTES {
        let (equality, syntax) = match attribute.syntax {
            Syntax::Integer => ("integerMatch", "1.3.6.1.4.1.1466.115.121.1.27"),
            Syntax::Boolean => ("booleanMatch", "1.3.6.1.4.1.1466.115.121.1.7"),
            Syntax::Time => ("generalizedTimeMatch", "1.3.6.1.4.1.1466.115.121.1.24"),
            // Base64 tells upper case from lower, and so do local parts.
            Syntax::Certificates | Syntax::Template | Syntax::Verifier | Syntax::SenderPattern => {
                ("caseExactMatch", "1.3.6.1.4.1.1466.115.121.1.15")
            }
            _ => ("caseIgnoreMatch", "1.3.6.1.4.1.1466.115.121.1.15"),
        };
        write!(
            out,
            "olcAttributeTypes: ( {ARC}.1.{}\n  NAME '{}'\n  DESC '{}'\n  EQUALITY {equality}\n  SYNTAX {syntax}",
            attribute.oid,
            attribute.name,
            description(attribute)
        )
        .expect(FITS);
        out.push_str(if attribute.values.single() { "\n  SINGLE-VALUE )\n" } else { " )\n" });
    }
    out
}

fn object_classes() -> String {
    let mut out = String::new();
    for class in Class::ALL {
        let names = |required: bool| {
            let own = class.attributes().filter(|a| a.values.required() == required).map(|a| a.name);
            // A route needs no name: its domains tell it from the others.
            let cn = ((class == Class::Route) != required).then_some("cn");
            let description = (!required).then_some("description");
            cn.into_iter().chain(own).chain(description).collect::<Vec<_>>().join(" $ ")
        };
        writeln!(
            out,
            "olcObjectClasses: ( {ARC}.2.{}\n  NAME '{}'\n  DESC '{}'\n  SUP top STRUCTURAL\n  MUST ( {} )\n  MAY ( {} ) )",
            class.oid(),
            class.name(),
            class.description().replace('\'', "\\27"),
            names(true),
            names(false)
        )
        .expect(FITS);
    }
    out
}

fn description(attribute: &Attribute) -> String {
    attribute.description.replace('\'', "\\27")
}

/// The reference of all attributes as Markdown tables, one per class.
#[must_use]
pub fn reference() -> String {
    let mut out = String::new();
    for class in Class::ALL {
        write!(
            out,
            "### {} (table `{}`)\n\n{}\n\n| attribute | key in tables | value | default | bounds | what it says |\n|---|---|---|---|---|---|\n",
            class.name(),
            class.table(),
            class.description()
        )
        .expect(FITS);
        if !class.is_single() {
            let required = if class == Class::Route { "" } else { "required" };
            writeln!(out, "| `cn` | `name` | name | {required} | 1–64 of A–Z a–z 0–9 . - _ | Its name. |")
                .expect(FITS);
        }
        for attribute in class.attributes() {
            let default = match (attribute.values.required(), attribute.default) {
                (true, _) => "required".to_owned(),
                (false, "") => String::new(),
                (false, default) => format!("`{default}`"),
            };
            let bounds = match attribute.syntax {
                Syntax::Integer => format!("{}–{} {}", attribute.min, attribute.max, attribute.unit),
                _ => String::new(),
            };
            writeln!(
                out,
                "| `{}` | `{}` | {} | {default} | {bounds} | {} |",
                attribute.name,
                attribute.key(),
                value(attribute),
                attribute.description
            )
            .expect(FITS);
        }
        out.push('\n');
    }
    out
}

fn quoted(words: &[&str], separator: &str) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(separator)
}

fn value(attribute: &Attribute) -> String {
    let one = match attribute.syntax {
        Syntax::Text => "text".to_owned(),
        Syntax::Template => "text with placeholders".to_owned(),
        Syntax::Language => "language tag".to_owned(),
        Syntax::Name => "cn of an entry".to_owned(),
        Syntax::Credential => "name of a credential".to_owned(),
        Syntax::Hostname => "domain name".to_owned(),
        Syntax::DomainPattern => "`domain`, `.domain` or `*`".to_owned(),
        Syntax::Mailbox => "mailbox".to_owned(),
        Syntax::Integer => "number".to_owned(),
        Syntax::Boolean => "`TRUE` or `FALSE`".to_owned(),
        Syntax::Time => "`YYYYMMDDhhmmssZ`".to_owned(),
        Syntax::SocketAddress => "address:port".to_owned(),
        Syntax::Address => "address".to_owned(),
        Syntax::GroupHost => "preference, weight, address:port".to_owned(),
        Syntax::Network => "address/prefix".to_owned(),
        Syntax::NetworkPrecedence => "address/prefix and precedence".to_owned(),
        Syntax::Order(words) => format!("`none`, or some of {} in order", quoted(words, " ")),
        Syntax::Choice(words) => quoted(words, " or "),
        Syntax::UserName => "name".to_owned(),
        Syntax::Verifier => "verifier".to_owned(),
        Syntax::CertificateName => "`email:`, `dns:` or `sha256:` and a value".to_owned(),
        Syntax::SenderPattern => "mailbox or `@domain`".to_owned(),
        Syntax::Certificates => "PEM, or base64 of DER".to_owned(),
    };
    match attribute.values {
        Values::OptionalOne | Values::RequiredOne => one,
        Values::OptionalMany | Values::RequiredMany => format!("{one}, several"),
    }
}
