//! A session while a message is received: DATA (RFC 5321 4.1.1.4) and BDAT (RFC 3030 2).
//!
//! A message that will be refused is still read to its end, up to [`SWALLOW_MAX`], because a client
//! reads the reply only after it has sent everything.

use super::{
    super::{
        command::Verb,
        data::{BareNewline, DataReader, Piece},
        parameter::BodyKind,
        reply::{self, Reply},
    },
    Chunk, Event, Phase, Role, SWALLOW_MAX, Session, Transaction, answer,
};

impl Session {
    pub(super) fn data<'a>(&mut self) -> Result<Event<'a>, Reply> {
        let transaction = &self.transaction;
        if transaction.open && transaction.chunked {
            return Err(reply::DATA_AFTER_BDAT);
        }
        self.message_allowed()?;
        if transaction.body == BodyKind::BinaryMime {
            return Err(reply::BINARY_NEEDS_BDAT);
        }
        Ok(Event::MessageStart(Verb::Data))
    }

    /// After [`Event::MessageStart`]: accepts the message.
    pub fn accept_message(&mut self, output: &mut Vec<u8>) {
        if !self.transaction.chunked {
            self.phase = Phase::Data(DataReader::new(self.limits.bare_newline));
            reply::START_DATA.append_to(output);
        }
    }

    /// After [`Event::MessageStart`]: refuses the message. The octets of a chunk follow anyway.
    pub fn refuse_message(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        match self.transaction.chunked {
            true => self.transaction.refusal = Some(refusal),
            false => self.refuse(refusal, output),
        }
    }

    /// Whether there is a sender and a recipient.
    fn message_allowed(&self) -> Result<(), Reply> {
        match (&self.transaction, self.role) {
            (Transaction { open: false, .. }, _) => Err(reply::MAIL_FIRST),
            (Transaction { recipients: 0, .. }, Role::Lmtp) => Err(reply::LMTP_NO_RECIPIENTS),
            (Transaction { recipients: 0, .. }, _) => Err(reply::NO_RECIPIENTS),
            _ => Ok(()),
        }
    }

    /// RFC 3030 2: the chunk's octets follow even if the command is refused, so the refusal is sent
    /// after them.
    pub(super) fn bdat<'a>(&mut self, size: u64, last: bool) -> Option<Event<'a>> {
        let allowed = self.message_allowed();
        let transaction = &mut self.transaction;
        let first = !transaction.chunked;
        if let Err(refusal) = allowed {
            transaction.refusal = Some(refusal);
        } else if transaction.refusal.is_some() {
            transaction.refusal = Some(reply::CHUNKS_REFUSED);
        } else if transaction.size.saturating_add(size) > self.limits.message_size_max {
            transaction.refusal = Some(reply::TOO_LARGE);
        }
        transaction.chunked = true;
        self.phase = Phase::Chunk(Chunk { size, remaining: size, last });
        (first && transaction.refusal.is_none()).then_some(Event::MessageStart(Verb::Bdat))
    }

    pub(super) fn next_chunk<'a>(
        &mut self,
        chunk: Chunk,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Option<Event<'a>>) {
        let untouched = chunk.remaining == chunk.size;
        if untouched && self.transaction.refusal.is_some() && chunk.size > SWALLOW_MAX {
            return (0, Some(answer(Event::Close(Verb::Bdat), reply::TOO_MUCH_REFUSED, output)));
        }
        if chunk.remaining == 0 {
            self.phase = Phase::Command;
            return (0, Some(self.end_chunk(chunk, output)));
        }
        if input.is_empty() {
            return (0, Some(Event::Incomplete));
        }
        let count = usize::try_from(chunk.remaining).unwrap_or(usize::MAX).min(input.len());
        let content = &input[..count];
        self.phase = Phase::Chunk(Chunk { remaining: chunk.remaining - count as u64, ..chunk });
        (count, self.content(content, output))
    }

    fn end_chunk<'a>(&mut self, chunk: Chunk, output: &mut Vec<u8>) -> Event<'a> {
        let Some(refusal) = self.transaction.refusal else {
            if chunk.last {
                return Event::MessageEnd;
            }
            reply::append_chunk_ok(output, chunk.size);
            return Event::Answered(Verb::Bdat);
        };
        if chunk.last && self.transaction.recipients > 0 {
            return self.end_refused(Verb::Bdat, refusal, output);
        }
        self.errors += 1;
        refusal.append_to(output);
        if !self.transaction.open {
            self.reset_transaction();
        }
        Event::Answered(Verb::Bdat)
    }

    pub(super) fn next_text<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Option<Event<'a>>) {
        let Phase::Data(reader) = &mut self.phase else {
            return (0, Some(Event::Incomplete));
        };
        let (count, piece) = reader.next(input);
        let bare_newline =
            reader.saw_bare_newline() && self.limits.bare_newline == BareNewline::Refuse;
        let long_line = self.limits.text_line_max.is_some_and(|max| reader.longest_line() > max);
        if bare_newline {
            self.transaction.refusal.get_or_insert(reply::BARE_NEWLINE);
        } else if long_line {
            self.transaction.refusal.get_or_insert(reply::TEXT_LINE_TOO_LONG);
        }
        let event = match piece {
            Piece::Content(content) => self.content(content, output),
            Piece::Incomplete => Some(Event::Incomplete),
            Piece::AmbiguousEnd => {
                reply::AMBIGUOUS_END.append_to(output);
                Some(Event::Close(Verb::Data))
            }
            Piece::End => {
                self.phase = Phase::Command;
                Some(match self.transaction.refusal {
                    None => Event::MessageEnd,
                    Some(refusal) => self.end_refused(Verb::Data, refusal, output),
                })
            }
        };
        (count, event)
    }

    /// Octets of the message: passed on, or discarded if it is to be refused.
    fn content<'a>(&mut self, content: &'a [u8], output: &mut Vec<u8>) -> Option<Event<'a>> {
        let transaction = &mut self.transaction;
        transaction.size = transaction.size.saturating_add(content.len() as u64);
        if transaction.refusal.is_none() {
            transaction.hop_counter.push(content);
            if transaction.size > self.limits.message_size_max {
                transaction.refusal = Some(reply::TOO_LARGE);
            } else if transaction.hop_counter.hops() > self.limits.hops_max {
                transaction.refusal = Some(reply::MAIL_LOOP);
            } else {
                return Some(Event::Content(content));
            }
        }
        transaction.swallowed += content.len() as u64;
        if transaction.swallowed > SWALLOW_MAX {
            reply::TOO_MUCH_REFUSED.append_to(output);
            return Some(Event::Close(Verb::Data));
        }
        None
    }

    /// RFC 2033 4.2: in LMTP every accepted recipient gets the refusal.
    fn end_refused<'a>(&mut self, verb: Verb, refusal: Reply, output: &mut Vec<u8>) -> Event<'a> {
        let replies = if self.role == Role::Lmtp { self.transaction.recipients } else { 1 };
        for _ in 0..replies {
            refusal.append_to(output);
        }
        self.errors += 1;
        Event::MessageRefused(verb)
    }
}
