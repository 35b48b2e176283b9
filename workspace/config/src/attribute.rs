//! The table of attributes: the one place for names, syntaxes, units, defaults and bounds.

/// The object classes of the model, which are also the tables of the text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// One machine.
    Node,
    /// Whose word counts about who somebody is.
    Trust,
    /// Where mail comes in.
    Listener,
    /// How mail goes out.
    Channel,
    /// To whom mail goes.
    Peer,
    /// Which domain goes to whom.
    Route,
    /// Totals and timings.
    Qmgr,
    /// An order that mail of low precedence waits.
    Minimise,
    /// Who may authenticate.
    User,
    /// What senders are told, and who is not.
    Reports,
    /// The words of one kind of report in one language.
    ReportText,
}

impl Class {
    /// Every class, in the order in which tables are written: one that is referred to before those that refer to it.
    pub const ALL: [Self; 11] = [
        Self::Node,
        Self::Trust,
        Self::Listener,
        Self::Channel,
        Self::Peer,
        Self::Route,
        Self::Qmgr,
        Self::Minimise,
        Self::User,
        Self::Reports,
        Self::ReportText,
    ];

    /// The number of its OID below the schema's arc. Given once and never again.
    #[must_use]
    pub const fn oid(self) -> u16 {
        match self {
            Self::Node => 1,
            Self::Listener => 2,
            Self::Channel => 3,
            Self::Peer => 4,
            Self::Route => 5,
            Self::Qmgr => 6,
            Self::Minimise => 7,
            Self::Trust => 8,
            Self::User => 9,
            Self::Reports => 20,
            Self::ReportText => 21,
        }
    }

    /// The name of the object class.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "sternpostNode",
            Self::Trust => "sternpostTrust",
            Self::Listener => "sternpostListener",
            Self::Channel => "sternpostChannel",
            Self::Peer => "sternpostPeer",
            Self::Route => "sternpostRoute",
            Self::Qmgr => "sternpostQmgr",
            Self::Minimise => "sternpostMinimise",
            Self::User => "sternpostUser",
            Self::Reports => "sternpostReports",
            Self::ReportText => "sternpostReportText",
        }
    }

    /// The name of the table.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Trust => "trust",
            Self::Listener => "listener",
            Self::Channel => "channel",
            Self::Peer => "peer",
            Self::Route => "route",
            Self::Qmgr => "qmgr",
            Self::Minimise => "minimise",
            Self::User => "user",
            Self::Reports => "reports",
            Self::ReportText => "report_text",
        }
    }

    /// What an entry of the class is, in one sentence.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Node => {
                "One switch. Entries below it are for it alone and go before shared ones of the same name."
            }
            Self::Trust => "Authorities that vouch for peers and for clients, by their certificates.",
            Self::Listener => "A place where SMTP clients connect.",
            Self::Channel => "A kind of work that processes of their own do: SMTP, LMTP, reports.",
            Self::Peer => "A peer MTA or message store.",
            Self::Route => "Which peer gets the mail of some domains.",
            Self::Qmgr => "Totals and timings of the queue manager; one entry.",
            Self::Minimise => {
                "An order that mail below a precedence waits: on the whole switch, a channel or a peer, always or for a time."
            }
            Self::User => {
                "Somebody, or a program, that may authenticate to a listener, and what it may send as."
            }
            Self::Reports => "What senders are told of their mail, and who is not told; one entry.",
            Self::ReportText => {
                "The words of one kind of report in one language, instead of those in the box (English and German)."
            }
        }
    }

    /// Whether there is one such table at most, written `[node]` and not `[[node]]`.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(self, Self::Node | Self::Qmgr | Self::Reports)
    }

    /// The attributes of the class, in the order of the table.
    pub fn attributes(self) -> impl Iterator<Item = &'static Attribute> {
        ATTRIBUTES.iter().filter(move |attribute| attribute.class == self)
    }
}

/// What the value of an attribute looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Any text of one line.
    Text,
    /// A text with placeholders in braces, of several lines where there is room for them. See [`crate::Template`].
    Template,
    /// A language tag. RFC 5646.
    Language,
    /// The `cn` of another entry.
    Name,
    /// What a certificate and its key on the device are called.
    Credential,
    /// A domain name.
    Hostname,
    /// A domain, `.domain` or `*`.
    DomainPattern,
    /// A mailbox. RFC 5321, 4.1.2.
    Mailbox,
    /// A decimal number within the bounds.
    Integer,
    /// `TRUE` or `FALSE`. RFC 4517, 3.3.3.
    Boolean,
    /// An instant, see [`crate::Instant`].
    Time,
    /// An address and a port.
    SocketAddress,
    /// An address.
    Address,
    /// A preference, a weight, an address and a port.
    GroupHost,
    /// An address and a prefix length.
    Network,
    /// A network, a blank and a precedence.
    NetworkPrecedence,
    /// Some of these words in the order that counts, with blanks between; or the word `none`.
    Order(&'static [&'static str]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A name in AUTH: 1 to 255 printable characters of US-ASCII, no blank.
    UserName,
    /// A verifier of a password by RFC 5803. A secret.
    Verifier,
    /// `email:`, `dns:` or `sha256:` and what stands in a certificate.
    CertificateName,
    /// A mailbox, or an at sign and a domain.
    SenderPattern,
    /// X.509 certificates: PEM (RFC 7468) with one or several, or the base64 of one in DER.
    Certificates,
}

/// How many values an attribute may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// At most one.
    OptionalOne,
    /// Exactly one.
    RequiredOne,
    /// None or more.
    OptionalMany,
    /// One or more.
    RequiredMany,
}

impl Values {
    /// Whether there is at most one value.
    #[must_use]
    pub const fn single(self) -> bool {
        matches!(self, Self::OptionalOne | Self::RequiredOne)
    }

    /// Whether there must be one.
    #[must_use]
    pub const fn required(self) -> bool {
        matches!(self, Self::RequiredOne | Self::RequiredMany)
    }
}

/// What a value that cannot be read does where reading it wrongly would open a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nothing of the kind: the whole entry is wrong and keeps its last good version.
    Not,
    /// Each value grants something: one that cannot be read grants nothing, the others stay. A kept version grants
    /// no more than the new one does.
    Grant,
    /// The values are the only ones that count. One that cannot be read counts for nothing, the others stay; that no
    /// value is left does not make it as if there had been none. A kept version has the values that both versions have;
    /// where there are none, nothing counts.
    Only {
        /// Whether everything counts where there is no value; else something that the description says.
        all_without: bool,
    },
    /// The attribute restricts: it then has this value. A kept version has the lesser of its own and that.
    At(&'static str),
}

/// What stands in a kept version in place of the values of a [`Closed::Only`] when its two versions have none in common. It is
/// no name and no domain, for these have no colon.
pub(crate) const NOBODY: &str = ":nobody";

/// One attribute of one class.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name in the directory.
    pub name: &'static str,
    /// The number of its OID below the schema's arc. Given once and never again.
    pub oid: u16,
    /// The object class that it belongs to.
    pub class: Class,
    /// What a value looks like.
    pub syntax: Syntax,
    /// How many values there may be.
    pub values: Values,
    /// The unit of a number; empty where there is none.
    pub unit: &'static str,
    /// The value when there is none; empty where the description says what holds then.
    pub default: &'static str,
    /// Smallest number. Zero where it is no number.
    pub min: u64,
    /// Largest number. Zero where it is no number.
    pub max: u64,
    /// What a value does that cannot be read.
    pub closed: Closed,
    /// One sentence for the installer.
    pub description: &'static str,
}

impl Attribute {
    /// The attribute's key in the tables: `sternpostMessageOctetsMax` is `message_octets_max`.
    #[must_use]
    pub fn key(&self) -> String {
        self.key_characters().collect()
    }

    fn key_characters(&self) -> impl Iterator<Item = char> {
        let name = self.name.strip_prefix("sternpost").unwrap_or(self.name);
        name.char_indices().flat_map(|(at, character)| {
            let separator = (at > 0 && character.is_ascii_uppercase()).then_some('_');
            separator.into_iter().chain(Some(character.to_ascii_lowercase()))
        })
    }

    /// The attribute of a class by its key or by its name in the directory (in any case).
    #[must_use]
    pub fn find(class: Class, name_or_key: &str) -> Option<&'static Self> {
        class.attributes().find(|attribute| {
            attribute.name.eq_ignore_ascii_case(name_or_key)
                || attribute.key_characters().eq(name_or_key.chars())
        })
    }
}

const fn text(
    oid: u16,
    class: Class,
    name: &'static str,
    syntax: Syntax,
    values: Values,
    description: &'static str,
) -> Attribute {
    Attribute {
        name,
        oid,
        class,
        syntax,
        values,
        unit: "",
        default: "",
        min: 0,
        max: 0,
        closed: Closed::Not,
        description,
    }
}

const fn number(
    oid: u16,
    class: Class,
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    (min, max): (u64, u64),
    description: &'static str,
) -> Attribute {
    Attribute {
        name,
        oid,
        class,
        syntax: Syntax::Integer,
        values: OptionalOne,
        unit,
        default,
        min,
        max,
        closed: Closed::Not,
        description,
    }
}

impl Attribute {
    const fn with(mut self, default: &'static str, closed: Closed) -> Self {
        self.default = default;
        self.closed = closed;
        self
    }
}

use Class::{Channel, Listener, Minimise, Node, Peer, Qmgr, ReportText, Reports, Route, Trust, User};
use Syntax::{
    Address, Boolean, CertificateName, Certificates, Choice, Credential, DomainPattern, GroupHost, Hostname,
    Language, Mailbox, Name, Network, NetworkPrecedence, Order, SenderPattern, SocketAddress, Template, Text,
    Time, UserName, Verifier,
};
use Values::{OptionalMany, OptionalOne, RequiredMany, RequiredOne};

/// Largest size of a message that can be configured: 16 GiB.
const OCTETS_MAX: u64 = 17_179_869_184;

/// What clients may ask for at most, each word more than those before it: `ordinary` is routine or priority, as the node's
/// policy says.
const PRECEDENCES_MAX: &[&str] =
    &["deferred", "routine", "ordinary", "priority", "immediate", "flash", "override"];
/// The six levels, lowest first.
const PRECEDENCES: &[&str] = &["deferred", "routine", "priority", "immediate", "flash", "override"];
/// Header fields that may say a priority.
const PRIORITY_FIELDS: &[&str] =
    &["mt-priority", "mmhs-primary-precedence", "mmhs-copy-precedence", "priority", "x-priority"];
/// Mechanisms of SASL, the strongest first.
const MECHANISMS: &[&str] = &["external", "scram-sha-512", "scram-sha-256", "plain", "login", "anonymous"];
/// The lowest versions of TLS, the strictest first.
const TLS_VERSIONS: &[&str] = &["1.3", "1.2"];

/// Every attribute of the model. Each class has blocks of ten numbers; a class that outgrows one gets the next free block.
#[rustfmt::skip]
pub const ATTRIBUTES: &[Attribute] = &[
    text(1, Node, "sternpostIdentity", Text, OptionalMany, "Other names of the node, such as the serial number of its hardware; its cn is one already."),
    text(2, Node, "sternpostHostname", Hostname, RequiredOne, "The name that the node gives in greetings, in EHLO and in trace headers."),
    text(3, Node, "sternpostPostmaster", Mailbox, OptionalOne, "Who reads what goes wrong. Without it postmaster at the hostname."),
    text(4, Node, "sternpostPriorityPolicy", Choice(&["STANAG4406", "MIXER", "NSEP"]), OptionalOne, "The levels of MT-PRIORITY (RFC 6710) that listeners announce: six military ones, three civilian ones or five for emergencies. All switches of a network have the same.").with("STANAG4406", Closed::Not),
    text(180, Node, "sternpostNameServers", SocketAddress, OptionalMany, "The recursive name servers, with their ports (53), that are asked where mail goes by DNS; those of the operating system are never asked. Without it no mail goes by DNS.").with("", Closed::Grant),
    number(181, Node, "sternpostDnsTimeoutS", "seconds", "5", (1, 60), "The longest wait for an answer of a name server; each question is put three times at most."),
    text(182, Node, "sternpostDnsTrustAnchors", Text, OptionalMany, "DNSKEY records of the root zone, each on one line as in a zone file: . IN DNSKEY 257 3 8 and the key. With one, answers are validated (DNSSEC), and mail waits for what cannot be proven. Without it they are taken as they come."),
    text(183, Node, "sternpostOwnNames", Hostname, OptionalMany, "Names of mail exchangers, besides the hostname, that are this switch: mail is not sent to them, nor to exchangers that are worse."),
    text(184, Node, "sternpostOwnAddresses", Address, OptionalMany, "Addresses, besides those of the listeners, at which mail reaches this switch, such as those before a translation of addresses."),

    text(10, Listener, "sternpostAddresses", SocketAddress, RequiredMany, "Where clients connect; port 0 lets the system choose."),
    text(11, Listener, "sternpostClientNetworks", Network, OptionalMany, "Clients that may use routes that are not open to all. Without it nobody.").with("", Closed::Grant),
    number(12, Listener, "sternpostMessageOctetsMax", "octets", "115343360", (65_536, OCTETS_MAX), "The largest message that is accepted."),
    number(13, Listener, "sternpostRecipientsMax", "recipients", "1000", (100, 100_000), "The most recipients of one message."),
    number(14, Listener, "sternpostConnectionsMax", "connections", "", (1, 65_535), "The most connections at a time. Without it an equal share, among all listeners, of what the self test found, else 1000."),
    number(15, Listener, "sternpostConnectionsPerClientMax", "connections", "", (0, 65_535), "The most connections at a time from one address (IPv6: one /64), on all listeners together; 0 is no limit. Without it 100, or a quarter of the listener's share of what the self test found where that is less. Set it where you set sternpostConnectionsMax to less than 400, or one client may take most of them."),
    number(16, Listener, "sternpostErrorsMax", "commands", "20", (1, 1_000), "Commands in error before the connection is closed."),
    text(17, Listener, "sternpostBareLineEndings", Choice(&["refuse", "normalise"]), OptionalOne, "What becomes of a message with a CR or LF that stands alone.").with("refuse", Closed::At("refuse")),
    number(18, Listener, "sternpostCommandTimeoutS", "seconds", "300", (1, 3_600), "The longest wait for a command."),
    number(19, Listener, "sternpostDataTimeoutS", "seconds", "180", (1, 3_600), "The longest wait for more content."),
    number(20, Listener, "sternpostReceivedHeadersMax", "fields", "50", (10, 1_000), "Received fields beyond which a message is taken to loop."),
    text(21, Listener, "sternpostPrecedenceMax", Choice(PRECEDENCES_MAX), OptionalOne, "The highest precedence that the client networks may ask for. Other clients may ask for no more than ordinary mail has: routine under STANAG4406, else priority. The word ordinary stands for that, and a value that cannot be read counts as it.").with("override", Closed::At("ordinary")),
    text(22, Listener, "sternpostPrecedenceNetworks", NetworkPrecedence, OptionalMany, "Clients that may ask for a precedence up to this one, such as 192.0.2.0/24 flash; the highest grant counts. It opens no route.").with("", Closed::Grant),
    text(23, Listener, "sternpostPriorityFields", Order(PRIORITY_FIELDS), OptionalOne, "The header fields by which clients with a grant above ordinary mail may ask for a precedence where MAIL has no MT-PRIORITY, the first one first, or none. Name them only where these clients themselves keep strangers from writing such fields.").with("none", Closed::At("none")),
    number(24, Listener, "sternpostConnectionsReserveUrgent", "connections", "10", (0, 65_535), "Of the connections, those for clients that may ask for flash or override alone; both reserves take the smaller half of them at most, and one that no client of the listener may use is not kept."),
    number(25, Listener, "sternpostConnectionsReserveNormal", "connections", "10", (0, 65_535), "Of the connections, further ones for clients that may ask for priority or more alone."),
    text(26, Listener, "sternpostTls", Choice(&["immediate", "required", "offered", "none"]), OptionalOne, "Whether clients speak TLS. none: never; offered: those that ask by STARTTLS (RFC 3207); required: all, before any mail; immediate: all, from the first octet (RFC 8314, port 465). As long as the credential is missing no TLS is offered, and where it is required no mail comes in.").with("offered", Closed::At("required")),
    text(27, Listener, "sternpostTlsCredential", Credential, OptionalOne, "The certificate, with its key, that clients are shown: NAME.pem among the credentials on the device.").with("default", Closed::Not),
    text(28, Listener, "sternpostTlsClientCertificates", Choice(&["required", "requested", "none"]), OptionalOne, "Whether clients are asked for a certificate, and whether those without a trusted one may send mail. Where it is required so is TLS.").with("none", Closed::At("required")),
    text(29, Listener, "sternpostTlsClientTrust", Name, OptionalMany, "The trust entries that vouch for clients. Without it all of them.").with("", Closed::Only { all_without: true }),
    text(100, Listener, "sternpostTlsVersionMin", Choice(TLS_VERSIONS), OptionalOne, "The lowest version of TLS that clients may use.").with("1.2", Closed::At("1.3")),
    text(101, Listener, "sternpostAuth", Choice(&["required", "offered", "none"]), OptionalOne, "Whether clients authenticate (RFC 4954). none: AUTH is not there; offered: those that wish; required: all, before any mail. Who has authenticated as a user may use every route, and sends as what the user may send as.").with("none", Closed::At("required")),
    text(102, Listener, "sternpostAuthMechanisms", Choice(MECHANISMS), OptionalMany, "The mechanisms that are offered: plain and login under TLS alone, external to clients that have shown a trusted certificate, a scram where all users with a password have a verifier for it. anonymous opens no route. Without it all but anonymous.").with("", Closed::Only { all_without: false }),
    text(103, Listener, "sternpostSubmission", Boolean, OptionalOne, "Whether the listener is for submission by users (RFC 6409; ports 587 and 465) and not for transfer between MTAs: clients must authenticate, and a message without Date or Message-ID gets one.").with("FALSE", Closed::At("TRUE")),

    text(30, Channel, "sternpostKind", Choice(&["smtp", "lmtp", "housekeeper"]), RequiredOne, "What the channel does."),
    number(31, Channel, "sternpostProcessesMax", "processes", "4", (1, 256), "The most processes at a time."),
    number(32, Channel, "sternpostSlotsPerProcess", "associations", "", (1, 4_096), "Associations that one process serves at a time. Without it what the self test found, else 64; the housekeeper has 64."),
    number(33, Channel, "sternpostSlotsReserveUrgent", "associations", "4", (0, 65_536), "Association slots of the channel for urgent mail alone."),
    number(34, Channel, "sternpostSlotsReserveNormal", "associations", "4", (0, 65_536), "Further association slots of the channel that non-urgent mail may not take."),
    number(35, Channel, "sternpostAssociationsPerPeerMax", "associations", "20", (1, 10_000), "The most associations with one peer at a time."),
    number(41, Channel, "sternpostAssociationsPerPeerMin", "associations", "1", (1, 10_000), "The fewest associations with one peer at a time: how many it bears is found between this and the most, and below this only if it refuses so many. As many as the most, or more, fix the number."),
    number(36, Channel, "sternpostConnectTimeoutS", "seconds", "30", (1, 600), "The longest wait for a connection."),
    number(37, Channel, "sternpostIdleStopS", "seconds", "60", (1, 86_400), "Time without work after which a process ends."),
    number(38, Channel, "sternpostBdatOctetsMin", "octets", "65536", (0, OCTETS_MAX), "The smallest message that goes by BDAT where the peer offers it."),
    number(39, Channel, "sternpostAssociationsPerPeerReserveUrgent", "associations", "1", (0, 10_000), "Of the associations with one peer, those for urgent mail alone; both reserves take the smaller half of them at most."),
    number(40, Channel, "sternpostAssociationsPerPeerReserveNormal", "associations", "0", (0, 10_000), "Of the associations with one peer, further ones that non-urgent mail may not take."),

    text(50, Peer, "sternpostChannel", Name, RequiredOne, "The channel that talks to the peer."),
    text(51, Peer, "sternpostAddress", SocketAddress, OptionalOne, "Where the peer is: an address and a port. Required where sternpostNextHop is address."),
    text(190, Peer, "sternpostNextHop", Choice(&["address", "group", "dns"]), OptionalOne, "Where mail goes that is routed to the peer. address: to sternpostAddress; group: to one of sternpostGroupHosts; dns: where the DNS says for each domain (RFC 5321, section 5). The entry then stands for every domain that is routed to it: each is a peer of its own, NAME:DOMAIN, with the limits and the TLS that stand here.").with("address", Closed::Not),
    text(195, Peer, "sternpostGroupHosts", GroupHost, OptionalMany, "The hosts of a group, any of which takes the mail: preference, weight, and address with port, such as 10 5 192.0.2.1:25. The lowest preference goes first; hosts of equal preference share the associations by weight (1 to 1000). One that does not work gives way to the next, and is tried last for a minute. Required where sternpostNextHop is group."),
    number(191, Peer, "sternpostDnsPort", "port", "25", (1, 65_535), "The port of every mail exchanger that the DNS names."),
    text(192, Peer, "sternpostDnsFamilies", Choice(&["interleaved", "ipv6-first", "ipv4-first", "ipv6-only", "ipv4-only"]), OptionalOne, "Which addresses of a mail exchanger are tried, and which first; interleaved is both in turn, IPv6 first.").with("interleaved", Closed::Not),
    number(193, Peer, "sternpostDnsAddressesMax", "addresses", "8", (1, 64), "The most addresses of a domain, of all its mail exchangers, that are tried before its mail waits."),
    text(194, Peer, "sternpostDnsLoopback", Boolean, OptionalOne, "Whether the DNS may lead mail to the loopback of this machine, where another program takes it. FALSE: that is this switch, and the mail would loop.").with("FALSE", Closed::At("FALSE")),
    number(52, Peer, "sternpostAssociationsMax", "associations", "", (1, 10_000), "The most associations with the peer at a time. Without it what the channel says."),
    number(55, Peer, "sternpostAssociationsMin", "associations", "", (1, 10_000), "The fewest associations with the peer at a time; as many as the most, or more, fix the number. Without it what the channel says."),
    number(53, Peer, "sternpostAssociationsReserveUrgent", "associations", "", (0, 10_000), "Of the associations with the peer, those for urgent mail alone. Without it what the channel says."),
    number(54, Peer, "sternpostAssociationsReserveNormal", "associations", "", (0, 10_000), "Of the associations with the peer, further ones that non-urgent mail may not take. Without it what the channel says."),
    text(56, Peer, "sternpostPeerTls", Choice(&["mutual", "verified", "required", "opportunistic", "none"]), OptionalOne, "Whether mail goes by TLS. none: never; opportunistic: where the peer offers it; required: always, whoever answers; verified: always, and the certificate of the peer is trusted and has its name; mutual: as verified, and the peer gets a certificate of ours. Mail that cannot go so waits.").with("opportunistic", Closed::At("verified")),
    text(57, Peer, "sternpostPeerTlsImmediate", Boolean, OptionalOne, "Whether TLS begins with the first octet and not after STARTTLS. Then it is always required.").with("FALSE", Closed::Not),
    text(58, Peer, "sternpostPeerTlsNames", Hostname, OptionalMany, "Domain names, one of which the certificate of a verified peer must have among its subjectAltNames. Without it the peer's address, or one of a group's, as an iPAddress. Not for a peer by DNS: there it is the domain, or the mail exchanger where DNSSEC proves the MX record.").with("", Closed::Only { all_without: false }),
    text(59, Peer, "sternpostPeerTlsCredential", Credential, OptionalOne, "The certificate, with its key, that a mutual peer is shown: NAME.pem among the credentials on the device. Other peers are shown none.").with("default", Closed::Not),
    text(110, Peer, "sternpostPeerTlsTrust", Name, OptionalMany, "The trust entries that vouch for a verified peer. Without it all of them.").with("", Closed::Only { all_without: true }),
    text(111, Peer, "sternpostPeerTlsVersionMin", Choice(TLS_VERSIONS), OptionalOne, "The lowest version of TLS that is used with the peer.").with("1.2", Closed::At("1.3")),

    text(60, Route, "sternpostDomain", DomainPattern, RequiredMany, "A domain, all domains below one (.example.org) or every domain (*)."),
    text(61, Route, "sternpostPeer", Name, RequiredOne, "The peer that gets the mail."),
    text(62, Route, "sternpostClientNetworksOnly", Boolean, OptionalOne, "Whether only the listener's client networks may use the route; for every domain (*) always so.").with("FALSE", Closed::At("TRUE")),

    number(70, Qmgr, "sternpostQmgrMaxchans", "processes", "", (1, 4_096), "The most channel processes at a time. Without it what the self test found, else 16."),
    number(71, Qmgr, "sternpostQmgrReserveUrgent", "processes", "1", (0, 4_095), "Processes for urgent mail alone."),
    number(72, Qmgr, "sternpostQmgrReserveNormal", "processes", "1", (0, 4_095), "Further processes that non-urgent mail may not start."),
    number(73, Qmgr, "sternpostRetryStepS", "seconds", "60", (1, 86_400), "The wait grows by this with each failed attempt."),
    number(74, Qmgr, "sternpostRetryMaxS", "seconds", "3600", (1, 604_800), "The longest wait between attempts."),
    number(75, Qmgr, "sternpostExpireAfterS", "seconds", "432000", (1, 31_536_000), "The age at which a message is given up."),
    number(76, Qmgr, "sternpostDelayReportAfterS", "seconds", "14400", (0, 31_536_000), "The age at which the sender is told of a delay; 0 is never."),
    number(77, Qmgr, "sternpostQmgrChanTime1", "milliseconds", "1000", (0, 3_600_000), "Milliseconds: after the last process of a channel has gone none is started for this long, so that mail gathers for one; urgent mail does not wait. Channels that share one process take turns of this length, of a second at least."),
    number(78, Qmgr, "sternpostQmgrChanTime2", "milliseconds", "50", (0, 3_600_000), "Milliseconds: after a start none is started on the same channel for this long; urgent mail does not wait."),
    number(79, Qmgr, "sternpostQmgrChanTime3", "milliseconds", "500", (0, 3_600_000), "Milliseconds: after a start none is started on the same channel for this long while less waits than its processes have slots; urgent mail does not wait. What is less than ChanTime2 counts as that."),
    number(80, Qmgr, "sternpostQmgrAgeShare", "percent", "0", (0, 50), "Percent: of what a channel is given, so much goes by age and not by precedence, so that low mail is served while high mail floods; 0 is strict precedence."),
    number(81, Qmgr, "sternpostDrainTimeoutS", "seconds", "600", (10, 86_400), "A channel process that was asked to stop is killed when in this time it has neither finished a message nor sent 64 KiB; what it had under way is tried again."),
    number(82, Qmgr, "sternpostDrainTimeMaxS", "seconds", "3600", (10, 604_800), "A channel process that was asked to stop is killed after this time whatever it still sends; what is less than DrainTimeoutS counts as that. Set it longer than the largest message takes over the slowest line: a transfer that is cut off begins again from its first octet."),

    text(90, Minimise, "sternpostLowestPrecedence", Choice(PRECEDENCES), RequiredOne, "Mail below this precedence waits."),
    text(91, Minimise, "sternpostMinimiseChannel", Name, OptionalOne, "The channel where it holds. Without it and without a peer it holds on every channel but the housekeeper."),
    text(92, Minimise, "sternpostMinimisePeer", Name, OptionalOne, "The peer where it holds."),
    text(93, Minimise, "sternpostMinimiseFrom", Time, OptionalOne, "From when on, in UTC (Z) or with an offset (+0100). Without it at once."),
    text(94, Minimise, "sternpostMinimiseUntil", Time, OptionalOne, "Until when, in UTC (Z) or with an offset (+0100). Without it until the entry is removed."),

    text(120, Trust, "sternpostTrustCertificates", Certificates, RequiredMany, "Certificates of authorities: PEM with one or several, or the base64 of one in DER. They are public; never a private key.").with("", Closed::Grant),

    text(130, User, "sternpostUserName", UserName, OptionalOne, "What the user calls itself in AUTH, in any case. Without it the cn."),
    text(131, User, "sternpostUserVerifiers", Verifier, OptionalMany, "What the password is checked by (RFC 5803), as sternpost verifier makes it, one for each hash; never a password. Give all users the same hash and iterations. Let nobody but the switches read this attribute.").with("", Closed::Grant),
    text(132, User, "sternpostUserCertificates", CertificateName, OptionalMany, "Client certificates by which the user is known (external): email: or dns: and a subjectAltName that a trusted authority vouches for, or sha256: and the hash of the certificate.").with("", Closed::Grant),
    text(133, User, "sternpostUserSenders", SenderPattern, OptionalMany, "What the user may send as: mailboxes, or an at sign and a domain for all of it. Without it nothing but the null sender.").with("", Closed::Grant),
    text(200, Reports, "sternpostReportLanguage", Language, OptionalOne, "The language of reports where neither the listener nor the mail says another one. A language without a text gets English.").with("en", Closed::Not),
    text(201, Reports, "sternpostReportLanguageFromMail", Boolean, OptionalOne, "Whether the header of the mail that is reported on says the language, by Accept-Language or else Content-Language (RFC 3282), where there is a text in it.").with("FALSE", Closed::Not),
    text(202, Reports, "sternpostReportCopies", Mailbox, OptionalOne, "Who gets a copy of each report of a failure, without the body of the mail, and hears of those failures that nobody can be told of. Without it nobody."),
    number(203, Reports, "sternpostReportsPerDomainHourMax", "reports", "1000", (0, 1_000_000), "The most reports to the senders of one domain in an hour, of each housekeeper process; what is more is not made, and counted in the log. 0 is no limit."),
    text(204, Reports, "sternpostReportsUnauthenticated", Boolean, OptionalOne, "Whether senders get reports whose mail has failed DMARC, or SPF without passing DMARC, as an Authentication-Results field of this node says (RFC 8601). Such a sender is probably not who has sent it.").with("TRUE", Closed::Not),

    text(210, ReportText, "sternpostReportTextKind", Choice(&["failure", "delay", "delivered", "relayed"]), RequiredOne, "Which reports have these words."),
    text(211, ReportText, "sternpostReportTextLanguage", Language, RequiredOne, "The language of the words."),
    text(212, ReportText, "sternpostReportTextSubject", Template, RequiredOne, "The subject, of one line. It may have {hostname} and {queue_id}."),
    text(213, ReportText, "sternpostReportTextBody", Template, RequiredOne, "The text, with {recipients} on a line of its own. It may have {hostname}, {accepted_at}, {retry_until} (of a delay), {attached}, {postmaster} and {queue_id} besides. A line of which a placeholder has nothing to say is left out; {{ and }} are braces."),
    text(214, ReportText, "sternpostReportTextRecipient", Template, OptionalOne, "The text of each recipient. It may have {address}, {remote} and {reply} (who answered what), {reason} (what the switch found by itself), {attempts}, {expired} and {advice}. Without it that in the box of the same language, else the English one."),

    text(220, Listener, "sternpostListenerReportLanguage", Language, OptionalOne, "The language of reports on mail that came here. Without it that of the reports entry."),
    text(221, Listener, "sternpostReportsTo", Choice(&["nobody", "client-networks", "everybody"]), OptionalOne, "Which clients' mail is reported on to its sender: of everybody, of the client networks alone, or of nobody. Senders of others are told nothing of a failure: use it where what strangers send is refused at once or is not worth an answer.").with("everybody", Closed::Not),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_are_given_once() {
        let names: HashSet<_> = ATTRIBUTES.iter().map(|attribute| attribute.name).collect();
        let numbers: HashSet<_> = ATTRIBUTES.iter().map(|attribute| attribute.oid).collect();
        assert_eq!((names.len(), numbers.len()), (ATTRIBUTES.len(), ATTRIBUTES.len()));
        let classes: HashSet<_> = Class::ALL.map(Class::oid).into();
        assert_eq!(classes.len(), Class::ALL.len());
    }

    #[test]
    fn every_default_lies_within_its_bounds() {
        for attribute in ATTRIBUTES.iter().filter(|a| a.syntax == Syntax::Integer && !a.default.is_empty()) {
            let default: u64 = attribute.default.parse().unwrap();
            assert!((attribute.min..=attribute.max).contains(&default), "{}", attribute.name);
        }
    }

    #[test]
    fn the_words_for_levels_and_fields_are_those_of_the_messages() {
        use sternpost_message::{Precedence, PriorityField, PriorityPolicy};
        assert_eq!(PRECEDENCES, Precedence::ALL.map(Precedence::name));
        let levels: Vec<_> = PRECEDENCES_MAX.iter().filter(|word| **word != "ordinary").copied().collect();
        assert_eq!(levels, PRECEDENCES);
        for policy in PriorityPolicy::ALL {
            // A kept version has the lesser of two words: that must be the lesser of what they stand for.
            let stands_for = |word: &&str| word.parse().unwrap_or(policy.ordinary());
            assert!(PRECEDENCES_MAX.iter().map(stands_for).is_sorted(), "{}", policy.name());
        }
        assert_eq!(MECHANISMS, crate::Mechanism::ALL.map(crate::Mechanism::name));
        assert_eq!(PRIORITY_FIELDS, PriorityField::ALL.map(PriorityField::name));
        let policies = Attribute::find(Node, "priority_policy").unwrap();
        let names = PriorityPolicy::ALL.map(PriorityPolicy::name);
        assert!(matches!(policies.syntax, Choice(words) if words == names));
    }

    #[test]
    fn a_key_is_the_name_in_snake_case_without_its_prefix() {
        let attribute = Attribute::find(Listener, "message_octets_max").unwrap();
        assert_eq!(attribute.name, "sternpostMessageOctetsMax");
        assert!(Attribute::find(Peer, "message_octets_max").is_none());
        assert!(Attribute::find(Qmgr, "STERNPOSTQMGRMAXCHANS").is_some());
    }
}
