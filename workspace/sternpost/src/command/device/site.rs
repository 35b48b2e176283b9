//! The site's bootstrap, as an installer writes it: who the node is, where its directory is, and its addresses.
//!
//! One file, `sternpost.toml`. Keys are those of `[directory]` in README.md, "The bootstrap", and for each file that such a
//! key names there is one for the text itself, so that one file is enough: `trust_anchor_pem`, `password`,
//! `certificate_pem`, `key_pem`. Credentials of the switch (README.md, "TLS") stand there as `[[credential]]`. Files that are
//! named lie beside `sternpost.toml` on the stick.
//! Not here: where the text comes from (`bootstrap`), and what of it the device adds (`joined`).

use super::network::{self, Network, NetworkSection};
use super::problem::{Problem, Reading};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use sternpost_directory::{Bind, Bootstrap, DirectoryError, Part, Timings};
use sternpost_tls::Credential;
use toml::{Spanned, Table, Value};

/// The largest text that is read: certificates of a few servers are a hundredth of it.
pub(crate) const TEXT_OCTETS_MAX: u64 = 256 * 1024;
/// Its name on a stick and where it is kept.
pub(crate) const FILE_NAME: &str = "sternpost.toml";

const TRUST_ANCHOR: &str = "trust-anchor.pem";
const PASSWORD: &str = "password";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Reads a file beside the bootstrap, by a name without folders; says in words why not.
pub(crate) type Beside<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    node: Option<Spanned<String>>,
    directory: DirectorySection,
    network: Option<NetworkSection>,
    #[serde(default)]
    credential: Vec<CredentialSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialSection {
    name: Spanned<String>,
    file: Option<Spanned<PathBuf>>,
    pem: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectorySection {
    uris: Spanned<Vec<Spanned<String>>>,
    trust_anchor: Option<Spanned<PathBuf>>,
    trust_anchor_pem: Option<Spanned<String>>,
    bind: Spanned<BindSection>,
    #[serde(default)]
    start_tls: bool,
    #[serde(default)]
    allow_plaintext: bool,
    base_dn: Spanned<String>,
    node: Option<Spanned<String>>,
    timings: Option<Spanned<Timings>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum BindSection {
    Simple(SimpleSection),
    External(ExternalSection),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimpleSection {
    dn: String,
    password_file: Option<Spanned<PathBuf>>,
    password: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExternalSection {
    certificate: Option<Spanned<PathBuf>>,
    certificate_pem: Option<Spanned<String>>,
    key: Option<Spanned<PathBuf>>,
    key_pem: Option<Spanned<String>>,
}

/// A site's bootstrap of which the form is right. What its files hold is judged by [`Site::check`].
#[derive(Debug)]
pub(crate) struct Site {
    /// The node's name, if it is not the machine's serial number.
    pub(crate) node: Option<String>,
    pub(crate) network: Network,
    directory: Bootstrap,
    /// What the directory role reads, by name.
    files: BTreeMap<&'static str, String>,
    /// What the signer reads, by the credential's name.
    credentials: BTreeMap<String, String>,
    /// The same bootstrap with all files in it.
    whole: String,
    places: Places,
}

/// Where things stand in the text.
#[derive(Debug)]
struct Places {
    source: String,
    text: String,
    uris: Vec<Range<usize>>,
    all_uris: Range<usize>,
    base_dn: Range<usize>,
    trust_anchor: Option<Range<usize>>,
    bind: Range<usize>,
    timings: Option<Range<usize>>,
}

impl Site {
    /// Reads a text that came from `source` (for people), with the files that it names.
    ///
    /// # Errors
    /// Everything that is wrong, or the first thing that is no TOML or no key of ours.
    pub(crate) fn parse(text: &str, source: &str, beside: Beside<'_>) -> Result<Self, Vec<Problem>> {
        let mut reading = Reading::new(source, text);
        let (mut document, mut table): (Document, Table) = match (toml::from_str(text), toml::from_str(text))
        {
            (Ok(document), Ok(table)) => (document, table),
            (Err(error), _) | (_, Err(error)) => {
                let what_to_do = "Correct the line; the keys stand in README.md, \"Installing a device\".";
                reading.wrong(error.span().unwrap_or(0..0), "", without_values(error.message()), what_to_do);
                return reading.finish(None);
            }
        };
        let node = [("node", document.node), ("directory.node", document.directory.node.take())]
            .into_iter()
            .filter_map(|(key, node)| {
                let node = node?;
                if node.get_ref().trim().is_empty() {
                    let what_to_do =
                        "Name the node, or leave the key out: then it is the machine's serial number.";
                    reading.wrong(node.span(), key, "is empty", what_to_do);
                }
                Some(node.into_inner())
            })
            .reduce(|first, _| first);
        let network =
            document.network.map_or_else(Network::default, |section| network::check(section, &mut reading));
        let directory = document.directory;
        let places = Places {
            source: source.to_owned(),
            text: text.to_owned(),
            uris: directory.uris.get_ref().iter().map(Spanned::span).collect(),
            all_uris: directory.uris.span(),
            base_dn: directory.base_dn.span(),
            trust_anchor: (directory.trust_anchor.as_ref().map(Spanned::span))
                .or(directory.trust_anchor_pem.as_ref().map(Spanned::span)),
            bind: directory.bind.span(),
            timings: directory.timings.as_ref().map(Spanned::span),
        };
        let mut gathering = Gathering { reading: &mut reading, beside, files: BTreeMap::new() };
        let section = table.get_mut("directory").and_then(Value::as_table_mut);
        let mut nothing = Table::new();
        let section = section.unwrap_or(&mut nothing);
        let anchor = Named {
            name: Some(TRUST_ANCHOR),
            key: "directory.trust_anchor",
            path: directory.trust_anchor,
            text: directory.trust_anchor_pem,
            table: &mut *section,
            path_key: "trust_anchor",
            text_key: "trust_anchor_pem",
        };
        let trust_anchor = gathering.take(anchor).then(|| PathBuf::from(TRUST_ANCHOR));
        let bind = gathering.bind(directory.bind, section);
        let directory = Bootstrap {
            uris: directory.uris.into_inner().into_iter().map(Spanned::into_inner).collect(),
            trust_anchor,
            bind,
            start_tls: directory.start_tls,
            allow_plaintext: directory.allow_plaintext,
            base_dn: directory.base_dn.into_inner(),
            node: String::new(),
            timings: directory.timings.map_or_else(Timings::default, Spanned::into_inner),
        };
        let credentials = gathering.credentials(document.credential, &mut table);
        let files = gathering.files;
        let whole = match toml::to_string(&table) {
            Ok(whole) => Some(whole),
            Err(error) => {
                reading.wrong(0..0, "", format!("cannot be kept as one file: {error}"), "Simplify the text.");
                None
            }
        };
        reading.finish(whole.map(|whole| Self {
            node,
            network,
            directory,
            files,
            credentials,
            whole,
            places,
        }))
    }

    /// `[directory]` of the switch's own bootstrap, for a node, with its files in `folder`.
    pub(crate) fn directory(&self, folder: &Path, node: &str) -> Bootstrap {
        let mut directory = self.directory.clone();
        node.clone_into(&mut directory.node);
        let place = |path: &mut PathBuf| *path = folder.join(&*path);
        directory.trust_anchor.iter_mut().for_each(place);
        match &mut directory.bind {
            Bind::Simple { password_file, .. } => place(password_file),
            Bind::External { certificate, key } => {
                place(certificate);
                place(key);
            }
        }
        directory
    }

    /// The names of the files that the directory role reads, and their texts.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.files.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// The names of the switch's credentials, and their texts.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = (&str, &str)> {
        self.credentials.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The same bootstrap as one file, to be kept.
    pub(crate) fn whole(&self) -> &str {
        &self.whole
    }

    /// Judges the section with its files, which lie in `folder`.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub(crate) fn check(&self, folder: &Path) -> Result<(), Problem> {
        self.directory(folder, "").check().map_err(|(part, error)| self.problem(part, &error))
    }

    fn problem(&self, part: Part, error: &DirectoryError) -> Problem {
        let places = &self.places;
        let uri = |number: usize| places.uris.get(number).cloned().unwrap_or_else(|| places.all_uris.clone());
        let (span, key, what_to_do) = match part {
            Part::Uri(number) => (
                uri(number),
                "directory.uris".to_owned(),
                "Write ldaps://HOST[:PORT], or ldap://HOST[:PORT] with start_tls = true.",
            ),
            Part::BaseDn => (
                places.base_dn.clone(),
                "directory.base_dn".to_owned(),
                "Name the entry below which everything of the switch stands.",
            ),
            Part::TrustAnchor => (
                places.trust_anchor.clone().unwrap_or_else(|| places.all_uris.clone()),
                "directory.trust_anchor".to_owned(),
                "Give the certificates that vouch for the servers, as trust_anchor_pem or as a file on the stick.",
            ),
            Part::Bind => (
                places.bind.clone(),
                "directory.bind".to_owned(),
                "Give the password, or a certificate with its key (PEM).",
            ),
            Part::Timing(name) => (
                places.timings.clone().unwrap_or(0..0),
                format!("directory.timings.{name}"),
                "Write a number of milliseconds, or leave the key out.",
            ),
        };
        // The files have names of our own here, which say nothing to whoever wrote the text.
        let what = match error {
            DirectoryError::Bootstrap(what) => what.clone(),
            DirectoryError::EmptyPassword { .. } => "the password is empty".to_owned(),
            DirectoryError::Certificate { reason, .. } => format!("what it holds cannot be used: {reason}"),
            other => crate::output::chain(other),
        };
        let mut reading = Reading::new(&places.source, &places.text);
        reading.wrong(span, &key, what, what_to_do);
        let problems = reading.finish::<()>(None).err().unwrap_or_default();
        problems.into_iter().next().expect("one was noted above")
    }
}

/// A reader's message without the value that it repeats: that may be a password in the wrong place, and the message goes to
/// the console and the journal.
fn without_values(message: &str) -> String {
    for beginning in ["invalid type: ", "invalid value: ", "unknown variant "] {
        let Some(rest) = message.strip_prefix(beginning) else { continue };
        // The last one: a value may hold these words too.
        let (value, expected) = rest.rfind(", expected").map_or((rest, ""), |at| rest.split_at(at));
        let kind = value.split(['"', '`', '\'']).next().unwrap_or_default().trim_end();
        return format!("{}{expected}", format!("{beginning}{kind}").trim_end());
    }
    message.to_owned()
}

/// A key for a file and the one for its text.
struct Named<'a> {
    /// The file's own name here; none for a credential, which has one of its own.
    name: Option<&'static str>,
    key: &'static str,
    path: Option<Spanned<PathBuf>>,
    text: Option<Spanned<String>>,
    /// Where both stand, for the whole text.
    table: &'a mut Table,
    path_key: &'static str,
    text_key: &'static str,
}

/// Collects the files of a bootstrap.
struct Gathering<'g, 'r> {
    reading: &'g mut Reading<'r>,
    beside: Beside<'g>,
    files: BTreeMap<&'static str, String>,
}

impl Gathering<'_, '_> {
    /// Notes the text, wherever it stands; false when there is none.
    fn take(&mut self, named: Named<'_>) -> bool {
        let name = named.name;
        let is_there = named.path.is_some() || named.text.is_some();
        if let (Some(name), Some(text)) = (name, self.text(named)) {
            self.files.insert(name, text);
        }
        is_there
    }

    /// The text, wherever it stands; none when there is none, or when what is wrong with it was said.
    fn text(&mut self, named: Named<'_>) -> Option<String> {
        let Named { name: _, key, path, text, table, path_key, text_key } = named;
        let text = match (path, text) {
            (None, None) => return None,
            (Some(path), Some(_)) => {
                let what = format!("{path_key} and {text_key} stand there both");
                self.reading.wrong(path.span(), key, what, "Keep one of the two.");
                return None;
            }
            (None, Some(text)) => text.into_inner(),
            (Some(path), None) => match self.read(path.get_ref()) {
                Ok(text) => text,
                Err(why) => {
                    let what = format!("the file {:?} {why}", path.get_ref());
                    let what_to_do =
                        format!("Put it beside {FILE_NAME} on the stick, or write its text as {text_key}.");
                    self.reading.wrong(path.span(), key, what, what_to_do);
                    return None;
                }
            },
        };
        table.remove(path_key);
        table.insert(text_key.to_owned(), Value::String(text.clone()));
        Some(text)
    }

    /// The credentials; each is tried as the signer will read it.
    fn credentials(
        &mut self,
        sections: Vec<CredentialSection>,
        whole: &mut Table,
    ) -> BTreeMap<String, String> {
        let mut credentials = BTreeMap::new();
        let mut nothing = Vec::new();
        let tables = whole.get_mut("credential").and_then(Value::as_array_mut).unwrap_or(&mut nothing);
        for (section, table) in sections.into_iter().zip(tables) {
            let CredentialSection { name, file, pem } = section;
            let key = "credential";
            let mut unused = Table::new();
            let table = table.as_table_mut().unwrap_or(&mut unused);
            let named =
                Named { name: None, key, path: file, text: pem, table, path_key: "file", text_key: "pem" };
            let is_there = named.path.is_some() || named.text.is_some();
            if !is_there {
                self.reading.wrong(
                    name.span(),
                    key,
                    "has neither file nor pem",
                    "Name a file on the stick, or write its text as pem.",
                );
            }
            let Some(text) = self.text(named) else { continue };
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let span = name.span();
            let name = name.into_inner();
            if !(1..=64).contains(&name.len()) || name.starts_with('.') || !name.chars().all(is_name) {
                let what_to_do =
                    "Write 1 to 64 letters, digits, dots, hyphens and underscores, no dot first.";
                self.reading.wrong(span, key, "its name is none", what_to_do);
            } else if let Err(error) = Credential::parse(&name, text.as_bytes()) {
                let what_to_do = "Put the certificate chain and the private key into it, as PEM.";
                self.reading.wrong(span, key, crate::output::chain(&error), what_to_do);
            } else if credentials.insert(name, text).is_some() {
                self.reading.wrong(
                    span,
                    key,
                    "its name is another one's too",
                    "Give each a name of its own.",
                );
            }
        }
        credentials
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let mut components = path.components();
        let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
            return Err("is not beside it: a name without folders is wanted".to_owned());
        };
        let name = name.to_str().ok_or("has a name that is no text")?;
        String::from_utf8((self.beside)(name)?).map_err(|_| "is no text".to_owned())
    }

    fn bind(&mut self, bind: Spanned<BindSection>, directory: &mut Table) -> Bind {
        let span = bind.span();
        let mut nothing = Table::new();
        let kind = if matches!(bind.get_ref(), BindSection::Simple(_)) { "simple" } else { "external" };
        let table =
            directory.get_mut("bind").and_then(|bind| bind.get_mut(kind)).and_then(Value::as_table_mut);
        let table = table.unwrap_or(&mut nothing);
        match bind.into_inner() {
            BindSection::Simple(SimpleSection { dn, password_file, password }) => {
                let key = "directory.bind.simple.password";
                let named = Named {
                    name: Some(PASSWORD),
                    key,
                    path: password_file,
                    text: password,
                    table,
                    path_key: "password_file",
                    text_key: "password",
                };
                if !self.take(named) {
                    self.reading.wrong(span, key, "is not there", "Write password = \"...\".");
                }
                Bind::Simple { dn, password_file: PASSWORD.into() }
            }
            BindSection::External(section) => {
                let certificate = Named {
                    name: Some(CERTIFICATE),
                    key: "directory.bind.external.certificate",
                    path: section.certificate,
                    text: section.certificate_pem,
                    table: &mut *table,
                    path_key: "certificate",
                    text_key: "certificate_pem",
                };
                let has_certificate = self.take(certificate);
                let key = Named {
                    name: Some(KEY),
                    key: "directory.bind.external.key",
                    path: section.key,
                    text: section.key_pem,
                    table,
                    path_key: "key",
                    text_key: "key_pem",
                };
                if !(self.take(key) && has_certificate) {
                    let what_to_do = "Write certificate_pem and key_pem, or name two files on the stick.";
                    self.reading.wrong(
                        span,
                        "directory.bind.external",
                        "has no certificate or no key",
                        what_to_do,
                    );
                }
                Bind::External { certificate: CERTIFICATE.into(), key: KEY.into() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INLINE: &str = "[directory]\nuris = [\"ldap://127.0.0.1\"]\nallow_plaintext = true\nbase_dn = \"dc=example\"\n\
                          bind = { simple = { dn = \"cn=n\", password = \"secret\" } }\n";

    fn alone(text: &str) -> Result<Site, String> {
        said(Site::parse(text, "credential", &|_| Err("is not there".to_owned())))
    }

    fn said(result: Result<Site, Vec<Problem>>) -> Result<Site, String> {
        result.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        let rows = [
            ("bind = { simple = \"hunter2\" }", "invalid type: string, expected struct SimpleSection"),
            ("bind = \"hunter2\"", "unknown variant, expected `simple` or `external`"),
            (
                "bind = { simple = { dn = [\"hunter2, expected x\"], password = \"hunter2\" } }",
                "invalid type: ",
            ),
            ("bind = { simple = { dn = \"n\", password = [\"hunter2\"] } }", "expected a string"),
            ("bind = { simple = { dn = \"n\", password = hunter2 } }", "credential:5"),
            ("start_tls = \"hunter2\"", "invalid type: string, expected a boolean"),
        ];
        for (line, expected) in rows {
            let text = INLINE.replace("bind = { simple = { dn = \"cn=n\", password = \"secret\" } }", line);
            let said = alone(&text).unwrap_err();
            assert!(!said.contains("hunter2") && said.contains(expected), "{said}");
        }
        assert_eq!(
            without_values("invalid type: string \"a, expected b\", expected c"),
            "invalid type: string, expected c"
        );
        assert_eq!(
            without_values("unknown field `dnss`, expected `dns`"),
            "unknown field `dnss`, expected `dns`"
        );
    }

    fn with_stick(text: &str) -> Result<Site, String> {
        said(Site::parse(text, "stick", &|name| match name {
            "ca.pem" => Ok(b"CA\n".to_vec()),
            "pw" => Ok(b"secret\n".to_vec()),
            "binary" => Ok(vec![0xff]),
            _ => Err("is not there".to_owned()),
        }))
    }

    #[test]
    fn one_file_is_enough() {
        let site = alone(&format!("node = \"north\"\n{INLINE}[network]\nhostname = \"mx\"\n")).unwrap();
        assert_eq!(site.node.as_deref(), Some("north"));
        assert_eq!(site.network.hostname.as_deref(), Some("mx"));
        assert_eq!(site.files().collect::<Vec<_>>(), [("password", "secret")]);
        let directory = site.directory(Path::new("/run/d"), "SP-1");
        assert_eq!(directory.node, "SP-1");
        assert_eq!(
            directory.bind,
            Bind::Simple { dn: "cn=n".into(), password_file: "/run/d/password".into() }
        );
    }

    #[test]
    fn files_on_the_stick_become_part_of_the_one_file_that_is_kept() {
        let text = "[directory]\nuris = [\"ldaps://ldap.example\"]\nbase_dn = \"dc=example\"\ntrust_anchor = \"ca.pem\"\n\
                    bind = { simple = { dn = \"cn=n\", password_file = \"pw\" } }\n";
        let site = with_stick(text).unwrap();
        let kept = alone(site.whole()).unwrap();
        assert_eq!(kept.files, site.files);
        assert_eq!(kept.directory, site.directory);
        assert_eq!(kept.whole(), site.whole(), "what is kept is kept as it is");
    }

    /// A certificate with its key.
    fn credential() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
    }

    #[test]
    fn credentials_come_from_the_stick_or_the_text_and_are_kept_with_it() {
        let pem = credential();
        let text = format!(
            "{INLINE}[[credential]]\nname = \"default\"\nfile = \"mx.pem\"\n[[credential]]\nname = \"partner\"\npem = '''\n{pem}'''\n"
        );
        let file = pem.clone().into_bytes();
        let site = said(Site::parse(&text, "stick", &|name| {
            if name == "mx.pem" { Ok(file.clone()) } else { Err("is not there".to_owned()) }
        }))
        .unwrap();
        assert_eq!(site.credentials().collect::<Vec<_>>(), [("default", pem.as_str()), ("partner", &pem)]);
        let kept = alone(site.whole()).unwrap();
        assert_eq!(kept.credentials, site.credentials);
        let rows = [
            ("name = \"default\"\n", "credential:7: credential: has neither file nor pem."),
            (
                "name = \"default\"\nfile = \"x\"\n",
                "credential: the file \"x\" is not there. Put it beside sternpost.toml on the stick, or write its text as pem.",
            ),
            ("name = \"default\"\npem = \"x\"\n", "credential:7: credential: it has no certificate"),
            ("name = \"../x\"\npem = 'PEM'\n", "credential: its name is none."),
        ];
        for (lines, message) in rows {
            let text =
                format!("{INLINE}[[credential]]\n{}", lines.replace("'PEM'", &format!("'''\n{pem}'''")));
            let error = alone(&text).expect_err(&text);
            assert!(error.contains(message), "{error}\nwanted: {message}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_line_key_and_what_to_do() {
        let simple = "bind = { simple = { dn = \"cn=n\", password = \"secret\" } }";
        let rows = [
            ("[directory\n".to_owned(), "credential:1: "),
            (format!("nod = 1\n{INLINE}"), "credential:1: unknown field `nod`"),
            (format!("node = \" \"\n{INLINE}"), "credential:1: node: is empty. Name the node"),
            (format!("{INLINE}node = \"\"\n"), "credential:6: directory.node: is empty."),
            ("node = \"n\"\n".to_owned(), "missing field `directory`"),
            (format!("{INLINE}[queue]\npath = \"/dev/sda\"\n"), "credential:6: unknown field `queue`"),
            (
                INLINE.replace(simple, "bind = { simple = { dn = \"cn=n\" } }"),
                "credential:5: directory.bind.simple.password: is not there.",
            ),
            (
                INLINE.replace("password = \"secret\"", "password_file = \"pw\""),
                "credential:5: directory.bind.simple.password: the file \"pw\" is not there. Put it beside sternpost.toml on the stick, or write its text as password.",
            ),
            (
                INLINE.replace("password = \"secret\"", "password_file = \"../pw\""),
                "the file \"../pw\" is not beside it: a name without folders is wanted.",
            ),
            (
                INLINE.replace(simple, "bind = { external = { certificate_pem = \"x\" } }"),
                "credential:5: directory.bind.external: has no certificate or no key.",
            ),
            (format!("{INLINE}[network]\ndns = [\"x\"]\n"), "credential:7: network.dns: "),
        ];
        for (text, message) in rows {
            let error = alone(&text).expect_err(&text);
            assert!(error.contains(message), "{text}\n{error}\nwanted: {message}");
        }
        let error =
            with_stick(&INLINE.replace("password = \"secret\"", "password_file = \"binary\"")).unwrap_err();
        assert!(error.contains("is no text"), "{error}");
    }

    #[test]
    fn the_example_of_the_readme_is_accepted() {
        let readme = include_str!("../../../../../README.md");
        let example = readme.split("```toml\n").find(|text| text.starts_with("# sternpost.toml\n")).unwrap();
        let example = example.split("```").next().unwrap();
        let site = with_stick(example).unwrap();
        assert_eq!(site.network.links.len(), 5);
    }

    #[test]
    fn what_its_files_hold_is_judged_with_the_line_that_gave_them() {
        let folder = tempfile::tempdir().unwrap();
        let text = INLINE
            .replace("allow_plaintext = true", "start_tls = true\ntrust_anchor_pem = \"no certificate\"");
        let site = alone(&text).unwrap();
        for (name, text) in site.files() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let problem = site.check(folder.path()).unwrap_err().to_string();
        assert!(
            problem.starts_with(
                "credential:4: directory.trust_anchor: what it holds cannot be used: it holds no certificate."
            ),
            "{problem}"
        );
        let text = INLINE.replace("password = \"secret\"", "password = \"\"");
        let site = alone(&text).unwrap();
        for (name, text) in site.files() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let problem = site.check(folder.path()).unwrap_err().to_string();
        assert!(
            problem.starts_with("credential:5: directory.bind: the password is empty. Give the password"),
            "{problem}"
        );
        let text = INLINE.replace("ldap://127.0.0.1", "ldap://127.0.0.1\",\n\"https://x");
        let problem = alone(&text).unwrap().check(folder.path()).unwrap_err().to_string();
        assert!(
            problem.starts_with("credential:3: directory.uris: \"https://x\" is not ldaps://"),
            "{problem}"
        );
    }
}
