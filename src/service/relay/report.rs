//! Reports to senders: `protocol::report` says what is in one, here the original message is put
//! into it and the whole is staged in the partition of the message it is about.

use std::collections::BTreeMap;

use super::content::StoredContent;
use crate::{
    model::Timestamp,
    protocol::{
        mime::Summarizer,
        report::{Action, Diagnostic, HeaderEnd, RecipientReport, Report, Returned},
        smtp::{BodyKind, Return},
    },
    queue::{self, End, Ends, Envelope, Job, Origin},
    service::Shard,
    store::{BodyWriter, StoreError},
};

/// Octets of a header that a report returns.
const HEADER_MAX: usize = 64 * 1024;

/// Writes the report about `ends` to the sender of the job's message.
pub(super) async fn write(
    shard: &Shard,
    job: &Job<'_>,
    ends: &Ends,
) -> Result<queue::Report, StoreError> {
    let now = shard.executor.now();
    let envelope = job.envelope;
    let id = format!("{:x}.{:016x}", now.0, shard.executor.random());
    let expiry = envelope.begins().after(shard.relay().options().expire);
    let lines: Vec<RecipientReport<'_>> =
        ends.iter().map(|(_, recipient, end)| line(recipient, end, expiry, now)).collect();
    let failed = ends.iter().any(|(_, _, end)| matches!(end, End::Failed(_)));
    let whole = failed
        && envelope.ret != Some(Return::Headers)
        && job.body.size <= shard.relay().options().return_max;
    let mut report = Report {
        hostname: &shard.options.hostname,
        to: &envelope.sender,
        id: &id,
        now,
        arrival: envelope.arrived,
        envelope_id: envelope.envelope_id.as_deref(),
        original_message_id: None,
        recipients: &lines,
        returned: if whole { Returned::Message } else { Returned::Header },
        returned_body: if whole { envelope.body } else { BodyKind::SevenBit },
        returned_utf8: envelope.smtp_utf8,
        utf8: false,
    };
    report.utf8 = envelope.smtp_utf8 && report.has_utf8_addresses();
    if report.returned == Returned::Header && envelope.smtp_utf8 {
        report.returned_body = BodyKind::EightBitMime;
    }
    let body = report.body();
    let smtp_utf8 = report.utf8 || report.returned_utf8;

    let mut out = Writing::new(job.partition.stage());
    out.push(b"Return-Path: <>\r\n").await?;
    let mut text = Vec::new();
    report.append_head(&mut text);
    out.push(&text).await?;
    let mut original = StoredContent::for_others(job.partition, job.body);
    if whole {
        while let Some(piece) = original.piece().await? {
            out.push(&piece).await?;
        }
    } else {
        return_header(&mut original, &mut out).await?;
    }
    text.clear();
    report.append_tail(&mut text);
    out.push(&text).await?;
    let staged = out.writer.finish(out.summarizer.end().encode()).await?;

    let about = Envelope { body, smtp_utf8, id, ..envelope_about(envelope, now) };
    Ok((staged, about))
}

/// The envelope of a report about a message with `envelope`.
fn envelope_about(envelope: &Envelope, now: Timestamp) -> Envelope {
    let address = envelope.sender.clone();
    let recipient = queue::Recipient { address, ..queue::Recipient::default() };
    Envelope {
        arrived: now,
        origin: Origin::Report,
        // RFC 8689 5: it has at least the header of the message in it.
        require_tls: envelope.require_tls,
        trail: envelope.trail.clone(),
        recipients: BTreeMap::from([(1, recipient)]),
        ..Envelope::default()
    }
}

/// A body that is being written, and its summary.
struct Writing {
    writer: BodyWriter,
    summarizer: Summarizer,
}

impl Writing {
    fn new(writer: BodyWriter) -> Writing {
        Writing { writer, summarizer: Summarizer::new() }
    }

    async fn push(&mut self, octets: &[u8]) -> Result<(), StoreError> {
        self.summarizer.push(octets);
        self.writer.write(octets).await
    }
}

async fn return_header(original: &mut StoredContent, out: &mut Writing) -> Result<(), StoreError> {
    let mut header = HeaderEnd::default();
    let mut written = 0;
    while written < HEADER_MAX
        && let Some(piece) = original.piece().await?
    {
        let end = header.push(&piece);
        let most = end.unwrap_or(piece.len()).min(HEADER_MAX - written);
        out.push(piece.get(..most).unwrap_or_default()).await?;
        written += most;
        if end.is_some() {
            break;
        }
    }
    Ok(())
}

fn line<'a>(
    recipient: &'a queue::Recipient,
    end: &'a End,
    expiry: Timestamp,
    now: Timestamp,
) -> RecipientReport<'a> {
    let report = |action, status, diagnostic, remote_mta| RecipientReport {
        final_recipient: &recipient.address,
        original_recipient: recipient.original.as_deref(),
        action,
        status,
        diagnostic,
        remote_mta,
        last_attempt: Some(now),
        retry_until: (action == Action::Delayed).then_some(expiry),
    };
    let of = |action, problem: &'a queue::Problem| {
        let reason = problem.reason.as_str();
        let diagnostic = match problem.is_reply {
            true => Diagnostic::Reply(reason),
            false => Diagnostic::Finding(reason),
        };
        report(action, problem.status.as_str(), Some(diagnostic), problem.host.as_deref())
    };
    match end {
        End::Failed(problem) => of(Action::Failed, problem),
        End::Delayed(problem) => of(Action::Delayed, problem),
        End::Delivered { host, reply, relayed } => {
            let action = if *relayed { Action::Relayed } else { Action::Delivered };
            let remote = (!host.is_empty()).then_some(host.as_str());
            report(action, "2.0.0", remote.map(|_| Diagnostic::Reply(reply)), remote)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_protected_like_its_message() {
        for require_tls in [false, true] {
            let sender = "s@x.test".to_owned();
            let of = Envelope { sender, require_tls, ..Envelope::default() };
            let about = envelope_about(&of, Timestamp(5));
            assert_eq!((about.require_tls, about.sender.as_str()), (require_tls, ""));
            let to: Vec<&str> = about.recipients.values().map(|it| it.address.as_str()).collect();
            assert_eq!(to, ["s@x.test"]);
        }
    }
}
