//! The names that a session can use (RFC 2342): those of the user's own account without a prefix,
//! those of other users below [`OTHER_USERS`] and the user's address, and the public ones below
//! [`SHARED`].
//!
//! Who shares something with the user is known from the index of shares, so that a name of somebody
//! who does not is answered without asking his account: in the same words, and as fast, as for
//! somebody who does not exist.

use std::{collections::BTreeSet, rc::Rc};

use super::{
    accounts::{Holding, Home, Listed, Reach, User, is_at_or_below},
    reply::Failure,
    state::Session,
};
use crate::{model::AccountId, protocol::imap::SEPARATOR, service::Shard, store::Names};

/// The level above other users' mailboxes.
pub(super) const OTHER_USERS: &str = "Other Users";
/// The level above public mailboxes.
pub(super) const SHARED: &str = "Shared";

const INBOX: &str = "INBOX";

/// The owner of public mailboxes, as access lists name him.
const PUBLIC_OWNER: &str = "owner";

/// Mailboxes that are taken from an account at once.
const LISTED_AT_ONCE: usize = 64;

/// A name, in the account that has it or would have it.
pub(super) struct Located {
    pub reach: Reach,
    /// As the account knows it.
    pub name: String,
}

/// What a user can reach.
pub(super) struct Namespace {
    shard: Rc<Shard>,
    user: User,
    own: Holding,
}

impl Namespace {
    pub(super) fn of(session: &Session) -> Result<Namespace, Failure> {
        let (shard, user) = (session.channel.shard.clone(), session.user()?.clone());
        Ok(Namespace { own: Holding::new(&shard, session.account()?, user.clone()), shard, user })
    }

    /// That of a user whose account is on this shard.
    pub(super) fn of_holding(own: Holding) -> Namespace {
        Namespace { shard: own.shard.clone(), user: own.user.clone(), own }
    }

    /// The user's own account.
    pub(super) fn own(&self) -> &Holding {
        &self.own
    }

    /// The account to which a name belongs; `None` if the user cannot reach it, or if the name is
    /// only a level above such accounts.
    ///
    /// A mailbox of one's own comes first, should it have a name below another namespace.
    pub(super) fn locate(&self, name: &str) -> Option<Located> {
        let at = |reach: Reach, name: &str| Some(Located { reach, name: name.to_owned() });
        if self.own.account.mailbox_by_name(name).is_some() {
            return at(self.own_reach(), name);
        }
        if let Some(rest) = below(name, SHARED) {
            let name = inbox_of(rest);
            // The INBOX that every account has is nobody's here.
            let is_mailbox = !matches!(name.strip_suffix(SEPARATOR).unwrap_or(&name), "" | INBOX);
            return at(self.public().filter(|_| is_mailbox)?, &name);
        }
        if let Some(rest) = below(name, OTHER_USERS) {
            // An address may itself have a separator.
            let ends = rest.match_indices(SEPARATOR).map(|(end, _)| rest.split_at(end));
            let found = ends.filter_map(|(owner, name)| Some((self.other(owner)?, name)));
            let (reach, name) = found.into_iter().next()?;
            return at(reach, &inbox_of(name.strip_prefix(SEPARATOR)?));
        }
        at(self.own_reach(), name)
    }

    /// The one spelling of a name, whether or not there is such a user: so that a subscription is
    /// found again, and tells nothing.
    pub(super) fn spelled(&self, name: &str) -> String {
        if self.own.account.mailbox_by_name(name).is_some() {
            return name.to_owned();
        }
        if let Some(rest) = below(name, SHARED).filter(|rest| !rest.is_empty()) {
            return format!("{SHARED}{SEPARATOR}{}", inbox_of(rest));
        }
        let parts = below(name, OTHER_USERS).and_then(|rest| rest.split_once(SEPARATOR));
        match parts.filter(|(owner, _)| owner.contains('@')) {
            Some((owner, name)) => {
                let owner = self.shard.directory.login_key(owner);
                format!("{OTHER_USERS}{SEPARATOR}{owner}{SEPARATOR}{}", inbox_of(name))
            }
            None => name.to_owned(),
        }
    }

    fn public(&self) -> Option<Reach> {
        let can = self.user.reaches(&self.shard, AccountId::PUBLIC);
        can.then(|| self.public_reach())
    }

    /// The account of another user, as the client names him.
    fn other(&self, name: &str) -> Option<Reach> {
        let account = self.shard.directory.account_named(name)?;
        let is_other = account != self.user.account;
        let can = is_other && self.user.reaches(&self.shard, account);
        can.then(|| self.reach_of(account))?
    }

    fn reach_of(&self, account: AccountId) -> Option<Reach> {
        let owner: Rc<str> = self.shard.directory.name_of(account)?.into();
        let prefix = format!("{OTHER_USERS}{SEPARATOR}{owner}{SEPARATOR}").into();
        Some(Reach { account, owner, prefix })
    }

    /// The account whose limits a quota root stands for, and the name of its root, for who may know
    /// of them: his own, and all of them if he is an administrator.
    pub(super) fn account_of_root(&self, root: &str) -> Option<AccountId> {
        let account = match root {
            "" => self.user.account,
            SHARED => AccountId::PUBLIC,
            other => {
                let owner = below(other, OTHER_USERS).filter(|owner| !owner.is_empty())?;
                self.shard.directory.account_named(owner)?
            }
        };
        let may = account == self.user.account || self.user.is_administrator(&self.shard);
        may.then_some(account)
    }

    /// The quota root of an account.
    pub(super) fn root_of(&self, reach: &Reach) -> String {
        match reach.account {
            account if account == self.user.account => String::new(),
            AccountId::PUBLIC => SHARED.to_owned(),
            _ => format!("{OTHER_USERS}{SEPARATOR}{}", reach.owner),
        }
    }

    pub(super) fn user(&self) -> &User {
        &self.user
    }

    pub(super) fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// The accounts of others in which names are of which the user asks by `names`, or which are
    /// below `roots`, or to which a subscription of his leads.
    pub(super) fn reaches_of<'n>(
        &self,
        names: impl Iterator<Item = &'n String>,
        roots: impl Iterator<Item = &'n String>,
        with_subscribed: bool,
    ) -> Vec<Reach> {
        let mut reaches: Vec<Reach> = Vec::new();
        let mut add = |reach: Reach| {
            let is_new = reach.account != self.user.account
                && reaches.iter().all(|it| it.account != reach.account);
            if is_new {
                reaches.push(reach);
            }
        };
        let is_other = |name: &str| is_of_others(self, name);
        names.filter(|name| is_other(name)).filter_map(|name| self.locate(name)).for_each(|it| {
            add(it.reach);
        });
        let roots: BTreeSet<String> = roots.filter(|root| is_other(root)).cloned().collect();
        if !roots.is_empty() {
            // Whoever is below a level, or just on it.
            let level = |reach: &Reach| reach.prefix.trim_end_matches(SEPARATOR).to_owned();
            let others = self.others().into_iter();
            others.filter(|it| is_at_or_below(&roots, &level(it))).for_each(&mut add);
        }
        if with_subscribed {
            let names = self.own.account.subscriptions();
            let others = names.iter().filter(|name| is_other(name));
            others.filter_map(|name| self.locate(name)).for_each(|it| add(it.reach));
        }
        reaches
    }

    /// The account of the public mailboxes, whatever is shared.
    pub(super) fn public_reach(&self) -> Reach {
        let prefix = format!("{SHARED}{SEPARATOR}").into();
        Reach { account: AccountId::PUBLIC, owner: PUBLIC_OWNER.into(), prefix }
    }

    /// Whether a name is one of the user's own account.
    pub(super) fn is_personal(&self, name: &str) -> bool {
        !is_of_others(self, name)
    }

    /// A mailbox of another user, or a public one, as the client names it.
    pub(super) fn full_name(&self, owner: AccountId, name: &str) -> Option<String> {
        let reach = match owner {
            AccountId::PUBLIC => self.public_reach(),
            owner => self.reach_of(owner)?,
        };
        Some(format!("{}{name}", reach.prefix))
    }

    pub(super) fn own_reach(&self) -> Reach {
        let (account, owner) = (self.user.account, self.user.name.as_ref().into());
        Reach { account, owner, prefix: "".into() }
    }

    /// Everybody else who shares something with the user, in the order of their mailboxes' names.
    fn others(&self) -> Vec<Reach> {
        let owners = self.user.sharers(&self.shard);
        let users = owners.into_iter().filter(|owner| *owner != AccountId::PUBLIC);
        let mut reaches: Vec<Reach> = users.filter_map(|owner| self.reach_of(owner)).collect();
        reaches.extend(self.public());
        reaches.sort_by(|left, right| left.prefix.cmp(&right.prefix));
        reaches
    }

    /// Whether there are mailboxes of other accounts below a level that the user may look up. That
    /// an account may have something for him is not enough, and not told.
    pub(super) async fn is_above_others(&self, level: &str) -> bool {
        let begin = format!("{level}{SEPARATOR}");
        let mut reaches = self.others();
        reaches.retain(|reach| reach.prefix.starts_with(&begin));
        OtherNames::of(reaches).next(self).await.is_some()
    }

    pub(super) async fn home(&self, reach: &Reach) -> Result<Home, Failure> {
        match reach.account == self.user.account {
            true => Ok(Home::Here(self.own.clone())),
            false => Home::of(&self.shard, reach.account, &self.user).await,
        }
    }

    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.own.account.is_subscribed(name)
    }

    /// The user's own mailboxes that have a special use.
    pub(super) fn special_uses(&self) -> Vec<String> {
        let all = self.own.account.mailboxes().into_iter();
        all.filter(|info| info.special_use.is_some()).map(|info| info.name).collect()
    }

    /// Whether a subscribed name is below `name`.
    pub(super) fn has_subscribed_below(&self, name: &str) -> bool {
        self.own.account.has_subscribed_below(name)
    }

    /// The subscribed names below `name`.
    pub(super) fn subscribed_below(&self, name: &str) -> SubscribedBelow {
        let begin = format!("{name}{SEPARATOR}");
        let names = OwnNames::after(Names::Subscribed, begin.clone());
        SubscribedBelow { begin, names }
    }

    /// Whether the user may look up a mailbox below `name`.
    pub(super) async fn has_children(&self, name: &str) -> bool {
        if self.own.has_children(name) {
            return true;
        }
        let Some(Located { reach, name }) = self.locate(name) else { return false };
        if reach.account == self.user.account {
            return false;
        }
        let Ok(home) = self.home(&reach).await else { return false };
        let asked = home.at_owner(move |holding| async move { Ok(holding.has_children(&name)) });
        asked.await.unwrap_or(false)
    }
}

/// What is below a level, if `name` is that level or below it.
fn below<'n>(name: &'n str, level: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(level)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(SEPARATOR) }
}

/// INBOX is the same in any case (RFC 3501 5.1), also behind a prefix.
pub(super) fn inbox_of(name: &str) -> String {
    let (first, rest) = name.split_at(name.find(SEPARATOR).unwrap_or(name.len()));
    match first.eq_ignore_ascii_case(INBOX) {
        true => format!("{INBOX}{rest}"),
        false => name.to_owned(),
    }
}

/// A name on a walk.
pub(super) struct Walked {
    pub name: String,
    /// The mailbox of another account, if there is one.
    pub other: Option<(Reach, Listed)>,
}

impl Walked {
    fn own(name: String) -> Walked {
        Walked { name, other: None }
    }
}

/// Walks the names of a namespace in pieces; one's own first, and of these INBOX first unless only
/// subscriptions are walked. If the client does not read, the walk waits and holds one piece,
/// however many names there are. Names that are added or removed meanwhile may or may not be
/// listed.
pub(super) struct NameWalk {
    which: Names,
    own: OwnNames,
    /// Subscribed names of other accounts, which the own account keeps.
    subscribed: OwnNames,
    others: Option<OtherNames>,
    next_subscribed: Option<String>,
    next_other: Option<Walked>,
    inbox_told: bool,
}

/// Names that one's own account keeps, in their order.
struct OwnNames {
    which: Names,
    piece: std::vec::IntoIter<String>,
    last: Option<String>,
}

impl OwnNames {
    fn new(which: Names) -> OwnNames {
        OwnNames { which, piece: Vec::new().into_iter(), last: None }
    }

    fn after(which: Names, name: String) -> OwnNames {
        OwnNames { last: Some(name), ..OwnNames::new(which) }
    }

    fn next(&mut self, namespace: &Namespace) -> Option<String> {
        if let Some(name) = self.piece.next() {
            return Some(name);
        }
        let account = &namespace.own.account;
        let piece = account.names_after(self.last.as_deref(), self.which, LISTED_AT_ONCE);
        self.last = Some(piece.last()?.clone());
        self.piece = piece.into_iter();
        self.piece.next()
    }
}

/// Subscribed names below a level.
pub(super) struct SubscribedBelow {
    /// The level, with a separator.
    begin: String,
    names: OwnNames,
}

impl SubscribedBelow {
    pub(super) fn next(&mut self, namespace: &Namespace) -> Option<String> {
        self.names.next(namespace).filter(|name| name.starts_with(&self.begin))
    }
}

/// Mailboxes of other accounts, in the order of their names.
struct OtherNames {
    reaches: std::vec::IntoIter<Reach>,
    current: Option<(Reach, Home)>,
    piece: std::vec::IntoIter<Listed>,
    last: Option<String>,
}

impl OtherNames {
    fn of(reaches: Vec<Reach>) -> OtherNames {
        let piece = Vec::new().into_iter();
        OtherNames { reaches: reaches.into_iter(), current: None, piece, last: None }
    }

    /// An account that cannot be asked now is left out.
    async fn next(&mut self, namespace: &Namespace) -> Option<Walked> {
        loop {
            if let Some((reach, _)) = &self.current {
                for listed in self.piece.by_ref() {
                    // Of the public account nobody sees the INBOX that every account has.
                    if reach.account == AccountId::PUBLIC && listed.info.name == INBOX {
                        continue;
                    }
                    let name = format!("{}{}", reach.prefix, listed.info.name);
                    return Some(Walked { name, other: Some((reach.clone(), listed)) });
                }
            }
            let piece = match &self.current {
                Some((_, home)) => {
                    let after = self.last.take();
                    let ask = move |holding: Holding| async move {
                        Ok(holding.listed_after(after.as_deref(), LISTED_AT_ONCE).await)
                    };
                    home.at_owner(ask).await.unwrap_or_default()
                }
                None => Vec::new(),
            };
            match piece.last() {
                Some(last) => {
                    self.last = Some(last.info.name.clone());
                    self.piece = piece.into_iter();
                }
                None => {
                    (self.current, self.last) = (None, None);
                    let reach = self.reaches.next()?;
                    if let Ok(home) = namespace.home(&reach).await {
                        self.current = Some((reach, home));
                    }
                }
            }
        }
    }
}

impl NameWalk {
    /// `with_others`: also names of other accounts, as far as they are mailboxes.
    pub(super) fn new(namespace: &Namespace, which: Names, with_others: bool) -> NameWalk {
        let others =
            (with_others && which != Names::Subscribed).then(|| OtherNames::of(namespace.others()));
        NameWalk {
            which,
            own: OwnNames::new(which),
            subscribed: OwnNames::new(Names::Subscribed),
            others,
            next_subscribed: None,
            next_other: None,
            inbox_told: false,
        }
    }

    pub(super) async fn next(&mut self, namespace: &Namespace) -> Option<Walked> {
        let inbox_first = self.which != Names::Subscribed;
        if inbox_first && !self.inbox_told {
            self.inbox_told = true;
            return Some(Walked::own(INBOX.to_owned()));
        }
        while let Some(name) = self.own.next(namespace) {
            let told = inbox_first && name == INBOX
                || self.others.is_some() && is_of_others(namespace, &name);
            if !told {
                return Some(Walked::own(name));
            }
        }
        self.next_of_others(namespace).await
    }

    /// Mailboxes of other accounts and, if wanted, subscribed names there, in one order.
    async fn next_of_others(&mut self, namespace: &Namespace) -> Option<Walked> {
        let others = self.others.as_mut()?;
        if self.next_other.is_none() {
            self.next_other = others.next(namespace).await;
        }
        if self.which == Names::Both && self.next_subscribed.is_none() {
            while let Some(name) = self.subscribed.next(namespace) {
                if is_of_others(namespace, &name) {
                    self.next_subscribed = Some(name);
                    break;
                }
            }
        }
        match (&self.next_other, &self.next_subscribed) {
            (Some(other), Some(subscribed)) if other.name == *subscribed => {
                self.next_subscribed = None;
                self.next_other.take()
            }
            (Some(other), Some(subscribed)) if *subscribed < other.name => {
                self.next_subscribed.take().map(Walked::own)
            }
            (None, Some(_)) => self.next_subscribed.take().map(Walked::own),
            (Some(_), _) => self.next_other.take(),
            (None, None) => None,
        }
    }
}

/// A subscribed name below another namespace.
fn is_of_others(namespace: &Namespace, name: &str) -> bool {
    [OTHER_USERS, SHARED].iter().any(|level| below(name, level).is_some())
        && namespace.own.account.mailbox_by_name(name).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_what_is_below() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("Shared", Some("")),
            ("Shared/", Some("")),
            ("Shared/a/b", Some("a/b")),
            ("SharedX", None),
            ("shared/a", None),
            ("a/Shared/b", None),
        ];
        for (name, expected) in CASES {
            assert_eq!(below(name, SHARED), *expected, "{name}");
        }
    }

    #[test]
    fn inbox_is_the_same_in_any_case() {
        for (name, expected) in [
            ("inbox", "INBOX"),
            ("Inbox/a", "INBOX/a"),
            ("inboxes", "inboxes"),
            ("a/inbox", "a/inbox"),
        ] {
            assert_eq!(inbox_of(name), expected);
        }
    }
}
