//! Who this machine is: the serial number that its maker wrote into the SMBIOS table, unless the maker wrote nothing.

use std::io;
use std::path::Path;

/// Where the kernel shows it, to root alone.
pub(crate) const SERIAL_FILE: &str = "/sys/class/dmi/id/product_serial";
/// The longest that is taken for a name.
const SERIAL_OCTETS_MAX: usize = 64;

/// What makers write instead of a serial number, in small letters and without what stands between words.
const PLACEHOLDERS: [&str; 32] = [
    "tobefilledbyoem",
    "defaultstring",
    "systemserialnumber",
    "serialnumber",
    "chassisserialnumber",
    "none",
    "notspecified",
    "notapplicable",
    "na",
    "notavailable",
    "unknown",
    "oem",
    "invalid",
    "empty",
    "unspecified",
    "systemproductname",
    "xxxx",
    "test",
    "serial",
    "sn",
    "notset",
    "undefined",
    "notpresent",
    "standard",
    "default",
    "nosn",
    "noserialnumber",
    "noserial",
    "null",
    "systemmanufacturer",
    "baseboardserialnumber",
    "oemserialnumber",
];

/// Why a machine has no identity of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// No SMBIOS table, or no right to read it.
    #[error(
        "this machine's serial number cannot be read from {path}; write node = \"NAME\" into the bootstrap, the name of its entry in the directory"
    )]
    Read {
        /// Where it should be.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What stands there is no serial number.
    #[error(
        "this machine's maker gave it no serial number (SMBIOS says {text:?}); write node = \"NAME\" into the bootstrap, the name of its entry in the directory"
    )]
    Placeholder {
        /// What stands there.
        text: String,
    },
}

/// The machine's serial number.
///
/// # Errors
/// See [`IdentityError`]; each says what to do.
pub(crate) fn serial(file: &Path) -> Result<String, IdentityError> {
    let octets = std::fs::read(file)
        .map_err(|source| IdentityError::Read { path: file.display().to_string(), source })?;
    judged(&String::from_utf8_lossy(&octets))
}

/// A serial number, unless it is what a maker writes for want of one.
///
/// # Errors
/// `Placeholder`.
pub(crate) fn judged(text: &str) -> Result<String, IdentityError> {
    let text = text.trim();
    if is_serial(text) {
        Ok(text.to_owned())
    } else {
        Err(IdentityError::Placeholder { text: text.to_owned() })
    }
}

/// Whether a text tells one machine from the others.
fn is_serial(text: &str) -> bool {
    let letters: String =
        text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    let is_one_character = letters.bytes().all(|octet| Some(octet) == letters.bytes().next());
    let is_counting = ["0123456789abcdef", "1234567890", "123456789abcdef", "abcdefghijklmnopqrstuvwxyz"]
        .iter()
        .any(|counting| counting.starts_with(&letters));
    let is_plain =
        text.len() <= SERIAL_OCTETS_MAX && text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    is_plain
        && !letters.is_empty()
        && !is_one_character
        && !is_counting
        && !PLACEHOLDERS.contains(&letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makers_write_for_want_of_a_number_is_no_identity() {
        let nothing = [
            "",
            " ",
            "0",
            "00000000",
            "123456789",
            "0123456789",
            "0123456789ABCDEF",
            "123456789ABC",
            "Not Present",
            "Standard",
            "To be filled by O.E.M.",
            "To Be Filled By O.E.M",
            "Default string",
            "System Serial Number",
            "None",
            "Not Specified",
            "N/A",
            "....",
            "xxxxxxxx",
            "Not Applicable",
            "a\u{1}b",
        ];
        for text in nothing {
            assert!(!is_serial(text), "{text:?}");
        }
        for text in ["SP-0001", "CZC1234567", "4C4C4544-0051", "VMware-56 4d 8b", "7"] {
            // A single digit repeated once is a placeholder, whatever the digit.
            assert_eq!(is_serial(text), text != "7", "{text:?}");
        }
    }

    #[test]
    fn a_machine_without_a_number_is_told_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("serial");
        std::fs::write(&file, "SP-0001\n").unwrap();
        assert_eq!(serial(&file).unwrap(), "SP-0001");
        std::fs::write(&file, "To be filled by O.E.M.\n").unwrap();
        let error = serial(&file).unwrap_err().to_string();
        assert!(
            error.contains("SMBIOS says \"To be filled by O.E.M.\"") && error.contains("node = \"NAME\""),
            "{error}"
        );
        assert!(matches!(serial(&folder.path().join("no")), Err(IdentityError::Read { .. })));
    }
}
