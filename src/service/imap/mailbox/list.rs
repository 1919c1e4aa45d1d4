//! LIST with RFC 5258, RFC 5819 and RFC 6154 (RFC 3501 6.3.8).
//!
//! A level above a mailbox that is none itself, its own having been deleted, is `\Noselect` (RFC
//! 3501 6.3.4). The account does not keep such names: they are derived, each just before the first
//! name below it. Names that are merely subscribed are `\NonExistent`.

use super::{
    super::{
        handler::Handler,
        reply::{Done, Failure, Reply},
        state::Session,
    },
    names::{Matcher, NameWalk, Superiors},
    status,
};
use crate::{
    protocol::imap::{Attributes, ListItem, mailbox::list::List},
    store::{Account, MailboxInfo, Names},
};

/// The LIST response for `name`; `None` if the selection options rule it out (RFC 5258 3.1).
fn describe<'n>(
    account: &Account,
    name: &'n str,
    info: Option<&MailboxInfo>,
    list: &List<'_>,
) -> Option<ListItem<'n>> {
    let special_use = info.and_then(|info| info.special_use);
    let subscribed = account.is_subscribed(name);
    let selection = list.selection;
    let child_subscribed =
        selection.recursive_match && selection.subscribed && account.has_subscribed_below(name);
    let selected = (!selection.subscribed || subscribed || child_subscribed)
        && (!selection.special_use || special_use.is_some());
    if !selected {
        return None;
    }
    let has_children = account.has_children(name);
    let mut attributes = match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    };
    if info.is_none() {
        attributes.insert(match has_children {
            true => Attributes::NO_SELECT,
            false => Attributes::NON_EXISTENT,
        });
    }
    if subscribed && (list.returns.subscribed || selection.subscribed) {
        attributes.insert(Attributes::SUBSCRIBED);
    }
    Some(ListItem { name, attributes, special_use, child_subscribed })
}

impl Handler for List<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let asks_separator = !self.extended && self.patterns.iter().all(|it| it.0.is_empty());
        if asks_separator {
            session.writer().list_separator();
            return Done::ok("LIST completed");
        }
        let mut matcher = Matcher::new(&self.reference, &self.patterns);
        let account = session.account()?;
        let selection = self.selection;
        let mut walk =
            NameWalk::new(if selection.subscribed { Names::Both } else { Names::Existing });
        let mut superiors = Superiors::default();
        while let Some(name) = walk.next(&account) {
            // RFC 5258 3.1: superior levels of what is subscribed may be names of nothing themselves. If
            // it is not subscriptions that are asked for, so may those of every mailbox.
            let has_levels_to_tell =
                !selection.subscribed || selection.recursive_match && account.is_subscribed(&name);
            if has_levels_to_tell {
                for level in superiors.new_of(&name) {
                    let comes_itself = account.mailbox_by_name(&level).is_some()
                        || selection.subscribed && account.is_subscribed(&level);
                    if !comes_itself {
                        tell(session, &account, &mut matcher, &level, self).await?;
                    }
                }
            }
            tell(session, &account, &mut matcher, &name, self).await?;
        }
        Done::ok("LIST completed")
    }
}

/// The responses for `name`, if it is asked for.
async fn tell(
    session: &mut Session,
    account: &Account,
    matcher: &mut Matcher,
    name: &str,
    list: &List<'_>,
) -> Result<(), Failure> {
    if !matcher.matches(session, name).await {
        return Ok(());
    }
    let info = account.mailbox_by_name(name);
    let Some(item) = describe(account, name, info.as_ref(), list) else { return Ok(()) };
    session.writer().list(&item);
    if let (Some(items), Some(info)) = (list.returns.status, info) {
        match status::tell(session, &info, items).await {
            // Deleted since: RFC 5819 2 lets the STATUS be missing.
            Err(Failure::No { .. }) | Ok(()) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(session.flush_if_full().await?)
}
