//! Staged messages with NUL, rewritten without it: parts that have it get base64.
//!
//! No client is sent NUL but by BINARY (RFC 9051 4.3.1), and what BODY and BODYSTRUCTURE say of a
//! message must agree (RFC 3516 6). So the message that is stored is the one that BODY shows, and
//! its size, its quota and its cards are that one's; BINARY decodes, and gives the octets that were
//! appended (RFC 3516 4.4). The message has been staged by then, and is read twice from there: to
//! find out what is in its parts, and to write it.
//!
//! Runs where the log is. Memory: a chunk that is read, one that is staged, and little more.

use std::rc::Rc;

use super::super::reply::Failure;
use crate::{
    protocol::{
        imap::Code,
        mime::{
            Summarizer, Summary,
            downgrade::{Plan, Rewriter, Survey},
        },
    },
    runtime::executor::Executor,
    service::budget::Charge,
    store::BodyWriter,
};

/// Octets rewritten at a time: what comes of them has at most four times as many.
const SLICE: usize = 16 * 1024;

/// A message that has NUL, and must not as it is stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::service::imap) struct Conversion {
    /// Octets that it may have then.
    pub octets_max: u64,
}

impl Conversion {
    /// Writes the message in `source`, of which `summary` is, to `target`, and returns it with its
    /// own summary.
    ///
    /// # Errors
    /// `UNKNOWN-CTE` if it cannot be written without NUL and say the same.
    pub(super) async fn run(
        self,
        source: &mut BodyWriter,
        summary: &[u8],
        target: BodyWriter,
        executor: &Rc<dyn Executor>,
        charge: &mut Charge,
    ) -> Result<(BodyWriter, Vec<u8>), Failure> {
        let plan = survey(source, summary, executor).await?;
        let mut copy = Copy { conversion: self, target, summarizer: Summarizer::new() };
        let (mut rewriter, mut out) = (Rewriter::new(&plan), Vec::new());
        let mut offset = 0;
        loop {
            let piece = source.read(offset).await?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            for octets in piece.chunks(SLICE) {
                rewriter.push(octets, &mut out);
                copy.push(&out, source, piece.len(), charge).await?;
                out.clear();
                executor.yield_now().await;
            }
        }
        rewriter.finish(&mut out);
        copy.push(&out, source, 0, charge).await?;
        let Copy { target, summarizer, .. } = copy;
        Ok((target, summarizer.finish().encode()))
    }
}

/// What is to be done with each part.
async fn survey(
    source: &BodyWriter,
    summary: &[u8],
    executor: &Rc<dyn Executor>,
) -> Result<Plan, Failure> {
    let unreadable = |_| Failure::no(Code::ServerBug, "The parts of the message are not known");
    let summary = Summary::decode(summary).map_err(unreadable)?;
    let mut survey = Survey::for_nul(&summary);
    let mut offset = 0;
    loop {
        let piece = source.read(offset).await?;
        if piece.is_empty() {
            break;
        }
        offset += piece.len() as u64;
        survey.push(&piece);
        executor.yield_now().await;
    }
    let unknown = "NUL octets in a part whose encoding is not known, or that has parts itself";
    let plan = survey.finish().map_err(|_| Failure::no(Code::UnknownCte, unknown))?;
    if plan.rewrites_around() {
        // These have no encoding that could keep it.
        let text = "NUL octets in a header, or outside of all parts";
        return Err(Failure::no(Code::UnknownCte, text));
    }
    if plan.breaks_signature() {
        // RFC 1847 2.1, RFC 3516 6: the signature would fail, and nobody would know why.
        let text = "NUL octets in a signed part, which must be encoded before it is signed";
        return Err(Failure::no(Code::UnknownCte, text));
    }
    Ok(plan)
}

/// The message as it is written.
struct Copy {
    conversion: Conversion,
    target: BodyWriter,
    summarizer: Summarizer,
}

impl Copy {
    /// `at_hand`: octets read that are still in memory.
    async fn push(
        &mut self,
        octets: &[u8],
        source: &mut BodyWriter,
        at_hand: usize,
        charge: &mut Charge,
    ) -> Result<(), Failure> {
        let octets_max = self.conversion.octets_max;
        if self.target.size().saturating_add(octets.len() as u64) > octets_max {
            let text = format!("A message may have {octets_max} octets; NUL octets need base64");
            return Err(Failure::no(Code::TooBig, text));
        }
        self.summarizer.push(octets);
        self.target.write(octets).await?;
        let mut within = charge.set(self.memory(source) + at_hand);
        if !within || self.target.staged() >= charge.stage_max(self.target.size()) {
            source.spill().await?;
            self.target.spill().await?;
            within = charge.set(self.memory(source) + at_hand);
        }
        if within { Ok(()) } else { Err(super::staging::too_many()) }
    }

    fn memory(&self, source: &BodyWriter) -> usize {
        source.memory() + self.target.memory() + self.summarizer.memory()
    }
}
