//! The octets of a queued message, read from its partition piece by piece.

use bytes::Bytes;

use super::client::Content;
use crate::{
    protocol::{
        mime::{
            Summary,
            downgrade::{Plan, Rewriter, Survey},
        },
        smtp::client::BodyEncoder,
    },
    runtime::LocalFuture,
    service::{Shard, signed_text::SignedText, signing::SignedAgain},
    store::{BODY_CHUNK, MessageBody, Partition, StoreError},
};

/// The field that begins our trace fields. It is for mailboxes, not for other servers (RFC 5321
/// 4.4).
const RETURN_PATH: &[u8] = b"Return-Path:";

/// Longest Return-Path that is looked for: a path has at most 256 octets in most messages.
const RETURN_PATH_MAX: usize = 4096;

/// Reads a message from its start. Shard-local.
pub(super) struct StoredContent {
    partition: Partition,
    body: MessageBody,
    offset: u64,
    piece: Bytes,
    /// Whether the Return-Path that we added is still to be left out.
    strips: bool,
}

impl StoredContent {
    /// All of it.
    pub(super) fn whole(partition: &Partition, body: MessageBody) -> StoredContent {
        let (partition, piece) = (partition.clone(), Bytes::new());
        StoredContent { partition, body, offset: 0, piece, strips: false }
    }

    /// Without the Return-Path that we added.
    pub(super) fn for_others(partition: &Partition, body: MessageBody) -> StoredContent {
        StoredContent { strips: true, ..StoredContent::whole(partition, body) }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.offset >= self.body.size {
            return Ok(None);
        }
        let mut piece = self.partition.read_body(&self.body, self.offset, BODY_CHUNK).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        self.offset += piece.len() as u64;
        if std::mem::take(&mut self.strips) {
            let field = return_path(&piece);
            piece = piece.slice(field..);
            if piece.is_empty() {
                return Box::pin(self.piece()).await;
            }
        }
        Ok(Some(piece))
    }
}

/// Octets of a Return-Path field at the start of a message; 0 if there is none.
fn return_path(message: &[u8]) -> usize {
    let start = message.get(..RETURN_PATH.len()).unwrap_or_default();
    if !start.eq_ignore_ascii_case(RETURN_PATH) {
        return 0;
    }
    let line = message.get(..message.len().min(RETURN_PATH_MAX)).unwrap_or_default();
    let end = memchr::memchr(b'\n', line).map_or(0, |at| at + 1);
    // We fold no such field, so a folded one is not ours.
    match message.get(end) {
        Some(b' ' | b'\t') => 0,
        _ => end,
    }
}

impl Content for StoredContent {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<&[u8]>, String>> {
        Box::pin(async move {
            match self.piece().await {
                Ok(Some(piece)) => {
                    self.piece = piece;
                    Ok(Some(&*self.piece))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// What a message contains.
pub(super) struct Surveyed {
    /// How it is made 7-bit. `None` if it cannot be (RFC 3463: 5.6.3).
    pub plan: Option<Plan>,
    /// A header has octets beyond ASCII, or nothing is known about it.
    pub needs_utf8: bool,
}

/// Reads a message once for what it contains.
///
/// # Errors
/// If it cannot be read.
pub(super) async fn survey(
    partition: &Partition,
    body: MessageBody,
) -> Result<Surveyed, StoreError> {
    let summary = partition.queue().await?.read_summary(&body).await?;
    let Ok(summary) = Summary::decode(&summary) else {
        return Ok(Surveyed { plan: None, needs_utf8: true });
    };
    let mut survey = Survey::new(&summary);
    let mut content = StoredContent::whole(partition, body);
    while let Some(piece) = content.piece().await? {
        survey.push(&piece);
    }
    let needs_utf8 = survey.needs_utf8();
    Ok(Surveyed { plan: survey.finish().ok(), needs_utf8 })
}

/// The signatures of a message that is sent as `plan` makes it: those of ours would fail, and are
/// made again (RFC 6376 5.3). `None` if none is ours. `binary`: it came as BODY=BINARYMIME.
///
/// # Errors
/// If it cannot be read.
pub(super) async fn sign_again(
    shard: &Shard,
    partition: &Partition,
    body: MessageBody,
    plan: &Plan,
    binary: bool,
) -> Result<Option<SignedAgain>, StoreError> {
    let (mut before, mut after) = (SignedText::new(binary), SignedText::new(false));
    let mut content = StoredContent::whole(partition, body);
    let (mut rewriter, mut out) = (Rewriter::new(plan), Vec::new());
    while let Some(piece) = content.piece().await? {
        before.push(&piece);
        rewriter.push(&piece, &mut out);
        after.push(&out);
        out.clear();
    }
    rewriter.finish(&mut out);
    after.push(&out);
    let (Some(before), Some(after)) = (before.finish(), after.finish()) else { return Ok(None) };
    Ok(shard.signing.sign_again(before, after, shard.executor.now()).await)
}

/// A message as a [`Plan`] makes it, for other servers.
pub(super) struct Converted<'a> {
    stored: StoredContent,
    rewriter: Rewriter<'a>,
    rewritten: Vec<u8>,
    /// Bare CR and LF, which BDAT may have brought, become CRLF before the header is looked at.
    sent: BodyEncoder,
    out: Vec<u8>,
    strips: bool,
    ended: bool,
    /// New signatures, put in while the header passes.
    signatures: Option<SignedAgain>,
}

impl<'a> Converted<'a> {
    pub(super) fn new(
        partition: &Partition,
        body: MessageBody,
        plan: &'a Plan,
        signatures: Option<SignedAgain>,
    ) -> Converted<'a> {
        Converted {
            stored: StoredContent::whole(partition, body),
            rewriter: Rewriter::new(plan),
            rewritten: Vec::new(),
            sent: BodyEncoder::chunks(false),
            out: Vec::new(),
            strips: true,
            ended: false,
            signatures,
        }
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        self.out.clear();
        // A header that is signed is short (`MessageDigest` gives up on others), so it is
        // collected.
        while !self.ended && (self.out.is_empty() || self.in_signed_header()) {
            match self.stored.piece().await? {
                Some(piece) => self.rewriter.push(&piece, &mut self.rewritten),
                None => {
                    self.ended = true;
                    self.rewriter.finish(&mut self.rewritten);
                }
            }
            self.sent.push(&self.rewritten, &mut self.out);
            self.rewritten.clear();
            if self.ended {
                self.sent.finish(&mut self.out);
            }
            if !self.out.is_empty() && std::mem::take(&mut self.strips) {
                let field = return_path(&self.out);
                self.out.drain(..field);
            }
        }
        if let Some(signatures) = self.signatures.take() {
            replace_signatures(&mut self.out, &signatures);
        }
        Ok(())
    }

    fn in_signed_header(&self) -> bool {
        self.signatures.is_some() && header_end(&self.out).is_none()
    }
}

impl Content for Converted<'_> {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<&[u8]>, String>> {
        Box::pin(async move {
            match self.fill().await {
                Ok(()) if self.out.is_empty() => Ok(None),
                Ok(()) => Ok(Some(&*self.out)),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// Where the empty line behind the header begins.
fn header_end(message: &[u8]) -> Option<usize> {
    memchr::memmem::find(message, b"\r\n\r\n").map(|at| at + 2)
}

/// Takes the fields out of the header that `message` begins with, and puts the new ones on top.
fn replace_signatures(message: &mut Vec<u8>, signatures: &SignedAgain) {
    let mut end = header_end(message).unwrap_or(message.len());
    for stale in &signatures.stale {
        let header = message.get(..end).unwrap_or_default();
        let begins = |at: usize| at == 0 || header.get(..at).is_some_and(|it| it.ends_with(b"\n"));
        if let Some(at) = memchr::memmem::find_iter(header, stale).find(|at| begins(*at)) {
            message.drain(at..at + stale.len());
            end -= stale.len();
        }
    }
    message.splice(..0, signatures.fields.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_signatures_go_and_new_ones_come() {
        let signatures = SignedAgain {
            stale: vec![b"S: one\r\n".to_vec(), b"S: two\r\n".to_vec(), b"S: no\r\n".to_vec()],
            fields: b"S: new\r\n".to_vec(),
        };
        for (message, expected) in [
            (
                "S: two\r\nXS: one\r\nS: one\r\nA: b\r\n\r\nS: one\r\n",
                "XS: one\r\nA: b\r\n\r\nS: one\r\n",
            ),
            ("S: one\r\n\r\nbody", "\r\nbody"),
            ("A: b\r\n\r\nS: one\r\n", "A: b\r\n\r\nS: one\r\n"),
            ("S: one\r\n", ""),
            ("", ""),
        ] {
            let mut message = message.as_bytes().to_vec();
            replace_signatures(&mut message, &signatures);
            assert_eq!(String::from_utf8(message).unwrap(), format!("S: new\r\n{expected}"));
        }
    }

    #[test]
    fn only_our_return_path_goes() {
        let cases: &[(&[u8], usize)] = &[
            (b"Return-Path: <a@b>\r\nReceived: x\r\n", 20),
            (b"return-path:<>\r\n\r\n", 16),
            (b"Return-Path: <a@b>\r\n folded\r\n", 0),
            (b"Return-Path", 0),
            (b"Received: x\r\nReturn-Path: <>\r\n", 0),
            (b"Return-Path: without end", 0),
            (b"", 0),
        ];
        for (message, expected) in cases {
            assert_eq!(return_path(message), *expected, "{}", String::from_utf8_lossy(message));
        }
    }
}
