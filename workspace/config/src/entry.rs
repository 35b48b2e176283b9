//! One entry of the directory, or one table of the text files that stand for it.

use crate::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An entry as it was read: nothing is checked yet.
///
/// A value that is not UTF-8 arrives with U+FFFD in the place of the octets that are not; reading it is then a
/// problem of that attribute and not of the whole set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `entryUUID` (RFC 4530): the entry's name for life, whatever its DN becomes. For tables `class/name`.
    pub uuid: String,
    /// The distinguished name, for people and for telling what stands below what. For tables `class "name"`.
    pub dn: String,
    /// Attribute name in lower case to values, in the order of the server.
    pub attributes: BTreeMap<String, Vec<String>>,
}

impl Entry {
    /// The values of an attribute; none when it is absent. The case of `name` does not matter.
    #[must_use]
    pub fn values(&self, name: &str) -> &[String] {
        self.attributes.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// Which of our object classes the entry has. None: a container, a person, somebody else's.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        let classes = self.values("objectClass");
        Class::ALL
            .into_iter()
            .find(|class| classes.iter().any(|name| name.eq_ignore_ascii_case(class.name())))
    }

    /// The first `cn`, by which other entries and logs call this one; empty when there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.values("cn").first().map_or("", String::as_str)
    }
}

/// The DN in a form in which equal names have equal octets: lower case, no blanks around `,`, `=` and `+`.
///
/// Enough for comparing what one server sends (it spells a DN in one way); not the full matching of RFC 4518.
#[must_use]
pub fn normalised_dn(dn: &str) -> String {
    let mut out = String::with_capacity(dn.len());
    let mut blanks = 0;
    let mut characters = dn.chars();
    let mut at_start = true;
    while let Some(character) = characters.next() {
        match character {
            ' ' if at_start => {}
            ' ' => blanks += 1,
            ',' | '=' | '+' => {
                blanks = 0;
                out.push(character);
                at_start = true;
            }
            _ => {
                out.extend(std::iter::repeat_n(' ', blanks));
                blanks = 0;
                at_start = false;
                out.extend(character.to_lowercase());
                // An escaped character is taken as it is: it separates nothing.
                if character == '\\'
                    && let Some(escaped) = characters.next()
                {
                    out.extend(escaped.to_lowercase());
                }
            }
        }
    }
    out
}

/// Whether `dn` stands below `ancestor` (or is it). Both in the form of [`normalised_dn`].
#[must_use]
pub fn dn_is_under(dn: &str, ancestor: &str) -> bool {
    dn.strip_suffix(ancestor)
        .is_some_and(|head| head.is_empty() || (head.ends_with(',') && !head.ends_with("\\,")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_and_blanks_are_equal() {
        assert_eq!(normalised_dn("CN=My Node, OU = Nodes,dc=Lab"), "cn=my node,ou=nodes,dc=lab");
        assert_eq!(normalised_dn(r"cn=a\, b , dc=lab"), r"cn=a\, b,dc=lab");
        assert_eq!(normalised_dn(r"cn=a\"), r"cn=a\");
    }

    #[test]
    fn an_entry_is_below_its_ancestors_and_below_nobody_else() {
        let node = "cn=a,ou=nodes,dc=lab";
        assert!(dn_is_under("cn=in,cn=a,ou=nodes,dc=lab", node));
        assert!(dn_is_under(node, node));
        assert!(!dn_is_under("cn=aa,ou=nodes,dc=lab", "a,ou=nodes,dc=lab"));
        assert!(!dn_is_under(r"cn=x\,cn=a,ou=nodes,dc=lab", node));
        assert!(!dn_is_under("cn=b,ou=nodes,dc=lab", node));
    }
}
