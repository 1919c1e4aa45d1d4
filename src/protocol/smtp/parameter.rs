//! The parameters after the paths of MAIL and RCPT (RFC 5321 4.1.2, `esmtp-param`).

use super::{
    command::CommandError,
    timing::{DeliverBy, Hold},
};

/// The kind of content in BODY (RFC 6152 3, RFC 3030 3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BodyKind {
    #[default]
    SevenBit,
    EightBitMime,
    /// No line structure: only BDAT can transfer it.
    BinaryMime,
}

/// Parameters of MAIL.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MailParameters<'a> {
    /// The size of the message as declared by the client, octets (RFC 1870 6.1).
    pub size: Option<u64>,
    pub body: BodyKind,
    /// RFC 6531 3.4: addresses and header fields may be UTF-8.
    pub smtp_utf8: bool,
    /// The submitter as xtext, or `<>` (RFC 4954 5). It has no effect.
    pub auth: Option<&'a str>,
    /// How much of the message a notification returns (RFC 3461 4.3).
    pub ret: Option<Return>,
    /// The message's identifier in notifications, as xtext (RFC 3461 4.4).
    pub envelope_id: Option<&'a str>,
    /// RFC 8689 4.1: only by way of verified TLS, and only to servers that know this demand.
    pub require_tls: bool,
    /// RFC 2852 4.
    pub deliver_by: Option<DeliverBy>,
    /// RFC 6710 4.1: -9 to 9; messages with more are sent first. Without the parameter it is 0.
    pub priority: Option<i8>,
    /// RFC 4865 4.
    pub hold: Option<Hold>,
}

/// RET (RFC 3461 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    Full,
    Headers,
}

/// When the sender wants a notification about a recipient (RFC 3461 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    Never,
    /// At least one of them.
    On {
        success: bool,
        failure: bool,
        delay: bool,
    },
}

/// Octets of an ORCPT (RFC 3461 4.2).
pub const ORCPT_MAX: usize = 500;
/// Octets of an ENVID (RFC 3461 4.4).
pub const ENVELOPE_ID_MAX: usize = 100;

/// Parameters of RCPT.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecipientParameters<'a> {
    /// `addr-type ";" xtext`: the original recipient (RFC 3461 4.2). It is UTF-8 only with the type
    /// `utf-8` (RFC 6533 3).
    pub orcpt: Option<&'a str>,
    pub notify: Option<Notify>,
}

impl<'a> MailParameters<'a> {
    /// Whether any of them belongs to the DSN extension.
    pub fn ask_for_notification(&self) -> bool {
        self.ret.is_some() || self.envelope_id.is_some()
    }

    /// `text` is the text after the path: nothing, or a space and parameters.
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
                (Some(Keyword::Ret), Some(value)) => {
                    parameters.ret.replace(parse_return(value)?).is_some()
                }
                (Some(Keyword::EnvelopeId), Some(value))
                    if is_xtext(value) && value.len() <= ENVELOPE_ID_MAX =>
                {
                    parameters.envelope_id.replace(value).is_some()
                }
                (Some(Keyword::RequireTls), None) => {
                    std::mem::replace(&mut parameters.require_tls, true)
                }
                (Some(Keyword::By), Some(value)) => {
                    let by = DeliverBy::parse(value).ok_or(CommandError::BadParameter)?;
                    parameters.deliver_by.replace(by).is_some()
                }
                (Some(Keyword::MtPriority), Some(value)) => {
                    parameters.priority.replace(parse_priority(value)?).is_some()
                }
                // RFC 4865 4: one of the two.
                (Some(Keyword::HoldFor), Some(value)) => {
                    let hold = Hold::parse_for(value).ok_or(CommandError::BadParameter)?;
                    parameters.hold.replace(hold).is_some()
                }
                (Some(Keyword::HoldUntil), Some(value)) => {
                    let hold = Hold::parse_until(value).ok_or(CommandError::BadParameter)?;
                    parameters.hold.replace(hold).is_some()
                }
                (Some(Keyword::Orcpt | Keyword::Notify) | None, _) => {
                    return Err(CommandError::UnknownParameter);
                }
                (Some(_), _) => return Err(CommandError::BadParameter),
            };
            if repeated {
                return Err(CommandError::BadParameter);
            }
        }
        Ok(parameters)
    }
}

impl<'a> RecipientParameters<'a> {
    /// `text` is the text after the path: nothing, or a space and parameters.
    pub fn parse(text: &'a str) -> Result<RecipientParameters<'a>, CommandError> {
        let mut parameters = RecipientParameters::default();
        for (keyword, value) in split(text)? {
            let repeated = match (Keyword::of(keyword), value) {
                (Some(Keyword::Orcpt), Some(value)) if is_original_recipient(value) => {
                    parameters.orcpt.replace(value).is_some()
                }
                (Some(Keyword::Notify), Some(value)) => {
                    parameters.notify.replace(parse_notify(value)?).is_some()
                }
                (Some(Keyword::Orcpt | Keyword::Notify), _) => {
                    return Err(CommandError::BadParameter);
                }
                _ => return Err(CommandError::UnknownParameter),
            };
            if repeated {
                return Err(CommandError::BadParameter);
            }
        }
        Ok(parameters)
    }

    /// Whether any of them belongs to the DSN extension: all of them do.
    pub fn ask_for_notification(&self) -> bool {
        self.orcpt.is_some() || self.notify.is_some()
    }
}

enum Keyword {
    Size,
    Body,
    SmtpUtf8,
    Auth,
    Ret,
    EnvelopeId,
    RequireTls,
    By,
    MtPriority,
    HoldFor,
    HoldUntil,
    Orcpt,
    Notify,
}

impl Keyword {
    fn of(text: &str) -> Option<Keyword> {
        const ALL: [(&str, Keyword); 13] = [
            ("SIZE", Keyword::Size),
            ("BODY", Keyword::Body),
            ("SMTPUTF8", Keyword::SmtpUtf8),
            ("AUTH", Keyword::Auth),
            ("RET", Keyword::Ret),
            ("ENVID", Keyword::EnvelopeId),
            ("REQUIRETLS", Keyword::RequireTls),
            ("BY", Keyword::By),
            ("MT-PRIORITY", Keyword::MtPriority),
            ("HOLDFOR", Keyword::HoldFor),
            ("HOLDUNTIL", Keyword::HoldUntil),
            ("ORCPT", Keyword::Orcpt),
            ("NOTIFY", Keyword::Notify),
        ];
        ALL.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, it)| it)
    }
}

/// Keywords and values. Several spaces between parameters are tolerated, a missing one before the
/// first is not: `<a@b>SIZE=1` is an error.
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

fn parse_return(text: &str) -> Result<Return, CommandError> {
    match text {
        _ if text.eq_ignore_ascii_case("FULL") => Ok(Return::Full),
        _ if text.eq_ignore_ascii_case("HDRS") => Ok(Return::Headers),
        _ => Err(CommandError::BadParameter),
    }
}

/// `(["-"] NZDIGIT) / "0"` (RFC 6710 4.1).
fn parse_priority(text: &str) -> Result<i8, CommandError> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok((digit - b'0') as i8),
        [b'-', digit @ b'1'..=b'9'] => Ok(-((digit - b'0') as i8)),
        _ => Err(CommandError::BadParameter),
    }
}

/// `"NEVER" / 1#notify-list-element` (RFC 3461 4.1).
fn parse_notify(text: &str) -> Result<Notify, CommandError> {
    if text.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in text.split(',') {
        let which = match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => &mut success,
            _ if word.eq_ignore_ascii_case("FAILURE") => &mut failure,
            _ if word.eq_ignore_ascii_case("DELAY") => &mut delay,
            _ => return Err(CommandError::BadParameter),
        };
        *which = true;
    }
    Ok(Notify::On { success, failure, delay })
}

/// `addr-type ";" xtext` (RFC 3461 4.2). The type is an atom of a registry, such as `rfc822`. The
/// session checks that UTF-8 comes with SMTPUTF8 only.
fn is_original_recipient(text: &str) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let is_atom =
        |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~".contains(&octet);
    let named = !kind.is_empty() && kind.bytes().all(is_atom);
    let in_utf8 = kind.eq_ignore_ascii_case("utf-8");
    named && is_text(address, in_utf8) && text.len() <= ORCPT_MAX
}

fn is_xtext_or_null(text: &str) -> bool {
    text == "<>" || is_xtext(text)
}

/// `xtext` of RFC 3461 4: printable except `+` and `=`, which are written as `+` and two
/// hexadecimal digits.
fn is_xtext(text: &str) -> bool {
    is_text(text, false)
}

/// With `in_utf8` also characters beyond ASCII: `utf-8-addr-unitext` of RFC 6533 3.
fn is_text(text: &str, in_utf8: bool) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let valid = match octet {
            b'+' => (0..2).all(|_| octets.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            b'=' => false,
            _ => octet.is_ascii_graphic() || in_utf8 && octet >= 0x80,
        };
        if !valid {
            return false;
        }
    }
    !text.is_empty()
}

/// The text that an xtext stands for (RFC 3461 4). It may contain any octets, line ends included;
/// what is not UTF-8 is replaced. A "+" without two digits stays.
pub fn decode_xtext(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&it| char::from(it).to_digit(16));
        match (octet, digit(0), digit(1)) {
            (b'+', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                decoded.push(octet);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `utf-8-addr-xtext` (RFC 6533 3): each character beyond ASCII as `\x{…}`; text in ASCII stays.
pub fn escape_utf8(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_ascii() {
            true => escaped.push(character),
            false => escaped.push_str(&format!("\\x{{{:X}}}", u32::from(character))),
        }
    }
    escaped
}

/// The reverse of [`escape_utf8`]; what is not such an escape stays.
pub fn unescape_utf8(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x{") {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let inner = rest[3..].split_once('}');
        let decoded = inner.and_then(|(digits, after)| {
            let valid = digits.len() <= 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, 16).ok().filter(|_| valid)?;
            Some((char::from_u32(number)?, after))
        });
        match decoded {
            Some((character, after)) => {
                plain.push(character);
                rest = after;
            }
            None => {
                plain.push_str(&rest[..3]);
                rest = &rest[3..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::{super::timing::ByMode, *};
    use crate::model::Timestamp;

    #[test]
    fn mail_parameters() {
        let with = |size, body, smtp_utf8, auth| MailParameters {
            size,
            body,
            smtp_utf8,
            auth,
            ..Default::default()
        };
        let notify = |ret, envelope_id| MailParameters { ret, envelope_id, ..Default::default() };
        let by = Some(DeliverBy { seconds: 60, mode: ByMode::Return, trace: true });
        let priority = |priority| MailParameters { priority: Some(priority), ..Default::default() };
        let hold = |hold| MailParameters { hold: Some(hold), ..Default::default() };
        let long = "x".repeat(ENVELOPE_ID_MAX + 1);
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
            (" RET=HDRS ENVID=x+2By", Ok(notify(Some(Return::Headers), Some("x+2By")))),
            (" ret=full", Ok(notify(Some(Return::Full), None))),
            (" RET=half", Err(CommandError::BadParameter)),
            (" ENVID=<>", Ok(notify(None, Some("<>")))),
            (" ENVID=", Err(CommandError::BadParameter)),
            (&format!(" ENVID={long}"), Err(CommandError::BadParameter)),
            (" REQUIRETLS", Ok(MailParameters { require_tls: true, ..Default::default() })),
            (" REQUIRETLS=YES", Err(CommandError::BadParameter)),
            (" REQUIRETLS REQUIRETLS", Err(CommandError::BadParameter)),
            (" by=60;rt", Ok(MailParameters { deliver_by: by, ..Default::default() })),
            (" BY=0;R", Err(CommandError::BadParameter)),
            (" BY", Err(CommandError::BadParameter)),
            (" BY=1;N BY=1;N", Err(CommandError::BadParameter)),
            (" MT-PRIORITY=-9", Ok(priority(-9))),
            (" MT-PRIORITY=0", Ok(priority(0))),
            (" MT-PRIORITY=+1", Err(CommandError::BadParameter)),
            (" MT-PRIORITY=-0", Err(CommandError::BadParameter)),
            (" MT-PRIORITY=10", Err(CommandError::BadParameter)),
            (" MT-PRIORITY=", Err(CommandError::BadParameter)),
            (" HOLDFOR=60", Ok(hold(Hold::For(60)))),
            (" HOLDUNTIL=1970-01-01T00:00:01Z", Ok(hold(Hold::Until(Timestamp(1_000_000))))),
            (" HOLDFOR=60 HOLDUNTIL=1970-01-01T00:00:01Z", Err(CommandError::BadParameter)),
            (" HOLDFOR=0", Err(CommandError::BadParameter)),
            (" HOLDUNTIL=tomorrow", Err(CommandError::BadParameter)),
            (" NOTIFY=NEVER", Err(CommandError::UnknownParameter)),
            (" FOO", Err(CommandError::UnknownParameter)),
        ];
        for (text, expected) in cases {
            assert_eq!(MailParameters::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn xtext() {
        const CASES: &[(&str, &str)] = &[
            ("", ""),
            ("a+2Bb+3dc", "a+b=c"),
            ("a+0D+0Ab", "a\r\nb"),
            ("+", "+"),
            ("+4", "+4"),
            ("+4x", "+4x"),
            ("+C3+B6", "\u{f6}"),
            ("+C3", "\u{fffd}"),
            ("\u{f6}+41", "\u{f6}A"),
        ];
        for (text, expected) in CASES {
            assert_eq!(decode_xtext(text), *expected, "{text}");
        }
    }

    #[test]
    fn utf8_in_ascii() {
        const CASES: &[(&str, &str)] =
            &[("", ""), ("a@b", "a@b"), ("\u{f6}@\u{1f4ec}", r"\x{F6}@\x{1F4EC}")];
        for (text, expected) in CASES {
            assert_eq!(escape_utf8(text), *expected);
            assert_eq!(unescape_utf8(expected), *text);
        }
        for text in [r"\x{", r"\x{}", r"\x{D800}", r"\x{1234567}", r"\x{+1}", r"\x{zz}a", r"\x"] {
            assert_eq!(unescape_utf8(text), text);
        }
    }

    #[test]
    fn rcpt_parameters() {
        let with = |orcpt, notify| Ok(RecipientParameters { orcpt, notify });
        let on = |success, failure, delay| Some(Notify::On { success, failure, delay });
        let long = format!(" ORCPT=rfc822;{}", "x".repeat(ORCPT_MAX - 6));
        let cases = [
            (" ", with(None, None)),
            (" NOTIFY=NEVER", with(None, Some(Notify::Never))),
            (" notify=success,DELAY", with(None, on(true, false, true))),
            (
                " ORCPT=rfc822;a+2Bb@c.test NOTIFY=FAILURE",
                with(Some("rfc822;a+2Bb@c.test"), on(false, true, false)),
            ),
            (" NOTIFY=NEVER,DELAY", Err(CommandError::BadParameter)),
            (" NOTIFY=", Err(CommandError::BadParameter)),
            (" NOTIFY=SUCCESS,", Err(CommandError::BadParameter)),
            (" NOTIFY", Err(CommandError::BadParameter)),
            (" NOTIFY=NEVER NOTIFY=NEVER", Err(CommandError::BadParameter)),
            (" ORCPT=a@b", Err(CommandError::BadParameter)),
            (" ORCPT=;a@b", Err(CommandError::BadParameter)),
            (" ORCPT=rfc822;a+b", Err(CommandError::BadParameter)),
            (" ORCPT=utf-8;é@b", with(Some("utf-8;é@b"), None)),
            (" ORCPT=rfc822;é@b", Err(CommandError::BadParameter)),
            (&long, Err(CommandError::BadParameter)),
            (" SIZE=1", Err(CommandError::UnknownParameter)),
            (" FOO=1", Err(CommandError::UnknownParameter)),
            ("x", Err(CommandError::Syntax)),
        ];
        for (text, expected) in cases {
            assert_eq!(RecipientParameters::parse(text), expected, "{text}");
        }
    }
}
