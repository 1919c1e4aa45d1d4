//! UIDBATCHES (RFC 10022): from the newest messages to the oldest, each batch with the same number
//! of messages, the last one with what is left.

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::{
    model::Uid,
    protocol::imap::{Batches, message::uid_batches::UidBatches},
};

/// Batches written before other sessions get their turn.
const BATCHES_PER_TURN: usize = 4_096;

impl Handler for UidBatches {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let snapshot = session.selected()?.numbering().clone();
        let size = self.size as usize;
        let (first, last) = self.batches.unwrap_or((1, u32::MAX));
        let count = snapshot.len().div_ceil(size).min(last as usize);
        let mut response = Batches::begin(session.channel.connection.output(), tag);
        for batch in first as usize - 1..count {
            let end = snapshot.len().saturating_sub(batch * size);
            let start = end.saturating_sub(size);
            let newest = end.checked_sub(1).and_then(|index| snapshot.get(index));
            let (Some(newest), Some(oldest)) = (newest, snapshot.get(start)) else { break };
            let (Uid(newest), Uid(oldest)) = (newest.uid, oldest.uid);
            response.push(session.channel.connection.output(), newest, oldest);
            session.channel.flush_if_full().await?;
            if batch % BATCHES_PER_TURN == BATCHES_PER_TURN - 1 {
                session.channel.shard.executor.yield_now().await;
            }
        }
        response.end(session.channel.connection.output());
        Done::ok("UIDBATCHES completed")
    }
}
