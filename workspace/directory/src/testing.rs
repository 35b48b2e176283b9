//! A private slapd for tests and the demonstration: own folder, own ports on loopback, own certificates.
//!
//! Nothing outside its folder is touched, and it ends with its owner. Every function panics when the surroundings
//! fail it (no slapd, no openssl, a full disk): there is nothing that a test could do then.

use crate::content::Content;
use crate::{Bind, Bootstrap, Handover, Timings};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use sternpost_config::Entry;

/// The suffix of the directory; the example tree goes right below it.
pub const BASE_DN: &str = "dc=lab";
/// The name by which the switch binds.
pub const SWITCH_DN: &str = "cn=switch-1,dc=lab";
const ADMIN_DN: &str = "cn=admin,dc=lab";
const SERVER_ADMIN_DN: &str = "cn=admin,cn=config";
const PASSWORD: &str = "correct horse";
/// Long enough for the slowest machine; a condition that holds is never waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the server is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether it has certificates: ldaps and StartTLS.
    pub tls: bool,
    /// Whether it has RFC 4533.
    pub syncprov: bool,
}

/// A running or stopped server.
#[derive(Debug)]
pub struct Slapd {
    dir: PathBuf,
    options: Options,
    port: u16,
    tls_port: u16,
    process: Option<Child>,
}

impl Slapd {
    /// Sets a server up in `dir` and starts it, with RFC 4533. It holds [`BASE_DN`], the switch and our schema.
    #[must_use]
    pub fn start(dir: &Path, tls: bool) -> Self {
        Self::start_with(dir, Options { tls, syncprov: true })
    }

    /// Sets a server up in `dir` and starts it.
    #[must_use]
    pub fn start_with(dir: &Path, options: Options) -> Self {
        let mut slapd = Self { dir: dir.to_owned(), options, port: 0, tls_port: 0, process: None };
        for folder in ["config", "data"] {
            fs::create_dir_all(dir.join(folder)).expect("the folder of a test can be written");
        }
        fs::write(slapd.password_file(), format!("{PASSWORD}\n"))
            .expect("the folder of a test can be written");
        if options.tls {
            slapd.make_certificates();
        }
        slapd.slapadd("0", &slapd.server_configuration());
        slapd.slapadd(
            "1",
            &format!(
                "dn: {BASE_DN}\nobjectClass: dcObject\nobjectClass: organization\ndc: lab\no: lab\n\n\
                 dn: {SWITCH_DN}\nobjectClass: person\ncn: switch-1\nsn: switch\nuserPassword: {PASSWORD}\n"
            ),
        );
        slapd.launch_anywhere();
        slapd
    }

    /// `ldap://…`
    #[must_use]
    pub fn uri(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// `ldaps://…`
    #[must_use]
    pub fn ldaps_uri(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls_port)
    }

    /// The file with the switch's password.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    /// The certificate that vouches for the server.
    #[must_use]
    pub fn trust_anchor(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The bootstrap of a node that binds with a password: without TLS, or by ldaps if there is TLS. Its timings
    /// are those of a test.
    #[must_use]
    pub fn bootstrap(&self, node: &str) -> Bootstrap {
        Bootstrap {
            uris: vec![if self.options.tls { self.ldaps_uri() } else { self.uri() }],
            trust_anchor: self.options.tls.then(|| self.trust_anchor()),
            bind: Bind::Simple { dn: SWITCH_DN.into(), password_file: self.password_file() },
            start_tls: false,
            allow_plaintext: !self.options.tls,
            base_dn: BASE_DN.into(),
            node: node.into(),
            timings: Timings {
                whoami_interval_ms: 500,
                whoami_timeout_ms: 1_000,
                poll_interval_ms: 200,
                retry_ms_min: 50,
                retry_ms_max: 200,
                ..Timings::default()
            },
        }
    }

    /// The switch's certificate for SASL EXTERNAL.
    #[must_use]
    pub fn external(&self) -> Bind {
        Bind::External { certificate: self.dir.join("switch-1.pem"), key: self.dir.join("switch-1.key") }
    }

    /// Adds entries: through the server when it runs, else straight into its database (fast, for many).
    pub fn add_ldif(&self, ldif: &str) {
        if self.process.is_none() {
            return self.slapadd("1", ldif);
        }
        self.ldapmodify(&["-a"], ldif);
    }

    /// Changes entries through the server, by the change records of RFC 2849.
    pub fn modify_ldif(&self, ldif: &str) {
        self.ldapmodify(&[], ldif);
    }

    /// Changes the server's own configuration, such as its schema, by the change records of RFC 2849.
    pub fn reconfigure(&self, ldif: &str) {
        self.ldapmodify_as(SERVER_ADMIN_DN, &[], ldif);
    }

    /// Ends the server in order.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends the server at once.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Starts a server that was stopped or killed, at the same ports; a running one is stopped first.
    pub fn restart(&mut self) {
        self.stop();
        let deadline = Instant::now() + PATIENCE;
        while !self.try_launch() {
            assert!(Instant::now() < deadline, "slapd does not come back; its log: {}", self.log());
        }
    }

    /// Runs the server at other ports while `change` is made, so that none of its clients sees it happen, and comes
    /// back to the old ones.
    pub fn unseen(&mut self, change: impl FnOnce(&Self)) {
        self.stop();
        let ports = (self.port, self.tls_port);
        self.launch_anywhere();
        change(self);
        self.stop();
        (self.port, self.tls_port) = ports;
        self.restart();
    }

    /// Lets the server hang (SIGSTOP): its connections stay, nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Copies the database of a stopped server.
    pub fn back_up(&self) {
        assert!(self.process.is_none(), "a running database is not copied");
        copy(&self.dir.join("data"), &self.dir.join("backup"));
    }

    /// Puts the copy back.
    pub fn restore(&self) {
        assert!(self.process.is_none(), "a running database is not replaced");
        copy(&self.dir.join("backup"), &self.dir.join("data"));
    }

    fn end(&mut self, signal: Signal) {
        if self.process.is_some() {
            self.signal(signal);
        }
        if let Some(mut process) = self.process.take() {
            process.wait().expect("a child can be waited for");
        }
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        let pid = Pid::from_child(process);
        kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// The server cannot choose a port, and a free one may be taken before the server has it.
    fn launch_anywhere(&mut self) {
        for _ in 0..20 {
            (self.port, self.tls_port) = free_ports();
            if self.try_launch() {
                return;
            }
        }
        panic!("slapd found no ports; its log: {}", self.log());
    }

    fn try_launch(&mut self) -> bool {
        let log = fs::File::create(self.dir.join("slapd.log")).expect("the folder of a test can be written");
        let mut listeners = self.uri();
        if self.options.tls {
            listeners.push(' ');
            listeners.push_str(&self.ldaps_uri());
        }
        let mut process = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-h", &listeners, "-F"])
            .arg(self.dir.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("slapd is installed at /usr/sbin/slapd");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if process.try_wait().expect("a child can be waited for").is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            if Instant::now() > deadline {
                process.kill().expect("a child can be killed");
                process.wait().expect("a child can be waited for");
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("slapd.log")).unwrap_or_default()
    }

    fn slapadd(&self, database: &str, ldif: &str) {
        let mut command = Command::new("/usr/sbin/slapadd");
        command.args(["-n", database, "-F"]).arg(self.dir.join("config"));
        if database != "0" {
            // Stamps of its own, and no test of a schema that the server knows better.
            command.arg("-w");
        }
        feed(&mut command, ldif);
    }

    fn ldapmodify(&self, arguments: &[&str], ldif: &str) {
        self.ldapmodify_as(ADMIN_DN, arguments, ldif);
    }

    fn ldapmodify_as(&self, who: &str, arguments: &[&str], ldif: &str) {
        let mut command = Command::new("ldapmodify");
        command.args(["-x", "-H", &self.uri(), "-D", who, "-w", PASSWORD]).args(arguments);
        feed(&mut command, ldif);
    }

    fn server_configuration(&self) -> String {
        let dir = self.dir.display();
        let tls = if self.options.tls {
            format!(
                "olcTLSCACertificateFile: {dir}/ca.pem\nolcTLSCertificateFile: {dir}/server.pem\n\
                 olcTLSCertificateKeyFile: {dir}/server.key\nolcTLSVerifyClient: try\n\
                 olcAuthzRegexp: {{0}}^cn=([^,]+)$ cn=$1,{BASE_DN}\n"
            )
        } else {
            String::new()
        };
        let (module, overlay) = if self.options.syncprov {
            (
                "olcModuleLoad: syncprov\n",
                "\ndn: olcOverlay={0}syncprov,olcDatabase={1}mdb,cn=config\nobjectClass: olcOverlayConfig\n\
                 objectClass: olcSyncProvConfig\nolcOverlay: {0}syncprov\nolcSpSessionlog: 100\n",
            )
        } else {
            ("", "")
        };
        format!(
            "dn: cn=config\nobjectClass: olcGlobal\ncn: config\nolcThreads: 4\n{tls}\n\
             dn: cn=module{{0}},cn=config\nobjectClass: olcModuleList\ncn: module{{0}}\n\
             olcModulePath: /usr/lib/ldap\nolcModuleLoad: back_mdb\n{module}\n\
             dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n\
             include: file:///etc/ldap/schema/core.ldif\n\n{}\n\
             dn: olcDatabase={{0}}config,cn=config\nobjectClass: olcDatabaseConfig\nolcDatabase: {{0}}config\n\
             olcRootDN: {SERVER_ADMIN_DN}\nolcRootPW: {PASSWORD}\n\n\
             dn: olcDatabase={{1}}mdb,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMdbConfig\n\
             olcDatabase: {{1}}mdb\nolcDbDirectory: {dir}/data\nolcSuffix: {BASE_DN}\nolcRootDN: {ADMIN_DN}\n\
             olcRootPW: {PASSWORD}\nolcDbMaxSize: 67108864\nolcDbNoSync: TRUE\n\
             olcDbIndex: objectClass,entryUUID,entryCSN eq\n\
             olcAccess: {{0}}to dn.exact={SWITCH_DN} attrs=userPassword by anonymous auth by * none\n\
             olcAccess: {{1}}to * by dn.exact={SWITCH_DN} read by * none\n\
             olcLimits: {{0}}dn.exact={SWITCH_DN} size=unlimited time=unlimited\n{overlay}",
            sternpost_config::SCHEMA_LDIF
        )
    }

    /// A CA, a certificate for the server (127.0.0.1, and 10.0.2.2 as a guest of QEMU calls it) and one for the switch; and another CA that vouches for nobody.
    fn make_certificates(&self) {
        let configuration = "[req]\ndistinguished_name = name\n[name]\n\
             [ca]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\nsubjectKeyIdentifier = hash\n\
             [server]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = IP:127.0.0.1,IP:10.0.2.2,DNS:localhost\n\
             extendedKeyUsage = serverAuth\n\
             [client]\nbasicConstraints = critical,CA:FALSE\nextendedKeyUsage = clientAuth\n";
        fs::write(self.dir.join("openssl.cnf"), configuration).expect("the folder of a test can be written");
        for (name, subject, section) in [
            ("ca", "/CN=lab ca", "ca"),
            ("other-ca", "/CN=other ca", "ca"),
            ("server", "/CN=localhost", "server"),
            ("switch-1", "/CN=switch-1", "client"),
        ] {
            let mut command = Command::new("openssl");
            command.current_dir(&self.dir).args([
                "req",
                "-x509",
                "-config",
                "openssl.cnf",
                "-days",
                "2",
                "-nodes",
            ]);
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-subj", subject, "-extensions", section]);
            command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
            if section != "ca" {
                command.args(["-CA", "ca.pem", "-CAkey", "ca.key"]);
            }
            feed(&mut command, "");
        }
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Errors are of no use here: the process is gone then.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A watch that believes to know these entries by this cookie.
pub async fn watch_pretending(
    bootstrap: Bootstrap,
    entries: Vec<Entry>,
    cookie: Vec<u8>,
    handover: tokio::sync::mpsc::Sender<Handover>,
) {
    crate::watch::watch_with(bootstrap, Content::pretending(entries, cookie), handover).await;
}

/// Runs a program with a text as its input, to its good end.
fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    let input = input.to_owned();
    // A thread of its own: the program may speak before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("a child can be waited for");
    let _ = writer.join().expect("writing does not panic");
    assert!(
        output.status.success(),
        "{}: {}{}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn free_ports() -> (u16, u16) {
    let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let port = |listener: &TcpListener| listener.local_addr().expect("a listener has an address").port();
    let (first, second) = (listener(), listener());
    (port(&first), port(&second))
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("the folder of a test can be written");
    for file in fs::read_dir(from).expect("the folder of a test can be read") {
        let file = file.expect("the folder of a test can be read");
        fs::copy(file.path(), to.join(file.file_name())).expect("the folder of a test can be written");
    }
}
