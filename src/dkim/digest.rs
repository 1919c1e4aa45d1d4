//! What a signature is made of, taken from a message while it passes: its header, and the hash of
//! its body.

use ring::digest::{self, SHA256};

use super::canonical::RelaxedBody;

/// Longest header block of a message that is signed, octets; a longer one goes unsigned.
const HEADER_SIZE_MAX: usize = 64 * 1024;

/// SHA-256 of the canonical body, as it passes.
pub struct BodyHash {
    canonical: RelaxedBody,
    context: digest::Context,
}

impl Default for BodyHash {
    fn default() -> BodyHash {
        BodyHash { canonical: RelaxedBody::default(), context: digest::Context::new(&SHA256) }
    }
}

impl BodyHash {
    pub fn push(&mut self, octets: &[u8]) {
        let BodyHash { canonical, context } = self;
        canonical.push(octets, &mut |canonical| context.update(canonical));
    }

    pub fn finish(self) -> [u8; 32] {
        let BodyHash { canonical, mut context } = self;
        canonical.finish(&mut |canonical| context.update(canonical));
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        hash
    }
}

/// A message on its way: header and body are told apart here. Its memory is that of the header,
/// at most [`HEADER_SIZE_MAX`], and a few KiB.
#[derive(Default)]
pub struct MessageDigest {
    header: Vec<u8>,
    state: State,
    body: BodyHash,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Header,
    Body,
    /// The header is too long.
    GivenUp,
}

/// A message without its signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsigned {
    /// Without the empty line at its end.
    pub(super) header: Vec<u8>,
    pub(super) body_hash: [u8; 32],
}

impl MessageDigest {
    /// Takes octets of the message, which has CRLF at the ends of its lines.
    pub fn push(&mut self, octets: &[u8]) {
        match self.state {
            State::Body => self.body.push(octets),
            State::GivenUp => {}
            State::Header => self.push_header(octets),
        }
    }

    fn push_header(&mut self, octets: &[u8]) {
        let room = HEADER_SIZE_MAX - self.header.len();
        let (near, far) = octets.split_at(octets.len().min(room));
        let before = self.header.len();
        self.header.extend_from_slice(near);
        if let Some(end) = end_of_header(&self.header, before) {
            // The empty line is part of neither.
            let of_body = (end - before).min(near.len());
            self.header.truncate(end.saturating_sub(2));
            self.state = State::Body;
            self.body.push(near.get(of_body..).unwrap_or_default());
            self.body.push(far);
        } else if !far.is_empty() {
            self.header = Vec::new();
            self.state = State::GivenUp;
        }
    }

    /// `None` if the header was too long.
    pub fn finish(self) -> Option<Unsigned> {
        let MessageDigest { header, state, body } = self;
        (state != State::GivenUp).then(|| Unsigned { header, body_hash: body.finish() })
    }
}

/// Where the empty line after the header ends; octets before `from` were looked at already.
fn end_of_header(header: &[u8], from: usize) -> Option<usize> {
    if header.starts_with(b"\r\n") {
        return Some(2);
    }
    let begin = from.saturating_sub(3);
    let found = memchr::memmem::find(header.get(begin..)?, b"\r\n\r\n")?;
    Some(begin + found + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[&[u8]]) -> Option<Unsigned> {
        let mut digest = MessageDigest::default();
        pieces.iter().for_each(|piece| digest.push(piece));
        digest.finish()
    }

    fn hash(octets: &[u8]) -> Vec<u8> {
        ring::digest::digest(&SHA256, octets).as_ref().to_vec()
    }

    #[test]
    fn header_and_body_are_told_apart_wherever_the_message_is_cut() {
        const CASES: &[(&[u8], &[u8], &[u8])] = &[
            (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n", b"body\r\n"),
            (b"A: b\r\nC: d\r\n\r\n", b"A: b\r\nC: d\r\n", b""),
            (b"A: b\r\n", b"A: b\r\n", b""),
            (b"", b"", b""),
            (b"\r\nbody", b"", b"body\r\n"),
            (b"A: b\r\n\r\n\r\n\r\nx\r\n\r\n", b"A: b\r\n", b"\r\n\r\nx\r\n"),
        ];
        for (message, header, body) in CASES {
            for one in 0..=message.len() {
                for two in one..=message.len() {
                    let pieces = [&message[..one], &message[one..two], &message[two..]];
                    let found = digest(&pieces).unwrap();
                    assert_eq!(found.header, *header, "{message:?} at {one}, {two}");
                    assert_eq!(found.body_hash.to_vec(), hash(body), "{message:?} at {one}, {two}");
                }
            }
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_given_up() {
        let field = b"A: ".iter().chain([b'x'; HEADER_SIZE_MAX - 7].iter()).copied();
        let mut header: Vec<u8> = field.collect();
        header.extend_from_slice(b"\r\n\r\n");
        assert_eq!(header.len(), HEADER_SIZE_MAX);
        let fits = digest(&[&header, b"body"]).unwrap();
        assert_eq!(fits.body_hash.to_vec(), hash(b"body\r\n"));
        header.insert(3, b'x');
        assert_eq!(digest(&[&header, b"body"]), None);
        let octets: Vec<&[u8]> = header.chunks(1000).collect();
        assert_eq!(digest(&octets), None);
    }
}
