//! A client that says exactly what a test wants said.

use rustix::net::{self, AddressFamily, SocketType};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A reply is never waited for so long.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// A connection after the greeting.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and reads the greeting, whatever it is.
    pub(crate) fn connect(address: SocketAddr) -> (Self, String) {
        Self::greeted(TcpStream::connect(address).expect("the switch listens"))
    }

    /// The same from an address of this machine's own.
    pub(crate) fn connect_from(own: Ipv4Addr, address: SocketAddr) -> (Self, String) {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("there are sockets");
        net::bind(&socket, &SocketAddr::from((own, 0))).expect("the address is of the loopback");
        net::connect(&socket, &address).expect("the switch listens");
        Self::greeted(TcpStream::from(socket))
    }

    fn greeted(stream: TcpStream) -> (Self, String) {
        stream.set_read_timeout(Some(REPLY_MAX)).expect("the limit is not zero");
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.reply();
        (client, greeting)
    }

    /// Connects and says EHLO.
    pub(crate) fn greet(address: SocketAddr) -> Self {
        let (mut client, greeting) = Self::connect(address);
        assert!(greeting.starts_with("220 "), "{greeting}");
        client.expect("EHLO client.test", "250");
        client
    }

    /// Where the switch sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("a connection has an address")
    }

    /// Sends octets as they are.
    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).expect("the switch reads");
    }

    /// One reply, its lines joined by a line end. Empty when the connection has ended.
    pub(crate) fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line).expect("the switch replies in time");
            reply.push_str(&line);
            if count == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return reply.trim_end().to_owned();
            }
        }
    }

    /// Sends a command and reads its reply.
    pub(crate) fn command(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a command whose reply must begin so.
    pub(crate) fn expect(&mut self, command: &str, beginning: &str) -> String {
        let reply = self.command(command);
        assert!(reply.starts_with(beginning), "{command}: {reply}");
        reply
    }

    /// Sends a message and gives the reply to its content, which must have its dots doubled and end with CRLF.
    pub(crate) fn message(&mut self, mail: &str, recipients: &[&str], content: &[u8]) -> String {
        self.expect(&format!("MAIL FROM:{mail}"), "250");
        for recipient in recipients {
            self.expect(&format!("RCPT TO:<{recipient}>"), "250");
        }
        self.expect("DATA", "354");
        self.send(content);
        self.send(b".\r\n");
        self.reply()
    }
}
