//! The messages of a mailbox that one user has seen, where `\Seen` is each user's own.
//!
//! The store keeps the encoded [`SeenSet`] in the user's account. Invariant: ranges ascend, and at
//! least one UID that is not in the set is between two of them.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::{Uid, UidValidity};

/// Octets of an encoded set. A set of more is made coarser: the messages between the oldest ranges
/// count as seen too. (To forget the ranges would make old messages new again.)
pub const SEEN_OCTETS_MAX: usize = 16 * 1024;

/// From the first UID to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    first: u32,
    last: u32,
}

/// UIDs of a mailbox.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SeenSet(Vec<Span>);

/// The octets are no set of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed set of UIDs")]
pub struct MalformedSeenSet;

/// First octet of an encoded set.
const VERSION: u8 = 1;

impl SeenSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, uid: Uid) -> bool {
        let after = self.0.partition_point(|span| span.last < uid.0);
        self.0.get(after).is_some_and(|span| span.first <= uid.0)
    }

    /// First and last UID of each range, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (Uid, Uid)> {
        self.0.iter().map(|span| (Uid(span.first), Uid(span.last)))
    }

    /// Adds `uids`, which ascend.
    pub fn add(&mut self, uids: &[Uid]) {
        let mut added = spans(uids).into_iter().peekable();
        let mut old = std::mem::take(&mut self.0).into_iter().peekable();
        loop {
            let next = match (old.peek(), added.peek()) {
                (Some(left), Some(right)) if left.first <= right.first => old.next(),
                (_, Some(_)) => added.next(),
                _ => old.next(),
            };
            let Some(span) = next else { break };
            push(&mut self.0, span);
        }
    }

    /// Removes `uids`, which ascend.
    pub fn remove(&mut self, uids: &[Uid]) {
        self.0 = without(&self.0, &spans(uids));
    }

    /// The UIDs that are in one of both sets, as ranges.
    pub fn difference(&self, other: &SeenSet) -> impl Iterator<Item = (Uid, Uid)> {
        let mut spans = without(&self.0, &other.0);
        spans.extend(without(&other.0, &self.0));
        spans.sort_unstable_by_key(|span| span.first);
        spans.into_iter().map(|span| (Uid(span.first), Uid(span.last)))
    }

    /// Leaves out UIDs that no message has any more, or fills them in: whichever is shorter. Those
    /// from `next` on are not given out yet. `has_messages` says whether there is a message from
    /// one UID to another.
    pub fn tidy(&mut self, next: Uid, has_messages: impl Fn(Uid, Uid) -> bool) {
        let is_void = |first: u32, last: u32| last < next.0 && !has_messages(Uid(first), Uid(last));
        let mut tidy: Vec<Span> = Vec::with_capacity(self.0.len());
        for span in &self.0 {
            if is_void(span.first, span.last) {
                continue;
            }
            match tidy.last_mut() {
                Some(before) if is_void(before.last + 1, span.first - 1) => before.last = span.last,
                _ => tidy.push(*span),
            }
        }
        self.0 = tidy;
    }

    /// For the store, at most [`SEEN_OCTETS_MAX`]; `docs/disk_format.md`, "What a user has seen",
    /// has the layout.
    pub fn encode(&self, uid_validity: UidValidity) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&uid_validity.0.to_le_bytes());
        let mut end = 0;
        for span in &self.within(SEEN_OCTETS_MAX - out.len()) {
            put(&mut out, span.first - end);
            put(&mut out, span.last - span.first + 1);
            end = span.last.saturating_add(1);
        }
        out
    }

    /// The ranges, of which as many of the first ones are put together as are too many.
    fn within(&self, octets_max: usize) -> Vec<Span> {
        let size =
            |end: u32, span: &Span| octets(span.first - end) + octets(span.last - span.first + 1);
        let mut total = 0;
        let mut end = 0;
        for span in &self.0 {
            total += size(end, span);
            end = span.last.saturating_add(1);
        }
        let mut rest = self.0.iter();
        let Some(&oldest) = rest.next() else { return Vec::new() };
        let mut first = oldest;
        while total > octets_max
            && let Some(next) = rest.next()
        {
            total -= size(0, &first) + size(first.last.saturating_add(1), next);
            first.last = next.last;
            total += size(0, &first);
        }
        std::iter::once(first).chain(rest.copied()).collect()
    }

    /// # Errors
    /// For octets of a later version, and what is no set.
    pub fn decode(octets: &[u8]) -> Result<(UidValidity, SeenSet), MalformedSeenSet> {
        let Some(([VERSION, validity @ ..], mut rest)) = octets.split_first_chunk::<5>() else {
            return Err(MalformedSeenSet);
        };
        let mut spans = Vec::new();
        // Of the UID after the last range.
        let mut end: u64 = 0;
        while !rest.is_empty() {
            let gap = take(&mut rest)?;
            let count = take(&mut rest)?;
            let first = end + u64::from(gap);
            end = first + u64::from(count);
            let (Ok(first), Ok(last)) =
                (u32::try_from(first), u32::try_from(end.saturating_sub(1)))
            else {
                return Err(MalformedSeenSet);
            };
            if gap == 0 || count == 0 {
                return Err(MalformedSeenSet);
            }
            spans.push(Span { first, last });
        }
        Ok((UidValidity(u32::from_le_bytes(*validity)), SeenSet(spans)))
    }
}

/// Appends a range whose first UID is not below that of the last one.
fn push(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if span.first <= last.last.saturating_add(1) => {
            last.last = last.last.max(span.last);
        }
        _ => spans.push(span),
    }
}

fn spans(uids: &[Uid]) -> Vec<Span> {
    let mut spans = Vec::new();
    uids.iter().for_each(|uid| push(&mut spans, Span { first: uid.0, last: uid.0 }));
    spans
}

/// What is in `all` and not in `removed`.
fn without(all: &[Span], removed: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut removed = removed.iter().peekable();
    for span in all {
        let Span { mut first, last } = *span;
        let mut is_over = false;
        while let Some(&&gone) = removed.peek() {
            if gone.first > last {
                break;
            }
            if gone.last >= first {
                if gone.first > first {
                    left.push(Span { first, last: gone.first - 1 });
                }
                if gone.last >= last {
                    is_over = true;
                    break;
                }
                first = gone.last + 1;
            }
            removed.next();
        }
        if !is_over {
            left.push(Span { first, last });
        }
    }
    left
}

/// Appends a LEB128 number.
fn put(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Octets of a LEB128 number.
fn octets(value: u32) -> usize {
    (32 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn take(rest: &mut &[u8]) -> Result<u32, MalformedSeenSet> {
    let mut value: u64 = 0;
    for shift in [0, 7, 14, 21, 28] {
        let (octet, after) = rest.split_first().ok_or(MalformedSeenSet)?;
        *rest = after;
        value |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| MalformedSeenSet);
        }
    }
    Err(MalformedSeenSet)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const VALIDITY: UidValidity = UidValidity(0x0403_0201);

    fn of(uids: impl IntoIterator<Item = u32>) -> SeenSet {
        let uids: Vec<Uid> = uids.into_iter().map(Uid).collect();
        let mut set = SeenSet::default();
        set.add(&uids);
        set
    }

    #[test]
    fn octets_on_disk() {
        let set = of((1..=3).chain([5, 200]).chain(400..=700));
        let expected: &[u8] = &[
            1, 1, 2, 3, 4, // version, UIDVALIDITY
            1, 3, // 1:3
            1, 1, // 5
            0xc2, 1, 1, // 200
            0xc7, 1, 0xad, 2, // 400:700
        ];
        assert_eq!(set.encode(VALIDITY), expected);
        assert_eq!(SeenSet::decode(expected), Ok((VALIDITY, set)));
        let all = SeenSet(vec![Span { first: 1, last: u32::MAX }]);
        assert_eq!(SeenSet::decode(&all.encode(VALIDITY)), Ok((VALIDITY, all)));
        const MALFORMED: &[&[u8]] = &[
            b"",
            &[1, 1, 2, 3],
            &[2, 1, 2, 3, 4],
            &[1, 1, 2, 3, 4, 1],
            &[1, 1, 2, 3, 4, 0, 1],
            &[1, 1, 2, 3, 4, 1, 0],
            &[1, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0x0f, 2],
            &[1, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0x1f, 1],
            &[1, 1, 2, 3, 4, 1, 1, 0x80],
        ];
        for octets in MALFORMED {
            assert_eq!(SeenSet::decode(octets), Err(MalformedSeenSet), "{octets:?}");
        }
    }

    /// Of many ranges the oldest are put together: nothing that was seen becomes unseen, and the
    /// latest messages stay as they are.
    #[test]
    fn a_large_set_becomes_coarser() {
        let set = of((1..=100_000).step_by(2));
        let octets = set.encode(VALIDITY);
        assert!((SEEN_OCTETS_MAX - 8..=SEEN_OCTETS_MAX).contains(&octets.len()));
        let (_, coarse) = SeenSet::decode(&octets).unwrap();
        assert!((1..=100_000).step_by(2).all(|uid| coarse.contains(Uid(uid))));
        let seen_too = (2..=100_000).step_by(2).filter(|uid| coarse.contains(Uid(*uid)));
        let latest = seen_too.max().unwrap();
        assert!((70_000..95_000).contains(&latest), "{latest}");
        assert!((2..=latest).step_by(2).all(|uid| coarse.contains(Uid(uid))));
        assert!(!coarse.contains(Uid(latest + 2)));
        assert_eq!(coarse.encode(VALIDITY), octets);
    }

    #[test]
    fn what_is_expunged_is_left_out() {
        // (seen, existing, next UID, what is left)
        type Case = (&'static [u32], &'static [u32], u32, &'static [(u32, u32)]);
        const CASES: &[Case] = &[
            (&[1, 3, 5], &[1, 2, 3, 4, 5], 6, &[(1, 1), (3, 3), (5, 5)]),
            (&[1, 3, 5], &[1, 3, 4, 5], 6, &[(1, 3), (5, 5)]),
            (&[1, 3, 5], &[4, 5], 6, &[(5, 5)]),
            (&[1, 3, 5], &[], 6, &[]),
            // Another session knows newer messages.
            (&[1, 3, 5], &[], 5, &[(5, 5)]),
            (&[1, 3, 5], &[], 4, &[(5, 5)]),
            (&[4, 5, 6], &[], 6, &[(4, 6)]),
        ];
        for (seen, existing, next, left) in CASES {
            let mut set = of(seen.iter().copied());
            set.tidy(Uid(*next), |first, last| {
                existing.iter().any(|uid| (first.0..=last.0).contains(uid))
            });
            let ranges: Vec<(u32, u32)> =
                set.ranges().map(|(first, last)| (first.0, last.0)).collect();
            assert_eq!(ranges, *left, "{seen:?} of {existing:?}");
        }
    }

    fn uids() -> impl Strategy<Value = BTreeSet<u32>> {
        vec(prop_oneof![1u32..40, Just(u32::MAX), 4_294_967_290u32..], 0..30)
            .prop_map(|uids| uids.into_iter().collect())
    }

    fn listed(uids: &BTreeSet<u32>) -> Vec<Uid> {
        uids.iter().copied().map(Uid).collect()
    }

    proptest! {
        #[test]
        fn sets_are_the_models(changes in vec((any::<bool>(), uids()), 0..8), other in uids()) {
            let (mut set, mut model) = (SeenSet::default(), BTreeSet::new());
            for (add, uids) in changes {
                match add {
                    true => {
                        set.add(&listed(&uids));
                        model.extend(uids);
                    }
                    false => {
                        set.remove(&listed(&uids));
                        model.retain(|uid| !uids.contains(uid));
                    }
                }
                prop_assert_eq!(&set, &of(model.iter().copied()));
                let (validity, decoded) = SeenSet::decode(&set.encode(VALIDITY)).unwrap();
                prop_assert_eq!((validity, &decoded), (VALIDITY, &set));
                for uid in (0..42).chain(4_294_967_288..=u32::MAX) {
                    prop_assert_eq!(set.contains(Uid(uid)), model.contains(&uid));
                }
            }
            let difference: BTreeSet<u32> = set
                .difference(&of(other.iter().copied()))
                .flat_map(|(first, last)| first.0..=last.0)
                .collect();
            prop_assert_eq!(difference, &model ^ &other);
        }

        #[test]
        fn any_octets_are_survived(octets in vec(any::<u8>(), 0..40)) {
            if let Ok((validity, set)) = SeenSet::decode(&octets) {
                let again = SeenSet::decode(&set.encode(validity));
                prop_assert_eq!(again, Ok((validity, set)));
            }
        }
    }
}
