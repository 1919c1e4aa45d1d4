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

    /// One batch: the UIDs of its newest and its oldest message.
    pub fn push(&mut self, out: &mut Vec<u8>, newest: u32, oldest: u32) {
        push_pair(out, if self.first { " " } else { "," }, newest.into());
        self.first = false;
        if oldest != newest {
            out.push(b':');
            push_number(out, oldest.into());
        }
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
            (&[(99_695, 99_695)], "* UIDBATCHES (TAG \"A143\") 99695\r\n"),
            (&[(9, 7), (6, 6), (4, 1)], "* UIDBATCHES (TAG \"A143\") 9:7,6,4:1\r\n"),
        ];
        for (batches, expected) in CASES {
            let mut out = Vec::new();
            let mut response = Batches::begin(&mut out, "A143");
            for (newest, oldest) in *batches {
                response.push(&mut out, *newest, *oldest);
            }
            response.end(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), *expected);
        }
    }
}
