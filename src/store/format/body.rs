//! Body blocks: the end of a commit entry's payload, with the body of the message or its location.
//!
//! Attributes, size, summary, then the bytes or the list of chunks. Pure encoding; `bodies` writes
//! and reads them. Lengths are uncompressed ones.

use super::{
    super::log::entry_len,
    codec::{Decoded, Malformed, Put, Reader},
    payload,
};
use crate::model::Lsn;

/// Longer bodies are written as chunks as they arrive instead of inside their commit entry.
pub const BODY_CHUNK: usize = 256 * 1024;

/// Attribute of a body block: a list of chunks instead of the bytes themselves.
const CHUNKED: u8 = 1;
/// Attribute of a body block: 16 bytes of explicit EMAILID (RFC 8474) precede the summary, for a
/// body that came from another partition. Without it the id is partition and LSN.
const HAS_EMAIL_ID: u8 = 2;
/// Attribute of a body block: its bytes, or those of marked chunks, are zstd frames.
const COMPRESSED: u8 = 4;
/// Attributes this version can read.
const KNOWN_ATTRIBUTES: u8 = CHUNKED | HAS_EMAIL_ID | COMPRESSED;

/// A chunk entry and how many bytes of the body it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub lsn: Lsn,
    /// Bytes of the entry's payload.
    pub stored: u32,
    /// Bytes of the body; more than `stored` if the chunk is a frame.
    pub raw: u32,
}

impl Extent {
    pub(crate) fn is_compressed(&self) -> bool {
        self.stored != self.raw
    }

    pub(crate) fn entry_len(&self) -> u32 {
        entry_len(self.stored as usize) as u32
    }
}

/// Appends the start of a block to `out`; the block continues with the summary, then the bytes,
/// which are a frame if `compressed`. `extents` are the chunks of a body in chunks.
pub(crate) fn put_head(
    out: &mut Vec<u8>,
    extents: Option<&[Extent]>,
    compressed: bool,
    size: u64,
    summary_len: usize,
) {
    let extents_compressed = extents.is_some_and(|list| list.iter().any(Extent::is_compressed));
    let compressed = compressed || extents_compressed;
    let chunked = if extents.is_some() { CHUNKED } else { 0 };
    out.put_u8(chunked | if compressed { COMPRESSED } else { 0 });
    out.put_varint(size);
    if let Some(extents) = extents {
        out.put_varint(extents.len() as u64);
        for extent in extents {
            out.put_varint(extent.lsn.0);
            out.put_varint(u64::from(extent.stored));
            if compressed {
                out.put_varint(u64::from(extent.raw));
            }
        }
    }
    out.put_varint(summary_len as u64);
}

/// A parsed body block.
pub(crate) struct Block<'a> {
    pub size: u64,
    pub extents: Vec<Extent>,
    /// Empty if there are extents.
    pub inline: &'a [u8],
    /// `inline` is a frame.
    pub compressed: bool,
}

fn parse_block(block: &[u8]) -> Decoded<Block<'_>> {
    let mut reader = Reader::new(block);
    let (size, attributes, extents) = parse_head(&mut reader)?;
    let compressed = attributes & COMPRESSED != 0;
    reader.bytes("summary")?;
    let inline = reader.take(reader.remaining(), "body")?;
    let held: u64 = match extents.is_empty() {
        // The content of the frame is checked when it is opened.
        true if compressed => size,
        true => inline.len() as u64,
        false => extents.iter().map(|extent| u64::from(extent.raw)).sum(),
    };
    if held != size {
        return Err(Malformed("body size"));
    }
    let compressed = compressed && extents.is_empty();
    Ok(Block { size, extents, inline, compressed })
}

/// Reads the fields before the summary: size of the body, attributes, chunks.
fn parse_head(reader: &mut Reader<'_>) -> Decoded<(u64, u8, Vec<Extent>)> {
    let attributes = reader.u8("body attributes")?;
    if attributes & !KNOWN_ATTRIBUTES != 0 {
        return Err(Malformed("body attributes"));
    }
    let size = reader.varint("body size")?;
    if attributes & HAS_EMAIL_ID != 0 {
        reader.u128("email id")?;
    }
    let compressed = attributes & COMPRESSED != 0;
    let mut extents = Vec::new();
    if attributes & CHUNKED != 0 {
        let count = reader.count(2, "extents")?;
        for _ in 0..count {
            let lsn = Lsn(reader.varint("extent lsn")?);
            let stored = reader.varint_u32("extent length")?;
            let raw = if compressed { reader.varint_u32("bytes of the extent")? } else { stored };
            extents.push(Extent { lsn, stored, raw });
        }
    }
    Ok((size, attributes, extents))
}

/// The summary in an entry's payload, in which the body's bytes may be missing.
pub(crate) fn summary_of(payload: &[u8]) -> Decoded<&[u8]> {
    let mut reader = Reader::new(payload::split(payload)?.block);
    parse_head(&mut reader)?;
    reader.bytes("summary")
}

/// The block of an entry's payload.
pub(crate) fn block_of(payload: &[u8]) -> Decoded<Block<'_>> {
    parse_block(payload::split(payload)?.block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_block(&bytes);
        }
    }

    #[test]
    fn blocks_say_what_they_hold() {
        // attributes, size, summary length, summary, body
        let block = parse_block(&[0, 3, 2, b's', b'u', b'a', b'b', b'c']).unwrap();
        assert_eq!((block.size, block.inline), (3, &b"abc"[..]));
        // One byte of the body lost, an unknown attribute.
        assert!(parse_block(&[0, 3, 2, b's', b'u', b'a', b'b']).is_err());
        assert!(parse_block(&[8, 0, 0]).is_err());
        // attributes, size, one extent (lsn 9, 5 bytes), summary length
        let block = parse_block(&[CHUNKED, 5, 1, 9, 5, 0]).unwrap();
        assert_eq!(block.extents, [Extent { lsn: Lsn(9), stored: 5, raw: 5 }]);
        // Compressed: 2 bytes represent 5 in the first extent, the second is uncompressed.
        let block = parse_block(&[CHUNKED | COMPRESSED, 8, 2, 9, 2, 5, 11, 3, 3, 0]).unwrap();
        assert!(block.extents[0].is_compressed() && !block.extents[1].is_compressed());
        // A frame: its content is not checked yet.
        let block = parse_block(&[COMPRESSED, 100, 0, b'z', b'z']).unwrap();
        assert_eq!((block.size, block.inline, block.compressed), (100, &b"zz"[..], true));
    }
}
