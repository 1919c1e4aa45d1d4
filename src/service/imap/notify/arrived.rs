//! Fetches new messages of the selected mailbox for a client that wants that (RFC 5465 5.2, 7).

use std::{io::Write as _, mem::take};

use super::super::{
    reply::{Done, Failure},
    selected::Wanted,
    state::Session,
};
use crate::{
    model::Uid,
    protocol::imap::{Status, message::fetch::is_fetch_list},
    runtime::executor::Executor,
    store::{Message, Snapshot},
};

/// New messages looked at before other sessions get their turn.
const ARRIVED_PER_TURN: usize = 1_024;
/// Ranges of messages that are fetched at once.
const RANGES_AT_ONCE: usize = 1_000;

impl Session {
    /// Fetches what has arrived in the selected mailbox, if the client wants that, by NOTIFY or by
    /// UPDATE of a search (RFC 5465 5.2, 7); what several want of a message at once.
    pub(super) async fn fetch_arrived(&mut self) -> Result<(), Failure> {
        if !self.has_arrived() {
            return Ok(());
        }
        let fetch = self.selected_wishes().and_then(|wishes| wishes.fetch.clone());
        let executor = self.channel.shard.executor.clone();
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let wanted = take(&mut selected.wanted);
        let arrived = selected.take_arrived();
        let fetches = match &fetch {
            // The client added them itself.
            _ if arrived.is_empty() => return Ok(()),
            Some(fetch) if wanted.is_empty() => vec![(arrived, vec![&fetch[..]])],
            _ => {
                let wanted = (fetch.as_deref(), &wanted[..]);
                fetches(selected.numbering(), &arrived, wanted, &*executor).await
            }
        };
        for (ranges, lists) in fetches {
            for items in together(lists) {
                self.fetch_unasked(fetch_command(&ranges, &items)).await?;
            }
        }
        Ok(())
    }

    /// What cannot be read now, the client can ask for: it is told so.
    async fn fetch_unasked(&mut self, command: Vec<u8>) -> Result<(), Failure> {
        let (status, code, text) = match (self.runner)(self, command).await {
            Err(failure @ Failure::Leave(_)) => return Err(failure),
            Err(Failure::No { code, text } | Failure::Bad { code, text }) => {
                (Status::No, code, text)
            }
            Ok(Done::Ok { code: Some(code), text }) => (Status::Ok, Some(code), text.into()),
            Ok(_) | Err(Failure::UidRequired) => return Ok(()),
        };
        self.writer().untagged(status, code, &text);
        Ok(())
    }
}

/// Ranges of UIDs, first and last.
type UidRanges = Vec<(Uid, Uid)>;

/// What is to be fetched of the messages that have `arrived`, as lists of items: all of them for
/// NOTIFY, and those that are wanted for results.
async fn fetches<'a>(
    numbering: &Snapshot,
    arrived: &[(Uid, Uid)],
    (fetch, wanted): (Option<&'a [u8]>, &'a [Wanted]),
    executor: &dyn Executor,
) -> Vec<(UidRanges, Vec<&'a [u8]>)> {
    let mut groups: Vec<(UidRanges, Vec<&'a [u8]>)> = Vec::new();
    let mut lists: Vec<&'a [u8]> = Vec::new();
    for &(first, last) in arrived {
        let start = numbering.lower_bound(first);
        let messages = numbering.iter_from(start).take_while(|message| message.uid <= last);
        for (count, Message { uid, .. }) in messages.enumerate() {
            let wants = |it: &&Wanted| it.uids.binary_search(uid).is_ok();
            lists.clear();
            lists.extend(fetch);
            lists.extend(wanted.iter().filter(wants).map(|it| &it.fetch[..]));
            match groups.last_mut() {
                _ if lists.is_empty() => {}
                Some((ranges, same)) if *same == lists && ranges.len() < RANGES_AT_ONCE => {
                    add(ranges, *uid);
                }
                _ => groups.push((vec![(*uid, *uid)], lists.clone())),
            }
            if count % ARRIVED_PER_TURN == ARRIVED_PER_TURN - 1 {
                executor.yield_now().await;
            }
        }
    }
    groups
}

/// Adds a UID above those in `ranges`.
fn add(ranges: &mut UidRanges, uid: Uid) {
    match ranges.last_mut() {
        Some((_, last)) if last.0.checked_add(1) == Some(uid.0) => *last = uid,
        _ => ranges.push((uid, uid)),
    }
}

/// As few lists of items as have all of `lists`, each with as many as one FETCH may have. An item
/// that comes again in one is fetched once.
fn together<'a>(lists: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut fetched: Vec<Vec<u8>> = Vec::new();
    for list in lists {
        let inner = list.strip_prefix(b"(").and_then(|it| it.strip_suffix(b")")).unwrap_or(list);
        let joined = fetched.last().and_then(|last| last.strip_suffix(b")"));
        let joined = joined.map(|last| [last, b" ", inner, b")"].concat());
        match (fetched.last_mut(), joined.filter(|list| is_fetch_list(list))) {
            (Some(last), Some(joined)) => *last = joined,
            _ => fetched.push([b"(", inner, b")"].concat()),
        }
    }
    fetched
}

fn fetch_command(ranges: &[(Uid, Uid)], items: &[u8]) -> Vec<u8> {
    let mut command = b"n UID FETCH ".to_vec();
    for (index, (Uid(first), Uid(last))) in ranges.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to memory does not fail.
        let _ = write!(command, "{comma}{first}:{last}");
    }
    command.push(b' ');
    command.extend_from_slice(items);
    command.extend_from_slice(b"\r\n");
    command
}
