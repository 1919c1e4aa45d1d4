//! What SEARCH and SORT return (RFC 4731 3.1, RFC 5182, RFC 5267 3 and 4, RFC 9394 3.1).

use std::ops::Range;

use super::{
    super::cursor::{Cursor, Parsed},
    fetch::fetch_items,
};

/// The options of `RETURN (…)`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    /// Keep the result for `$` (RFC 5182 2.1).
    pub save: bool,
    /// Never together with ALL (RFC 9394 3.1).
    pub partial: Option<PartialRange>,
    /// Tell what changes of the result (RFC 5267 4.3).
    pub update: bool,
}

impl SearchReturn {
    /// SAVE alone: nothing is answered (RFC 5182 2.1). Any other option asks for an ESEARCH
    /// response, though UPDATE has nothing to say in it yet (RFC 4466 2.6.2, RFC 5267 4.3).
    pub fn is_silent(self) -> bool {
        SearchReturn { save: false, ..self } == SearchReturn::default()
    }

    /// `RETURN (…)`, if it is next; an empty list means ALL. `fetch` is what UPDATE wants of new
    /// messages (RFC 5465 7), with its parentheses.
    pub(super) fn read<'a>(
        cursor: &mut Cursor<'a>,
        fetch: &mut Option<&'a [u8]>,
    ) -> Parsed<Option<SearchReturn>> {
        if !cursor.eat_all(b"RETURN ") {
            return Ok(None);
        }
        cursor.spaces();
        let mut returns = SearchReturn::default();
        cursor.list(true, "return options are missing", |cursor| {
            let is_update = returns.read_option(cursor)?;
            if is_update && cursor.rest().trim_ascii_start().starts_with(b"(") {
                cursor.spaces();
                let begin = cursor.rest();
                fetch_items(cursor)?;
                *fetch = begin.get(..begin.len() - cursor.rest().len());
            }
            Ok(())
        })?;
        cursor.space()?;
        if returns == SearchReturn::default() {
            returns.all = true;
        }
        Ok(Some(returns))
    }

    /// A repeated option counts once, but for those of which RFC 9394 3.1 allows one. Returns
    /// whether it was UPDATE.
    fn read_option(&mut self, cursor: &mut Cursor<'_>) -> Parsed<bool> {
        let word = cursor.word()?;
        if matches!(word.as_bytes(), b"ALL" | b"PARTIAL") && (self.all || self.partial.is_some()) {
            return Err("more than one of the return options ALL and PARTIAL");
        }
        let option = match word.as_bytes() {
            b"PARTIAL" => {
                cursor.space()?;
                self.partial = Some(PartialRange::read(cursor)?);
                return Ok(false);
            }
            b"MIN" => &mut self.min,
            b"MAX" => &mut self.max,
            b"ALL" => &mut self.all,
            b"COUNT" => &mut self.count,
            b"SAVE" => &mut self.save,
            b"UPDATE" => &mut self.update,
            // RFC 5267 4.2: a hint that may be ignored.
            b"CONTEXT" => return Ok(false),
            _ => return Err("unknown return option"),
        };
        *option = true;
        Ok(word.as_bytes() == b"UPDATE")
    }
}

/// `partial-range` (RFC 9394 4): which of the results, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialRange {
    /// The lower number first, whichever was (RFC 9394 4: 500:400 is the same as 400:500).
    pub ends: (u32, u32),
    /// Counted from the last one: `-1:-100`.
    pub from_last: bool,
}

impl PartialRange {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Parsed<PartialRange> {
        const WRONG: &str = "not a range such as 1:100 or -1:-100";
        let from_last = cursor.peek() == Some(b'-');
        let first = read_end(cursor, from_last).ok_or(WRONG)?;
        cursor.expect(b':', WRONG)?;
        let last = read_end(cursor, from_last).ok_or(WRONG)?;
        Ok(PartialRange { ends: (first.min(last), first.max(last)), from_last })
    }

    /// The part of `count` results that it means, by index; empty if there are none.
    pub fn of(self, count: usize) -> Range<usize> {
        let (low, high) = (self.ends.0 as usize - 1, self.ends.1 as usize);
        match self.from_last {
            false => low.min(count)..high.min(count),
            true => count.saturating_sub(high)..count.saturating_sub(low),
        }
    }
}

/// `nz-number`, behind a minus if it is counted from the last.
fn read_end(cursor: &mut Cursor<'_>, from_last: bool) -> Option<u32> {
    if from_last && !cursor.eat(b'-') {
        return None;
    }
    u32::try_from(cursor.number().ok()?).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9394 3.1, 4.
    #[test]
    fn partial_ranges() {
        let read = |text: &str| {
            let mut cursor = Cursor::new(text.as_bytes());
            let range = PartialRange::read(&mut cursor).ok()?;
            cursor.rest().is_empty().then_some(range)
        };
        const CASES: &[(&str, usize, Range<usize>)] = &[
            ("1:500", 1_000, 0..500),
            ("501:1000", 1_000, 500..1_000),
            ("500:400", 1_000, 399..500),
            ("900:1100", 1_000, 899..1_000),
            ("1001:1100", 1_000, 1_000..1_000),
            ("-1:-100", 1_000, 900..1_000),
            ("-500:-400", 1_000, 500..601),
            ("-900:-1100", 1_000, 0..101),
            ("-1001:-1100", 1_000, 0..0),
            ("1:4294967295", 3, 0..3),
            ("-1:-4294967295", 0, 0..0),
        ];
        for (text, count, expected) in CASES {
            assert_eq!(read(text).map(|range| range.of(*count)), Some(expected.clone()), "{text}");
        }
        for text in ["", "1", "1:", "0:1", "1:0", "1:*", "-1:1", "1:-1", "*:1", "1:4294967296"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn one_of_all_and_partial() {
        let read = |text: &str| SearchReturn::read(&mut Cursor::new(text.as_bytes()), &mut None);
        for text in ["ALL ALL", "PARTIAL 1:2 ALL", "ALL PARTIAL 1:2", "PARTIAL 1:2 PARTIAL 3:4"] {
            assert!(read(&format!("RETURN ({text}) ")).is_err(), "{text}");
        }
        let many = format!("RETURN ({}) ", "MIN COUNT ".repeat(5_000));
        let counted = SearchReturn { min: true, count: true, ..SearchReturn::default() };
        assert_eq!(read(&many), Ok(Some(counted)));
    }

    /// RFC 5267 4.2, 4.3, 5.
    #[test]
    fn contexts() {
        let read = |text: &str| {
            let mut cursor = Cursor::new(text.as_bytes());
            SearchReturn::read(&mut cursor, &mut None).expect(text).expect(text)
        };
        let none = SearchReturn::default();
        let cases = [
            ("CONTEXT COUNT", SearchReturn { count: true, ..none }, false),
            ("update count", SearchReturn { update: true, count: true, ..none }, false),
            ("UPDATE", SearchReturn { update: true, ..none }, false),
            ("SAVE UPDATE CONTEXT", SearchReturn { update: true, save: true, ..none }, false),
            ("SAVE CONTEXT", SearchReturn { save: true, ..none }, true),
            // Without the hint the list would be empty.
            ("CONTEXT", SearchReturn { all: true, ..none }, false),
        ];
        for (text, expected, is_silent) in cases {
            let returns = read(&format!("RETURN ({text}) "));
            assert_eq!((returns, returns.is_silent()), (expected, is_silent), "{text}");
        }
    }

    /// RFC 5465 7: with a space, as its example has it, or without, as its grammar.
    #[test]
    fn what_update_fetches() {
        let read = |text: &'static str| {
            let (mut cursor, mut fetch) = (Cursor::new(text.as_bytes()), None);
            let returns = SearchReturn::read(&mut cursor, &mut fetch)?;
            Ok::<_, &'static str>((returns, fetch))
        };
        let counted = SearchReturn { count: true, update: true, ..SearchReturn::default() };
        let items = "(UID BODY[HEADER.FIELDS (TO FROM SUBJECT)])";
        for text in [
            "RETURN (COUNT UPDATE (UID BODY[HEADER.FIELDS (TO FROM SUBJECT)])) FROM x",
            "RETURN (UPDATE(UID BODY[HEADER.FIELDS (TO FROM SUBJECT)]) COUNT) FROM x",
        ] {
            assert_eq!(read(text), Ok((Some(counted), Some(items.as_bytes()))), "{text}");
        }
        assert_eq!(read("RETURN (COUNT UPDATE) ALL"), Ok((Some(counted), None)));
        for text in
            ["RETURN (UPDATE ()) ALL", "RETURN (UPDATE (X)) ALL", "RETURN (COUNT (UID)) ALL"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
