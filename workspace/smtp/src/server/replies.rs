//! Every reply that the server makes by itself. Each has a row in `tests/dialogues/server`; a test compares.

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// All of them.
        pub const ALL: &[&str] = &[$($text),*];
    };
}

replies! {
    /// HELP. RFC 5321, 4.1.1.8.
    HELP = "214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT";
    /// STARTTLS. RFC 3207, section 4.
    READY_FOR_TLS = "220 2.0.0 Ready to start TLS";
    /// QUIT.
    CLOSING = "221 2.0.0 Closing the connection";
    /// AUTH, at its end. RFC 4954, section 6.
    AUTHENTICATED = "235 2.7.0 Authentication succeeded";
    /// RSET.
    RESET = "250 2.0.0 Reset";
    /// NOOP.
    NOOP = "250 2.0.0 Still here";
    /// One BDAT chunk that is not the last. RFC 3030.
    CHUNK_ACCEPTED = "250 2.0.0 Chunk received";
    /// MAIL.
    SENDER_ACCEPTED = "250 2.1.0 Sender accepted";
    /// RCPT.
    RECIPIENT_ACCEPTED = "250 2.1.5 Recipient accepted";
    /// The end of the content.
    MESSAGE_ACCEPTED = "250 2.0.0 Message accepted";
    /// VRFY. RFC 5321, 7.3.
    NOT_VERIFIED = "252 2.0.0 Addresses are not verified here";
    /// DATA.
    START_CONTENT = "354 End the content with CR LF . CR LF";

    /// The driver asked for the end of the session.
    SHUTTING_DOWN = "421 4.3.2 The system is going down";
    /// No command came.
    COMMAND_TIMEOUT = "421 4.4.2 No command came in time";
    /// The content stopped coming.
    CONTENT_TIMEOUT = "421 4.4.2 No content came in time";
    /// The whole session took too long.
    SESSION_TIMEOUT = "421 4.4.2 The session took too long";
    /// A chunk whose end cannot be known: what follows must not be taken for commands.
    CHUNK_WITHOUT_SIZE = "421 4.5.4 BDAT without a chunk size cannot be followed by anything";
    /// The limit of bad commands.
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors";
    /// The limit of messages in one session.
    TOO_MANY_TRANSACTIONS = "421 4.7.0 Too many messages in one session";
    /// Refused content that would not end.
    TOO_MUCH_REFUSED = "421 4.7.0 Too much content behind a refusal";
    /// The driver's answer was a refusal with a code that refuses nothing.
    LOCAL_ERROR = "451 4.3.0 Local error";
    /// The limit of recipients in one message. RFC 5321, 4.5.3.1.10.
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients";

    /// A verb that nobody knows.
    UNKNOWN_COMMAND = "500 5.5.1 Unknown command";
    /// A line over `command_line_octets_max`.
    LINE_TOO_LONG = "500 5.5.2 Line too long";
    /// A line that ends with LF alone.
    LINE_ENDS_BARE = "500 5.5.2 A command ends with CR LF";
    /// A line with control characters.
    CONTROL_CHARACTER = "500 5.5.2 Control character in a command";
    /// A response in an authentication over 12,288 octets. RFC 4954, section 6.
    RESPONSE_TOO_LONG = "500 5.5.6 Authentication exchange line is too long";
    /// A line that is not UTF-8.
    NOT_UTF8 = "501 5.5.2 A command is in UTF-8";
    /// A response, initial or later, that is no base64. RFC 4954, section 4.
    RESPONSE_ENCODING = "501 5.5.2 A response is in base64";
    /// `*` in the place of a response. RFC 4954, section 4.
    CANCELLED = "501 5.7.0 Authentication cancelled";
    /// The reverse-path is no address.
    SENDER_ADDRESS = "501 5.1.7 Not an address";
    /// The forward-path is no address.
    RECIPIENT_ADDRESS = "501 5.1.3 Not an address";
    /// EHLO or HELO without a name.
    HELLO_SYNTAX = "501 5.5.4 Syntax: EHLO name";
    /// MAIL.
    MAIL_SYNTAX = "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]";
    /// RCPT.
    RCPT_SYNTAX = "501 5.5.4 Syntax: RCPT TO:<address> [parameters]";
    /// VRFY.
    VRFY_SYNTAX = "501 5.5.4 Syntax: VRFY text";
    /// AUTH.
    AUTH_SYNTAX = "501 5.5.4 Syntax: AUTH mechanism [initial response]";
    /// BDAT with something other than LAST behind its size.
    BDAT_SYNTAX = "501 5.5.4 Syntax: BDAT size [LAST]";
    /// DATA, RSET, QUIT and STARTTLS.
    NO_PARAMETER = "501 5.5.4 The command has no parameter";
    /// A parameter twice.
    PARAMETER_TWICE = "501 5.5.4 A parameter stands there twice";
    /// A parameter whose value is wrong.
    PARAMETER_VALUE = "501 5.5.4 A parameter has a wrong value";
    /// EXPN and other verbs that are known, but not here; STARTTLS and AUTH where they are not offered.
    NOT_IMPLEMENTED = "502 5.5.1 Command not implemented";
    /// MAIL before EHLO; STARTTLS and AUTH before EHLO, or behind HELO.
    HELLO_FIRST = "503 5.5.1 EHLO first";
    /// RCPT, DATA or BDAT before MAIL.
    MAIL_FIRST = "503 5.5.1 MAIL first";
    /// MAIL, STARTTLS or AUTH within a transaction.
    MAIL_TWICE = "503 5.5.1 A transaction is open";
    /// RCPT or DATA between the chunks of a message. RFC 3030, section 3.
    CHUNKS_OPEN = "503 5.5.1 BDAT or RSET expected";
    /// STARTTLS under TLS. RFC 3207, 4.2.
    TLS_TWICE = "503 5.5.1 TLS is active already";
    /// AUTH by a client that has said who it is. RFC 4954, section 4.
    AUTH_TWICE = "503 5.5.1 Authentication was done already";
    /// `BODY=BINARYMIME`, which EHLO does not offer.
    BODY_UNSUPPORTED = "504 5.5.4 Body type not supported";
    /// MAIL and the like before the handshake where TLS is required. RFC 3207, section 4.
    TLS_FIRST = "530 5.7.0 Must issue a STARTTLS command first";
    /// The same after STARTTLS was refused with 454: it is no permanent error then.
    TLS_AWAY = "451 4.7.0 TLS is required and not available now, try again later";
    /// MAIL and the like before AUTH where it is required. RFC 4954, section 6.
    AUTH_FIRST = "530 5.7.0 Authentication required";
    /// Content with a bare CR or LF.
    CONTENT_ENDS_BARE = "550 5.5.2 The content has a bare CR or LF";
    /// Content with a NUL. RFC 5321, 2.3.8.
    CONTENT_NUL = "550 5.6.0 The content has a NUL";
    /// Content with a line over `content_line_octets_max`.
    CONTENT_LINE_TOO_LONG = "550 5.6.0 The content has a line that is too long";
    /// Content, or SIZE, over `message_octets_max`.
    TOO_LARGE = "552 5.3.4 The message is too large";
    /// An address beyond US-ASCII without SMTPUTF8. RFC 6531, 3.5.
    NEEDS_SMTPUTF8 = "553 5.6.7 The address needs SMTPUTF8";
    /// Octets behind STARTTLS in the plain stream: whoever put them there must not be heard under TLS.
    BEHIND_STARTTLS = "554 5.5.0 Nothing may stand behind STARTTLS";
    /// DATA or BDAT without an accepted recipient.
    NO_RECIPIENTS = "554 5.5.1 No valid recipients";
    /// A parameter that is not known, or any parameter after HELO.
    PARAMETER_UNKNOWN = "555 5.5.4 Parameter not known";
}
