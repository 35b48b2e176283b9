//! Command lines. RFC 5321, sections 4.1.1 and 4.1.4.

use super::replies;

/// One command, its argument unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Ehlo(&'a str),
    Helo(&'a str),
    /// RFC 2033, 4.1.
    Lhlo(&'a str),
    /// What stands behind `MAIL FROM:`.
    Mail(&'a str),
    /// What stands behind `RCPT TO:`.
    Rcpt(&'a str),
    Data,
    Bdat(Chunk),
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    /// What stands behind the verb, where nothing may stand. RFC 3207, section 4.
    StartTls(&'a str),
    /// What stands behind the verb. RFC 4954, section 4.
    Auth(&'a str),
}

/// What BDAT announces. RFC 3030, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) octets: u64,
    pub(crate) is_last: bool,
    /// Behind the size stands something else than LAST: the octets come all the same, and go to nobody.
    pub(crate) is_malformed: bool,
}

impl<'a> Command<'a> {
    /// Reads one line, without its CR LF.
    ///
    /// # Errors
    /// The reply.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| replies::NOT_UTF8)?;
        if line.bytes().any(|octet| octet.is_ascii_control()) {
            return Err(replies::CONTROL_CHARACTER);
        }
        // RFC 5321, 4.1.1: trailing white space is tolerated.
        let line = line.trim_end_matches(' ');
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        let without_argument =
            |command| if argument.is_empty() { Ok(command) } else { Err(replies::NO_PARAMETER) };
        match verb.len() {
            4 if is("MAIL") => behind(argument, "FROM:").map(Self::Mail).ok_or(replies::MAIL_SYNTAX),
            4 if is("RCPT") => behind(argument, "TO:").map(Self::Rcpt).ok_or(replies::RCPT_SYNTAX),
            4 if is("DATA") => without_argument(Self::Data),
            4 if is("BDAT") => chunk(argument).map(Self::Bdat),
            4 if is("EHLO") => hello(argument).map(Self::Ehlo),
            4 if is("HELO") => hello(argument).map(Self::Helo),
            4 if is("LHLO") => hello(argument).map(Self::Lhlo),
            4 if is("RSET") => without_argument(Self::Rset),
            4 if is("QUIT") => without_argument(Self::Quit),
            4 if is("NOOP") => Ok(Self::Noop),
            4 if is("HELP") => Ok(Self::Help),
            4 if is("AUTH") => Ok(Self::Auth(argument)),
            8 if is("STARTTLS") => Ok(Self::StartTls(argument)),
            4 if is("VRFY") => {
                if argument.is_empty() {
                    Err(replies::VRFY_SYNTAX)
                } else {
                    Ok(Self::Vrfy)
                }
            }
            _ if ["EXPN", "ETRN", "TURN", "SEND", "SOML", "SAML", "BURL"].iter().any(|name| is(name)) => {
                Err(replies::NOT_IMPLEMENTED)
            }
            _ => Err(replies::UNKNOWN_COMMAND),
        }
    }

    /// Whether a client may say it before the handshake where TLS is required (RFC 3207, section 4), and before it has
    /// authenticated where that is (RFC 4954, section 6); RSET and HELP, as they tell and change nothing.
    pub(crate) const fn is_served_first(&self, needs_tls: bool) -> bool {
        match self {
            Self::Auth(_) => !needs_tls,
            Self::Ehlo(_) | Self::Helo(_) | Self::Lhlo(_) | Self::StartTls(_) => true,
            Self::Rset | Self::Noop | Self::Help | Self::Quit => true,
            Self::Mail(_) | Self::Rcpt(_) | Self::Data | Self::Bdat(_) | Self::Vrfy => false,
        }
    }
}

/// What stands behind `keyword`, whatever its case.
fn behind<'a>(argument: &'a str, keyword: &str) -> Option<&'a str> {
    let (start, rest) = argument.split_at_checked(keyword.len())?;
    start.eq_ignore_ascii_case(keyword).then_some(rest)
}

/// The name that the client gives itself. Whether it is true nobody can know (RFC 5321, 4.1.4).
fn hello(argument: &str) -> Result<&str, &'static str> {
    let name_is_good =
        !argument.is_empty() && argument.len() <= 255 && !argument.contains([' ', '<', '>', '(', ')']);
    if name_is_good { Ok(argument) } else { Err(replies::HELLO_SYNTAX) }
}

fn chunk(argument: &str) -> Result<Chunk, &'static str> {
    let (digits, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let octets = number(digits).ok_or(replies::CHUNK_WITHOUT_SIZE)?;
    let is_last = rest.eq_ignore_ascii_case("LAST");
    Ok(Chunk { octets, is_last, is_malformed: !is_last && !rest.is_empty() })
}

/// One to twenty digits. RFC 1870 and RFC 3030.
pub(crate) fn number(digits: &str) -> Option<u64> {
    let digits_are_good = digits.len() <= 20 && digits.bytes().all(|octet| octet.is_ascii_digit());
    if digits_are_good { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_keywords_have_no_case() {
        assert_eq!(Command::parse(b"mAiL fRoM:<> SIZE=1"), Ok(Command::Mail("<> SIZE=1")));
        assert_eq!(Command::parse(b"quit  "), Ok(Command::Quit));
        let chunk = Chunk { octets: 10, is_last: true, is_malformed: false };
        assert_eq!(Command::parse(b"bdat 10 last"), Ok(Command::Bdat(chunk)));
        assert_eq!(Command::parse(b"StartTLS "), Ok(Command::StartTls("")));
        assert_eq!(Command::parse(b"STARTTLS now"), Ok(Command::StartTls("now")));
    }

    #[test]
    fn each_bad_line_has_its_reply() {
        let rows: [(&[u8], &str); 12] = [
            (b"", replies::UNKNOWN_COMMAND),
            (b"GET / HTTP/1.1", replies::UNKNOWN_COMMAND),
            (b"EXPN list", replies::NOT_IMPLEMENTED),
            (b"NOOP \xff", replies::NOT_UTF8),
            (b"NOOP\t", replies::CONTROL_CHARACTER),
            (b"MAIL <a@b>", replies::MAIL_SYNTAX),
            (b"RCPT <a@b>", replies::RCPT_SYNTAX),
            (b"VRFY", replies::VRFY_SYNTAX),
            (b"EHLO a b", replies::HELLO_SYNTAX),
            (b"DATA now", replies::NO_PARAMETER),
            (b"BDAT x", replies::CHUNK_WITHOUT_SIZE),
            (b"BDAT 99999999999999999999", replies::CHUNK_WITHOUT_SIZE),
        ];
        for (line, reply) in rows {
            assert_eq!(Command::parse(line), Err(reply), "{}", String::from_utf8_lossy(line));
        }
    }
}
