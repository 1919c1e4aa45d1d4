//! A selected mailbox, wherever its account is.
//!
//! A session on another shard has a lease: its shard follows the mailbox by one feed, however many
//! of its sessions have the mailbox selected. The owner sends each newer state, of which only the
//! latest waits ([`Teller`]): a slow shard costs the owner nothing. With each state comes the
//! access list, so that a session loses a mailbox that its user may no longer read, and whether
//! `\Seen` is each user's own.
//!
//! A feed ends when no session follows it any more, when the owner's shard ends, and when the other
//! shard does not renew it: the owner keeps no state for a shard that does nothing.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_lite::future::or;
use hashbrown::HashMap;

use super::{
    super::reply::{Failure, no_such_mailbox},
    distant::Distant,
    holding::{Holding, Who, permitted},
};
use crate::{
    model::{AccountId, MailboxId, Right, Rights, Uid},
    runtime::{
        executor::Priority,
        latest::{Listener, Silent, Teller},
    },
    service::Shard,
    store::{Account, MailboxView, Snapshot},
};

/// How often a shard renews its leases.
pub(super) const RENEWAL: Duration = Duration::from_secs(10);
/// How long the owner keeps a lease that is not renewed.
pub(super) const EXPIRY: Duration = Duration::from_secs(60);

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
    /// Nothing comes any more, although the mailbox may be there.
    is_last: bool,
}

impl News {
    /// The mailbox now. One whose messages are not in memory tells nothing.
    pub(super) fn of(account: &Account, mailbox: MailboxId) -> Option<News> {
        let (snapshot, access_changes) = account.published(mailbox)?;
        let access = account.with_access_list(mailbox, |list| list.map(Arc::from));
        let (snapshot, seen_is_personal) = (Some(snapshot), account.seen_is_personal(mailbox));
        Some(News { snapshot, access, seen_is_personal, access_changes, is_last: false })
    }

    /// The same mailbox after it was deleted.
    fn deleted(&self) -> News {
        News { snapshot: None, ..self.clone() }
    }

    fn is_older_than(&self, other: &News) -> bool {
        let (Some(ours), Some(theirs)) = (&self.snapshot, &other.snapshot) else {
            return self.snapshot.is_some();
        };
        ours.generation() < theirs.generation() || self.access_changes < other.access_changes
    }
}

/// The mailboxes of other shards that sessions of this shard follow.
#[derive(Clone, Default)]
pub struct Leases(Rc<RefCell<HashMap<(AccountId, MailboxId), Weak<Feed>>>>);

/// What the sessions of a shard share of a mailbox on another one.
struct Feed {
    latest: Teller<News>,
    /// Counted up by this shard, and looked at by the owner.
    renewals: Arc<AtomicU64>,
}

/// One session's part of a feed.
pub(in crate::service::imap) struct Lease {
    feed: Rc<Feed>,
    distant: Distant,
    mailbox: MailboxId,
    recent_from: Uid,
    /// As of the news that [`View::changed`] told last.
    access_seen: Cell<u64>,
}

/// What the owner gives to a session that begins to follow a mailbox.
struct Opened {
    news: News,
    recent_from: Uid,
    feed: Option<(Listener<News>, Arc<AtomicU64>)>,
}

impl Leases {
    fn get(&self, account: AccountId, mailbox: MailboxId) -> Option<Rc<Feed>> {
        let feed = self.0.borrow().get(&(account, mailbox))?.upgrade()?;
        let is_last = feed.latest.with(|news| news.is_last);
        (!is_last).then_some(feed)
    }

    /// Newer news of a mailbox, if sessions here follow it.
    pub(super) fn advance(&self, account: AccountId, mailbox: MailboxId, news: Option<News>) {
        if let (Some(feed), Some(news)) = (self.get(account, mailbox), news) {
            feed.advance(news);
        }
    }

    fn follow(
        &self,
        shard: &Rc<Shard>,
        place: (AccountId, MailboxId),
        news: News,
        (source, renewals): (Listener<News>, Arc<AtomicU64>),
    ) -> Rc<Feed> {
        let feed = Rc::new(Feed { latest: Teller::new(news), renewals });
        let mut feeds = self.0.borrow_mut();
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(place, Rc::downgrade(&feed));
        let relay = relay(shard.clone(), Rc::downgrade(&feed), source);
        shard.executor.spawn(Priority::Foreground, Box::pin(relay));
        feed
    }
}

impl Feed {
    fn advance(&self, news: News) {
        self.latest.tell_if(|latest| {
            // One that has ended stays so: nobody would hear what the owner tells.
            let newer = !latest.is_last && latest.is_older_than(&news);
            if newer {
                *latest = news;
            }
            newer
        });
    }
}

enum Heard {
    News,
    End,
    Tick,
}

/// Passes the owner's news on to the sessions of this shard, as long as there are any.
async fn relay(shard: Rc<Shard>, feed: Weak<Feed>, mut source: Listener<News>) {
    loop {
        let news = async {
            match source.news().await {
                Ok(()) => Heard::News,
                Err(Silent) => Heard::End,
            }
        };
        let tick = async {
            shard.executor.sleep(RENEWAL).await;
            Heard::Tick
        };
        let heard = or(news, tick).await;
        let Some(feed) = feed.upgrade() else { return };
        feed.renewals.fetch_add(1, Ordering::Relaxed);
        match heard {
            Heard::Tick => {}
            Heard::News => {
                feed.advance(source.with(News::clone));
            }
            Heard::End => {
                feed.latest.tell_if(|latest| {
                    latest.is_last = true;
                    true
                });
                return;
            }
        }
    }
}

/// Sends the news of a mailbox to another shard, as long as that one follows it.
async fn feed(
    holding: Holding,
    view: MailboxView,
    mut sent: News,
    news: Teller<News>,
    renewals: Arc<AtomicU64>,
) {
    let executor = holding.shard.executor.clone();
    let mut renewed = (renewals.load(Ordering::Relaxed), executor.moment());
    while let Some(snapshot) = sent.snapshot.clone() {
        let look = async {
            or(news.alone(), executor.sleep(RENEWAL)).await;
        };
        or(view.changed(&snapshot), look).await;
        let count = renewals.load(Ordering::Relaxed);
        let now = executor.moment();
        if count != renewed.0 {
            renewed = (count, now);
        }
        if news.is_alone() || now.since(renewed.1) > EXPIRY || holding.shard.shutting_down.get() {
            return;
        }
        let newer = match view.current() {
            Some(_) => News::of(&holding.account, view.mailbox()),
            None => Some(sent.deleted()),
        };
        if let Some(newer) = newer.filter(|newer| sent.is_older_than(newer)) {
            sent = newer.clone();
            news.tell(newer);
        }
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
        let place = (distant.account, mailbox);
        let leases = distant.shard.leases.clone();
        let mut held = leases.get(place.0, place.1);
        let (opened, feed) = loop {
            let wants_feed = held.is_none();
            let open = move |holding| open(holding, mailbox, claim_recent, wants_feed);
            let Opened { news, recent_from, feed } = distant.ask(open).await?;
            let opened = (news.access_changes, recent_from);
            // Meanwhile another session may have begun to follow it, too, and ours may have ended.
            match (leases.get(place.0, place.1), feed) {
                (Some(feed), _) => {
                    feed.advance(news);
                    break (opened, feed);
                }
                (None, Some(source)) => {
                    break (opened, leases.follow(&distant.shard, place, news, source));
                }
                (None, None) => held = None,
            }
        };
        let (access_seen, recent_from) = (Cell::new(opened.0), opened.1);
        let distant = distant.clone();
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
                let current = |news: &News| news.snapshot.clone().filter(|_| !news.is_last);
                lease.feed.latest.with(current)
            }
        }
    }

    /// Why there is no current state.
    pub(in crate::service::imap) fn end(&self) -> &'static str {
        match self {
            View::There(lease) if lease.feed.latest.with(|news| news.snapshot.is_some()) => {
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
                lease.feed.latest.with(|news| who.rights_by(news.access.as_deref(), user))
            }
        }
    }

    /// Whether the user has a `\Seen` of his own in it.
    pub(in crate::service::imap) fn seen_is_personal(&self) -> bool {
        match self {
            View::Here { view, holding } => holding.seen_is_personal(view.mailbox()),
            // Of another shard, so not of the user.
            View::There(lease) => lease.feed.latest.with(|news| news.seen_is_personal),
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
        let mut latest = lease.feed.latest.listen();
        let is_news = |news: &News| {
            let access = lease.access_seen.replace(news.access_changes);
            let is_same = news.snapshot.as_ref().is_some_and(|it| it.is_same(seen));
            !is_same || news.is_last || access != news.access_changes
        };
        // The feed lives as long as the lease.
        while !latest.with(is_news) && latest.news().await.is_ok() {}
    }
}

/// Begins, on the owner's shard, to follow a mailbox for a session of another one.
async fn open(
    holding: Holding,
    mailbox: MailboxId,
    claim_recent: bool,
    wants_feed: bool,
) -> Result<Opened, Failure> {
    let rights = holding.get(mailbox).map(|(_, rights)| rights);
    permitted(rights, Rights::of(&[Right::Read]), no_such_mailbox)?;
    let view = holding.account.select(mailbox, claim_recent).await?;
    let recent_from = view.recent_from();
    let news = News::of(&holding.account, mailbox).ok_or_else(no_such_mailbox)?;
    if !wants_feed {
        return Ok(Opened { news, recent_from, feed: None });
    }
    let sender = Teller::new(news.clone());
    let receiver = sender.listen();
    let renewals = Arc::new(AtomicU64::new(0));
    let executor = holding.shard.executor.clone();
    let task = feed(holding, view, news.clone(), sender, renewals.clone());
    executor.spawn(Priority::Foreground, Box::pin(task));
    Ok(Opened { news, recent_from, feed: Some((receiver, renewals)) })
}
