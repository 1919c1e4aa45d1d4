//! The table of commands: handler, and which changes of the mailbox may be told after it.
//!
//! In which states a command is legal is protocol knowledge and stands in
//! [`CommandBody::row`]; the session asks it before it runs what [`plan`] returns. A new command
//! is a row here, one there, and a file.

use super::{
    authentication::authenticate,
    mailbox::{append, folder, list, select, status},
    message::{copy, expunge, fetch, search, store},
    reply::Reply,
    session::{capability, idle},
    state::Session,
};
use crate::{
    protocol::imap::{Command, CommandBody},
    runtime::LocalFuture,
};

/// What may be told of other sessions' changes before the tagged response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Updates {
    /// The command leaves or changes the selected state itself.
    None,
    /// All but EXPUNGE: the client may have numbers of its own in flight (RFC 3501 7.4.1).
    Flags { uid: bool },
    /// Everything. `uid`: FETCH responses name the UID, as answers to a UID command must (RFC 3501
    /// 6.4.8).
    All { uid: bool },
}

/// A command about to run. The future does nothing until it is awaited.
pub(super) struct Plan<'a> {
    pub updates: Updates,
    pub run: LocalFuture<'a, Reply>,
}

/// Numbers of the client may be in flight only when the command itself goes by numbers.
fn by_numbers(uid: bool) -> Updates {
    if uid { Updates::All { uid } } else { Updates::Flags { uid } }
}

/// Handlers run in a box of their own: an idle session then holds none of their state.
#[rustfmt::skip]
pub(super) fn plan<'a>(session: &'a mut Session, command: &'a Command<'_>) -> Plan<'a> {
    const ALL: Updates = Updates::All { uid: false };
    use CommandBody as C;
    let tag = command.tag;
    let (updates, run): (Updates, LocalFuture<'a, Reply>) = match &command.body {
        C::Capability => (ALL, Box::pin(capability::capability(session))),
        C::Noop | C::Check => (ALL, Box::pin(capability::noop())),
        C::Id(fields) => (ALL, Box::pin(capability::id(session, fields))),
        C::Enable(names) => (ALL, Box::pin(capability::enable(session, names))),
        C::Namespace => (ALL, Box::pin(capability::namespace(session))),
        C::Logout => (Updates::None, Box::pin(capability::logout(session))),

        C::StartTls => (Updates::None, Box::pin(authenticate::start_tls(session, tag))),
        C::Authenticate { mechanism, initial_response } => (Updates::None,
            Box::pin(authenticate::authenticate(session, tag, mechanism, *initial_response))),
        C::Login { user, password } => (Updates::None,
            Box::pin(authenticate::login(session, tag, user, password))),

        C::Select { mailbox, condstore } => (Updates::None,
            Box::pin(select::select(session, mailbox, *condstore, false))),
        C::Examine { mailbox, condstore } => (Updates::None,
            Box::pin(select::select(session, mailbox, *condstore, true))),
        C::Close => (Updates::None, Box::pin(select::close(session))),
        C::Unselect => (Updates::None, Box::pin(select::unselect(session))),

        C::Create { mailbox, special_use, unknown_use } => (ALL,
            Box::pin(folder::create(session, mailbox, special_use, *unknown_use))),
        C::Delete { mailbox } => (ALL, Box::pin(folder::delete(session, mailbox))),
        C::Rename { source, target } => (ALL, Box::pin(folder::rename(session, source, target))),
        C::Subscribe { mailbox } => (ALL, Box::pin(folder::subscribe(session, mailbox, true))),
        C::Unsubscribe { mailbox } => (ALL, Box::pin(folder::subscribe(session, mailbox, false))),
        C::List(list) => (ALL, Box::pin(list::list(session, list))),
        C::Lsub { reference, pattern } => (ALL, Box::pin(list::lsub(session, reference, pattern))),
        C::Status { mailbox, items } => (ALL, Box::pin(status::status(session, mailbox, *items))),

        C::Append(append) => (ALL, Box::pin(append::append(session, append))),
        C::Idle => (ALL, Box::pin(idle::idle(session))),
        C::Expunge { uids } => (Updates::All { uid: uids.is_some() },
            Box::pin(expunge::expunge(session, uids.as_ref()))),
        C::Copy { uid, set, mailbox } => (Updates::All { uid: *uid },
            Box::pin(copy::copy(session, *uid, set, mailbox))),
        C::Move { uid, set, mailbox } => (Updates::All { uid: *uid },
            Box::pin(copy::move_messages(session, *uid, set, mailbox))),

        C::Search(search) => (by_numbers(search.uid), Box::pin(search::search(session, tag, search))),
        C::Fetch(fetch) => (by_numbers(fetch.uid), Box::pin(fetch::fetch(session, fetch))),
        C::Store(store) => (by_numbers(store.uid), Box::pin(store::store(session, store))),
    };
    Plan { updates, run }
}
