//! Dates of IMAP (RFC 3501 9): `date-time` of INTERNALDATE and APPEND, `date` of SEARCH.

use crate::{
    model::{Timestamp, days_from_civil, month_days},
    protocol::mime::date::{DateTime, MONTHS},
};

const SECONDS_PER_DAY: i64 = 86_400;

/// Reads `23-Nov-2026` or `3-Nov-2026`: days since 1970-01-01.
pub(super) fn parse_date(text: &[u8]) -> Option<i64> {
    let (day, rest) = match text {
        [tens, ones, rest @ ..] if ones.is_ascii_digit() => (number(&[*tens, *ones])?, rest),
        [ones, rest @ ..] => (number(&[*ones])?, rest),
        [] => return None,
    };
    days(day, rest)
}

/// Parses `23-Nov-2026 21:30:00 +0000`, without quotes. Besides the form in the grammar it accepts
/// forms that clients are known to send: days and hours of one digit, several or surrounding
/// spaces, no zone (then UTC).
pub(super) fn parse_date_time(text: &[u8]) -> Option<Timestamp> {
    let mut words = text.split(|&octet| octet == b' ').filter(|word| !word.is_empty());
    let days = parse_date(words.next()?)?;
    let second = second_of_day(words.next()?)?;
    let zone = words.next().map_or(Some(0), zone_seconds)?;
    let seconds = days * SECONDS_PER_DAY + second - zone;
    words.next().is_none().then(|| Timestamp::from_unix_seconds(seconds))
}

/// Reads `2026-11-23T21:30:00Z` (RFC 3339 5.6), as URLs have it; fractions of a second are left
/// out.
pub(super) fn parse_rfc3339(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = date else { return None };
    let (year, month) = (number(&[y1, y2, y3, y4])? as i32, number(&[m1, m2])? as u8);
    let day = number(&[d1, d2])? as u8;
    let is_date = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
    let days = is_date.then(|| days_from_civil(year, month, day))?;
    let (time, zone) = rest.strip_prefix(b"T").or(rest.strip_prefix(b"t"))?.split_at_checked(8)?;
    let second = second_of_day(time)?;
    let zone = match zone.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|octet| octet.is_ascii_digit()).count();
            fraction.get(digits..).filter(|_| digits > 0)?
        }
        None => zone,
    };
    let zone = match *zone {
        [b'Z' | b'z'] => 0,
        [sign, h1, h2, b':', m1, m2] => zone_seconds(&[sign, h1, h2, m1, m2])?,
        _ => return None,
    };
    Some(Timestamp::from_unix_seconds(days * SECONDS_PER_DAY + second - zone))
}

/// Reads `21:30:00` or `1:30:00`.
fn second_of_day(time: &[u8]) -> Option<i64> {
    let (hour, rest) = time.split_at_checked(time.len().checked_sub(6)?)?;
    let &[b':', m1, m2, b':', s1, s2] = rest else { return None };
    if !(1..=2).contains(&hour.len()) {
        return None;
    }
    let (hour, minute, second) = (number(hour)?, number(&[m1, m2])?, number(&[s1, s2])?);
    // 60 is a leap second.
    let fits = hour <= 23 && minute <= 59 && second <= 60;
    fits.then_some((hour * 60 + minute) * 60 + second)
}

/// Reads `+0130`: seconds east of UTC.
fn zone_seconds(zone: &[u8]) -> Option<i64> {
    let &[sign @ (b'+' | b'-'), h1, h2, m1, m2] = zone else { return None };
    let (hour, minute) = (number(&[h1, h2])?, number(&[m1, m2])?);
    let seconds = (hour * 60 + minute) * 60;
    let fits = hour <= 23 && minute <= 59;
    fits.then_some(if sign == b'-' { -seconds } else { seconds })
}

/// Appends `"23-Nov-2026 21:30:00 +0000"`, quotes included, in UTC.
pub(super) fn write_date_time(out: &mut Vec<u8>, date: Timestamp) {
    out.push(b'"');
    DateTime::from_timestamp(date, 0).write_imap(out);
    out.push(b'"');
}

/// `rest` is `-Nov-2026`.
fn days(day: i64, rest: &[u8]) -> Option<i64> {
    let &[b'-', a, b, c, b'-', y1, y2, y3, y4] = rest else { return None };
    let is_it = |name: &str| name.as_bytes().eq_ignore_ascii_case(&[a, b, c]);
    let month = MONTHS.iter().position(|name| is_it(name))?;
    let year = number(&[y1, y2, y3, y4])? as i32;
    let (month, day) = (month as u8 + 1, u8::try_from(day).ok()?);
    (1..=month_days(year, month)).contains(&day).then(|| days_from_civil(year, month, day))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 3339 5.8, RFC 5092 6.1.1.
    #[test]
    fn times_of_urls() {
        const CASES: &[(&str, Option<i64>)] = &[
            ("1985-04-12T23:20:50.52Z", Some(482_196_050)),
            ("1996-12-19T16:39:57-08:00", Some(851_042_397)),
            ("1990-12-31T23:59:60Z", Some(662_688_000)),
            ("1937-01-01T12:00:27.87+00:20", Some(-1_041_337_173)),
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-02-29T00:00:00Z", None),
            ("1970-13-01T00:00:00Z", None),
            ("1970-01-01 00:00:00Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T00:00:00+0000", None),
            ("1970-01-01T0:00:00Z", None),
            ("+970-01-01T00:00:00Z", None),
            ("", None),
        ];
        for &(text, expected) in CASES {
            let got = parse_rfc3339(text.as_bytes());
            assert_eq!(got, expected.map(Timestamp::from_unix_seconds), "{text}");
        }
    }

    #[test]
    fn date_times() {
        const CASES: &[(&str, Option<i64>)] = &[
            ("01-Jan-1970 00:00:00 +0000", Some(0)),
            (" 1-Jan-1970 00:00:00 +0000", Some(0)),
            ("17-Jul-1996 02:44:25 -0700", Some(837_596_665)),
            ("29-Feb-2024 23:59:60 +0000", Some(1_709_251_200)),
            ("31-dec-1969 23:59:59 +0000", Some(-1)),
            ("29-Feb-2023 00:00:00 +0000", None),
            // Forms that clients send besides that of the grammar.
            ("1-Jan-1970 00:00:00 +0000", Some(0)),
            ("  1-Jan-1970  00:00:00  +0000 ", Some(0)),
            ("01-Jan-1970 1:00:00 +0000", Some(3_600)),
            ("01-jAN-1970 00:00:01", Some(1)),
            ("01-Jan-1970 00:00:00 +0000 +0000", None),
            ("01-Jan-1970 :00:00 +0000", None),
            ("01-Jan-1970 001:00:00 +0000", None),
            ("01-Jan-1970 00:00 +0000", None),
            ("1 Jan 1970 00:00:00 +0000", None),
            ("00-Jan-1970 00:00:00 +0000", None),
            ("32-Jan-1970 00:00:00 +0000", None),
            ("01-Foo-1970 00:00:00 +0000", None),
            ("01-Jan-1970 24:00:00 +0000", None),
            ("01-Jan-1970 00:60:00 +0000", None),
            ("01-Jan-1970 00:00:00 0000", None),
            ("01-Jan-1970 00:00:00 +00000", None),
            ("01-Jan-1970 00:00:00 +0060", None),
            ("01-Jan-1970", None),
            ("", None),
        ];
        for &(text, expected) in CASES {
            let got = parse_date_time(text.as_bytes()).map(Timestamp::unix_seconds);
            assert_eq!(got, expected, "{text:?}");
        }
    }

    #[test]
    fn dates() {
        const CASES: &[(&str, Option<i64>)] = &[
            ("1-Jan-1970", Some(0)),
            ("02-jan-1970", Some(1)),
            ("31-Dec-1969", Some(-1)),
            ("1-Feb-1994", Some(8_797)),
            ("31-Jun-2020", None),
            ("1-Jan-70", None),
            ("-Jan-1970", None),
            ("111-Jan-1970", None),
            ("", None),
            ("1", None),
        ];
        for &(text, expected) in CASES {
            assert_eq!(parse_date(text.as_bytes()), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in -60_000_000_000_i64..250_000_000_000) {
            let mut out = Vec::new();
            write_date_time(&mut out, Timestamp::from_unix_seconds(seconds));
            prop_assert_eq!(out.len(), 28);
            let read = parse_date_time(&out[1..27]);
            prop_assert_eq!(read, Some(Timestamp::from_unix_seconds(seconds)));
        }
    }
}
