//! Password hashes: argon2id in PHC string form, made by the CLI, checked by worker threads.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString, rand_core::OsRng},
};

use super::keyring::{Keyring, Salt, fresh_salt};

/// The cost of new hashes, after the OWASP recommendation: 19 MiB, two passes, one lane; about 15
/// ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Highest cost of a hash in a users file: worker threads x this bounds the memory for log-ins,
/// whoever wrote the file.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;

/// Hash of "demo", shared by all demo accounts so that a start with 10,000 of them hashes nothing.
/// It also stands in for the hash of users that do not exist where none exists.
pub(super) const DEMO_HASH: &str = concat!(
    "$argon2id$v=19$m=19456,t=2,p=1$a5OE1qxm147R0whGF/wfFA$",
    "sxbtrPzHhSEq7ISNyScSRi7ZeyaAkDHz6b602PLTei4",
);

/// Why a password could not be hashed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot hash the password: {0}")]
pub struct HashError(String);

impl HashError {
    pub(super) fn new(what: &str) -> HashError {
        HashError(what.to_owned())
    }
}

/// What a users file keeps of a password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secret {
    pub hash: Arc<str>,
    /// None if the password came as a hash.
    pub keyring: Keyring,
}

impl Secret {
    /// Of a new password. `salt`: for the keys, if the account has one; the hash has its own.
    /// Takes about 40 ms and 19 MiB: never on a shard.
    pub fn of(password: &str, salt: Option<Salt>) -> Result<Secret, HashError> {
        let salt = salt.map_or_else(fresh_salt, Ok)?;
        Ok(Secret { hash: hash(password)?, keyring: Keyring::of(password, &salt) })
    }

    /// "demo", for all demo accounts.
    pub(super) fn demo() -> Secret {
        static KEYRING: LazyLock<Keyring> =
            LazyLock::new(|| Keyring::of("demo", b"ringmail demo :)"));
        Secret { hash: Arc::from(DEMO_HASH), keyring: KEYRING.clone() }
    }
}

impl From<Arc<str>> for Secret {
    fn from(hash: Arc<str>) -> Secret {
        Secret { hash, keyring: Keyring::default() }
    }
}

/// Hashes `password` with a fresh salt. Takes about 15 ms and 19 MiB: never on a shard.
pub fn hash(password: &str) -> Result<Arc<str>, HashError> {
    let complain = |error: &dyn std::fmt::Display| HashError(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| complain(&error))?;
    let salt = SaltString::generate(&mut OsRng);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| Arc::from(hash.to_string()))
        .map_err(|error| complain(&error))
}

/// Hashes many passwords on all cores, in order, each with the salt of its account, if that has
/// one; `progress` is called after each. A valid hash is taken unchanged, so that accounts can move
/// between servers.
pub fn hash_all(
    passwords: &[(&str, Option<Salt>)],
    progress: &(dyn Fn() + Sync),
) -> Result<Vec<Secret>, HashError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut hashes = Vec::new();
        while let Some((index, password, salt)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            passwords.get(index).map(|(password, salt)| (index, *password, salt.clone()))
        } {
            let secret = match check_hash(password) {
                Ok(()) => Secret::from(Arc::from(password)),
                Err(_) => Secret::of(password, salt)?,
            };
            hashes.push((index, secret));
            progress();
        }
        Ok(hashes)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(passwords.len());
    let mut hashes = Vec::with_capacity(passwords.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let part: Result<_, HashError> = worker
                .join()
                .unwrap_or_else(|_| Err(HashError("a hashing thread panicked".to_owned())));
            hashes.extend(part?);
        }
        Ok(())
    })?;
    hashes.sort_by_key(|(index, _)| *index);
    Ok(hashes.into_iter().map(|(_, hash)| hash).collect())
}

/// Whether `text` is a hash that [`verify`] can check at an acceptable cost.
pub(super) fn check_hash(text: &str) -> Result<(), &'static str> {
    let hash = PasswordHash::new(text).map_err(|_| "not a password hash in PHC string form")?;
    if hash.algorithm != argon2::ARGON2ID_IDENT {
        return Err("the password hash is not argon2id");
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err("the password hash is incomplete");
    }
    let params = Params::try_from(&hash).map_err(|_| "invalid argon2id parameters")?;
    if params.m_cost() > MEMORY_KIB_MAX
        || params.t_cost() > PASSES_MAX
        || params.p_cost() > LANES_MAX
    {
        return Err("the password hash costs too much: at most m=65536, t=16, p=4");
    }
    Ok(())
}

/// The cost of checking a hash, as the start of its PHC string.
pub(super) fn cost(hash: &str) -> Option<String> {
    let hash = PasswordHash::new(hash).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let version = hash.version.unwrap_or(Version::V0x13.into());
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    Some(format!("{}$v={version}$m={m},t={t},p={p}", hash.algorithm))
}

/// A hash with the cost `cost` that matches no password: salt and result are made up.
pub(super) fn stand_in(cost: &str) -> Arc<str> {
    const MADE_UP: &str = "UmluZ21haWxSaW5nbWFpbA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    Arc::from(format!("${cost}${MADE_UP}"))
}

/// Runs on a worker thread, never on a shard.
pub(super) fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_verify() {
        let passwords = ["one", "two", DEMO_HASH].map(|password| (password, None));
        let secrets = hash_all(&passwords, &|| ()).expect("hashes");
        let with_keys: Vec<bool> = secrets.iter().map(|it| it.keyring.has_keys()).collect();
        assert_eq!(with_keys, [true, true, false]);
        for (password, Secret { hash, .. }) in ["one", "two", "demo"].iter().zip(&secrets) {
            assert_eq!(check_hash(hash), Ok(()));
            assert!(verify(password, hash), "{password}");
            assert!(!verify("other", hash), "{password}");
        }
        assert_ne!(hash("one"), hash("one"), "salts are fresh");
    }

    #[test]
    fn a_stand_in_costs_what_it_stands_for_and_is_nobodys() {
        const IMPORTED: &str = "$argon2id$v=16$m=64,t=3,p=2$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";
        for hash in [DEMO_HASH, IMPORTED] {
            let made_up = stand_in(&cost(hash).expect("cost"));
            assert_eq!(check_hash(&made_up), Ok(()));
            assert_eq!(cost(&made_up), cost(hash));
            assert!(!verify("demo", &made_up));
        }
    }

    #[test]
    fn costly_and_foreign_hashes_are_refused() {
        const CASES: &[(&str, &str)] = &[
            ("secret", "not a password hash in PHC string form"),
            (
                "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                "the password hash is not argon2id",
            ),
            ("$argon2id$v=19$m=19456,t=2,p=1", "the password hash is incomplete"),
            (
                "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                "the password hash costs too much: at most m=65536, t=16, p=4",
            ),
        ];
        for (text, expected) in CASES {
            assert_eq!(check_hash(text), Err(*expected), "{text}");
        }
        assert!(!verify("secret", "secret"));
    }
}
