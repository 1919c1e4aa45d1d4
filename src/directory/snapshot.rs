//! One immutable state of the directory: built as a whole at start and on reload, then shared by
//! all shards through an `Arc`.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::{HashMap, HashSet};
use ring::hmac;

use super::{
    Destination, LogIn,
    address::Address,
    backend::{Backend, Unavailable},
    password,
    users_file::{User, UsersFile, demo_names},
};
use crate::model::AccountId;

/// The local part whose mail must reach a person (RFC 5321 4.5.1).
const POSTMASTER: &str = "postmaster";

/// How addresses are resolved; `config` fills it.
#[derive(Clone, Debug, Default)]
pub struct DirectoryOptions {
    /// Our domains. The first one completes log-in names without a domain. An account's own domain
    /// is always ours.
    pub domains: Vec<String>,
    /// Account that gets the mail for postmaster at our domains; `None`: the first account.
    pub postmaster: Option<String>,
}

/// Accounts and domains as of the last load.
#[derive(Debug)]
pub struct DirectorySnapshot {
    users: Vec<User>,
    /// Index in `users` by canonical address.
    by_address: HashMap<String, usize>,
    domains: HashSet<String>,
    default_domain: Option<String>,
    postmaster: Option<AccountId>,
    stand_ins: StandIns,
}

/// Hashes for names without an account. Checking them costs what it costs for existing names, in
/// the same proportions, since imported accounts may have hashes of other cost. The choice for a
/// name is the same at every guess and after every start.
#[derive(Debug, Default)]
struct StandIns {
    /// With the number of accounts whose hash has that cost, or one before it.
    hashes: Vec<(Arc<str>, u64)>,
    /// Must not be known outside, and must not change without need: the first account's hash.
    secret: Option<Arc<str>>,
}

impl StandIns {
    fn of(users: &[User]) -> StandIns {
        let mut counts = BTreeMap::<String, u64>::new();
        let mut last: Option<(&Arc<str>, String)> = None;
        for user in users {
            // The demo's accounts share one hash; parsing it once is enough.
            let cost = match &last {
                Some((hash, cost)) if Arc::ptr_eq(hash, &user.hash) => Some(cost.clone()),
                _ => password::cost(&user.hash),
            };
            let Some(cost) = cost else { continue };
            *counts.entry(cost.clone()).or_default() += 1;
            last = Some((&user.hash, cost));
        }
        let mut total = 0;
        let hashes = counts.into_iter().map(|(cost, count)| {
            total += count;
            (password::stand_in(&cost), total)
        });
        StandIns { hashes: hashes.collect(), secret: users.first().map(|user| user.hash.clone()) }
    }

    fn of_name(&self, name: &str) -> Arc<str> {
        let (Some((_, total)), Some(secret)) = (self.hashes.last(), &self.secret) else {
            return Arc::from(password::DEMO_HASH);
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&key, name.as_bytes());
        let draw = tag.as_ref().iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        let draw = draw % (*total).max(1);
        let index = self.hashes.partition_point(|(_, up_to)| *up_to <= draw);
        self.hashes.get(index).map_or_else(|| Arc::from(password::DEMO_HASH), |it| it.0.clone())
    }
}

impl DirectorySnapshot {
    /// `None` if the postmaster named in `options` has no account.
    pub fn new(file: &UsersFile, options: &DirectoryOptions) -> Option<DirectorySnapshot> {
        DirectorySnapshot::from_users(file.users().cloned().collect(), options)
    }

    /// Alice, bob and user1 ... `count` with ids from 1, all with the password "demo": for tests.
    /// The demo itself keeps its accounts in a file ([`UsersFile::ensure_demo`]).
    pub fn demo(domain: &str, count: usize) -> DirectorySnapshot {
        let hash: Arc<str> = Arc::from(password::DEMO_HASH);
        let users = demo_names(count)
            .zip(1..)
            .map(|(name, id)| User {
                id: AccountId(id),
                address: format!("{name}@{domain}"),
                hash: hash.clone(),
            })
            .collect();
        let options = DirectoryOptions { domains: vec![domain.to_owned()], postmaster: None };
        DirectorySnapshot::from_users(users, &options).unwrap_or_else(DirectorySnapshot::empty)
    }

    fn empty() -> DirectorySnapshot {
        DirectorySnapshot {
            users: Vec::new(),
            by_address: HashMap::new(),
            domains: HashSet::new(),
            default_domain: None,
            postmaster: None,
            stand_ins: StandIns::default(),
        }
    }

    fn from_users(users: Vec<User>, options: &DirectoryOptions) -> Option<DirectorySnapshot> {
        let mut snapshot = DirectorySnapshot::empty();
        for domain in &options.domains {
            snapshot.domains.insert(domain.to_lowercase());
        }
        for (index, user) in users.iter().enumerate() {
            if let Some(address) = Address::parse(&user.address) {
                snapshot.domains.insert(address.domain);
            }
            snapshot.by_address.insert(user.address.clone(), index);
        }
        snapshot.default_domain = options.domains.first().map(|domain| domain.to_lowercase());
        snapshot.stand_ins = StandIns::of(&users);
        snapshot.users = users;
        snapshot.postmaster = match &options.postmaster {
            Some(address) => Some(snapshot.user(address)?.id),
            None => snapshot.users.first().map(|user| user.id),
        };
        Some(snapshot)
    }

    pub fn users(&self) -> &[User] {
        &self.users
    }

    pub fn is_local_domain(&self, domain: &str) -> bool {
        self.domains.contains(&domain.to_lowercase())
    }

    /// Where mail for `address` goes: the account of this address, else of the address without its
    /// sub-address, else the postmaster's.
    pub fn resolve(&self, address: &str) -> Destination {
        // Most addresses are written like their key, or nearly so.
        if address.is_ascii()
            && address.contains('@')
            && !address.contains('"')
            && let Some(user) = self.by_key(&address.to_ascii_lowercase())
        {
            return Destination::Mailbox(user.id);
        }
        let Some(address) = Address::parse(address) else {
            // RFC 5321 4.5.1: RCPT TO:<Postmaster> without a domain is for us.
            return match self.postmaster {
                Some(account) if address.eq_ignore_ascii_case(POSTMASTER) => {
                    Destination::Mailbox(account)
                }
                _ => Destination::UnknownUser,
            };
        };
        if let Some(user) = self.by_key(&address.key()) {
            return Destination::Mailbox(user.id);
        }
        if !self.domains.contains(&address.domain) {
            return Destination::Foreign;
        }
        let without = address.without_subaddress();
        let lead: fn(AccountId) -> Destination = match without {
            Some(_) => Destination::Subaddress,
            None => Destination::Mailbox,
        };
        let user = without.unwrap_or(address);
        match (self.by_key(&user.key()), self.postmaster) {
            (Some(user), _) => lead(user.id),
            (None, Some(account)) if user.local_part == POSTMASTER => lead(account),
            _ => Destination::UnknownUser,
        }
    }

    /// The account that logs in as `name`: its address, or the part before `@` if the domain is
    /// the default one. No sub-addresses, no aliases.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.by_key(&self.login_key(name))
    }

    /// One spelling for all names that log in to one account, whether it exists or not.
    pub fn login_key(&self, name: &str) -> String {
        let address = match (Address::parse(name), &self.default_domain) {
            (None, Some(domain)) => Address::parse(&format!("{name}@{domain}")),
            (address, _) => address,
        };
        address.map_or_else(|| name.to_lowercase(), |address| address.key())
    }

    /// The log-in for a key that [`DirectorySnapshot::login_key`] made.
    pub(super) fn log_in_of(&self, key: &str) -> LogIn {
        match self.by_key(key) {
            Some(user) => LogIn::Account(user.clone()),
            None => LogIn::Nobody { stand_in: self.stand_ins.of_name(key) },
        }
    }

    fn by_key(&self, key: &str) -> Option<&User> {
        self.by_address.get(key).and_then(|&index| self.users.get(index))
    }
}

/// The backend that needs no desk: it never blocks, and always has an answer.
impl Backend for DirectorySnapshot {
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable> {
        Ok(DirectorySnapshot::resolve(self, address))
    }

    fn log_in(&self, name: &str) -> Result<LogIn, Unavailable> {
        Ok(self.log_in_of(name))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn snapshot(postmaster: Option<&str>) -> Option<DirectorySnapshot> {
        let text = "3 alice@demo.test H\n5 a+b@demo.test H\n7 eve@other.test H\n";
        let text = text.replace('H', password::DEMO_HASH);
        let file = UsersFile::parse(&text, Path::new("users")).expect("parses");
        let options = DirectoryOptions {
            domains: vec!["Demo.test".to_owned(), "empty.test".to_owned()],
            postmaster: postmaster.map(str::to_owned),
        };
        DirectorySnapshot::new(&file, &options)
    }

    #[test]
    fn addresses_resolve() {
        const CASES: &[(&str, Destination)] = &[
            ("alice@demo.test", Destination::Mailbox(AccountId(3))),
            ("ALICE+Lists@DEMO.test", Destination::Subaddress(AccountId(3))),
            ("\"alice\"@demo.test", Destination::Mailbox(AccountId(3))),
            ("a+b@demo.test", Destination::Mailbox(AccountId(5))),
            ("a+c@demo.test", Destination::UnknownUser),
            ("+alice@demo.test", Destination::UnknownUser),
            ("eve@other.test", Destination::Mailbox(AccountId(7))),
            ("bob@other.test", Destination::UnknownUser),
            ("postmaster@demo.test", Destination::Mailbox(AccountId(3))),
            ("Postmaster@empty.test", Destination::Mailbox(AccountId(3))),
            ("postmaster+x@empty.test", Destination::Subaddress(AccountId(3))),
            ("POSTMASTER", Destination::Mailbox(AccountId(3))),
            ("alice", Destination::UnknownUser),
            ("postmaster@foreign.test", Destination::Foreign),
            // RFC 5321 F.2: the percent hack is just an unknown local part.
            ("alice%foreign.test@demo.test", Destination::UnknownUser),
            ("alice@demo.test@foreign.test", Destination::Foreign),
            ("alice@[127.0.0.1]", Destination::Foreign),
            ("", Destination::UnknownUser),
        ];
        let snapshot = snapshot(None).expect("snapshot");
        for (address, expected) in CASES {
            assert_eq!(snapshot.resolve(address), *expected, "{address}");
        }
    }

    #[test]
    fn postmaster_can_be_chosen() {
        let chosen = snapshot(Some("eve@other.test")).expect("snapshot");
        let eve = Destination::Mailbox(AccountId(7));
        assert_eq!(chosen.resolve("postmaster@demo.test"), eve);
        assert!(snapshot(Some("nobody@demo.test")).is_none());
    }

    #[test]
    fn login_names() {
        let snapshot = snapshot(None).expect("snapshot");
        let id = |name| snapshot.user(name).map(|user| user.id.0);
        assert_eq!(id("Alice@demo.test"), Some(3));
        assert_eq!(id("alice"), Some(3));
        assert_eq!(id("eve"), None);
        assert_eq!(id("alice+lists@demo.test"), None);
        assert_eq!(id("postmaster"), None);
    }

    #[test]
    fn unknown_names_cost_what_known_ones_do() {
        let mut text = String::new();
        for (id, m) in (1..=40).zip([64, 64, 64, 128].into_iter().cycle()) {
            let salt_and_hash = "c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";
            text += &format!("{id} u{id}@demo.test $argon2id$v=19$m={m},t=1,p=1${salt_and_hash}\n");
        }
        let file = UsersFile::parse(&text, Path::new("users")).expect("parses");
        let snapshot =
            |file| DirectorySnapshot::new(file, &DirectoryOptions::default()).expect("snapshot");
        let (one, again) = (snapshot(&file), snapshot(&file));
        let mut dear = 0;
        for number in 0..400 {
            let name = format!("nobody{number}@demo.test");
            let hash = one.stand_ins.of_name(&name);
            assert_eq!(hash, again.stand_ins.of_name(&name), "the same at every guess and start");
            dear += u32::from(hash.contains("m=128"));
        }
        assert!((60..140).contains(&dear), "a quarter of 400 as of the accounts, not {dear}");
        let empty = DirectorySnapshot::empty();
        assert_eq!(&*empty.stand_ins.of_name("x"), password::DEMO_HASH);
    }

    #[test]
    fn demo_accounts() {
        let snapshot = DirectorySnapshot::demo("demo.test", 10_000);
        assert_eq!(snapshot.users().len(), 10_002);
        let last = Destination::Mailbox(AccountId(10_002));
        assert_eq!(snapshot.resolve("user10000@demo.test"), last);
    }
}
