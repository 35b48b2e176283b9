//! The credentials of a folder: read, checked, and read again when a file has changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sternpost_link::signer::{Credentials, KeyId, WrongCredential};
use sternpost_message::chain;
use sternpost_tls::{Credential, CredentialError};

/// What the name of a file ends with that holds a credential: the credential `mx` is `mx.pem`.
const FILE_ENDING: &str = "pem";
/// The largest file that is read, in octets.
const FILE_OCTETS_MAX: u64 = 256 << 10;
/// Credentials at a time.
const CREDENTIALS_MAX: usize = 256;
/// Letters, digits, dots, hyphens and underscores of a name, at most.
const NAME_OCTETS_MAX: usize = 64;

/// Why a file is no credential.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(
        "the signer may not read it: give it to the signer's user (chown 907:900 with role_users = \"separate\", else the switch's own user), and copy it here if it is a link to another folder"
    )]
    Denied(#[source] io::Error),
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it has more than {FILE_OCTETS_MAX} octets")]
    TooLarge,
    #[error("others than its owner may read it, with the private key in it: take that away (chmod 600)")]
    Open,
    #[error("it is no credential")]
    Credential(#[from] CredentialError),
    #[error(
        "its name is not one to 64 letters, digits, dots, hyphens and underscores, no dot first, before .{FILE_ENDING}"
    )]
    Name,
    #[error("there are more than {CREDENTIALS_MAX} credentials")]
    TooMany,
}

impl FileError {
    fn of(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::Denied(error) } else { Self::Read(error) }
    }
}

/// By what a changed file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    octets: u64,
    changed_ns: (i64, i64),
    mode: u32,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        // The time of the inode: also a new owner is a change.
        let changed_ns = (metadata.ctime(), metadata.ctime_nsec());
        Self { inode: metadata.ino(), octets: metadata.len(), changed_ns, mode: metadata.mode() }
    }
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Place {
    /// Of the file as it was looked at last.
    stamp: Option<Stamp>,
    usable: Option<Arc<Credential>>,
    /// The one before: a handshake may be under way with its certificate.
    before: Option<Arc<Credential>>,
    wrong: Option<String>,
}

/// The credentials of a folder.
#[derive(Debug)]
pub(crate) struct Keyring {
    folder: PathBuf,
    places: BTreeMap<String, Place>,
    /// Why the folder itself cannot be read.
    folder_wrong: Option<String>,
}

impl Keyring {
    /// Nothing is read yet.
    #[must_use]
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { folder, places: BTreeMap::new(), folder_wrong: None }
    }

    /// Reads what has changed. True when that changes what there is to say.
    pub(crate) fn read(&mut self) -> bool {
        let before = self.credentials();
        match files(&self.folder) {
            Ok(files) => {
                self.folder_wrong = None;
                // A file that is gone takes its credential along: that is how one is withdrawn.
                self.places.retain(|name, _| files.contains_key(name));
                for (number, (name, path)) in files.into_iter().enumerate() {
                    self.places.entry(name.clone()).or_default().read(&name, &path, number);
                }
            }
            Err(error) => self.folder_wrong = Some(format!("{}: {error}", self.folder.display())),
        }
        let now = self.credentials();
        if now == before {
            return false;
        }
        for wrong in &now.wrong {
            tracing::error!(
                event = "credential.wrong",
                credential = wrong.name,
                why = wrong.why,
                "a credential cannot be used"
            );
        }
        let usable: Vec<_> = now.usable.iter().map(|credential| credential.name.as_str()).collect();
        tracing::info!(event = "credentials.read", usable = usable.join(" "), "credentials that are there");
        true
    }

    /// What there is, without the keys.
    #[must_use]
    pub(crate) fn credentials(&self) -> Credentials {
        let usable = self.places.values().filter_map(|place| place.usable.as_ref());
        let wrong = self.places.iter().filter_map(|(name, place)| Some((name, place.wrong.as_ref()?)));
        let wrong = wrong.map(|(name, why)| WrongCredential { name: name.clone(), why: why.clone() });
        let folder = self.folder_wrong.iter();
        let folder = folder.map(|why| WrongCredential { name: String::new(), why: why.clone() });
        Credentials {
            usable: usable.map(|credential| credential.public().clone()).collect(),
            wrong: folder.chain(wrong).collect(),
        }
    }

    /// Signs.
    ///
    /// # Errors
    /// In words, when there is no such key any more, or it does not sign that.
    pub(crate) fn sign(&self, key: KeyId, scheme: u16, message: &[u8]) -> Result<Vec<u8>, String> {
        let all = self.places.values().flat_map(|place| place.usable.iter().chain(&place.before));
        let credential = all.into_iter().find(|credential| credential.public().key == key);
        credential.ok_or_else(|| "the key is not there any more".to_owned())?.sign(scheme, message)
    }
}

impl Place {
    fn read(&mut self, name: &str, path: &Path, number: usize) {
        match self.changed(name, path, number) {
            Ok(None) => {}
            Ok(Some(credential)) => {
                self.before = self.usable.replace(Arc::new(credential));
                self.wrong = None;
            }
            Err(error) => {
                let stays = if self.usable.is_some() {
                    "; the one that was read before stays in force until the signer is started again"
                } else {
                    ""
                };
                self.wrong = Some(format!("{}: {}{stays}", path.display(), chain(&error)));
            }
        }
    }

    /// The credential, if the file is another than the last time.
    fn changed(&mut self, name: &str, path: &Path, number: usize) -> Result<Option<Credential>, FileError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !(1..=NAME_OCTETS_MAX).contains(&name.len()) || !name.chars().all(is_name) {
            return Err(FileError::Name);
        }
        if number >= CREDENTIALS_MAX {
            return Err(FileError::TooMany);
        }
        let file = File::open(path).inspect_err(|_| self.stamp = None).map_err(FileError::of)?;
        let metadata = file.metadata().map_err(FileError::of)?;
        let stamp = Stamp::of(&metadata);
        if self.stamp.replace(stamp) == Some(stamp) {
            return Ok(None);
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(FileError::Open);
        }
        let mut pem = Vec::new();
        file.take(FILE_OCTETS_MAX + 1).read_to_end(&mut pem).map_err(FileError::of)?;
        if pem.len() as u64 > FILE_OCTETS_MAX {
            return Err(FileError::TooLarge);
        }
        Ok(Some(Credential::parse(name, &pem)?))
    }
}

/// The files of a folder that are called like credentials, by name. A folder that is not there holds none.
fn files(folder: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension() == Some(OsStr::new(FILE_ENDING)) && !path.is_dir() {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            found.insert(name, path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn credential() -> String {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
    }

    fn put(folder: &Path, file: &str, text: &str, mode: u32) {
        let (new, file) = (folder.join(".new"), folder.join(file));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(mode)).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn names(keyring: &Keyring) -> Vec<String> {
        keyring.credentials().usable.into_iter().map(|credential| credential.name).collect()
    }

    #[test]
    fn a_file_that_comes_changes_or_goes_is_noticed_and_nothing_is_said_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut keyring = Keyring::new(folder.path().join("credentials"));
        assert!(!keyring.read(), "a folder that is not there holds none");
        let mut keyring = Keyring::new(folder.path().to_owned());
        put(folder.path(), "mx.pem", &credential(), 0o600);
        put(folder.path(), "note.txt", "not a credential", 0o644);
        assert!(keyring.read() && !keyring.read());
        let first = keyring.credentials().usable[0].key;
        put(folder.path(), "mx.pem", &credential(), 0o600);
        assert!(keyring.read());
        let scheme = keyring.credentials().usable[0].schemes[0];
        assert_ne!(keyring.credentials().usable[0].key, first);
        // A handshake with the certificate before may still be under way.
        assert!(keyring.sign(first, scheme, b"x").is_ok());
        fs::remove_file(folder.path().join("mx.pem")).unwrap();
        assert!(keyring.read());
        assert!(names(&keyring).is_empty() && keyring.sign(first, scheme, b"x").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_by_name_and_what_was_good_stays_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let mut keyring = Keyring::new(folder.path().to_owned());
        put(folder.path(), "mx.pem", &credential(), 0o600);
        assert!(keyring.read());
        let rows = [
            ("half of it".to_owned(), 0o600, "put the chain into it"),
            (credential(), 0o640, "chmod 600"),
            ("x".repeat(300_000), 0o600, "more than 262144 octets"),
        ];
        for (text, mode, words) in rows {
            put(folder.path(), "mx.pem", &text, mode);
            assert!(keyring.read());
            let wrong = keyring.credentials().wrong;
            assert!(wrong[0].name == "mx" && wrong[0].why.contains(words), "{wrong:?}");
            assert!(wrong[0].why.contains("stays in force") && names(&keyring) == ["mx"], "{wrong:?}");
        }
        put(folder.path(), "a b.pem", &credential(), 0o600);
        assert!(keyring.read());
        assert!(
            keyring
                .credentials()
                .wrong
                .iter()
                .any(|wrong| wrong.name == "a b" && wrong.why.contains("its name"))
        );
        put(folder.path(), "mx.pem", &credential(), 0o600);
        fs::remove_file(folder.path().join("a b.pem")).unwrap();
        assert!(keyring.read());
        assert_eq!((names(&keyring), keyring.credentials().wrong.len()), (vec!["mx".to_owned()], 0));
    }
}
