//! The UIDBATCHES response (RFC 10022), a range at a time.

use super::{
    response::push_pair,
    write::{push_number, push_string},
};

/// A UIDBATCHES response being written. It does not hold the output, which may be sent in between.
#[derive(Debug)]
#[must_use = "a response is finished by end()"]
pub struct Batches {
    first: bool,
}

impl Batches {
    /// `* UIDBATCHES (TAG "tag")`
    pub fn begin(out: &mut Vec<u8>, tag: &str) -> Batches {
        out.extend_from_slice(b"* UIDBATCHES (TAG ");
        push_string(out, tag.as_bytes());
        out.push(b')');
        Batches { first: true }
    }

    /// One batch: its highest and its lowest UID. A `uid-range` has both, even if they are the same
    /// (RFC 9051 9).
    pub fn push(&mut self, out: &mut Vec<u8>, highest: u32, lowest: u32) {
        push_pair(out, if self.first { " " } else { "," }, highest.into());
        self.first = false;
        out.push(b':');
        push_number(out, lowest.into());
    }

    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses() {
        type Case = (&'static [(u32, u32)], &'static str);
        const CASES: &[Case] = &[
            (&[], "* UIDBATCHES (TAG \"A143\")\r\n"),
            (&[(99_695, 99_695)], "* UIDBATCHES (TAG \"A143\") 99695:99695\r\n"),
            // RFC 10022 3.1.1.
            (
                &[(215_295, 99_696), (99_695, 20_351), (20_350, 7_830), (7_829, 1)],
                "* UIDBATCHES (TAG \"A143\") 215295:99696,99695:20351,20350:7830,7829:1\r\n",
            ),
        ];
        for (batches, expected) in CASES {
            let mut out = Vec::new();
            let mut response = Batches::begin(&mut out, "A143");
            for (highest, lowest) in *batches {
                response.push(&mut out, *highest, *lowest);
            }
            response.end(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), *expected);
        }
    }
}
