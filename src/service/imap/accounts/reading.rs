//! Reading the messages of a mailbox, wherever its account is.
//!
//! From another shard the beginnings of messages (summary and first piece) and their cards come
//! several at a time, once a session reads one message after the other: each request costs a turn
//! of two shards. The owner asks for the right to read at each request.

use std::{cell::RefCell, collections::VecDeque};

use bytes::Bytes;

use super::{
    super::reply::{Failure, no_such_mailbox},
    distant::Distant,
    holding::{Holding, permitted},
    home::Home,
};
use crate::{
    model::{MailboxId, Right, Rights, Uid},
    store::{BODY_CHUNK, BodyReader, CardReader, Message, MessageBody},
};

/// Most octets that come with one request.
const AHEAD_OCTETS: usize = 512 * 1024;
/// Most messages that come with one request.
const AHEAD_MESSAGES: usize = 128;

/// Messages of one mailbox, for one command.
pub(in crate::service::imap) enum Reading {
    Here { holding: Holding, mailbox: MailboxId, bodies: BodyReader },
    There { distant: Distant, mailbox: MailboxId, ahead: RefCell<Ahead> },
}

/// What has come and was not read yet.
#[derive(Default)]
pub(in crate::service::imap) struct Ahead {
    beginnings: VecDeque<Beginning>,
    wants: Wants,
    growth: Growth,
}

/// How many messages are asked for at once: more and more as long as most of them are read.
#[derive(Default)]
struct Growth {
    asked: usize,
    used: usize,
}

impl Growth {
    fn next(&mut self, most: usize) -> usize {
        let goes_on = self.asked > 0 && self.used * 2 >= self.asked;
        let next = if goes_on { (self.asked * 4).min(most) } else { 1 };
        // The first one is read at once.
        (self.asked, self.used) = (next, 1);
        next
    }
}

/// The parts of messages that the command reads.
#[derive(Clone, Copy, Default)]
struct Wants {
    summary: bool,
    piece: bool,
}

/// The beginning of a message, as far as it was asked for.
#[derive(Clone)]
struct Beginning {
    uid: Uid,
    summary: Option<Bytes>,
    piece: Option<Bytes>,
}

impl Beginning {
    fn has(&self, wants: Wants) -> bool {
        (!wants.summary || self.summary.is_some()) && (!wants.piece || self.piece.is_some())
    }

    fn octets(&self) -> usize {
        [&self.summary, &self.piece].into_iter().flatten().map(Bytes::len).sum()
    }
}

impl Ahead {
    /// Drops what was passed over, and returns the beginning of `uid` if it has come.
    fn take_to(&mut self, uid: Uid, wants: Wants) -> Option<Beginning> {
        let before = self.beginnings.len();
        while self.beginnings.front().is_some_and(|it| it.uid != uid) {
            self.beginnings.pop_front();
        }
        self.growth.used += usize::from(before == self.beginnings.len() + 1);
        self.beginnings.front().filter(|it| it.has(wants)).cloned()
    }
}

impl Reading {
    pub(in crate::service::imap) fn new(home: &Home, mailbox: MailboxId) -> Reading {
        match home {
            Home::Here(holding) => {
                let bodies = holding.account.bodies();
                Reading::Here { holding: holding.clone(), mailbox, bodies }
            }
            Home::There(distant) => {
                Reading::There { distant: distant.clone(), mailbox, ahead: RefCell::default() }
            }
        }
    }

    pub(in crate::service::imap) async fn summary(
        &self,
        message: &Message,
    ) -> Result<Bytes, Failure> {
        let Reading::Here { bodies, .. } = self else {
            let beginning = self.beginning(message, Wants { summary: true, piece: false }).await?;
            return beginning.summary.ok_or_else(no_such_mailbox);
        };
        Ok(bodies.read_summary(&message.body).await?)
    }

    /// Octets of the message from `offset` on, at most `len`.
    pub(in crate::service::imap) async fn octets(
        &self,
        message: &Message,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, Failure> {
        let (distant, mailbox) = match self {
            Reading::Here { bodies, .. } => {
                return Ok(bodies.read_body(&message.body, offset, len).await?);
            }
            Reading::There { distant, mailbox, .. } => (distant, *mailbox),
        };
        if offset < BODY_CHUNK as u64 {
            let beginning = self.beginning(message, Wants { summary: false, piece: true }).await?;
            let piece = beginning.piece.ok_or_else(no_such_mailbox)?;
            let start = (offset as usize).min(piece.len());
            return Ok(piece.slice(start..(start + len).min(piece.len())));
        }
        let body = message.body;
        let read = move |holding: Holding| async move {
            check_readable(&holding, mailbox)?;
            Ok(holding.account.read_body(&body, offset, len).await?)
        };
        distant.ask(read).await
    }

    async fn beginning(&self, message: &Message, more: Wants) -> Result<Beginning, Failure> {
        let Reading::There { distant, mailbox, ahead } = self else {
            return Err(no_such_mailbox());
        };
        let (wants, count) = {
            let ahead = &mut *ahead.borrow_mut();
            let wants = Wants {
                summary: ahead.wants.summary || more.summary,
                piece: ahead.wants.piece || more.piece,
            };
            ahead.wants = wants;
            if let Some(beginning) = ahead.take_to(message.uid, more) {
                return Ok(beginning);
            }
            (wants, ahead.growth.next(AHEAD_MESSAGES))
        };
        let (mailbox, uid, body) = (*mailbox, message.uid, message.body);
        let read = move |holding| read_beginnings(holding, mailbox, (uid, body), wants, count);
        let beginnings = distant.ask(read).await?;
        let first = beginnings.front().cloned().ok_or_else(no_such_mailbox)?;
        ahead.borrow_mut().beginnings = beginnings;
        Ok(first)
    }

    /// Reads one part of the cards of many messages, in the order of their UIDs.
    pub(in crate::service::imap) fn cards(&self, part: usize) -> CardSource {
        match self {
            Reading::Here { holding, mailbox, .. } => {
                CardSource::Here(holding.account.cards(*mailbox, part))
            }
            Reading::There { distant, mailbox, .. } => CardSource::There(DistantCards {
                distant: distant.clone(),
                mailbox: *mailbox,
                part,
                cards: VecDeque::new(),
                growth: Growth::default(),
            }),
        }
    }
}

fn check_readable(holding: &Holding, mailbox: MailboxId) -> Result<(), Failure> {
    let rights = holding.get(mailbox).map(|(_, rights)| rights);
    permitted(rights, Rights::of(&[Right::Read]), no_such_mailbox)
}

/// On the owner's shard: the beginning of a message, which may be expunged already, and of those
/// that follow it, without those that cannot be read.
async fn read_beginnings(
    holding: Holding,
    mailbox: MailboxId,
    first: (Uid, MessageBody),
    wants: Wants,
    count: usize,
) -> Result<VecDeque<Beginning>, Failure> {
    check_readable(&holding, mailbox)?;
    let mut beginnings = VecDeque::new();
    let mut octets = 0;
    let bodies = holding.account.bodies();
    let begin = read_beginning(&bodies, first, wants).await?;
    octets += begin.octets();
    beginnings.push_back(begin);
    let Some((snapshot, _)) = holding.account.published(mailbox) else { return Ok(beginnings) };
    let from = snapshot.lower_bound(Uid(first.0.0.saturating_add(1)));
    for message in snapshot.iter_from(from).take(count - 1) {
        if octets >= AHEAD_OCTETS {
            break;
        }
        let Ok(next) = read_beginning(&bodies, (message.uid, message.body), wants).await else {
            break;
        };
        octets += next.octets();
        beginnings.push_back(next);
    }
    Ok(beginnings)
}

async fn read_beginning(
    bodies: &BodyReader,
    (uid, body): (Uid, MessageBody),
    wants: Wants,
) -> Result<Beginning, Failure> {
    let mut beginning = Beginning { uid, summary: None, piece: None };
    if wants.summary {
        beginning.summary = Some(bodies.read_summary(&body).await?);
    }
    if wants.piece {
        let len = BODY_CHUNK.min(body.size.try_into().unwrap_or(BODY_CHUNK));
        beginning.piece = Some(bodies.read_body(&body, 0, len).await?);
    }
    Ok(beginning)
}

/// One part of the cards of a mailbox.
pub(in crate::service::imap) enum CardSource {
    Here(CardReader),
    There(DistantCards),
}

/// Cards from another shard.
pub(in crate::service::imap) struct DistantCards {
    distant: Distant,
    mailbox: MailboxId,
    part: usize,
    /// The card of the current message first, and those of the messages after it.
    cards: VecDeque<(Uid, Bytes)>,
    growth: Growth,
}

impl CardSource {
    /// Whether the card is in memory, so that [`CardSource::card`] returns it without waiting.
    pub(in crate::service::imap) fn is_at_hand(&mut self, message: &Message) -> bool {
        match self {
            CardSource::Here(reader) => reader.is_at_hand(message),
            CardSource::There(distant) => distant.is_at_hand(message),
        }
    }

    /// Reads a card that is not at hand; [`CardSource::card`] then returns it.
    pub(in crate::service::imap) async fn seek(
        &mut self,
        message: &Message,
    ) -> Result<(), Failure> {
        match self {
            CardSource::Here(reader) => Ok(reader.seek(message).await?),
            CardSource::There(distant) => distant.seek(message).await,
        }
    }

    /// What was found last; empty if the message has no such part.
    pub(in crate::service::imap) fn card(&self) -> &[u8] {
        match self {
            CardSource::Here(reader) => reader.card(),
            CardSource::There(distant) => distant.cards.front().map_or(&[], |(_, card)| card),
        }
    }
}

impl DistantCards {
    fn is_at_hand(&mut self, message: &Message) -> bool {
        let before = self.cards.len();
        while self.cards.front().is_some_and(|(uid, _)| *uid < message.uid) {
            self.cards.pop_front();
        }
        self.growth.used += usize::from(before == self.cards.len() + 1);
        self.cards.front().is_some_and(|(uid, _)| *uid == message.uid)
    }

    async fn seek(&mut self, message: &Message) -> Result<(), Failure> {
        let count = self.growth.next(4 * AHEAD_MESSAGES);
        let (mailbox, part, first) = (self.mailbox, self.part, *message);
        let read = move |holding| read_cards(holding, mailbox, part, first, count);
        self.cards = self.distant.ask(read).await?;
        Ok(())
    }
}

/// On the owner's shard: the card of a message, and those of the messages after it.
async fn read_cards(
    holding: Holding,
    mailbox: MailboxId,
    part: usize,
    first: Message,
    count: usize,
) -> Result<VecDeque<(Uid, Bytes)>, Failure> {
    check_readable(&holding, mailbox)?;
    let mut reader = holding.account.cards(mailbox, part);
    let mut cards = VecDeque::new();
    let mut octets = 0;
    let snapshot = holding.account.published(mailbox).map(|(snapshot, _)| snapshot);
    let from = snapshot.as_ref().map(|it| it.lower_bound(Uid(first.uid.0.saturating_add(1))));
    let after = snapshot.iter().zip(from).flat_map(|(it, from)| it.iter_from(from)).copied();
    for message in std::iter::once(first).chain(after).take(count) {
        if octets >= AHEAD_OCTETS {
            break;
        }
        if !reader.is_at_hand(&message)
            && let Err(error) = reader.seek(&message).await
        {
            match cards.is_empty() {
                true => return Err(error.into()),
                false => break,
            }
        }
        let card = Bytes::copy_from_slice(reader.card());
        octets += card.len();
        cards.push_back((message.uid, card));
    }
    Ok(cards)
}
