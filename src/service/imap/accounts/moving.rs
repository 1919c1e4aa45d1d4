//! COPY and MOVE between accounts, for one user: his rights on both sides, asked where and when the
//! messages are copied.

use std::sync::Arc;

use super::{
    super::reply::{Failure, no_such_mailbox, try_create},
    distant::unreachable_now,
    holding::{NOT_ALLOWED, Who, not_allowed, shared_flags},
    home::Home,
};
use crate::{
    model::{FlagMask, MailboxId, Right, Rights},
    service::transfer::{Consent, Consents, TransferFailure, Way, transfer},
    store::{Account, Copied, Message, StoreError},
};

/// Copies or moves messages into a mailbox of another account, with the flags that the user may set
/// there, of those in `kept`.
pub(in crate::service::imap) async fn carry(
    (source, from): (&Home, MailboxId),
    messages: Vec<Message>,
    (target, to): (&Home, MailboxId),
    kept: FlagMask,
    way: Way,
) -> Result<Copied, Failure> {
    let needed = match way {
        Way::Copy => Rights::of(&[Right::Read]),
        Way::Move => Rights::of(&[Right::Read, Right::DeleteMessages, Right::Expunge]),
    };
    let consents = Consents {
        source: consent(source, needed, kept),
        target: consent(target, Rights::of(&[Right::Insert]), kept),
    };
    let (from, to) = ((source.account(), from), (target.account(), to));
    let carried = transfer(source.shard(), from, messages, to, way, consents).await;
    // The session's view has what was moved away, or came, when the command is answered.
    source.look(from.1).await;
    target.look(to.1).await;
    carried.map_err(Failure::from)
}

/// Whether the user has `needed` on a mailbox at the moment of the question. A `\Seen` of the
/// user's own is no flag of the messages there.
fn consent(home: &Home, needed: Rights, kept: FlagMask) -> Consent {
    let (shard, user) = (home.shard(), home.user().clone());
    let who = Who::of(shard, home.account(), &user);
    Arc::new(move |account: &Account, mailbox| {
        let rights = account.with_access_list(mailbox, |list| who.rights_by(list, &user));
        match needed.without(rights).is_empty() {
            true => Ok(kept.and(shared_flags(account, mailbox, &user, rights))),
            false if rights.contain(Right::Lookup) => Err(StoreError::NotPermitted(NOT_ALLOWED)),
            false => Err(StoreError::NoSuchMailbox),
        }
    })
}

impl From<TransferFailure> for Failure {
    fn from(failure: TransferFailure) -> Failure {
        match failure {
            TransferFailure::NoSource => no_such_mailbox(),
            TransferFailure::NoTarget => try_create(),
            TransferFailure::NotPermitted(NOT_ALLOWED) => not_allowed(),
            TransferFailure::NotPermitted(why) => StoreError::NotPermitted(why).into(),
            TransferFailure::OverQuota => StoreError::OverQuota.into(),
            TransferFailure::Full => StoreError::Full.into(),
            TransferFailure::Limit(what) => StoreError::Limit(what).into(),
            TransferFailure::Unavailable => unreachable_now(),
        }
    }
}
