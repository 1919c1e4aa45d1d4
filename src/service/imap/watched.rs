//! What a session with NOTIFY watches (RFC 5465): which events of which mailboxes, and the accounts
//! that it follows for them. Also what one watches that enabled METADATA (RFC 5464 4.4).
//!
//! Owned by the session; [`super::notify`] fills it and tells the client. Of a mailbox nothing is
//! kept: whether it is watched follows from its name, and what changed in it is asked for when its
//! account has news. So it costs as much as the names in the client's command and the accounts that
//! they lead to, however many mailboxes there are, and both have a limit.

use std::{
    collections::BTreeSet,
    future::{Future, pending, poll_fn},
    sync::Arc,
    task::Poll,
};

use super::accounts::{Follow, Home, Interest, Reach, is_at_or_below};
use crate::{
    model::AccountId,
    protocol::imap::{SEPARATOR, session::notify::Events},
    runtime::latest::{Listener, Silent},
    service::Shard,
};
use futures_lite::future::{or, poll_once};

/// Changes by the session itself of which it is not told. Of more in one command it is told as if
/// another session had made them.
const OWN_MAX: usize = 256;

pub(super) struct Watched {
    /// `None` without NOTIFY: then the client is told of all that happens in the selected mailbox,
    /// and of everything only while a command is under way.
    pub selected: Option<SelectedWishes>,
    groups: Vec<Group>,
    /// Of all groups.
    events: Events,
    pub follows: Vec<Followed>,
    /// What the client did itself since the accounts were last asked.
    pub own: Vec<Own>,
    /// What is shared with whom; accounts and groups.
    reaches: (Listener<u64>, Listener<u64>),
    /// Other accounts may have to be followed now.
    pub is_stale: bool,
    /// The groups of users that the user belonged to when the client said what it wants.
    pub memberships: Arc<[String]>,
}

/// Of the selected mailbox, whichever that is.
#[derive(Clone, Default)]
pub(super) struct SelectedWishes {
    pub events: Events,
    /// Expunges wait for a command that allows them (RFC 5465 6.1.2).
    pub delayed: bool,
    /// What is wanted of a new message: the list of a FETCH.
    pub fetch: Option<Vec<u8>>,
}

/// Events of some mailboxes.
pub(super) struct Group {
    pub which: Which,
    pub events: Events,
}

/// Names are in UTF-8, in their one spelling.
pub(super) enum Which {
    Personal,
    Subscribed,
    Subtree(BTreeSet<String>),
    Mailboxes(BTreeSet<String>),
}

/// An account that is followed.
pub(super) struct Followed {
    pub reach: Reach,
    pub home: Home,
    pub follow: Follow,
    /// The number of the latest change that the client was told of.
    pub known: u64,
    pub interest: Arc<Interest>,
}

/// A change by the session itself. Names are those that the client knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Own {
    /// A mailbox of this name exists now, or does not any more.
    Name(String, bool),
    /// Something below this name came or went.
    Below(String),
    /// A mailbox had the first name, and has the second one.
    Renamed(String, String),
    Subscription(String),
    /// An annotation of a mailbox or, without a name, the server.
    Annotation(String, String),
}

impl Own {
    /// Whether the account may have noted it.
    fn concerns(&self, reach: &Reach) -> bool {
        match self {
            Own::Name(name, _) | Own::Below(name) | Own::Renamed(_, name) => {
                name.starts_with(&*reach.prefix)
            }
            Own::Subscription(_) => reach.prefix.is_empty(),
            // What is private is in the user's own account.
            Own::Annotation(name, _) => {
                name.starts_with(&*reach.prefix)
                    || name.is_empty() && reach.account == AccountId::PUBLIC
            }
        }
    }
}

impl Watched {
    pub(super) fn new(
        shard: &Shard,
        selected: Option<SelectedWishes>,
        groups: Vec<Group>,
    ) -> Watched {
        let events = groups.iter().fold(Events::NONE, |events, it| events.or(it.events));
        let reaches = (shard.shares.listen(), shard.reloads.listen());
        let (follows, own) = (Vec::new(), Vec::new());
        let (is_stale, memberships) = (false, Arc::default());
        Watched { selected, groups, events, follows, own, reaches, is_stale, memberships }
    }

    /// As after NOTIFY NONE.
    pub(super) fn nothing(shard: &Shard) -> Watched {
        Watched::new(shard, Some(SelectedWishes::default()), Vec::new())
    }

    /// Annotations of all mailboxes that are below `levels` or the user's own, or of the server.
    pub(super) fn annotations(shard: &Shard, events: Events, levels: [&str; 2]) -> Watched {
        let mut groups = vec![Group { which: Which::Personal, events }];
        if events.contain(Events::MAILBOX_METADATA_CHANGE) {
            let which = Which::Subtree(levels.map(str::to_owned).into());
            groups.push(Group { which, events });
        }
        Watched::new(shard, None, groups)
    }

    /// Those that are told of any mailbox but the selected one.
    pub(super) fn events(&self) -> Events {
        self.events
    }

    /// Whether mailboxes of accounts other than the user's own are watched.
    pub(super) fn has_others(&self) -> bool {
        self.follows.iter().any(|it| !it.reach.prefix.is_empty())
    }

    /// Whether anything but the selected mailbox is watched.
    pub(super) fn has_groups(&self) -> bool {
        !self.events.is_empty()
    }

    /// The events that are told of a mailbox: of all groups that it is in (RFC 5465 6).
    /// `is_personal`: its account is the user's own. `is_subscribed` is asked if it matters.
    pub(super) fn events_of(
        &self,
        name: &str,
        is_personal: bool,
        is_subscribed: impl Fn() -> bool,
    ) -> Events {
        self.groups.iter().fold(Events::NONE, |events, group| {
            let has = match &group.which {
                Which::Personal => is_personal,
                Which::Subscribed => is_subscribed(),
                Which::Subtree(roots) => is_at_or_below(roots, name),
                Which::Mailboxes(names) => names.contains(name),
            };
            if has { events.or(group.events) } else { events }
        })
    }

    /// The names that the client gave.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|group| match &group.which {
            Which::Subtree(names) | Which::Mailboxes(names) => Some(names).into_iter().flatten(),
            Which::Personal | Which::Subscribed => None.into_iter().flatten(),
        })
    }

    /// Those of which all that is below is meant.
    pub(super) fn roots(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|group| match &group.which {
            Which::Subtree(names) => Some(names).into_iter().flatten(),
            _ => None.into_iter().flatten(),
        })
    }

    pub(super) fn has_subscribed(&self) -> bool {
        self.groups.iter().any(|group| matches!(group.which, Which::Subscribed))
    }

    /// Whether the mailboxes that are meant have to be looked for.
    pub(super) fn needs_walk(&self) -> bool {
        self.groups.iter().any(|group| !matches!(group.which, Which::Mailboxes(_)))
    }

    /// What of an account whose names begin so the groups may mean.
    pub(super) fn interest(&self, prefix: &str) -> Interest {
        let mut interest = Interest::default();
        let level = prefix.strip_suffix(SEPARATOR).unwrap_or(prefix);
        // Of the groups that have all of its mailboxes.
        let mut of_all = Events::NONE;
        for group in &self.groups {
            let below = |names: &BTreeSet<String>| -> Vec<String> {
                names
                    .iter()
                    .filter_map(|name| name.strip_prefix(prefix))
                    .map(str::to_owned)
                    .collect()
            };
            match &group.which {
                Which::Personal if prefix.is_empty() => {
                    interest.all = true;
                    of_all = of_all.or(group.events);
                }
                Which::Personal => {}
                Which::Subscribed => interest.all = true,
                Which::Mailboxes(names) => interest.names.extend(below(names)),
                Which::Subtree(names) => {
                    if !prefix.is_empty() && is_at_or_below(names, level) {
                        interest.all = true;
                        of_all = of_all.or(group.events);
                    }
                    interest.subtrees.extend(below(names));
                }
            }
        }
        interest.is_uniform = of_all == self.events && of_all.contain(Events::MAILBOX_NAME);
        interest
    }

    /// Notes a change by the session itself: its account is asked before the client is told
    /// anything, so that exactly that change is left out.
    pub(super) fn note_own(&mut self, own: Own) {
        if self.has_groups() && self.own.len() < OWN_MAX {
            self.own.push(own);
        }
    }

    pub(super) fn is_own(&self, own: &Own) -> bool {
        self.own.contains(own)
    }

    /// Whether an account has something to tell, or was changed by the session.
    pub(super) fn asks(&self, followed: &Followed) -> bool {
        let Followed { reach, follow, known, .. } = followed;
        follow.has_news(*known) || self.own.iter().any(|own| own.concerns(reach))
    }

    /// Notes whether what the user can reach may have changed.
    pub(super) async fn look(&mut self) {
        let (shares, reloads) = &mut self.reaches;
        self.is_stale |= poll_once(or(heard(shares), heard(reloads))).await.is_some();
    }

    /// Resolves when there may be something to tell but of the selected mailbox. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        let Watched { follows, reaches: (shares, reloads), .. } = self;
        let reaches = async {
            or(heard(shares), heard(reloads)).await;
            true
        };
        let mut follows: Vec<_> =
            follows.iter().map(|it| Box::pin(it.follow.changed(it.known))).collect();
        let follows = poll_fn(move |context| {
            // Each is polled, so that each wakes.
            let ready = follows.iter_mut().filter_map(|it| match it.as_mut().poll(context) {
                Poll::Ready(()) => Some(()),
                Poll::Pending => None,
            });
            if ready.count() > 0 { Poll::Ready(false) } else { Poll::Pending }
        });
        self.is_stale |= or(reaches, follows).await;
    }
}

/// The next news; a teller that is gone tells none, and its shard ends.
async fn heard(listener: &mut Listener<u64>) {
    match listener.news().await {
        Ok(()) => listener.with(|_| ()),
        Err(Silent) => pending().await,
    }
}
