//! What a client wants to be told, and the accounts that are followed for it.

use std::{collections::BTreeSet, mem::take, sync::Arc};

use super::super::{
    accounts::{Follow, Home, Reach},
    namespace::{Namespace, inbox_of},
    reply::Failure,
    state::Session,
    watched::{Followed, Group, SelectedWishes, Watched, Which},
};
use crate::{
    model::AccountId,
    protocol::imap::{
        Code, MailboxName, SEPARATOR,
        session::notify::{EventGroup, Events, NotifyMailboxes, NotifySet},
    },
};

/// Names that a client may give in one command.
const NOTIFY_NAMES_MAX: usize = 1_000;
/// Accounts that a session follows.
const NOTIFY_ACCOUNTS_MAX: usize = 100;

/// What the client wants, with the names as this server spells them.
pub(super) fn wishes(
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
pub(super) fn reaches(namespace: &Namespace, watched: &Watched) -> Vec<Reach> {
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
pub(super) async fn follow(
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
