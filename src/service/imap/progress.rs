//! Tells a client that waits for a long command that it goes on, and how far it is (RFC 9585).
//!
//! The work is a future that does not write to the client; while it is under way the connection is
//! free for a line now and then, between other responses. Most commands are done when they are
//! asked for the first time, and pay for no timer.

use std::{cell::Cell, future::Future, pin::pin};

use futures_lite::future::{or, poll_once};

use super::{reply::Failure, selected::Selected, state::Session};
use crate::protocol::imap::{Code, Status, Writer};

/// How far a command is.
pub(super) struct Progress {
    done: Cell<Option<u64>>,
    goal: Option<u64>,
    /// Whether the work is done to its end although its client has gone: a part of a change is not
    /// what the client asked for. The answer to a question is of no use any more.
    is_change: bool,
}

impl Progress {
    /// Of messages of which there are `goal`.
    pub(super) fn to(goal: usize) -> Progress {
        // RFC 9585 5: a goal is not 0.
        let goal = Some(goal as u64).filter(|goal| *goal > 0);
        Progress { done: Cell::new(Some(0)), goal, is_change: false }
    }

    /// Of messages, and of something else behind them.
    pub(super) fn beyond_messages() -> Progress {
        Progress { done: Cell::new(Some(0)), goal: None, is_change: false }
    }

    /// Of a change, which is made as a whole: how far it is is not known.
    pub(super) fn of_change() -> Progress {
        Progress { done: Cell::new(None), goal: None, is_change: true }
    }

    /// Counts those that are looked at.
    pub(super) fn counted<T>(&self, messages: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        messages.enumerate().map(|(count, message)| {
            self.done.set(Some(count as u64));
            message
        })
    }

    fn code(&self, tag: &str) -> Code {
        Code::InProgress { tag: tag.to_owned(), done: self.done.get(), goal: self.goal }
    }
}

impl Session {
    /// Does `work` on the selected mailbox. If it takes long, the client is told that it goes on.
    /// It does go on while that is sent.
    pub(super) async fn patiently<'s, T, F>(
        &'s mut self,
        tag: &str,
        progress: &Progress,
        work: impl FnOnce(&'s Selected) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let interval = self.imap().progress_interval;
        let Session { channel, selected, .. } = self;
        let selected = selected.as_ref().ok_or_else(|| Failure::bad("Select a mailbox first"))?;
        let mut work = pin!(work(selected));
        if let Some(done) = poll_once(work.as_mut()).await {
            return done;
        }
        let executor = channel.shard.executor.clone();
        loop {
            let tick = async {
                executor.sleep(interval).await;
                None
            };
            if let Some(done) = or(async { Some(work.as_mut().await) }, tick).await {
                return done;
            }
            let code = progress.code(tag);
            let mut writer = Writer::new(channel.connection.output());
            writer.untagged(Status::Ok, Some(code), "Still working");
            let mut done = None;
            let sent = {
                let mut sending = pin!(channel.flush());
                let at_work = async {
                    done = Some(work.as_mut().await);
                    None
                };
                match or(async { Some(sending.as_mut().await) }, at_work).await {
                    Some(sent) => sent,
                    // Not stopped in the middle of a line.
                    None => sending.await,
                }
            };
            if sent.is_err() && done.is_none() && progress.is_change {
                done = Some(work.as_mut().await);
            }
            sent?;
            if let Some(done) = done {
                return done;
            }
        }
    }
}
