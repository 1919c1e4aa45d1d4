//! IDLE (RFC 2177): changes are sent at once, until the client sends DONE.
//!
//! Waits for the client, the mailbox and a reload of the accounts at the same time; all waits are
//! cancel-safe, so that those that were dropped can be started again. Changes that come in between
//! are sent with one flush.

use futures_lite::future;

use super::super::{
    handler::Handler,
    notify,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    protocol::imap::{Frame, Updates, session::idle::Idle},
    runtime::{
        connection::ConnectionError,
        latest::{Listener, Silent},
    },
};

impl Handler for Idle {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.restart_deadline();
        session.writer().continuation("idling");
        session.channel.connection.rest();
        let mut accounts = session.channel.shard.reloads.listen();
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
            session.check_account()?;
            session.report(Updates::All { uid: false }).await?;
            wait(session, &mut accounts).await?;
        }
    }
}

/// Sends the output, then waits until the client sends something, the mailbox changes or results
/// may have, accounts or groups do, or the deadline passes (RFC 2177 3 lets the server log out a
/// client that idles too long).
async fn wait(session: &mut Session, accounts: &mut Listener<u64>) -> Result<(), ConnectionError> {
    let reload = async {
        match accounts.news().await {
            Ok(()) => accounts.with(|_| ()),
            // It ends with the shard.
            Err(Silent) => future::pending().await,
        }
    };
    notify::listen(session, reload).await
}
