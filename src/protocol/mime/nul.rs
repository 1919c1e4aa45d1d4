//! Messages with NUL, for readers who are not to get it (RFC 5322 4: it is not in messages; RFC
//! 9051 4.3.1: nor in what IMAP sends of them, but by BINARY).
//!
//! APPEND stores none ([`super::downgrade`]); what mail brings, and what was stored before, may
//! have some where nothing encodes it. Sizes and offsets must stay what they are, so each becomes
//! one other octet.

use memchr::memchr;

/// What is seen in place of NUL.
const SUBSTITUTE: u8 = b'?';

/// Appends octets of a message, without NUL.
pub fn append_without_nul(octets: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(octets);
    if memchr(0, octets).is_some() {
        let appended = out.get_mut(start..).unwrap_or_default();
        appended.iter_mut().filter(|octet| **octet == 0).for_each(|octet| *octet = SUBSTITUTE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nul_is_another_octet() {
        for (octets, expected) in [
            (&b""[..], &b"\0"[..]),
            (b"abc", b"\0abc"),
            (b"\0", b"\0?"),
            (b"\0\0a\xff\0", b"\0??a\xff?"),
        ] {
            // What is there already is none of ours.
            let mut out = vec![0];
            append_without_nul(octets, &mut out);
            assert_eq!(out, expected);
        }
    }
}
