//! Sequence sets (RFC 3501 9 `sequence-set`): parsed, resolved against a mailbox, written.
//!
//! A set may contain `1:4294967295` or `*` many thousand times: [`SequenceSet::resolve`] clips it
//! to the mailbox, so that later work is bounded by the mailbox, not by the client.

use smallvec::SmallVec;

use super::write::push_number;

/// Ranges of one set after adjacent ones were merged; a set with more is refused. A line of 64 KiB
/// cannot contain more than twice as many.
pub(super) const SET_RANGES_MAX: usize = 16_384;

/// `*` inside a set: numbers start at 1, so 0 is free.
const STAR: u32 = 0;

/// Message numbers or UIDs as a client wrote them; `*` is not yet resolved. Without ranges it is
/// `$`, the saved result of a search (RFC 5182 2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequenceSet {
    ranges: SmallVec<[(u32, u32); 2]>,
}

/// The set is invalid, or has more than [`SET_RANGES_MAX`] ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetError {
    Syntax,
    TooMany,
}

impl SequenceSet {
    /// Parses all of `text`.
    pub fn parse(text: &[u8]) -> Result<SequenceSet, SetError> {
        let mut ranges: SmallVec<[(u32, u32); 2]> = SmallVec::new();
        let mut rest = text;
        loop {
            let first = take_number(&mut rest)?;
            let last = match rest.split_first() {
                Some((b':', after)) => {
                    rest = after;
                    take_number(&mut rest)?
                }
                _ => first,
            };
            push_joined(&mut ranges, first, last);
            if ranges.len() > SET_RANGES_MAX {
                return Err(SetError::TooMany);
            }
            match rest.split_first() {
                None => return Ok(SequenceSet { ranges }),
                Some((b',', after)) => rest = after,
                Some(_) => return Err(SetError::Syntax),
            }
        }
    }

    /// `$`: whoever resolves a set of a command asks for [`SequenceSet::is_saved_result`] first.
    pub(super) fn saved_result() -> SequenceSet {
        SequenceSet { ranges: SmallVec::new() }
    }

    /// It is `$`, whose messages only the session knows.
    pub fn is_saved_result(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The numbers that the set means in a mailbox whose highest number (or UID) is `max`; none if
    /// `max` is 0. `*` is `max`, also as the end of a range that starts above it: `999:*` always
    /// includes the last message (RFC 3501 9 `seq-range`).
    pub fn resolve(&self, max: u32) -> Ranges {
        let mut ranges: SmallVec<[(u32, u32); 2]> = self
            .ranges
            .iter()
            .map(|&(first, last)| {
                let star = |number| if number == STAR { max } else { number };
                let (first, last) = (star(first), star(last));
                (first.min(last).max(1), first.max(last).min(max))
            })
            .filter(|(first, last)| first <= last)
            .collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1.saturating_add(1);
            if joins {
                kept.1 = kept.1.max(next.1);
            }
            joins
        });
        Ranges { ranges }
    }

    /// Whether `*` is in it: the ABNF of some sets excludes it.
    pub fn has_star(&self) -> bool {
        self.ranges.iter().any(|&(first, last)| first == STAR || last == STAR)
    }

    /// How many numbers are in a set that ascends and has no `*`.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|&(first, last)| u64::from(last.abs_diff(first)) + 1).sum()
    }

    /// Whether the set has a number above `max`: for sequence numbers that is a client error (RFC
    /// 3501 9 `seq-number`), while UIDs that do not exist are ignored. `*` in an empty mailbox
    /// counts as above.
    pub fn exceeds(&self, max: u32) -> bool {
        let above = |number| if number == STAR { max == 0 } else { number > max };
        self.ranges.iter().any(|&(first, last)| above(first) || above(last))
    }
}

/// Ascending numbers without duplicates: ranges that neither overlap nor touch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ranges {
    ranges: SmallVec<[(u32, u32); 2]>,
}

impl Ranges {
    /// Of ranges (first, last) that ascend and do not overlap.
    pub fn of_ascending(ranges: impl IntoIterator<Item = (u32, u32)>) -> Ranges {
        Ranges { ranges: ranges.into_iter().collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// All numbers up to `max`.
    pub fn up_to(max: u32) -> Ranges {
        let ranges = if max == 0 { SmallVec::new() } else { SmallVec::from_slice(&[(1, max)]) };
        Ranges { ranges }
    }

    /// How many numbers are in it.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|&(first, last)| u64::from(last - first) + 1).sum()
    }

    /// (first, last) of each range, inclusive.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().copied()
    }

    /// Every number, ascending. For UIDs prefer [`Ranges::ranges`]: a long range may contain few
    /// existing ones.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    pub fn contains(&self, number: u32) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= number);
        after > 0 && number <= self.ranges[after - 1].1
    }
}

/// Appends `numbers` as the shortest set that keeps their order, e.g. `1:3,7`. Nothing if there are
/// none. Source and target of COPYUID stay aligned: only ascending runs are merged.
pub fn write_set(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    let mut numbers = numbers.into_iter();
    let Some(mut first) = numbers.next() else { return };
    let mut last = first;
    let mut close = |first, last| {
        push_number(out, u64::from(first));
        if first != last {
            out.push(b':');
            push_number(out, u64::from(last));
        }
        out.push(b',');
    };
    for number in numbers {
        if last.checked_add(1) != Some(number) {
            close(first, last);
            first = number;
        }
        last = number;
    }
    close(first, last);
    out.pop();
}

/// Adds a range, merged with the previous one if they overlap or touch: `1,1,1,…` stays one range.
fn push_joined(ranges: &mut SmallVec<[(u32, u32); 2]>, first: u32, last: u32) {
    if first == STAR || last == STAR {
        if ranges.last() != Some(&(first, last)) {
            ranges.push((first, last));
        }
        return;
    }
    let (first, last) = (first.min(last), first.max(last));
    if let Some(before) = ranges.last_mut()
        && before.0 != STAR
        && before.1 != STAR
        && first <= before.1.saturating_add(1)
        && before.0 <= last.saturating_add(1)
    {
        *before = (before.0.min(first), before.1.max(last));
        return;
    }
    ranges.push((first, last));
}

/// `*`, or a number from 1 to 4294967295 without leading zeros.
fn take_number(rest: &mut &[u8]) -> Result<u32, SetError> {
    if let Some((b'*', after)) = rest.split_first() {
        *rest = after;
        return Ok(STAR);
    }
    let mut number: u32 = 0;
    while let Some((&digit @ b'0'..=b'9', after)) = rest.split_first() {
        number = number
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u32::from(digit - b'0')))
            .ok_or(SetError::Syntax)?;
        if number == 0 {
            return Err(SetError::Syntax);
        }
        *rest = after;
    }
    if number == 0 { Err(SetError::Syntax) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn written(numbers: &[u32]) -> String {
        let mut out = Vec::new();
        write_set(&mut out, numbers.iter().copied());
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn resolving() {
        type Case = (&'static str, u32, &'static [(u32, u32)]);
        const CASES: &[Case] = &[
            ("1", 3, &[(1, 1)]),
            ("4", 3, &[]),
            ("*", 3, &[(3, 3)]),
            ("*", 0, &[]),
            ("1:*", 0, &[]),
            ("1:4294967295", 3, &[(1, 3)]),
            // RFC 3501 9 `seq-range`: the order does not matter, and `*` is always there.
            ("4:2", 9, &[(2, 4)]),
            ("*:2", 9, &[(2, 9)]),
            ("999:*", 9, &[(9, 9)]),
            ("5,1:2,3,1", 9, &[(1, 3), (5, 5)]),
            ("1,4294967295", u32::MAX, &[(1, 1), (u32::MAX, u32::MAX)]),
            ("*,*,*:*", 7, &[(7, 7)]),
        ];
        for &(text, max, expected) in CASES {
            let set = SequenceSet::parse(text.as_bytes()).expect(text);
            let got: Vec<(u32, u32)> = set.resolve(max).ranges().collect();
            assert_eq!(got, expected, "{text} of {max}");
        }
    }

    #[test]
    fn beyond_the_mailbox() {
        const CASES: &[(&str, u32, bool)] = &[
            ("3", 3, false),
            ("4", 3, true),
            ("1:4", 3, true),
            ("1:*", 3, false),
            ("4:*", 3, true),
            ("*", 0, true),
        ];
        for &(text, max, expected) in CASES {
            let set = SequenceSet::parse(text.as_bytes()).expect(text);
            assert_eq!(set.exceeds(max), expected, "{text} of {max}");
        }
    }

    #[test]
    fn long_sets() {
        let same = "1,".repeat(100_000) + "1";
        assert_eq!(SequenceSet::parse(same.as_bytes()), SequenceSet::parse(b"1"));
        let stars = "*,".repeat(100_000) + "*";
        assert_eq!(SequenceSet::parse(stars.as_bytes()).map(|set| set.ranges.len()), Ok(1));
        let apart = "1,3,".repeat(SET_RANGES_MAX) + "1";
        assert_eq!(SequenceSet::parse(apart.as_bytes()), Err(SetError::TooMany));
    }

    #[test]
    fn writing() {
        const CASES: &[(&[u32], &str)] = &[
            (&[], ""),
            (&[7], "7"),
            (&[1, 2, 3, 7], "1:3,7"),
            (&[4, 304, 319, 320], "4,304,319:320"),
            (&[3, 2, 1], "3,2,1"),
            (&[u32::MAX - 1, u32::MAX, 1], "4294967294:4294967295,1"),
        ];
        for &(numbers, expected) in CASES {
            assert_eq!(written(numbers), expected);
        }
    }

    proptest! {
        #[test]
        fn as_a_set_of_numbers(
            parts in proptest::collection::vec((0_u32..30, 0_u32..30), 1..8),
            max in 0_u32..25,
        ) {
            let show = |number: u32| if number == 0 { "*".to_owned() } else { number.to_string() };
            let text: Vec<String> =
                parts.iter().map(|&(a, b)| format!("{}:{}", show(a), show(b))).collect();
            let star = |number| if number == 0 { max } else { number };
            let expected: BTreeSet<u32> = parts
                .iter()
                .flat_map(|&(a, b)| star(a).min(star(b))..=star(a).max(star(b)))
                .filter(|number| (1..=max).contains(number))
                .collect();
            let ranges = SequenceSet::parse(text.join(",").as_bytes()).expect("valid").resolve(max);
            let numbers: BTreeSet<u32> = ranges.numbers().collect();
            prop_assert_eq!(ranges.count(), expected.len() as u64);
            for number in 0..40 {
                prop_assert_eq!(ranges.contains(number), expected.contains(&number));
            }
            prop_assert_eq!(&numbers, &expected);
            if !expected.is_empty() {
                // Writing and reading again changes nothing.
                let list: Vec<u32> = expected.into_iter().collect();
                let again = SequenceSet::parse(written(&list).as_bytes()).expect("valid");
                prop_assert_eq!(again.resolve(max), ranges);
            }
        }
    }
}
