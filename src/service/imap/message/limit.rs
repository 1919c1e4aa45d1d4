//! MESSAGELIMIT (RFC 9738): a command with more messages is carried out on those with the highest
//! UIDs, and its answer says so.

use std::ops::Range;

use super::super::{
    query::Query,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::Uid,
    protocol::imap::{Code, Status},
};

/// What a command was carried out on: not on all that it named.
#[derive(Clone, Copy)]
pub(super) struct Limited {
    limit: u32,
    /// The lowest UID that it was carried out on.
    lowest: Uid,
}

impl Limited {
    /// Takes all but the last ones of `messages`, which ascend, if they are more than `limit`.
    pub(super) fn cut<T>(
        limit: Option<u32>,
        messages: &mut Vec<T>,
        uid: impl Fn(&T) -> Uid,
    ) -> Option<Limited> {
        let limit = limit?;
        let excess = messages.len().checked_sub(limit as usize).filter(|excess| *excess > 0)?;
        messages.drain(..excess);
        Some(Limited { limit, lowest: messages.first().map(uid)? })
    }

    /// The same of indexes in the session's numbering.
    pub(super) fn cut_ranges(
        session: &Session,
        ranges: &mut Vec<Range<usize>>,
    ) -> Result<Option<Limited>, Failure> {
        let Some(limit) = session.imap().limit_of_messages() else { return Ok(None) };
        let count: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        if count <= limit as usize {
            return Ok(None);
        }
        *ranges = part_of(ranges, count - limit as usize..count);
        let first =
            ranges.first().and_then(|range| session.selected().ok()?.numbering().get(range.start));
        Ok(first.map(|message| Limited { limit, lowest: message.uid }))
    }

    /// Refuses what is done to all messages or to none (RFC 9738 3.1).
    pub(super) fn refuse(self) -> Failure {
        Failure::no(self.code(), "More messages than one command may have")
    }

    /// The same of what has to look at all messages to answer anything (RFC 9738 3.3).
    pub(super) fn refuse_whole(self) -> Failure {
        let code = Code::MessageLimit(self.limit, None);
        Failure::no(code, "More messages than one command may have")
    }

    fn code(self) -> Code {
        Code::MessageLimit(self.limit, Some(self.lowest))
    }
}

/// The index from which on a search looks at messages, in the session's numbering.
pub(super) async fn start_of_search(
    session: &Session,
    query: &Query,
) -> Result<(usize, Option<Limited>), Failure> {
    let Some(limit) = session.imap().limit_of_messages() else { return Ok((0, None)) };
    let numbering = session.selected()?.numbering();
    let (mut left, mut start) = (limit, None);
    for index in (0..numbering.len()).rev() {
        session.turn_of_scan(index).await;
        let Some(message) = numbering.get(index).filter(|it| query.looks_at(it.uid)) else {
            continue;
        };
        match (left.checked_sub(1), start) {
            (Some(less), _) => (left, start) = (less, Some((index, message.uid))),
            (None, Some((start, lowest))) => return Ok((start, Some(Limited { limit, lowest }))),
            (None, None) => break,
        }
    }
    Ok((0, None))
}

/// The reply to a command: with the code, or after an untagged response that has it, should the
/// reply have a code already (RFC 9738 3.1).
pub(super) fn answer(session: &mut Session, limited: Option<Limited>, reply: Reply) -> Reply {
    let Some(limited) = limited else { return reply };
    match reply {
        Ok(Done::Ok { code: None, text }) => Done::with_code(limited.code(), text),
        Err(Failure::Leave(_)) => reply,
        reply => {
            let text = "Not all messages were looked at";
            session.writer().untagged(Status::No, Some(limited.code()), text);
            reply
        }
    }
}

/// The indexes at these positions of `ranges`.
pub(super) fn part_of(ranges: &[Range<usize>], positions: Range<usize>) -> Vec<Range<usize>> {
    let mut before = 0;
    let part = ranges.iter().map(|range| {
        let start = positions.start.saturating_sub(before).min(range.len());
        let end = positions.end.saturating_sub(before).min(range.len());
        before += range.len();
        range.start + start..range.start + end
    });
    part.filter(|range| !range.is_empty()).collect()
}
