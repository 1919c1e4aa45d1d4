//! Who may get mail here, and who may send it: directory answers turned into SMTP replies.

use super::replies::DIRECTORY_TROUBLE;
use crate::{
    directory::{Destination, Directory, Identity},
    model::AccountId,
    protocol::smtp::{
        Path, Reply, Role,
        reply::{NO_OUTBOUND_QUEUE, NOT_YOUR_ADDRESS, RELAY_DENIED, UNKNOWN_USER},
    },
};

/// The account that a forward-path delivers to. `hostname` is ours.
pub(super) async fn resolve(
    directory: &Directory,
    hostname: &str,
    role: Role,
    forward_path: Path<'_>,
) -> Result<AccountId, Reply> {
    let mailbox = match forward_path {
        Path::Null => return Err(UNKNOWN_USER),
        // Seldom asked for, so it has memory only while it is.
        Path::Postmaster => return Box::pin(postmaster(directory, hostname)).await,
        // A source route is ignored (RFC 5321 3.6.1): whoever's mailbox ends it decides, so it
        // cannot be used to relay.
        Path::Mailbox { mailbox, .. } => mailbox,
    };
    match directory.resolve(&mailbox.canonical()).await.map_err(|_| DIRECTORY_TROUBLE)? {
        Destination::Mailbox(account) => Ok(account),
        // `user%elsewhere@here` and `elsewhere!user@here` ask us to pass mail on.
        Destination::UnknownUser if mailbox.looks_routed() => Err(RELAY_DENIED),
        Destination::UnknownUser => Err(UNKNOWN_USER),
        Destination::Foreign if role == Role::Submission => Err(NO_OUTBOUND_QUEUE),
        Destination::Foreign => Err(RELAY_DENIED),
    }
}

/// RFC 5321 4.5.1: `postmaster` without a domain is accepted. It is the postmaster of the domain
/// that our host name is, or else lies in.
async fn postmaster(directory: &Directory, hostname: &str) -> Result<AccountId, Reply> {
    let mut domain = hostname;
    loop {
        let found = directory.resolve(&format!("postmaster@{domain}")).await;
        if let Destination::Mailbox(account) = found.map_err(|_| DIRECTORY_TROUBLE)? {
            return Ok(account);
        }
        (_, domain) = domain.split_once('.').ok_or(UNKNOWN_USER)?;
    }
}

/// May the authenticated account use this MAIL FROM? The null path is for notifications of its
/// mail program (RFC 8098 3) and names nobody.
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
