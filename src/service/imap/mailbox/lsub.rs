//! LSUB (RFC 3501 6.3.9).

use super::{
    super::{
        handler::Handler,
        namespace::{NameWalk, Namespace, Walked},
        reply::{Done, Failure, Reply},
        state::Session,
    },
    names::{Matcher, Superiors},
};
use crate::{
    protocol::imap::{Attributes, ListItem, mailbox::lsub::Lsub},
    store::Names,
};

impl Handler for Lsub<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let mut matcher =
            Matcher::new(session.name_form(), &self.reference, std::slice::from_ref(&self.pattern));
        let namespace = Namespace::of(session)?;
        let mut walk = NameWalk::new(&namespace, Names::Subscribed, false);
        let mut superiors = Superiors::default();
        while let Some(Walked { name, .. }) = walk.next(&namespace).await {
            if matcher.matches(session, &name).await {
                tell(session, &name, Attributes::default()).await?;
                continue;
            }
            // RFC 3501 6.3.9: with `%`, a level that is not subscribed but has subscribed names
            // below it is listed as \Noselect.
            for level in superiors.new_of(&name) {
                if !namespace.is_subscribed(&level) && matcher.matches(session, &level).await {
                    tell(session, &level, Attributes::NO_SELECT).await?;
                }
            }
        }
        Done::ok("LSUB completed")
    }
}

async fn tell(session: &mut Session, name: &str, attributes: Attributes) -> Result<(), Failure> {
    let item = ListItem {
        name,
        attributes,
        special_use: None,
        child_subscribed: false,
        child_special_use: false,
        old_name: None,
    };
    session.writer().lsub(&item);
    Ok(session.channel.flush_if_full().await?)
}
