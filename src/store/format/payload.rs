//! The frame of a commit entry's payload: a list of effects, then at most one body block.
//!
//! Since version 2 the *head* (everything up to the end of the summary) has a length and a checksum
//! of its own, so that the summary can be read and checked without the body behind it. Version 1,
//! still read, has only the length of the list; the highest bit of the first word distinguishes
//! them, since no list is that long. docs/disk_format.md, "Payload of kinds 2–15", has the layout.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::codec::{Decoded, Malformed};

/// Bit of the first word: the head is framed.
const FRAMED: u32 = 1 << 31;
/// Bytes before the effects if the head is framed, and if it is not.
const FRAME: usize = 12;
const FRAME_V1: usize = 4;

/// A parsed payload.
pub(crate) struct Parts<'a> {
    pub effects: &'a [u8],
    /// Empty if the entry has no body.
    pub block: &'a [u8],
}

/// Whether a payload's start contains its head.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Head<'a> {
    /// The head, checked: the payload without the body's bytes.
    Whole(&'a [u8]),
    /// This many bytes of the payload are needed.
    Longer(usize),
    /// It has no checksum of its own: only the whole payload can be checked.
    Unframed,
}

/// Makes room at the end of `out` for the frame of a payload whose effects come next. `framed`
/// according to the version of the entry's kind.
pub(crate) fn begin(out: &mut Vec<u8>, framed: bool) {
    out.resize(out.len() + if framed { FRAME } else { FRAME_V1 }, 0);
}

/// Ends the effects of the payload in `out`.
pub(crate) fn end_effects(out: &mut [u8], framed: bool) {
    let (before, bit) = if framed { (FRAME, FRAMED) } else { (FRAME_V1, 0) };
    let length = out.len().saturating_sub(before) as u32;
    if let Some(word) = out.first_chunk_mut::<4>() {
        *word = (length | bit).to_le_bytes();
    }
}

/// Ends the head of a framed payload, which is `out` and the `summary` to be written after it.
pub(crate) fn end_head(out: &mut [u8], summary: &[u8]) {
    let Some((frame, rest)) = out.split_first_chunk_mut::<FRAME>() else { return };
    let length = (rest.len() + summary.len()) as u32;
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[..8]);
    let checksum = crc32c::crc32c_append(checksum, rest);
    let checksum = crc32c::crc32c_append(checksum, summary);
    frame[8..].copy_from_slice(&checksum.to_le_bytes());
}

/// Splits a payload that was completely checked.
pub(crate) fn split(payload: &[u8]) -> Decoded<Parts<'_>> {
    let (word, _) = payload.split_first_chunk::<4>().ok_or(Malformed("effects length"))?;
    let word = u32::from_le_bytes(*word);
    let before = if word & FRAMED != 0 { FRAME } else { FRAME_V1 };
    let rest = payload.get(before..).ok_or(Malformed("payload frame"))?;
    let length = (word & !FRAMED) as usize;
    let (effects, block) = rest.split_at_checked(length).ok_or(Malformed("effects"))?;
    Ok(Parts { effects, block })
}

/// Finds the head in the `start` of an unchecked payload.
pub(crate) fn head(start: &[u8]) -> Decoded<Head<'_>> {
    let words = || {
        let (effects, rest) = start.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        Some((effects, length, checksum, rest))
    };
    let Some((effects, length, checksum, rest)) = words() else { return Ok(Head::Unframed) };
    if u32::from_le_bytes(*effects) & FRAMED == 0 {
        return Ok(Head::Unframed);
    }
    let end = FRAME.saturating_add(u32::from_le_bytes(*length) as usize);
    let Some(head) = start.get(..end) else { return Ok(Head::Longer(end)) };
    let found = crc32c::crc32c_append(crc32c::crc32c(effects), length);
    let found = crc32c::crc32c_append(found, rest.get(..end - FRAME).unwrap_or_default());
    match found == u32::from_le_bytes(*checksum) {
        true => Ok(Head::Whole(head)),
        false => Err(Malformed("head: checksum does not match")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn payload(effects: &[u8], block: &[u8], summary: &[u8], framed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, framed);
        out.extend_from_slice(effects);
        end_effects(&mut out, framed);
        out.extend_from_slice(block);
        if framed {
            end_head(&mut out, summary);
        }
        out.extend_from_slice(summary);
        out
    }

    proptest! {
        #[test]
        fn heads_are_found_and_checked(
            effects in vec(any::<u8>(), 0..20),
            block in vec(any::<u8>(), 0..20),
            summary in vec(any::<u8>(), 0..40),
            body in vec(any::<u8>(), 0..40),
            framed: bool,
            bit: prop::sample::Index,
        ) {
            let mut whole = payload(&effects, &block, &summary, framed);
            let head_len = whole.len();
            whole.extend_from_slice(&body);
            let parts = split(&whole).unwrap();
            prop_assert_eq!(parts.effects, &effects[..]);
            prop_assert_eq!(parts.block, &[&block[..], &summary, &body].concat()[..]);
            if !framed {
                prop_assert_eq!(head(&whole).unwrap(), Head::Unframed);
                return Ok(());
            }
            for len in FRAME..head_len {
                prop_assert_eq!(head(&whole[..len]).unwrap(), Head::Longer(head_len));
            }
            prop_assert_eq!(head(&whole).unwrap(), Head::Whole(&whole[..head_len]));
            // A flipped bit of the head is always detected.
            let bit = bit.index(head_len * 8);
            whole[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(head(&whole), Ok(Head::Whole(_))));
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..40)) {
            let _ = (split(&bytes).is_ok(), head(&bytes).is_ok());
        }
    }
}
