//! Message flags (RFC 3501 2.3.2): system flags as bits, keywords as bits of a per-mailbox table.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// How many keywords a mailbox can hold; further ones are refused with `NO [LIMIT]`.
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

/// What a change does with the flags it names (RFC 3501 6.4.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagAction {
    Replace,
    Add,
    Remove,
}

/// Which flags may be changed, by the rights of who changes them (RFC 4314 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagMask {
    pub system: Flags,
    /// All keywords, or none.
    pub keywords: bool,
}

impl FlagMask {
    pub const ALL: FlagMask = FlagMask { system: Flags(0x1f), keywords: true };
    pub const NONE: FlagMask = FlagMask { system: Flags(0), keywords: false };

    pub fn is_empty(self) -> bool {
        self.system.is_empty() && !self.keywords
    }

    /// What both allow.
    pub fn and(self, other: FlagMask) -> FlagMask {
        let keywords = self.keywords && other.keywords;
        FlagMask { system: self.system & other.system, keywords }
    }

    /// Leaves `system` as they are, too.
    pub fn without(self, system: Flags) -> FlagMask {
        FlagMask { system: self.system & !system, ..self }
    }

    /// Those of `flags` that may be changed.
    pub fn of(self, flags: FlagSet) -> FlagSet {
        let keywords = if self.keywords { flags.keywords } else { KeywordSet::default() };
        FlagSet { system: flags.system & self.system, keywords }
    }
}

/// A change of one message's flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagEdit {
    pub action: FlagAction,
    pub flags: FlagSet,
    /// Other flags stay as they are.
    pub within: FlagMask,
}

impl FlagEdit {
    /// The flags that a message with `before` has after it.
    pub fn apply(self, before: FlagSet) -> FlagSet {
        let after = self.within.of(self.apply_all(before));
        let kept = self.within.of(before);
        FlagSet {
            system: before.system & !kept.system | after.system,
            keywords: before.keywords.without(kept.keywords).union(after.keywords),
        }
    }

    fn apply_all(self, before: FlagSet) -> FlagSet {
        let FlagSet { system, keywords } = self.flags;
        match self.action {
            FlagAction::Replace => self.flags,
            FlagAction::Add => FlagSet {
                system: before.system | system,
                keywords: before.keywords.union(keywords),
            },
            FlagAction::Remove => FlagSet {
                system: before.system & !system,
                keywords: before.keywords.without(keywords),
            },
        }
    }
}

/// All permanent flags of one message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct FlagSet {
    pub system: Flags,
    pub keywords: KeywordSet,
}

impl FlagSet {
    /// `keywords` as bits of a mailbox's `table`; those that are not in it are left out.
    pub fn named(system: Flags, keywords: &[String], table: &[String]) -> FlagSet {
        let mut bits = KeywordSet::default();
        for keyword in keywords {
            if let Some(index) = table.iter().position(|name| name.eq_ignore_ascii_case(keyword)) {
                bits.insert(index);
            }
        }
        FlagSet { system, keywords: bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(system: Flags, keywords: &[usize]) -> FlagSet {
        let mut bits = KeywordSet::default();
        keywords.iter().for_each(|&keyword| bits.insert(keyword));
        FlagSet { system, keywords: bits }
    }

    #[test]
    fn edits() {
        let before = flags(Flags::SEEN | Flags::DRAFT, &[1, 70]);
        let named = flags(Flags::SEEN | Flags::FLAGGED, &[70, 2]);
        let all = flags(Flags::SEEN | Flags::DRAFT | Flags::FLAGGED, &[1, 2, 70]);
        let edit = |action, within| FlagEdit { action, flags: named, within }.apply(before);
        let applied = |action| edit(action, FlagMask::ALL);
        assert_eq!(applied(FlagAction::Add), all);
        assert_eq!(applied(FlagAction::Remove), flags(Flags::DRAFT, &[1]));
        assert_eq!(applied(FlagAction::Replace), named);
        // Within a mask, the other flags stay.
        let seen = FlagMask { system: Flags::SEEN, keywords: false };
        let without = flags(Flags::DRAFT, &[1, 70]);
        assert_eq!(edit(FlagAction::Add, seen), before);
        assert_eq!(edit(FlagAction::Remove, seen), without);
        assert_eq!(edit(FlagAction::Replace, seen), before);
        let keywords = FlagMask { system: Flags::default(), keywords: true };
        let before_system = Flags::SEEN | Flags::DRAFT;
        assert_eq!(edit(FlagAction::Add, keywords), flags(before_system, &[1, 2, 70]));
        assert_eq!(edit(FlagAction::Remove, keywords), flags(before_system, &[1]));
        assert_eq!(edit(FlagAction::Replace, keywords), flags(before_system, &[2, 70]));
        assert_eq!(edit(FlagAction::Replace, FlagMask::NONE), before);
    }

    #[test]
    fn keywords_are_found_without_case() {
        let table = ["$Junk".to_owned(), "Work".to_owned()];
        let named = ["WORK".to_owned(), "unknown".to_owned()];
        assert_eq!(FlagSet::named(Flags::SEEN, &named, &table), flags(Flags::SEEN, &[1]));
    }
}
