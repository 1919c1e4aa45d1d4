//! LIST with RFC 5258, RFC 5819, RFC 6154, RFC 8440 and RFC 9590 (RFC 3501 6.3.8).
//!
//! A level above a mailbox that is not itself a mailbox (it was deleted) is `\Noselect` (RFC 3501
//! 6.3.4), and `\NonExistent` to who asks in the form of RFC 5258, as are names that are only
//! subscribed. The account does not keep such levels: each is derived just before the first name
//! below it.

use super::{
    super::{
        folder::{self, Folder},
        handler::Handler,
        namespace::{NameWalk, Namespace, OTHER_USERS, SHARED, Walked},
        reply::{Done, Failure, Reply},
        state::Session,
    },
    names::{Matcher, Superiors},
    status,
};
use crate::{
    model::Right,
    protocol::imap::{
        Attributes, ListItem, SEPARATOR,
        mailbox::list::{List, ListSelection},
        metadata::entry::EntryName,
    },
    store::Names,
};

/// What a LIST asks for.
struct Asked<'a> {
    list: &'a List<'a>,
    /// The user's mailboxes that have a special use and whatever else is asked for, if the
    /// selection asks for what is above them.
    uses: Vec<String>,
}

/// The names below another one that the selection options choose, if it asks for what is above them
/// (RFC 5258 3.1 RECURSIVEMATCH).
#[derive(Clone, Copy, Default)]
struct Below {
    any: bool,
    /// One of them is not told itself, since no pattern matches it.
    untold: bool,
}

impl<'a> Asked<'a> {
    fn new(namespace: &Namespace, list: &'a List<'a>) -> Asked<'a> {
        let ListSelection { subscribed, recursive_match, special_use, .. } = list.selection;
        let mut uses = Vec::new();
        if recursive_match && special_use {
            uses = namespace.special_uses();
            uses.retain(|name| !subscribed || namespace.is_subscribed(name));
        }
        Asked { list, uses }
    }

    /// Whether the selection options choose a name by what it is itself.
    fn chooses(&self, namespace: &Namespace, name: &str, folder: Option<&Folder>) -> bool {
        let selection = self.list.selection;
        (!selection.subscribed || namespace.is_subscribed(name))
            && (!selection.special_use || folder.and_then(Folder::special_use).is_some())
    }

    /// What of the names below `name` is chosen. That one is not told is looked for only if asked.
    async fn chosen_below(
        &self,
        (session, namespace): (&Session, &Namespace),
        matcher: &mut Matcher,
        name: &str,
        asks_untold: bool,
    ) -> Below {
        let selection = self.list.selection;
        let mut below = Below::default();
        if !selection.recursive_match {
            return below;
        }
        if selection.special_use {
            for name in self.uses.iter().filter(|it| is_below(it, name)) {
                below.any = true;
                below.untold |= asks_untold && !matcher.matches(session, name).await;
            }
            return below;
        }
        below.any = namespace.has_subscribed_below(name);
        let mut names = namespace.subscribed_below(name);
        while below.any && asks_untold && !below.untold {
            let Some(name) = names.next(namespace) else { break };
            below.untold = !matcher.matches(session, &name).await;
        }
        below
    }
}

/// The LIST response for `name`.
fn describe<'n>(
    namespace: &Namespace,
    name: &'n str,
    (folder, has_children): (Option<&Folder>, bool),
    (list, below): (&List<'_>, Below),
) -> ListItem<'n> {
    let selection = list.selection;
    let mut attributes = match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    };
    if folder.is_none() {
        // RFC 5258 3: who knows only RFC 3501 is told that it cannot be selected.
        attributes.insert(match list.extended {
            true => Attributes::NON_EXISTENT,
            false => Attributes::NO_SELECT,
        });
    }
    if list.returns.subscribed && namespace.is_subscribed(name) {
        attributes.insert(Attributes::SUBSCRIBED);
    }
    ListItem {
        name,
        attributes,
        special_use: folder.and_then(Folder::special_use),
        // RFC 5258 3.5, RFC 6154 5.2.
        child_subscribed: below.any && selection.subscribed,
        child_special_use: below.any && selection.special_use,
        old_name: None,
    }
}

/// Whether a mailbox is below a level.
fn is_below(name: &str, level: &str) -> bool {
    name.strip_prefix(level).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

impl Handler for List<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let asks_separator = !self.extended && self.patterns.iter().all(|it| it.0.is_empty());
        if asks_separator {
            session.writer().list_separator();
            return Done::ok("LIST completed");
        }
        let mut matcher = Matcher::new(session.name_form(), &self.reference, &self.patterns);
        let namespace = Namespace::of(session)?;
        let selection = self.selection;
        let which = if selection.subscribed { Names::Both } else { Names::Existing };
        let others = [OTHER_USERS, SHARED].iter().any(|level| matcher.can_match_below(level));
        let mut walk = NameWalk::new(&namespace, which, others);
        let mut superiors = Superiors::default();
        let asked = Asked::new(&namespace, self);
        while let Some(walked) = walk.next(&namespace).await {
            let Walked { name, other } = walked;
            // RFC 5258 3.1: superior levels of a subscribed name need not be mailboxes. Without the
            // SUBSCRIBED option the same goes for the levels of every mailbox.
            let has_levels_to_tell = !selection.subscribed
                || selection.recursive_match && namespace.is_subscribed(&name);
            if has_levels_to_tell {
                for level in superiors.new_of(&name) {
                    let comes_itself = selection.subscribed && namespace.is_subscribed(&level);
                    if !comes_itself
                        && matcher.matches(session, &level).await
                        && folder::look_up(&namespace, &level).await.is_none()
                    {
                        let has_children = namespace.has_children(&level).await
                            || namespace.is_above_others(&level).await;
                        let what = (None, has_children);
                        tell(session, &namespace, &mut matcher, (&level, what), &asked).await?;
                    }
                }
            }
            if !matcher.matches(session, &name).await {
                continue;
            }
            let (folder, has_children) = match other {
                Some((reach, listed)) => {
                    let has_children = listed.has_children;
                    (folder::walked(&namespace, (reach, listed)).await, has_children)
                }
                None => {
                    let folder = folder::look_up(&namespace, &name).await;
                    (folder, namespace.has_children(&name).await)
                }
            };
            let what = (folder, has_children);
            tell(session, &namespace, &mut matcher, (&name, what), &asked).await?;
        }
        Done::ok("LIST completed")
    }
}

/// RFC 9590 3: one METADATA response with the values of these entries, NIL where there is none.
/// What may no longer be told is left out.
async fn tell_metadata(
    session: &mut Session,
    folder: &Folder,
    entries: &[EntryName],
) -> Result<(), Failure> {
    let subject = folder.annotated();
    let known = match subject.annotations(entries.iter().map(|entry| entry.scope)).await {
        Ok(known) => known,
        Err(Failure::No { .. }) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let value = |entry: &EntryName| {
        let key = entry.key();
        let found = known.iter().find(|(name, _)| *name == key);
        (entry.told().to_owned(), found.map(|(_, value)| value.clone()))
    };
    let told: Vec<(String, Option<Vec<u8>>)> = entries.iter().map(value).collect();
    session.writer().metadata(subject.name(), &told);
    Ok(())
}

/// Writes the responses for `name`, unless the selection options rule it out. What is above chosen
/// names, and not chosen itself, is told only if one of these is not told itself (RFC 5258 3.5).
async fn tell(
    session: &mut Session,
    namespace: &Namespace,
    matcher: &mut Matcher,
    (name, (folder, has_children)): (&str, (Option<Folder>, bool)),
    asked: &Asked<'_>,
) -> Result<(), Failure> {
    let list = asked.list;
    let is_chosen = asked.chooses(namespace, name, folder.as_ref());
    let place = (&*session, namespace);
    let below = asked.chosen_below(place, matcher, name, !is_chosen).await;
    if !is_chosen && !below.untold {
        return Ok(());
    }
    let item = describe(namespace, name, (folder.as_ref(), has_children), (list, below));
    session.writer().list(&item);
    // RFC 5819 2, RFC 8440 3, RFC 9590 3: only of what the selection chooses itself.
    let Some(folder) = folder.filter(|_| is_chosen) else {
        return Ok(session.channel.flush_if_full().await?);
    };
    if let Some(items) = list.returns.status
        && folder.rights().contain(Right::Read)
    {
        match status::tell(session, &folder, items).await {
            // Deleted since: RFC 5819 2 allows the STATUS to be missing.
            Err(Failure::No { .. }) | Ok(()) => {}
            Err(failure) => return Err(failure),
        }
    }
    if !list.metadata.is_empty() && folder.shows_annotations() {
        tell_metadata(session, &folder, &list.metadata).await?;
    }
    if list.returns.my_rights {
        session.writer().my_rights(&folder.name(), folder.rights());
    }
    Ok(session.channel.flush_if_full().await?)
}
