//! The return paths of mail that leaves: senders' domains that are rewritten, an address of ours
//! for what is forwarded (the Sender Rewriting Scheme), and one return path for each recipient of a
//! list (variable envelope return paths, VERP).
//!
//! SRS. A forwarded message with its sender's address comes from a host that the sender's domain
//! does not name (SPF, RFC 7208), so it gets a return path of ours that carries that address:
//!
//! ```text
//! SRS0=hash=time=domain=local@ours     of local@domain
//! SRS1=hash=first=rest@ours            of SRS0rest@first, forwarded already: bounces skip us
//! ```
//!
//! The hash, of a secret key over the rest, keeps others from sending through us; the time, in
//! days, ends its use after [`AGE_MAX`] days. All of it compares without case, since some servers
//! change it.
//!
//! Immutable, part of a [`super::DirectorySnapshot`].

use std::path::PathBuf;

use hashbrown::{HashMap, HashSet};
use ring::hmac;

use super::{
    address::Address,
    files::{DirectoryError, read_keys},
};

/// Days that a return path can be used: bounces come within the days that a queue keeps a message.
const AGE_MAX: u16 = 21;
/// Characters of the hash, five bits each.
const HASH_LENGTH: usize = 6;
/// Longest local part that every server takes, octets (RFC 5321 4.5.3.1.1).
const LOCAL_PART_MAX: usize = 64;
/// The time stamp counts days modulo this, in two characters.
const DAYS_MODULUS: u16 = 1 << 10;
const SECONDS_A_DAY: u64 = 24 * 3600;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Between the tag and the rest.
const SRS_SEPARATORS: [char; 3] = ['=', '+', '-'];

/// How return paths are changed; `config` fills it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SenderOptions {
    /// Senders' domains, and what they become.
    pub rewrite: Vec<(String, String)>,
    /// Whether they become that in header fields, too.
    pub rewrite_headers: bool,
    /// Addresses whose mail goes out with a return path for each recipient.
    pub verp: Vec<String>,
    /// The domain of return paths of forwarded mail, and the file with the keys: one a line, the
    /// first for new ones, all for those that come back. `None`: forwarded mail keeps its sender.
    pub srs: Option<(String, PathBuf)>,
}

/// Changes return paths.
#[derive(Debug, Default)]
pub struct Senders {
    rewrite: HashMap<String, String>,
    rewrite_headers: bool,
    verp: HashSet<String>,
    /// The separator of sub-addresses, which VERP uses.
    separator: Option<char>,
    srs: Option<Srs>,
}

impl Senders {
    pub(super) fn load(
        options: &SenderOptions,
        separators: &str,
        keys_may_be_absent: bool,
    ) -> Result<Senders, DirectoryError> {
        let srs = match &options.srs {
            Some((domain, path)) => match read_keys(path)? {
                Some(keys) => Some(Srs::new(domain, keys.iter().map(String::as_str))),
                None if keys_may_be_absent => None,
                None => {
                    let error = std::io::Error::from(std::io::ErrorKind::NotFound);
                    return Err(DirectoryError::io(path, error));
                }
            },
            None => None,
        };
        let rewrite = options.rewrite.iter();
        let verp = options.verp.iter().filter_map(|address| Address::parse(address));
        Ok(Senders {
            rewrite_headers: options.rewrite_headers,
            rewrite: rewrite.map(|(from, to)| (from.to_lowercase(), to.to_lowercase())).collect(),
            verp: verp.map(|address| address.key()).collect(),
            separator: separators.chars().next(),
            srs,
        })
    }

    /// `mailbox` with its domain rewritten; `None` if it stays.
    pub fn rewritten(&self, mailbox: &str) -> Option<String> {
        if self.rewrite.is_empty() {
            return None;
        }
        let (local_part, domain) = mailbox.rsplit_once('@')?;
        let domain = self.rewritten_domain(domain)?;
        Some(format!("{local_part}@{domain}"))
    }

    /// What becomes of a sender's domain; `None` if it stays.
    pub fn rewritten_domain(&self, domain: &str) -> Option<&str> {
        self.rewrite.get(&domain.to_lowercase()).map(String::as_str)
    }

    /// Whether domains are rewritten in header fields, too.
    pub fn rewrites_headers(&self) -> bool {
        self.rewrite_headers && !self.rewrite.is_empty()
    }

    /// Whether mail of `sender` has a return path for each recipient.
    pub fn is_variable(&self, sender: &str) -> bool {
        !self.verp.is_empty()
            && Address::parse(sender).is_some_and(|it| self.verp.contains(&it.key()))
    }

    /// The return path for one recipient of such a sender: `list+bob=else.test@demo.test` for
    /// bob@else.test. `None` if the sender has none, or it would be too long.
    pub fn for_recipient(&self, sender: &str, recipient: &str) -> Option<String> {
        let separator = self.separator.filter(|_| self.is_variable(sender))?;
        let (local_part, domain) = sender.rsplit_once('@')?;
        let (user, host) = recipient.rsplit_once('@')?;
        let plain = ![local_part, user].iter().any(|text| text.starts_with('"'));
        let variable = format!("{local_part}{separator}{user}={host}");
        (plain && variable.len() <= LOCAL_PART_MAX).then(|| format!("{variable}@{domain}"))
    }

    pub(super) fn srs(&self) -> Option<&Srs> {
        self.srs.as_ref()
    }
}

/// Why an address that looks like one of ours leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SrsError {
    /// No such address.
    NotSrs,
    /// The hash is not ours.
    Forged,
    Expired,
}

/// Makes and reads return paths of forwarded mail.
pub(super) struct Srs {
    domain: String,
    keys: Vec<hmac::Key>,
}

impl std::fmt::Debug for Srs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Srs({})", self.domain)
    }
}

impl Srs {
    fn new<'a>(domain: &str, keys: impl Iterator<Item = &'a str>) -> Srs {
        let key = |text: &str| hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        Srs { domain: domain.to_lowercase(), keys: keys.map(key).collect() }
    }

    /// In lower case.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// The return path for mail from `sender` that is forwarded on day `today`; `None` if it cannot
    /// be put into an address that every server takes: then the sender stays.
    pub(super) fn encode(&self, sender: &str, today: u64) -> Option<String> {
        let (local_part, domain) = sender.rsplit_once('@')?;
        if local_part.starts_with('"') || local_part.is_empty() || domain.starts_with('[') {
            return None;
        }
        let key = self.keys.first()?;
        let local_part = match (tagged(local_part, "SRS0"), tagged(local_part, "SRS1")) {
            (Some(rest), _) => {
                // With its separator, so that the first forwarder gets back what it made.
                format!("SRS1={}={domain}={rest}", hash(key, &[domain, rest]))
            }
            (_, Some(rest)) => {
                let (_, rest) = rest.get(1..)?.split_once('=')?;
                let (first, rest) = rest.split_once('=')?;
                format!("SRS1={}={first}={rest}", hash(key, &[first, rest]))
            }
            (None, None) => {
                let time = stamp(today);
                let hash = hash(key, &[&time, domain, local_part]);
                format!("SRS0={hash}={time}={domain}={local_part}")
            }
        };
        (local_part.len() <= LOCAL_PART_MAX).then(|| format!("{local_part}@{}", self.domain))
    }

    /// The address that a return path of ours carries.
    pub(super) fn decode(&self, local_part: &str, today: u64) -> Result<String, SrsError> {
        let (rest, is_first) = match (tagged(local_part, "SRS0"), tagged(local_part, "SRS1")) {
            (Some(rest), _) => (rest, true),
            (_, Some(rest)) => (rest, false),
            (None, None) => return Err(SrsError::NotSrs),
        };
        let rest = rest.get(1..).ok_or(SrsError::NotSrs)?;
        let (given, rest) = rest.split_once('=').ok_or(SrsError::NotSrs)?;
        let (one, two) = rest.split_once('=').ok_or(SrsError::NotSrs)?;
        if !is_first {
            self.verify(given, &[one, two])?;
            return Ok(format!("SRS0{two}@{one}"));
        }
        let (domain, user) = two.split_once('=').ok_or(SrsError::NotSrs)?;
        self.verify(given, &[one, domain, user])?;
        let age = age(one, today).ok_or(SrsError::Forged)?;
        // Our clock may have been ahead when it was made.
        let is_new = age <= AGE_MAX || age == DAYS_MODULUS - 1;
        if is_new { Ok(format!("{user}@{domain}")) } else { Err(SrsError::Expired) }
    }

    fn verify(&self, given: &str, fields: &[&str]) -> Result<(), SrsError> {
        let ours = self.keys.iter().any(|key| given.eq_ignore_ascii_case(&hash(key, fields)));
        if ours { Ok(()) } else { Err(SrsError::Forged) }
    }
}

/// Days since 1970 of a time in seconds.
pub(super) fn day(seconds: u64) -> u64 {
    seconds / SECONDS_A_DAY
}

/// What follows `tag`, beginning with the separator.
fn tagged<'a>(local_part: &'a str, tag: &str) -> Option<&'a str> {
    let (begin, rest) = local_part.split_at_checked(tag.len())?;
    (begin.eq_ignore_ascii_case(tag) && rest.starts_with(SRS_SEPARATORS)).then_some(rest)
}

fn digit(value: u64) -> char {
    char::from(BASE32.get((value & 31) as usize).copied().unwrap_or(b'A'))
}

fn hash(key: &hmac::Key, fields: &[&str]) -> String {
    let mut context = hmac::Context::with_key(key);
    for field in fields {
        context.update(field.to_lowercase().as_bytes());
        // No field has it, so that fields cannot be moved into one another.
        context.update(b"@");
    }
    let tag = context.sign();
    let bits = tag.as_ref().iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    (0..HASH_LENGTH).map(|at| digit(bits >> (5 * at))).collect()
}

fn stamp(today: u64) -> String {
    let days = today % u64::from(DAYS_MODULUS);
    [digit(days >> 5), digit(days)].iter().collect()
}

/// Days since a time stamp.
fn age(stamp: &str, today: u64) -> Option<u16> {
    let mut days = 0;
    for byte in stamp.bytes() {
        let value = BASE32.iter().position(|digit| digit.eq_ignore_ascii_case(&byte))?;
        days = days << 5 | u16::try_from(value).ok()?;
    }
    let today = u16::try_from(today % u64::from(DAYS_MODULUS)).ok()?;
    (stamp.len() == 2).then(|| (today + DAYS_MODULUS - days) % DAYS_MODULUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const DAY: u64 = 20_000;

    fn srs(domain: &str) -> Srs {
        Srs::new(domain, [KEY].into_iter())
    }

    fn local(address: &str) -> &str {
        address.rsplit_once('@').unwrap().0
    }

    #[test]
    fn a_return_path_leads_back() {
        let ours = srs("Ours.test");
        for sender in ["alice@else.test", "a=b+c@else.test", "A.B@else.test", "ü@else.test"] {
            let path = ours.encode(sender, DAY).unwrap();
            assert!(path.starts_with("SRS0=") && path.ends_with("@ours.test"), "{path}");
            for day in [DAY, DAY + 21, DAY - 1] {
                assert_eq!(ours.decode(local(&path), day).as_deref(), Ok(sender), "{path}");
            }
            assert_eq!(ours.decode(local(&path), DAY + 22), Err(SrsError::Expired));
            let lower = local(&path).to_lowercase();
            assert_eq!(ours.decode(&lower, DAY), Ok(sender.to_lowercase()));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let ours = srs("ours.test");
        let path = ours.encode("alice@else.test", DAY).unwrap();
        let local = local(&path);
        for (forged, expected) in [
            (local.replace("alice", "mallory"), SrsError::Forged),
            (local.replace("else", "evil"), SrsError::Forged),
            (local.replacen("SRS0=", "SRS1=", 1), SrsError::Forged),
            ("SRS0=AAAAAA=AA=x=y".to_owned(), SrsError::Forged),
            ("SRS0=AAAAAA=AA=x".to_owned(), SrsError::NotSrs),
            ("SRS0=".to_owned(), SrsError::NotSrs),
            ("SRS0".to_owned(), SrsError::NotSrs),
            ("SRS1=x=ü".to_owned(), SrsError::NotSrs),
            ("ürs0=x".to_owned(), SrsError::NotSrs),
            ("alice".to_owned(), SrsError::NotSrs),
        ] {
            assert_eq!(ours.decode(&forged, DAY), Err(expected), "{forged}");
        }
        let other = Srs::new("ours.test", ["another key".repeat(4).as_str()].into_iter());
        assert_eq!(other.decode(local, DAY), Err(SrsError::Forged));
        // A new key signs, and the old one still verifies.
        let both = Srs::new("ours.test", ["new".repeat(20).as_str(), KEY].into_iter());
        assert_eq!(both.decode(local, DAY).as_deref(), Ok("alice@else.test"));
        assert_ne!(both.encode("alice@else.test", DAY), Some(path));
    }

    #[test]
    fn forwarders_in_a_row() {
        let (one, two, three) = (srs("one.test"), srs("two.test"), srs("three.test"));
        let first = one.encode("alice@else.test", DAY).unwrap();
        let second = two.encode(&first, DAY).unwrap();
        assert!(second.starts_with("SRS1=") && second.ends_with("=alice@two.test"), "{second}");
        let third = three.encode(&second, DAY).unwrap();
        assert_eq!(three.decode(local(&third), DAY).unwrap(), first, "bounces skip the second");
        assert_eq!(two.decode(local(&second), DAY).unwrap(), first);
        // Other programs separate the tag in other ways.
        let other = "SRS0+abc=de=else.test=alice@one.test";
        let second = two.encode(other, DAY).unwrap();
        assert_eq!(two.decode(local(&second), DAY).unwrap(), other);
    }

    #[test]
    fn senders_that_stay() {
        let ours = srs("ours.test");
        let long = format!("{}@else.test", "a".repeat(50));
        for sender in ["", "@else.test", "\"a b\"@else.test", "a@[192.0.2.1]", "SRS1=x@y", &long] {
            assert_eq!(ours.encode(sender, DAY), None, "{sender}");
        }
    }

    #[test]
    fn variable_and_rewritten_senders() {
        let options = SenderOptions {
            rewrite: vec![("Lan.test".to_owned(), "demo.test".to_owned())],
            rewrite_headers: true,
            verp: vec!["list@demo.test".to_owned()],
            srs: None,
        };
        let senders = Senders::load(&options, "-+", false).unwrap();
        assert_eq!(senders.rewritten("Bob@LAN.test").as_deref(), Some("Bob@demo.test"));
        assert_eq!(senders.rewritten("bob@demo.test"), None);
        assert_eq!(senders.rewritten_domain("lan.TEST"), Some("demo.test"));
        assert!(senders.rewrites_headers() && !Senders::default().rewrites_headers());
        let path = senders.for_recipient("List@demo.test", "Bob@else.test");
        assert_eq!(path.as_deref(), Some("List-Bob=else.test@demo.test"));
        assert_eq!(senders.for_recipient("bob@demo.test", "x@else.test"), None);
        assert_eq!(senders.for_recipient("list@demo.test", &format!("{:a<60}@x", "")), None);
        assert_eq!(senders.for_recipient("list@demo.test", "\"a b\"@x"), None);
        let without = Senders::load(&options, "", false).unwrap();
        assert_eq!(without.for_recipient("list@demo.test", "x@else.test"), None);
    }
}
