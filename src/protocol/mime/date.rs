//! Dates of message headers (RFC 5322 3.3 and 4.3).
//!
//! Called by SMTP for its Received field, by FETCH for INTERNALDATE, by SEARCH for the SENT* keys,
//! by SORT and THREAD.
//! No time zone data: a zone is an offset.

use crate::model::{Timestamp, civil_from_days, days_from_civil, month_days};

const DAY_SECONDS: i64 = 86_400;

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
pub(crate) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A date with time and zone as written in a Date field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    /// 60 in a leap second.
    pub second: u8,
    /// Minutes east of UTC.
    pub zone_minutes: i16,
}

impl DateTime {
    /// The same instant in another zone.
    pub fn from_timestamp(timestamp: Timestamp, zone_minutes: i16) -> DateTime {
        let seconds = timestamp.unix_seconds() + i64::from(zone_minutes) * 60;
        let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
        let second = seconds.rem_euclid(DAY_SECONDS);
        DateTime {
            year,
            month,
            day,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
            zone_minutes,
        }
    }

    pub fn timestamp(self) -> Timestamp {
        let minutes = i64::from(self.hour) * 60 + i64::from(self.minute);
        let second = (minutes - i64::from(self.zone_minutes)) * 60 + i64::from(self.second);
        Timestamp::from_unix_seconds(self.days() * DAY_SECONDS + second)
    }

    /// Days since 1970-01-01 of the date as written, ignoring time and zone: SENTBEFORE, SENTON and
    /// SENTSINCE compare this (RFC 3501 6.4.4).
    pub fn days(self) -> i64 {
        days_from_civil(self.year, self.month, self.day)
    }

    /// Appends e.g. `Mon, 23 Nov 2026 21:30:00 +0000` (RFC 5322 3.3).
    pub fn write_rfc5322(self, out: &mut Vec<u8>) {
        let weekday = (self.days() + 4).rem_euclid(7) as usize; // 1970-01-01 was a Thursday
        out.extend_from_slice(WEEKDAYS[weekday].as_bytes());
        out.extend_from_slice(b", ");
        write_two(self.day, out);
        self.write_rest(b' ', out);
    }

    /// Appends e.g. `23-Nov-2026 21:30:00 +0000`: IMAP's date-time without its quotes (RFC 3501 9).
    pub fn write_imap(self, out: &mut Vec<u8>) {
        write_two(self.day, out);
        self.write_rest(b'-', out);
    }

    fn write_rest(self, separator: u8, out: &mut Vec<u8>) {
        let month = MONTHS.get(usize::from(self.month.wrapping_sub(1))).unwrap_or(&MONTHS[0]);
        out.push(separator);
        out.extend_from_slice(month.as_bytes());
        out.push(separator);
        let year = self.year.clamp(0, 9999);
        write_two((year / 100) as u8, out);
        write_two((year % 100) as u8, out);
        for (before, number) in [(b' ', self.hour), (b':', self.minute), (b':', self.second)] {
            out.push(before);
            write_two(number, out);
        }
        out.extend_from_slice(if self.zone_minutes < 0 { b" -" } else { b" +" });
        let zone = self.zone_minutes.unsigned_abs();
        write_two((zone / 60) as u8, out);
        write_two((zone % 60) as u8, out);
    }
}

fn write_two(number: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + number / 10 % 10, b'0' + number % 10]);
}

/// Appends e.g. `Mon, 23 Nov 2026 21:30:00 +0000` (RFC 5322 3.3, UTC).
pub fn write_rfc5322(timestamp: Timestamp, out: &mut Vec<u8>) {
    DateTime::from_timestamp(timestamp, 0).write_rfc5322(out);
}

/// Parses a Date value: RFC 5322 with the obsolete forms (two-digit years, zone names, comments)
/// and common deviations: `Nov 23` for `23 Nov`, dashes, a missing time or zone, which count as
/// zero.
pub fn parse(value: &[u8]) -> Option<DateTime> {
    let mut words = Words { rest: value };
    let mut word = words.next()?;
    if is_weekday(word) {
        word = words.next()?;
    }
    let (day, month) = match month(word) {
        Some(month) => (number(words.next()?)?, month),
        None => (number(word)?, month(words.next()?)?),
    };
    let mut date = DateTime {
        year: 0,
        month,
        day: u8::try_from(day).ok()?,
        hour: 0,
        minute: 0,
        second: 0,
        zone_minutes: 0,
    };
    let mut year = words.next()?;
    if year.contains(&b':') {
        // asctime: `Mon Nov 23 21:30:00 2026`
        set_time(&mut date, year);
        year = words.next()?;
        // `Mon Nov 23 21:30:00 UTC 2026`, as printed by date(1).
        if number(year).is_none() {
            date.zone_minutes = zone(year);
            year = words.next()?;
        }
        date.year = full_year(year)?;
    } else {
        date.year = full_year(year)?;
        if let Some(time) = words.next() {
            set_time(&mut date, time);
        }
        if let Some(name) = words.next() {
            date.zone_minutes = zone(name);
        }
    }
    (date.day >= 1 && date.day <= month_days(date.year, month)).then_some(date)
}

/// RFC 5322 4.3: two digits below 50 are in this century; other two-digit and three-digit years
/// count from 1900.
fn full_year(word: &[u8]) -> Option<i32> {
    let year = i32::try_from(number(word)?).ok()?;
    match (word.len(), year) {
        (1 | 2, ..50) => Some(year + 2000),
        (..=3, _) => Some(year + 1900),
        (4, _) => Some(year),
        _ => None,
    }
}

/// An invalid time is midnight (RFC 5256 2.2).
fn set_time(date: &mut DateTime, word: &[u8]) {
    (date.hour, date.minute, date.second) = time(word).unwrap_or_default();
}

/// `hour ":" minute [":" second]`; a fraction of a second is dropped.
fn time(word: &[u8]) -> Option<(u8, u8, u8)> {
    let mut numbers = word.split(|&byte| byte == b':' || byte == b'.');
    let mut next = |limit| match numbers.next() {
        Some(digits) => number(digits).filter(|&number| number <= limit),
        None => Some(0),
    };
    Some((next(23)? as u8, next(59)? as u8, next(60)? as u8))
}

/// Minutes east of UTC. Unknown names count as UTC, and so do the military letters (RFC 5322 4.3).
fn zone(word: &[u8]) -> i16 {
    if let [sign @ (b'+' | b'-'), digits @ ..] = word {
        let digits: Vec<u8> = digits.iter().copied().filter(|&byte| byte != b':').collect();
        let minutes = match number(&digits) {
            Some(zone) if digits.len() == 4 && zone < 2400 && zone % 100 < 60 => {
                (zone / 100 * 60 + zone % 100) as i16
            }
            _ => 0,
        };
        return if *sign == b'-' { -minutes } else { minutes };
    }
    const ZONES: [(&[u8], i16); 10] = [
        (b"EDT", -4),
        (b"EST", -5),
        (b"CDT", -5),
        (b"CST", -6),
        (b"MDT", -6),
        (b"MST", -7),
        (b"PDT", -7),
        (b"PST", -8),
        (b"CET", 1),
        (b"CEST", 2),
    ];
    let named = ZONES.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    named.map_or(0, |(_, hours)| hours * 60)
}

fn month(word: &[u8]) -> Option<u8> {
    let word = word.get(..3)?;
    let index = MONTHS.iter().position(|month| word.eq_ignore_ascii_case(month.as_bytes()))?;
    Some(index as u8 + 1)
}

fn is_weekday(word: &[u8]) -> bool {
    word.first().is_some_and(u8::is_ascii_alphabetic) && month(word).is_none()
}

/// One to six digits.
fn number(word: &[u8]) -> Option<u32> {
    if word.len() > 6 || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(word).ok()?.parse().ok()
}

/// Splits at white space and commas and skips comments; a dash or slash after a digit or letter
/// splits too (`23-Nov-2026`), while `-0500` stays whole.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn skip_space(&mut self) {
        let mut depth = 0;
        while let Some((byte, after)) = self.rest.split_first() {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                _ if depth > 0 || b" \t\r\n,".contains(byte) => {}
                _ => return,
            }
            self.rest = after;
        }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        self.skip_space();
        let end = |&byte: &u8| b" \t\r\n,(-/".contains(&byte);
        let first = self.rest.first()?;
        let skip = usize::from(end(first)); // a sign, or a stray dash
        let length = self.rest[skip..].iter().position(end).map_or(self.rest.len(), |at| at + skip);
        let (word, rest) = self.rest.split_at(length);
        let splits_date = matches!(rest, [b'-' | b'/', next, ..] if next.is_ascii_alphabetic())
            || month(word).is_some() && matches!(rest, [b'-' | b'/', ..]);
        self.rest = if splits_date { &rest[1..] } else { rest };
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Value, and how it is written again; empty if it is not a date.
    const CASES: &[(&str, &str)] = &[
        ("Mon, 23 Nov 2026 21:30:00 +0000", "Mon, 23 Nov 2026 21:30:00 +0000"),
        ("Fri, 21 Nov 1997 09:55:06 -0600", "Fri, 21 Nov 1997 09:55:06 -0600"),
        ("1 Jan 2000 00:00:60 +0530", "Sat, 01 Jan 2000 00:00:60 +0530"),
        // RFC 5322 A.6.2 and A.5: obsolete year and zone, white space and comments.
        ("21 Nov 97 09:55:06 GMT", "Fri, 21 Nov 1997 09:55:06 +0000"),
        (
            "Thu,\r\n 13\r\n Feb\r\n 1969\r\n 23:32\r\n -0330 (Newfoundland Time)",
            "Thu, 13 Feb 1969 23:32:00 -0330",
        ),
        ("21 Nov 49 09:55 EST", "Sun, 21 Nov 2049 09:55:00 -0500"),
        ("21 Nov 126 09:55 pdt", "Sat, 21 Nov 2026 09:55:00 -0700"),
        ("21 Nov 2026 09:55 Z", "Sat, 21 Nov 2026 09:55:00 +0000"),
        ("21 Nov 2026 09:55 -0000", "Sat, 21 Nov 2026 09:55:00 +0000"),
        // Forms from real mail.
        ("Mon Nov 23 21:30:00 2026", "Mon, 23 Nov 2026 21:30:00 +0000"),
        ("Mon Nov 23 21:30:00 CET 2026", "Mon, 23 Nov 2026 21:30:00 +0100"),
        ("23-Nov-2026 21:30:00 +0100", "Mon, 23 Nov 2026 21:30:00 +0100"),
        ("Monday, 23 November 2026 21:30:00.123 +01:00", "Mon, 23 Nov 2026 21:30:00 +0100"),
        ("23 Nov 2026", "Mon, 23 Nov 2026 00:00:00 +0000"),
        ("29 Feb 2024 00:00 +0000", "Thu, 29 Feb 2024 00:00:00 +0000"),
        ("29 Feb 2023 00:00 +0000", ""),
        ("31 Apr 2023 00:00 +0000", ""),
        ("0 Nov 2026 00:00 +0000", ""),
        // RFC 5256 2.2: an invalid time is midnight, an invalid zone UTC.
        ("23 Nov 2026 24:00:00 +0000", "Mon, 23 Nov 2026 00:00:00 +0000"),
        ("23 Nov 2026 21:60:00 +0100", "Mon, 23 Nov 2026 00:00:00 +0100"),
        ("23 Nov 2026 noon EST", "Mon, 23 Nov 2026 00:00:00 -0500"),
        ("Mon Nov 23 21:30:99 2026", "Mon, 23 Nov 2026 00:00:00 +0000"),
        ("2026-11-23T21:30:00Z", ""),
        ("23 Nov 20267 00:00 +0000", ""),
        ("", ""),
        ("(", ""),
        ("Mon,", ""),
        ("tomorrow", ""),
    ];

    #[test]
    fn dates() {
        for (value, expected) in CASES {
            let mut out = Vec::new();
            if let Some(date) = parse(value.as_bytes()) {
                date.write_rfc5322(&mut out);
            }
            assert_eq!(String::from_utf8_lossy(&out), *expected, "{value:?}");
        }
    }

    #[test]
    fn imap_form_pads_the_day() {
        let mut out = Vec::new();
        DateTime::from_timestamp(Timestamp::from_unix_seconds(-1), -90).write_imap(&mut out);
        out.push(b'|');
        DateTime::from_timestamp(Timestamp(0), 0).write_imap(&mut out);
        assert_eq!(out, b"31-Dec-1969 22:29:59 -0130|01-Jan-1970 00:00:00 +0000");
    }

    #[test]
    fn the_calendar_goes_day_by_day() {
        let mut date = (1600, 1, 1);
        for days in days_from_civil(1600, 1, 1)..days_from_civil(2401, 1, 1) {
            assert_eq!(civil_from_days(days), date);
            assert_eq!(days_from_civil(date.0, date.1, date.2), days);
            date.2 += 1;
            if date.2 > month_days(date.0, date.1) {
                date = if date.1 == 12 { (date.0 + 1, 1, 1) } else { (date.0, date.1 + 1, 1) };
            }
        }
        assert_eq!(days_from_civil(1970, 1, 1), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            seconds in -62_135_596_800i64..253_402_300_800,
            zone in -719i16..720,
        ) {
            let date = DateTime::from_timestamp(Timestamp::from_unix_seconds(seconds), zone);
            prop_assume!((1..=9999).contains(&date.year));
            prop_assert_eq!(date.timestamp(), Timestamp::from_unix_seconds(seconds));
            let mut out = Vec::new();
            date.write_rfc5322(&mut out);
            prop_assert_eq!(parse(&out), Some(date));
        }

        #[test]
        fn garbage_never_panics(value in "[A-Z0-9Nov :+,()/-]{0,30}", seconds: i64) {
            parse(value.as_bytes());
            let mut out = Vec::new();
            write_rfc5322(Timestamp(seconds), &mut out);
        }
    }
}
