//! The parameters after the paths of MAIL and RCPT (RFC 5321 4.1.2, `esmtp-param`).

use super::command::CommandError;

/// What BODY says about the content (RFC 6152 3, RFC 3030 3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BodyKind {
    #[default]
    SevenBit,
    EightBitMime,
    /// No line structure: only BDAT can carry it.
    BinaryMime,
}

/// Parameters of MAIL.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MailParameters<'a> {
    /// Octets the client says the message has (RFC 1870 6.1).
    pub size: Option<u64>,
    pub body: BodyKind,
    /// RFC 6531 3.4: addresses and header fields may be UTF-8.
    pub smtp_utf8: bool,
    /// The submitter as xtext, or `<>` (RFC 4954 5). Nothing is decided by it.
    pub auth: Option<&'a str>,
}

impl<'a> MailParameters<'a> {
    /// `text` is what follows the path: nothing, or a space and parameters.
    pub fn parse(text: &'a str) -> Result<MailParameters<'a>, CommandError> {
        let mut parameters = MailParameters::default();
        let mut seen_body = false;
        for (keyword, value) in split(text)? {
            let repeated = match (Keyword::of(keyword), value) {
                (Some(Keyword::Size), Some(value)) => {
                    parameters.size.replace(parse_size(value)?).is_some()
                }
                (Some(Keyword::Body), Some(value)) => {
                    parameters.body = parse_body(value)?;
                    std::mem::replace(&mut seen_body, true)
                }
                (Some(Keyword::SmtpUtf8), None) => {
                    std::mem::replace(&mut parameters.smtp_utf8, true)
                }
                (Some(Keyword::Auth), Some(value)) if is_xtext_or_null(value) => {
                    parameters.auth.replace(value).is_some()
                }
                (Some(_), _) => return Err(CommandError::BadParameter),
                // Among them RET and ENVID of RFC 3461: DSN is not offered, and a notification
                // silently not sent would be worse than a refusal.
                (None, _) => return Err(CommandError::UnknownParameter),
            };
            if repeated {
                return Err(CommandError::BadParameter);
            }
        }
        Ok(parameters)
    }
}

/// RCPT has no parameters here: NOTIFY and ORCPT of RFC 3461 are not offered.
pub fn parse_rcpt_parameters(text: &str) -> Result<(), CommandError> {
    match split(text)?.next() {
        None => Ok(()),
        Some(_) => Err(CommandError::UnknownParameter),
    }
}

enum Keyword {
    Size,
    Body,
    SmtpUtf8,
    Auth,
}

impl Keyword {
    fn of(text: &str) -> Option<Keyword> {
        const ALL: [(&str, Keyword); 4] = [
            ("SIZE", Keyword::Size),
            ("BODY", Keyword::Body),
            ("SMTPUTF8", Keyword::SmtpUtf8),
            ("AUTH", Keyword::Auth),
        ];
        ALL.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, it)| it)
    }
}

/// Keywords and values. Several spaces between parameters are tolerated, none before the first is
/// not: `<a@b>SIZE=1` is an error.
fn split(text: &str) -> Result<impl Iterator<Item = (&str, Option<&str>)>, CommandError> {
    if !text.is_empty() && !text.starts_with(' ') {
        return Err(CommandError::Syntax);
    }
    Ok(text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    }))
}

/// `1*20DIGIT` (RFC 1870 6.1); beyond 64 bits it is too large anyway.
fn parse_size(text: &str) -> Result<u64, CommandError> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(CommandError::BadParameter);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn parse_body(text: &str) -> Result<BodyKind, CommandError> {
    match text {
        _ if text.eq_ignore_ascii_case("7BIT") => Ok(BodyKind::SevenBit),
        _ if text.eq_ignore_ascii_case("8BITMIME") => Ok(BodyKind::EightBitMime),
        _ if text.eq_ignore_ascii_case("BINARYMIME") => Ok(BodyKind::BinaryMime),
        _ => Err(CommandError::BadParameter),
    }
}

/// `xtext` of RFC 3461 4: printable but `+` and `=`, which come as `+` and two hexadecimal digits.
fn is_xtext_or_null(text: &str) -> bool {
    if text == "<>" {
        return true;
    }
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let valid = match octet {
            b'+' => (0..2).all(|_| octets.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            b'=' => false,
            _ => octet.is_ascii_graphic(),
        };
        if !valid {
            return false;
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_parameters() {
        let with = |size, body, smtp_utf8, auth| MailParameters { size, body, smtp_utf8, auth };
        use BodyKind::*;
        let cases = [
            ("", Ok(MailParameters::default())),
            ("  ", Ok(MailParameters::default())),
            (" SIZE=100", Ok(with(Some(100), SevenBit, false, None))),
            (" size=0  body=8bitmime", Ok(with(Some(0), EightBitMime, false, None))),
            (" BODY=7BIT SMTPUTF8", Ok(with(None, SevenBit, true, None))),
            (" BODY=BINARYMIME", Ok(with(None, BinaryMime, false, None))),
            (" SIZE=99999999999999999999", Ok(with(Some(u64::MAX), SevenBit, false, None))),
            (" AUTH=<>", Ok(with(None, SevenBit, false, Some("<>")))),
            (" AUTH=a+40b", Ok(with(None, SevenBit, false, Some("a+40b")))),
            (" AUTH=a+4", Err(CommandError::BadParameter)),
            (" AUTH=", Err(CommandError::BadParameter)),
            ("SIZE=1", Err(CommandError::Syntax)),
            (" SIZE", Err(CommandError::BadParameter)),
            (" SIZE=", Err(CommandError::BadParameter)),
            (" SIZE=-1", Err(CommandError::BadParameter)),
            (" SIZE=1 SIZE=1", Err(CommandError::BadParameter)),
            (" BODY=7BIT BODY=7BIT", Err(CommandError::BadParameter)),
            (" SMTPUTF8 SMTPUTF8", Err(CommandError::BadParameter)),
            (" BODY=9BIT", Err(CommandError::BadParameter)),
            (" SMTPUTF8=1", Err(CommandError::BadParameter)),
            (" RET=HDRS", Err(CommandError::UnknownParameter)),
            (" ENVID=x", Err(CommandError::UnknownParameter)),
            (" FOO", Err(CommandError::UnknownParameter)),
        ];
        for (text, expected) in cases {
            assert_eq!(MailParameters::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn rcpt_parameters() {
        assert_eq!(parse_rcpt_parameters(" "), Ok(()));
        assert_eq!(parse_rcpt_parameters(" NOTIFY=NEVER"), Err(CommandError::UnknownParameter));
        assert_eq!(parse_rcpt_parameters("x"), Err(CommandError::Syntax));
    }
}
