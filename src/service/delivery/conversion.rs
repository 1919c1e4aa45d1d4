//! A message with NUL on its way into mailboxes, written without it: parts that have it get base64,
//! as those of APPEND do (`service/imap/accounts/conversion.rs`).
//!
//! IMAP and POP3 must not show it, and BODYSTRUCTURE must say what BODY shows (RFC 3516 6). A
//! message that cannot be written so stays as it is: it was accepted, and those who read it get
//! another octet in its place. The message passes three times from where it is staged, for its
//! parts, for what is in them, and to be written.

use super::{Delivery, Part, Stage};
use crate::{
    model::AccountId,
    protocol::mime::{
        Summarizer,
        downgrade::{Plan, Rewriter, Survey},
    },
    service::budget::Charge,
};

/// Octets rewritten at a time: what comes of them has at most four times as many.
const SLICE: usize = 16 * 1024;

impl Delivery {
    /// Whether the complete message is to be written without NUL, if it can be: it is for a
    /// mailbox. Copies for the queue change with it.
    pub fn is_to_lose_nul(&self) -> bool {
        let for_mailbox = |part: &Part| part.accounts.iter().any(|it| *it != AccountId::QUEUE);
        self.has_nul && self.parts.iter().any(for_mailbox)
    }

    /// Writes the complete message without NUL, and to `written`, too, if it can be. False if it
    /// stays as it is, whatever was written.
    ///
    /// To be called before its prologue is set.
    pub async fn lose_nul(&mut self, written: &mut dyn FnMut(&[u8])) -> bool {
        let Some(plan) = self.plan().await else { return false };
        let mut converted = self.begin_again();
        let (mut rewriter, mut out) = (Rewriter::new(&plan), Vec::new());
        let mut offset = 0;
        loop {
            // Where nothing can be read nothing can be stored either.
            let Ok(piece) = self.read(offset).await else { return false };
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            for octets in piece.chunks(SLICE) {
                rewriter.push(octets, &mut out);
                written(&out);
                converted.push(&out).await;
                out.clear();
                self.shard.executor.yield_now().await;
            }
        }
        rewriter.finish(&mut out);
        written(&out);
        converted.push(&out).await;
        *self = converted;
        true
    }

    /// What is to be done with its parts; `None` if it stays as it is.
    async fn plan(&self) -> Option<Plan> {
        let mut summarizer = Summarizer::new();
        self.pass(&mut |octets| summarizer.push(octets)).await?;
        let mut survey = Survey::for_nul(&summarizer.finish());
        self.pass(&mut |octets| survey.push(octets)).await?;
        let plan = survey.finish().ok()?;
        let is_lossless = !plan.rewrites_around() && !plan.breaks_signature();
        (plan.changes() && is_lossless).then_some(plan)
    }

    /// Passes the message to `take`; `None` if it cannot be read.
    async fn pass(&self, take: &mut dyn FnMut(&[u8])) -> Option<()> {
        let mut offset = 0;
        loop {
            let piece = self.read(offset).await.ok()?;
            if piece.is_empty() {
                return Some(());
            }
            offset += piece.len() as u64;
            take(&piece);
            self.shard.executor.yield_now().await;
        }
    }

    /// The same delivery, with nothing pushed.
    fn begin_again(&self) -> Delivery {
        let parts = self.parts.iter().map(|part| Part {
            partition: part.partition,
            accounts: part.accounts.clone(),
            stage: match &part.stage {
                Stage::Local { partition, .. } => {
                    Stage::Local { partition: partition.clone(), writer: partition.stage() }
                }
                Stage::Remote | Stage::Streaming(_) => Stage::Remote,
                Stage::Failed(failure) => Stage::Failed(*failure),
            },
        });
        Delivery {
            shard: self.shard.clone(),
            summarizer: Summarizer::new(),
            has_nul: false,
            prologue: Vec::new(),
            quarantined: self.quarantined.clone(),
            posts: self.posts.clone(),
            parts: parts.collect(),
            pending: Vec::new(),
            sent: 0,
            charge: Charge::new(&self.shard.messages, self.charge.class()),
            internal_date: self.internal_date,
            repetition: self.repetition,
            trail: self.trail,
            outgoing: self.outgoing.clone(),
        }
    }
}
