//! Annotations: opaque, numbered values beside a message. They are not part of the message: a copy
//! has none.
//!
//! In a run of blocks a row is one value or the mark that it was removed, in the order of UIDs and
//! numbers; a newer run overrides an older one, row by row. Pure. docs/disk_format.md, "Annotation
//! run", has the layout.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::error::StoreError,
    blocks::{BlockRunBuilder, ROW_MAX, read_rows},
    codec::{Decoded, Put, Reader},
};
use crate::model::Uid;

/// Most octets of a value.
pub const ANNOTATION_OCTETS_MAX: usize = ROW_MAX - 32;

/// Most annotations of one message: numbers are below this.
pub const ANNOTATIONS_MAX: u32 = 1 << 17;
/// Most octets of annotations set at once.
const CHANGE_OCTETS_MAX: usize = 4 << 20;

/// Overhead of a value in an entry.
const VALUE: usize = 16;

/// Refuses more than an entry of the log or a reader's memory should hold.
pub(crate) fn check_limits(values: impl Iterator<Item = (u32, usize)>) -> Result<(), StoreError> {
    let mut sum = 0;
    for (number, octets) in values {
        if octets > ANNOTATION_OCTETS_MAX {
            return Err(StoreError::Limit("octets of an annotation"));
        }
        if number >= ANNOTATIONS_MAX {
            return Err(StoreError::Limit("annotations of a message"));
        }
        sum += octets + VALUE;
    }
    match sum <= CHANGE_OCTETS_MAX {
        true => Ok(()),
        false => Err(StoreError::Limit("octets of annotations at once")),
    }
}

/// A value's message and number.
pub(crate) type Place = (Uid, u32);

/// Values, `None` where one was removed.
pub(crate) type Rows = BTreeMap<Place, Option<Bytes>>;

/// Appends one value: the same form in the effect and in a row of a run.
pub(crate) fn put_value(out: &mut Vec<u8>, number: u32, value: Option<&[u8]>) {
    out.put_varint(u64::from(number));
    out.put_u8(u8::from(value.is_some()));
    out.put_bytes(value.unwrap_or_default());
}

pub(crate) fn read_value(reader: &mut Reader<'_>) -> Decoded<(u32, Option<Bytes>)> {
    let number = reader.varint_u32("number of an annotation")?;
    let present = reader.u8("presence of an annotation")? != 0;
    let value = reader.bytes("annotation")?;
    Ok((number, present.then(|| Bytes::copy_from_slice(value))))
}

/// Minimum size of [`put_value`]'s output.
pub(crate) const VALUE_MIN: usize = 3;

/// Adds rows to a run, ascending.
pub(crate) fn put_row<C: FnMut(Vec<u8>) -> Vec<u8>>(
    run: &mut BlockRunBuilder<1, C>,
    (uid, number): Place,
    value: Option<&[u8]>,
) {
    let mut row = Vec::with_capacity(value.map_or(0, <[u8]>::len) + 8);
    put_value(&mut row, number, value);
    run.push(0, uid, &row);
}

/// Reads the rows of a decompressed block, overriding those in `into`.
pub(crate) fn read_block(raw: &[u8], into: &mut Rows) -> Decoded<()> {
    for (uid, at) in read_rows(raw)? {
        let mut row = Reader::new(raw.get(at).unwrap_or_default());
        let (number, value) = read_value(&mut row)?;
        into.insert((uid, number), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::blocks::read_index, *};

    proptest! {
        #[test]
        fn rows_round_trip(
            rows in proptest::collection::btree_map(
                (1u32..9, 0u32..9), proptest::option::of(vec(any::<u8>(), 0..300)), 1..40)
        ) {
            let mut builder = BlockRunBuilder::new(|raw| raw);
            for ((uid, number), value) in &rows {
                put_row(&mut builder, (Uid(*uid), *number), value.as_deref());
            }
            let payload = builder.finish().unwrap().payload;
            let mut read = Rows::new();
            for block in read_index(&payload).unwrap().column(0) {
                read_block(&payload[block.offset..][..block.stored as usize], &mut read).unwrap();
            }
            let rows = rows.into_iter().map(|((uid, number), value)| {
                ((Uid(uid), number), value.map(Bytes::from))
            });
            prop_assert_eq!(read, rows.collect::<Rows>());
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let _ = read_block(&bytes, &mut Rows::new());
        }
    }
}
