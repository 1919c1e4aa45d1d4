//! A maildrop as one session sees it (RFC 1939 5): the messages present at log-in, with fixed
//! numbers from 1 on, and which of them are marked as deleted.
//!
//! `service::pop3` supplies the messages as a [`Listing`], a view of the store's snapshot; this
//! adds one bit per message, and only once something is deleted.

use std::io::Write;

use super::{write_err, write_ok};

/// The messages of a maildrop, by index from 0 on.
pub trait Listing {
    fn count(&self) -> usize;
    /// Octets of all messages.
    fn total_size(&self) -> u64;
    /// Octets; `None` from `count` on.
    fn size(&self, index: usize) -> Option<u64>;
    /// UIDVALIDITY and UID: together they never identify another message.
    fn unique_id(&self, index: usize) -> Option<(u32, u32)>;
}

/// The value listed for each message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListingKind {
    /// LIST.
    Size,
    /// UIDL.
    UniqueId,
}

/// Numbers, sizes and deletion marks.
pub struct Maildrop<L> {
    listing: L,
    /// One bit a message; empty while none is marked.
    marks: Vec<u64>,
    marked_count: usize,
    marked_size: u64,
}

impl<L: Listing> Maildrop<L> {
    pub fn new(listing: L) -> Maildrop<L> {
        Maildrop { listing, marks: Vec::new(), marked_count: 0, marked_size: 0 }
    }

    pub fn listing(&self) -> &L {
        &self.listing
    }

    /// Messages not marked as deleted.
    pub fn count(&self) -> usize {
        self.listing.count() - self.marked_count
    }

    /// Their octets.
    pub fn size(&self) -> u64 {
        self.listing.total_size().saturating_sub(self.marked_size)
    }

    /// The index of message `number`, or why it is not available.
    pub fn index(&self, number: u32) -> Result<usize, &'static str> {
        let index = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .filter(|&index| index < self.listing.count())
            .ok_or("no such message")?;
        if self.is_marked(index) { Err("message is deleted") } else { Ok(index) }
    }

    /// DELE.
    pub fn mark(&mut self, number: u32) -> Result<(), &'static str> {
        let index = self.index(number)?;
        self.marks.resize(self.listing.count().div_ceil(64), 0);
        if let Some(word) = self.marks.get_mut(index / 64) {
            *word |= 1 << (index % 64);
            self.marked_count += 1;
            self.marked_size += self.listing.size(index).unwrap_or(0);
        }
        Ok(())
    }

    /// RSET.
    pub fn unmark_all(&mut self) {
        self.marks = Vec::new();
        self.marked_count = 0;
        self.marked_size = 0;
    }

    /// Indexes of the messages that QUIT is to delete, ascending.
    pub fn marked(&self) -> impl Iterator<Item = usize> {
        (0..self.listing.count()).filter(|&index| self.is_marked(index))
    }

    pub fn marked_count(&self) -> usize {
        self.marked_count
    }

    fn is_marked(&self, index: usize) -> bool {
        self.marks.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// STAT.
    pub fn write_stat(&self, output: &mut Vec<u8>) {
        write_ok(output, &format!("{} {}", self.count(), self.size()));
    }

    /// LIST or UIDL of one message.
    pub fn write_one(&self, kind: ListingKind, number: u32, output: &mut Vec<u8>) {
        match self.index(number) {
            Ok(index) => {
                output.extend_from_slice(b"+OK ");
                self.write_item(kind, index, output);
            }
            Err(reason) => write_err(output, reason),
        }
    }

    /// LIST or UIDL of all: begins at index `from`, 0 at first, and stops once `output` has `limit`
    /// octets. `Some` is the index to continue from when they are sent.
    pub fn write_all(
        &self,
        kind: ListingKind,
        from: usize,
        output: &mut Vec<u8>,
        limit: usize,
    ) -> Option<usize> {
        if from == 0 {
            write_ok(output, &format!("{} messages ({} octets)", self.count(), self.size()));
        }
        for index in from..self.listing.count() {
            if self.is_marked(index) {
                continue;
            }
            if output.len() >= limit {
                return Some(index);
            }
            self.write_item(kind, index, output);
        }
        output.extend_from_slice(b".\r\n");
        None
    }

    fn write_item(&self, kind: ListingKind, index: usize, output: &mut Vec<u8>) {
        let number = index + 1;
        // Writing to a vector does not fail.
        let _ = match kind {
            ListingKind::Size => {
                let size = self.listing.size(index).unwrap_or(0);
                write!(output, "{number} {size}\r\n")
            }
            ListingKind::UniqueId => {
                let (uid_validity, uid) = self.listing.unique_id(index).unwrap_or((0, 0));
                write!(output, "{number} {uid_validity}.{uid}\r\n")
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes; UIDs are 10, 20, ...
    struct Sizes(Vec<u64>);

    impl Listing for Sizes {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn total_size(&self) -> u64 {
            self.0.iter().sum()
        }
        fn size(&self, index: usize) -> Option<u64> {
            self.0.get(index).copied()
        }
        fn unique_id(&self, index: usize) -> Option<(u32, u32)> {
            Some((7, (index as u32 + 1) * 10))
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut output = Vec::new();
        write(&mut output);
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn marks_hide_messages_but_keep_their_numbers() {
        let mut maildrop = Maildrop::new(Sizes(vec![100, 200, 300]));
        let size = ListingKind::Size;
        assert_eq!(maildrop.mark(2), Ok(()));
        assert_eq!(maildrop.mark(2), Err("message is deleted"));
        assert_eq!(maildrop.mark(0), Err("no such message"));
        assert_eq!(maildrop.mark(4), Err("no such message"));
        assert_eq!(maildrop.mark(u32::MAX), Err("no such message"));
        assert_eq!(written(|output| maildrop.write_stat(output)), "+OK 2 400\r\n");
        assert_eq!(
            written(|output| assert_eq!(maildrop.write_all(size, 0, output, 1000), None)),
            "+OK 2 messages (400 octets)\r\n1 100\r\n3 300\r\n.\r\n"
        );
        assert_eq!(written(|output| maildrop.write_one(size, 3, output)), "+OK 3 300\r\n");
        assert_eq!(
            written(|output| maildrop.write_one(size, 2, output)),
            "-ERR message is deleted\r\n"
        );
        assert_eq!(
            written(|output| maildrop.write_one(ListingKind::UniqueId, 3, output)),
            "+OK 3 7.30\r\n"
        );
        assert_eq!(maildrop.marked().collect::<Vec<_>>(), [1]);
        maildrop.unmark_all();
        assert_eq!((maildrop.count(), maildrop.size(), maildrop.marked_count()), (3, 600, 0));
    }

    #[test]
    fn a_listing_comes_in_pieces() {
        let mut maildrop = Maildrop::new(Sizes(vec![1; 1000]));
        for number in [1, 500, 1000] {
            assert_eq!(maildrop.mark(number), Ok(()));
        }
        let whole = written(|output| {
            assert_eq!(maildrop.write_all(ListingKind::UniqueId, 0, output, usize::MAX), None);
        });
        let mut pieces = String::new();
        let mut from = Some(0);
        while let Some(start) = from {
            let piece = written(|output| {
                from = maildrop.write_all(ListingKind::UniqueId, start, output, 100);
            });
            assert!(piece.len() < 150, "{}", piece.len());
            pieces.push_str(&piece);
        }
        assert_eq!(pieces, whole);
        assert_eq!(whole.lines().count(), 1 + 997 + 1);
    }

    #[test]
    fn an_empty_maildrop() {
        let maildrop = Maildrop::new(Sizes(Vec::new()));
        assert_eq!(
            written(|output| assert_eq!(maildrop.write_all(ListingKind::Size, 0, output, 1), None)),
            "+OK 0 messages (0 octets)\r\n.\r\n"
        );
        assert_eq!(maildrop.index(1), Err("no such message"));
    }
}
