//! What changed in a mailbox since the mod-sequence that a client knows (RFC 7162 3.2.5, 3.2.6):
//! VANISHED (EARLIER), and FETCH responses.
//!
//! Called by SELECT and UID FETCH. Nothing is allocated for a message: expunged UIDs come as one
//! list from the mailbox's owner, or, below the floor of what it knows, are gaps of the snapshot;
//! both are written as ranges.

use super::{folder::Folder, reply::Failure, selected::Selected, state::Session};
use crate::{
    model::{ModSeq, Uid},
    protocol::imap::{FetchResponse, Ranges, SequenceSet, Vanished, mailbox::select::Resync},
    runtime::connection::ConnectionError,
    store::{Expunged, Snapshot},
};

/// Messages or UIDs looked at before other sessions get their turn.
const MESSAGES_PER_TURN: usize = 4_096;

/// What a client may lack of a mailbox.
pub(super) struct Changes {
    since: ModSeq,
    /// The UIDs that it asks for.
    known: Ranges,
    expunged: Expunged,
    /// Up to this UID nothing was expunged that it has.
    whole_to: u32,
}

/// What to tell at SELECT a client that says what it knows; `None` if that is of no use, since it
/// is of another mailbox or the mailbox has no mod-sequences (RFC 7162 3.2.5.1).
pub(super) async fn changes(
    folder: &Folder,
    selected: &Selected,
    resync: &Resync,
) -> Result<Option<Changes>, Failure> {
    let snapshot = selected.numbering();
    if !selected.has_mod_seqs() || snapshot.status().uid_validity != resync.uid_validity {
        return Ok(None);
    }
    let last = last_uid(snapshot);
    let known = match &resync.known {
        Some(set) => set.resolve(last),
        None => Ranges::up_to(last),
    };
    let mut changes = look(folder, snapshot, resync.mod_seq, known).await?;
    if let Some((numbers, uids)) = &resync.matches
        && changes.expunged.floor > resync.mod_seq
    {
        changes.whole_to = whole_to(snapshot, numbers, uids);
    }
    Ok(Some(changes))
}

/// What was expunged of `uids` since a mod-sequence.
pub(super) async fn vanished(
    folder: &Folder,
    selected: &Selected,
    since: ModSeq,
    uids: &SequenceSet,
) -> Result<Changes, Failure> {
    let snapshot = selected.numbering();
    // Here `*` is the highest UID there ever was: that message may be gone.
    look(folder, snapshot, since, uids.resolve(last_uid(snapshot))).await
}

async fn look(
    folder: &Folder,
    snapshot: &Snapshot,
    since: ModSeq,
    known: Ranges,
) -> Result<Changes, Failure> {
    let until = snapshot.status().highest_mod_seq;
    let expunged = match since < until && !known.is_empty() {
        true => folder.expunged(since, until).await?,
        false => Expunged { floor: ModSeq(0), uids: Vec::new() },
    };
    Ok(Changes { since, known, expunged, whole_to: 0 })
}

/// The highest UID that the mailbox has had.
fn last_uid(snapshot: &Snapshot) -> u32 {
    snapshot.status().uid_next.0.saturating_sub(1)
}

/// RFC 7162 3.2.5.2: as long as a message still has the number that the client knows, none with a
/// lower UID was expunged.
fn whole_to(snapshot: &Snapshot, numbers: &SequenceSet, uids: &SequenceSet) -> u32 {
    let (numbers, uids) =
        (numbers.resolve(snapshot.len() as u32), uids.resolve(last_uid(snapshot)));
    let still_so = |&(number, uid): &(u32, u32)| {
        snapshot.get(number as usize - 1).is_some_and(|message| message.uid == Uid(uid))
    };
    let pairs = numbers.numbers().zip(uids.numbers());
    pairs.take_while(still_so).last().map_or(0, |(_, uid)| uid)
}

impl Session {
    /// VANISHED (EARLIER).
    pub(super) async fn tell_vanished(&mut self, changes: &Changes) -> Result<(), ConnectionError> {
        let Changes { since, known, expunged, whole_to } = changes;
        let Some(selected) = &self.selected else { return Ok(()) };
        if *since < expunged.floor {
            let snapshot = selected.numbering().clone();
            return self.tell_absent(&snapshot, known, *whole_to).await;
        }
        let mut vanished = Vanished::begin(true);
        for uids in expunged.uids.chunks(MESSAGES_PER_TURN) {
            for &Uid(uid) in uids {
                if known.contains(uid) {
                    vanished.push(self.channel.connection.output(), uid, uid);
                }
            }
            self.channel.flush_if_full().await?;
            self.channel.shard.executor.yield_now().await;
        }
        vanished.end(self.channel.connection.output());
        Ok(())
    }

    /// RFC 7162 3.2.10.2: what was expunged is not known any more; all UIDs without a message are
    /// told.
    async fn tell_absent(
        &mut self,
        snapshot: &Snapshot,
        known: &Ranges,
        whole_to: u32,
    ) -> Result<(), ConnectionError> {
        let mut vanished = Vanished::begin(true);
        for (first, last) in known.ranges() {
            let mut next = first.max(whole_to.saturating_add(1));
            let mut index = snapshot.lower_bound(Uid(next));
            let end = snapshot.lower_bound(Uid(last.saturating_add(1)));
            while index < end {
                let count = MESSAGES_PER_TURN.min(end - index);
                for message in snapshot.iter_from(index).take(count) {
                    let Uid(uid) = message.uid;
                    if next < uid {
                        vanished.push(self.channel.connection.output(), next, uid - 1);
                    }
                    next = uid.saturating_add(1);
                }
                index += count;
                self.channel.flush_if_full().await?;
                self.channel.shard.executor.yield_now().await;
            }
            if next <= last {
                vanished.push(self.channel.connection.output(), next, last);
            }
            self.channel.flush_if_full().await?;
        }
        vanished.end(self.channel.connection.output());
        Ok(())
    }

    /// FETCH responses with the flags of messages that changed.
    pub(super) async fn tell_changed(&mut self, changes: &Changes) -> Result<(), ConnectionError> {
        let Some(selected) = &self.selected else { return Ok(()) };
        let snapshot = selected.numbering().clone();
        let naming = self.naming(true);
        if changes.since >= snapshot.status().highest_mod_seq {
            return Ok(());
        }
        for (first, last) in changes.known.ranges() {
            let mut index = snapshot.lower_bound(Uid(first));
            let end = snapshot.lower_bound(Uid(last.saturating_add(1)));
            while index < end {
                let turn_end = end.min(index + MESSAGES_PER_TURN);
                for message in snapshot.iter_from(index) {
                    if index == turn_end {
                        break;
                    }
                    index += 1;
                    if message.mod_seq <= changes.since {
                        continue;
                    }
                    let Some(selected) = &self.selected else { return Ok(()) };
                    let recent = selected.is_recent(message.uid);
                    let out = self.channel.connection.output();
                    let number = index as u32;
                    let mut response = FetchResponse::about(out, naming, number, message.uid);
                    response.flags(out, message.flags, snapshot.keywords(), recent);
                    response.mod_seq(out, message.mod_seq);
                    response.end(out);
                    self.channel.flush_if_full().await?;
                }
                self.channel.shard.executor.yield_now().await;
            }
        }
        Ok(())
    }
}
