//! A selected mailbox, wherever its account is.
//!
//! A session on another shard has a lease: its part of a feed of the mailbox ([`super::feed`]).
//! With each state comes the access list, so that a session loses a mailbox that its user may no
//! longer read, and whether `\Seen` is each user's own.

use std::{cell::Cell, future::pending, rc::Rc, sync::Arc};

use super::{
    super::reply::{Failure, no_such_mailbox},
    distant::Distant,
    feed::{self, Feed, Feeds, Opened, Origin, State, Told},
    holding::{Holding, Who, permitted},
};
use crate::{
    model::{AccountId, MailboxId, Right, Rights, Uid},
    store::{Account, MailboxView, Snapshot},
};

/// A mailbox as a session has it selected.
pub(in crate::service::imap) enum View {
    /// On the session's shard.
    Here { view: MailboxView, holding: Holding },
    /// On another one.
    There(Lease),
}

/// A state of a mailbox, as its owner published it.
#[derive(Clone)]
pub(super) struct News {
    /// `None` once the mailbox was deleted.
    snapshot: Option<Snapshot>,
    access: Option<Arc<[u8]>>,
    seen_is_personal: bool,
    /// How often one of the two was changed.
    access_changes: u64,
}

impl News {
    /// The mailbox now. One whose messages are not in memory tells nothing.
    pub(super) fn of(account: &Account, mailbox: MailboxId) -> Option<News> {
        let (snapshot, access_changes) = account.published(mailbox)?;
        let access = account.with_access_list(mailbox, |list| list.map(Arc::from));
        let (snapshot, seen_is_personal) = (Some(snapshot), account.seen_is_personal(mailbox));
        Some(News { snapshot, access, seen_is_personal, access_changes })
    }

    /// The same mailbox after it was deleted.
    fn deleted(&self) -> News {
        News { snapshot: None, ..self.clone() }
    }
}

impl State for News {
    fn is_older_than(&self, other: &News) -> bool {
        let (Some(ours), Some(theirs)) = (&self.snapshot, &other.snapshot) else {
            return self.snapshot.is_some();
        };
        ours.generation() < theirs.generation() || self.access_changes < other.access_changes
    }
}

/// The mailboxes of other shards that sessions of this shard follow.
#[derive(Clone, Default)]
pub struct Leases(Feeds<(AccountId, MailboxId), News>);

/// One session's part of a feed.
pub(in crate::service::imap) struct Lease {
    feed: Rc<Feed<News>>,
    distant: Distant,
    mailbox: MailboxId,
    recent_from: Uid,
    /// As of the news that [`View::changed`] told last.
    access_seen: Cell<u64>,
}

/// What a session gets of a mailbox beside its state.
struct Answer {
    access_changes: u64,
    recent_from: Uid,
}

impl Leases {
    /// Newer news of a mailbox, if sessions here follow it.
    pub(super) fn advance(&self, account: AccountId, mailbox: MailboxId, news: Option<News>) {
        if let (Some(feed), Some(news)) = (self.0.get((account, mailbox)), news) {
            feed.advance(news);
        }
    }
}

/// A mailbox that another shard follows.
struct Followed {
    holding: Holding,
    view: MailboxView,
}

impl Origin<News> for Followed {
    async fn changed(&self, told: &News) {
        match &told.snapshot {
            Some(snapshot) => self.view.changed(snapshot).await,
            None => pending().await,
        }
    }

    fn now(&self, told: &News) -> Option<News> {
        match self.view.current() {
            Some(_) => News::of(&self.holding.account, self.view.mailbox()),
            None => Some(told.deleted()),
        }
    }

    fn ends_with(&self, told: &News) -> bool {
        told.snapshot.is_none()
    }
}

impl View {
    /// Selects a mailbox of this shard.
    pub(in crate::service::imap) async fn here(
        holding: &Holding,
        mailbox: MailboxId,
        claim_recent: bool,
    ) -> Result<View, Failure> {
        let view = holding.account.select(mailbox, claim_recent).await?;
        Ok(View::Here { view, holding: holding.clone() })
    }

    /// Selects a mailbox of another shard.
    pub(in crate::service::imap) async fn there(
        distant: &Distant,
        mailbox: MailboxId,
        claim_recent: bool,
    ) -> Result<View, Failure> {
        let open = async |wants_source| {
            distant.ask(move |holding| open(holding, mailbox, claim_recent, wants_source)).await
        };
        let (Leases(feeds), place) = (&distant.shard.leases, (distant.account, mailbox));
        let (Answer { access_changes, recent_from }, feed) =
            feeds.join(&distant.shard, place, open).await?;
        let (access_seen, distant) = (Cell::new(access_changes), distant.clone());
        Ok(View::There(Lease { feed, distant, mailbox, recent_from, access_seen }))
    }

    pub(in crate::service::imap) fn mailbox(&self) -> MailboxId {
        match self {
            View::Here { view, .. } => view.mailbox(),
            View::There(lease) => lease.mailbox,
        }
    }

    /// The latest state known here; `None` once the mailbox was deleted or cannot be followed.
    pub(in crate::service::imap) fn current(&self) -> Option<Snapshot> {
        match self {
            View::Here { view, .. } => view.current(),
            View::There(lease) => {
                let current = |it: &Told<News>| it.state.snapshot.clone().filter(|_| !it.is_last);
                lease.feed.with(current)
            }
        }
    }

    /// Why there is no current state.
    pub(in crate::service::imap) fn end(&self) -> &'static str {
        match self {
            View::There(lease) if lease.feed.with(|told| told.state.snapshot.is_some()) => {
                "[UNAVAILABLE] The selected mailbox cannot be reached"
            }
            _ => "The selected mailbox was deleted",
        }
    }

    /// What the user may do with it, as far as is known here.
    pub(in crate::service::imap) fn rights(&self) -> Rights {
        match self {
            View::Here { view, holding } => holding.again().rights(view.mailbox()),
            View::There(lease) => {
                let Distant { shard, account, user } = &lease.distant;
                let who = Who::of(shard, *account, user);
                lease.feed.with(|told| who.rights_by(told.state.access.as_deref(), user))
            }
        }
    }

    /// Whether the user has a `\Seen` of his own in it.
    pub(in crate::service::imap) fn seen_is_personal(&self) -> bool {
        match self {
            View::Here { view, holding } => holding.seen_is_personal(view.mailbox()),
            // Of another shard, so not of the user.
            View::There(lease) => lease.feed.with(|told| told.state.seen_is_personal),
        }
    }

    /// Messages with a UID from here on are `\Recent` for this session, as of the selection.
    pub(in crate::service::imap) fn recent_from(&self) -> Uid {
        match self {
            View::Here { view, .. } => view.recent_from(),
            View::There(lease) => lease.recent_from,
        }
    }

    /// Takes the `\Recent` claim on messages added since; returns the first UID of them. On another
    /// shard messages are claimed only by SELECT: those that arrive later are recent for the
    /// session (RFC 3501 2.3.2) and for the next one.
    pub(in crate::service::imap) fn claim_recent(&self) -> Option<Uid> {
        match self {
            View::Here { view, .. } => view.claim_recent(),
            View::There(_) => None,
        }
    }

    /// Messages that arrive later can be claimed.
    pub(in crate::service::imap) fn can_claim(&self) -> bool {
        matches!(self, View::Here { .. })
    }

    /// Resolves when something newer than `seen` is known, or the access list has changed since
    /// this last resolved. Cancel-safe.
    pub(in crate::service::imap) async fn changed(&self, seen: &Snapshot) {
        let lease = match self {
            View::Here { view, .. } => return view.changed(seen).await,
            View::There(lease) => lease,
        };
        let is_news = |told: &Told<News>| {
            let news = &told.state;
            let access = lease.access_seen.replace(news.access_changes);
            let is_same = news.snapshot.as_ref().is_some_and(|it| it.is_same(seen));
            !is_same || told.is_last || access != news.access_changes
        };
        lease.feed.until(is_news).await;
    }
}

/// Begins, on the owner's shard, to follow a mailbox for a session of another one.
async fn open(
    holding: Holding,
    mailbox: MailboxId,
    claim_recent: bool,
    wants_source: bool,
) -> Result<Opened<Answer, News>, Failure> {
    let rights = holding.get(mailbox).map(|(_, rights)| rights);
    permitted(rights, Rights::of(&[Right::Read]), no_such_mailbox)?;
    let view = holding.account.select(mailbox, claim_recent).await?;
    let state = News::of(&holding.account, mailbox).ok_or_else(no_such_mailbox)?;
    let (access_changes, recent_from) = (state.access_changes, view.recent_from());
    let source = wants_source.then(|| {
        let shard = holding.shard.clone();
        feed::begin(&shard, state.clone(), Followed { holding, view })
    });
    Ok(Opened { answer: Answer { access_changes, recent_from }, state, source })
}
