//! One command line (RFC 1939 3, RFC 2449 4): a keyword in any case and arguments, each after one
//! space.

/// Longest command line, CRLF not counted. RFC 2449 4 sets 255 octets with CRLF; more is granted
/// because passwords and SASL initial responses may be longer.
pub const COMMAND_MAX: usize = 1024;

/// Most digits of a number that are parsed.
const DIGITS_MAX: usize = 10;

/// A command. The session decides which ones are legal now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// RFC 1939 7. Names and passwords are octets, not decoded yet.
    User(&'a [u8]),
    Pass(&'a [u8]),
    /// RFC 5034 4.
    Auth {
        mechanism: &'a [u8],
        initial_response: Option<&'a [u8]>,
    },
    /// RFC 2595 4.
    Stls,
    /// RFC 2449 5.
    Capa,
    /// RFC 6856 2.1.
    Utf8,
    /// RFC 6856 3.2.
    Lang(Option<&'a [u8]>),
    /// RFC 1939 5.
    Stat,
    List(Option<u32>),
    Retr(u32),
    Dele(u32),
    Noop,
    Rset,
    /// RFC 1939 7: message and number of body lines.
    Top(u32, u32),
    Uidl(Option<u32>),
    Quit,
}

/// Why a line is not a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    Unknown,
    /// The command is known, but its arguments are wrong; the text says what is expected.
    Arguments(&'static str),
}

impl Command<'_> {
    /// The keyword, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Command::User(_) => "USER",
            Command::Pass(_) => "PASS",
            Command::Auth { .. } => "AUTH",
            Command::Stls => "STLS",
            Command::Capa => "CAPA",
            Command::Utf8 => "UTF8",
            Command::Lang(_) => "LANG",
            Command::Stat => "STAT",
            Command::List(_) => "LIST",
            Command::Retr(_) => "RETR",
            Command::Dele(_) => "DELE",
            Command::Noop => "NOOP",
            Command::Rset => "RSET",
            Command::Top(..) => "TOP",
            Command::Uidl(_) => "UIDL",
            Command::Quit => "QUIT",
        }
    }
}

/// Parses one line without its CRLF. Allocates nothing.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let mut upper = [0; 4];
    let Some(upper) = upper.get_mut(..keyword.len()) else {
        return Err(CommandError::Unknown);
    };
    upper.copy_from_slice(keyword);
    upper.make_ascii_uppercase();
    match &*upper {
        // One argument, which may contain spaces (RFC 1939 7, PASS).
        b"USER" => whole_argument(rest).map(Command::User).ok_or(expected("USER name")),
        b"PASS" => whole_argument(rest).map(Command::Pass).ok_or(expected("PASS password")),
        b"AUTH" => auth(rest),
        b"LANG" => match arguments(rest) {
            ([tag, None, _], 0..=1) => Ok(Command::Lang(tag)),
            _ => Err(expected("LANG [language]")),
        },
        b"STLS" => bare(rest, Command::Stls),
        b"CAPA" => bare(rest, Command::Capa),
        b"UTF8" => bare(rest, Command::Utf8),
        b"STAT" => bare(rest, Command::Stat),
        b"NOOP" => bare(rest, Command::Noop),
        b"RSET" => bare(rest, Command::Rset),
        b"QUIT" => bare(rest, Command::Quit),
        b"LIST" => optional_number(rest).map(Command::List).ok_or(expected("LIST [message]")),
        b"UIDL" => optional_number(rest).map(Command::Uidl).ok_or(expected("UIDL [message]")),
        b"RETR" => one_number(rest).map(Command::Retr).ok_or(expected("RETR message")),
        b"DELE" => one_number(rest).map(Command::Dele).ok_or(expected("DELE message")),
        b"TOP" => match arguments(rest) {
            ([Some(message), Some(lines), None], 2) => number(message)
                .zip(number(lines))
                .map(|(message, lines)| Command::Top(message, lines))
                .ok_or(expected("TOP message lines")),
            _ => Err(expected("TOP message lines")),
        },
        _ => Err(CommandError::Unknown),
    }
}

fn expected(syntax: &'static str) -> CommandError {
    CommandError::Arguments(syntax)
}

/// Everything after the first space, if there is anything.
fn whole_argument(rest: &[u8]) -> Option<&[u8]> {
    rest.get(1..).filter(|argument| !argument.is_empty())
}

/// Up to three arguments separated by spaces, and their total number. Trailing spaces, which some
/// clients send, are not arguments.
fn arguments(rest: &[u8]) -> ([Option<&[u8]>; 3], usize) {
    let mut found = [None; 3];
    let mut count = 0;
    for argument in rest.split(|&octet| octet == b' ').filter(|argument| !argument.is_empty()) {
        if let Some(place) = found.get_mut(count) {
            *place = Some(argument);
        }
        count += 1;
    }
    (found, count)
}

fn auth(rest: &[u8]) -> Result<Command<'_>, CommandError> {
    match arguments(rest) {
        ([Some(mechanism), initial_response, None], 1..=2) => {
            Ok(Command::Auth { mechanism, initial_response })
        }
        _ => Err(expected("AUTH mechanism [initial-response]")),
    }
}

fn bare<'a>(rest: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    match arguments(rest).1 {
        0 => Ok(command),
        _ => Err(expected("no arguments")),
    }
}

fn optional_number(rest: &[u8]) -> Option<Option<u32>> {
    match arguments(rest).1 {
        0 => Some(None),
        _ => one_number(rest).map(Some),
    }
}

fn one_number(rest: &[u8]) -> Option<u32> {
    match arguments(rest) {
        ([Some(argument), None, None], 1) => number(argument),
        _ => None,
    }
}

/// Digits only. A number too large for any maildrop is still a number: it matches no message.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if digits.len() > DIGITS_MAX {
        return Some(u32::MAX);
    }
    let value = digits.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CASES: &[(&str, Result<Command<'static>, CommandError>)] = &[
        ("USER alice", Ok(Command::User(b"alice"))),
        ("user a b ", Ok(Command::User(b"a b "))),
        ("USER", Err(CommandError::Arguments("USER name"))),
        ("PASS  two  spaces", Ok(Command::Pass(b" two  spaces"))),
        ("PASS ", Err(CommandError::Arguments("PASS password"))),
        ("AUTH PLAIN", Ok(Command::Auth { mechanism: b"PLAIN", initial_response: None })),
        ("auth plain =", Ok(Command::Auth { mechanism: b"plain", initial_response: Some(b"=") })),
        ("AUTH", Err(CommandError::Arguments("AUTH mechanism [initial-response]"))),
        ("AUTH PLAIN a b", Err(CommandError::Arguments("AUTH mechanism [initial-response]"))),
        ("AUTH PLAIN a b c", Err(CommandError::Arguments("AUTH mechanism [initial-response]"))),
        ("Stls", Ok(Command::Stls)),
        ("CAPA", Ok(Command::Capa)),
        ("UTF8 USER", Err(CommandError::Arguments("no arguments"))),
        ("LANG", Ok(Command::Lang(None))),
        ("LANG *", Ok(Command::Lang(Some(b"*")))),
        ("LANG a b", Err(CommandError::Arguments("LANG [language]"))),
        ("STAT ", Ok(Command::Stat)),
        ("STAT 1", Err(CommandError::Arguments("no arguments"))),
        ("LIST", Ok(Command::List(None))),
        ("LIST 7", Ok(Command::List(Some(7)))),
        ("LIST -1", Err(CommandError::Arguments("LIST [message]"))),
        ("UIDL 007", Ok(Command::Uidl(Some(7)))),
        ("UIDL 1 2", Err(CommandError::Arguments("UIDL [message]"))),
        ("RETR 4294967295", Ok(Command::Retr(u32::MAX))),
        ("RETR 4294967296", Ok(Command::Retr(u32::MAX))),
        ("RETR 99999999999999999999999", Ok(Command::Retr(u32::MAX))),
        ("RETR", Err(CommandError::Arguments("RETR message"))),
        ("DELE 1x", Err(CommandError::Arguments("DELE message"))),
        ("TOP 1 0", Ok(Command::Top(1, 0))),
        ("TOP 1", Err(CommandError::Arguments("TOP message lines"))),
        ("TOP 1 2 3 4", Err(CommandError::Arguments("TOP message lines"))),
        ("NOOP", Ok(Command::Noop)),
        ("RSET", Ok(Command::Rset)),
        ("QUIT", Ok(Command::Quit)),
        ("APOP a b", Err(CommandError::Unknown)),
        ("", Err(CommandError::Unknown)),
        (" STAT", Err(CommandError::Unknown)),
        ("STATUS", Err(CommandError::Unknown)),
        ("STAT\t", Err(CommandError::Unknown)),
    ];

    #[test]
    fn cases() {
        for (line, expected) in CASES {
            assert_eq!(parse(line.as_bytes()), *expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line: Vec<u8>) {
            let _ = parse(&line);
        }

        #[test]
        fn no_arguments_panic(
            keyword in "(?i)(USER|PASS|AUTH|LANG|LIST|UIDL|RETR|DELE|TOP|STAT)",
            rest: Vec<u8>,
        ) {
            let _ = parse(&[keyword.as_bytes(), b" ", &rest].concat());
        }
    }
}
