//! What a peer offers behind EHLO. RFC 5321, section 4.1.1.1.

/// The extensions that this client uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the parameter is understood.
    pub size: bool,
    /// The largest message that the peer takes, if it says so.
    pub size_octets_max: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 6710.
    pub mt_priority: bool,
    /// RFC 3207. Means nothing in a reply that came under TLS.
    pub starttls: bool,
}

impl Extensions {
    /// Reads the text of the reply, whose first line is the peer's name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut extensions = Self::default();
        for line in text.lines().skip(1) {
            // `AUTH=LOGIN` and the like of old servers: the keyword ends at any of these.
            let mut words = line.split([' ', '=']);
            let keyword = words.next().unwrap_or_default();
            let is = |name: &str| keyword.eq_ignore_ascii_case(name);
            if is("PIPELINING") {
                extensions.pipelining = true;
            } else if is("SIZE") {
                extensions.size = true;
                // RFC 1870, 4: zero means no fixed limit.
                extensions.size_octets_max =
                    words.next().and_then(|word| word.parse().ok()).filter(|&octets| octets > 0);
            } else if is("8BITMIME") {
                extensions.eight_bit_mime = true;
            } else if is("SMTPUTF8") {
                extensions.smtputf8 = true;
            } else if is("CHUNKING") {
                extensions.chunking = true;
            } else if is("DSN") {
                extensions.dsn = true;
            } else if is("MT-PRIORITY") {
                extensions.mt_priority = true;
            } else if is("STARTTLS") {
                extensions.starttls = true;
            }
        }
        extensions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_a_name_and_the_rest_are_extensions() {
        let extensions =
            Extensions::parse("PIPELINING\nsize 1000\n8BITMIME\nX-OTHER DSN\nMT-PRIORITY STANAG4406");
        assert!(
            !extensions.pipelining && !extensions.dsn && extensions.eight_bit_mime && extensions.mt_priority
        );
        assert_eq!((extensions.size, extensions.size_octets_max), (true, Some(1000)));
        assert_eq!(Extensions::parse("x\nSIZE 0").size_octets_max, None);
        assert!(Extensions::parse("x\nStartTLS").starttls && !Extensions::parse("STARTTLS\nx").starttls);
    }
}
