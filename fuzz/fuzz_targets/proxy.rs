//! Any bytes as the start of a connection from a proxy: what is taken lies inside the input, has a
//! limit, and does not depend on how much more has come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::proxy::{HEADER_MAX, parse};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    if let Ok(Some((taken, _))) = whole {
        assert!(0 < taken && taken <= input.len() && taken <= HEADER_MAX);
        // Octets behind the header are the client's.
        assert_eq!(parse(&input[..taken]), whole);
    }
    if whole == Ok(None) {
        assert!(input.len() < HEADER_MAX, "it must be known by then");
    }
    for cut in 0..input.len().min(300) {
        let part = parse(&input[..cut]);
        assert!(part == Ok(None) || part == whole, "{cut}: {part:?} {whole:?}");
    }
});
