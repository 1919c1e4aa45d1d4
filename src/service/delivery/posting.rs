//! Mail to sub-addresses (RFC 5233): a message for `user+folder@domain` goes to that folder of the
//! user if its sender has the right `p` there (RFC 4314 4), else to INBOX. Nobody is told which.
//!
//! Decided where the account is, when the message is stored. The detail is the name of the folder,
//! with its levels as IMAP has them, in the same case. Mail that comes from the queue has no sender
//! any more (`relay/local`): what anyone may post goes to the folder.

use std::sync::Arc;

use crate::{
    directory::{Directory, Identity},
    model::{AccountId, Asker, Right, rights_stored},
    store::{DeliveryTarget, Partition, StoreError},
};

/// Who sends a message. By default somebody who is not logged in: mail from outside.
#[derive(Clone, Default, Debug)]
pub struct Poster {
    account: Option<AccountId>,
    name: Arc<str>,
    groups: Arc<[String]>,
}

impl Poster {
    pub fn of(directory: &Directory, identity: &Identity) -> Poster {
        let name = directory.login_key(&identity.address);
        let groups = directory.groups_of(&name);
        Poster { account: Some(identity.account), name: name.into(), groups }
    }

    fn asker(&self, owner: AccountId) -> Asker<'_> {
        Asker {
            is_owner: self.account == Some(owner),
            account: self.account,
            name: &self.name,
            groups: &self.groups,
            is_logged_in: self.account.is_some(),
        }
    }
}

/// What becomes of mail to a sub-address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posting {
    /// The folder of that name, if there is one.
    pub folder: Option<String>,
    /// Whether mail from outside goes there.
    pub anyone: bool,
}

/// Looks up the folder that a sub-address of `account` names. On the shard of `partition`.
///
/// # Errors
/// Those of reading the account.
pub async fn posting(
    partition: &Partition,
    account: AccountId,
    detail: &str,
) -> Result<Posting, StoreError> {
    let opened = partition.account_as_it_is(account).await?;
    let Some(mailbox) = opened.mailbox_by_name(detail) else {
        return Ok(Posting { folder: None, anyone: false });
    };
    let stranger = Poster::default();
    let asker = stranger.asker(account);
    let rights = opened.with_access_list(mailbox.id, |list| rights_stored(list, &asker));
    Ok(Posting { folder: Some(mailbox.name), anyone: rights.contain(Right::Post) })
}

/// The folders that recipients name, and who asks for them.
pub(super) struct Posts {
    pub poster: Poster,
    /// At most one of each account.
    pub folders: Vec<(AccountId, Box<str>)>,
}

/// Sets the folders of `targets` for which the sender has the right. Those that have one for
/// another reason keep it. On the shard of `partition`.
pub(super) async fn direct(partition: &Partition, posts: &Posts, targets: &mut [DeliveryTarget]) {
    for target in targets.iter_mut().filter(|target| target.mailbox.is_none()) {
        let named = posts.folders.iter().find(|(account, _)| *account == target.account);
        let Some((owner, folder)) = named else { continue };
        // An account in trouble is reported when it gets the message.
        let Ok(account) = partition.account_as_it_is(*owner).await else { continue };
        let Some(mailbox) = account.mailbox_by_name(folder) else { continue };
        let asker = posts.poster.asker(*owner);
        let rights = account.with_access_list(mailbox.id, |list| rights_stored(list, &asker));
        if rights.contain(Right::Post) {
            target.mailbox = Some(mailbox.name);
        }
    }
}
