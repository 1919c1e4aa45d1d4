//! IDLE (RFC 2177): changes are sent at once, until the client sends DONE.
//!
//! Waits for the client and for the mailbox at the same time; both waits are cancel-safe, so that
//! the one that was dropped can be started again. Changes that come in between are sent with one
//! flush.

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    protocol::imap::{Frame, Updates, session::idle::Idle},
    runtime::connection::ConnectionError,
};

impl Handler for Idle {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.restart_deadline();
        session.writer().continuation("idling");
        session.channel.connection.rest();
        loop {
            match session.framer.line(session.channel.connection.input()) {
                Frame::Command { size } => {
                    let line = session.take_input(size);
                    let done = line.trim_ascii_end().eq_ignore_ascii_case(b"DONE");
                    return if done {
                        Done::ok("IDLE completed")
                    } else {
                        Err(Failure::bad("Expected DONE"))
                    };
                }
                Frame::Bye(text) => return Err(Failure::bye(text)),
                _ => {}
            }
            session.tell_changes(Updates::All { uid: false }).await?;
            wait(session).await?;
        }
    }
}

/// Sends the output, then waits until the client sends something, the mailbox changes, or the
/// deadline passes (RFC 2177 3 lets the server log out a client that idles too long).
async fn wait(session: &mut Session) -> Result<(), ConnectionError> {
    let Session { channel, selected, .. } = session;
    match selected {
        None => channel.listen().await,
        Some(selected) => channel.listen_or(selected.changed()).await,
    }
}
