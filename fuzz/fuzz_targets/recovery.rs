//! Recovery: a segment file of arbitrary bytes, and one of good bytes with arbitrary damage, is
//! scanned without a panic, and everything accepted is inside the file. The same for a compacted
//! one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::{
    model::{Lsn, PartitionId},
    store::log::{Expected, Piece, scan_compacted, scan_segment},
};

fuzz_target!(|input: &[u8]| {
    let expected = Expected { partition: PartitionId(0), epoch: 1, durable: Lsn(0) };
    if let Ok(scan) = scan_compacted(input) {
        for entry in scan.entries {
            assert!(entry.offset < input.len() as u64);
        }
    }
    let Ok(scan) = scan_segment(input, expected) else { return };
    assert!(scan.end <= input.len());
    for piece in scan.pieces {
        if let Piece::Batch { start, end } = piece {
            assert!(start <= end && end <= input.len());
        }
    }
});
