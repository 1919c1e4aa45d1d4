//! Quotas (RFC 9208): what limits accounts by default, changes of what was set for one, and who is
//! told that an account is nearly full. Whether a message still fits is decided by the store, in
//! the step that takes its UID.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{Shard, access::By};
use crate::{
    directory::SharedDirectory,
    events::Event,
    model::{AccountId, QuotaLimits},
    runtime::{LocalFuture, mesh::Class},
    store::{Account, DefaultQuota, Partition, StoreError, Usage},
};

/// How long the shard of a recipient may take to say whether he has room.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Accounts that are remembered as nearly full. Beyond that, the operator may be told again.
const NEARLY_FULL_MAX: usize = 100_000;

/// Settings of quotas; `config` fills them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaOptions {
    /// An account that uses this much of its quota, in percent, is nearly full; 0: none is.
    pub warn_at: u8,
    /// A message for a full account is refused for now, and not for good.
    pub defers: bool,
}

impl Default for QuotaOptions {
    fn default() -> QuotaOptions {
        QuotaOptions { warn_at: 90, defers: false }
    }
}

/// The limits of accounts for which nothing was set.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct QuotaDefaults {
    pub all: QuotaLimits,
    /// Those of the accounts of some domains, in place of these.
    pub domains: BTreeMap<String, QuotaLimits>,
}

impl QuotaDefaults {
    /// As the store asks for them. Nothing limits the public mailboxes by default. An account of a
    /// directory that cannot be listed has those for all.
    pub fn of_accounts(self, directory: Arc<SharedDirectory>) -> Option<DefaultQuota> {
        if self == QuotaDefaults::default() {
            return None;
        }
        Some(Box::new(move |account| {
            if [AccountId::PUBLIC, AccountId::QUEUE, AccountId::SHARES].contains(&account) {
                return QuotaLimits::default();
            }
            let of_domain = || {
                let snapshot = directory.snapshot();
                let (_, domain) = snapshot.name_of(account)?.rsplit_once('@')?;
                self.domains.get(domain).copied()
            };
            match self.domains.is_empty() {
                true => self.all,
                false => of_domain().unwrap_or(self.all),
            }
        }))
    }
}

/// Accounts of a shard that are nearly full.
#[derive(Default)]
pub struct NearlyFull(RefCell<HashSet<AccountId>>);

/// How full, in percent, an account is that got mail, if it is nearly so. The operator is told
/// when it becomes so.
pub fn look(shard: &Shard, account: &Account) -> Option<u64> {
    let id = account.id();
    let warn_at = u64::from(shard.options.quota.warn_at);
    if warn_at == 0 || shard.quotas.limits(id).is_none() {
        return None;
    }
    let usage = account.usage();
    let percent = usage.percent();
    let mut told = shard.nearly_full.0.borrow_mut();
    if percent < warn_at {
        told.remove(&id);
        return None;
    }
    if told.len() < NEARLY_FULL_MAX && told.insert(id) {
        let Usage { messages, octets, limits } = usage;
        shard.tell(&Event::QuotaNearlyFull {
            account: id,
            percent,
            octets,
            octets_max: limits.octets,
            messages,
            messages_max: limits.messages,
        });
    }
    Some(percent)
}

/// [`look`] after a delivery.
pub async fn look_at(shard: &Shard, partition: &Partition, account: AccountId) {
    if !shard.quotas.limits(account).is_none()
        && let Ok(account) = partition.account(account).await
    {
        look(shard, &account);
    }
}

/// Whether an account on any shard could take one more message of `octets`, as far as is known:
/// only those with a quota are asked.
pub async fn has_room(shard: &Rc<Shard>, account: AccountId, octets: u64) -> bool {
    if shard.quotas.limits(account).is_none() {
        return true;
    }
    let is_full = match shard.local_partition(account) {
        Some(partition) => is_full(partition, account, octets).await,
        None => {
            let ask = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
                Box::pin(async move {
                    match shard.local_partition(account) {
                        Some(partition) => is_full(partition, account, octets).await,
                        None => false,
                    }
                })
            };
            let owner = shard.owner_of(account);
            shard.mesh.call(owner, Class::Delivery, ANSWER_TIMEOUT, ask).await.unwrap_or(false)
        }
    };
    !is_full
}

async fn is_full(partition: &Partition, account: AccountId, octets: u64) -> bool {
    matches!(partition.has_room(&[account], octets).await, Err(StoreError::OverQuota))
}

/// Sets the limits of an account of this shard; `None`: it has the default.
///
/// # Errors
/// As [`Partition::set_quota`].
pub async fn set(
    shard: &Shard,
    partition: &Partition,
    account: AccountId,
    limits: Option<QuotaLimits>,
    by: By<'_>,
) -> Result<(), StoreError> {
    let before = shard.quotas.own(account);
    partition.set_quota(account, limits).await?;
    if before == limits {
        return Ok(());
    }
    shard.tell(&Event::QuotaChanged {
        trail: by.trail(),
        cause: by.cause(),
        user: by.user(),
        operator: by.operator(),
        account: Some(account).filter(|id| *id != AccountId::PUBLIC),
        before: &told(before),
        after: &told(limits),
    });
    Ok(())
}

/// For the operator.
fn told(limits: Option<QuotaLimits>) -> String {
    let Some(QuotaLimits { octets, messages }) = limits else { return "default".to_owned() };
    let limit = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |it| it.to_string());
    format!("octets {}, messages {}", limit(octets), limit(messages))
}

/// Forgets what was set for accounts that are gone.
pub(super) async fn forget_gone(shard: &Shard, partition: &Partition) -> Result<(), StoreError> {
    let index = partition.account_as_it_is(AccountId::SHARES).await?;
    for (account, _) in index.accounts_with_quota() {
        if account != AccountId::PUBLIC && shard.directory.name_of(account).is_none() {
            set(shard, partition, account, None, By::Removal).await?;
        }
    }
    Ok(())
}
