//! When a message shall be delivered: the values of BY (RFC 2852) and of HOLDFOR and HOLDUNTIL
//! (RFC 4865).
//!
//! `parameter.rs` parses them, the session checks them against what is offered, the queue acts on
//! them, and `relay_parameters.rs` writes BY for the next hop. Times are values: nothing here knows
//! the clock.

use crate::model::{Timestamp, civil_from_days, days_from_civil, month_days};

/// Digits of a number of seconds (RFC 2852 4, RFC 4865 4).
const SECONDS_DIGITS_MAX: usize = 9;
const DAY_SECONDS: i64 = 86_400;

/// BY (RFC 2852 4): the time within which the message shall be delivered, and what happens then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverBy {
    /// From the moment that MAIL was received, -999,999,999 to 999,999,999. Positive with
    /// [`ByMode::Return`].
    pub seconds: i32,
    pub mode: ByMode,
    /// "T": each relay is reported.
    pub trace: bool,
}

/// What happens when the time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByMode {
    /// "R": the message is returned, and not delivered.
    Return,
    /// "N": the sender is told of the delay, and attempts go on.
    Notify,
}

impl DeliverBy {
    /// `by-time ";" by-mode ["T"]`. `None` if it is not that, or asks for the return of what is
    /// already late.
    pub fn parse(text: &str) -> Option<DeliverBy> {
        let (time, mode) = text.split_once(';')?;
        let (negative, digits) = match time.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, time.strip_prefix('+').unwrap_or(time)),
        };
        let seconds = seconds(digits)?;
        let seconds = if negative { -seconds } else { seconds };
        let mut letters = mode.chars();
        let mode = match letters.next()?.to_ascii_uppercase() {
            'R' => ByMode::Return,
            'N' => ByMode::Notify,
            _ => return None,
        };
        let trace = match letters.as_str() {
            "" => false,
            "T" | "t" => true,
            _ => return None,
        };
        let possible = mode == ByMode::Notify || seconds > 0;
        possible.then_some(DeliverBy { seconds, mode, trace })
    }
}

/// HOLDFOR or HOLDUNTIL (RFC 4865 4): the message is not delivered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Seconds from the moment that MAIL was received, 1 to 999,999,999.
    For(u32),
    /// A moment in the past holds nothing.
    Until(Timestamp),
}

impl Hold {
    /// The value of HOLDFOR.
    pub fn parse_for(text: &str) -> Option<Hold> {
        let seconds = u32::try_from(seconds(text)?).ok()?;
        (seconds > 0).then_some(Hold::For(seconds))
    }

    /// The value of HOLDUNTIL, a date and time of RFC 3339 5.6.
    pub fn parse_until(text: &str) -> Option<Hold> {
        parse_rfc3339(text).map(Hold::Until)
    }
}

/// `1*9DIGIT`.
fn seconds(text: &str) -> Option<i32> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    if digits && text.len() <= SECONDS_DIGITS_MAX { text.parse().ok() } else { None }
}

/// `2026-11-23T21:30:00Z`, with a fraction or another zone if there is one.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let octets = text.as_bytes();
    if octets.len() < 20 || !text.is_ascii() {
        return None;
    }
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, octet)| octets[at].to_ascii_uppercase() != octet) {
        return None;
    }
    let year = i32::try_from(number(&text[..4])?).ok()?;
    let (month, day) = (small(&text[5..7])?, small(&text[8..10])?);
    let (hour, minute) = (small(&text[11..13])?, small(&text[14..16])?);
    // 60 in a leap second.
    let second = small(&text[17..19])?;
    if !(1..=month_days(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = &text[19..];
    if let Some(fraction) = zone.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        zone = &fraction[digits..];
        if digits == 0 {
            return None;
        }
    }
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (small(&zone[1..3])?, small(&zone[4..6])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = i64::from(hours) * 60 + i64::from(minutes);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    let time = (i64::from(hour) * 60 + i64::from(minute) - offset) * 60 + i64::from(second);
    Some(Timestamp::from_unix_seconds(days * DAY_SECONDS + time))
}

fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|octet| octet.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn small(text: &str) -> Option<u8> {
    number(text).and_then(|number| u8::try_from(number).ok())
}

/// `2026-11-23T21:30:00Z`. Years beyond 9999 are 9999.
pub(super) fn rfc3339(moment: Timestamp) -> String {
    let seconds = moment.unix_seconds();
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
    let second = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let year = year.clamp(0, 9999);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deliver_by() {
        let by = |seconds, mode, trace| Some(DeliverBy { seconds, mode, trace });
        use ByMode::{Notify, Return};
        let cases = [
            ("120;R", by(120, Return, false)),
            ("+120;r", by(120, Return, false)),
            ("-5;NT", by(-5, Notify, true)),
            ("0;nt", by(0, Notify, true)),
            ("999999999;N", by(999_999_999, Notify, false)),
            ("1000000000;N", None),
            ("0;R", None),
            ("-1;R", None),
            ("--1;N", None),
            ("+-1;N", None),
            (";N", None),
            ("1", None),
            ("1;", None),
            ("1;X", None),
            ("1;RTT", None),
            ("1;é", None),
            ("1 ;R", None),
        ];
        for (text, expected) in cases {
            assert_eq!(DeliverBy::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn holds() {
        let until = |seconds| Some(Hold::Until(Timestamp::from_unix_seconds(seconds)));
        assert_eq!(Hold::parse_for("1"), Some(Hold::For(1)));
        for text in ["0", "", "-1", "+1", "1000000000", "x"] {
            assert_eq!(Hold::parse_for(text), None, "{text}");
        }
        let cases = [
            ("2026-11-23T21:36:29Z", until(1_795_469_789)),
            ("2026-11-23t21:36:29.25z", until(1_795_469_789)),
            ("2026-11-23T22:36:29+01:00", until(1_795_469_789)),
            ("2026-11-23T20:06:29-01:30", until(1_795_469_789)),
            ("2016-12-31T23:59:60Z", until(1_483_228_800)),
            ("2026-11-23T21:36:29", None),
            ("2026-11-23T21:36:29.Z", None),
            ("2026-11-23T21:36:29+0100", None),
            ("2026-11-23T21:36:29+24:00", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-23T24:00:00Z", None),
            ("2026-11-23 21:36:29Z", None),
            ("+026-11-23T21:36:29Z", None),
            ("2026-11-23T21:36:29Zé", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Hold::parse_until(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in -62_135_596_800i64..253_402_300_800) {
            let moment = Timestamp::from_unix_seconds(seconds);
            prop_assert_eq!(Hold::parse_until(&rfc3339(moment)), Some(Hold::Until(moment)));
        }

        #[test]
        fn garbage_never_panics(text in "[0-9TZ:+.é-]{0,30}|\\PC{0,30}") {
            Hold::parse_until(&text);
            Hold::parse_for(&text);
            DeliverBy::parse(&text);
        }
    }
}
