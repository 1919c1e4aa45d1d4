//! URLs of messages and parts of them (RFC 5092), as CATENATE and URLFETCH take them.

use std::borrow::Cow;

use super::{
    cursor::{Cursor, Parsed},
    message::fetch::{Section, parse_section},
    url_auth::UrlAuth,
};
use crate::model::{Uid, UidValidity};

const NOT_ONE: &str = "not the URL of a message";

/// `imap://user@host/mailbox;UIDVALIDITY=1/;UID=2/;SECTION=3/;PARTIAL=4.5;URLAUTH=authuser`, or the
/// end of one, relative to a server or to a mailbox. One that says who may use it is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageUrl {
    /// `None` if it is relative: this server, and the user who asks.
    pub server: Option<Server>,
    /// In UTF-8; `None` if it is relative to the selected mailbox.
    pub mailbox: Option<String>,
    pub uid_validity: Option<UidValidity>,
    pub uid: Uid,
    pub section: Section<'static>,
    /// Offset, and octets from there; without the latter all.
    pub partial: Option<(u64, Option<u64>)>,
    pub auth: Option<UrlAuth>,
}

/// `user@host:port`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub user: Option<String>,
    /// Without its port.
    pub host: String,
}

impl MessageUrl {
    /// # Errors
    /// A text that says what is wrong.
    pub fn parse(url: &[u8]) -> Result<MessageUrl, &'static str> {
        let url = std::str::from_utf8(url).map_err(|_| NOT_ONE)?;
        let (server, path) = match strip_prefix(url, "imap://") {
            Some(rest) => {
                let (server, path) = rest.split_once('/').ok_or(NOT_ONE)?;
                (Some(Server::parse(server)?), path)
            }
            None if url.contains("://") => return Err(NOT_ONE),
            None => (None, url.strip_prefix('/').unwrap_or(url)),
        };
        let (mailbox, message) = split(path, ";UID=").ok_or(NOT_ONE)?;
        let mailbox = mailbox.strip_suffix('/').unwrap_or(mailbox);
        let (mailbox, uid_validity) = match split(mailbox, ";UIDVALIDITY=") {
            Some((mailbox, value)) => (mailbox, Some(UidValidity(number(value)?))),
            None => (mailbox, None),
        };
        let mailbox = (!mailbox.is_empty()).then(|| decode(mailbox)).transpose()?;
        let digits = message.bytes().take_while(u8::is_ascii_digit).count();
        let (uid, mut rest) = message.split_at(digits);
        let uid = Uid(number(uid)?);
        let mut section = Section::default();
        if let Some(value) = parameter(rest, ";SECTION=") {
            let (value, after) = split_at_parameter(value);
            rest = after;
            section = parse_section_of(&decode(value)?)?;
        }
        let mut partial = None;
        if let Some(value) = parameter(rest, ";PARTIAL=") {
            let (value, after) = split_at_parameter(value);
            rest = after;
            let (offset, count) = match value.split_once('.') {
                // RFC 5092 11: not 0 octets.
                Some((offset, count)) => (offset, Some(u64::from(number(count)?))),
                None => (value, None),
            };
            if count == Some(0) {
                return Err(NOT_ONE);
            }
            partial = Some((u64::from(number(offset)?), count));
        }
        let mut expire = None;
        if let Some(value) = parameter(rest, ";EXPIRE=") {
            let (value, after) = split_at_parameter(value);
            (expire, rest) = (Some(value), after);
        }
        let mut auth = None;
        if let Some(value) = parameter(rest, ";URLAUTH=") {
            let decode = |user: &str| decode(user).ok();
            auth = Some(UrlAuth::parse(expire, value, url.len(), decode).ok_or(NOT_ONE)?);
        } else if !rest.is_empty() || expire.is_some() {
            return Err(NOT_ONE);
        }
        let has_user = server.as_ref().is_some_and(|server| server.user.is_some());
        match auth.is_none() || has_user && mailbox.is_some() {
            true => Ok(MessageUrl { server, mailbox, uid_validity, uid, section, partial, auth }),
            false => Err(NOT_ONE),
        }
    }
}

impl Server {
    fn parse(text: &str) -> Result<Server, &'static str> {
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => {
                let user = split(user, ";AUTH=").map_or(user, |(user, _)| user);
                (Some(decode(user)?), host)
            }
            None => (None, text),
        };
        let host = match host.strip_prefix('[') {
            Some(literal) => literal.split_once(']').ok_or(NOT_ONE)?.0,
            None => host.split_once(':').map_or(host, |(host, _)| host),
        };
        if host.is_empty() { Err(NOT_ONE) } else { Ok(Server { user, host: host.to_owned() }) }
    }
}

/// A section in an URL has no literals.
fn parse_section_of(text: &str) -> Result<Section<'static>, &'static str> {
    fn parse(text: &[u8]) -> Parsed<Section<'_>> {
        let mut cursor = Cursor::new(text);
        let section = parse_section(&mut cursor)?;
        cursor.end()?;
        Ok(section)
    }
    Ok(parse(text.as_bytes())?.into_owned())
}

/// What follows `name` at the start, with a slash before it or, leniently, without.
fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    strip_prefix(text.strip_prefix('/').unwrap_or(text), name)
}

/// The value at the start of `text`, and the next parameter.
fn split_at_parameter(text: &str) -> (&str, &str) {
    let end = [";PARTIAL=", ";EXPIRE=", ";URLAUTH="].iter().filter_map(|name| find(text, name));
    let end = end.min().unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    (value.strip_suffix('/').unwrap_or(value), rest)
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Where `name`, which is ASCII, is, in any case.
fn find(text: &str, name: &str) -> Option<usize> {
    text.as_bytes()
        .windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name.as_bytes()))
}

fn split<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (before, rest) = text.split_at(find(text, name)?);
    Some((before, rest.get(name.len()..)?))
}

fn number(text: &str) -> Result<u32, &'static str> {
    let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().ok_or(NOT_ONE)
}

/// Percent-encoded UTF-8 (RFC 3986 2.1).
fn decode(text: &str) -> Result<String, &'static str> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return String::from_utf8(octets).map_err(|_| NOT_ONE),
            [b'%', high, low, after @ ..] => {
                let digit = |octet: u8| char::from(octet).to_digit(16);
                let (high, low) = digit(*high).zip(digit(*low)).ok_or(NOT_ONE)?;
                octets.push((high << 4 | low) as u8);
                rest = after;
            }
            [b'%', ..] => return Err(NOT_ONE),
            [octet, after @ ..] => {
                octets.push(*octet);
                rest = after;
            }
        }
    }
}

impl Section<'_> {
    /// With field names of its own.
    fn into_owned(self) -> Section<'static> {
        use super::message::fetch::SectionPart::{
            Full, Header, HeaderFields, HeaderFieldsNot, Mime, Text,
        };
        let owned = |fields: Vec<Cow<'_, [u8]>>| {
            fields.into_iter().map(|field| Cow::Owned(field.into_owned())).collect()
        };
        let part = match self.part {
            Full => Full,
            Header => Header,
            HeaderFields(fields) => HeaderFields(owned(fields)),
            HeaderFieldsNot(fields) => HeaderFieldsNot(owned(fields)),
            Text => Text,
            Mime => Mime,
        };
        Section { path: self.path, part }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            message::fetch::SectionPart,
            url_auth::{self, Access},
        },
        *,
    };
    use crate::model::Timestamp;

    fn url(mailbox: Option<&str>, validity: Option<u32>, uid: u32) -> MessageUrl {
        MessageUrl {
            server: None,
            mailbox: mailbox.map(str::to_owned),
            uid_validity: validity.map(UidValidity),
            uid: Uid(uid),
            section: Section::default(),
            partial: None,
            auth: None,
        }
    }

    fn section(path: &[u32], part: SectionPart<'static>) -> Section<'static> {
        Section { path: path.into(), part }
    }

    /// RFC 5092 9, RFC 4469 5.
    #[test]
    fn urls() {
        let full = SectionPart::Full;
        let server = |user: Option<&str>, host: &str| {
            Some(Server { user: user.map(str::to_owned), host: host.to_owned() })
        };
        let cases = [
            ("/INBOX/;UID=20", url(Some("INBOX"), None, 20)),
            (
                "/Drafts;UIDVALIDITY=385759045/;UID=20/;section=1.2",
                MessageUrl {
                    section: section(&[1, 2], full.clone()),
                    ..url(Some("Drafts"), Some(385_759_045), 20)
                },
            ),
            (
                ";UID=3;section=HEADER",
                MessageUrl { section: section(&[], SectionPart::Header), ..url(None, None, 3) },
            ),
            (
                "imap://minbari.example.org/gray-council;UIDVALIDITY=385759045/;UID=20/;PARTIAL=0.1024",
                MessageUrl {
                    server: server(None, "minbari.example.org"),
                    partial: Some((0, Some(1024))),
                    ..url(Some("gray-council"), Some(385_759_045), 20)
                },
            ),
            (
                "IMAP://michael;AUTH=*@minbari.example.org:143/~peter/%E6%97%A5%E6%9C%AC%20x/;uid=1/;partial=7",
                MessageUrl {
                    server: server(Some("michael"), "minbari.example.org"),
                    partial: Some((7, None)),
                    ..url(Some("~peter/日本 x"), None, 1)
                },
            ),
            (
                "/x/;UID=1/;SECTION=HEADER.FIELDS%20(From%20To)/;PARTIAL=1.2",
                MessageUrl {
                    section: section(
                        &[],
                        SectionPart::HeaderFields(vec![b"From"[..].into(), b"To"[..].into()]),
                    ),
                    partial: Some((1, Some(2))),
                    ..url(Some("x"), None, 1)
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(MessageUrl::parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    /// RFC 4467 7, RFC 5092 9.
    #[test]
    fn urls_that_say_who_may_use_them() {
        const RUMP: &str = "imap://joe@example.com/INBOX/;uid=20/;section=1.2;urlauth=submit+fred";
        let parse = |text: &str| MessageUrl::parse(text.as_bytes());
        let auth = |text: &str| parse(text).ok().and_then(|url| url.auth);
        let plain = |access| UrlAuth { expire: None, access, rump: RUMP.len(), proof: None };
        let submit = || Access::Submit("fred".to_owned());
        assert_eq!(auth(RUMP), Some(plain(submit())));
        assert!(parse("/INBOX/;uid=20/;partial=0.1").is_ok());
        assert!(parse("/INBOX/;uid=20/;partial=0.0").is_err(), "not 0 octets");
        let signed = format!("{RUMP}:internal:91354a473744909de610943775f92038");
        let found = auth(&signed).expect("signed");
        assert_eq!((found.rump, found.access), (RUMP.len(), submit()));
        assert!(found.proof.is_some_and(|proof| !proof.is_internal()), "too short for ours");
        let (section, uid) = parse(RUMP).map(|url| (url.section, url.uid)).expect("an URL");
        assert_eq!((section, uid), (self::section(&[1, 2], SectionPart::Full), Uid(20)));
        let url = |end: &str| format!("imap://joe;AUTH=*@example.com/x;UIDVALIDITY=3/;UID=1{end}");
        let cases = [
            (";URLAUTH=anonymous", None, Access::Anonymous),
            ("/;PARTIAL=0.9/;URLAUTH=AUTHUSER", None, Access::AuthUser),
            (";URLAUTH=user+a%40b.test", None, Access::User("a@b.test".to_owned())),
            (
                ";EXPIRE=1970-01-01T00:01:00Z;URLAUTH=user+x",
                Some(Timestamp::from_unix_seconds(60)),
                Access::User("x".to_owned()),
            ),
        ];
        for (end, expire, access) in cases {
            let found = auth(&url(end)).expect(end);
            assert_eq!((found.expire, found.access), (expire, access), "{end}");
        }
        for end in [
            ";URLAUTH=",
            ";URLAUTH=user",
            ";URLAUTH=user+",
            ";URLAUTH=user+%ff",
            ";URLAUTH=role+x",
            ";URLAUTH=anonymous:internal",
            ";EXPIRE=1970-01-01T00:01:00Z",
            ";EXPIRE=tomorrow;URLAUTH=anonymous",
            ";URLAUTH=anonymous;EXPIRE=1970-01-01T00:01:00Z",
            ";EXPIRE=;URLAUTH=anonymous",
        ] {
            assert!(parse(&url(end)).is_err(), "{end}");
        }
        for start in ["/x/", "imap://example.com/x/", ";UID=1"] {
            assert!(parse(&format!("{start};UID=1;URLAUTH=anonymous")).is_err(), "{start}");
        }
    }

    /// Whatever is changed of a signed URL, it is no longer one.
    #[test]
    fn every_octet_is_signed() {
        let rump = b"imap://joe@example.com/INBOX/;uid=20;urlauth=user+fred";
        let (key, other) = ([7; 32], [8; 32]);
        let signed = url_auth::sign(&key, rump);
        let verifies = |url: &[u8], key: &[u8]| {
            let auth = MessageUrl::parse(url).ok().and_then(|url| url.auth);
            let Some(UrlAuth { rump, proof: Some(proof), .. }) = auth else { return false };
            proof.verifies(key, &url[..rump])
        };
        assert!(verifies(&signed, &key) && !verifies(&signed, &other));
        let start = signed.len() - 64 - ":internal:".len();
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(!verifies(&changed, &key), "{at}");
            assert!(!verifies(&signed[..at], &key), "{at}");
            let capital = signed.to_ascii_uppercase()[at];
            changed[at] = capital;
            // The mechanism's name and the digits are the same in capitals.
            assert_eq!(verifies(&changed, &key), at >= start || capital == signed[at], "{at}");
        }
        let more = [&signed[..], b"0"].concat();
        assert!(!verifies(&more, &key));
    }

    #[test]
    fn what_is_no_url_of_a_message() {
        for text in [
            "",
            "/",
            "/INBOX",
            "http://x/y/;UID=1",
            "imap://host",
            "imap:///x/;UID=1",
            "/x/;UID=",
            "/x/;UID=a",
            "/x/;UID=99999999999",
            "/x/;UID=1x",
            "/x;UIDVALIDITY=/;UID=1",
            "/x/;UID=1/;SECTION=0",
            "/x/;UID=1/;SECTION=1.MIME.2",
            "/x/;UID=1/;PARTIAL=a",
            "/%/;UID=1",
            "/%ff/;UID=1",
            "/x/;UID=1/;PARTIAL=1./;SECTION=1",
            "/x/;UID=+1",
        ] {
            assert!(MessageUrl::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(MessageUrl::parse(b"/\xff/;UID=1").is_err());
    }
}
