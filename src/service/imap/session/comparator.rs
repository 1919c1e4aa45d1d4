//! COMPARATOR (RFC 5255 4.7). Results whose changes a client is told keep the one that they were
//! asked for with.

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::protocol::imap::{Code, session::comparator::Comparator};

impl Handler for Comparator {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let matching = match self {
            Comparator::Tell => &[][..],
            Comparator::Choose(chosen, matching) => {
                session.comparator = *chosen;
                matching
            }
            Comparator::Unknown => {
                return Err(Failure::no(Code::BadComparator, "No such comparator"));
            }
        };
        let active = session.comparator;
        session.writer().comparator(active, matching);
        Done::ok("COMPARATOR completed")
    }
}
