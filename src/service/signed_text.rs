//! What a DKIM signature is made of: the message as it leaves.
//!
//! `smtp` passes the octets of users' messages through it, and `relay` those of messages that it
//! changes.

use crate::{
    dkim::{MessageDigest, Unsigned},
    protocol::smtp::client::BodyEncoder,
};

/// The message as it is sent: BDAT may bring bare CR and LF, which leave as CRLF except from a
/// message declared BODY=BINARYMIME.
pub(super) struct SignedText {
    sent: BodyEncoder,
    digest: MessageDigest,
}

impl SignedText {
    /// `binary`: of a message declared BODY=BINARYMIME.
    pub(super) fn new(binary: bool) -> SignedText {
        SignedText { sent: BodyEncoder::chunks(binary), digest: MessageDigest::default() }
    }

    pub(super) fn push(&mut self, octets: &[u8]) {
        let mut sent = Vec::with_capacity(octets.len() + 2);
        self.sent.push(octets, &mut sent);
        self.digest.push(&sent);
    }

    /// `None` if the message is not one to be signed.
    pub(super) fn finish(mut self) -> Option<Unsigned> {
        let mut sent = Vec::new();
        self.sent.finish(&mut sent);
        self.digest.push(&sent);
        self.digest.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(message: &[u8], binary: bool, size: usize) -> Unsigned {
        let mut text = SignedText::new(binary);
        message.chunks(size).for_each(|piece| text.push(piece));
        text.finish().expect("a short header")
    }

    #[test]
    fn what_is_signed_is_what_is_sent() {
        let sent = b"From: a@x.test\r\nSubject: y\r\n\r\none\r\n.\r\n\r\ntwo\r\n";
        let expected = signed(sent, false, 1000);
        for message in [
            &sent[..],
            b"From: a@x.test\nSubject: y\n\none\n.\n\ntwo\n",
            b"From: a@x.test\r\nSubject: y\r\n\r\none\r.\r\n\ntwo",
            b"From: a@x.test\nSubject: y\r\r\none\n.\r\rtwo\r",
        ] {
            for size in 1..=message.len() {
                assert_eq!(signed(message, false, size), expected, "{message:?} by {size}");
            }
        }
        let binary = b"From: a@x.test\r\nSubject: y\r\n\r\none\n.\r\n\r\ntwo";
        assert_ne!(signed(binary, true, 7), expected);
        assert_eq!(signed(binary, false, 7), expected);
    }
}
