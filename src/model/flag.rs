//! Message flags (RFC 3501 2.3.2): system flags as bits, keywords as bits of a per-mailbox table.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// How many keywords a mailbox can hold; one more is refused with `NO [LIMIT]`.
pub const KEYWORDS_PER_MAILBOX_MAX: usize = 128;

/// The five permanent system flags. `\Recent` is not one: it belongs to a session.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct Flags(pub u8);

impl Flags {
    pub const SEEN: Flags = Flags(1);
    pub const ANSWERED: Flags = Flags(2);
    pub const FLAGGED: Flags = Flags(4);
    pub const DELETED: Flags = Flags(8);
    pub const DRAFT: Flags = Flags(16);

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

impl BitAnd for Flags {
    type Output = Flags;
    fn bitand(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }
}

impl Not for Flags {
    type Output = Flags;
    fn not(self) -> Flags {
        Flags(!self.0 & 0x1f)
    }
}

/// Keywords of one message: bit n stands for entry n of the mailbox's keyword table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct KeywordSet(pub [u64; 2]);

impl KeywordSet {
    pub fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub fn contains(self, index: usize) -> bool {
        index < KEYWORDS_PER_MAILBOX_MAX && self.0[index / 64] >> (index % 64) & 1 == 1
    }

    pub fn is_empty(self) -> bool {
        self.0 == [0, 0]
    }

    pub fn union(self, other: KeywordSet) -> KeywordSet {
        KeywordSet([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    pub fn without(self, other: KeywordSet) -> KeywordSet {
        KeywordSet([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }

    /// Indexes of the keywords set, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..KEYWORDS_PER_MAILBOX_MAX).filter(move |&index| self.contains(index))
    }
}

/// All permanent flags of one message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct FlagSet {
    pub system: Flags,
    pub keywords: KeywordSet,
}
