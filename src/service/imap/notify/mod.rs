//! Tells a client with NOTIFY what happens, at any time between commands, in IDLE and before the
//! end of other commands (RFC 5465).
//!
//! Of the selected mailbox [`super::sync`] tells, as far as the client wants; new messages are
//! fetched as if the client had asked. Of others the accounts that the session follows are asked
//! when they have news, for what this user may know at that moment: so all that happened while the
//! client did not read is one answer. An account that has forgotten what the client does not know
//! yet, or that cannot be asked, ends all of it, as NOTIFY NONE would (RFC 5465 5.8).

mod arrived;
mod news;
mod wishes;

use std::{collections::BTreeSet, mem::take, sync::Arc};

use futures_lite::future::or;

use self::{
    news::{Carrier, children},
    wishes::{follow, reaches, wishes},
};
use super::{
    accounts::{Follow, Holding, NameNews, News, may_watch},
    folder::{self, Folder},
    namespace::{NameWalk, Namespace, OTHER_USERS, SHARED},
    reply::Failure,
    state::Session,
    watched::{Followed, Own, Watched},
};
use crate::{
    protocol::imap::{
        Attributes, Code, Status, Updates,
        session::notify::{Events, NotifySet},
    },
    runtime::connection::ConnectionError,
    store::Names,
};

/// Mailboxes that are taken from an account at once.
const LISTED_AT_ONCE: usize = 64;

impl Session {
    /// NOTIFY SET: returns what the client does not know yet of the selected mailbox, as NOOP does,
    /// then the state of the others if it asks for that.
    pub(super) async fn watch(&mut self, set: &NotifySet<'_>) -> Result<(), Failure> {
        let namespace = Namespace::of(self)?;
        let (selected, groups) = wishes(self, &namespace, set)?;
        let mut watched = Watched::new(&self.channel.shard, Some(selected), groups);
        watched.memberships = self.memberships();
        follow(&namespace, &mut watched).await?;
        // What has arrived until now is fetched as the client wanted it until now.
        self.tell_everything(false).await?;
        self.fetch_arrived().await?;
        if let Some(selected) = &mut self.selected {
            selected.take_arrived();
        }
        self.watched = Some(Box::new(watched));
        self.describe_watched(&namespace, set.status).await
    }

    /// NOTIFY NONE.
    pub(super) fn watch_nothing(&mut self) {
        self.watched = Some(Box::new(Watched::nothing(&self.channel.shard)));
    }

    /// ENABLE METADATA or METADATA-SERVER (RFC 5464 4.4): the client is told which annotations
    /// others have changed. NOTIFY takes the place of this.
    pub(super) async fn watch_annotations(&mut self, events: Events) -> Result<(), Failure> {
        if self.has_notify() {
            return Ok(());
        }
        let before = self.watched.as_ref().map_or(Events::NONE, |watched| watched.events());
        let namespace = Namespace::of(self)?;
        let levels = [OTHER_USERS, SHARED];
        let shard = &self.channel.shard;
        let mut watched = Watched::annotations(shard, events.or(before), levels);
        follow(&namespace, &mut watched).await?;
        self.watched = Some(Box::new(watched));
        Ok(())
    }

    /// Sends what happened: in the selected mailbox as far as `updates` allows, then elsewhere.
    pub(super) async fn report(&mut self, updates: Updates) -> Result<(), Failure> {
        self.tell_changes(updates).await?;
        let is_wanted = self.selected.as_ref().is_some_and(|it| !it.wanted.is_empty());
        match self.watched.is_some() || is_wanted {
            true => Box::pin(self.report_watched()).await,
            false => Ok(()),
        }
    }

    /// The same between commands.
    pub(super) async fn report_unasked(&mut self) -> Result<(), Failure> {
        self.check_account()?;
        if self.selected_wishes().is_some_and(|wishes| wishes.delayed) {
            self.tell_but_expunges().await?;
        } else {
            self.tell_changes(Updates::All { uid: true }).await?;
        }
        Box::pin(self.report_watched()).await
    }

    async fn report_watched(&mut self) -> Result<(), Failure> {
        self.fetch_arrived().await?;
        let Some(watched) = &mut self.watched else { return Ok(()) };
        if !watched.has_groups() {
            watched.is_stale = false;
            return Ok(());
        }
        watched.look().await;
        if !watched.is_stale && !watched.follows.iter().any(|it| watched.asks(it)) {
            watched.own.clear();
            return Ok(());
        }
        if self.is_in_other_groups() {
            return self.overflow().await;
        }
        let namespace = Namespace::of(self)?;
        let Some(watched) = &mut self.watched else { return Ok(()) };
        // Most shares are not this user's.
        let reaches = take(&mut watched.is_stale).then(|| reaches(&namespace, watched));
        let is_left =
            |it: &Followed| reaches.as_ref().is_some_and(|them| !them.contains(&it.reach));
        let is_other = watched.follows.iter().any(is_left)
            || reaches.as_ref().is_some_and(|them| them.len() != watched.follows.len());
        let mut index = 0;
        while let Some(watched) = &self.watched
            && let Some(followed) = watched.follows.get(index)
        {
            let asks = watched.asks(followed) || is_left(followed);
            if asks && !self.report_account(&namespace, index).await? {
                return self.overflow().await;
            }
            index += 1;
        }
        if self.own_name_is_gone(&namespace).await {
            return self.overflow().await;
        }
        let Some(watched) = &mut self.watched else { return Ok(()) };
        watched.own.clear();
        match take(&mut watched.is_stale) || is_other {
            true => self.follow_again(&namespace).await,
            false => Ok(()),
        }
    }

    /// Groups of users that the user belongs to now.
    fn memberships(&self) -> Arc<[String]> {
        let directory = &self.channel.shard.directory;
        self.user.as_ref().map(|user| directory.groups_of_account(user.account)).unwrap_or_default()
    }

    /// Whether the user may look up other mailboxes of others than before without a change of any
    /// of these, by being in other groups: nothing is known of each mailbox that he had.
    fn is_in_other_groups(&mut self) -> bool {
        let (memberships, has_notify) = (self.memberships(), self.has_notify());
        let Some(watched) = self.watched.as_mut().filter(|it| it.is_stale) else { return false };
        if watched.has_others() {
            return has_notify && watched.memberships != memberships;
        }
        watched.memberships = memberships;
        false
    }

    /// Whether another session has taken away a mailbox that this one has created or renamed,
    /// before both could be told apart.
    async fn own_name_is_gone(&self, namespace: &Namespace) -> bool {
        let Some(watched) = &self.watched else { return false };
        for own in &watched.own {
            if let Own::Name(name, true) = own
                && !watched.is_own(&Own::Name(name.clone(), false))
                && folder::look_up(namespace, name).await.is_none()
            {
                return true;
            }
        }
        false
    }

    /// Tells what happened in an account. False if that is not known.
    async fn report_account(
        &mut self,
        namespace: &Namespace,
        index: usize,
    ) -> Result<bool, Failure> {
        let Some(followed) = self.watched.as_mut().and_then(|it| it.follows.get_mut(index)) else {
            return Ok(true);
        };
        if followed.follow.has_ended() {
            match Follow::of(&followed.home).await {
                Ok((follow, _)) => followed.follow = follow,
                Err(Failure::No { .. }) => return Ok(false),
                Err(failure) => return Err(failure),
            }
        }
        let (known, interest) = (followed.known, followed.interest.clone());
        let (home, reach) = (followed.home.again(), followed.reach.clone());
        let ask = move |holding: Holding| async move { holding.news_after(known, interest).await };
        let (news, latest) = match home.at_owner(ask).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(Failure::No { .. }) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        followed.known = latest;
        let mut carrier = Carrier::Untold;
        for news in news {
            match news {
                News::Messages(news) => self.report_messages(namespace, (&home, &reach), &news),
                News::Name(news) => {
                    self.report_name(namespace, (&home, &reach), news, &mut carrier);
                }
                News::Subscription(name) => self.report_subscription(namespace, &name).await,
                News::Annotations(news) => self.report_annotations(namespace, &reach, news).await,
            }
            self.channel.flush_if_full().await?;
        }
        Ok(true)
    }

    /// RFC 5465 5.8. Who has only enabled METADATA begins anew.
    async fn overflow(&mut self) -> Result<(), Failure> {
        if !self.has_notify() {
            return self.begin_annotations_anew().await;
        }
        self.watch_nothing();
        let (code, text) = (Code::NotificationOverflow, "Too much has happened; NOTIFY again");
        self.writer().untagged(Status::Ok, Some(code), text);
        Ok(())
    }

    async fn begin_annotations_anew(&mut self) -> Result<(), Failure> {
        let events = self.watched.take().map_or(Events::NONE, |watched| watched.events());
        self.watch_annotations(events).await
    }

    /// What is shared with the user, or his subscriptions, may lead to other accounts than before.
    async fn follow_again(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let Some(watched) = &mut self.watched else { return Ok(()) };
        let new = match follow(namespace, watched).await {
            Ok(new) => new,
            Err(Failure::No { .. }) => return self.overflow().await,
            Err(failure) => return Err(failure),
        };
        for (home, reach) in new {
            // RFC 5465 5.4: mailboxes that the user may look up now are as if they were created.
            let mut after: Option<String> = None;
            loop {
                let ask = move |holding: Holding| async move {
                    Ok(holding.listed_after(after.as_deref(), LISTED_AT_ONCE).await)
                };
                let listed = match home.at_owner(ask).await {
                    Ok(listed) => listed,
                    Err(Failure::No { .. }) => return self.overflow().await,
                    Err(failure) => return Err(failure),
                };
                let Some(last) = listed.last() else { break };
                after = Some(last.info.name.clone());
                for listed in listed {
                    let news = NameNews::granted(listed);
                    self.report_name(namespace, (&home, &reach), news, &mut Carrier::Untold);
                    self.channel.flush_if_full().await?;
                }
            }
        }
        Ok(())
    }

    /// STATUS for each mailbox of which the client will be told events of messages, if it asks for
    /// that, and LIST for each that it may only look up (RFC 5465 3.1).
    async fn describe_watched(
        &mut self,
        namespace: &Namespace,
        with_status: bool,
    ) -> Result<(), Failure> {
        let Some(watched) = &self.watched else { return Ok(()) };
        if !watched.needs_walk() {
            let names: BTreeSet<String> = watched.names().cloned().collect();
            for name in names {
                if let Some(folder) = folder::look_up(namespace, &name).await {
                    self.describe(namespace, &name, &folder, with_status).await?;
                }
            }
            return Ok(());
        }
        let with_others = watched.follows.len() > 1;
        let mut walk = NameWalk::new(namespace, Names::Existing, with_others);
        while let Some(walked) = walk.next(namespace).await {
            let is_personal = walked.other.is_none();
            if self.events_of(namespace, &walked.name, is_personal).is_empty() {
                continue;
            }
            let folder = match walked.other {
                Some(other) => folder::walked(namespace, other).await,
                None => folder::look_up(namespace, &walked.name).await,
            };
            if let Some(folder) = folder {
                self.describe(namespace, &walked.name, &folder, with_status).await?;
            }
        }
        Ok(())
    }

    async fn describe(
        &mut self,
        namespace: &Namespace,
        name: &str,
        folder: &Folder,
        with_status: bool,
    ) -> Result<(), Failure> {
        let is_personal = namespace.is_personal(name);
        let events = self.events_of(namespace, name, is_personal);
        if events.is_empty() {
            return Ok(());
        }
        if !may_watch(folder.rights()) {
            let mut attributes = children(namespace.has_children(name).await);
            attributes.insert(Attributes::NO_ACCESS);
            if namespace.is_subscribed(name) {
                attributes.insert(Attributes::SUBSCRIBED);
            }
            self.write_list(name, attributes, Some(folder));
            return Ok(self.channel.flush_if_full().await?);
        }
        let is_selected = self.selected.as_ref().is_some_and(|selected| folder.is(selected));
        let items = self.status_items(events.and(Events::OF_MESSAGES));
        if with_status && !is_selected && events.contain_any(Events::OF_MESSAGES) {
            match folder.status(false).await {
                Ok(status) => self.write_status(name, items, &status, folder.seen_is_personal()),
                // It is gone, or may not be known any more.
                Err(Failure::No { .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(self.channel.flush_if_full().await?)
    }
}

/// Sends the output, and waits until the client sends something, there is something to report, or
/// `other` resolves. All of it is cancel-safe.
pub(super) async fn listen(
    session: &mut Session,
    other: impl Future<Output = ()>,
) -> Result<(), ConnectionError> {
    let wants_selected = !session.told_events().is_empty();
    // Messages that came while others were fetched.
    let has_arrived = session.has_arrived();
    let aged = session.results_aged();
    let Session { channel, selected, watched, .. } = session;
    let here = async {
        match selected {
            _ if has_arrived => {}
            Some(selected) if wants_selected => or(selected.changed(), aged).await,
            _ => std::future::pending().await,
        }
    };
    let elsewhere = async {
        match watched {
            Some(watched) if watched.has_groups() => watched.changed().await,
            _ => std::future::pending().await,
        }
    };
    channel.listen_or(or(or(here, elsewhere), other)).await
}
