//! UIDBATCHES (RFC 10022): from the newest messages to the oldest, each batch with the same number
//! of messages, the last one with what is left.

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::Uid,
    protocol::imap::{Batches, Code, message::uid_batches::UidBatches},
};

/// Fewest messages of a batch: with smaller ones a client could find message numbers, which UIDONLY
/// does not have (RFC 10022 3.1.3.2, 3.3).
const BATCH_SIZE_MIN: u32 = 500;
/// Batches written before other sessions get their turn.
const BATCHES_PER_TURN: usize = 4_096;

impl Handler for UidBatches {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let snapshot = session.selected()?.numbering().clone();
        let size = self.size as usize;
        let batches = snapshot.len().div_ceil(size);
        let (first, last) = self.batches.unwrap_or((1, u32::MAX));
        if first > last {
            let text = "The lower number of a range of batches is the first".into();
            return Err(Failure::Bad { code: Some(Code::ClientBug), text });
        }
        let told = first as usize - 1..batches.min(last as usize);
        // RFC 10022 3.1.5, 3.1.6: batches that do not exist are no failure, whatever their size.
        if self.size < BATCH_SIZE_MIN && (self.batches.is_none() || !told.is_empty()) {
            let text = format!("A batch has at least {BATCH_SIZE_MIN} messages");
            return Err(Failure::no(Code::TooFew, text));
        }
        let mut response = Batches::begin(session.channel.connection.output(), tag);
        for batch in told {
            let end = snapshot.len().saturating_sub(batch * size);
            let start = end.saturating_sub(size);
            let newest = end.checked_sub(1).and_then(|index| snapshot.get(index));
            let (Some(newest), Some(oldest)) = (newest, snapshot.get(start)) else { break };
            let (Uid(highest), Uid(oldest)) = (newest.uid, oldest.uid);
            // RFC 10022 3.1.4: by UID 1 the client knows the last batch of the mailbox.
            let lowest = if batch + 1 == batches { 1 } else { oldest };
            response.push(session.channel.connection.output(), highest, lowest);
            session.channel.flush_if_full().await?;
            if batch % BATCHES_PER_TURN == BATCHES_PER_TURN - 1 {
                session.channel.shard.executor.yield_now().await;
            }
        }
        response.end(session.channel.connection.output());
        Done::ok("UIDBATCHES completed")
    }
}
