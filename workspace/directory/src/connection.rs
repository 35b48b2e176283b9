//! One connection: socket, TLS, bind.
//!
//! The socket is ours, so that a peer that went away without a word is noticed: keep-alive and, for what was sent
//! and not acknowledged, TCP_USER_TIMEOUT. A server that is stopped but acknowledges is noticed by the sign of life
//! that the session asks for.

use crate::content::{ENTRIES_MAX, OCTETS_MAX};
use crate::{Bind, Bootstrap};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, StdStream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sternpost_message::Diagnostic;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

/// Why the directory cannot be read right now.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The bootstrap is not usable; trying again will not help.
    #[error("the bootstrap is not usable: {0}")]
    Bootstrap(String),
    /// A file that the bootstrap names cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use the certificate or key in {path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The name of the server has no address, or nobody answers there.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// Connection, TLS or an operation failed.
    #[error("{step} failed")]
    Ldap {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: Box<LdapError>,
    },
    /// TLS failed.
    #[error("{step} failed: {words}")]
    Tls {
        /// What was being done.
        step: &'static str,
        /// What is wrong and, where it is a certificate, what to do.
        words: String,
    },
    /// The file of the password has none in its first line.
    #[error("the bootstrap is not usable: {} is empty", path.display())]
    EmptyPassword {
        /// The file.
        path: PathBuf,
    },
    /// The server said no.
    #[error("{step} was refused: result {code}{text}")]
    Refused {
        /// What was asked for.
        step: &'static str,
        /// The result code. RFC 4511, appendix A.
        code: u32,
        /// The server's words, in one line of at most 512 octets, after a colon; empty when there are none.
        text: String,
    },
    /// Nothing came in time.
    #[error("{0} took too long")]
    Silent(&'static str),
    /// The server sent something that does not follow the protocol.
    #[error("the server does not follow the protocol: {0}")]
    Protocol(String),
    /// The server has more for us than a configuration can be.
    #[error("its entries are more than {ENTRIES_MAX} or take more than {} MiB", OCTETS_MAX >> 20)]
    TooLarge,
    /// The server ended the connection.
    #[error("the server closed the connection")]
    Closed,
}

impl DirectoryError {
    pub(crate) fn ldap(step: &'static str) -> impl FnOnce(LdapError) -> Self {
        move |error| match error {
            LdapError::LdapResult { result } => Self::refused(step, &result),
            LdapError::Timeout { .. } => Self::Silent(step),
            error => match tls_fault(&error) {
                Some(fault) => Self::Tls { step, words: tls_words(fault) },
                None => Self::Ldap { step, source: Box::new(error) },
            },
        }
    }

    pub(crate) fn refused(step: &'static str, result: &ldap3::result::LdapResult) -> Self {
        let words = Diagnostic::one_line(&result.text);
        let text = if words.is_empty() { words } else { format!(": {words}") };
        Self::Refused { step, code: result.rc, text }
    }
}

/// What TLS has to say, at the ground of an error of the client.
fn tls_fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let within = within.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    within.or_else(|| error.downcast_ref()).or_else(|| tls_fault(error.source()?))
}

/// In words of whoever runs the directory. The same words at each attempt of a day: no time of the day is among them.
fn tls_words(fault: &rustls::Error) -> String {
    use rustls::{CertificateError as Wrong, Error};
    const CLOCK: &str = "if that is wrong, set the clock (a device: in its firmware, or by [network] ntp)";
    let day = |time: rustls::pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_or_else(|_| "?".to_owned(), |at| at.date().to_string())
    };
    let Error::InvalidCertificate(wrong) = fault else { return format!("TLS: {fault}") };
    match wrong {
        Wrong::UnknownIssuer | Wrong::BadSignature => {
            "the server's certificate is not vouched for by trust_anchor: put the certificate of the authority that has signed it there".to_owned()
        }
        Wrong::ExpiredContext { time, not_after } => format!(
            "the server's certificate has expired on {} and this machine's clock says {}: {CLOCK}; else give the server a new one",
            day(*not_after),
            day(*time)
        ),
        Wrong::NotValidYetContext { time, not_before } => format!(
            "the server's certificate is valid from {} and this machine's clock says {}: {CLOCK}",
            day(*not_before),
            day(*time)
        ),
        Wrong::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is not for {}, by which uris names the server, but for {}: it needs that as subjectAltName",
            expected.to_str(),
            if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") },
        ),
        other => format!("the server's certificate cannot be used: {other}"),
    }
}

/// A task that ends with its owner.
pub(crate) struct Owned<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that is bound.
pub(crate) struct Connection {
    pub(crate) ldap: Ldap,
    driver: Owned<Result<(), LdapError>>,
}

impl Connection {
    /// Connects, starts TLS and binds.
    pub(crate) async fn open(bootstrap: &Bootstrap, uri: &str) -> Result<Self, DirectoryError> {
        let limit = Duration::from_millis(bootstrap.timings.connect_timeout_ms);
        tokio::time::timeout(limit, Self::open_without_limit(bootstrap, uri))
            .await
            .unwrap_or(Err(DirectoryError::Silent("connecting and binding")))
    }

    async fn open_without_limit(bootstrap: &Bootstrap, uri: &str) -> Result<Self, DirectoryError> {
        let target = Target::parse(uri)?;
        let stream = connect(&target, bootstrap).await?;
        let uses_tls = target.is_ldaps || bootstrap.start_tls;
        if uses_tls {
            target.check_tls(uri)?;
        }
        if !uses_tls {
            let address = stream.peer_addr().map_err(DirectoryError::Connect)?;
            if !(bootstrap.allow_plaintext && address.ip().to_canonical().is_loopback()) {
                return Err(DirectoryError::Bootstrap(format!(
                    "{uri} has no TLS: use ldaps or start_tls (allow_plaintext is for loopback addresses alone)"
                )));
            }
            if matches!(bootstrap.bind, Bind::External { .. }) {
                return Err(DirectoryError::Bootstrap("a bind with a certificate needs TLS".into()));
            }
        }
        let mut settings = LdapConnSettings::new().set_std_stream(StdStream::Tcp(stream));
        if uses_tls {
            settings =
                settings.set_starttls(bootstrap.start_tls && !target.is_ldaps).set_config(tls(bootstrap)?);
        }
        let (connection, ldap) =
            LdapConnAsync::with_settings(settings, uri).await.map_err(DirectoryError::ldap("connecting"))?;
        let mut connection = Self { ldap, driver: Owned(tokio::spawn(connection.drive())) };
        match connection.bind(&bootstrap.bind).await {
            Ok(()) => Ok(connection),
            Err(error) => Err(connection.explain(error).await),
        }
    }

    async fn bind(&mut self, bind: &Bind) -> Result<(), DirectoryError> {
        let result = match bind {
            Bind::Simple { dn, password_file } => {
                let password = password(password_file)?;
                self.ldap.simple_bind(dn, &password).await
            }
            Bind::External { .. } => self.ldap.sasl_external_bind().await,
        };
        let result = result.map_err(DirectoryError::ldap("the bind"))?;
        if result.rc == 0 { Ok(()) } else { Err(DirectoryError::refused("the bind", &result)) }
    }

    /// The cause behind a failed operation: the client only says that its other half is gone.
    pub(crate) async fn explain(&mut self, error: DirectoryError) -> DirectoryError {
        if !matches!(error, DirectoryError::Ldap { .. } | DirectoryError::Closed) {
            return error;
        }
        // The driver has ended or is about to: its channels closed before its task did.
        match tokio::time::timeout(Duration::from_secs(1), &mut self.driver.0).await {
            Ok(Ok(Ok(()))) => DirectoryError::Closed,
            Ok(Ok(Err(cause))) => DirectoryError::ldap("the connection")(cause),
            Ok(Err(cause)) if cause.is_panic() => {
                DirectoryError::Protocol("it sent what is no LDAP message".into())
            }
            Ok(Err(_)) | Err(_) => error,
        }
    }
}

struct Target {
    is_ldaps: bool,
    host: String,
    port: u16,
}

impl Target {
    fn parse(uri: &str) -> Result<Self, DirectoryError> {
        let wrong =
            || DirectoryError::Bootstrap(format!("{uri:?} is not ldaps://host[:port] or ldap://host[:port]"));
        let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
        let (is_ldaps, default_port) = match scheme {
            "ldaps" => (true, 636),
            "ldap" => (false, 389),
            _ => return Err(wrong()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(default_port), str::parse).map_err(|_| wrong())?;
        if host.is_empty() || host.contains(['/', '?', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Self { is_ldaps, host: host.to_owned(), port })
    }

    /// The client library takes names and addresses of IPv4 as what a certificate is to be for.
    fn check_tls(&self, uri: &str) -> Result<(), DirectoryError> {
        if self.host.parse::<std::net::Ipv6Addr>().is_err() {
            return Ok(());
        }
        Err(DirectoryError::Bootstrap(format!(
            "{uri} names an address of IPv6, which cannot be compared with a certificate: write the server's name, which the name servers must know, or its address of IPv4"
        )))
    }

    /// A name may lead anywhere: that is judged when it has an address.
    fn may_be_loopback(&self) -> bool {
        self.host.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback())
            || self.host.parse::<std::net::IpAddr>().is_err()
    }
}

/// Which part of a bootstrap is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The server of this number in `uris`, counted from 0; 0 also when there is none.
    Uri(usize),
    /// `base_dn`.
    BaseDn,
    /// `trust_anchor`.
    TrustAnchor,
    /// `bind` and its files.
    Bind,
    /// `timings`: the one of this name.
    Timing(&'static str),
}

impl Bootstrap {
    /// Judges all that can be judged without a server: URIs, times, and the files, which are read.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn check(&self) -> Result<(), (Part, DirectoryError)> {
        let wrong = |part, what: &str| Err((part, DirectoryError::Bootstrap(what.into())));
        if self.uris.is_empty() {
            return wrong(Part::Uri(0), "there is no server");
        }
        if self.base_dn.trim().is_empty() {
            return wrong(Part::BaseDn, "it is empty");
        }
        if let Some(name) = self.timings.zero() {
            return wrong(Part::Timing(name), "a time of 0 would keep the switch busy with nothing else");
        }
        let mut uses_tls = false;
        for (number, uri) in self.uris.iter().enumerate() {
            let target = Target::parse(uri).map_err(|error| (Part::Uri(number), error))?;
            if target.is_ldaps || self.start_tls {
                target.check_tls(uri).map_err(|error| (Part::Uri(number), error))?;
                uses_tls = true;
            } else if matches!(self.bind, Bind::External { .. }) {
                return wrong(
                    Part::Uri(number),
                    "a bind with a certificate needs TLS: use ldaps or start_tls",
                );
            } else if !(self.allow_plaintext && target.may_be_loopback()) {
                let what = format!(
                    "{uri} has no TLS: use ldaps or start_tls (allow_plaintext is for loopback addresses alone)"
                );
                return wrong(Part::Uri(number), &what);
            }
        }
        let anchors = || {
            let path = self.trust_anchor.as_deref()?;
            Some(trusted(path).map_err(|error| (Part::TrustAnchor, error)))
        };
        if uses_tls && anchors().transpose()?.is_none() {
            return wrong(Part::TrustAnchor, "TLS needs a trust_anchor");
        }
        if uses_tls {
            tls(self).map_err(|error| (Part::Bind, error))?;
        }
        if let Bind::Simple { password_file, .. } = &self.bind {
            password(password_file).map_err(|error| (Part::Bind, error))?;
        }
        Ok(())
    }
}

/// The first address of the server that answers.
async fn connect(target: &Target, bootstrap: &Bootstrap) -> Result<std::net::TcpStream, DirectoryError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(DirectoryError::Connect)?
        .collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => return prepared(stream, bootstrap).map_err(DirectoryError::Connect),
            Err(error) => last = error,
        }
    }
    Err(DirectoryError::Connect(last))
}

fn prepared(stream: tokio::net::TcpStream, bootstrap: &Bootstrap) -> std::io::Result<std::net::TcpStream> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let interval = Duration::from_millis(bootstrap.timings.whoami_interval_ms).max(Duration::from_secs(1));
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, interval)?;
    sockopt::set_tcp_keepintvl(&stream, interval)?;
    sockopt::set_tcp_keepcnt(&stream, 3)?;
    let silence_ms = bootstrap.timings.whoami_interval_ms + bootstrap.timings.whoami_timeout_ms;
    sockopt::set_tcp_user_timeout(&stream, u32::try_from(silence_ms).unwrap_or(u32::MAX))?;
    stream.into_std()
}

fn tls(bootstrap: &Bootstrap) -> Result<Arc<rustls::ClientConfig>, DirectoryError> {
    let path = bootstrap
        .trust_anchor
        .as_deref()
        .ok_or_else(|| DirectoryError::Bootstrap("TLS needs a trust_anchor".into()))?;
    let anchors = trusted(path)?;
    // Named here: no other part of the process decides which implementation this connection uses.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(path, &error))?
        .with_root_certificates(anchors);
    Ok(Arc::new(match &bootstrap.bind {
        Bind::Simple { .. } => builder.with_no_client_auth(),
        Bind::External { certificate, key } => {
            let private =
                PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unusable(key, &error))?;
            let chain = certificates(certificate)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| unusable(certificate, &error))?
        }
    }))
}

fn trusted(path: &Path) -> Result<rustls::RootCertStore, DirectoryError> {
    let mut anchors = rustls::RootCertStore::empty();
    for certificate in certificates(path)? {
        anchors.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(anchors)
}

/// The first line of the file.
fn password(path: &Path) -> Result<String, DirectoryError> {
    let octets = read(path)?;
    let password = String::from_utf8_lossy(&octets).lines().next().unwrap_or_default().to_owned();
    if password.is_empty() {
        // RFC 4513, 5.1.2: a name without a password binds as nobody, and servers say that all went well.
        return Err(DirectoryError::EmptyPassword { path: path.to_owned() });
    }
    Ok(password)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DirectoryError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it holds no certificate"));
    }
    Ok(certificates)
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Certificate { path: path.to_owned(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    std::fs::read(path).map_err(|source| DirectoryError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::chain;

    #[test]
    fn a_uri_is_a_scheme_a_host_and_perhaps_a_port() {
        let rows = [
            ("ldaps://a.example", Some((true, "a.example", 636))),
            ("ldap://127.0.0.1:3890/", Some((false, "127.0.0.1", 3890))),
            ("ldap://[::1]:3890", Some((false, "::1", 3890))),
            ("ldap://[::1]", Some((false, "::1", 389))),
            ("ldapi:///", None),
            ("ldap://", None),
            ("ldap://a:x", None),
            ("ldap://a/b", None),
            ("a.example", None),
        ];
        for (uri, wanted) in rows {
            let target = Target::parse(uri).ok();
            assert_eq!(target.as_ref().map(|t| (t.is_ldaps, t.host.as_str(), t.port)), wanted, "{uri}");
        }
    }

    #[test]
    fn a_bootstrap_is_judged_without_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (empty, password) = (file("empty", "\n"), file("password", "secret\n"));
        let simple =
            |password_file: &Path| Bind::Simple { dn: "cn=n".into(), password_file: password_file.into() };
        let good = Bootstrap {
            uris: vec!["ldap://127.0.0.1".into()],
            trust_anchor: None,
            bind: simple(&password),
            start_tls: false,
            allow_plaintext: true,
            base_dn: "dc=example".into(),
            node: String::new(),
            timings: crate::Timings::default(),
        };
        assert_eq!(good.check().map_err(|(part, _)| part), Ok(()));
        let with = |change: &dyn Fn(&mut Bootstrap)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed.check().map_err(|(part, _)| part)
        };
        assert_eq!(with(&|b| b.uris.clear()), Err(Part::Uri(0)));
        assert_eq!(with(&|b| b.uris.push("http://x".into())), Err(Part::Uri(1)));
        assert_eq!(with(&|b| b.uris[0] = "ldap://192.0.2.1".into()), Err(Part::Uri(0)));
        assert_eq!(with(&|b| b.base_dn = " ".into()), Err(Part::BaseDn));
        assert_eq!(with(&|b| b.timings.retry_ms_min = 0), Err(Part::Timing("retry_ms_min")));
        assert_eq!(with(&|b| b.bind = simple(&empty)), Err(Part::Bind));
        assert_eq!(with(&|b| b.start_tls = true), Err(Part::TrustAnchor));
        assert_eq!(with(&|b| b.uris.push("ldaps://[2001:db8::20]".into())), Err(Part::Uri(1)));
        let no_certificate =
            |b: &mut Bootstrap| (b.start_tls, b.trust_anchor) = (true, Some(password.clone()));
        assert_eq!(with(&no_certificate), Err(Part::TrustAnchor));
    }

    #[test]
    fn a_certificate_that_is_refused_says_what_to_do() {
        use rustls::pki_types::{ServerName, UnixTime};
        use rustls::{CertificateError as Wrong, Error};
        let day = |number: u64| UnixTime::since_unix_epoch(Duration::from_secs(number * 86_400));
        let rows = [
            (Wrong::BadSignature, "is not vouched for by trust_anchor"),
            (Wrong::UnknownIssuer, "is not vouched for by trust_anchor"),
            (
                Wrong::ExpiredContext { time: day(20_001), not_after: day(20_000) },
                "has expired on 2024-10-04 and this machine's clock says 2024-10-05: if that is wrong, set the clock",
            ),
            (
                Wrong::NotValidYetContext { time: day(0), not_before: day(20_000) },
                "is valid from 2024-10-04 and this machine's clock says 1970-01-01",
            ),
            (
                Wrong::NotValidForNameContext {
                    expected: ServerName::try_from("ldap.example").unwrap(),
                    presented: vec!["DnsName(\"other.example\")".into()],
                },
                "is not for ldap.example, by which uris names the server, but for DnsName(\"other.example\")",
            ),
        ];
        for (wrong, words) in rows {
            // As the client passes it on.
            let error =
                std::io::Error::new(std::io::ErrorKind::InvalidData, Error::InvalidCertificate(wrong));
            let said = chain(&DirectoryError::ldap("connecting")(LdapError::from(error)));
            assert!(
                said.starts_with("connecting failed: the server's certificate ") && said.contains(words),
                "{said}"
            );
        }
    }
}
