//! One immutable state of the directory: built as a whole at start and on reload, then shared by
//! all shards through an `Arc`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hashbrown::{HashMap, HashSet};
use ring::{hmac, rand::SecureRandom};

use super::{
    Destination, LogIn, Reason, Target,
    address::{self, Address, POSTMASTER},
    aliases::AliasesFile,
    backend::{Backend, Unavailable},
    expansion::{Aliases, Found, Ground},
    files::{DirectoryError, read_keys},
    groups::Groups,
    keyring::{ITERATIONS, SALT_SIZE},
    masters::Master,
    password::{self, Secret},
    routes::{NextHop, RouteOptions, RouteTo, Routes},
    senders::{SenderOptions, Senders, SrsError, day},
    users_file::{User, UsersFile, demo_names},
};
use crate::{
    model::{AccountId, Network},
    protocol::sasl::scram::{Hash, KeyPair, Keys},
    runtime::folder::Folder,
};

/// How addresses are resolved; `config` fills it.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// Our domains. The first one completes log-in names without a domain. An account's own domain
    /// is always ours.
    pub domains: Vec<String>,
    /// Account that gets the mail for postmaster at our domains; `None`: the first account.
    pub postmaster: Option<String>,
    /// Characters that end the account's name in a sub-address; none: there are no sub-addresses.
    pub separators: String,
    pub routes: Vec<RouteOptions>,
    pub senders: SenderOptions,
    /// Clients that may send to other domains without a log-in.
    pub relay_networks: Vec<Network>,
    pub masters: Vec<Master>,
    pub scram: ScramOffer,
}

/// When SCRAM is offered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ScramOffer {
    /// When every account has keys: a client that is offered SCRAM tries nothing else.
    #[default]
    WhenAll,
    Always,
    Never,
}

impl Default for DirectoryOptions {
    fn default() -> DirectoryOptions {
        DirectoryOptions {
            domains: Vec::new(),
            postmaster: None,
            separators: "+".to_owned(),
            routes: Vec::new(),
            senders: SenderOptions::default(),
            relay_networks: Vec::new(),
            masters: Vec::new(),
            scram: ScramOffer::default(),
        }
    }
}

/// The files that hold accounts, aliases and groups. The first may be absent, the others unless
/// they are named.
#[derive(Clone, Debug)]
pub struct DirectoryFiles {
    pub users: PathBuf,
    pub aliases: PathBuf,
    /// The configuration has a setting for `aliases`.
    pub aliases_named: bool,
    pub groups: PathBuf,
    /// The configuration has a setting for `groups`.
    pub groups_named: bool,
}

/// Accounts, aliases, groups, domains and routes as of the last load.
#[derive(Debug)]
pub struct DirectorySnapshot {
    users: Vec<User>,
    /// Index in `users` by canonical address.
    by_address: HashMap<String, usize>,
    by_id: ById,
    domains: HashSet<String>,
    default_domain: Option<String>,
    postmaster: Option<AccountId>,
    stand_ins: StandIns,
    separators: String,
    aliases: Aliases,
    groups: Groups,
    routes: Routes,
    senders: Senders,
    relay_networks: Vec<Network>,
    masters: Vec<Master>,
    scram: ScramOffer,
}

/// Finds accounts by their numbers.
#[derive(Debug)]
enum ById {
    /// The users are in the order of their numbers, as `ringmail user` writes them.
    AsListed,
    /// Indices in the users, in the order of their numbers.
    Sorted(Box<[usize]>),
}

impl ById {
    fn of(users: &[User]) -> ById {
        if users.is_sorted_by_key(|user| user.id) {
            return ById::AsListed;
        }
        let mut order: Vec<usize> = (0..users.len()).collect();
        order.sort_unstable_by_key(|index| users.get(*index).map(|user| user.id));
        ById::Sorted(order.into())
    }

    fn find<'a>(&self, users: &'a [User], id: AccountId) -> Option<&'a User> {
        let place = match self {
            ById::AsListed => users.binary_search_by_key(&id, |user| user.id).ok()?,
            ById::Sorted(order) => {
                let id_at = |index: &usize| users.get(*index).map(|user| user.id);
                *order.get(order.binary_search_by_key(&Some(id), id_at).ok()?)?
            }
        };
        users.get(place)
    }
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
    /// The same, for salts, of which there may be more witnesses.
    pretence: Option<Arc<str>>,
    /// How often the first account's keys are hashed.
    iterations: Option<u32>,
    /// Whether every account has keys.
    all_have_keys: bool,
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
        let secret = users.first().map(|user| user.hash.clone());
        let first_keys = users.iter().find_map(|user| user.keyring.keys(Hash::Sha256));
        StandIns {
            hashes: hashes.collect(),
            pretence: secret.clone(),
            secret,
            iterations: first_keys.map(|keys| keys.iterations),
            all_have_keys: !users.is_empty() && users.iter().all(|user| user.keyring.has_keys()),
        }
    }

    /// Keys that nobody can prove, for a name that has none: the same at each guess of this name,
    /// so that nobody learns which names have some.
    fn keys(&self, name: &str, hash: Hash) -> Keys {
        let secret = self.pretence.as_deref().unwrap_or_default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let draw = |purpose: &str, size: usize| {
            let text = format!("{purpose} {name}");
            let mut octets = hmac::sign(&key, text.as_bytes()).as_ref().to_vec();
            octets.truncate(size);
            octets
        };
        let pair = KeyPair {
            stored_key: draw("stored", hash.size()),
            server_key: draw("server", hash.size()),
        };
        // One salt for all mechanisms, as accounts have.
        Keys {
            salt: draw("salt", SALT_SIZE),
            iterations: self.iterations.unwrap_or(ITERATIONS.get()),
            pairs: vec![pair],
        }
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
    /// Reads all files. Also returns warnings about aliases that lead to nobody and members of
    /// groups that are nobody: they are no errors, since an account that is removed must be gone,
    /// whoever names it. Blocks: for the start, reloads and commands.
    ///
    /// # Errors
    /// The first mistake, with its file and line.
    pub fn load(
        files: &DirectoryFiles,
        options: &DirectoryOptions,
    ) -> Result<(DirectorySnapshot, Vec<String>), DirectoryError> {
        DirectorySnapshot::read(files, options, false)
    }

    /// As [`DirectorySnapshot::load`], before a start that would make what is absent.
    pub fn check(
        files: &DirectoryFiles,
        options: &DirectoryOptions,
    ) -> Result<(DirectorySnapshot, Vec<String>), DirectoryError> {
        DirectorySnapshot::read(files, options, true)
    }

    fn read(
        files: &DirectoryFiles,
        options: &DirectoryOptions,
        keys_may_be_absent: bool,
    ) -> Result<(DirectorySnapshot, Vec<String>), DirectoryError> {
        let users = match UsersFile::load(&files.users) {
            // Only absence: with no accounts for another reason, all mail would be refused for
            // good.
            Err(error) if error.is_absence() => UsersFile::new(),
            file => file?,
        };
        let mut snapshot = DirectorySnapshot::new(&users, options)
            .ok_or_else(|| DirectoryError::NoPostmaster(files.users.clone()))?;
        snapshot.routes = Routes::load(&options.routes)?;
        snapshot.senders =
            Senders::load(&options.senders, &options.separators, keys_may_be_absent)?;
        let default_domain = snapshot.default_domain.clone().unwrap_or_default();
        let file = AliasesFile::load(&files.aliases, files.aliases_named, &default_domain)?;
        let (aliases, mut warnings) = Aliases::build(file, &files.aliases, &snapshot)?;
        snapshot.aliases = aliases;
        let (groups, of_groups) =
            Groups::load(&files.groups, files.groups_named, &default_domain, &snapshot)?;
        snapshot.groups = groups;
        warnings.extend(of_groups);
        Ok((snapshot, warnings))
    }

    /// Makes the file with the key for return paths of forwarded mail, if there is to be one and it
    /// is absent. Blocks.
    pub fn make_keys(options: &SenderOptions) -> Result<(), DirectoryError> {
        let Some((_, path)) = &options.srs else { return Ok(()) };
        if read_keys(path)?.is_some() {
            return Ok(());
        }
        let failed = |error| DirectoryError::io(path, error);
        let mut key = [0; 32];
        let drawn = ring::rand::SystemRandom::new().fill(&mut key);
        drawn.map_err(|_| failed(std::io::Error::other("no randomness")))?;
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = Folder::make(parent.unwrap_or(Path::new(".")), None).map_err(failed)?;
        let name = path.file_name().unwrap_or(OsStr::new("srs.key"));
        folder.replace(name, format!("{digits}\n").as_bytes(), None).map_err(failed)
    }

    /// Accounts and domains, without aliases, groups and routes. `None` if the postmaster named in
    /// `options` has no account.
    pub fn new(file: &UsersFile, options: &DirectoryOptions) -> Option<DirectorySnapshot> {
        let mut snapshot = DirectorySnapshot::from_users(file.users().cloned().collect(), options)?;
        if let Some(key) = file.pretence() {
            snapshot.stand_ins.pretence = Some(key.clone());
        }
        Some(snapshot)
    }

    /// Alice, bob and user1 ... `count` with ids from 1, all with the password "demo": for tests.
    /// The demo itself keeps its accounts in a file ([`UsersFile::ensure_demo`]).
    pub fn demo(domain: &str, count: usize) -> DirectorySnapshot {
        let secret = Secret::demo();
        let users = demo_names(count)
            .zip(1..)
            .map(|(name, id)| User::new(AccountId(id), format!("{name}@{domain}"), secret.clone()))
            .collect();
        let options =
            DirectoryOptions { domains: vec![domain.to_owned()], ..DirectoryOptions::default() };
        DirectorySnapshot::from_users(users, &options).unwrap_or_else(DirectorySnapshot::empty)
    }

    fn empty() -> DirectorySnapshot {
        DirectorySnapshot {
            users: Vec::new(),
            by_address: HashMap::new(),
            by_id: ById::AsListed,
            domains: HashSet::new(),
            default_domain: None,
            postmaster: None,
            stand_ins: StandIns::default(),
            separators: String::new(),
            aliases: Aliases::default(),
            groups: Groups::default(),
            routes: Routes::default(),
            senders: Senders::default(),
            relay_networks: Vec::new(),
            masters: Vec::new(),
            scram: ScramOffer::default(),
        }
    }

    fn from_users(users: Vec<User>, options: &DirectoryOptions) -> Option<DirectorySnapshot> {
        let mut snapshot = DirectorySnapshot::empty();
        let routed = options.routes.iter().filter(|route| route.to == RouteTo::Local);
        let routed = routed.flat_map(|route| &route.domains);
        let return_paths = options.senders.srs.iter().map(|(domain, _)| domain);
        for domain in options.domains.iter().chain(routed).chain(return_paths) {
            snapshot.domains.insert(domain.to_lowercase());
        }
        snapshot.separators.clone_from(&options.separators);
        snapshot.relay_networks.clone_from(&options.relay_networks);
        snapshot.masters.clone_from(&options.masters);
        snapshot.scram = options.scram;
        for (index, user) in users.iter().enumerate() {
            if let Some(address) = Address::parse(&user.address) {
                snapshot.domains.insert(address.domain);
            }
            snapshot.by_address.insert(user.address.clone(), index);
        }
        snapshot.default_domain = options.domains.first().map(|domain| domain.to_lowercase());
        snapshot.stand_ins = StandIns::of(&users);
        snapshot.by_id = ById::of(&users);
        snapshot.users = users;
        snapshot.postmaster = match &options.postmaster {
            Some(address) => Some(snapshot.user(address)?.id),
            None => snapshot.users.first().map(|user| user.id),
        };
        Some(snapshot)
    }

    /// Lines of the aliases file.
    pub fn alias_count(&self) -> usize {
        self.aliases.len()
    }

    /// Lines of the groups file.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn users(&self) -> &[User] {
        &self.users
    }

    pub fn is_local_domain(&self, domain: &str) -> bool {
        self.domains.contains(&domain.to_lowercase())
    }

    /// Where mail for `address` goes: to the alias or else the account of this address, else of the
    /// address without its sub-address, else to the postmaster or the domain's catch-all.
    pub fn resolve(&self, address: &str) -> Destination {
        // Most addresses are written like their key, or nearly so.
        if address.is_ascii() && address.contains('@') && !address.contains('"') {
            let key = address.to_ascii_lowercase();
            let found = match self.aliases.is_empty() {
                true => self.account(&key).map(Found::Account),
                false => self.aliases.named(&key, self),
            };
            if let Some(found) = found {
                return self.destination(found, false, address);
            }
        }
        let Some(parsed) = Address::parse(address) else {
            // RFC 5321 4.5.1: RCPT TO:<Postmaster> without a domain is for us.
            return match self.postmaster {
                Some(account) if address.eq_ignore_ascii_case(POSTMASTER) => {
                    Destination::Mailbox(account)
                }
                _ => Destination::UnknownUser,
            };
        };
        if !self.domains.contains(&parsed.domain) {
            return match self.routes.accepts(&parsed) {
                None => Destination::Foreign,
                Some(true) => Destination::Relay,
                Some(false) => Destination::UnknownUser,
            };
        }
        if let Some(destination) = self.returned(&parsed, address) {
            return destination;
        }
        let (found, subaddressed) = self.aliases.find(&parsed, self);
        self.destination(found, subaddressed, address)
    }

    /// The members of an address of ours, for people: the targets that the aliases file gives it,
    /// or itself if it is an account's. Empty if nothing is known of it.
    pub fn members(&self, address: &str) -> Vec<String> {
        let Some(parsed) = Address::parse(address) else { return Vec::new() };
        if !self.domains.contains(&parsed.domain) {
            return Vec::new();
        }
        match self.aliases.find(&parsed, self).0 {
            Found::Account(_) => vec![address.to_owned()],
            Found::Alias(place) => {
                self.aliases.members(place).iter().map(|member| member.to_string()).collect()
            }
            Found::Nobody => Vec::new(),
        }
    }

    /// `name` with the first of our domains, if it has none.
    pub fn complete(&self, name: &str) -> String {
        match &self.default_domain {
            Some(domain) if !name.contains('@') => format!("{name}@{domain}"),
            _ => name.to_owned(),
        }
    }

    /// The destination of `address`.
    fn destination(&self, found: Found, subaddressed: bool, address: &str) -> Destination {
        match found {
            Found::Account(account) if subaddressed => Destination::Subaddress(account),
            Found::Account(account) => Destination::Mailbox(account),
            Found::Alias(place) => {
                let detail = subaddressed.then(|| self.detail(address)).flatten();
                self.aliases.expand(place, detail)
            }
            Found::Nobody => Destination::UnknownUser,
        }
    }

    /// Where a bounce of mail that we forwarded goes; `None` if `address` is no such return path.
    fn returned(&self, parsed: &Address, address: &str) -> Option<Destination> {
        let srs = self.senders.srs().filter(|srs| srs.domain() == parsed.domain)?;
        let (local_part, _) = address.rsplit_once('@')?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sender = match srs.decode(local_part, day(now.as_secs())) {
            Ok(sender) => sender,
            Err(SrsError::NotSrs) => return None,
            Err(SrsError::Forged) => return Some(Destination::UnknownUser),
            Err(SrsError::Expired) => {
                return Some(Destination::Reject(Arc::from("this return path has expired")));
            }
        };
        let theirs = Address::parse(&sender)?;
        // Mail from our own domains gets no such return path; its domain was another's then.
        if self.domains.contains(&theirs.domain) {
            let (found, _) = self.aliases.find(&theirs, self);
            return Some(match found {
                Found::Account(account) => Destination::Mailbox(account),
                Found::Alias(_) | Found::Nobody => Destination::UnknownUser,
            });
        }
        let target = Target::Remote { address: sender.into(), reason: Reason::Return };
        Some(Destination::Several(Arc::from([target])))
    }

    /// Whether `account` may send as `address`: its own address, or one whose mail it gets, alone
    /// or with others. A domain that is rewritten counts as what it becomes.
    pub fn may_send_as(&self, account: AccountId, address: &str) -> bool {
        let rewritten = self.senders.rewritten(address);
        let address = rewritten.as_deref().unwrap_or(address);
        self.resolve(address).reaches(account) || self.owner(address) == Some(account)
    }

    /// The account whose address, or sub-address, this is, wherever its mail goes.
    fn owner(&self, address: &str) -> Option<AccountId> {
        let address = Address::parse(address)?;
        let without = address.without_subaddress(&self.separators);
        let account = self.account(&address.key());
        account.or_else(|| self.account(&without?.key()))
    }

    /// The detail in a sub-address, as it was written.
    pub fn detail<'a>(&self, mailbox: &'a str) -> Option<&'a str> {
        address::detail(mailbox, &self.separators)
    }

    /// Where mail for `domain` goes next.
    pub fn next_hop(&self, domain: &str) -> NextHop {
        let domain = domain.to_lowercase();
        match self.domains.contains(&domain) {
            true => NextHop::Local,
            false => self.routes.next_hop(&domain),
        }
    }

    /// Whether `master` may act for `other`; both are addresses as [`DirectorySnapshot::login_key`]
    /// spells them.
    pub(super) fn may_act_for(&self, master: &str, other: &str) -> bool {
        self.masters.iter().any(|it| it.lets(master, other))
    }

    /// Whether clients at `peer` may send to other domains without a log-in.
    pub fn may_relay(&self, peer: IpAddr) -> bool {
        let peer = Network::exact(peer);
        self.relay_networks.iter().any(|network| network.contains(&peer))
    }

    pub fn senders(&self) -> &Senders {
        &self.senders
    }

    /// The return path of mail from `sender` that an alias sends on at `now`, since 1970; `None` if
    /// it stays.
    pub fn forwarded_sender(&self, sender: &str, now: Duration) -> Option<String> {
        let srs = self.senders.srs()?;
        let (_, domain) = sender.rsplit_once('@')?;
        match self.is_local_domain(domain) {
            true => None,
            false => srs.encode(sender, day(now.as_secs())),
        }
    }

    /// The account that logs in as `name`: its address, or the part before `@` if the domain is
    /// the default one. No sub-addresses, no aliases.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.by_key(&self.login_key(name))
    }

    /// The canonical address of `account`.
    pub fn name_of(&self, account: AccountId) -> Option<&str> {
        self.by_id.find(&self.users, account).map(|user| user.address.as_str())
    }

    /// The groups that the account with the key `name` is in, sorted, without `$`. Empty if there
    /// is no such account.
    pub fn groups_of(&self, name: &str) -> &Arc<[String]> {
        match self.account(name) {
            Some(account) => self.groups.of(account, name),
            None => self.groups.of_nobody(),
        }
    }

    /// The same for an account, whatever its address is.
    pub fn groups_of_account(&self, account: AccountId) -> &Arc<[String]> {
        match self.name_of(account) {
            Some(name) => self.groups.of(account, name),
            None => self.groups.of_nobody(),
        }
    }

    /// Whether there is a group of this name, in lower case and without `$`.
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.has(name)
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

    /// Keys for a name, as [`DirectorySnapshot::login_key`] spells it, that has none.
    pub(super) fn made_up_keys(&self, key: &str, hash: Hash) -> Keys {
        self.stand_ins.keys(key, hash)
    }

    /// Whether SCRAM is offered; accounts of a backend are not known here.
    pub(super) fn offers_scram(&self, has_backend: bool) -> bool {
        match self.scram {
            ScramOffer::WhenAll => self.stand_ins.all_have_keys && !has_backend,
            ScramOffer::Always => true,
            ScramOffer::Never => false,
        }
    }

    fn by_key(&self, key: &str) -> Option<&User> {
        self.by_address.get(key).and_then(|&index| self.users.get(index))
    }
}

impl Ground for DirectorySnapshot {
    fn account(&self, key: &str) -> Option<AccountId> {
        self.by_key(key).map(|user| user.id)
    }

    fn postmaster(&self) -> Option<AccountId> {
        self.postmaster
    }

    fn is_ours(&self, domain: &str) -> bool {
        self.domains.contains(domain)
    }

    fn separators(&self) -> &str {
        &self.separators
    }
}

/// The backend that needs no desk: it never blocks, and always has an answer.
impl Backend for DirectorySnapshot {
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable> {
        Ok(DirectorySnapshot::resolve(self, address))
    }

    fn may_send_as(&self, account: AccountId, address: &str) -> Result<bool, Unavailable> {
        Ok(DirectorySnapshot::may_send_as(self, account, address))
    }

    fn log_in(&self, name: &str) -> Result<LogIn, Unavailable> {
        Ok(self.log_in_of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::routes::{Inbound, TlsPolicy},
        *,
    };

    fn snapshot(postmaster: Option<&str>) -> Option<DirectorySnapshot> {
        let text = "3 alice@demo.test H\n5 a+b@demo.test H\n7 eve@other.test H\n";
        let text = text.replace('H', password::DEMO_HASH);
        let file = UsersFile::parse(&text, Path::new("users")).expect("parses");
        let options = DirectoryOptions {
            domains: vec!["Demo.test".to_owned(), "empty.test".to_owned()],
            postmaster: postmaster.map(str::to_owned),
            ..DirectoryOptions::default()
        };
        DirectorySnapshot::new(&file, &options)
    }

    #[test]
    fn made_up_keys_stay_and_look_like_real_ones() {
        let mut file = UsersFile::new();
        let add = |file: &mut UsersFile, name: &str| {
            let secret = Secret::of("demo", None).expect("secret");
            file.add(&format!("{name}@demo.test"), secret).expect("added");
            let text = file.rendered_with_pretence("a secret");
            *file = UsersFile::parse(&text, Path::new("users")).expect("parses");
            DirectorySnapshot::new(file, &DirectoryOptions::default()).expect("snapshot")
        };
        let before = add(&mut file, "alice");
        let made_up = before.made_up_keys("nobody@demo.test", Hash::Sha256);
        assert_eq!(before.made_up_keys("nobody@demo.test", Hash::Sha256), made_up);
        assert_eq!(before.made_up_keys("nobody@demo.test", Hash::Sha1).salt, made_up.salt);
        assert_ne!(before.made_up_keys("bob@demo.test", Hash::Sha256).salt, made_up.salt);
        let LogIn::Account(alice) = before.log_in_of("alice@demo.test") else { panic!("nobody") };
        let real = alice.keyring.keys(Hash::Sha256).expect("keys");
        assert_eq!(real.salt.len(), made_up.salt.len());
        assert_eq!((real.iterations, real.pairs.len()), (made_up.iterations, 1));
        // Another password and another account change nothing.
        file.remove("alice@demo.test").expect("removed");
        let after = add(&mut file, "carol");
        assert_eq!(after.made_up_keys("nobody@demo.test", Hash::Sha256).salt, made_up.salt);
        assert!(after.offers_scram(false) && !after.offers_scram(true));
        let hash: Arc<str> = Arc::from(password::DEMO_HASH);
        file.add("old@demo.test", hash).expect("added");
        // An account from before cannot prove anything.
        let offer = [ScramOffer::WhenAll, ScramOffer::Always, ScramOffer::Never].map(|scram| {
            let options = DirectoryOptions { scram, ..DirectoryOptions::default() };
            DirectorySnapshot::new(&file, &options).expect("snapshot").offers_scram(false)
        });
        assert_eq!(offer, [false, true, false]);
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

    /// Alice, bob and carol at demo.test, with these aliases.
    fn with_aliases(
        aliases: &str,
        change: impl FnOnce(&mut DirectoryOptions),
    ) -> Result<(DirectorySnapshot, Vec<String>), String> {
        with_files(aliases, "", change)
    }

    fn with_files(
        aliases: &str,
        groups: &str,
        change: impl FnOnce(&mut DirectoryOptions),
    ) -> Result<(DirectorySnapshot, Vec<String>), String> {
        let folder = tempfile::tempdir().expect("temporary directory");
        let files = DirectoryFiles {
            users: folder.path().join("users"),
            aliases: folder.path().join("aliases"),
            aliases_named: false,
            groups: folder.path().join("groups"),
            groups_named: false,
        };
        let accounts = [(1, "alice"), (2, "bob"), (3, "carol")];
        let hash = password::DEMO_HASH;
        let users = accounts.map(|(id, name)| format!("{id} {name}@demo.test {hash}\n"));
        std::fs::write(&files.users, users.concat()).expect("written");
        std::fs::write(&files.aliases, aliases).expect("written");
        std::fs::write(&files.groups, groups).expect("written");
        let domains = ["demo.test", "other.test", "third.test"].map(str::to_owned).into();
        let mut options = DirectoryOptions { domains, ..DirectoryOptions::default() };
        options.senders.srs = Some(("srs.demo.test".to_owned(), folder.path().join("srs.key")));
        change(&mut options);
        DirectorySnapshot::make_keys(&options.senders).expect("keys");
        let place = format!("{}/", folder.path().display());
        let plain = |text: String| text.replace(&place, "");
        match DirectorySnapshot::load(&files, &options) {
            Ok((snapshot, warnings)) => Ok((snapshot, warnings.into_iter().map(plain).collect())),
            Err(error) => Err(plain(error.to_string())),
        }
    }

    const ALIASES: &str = "\
sales: alice, Bob@demo.test, Partner@Else.test
all: sales, carol, bob, partner@ELSE.test
one: alice
two: one
lists: alice+lists
bob: bob, bob@else.test
carol: carol@else.test
old: :reject moved away
gone: :discard
dull: gone, old
nobody: no-such
@other.test: one
@third.test: @demo.test
else@other.test: x@else.test
";

    /// In short: accounts with their details, and remote addresses with the first letter of why.
    fn shown(destination: &Destination) -> String {
        let Destination::Several(targets) = destination else { return format!("{destination:?}") };
        let targets = targets.iter().map(|target| match target {
            Target::Account { account, detail: None } => account.to_string(),
            Target::Account { account, detail: Some(detail) } => format!("{account}+{detail}"),
            Target::Remote { address, reason } => format!("{address} {reason:?}"),
        });
        targets.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn aliases_lead_to_accounts_and_others() {
        const CASES: &[(&str, &str)] = &[
            ("Sales@Demo.test", "1, 2, bob@else.test Alias, Partner@else.test Alias"),
            (
                "all@demo.test",
                "1, 2, bob@else.test Alias, Partner@else.test Alias, carol@else.test Alias, \
                 partner@else.test Alias",
            ),
            ("one@demo.test", "Mailbox(AccountId(1))"),
            ("two@demo.test", "Mailbox(AccountId(1))"),
            ("two+x@demo.test", "Subaddress(AccountId(1))"),
            ("\"two\"@demo.test", "Mailbox(AccountId(1))"),
            ("sales+X@demo.test", "1+X, 2+X, bob@else.test Alias, Partner@else.test Alias"),
            ("lists@demo.test", "1+lists"),
            ("lists+mine@demo.test", "1+lists"),
            ("alice@demo.test", "Mailbox(AccountId(1))"),
            ("bob@demo.test", "2, bob@else.test Forward"),
            ("bob+x@demo.test", "2+x, bob@else.test Forward"),
            ("carol@demo.test", "carol@else.test Forward"),
            ("old@demo.test", "Reject(\"moved away\")"),
            ("gone@demo.test", "Discard"),
            ("dull@demo.test", "Reject(\"moved away\")"),
            ("nobody@demo.test", "UnknownUser"),
            ("no-such@demo.test", "UnknownUser"),
            ("what.ever@other.test", "Mailbox(AccountId(1))"),
            ("what+ever@other.test", "Mailbox(AccountId(1))"),
            ("postmaster@other.test", "Mailbox(AccountId(1))"),
            ("else@other.test", "x@else.test Alias"),
            ("bob+x@third.test", "2+x, bob@else.test Forward"),
            ("no-such@third.test", "UnknownUser"),
            ("x@foreign.test", "Foreign"),
        ];
        let (snapshot, warnings) = with_aliases(ALIASES, |_| {}).expect("loads");
        for (address, expected) in CASES {
            assert_eq!(shown(&snapshot.resolve(address)), *expected, "{address}");
        }
        assert_eq!(
            warnings,
            ["aliases:11: no-such@demo.test: no account and no alias has this address, so \
                 nobody@demo.test does not reach it: correct it, or add the account"]
        );
        for (account, address, expected) in [
            (1, "sales@demo.test", true),
            (2, "sales+x@demo.test", true),
            (3, "sales@demo.test", false),
            (3, "carol@demo.test", true),
            (3, "carol+x@demo.test", true),
            (1, "carol@demo.test", false),
            (1, "anything@other.test", true),
            (1, "x@else.test", false),
        ] {
            let may = snapshot.may_send_as(AccountId(account), address);
            assert_eq!(may, expected, "{account} as {address}");
        }
    }

    #[test]
    fn the_example_file_is_right() {
        let text = include_str!("../../docs/aliases.example").replace("example.org", "demo.test");
        let text = text.replace("example.net", "other.test");
        let (snapshot, warnings) = with_aliases(&text, |_| {}).expect("loads");
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(snapshot.alias_count(), 9);
        let found = shown(&snapshot.resolve("office@other.test"));
        let expected = "1, 2, bob@elsewhere.example Alias, partner@elsewhere.example Alias, \
                        carol@elsewhere.example Alias";
        assert_eq!(found, expected);
    }

    #[test]
    fn mistakes_in_aliases_name_file_and_line() {
        let mut chain = String::new();
        for number in 0..40 {
            chain += &format!("c{number}: c{}\n", number + 1);
        }
        chain += "c40: alice\n";
        let many: Vec<String> = (0..1001).map(|number| format!("u{number}@else.test")).collect();
        let mut tree = String::from("t0: a@else.test, b@else.test\n");
        for number in 1..30 {
            tree += &format!("t{number}: t{0}, t{0}\n", number - 1);
        }
        let many = format!("many: {}", many.join(", "));
        let cases: &[(&str, &str)] = &[
            (
                "a: b\nb: c, alice\nc: a",
                "aliases:1: a@demo.test leads back to itself: a@demo.test -> b@demo.test -> \
                 c@demo.test -> a@demo.test; remove one of these targets",
            ),
            ("\na: a", "aliases:2: a@demo.test leads back to itself: a@demo.test -> a@demo.test;"),
            ("a: a+x", "aliases:1: a@demo.test leads back to itself"),
            ("alice: b\nb: alice", "aliases:1: alice@demo.test leads back to itself"),
            ("@demo.test: who", "aliases:1: @demo.test leads back to itself"),
            ("a: b@third.test\n@third.test: @demo.test\nb: a", "aliases:1: a@demo.test leads back"),
            ("@other.test: a\na: x@other.test", "aliases:1: @other.test leads back to itself"),
            (
                "@other.test: @third.test\n@third.test: @other.test",
                "aliases:1: @third.test leads back here, or through more than 32 domains",
            ),
            ("@other.test: @other.test", "aliases:1: @other.test leads back here"),
            ("@other.test: @else.test", "aliases:1: @else.test is not a domain of ours: name one"),
            ("a@else.test: alice", "aliases:1: a@else.test: else.test is not a domain of ours"),
            ("@else.test: alice", "aliases:1: @else.test: else.test is not a domain of ours"),
            (&chain, "aliases:1: c0@demo.test leads through more than 32 lines"),
            (&many, "aliases:1: many@demo.test has more than 1000 recipients"),
            (&tree, "aliases:10: t9@demo.test has more than 1000 recipients"),
        ];
        for (text, expected) in cases {
            let said = with_aliases(text, |_| {}).expect_err(text);
            assert!(said.starts_with(expected), "{text}\n said: {said}");
        }
    }

    /// Whatever a file says, following an address ends.
    #[test]
    fn no_file_makes_an_expansion_endless() {
        const NAMES: [&str; 8] =
            ["a", "b", "c", "alice", "bob", "a+x", "x@other.test", "y@else.test"];
        let mut loaded = 0;
        let mut state = 1_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % below) as usize
        };
        for _ in 0..400 {
            let mut text = String::new();
            for name in ["a", "b", "c", "alice", "@demo.test"] {
                let targets = (0..=draw(2)).map(|_| NAMES[draw(8)]).collect::<Vec<_>>().join(", ");
                if draw(2) == 0 {
                    text += &format!("{name}: {targets}\n");
                }
            }
            text += ["", "@other.test: @demo.test\n", "@other.test: a\n"][draw(3)];
            let Ok((snapshot, _)) = with_aliases(&text, |_| {}) else { continue };
            loaded += 1;
            for name in NAMES.into_iter().chain(["zzz", "zzz+y@other.test"]) {
                let address =
                    if name.contains('@') { name.to_owned() } else { format!("{name}@demo.test") };
                if let Destination::Several(targets) = snapshot.resolve(&address) {
                    assert!((1..=10).contains(&targets.len()), "{text}");
                }
            }
        }
        assert!((100..400).contains(&loaded), "{loaded} of 400");
    }

    #[test]
    fn groups_of_accounts() {
        let groups = "staff: Alice, $board, sales\nboard: carol@Demo.test\nall: @demo.test\n\
                      guests: @other.test\n";
        let (snapshot, warnings) = with_files(ALIASES, groups, |_| {}).expect("loads");
        for (name, expected) in [
            ("alice@demo.test", "all staff"),
            ("bob@demo.test", "all"),
            ("carol@demo.test", "all board staff"),
            // No accounts.
            ("sales@demo.test", ""),
            ("one@other.test", ""),
            ("nobody@demo.test", ""),
            ("x@else.test", ""),
            ("", ""),
            // No key.
            ("Alice@demo.test", ""),
        ] {
            assert_eq!(snapshot.groups_of(name).join(" "), expected, "{name}");
        }
        let nobody = |name| snapshot.groups_of(name);
        assert!(Arc::ptr_eq(nobody("x@demo.test"), nobody("y@else.test")));
        assert_eq!(snapshot.group_count(), 4);
        // After the one about aliases. An alias is no member, also if it leads to one account.
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let expected = "groups:1: sales@demo.test: no account has this address (aliases do not";
        assert!(warnings[1].starts_with(expected), "{warnings:?}");
        let said = with_files("", "a: $b\nb: $a\n", |_| {}).unwrap_err();
        assert!(said.starts_with("groups:2: $a is a member of itself: $a > $b > $a;"), "{said}");
    }

    #[test]
    fn accounts_are_found_by_their_numbers() {
        for order in [[3, 5, 7, 40], [40, 7, 5, 3], [5, 40, 3, 7]] {
            let line = |id| format!("{id} u{id}@demo.test {}\n", password::DEMO_HASH);
            let text = order.map(line).concat();
            let file = UsersFile::parse(&text, Path::new("users")).expect("parses");
            let options = DirectoryOptions::default();
            let snapshot = DirectorySnapshot::new(&file, &options).expect("snapshot");
            let listed = matches!(snapshot.by_id, ById::AsListed);
            assert_eq!(listed, order.is_sorted(), "{order:?}");
            for id in 0..50 {
                let expected = order.contains(&id).then(|| format!("u{id}@demo.test"));
                let found = snapshot.name_of(AccountId(id));
                assert_eq!(found, expected.as_deref(), "{id} in {order:?}");
            }
        }
        assert_eq!(DirectorySnapshot::empty().name_of(AccountId(1)), None);
    }

    #[test]
    fn bounces_of_forwarded_mail_come_back() {
        let (snapshot, _) = with_aliases("", |_| {}).expect("loads");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let path = snapshot.forwarded_sender("Zoe@else.test", now).expect("rewritten");
        assert_eq!(shown(&snapshot.resolve(&path)), "Zoe@else.test Return");
        assert_eq!(snapshot.next_hop("srs.demo.test"), NextHop::Local);
        let forged = path.replace("Zoe", "Eve");
        assert_eq!(snapshot.resolve(&forged), Destination::UnknownUser);
        let month = Duration::from_secs(30 * 24 * 3600);
        let old = snapshot.forwarded_sender("zoe@else.test", now - month).expect("rewritten");
        assert!(matches!(snapshot.resolve(&old), Destination::Reject(_)));
        // Our own mail needs none.
        assert_eq!(snapshot.forwarded_sender("alice@Demo.test", now), None);
        assert_eq!(snapshot.forwarded_sender("", now), None);
    }

    #[test]
    fn domains_of_others_and_separators() {
        let change = |options: &mut DirectoryOptions| {
            let route = |domain: &str, to, inbound| RouteOptions {
                domains: vec![domain.to_owned()],
                to,
                inbound,
            };
            options.separators = "-_".to_owned();
            options.routes = vec![
                route("backup.test", RouteTo::Mx(TlsPolicy::Required), Inbound::All),
                route("more.test", RouteTo::Local, Inbound::Refuse),
                route("*", RouteTo::Reject("no".to_owned()), Inbound::Refuse),
            ];
            options.senders.rewrite = vec![("lan.test".to_owned(), "demo.test".to_owned())];
            options.relay_networks = vec!["192.0.2.0/24".parse().expect("network")];
        };
        let (snapshot, _) = with_aliases("a@more.test: bob", change).expect("loads");
        for (address, expected) in [
            ("x@backup.test", Destination::Relay),
            ("x@else.test", Destination::Foreign),
            ("x@more.test", Destination::UnknownUser),
            ("a@more.test", Destination::Mailbox(AccountId(2))),
            ("bob-x+y@demo.test", Destination::Subaddress(AccountId(2))),
            ("bob+x@demo.test", Destination::UnknownUser),
        ] {
            assert_eq!(snapshot.resolve(address), expected, "{address}");
        }
        assert_eq!(snapshot.detail("bob_x-y@demo.test"), Some("x-y"));
        assert_eq!(snapshot.next_hop("Backup.test"), NextHop::Mx(TlsPolicy::Required));
        assert_eq!(snapshot.next_hop("More.test"), NextHop::Local);
        assert_eq!(snapshot.next_hop("else.test"), NextHop::Reject(Arc::from("no")));
        assert!(snapshot.may_send_as(AccountId(2), "bob@lan.test"));
        assert!(!snapshot.may_send_as(AccountId(2), "alice@lan.test"));
        let may = |text: &str| snapshot.may_relay(text.parse().expect("address"));
        assert_eq!((may("192.0.2.7"), may("192.0.3.7"), may("::1")), (true, false, false));
    }

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("srs.key");
        let options = SenderOptions {
            srs: Some(("x.test".to_owned(), path.clone())),
            ..SenderOptions::default()
        };
        DirectorySnapshot::make_keys(&options).expect("made");
        let made = std::fs::read_to_string(&path).expect("key");
        DirectorySnapshot::make_keys(&options).expect("kept");
        assert_eq!(std::fs::read_to_string(&path).expect("key"), made);
        assert_eq!(made.trim().len(), 64);
        std::fs::write(&path, "# nothing\nshort\n").expect("written");
        let said = DirectorySnapshot::make_keys(&options).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}:2: a key has at least", path.display())), "{said}");
    }

    #[test]
    fn demo_accounts() {
        let snapshot = DirectorySnapshot::demo("demo.test", 10_000);
        assert_eq!(snapshot.users().len(), 10_002);
        let last = Destination::Mailbox(AccountId(10_002));
        assert_eq!(snapshot.resolve("user10000@demo.test"), last);
    }
}
