//! Certificates, the authorities that sign them, and switches that have them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use super::site::Site;
use super::{Switch, wait_for};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Somebody who certifies.
pub(crate) struct Authority {
    /// In PEM.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and private key for a name.
    pub(crate) fn credential(&self, name: &str) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem() + &key.serialize_pem()
    }

    /// The entry that makes it trusted.
    pub(crate) fn trust(&self) -> String {
        format!(
            "\n[[trust]]\nname = \"authority\"\ntrust_certificates = [\"\"\"\n{}\"\"\"]\n",
            self.certificate
        )
    }
}

/// Puts a credential into the folder of a switch, whole.
pub(crate) fn put(switch: &Switch, name: &str, pem: &str) {
    let folder = switch.home().join("s/credentials");
    let new = folder.join(format!(".{name}.new"));
    fs::write(&new, pem).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, folder.join(format!("{name}.pem"))).unwrap();
    switch.command(&["credentials", "--reload"]);
}

/// A switch with a credential `default` for `switch.test` that trusts the authority.
pub(crate) fn switch_with(authority: &Authority, site: &Site) -> Switch {
    let switch = Switch::start(&(site.tables() + &authority.trust()));
    put(&switch, "default", &authority.credential("switch.test"));
    wait_for_log(&switch, "usable=\"default\"");
    switch
}

/// Waits until the switch has logged this.
pub(crate) fn wait_for_log(switch: &Switch, words: &str) {
    wait_for(words, || switch.log().contains(words).then_some(()));
}
