//! APPEND (RFC 3501 6.3.11, RFC 4315): a message from the client, streamed into the store.
//!
//! Octets go from the connection's input to the summary and the log, once; memory does not grow
//! with the message. All that can be refused early is refused before the literal is requested.

use super::super::{
    accounts::{Attributes, Staged, Staging},
    folder::{self, Folder},
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    events::Event,
    model::MailClass,
    protocol::{
        imap::{Code, Literal, mailbox::append::Append},
        mime::Summarizer,
    },
    runtime::connection::ConnectionError,
    service::{budget::Charge, intake::STALL},
    store::Delivered,
};

impl Handler for Append<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = folder::resolve_target(session, &self.mailbox).await?;
        // The charge is held until the store has written the message.
        let (body, _charge) = receive(session, &folder).await?;
        let octets = body.size();
        let keywords = self.flags.keywords.iter().map(|&it| it.to_owned()).collect();
        let now = || session.channel.shard.executor.now();
        let internal_date = self.internal_date.unwrap_or_else(now);
        let attributes = Attributes { flags: self.flags.system, keywords, internal_date };
        let (appended, seen) = folder.append(body, attributes).await?;
        seen.tell(session)?;
        let Delivered { account, mailbox, uid, .. } = appended;
        let trail = session.channel.connection.trail();
        session.channel.shard.tell(&Event::Appended { trail, account, mailbox, uid, octets });
        Done::with_code(Code::AppendUid(appended.uid_validity, appended.uid), "APPEND completed")
    }
}

/// Requests the literal if the client waits for it, and receives it.
async fn receive(session: &mut Session, folder: &Folder) -> Result<(Staged, Charge), Failure> {
    if !session.channel.shard.messages.admits(MailClass::Submission) {
        return Err(too_many());
    }
    // Taken only when it will be read: the conversation discards a refused literal, so that its
    // octets are not read as commands.
    let literal = session.literal.take().ok_or_else(|| Failure::bad("Message literal missing"))?;
    if literal.sync {
        session.writer().continuation("Ready for the message");
        session.channel.flush().await?;
    }
    // A shutdown lets the whole message arrive; the deadline still applies.
    session.channel.connection.set_interruptible(false);
    let received = match folder.stage() {
        Ok(staging) => take_in(session, literal, Incoming::new(session, staging)).await,
        Err(failure) => Err(failure),
    };
    session.channel.connection.set_interruptible(true);
    received
}

/// Receives the literal and the end of the command. The octets are read even if the store refuses
/// them: the stream must stay in sync.
async fn take_in(
    session: &mut Session,
    literal: Literal,
    mut incoming: Incoming,
) -> Result<(Staged, Charge), Failure> {
    let mut refusal: Option<Failure> = None;
    let mut pace = session.literal_pace();
    let mut remaining = literal.size;
    while remaining > 0 {
        if session.channel.connection.input().is_empty() && incoming.staging.staged() > 0 {
            let waited = session.wait_for_literal(&mut pace, Some(STALL)).await;
            if matches!(waited, Err(ConnectionError::TimedOut)) {
                refusal = incoming.stalled().await.err().or(refusal);
            } else {
                waited?;
            }
        }
        let count = session.literal_input(remaining, &mut pace).await?;
        if refusal.is_none() {
            let chunk = session.channel.connection.input().get(..count).unwrap_or_default();
            // RFC 3501 4.3: a literal has no NUL; RFC 3516 4.4: a literal8 may.
            if !literal.binary && memchr::memchr(0, chunk).is_some() {
                refusal = Some(Failure::no(Code::Cannot, "The message contains NUL octets"));
            } else {
                refusal = incoming.push(chunk).await.err();
            }
            if refusal.is_some() {
                incoming.let_go();
            }
        }
        session.channel.connection.consume(count);
        remaining -= count as u64;
    }
    let rest = session.next_part(&mut pace).await?;
    Append::parse_rest(&rest).map_err(Failure::bad)?;
    match refusal {
        Some(refusal) => Err(refusal),
        None => {
            let summary = incoming.summarizer.finish().encode();
            Ok((incoming.staging.finish(summary).await?, incoming.charge))
        }
    }
}

/// A message being received, and the memory it takes.
struct Incoming {
    staging: Staging,
    summarizer: Summarizer,
    charge: Charge,
}

impl Incoming {
    fn new(session: &Session, staging: Staging) -> Incoming {
        Incoming {
            staging,
            summarizer: Summarizer::new(),
            charge: Charge::new(&session.channel.shard.messages, MailClass::Submission),
        }
    }

    async fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.summarizer.push(octets);
        self.staging.write(octets).await?;
        let stage_max = self.charge.stage_max(self.staging.size());
        self.settle(stage_max, octets.len()).await
    }

    /// The client is slow: holds less memory for it if memory is short.
    async fn stalled(&mut self) -> Result<(), Failure> {
        let stage_max = self.charge.stage_max_stalled(self.staging.size());
        if stage_max < usize::MAX {
            self.staging.shrink();
        }
        self.settle(stage_max, 0).await
    }

    /// Charges the memory held; spills the body once `stage_max` octets are staged, or if the
    /// charge is refused.
    async fn settle(&mut self, stage_max: usize, at_hand: usize) -> Result<(), Failure> {
        let mut within = self.charge.set(self.memory());
        if self.staging.staged() >= stage_max || !within {
            // Octets still in the connection's buffer wait for the log, too.
            let _ = self.charge.set(self.memory() + at_hand);
            self.staging.spill().await?;
            within = self.charge.set(self.memory());
        }
        if within { Ok(()) } else { Err(too_many()) }
    }

    fn memory(&self) -> usize {
        self.staging.memory() + self.summarizer.memory()
    }

    /// Releases everything: the message is refused.
    fn let_go(&mut self) {
        self.staging = Staging::Nowhere;
        self.summarizer = Summarizer::new();
        let _ = self.charge.set(0);
    }
}

fn too_many() -> Failure {
    Failure::no(Code::Limit, "Too many messages under way; try again later")
}
