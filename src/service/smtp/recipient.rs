//! Recipients: which addresses accept mail here, which senders are allowed, and what is kept of
//! each RCPT.

use super::{
    policy::Disposition,
    replies::{DIRECTORY_TROUBLE, NO_OUTBOUND_QUEUE, NOT_YOUR_ADDRESS, RELAY_DENIED, UNKNOWN_USER},
};
use crate::{
    directory::{Destination, Directory, Identity},
    model::{AccountId, ShardId},
    protocol::smtp::{ForwardPath, Notify, Path, RecipientParameters, Reply, Role},
    service::Shard,
};

/// The arguments of a RCPT, and the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient<'a> {
    /// The forward-path without its brackets, as given.
    pub path: &'a str,
    pub parameters: RecipientParameters<'a>,
    pub route: Route<'a>,
}

/// The destination of a recipient's mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    Refused(Reply),
}

impl<'a> Recipient<'a> {
    /// Finds the destination of a forward-path.
    pub(super) async fn find(
        shard: &Shard,
        role: Role,
        forward_path: ForwardPath<'a>,
    ) -> Recipient<'a> {
        let ForwardPath { path, parameters } = forward_path;
        let found = resolve(&shard.directory, &shard.options.hostname, role, path).await;
        let route = found.map_or_else(Route::Refused, |(account, subaddressed)| {
            let detail = match subaddressed {
                true => shard.directory.detail(path.as_str()),
                false => None,
            };
            match shard.owner_of(account) {
                owner if owner == shard.id => Route::Here { account, detail },
                owner => Route::Elsewhere { account, shard: owner, detail },
            }
        });
        Recipient { path: path.as_str(), parameters, route }
    }
}

/// The account that a forward-path delivers to, and whether it is a sub-address of it. `hostname`
/// is our own name.
async fn resolve(
    directory: &Directory,
    hostname: &str,
    role: Role,
    forward_path: Path<'_>,
) -> Result<(AccountId, bool), Reply> {
    let mailbox = match forward_path {
        Path::Null => return Err(UNKNOWN_USER),
        // Rarely used, so its memory is allocated only then.
        Path::Postmaster => return Box::pin(postmaster(directory, hostname)).await,
        // A source route is ignored (RFC 5321 3.6.1): only the final mailbox decides, so it cannot
        // be used to relay.
        Path::Mailbox { mailbox, .. } => mailbox,
    };
    match directory.resolve(&mailbox.canonical()).await.map_err(|_| DIRECTORY_TROUBLE)? {
        Destination::Mailbox(account) => Ok((account, false)),
        Destination::Subaddress(account) => Ok((account, true)),
        // `user%elsewhere@here` and `elsewhere!user@here` ask us to pass mail on.
        Destination::UnknownUser if mailbox.looks_routed() => Err(RELAY_DENIED),
        Destination::UnknownUser | Destination::Reject(_) => Err(UNKNOWN_USER),
        // Nothing takes them yet.
        Destination::Several(_) | Destination::Discard => Err(DIRECTORY_TROUBLE),
        Destination::Foreign if role == Role::Submission => Err(NO_OUTBOUND_QUEUE),
        Destination::Foreign | Destination::Relay => Err(RELAY_DENIED),
    }
}

/// RFC 5321 4.5.1: `postmaster` without a domain is accepted. It is the postmaster of the domain
/// that equals or contains our host name.
async fn postmaster(directory: &Directory, hostname: &str) -> Result<(AccountId, bool), Reply> {
    let mut domain = hostname;
    loop {
        let found = directory.resolve(&format!("postmaster@{domain}")).await;
        if let Some(account) = found.map_err(|_| DIRECTORY_TROUBLE)?.account() {
            return Ok((account, false));
        }
        (_, domain) = domain.split_once('.').ok_or(UNKNOWN_USER)?;
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
}

/// An accepted recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted<'a> {
    /// As in [`Recipient`].
    pub path: &'a str,
    pub parameters: RecipientParameters<'a>,
    pub account: AccountId,
}

/// One stored recipient. Its path is at `start` in the text, followed by its ORCPT.
struct Kept {
    account: AccountId,
    start: u32,
    path_len: u16,
    orcpt_len: u16,
    notify: Option<Notify>,
    disposition: Disposition,
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
        self.list.iter().map(|kept| {
            let middle = kept.start as usize + usize::from(kept.path_len);
            let end = middle + usize::from(kept.orcpt_len);
            let orcpt = self.text.get(middle..end).filter(|orcpt| !orcpt.is_empty());
            Accepted {
                path: self.text.get(kept.start as usize..middle).unwrap_or_default(),
                parameters: RecipientParameters { orcpt, notify: kept.notify },
                account: kept.account,
            }
        })
    }

    /// Memory held, used or not.
    pub(super) fn memory(&self) -> usize {
        self.text.capacity() + self.list.capacity() * size_of::<Kept>()
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
    }

    pub(super) fn push(
        &mut self,
        recipient: &Recipient<'_>,
        account: AccountId,
        disposition: Disposition,
    ) {
        let orcpt = recipient.parameters.orcpt.unwrap_or_default();
        // A command line is no longer than 12 KiB, and there are at most 100,000 recipients.
        let kept = Kept {
            account,
            start: self.text.len() as u32,
            path_len: recipient.path.len() as u16,
            orcpt_len: orcpt.len() as u16,
            notify: recipient.parameters.notify,
            disposition,
        };
        self.text.push_str(recipient.path);
        self.text.push_str(orcpt);
        self.list.push(kept);
    }

    /// Removes the last one.
    pub(super) fn pop(&mut self) {
        if let Some(kept) = self.list.pop() {
            self.text.truncate(kept.start as usize);
        }
    }

    /// The path of the only recipient.
    pub(super) fn only_path(&self) -> Option<&str> {
        match self.list.as_slice() {
            [only] => self.text.get(..usize::from(only.path_len)),
            _ => None,
        }
    }

    /// The account of each, and the disposition of its copy unless something worse is decided for
    /// all.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (AccountId, Disposition)> {
        self.list.iter().map(|kept| (kept.account, kept.disposition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            recipients.push(&recipient, account, Disposition::Deliver);
            if number == 1 {
                assert_eq!(recipients.only_path(), Some(path));
                recipients.push(&recipient, account, Disposition::Deliver);
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
