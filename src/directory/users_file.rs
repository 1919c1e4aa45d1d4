//! The users file: the accounts and the password hashes that they are checked against.
//!
//! ```text
//! # next-id 3
//! # pretence <key>
//! # <id> <address> <argon2id hash in PHC string form> [<keys of SCRAM, application passwords>...]
//! 1 alice@demo.test $argon2id$v=19$m=19456,t=2,p=1$... SCRAM-SHA-256$15000:... SCRAM-SHA-1$...
//! 2 bob@demo.test $argon2id$v=19$m=19456,t=2,p=1$...
//! ```
//!
//! Empty lines and lines that start with `#` are ignored, except `# next-id`: the number of the
//! next account, and `# pretence`: what the salts of names without an account are made from. An
//! account's id names its mailboxes for ever, so no id is ever reused.
//!
//! The server reads the file at start and on reload; the `ringmail user` commands (and `demo`, for
//! its accounts) change it through [`UsersFile::edit`]: under a lock, and replaced as a whole, so
//! that a reader sees the old or the new file, also after a crash.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hashbrown::{HashMap, HashSet};
use nix::fcntl::{Flock, FlockArg};

use super::{
    address::account_address,
    keyring::{AppPasswordError, Keyring, Salt, fresh_salt},
    mistakes::Mistakes,
    password::{self, Secret},
};
use crate::{
    model::AccountId,
    runtime::{
        folder::{Folder, read_file},
        privilege::Owner,
    },
};

const NEXT_ID: &str = "# next-id ";
const PRETENCE: &str = "# pretence ";
const FORMAT_LINE: &str = "# <id> <address> <argon2id hash in PHC string form> [<keys of SCRAM and application passwords>...]";

/// Longest users file: some millions of accounts.
const FILE_MAX: u64 = 1 << 30;

/// An error in a users file or in a requested change.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    #[error("{}: {error}", file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{}:{line}: {what}", file.display())]
    Syntax { file: PathBuf, line: usize, what: String },
    #[error(transparent)]
    Lines(#[from] Mistakes),
    #[error("{address}: {what}")]
    InvalidAddress { address: String, what: &'static str },
    #[error("account {0} exists: \"ringmail user passwd\" changes its password")]
    AccountExists(String),
    #[error("the account has the address {0} already")]
    SameAddress(String),
    #[error("{0} is the address of another account")]
    AddressTaken(String),
    #[error("no account {0}")]
    NoSuchAccount(String),
    #[error("no application password {0:?}")]
    NoSuchAppPassword(String),
    #[error(transparent)]
    AppPassword(#[from] AppPasswordError),
}

/// One account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub id: AccountId,
    /// Canonical: lower case, unquoted.
    pub address: String,
    /// Equal adjacent hashes share one allocation.
    pub hash: Arc<str>,
    pub keyring: Keyring,
}

impl User {
    pub fn new(id: AccountId, address: String, secret: impl Into<Secret>) -> User {
        let Secret { hash, keyring } = secret.into();
        User { id, address, hash, keyring }
    }
}

impl UsersFileError {
    /// Whether the file does not exist, as opposed to being unreadable.
    pub fn is_absence(&self) -> bool {
        matches!(self, UsersFileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A parsed users file; changes are made here and then written as a whole.
#[derive(Debug)]
pub struct UsersFile {
    next_id: u64,
    /// Must not change: who compares today's salts with yesterday's would know which are made up.
    pretence: Option<Arc<str>>,
    lines: Vec<Line>,
    /// Position in `lines` of each account.
    by_address: HashMap<String, usize>,
}

#[derive(Debug)]
enum Line {
    /// A comment or an empty line, kept where it was.
    Verbatim(String),
    User(User),
}

impl UsersFile {
    pub fn new() -> UsersFile {
        UsersFile {
            next_id: 1,
            pretence: None,
            lines: vec![Line::Verbatim(FORMAT_LINE.to_owned())],
            by_address: HashMap::new(),
        }
    }

    /// Reads a file that must exist.
    pub fn load(path: &Path) -> Result<UsersFile, UsersFileError> {
        let bytes = read_file(path, FILE_MAX).map_err(|error| io_error(path, error))?;
        UsersFile::parse(&text_of(bytes, path)?, path)
    }

    /// `path` is used only in errors.
    pub fn parse(text: &str, path: &Path) -> Result<UsersFile, UsersFileError> {
        let mut file = UsersFile { lines: Vec::new(), ..UsersFile::new() };
        let mut ids = HashSet::new();
        let mut previous: Option<Secret> = None;
        for (index, line) in text.lines().enumerate() {
            file.parse_line(line.trim_end(), &mut ids, &mut previous).map_err(|what| {
                UsersFileError::Syntax { file: path.to_owned(), line: index + 1, what }
            })?;
        }
        Ok(file)
    }

    fn parse_line(
        &mut self,
        line: &str,
        ids: &mut HashSet<u64>,
        previous: &mut Option<Secret>,
    ) -> Result<(), String> {
        if let Some(number) = line.strip_prefix(NEXT_ID) {
            let next_id = parse_id(number.trim()).ok_or("next-id is not a number of 1 or more")?;
            self.next_id = self.next_id.max(next_id);
            return Ok(());
        }
        if let Some(key) = line.strip_prefix(PRETENCE) {
            self.pretence = Some(Arc::from(key.trim()));
            return Ok(());
        }
        if line.is_empty() || line.starts_with('#') {
            self.lines.push(Line::Verbatim(line.to_owned()));
            return Ok(());
        }
        let mut fields = line.split_ascii_whitespace();
        let (Some(id), Some(address), Some(hash)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err("expected three fields: <id> <address> <password hash>".to_owned());
        };
        let id = parse_id(id)
            .ok_or_else(|| format!("account id {id:?} is not a number of 1 or more"))?;
        let address = account_address(address)?;
        let keyring = Keyring::parse(fields)?;
        let secret = match previous {
            Some(previous) if *previous.hash == *hash && previous.keyring == keyring => {
                previous.clone()
            }
            _ => {
                password::check_hash(hash)?;
                previous.insert(Secret { hash: Arc::from(hash), keyring }).clone()
            }
        };
        if !ids.insert(id) {
            return Err(format!("account id {id} is used twice"));
        }
        if self.by_address.contains_key(&address) {
            return Err(format!("{address} is listed twice"));
        }
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.insert(User::new(AccountId(id), address, secret));
        Ok(())
    }

    /// In the file's order.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.lines.iter().filter_map(|line| match line {
            Line::User(user) => Some(user),
            Line::Verbatim(_) => None,
        })
    }

    pub fn contains(&self, address: &str) -> bool {
        account_address(address).is_ok_and(|address| self.by_address.contains_key(&address))
    }

    /// The key of made-up salts, if the file has one.
    pub(super) fn pretence(&self) -> Option<&Arc<str>> {
        self.pretence.as_ref()
    }

    /// The salt that a new password of this account must have.
    pub fn salt(&self, address: &str) -> Option<Salt> {
        let address = account_address(address).ok()?;
        match self.lines.get(*self.by_address.get(&address)?)? {
            Line::User(user) => user.keyring.salt(),
            Line::Verbatim(_) => None,
        }
    }

    /// Whether an account can have this address.
    pub fn check_address(address: &str) -> Result<(), UsersFileError> {
        canonical(address).map(drop)
    }

    pub fn add(
        &mut self,
        address: &str,
        secret: impl Into<Secret>,
    ) -> Result<AccountId, UsersFileError> {
        let address = canonical(address)?;
        if self.by_address.contains_key(&address) {
            return Err(UsersFileError::AccountExists(address));
        }
        let id = AccountId(self.next_id);
        self.next_id += 1;
        self.insert(User::new(id, address, secret.into()));
        Ok(id)
    }

    /// Gives an account another address. Everything else of it stays.
    pub fn rename(&mut self, address: &str, new: &str) -> Result<AccountId, UsersFileError> {
        let (address, new) = (canonical(address)?, canonical(new)?);
        let Some(&line) = self.by_address.get(&address) else {
            return Err(UsersFileError::NoSuchAccount(address));
        };
        match self.by_address.get(&new) {
            Some(found) if *found == line => return Err(UsersFileError::SameAddress(new)),
            Some(_) => return Err(UsersFileError::AddressTaken(new)),
            None => {}
        }
        let Some(Line::User(user)) = self.lines.get_mut(line) else {
            return Err(UsersFileError::NoSuchAccount(address));
        };
        user.address.clone_from(&new);
        let id = user.id;
        self.by_address.remove(&address);
        self.by_address.insert(new, line);
        Ok(id)
    }

    /// The account of this address.
    pub fn user(&self, address: &str) -> Result<&User, UsersFileError> {
        let address = canonical(address)?;
        match self.by_address.get(&address).and_then(|&line| self.lines.get(line)) {
            Some(Line::User(user)) => Ok(user),
            _ => Err(UsersFileError::NoSuchAccount(address)),
        }
    }

    /// Makes an application password; returns it. `created`: seconds since 1970.
    pub fn add_app_password(
        &mut self,
        address: &str,
        name: &str,
        created: u64,
    ) -> Result<String, UsersFileError> {
        let (keyring, password) = self.user(address)?.keyring.with_app_password(name, created)?;
        self.set_keyring(address, keyring)?;
        Ok(password)
    }

    pub fn remove_app_password(&mut self, address: &str, name: &str) -> Result<(), UsersFileError> {
        let keyring = self.user(address)?.keyring.without_app_password(name);
        let keyring = keyring.ok_or_else(|| UsersFileError::NoSuchAppPassword(name.to_owned()))?;
        self.set_keyring(address, keyring)
    }

    fn set_keyring(&mut self, address: &str, keyring: Keyring) -> Result<(), UsersFileError> {
        let address = canonical(address)?;
        match self.by_address.get(&address).and_then(|&line| self.lines.get_mut(line)) {
            Some(Line::User(user)) => {
                user.keyring = keyring;
                Ok(())
            }
            _ => Err(UsersFileError::NoSuchAccount(address)),
        }
    }

    /// Sets the main password. Application passwords stay.
    pub fn set_secret(
        &mut self,
        address: &str,
        secret: impl Into<Secret>,
    ) -> Result<AccountId, UsersFileError> {
        let address = canonical(address)?;
        match self.by_address.get(&address).and_then(|&line| self.lines.get_mut(line)) {
            Some(Line::User(user)) => {
                let Secret { hash, keyring } = secret.into();
                (user.hash, user.keyring) = (hash, user.keyring.with_main(&keyring));
                Ok(user.id)
            }
            _ => Err(UsersFileError::NoSuchAccount(address)),
        }
    }

    /// Adds a missing account or sets the password of an existing one. True if the account is new.
    pub fn put(
        &mut self,
        address: &str,
        secret: impl Into<Secret>,
    ) -> Result<bool, UsersFileError> {
        let secret = secret.into();
        match self.add(address, secret.clone()) {
            Ok(_) => Ok(true),
            Err(UsersFileError::AccountExists(_)) => {
                self.set_secret(address, secret).map(|_| false)
            }
            Err(error) => Err(error),
        }
    }

    /// The id is never reused; the mail in the account's mailboxes stays in the store.
    pub fn remove(&mut self, address: &str) -> Result<AccountId, UsersFileError> {
        let address = canonical(address)?;
        let Some(removed) = self.by_address.remove(&address) else {
            return Err(UsersFileError::NoSuchAccount(address));
        };
        for line in self.by_address.values_mut().filter(|line| **line > removed) {
            *line -= 1;
        }
        match self.lines.remove(removed) {
            Line::User(user) => Ok(user.id),
            Line::Verbatim(_) => Err(UsersFileError::NoSuchAccount(address)),
        }
    }

    fn insert(&mut self, user: User) {
        self.by_address.insert(user.address.clone(), self.lines.len());
        self.lines.push(Line::User(user));
    }

    /// As an edit would write it.
    #[cfg(test)]
    pub(super) fn rendered_with_pretence(&mut self, key: &str) -> String {
        self.pretence = Some(Arc::from(key));
        self.render()
    }

    fn render(&self) -> String {
        let mut text = format!("{NEXT_ID}{}\n", self.next_id);
        if let Some(key) = &self.pretence {
            text.push_str(&format!("{PRETENCE}{key}\n"));
        }
        for line in &self.lines {
            match line {
                Line::Verbatim(line) => text.push_str(line),
                Line::User(User { id, address, hash, keyring }) => {
                    text.push_str(&format!("{id} {address} {hash}"));
                    for field in keyring.fields() {
                        text.push(' ');
                        text.push_str(field);
                    }
                }
            }
            text.push('\n');
        }
        text
    }

    /// Changes the file at `path` (absent: an empty one) under its lock; it is replaced only if
    /// `change` succeeds and something differs, and is durable when this returns. Blocks: for
    /// commands and the start, not for a shard.
    pub fn edit<T, E: From<UsersFileError>>(
        path: &Path,
        change: impl FnOnce(&mut UsersFile) -> Result<T, E>,
    ) -> Result<T, E> {
        UsersFile::edit_for(None, path, change)
    }

    /// As [`UsersFile::edit`]; if root creates the file, it is given to `owner`.
    pub fn edit_for<T, E: From<UsersFileError>>(
        owner: Option<Owner>,
        path: &Path,
        change: impl FnOnce(&mut UsersFile) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |error| io_error(path, error);
        let (folder, name) = place(path)?;
        let _lock = lock(&folder, name, owner).map_err(failed)?;
        let before = folder.read(name, FILE_MAX).map_err(failed)?;
        let before = before.map(|bytes| text_of(bytes, path)).transpose()?;
        let mut file = match &before {
            Some(text) => UsersFile::parse(text, path)?,
            None => UsersFile::new(),
        };
        let outcome = change(&mut file)?;
        if file.pretence.is_none() && file.render() != before.as_deref().unwrap_or_default() {
            let key = fresh_salt().map_err(|error| failed(io::Error::other(error)))?;
            file.pretence = Some(STANDARD.encode(key).into());
        }
        let after = file.render();
        if before.as_ref() != Some(&after) {
            folder.replace(name, after.as_bytes(), owner).map_err(failed)?;
        }
        Ok(outcome)
    }

    /// The demo's accounts: alice, bob and user1 ... `count`, all with the password "demo".
    /// Existing ones keep their ids and passwords.
    pub fn ensure_demo(path: &Path, domain: &str, count: usize) -> Result<(), UsersFileError> {
        UsersFile::edit(path, |file| {
            let secret = Secret::demo();
            for name in demo_names(count) {
                match file.add(&format!("{name}@{domain}"), secret.clone()) {
                    Ok(_) | Err(UsersFileError::AccountExists(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }
}

impl Default for UsersFile {
    fn default() -> UsersFile {
        UsersFile::new()
    }
}

pub(super) fn demo_names(count: usize) -> impl Iterator<Item = String> {
    let numbered = (1..=count).map(|number| format!("user{number}"));
    ["alice".to_owned(), "bob".to_owned()].into_iter().chain(numbered)
}

/// Reads a list to import: `address password` per line, comments and empty lines skipped. The
/// password is the rest of the line, so it may contain spaces; it may also be an argon2id hash.
pub fn parse_import<'a>(
    text: &'a str,
    path: &Path,
) -> Result<Vec<(String, &'a str)>, UsersFileError> {
    let (mut accounts, mut mistakes) = (Vec::new(), Mistakes::of(path));
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields = line.split_once(char::is_whitespace);
        let parsed = fields.ok_or("expected two fields: <address> <password>");
        match parsed.and_then(|(address, password)| Ok((account_address(address)?, password))) {
            Ok((address, password)) => accounts.push((address, password.trim_start())),
            Err(what) => mistakes.add(index + 1, what),
        }
    }
    Ok(mistakes.or(accounts)?)
}

/// Keeps a next id available; higher ids are reserved ([`AccountId::QUEUE`]).
const ID_MAX: u64 = i64::MAX as u64;

fn parse_id(text: &str) -> Option<u64> {
    text.parse().ok().filter(|id| (1..=ID_MAX).contains(id))
}

fn canonical(address: &str) -> Result<String, UsersFileError> {
    account_address(address)
        .map_err(|what| UsersFileError::InvalidAddress { address: address.to_owned(), what })
}

fn io_error(path: &Path, error: io::Error) -> UsersFileError {
    UsersFileError::Io { file: path.to_owned(), error }
}

/// The folder that holds `path`, and the file's name in it.
fn place(path: &Path) -> Result<(Folder, &OsStr), UsersFileError> {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = Folder::open(parent.unwrap_or(Path::new(".")));
    let folder = folder.map_err(|error| io_error(path, error))?;
    let name = path.file_name().ok_or_else(|| io_error(path, io::ErrorKind::NotFound.into()))?;
    Ok((folder, name))
}

/// The name of the lock of the users file `name`: a separate file, because the users file itself is
/// replaced by another inode.
pub fn lock_name(name: &OsStr) -> OsString {
    let mut lock = name.to_owned();
    lock.push(".lock");
    lock
}

fn lock(folder: &Folder, name: &OsStr, owner: Option<Owner>) -> io::Result<Flock<File>> {
    let file = folder.lock_file(&lock_name(name), owner)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String, UsersFileError> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    String::from_utf8(bytes).map_err(|error| io_error(path, invalid(error)))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        thread,
    };

    use super::*;

    const HASH: &str = password::DEMO_HASH;

    fn parse(text: &str) -> Result<UsersFile, String> {
        let text = text.replace("HASH", HASH);
        UsersFile::parse(&text, Path::new("users")).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_name_file_and_line() {
        const CASES: &[(&str, &str)] = &[
            ("1 alice@demo.test", "users:1: expected three fields: <id> <address> <password hash>"),
            ("# hello\n\nx a@b HASH", "users:3: account id \"x\" is not a number of 1 or more"),
            ("0 a@b HASH", "users:1: account id \"0\" is not a number of 1 or more"),
            ("1 alice HASH", "users:1: an address is written local-part@domain"),
            ("1 a@b HASH\n1 b@b HASH", "users:2: account id 1 is used twice"),
            ("1 a@b HASH\n2 A@B HASH", "users:2: a@b is listed twice"),
            ("1 a@b secret", "users:1: not a password hash in PHC string form"),
            ("# next-id x", "users:1: next-id is not a number of 1 or more"),
        ];
        for (text, expected) in CASES {
            assert_eq!(parse(text).map(|_| ()), Err((*expected).to_owned()), "{text}");
        }
    }

    #[test]
    fn edits_keep_comments_and_never_reuse_ids() {
        let mut file = parse("# ours\n7 alice@demo.test HASH\n# next-id 3\n").expect("parses");
        let hash: Arc<str> = Arc::from(HASH);
        assert_eq!(file.add("Bob@Demo.Test", hash.clone()).expect("added"), AccountId(8));
        assert!(file.contains("BOB@demo.test"));
        assert_eq!(file.remove("alice@demo.test").expect("removed"), AccountId(7));
        assert_eq!(file.remove("bob@demo.test").expect("removed"), AccountId(8));
        let text = file.render();
        assert_eq!(text, "# next-id 9\n# ours\n");

        let mut file = parse(&text).expect("parses");
        assert_eq!(file.add("carol@demo.test", hash.clone()).expect("added"), AccountId(9));
        assert!(!file.put("carol@demo.test", Arc::from("other")).expect("put"));
        assert_eq!(file.users().next().map(|user| &*user.hash), Some("other"));
        let error = |result: Result<AccountId, UsersFileError>| result.unwrap_err().to_string();
        assert_eq!(
            error(file.add("carol@demo.test", hash)),
            "account carol@demo.test exists: \"ringmail user passwd\" changes its password"
        );
        assert_eq!(error(file.remove("dave@demo.test")), "no account dave@demo.test");
    }

    #[test]
    fn an_account_gets_another_address() {
        let mut file = UsersFile::new();
        for name in ["a", "b", "c"] {
            file.add(&format!("{name}@demo.test"), Secret::demo()).unwrap();
        }
        assert_eq!(file.rename("B@demo.test", "New@Demo.test").unwrap(), AccountId(2));
        let text = |error: UsersFileError| error.to_string();
        for (from, to, why) in [
            ("b@demo.test", "x@demo.test", "no account b@demo.test"),
            ("a@demo.test", "new@demo.test", "new@demo.test is the address of another account"),
            ("a@demo.test", "A@demo.test", "the account has the address a@demo.test already"),
            ("a@demo.test", "x y@demo.test", "x y@demo.test: an account's address"),
        ] {
            let said = file.rename(from, to).map_err(text).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        }
        let all = |file: &UsersFile| -> Vec<(u64, String)> {
            file.users().map(|user| (user.id.0, user.address.clone())).collect()
        };
        let named = |number, name: &str| (number, format!("{name}@demo.test"));
        assert_eq!(all(&file), [named(1, "a"), named(2, "new"), named(3, "c")]);
        assert_eq!(all(&UsersFile::parse(&file.render(), Path::new("f")).unwrap()), all(&file));
    }

    #[test]
    fn concurrent_edits_are_all_there() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = &directory.path().join("users");
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for number in 0..8 {
                        let address = format!("user{thread}-{number}@demo.test");
                        UsersFile::edit(path, |file| file.add(&address, Arc::from(HASH)))
                            .expect("edited");
                    }
                });
            }
        });
        let file = UsersFile::load(path).expect("loads");
        let mut ids: Vec<u64> = file.users().map(|user| user.id.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=32).collect::<Vec<_>>());
        assert_eq!(fs::metadata(path).expect("metadata").mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failed_edit_changes_nothing_and_a_mode_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = &directory.path().join("users");
        UsersFile::ensure_demo(path, "demo.test", 3).expect("demo accounts");
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let before = fs::read_to_string(path).expect("text");
        UsersFile::edit(path, |file| {
            file.remove("alice@demo.test")?;
            file.remove("nobody@demo.test")
        })
        .unwrap_err();
        UsersFile::ensure_demo(path, "demo.test", 3).expect("demo accounts");
        assert_eq!(fs::read_to_string(path).expect("text"), before);
        UsersFile::ensure_demo(path, "demo.test", 4).expect("demo accounts");
        assert_eq!(UsersFile::load(path).expect("loads").users().count(), 6);
        assert_eq!(fs::metadata(path).expect("metadata").mode() & 0o777, 0o640);
    }

    #[test]
    fn demo_accounts_share_one_hash() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = &directory.path().join("users");
        UsersFile::ensure_demo(path, "demo.test", 100).expect("demo accounts");
        let file = UsersFile::load(path).expect("loads");
        let mut users = file.users();
        let first = users.next().expect("alice");
        assert!(users.all(|user| Arc::ptr_eq(&user.hash, &first.hash)));
    }

    #[test]
    fn import_lists() {
        let text = "# list\nA@demo.test  pass word\n\n b@demo.test x\n";
        let accounts = parse_import(text, Path::new("list")).expect("parses");
        let expected =
            vec![("a@demo.test".to_owned(), "pass word"), ("b@demo.test".to_owned(), "x")];
        assert_eq!(accounts, expected);
        let error = parse_import("a@demo.test", Path::new("list")).unwrap_err().to_string();
        assert_eq!(error, "list:1: expected two fields: <address> <password>");
        let error = parse_import("a\nb@demo.test x\nc x\n", Path::new("list")).unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(|it| it[..7].to_owned()).collect();
        assert_eq!(lines, ["list:1:", "list:3:"], "{error}");
    }
}
