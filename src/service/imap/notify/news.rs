//! What the client is told of mailboxes but the selected one: STATUS of messages, LIST of names,
//! METADATA of annotations (RFC 5465 5).

use super::super::{
    accounts::{AnnotationNews, Home, MessageNews, NameChange, NameNews, Reach, may_watch},
    folder::{self, Folder},
    namespace::Namespace,
    selected::Selected,
    state::Session,
    watched::Own,
};
use crate::{
    model::ModSeq,
    protocol::imap::{
        Attributes, ListItem, StatusValues, mailbox::status::StatusItems, session::notify::Events,
    },
    store::{Annotated, MailboxStatus},
};

/// The rename that others are carried by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Untold,
    /// Or the client made it itself.
    Told,
}

impl Session {
    /// The events of a mailbox that the client is told of.
    pub(super) fn events_of(&self, namespace: &Namespace, name: &str, is_personal: bool) -> Events {
        let Some(watched) = &self.watched else { return Events::NONE };
        watched.events_of(name, is_personal, || namespace.is_subscribed(name))
    }

    pub(super) fn is_own(&self, own: &Own) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.is_own(own))
    }

    pub(super) fn report_messages(
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

    pub(super) fn report_name(
        &mut self,
        namespace: &Namespace,
        (home, reach): (&Home, &Reach),
        news: NameNews,
        carrier: &mut Carrier,
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
            None if news.what == NameChange::Below => Own::Below(name.clone()),
            None => Own::Name(name.clone(), news.is_there()),
        };
        if news.what != NameChange::Access && self.is_own(&own) {
            if old_name.is_some() {
                *carrier = Carrier::Told;
            }
            return;
        }
        let mut events = self.events_of(namespace, &name, is_personal);
        if let Some(old_name) = &old_name {
            let before = self.events_of(namespace, old_name, is_personal);
            // Who was told all of the mailbox needs not be told that it is one of those below.
            let is_known = before.contain(events.or(Events::MAILBOX_NAME));
            match (news.what, *carrier) {
                (NameChange::Carried, Carrier::Told) if is_known => return,
                (NameChange::Carried, _) => {}
                _ if before.or(events).contain(Events::MAILBOX_NAME) => *carrier = Carrier::Told,
                _ => *carrier = Carrier::Untold,
            }
            events = events.or(before);
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
        let is_another = matches!(news.what, NameChange::Made | NameChange::Carried);
        if is_another && events.contain(Events::FLAG_CHANGE) && !is_selected {
            let items = self.status_items(events);
            self.write_status(name, items, status, news.seen_is_personal);
        }
    }

    pub(super) async fn report_subscription(&mut self, namespace: &Namespace, name: &str) {
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

    pub(super) async fn report_annotations(
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

    pub(super) fn write_list(
        &mut self,
        name: &str,
        attributes: Attributes,
        folder: Option<&Folder>,
    ) {
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
    pub(super) fn status_items(&self, events: Events) -> StatusItems {
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

    pub(super) fn write_status(
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
}

pub(super) fn children(has_children: bool) -> Attributes {
    match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    }
}
