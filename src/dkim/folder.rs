//! The folder of the keys, and all keys that were read from it.
//!
//! A key is one PEM file with the name of its DNS record: `selector._domainkey.example.org.pem`.
//! The folder, `dkim` in the data directory, and its files are private to the server's user.
//! `ringmail dkim` makes keys; to remove one, delete its file and reload.
//!
//! Blocks: for the start, reloads and commands, not for a shard. A [`Keyring`] is immutable.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    key::{self, Algorithm, DkimKey},
    signer::Signer,
};
use crate::runtime::{
    folder::{Folder, read_file},
    privilege::Owner,
};

const FOLDER: &str = "dkim";
const ENDING: &str = ".pem";
/// Between selector and domain.
const MIDDLE: &str = "._domainkey.";
/// Longest key file, octets.
const FILE_MAX: u64 = 64 << 10;
/// Keys of one domain that sign at once: two are enough to change both kinds.
const KEYS_PER_DOMAIN_MAX: usize = 4;

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum DkimError {
    #[error("{}: {error}", file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{}: {what}", file.display())]
    File { file: PathBuf, what: String },
    #[error("{0:?}: expected a domain, e.g. example.org")]
    Domain(String),
    #[error("{0:?}: expected letters, digits and hyphens, e.g. mail2027")]
    Selector(String),
    #[error("{}: exists; choose another --selector", .0.display())]
    Exists(PathBuf),
    #[error("{0}")]
    Generate(&'static str),
}

/// Where the keys of a data directory lie.
#[derive(Clone, Debug)]
pub struct KeyFolder {
    path: PathBuf,
}

/// A key and its file.
#[derive(Debug)]
pub struct StoredKey {
    pub file: PathBuf,
    pub key: DkimKey,
}

impl KeyFolder {
    pub fn of(data_dir: &Path) -> KeyFolder {
        KeyFolder { path: data_dir.join(FOLDER) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, by domain and selector. An absent folder has none.
    ///
    /// # Errors
    /// The first file that is no key.
    pub fn list(&self) -> Result<Vec<StoredKey>, DkimError> {
        let failed = |error| DkimError::Io { file: self.path.clone(), error };
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let file = entry.map_err(failed)?.path();
            let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
            // Other files may lie there, such as records for the DNS.
            let Some(record) = name.strip_suffix(ENDING) else { continue };
            let wrong = |what: &str| DkimError::File { file: file.clone(), what: what.to_owned() };
            let parts = record.split_once(MIDDLE);
            let Some((selector, domain)) =
                parts.filter(|(selector, domain)| is_selector(selector) && is_domain(domain))
            else {
                return Err(wrong("expected a name as selector._domainkey.example.org.pem"));
            };
            let pem = read_file(&file, FILE_MAX)
                .map_err(|error| DkimError::Io { file: file.clone(), error })?;
            let key = DkimKey::parse(domain, selector, &pem).map_err(wrong)?;
            keys.push(StoredKey { file, key });
        }
        keys.sort_by(|a, b| {
            (&a.key.domain, &a.key.selector).cmp(&(&b.key.domain, &b.key.selector))
        });
        Ok(keys)
    }

    /// Makes a key, durably. What root creates is given to `owner`.
    pub fn generate(
        &self,
        domain: &str,
        selector: &str,
        algorithm: Algorithm,
        owner: Option<Owner>,
    ) -> Result<StoredKey, DkimError> {
        let domain = domain.to_lowercase();
        if !is_domain(&domain) {
            return Err(DkimError::Domain(domain));
        }
        if !is_selector(selector) {
            return Err(DkimError::Selector(selector.to_owned()));
        }
        let name = format!("{selector}{MIDDLE}{domain}{ENDING}");
        let file = self.path.join(&name);
        let failed = |error| DkimError::Io { file: file.clone(), error };
        let folder = Folder::make(&self.path, owner).map_err(failed)?;
        if folder.read(OsStr::new(&name), FILE_MAX).map_err(failed)?.is_some() {
            return Err(DkimError::Exists(file));
        }
        let pem = key::generate(algorithm).map_err(DkimError::Generate)?;
        let key = DkimKey::parse(&domain, selector, pem.as_bytes()).map_err(DkimError::Generate)?;
        folder.replace(OsStr::new(&name), pem.as_bytes(), owner).map_err(failed)?;
        Ok(StoredKey { file, key })
    }
}

/// Labels of a host name.
fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// One label or several (RFC 6376 3.1).
fn is_selector(text: &str) -> bool {
    text.len() <= 63 && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// All keys, by domain.
#[derive(Debug, Default)]
pub struct Keyring {
    by_domain: HashMap<String, SmallVec<[Arc<DkimKey>; 2]>>,
}

impl Keyring {
    /// # Errors
    /// The first file that is no key, or one key too many.
    pub fn load(folder: &KeyFolder) -> Result<Keyring, DkimError> {
        let mut keyring = Keyring::default();
        for StoredKey { file, key } in folder.list()? {
            let keys = keyring.by_domain.entry(key.domain.to_lowercase()).or_default();
            if keys.len() == KEYS_PER_DOMAIN_MAX {
                let what = format!(
                    "{} has more than {KEYS_PER_DOMAIN_MAX} keys: delete those that are no longer \
                     used",
                    key.domain
                );
                return Err(DkimError::File { file, what });
            }
            keys.push(Arc::new(key));
        }
        Ok(keyring)
    }

    /// Signs for `domain`: with its keys, or those of the nearest domain above it, which receivers
    /// take for it (RFC 7489 3.1.1). `None` if there are none.
    pub fn signer(&self, domain: &str) -> Option<Signer> {
        if self.by_domain.is_empty() {
            return None;
        }
        let domain = domain.to_lowercase();
        let mut rest = domain.as_str();
        loop {
            if let Some(keys) = self.by_domain.get(rest) {
                return Some(Signer { keys: keys.clone() });
            }
            (_, rest) = rest.split_once('.')?;
        }
    }
}

/// The keys that all shards sign with; a reload replaces them as a whole.
#[derive(Debug, Default)]
pub struct SharedKeyring(ArcSwap<Keyring>);

impl SharedKeyring {
    pub fn new(keyring: Keyring) -> Arc<SharedKeyring> {
        Arc::new(SharedKeyring(ArcSwap::from_pointee(keyring)))
    }

    pub fn replace(&self, keyring: Keyring) {
        self.0.store(Arc::new(keyring));
    }

    /// As [`Keyring::signer`].
    pub fn signer(&self, domain: &str) -> Option<Signer> {
        self.0.load().signer(domain)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    fn folder() -> (tempfile::TempDir, KeyFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = KeyFolder::of(place.path());
        (place, folder)
    }

    #[test]
    fn keys_are_made_listed_and_found() {
        let (_place, folder) = folder();
        assert!(folder.list().unwrap().is_empty());
        for (domain, selector) in [("Example.org", "b"), ("example.org", "a"), ("x.test", "a.b")] {
            folder.generate(domain, selector, Algorithm::Ed25519, None).unwrap();
        }
        let again = folder.generate("example.org", "a", Algorithm::Ed25519, None).unwrap_err();
        assert!(again.to_string().ends_with("exists; choose another --selector"), "{again}");
        let names: Vec<String> =
            folder.list().unwrap().iter().map(|it| it.key.record_name()).collect();
        let expected =
            ["a._domainkey.example.org", "b._domainkey.example.org", "a.b._domainkey.x.test"];
        assert_eq!(names, expected);
        for stored in folder.list().unwrap() {
            assert_eq!(fs::metadata(&stored.file).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
        let keyring = SharedKeyring::new(Keyring::load(&folder).unwrap());
        let keys = |domain| keyring.signer(domain).map(|signer| signer.keys.len());
        assert_eq!(keys("EXAMPLE.org"), Some(2));
        assert_eq!(keys("deep.sub.example.org"), Some(2));
        assert_eq!(keys("x.test"), Some(1));
        assert_eq!((keys("org"), keys("notexample.org"), keys("")), (None, None, None));
        keyring.replace(Keyring::default());
        assert!(keyring.signer("x.test").is_none());
    }

    #[test]
    fn names_stay_in_the_folder() {
        let (_place, folder) = folder();
        for domain in ["", "../x", "a/b", "a..b", "-a.test", "a b", ".a"] {
            let error = folder.generate(domain, "a", Algorithm::Ed25519, None).unwrap_err();
            assert!(matches!(error, DkimError::Domain(_)), "{domain}");
        }
        for selector in ["", "..", "a/b", "a_b", "a."] {
            let error = folder.generate("a.test", selector, Algorithm::Ed25519, None).unwrap_err();
            assert!(matches!(error, DkimError::Selector(_)), "{selector}");
        }
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let (_place, folder) = folder();
        for selector in ["a", "b", "c", "d"] {
            folder.generate("a.test", selector, Algorithm::Ed25519, None).unwrap();
        }
        fs::write(folder.path().join("records.txt"), "for the DNS").unwrap();
        Keyring::load(&folder).unwrap();
        folder.generate("a.test", "e", Algorithm::Ed25519, None).unwrap();
        let said = Keyring::load(&folder).unwrap_err().to_string();
        assert!(said.contains("e._domainkey.a.test.pem: a.test has more than 4 keys"), "{said}");
        for (name, expected) in [
            ("key.pem", "key.pem: expected a name as selector._domainkey.example.org.pem"),
            ("a._domainkey.b.test.pem", "b.test.pem: not a private key in PEM form"),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, "x").unwrap();
            let said = folder.list().unwrap_err().to_string();
            assert!(said.ends_with(expected), "{said}");
            fs::remove_file(file).unwrap();
        }
    }
}
