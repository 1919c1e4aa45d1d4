//! LIST with RFC 5258, RFC 5819, RFC 6154, RFC 8440 and RFC 9590 (RFC 3501 6.3.8).
//!
//! A level above a mailbox that is not itself a mailbox (it was deleted) is `\Noselect` (RFC 3501
//! 6.3.4). The account does not keep such names: each is derived just before the first name below
//! it. Names that are only subscribed are `\NonExistent`.

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
        Attributes, ListItem, SEPARATOR, mailbox::list::List, metadata::entry::EntryName,
    },
    store::Names,
};

/// The LIST response for `name`; `None` if the selection options rule it out (RFC 5258 3.1).
fn describe<'n>(
    namespace: &Namespace,
    name: &'n str,
    (folder, has_children): (Option<&Folder>, bool),
    (list, uses): (&List<'_>, &[String]),
) -> Option<ListItem<'n>> {
    let special_use = folder.and_then(Folder::special_use);
    let subscribed = namespace.is_subscribed(name);
    let selection = list.selection;
    let child_subscribed =
        selection.recursive_match && selection.subscribed && namespace.has_subscribed_below(name);
    let child_special_use = selection.recursive_match
        && selection.special_use
        && uses.iter().any(|it| is_below(it, name));
    let selected = (!selection.subscribed || subscribed || child_subscribed)
        && (!selection.special_use || special_use.is_some() || child_special_use);
    if !selected {
        return None;
    }
    let mut attributes = match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    };
    if folder.is_none() {
        attributes.insert(match has_children {
            true => Attributes::NO_SELECT,
            false => Attributes::NON_EXISTENT,
        });
    }
    if subscribed && (list.returns.subscribed || selection.subscribed) {
        attributes.insert(Attributes::SUBSCRIBED);
    }
    let old_name = None;
    Some(ListItem { name, attributes, special_use, child_subscribed, child_special_use, old_name })
}

/// Whether a mailbox is below a level.
fn is_below(name: &str, level: &str) -> bool {
    name.strip_prefix(level).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

/// The user's mailboxes that have a special use, if the selection asks for what is above them.
fn with_special_use(namespace: &Namespace, list: &List<'_>) -> Vec<String> {
    if !(list.selection.recursive_match && list.selection.special_use) {
        return Vec::new();
    }
    namespace.special_uses()
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
        let uses = with_special_use(&namespace, self);
        let asked = (self, &uses[..]);
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
                        // Above a name that is told.
                        tell(session, &namespace, &level, (None, true), asked).await?;
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
            tell(session, &namespace, &name, (folder, has_children), asked).await?;
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

/// Writes the responses for `name`.
async fn tell(
    session: &mut Session,
    namespace: &Namespace,
    name: &str,
    (folder, has_children): (Option<Folder>, bool),
    asked: (&List<'_>, &[String]),
) -> Result<(), Failure> {
    let (list, what) = (asked.0, (folder.as_ref(), has_children));
    let Some(item) = describe(namespace, name, what, asked) else { return Ok(()) };
    session.writer().list(&item);
    let Some(folder) = folder else { return Ok(session.channel.flush_if_full().await?) };
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
