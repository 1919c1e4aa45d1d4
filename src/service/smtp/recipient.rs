//! Recipients: which addresses accept mail here, which are passed on, which senders are allowed,
//! and what is kept of each RCPT.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use smallvec::SmallVec;

use super::{
    policy::Disposition,
    replies::{DIRECTORY_TROUBLE, NO_WAY_OUT, NOT_YOUR_ADDRESS, RELAY_DENIED, UNKNOWN_USER},
};
use crate::{
    directory::{
        ALIAS_REJECTED, Destination, Directory, Identity, NextHop, ROUTE_REJECTED, Reason, Target,
    },
    model::{AccountId, ShardId},
    protocol::smtp::{ForwardPath, Mailbox, Notify, Path, RecipientParameters, Reply, Role, reply},
    service::Shard,
};

/// Members of a list that EXPN shows; of a longer one it shows none.
const EXPANDED_MAX: usize = 100;

/// The arguments of a RCPT, and the destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient<'a> {
    /// The forward-path without its brackets, as given.
    pub path: &'a str,
    pub parameters: RecipientParameters<'a>,
    pub route: Route<'a>,
}

/// The destination of a recipient's mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route<'a> {
    /// An account of this shard.
    Here {
        account: AccountId,
        /// The detail of a sub-address (RFC 5233), as given.
        detail: Option<&'a str>,
    },
    /// An account of another shard.
    Elsewhere {
        account: AccountId,
        shard: ShardId,
        detail: Option<&'a str>,
    },
    /// The targets of an alias.
    Several(Arc<[Target]>),
    /// Another server, to which it is passed on.
    Onward,
    /// Accepted, and thrown away.
    Nowhere,
    Refused(Reply),
    /// Refused with a text of the configuration.
    Rejected {
        /// The enhanced status code.
        status: &'static str,
        text: Arc<str>,
    },
}

/// The client that asks.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub role: Role,
    pub peer: IpAddr,
    pub logged_in: bool,
}

impl Asker {
    /// A user: on a port for them, or one for whom a trusted peer speaks.
    fn is_user(self) -> bool {
        self.role == Role::Submission || self.logged_in
    }
}

impl<'a> Recipient<'a> {
    /// Whether a copy of the message goes into the queue for it.
    pub(super) fn is_queued(&self) -> bool {
        let reported = matches!(self.parameters.notify, Some(Notify::On { success: true, .. }));
        match &self.route {
            Route::Here { .. } | Route::Elsewhere { .. } => reported,
            Route::Several(targets) => {
                reported || targets.iter().any(|it| matches!(it, Target::Remote { .. }))
            }
            Route::Onward => true,
            Route::Nowhere | Route::Refused(_) | Route::Rejected { .. } => false,
        }
    }

    /// Finds the destination of a forward-path.
    pub(super) async fn find(
        shard: &Shard,
        asker: Asker,
        forward_path: ForwardPath<'a>,
    ) -> Recipient<'a> {
        let ForwardPath { path, parameters } = forward_path;
        let route = resolve(shard, asker, path).await.unwrap_or_else(Route::Refused);
        Recipient { path: path.as_str(), parameters, route }
    }
}

fn account_route<'a>(shard: &Shard, account: AccountId, detail: Option<&'a str>) -> Route<'a> {
    match shard.owner_of(account) {
        owner if owner == shard.id => Route::Here { account, detail },
        owner => Route::Elsewhere { account, shard: owner, detail },
    }
}

/// Where a forward-path leads.
async fn resolve<'a>(
    shard: &Shard,
    asker: Asker,
    forward_path: Path<'a>,
) -> Result<Route<'a>, Reply> {
    let directory = &shard.directory;
    let mailbox = match forward_path {
        Path::Null => return Err(UNKNOWN_USER),
        // Rarely used, so its memory is allocated only then.
        Path::Postmaster => {
            let found = Box::pin(postmaster(directory, &shard.options.hostname)).await?;
            return match found {
                Destination::Several(targets) => Ok(Route::Several(targets)),
                other => {
                    let account = other.account().ok_or(UNKNOWN_USER)?;
                    Ok(account_route(shard, account, None))
                }
            };
        }
        // A source route is ignored (RFC 5321 3.6.1): only the final mailbox decides, so it cannot
        // be used to relay.
        Path::Mailbox { mailbox, .. } => mailbox,
    };
    match directory.resolve(&mailbox.canonical()).await.map_err(|_| DIRECTORY_TROUBLE)? {
        Destination::Mailbox(account) => Ok(account_route(shard, account, None)),
        Destination::Subaddress(account) => {
            let detail = directory.detail(forward_path.as_str());
            Ok(account_route(shard, account, detail))
        }
        Destination::Several(targets) => Ok(Route::Several(targets)),
        Destination::Discard => Ok(Route::Nowhere),
        Destination::Reject(text) => Ok(Route::Rejected { status: ALIAS_REJECTED, text }),
        // `user%elsewhere@here` and `elsewhere!user@here` ask us to pass mail on.
        Destination::UnknownUser if mailbox.looks_routed() => Err(RELAY_DENIED),
        Destination::UnknownUser => Err(UNKNOWN_USER),
        Destination::Relay => onward(shard, asker, forward_path.as_str()),
        Destination::Foreign => match asker.role {
            Role::Submission => onward(shard, asker, forward_path.as_str()),
            Role::Exchange if asker.logged_in || directory.may_relay(asker.peer) => {
                onward(shard, asker, forward_path.as_str())
            }
            Role::Exchange | Role::Lmtp => Err(RELAY_DENIED),
        },
    }
}

/// The way of a recipient whom we may pass on.
fn onward<'a>(shard: &Shard, asker: Asker, path: &str) -> Result<Route<'a>, Reply> {
    let domain = crate::queue::domain_of(path).to_lowercase();
    match shard.directory.next_hop(&domain) {
        NextHop::Reject(text) => Ok(Route::Rejected { status: ROUTE_REJECTED, text }),
        NextHop::Discard => Ok(Route::Nowhere),
        NextHop::Local => Err(UNKNOWN_USER),
        NextHop::Host(_) => Ok(Route::Onward),
        NextHop::Mx(_) if shard.options.relay.has_dns => Ok(Route::Onward),
        NextHop::Mx(_) if asker.is_user() => Err(NO_WAY_OUT),
        NextHop::Mx(_) => Err(RELAY_DENIED),
    }
}

/// RFC 5321 4.5.1: `postmaster` without a domain is accepted. It is the postmaster of the domain
/// that equals or contains our host name.
async fn postmaster(directory: &Directory, hostname: &str) -> Result<Destination, Reply> {
    let mut domain = hostname;
    loop {
        let found = directory.resolve(&format!("postmaster@{domain}")).await;
        let found = found.map_err(|_| DIRECTORY_TROUBLE)?;
        if found.account().is_some() || matches!(found, Destination::Several(_)) {
            return Ok(found);
        }
        (_, domain) = domain.split_once('.').ok_or(UNKNOWN_USER)?;
    }
}

/// The mailbox that VRFY asks for, with or without brackets, if it exists here (RFC 5321 3.5). What
/// is not an address, or not of our domains, is not verified: 252.
pub(super) async fn verify<'a>(directory: &Directory, text: &'a str) -> Result<&'a str, Reply> {
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    let Some(mailbox) = Mailbox::parse(inner).filter(|mailbox| mailbox.as_str().is_ascii()) else {
        return Err(reply::VRFY);
    };
    match directory.resolve(&mailbox.canonical()).await.map_err(|_| DIRECTORY_TROUBLE)? {
        Destination::Mailbox(_)
        | Destination::Subaddress(_)
        | Destination::Several(_)
        | Destination::Discard => Ok(mailbox.as_str()),
        Destination::UnknownUser | Destination::Reject(_) => Err(UNKNOWN_USER),
        Destination::Relay | Destination::Foreign => Err(reply::VRFY),
    }
}

/// The members of the list that EXPN asks for, with or without brackets or a domain (RFC 5321 3.5).
/// They are those of the aliases file, and a list among them is shown by its name only.
pub(super) async fn expand(directory: &Directory, text: &str) -> Result<Vec<String>, Reply> {
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    let address = directory.complete(inner);
    let mailbox = Mailbox::parse(&address).filter(|mailbox| mailbox.as_str().is_ascii());
    let canonical = mailbox.ok_or(reply::EXPN_AMBIGUOUS)?.canonical();
    match directory.resolve(&canonical).await.map_err(|_| DIRECTORY_TROUBLE)? {
        Destination::UnknownUser | Destination::Reject(_) => Err(UNKNOWN_USER),
        Destination::Relay | Destination::Foreign | Destination::Discard => Err(reply::EXPN),
        Destination::Mailbox(_) | Destination::Subaddress(_) | Destination::Several(_) => {
            let members = directory.members(&canonical);
            // RFC 6531 3.7.4.2: such members cannot be shown to a client that did not ask for them.
            let shown = members.iter().all(|member| member.is_ascii());
            let fits = !members.is_empty() && members.len() <= EXPANDED_MAX;
            if shown && fits { Ok(members) } else { Err(reply::EXPN) }
        }
    }
}

/// Whether the authenticated account may use this MAIL FROM. The null path is for notifications of
/// its mail program (RFC 8098 3) and names no sender.
pub(super) async fn check_sender(
    directory: &Directory,
    identity: Option<&Identity>,
    reverse_path: Path<'_>,
) -> Result<(), Reply> {
    let (Some(identity), Some(mailbox)) = (identity, reverse_path.mailbox()) else {
        return Ok(());
    };
    match directory.may_send_as(identity.account, &mailbox.canonical()).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(NOT_YOUR_ADDRESS),
        Err(_) => Err(DIRECTORY_TROUBLE),
    }
}

/// The recipients of a transaction, as they were accepted, including repetitions: LMTP answers for
/// each. Their text is stored in one string.
#[derive(Default)]
pub struct Recipients {
    text: String,
    list: Vec<Kept>,
    /// Those of aliases.
    several: Vec<Goal>,
    /// Details of sub-addresses, with their recipient's place in the list.
    details: Vec<(usize, AccountId, Box<str>)>,
    /// Octets of them, about.
    details_len: usize,
}

/// An accepted recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted<'a> {
    /// As in [`Recipient`].
    pub path: &'a str,
    pub parameters: RecipientParameters<'a>,
}

/// Where a copy of a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim<'a> {
    Account(AccountId),
    /// Into the queue, to be passed on to this address.
    Onward {
        address: &'a str,
        reason: Option<Reason>,
    },
    /// Into the queue, to be delivered here and reported.
    Reported(AccountId),
}

/// One stored recipient. Its path is at `start` in the text, followed by its ORCPT.
struct Kept {
    start: u32,
    path_len: u16,
    orcpt_len: u16,
    notify: Option<Notify>,
    disposition: Disposition,
    goal: Goal,
}

/// As [`Aim`]; addresses are in the text.
#[derive(Clone, Copy)]
enum Goal {
    /// Its mail is thrown away.
    Nowhere,
    /// Those of an alias: where they begin, and how many.
    Several(u32, u32),
    Account(AccountId),
    Onward {
        start: u32,
        len: u16,
        reason: Option<Reason>,
    },
    Reported(AccountId),
}

impl Recipients {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Accepted<'_>> {
        self.list.iter().map(|kept| self.accepted(kept))
    }

    fn accepted(&self, kept: &Kept) -> Accepted<'_> {
        let middle = kept.start as usize + usize::from(kept.path_len);
        let end = middle + usize::from(kept.orcpt_len);
        let orcpt = self.text.get(middle..end).filter(|orcpt| !orcpt.is_empty());
        Accepted {
            path: self.text.get(kept.start as usize..middle).unwrap_or_default(),
            parameters: RecipientParameters { orcpt, notify: kept.notify },
        }
    }

    /// Memory held, used or not.
    pub(super) fn memory(&self) -> usize {
        self.text.capacity()
            + self.list.capacity() * size_of::<Kept>()
            + self.several.capacity() * size_of::<Goal>()
            + self.details.capacity() * size_of::<(usize, AccountId, Box<str>)>()
            + self.details_len
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.several.clear();
        self.details.clear();
        self.details_len = 0;
    }

    /// Keeps a recipient who was not refused.
    pub(super) fn push(&mut self, recipient: &Recipient<'_>, disposition: Disposition) {
        let RecipientParameters { orcpt, notify } = recipient.parameters;
        let orcpt = orcpt.unwrap_or_default();
        // A command line is no longer than 12 KiB, and there are at most 100,000 recipients.
        let start = self.text.len() as u32;
        let path_len = recipient.path.len() as u16;
        self.text.push_str(recipient.path);
        self.text.push_str(orcpt);
        let reported = matches!(notify, Some(Notify::On { success: true, .. }));
        let at = self.list.len();
        let (details, details_len) = (&mut self.details, &mut self.details_len);
        let mut here = |account, detail: Option<&str>| match reported {
            true => Goal::Reported(account),
            false => {
                if let Some(detail) = detail {
                    details.push((at, account, detail.into()));
                    *details_len += detail.len();
                }
                Goal::Account(account)
            }
        };
        let goal = match &recipient.route {
            Route::Here { account, detail } | Route::Elsewhere { account, detail, .. } => {
                here(*account, *detail)
            }
            Route::Onward => Goal::Onward { start, len: path_len, reason: None },
            Route::Several(targets) => {
                let first = self.several.len();
                for target in targets.iter() {
                    let goal = match target {
                        Target::Account { account, detail } => here(*account, detail.as_deref()),
                        Target::Remote { address, reason } => {
                            let start = self.text.len() as u32;
                            let len = address.len().min(usize::from(u16::MAX)) as u16;
                            self.text.push_str(address);
                            Goal::Onward { start, len, reason: Some(*reason) }
                        }
                    };
                    self.several.push(goal);
                }
                Goal::Several(first as u32, (self.several.len() - first) as u32)
            }
            Route::Nowhere | Route::Refused(_) | Route::Rejected { .. } => Goal::Nowhere,
        };
        let orcpt_len = orcpt.len() as u16;
        self.list.push(Kept { start, path_len, orcpt_len, notify, disposition, goal });
    }

    /// Removes the last one.
    pub(super) fn pop(&mut self) {
        if let Some(kept) = self.list.pop() {
            self.text.truncate(kept.start as usize);
            if let Goal::Several(first, _) = kept.goal {
                self.several.truncate(first as usize);
            }
            self.details.retain(|(at, ..)| *at < self.list.len());
        }
    }

    /// Whether there is a sub-address.
    pub(super) fn have_details(&self) -> bool {
        !self.details.is_empty()
    }

    /// The accounts that are meant only by sub-addresses, and the detail of the first one.
    pub(super) fn folders(&self) -> Vec<(AccountId, Box<str>)> {
        if self.details.is_empty() {
            return Vec::new();
        }
        let mut folders: BTreeMap<AccountId, (usize, &str)> = BTreeMap::new();
        for (_, account, detail) in &self.details {
            folders.entry(*account).or_insert((0, detail)).0 += 1;
        }
        for (account, _) in self.accounts() {
            if let Some((count, _)) = folders.get_mut(&account) {
                // One more than there are details: the account is meant by its address, too.
                *count = count.wrapping_sub(1);
            }
        }
        let only = folders.into_iter().filter(|(_, (count, _))| *count == 0);
        only.map(|(account, (_, detail))| (account, detail.into())).collect()
    }

    /// The path of the only recipient.
    pub(super) fn only_path(&self) -> Option<&str> {
        match self.list.as_slice() {
            [only] => self
                .text
                .get(only.start as usize..)
                .map(|path| path.get(..usize::from(only.path_len)).unwrap_or_default()),
            _ => None,
        }
    }

    fn aims<'a>(&'a self, kept: &'a Kept) -> impl Iterator<Item = Aim<'a>> {
        let goals = match &kept.goal {
            Goal::Several(first, count) => {
                let all = self.several.get(*first as usize..).unwrap_or_default();
                all.get(..*count as usize).unwrap_or_default()
            }
            one => std::slice::from_ref(one),
        };
        goals.iter().filter_map(|goal| match *goal {
            Goal::Account(account) => Some(Aim::Account(account)),
            Goal::Reported(account) => Some(Aim::Reported(account)),
            Goal::Onward { start, len, reason } => {
                let end = start as usize + usize::from(len);
                let address = self.text.get(start as usize..end).unwrap_or_default();
                Some(Aim::Onward { address, reason })
            }
            Goal::Nowhere | Goal::Several(..) => None,
        })
    }

    /// The mailboxes of each recipient here, and the disposition of its copy unless something worse
    /// is decided for all.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (AccountId, Disposition)> {
        self.list.iter().flat_map(|kept| {
            self.aims(kept).filter_map(|aim| match aim {
                Aim::Account(account) => Some((account, kept.disposition)),
                Aim::Onward { .. } | Aim::Reported(_) => None,
            })
        })
    }

    /// What goes into the queue: the recipient who was named, the disposition, and where to.
    pub(super) fn queued(&self) -> impl Iterator<Item = (Accepted<'_>, Disposition, Aim<'_>)> {
        self.list.iter().flat_map(|kept| {
            let accepted = self.accepted(kept);
            let queued = self.aims(kept).filter(|aim| !matches!(aim, Aim::Account(_)));
            queued.map(move |aim| (accepted, kept.disposition, aim))
        })
    }

    /// The accounts of each recipient in order, for answers of their own (RFC 2033 4.2).
    pub(super) fn each(
        &self,
    ) -> impl Iterator<Item = (SmallVec<[AccountId; 1]>, bool, Disposition)> {
        self.list.iter().map(|kept| {
            let mut accounts = SmallVec::new();
            let mut queued = false;
            for aim in self.aims(kept) {
                match aim {
                    Aim::Account(account) => accounts.push(account),
                    Aim::Onward { .. } | Aim::Reported(_) => queued = true,
                }
            }
            (accounts, queued, kept.disposition)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_meant_without_a_detail_has_no_folder() {
        // (account, detail) of each recipient; the folders
        type Case<'a> = (&'a [(u64, Option<&'a str>)], &'a [(u64, &'a str)]);
        const CASES: &[Case<'_>] = &[
            (&[(1, None)], &[]),
            (&[(1, Some("a")), (2, None)], &[(1, "a")]),
            (&[(1, Some("a")), (1, Some("b"))], &[(1, "a")]),
            (&[(1, Some("a")), (1, None)], &[]),
            (&[(1, None), (1, None), (1, Some("a")), (2, Some("c"))], &[(2, "c")]),
        ];
        for (all, expected) in CASES {
            let mut recipients = Recipients::default();
            let recipient = |account, detail| Recipient {
                path: "x@demo.test",
                parameters: RecipientParameters::default(),
                route: Route::Here { account: AccountId(account), detail },
            };
            for (account, detail) in *all {
                recipients.push(&recipient(*account, *detail), Disposition::Deliver);
                recipients.push(&recipient(*account, Some("gone")), Disposition::Deliver);
                recipients.pop();
            }
            let folders = recipients.folders();
            let folders: Vec<(u64, &str)> =
                folders.iter().map(|(it, name)| (it.0, &**name)).collect();
            assert_eq!(folders, *expected, "{all:?}");
        }
    }

    #[test]
    fn what_was_said_is_kept() {
        let mut recipients = Recipients::default();
        let notify = Some(Notify::On { success: true, failure: false, delay: false });
        let cases = [
            ("alice@demo.test", None, None),
            ("bob+x@demo.test", Some("rfc822;b@c.test"), notify),
            ("postmaster", None, Some(Notify::Never)),
        ];
        for (number, (path, orcpt, notify)) in (1..).zip(cases) {
            let account = AccountId(number);
            let recipient = Recipient {
                path,
                parameters: RecipientParameters { orcpt, notify },
                route: Route::Here { account, detail: None },
            };
            recipients.push(&recipient, Disposition::Deliver);
            if number == 1 {
                assert_eq!(recipients.only_path(), Some(path));
                recipients.push(&recipient, Disposition::Deliver);
                recipients.pop();
            }
        }
        let found: Vec<_> = recipients.iter().collect();
        assert_eq!(found.len(), cases.len());
        for (accepted, expected) in found.into_iter().zip(cases) {
            let Accepted { path, parameters: RecipientParameters { orcpt, notify }, .. } = accepted;
            assert_eq!((path, orcpt, notify), expected);
        }
        assert_eq!((recipients.len(), recipients.only_path()), (3, None));
        recipients.clear();
        assert!(recipients.is_empty());
    }
}
