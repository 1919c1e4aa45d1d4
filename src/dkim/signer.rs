//! Makes `DKIM-Signature` fields (RFC 6376 3.5).

use std::{fmt::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use smallvec::SmallVec;

use super::{
    canonical::{Field, fields},
    digest::Unsigned,
    key::{Algorithm, DkimKey},
};

/// Fields that are signed once more than they are there, also if they are absent: one that is added
/// later breaks the signature. Those that readers and their programs act on.
const OVERSIGNED: &[&str] = &[
    "from",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "sender",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
];
/// Fields that are signed if they are there.
const SIGNED: &[&str] = &[
    "list-id",
    "list-help",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
    "auto-submitted",
    "feedback-id",
];

/// Fields of one name that are signed; a message with more goes unsigned.
const REPETITIONS_MAX: usize = 100;
/// Signatures of a message that are compared with ours.
const SIGNATURES_MAX: usize = 8;
/// Columns of a signature field.
const COLUMNS: usize = 76;

/// Signs for one domain, with each of its keys.
#[derive(Clone, Debug)]
pub struct Signer {
    pub(super) keys: SmallVec<[Arc<DkimKey>; 2]>,
}

impl Signer {
    /// Whether signing takes long enough that a shard should leave it to a worker.
    pub fn is_slow(&self) -> bool {
        self.keys.iter().any(|key| key.algorithm() == Algorithm::Rsa)
    }

    /// The fields for the top of the message, each with its CRLF; none for a message without a From
    /// field. `now`: seconds since 1970.
    pub fn sign(&self, message: &Unsigned, now: u64) -> Vec<u8> {
        let mut signed = Vec::new();
        let Some((names, canonical)) = select(&message.header) else { return signed };
        for key in &self.keys {
            if let Some(field) = field(key, message, &names, &canonical, now) {
                signed.extend_from_slice(&field);
            }
        }
        signed
    }

    /// The fields of a message that are signatures of these keys, and right. A signature depends on
    /// nothing but what is signed (RFC 8017 8.2.1, RFC 8032 5.1.6), so such a field is the one that
    /// is made again, octet by octet. Nobody without the key can put one there.
    pub fn own(&self, message: &Unsigned) -> Vec<Vec<u8>> {
        let mut own = Vec::new();
        let Some((names, canonical)) = select(&message.header) else { return own };
        let signatures = fields(&message.header).filter(|field| field.is("dkim-signature"));
        for found in signatures.take(SIGNATURES_MAX) {
            let octets = [found.name, b":", found.value].concat();
            let (selector, time) = (tag(found.value, "s"), tag(found.value, "t"));
            let Some(time) = time.and_then(|time| time.parse().ok()) else { continue };
            let of_key = |key: &&Arc<DkimKey>| selector.as_deref() == Some(&*key.selector);
            let made = self.keys.iter().filter(of_key);
            let mut made = made.filter_map(|key| field(key, message, &names, &canonical, time));
            if made.any(|made| made == octets) {
                own.push(octets);
            }
        }
        own
    }
}

/// Domains whose signatures are looked for in a message.
const DOMAINS_MAX: usize = 4;

impl Unsigned {
    /// The domains that signed the message, as its `DKIM-Signature` fields say, the first few.
    pub fn signing_domains(&self) -> Vec<String> {
        let mut domains: Vec<String> = Vec::new();
        for field in fields(&self.header).filter(|field| field.is("dkim-signature")) {
            let domain = tag(field.value, "d").map(|domain| domain.to_ascii_lowercase());
            match domain {
                Some(domain) if domains.len() < DOMAINS_MAX && !domains.contains(&domain) => {
                    domains.push(domain);
                }
                _ => {}
            }
        }
        domains
    }
}

/// The value of a tag (RFC 6376 3.2) without white space; `None` also if it is not ASCII.
fn tag(value: &[u8], name: &str) -> Option<String> {
    let plain = value.iter().copied().filter(|octet| !octet.is_ascii_whitespace());
    let text = String::from_utf8(plain.collect()).ok().filter(|text| text.is_ascii())?;
    let mut tags = text.split(';').filter_map(|tag| tag.split_once('='));
    tags.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

/// The `h=` names in order, and the canonical fields, each with its CRLF. `None` if there is no
/// From, which every signature needs (RFC 6376 5.4), or more fields of a name than anybody writes.
fn select(header: &[u8]) -> Option<(Vec<&'static str>, Vec<u8>)> {
    let all: Vec<Field<'_>> = fields(header).collect();
    if !all.iter().any(|field| field.is("from")) {
        return None;
    }
    let (mut names, mut canonical) = (Vec::new(), Vec::new());
    let oversigned = OVERSIGNED.iter().map(|name| (*name, true));
    for (name, once_more) in oversigned.chain(SIGNED.iter().map(|name| (*name, false))) {
        let mut count = 0;
        // RFC 6376 5.4.2: those of a name are taken from the last one up.
        for field in all.iter().rev().filter(|field| field.is(name)) {
            names.push(name);
            field.append_relaxed_to(&mut canonical);
            canonical.extend_from_slice(b"\r\n");
            count += 1;
            if count > REPETITIONS_MAX {
                return None;
            }
        }
        if once_more {
            // An absent field is hashed as nothing.
            names.push(name);
        }
    }
    Some((names, canonical))
}

fn field(
    key: &DkimKey,
    message: &Unsigned,
    names: &[&str],
    canonical: &[u8],
    now: u64,
) -> Option<Vec<u8>> {
    let mut text = String::new();
    let algorithm = key.algorithm().name();
    let DkimKey { domain, selector, .. } = key;
    let hash = STANDARD.encode(message.body_hash);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "DKIM-Signature: v=1; a={algorithm}-sha256; c=relaxed/relaxed;\r\n\td={domain};\r\n\t\
         s={selector}; t={now};\r\n\tbh={hash};\r\n\th="
    );
    let mut column = 10;
    for (index, name) in names.iter().enumerate() {
        let end = if index + 1 == names.len() { ";" } else { ":" };
        if column + name.len() + end.len() > COLUMNS {
            text.push_str("\r\n\t");
            column = 8;
        }
        text.push_str(name);
        text.push_str(end);
        column += name.len() + end.len();
    }
    text.push_str("\r\n\tb=");
    // RFC 6376 3.7: the field itself comes last, with an empty `b=` and without CRLF.
    let mut data = canonical.to_vec();
    fields(text.as_bytes()).next()?.append_relaxed_to(&mut data);
    let signature = STANDARD.encode(key.sign(&data)?);
    for (index, line) in signature.as_bytes().chunks(COLUMNS - 10).enumerate() {
        if index > 0 {
            text.push_str("\r\n\t");
        }
        text.push_str(std::str::from_utf8(line).ok()?);
    }
    text.push_str("\r\n");
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{digest::MessageDigest, key::tests::RFC_KEY},
        *,
    };

    fn signed(message: &[u8]) -> String {
        let key = DkimKey::parse("football.example.com", "brisbane", RFC_KEY.as_bytes()).unwrap();
        let signer = Signer { keys: SmallVec::from_iter([Arc::new(key)]) };
        assert!(!signer.is_slow());
        let mut digest = MessageDigest::default();
        digest.push(message);
        String::from_utf8(signer.sign(&digest.finish().unwrap(), 1_528_637_909)).unwrap()
    }

    /// RFC 8463 A.3. The body hash is the RFC's; the signature was verified with dkimpy.
    #[test]
    fn the_message_of_the_rfc() {
        let message = b"From: Joe SixPack <joe@football.example.com>\r\n\
                        To: Suzie Q <suzie@shopping.example.net>\r\n\
                        Subject: Is dinner ready?\r\n\
                        Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
                        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
                        Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
        let expected = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n\
             \td=football.example.com;\r\n\
             \ts=brisbane; t=1528637909;\r\n\
             \tbh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n\
             \th=from:from:to:to:cc:subject:subject:date:date:message-id:\r\n\
             \tmessage-id:reply-to:sender:in-reply-to:references:mime-version:\r\n\
             \tcontent-type:content-transfer-encoding;\r\n\
             \tb=mpNSjgWrEjZOO3LyDVXxzNtMgTsFmD/xRx9zS35V+0xAc32h10Ocn2Z5kS7FXIltWB\r\n\
             \t/zfvssY3AZYE0rpWuPAw==\r\n";
        let field = signed(message);
        assert_eq!(field, expected);
        assert!(field.lines().all(|line| line.len() <= 78), "{field}");
    }

    #[test]
    fn names_are_signed_once_more_and_taken_from_below() {
        let header = b"To: one\r\nFrom: a\r\nTO: two\r\nList-Id: x\r\nX-Other: y\r\n";
        let (names, canonical) = select(header).unwrap();
        assert_eq!(&names[..5], ["from", "from", "to", "to", "to"]);
        assert_eq!(names.last(), Some(&"list-id"));
        assert_eq!(canonical, b"from:a\r\nto:two\r\nto:one\r\nlist-id:x\r\n");
    }

    #[test]
    fn our_signatures_are_known_again() {
        let key = DkimKey::parse("football.example.com", "brisbane", RFC_KEY.as_bytes()).unwrap();
        let signer = Signer { keys: SmallVec::from_iter([Arc::new(key)]) };
        let digest = |message: &[u8]| {
            let mut digest = MessageDigest::default();
            digest.push(message);
            digest.finish().unwrap()
        };
        let message = "From: joe@football.example.com\r\nSubject: x\r\n\r\nHi.\r\n";
        let field = signed(message.as_bytes());
        let trace = "Return-Path: <joe@football.example.com>\r\nReceived: x\r\n";
        let whole = format!("{trace}{field}{message}");
        let found = digest(whole.as_bytes());
        assert_eq!(found.signing_domains(), ["football.example.com"]);
        assert_eq!(signer.own(&found), [field.as_bytes()]);
        // Of another message, of another key, changed in any octet, or not there.
        let (head, tail) = field.split_at(field.len() - 20);
        for other in [
            whole.replace("Hi.", "Ho."),
            whole.replace("Subject: x", "Subject: y"),
            whole.replace("s=brisbane", "s=other"),
            whole.replace("t=1528637909", "t=1528637908"),
            whole.replace("t=1528637909", "t=x"),
            format!("{trace}{head}{}{message}", tail.replace(['a', 'b', 'c', 'Q', 'w'], "A")),
            format!("{trace}{message}"),
            format!("{trace}DKIM-Signature:\r\n{message}"),
        ] {
            assert_ne!(other, whole);
            assert!(signer.own(&digest(other.as_bytes())).is_empty(), "{other}");
        }
    }

    #[test]
    fn domains_that_signed() {
        let field = |domain: &str| format!("DKIM-Signature: a=x;\r\n\td = {domain} ; s=y\r\n");
        let header: String =
            ["A.test", "b.test", "a.test", "c.test", "d.test", "e.test"].map(field).concat();
        let found = Unsigned { header: header.into_bytes(), body_hash: [0; 32] };
        assert_eq!(found.signing_domains(), ["a.test", "b.test", "c.test", "d.test"]);
    }

    #[test]
    fn messages_that_go_unsigned() {
        assert_eq!(signed(b"Subject: x\r\n\r\nbody"), "");
        assert_eq!(signed(b""), "");
        let mut many = b"From: a\r\n".to_vec();
        many.extend(b"To: b\r\n".repeat(REPETITIONS_MAX + 1));
        assert_eq!(signed(&many), "");
    }
}
