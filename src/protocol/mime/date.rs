//! Dates of message headers (RFC 5322 3.3 and 4.3), and days of the civil calendar.

use crate::model::Timestamp;

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
    /// The same instant, told in a zone.
    pub fn from_timestamp(_timestamp: Timestamp, _zone_minutes: i16) -> DateTime {
        todo!()
    }

    pub fn timestamp(self) -> Timestamp {
        todo!()
    }

    /// Days since 1970-01-01 of the date as written, time and zone disregarded: SENTBEFORE, SENTON
    /// and SENTSINCE compare this (RFC 3501 6.4.4).
    pub fn days(self) -> i64 {
        days_from_civil(self.year, self.month, self.day)
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
pub fn days_from_civil(_year: i32, _month: u8, _day: u8) -> i64 {
    todo!()
}

/// (year, month, day) of a number of days since 1970-01-01.
pub fn civil_from_days(_days: i64) -> (i32, u8, u8) {
    todo!()
}

/// Reads a Date value: RFC 5322 with the obsolete forms and what is common in the wild.
pub fn parse(_value: &[u8]) -> Option<DateTime> {
    todo!()
}

/// Appends e.g. `Mon, 23 Nov 2026 21:30:00 +0000` (RFC 5322 3.3, UTC).
pub fn write_rfc5322(_timestamp: Timestamp, _out: &mut Vec<u8>) {
    todo!()
}
