//! Tells a client with NOTIFY what happens, at any time between commands, in IDLE and before the
//! end of other commands (RFC 5465).
//!
//! Of the selected mailbox [`super::sync`] tells, as far as the client wants; new messages are
//! fetched as if the client had asked. Of others the accounts that the session follows are asked
//! when they have news, for what this user may know at that moment: so all that happened while the
//! client did not read is one answer. An account that has forgotten what the client does not know
//! yet, or that cannot be asked, ends all of it, as NOTIFY NONE would (RFC 5465 5.8).

use std::{collections::BTreeSet, io::Write as _, mem::take, sync::Arc};

use super::{
    accounts::{
        AnnotationNews, Follow, Holding, Home, MessageNews, NameChange, NameNews, News, Reach,
        may_watch,
    },
    folder::{self, Folder},
    namespace::{NameWalk, Namespace, OTHER_USERS, SHARED, inbox_of},
    reply::{Done, Failure},
    selected::{Selected, Wanted},
    state::Session,
    watched::{Followed, Group, Own, SelectedWishes, Watched, Which},
};
use crate::{
    model::{AccountId, ModSeq, Uid},
    protocol::imap::{
        Attributes, Code, ListItem, MailboxName, SEPARATOR, Status, StatusValues, Updates,
        mailbox::status::StatusItems,
        message::fetch::is_fetch_list,
        session::notify::{EventGroup, Events, NotifyMailboxes, NotifySet},
    },
    runtime::{connection::ConnectionError, executor::Executor},
    store::{Annotated, MailboxStatus, Message, Names, Snapshot},
};
use futures_lite::future::or;

/// Names that a client may give in one command.
const NOTIFY_NAMES_MAX: usize = 1_000;
/// Accounts that a session follows.
const NOTIFY_ACCOUNTS_MAX: usize = 100;
/// New messages looked at before other sessions get their turn.
const ARRIVED_PER_TURN: usize = 1_024;
/// Ranges of messages that are fetched at once.
const RANGES_AT_ONCE: usize = 1_000;
/// Mailboxes that are taken from an account at once.
const LISTED_AT_ONCE: usize = 64;

impl Session {
    /// NOTIFY SET: returns what the client does not know yet of the selected mailbox, as NOOP does,
    /// then the state of the others if it asks for that.
    pub(super) async fn watch(&mut self, set: &NotifySet<'_>) -> Result<(), Failure> {
        let namespace = Namespace::of(self)?;
        let (selected, groups) = wishes(self, &namespace, set)?;
        let mut watched = Watched::new(&self.channel.shard, Some(selected), groups);
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
        for news in news {
            match news {
                News::Messages(news) => self.report_messages(namespace, (&home, &reach), &news),
                News::Name(news) => self.report_name(namespace, (&home, &reach), news),
                News::Subscription(name) => self.report_subscription(namespace, &name).await,
                News::Annotations(news) => self.report_annotations(namespace, &reach, news).await,
            }
            self.channel.flush_if_full().await?;
        }
        Ok(true)
    }

    /// The events of a mailbox that the client is told of.
    fn events_of(&self, namespace: &Namespace, name: &str, is_personal: bool) -> Events {
        let Some(watched) = &self.watched else { return Events::NONE };
        watched.events_of(name, is_personal, || namespace.is_subscribed(name))
    }

    fn is_own(&self, own: &Own) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.is_own(own))
    }

    fn report_messages(
        &mut self,
        namespace: &Namespace,
        (home, reach): (&Home, &Reach),
        news: &MessageNews,
    ) {
        let place = (home.account(), news.mailbox);
        if self.selected.as_ref().map(Selected::place) == Some(place) {
            return;
        }
        let name = format!("{}{}", reach.prefix, news.name);
        let events = self.events_of(namespace, &name, reach.prefix.is_empty());
        let changes = news.changes;
        let mut items = StatusItems::default();
        let is_counted = changes.added && events.contain(Events::MESSAGE_NEW)
            || changes.expunged && events.contain(Events::MESSAGE_EXPUNGE);
        if is_counted {
            items.insert(StatusItems::MESSAGES);
            items.insert(StatusItems::UID_NEXT);
        }
        // RFC 5465 5.1: without mod-sequences there is nothing to tell of other flags.
        let tells_flags = changes.flags && events.contain(Events::FLAG_CHANGE);
        if tells_flags && self.knows_mod_seqs() {
            items.insert(StatusItems::UID_VALIDITY);
        }
        if changes.unseen && events.contain(Events::FLAG_CHANGE) && !news.seen_is_personal {
            items.insert(StatusItems::UID_VALIDITY);
            items.insert(StatusItems::UNSEEN);
        }
        if items != StatusItems::default() {
            if self.knows_mod_seqs() {
                items.insert(StatusItems::HIGHEST_MOD_SEQ);
            }
            self.write_status(&name, items, &news.status, news.seen_is_personal);
        }
    }

    fn report_name(
        &mut self,
        namespace: &Namespace,
        (home, reach): (&Home, &Reach),
        news: NameNews,
    ) {
        if !self.has_notify() {
            return;
        }
        let is_personal = reach.prefix.is_empty();
        let full = |name: &str| format!("{}{name}", reach.prefix);
        let name = full(&news.name);
        let old_name = news.old_name.as_deref().map(full);
        let own = match &old_name {
            Some(old_name) => Own::Renamed(old_name.clone(), name.clone()),
            None => Own::Name(name.clone(), news.is_there()),
        };
        if news.what != NameChange::Access && self.is_own(&own) {
            return;
        }
        let mut events = self.events_of(namespace, &name, is_personal);
        if let Some(old_name) = &old_name {
            events = events.or(self.events_of(namespace, old_name, is_personal));
        }
        let mut attributes = children(news.has_children);
        match &news.found {
            None => attributes.insert(Attributes::NON_EXISTENT),
            Some((_, rights, _)) if !may_watch(*rights) => attributes.insert(Attributes::NO_ACCESS),
            Some(_) => {}
        }
        if !events.contain(Events::MAILBOX_NAME) {
            // RFC 5465 5.9: that it is no longer watched, or is again.
            let watches_mailbox = Events::OF_MESSAGES.or(Events::MAILBOX_METADATA_CHANGE);
            if news.what != NameChange::Access || !events.contain_any(watches_mailbox) {
                return self.report_uid_validity(&name, events, (home, &news));
            }
            if news.found.is_none() {
                attributes = Attributes::NO_ACCESS;
            }
        }
        if namespace.is_subscribed(&name) {
            attributes.insert(Attributes::SUBSCRIBED);
        }
        let special_use = news.found.as_ref().and_then(|(info, ..)| info.special_use);
        self.writer().list(&ListItem {
            name: &name,
            attributes,
            special_use: special_use.filter(|_| is_personal),
            child_subscribed: false,
            child_special_use: false,
            old_name: old_name.as_deref(),
        });
        self.report_uid_validity(&name, events, (home, &news));
    }

    /// RFC 5465 5.1: another mailbox has the name.
    fn report_uid_validity(
        &mut self,
        name: &str,
        events: Events,
        (home, news): (&Home, &NameNews),
    ) {
        let Some((info, _, Some(status))) = &news.found else { return };
        let place = (home.account(), info.id);
        let is_selected = self.selected.as_ref().map(Selected::place) == Some(place);
        if news.what == NameChange::Made && events.contain(Events::FLAG_CHANGE) && !is_selected {
            let items = self.status_items(events);
            self.write_status(name, items, status, news.seen_is_personal);
        }
    }

    async fn report_subscription(&mut self, namespace: &Namespace, name: &str) {
        let folder = folder::look_up(namespace, name).await;
        let is_personal = namespace.is_personal(name);
        let is_own = self.is_own(&Own::Subscription(name.to_owned()));
        let Some(watched) = &mut self.watched else { return };
        // Also of one that is not subscribed any more.
        let events = watched.events_of(name, is_personal, || true);
        watched.is_stale |= watched.has_subscribed() && !is_personal;
        if is_own || !events.contain(Events::SUBSCRIPTION_CHANGE) {
            return;
        }
        let mut attributes = children(namespace.has_children(name).await);
        match &folder {
            None => attributes.insert(Attributes::NON_EXISTENT),
            Some(folder) if !may_watch(folder.rights()) => {
                attributes.insert(Attributes::NO_ACCESS);
            }
            Some(_) => {}
        }
        if namespace.is_subscribed(name) {
            attributes.insert(Attributes::SUBSCRIBED);
        }
        self.write_list(name, attributes, folder.as_ref());
    }

    async fn report_annotations(
        &mut self,
        namespace: &Namespace,
        reach: &Reach,
        news: AnnotationNews,
    ) {
        let AnnotationNews { of, name, mut entries } = news;
        let (name, event) = match of {
            Annotated::Server => (String::new(), Events::SERVER_METADATA_CHANGE),
            Annotated::Mailbox(_) => {
                let name = format!("{}{}", reach.prefix, name.unwrap_or_default());
                (name, Events::MAILBOX_METADATA_CHANGE)
            }
            Annotated::Elsewhere { owner, mailbox } => {
                let found = folder::name_of(namespace, owner, mailbox).await;
                let Some(name) = found else { return };
                (name, Events::MAILBOX_METADATA_CHANGE)
            }
        };
        let events = match (name.is_empty(), &self.watched) {
            (true, Some(watched)) => watched.events(),
            _ => self.events_of(namespace, &name, namespace.is_personal(&name)),
        };
        entries.retain(|entry| !self.is_own(&Own::Annotation(name.clone(), entry.clone())));
        if events.contain(event) && !entries.is_empty() {
            self.writer().metadata_changed(&name, &entries);
        }
    }

    fn write_list(&mut self, name: &str, attributes: Attributes, folder: Option<&Folder>) {
        self.writer().list(&ListItem {
            name,
            attributes,
            special_use: folder.and_then(Folder::special_use),
            child_subscribed: false,
            child_special_use: false,
            old_name: None,
        });
    }

    /// What STATUS says of a mailbox of which the client will be told these events (RFC 5465 3.1).
    fn status_items(&self, events: Events) -> StatusItems {
        let mut items = StatusItems::default();
        if events.contain(Events::MESSAGE_NEW) {
            items.insert(StatusItems::MESSAGES);
            items.insert(StatusItems::UID_NEXT);
            items.insert(StatusItems::UID_VALIDITY);
        }
        if events.contain(Events::FLAG_CHANGE) || self.knows_mod_seqs() {
            items.insert(StatusItems::HIGHEST_MOD_SEQ);
        }
        items
    }

    fn write_status(
        &mut self,
        name: &str,
        items: StatusItems,
        status: &MailboxStatus,
        seen_is_personal: bool,
    ) {
        let values = StatusValues {
            messages: status.messages,
            uid_next: status.uid_next,
            uid_validity: status.uid_validity,
            unseen: status.unseen,
            // RFC 7162 3.1.7: 0 for a mailbox that tells none.
            highest_mod_seq: match seen_is_personal {
                true => ModSeq(0),
                false => status.told_mod_seq(),
            },
            ..StatusValues::default()
        };
        self.writer().status(name, items, &values);
    }

    /// Fetches what has arrived in the selected mailbox, if the client wants that, by NOTIFY or by
    /// UPDATE of a search (RFC 5465 5.2, 7); what several want of a message at once.
    async fn fetch_arrived(&mut self) -> Result<(), Failure> {
        if !self.has_arrived() {
            return Ok(());
        }
        let fetch = self.selected_wishes().and_then(|wishes| wishes.fetch.clone());
        let executor = self.channel.shard.executor.clone();
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let wanted = take(&mut selected.wanted);
        let arrived = selected.take_arrived();
        let fetches = match &fetch {
            // The client added them itself.
            _ if arrived.is_empty() => return Ok(()),
            Some(fetch) if wanted.is_empty() => vec![(arrived, vec![&fetch[..]])],
            _ => {
                let wanted = (fetch.as_deref(), &wanted[..]);
                fetches(selected.numbering(), &arrived, wanted, &*executor).await
            }
        };
        for (ranges, lists) in fetches {
            for items in together(lists) {
                self.fetch_unasked(fetch_command(&ranges, &items)).await?;
            }
        }
        Ok(())
    }

    /// What cannot be read now, the client can ask for: it is told so.
    async fn fetch_unasked(&mut self, command: Vec<u8>) -> Result<(), Failure> {
        let (status, code, text) = match (self.runner)(self, command).await {
            Err(failure @ Failure::Leave(_)) => return Err(failure),
            Err(Failure::No { code, text } | Failure::Bad { code, text }) => {
                (Status::No, code, text)
            }
            Ok(Done::Ok { code: Some(code), text }) => (Status::Ok, Some(code), text.into()),
            Ok(_) | Err(Failure::UidRequired) => return Ok(()),
        };
        self.writer().untagged(status, code, &text);
        Ok(())
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
                    self.report_name(namespace, (&home, &reach), news);
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

/// Ranges of UIDs, first and last.
type UidRanges = Vec<(Uid, Uid)>;

/// What is to be fetched of the messages that have `arrived`, as lists of items: all of them for
/// NOTIFY, and those that are wanted for results.
async fn fetches<'a>(
    numbering: &Snapshot,
    arrived: &[(Uid, Uid)],
    (fetch, wanted): (Option<&'a [u8]>, &'a [Wanted]),
    executor: &dyn Executor,
) -> Vec<(UidRanges, Vec<&'a [u8]>)> {
    let mut groups: Vec<(UidRanges, Vec<&'a [u8]>)> = Vec::new();
    let mut lists: Vec<&'a [u8]> = Vec::new();
    for &(first, last) in arrived {
        let start = numbering.lower_bound(first);
        let messages = numbering.iter_from(start).take_while(|message| message.uid <= last);
        for (count, Message { uid, .. }) in messages.enumerate() {
            let wants = |it: &&Wanted| it.uids.binary_search(uid).is_ok();
            lists.clear();
            lists.extend(fetch);
            lists.extend(wanted.iter().filter(wants).map(|it| &it.fetch[..]));
            match groups.last_mut() {
                _ if lists.is_empty() => {}
                Some((ranges, same)) if *same == lists && ranges.len() < RANGES_AT_ONCE => {
                    add(ranges, *uid);
                }
                _ => groups.push((vec![(*uid, *uid)], lists.clone())),
            }
            if count % ARRIVED_PER_TURN == ARRIVED_PER_TURN - 1 {
                executor.yield_now().await;
            }
        }
    }
    groups
}

/// Adds a UID above those in `ranges`.
fn add(ranges: &mut UidRanges, uid: Uid) {
    match ranges.last_mut() {
        Some((_, last)) if last.0.checked_add(1) == Some(uid.0) => *last = uid,
        _ => ranges.push((uid, uid)),
    }
}

/// As few lists of items as have all of `lists`, each with as many as one FETCH may have. An item
/// that comes again in one is fetched once.
fn together<'a>(lists: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut fetched: Vec<Vec<u8>> = Vec::new();
    for list in lists {
        let inner = list.strip_prefix(b"(").and_then(|it| it.strip_suffix(b")")).unwrap_or(list);
        let joined = fetched.last().and_then(|last| last.strip_suffix(b")"));
        let joined = joined.map(|last| [last, b" ", inner, b")"].concat());
        match (fetched.last_mut(), joined.filter(|list| is_fetch_list(list))) {
            (Some(last), Some(joined)) => *last = joined,
            _ => fetched.push([b"(", inner, b")"].concat()),
        }
    }
    fetched
}

fn fetch_command(ranges: &[(Uid, Uid)], items: &[u8]) -> Vec<u8> {
    let mut command = b"n UID FETCH ".to_vec();
    for (index, (Uid(first), Uid(last))) in ranges.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to memory does not fail.
        let _ = write!(command, "{comma}{first}:{last}");
    }
    command.push(b' ');
    command.extend_from_slice(items);
    command.extend_from_slice(b"\r\n");
    command
}

fn children(has_children: bool) -> Attributes {
    match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    }
}

/// What the client wants, with the names as this server spells them.
fn wishes(
    session: &Session,
    namespace: &Namespace,
    set: &NotifySet<'_>,
) -> Result<(SelectedWishes, Vec<Group>), Failure> {
    if set.unsupported {
        return Err(Failure::no(Code::BadEvent, "There is no such event here"));
    }
    let mut left = NOTIFY_NAMES_MAX;
    let mut names = |names: &[MailboxName<'_>]| {
        left = left.checked_sub(names.len()).ok_or_else(|| too_much("Too many mailboxes"))?;
        // A name that cannot be decoded names no mailbox.
        let names = names.iter().filter_map(|name| name.to_utf8(session.name_form()).ok());
        let spelled = names.map(|name| {
            let name = name.strip_suffix(SEPARATOR).unwrap_or(&name);
            namespace.spelled(&inbox_of(name))
        });
        Ok::<BTreeSet<String>, Failure>(spelled.collect())
    };
    let (mut selected, mut groups) = (SelectedWishes::default(), Vec::new());
    for EventGroup { mailboxes, events, fetch } in &set.groups {
        let which = match mailboxes {
            NotifyMailboxes::Selected | NotifyMailboxes::SelectedDelayed => {
                let delayed = *mailboxes == NotifyMailboxes::SelectedDelayed;
                let fetch = fetch.map(<[u8]>::to_vec);
                selected = SelectedWishes { events: *events, delayed, fetch };
                continue;
            }
            // Mail with a detail in its address is delivered to the mailbox of that name, if its
            // sender has the right to: any may get some (RFC 5465 6.3).
            NotifyMailboxes::Inboxes | NotifyMailboxes::Personal => Which::Personal,
            NotifyMailboxes::Subscribed => Which::Subscribed,
            NotifyMailboxes::Subtree(roots) => Which::Subtree(names(roots)?),
            NotifyMailboxes::Mailboxes(all) => Which::Mailboxes(names(all)?),
        };
        if !events.is_empty() {
            groups.push(Group { which, events: *events });
        }
    }
    Ok((selected, groups))
}

fn too_much(text: &'static str) -> Failure {
    Failure::no(Code::NotificationOverflow, text)
}

/// The accounts that have, or may get, mailboxes of which the client wants to know, and no others.
fn reaches(namespace: &Namespace, watched: &Watched) -> Vec<Reach> {
    let mut reaches = Vec::new();
    if watched.has_groups() {
        reaches.push(namespace.own_reach());
        let has_subscribed = watched.has_subscribed();
        reaches.extend(namespace.reaches_of(watched.names(), watched.roots(), has_subscribed));
    }
    if watched.events().contain(Events::SERVER_METADATA_CHANGE) {
        // Among the first: there may be too many.
        reaches.retain(|reach| reach.account != AccountId::PUBLIC);
        reaches.insert(reaches.len().min(1), namespace.public_reach());
    }
    if watched.selected.is_none() {
        reaches.truncate(NOTIFY_ACCOUNTS_MAX);
    }
    reaches
}

/// Follows those, and returns the ones that were not followed before. Without NOTIFY one that
/// cannot be reached is left out.
async fn follow(
    namespace: &Namespace,
    watched: &mut Watched,
) -> Result<Vec<(Home, Reach)>, Failure> {
    let reaches = reaches(namespace, watched);
    if reaches.len() > NOTIFY_ACCOUNTS_MAX {
        return Err(too_much("Mailboxes of too many users"));
    }
    let mut before = take(&mut watched.follows);
    let mut new = Vec::new();
    for reach in reaches {
        let is_same = |it: &Followed| it.reach.account == reach.account;
        let interest = Arc::new(watched.interest(&reach.prefix));
        if let Some(index) = before.iter().position(is_same) {
            watched.follows.push(Followed { reach, interest, ..before.swap_remove(index) });
            continue;
        }
        let open = async {
            let home = namespace.home(&reach).await?;
            let (follow, known) = Follow::of(&home).await?;
            Ok((home, follow, known))
        };
        let (home, follow, known) = match open.await {
            Err(Failure::No { .. }) if watched.selected.is_none() => continue,
            opened => opened?,
        };
        new.push((home.clone(), reach.clone()));
        watched.follows.push(Followed { reach, home, follow, known, interest });
    }
    Ok(new)
}
