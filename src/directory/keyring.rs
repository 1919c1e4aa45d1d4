//! What an account has besides the hash of its password: the keys of SCRAM (RFC 5802), in the form
//! of RFC 5803.
//!
//! ```text
//! SCRAM-SHA-256$15000:<salt>$<StoredKey>:<ServerKey> SCRAM-SHA-1$15000:<salt>$<StoredKey>:<ServerKey>
//! ```
//!
//! Made when a password is set, by a command: nobody can make them of a hash. Kept as text, since a
//! log-in needs one of them and a server may have a million accounts.

use std::{fmt, num::NonZeroU32, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::rand::{SecureRandom, SystemRandom};

use super::HashError;
use crate::protocol::sasl::scram::{Hash, KeyPair, Keys};

/// RFC 7677 4 recommends 15,000: some 10 ms for a mail program on a telephone.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(15_000).unwrap();

/// Highest count in a users file: a client must do as many.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Octets of a salt, new and imported.
pub(super) const SALT_SIZE: usize = 16;
const SALT_MAX: usize = 64;

/// A salt for all passwords of an account.
pub type Salt = Vec<u8>;

/// The text after the hash in the users file, fields separated by one space. Valid.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Keyring(Option<Arc<str>>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.0.as_ref().map(|text| text.len())).finish()
    }
}

impl Keyring {
    /// The keys of `password`; of none if no client could prove it, because SASLprep (RFC 4013)
    /// refuses it. Takes some milliseconds: never on a shard.
    pub(super) fn of(password: &str, salt: &[u8]) -> Keyring {
        let keys = Hash::ALL.map(|hash| {
            let pair = KeyPair::of(hash, password, salt, ITERATIONS)?;
            Some(render(hash, ITERATIONS.get(), salt, &pair))
        });
        let keys: Vec<String> = keys.into_iter().flatten().collect();
        Keyring(if keys.is_empty() { None } else { Some(keys.join(" ").into()) })
    }

    /// Of the fields of a line.
    pub(super) fn parse<'a>(
        fields: impl Iterator<Item = &'a str>,
    ) -> Result<Keyring, &'static str> {
        let fields: Vec<&str> = fields.collect();
        for (place, field) in fields.iter().enumerate() {
            let (hash, _) = parse_keys(field).ok_or("expected keys of SCRAM")?;
            if fields.iter().skip(place + 1).any(|it| has_scheme(it, hash)) {
                return Err("two keys of SCRAM with one hash");
            }
        }
        Ok(Keyring(if fields.is_empty() { None } else { Some(fields.join(" ").into()) }))
    }

    /// The fields; empty if there are none.
    pub(super) fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.text().split(' ').filter(|field| !field.is_empty())
    }

    /// Whether log-ins by SCRAM can succeed.
    pub fn has_keys(&self) -> bool {
        Hash::ALL.into_iter().all(|hash| self.fields().any(|field| has_scheme(field, hash)))
    }

    /// The salt of the account's passwords.
    pub(super) fn salt(&self) -> Option<Salt> {
        self.fields().find_map(parse_keys).map(|(_, keys)| keys.salt)
    }

    /// What a client is told, and what it must prove.
    pub(super) fn keys(&self, hash: Hash) -> Option<Keys> {
        let mut own = self.fields().filter(|field| has_scheme(field, hash));
        own.find_map(parse_keys).map(|(_, keys)| keys)
    }

    /// Whether a client that proved this key proved a password of the account.
    pub(super) fn contains(&self, hash: Hash, stored_key: &[u8]) -> bool {
        let keys = self.keys(hash);
        keys.is_some_and(|keys| keys.pairs.iter().any(|pair| pair.stored_key == stored_key))
    }
}

/// A fresh salt.
pub(super) fn fresh_salt() -> Result<Salt, HashError> {
    let mut salt = vec![0; SALT_SIZE];
    let drawn = SystemRandom::new().fill(&mut salt);
    drawn.map_err(|_| HashError::new("the system has no randomness"))?;
    Ok(salt)
}

fn has_scheme(field: &str, hash: Hash) -> bool {
    field.strip_prefix(hash.scheme()).is_some_and(|rest| rest.starts_with('$'))
}

/// RFC 5803 2: scheme, `iter-count:salt`, `StoredKey:ServerKey`.
fn render(hash: Hash, iterations: u32, salt: &[u8], pair: &KeyPair) -> String {
    let encode = |octets: &[u8]| STANDARD.encode(octets);
    let (salt, stored) = (encode(salt), encode(&pair.stored_key));
    format!("{}${iterations}:{salt}${stored}:{}", hash.scheme(), encode(&pair.server_key))
}

fn parse_keys(field: &str) -> Option<(Hash, Keys)> {
    let hash = Hash::ALL.into_iter().find(|hash| has_scheme(field, *hash))?;
    let mut parts = field.split('$').skip(1);
    let (Some(info), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let (iterations, salt) = info.split_once(':')?;
    let (stored_key, server_key) = value.split_once(':')?;
    let iterations = iterations.parse().ok().filter(|it| (1..=ITERATIONS_MAX).contains(it))?;
    let salt = STANDARD.decode(salt).ok().filter(|it| (1..=SALT_MAX).contains(&it.len()))?;
    let key = |text| STANDARD.decode(text).ok().filter(|key: &Vec<u8>| key.len() == hash.size());
    let pair = KeyPair { stored_key: key(stored_key)?, server_key: key(server_key)? };
    Some((hash, Keys { salt, iterations, pairs: vec![pair] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 3 and RFC 5802 5, "pencil", as RFC 5803 stores them.
    const SHA_256: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                           WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                           wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const SHA_1: &str = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:\
                         D+CSWLOshSulAsxiupA+qs2/fTE=";

    fn parse(text: &str) -> Result<Keyring, &'static str> {
        Keyring::parse(text.split_ascii_whitespace())
    }

    #[test]
    fn the_examples_of_the_rfcs_are_stored() {
        let keyring = parse(&format!("{SHA_256} {SHA_1}")).expect("valid");
        assert!(keyring.has_keys());
        for (hash, stored) in [(Hash::Sha256, SHA_256), (Hash::Sha1, SHA_1)] {
            let keys = keyring.keys(hash).expect("keys");
            let iterations = NonZeroU32::new(keys.iterations).expect("iterations");
            let pair = KeyPair::of(hash, "pencil", &keys.salt, iterations).expect("keys");
            assert_eq!(keys.pairs, [pair.clone()]);
            assert_eq!(render(hash, 4096, &keys.salt, &pair), stored);
            assert!(keyring.contains(hash, &pair.stored_key));
            assert!(!keyring.contains(hash, &pair.server_key));
        }
    }

    #[test]
    fn fields_are_checked() {
        let many = format!("{SHA_256} {SHA_1} {SHA_256}");
        let salt = SHA_1.replace("QSXCR", "!");
        let short = SHA_1.replace("6dlG", "");
        let none = SHA_1.replace("4096", "0");
        for (text, expected) in [
            ("", Ok("")),
            (SHA_1, Ok(SHA_1)),
            (&many, Err("two keys of SCRAM with one hash")),
            (&salt, Err("expected keys of SCRAM")),
            (&short, Err("expected keys of SCRAM")),
            (&none, Err("expected keys of SCRAM")),
            ("secret", Err("expected keys of SCRAM")),
            ("SCRAM-SHA-1", Err("expected keys of SCRAM")),
            ("SCRAM-SHA-512$1:AAAA$AAAA:AAAA", Err("expected keys of SCRAM")),
        ] {
            assert_eq!(parse(text).as_ref().map(|it| it.text()), expected.as_ref().map(|it| *it));
        }
        assert!(!parse(SHA_1).expect("valid").has_keys(), "not for both mechanisms");
    }

    #[test]
    fn keys_are_made_where_a_client_can_prove_them() {
        let keyring = Keyring::of("p\u{e4}ssword", &fresh_salt().expect("salt"));
        assert!(keyring.has_keys());
        assert_eq!(parse(keyring.text()).as_ref(), Ok(&keyring));
        // RFC 4013 2.3: control characters are prohibited.
        assert_eq!(Keyring::of("bell\u{7}", &[1]), Keyring::default());
    }
}
