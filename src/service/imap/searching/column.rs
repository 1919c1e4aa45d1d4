//! One part of the cards of many messages, whether or not they have cards.

use super::super::{
    accounts::{CardSource, Reading},
    reader::MessageReader,
    reply::Failure,
};
use crate::{
    protocol::mime::{
        card::{self, Unanswered},
        split_card,
    },
    store::Message,
};

/// Reads one part of the cards of messages, in the order of their UIDs.
pub(super) struct Column<'r> {
    reading: &'r Reading,
    source: CardSource,
    part: usize,
    /// Parts made for a message whose card does not answer.
    made: [Vec<u8>; card::PARTS],
}

impl<'r> Column<'r> {
    pub(super) fn new(reading: &'r Reading, part: usize) -> Column<'r> {
        Column { reading, source: reading.cards(part), part, made: Default::default() }
    }

    /// The message's part, if it is in memory.
    pub(super) fn at_hand(&mut self, message: &Message) -> Option<&[u8]> {
        self.source.is_at_hand(message).then(|| self.source.card())
    }

    /// Gives the message's part to `take`; again, made from the message itself, if that one could
    /// not use it. False if that does not help either.
    pub(super) async fn read(
        &mut self,
        message: &Message,
        mut take: impl FnMut(&[u8]) -> Result<(), Unanswered>,
    ) -> Result<bool, Failure> {
        if !self.source.is_at_hand(message) {
            self.source.seek(message).await?;
        }
        if take(self.source.card()).is_ok() {
            return Ok(true);
        }
        self.make(message).await?;
        Ok(self.made.get(self.part).is_some_and(|made| take(made).is_ok()))
    }

    async fn make(&mut self, message: &Message) -> Result<(), Failure> {
        self.made.iter_mut().for_each(Vec::clear);
        let mut reader = MessageReader::new(self.reading, *message);
        let summary = reader.summary().await?;
        if self.part != card::THREAD {
            split_card(&summary.encode(), &mut self.made);
            return Ok(());
        }
        // Summaries of older versions do not have References.
        let size = summary.header_size();
        let header = reader.header(0..size).await?;
        self.made.get_mut(self.part).into_iter().for_each(|made| {
            card::write_thread_of_header(&header, made);
        });
        Ok(())
    }
}
