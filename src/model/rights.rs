//! Access rights on mailboxes (RFC 4314): rights, who has them, and a mailbox's access list.
//!
//! Pure values. The store keeps an encoded [`AccessList`] beside each mailbox that has one and asks
//! [`rights_stored`]; the protocol parses [`Rights`] and [`Change`]; `service::imap` decides by the
//! [`Rights`] what a command may do.
//!
//! A list grants the union of its entries that name the asker, less the union of its negative
//! entries that do (RFC 4314 2). Two rules are ours, as the RFC allows: an owner who has no
//! positive entry of his own has every right, and whatever the list says he keeps `l` and `a`, so
//! that nobody locks himself out of his own mailbox.
//!
//! Identifiers are compared in lower case, as the directory compares addresses; nothing else is
//! normalised. An entry for a user also keeps the number of the account that had the name when the
//! entry was set, and from then on means that account: addresses may be given to somebody else,
//! numbers are never used again. Without a number (there was no such account) it means whoever has
//! the name. A number is shown as the present address of its account ([`AccessList::names`]), or
//! as `account:7` where there is no such account any more. `$name` is a group, an identifier that
//! begins with `-` is a negative one, and `anyone`, `authuser` and `owner` are as in Dovecot and
//! Cyrus; everything else is a user.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{collections::HashMap, fmt, ops::BitOr};

use super::{AccountId, FlagMask, Flags};

/// Entries of an access list.
pub const ACCESS_ENTRIES_MAX: usize = 128;
/// Octets of an encoded access list. New mailboxes get a copy of their parent's.
pub const ACCESS_LIST_OCTETS_MAX: usize = 8 * 1024;
/// Octets of an identifier: an address at its longest.
pub const IDENTIFIER_MAX: usize = 320;

/// A right (RFC 4314 2.1), in the order in which rights are written. The order is on disk for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Right {
    /// `l`: see that the mailbox exists.
    Lookup,
    /// `r`: select it, read it, get its status.
    Read,
    /// `s`: set and clear `\Seen`.
    Seen,
    /// `w`: set and clear flags other than `\Seen` and `\Deleted`.
    Write,
    /// `i`: put messages in.
    Insert,
    /// `p`: send mail to it.
    Post,
    /// `k`: create mailboxes below it, or move them there.
    CreateMailbox,
    /// `x`: delete or rename it.
    DeleteMailbox,
    /// `t`: set and clear `\Deleted`.
    DeleteMessages,
    /// `e`: expunge.
    Expunge,
    /// `a`: read and change its access list.
    Administer,
}

impl Right {
    pub const EVERY: [Right; 11] = [
        Right::Lookup,
        Right::Read,
        Right::Seen,
        Right::Write,
        Right::Insert,
        Right::Post,
        Right::CreateMailbox,
        Right::DeleteMailbox,
        Right::DeleteMessages,
        Right::Expunge,
        Right::Administer,
    ];

    pub fn letter(self) -> char {
        match self {
            Right::Lookup => 'l',
            Right::Read => 'r',
            Right::Seen => 's',
            Right::Write => 'w',
            Right::Insert => 'i',
            Right::Post => 'p',
            Right::CreateMailbox => 'k',
            Right::DeleteMailbox => 'x',
            Right::DeleteMessages => 't',
            Right::Expunge => 'e',
            Right::Administer => 'a',
        }
    }
}

/// Why a string of rights is refused; the text is suitable for a `BAD` (RFC 4314 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RightsError {
    #[error("unknown right")]
    Unknown,
    /// RFC 4314 2.1 leaves the digits to implementations.
    #[error("this server has no rights named by digits")]
    Digit,
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights(u16);

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const ALL: Rights = Rights((1 << Right::EVERY.len()) - 1);
    /// What an owner has on his own mailbox whatever its list says.
    pub const OF_EVERY_OWNER: Rights = Rights::of(&[Right::Lookup, Right::Administer]);
    /// Any of these lets its holder ask MYRIGHTS (RFC 4314 4).
    pub const FOR_MY_RIGHTS: Rights = Rights::of(&[
        Right::Lookup,
        Right::Read,
        Right::Insert,
        Right::CreateMailbox,
        Right::DeleteMailbox,
        Right::Administer,
    ]);
    /// With none of these nothing in the mailbox can be changed (RFC 4314 5.2).
    pub const TO_CHANGE_MESSAGES: Rights = Rights::of(&[
        Right::Seen,
        Right::Write,
        Right::Insert,
        Right::DeleteMessages,
        Right::Expunge,
    ]);
    /// Members of the virtual right `c`: RFC 2086 clients mean "mailboxes" by it.
    const OF_C: Rights = Rights::of(&[Right::CreateMailbox, Right::DeleteMailbox]);
    /// Members of the virtual right `d`: RFC 2086 clients mean "messages" by it.
    const OF_D: Rights = Rights::of(&[Right::DeleteMessages, Right::Expunge]);

    pub const fn of(rights: &[Right]) -> Rights {
        let (mut bits, mut rest) = (0, rights);
        while let [right, after @ ..] = rest {
            bits |= 1 << *right as u16;
            rest = after;
        }
        Rights(bits)
    }

    /// Parses letters in any order, each any number of times; none is the empty set. `c` and `d`
    /// stand for all their members (RFC 4314 2.1.1).
    pub fn parse(text: &[u8]) -> Result<Rights, RightsError> {
        let mut rights = Rights::NONE;
        for octet in text {
            let named = match octet {
                b'c' => Rights::OF_C,
                b'd' => Rights::OF_D,
                b'0'..=b'9' => return Err(RightsError::Digit),
                _ => {
                    let right = Right::EVERY.iter().find(|it| it.letter() == char::from(*octet));
                    Rights::of(&[*right.ok_or(RightsError::Unknown)?])
                }
            };
            rights = rights | named;
        }
        Ok(rights)
    }

    pub fn contain(self, right: Right) -> bool {
        self.0 & (1 << right as u16) != 0
    }

    /// Whether the sets have a right in common.
    pub fn contain_any(self, of: Rights) -> bool {
        self.0 & of.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// The flags that may be set and cleared.
    pub fn flags(self) -> FlagMask {
        let mut mask = FlagMask::NONE;
        if self.contain(Right::Seen) {
            mask.system |= Flags::SEEN;
        }
        if self.contain(Right::DeleteMessages) {
            mask.system |= Flags::DELETED;
        }
        if self.contain(Right::Write) {
            mask.system |= Flags::ANSWERED | Flags::FLAGGED | Flags::DRAFT;
            mask.keywords = true;
        }
        mask
    }

    /// As told in ACL, MYRIGHTS and LISTRIGHTS responses: a virtual right follows if any of its
    /// members is there (RFC 4314 2.1.1).
    pub fn told(self) -> String {
        let mut text = self.to_string();
        for (letter, members) in [('c', Rights::OF_C), ('d', Rights::OF_D)] {
            if self.contain_any(members) {
                text.push(letter);
            }
        }
        text
    }
}

impl BitOr for Rights {
    type Output = Rights;
    fn bitor(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Rights {
        rights.into_iter().fold(Rights::NONE, |set, right| set | Rights::of(&[right]))
    }
}

/// The letters in the order `lrswipkxtea`.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Right::EVERY.iter().filter(|right| self.contain(**right));
        named.map(|right| right.letter()).try_for_each(|letter| write!(f, "{letter}"))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

/// What SETACL does with the rights of an identifier (RFC 4314 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Replace(Rights),
    Add(Rights),
    Remove(Rights),
}

impl Change {
    /// Parses RFC 4314 7 `mod-rights`.
    pub fn parse(text: &[u8]) -> Result<Change, RightsError> {
        match text {
            [b'+', rights @ ..] => Rights::parse(rights).map(Change::Add),
            [b'-', rights @ ..] => Rights::parse(rights).map(Change::Remove),
            rights => Rights::parse(rights).map(Change::Replace),
        }
    }

    pub fn apply(self, before: Rights) -> Rights {
        match self {
            Change::Replace(rights) => rights,
            Change::Add(rights) => before | rights,
            Change::Remove(rights) => before.without(rights),
        }
    }
}

/// Whom an entry names (RFC 4314 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identifier {
    /// Everybody, logged in or not.
    Anyone,
    /// Everybody who logged in.
    AuthUser,
    /// The account that has the mailbox.
    Owner,
    /// Members of a group of the directory; written `$name`. Lower case, without the `$`.
    Group(String),
    /// A user. With the number of an account the name, an address in lower case, is only for
    /// readers.
    User { name: String, account: Option<AccountId> },
}

/// Why an identifier is refused; the text is suitable for a `NO [CANNOT]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentifierError {
    #[error("the identifier is empty")]
    Empty,
    #[error("the identifier is too long")]
    Long,
    #[error("the identifier has a control character")]
    Control,
    /// A name that stands for who did not log in, where all have to.
    #[error("nobody is anonymous here; \"anyone\" is everybody")]
    Anonymous,
}

impl Identifier {
    /// Parses an identifier without its `-`.
    pub fn parse(text: &str) -> Result<Identifier, IdentifierError> {
        let text = text.to_lowercase();
        if text.len() > IDENTIFIER_MAX {
            return Err(IdentifierError::Long);
        }
        Ok(match text.as_str() {
            "anyone" => Identifier::Anyone,
            "authuser" => Identifier::AuthUser,
            "owner" => Identifier::Owner,
            name => match name.strip_prefix('$') {
                Some(group) => Identifier::Group(checked(group)?.to_owned()),
                None => Identifier::user(name)?,
            },
        })
    }

    /// A user, whatever the name, without a number.
    pub fn user(name: &str) -> Result<Identifier, IdentifierError> {
        let name = checked(&name.to_lowercase())?.to_owned();
        Ok(Identifier::User { name, account: None })
    }

    /// The same with the number of the account that has the name now, if it is a user.
    pub fn numbered(self, account: Option<AccountId>) -> Identifier {
        match self {
            Identifier::User { name, .. } => Identifier::User { name, account },
            other => other,
        }
    }

    /// Whether this, of an entry, is meant by `subject`: users with a number each by number, and
    /// an entry without one by name. What the account of an entry is called is for
    /// [`AccessList::resolve`] to find.
    fn is_meant_by(&self, subject: &Identifier) -> bool {
        use Identifier::User;
        match (self, subject) {
            (User { account: Some(one), .. }, User { account, .. }) => *account == Some(*one),
            (User { name: one, .. }, User { name: another, .. }) => one == another,
            _ => self == subject,
        }
    }

    /// A user who is named by the number of an account, as [`AccessList::names`] shows one that is
    /// gone.
    pub fn is_number(&self) -> bool {
        match self {
            Identifier::User { name, account: None } => parse_account_number(name).is_some(),
            _ => false,
        }
    }

    fn named(&self) -> Named<'_> {
        match self {
            Identifier::Anyone => Named::Anyone,
            Identifier::AuthUser => Named::AuthUser,
            Identifier::Owner => Named::Owner,
            Identifier::Group(name) => Named::Group(name),
            Identifier::User { name, account } => Named::User { name, account: *account },
        }
    }
}

/// Goes before the number of an account in the place of an address. No address begins with it.
const NUMBER: &str = "account:";

/// What stands for the address of an account that has none: `account:7`.
pub fn account_number(account: AccountId) -> String {
    format!("{NUMBER}{account}")
}

/// The account of [`account_number`].
pub fn parse_account_number(name: &str) -> Option<AccountId> {
    let digits = name.strip_prefix(NUMBER)?;
    let account = AccountId(digits.parse().ok()?);
    (account_number(account) == name).then_some(account)
}

/// What an account is called now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccountName {
    /// Its address.
    Known(String),
    /// There is no such account any more.
    Gone,
    /// The accounts are not known here.
    Unknown,
}

/// A name of a user or a group that may be in a list.
fn checked(name: &str) -> Result<&str, IdentifierError> {
    if name.is_empty() {
        return Err(IdentifierError::Empty);
    }
    if name.len() > IDENTIFIER_MAX {
        return Err(IdentifierError::Long);
    }
    match name.chars().any(char::is_control) {
        true => Err(IdentifierError::Control),
        false => Ok(name),
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identifier::Anyone => f.write_str("anyone"),
            Identifier::AuthUser => f.write_str("authuser"),
            Identifier::Owner => f.write_str("owner"),
            Identifier::Group(name) => write!(f, "${name}"),
            Identifier::User { name, .. } => f.write_str(name),
        }
    }
}

/// An identifier as SETACL names it: with a `-` before it, its rights are taken away (RFC 4314 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    pub negative: bool,
    pub identifier: Identifier,
}

impl Subject {
    pub fn positive(identifier: Identifier) -> Subject {
        Subject { negative: false, identifier }
    }

    /// Whether an entry of this is meant by `subject`.
    fn is_meant_by(&self, subject: &Subject) -> bool {
        let signs = (self.negative, subject.negative);
        signs.0 == signs.1 && self.identifier.is_meant_by(&subject.identifier)
    }

    fn shown_as(&self, name: &str) -> String {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{name}")
    }

    /// The same as the lists of `account`, which belongs to the user `owner`, have it: the owner,
    /// named by his number or his name, is the owner.
    pub fn in_account(self, account: AccountId, owner: &str) -> Subject {
        match self.identifier {
            Identifier::User { name, account: number }
                if number == Some(account) || name == owner =>
            {
                Subject { identifier: Identifier::Owner, ..self }
            }
            identifier => Subject { identifier, ..self },
        }
    }

    /// The rights that cannot be taken from it, as [`Subject::in_account`] has it.
    pub fn required_rights(&self) -> Rights {
        match self.is_owner() {
            true => Rights::OF_EVERY_OWNER,
            false => Rights::NONE,
        }
    }

    /// The rights that it has without an entry.
    fn implied_rights(&self) -> Rights {
        if self.is_owner() { Rights::ALL } else { Rights::NONE }
    }

    fn is_owner(&self) -> bool {
        !self.negative && self.identifier == Identifier::Owner
    }

    pub fn parse(text: &str) -> Result<Subject, IdentifierError> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Ok(Subject { negative, identifier: Identifier::parse(text)? })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        write!(f, "{sign}{}", self.identifier)
    }
}

/// Who asks for access to a mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The mailbox is in the asker's own account.
    pub is_owner: bool,
    /// The number of the asker's account; `None` if nobody logged in.
    pub account: Option<AccountId>,
    /// The address, spelled as the directory compares addresses; empty if nobody logged in.
    pub name: &'a str,
    /// The groups that the asker belongs to, in lower case.
    pub groups: &'a [String],
    pub is_logged_in: bool,
}

/// An identifier in a list that is read in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Named<'a> {
    Anyone,
    AuthUser,
    Owner,
    Group(&'a str),
    User { name: &'a str, account: Option<AccountId> },
}

impl Named<'_> {
    fn is(self, asker: &Asker<'_>) -> bool {
        match self {
            Named::Anyone => true,
            Named::AuthUser => asker.is_logged_in,
            Named::Owner => asker.is_owner,
            Named::Group(name) => asker.groups.iter().any(|group| group == name),
            Named::User { account: account @ Some(_), .. } => {
                asker.is_logged_in && asker.account == account
            }
            Named::User { name, account: None } => asker.is_logged_in && asker.name == name,
        }
    }

    /// An entry for one user, not for several.
    fn is_personal(self) -> bool {
        matches!(self, Named::Owner | Named::User { .. })
    }

    fn to_identifier(self) -> Identifier {
        match self {
            Named::Anyone => Identifier::Anyone,
            Named::AuthUser => Identifier::AuthUser,
            Named::Owner => Identifier::Owner,
            Named::Group(name) => Identifier::Group(name.to_owned()),
            Named::User { name, account } => Identifier::User { name: name.to_owned(), account },
        }
    }
}

/// An entry in place: whether it is negative, whom it names, and the rights.
pub(super) type Row<'a> = (bool, Named<'a>, Rights);

/// Adds entries up for one asker.
#[derive(Default)]
struct Sum {
    given: Rights,
    taken: Rights,
    /// The owner has a positive entry of his own.
    owner_is_named: bool,
}

impl Sum {
    fn add(&mut self, (negative, named, rights): Row<'_>, asker: &Asker<'_>) {
        if !named.is(asker) {
            return;
        }
        if negative {
            self.taken = self.taken | rights;
        } else {
            self.given = self.given | rights;
            self.owner_is_named |= asker.is_owner && named.is_personal();
        }
    }

    fn total(self, asker: &Asker<'_>) -> Rights {
        if !asker.is_owner {
            return self.given.without(self.taken);
        }
        let given = if self.owner_is_named { self.given } else { Rights::ALL };
        given.without(self.taken) | Rights::OF_EVERY_OWNER
    }
}

/// Why a change of a list is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessListError {
    #[error("too many entries")]
    Entries,
    #[error("too many octets")]
    Octets,
    /// Named was an account by its number, of which the list has no entry.
    #[error("no entry has this number")]
    Number,
}

/// The octets are no access list of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed access list")]
pub struct MalformedAccessList;

/// The access list of a mailbox: entries in the order in which they were first set, each subject
/// once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccessList {
    entries: Vec<(Subject, Rights)>,
}

/// First octet of an encoded list.
const VERSION: u8 = 1;
/// Bit of an entry's first octet.
const NEGATIVE: u8 = 0x80;
pub(super) const ANYONE: u8 = 0;
pub(super) const AUTH_USER: u8 = 1;
const OWNER: u8 = 2;
pub(super) const GROUP: u8 = 3;
/// Without a number.
pub(super) const USER: u8 = 4;
/// With the number of an account.
pub(super) const ACCOUNT: u8 = 5;

impl AccessList {
    pub fn entries(&self) -> impl Iterator<Item = (&Subject, Rights)> {
        self.entries.iter().map(|(subject, rights)| (subject, *rights))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The rights of the entry of `subject`, if it has one; of a user whose account has an entry
    /// and whose name has another, those of both.
    pub fn entry(&self, subject: &Subject) -> Option<Rights> {
        let same = self.entries.iter().filter(|(known, _)| known.is_meant_by(subject));
        same.map(|(_, rights)| *rights).reduce(|one, other| one | other)
    }

    /// Sets the entry of `subject`; an entry without rights is removed (RFC 4314 3.1). It replaces
    /// the entries of a user's account, and of the name if that has no number: see
    /// [`Identifier::User`].
    ///
    /// # Errors
    /// If the list would be too long. It is then unchanged.
    pub fn set(&mut self, subject: Subject, rights: Rights) -> Result<(), AccessListError> {
        if rights.is_empty() {
            self.remove(&subject);
            return Ok(());
        }
        let mut changed = AccessList { entries: Vec::with_capacity(self.entries.len() + 1) };
        let mut new = Some((subject.clone(), rights));
        for entry in &self.entries {
            match entry.0.is_meant_by(&subject) {
                true => changed.entries.extend(new.take()),
                false => changed.entries.push(entry.clone()),
            }
        }
        changed.entries.extend(new);
        if changed.entries.len() > ACCESS_ENTRIES_MAX {
            return Err(AccessListError::Entries);
        }
        if changed.encode().len() > ACCESS_LIST_OCTETS_MAX {
            return Err(AccessListError::Octets);
        }
        *self = changed;
        Ok(())
    }

    /// Removes the entry of `subject`, if there is one (RFC 4314 3.2).
    pub fn remove(&mut self, subject: &Subject) {
        self.entries.retain(|(known, _)| !known.is_meant_by(subject));
    }

    /// Carries a change out on the rights of `subject`, as [`Subject::in_account`] has it (RFC 4314
    /// 3.1); what it had before, and has then. An owner without an entry has every right, so a
    /// change of his rights begins there.
    ///
    /// # Errors
    /// As [`AccessList::set`], and for a number that [`AccessList::resolve`] did not find.
    pub fn change(
        &mut self,
        subject: &Subject,
        change: Change,
    ) -> Result<(Rights, Rights), AccessListError> {
        if subject.identifier.is_number() {
            return Err(AccessListError::Number);
        }
        let before = self.entry(subject).unwrap_or_else(|| subject.implied_rights());
        let after = change.apply(before) | subject.required_rights();
        self.set(subject.clone(), after)?;
        Ok((before, after))
    }

    /// Removes the entry of `subject`, as [`AccessList::change`]: without one the owner has every
    /// right again.
    pub fn take_back(&mut self, subject: &Subject) -> (Rights, Rights) {
        let implied = subject.implied_rights();
        let before = self.entry(subject).unwrap_or(implied);
        self.remove(subject);
        (before, implied)
    }

    /// What the entries are shown as, in their order: accounts by the addresses that they have now.
    /// No two are alike.
    pub fn names(&self, name_of: &dyn Fn(AccountId) -> AccountName) -> Vec<String> {
        let name = |subject: &Subject| match &subject.identifier {
            Identifier::User { name, account: Some(account) } => match name_of(*account) {
                AccountName::Known(name) => subject.shown_as(&name),
                AccountName::Gone => subject.shown_as(&account_number(*account)),
                AccountName::Unknown => subject.shown_as(name),
            },
            _ => subject.to_string(),
        };
        let mut names: Vec<String> =
            self.entries.iter().map(|(subject, _)| name(subject)).collect();
        // A name that an account got since, or had once, beside an entry for the name.
        let mut shown: HashMap<String, usize> = HashMap::with_capacity(names.len());
        for name in &names {
            *shown.entry(name.clone()).or_default() += 1;
        }
        for (name, (subject, _)) in names.iter_mut().zip(&self.entries) {
            if let Identifier::User { account: Some(account), .. } = &subject.identifier
                && shown.get(name).is_some_and(|count| *count > 1)
            {
                *name = subject.shown_as(&account_number(*account));
            }
        }
        names
    }

    /// The subject with the number of its account, if it names an account as the list shows it.
    pub fn resolve(&self, subject: Subject, name_of: &dyn Fn(AccountId) -> AccountName) -> Subject {
        let Identifier::User { name, account: None } = &subject.identifier else { return subject };
        let shown = subject.shown_as(name);
        let names = self.names(name_of);
        let found = self.entries.iter().zip(names).find(|(_, known)| *known == shown);
        match found.map(|((known, _), _)| &known.identifier) {
            Some(Identifier::User { account: account @ Some(_), .. }) => {
                let identifier = subject.identifier.clone().numbered(*account);
                Subject { identifier, ..subject }
            }
            _ => subject,
        }
    }

    /// The entries as users see them, with the owner by his name. If none says what he may do, his
    /// rights come first.
    pub fn told(
        &self,
        owner: &str,
        name_of: &dyn Fn(AccountId) -> AccountName,
    ) -> Vec<(String, Rights)> {
        let subject = Subject::positive(Identifier::Owner);
        let implied = self.entry(&subject).is_none().then(|| (owner.to_owned(), Rights::ALL));
        let entries =
            self.entries().zip(self.names(name_of)).map(|((subject, rights), name)| match subject
                .identifier
            {
                Identifier::Owner => (subject.shown_as(owner), rights),
                _ => (name, rights),
            });
        implied.into_iter().chain(entries).collect()
    }

    /// Brings entries for users up to date: removes those for whom is gone, and gives
    /// those without a number that of the account which has the name, if there is one and the list
    /// does not become too long. Returns what was removed.
    pub fn renew(
        &mut self,
        is_gone: impl Fn(&Identifier) -> bool,
        named: impl Fn(&str) -> Option<AccountId>,
    ) -> Vec<(Subject, Rights)> {
        let (removed, kept) =
            self.entries.drain(..).partition(|(subject, _)| is_gone(&subject.identifier));
        self.entries = kept;
        let number = |(subject, _): &(Subject, Rights)| match &subject.identifier {
            Identifier::User { name, account: None } => {
                let identifier = subject.identifier.clone().numbered(Some(named(name)?));
                Some(Subject { identifier, ..*subject })
            }
            _ => None,
        };
        for subject in self.entries.iter().filter_map(number).collect::<Vec<_>>() {
            let rights = self.entry(&subject).unwrap_or_default();
            // As it was if there is no room.
            let _ = self.set(subject, rights);
        }
        removed
    }

    /// What `asker` may do: see the head of this file.
    pub fn rights_of(&self, asker: &Asker<'_>) -> Rights {
        let mut sum = Sum::default();
        for (subject, rights) in self.entries() {
            sum.add((subject.negative, subject.identifier.named(), rights), asker);
        }
        sum.total(asker)
    }

    /// For the store; `docs/disk_format.md`, "Access lists", has the layout.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for (Subject { negative, identifier }, rights) in &self.entries {
            let sign = if *negative { NEGATIVE } else { 0 };
            let (kind, number, name) = match identifier {
                Identifier::Anyone => (ANYONE, None, None),
                Identifier::AuthUser => (AUTH_USER, None, None),
                Identifier::Owner => (OWNER, None, None),
                Identifier::Group(name) => (GROUP, None, Some(name)),
                Identifier::User { name, account: None } => (USER, None, Some(name)),
                Identifier::User { name, account } => (ACCOUNT, *account, Some(name)),
            };
            out.push(kind | sign);
            out.extend_from_slice(&rights.0.to_le_bytes());
            if let Some(number) = number {
                out.extend_from_slice(&number.0.to_le_bytes());
            }
            if let Some(name) = name {
                out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
        }
        out
    }

    pub fn decode(octets: &[u8]) -> Result<AccessList, MalformedAccessList> {
        let mut list = AccessList::default();
        for row in Rows::new(octets)? {
            let (negative, named, rights) = row?;
            let subject = Subject { negative, identifier: named.to_identifier() };
            if list.entries.iter().any(|(known, _)| known.is_meant_by(&subject)) {
                return Err(MalformedAccessList);
            }
            list.entries.push((subject, rights));
        }
        Ok(list)
    }
}

/// What `asker` may do with a mailbox whose list is stored as `octets`, `None` if it has none:
/// then the owner has every right and others have none. The same holds for a list that cannot be
/// read: its owner can set another one. Allocates nothing.
pub fn rights_stored(octets: Option<&[u8]>, asker: &Asker<'_>) -> Rights {
    let sum = |octets| {
        let mut sum = Sum::default();
        for row in Rows::new(octets)? {
            sum.add(row?, asker);
        }
        Ok::<Sum, MalformedAccessList>(sum)
    };
    octets.and_then(|octets| sum(octets).ok()).unwrap_or_default().total(asker)
}

/// The entries of an encoded list, in place.
pub(super) struct Rows<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(octets: &'a [u8]) -> Result<Rows<'a>, MalformedAccessList> {
        match octets {
            [VERSION, rest @ ..] if octets.len() <= ACCESS_LIST_OCTETS_MAX => {
                Ok(Rows { rest, count: 0 })
            }
            _ => Err(MalformedAccessList),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedAccessList> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(MalformedAccessList)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn name(&mut self) -> Result<&'a str, MalformedAccessList> {
        let size = u16::from_le_bytes(self.take()?);
        let (name, rest) = self.rest.split_at_checked(size.into()).ok_or(MalformedAccessList)?;
        self.rest = rest;
        let name = std::str::from_utf8(name).map_err(|_| MalformedAccessList)?;
        checked(name).map_err(|_| MalformedAccessList)
    }

    fn row(&mut self) -> Result<Row<'a>, MalformedAccessList> {
        self.count += 1;
        if self.count > ACCESS_ENTRIES_MAX {
            return Err(MalformedAccessList);
        }
        let [first] = self.take()?;
        // Rights that a later version added are not known here, and not granted.
        let rights = Rights(u16::from_le_bytes(self.take()?) & Rights::ALL.0);
        let named = match first & !NEGATIVE {
            ANYONE => Named::Anyone,
            AUTH_USER => Named::AuthUser,
            OWNER => Named::Owner,
            GROUP => Named::Group(self.name()?),
            USER => Named::User { name: self.name()?, account: None },
            ACCOUNT => {
                let account = Some(AccountId(u64::from_le_bytes(self.take()?)));
                Named::User { name: self.name()?, account }
            }
            _ => return Err(MalformedAccessList),
        };
        Ok((first & NEGATIVE != 0, named, rights))
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<Row<'a>, MalformedAccessList>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_err() {
            self.rest = &[];
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn rights(text: &str) -> Rights {
        Rights::parse(text.as_bytes()).expect(text)
    }

    fn list(entries: &[(&str, &str)]) -> AccessList {
        let mut list = AccessList::default();
        for (subject, text) in entries {
            list.set(Subject::parse(subject).expect(subject), rights(text)).expect("room");
        }
        list
    }

    fn numbered(text: &str, account: u64) -> Subject {
        let Subject { negative, identifier } = Subject::parse(text).expect(text);
        Subject { negative, identifier: identifier.numbered(Some(AccountId(account))) }
    }

    /// The list as text, with numbers.
    fn told(list: &AccessList) -> String {
        let entries = list.entries().map(|(subject, rights)| match subject.identifier {
            Identifier::User { account: Some(account), .. } => {
                format!("{subject}#{account} {rights}")
            }
            _ => format!("{subject} {rights}"),
        });
        entries.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn changes_begin_with_what_a_subject_has() {
        // (list, subject, change, before and after)
        const CASES: &[(&[(&str, &str)], &str, &str, &str)] = &[
            (&[], "bob", "+lr", " -> lr"),
            (&[("bob", "lr")], "bob", "-r", "lr -> l"),
            (&[("bob", "lr")], "bob", "", "lr -> "),
            (&[], "owner", "-t", "lrswipkxtea -> lrswipkxea"),
            (&[], "ann", "-a", "lrswipkxtea -> lrswipkxtea"),
            (&[("owner", "lra")], "ann", "+s", "lra -> lrsa"),
            (&[], "-owner", "t", " -> t"),
        ];
        for (entries, who, change, expected) in CASES {
            let mut list = list(entries);
            let subject = Subject::parse(who).expect(who).in_account(AccountId(1), "ann");
            let change = Change::parse(change.as_bytes()).expect(change);
            let (before, after) = list.change(&subject, change).expect("room");
            assert_eq!(format!("{before} -> {after}"), *expected, "{who} {entries:?}");
            let (before, after) = list.take_back(&subject);
            let implied = if subject.to_string() == "owner" { Rights::ALL } else { Rights::NONE };
            assert_eq!(after, implied, "{who}: then {before}");
            assert_eq!(list.entry(&subject), None);
        }
    }

    #[test]
    fn rights_are_parsed_and_told() {
        // (text, letters, as told)
        const CASES: &[(&str, &str, &str)] = &[
            ("", "", ""),
            ("lr", "lr", "lr"),
            ("rlrl", "lr", "lr"),
            ("aetxkpiwsrl", "lrswipkxtea", "lrswipkxteacd"),
            ("c", "kx", "kxc"),
            ("d", "te", "ted"),
            ("lrswipcda", "lrswipkxtea", "lrswipkxteacd"),
            ("k", "k", "kc"),
            ("x", "x", "xc"),
            ("t", "t", "td"),
            ("e", "e", "ed"),
        ];
        for (text, letters, told) in CASES {
            let rights = rights(text);
            assert_eq!((rights.to_string().as_str(), rights.told().as_str()), (*letters, *told));
        }
        assert_eq!(rights("lrswipkxtea"), Rights::ALL);
        for (text, error) in [
            ("lrz", RightsError::Unknown),
            ("L", RightsError::Unknown),
            ("l r", RightsError::Unknown),
            ("l-r", RightsError::Unknown),
            ("lr0", RightsError::Digit),
            ("9", RightsError::Digit),
        ] {
            assert_eq!(Rights::parse(text.as_bytes()), Err(error), "{text}");
        }
        assert_eq!(Rights::parse(b"l\xc3\xa9"), Err(RightsError::Unknown));
    }

    #[test]
    fn changes() {
        // (before, change, after)
        const CASES: &[(&str, &str, &str)] = &[
            ("lr", "swi", "swi"),
            ("lr", "", ""),
            ("lr", "+s", "lrs"),
            ("lr", "+", "lr"),
            ("lrs", "-r", "ls"),
            ("lr", "-sw", "lr"),
            ("lrkxte", "-d", "lrkx"),
            ("lr", "+c", "lrkx"),
        ];
        for (before, change, after) in CASES {
            let change = Change::parse(change.as_bytes()).expect(change);
            assert_eq!(change.apply(rights(before)), rights(after), "{before} {change:?}");
        }
        assert_eq!(Change::parse(b"+l+r"), Err(RightsError::Unknown));
        assert_eq!(Change::parse(b"-1"), Err(RightsError::Digit));
    }

    #[test]
    fn identifiers() {
        let user = |name: &str| Identifier::User { name: name.to_owned(), account: None };
        let group = |name: &str| Identifier::Group(name.to_owned());
        let cases = [
            ("anyone", false, Identifier::Anyone),
            ("-ANYONE", true, Identifier::Anyone),
            ("authuser", false, Identifier::AuthUser),
            ("Owner", false, Identifier::Owner),
            ("Bob@Demo.test", false, user("bob@demo.test")),
            ("-bob@demo.test", true, user("bob@demo.test")),
            ("--x", true, user("-x")),
            ("$Staff", false, group("staff")),
            ("-$staff", true, group("staff")),
            // A user of that name, which other servers take for a group.
            ("group:staff", false, user("group:staff")),
            ("Jürgen ÄÖ", false, user("jürgen äö")),
        ];
        for (text, negative, identifier) in cases {
            let subject = Subject { negative, identifier };
            assert_eq!(Subject::parse(text), Ok(subject.clone()), "{text}");
            assert_eq!(Subject::parse(&subject.to_string()), Ok(subject), "{text}");
        }
        for (text, error) in [
            ("", IdentifierError::Empty),
            ("-", IdentifierError::Empty),
            ("$", IdentifierError::Empty),
            ("-$", IdentifierError::Empty),
            ("a\tb", IdentifierError::Control),
            ("$a\u{85}b", IdentifierError::Control),
        ] {
            assert_eq!(Subject::parse(text), Err(error), "{text:?}");
        }
        let long = "x".repeat(IDENTIFIER_MAX);
        assert!(Subject::parse(&long).is_ok());
        assert_eq!(Subject::parse(&format!("x{long}")), Err(IdentifierError::Long));
    }

    /// Entries, asker, rights.
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);

    #[test]
    fn lists_add_up() {
        const CASES: &[Case] = &[
            (&[], "owner", "lrswipkxtea"),
            (&[], "bob", ""),
            (&[("bob", "lr")], "owner", "lrswipkxtea"),
            (&[("bob", "lr")], "bob", "lr"),
            (&[("bob", "lr")], "carol", ""),
            (&[("anyone", "l"), ("bob", "r")], "bob", "lr"),
            (&[("anyone", "l"), ("bob", "r")], "stranger", "l"),
            (&[("authuser", "lr")], "bob", "lr"),
            (&[("authuser", "lr")], "stranger", ""),
            (&[("$staff", "lrs")], "bob", "lrs"),
            (&[("$staff", "lrs")], "carol", ""),
            (&[("$others", "lrs")], "bob", ""),
            // Negative rights count whatever their order (RFC 4314 2).
            (&[("-bob", "r"), ("anyone", "lr"), ("bob", "rs")], "bob", "ls"),
            (&[("anyone", "lrs"), ("-$staff", "s")], "bob", "lr"),
            (&[("-bob", "lr")], "bob", ""),
            // The owner: an entry of his own restricts him; entries for several do not.
            (&[("owner", "lr")], "owner", "lra"),
            (&[("alice", "s")], "owner", "lsa"),
            (&[("owner", "l"), ("alice", "r")], "owner", "lra"),
            (&[("owner", "r"), ("anyone", "s")], "owner", "lrsa"),
            (&[("anyone", "l")], "owner", "lrswipkxtea"),
            (&[("-owner", "xlta")], "owner", "lrswipkea"),
            (&[("-anyone", "lrswipkxtea")], "owner", "la"),
            // "owner" is nobody else.
            (&[("owner", "lr")], "bob", ""),
        ];
        let staff = ["staff".to_owned()];
        for (entries, who, expected) in CASES {
            let asker = match *who {
                "owner" => Asker {
                    is_owner: true,
                    account: None,
                    name: "alice",
                    groups: &[],
                    is_logged_in: true,
                },
                "bob" => Asker {
                    is_owner: false,
                    account: None,
                    name: "bob",
                    groups: &staff,
                    is_logged_in: true,
                },
                "stranger" => Asker {
                    is_owner: false,
                    account: None,
                    name: "",
                    groups: &[],
                    is_logged_in: false,
                },
                name => {
                    Asker { is_owner: false, account: None, name, groups: &[], is_logged_in: true }
                }
            };
            let list = list(entries);
            assert_eq!(list.rights_of(&asker), rights(expected), "{entries:?} {who}");
            let stored = rights_stored(Some(&list.encode()), &asker);
            assert_eq!(stored, rights(expected), "{entries:?} {who}, stored");
        }
    }

    #[test]
    fn entries_are_set_and_removed() {
        let mut list = list(&[("bob", "lr"), ("-bob", "r"), ("anyone", "l")]);
        let subject = |text: &str| Subject::parse(text).unwrap();
        list.set(subject("BOB"), rights("lrs")).unwrap();
        assert_eq!(list.entry(&subject("bob")), Some(rights("lrs")));
        assert_eq!(list.entry(&subject("-bob")), Some(rights("r")));
        list.set(subject("anyone"), Rights::NONE).unwrap();
        list.remove(&subject("nobody"));
        list.remove(&subject("-bob"));
        let told: Vec<String> =
            list.entries().map(|(it, rights)| format!("{it} {rights}")).collect();
        assert_eq!(told, ["bob lrs"]);
        list.remove(&subject("bob"));
        assert!(list.is_empty());
    }

    /// Whether an entry is meant for the account or for the name.
    #[test]
    fn a_name_used_again_inherits_nothing() {
        let bob = |account| Asker {
            is_owner: false,
            account: Some(AccountId(account)),
            name: "bob",
            groups: &[],
            is_logged_in: true,
        };
        let mut list = AccessList::default();
        list.set(numbered("bob", 1), rights("lr")).unwrap();
        list.set(numbered("-bob", 1), rights("r")).unwrap();
        let check = |list: &AccessList, account, expected| {
            assert_eq!(list.rights_of(&bob(account)), rights(expected), "{account}");
            assert_eq!(rights_stored(Some(&list.encode()), &bob(account)), rights(expected));
        };
        check(&list, 1, "l");
        check(&list, 2, "");
        // The account has another name now, and keeps its rights.
        let robert = Asker { name: "robert", ..bob(1) };
        assert_eq!(list.rights_of(&robert), rights("l"));
        // An entry of a name that nobody had is for whoever has it.
        list.set(Subject::parse("carol").unwrap(), rights("l")).unwrap();
        let carol = |account| Asker { name: "carol", ..bob(account) };
        assert_eq!(list.rights_of(&carol(3)), rights("l"));
        assert_eq!(list.rights_of(&Asker { is_logged_in: false, ..carol(3) }), Rights::NONE);
        // Both entries go with the account, and nobody else's.
        list.set(numbered("bob", 2), rights("lrs")).unwrap();
        let gone = |list: &mut AccessList, account: u64| {
            let is_gone = |it: &Identifier| match it {
                Identifier::User { account: number, .. } => *number == Some(AccountId(account)),
                _ => false,
            };
            list.renew(is_gone, |_| None).len()
        };
        assert_eq!(gone(&mut list, 1), 2);
        assert_eq!(gone(&mut list, 1), 0);
        assert_eq!(told(&list), "carol l, bob#2 lrs");
        // The name has an account now, and later means nobody else.
        let has = |name: &str| (name == "carol").then_some(AccountId(3));
        assert!(list.renew(|_| false, has).is_empty());
        assert_eq!(told(&list), "carol#3 l, bob#2 lrs");
        assert_eq!(list.rights_of(&carol(4)), Rights::NONE);
        assert_eq!(gone(&mut list, 3), 1);
        assert_eq!(told(&list), "bob#2 lrs");
    }

    #[test]
    fn one_user_has_one_entry() {
        // (name, number or 0, rights, the list after it)
        const STEPS: &[(&str, u64, &str, &str)] = &[
            ("bob", 0, "l", "bob l"),
            ("-bob", 0, "r", "bob l, -bob r"),
            ("anyone", 0, "l", "bob l, -bob r, anyone l"),
            // The name has an account now.
            ("bob", 1, "lr", "bob#1 lr, -bob r, anyone l"),
            // The account has another name now, and its name another account.
            ("robert", 1, "lrs", "robert#1 lrs, -bob r, anyone l"),
            ("bob", 2, "l", "robert#1 lrs, -bob r, anyone l, bob#2 l"),
            // Nobody looked up whether an account of the list has the name.
            ("robert", 0, "r", "robert#1 lrs, -bob r, anyone l, bob#2 l, robert r"),
            // By number and by name at once.
            ("robert", 2, "lr", "robert#1 lrs, -bob r, anyone l, robert#2 lr"),
            ("-bob", 7, "", "robert#1 lrs, anyone l, robert#2 lr"),
            ("robert", 0, "", "robert#1 lrs, anyone l, robert#2 lr"),
            ("robert", 1, "", "anyone l, robert#2 lr"),
        ];
        let mut list = AccessList::default();
        for (name, number, rights_set, after) in STEPS {
            let subject = match number {
                0 => Subject::parse(name).unwrap(),
                number => numbered(name, *number),
            };
            list.set(subject.clone(), rights(rights_set)).unwrap();
            assert_eq!(told(&list), *after);
            let entry = Some(rights(rights_set)).filter(|rights| !rights.is_empty());
            assert_eq!(list.entry(&subject), entry, "{name} {number}");
            assert_eq!(AccessList::decode(&list.encode()).as_ref(), Ok(&list));
        }
        list.set(numbered("bob", 1), rights("l")).unwrap();
        list.set(Subject::parse("robert").unwrap(), rights("r")).unwrap();
        assert_eq!(list.entry(&numbered("robert", 1)), Some(rights("lr")));
    }

    /// Lists are shown by what accounts are called now, and entries are found by that.
    #[test]
    fn names_are_those_of_now() {
        let mut list = AccessList::default();
        for (name, number) in [("bob", 1), ("-bob", 1), ("carol", 2), ("dave", 3), ("old", 4)] {
            list.set(numbered(name, number), rights("l")).unwrap();
        }
        list.set(Subject::parse("$bob").unwrap(), rights("l")).unwrap();
        list.set(Subject::parse("dave").unwrap(), rights("r")).unwrap();
        let name_of = |account: AccountId| match account.0 {
            1 => AccountName::Known("carol".to_owned()),
            2 => AccountName::Gone,
            4 => AccountName::Known("new".to_owned()),
            _ => AccountName::Unknown,
        };
        // Whose name is not known is not taken for whoever has it.
        let expected = ["carol", "-carol", "account:2", "account:3", "new", "$bob", "dave"];
        assert_eq!(list.names(&name_of), expected);
        let resolved = |text: &str| {
            let subject = list.resolve(Subject::parse(text).unwrap(), &name_of);
            match subject.identifier {
                Identifier::User { account, .. } => account.map_or(0, |account| account.0),
                _ => 0,
            }
        };
        for (text, number) in [
            ("carol", 1),
            ("-carol", 1),
            ("bob", 0),
            ("account:2", 2),
            ("-account:2", 0),
            ("account:3", 3),
            ("dave", 0),
            ("old", 0),
            ("new", 4),
            ("$bob", 0),
            ("account:9", 0),
        ] {
            assert_eq!(resolved(text), number, "{text}");
        }
        for text in ["account:", "account:x", "account:02", "account:+2", "account:2 "] {
            assert_eq!(parse_account_number(text), None, "{text}");
        }
        let number = Subject::parse("account:9").unwrap();
        let change = Change::Add(Rights::ALL);
        assert_eq!(list.change(&number, change), Err(AccessListError::Number));
    }

    #[test]
    fn lists_are_bounded() {
        let mut list = AccessList::default();
        for number in 0..ACCESS_ENTRIES_MAX {
            list.set(Subject::parse(&format!("u{number}")).unwrap(), Rights::ALL).unwrap();
        }
        let one_more = Subject::parse("one more").unwrap();
        assert_eq!(list.set(one_more.clone(), Rights::ALL), Err(AccessListError::Entries));
        assert_eq!(list.set(one_more, Rights::NONE), Ok(()));
        list.set(Subject::parse("u7").unwrap(), rights("l")).unwrap();
        assert_eq!(AccessList::decode(&list.encode()), Ok(list));
        let mut list = AccessList::default();
        let long = |number: usize| {
            let name = format!("{number}{}", "x".repeat(IDENTIFIER_MAX - 3));
            Subject::parse(&name).unwrap()
        };
        let set = (0..ACCESS_ENTRIES_MAX).take_while(|n| list.set(long(*n), Rights::ALL).is_ok());
        let set = set.count();
        assert!((20..30).contains(&set), "{set}");
        assert_eq!(list.set(long(99), Rights::ALL), Err(AccessListError::Octets));
        assert!(list.encode().len() <= ACCESS_LIST_OCTETS_MAX);
        assert_eq!(list.entries().count(), set);
    }

    #[test]
    fn octets_on_disk() {
        let list =
            list(&[("owner", "lra"), ("-anyone", "l"), ("$ab", "e"), ("b@c", "lrswipkxtea")]);
        let expected: &[u8] = &[
            1, // version
            2, 0x03, 0x04, // owner: l r a
            0x80, 0x01, 0, // -anyone: l
            3, 0, 0x02, 2, 0, b'a', b'b', // $ab: e
            4, 0xff, 0x07, 3, 0, b'b', b'@', b'c', // b@c: all
        ];
        assert_eq!(list.encode(), expected);
        assert_eq!(AccessList::decode(expected), Ok(list));
        let mut list = AccessList::default();
        list.set(numbered("-b", 0x0807_0605_0403_0201), rights("l")).unwrap();
        let expected: &[u8] = &[1, 0x85, 0x01, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, b'b'];
        assert_eq!(list.encode(), expected);
        assert_eq!(AccessList::decode(expected), Ok(list));
        const MALFORMED: &[&[u8]] = &[
            b"",
            &[0],
            &[2, 0, 1, 0],
            &[1, 0],
            &[1, 0, 1],
            &[1, 6, 1, 0],
            &[1, 5, 1, 0],
            &[1, 5, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0, b'a'],
            &[1, 4, 1, 0],
            &[1, 4, 1, 0, 0, 0],
            &[1, 4, 1, 0, 2, 0, b'a'],
            &[1, 4, 1, 0, 1, 0, 0xff],
            &[1, 4, 1, 0, 1, 0, b'\n'],
            // The same subject twice.
            &[1, 0, 1, 0, 0, 2, 0],
            &[1, 4, 1, 0, 1, 0, b'a', 5, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, b'a'],
        ];
        for octets in MALFORMED {
            assert_eq!(AccessList::decode(octets), Err(MalformedAccessList), "{octets:?}");
        }
        // What cannot be read gives others nothing, and the owner the means to replace it.
        let asker = |is_owner| Asker {
            is_owner,
            account: None,
            name: "b@c",
            groups: &[],
            is_logged_in: true,
        };
        assert_eq!(rights_stored(Some(&[1, 4, 1]), &asker(false)), Rights::NONE);
        assert_eq!(rights_stored(Some(&[1, 2, 1, 0, 4, 1]), &asker(true)), Rights::ALL);
        assert_eq!(rights_stored(None, &asker(true)), Rights::ALL);
        assert_eq!(rights_stored(None, &asker(false)), Rights::NONE);
        // A right of a later version.
        assert_eq!(rights_stored(Some(&[1, 0, 0x01, 0x80]), &asker(false)), rights("l"));
    }

    fn identifier() -> impl Strategy<Value = Identifier> {
        prop_oneof![
            Just(Identifier::Anyone),
            Just(Identifier::AuthUser),
            Just(Identifier::Owner),
            "[a-c]{1,2}".prop_map(Identifier::Group),
            ("[a-c]{1,2}", option::of(1..4u64)).prop_map(|(name, account)| {
                Identifier::User { name, account: account.map(AccountId) }
            }),
        ]
    }

    fn entry() -> impl Strategy<Value = (Subject, Rights)> {
        (any::<bool>(), identifier(), any::<u16>()).prop_map(|(negative, identifier, bits)| {
            (Subject { negative, identifier }, Rights(bits & Rights::ALL.0))
        })
    }

    proptest! {
        /// Compared with the definition, right by right; stored and in memory.
        #[test]
        fn a_right_is_granted_and_not_taken(
            entries in vec(entry(), 0..12),
            is_owner in any::<bool>(),
            is_logged_in in any::<bool>(),
            account in option::of(1..4u64),
            name in "[a-c]{1,2}",
            groups in vec("[a-c]{1,2}", 0..3),
        ) {
            let is_logged_in = is_logged_in || is_owner;
            let account = account.map(AccountId);
            let asker = Asker { is_owner, account, name: &name, groups: &groups, is_logged_in };
            let mut list = AccessList::default();
            for (subject, rights) in entries {
                list.set(subject, rights).unwrap();
            }
            let names_asker = |identifier: &Identifier| match identifier {
                Identifier::Anyone => true,
                Identifier::AuthUser => is_logged_in,
                Identifier::Owner => is_owner,
                Identifier::Group(group) => groups.contains(group),
                Identifier::User { name: known, account: None } => is_logged_in && *known == name,
                Identifier::User { account: number, .. } => is_logged_in && *number == account,
            };
            let total = list.rights_of(&asker);
            for right in Right::EVERY {
                let has = |negative| list.entries().any(|(subject, rights)| {
                    subject.negative == negative
                        && names_asker(&subject.identifier)
                        && rights.contain(right)
                });
                let personal = list.entries().any(|(subject, _)| {
                    !subject.negative
                        && matches!(subject.identifier, Identifier::Owner | Identifier::User { .. })
                        && names_asker(&subject.identifier)
                });
                let given = has(false) || is_owner && !personal;
                let kept = is_owner && matches!(right, Right::Lookup | Right::Administer);
                prop_assert_eq!(total.contain(right), given && !has(true) || kept, "{:?}", right);
            }
            let octets = list.encode();
            prop_assert_eq!(rights_stored(Some(&octets), &asker), total);
            prop_assert_eq!(AccessList::decode(&octets), Ok(list));
        }

        #[test]
        fn any_octets_are_survived(mut octets in vec(any::<u8>(), 0..64), valid in any::<bool>()) {
            if valid && let Some(first) = octets.first_mut() {
                *first = VERSION;
            }
            let (account, name) = (None, "a");
            let asker = Asker { is_owner: false, account, name, groups: &[], is_logged_in: true };
            match AccessList::decode(&octets) {
                Ok(list) => {
                    let again = AccessList::decode(&list.encode());
                    prop_assert_eq!(rights_stored(Some(&octets), &asker), list.rights_of(&asker));
                    prop_assert_eq!(again, Ok(list));
                }
                Err(MalformedAccessList) => {
                    let _ = rights_stored(Some(&octets), &asker);
                }
            }
        }

        #[test]
        fn what_is_told_means_the_same(bits in any::<u16>()) {
            let rights = Rights(bits & Rights::ALL.0);
            prop_assert_eq!(Rights::parse(rights.to_string().as_bytes()), Ok(rights));
            // With virtual rights it may be more, of their members only.
            let told = Rights::parse(rights.told().as_bytes()).unwrap();
            prop_assert!(told.without(rights).without(Rights::OF_C | Rights::OF_D).is_empty());
        }
    }
}
