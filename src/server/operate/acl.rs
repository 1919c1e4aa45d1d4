//! Access lists of mailboxes, as operators see and change them: what `ringmail acl` sends over the
//! control socket, and its answers, by a running server (on the control thread, which asks the
//! shards of the owners) or from the disk where none runs.
//!
//! The lines are those of `request`. A list of the whole server is read and sent owner by owner.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    rc::Rc,
    sync::mpsc as lines_of_disk,
};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;

use super::{
    at_rest,
    live::{Asking, Gone},
};
use crate::{
    control::json,
    directory,
    events::Event,
    model::{
        AccessList, AccountId, AccountName, Change, Identifier, MailboxId, PartitionId, Right,
        Rights, Subject, account_number, parse_account_number,
    },
    protocol::imap,
    runtime::{
        LocalFuture,
        mesh::MeshGate,
        shard::{self, ShardOptions},
    },
    server::data_dir,
    service::{
        Shard,
        access::{self, By, Edit, Edited, PublicNews},
    },
    store::{Account, Names, Partition, StoreError, StoreOptions},
};

/// The owner of the public mailboxes, in requests and answers: the level above them (RFC 2342).
pub const SHARED: &str = "Shared";

const INBOX: &str = "INBOX";

/// Names that are taken from an account at once.
const NAMES_AT_ONCE: usize = 256;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AclVerb {
    /// All access lists; those of an account; that of a mailbox.
    List { account: Option<String>, mailbox: Option<String> },
    Set {
        place: Place,
        /// As SETACL has it: letters, with `+` or `-` before them or without.
        rights: String,
        /// Create a public mailbox that is not there.
        create: bool,
        /// Only say what it would do.
        dry: bool,
    },
    /// `dry`: only say what it would do.
    Remove { place: Place, dry: bool },
    /// Whether users other than the owner have a `\Seen` of their own in a mailbox.
    Seen { account: String, mailbox: String, is_personal: bool },
}

/// An entry of the list of a mailbox.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// An address, or [`SHARED`].
    pub account: String,
    pub mailbox: String,
    pub identifier: String,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclRequest {
    pub verb: AclVerb,
    pub json: bool,
}

impl AclRequest {
    /// The line that asks for it. Control characters, which no name has, end up as spaces.
    pub fn line(&self) -> String {
        let mut line = "acl\t".to_owned();
        let mut fields: Vec<(&str, &str)> = Vec::new();
        match &self.verb {
            AclVerb::List { account, mailbox } => {
                line.push_str("list");
                fields.extend(account.as_deref().map(|it| ("account", it)));
                fields.extend(mailbox.as_deref().map(|it| ("mailbox", it)));
            }
            AclVerb::Set { place, rights, create, dry } => {
                line.push_str("set");
                fields.extend(place.fields());
                fields.push(("rights", rights));
                fields.extend(create.then_some(("create", "1")));
                fields.extend(dry.then_some(("dry", "1")));
            }
            AclVerb::Remove { place, dry } => {
                line.push_str("remove");
                fields.extend(place.fields());
                fields.extend(dry.then_some(("dry", "1")));
            }
            AclVerb::Seen { account, mailbox, is_personal } => {
                line.push_str("seen");
                let seen = seen_word(*is_personal);
                fields.extend([
                    ("account", account.as_str()),
                    ("mailbox", mailbox),
                    ("seen", seen),
                ]);
            }
        }
        fields.extend(self.json.then_some(("json", "1")));
        for (name, value) in fields {
            line.push_str(&format!("\t{name}={}", value.replace(char::is_control, " ")));
        }
        line
    }

    /// `None` for anything else.
    pub fn parse(line: &str) -> Option<AclRequest> {
        let mut parts = line.split('\t');
        let (Some("acl"), Some(verb)) = (parts.next(), parts.next()) else { return None };
        let mut fields = BTreeMap::new();
        for part in parts {
            let (name, value) = part.split_once('=')?;
            if fields.insert(name, value).is_some() {
                return None;
            }
        }
        let mut take = |name: &str| fields.remove(name).map(str::to_owned);
        let json = take("json").is_some();
        let mut place = || {
            let (account, mailbox) = (take("account")?, take("mailbox")?);
            Some(Place { account, mailbox, identifier: take("identifier")? })
        };
        let verb = match verb {
            "list" => AclVerb::List { account: take("account"), mailbox: take("mailbox") },
            "set" => AclVerb::Set {
                place: place()?,
                rights: take("rights")?,
                create: take("create").is_some(),
                dry: take("dry").is_some(),
            },
            "remove" => AclVerb::Remove { place: place()?, dry: take("dry").is_some() },
            "seen" => AclVerb::Seen {
                account: take("account")?,
                mailbox: take("mailbox")?,
                is_personal: match take("seen")?.as_str() {
                    "personal" => true,
                    "shared" => false,
                    _ => return None,
                },
            },
            _ => return None,
        };
        fields.is_empty().then_some(AclRequest { verb, json })
    }
}

impl Place {
    fn fields(&self) -> [(&str, &str); 3] {
        [("account", &self.account), ("mailbox", &self.mailbox), ("identifier", &self.identifier)]
    }
}

/// An account whose mailboxes are meant.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub account: AccountId,
    /// `None` if no address leads to it any more.
    pub name: Option<String>,
}

impl Owner {
    /// One of which only the number is known.
    pub(super) fn of(account: AccountId) -> Owner {
        let name = (account == AccountId::PUBLIC).then(|| SHARED.to_owned());
        Owner { account, name }
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("account {}", self.account))
    }

    fn is_public(&self) -> bool {
        self.account == AccountId::PUBLIC
    }

    /// For people: a mailbox of it.
    fn mailbox(&self, mailbox: &str) -> String {
        match &self.name {
            Some(name) => format!("{name}/{mailbox}"),
            None => format!("{}/{mailbox}", account_number(self.account)),
        }
    }

    /// For programs. The number of public mailboxes' owner is nobody's business.
    fn fields(&self, mailbox: &str) -> Vec<(&'static str, String)> {
        let mut fields = self.account_fields();
        fields.push(("mailbox", json::text(mailbox)));
        fields
    }

    /// The same of the account itself.
    pub(super) fn account_fields(&self) -> Vec<(&'static str, String)> {
        let number = if self.is_public() { "null".to_owned() } else { self.account.to_string() };
        vec![("account", number), ("owner", json::optional(self.name.as_deref()))]
    }
}

/// Whom a request means.
pub(super) async fn owner(shard: &Shard, account: &str) -> Result<Owner, String> {
    if account == SHARED {
        return Ok(Owner { account: AccountId::PUBLIC, name: Some(SHARED.to_owned()) });
    }
    if let Some(account) = by_number(account) {
        return Ok(Owner { account, name: shard.directory.name_of(account) });
    }
    match shard.directory.identity(account).await {
        Ok(Some(identity)) => {
            let name = shard.directory.login_key(&identity.address);
            Ok(Owner { account: identity.account, name: Some(name) })
        }
        Ok(None) => Err(no_account(account)),
        Err(_) => Err(format!("{account}: the directory does not answer")),
    }
}

/// An account that is named by its number, as lists show one that is gone.
fn by_number(account: &str) -> Option<AccountId> {
    parse_account_number(account).filter(|account| *account < AccountId::PUBLIC)
}

fn no_account(account: &str) -> String {
    let hint = match account.split_once('/') {
        _ if account.eq_ignore_ascii_case(SHARED) => {
            format!("the public mailboxes are \"{SHARED}\"")
        }
        // As lists show mailboxes.
        Some((owner, mailbox)) => format!("account and mailbox are two words: {owner} {mailbox}"),
        None => format!("\"{SHARED}\" stands for the public mailboxes"),
    };
    format!("{account}: no such account ({hint})")
}

/// The account, to be changed. Of one that never was, none is made.
async fn opened(partition: &Partition, owner: &Owner) -> Result<Account, StoreError> {
    match owner.name {
        Some(_) => partition.account(owner.account).await,
        None => partition.account_as_it_is(owner.account).await,
    }
}

fn no_mailbox(owner: &Owner, mailbox: &str) -> String {
    let hint = if owner.is_public() { "; \"acl set\" with --create makes one" } else { "" };
    format!("{}: no such mailbox{hint}", owner.mailbox(mailbox))
}

/// The name as the store has it (RFC 3501 5.1).
fn stored_name(mailbox: &str) -> &str {
    if mailbox.eq_ignore_ascii_case(INBOX) { INBOX } else { mailbox }
}

/// The mailbox of this name that people can reach.
fn find(owner: &Owner, account: &Account, mailbox: &str) -> Option<MailboxId> {
    let name = stored_name(mailbox);
    let found = account.mailbox_by_name(name).filter(|_| !owner.is_public() || name != INBOX);
    found.map(|info| info.id)
}

/// Accounts and groups, as far as they are known where lists are shown.
struct Known<'a> {
    name_of: &'a dyn Fn(AccountId) -> AccountName,
    /// Whether somebody, or a group, has the name of an entry without a number.
    has: &'a dyn Fn(&Identifier) -> Option<bool>,
}

impl Known<'_> {
    /// Whether there is whom an entry names; `None` if that is not known.
    fn exists(&self, identifier: &Identifier) -> Option<bool> {
        match identifier {
            Identifier::User { account: Some(account), .. } => match (self.name_of)(*account) {
                AccountName::Known(_) => Some(true),
                AccountName::Gone => Some(false),
                AccountName::Unknown => None,
            },
            Identifier::User { .. } | Identifier::Group(_) => (self.has)(identifier),
            Identifier::Anyone | Identifier::AuthUser | Identifier::Owner => Some(true),
        }
    }
}

/// Whose `\Seen` is, in requests and answers.
fn seen_word(is_personal: bool) -> &'static str {
    if is_personal { "personal" } else { "shared" }
}

/// A mailbox, as `list` shows it.
struct Listed {
    mailbox: String,
    /// `None` for one that this version cannot read.
    list: Option<AccessList>,
    seen_is_personal: bool,
}

fn listed(account: &Account, mailbox: MailboxId) -> Option<Listed> {
    let name = account.mailbox(mailbox)?.name;
    let list = account.with_access_list(mailbox, |octets| match octets {
        Some(octets) => AccessList::decode(octets).ok(),
        None => Some(AccessList::default()),
    });
    Some(Listed { mailbox: name, list, seen_is_personal: account.seen_is_personal(mailbox) })
}

/// The lists of an account, or of one mailbox of it, in the order of names.
async fn lists(
    partition: &Partition,
    owner: &Owner,
    mailbox: Option<&str>,
) -> Result<Vec<Listed>, String> {
    let account = partition.account_as_it_is(owner.account).await;
    let account = account.map_err(|error| format!("{}: {error}", owner.mailbox("")))?;
    let wanted = match mailbox {
        Some(name) => {
            vec![find(owner, &account, name).ok_or_else(|| no_mailbox(owner, name))?]
        }
        // They are the operator's, who sees them nowhere else.
        None if owner.is_public() => public_mailboxes(&account),
        None => account.mailboxes_with_access_lists(),
    };
    let mut lists: Vec<Listed> = wanted.iter().filter_map(|id| listed(&account, *id)).collect();
    lists.sort_by(|one, other| one.mailbox.cmp(&other.mailbox));
    Ok(lists)
}

/// Of the owner of the public mailboxes: all but the INBOX that every account has.
fn public_mailboxes(account: &Account) -> Vec<MailboxId> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let names = account.names_after(after.as_deref(), Names::Existing, NAMES_AT_ONCE);
        let others = names.iter().filter(|name| *name != INBOX);
        found.extend(others.filter_map(|name| account.mailbox_by_name(name)).map(|info| info.id));
        let Some(last) = names.into_iter().next_back() else { return found };
        after = Some(last);
    }
}

/// That an owner has nothing to list.
fn nothing(owner: &Owner) -> String {
    match (owner.is_public(), &owner.name) {
        (true, _) => "#there are no public mailboxes".to_owned(),
        (false, Some(name)) => format!("#no mailbox of {name} has an access list"),
        (false, None) => {
            format!("#no mailbox of {} has an access list", account_number(owner.account))
        }
    }
}

/// The lines of one list.
fn lines(owner: &Owner, listed: &Listed, known: &Known<'_>, as_json: bool) -> Vec<String> {
    let Listed { mailbox: name, list, seen_is_personal } = listed;
    let unreadable = || format!("!{}: the access list cannot be read", owner.mailbox(name));
    let Some(list) = list else { return vec![unreadable()] };
    let entries = list.names(known.name_of).into_iter().zip(list.entries());
    if as_json {
        let entry = |(name, (subject, rights)): (String, (&Subject, _))| {
            let number = match &subject.identifier {
                Identifier::User { account: Some(number), .. } => number.to_string(),
                _ => "null".to_owned(),
            };
            json::object(&[
                ("identifier", json::text(&name)),
                ("account", number),
                (
                    "exists",
                    match known.exists(&subject.identifier) {
                        Some(exists) => exists.to_string(),
                        None => "null".to_owned(),
                    },
                ),
                ("rights", json::text(&format!("{rights}"))),
            ])
        };
        let entries: Vec<String> = entries.map(entry).collect();
        let mut fields = owner.fields(name);
        fields.push(("seen", json::text(seen_word(*seen_is_personal))));
        fields.push(("entries", json::list(&entries)));
        return vec![format!("={}", json::object(&fields))];
    }
    // What is unusual for its kind.
    let seen = match (owner.is_public(), seen_is_personal) {
        (false, true) => "  (\\Seen: each user's own)",
        (true, false) => "  (\\Seen: shared by all)",
        _ => "",
    };
    let mut lines = vec![format!("={}{seen}", owner.mailbox(name))];
    lines.extend(entries.map(|(name, (subject, rights))| {
        format!("={}", format!("  {name} {rights}  {}", remark(subject, known)).trim_end())
    }));
    if list.is_empty() {
        let owner = if owner.is_public() { "administrators have" } else { "its owner has" };
        lines.push(format!("=  no entries: {owner} every right, others have none"));
    }
    lines
}

/// What is unusual about the entry of a subject.
fn remark(subject: &Subject, known: &Known<'_>) -> String {
    if known.exists(&subject.identifier) != Some(false) {
        return String::new();
    }
    match &subject.identifier {
        Identifier::User { name, account: Some(_) } => {
            format!("(no such account any more; it was {name})")
        }
        Identifier::Group(_) => "(no such group)".to_owned(),
        _ => "(no such account)".to_owned(),
    }
}

/// Answers one request; `uid` is that of who asked.
pub(in crate::server) async fn answer(
    gate: MeshGate<Shard>,
    request: AclRequest,
    uid: Option<u64>,
    lines: mpsc::Sender<String>,
) {
    let asking = Asking { gate, lines };
    // A reader that is gone needs no answer.
    let _ = asking.answer_acl(request, uid).await;
}

impl Asking {
    async fn answer_acl(&self, request: AclRequest, uid: Option<u64>) -> Result<(), Gone> {
        let as_json = request.json;
        match request.verb {
            AclVerb::List { account: None, .. } => self.list_all(as_json).await?,
            AclVerb::List { account: Some(account), mailbox } => {
                if let Some((owner, number)) = self.owner(account).await? {
                    self.list_of(number, owner, mailbox, true, as_json).await?;
                }
            }
            AclVerb::Set { place, rights, create, dry } => {
                let rights = Some(rights);
                self.edit(Wanted { place, rights, create, dry, uid }, as_json).await?;
            }
            AclVerb::Remove { place, dry } => {
                self.edit(Wanted { place, rights: None, create: false, dry, uid }, as_json).await?;
            }
            AclVerb::Seen { account, mailbox, is_personal } => {
                if let Some((owner, number)) = self.owner(account).await? {
                    let change = SeenChange { owner, mailbox, is_personal, uid, as_json };
                    self.change_seen(number, change).await?;
                }
            }
        }
        self.tell(["ok".to_owned()]).await
    }

    /// Whom a request means, and the shard that has the account. One who is not there is told.
    async fn owner(&self, account: String) -> Result<Option<(Owner, u16)>, Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
            Box::pin(async move {
                let owner = owner(&shard, &account).await?;
                let number = shard.owner_of(owner.account).0;
                Ok::<_, String>((owner, number))
            })
        };
        Ok(match self.shard(0, question).await? {
            Some(Ok(found)) => Some(found),
            Some(Err(why)) => {
                self.tell([format!("!{why}")]).await?;
                None
            }
            None => None,
        })
    }

    async fn list_all(&self, as_json: bool) -> Result<(), Gone> {
        for number in 0..self.gate.shard_count() {
            let question = |shard: Rc<Shard>| -> LocalFuture<'static, _> {
                Box::pin(async move {
                    let mut owners = Vec::new();
                    for partition in shard.partitions.iter().flatten() {
                        let index = partition.account_as_it_is(AccountId::SHARES).await;
                        match index {
                            Ok(index) => {
                                owners.extend(index.sharers());
                                // Also those without an entry.
                                let public = AccountId::PUBLIC;
                                let is_here = shard.local_partition(public).map(Partition::id);
                                if is_here == Some(partition.id()) && !owners.contains(&public) {
                                    owners.push(public);
                                }
                            }
                            Err(error) => return Err(format!("{}: {error}", partition.id())),
                        }
                    }
                    Ok(owners)
                })
            };
            let owners = match self.shard(number, question).await? {
                Some(Ok(owners)) => owners,
                Some(Err(why)) => {
                    self.tell([format!("!partition {why}")]).await?;
                    continue;
                }
                None => continue,
            };
            for account in owners {
                self.list_of(number, Owner::of(account), None, false, as_json).await?;
            }
        }
        Ok(())
    }

    async fn list_of(
        &self,
        number: u16,
        mut owner: Owner,
        mailbox: Option<String>,
        // Not one of all.
        is_asked_for: bool,
        as_json: bool,
    ) -> Result<(), Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
            Box::pin(async move {
                owner.name = owner.name.or_else(|| shard.directory.name_of(owner.account));
                let Some(partition) = shard.local_partition(owner.account) else {
                    return vec![format!("!{}: not available now", owner.mailbox(""))];
                };
                let directory = &shard.directory;
                let name_of = |account| directory.present_name(account);
                let has = |identifier: &Identifier| match identifier {
                    _ if directory.has_backend() => None,
                    Identifier::Group(name) => Some(directory.has_group(name)),
                    Identifier::User { name, .. } => Some(directory.account_named(name).is_some()),
                    _ => None,
                };
                let known = Known { name_of: &name_of, has: &has };
                let lines = |it| lines(&owner, it, &known, as_json);
                match lists(partition, &owner, mailbox.as_deref()).await {
                    Ok(lists) if lists.is_empty() && is_asked_for => vec![nothing(&owner)],
                    Ok(lists) => lists.iter().flat_map(lines).collect(),
                    Err(why) => vec![format!("!{why}")],
                }
            })
        };
        let lines = self.shard(number, question).await?.unwrap_or_default();
        self.tell(lines).await
    }

    async fn change_seen(&self, number: u16, change: SeenChange) -> Result<(), Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
            Box::pin(async move {
                change.carry_out(&shard).await.unwrap_or_else(|why| format!("!{why}"))
            })
        };
        let line = self.shard(number, question).await?;
        self.tell(line).await
    }

    async fn edit(&self, wanted: Wanted, as_json: bool) -> Result<(), Gone> {
        let Some((owner, number)) = self.owner(wanted.place.account.clone()).await? else {
            return Ok(());
        };
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
            Box::pin(async move {
                match wanted.carry_out(&shard, &owner).await {
                    Ok(done) => done.lines(&owner, &wanted, as_json),
                    Err(why) => vec![format!("!{why}")],
                }
            })
        };
        let lines = self.shard(number, question).await?.unwrap_or_default();
        self.tell(lines).await
    }
}

/// A change of whose `\Seen` is.
struct SeenChange {
    owner: Owner,
    mailbox: String,
    is_personal: bool,
    uid: Option<u64>,
    as_json: bool,
}

impl SeenChange {
    /// On the owner's shard; the line that tells of it.
    async fn carry_out(&self, shard: &Shard) -> Result<String, String> {
        let SeenChange { owner, is_personal, .. } = self;
        let whole = owner.mailbox(&self.mailbox);
        let Some(partition) = shard.local_partition(owner.account) else {
            return Err(format!("{whole}: not available now"));
        };
        let failed = |error: StoreError| format!("{whole}: {error}");
        let account = opened(partition, owner).await.map_err(failed)?;
        let id = find(owner, &account, &self.mailbox);
        let id = id.ok_or_else(|| no_mailbox(owner, &self.mailbox))?;
        let mailbox = account.mailbox(id).map_or_else(|| self.mailbox.clone(), |info| info.name);
        let was_personal = account.seen_is_personal(id);
        if was_personal != *is_personal {
            account.set_seen_is_personal(id, *is_personal).await.map_err(failed)?;
            shard.tell(&Event::SeenChanged {
                operator: self.uid,
                account: Some(owner.account).filter(|id| *id != AccountId::PUBLIC),
                mailbox: id,
                name: &mailbox,
                before: seen_word(was_personal),
                after: seen_word(*is_personal),
            });
        }
        if self.as_json {
            let mut fields = vec![("verb", json::text("seen"))];
            fields.extend(owner.fields(&mailbox));
            fields.extend([
                ("before", json::text(seen_word(was_personal))),
                ("after", json::text(seen_word(*is_personal))),
            ]);
            return Ok(format!("={}", json::object(&fields)));
        }
        let whole = owner.mailbox(&mailbox);
        let whose = match is_personal {
            true => "\\Seen is each user's own",
            false => "\\Seen is shared by all",
        };
        let already = if was_personal == *is_personal { " already" } else { "" };
        Ok(format!("={whole}: {whose}{already}"))
    }
}

/// A change that an operator asks for.
struct Wanted {
    place: Place,
    /// `None`: the entry is removed.
    rights: Option<String>,
    create: bool,
    dry: bool,
    uid: Option<u64>,
}

/// What was done.
struct Done {
    mailbox: String,
    subject: Subject,
    edited: Edited,
    created: bool,
    /// The levels above that became mailboxes with it.
    created_above: Vec<String>,
    notes: Vec<String>,
}

impl Wanted {
    /// On the owner's shard.
    async fn carry_out(&self, shard: &Rc<Shard>, owner: &Owner) -> Result<Done, String> {
        let Place { mailbox, identifier, .. } = &self.place;
        let whole = owner.mailbox(mailbox);
        let by = By::Operator { uid: self.uid };
        let subject = access::named(&shard.directory, identifier);
        let subject = subject.map_err(|error| format!("{identifier}: {error}"))?;
        let mut notes = Vec::new();
        if self.rights.is_some() {
            possible(shard, &subject.identifier).map_err(|why| format!("{identifier}: {why}"))?;
            notes.extend(note(shard, &subject, identifier));
        }
        let owner_name = owner.name.as_deref().unwrap_or_default();
        let subject = subject.in_account(owner.account, owner_name);
        let edit = match &self.rights {
            Some(rights) => {
                let change = Change::parse(rights.as_bytes());
                Edit::Change(change.map_err(|error| {
                    let known: String = Right::EVERY.iter().map(|right| right.letter()).collect();
                    let older = "c for k and x, d for t and e";
                    format!("{rights}: {error}; rights are the letters {known}; {older}")
                })?)
            }
            None => Edit::Remove,
        };
        if let Edit::Change(change) = edit {
            notes.extend(note_of_change(owner, &subject, change));
        }
        if self.create && !owner.is_public() {
            let text = "only public mailboxes are created so, not those of an account";
            return Err(format!("{whole}: {text}"));
        }
        let Some(partition) = shard.local_partition(owner.account) else {
            return Err(format!("{whole}: not available now"));
        };
        let is_number = subject.identifier.is_number();
        let failed = |error: StoreError| match error {
            StoreError::NotPermitted(_) if is_number => format!(
                "{whole}: {identifier}: a number stands for an account that was removed, as long as \
                 the list has an entry for it: name an account by its address"
            ),
            error => format!("{whole}: {error}"),
        };
        let account = opened(partition, owner).await.map_err(failed)?;
        let edit_dry = |list: &mut AccessList| {
            let name_of = |account| shard.directory.present_name(account);
            let subject = list.resolve(subject.clone(), &name_of);
            access::edit_list(list, &subject, edit).map_err(failed)
        };
        let unreadable = || format!("{whole}: the list cannot be read");
        let mut created_above = Vec::new();
        let (id, created) = match find(owner, &account, mailbox) {
            Some(id) => (id, false),
            None if self.create => {
                let wrong = |why: &str| format!("{mailbox}: {why}");
                let name = imap::new_name(mailbox).map_err(wrong)?;
                if stored_name(name) == INBOX {
                    return Err(wrong("no public mailbox may have this name"));
                }
                created_above = access::public_levels_to_make(&account, name);
                if self.dry {
                    // CREATE copies the list of the nearest mailbox above.
                    let above = account.nearest_above(name).and_then(|id| listed(&account, id));
                    let list = above.map(|above| above.list.ok_or_else(unreadable)).transpose()?;
                    let edited = edit_dry(&mut list.unwrap_or_default())?;
                    let (mailbox, created) = (name.to_owned(), true);
                    return Ok(Done { mailbox, subject, edited, created, created_above, notes });
                }
                let id = account.create_mailbox(name, None).await.map_err(failed)?;
                for name in created_above.iter().map(String::as_str).chain([name]) {
                    access::tell_public(shard, owner.account, name, PublicNews::Created, by);
                }
                (id, true)
            }
            None => return Err(no_mailbox(owner, mailbox)),
        };
        let mailbox = account.mailbox(id).map_or_else(|| mailbox.clone(), |info| info.name);
        let edited = if self.dry {
            let found = listed(&account, id).ok_or_else(|| no_mailbox(owner, &mailbox))?;
            edit_dry(&mut found.list.ok_or_else(unreadable)?)?
        } else {
            let place = (&account, id);
            access::edit(shard, place, (&subject, edit), by, |_| Ok(())).await.map_err(failed)?
        };
        if self.rights.is_none() && !edited.had_entry {
            return Err(format!("{}: {subject} has no entry", owner.mailbox(&mailbox)));
        }
        Ok(Done { mailbox, subject, edited, created, created_above, notes })
    }
}

/// Whether somebody can have the name of an entry, now or later.
fn possible(shard: &Shard, identifier: &Identifier) -> Result<(), String> {
    match identifier {
        // Other names may log in there.
        _ if shard.directory.has_backend() => Ok(()),
        Identifier::Group(name) if !directory::is_group_name(name) => {
            Err("no group can have this name".to_owned())
        }
        Identifier::User { name, account: None } if name.starts_with('@') => Err(format!(
            "an entry names no domain: add a line \"everybody: {name}\" to the groups file, and name \
             '$everybody' here"
        )),
        Identifier::User { name, account: None } if shard.directory.detail(name).is_some() => {
            Err("a sub-address: name the account".to_owned())
        }
        Identifier::User { name, account: None }
            if !identifier.is_number() && !directory::is_address(name) =>
        {
            Err("no account can have this address".to_owned())
        }
        _ => Ok(()),
    }
}

/// Names that mean "anyone" elsewhere.
const EVERYBODY: [&str; 5] = ["anybody", "everybody", "everyone", "public", "world"];

/// What an operator may not know of whom he names.
fn note(shard: &Shard, subject: &Subject, written: &str) -> Option<String> {
    let written = written.trim_start_matches('-').to_lowercase();
    let directory = &shard.directory;
    match &subject.identifier {
        _ if directory.has_backend() => None,
        Identifier::Group(name) if !directory.has_group(name) => {
            Some(format!("#${name}: not in the groups file: nobody is meant until it is"))
        }
        Identifier::User { name, account: None } if !subject.identifier.is_number() => {
            let (local_part, domain) = name.rsplit_once('@').unwrap_or((name.as_str(), ""));
            let more = match (EVERYBODY.contains(&local_part), directory.is_local_domain(domain)) {
                _ if directory.has_group(&written) => {
                    format!("; a group has this name: '${written}'")
                }
                (true, _) => "; everybody is \"anyone\"".to_owned(),
                (false, false) => format!("; {domain} is not a domain of ours"),
                (false, true) => String::new(),
            };
            Some(format!("#{name}: there is no such account: meant is whoever gets the name{more}"))
        }
        _ => None,
    }
}

/// What a change does not do. `subject` as [`Subject::in_account`] has it.
fn note_of_change(owner: &Owner, subject: &Subject, change: Change) -> Option<String> {
    let kept = subject.required_rights();
    if !kept.without(change.apply(Rights::ALL)).is_empty() {
        return Some(format!("#the owner of a mailbox always has {kept}"));
    }
    let given = change.apply(Rights::NONE);
    (owner.is_public() && given.contain(Right::Post))
        .then(|| "#p has no effect: public mailboxes have no address".to_owned())
}

impl Done {
    fn lines(self, owner: &Owner, wanted: &Wanted, as_json: bool) -> Vec<String> {
        let Done { mailbox, subject, edited, created, created_above, notes } = self;
        let Edited { before, after, .. } = edited;
        let mut lines = notes;
        if as_json {
            let verb = if wanted.rights.is_some() { "set" } else { "remove" };
            let mut fields = vec![("verb", json::text(verb))];
            fields.extend(owner.fields(&mailbox));
            fields.extend([
                ("identifier", json::text(&subject.to_string())),
                ("before", json::text(&before.to_string())),
                ("after", json::text(&after.to_string())),
                ("created", created.to_string()),
                (
                    "created_above",
                    json::list(&created_above.iter().map(|it| json::text(it)).collect::<Vec<_>>()),
                ),
                ("dry_run", wanted.dry.to_string()),
            ]);
            lines.push(format!("={}", json::object(&fields)));
            return lines;
        }
        let whole = owner.mailbox(&mailbox);
        if created {
            let would = if wanted.dry { "would create" } else { "created" };
            let all = created_above.iter().map(|level| owner.mailbox(level)).chain([whole.clone()]);
            lines.extend(all.map(|mailbox| format!("={would} {mailbox}")));
        }
        let shown = |rights: Rights| match rights.is_empty() {
            true => "no rights".to_owned(),
            false => rights.to_string(),
        };
        let would = if wanted.dry { "would change " } else { "" };
        lines.push(match before == after {
            true if wanted.rights.is_none() => {
                format!("={would}{whole}: {subject} {} -> the same", shown(before))
            }
            true => format!("={whole}: {subject} has {} already", shown(after)),
            false => format!("={would}{whole}: {subject} {} -> {}", shown(before), shown(after)),
        });
        lines
    }
}

/// Answers `list` about a data directory on which no server runs. `users`: the accounts and their
/// addresses, unless they are elsewhere.
///
/// # Errors
/// If the directory is not a data directory, or a partition cannot be read.
pub fn acl_at_rest(
    path: &Path,
    store: &StoreOptions,
    users: Option<BTreeMap<AccountId, String>>,
    request: &AclRequest,
    sender: lines_of_disk::SyncSender<String>,
) -> Result<()> {
    let layout = data_dir::read_layout(path)?.with_context(|| {
        format!("{}: no server has run here yet: start it first", path.display())
    })?;
    let AclVerb::List { account, mailbox } = request.verb.clone() else {
        bail!("{}: no server runs here, and only a server changes access lists", path.display());
    };
    let path =
        std::path::absolute(path).with_context(|| format!("{}: not a path", path.display()))?;
    let (store, as_json) = (store.clone(), request.json);
    let start = move |context: shard::ShardContext| async move {
        let name_of = |account| match &users {
            Some(users) if !users.is_empty() => match users.get(&account) {
                Some(name) => AccountName::Known(name.clone()),
                None => AccountName::Gone,
            },
            _ => AccountName::Unknown,
        };
        let names: HashSet<&str> =
            users.iter().flat_map(|users| users.values()).map(|it| &**it).collect();
        let has = |identifier: &Identifier| match identifier {
            Identifier::User { name, .. } if !names.is_empty() => Some(names.contains(&**name)),
            _ => None,
        };
        // If the receiver is gone, its process is ending.
        let tell = |line: String| drop(sender.send(line));
        tell("#no server runs here: this is what is on disk".to_owned());
        let only = match account.as_deref() {
            None => None,
            Some(SHARED) => Some(AccountId::PUBLIC),
            Some(account) if by_number(account).is_some() => by_number(account),
            Some(account) => {
                let wanted = account.to_lowercase();
                let mut known = users.iter().flatten();
                let Some((number, _)) = known.find(|(_, name)| **name == wanted) else {
                    tell(format!("!{}", no_account(account)));
                    return Ok(());
                };
                Some(*number)
            }
        };
        for partition in (0..layout.partitions).map(PartitionId) {
            if only.is_some_and(|account| account.partition(layout.partitions) != partition) {
                continue;
            }
            let folder = path.join(data_dir::partition_name(partition));
            let partition =
                at_rest::open(&folder, context.executor.clone(), partition, &store).await?;
            let mut owners = match only {
                Some(account) => vec![account],
                None => partition.account_as_it_is(AccountId::SHARES).await?.sharers(),
            };
            let public = AccountId::PUBLIC;
            let is_here = public.partition(layout.partitions) == partition.id();
            if only.is_none() && is_here && !owners.contains(&public) {
                owners.push(public);
            }
            for account in owners {
                let name = match account {
                    AccountId::PUBLIC => Some(SHARED.to_owned()),
                    account => match name_of(account) {
                        AccountName::Known(name) => Some(name),
                        AccountName::Gone | AccountName::Unknown => None,
                    },
                };
                let owner = Owner { account, name };
                match lists(&partition, &owner, mailbox.as_deref()).await {
                    Ok(lists) => {
                        if lists.is_empty() && only.is_some() {
                            tell(nothing(&owner));
                        }
                        let known = Known { name_of: &name_of, has: &has };
                        let lines = |it| lines(&owner, it, &known, as_json);
                        lists.iter().flat_map(lines).for_each(tell);
                    }
                    Err(why) => tell(format!("!{why}")),
                }
            }
        }
        Ok::<_, StoreError>(())
    };
    let threads = shard::start(&ShardOptions::default(), vec![start]);
    let threads = threads.context("cannot start a shard to read on")?;
    for ended in threads.join() {
        ended.context("the reading shard ended")?.context("the access lists cannot be read")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            account: "alice@x.test".to_owned(),
            mailbox: "a = b/ü".to_owned(),
            identifier: "-$staff".to_owned(),
        }
    }

    #[test]
    fn what_is_asked_is_understood() {
        let list = |account: Option<&str>, mailbox: Option<&str>| AclVerb::List {
            account: account.map(str::to_owned),
            mailbox: mailbox.map(str::to_owned),
        };
        for verb in [
            list(None, None),
            list(Some(SHARED), None),
            list(Some("a@b"), Some("x y")),
            AclVerb::Set { place: place(), rights: "-lr".into(), create: false, dry: true },
            AclVerb::Set { place: place(), rights: String::new(), create: true, dry: false },
            AclVerb::Remove { place: place(), dry: true },
            AclVerb::Remove { place: place(), dry: false },
            AclVerb::Seen { account: "a@b".into(), mailbox: "x y".into(), is_personal: true },
            AclVerb::Seen { account: SHARED.into(), mailbox: "ü".into(), is_personal: false },
        ] {
            for json in [false, true] {
                let request = AclRequest { verb: verb.clone(), json };
                assert_eq!(AclRequest::parse(&request.line()), Some(request));
            }
        }
    }

    #[test]
    fn nothing_else_is_understood() {
        for line in [
            "",
            "acl",
            "acl\tdrop",
            "acl\tlist\tcolour=red",
            "acl\tlist\taccount",
            "acl\tset\taccount=a\tmailbox=b\tidentifier=c",
            "acl\tremove\taccount=a\tmailbox=b",
            "acl\tseen\taccount=a\tmailbox=b",
            "acl\tseen\taccount=a\tmailbox=b\tseen=mine",
            "acl\tremove\taccount=a\tmailbox=b\tidentifier=c\trights=l",
            "acl\tlist\taccount=a\taccount=b",
            "queue\tlist",
        ] {
            assert_eq!(AclRequest::parse(line), None, "{line:?}");
        }
        // A name cannot become another field.
        let mailbox = "x\tjson=1\n".to_owned();
        let verb = AclVerb::List { account: Some("a".to_owned()), mailbox: Some(mailbox) };
        let line = AclRequest { verb, json: false }.line();
        assert_eq!(line, "acl\tlist\taccount=a\tmailbox=x json=1 ");
    }
}
