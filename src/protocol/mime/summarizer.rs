//! Derives a [`Summary`] from a message's bytes as they pass.

use super::Summary;

/// Takes a message in chunks of any size; keeps no body bytes.
#[derive(Debug, Default)]
pub struct Summarizer {}

impl Summarizer {
    pub fn new() -> Summarizer {
        Summarizer::default()
    }

    /// The next bytes of the message as stored.
    pub fn push(&mut self, _chunk: &[u8]) {
        todo!()
    }

    pub fn finish(self) -> Summary {
        todo!()
    }
}
