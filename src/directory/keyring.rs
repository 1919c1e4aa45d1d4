//! What an account has besides the hash of its password: the keys of SCRAM (RFC 5802), in the form
//! of RFC 5803, and its application passwords.
//!
//! ```text
//! SCRAM-SHA-256$15000:<salt>$<StoredKey>:<ServerKey> SCRAM-SHA-1$15000:<salt>$...:...
//! app:<name>:<seconds since 1970>:<SHA-256 of the password>,SCRAM-SHA-256$...,SCRAM-SHA-1$...
//! ```
//!
//! Keys are made when a password is set, by a command: nobody can make them of a hash. All keys of
//! an account have one salt, since a client that begins to log in is told one, whatever its
//! password. Application passwords are random, so that a fast hash protects them as well as a slow
//! one. All is kept as text, since a log-in needs little of it and a server may have a million
//! accounts.

use std::{fmt, num::NonZeroU32, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};

use super::HashError;
use crate::protocol::sasl::scram::{Hash, KeyPair, Keys};

/// RFC 7677 4 asks for 4,096 at least, and its rule of thumb gives 15,000: some 10 ms for a mail
/// program on a telephone.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(15_000).unwrap();

/// Highest count in a users file: a client must do as many.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Octets of a salt, new and imported.
pub(super) const SALT_SIZE: usize = 16;
const SALT_MAX: usize = 64;

/// Application passwords of an account.
const APP_PASSWORDS_MAX: usize = 32;
/// Octets of the name of an application password.
const APP_NAME_MAX: usize = 64;
const APP: &str = "app:";

/// An application password, without the password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppPassword {
    /// Chosen by whoever made it: of the program or device that has it.
    pub name: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// Which password of an account was proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Proved {
    Main,
    /// The application password of this name.
    App(String),
}

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
        let mut names = Vec::new();
        for (place, field) in fields.iter().enumerate() {
            if field.starts_with(APP) {
                let app = App::parse(field).ok_or("invalid application password")?;
                if names.contains(&app.password.name) || names.len() >= APP_PASSWORDS_MAX {
                    return Err("two application passwords of one name, or more than 32");
                }
                names.push(app.password.name);
                continue;
            }
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
        // Of the main password.
        Hash::ALL.into_iter().all(|hash| self.fields().any(|field| has_scheme(field, hash)))
    }

    /// The salt of the account's passwords.
    pub(super) fn salt(&self) -> Option<Salt> {
        self.all_keys().next().map(|(_, _, keys)| keys.salt)
    }

    /// What a client is told, and what it must prove.
    pub(super) fn keys(&self, hash: Hash) -> Option<Keys> {
        let mut all = self.all_keys().filter(|(_, of, _)| *of == hash).map(|(_, _, keys)| keys);
        let mut keys = all.next()?;
        for other in all {
            // Others the client could not prove, after what it was told.
            if (&other.salt, other.iterations) == (&keys.salt, keys.iterations) {
                keys.pairs.extend(other.pairs);
            }
        }
        Some(keys)
    }

    /// The password of the account that a client proved, if it proved this key.
    pub(super) fn proved(&self, hash: Hash, stored_key: &[u8]) -> Option<Proved> {
        let mut all = self.all_keys().filter(|(_, of, _)| *of == hash);
        let is_it = |keys: &Keys| keys.pairs.iter().any(|pair| pair.stored_key == stored_key);
        all.find(|(_, _, keys)| is_it(keys)).map(|(whose, _, _)| whose)
    }

    fn all_keys(&self) -> impl Iterator<Item = (Proved, Hash, Keys)> {
        let of_field = |field: &str| match App::parse(field) {
            None => parse_keys(field)
                .into_iter()
                .map(|(hash, keys)| (Proved::Main, hash, keys))
                .collect(),
            Some(App { password, keys, .. }) => {
                let parsed = keys.iter().filter_map(|it| parse_keys(it));
                let whose = || Proved::App(password.name.clone());
                parsed.map(|(hash, keys)| (whose(), hash, keys)).collect::<Vec<_>>()
            }
        };
        self.fields().flat_map(of_field)
    }

    fn apps(&self) -> impl Iterator<Item = App<'_>> {
        self.fields().filter_map(App::parse)
    }

    /// In the order in which they were made.
    pub fn app_passwords(&self) -> impl Iterator<Item = AppPassword> {
        self.apps().map(|app| app.password)
    }

    /// The name of the application password that this is.
    pub(super) fn app_password_named(&self, password: &str) -> Option<String> {
        // Most accounts have none.
        if !self.fields().any(|field| field.starts_with(APP)) {
            return None;
        }
        let digest = digest_of(password);
        self.apps().find(|app| app.digest == digest).map(|app| app.password.name)
    }

    /// With a new application password, and that password, which nobody can be told again.
    pub(super) fn with_app_password(
        &self,
        name: &str,
        created: u64,
    ) -> Result<(Keyring, String), AppPasswordError> {
        let is_fit = (1..=APP_NAME_MAX).contains(&name.len()) && !name.contains(char::is_control);
        if !is_fit || name.trim() != name {
            return Err(AppPasswordError::InvalidName);
        }
        if self.app_passwords().any(|other| other.name == name) {
            return Err(AppPasswordError::Exists(name.to_owned()));
        }
        if self.app_passwords().count() >= APP_PASSWORDS_MAX {
            return Err(AppPasswordError::TooMany);
        }
        let password = fresh_password()?;
        let salt = self.salt().map_or_else(fresh_salt, Ok)?;
        let digest = STANDARD.encode(digest_of(&password));
        let mut field = format!("{APP}{}:{created}:{digest}", escaped(name));
        for key in Keyring::of(&password, &salt).fields() {
            field.push(',');
            field.push_str(key);
        }
        let fields: Vec<&str> = self.fields().chain([&*field]).collect();
        Ok((Keyring(Some(fields.join(" ").into())), password))
    }

    /// Without the application password of this name; `None` if there is none.
    pub(super) fn without_app_password(&self, name: &str) -> Option<Keyring> {
        let is_it = |field: &str| App::parse(field).is_some_and(|app| app.password.name == name);
        let kept: Vec<&str> = self.fields().filter(|field| !is_it(field)).collect();
        let text = if kept.is_empty() { None } else { Some(kept.join(" ").into()) };
        (kept.len() < self.fields().count()).then_some(Keyring(text))
    }

    /// With the keys of another main password, and our application passwords.
    pub(super) fn with_main(&self, main: &Keyring) -> Keyring {
        let apps = self.fields().filter(|field| field.starts_with(APP));
        let fields: Vec<&str> = main.fields().chain(apps).collect();
        Keyring(if fields.is_empty() { None } else { Some(fields.join(" ").into()) })
    }
}

/// Why there is no new application password.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppPasswordError {
    #[error("a name has 1 to 64 octets, without control characters and spaces around it")]
    InvalidName,
    #[error("there is an application password {0:?}: remove it first")]
    Exists(String),
    #[error("an account has at most {APP_PASSWORDS_MAX} application passwords")]
    TooMany,
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// One field of an application password.
struct App<'a> {
    password: AppPassword,
    digest: Vec<u8>,
    keys: Vec<&'a str>,
}

impl App<'_> {
    fn parse(field: &str) -> Option<App<'_>> {
        let mut parts = field.strip_prefix(APP)?.splitn(3, ':');
        let name = unescaped(parts.next()?).filter(|it| (1..=APP_NAME_MAX).contains(&it.len()))?;
        let created = parts.next()?.parse().ok()?;
        let mut rest = parts.next()?.split(',');
        let digest = STANDARD.decode(rest.next()?).ok().filter(|it| it.len() == DIGEST_SIZE)?;
        let keys: Vec<&str> = rest.collect();
        let all_valid = keys.iter().all(|it| parse_keys(it).is_some());
        all_valid.then_some(App { password: AppPassword { name, created }, digest, keys })
    }
}

const DIGEST_SIZE: usize = 32;

fn digest_of(password: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, password.as_bytes()).as_ref().to_vec()
}

/// What a name is made of in the file; other octets are `%` and two digits.
fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.')
}

fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, octet| {
        match is_plain(octet) {
            true => out.push(octet.into()),
            false => out.push_str(&format!("%{octet:02x}")),
        }
        out
    })
}

fn unescaped(text: &str) -> Option<String> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        octets.extend_from_slice(before.as_bytes());
        let (digits, following) = after.split_at_checked(2)?;
        octets.push(u8::from_str_radix(digits, 16).ok()?);
        rest = following;
    }
    octets.extend_from_slice(rest.as_bytes());
    String::from_utf8(octets).ok()
}

/// 100 bits in four groups: letters and digits that are not mistaken for one another.
fn fresh_password() -> Result<String, HashError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut drawn = [0; 20];
    let filled = SystemRandom::new().fill(&mut drawn);
    filled.map_err(|_| HashError::new("the system has no randomness"))?;
    let letters = drawn.iter().map(|octet| LETTERS.get(usize::from(octet % 32)));
    let letters: Vec<u8> = letters.flatten().copied().collect();
    let groups: Vec<_> = letters.chunks(5).map(String::from_utf8_lossy).collect();
    Ok(groups.join("-"))
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
            assert_eq!(keys.pairs, std::slice::from_ref(&pair));
            assert_eq!(render(hash, 4096, &keys.salt, &pair), stored);
            assert_eq!(keyring.proved(hash, &pair.stored_key), Some(Proved::Main));
            assert_eq!(keyring.proved(hash, &pair.server_key), None);
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
    fn application_passwords_are_made_and_removed_one_by_one() {
        let main = Keyring::of("pencil", &fresh_salt().expect("salt"));
        let (one, first) = main.with_app_password("Anna's telephone, new", 7).expect("made");
        let (two, second) = one.with_app_password("b:c", 8).expect("made");
        assert_eq!(parse(two.text()).as_ref(), Ok(&two));
        let names: Vec<_> = two.app_passwords().map(|it| (it.name, it.created)).collect();
        assert_eq!(names, [("Anna's telephone, new".to_owned(), 7), ("b:c".to_owned(), 8)]);
        assert!(first.len() == 23 && first != second, "{first} {second}");
        assert_eq!(two.app_password_named(&second).as_deref(), Some("b:c"));
        assert_eq!(two.app_password_named("pencil"), None);
        let exists = AppPasswordError::Exists("b:c".to_owned());
        assert_eq!(two.with_app_password("b:c", 9), Err(exists));
        for name in ["", " x", "x\n", &"x".repeat(65)] {
            assert_eq!(one.with_app_password(name, 9), Err(AppPasswordError::InvalidName));
        }
        // One salt for all, so that each can be proved.
        let keys = two.keys(Hash::Sha1).expect("keys");
        assert_eq!(keys.pairs.len(), 3);
        let pair = KeyPair::of(Hash::Sha1, &second, &keys.salt, ITERATIONS).expect("keys");
        let proved = two.proved(Hash::Sha1, &pair.stored_key);
        assert_eq!(proved, Some(Proved::App("b:c".to_owned())));
        // A new main password keeps them, and the removal of one the others.
        let changed = two.with_main(&Keyring::of("brush", &two.salt().expect("a salt")));
        assert_eq!(changed.app_password_named(&first).as_deref(), Some("Anna's telephone, new"));
        assert_eq!(changed.keys(Hash::Sha1).expect("keys").pairs.len(), 3);
        let removed = changed.without_app_password("b:c").expect("there");
        assert_eq!(removed.app_password_named(&second), None);
        assert_eq!(removed.proved(Hash::Sha1, &pair.stored_key), None);
        assert_eq!(removed.without_app_password("b:c"), None);
        let imported = two.with_main(&Keyring::default());
        assert_eq!(imported.keys(Hash::Sha256).expect("keys").pairs.len(), 2);
        assert!(!imported.has_keys(), "the main password cannot be proved");
    }

    #[test]
    fn application_passwords_of_a_file_are_checked() {
        let (one, _) = Keyring::default().with_app_password("x", 7).expect("made");
        let field = one.text().to_owned();
        for (text, is_valid) in [
            (field.clone(), true),
            (format!("{field} {field}"), false),
            (field.replace("app:x", "app:"), false),
            (field.replace("app:x", "app:%f"), false),
            (field.replace("app:x:7", "app:x:y"), false),
            (field.replace(",SCRAM-SHA-1", ",X"), false),
            ("app:x".to_owned(), false),
        ] {
            assert_eq!(parse(&text).is_ok(), is_valid, "{text}");
        }
        let many = (0..APP_PASSWORDS_MAX).fold(Keyring::default(), |keyring, number| {
            let field = field.replace("app:x", &format!("app:{number}"));
            let fields: Vec<&str> = keyring.fields().chain([&*field]).collect();
            Keyring(Some(fields.join(" ").into()))
        });
        assert_eq!(many.with_app_password("y", 7), Err(AppPasswordError::TooMany));
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
