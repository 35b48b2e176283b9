//! Entries as LDIF (RFC 2849): the way from tables to a directory.

use crate::load::{own_node, visible};
use crate::{Attribute, Class, Entry};

/// Writes the entries that count for a node as a tree below `base_dn` (which is not made), of the shape of the
/// example: the node and its listeners below `ou=nodes`, all others below `ou=shared`.
///
/// Together with [`crate::entries_from_tables`] it turns tables into a directory; [`crate::entries_to_tables`] is the
/// way back. Attributes that are not ours are left out.
#[must_use]
pub fn entries_to_ldif(entries: &[Entry], node_identity: &str, base_dn: &str) -> String {
    let mut out = String::new();
    let Ok(own) = own_node(entries, node_identity) else { return out };
    let root = format!("ou=sternpost,{base_dn}");
    let (nodes, shared) = (format!("ou=nodes,{root}"), format!("ou=shared,{root}"));
    for (dn, ou) in [(&root, "sternpost"), (&nodes, "nodes"), (&shared, "shared")] {
        push_entry(&mut out, dn, "organizationalUnit", &[("ou", ou)]);
    }
    let node_name = if own.name().is_empty() { "node" } else { own.name() };
    let node_dn = format!("cn={},{nodes}", escaped(node_name));
    for (index, (class, entry)) in visible(entries, own).into_iter().enumerate() {
        let name = match (class, entry.name()) {
            (Class::Node, _) => node_name.to_owned(),
            // A route needs no name in tables; in a tree everything has one.
            (_, "") => format!("{}-{index}", class.table()),
            (_, name) => name.to_owned(),
        };
        let dn = match class {
            Class::Node => node_dn.clone(),
            Class::Listener => format!("cn={},{node_dn}", escaped(&name)),
            // Channels and peers may have one name; in one container only the class tells them apart.
            _ => format!("cn={},ou={},{shared}", escaped(&name), class.table()),
        };
        let mut attributes = vec![("cn", name.as_str())];
        let own_attributes = class.attributes().flat_map(|attribute: &Attribute| {
            entry.values(attribute.name).iter().map(|value| (attribute.name, value.as_str()))
        });
        attributes.extend(own_attributes);
        if !matches!(class, Class::Node | Class::Listener) {
            let container = format!("ou={},{shared}", class.table());
            // Entries come class by class: the container is made with the first of its class.
            if !out.contains(&format!("dn: {container}\n")) {
                push_entry(&mut out, &container, "organizationalUnit", &[("ou", class.table())]);
            }
        }
        push_entry(&mut out, &dn, class.name(), &attributes);
    }
    out
}

fn push_entry(out: &mut String, dn: &str, class: &str, attributes: &[(&str, &str)]) {
    push_line(out, &format!("dn: {dn}"));
    push_line(out, &format!("objectClass: {class}"));
    for (name, value) in attributes {
        push_line(out, &format!("{name}: {value}"));
    }
    out.push('\n');
}

/// The value of a relative distinguished name. RFC 4514, 2.4.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, character) in value.char_indices() {
        let is_outer_blank = character == ' ' && (at == 0 || at + 1 == value.len());
        if matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=')
            || is_outer_blank
            || (character == '#' && at == 0)
        {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// Writes a line, in base64 when its value is not a SAFE-STRING of RFC 2849, and never more than one line.
pub(crate) fn push_line(out: &mut String, line: &str) {
    let is_safe = |value: &str| {
        value.bytes().all(|octet| matches!(octet, 32..=126))
            && !value.starts_with([' ', ':', '<'])
            && !value.ends_with(' ')
    };
    match line.split_once(": ") {
        Some((name, value)) if !line.starts_with('#') && !is_safe(value) => {
            out.push_str(name);
            out.push_str(":: ");
            out.push_str(&base64(value.as_bytes()));
        }
        _ => out.push_str(line),
    }
    out.push('\n');
}

/// RFC 4648, section 4.
pub(crate) fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let six = usize::try_from(bits >> shift & 63).expect("six bits fit");
            out.push(if at <= group.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (octets, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(octets.as_bytes()), text);
        }
    }

    #[test]
    fn a_name_is_escaped_in_a_dn() {
        assert_eq!(escaped(" a,b=c#"), "\\ a\\,b\\=c#");
    }
}
