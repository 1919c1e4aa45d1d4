//! Dates of IMAP: `date-time` of INTERNALDATE and APPEND, `date` of SEARCH (RFC 3501 9).

use crate::model::Timestamp;

/// Appends `"23-Nov-2026 21:30:00 +0000"`, quotes included.
pub fn write_date_time(_out: &mut Vec<u8>, _date: Timestamp) {
    todo!()
}
