//! Speaks a script on one connection.

use super::script::{Expected, Numbered, Script, Step};
use crate::stream::Stream;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// Octets of a reply line with its CR LF. RFC 5321, 4.5.3.1.5.
const REPLY_LINE_OCTETS_MAX: usize = 512;
/// A line of generated content with its CR LF. RFC 5322, 2.1.1.
const CONTENT_LINE_OCTETS: usize = 80;
/// Lines that are generated, and octets of a file that are read, at once: 40 KiB.
const CONTENT_LINES: usize = 512;
/// Octets of what was said that the record shows.
const SHOWN_OCTETS_MAX: usize = 200;

/// How a script is spoken.
#[derive(Clone, Debug)]
pub struct PlayOptions {
    /// The server.
    pub to: SocketAddr,
    /// The own address; the kernel's choice without one.
    pub from: Option<IpAddr>,
    /// TLS from the first octet on (RFC 8314, 3).
    pub is_tls_immediate: bool,
    /// Time that a connection, a handshake or anything that the server says may take.
    pub reply_timeout: Duration,
}

impl PlayOptions {
    /// From anywhere, STARTTLS where the script says so, and a minute for a reply.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        Self { to: address, from: None, is_tls_immediate: false, reply_timeout: Duration::from_secs(60) }
    }
}

/// The place where a dialogue went another way than its script.
#[derive(Debug, thiserror::Error)]
#[error("line {line}")]
pub struct Departure {
    /// The line of the script, from 1; zero is the connection itself.
    pub line: usize,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("wanted {wanted:?}, the server said {heard:?}")]
    Otherwise { wanted: String, heard: String },
    #[error("no line of the reply is {wanted:?}: {heard:?}")]
    Lacks { wanted: String, heard: String },
    #[error("a line of the reply is {unwanted:?}: {heard:?}")]
    Has { unwanted: String, heard: String },
    #[error("this is no reply: {what} (RFC 5321, 4.2): {heard:?}")]
    Malformed { what: &'static str, heard: String },
    #[error("the server said nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the server has closed the connection")]
    Closed,
    #[error("the server does not read for {} ms", .0.as_millis())]
    Unread(Duration),
    #[error("the connection is broken")]
    Broken(#[source] io::Error),
    #[error("the server said {0:?}, and should have said nothing")]
    Talks(String),
    #[error("no TLS")]
    Handshake(#[source] io::Error),
    #[error("TLS inside TLS is none")]
    Twice,
    #[error("{path:?} cannot be read")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Speaks all of a script. `hear` is told each line as it is said, in the notation of a script.
///
/// # Errors
/// The first place where the server does something else, or where the connection is of no use any more.
pub async fn play(
    script: &Script,
    options: &PlayOptions,
    mut hear: impl FnMut(&str),
) -> Result<(), Departure> {
    let opened = Player::open(options, &mut hear).await;
    let mut player = opened.map_err(|cause| Departure { line: 0, cause })?;
    let mut at = 0;
    // The steps that are left of the script, and of each repetition in it with the times that it is still to be begun.
    let mut open = vec![(&script.steps[..], &script.steps[..], 0)];
    while let Some((left, all, times)) = open.last_mut() {
        let Some((Numbered { line, step }, rest)) = left.split_first() else {
            if *times == 0 {
                open.pop();
            } else {
                (*left, *times) = (*all, *times - 1);
            }
            continue;
        };
        *left = rest;
        if let Step::Repeat { count, steps } = step {
            open.push((&[], steps, if steps.is_empty() { 0 } else { *count }));
            continue;
        }
        let line = *line;
        player.take(step).await.map_err(|cause| Departure { line, cause })?;
        at = line;
    }
    match player.broken {
        Some(error) => Err(Departure { line: at, cause: Cause::Broken(error) }),
        None => Ok(()),
    }
}

struct Player<'a, F> {
    stream: Stream,
    /// What the server has said and nobody has compared.
    input: Vec<u8>,
    /// Why the server takes nothing more.
    broken: Option<io::Error>,
    limit: Duration,
    to: IpAddr,
    hear: &'a mut F,
}

impl<'a, F: FnMut(&str)> Player<'a, F> {
    async fn open(options: &PlayOptions, hear: &'a mut F) -> Result<Self, Cause> {
        let connecting = async {
            let socket = if options.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(from) = options.from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            let stream = socket.connect(options.to).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let limit = options.reply_timeout;
        let stream = timeout(limit, connecting).await.map_err(|_| Cause::Silent(limit))?;
        let mut player = Self {
            stream: Stream::Clear(stream.map_err(Cause::Connect)?),
            input: Vec::new(),
            broken: None,
            limit,
            to: options.to.ip(),
            hear,
        };
        if options.is_tls_immediate {
            player.handshake().await?;
        }
        Ok(player)
    }

    async fn take(&mut self, step: &Step) -> Result<(), Cause> {
        match step {
            Step::Say(octets) => {
                (self.hear)(&shown('C', octets));
                self.send(octets).await
            }
            Step::Octets(count) => {
                (self.hear)(&format!("* octets {count}"));
                self.send_generated(*count).await
            }
            Step::File(path) => {
                (self.hear)(&format!("* file {}", path.display()));
                self.send_file(path).await
            }
            Step::Line(wanted) => {
                let heard = self.line().await?;
                if wanted.fits(&heard) {
                    return Ok(());
                }
                Err(Cause::Otherwise { wanted: wanted.to_string(), heard })
            }
            Step::Reply(expected) => self.reply(expected).await,
            Step::Tls => {
                (self.hear)("* tls");
                self.handshake().await
            }
            Step::Pause(time) => {
                (self.hear)(&format!("* pause {} ms", time.as_millis()));
                tokio::time::sleep(*time).await;
                Ok(())
            }
            Step::Silence(time) => {
                (self.hear)(&format!("? silence {} ms", time.as_millis()));
                match timeout(*time, self.read()).await {
                    // What came earlier and was not compared is no silence either.
                    Err(_) if self.input.is_empty() => Ok(()),
                    Ok(Err(error)) => Err(error),
                    Err(_) | Ok(Ok(())) => Err(self.talks()),
                }
            }
            Step::End => loop {
                match timeout(self.limit, self.read()).await.map_err(|_| Cause::Silent(self.limit))? {
                    _ if !self.input.is_empty() => return Err(self.talks()),
                    Ok(()) => {}
                    Err(Cause::Closed | Cause::Broken(_)) => {
                        self.broken = None;
                        return Ok(());
                    }
                    Err(other) => return Err(other),
                }
            },
            Step::Shut => {
                let limit = self.limit;
                let shut = timeout(limit, self.stream.shutdown()).await;
                shut.map_err(|_| Cause::Unread(limit))?.map_err(Cause::Broken)
            }
            Step::Close => {
                self.stream = Stream::Gone;
                Ok(())
            }
            // `play` opens it.
            Step::Repeat { .. } => Ok(()),
        }
    }

    /// Sends. When the server has gone, what it said before comes first, and what is sent meanwhile goes nowhere.
    async fn send(&mut self, octets: &[u8]) -> Result<(), Cause> {
        if self.broken.is_some() {
            return Ok(());
        }
        let sent = timeout(self.limit, all(&mut self.stream, octets)).await;
        self.broken = sent.map_err(|_| Cause::Unread(self.limit))?.err();
        Ok(())
    }

    async fn send_generated(&mut self, count: u64) -> Result<(), Cause> {
        let lines = content();
        let mut left = count;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(lines.len());
            self.send(&lines.as_bytes()[..size]).await?;
            left -= size as u64;
        }
        Ok(())
    }

    async fn send_file(&mut self, path: &Path) -> Result<(), Cause> {
        let failed = |source| Cause::File { path: path.to_owned(), source };
        // It blocks: a dialogue has nothing else to do meanwhile.
        let mut file = File::open(path).map_err(failed)?;
        let mut octets = vec![0; CONTENT_LINES * CONTENT_LINE_OCTETS];
        loop {
            match io::Read::read(&mut file, &mut octets).map_err(failed)? {
                0 => return Ok(()),
                count => self.send(&octets[..count]).await?,
            }
        }
    }

    async fn reply(&mut self, expected: &Expected) -> Result<(), Cause> {
        let mut lines = Vec::new();
        let malformed = |what, line: &str| Cause::Malformed { what, heard: line.to_owned() };
        loop {
            let line = self.line().await?;
            let (code, text) = line.split_at_checked(3).ok_or_else(|| malformed("it has no code", &line))?;
            if !code.bytes().all(|octet| octet.is_ascii_digit()) {
                return Err(malformed("it has no code", &line));
            }
            if code != expected.code.to_string() {
                return Err(Cause::Otherwise { wanted: expected.code.to_string(), heard: line });
            }
            let is_last = match text.bytes().next() {
                None | Some(b' ') => true,
                Some(b'-') => false,
                Some(_) => return Err(malformed("neither a blank nor a hyphen is behind the code", &line)),
            };
            lines.push(text.get(1..).unwrap_or_default().to_owned());
            if is_last {
                break;
            }
        }
        let heard = || lines.join("\n");
        if let Some(first) = expected.first.as_ref().filter(|first| !first.fits(&lines[0])) {
            return Err(Cause::Otherwise { wanted: format!("{} {first}", expected.code), heard: heard() });
        }
        if let Some(lacking) = expected.has.iter().find(|it| !lines.iter().any(|line| it.fits(line))) {
            return Err(Cause::Lacks { wanted: lacking.to_string(), heard: heard() });
        }
        if let Some(unwanted) = expected.lacks.iter().find(|it| lines.iter().any(|line| it.fits(line))) {
            return Err(Cause::Has { unwanted: unwanted.to_string(), heard: heard() });
        }
        Ok(())
    }

    /// One line without its end.
    async fn line(&mut self) -> Result<String, Cause> {
        loop {
            let end = self.input.iter().position(|&octet| octet == b'\n');
            let octets_count = end.map_or(self.input.len(), |end| end + 1);
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            if octets_count > REPLY_LINE_OCTETS_MAX {
                let heard = text(&self.input[..REPLY_LINE_OCTETS_MAX]);
                return Err(Cause::Malformed { what: "a line has more than 512 octets", heard });
            }
            if let Some(end) = end {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let Some(line) = line.strip_suffix(b"\r\n") else {
                    return Err(Cause::Malformed { what: "a line ends without CR", heard: text(&line) });
                };
                (self.hear)(&format!("S: {}", text(line)));
                return Ok(text(line));
            }
            timeout(self.limit, self.read()).await.map_err(|_| Cause::Silent(self.limit))??;
        }
    }

    /// Waits for more.
    async fn read(&mut self) -> Result<(), Cause> {
        match self.stream.read_buf(&mut self.input).await.map_err(Cause::Broken)? {
            0 => Err(Cause::Closed),
            _ => Ok(()),
        }
    }

    fn talks(&self) -> Cause {
        Cause::Talks(shown('S', &self.input))
    }

    async fn handshake(&mut self) -> Result<(), Cause> {
        if !self.input.is_empty() {
            return Err(self.talks());
        }
        if let Stream::Tls(_) = self.stream {
            return Err(Cause::Twice);
        }
        let done = timeout(self.limit, self.stream.connect(self.to)).await;
        let facts = done.map_err(|_| Cause::Silent(self.limit))?.map_err(Cause::Handshake)?;
        (self.hear)(&format!("# {} {}", facts.version, facts.cipher_suite));
        Ok(())
    }
}

/// What `* octets` sends, again and again: 512 lines of 80 octets with CR LF, each with a number.
#[must_use]
pub fn content() -> String {
    let mut lines = String::with_capacity(CONTENT_LINES * CONTENT_LINE_OCTETS);
    for number in 0..CONTENT_LINES {
        // The number keeps two lines apart, should any be lost or doubled.
        let _ = write!(lines, "{number:010} ");
        let letters = (0..CONTENT_LINE_OCTETS - 13).map(|column| (number + column) % 26);
        lines.extend(letters.map(|letter| char::from(b'a' + u8::try_from(letter).unwrap_or(0))));
        lines.push_str("\r\n");
    }
    lines
}

async fn all(stream: &mut Stream, octets: &[u8]) -> io::Result<()> {
    stream.write_all(octets).await?;
    stream.flush().await
}

/// What was said, in the notation of a script.
fn shown(who: char, octets: &[u8]) -> String {
    if let Some(line) = octets.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok())
        && line.len() <= SHOWN_OCTETS_MAX
        && !line.contains(char::is_control)
    {
        return format!("{who}: {line}");
    }
    let mut text = format!("{}: ", who.to_ascii_lowercase());
    for octet in octets.iter().take(SHOWN_OCTETS_MAX) {
        match octet {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..0x7f => text.push(char::from(*octet)),
            octet => {
                let _ = write!(text, "\\x{octet:02x}");
            }
        }
    }
    if octets.len() > SHOWN_OCTETS_MAX {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use sternpost_message::chain;

    /// Plays against a server that says `said` at once, and then closes the connection when it has read all, or keeps it.
    fn against(said: &'static [u8], closes: bool, script: &str) -> Result<Vec<String>, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let options = PlayOptions {
            reply_timeout: Duration::from_millis(300),
            ..PlayOptions::to(listener.local_addr().unwrap())
        };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said).unwrap();
            if !closes {
                // Until the client goes.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let script = Script::parse(script, &BTreeMap::new()).unwrap();
        let mut heard = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let played = runtime.block_on(play(&script, &options, |line| heard.push(line.to_owned())));
        server.join().unwrap();
        played.map(|()| heard).map_err(|departure| chain(&departure))
    }

    const EHLO: &[u8] = b"250-mx greets you\r\n250-SIZE 1000\r\n250 DSN\r\n221 bye\r\n";

    #[test]
    fn what_goes_as_written_is_heard_in_the_notation_of_a_script() {
        let script =
            "repeat 2\nC: NOOP\nagain\nc: \\x00\\n\nR: 250 mx *\n+ SIZE *\n- STARTTLS\nS: 221 *\n? end\n";
        let heard = against(EHLO, true, script).unwrap();
        let wanted = [
            "C: NOOP",
            "C: NOOP",
            r"c: \x00\n",
            "S: 250-mx greets you",
            "S: 250-SIZE 1000",
            "S: 250 DSN",
            "S: 221 bye",
        ];
        assert_eq!(heard, wanted);
        assert!(against(b"", false, "? silence 20 ms\nC: x\n* shut").is_ok());
    }

    #[test]
    fn every_departure_names_its_line_and_both_sides() {
        let rows: [(&'static [u8], bool, &str, &str); 14] = [
            (EHLO, false, "S: 220 *", "line 1: wanted \"220 *\", the server said \"250-mx greets you\""),
            (EHLO, false, "R: 220", "line 1: wanted \"220\", the server said \"250-mx greets you\""),
            (
                EHLO,
                false,
                "R: 250 my*",
                "line 1: wanted \"250 my*\", the server said \"mx greets you\\nSIZE 1000\\nDSN\"",
            ),
            (EHLO, false, "R: 250\n+ DS", "line 1: no line of the reply is \"DS\": \"mx"),
            (EHLO, false, "R: 250\n- SIZE*", "line 1: a line of the reply is \"SIZE*\": \"mx"),
            (b"250+x\r\n", false, "R: 250", "line 1: this is no reply: neither a blank nor a hyphen"),
            (b"hello\r\n", false, "R: 250", "line 1: this is no reply: it has no code"),
            (b"\xc3\xa4\xc3\xa4\r\n", false, "R: 250", "line 1: this is no reply: it has no code"),
            (b"250 x\n", false, "R: 250", "line 1: this is no reply: a line ends without CR"),
            (&[b'2'; 600], false, "R: 250", "line 1: this is no reply: a line has more than 512 octets"),
            (b"250-x\r\n", false, "* pause 1 ms\nR: 250", "line 2: the server said nothing for 300 ms"),
            (b"250-x\r\n", true, "R: 250", "line 1: the server has closed the connection"),
            (
                b"220 x\r\n",
                false,
                "* pause 50 ms\n? silence 50 ms",
                "line 2: the server said \"S: 220 x\", and should",
            ),
            (b"220 x\r\n", true, "? end", "line 1: the server said \"S: 220 x\", and should"),
        ];
        for (said, closes, script, wanted) in rows {
            let departed = against(said, closes, script).unwrap_err();
            assert!(departed.starts_with(wanted), "{script}: {departed}");
        }
    }

    #[test]
    fn octets_in_front_of_a_handshake_are_a_departure() {
        let departed = against(b"220 go\r\n250 now\r\n", false, "* pause 50 ms\nR: 220\n* tls").unwrap_err();
        assert!(departed.starts_with("line 3: the server said \"S: 250 now\", and should"), "{departed}");
    }

    #[test]
    fn what_the_server_said_before_it_left_is_compared_first() {
        let script = "repeat 200\n* octets 100000\nagain\nR: 421\n";
        let heard = against(b"421 too much\r\n", true, &format!("{script}? end")).unwrap();
        assert_eq!(heard.last().unwrap(), "S: 421 too much");
        let departed = against(b"421 too much\r\n", true, script).unwrap_err();
        assert!(departed.starts_with("line 4: the connection is broken"), "{departed}");
    }
}
