//! One SMTP or LMTP command line into a [`Command`] that borrows it (RFC 5321 4.1.1, RFC 2033,
//! RFC 3030, RFC 3207, RFC 4954, RFC 1985).
//!
//! [`super::Session`] calls it with lines from the framer; the fuzz target calls it with anything.
//! It knows syntax only: the session decides whether a command is allowed now.

use super::{
    address::{Path, parse_path},
    parameter::{MailParameters, RecipientParameters},
};

/// Digits of a BDAT chunk size; 10^18 octets are more than enough.
const CHUNK_SIZE_DIGITS_MAX: usize = 18;

/// The word a line begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Vrfy,
    Expn,
    Etrn,
    Help,
    Noop,
    Quit,
    StartTls,
    Auth,
    /// Postfix' extensions for trusted peers.
    Xclient,
    Xforward,
    /// A command of some RFC that is not implemented here: 502.
    Unimplemented,
    /// No command at all: 500.
    Unknown,
}

/// A parsed command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    Helo(&'a str),
    Ehlo(&'a str),
    Lhlo(&'a str),
    Mail {
        reverse_path: Path<'a>,
        parameters: MailParameters<'a>,
    },
    Rcpt {
        forward_path: Path<'a>,
        parameters: RecipientParameters<'a>,
    },
    Data,
    Bdat {
        size: u64,
        last: bool,
    },
    Rset,
    /// The string to be verified.
    Vrfy(&'a str),
    /// The list to be expanded.
    Expn(&'a str),
    Etrn(Node<'a>),
    Help,
    Noop,
    Quit,
    StartTls,
    /// The attributes.
    Xclient(&'a str),
    Xforward(&'a str),
    Auth {
        mechanism: &'a str,
        initial_response: Option<&'a str>,
    },
}

/// The argument of ETRN (RFC 1985 5.3): whose mail is to be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node<'a> {
    /// As it was given, with its option character.
    pub text: &'a str,
    pub kind: NodeKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// One domain.
    Domain,
    /// `@`: the domain and all below it.
    Below,
    /// `#`: a queue with a name of its own.
    Queue,
}

impl<'a> Node<'a> {
    /// The name without its option character.
    pub fn name(&self) -> &'a str {
        self.text.strip_prefix(['@', '#']).unwrap_or(self.text)
    }

    fn parse(text: &'a str) -> Option<Node<'a>> {
        let kind = match text.as_bytes().first()? {
            b'@' => NodeKind::Below,
            b'#' => NodeKind::Queue,
            _ => NodeKind::Domain,
        };
        let node = Node { text, kind };
        let name = node.name();
        // It is repeated in the reply.
        let fits = name.len() <= super::address::DOMAIN_MAX;
        (fits && (is_host_name(name) || is_literal(name))).then_some(node)
    }
}

/// Letters, digits, `-` and `_` between single dots.
fn is_host_name(text: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(plain);
    text.split('.').all(is_label)
}

/// Looks like an address literal (RFC 5321 4.1.3).
fn is_literal(text: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-.:".contains(&octet);
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|it| !it.is_empty() && it.bytes().all(plain))
}

/// Why a line is not a command. `super::reply` has the reply for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    Unknown,
    Unimplemented,
    /// Control characters, or octets that are not UTF-8.
    BadOctet,
    Syntax,
    BadReversePath,
    BadForwardPath,
    /// An address needs SMTPUTF8, which MAIL did not request (RFC 6531 3.5).
    ReversePathNeedsUtf8,
    BadParameter,
    UnknownParameter,
}

impl Verb {
    /// The upper-case word, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Helo => "HELO",
            Verb::Ehlo => "EHLO",
            Verb::Lhlo => "LHLO",
            Verb::Mail => "MAIL",
            Verb::Rcpt => "RCPT",
            Verb::Data => "DATA",
            Verb::Bdat => "BDAT",
            Verb::Rset => "RSET",
            Verb::Vrfy => "VRFY",
            Verb::Expn => "EXPN",
            Verb::Etrn => "ETRN",
            Verb::Help => "HELP",
            Verb::Noop => "NOOP",
            Verb::Quit => "QUIT",
            Verb::StartTls => "STARTTLS",
            Verb::Auth => "AUTH",
            Verb::Xclient => "XCLIENT",
            Verb::Xforward => "XFORWARD",
            Verb::Unimplemented | Verb::Unknown => "other",
        }
    }

    fn of(word: &[u8]) -> Verb {
        let Ok(word) = <[u8; 4]>::try_from(word) else {
            const LONG: [(&[u8], Verb); 3] = [
                (b"STARTTLS", Verb::StartTls),
                (b"XCLIENT", Verb::Xclient),
                (b"XFORWARD", Verb::Xforward),
            ];
            let found = LONG.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
            return found.map_or(Verb::Unknown, |(_, verb)| verb);
        };
        match &word.map(|octet| octet.to_ascii_uppercase()) {
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"BDAT" => Verb::Bdat,
            b"HELO" => Verb::Helo,
            b"EHLO" => Verb::Ehlo,
            b"LHLO" => Verb::Lhlo,
            b"RSET" => Verb::Rset,
            b"NOOP" => Verb::Noop,
            b"QUIT" => Verb::Quit,
            b"AUTH" => Verb::Auth,
            b"VRFY" => Verb::Vrfy,
            b"EXPN" => Verb::Expn,
            b"ETRN" => Verb::Etrn,
            b"HELP" => Verb::Help,
            // RFC 821, RFC 2645, RFC 4468.
            b"SEND" | b"SOML" | b"SAML" | b"TURN" | b"ATRN" | b"BURL" => Verb::Unimplemented,
            _ => Verb::Unknown,
        }
    }
}

/// Parses a line without its CRLF. The verb is returned also if the rest is wrong.
pub fn parse(line: &[u8]) -> (Verb, Result<Command<'_>, CommandError>) {
    // RFC 5321 4.1.1: trailing white space is tolerated.
    let end = line.iter().rposition(|octet| !matches!(octet, b' ' | b'\t'));
    let line = &line[..end.map_or(0, |last| last + 1)];
    let word = memchr::memchr(b' ', line).unwrap_or(line.len());
    let verb = Verb::of(&line[..word]);
    if line.iter().any(|&octet| octet < b' ' || octet == 0x7f) {
        return (verb, Err(CommandError::BadOctet));
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return (verb, Err(CommandError::BadOctet));
    };
    (verb, parse_argument(verb, text.get(word + 1..).unwrap_or_default()))
}

fn parse_argument(verb: Verb, argument: &str) -> Result<Command<'_>, CommandError> {
    match verb {
        Verb::Helo => client_name(argument).map(Command::Helo),
        Verb::Ehlo => client_name(argument).map(Command::Ehlo),
        Verb::Lhlo => client_name(argument).map(Command::Lhlo),
        Verb::Mail => parse_mail(argument),
        Verb::Rcpt => parse_rcpt(argument),
        Verb::Data => without_argument(argument, Command::Data),
        Verb::Bdat => parse_bdat(argument),
        Verb::Rset => without_argument(argument, Command::Rset),
        Verb::Quit => without_argument(argument, Command::Quit),
        Verb::StartTls => without_argument(argument, Command::StartTls),
        Verb::Auth => parse_auth(argument),
        Verb::Vrfy if argument.is_empty() => Err(CommandError::Syntax),
        Verb::Expn if argument.is_empty() => Err(CommandError::Syntax),
        Verb::Vrfy => Ok(Command::Vrfy(argument)),
        Verb::Expn => Ok(Command::Expn(argument)),
        Verb::Etrn => Node::parse(argument).map(Command::Etrn).ok_or(CommandError::Syntax),
        // RFC 5321 4.1.1.8 and 4.1.1.9: an argument is allowed and ignored.
        Verb::Help => Ok(Command::Help),
        Verb::Noop => Ok(Command::Noop),
        Verb::Xclient => Ok(Command::Xclient(argument)),
        Verb::Xforward => Ok(Command::Xforward(argument)),
        Verb::Unimplemented => Err(CommandError::Unimplemented),
        Verb::Unknown => Err(CommandError::Unknown),
    }
}

fn without_argument<'a>(argument: &str, command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Syntax) }
}

/// The name after HELO, EHLO or LHLO. RFC 5321 4.1.4: a server must not refuse mail because the
/// name is wrong, so any printable word is accepted; it is only displayed.
fn client_name(argument: &str) -> Result<&str, CommandError> {
    let fits = !argument.is_empty() && argument.len() <= super::address::DOMAIN_MAX;
    if fits && !argument.contains([' ', '\t']) { Ok(argument) } else { Err(CommandError::Syntax) }
}

/// `FROM:` or `TO:` and the rest. Spaces after the colon are not in the grammar but common.
fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, CommandError> {
    let head = argument.get(..keyword.len()).ok_or(CommandError::Syntax)?;
    if !head.eq_ignore_ascii_case(keyword) {
        return Err(CommandError::Syntax);
    }
    Ok(argument[keyword.len()..].trim_start_matches(' '))
}

fn parse_mail(argument: &str) -> Result<Command<'_>, CommandError> {
    let text = after_keyword(argument, "FROM:")?;
    let (reverse_path, rest) = parse_path(text).map_err(|_| CommandError::BadReversePath)?;
    if reverse_path == Path::Postmaster {
        return Err(CommandError::BadReversePath);
    }
    let parameters = MailParameters::parse(rest)?;
    if !parameters.smtp_utf8 && !reverse_path.is_ascii() {
        return Err(CommandError::ReversePathNeedsUtf8);
    }
    Ok(Command::Mail { reverse_path, parameters })
}

fn parse_rcpt(argument: &str) -> Result<Command<'_>, CommandError> {
    let text = after_keyword(argument, "TO:")?;
    let (forward_path, rest) = parse_path(text).map_err(|_| CommandError::BadForwardPath)?;
    if forward_path == Path::Null {
        return Err(CommandError::BadForwardPath);
    }
    let parameters = RecipientParameters::parse(rest)?;
    Ok(Command::Rcpt { forward_path, parameters })
}

/// `BDAT SP chunk-size [SP "LAST"]` (RFC 3030 2).
fn parse_bdat(argument: &str) -> Result<Command<'_>, CommandError> {
    let (size, last) = match argument.split_once(' ') {
        None => (argument, false),
        Some((size, word)) if word.eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return Err(CommandError::Syntax),
    };
    let digits = !size.is_empty() && size.bytes().all(|octet| octet.is_ascii_digit());
    if !digits || size.len() > CHUNK_SIZE_DIGITS_MAX {
        return Err(CommandError::Syntax);
    }
    let size = size.parse().map_err(|_| CommandError::Syntax)?;
    Ok(Command::Bdat { size, last })
}

/// `AUTH SP mechanism [SP initial-response]` (RFC 4954 4).
fn parse_auth(argument: &str) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial_response) = match argument.split_once(' ') {
        None => (argument, None),
        Some((mechanism, response)) => (mechanism, Some(response)),
    };
    let spaced = initial_response.is_some_and(|text| text.is_empty() || text.contains(' '));
    if mechanism.is_empty() || spaced {
        return Err(CommandError::Syntax);
    }
    Ok(Command::Auth { mechanism, initial_response })
}

#[cfg(test)]
mod tests {
    use super::{super::parameter::BodyKind, *};

    fn check(line: &str, verb: Verb, expected: Result<Command<'_>, CommandError>) {
        assert_eq!(parse(line.as_bytes()), (verb, expected), "{line:?}");
    }

    #[test]
    fn simple_commands() {
        let cases = [
            ("HELO a.test", Verb::Helo, Ok(Command::Helo("a.test"))),
            ("ehlo [127.0.0.1]", Verb::Ehlo, Ok(Command::Ehlo("[127.0.0.1]"))),
            ("EHLO my_pc", Verb::Ehlo, Ok(Command::Ehlo("my_pc"))),
            ("EHLO", Verb::Ehlo, Err(CommandError::Syntax)),
            ("EHLO a b", Verb::Ehlo, Err(CommandError::Syntax)),
            ("LHLO x", Verb::Lhlo, Ok(Command::Lhlo("x"))),
            ("DATA", Verb::Data, Ok(Command::Data)),
            ("DATA ", Verb::Data, Ok(Command::Data)),
            ("DATA x", Verb::Data, Err(CommandError::Syntax)),
            ("rset", Verb::Rset, Ok(Command::Rset)),
            ("RSET x", Verb::Rset, Err(CommandError::Syntax)),
            ("NOOP", Verb::Noop, Ok(Command::Noop)),
            ("NOOP anything at all", Verb::Noop, Ok(Command::Noop)),
            ("HELP", Verb::Help, Ok(Command::Help)),
            ("HELP MAIL", Verb::Help, Ok(Command::Help)),
            ("VRFY alice", Verb::Vrfy, Ok(Command::Vrfy("alice"))),
            ("VRFY", Verb::Vrfy, Err(CommandError::Syntax)),
            ("EXPN list", Verb::Expn, Ok(Command::Expn("list"))),
            ("EXPN", Verb::Expn, Err(CommandError::Syntax)),
            ("quit\t", Verb::Quit, Ok(Command::Quit)),
            ("starttls", Verb::StartTls, Ok(Command::StartTls)),
            ("STARTTLS now", Verb::StartTls, Err(CommandError::Syntax)),
            ("TURN", Verb::Unimplemented, Err(CommandError::Unimplemented)),
            ("ATRN x", Verb::Unimplemented, Err(CommandError::Unimplemented)),
            ("ETRN", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN @", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN x y", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN <x>", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN bogus..", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN a.test.", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN .x", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN @a..b", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN .", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN a[b]:c", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN []", Verb::Etrn, Err(CommandError::Syntax)),
            ("ETRN é.test", Verb::Etrn, Err(CommandError::Syntax)),
            ("", Verb::Unknown, Err(CommandError::Unknown)),
            (" NOOP", Verb::Unknown, Err(CommandError::Unknown)),
            ("NOOPS", Verb::Unknown, Err(CommandError::Unknown)),
            ("GET / HTTP/1.1", Verb::Unknown, Err(CommandError::Unknown)),
            ("NOOP\r", Verb::Unknown, Err(CommandError::BadOctet)),
            ("NOOP \0", Verb::Noop, Err(CommandError::BadOctet)),
            ("BDAT 10", Verb::Bdat, Ok(Command::Bdat { size: 10, last: false })),
            ("BDAT 0 last", Verb::Bdat, Ok(Command::Bdat { size: 0, last: true })),
            ("BDAT", Verb::Bdat, Err(CommandError::Syntax)),
            ("BDAT x", Verb::Bdat, Err(CommandError::Syntax)),
            ("BDAT -1", Verb::Bdat, Err(CommandError::Syntax)),
            ("BDAT 1 FIRST", Verb::Bdat, Err(CommandError::Syntax)),
            ("BDAT 1000000000000000000", Verb::Bdat, Err(CommandError::Syntax)),
            ("AUTH", Verb::Auth, Err(CommandError::Syntax)),
            ("AUTH PLAIN a b", Verb::Auth, Err(CommandError::Syntax)),
        ];
        for (line, verb, expected) in cases {
            check(line, verb, expected);
        }
        let plain = Command::Auth { mechanism: "PLAIN", initial_response: None };
        check("AUTH PLAIN", Verb::Auth, Ok(plain));
        let initial = Command::Auth { mechanism: "plain", initial_response: Some("AGEAYg==") };
        check("AUTH plain AGEAYg==", Verb::Auth, Ok(initial));
        assert_eq!(parse(b"NOOP \xff").1, Err(CommandError::BadOctet));
    }

    #[test]
    fn nodes() {
        for (text, kind, name) in [
            ("x.test", NodeKind::Domain, "x.test"),
            ("[192.0.2.1]", NodeKind::Domain, "[192.0.2.1]"),
            ("@x.test", NodeKind::Below, "x.test"),
            ("#uucp", NodeKind::Queue, "uucp"),
        ] {
            let node = Node { text, kind };
            check(&format!("etrn {text}"), Verb::Etrn, Ok(Command::Etrn(node)));
            assert_eq!(node.name(), name);
        }
    }

    #[test]
    fn mail_and_rcpt() {
        /// Address, size and body.
        type Mail = (&'static str, Option<u64>, BodyKind);
        const MAIL: &[(&str, Result<Mail, CommandError>)] = &[
            ("MAIL FROM:<a@b.test>", Ok(("a@b.test", None, BodyKind::SevenBit))),
            ("mail from:<>", Ok(("", None, BodyKind::SevenBit))),
            ("MAIL FROM: <a@b>  SIZE=5", Ok(("a@b", Some(5), BodyKind::SevenBit))),
            ("MAIL FROM:<@x:a@b> BODY=8BITMIME", Ok(("a@b", None, BodyKind::EightBitMime))),
            ("MAIL FROM:<é@b> SMTPUTF8", Ok(("é@b", None, BodyKind::SevenBit))),
            ("MAIL FROM:<é@b>", Err(CommandError::ReversePathNeedsUtf8)),
            ("MAIL FROM:a@b", Err(CommandError::BadReversePath)),
            ("MAIL FROM:<a>", Err(CommandError::BadReversePath)),
            ("MAIL FROM:<postmaster>", Err(CommandError::BadReversePath)),
            ("MAIL FROM<a@b>", Err(CommandError::Syntax)),
            ("MAIL TO:<a@b>", Err(CommandError::Syntax)),
            ("MAIL", Err(CommandError::Syntax)),
            ("MAIL FROM:", Err(CommandError::BadReversePath)),
            ("MAIL FROM:<a@b>x", Err(CommandError::Syntax)),
            ("MAIL FROM:<a@b> RET=FULL", Ok(("a@b", None, BodyKind::SevenBit))),
            ("MAIL FROM:<a@b> NOTIFY=NEVER", Err(CommandError::UnknownParameter)),
        ];
        for (line, expected) in MAIL {
            let found = parse(line.as_bytes()).1.map(|command| match command {
                Command::Mail { reverse_path, parameters } => {
                    (reverse_path.as_str(), parameters.size, parameters.body)
                }
                other => panic!("{line}: {other:?}"),
            });
            assert_eq!(found, *expected, "{line}");
        }
        const RCPT: &[(&str, Result<&str, CommandError>)] = &[
            ("RCPT TO:<a@b>", Ok("a@b")),
            ("rcpt to:<POSTMASTER>", Ok("postmaster")),
            ("RCPT TO:<@r:a@b>", Ok("a@b")),
            ("RCPT TO:<>", Err(CommandError::BadForwardPath)),
            ("RCPT TO:<a@b", Err(CommandError::BadForwardPath)),
            ("RCPT FROM:<a@b>", Err(CommandError::Syntax)),
            ("RCPT é", Err(CommandError::Syntax)),
            ("RCPT TO:<a@b> NOTIFY=NEVER", Ok("a@b")),
            ("RCPT TO:<a@b> RET=FULL", Err(CommandError::UnknownParameter)),
        ];
        for (line, expected) in RCPT {
            let found = parse(line.as_bytes()).1.map(|command| match command {
                Command::Rcpt { forward_path, .. } => forward_path.as_str(),
                other => panic!("{line}: {other:?}"),
            });
            assert_eq!(found, *expected, "{line}");
        }
    }
}
