//! Messages of a command, from the client into the store: for APPEND and REPLACE.
//!
//! Octets go from the connection's input to the summary and the log, once; memory does not grow
//! with the messages. One with NUL is rewritten there when it is complete
//! (`accounts/conversion.rs`). All that can be refused early is refused before a literal is
//! requested. The rest of a command that was refused is discarded by the conversation: what of it
//! is outstanding is in [`Session::literal`].

use super::{
    accounts::{Attributes, Conversion, Staging, too_many},
    folder::{Folder, tell_nearly_full},
    quoted::Quoted,
    reply::{Failure, Reply},
    state::Session,
};
use crate::{
    events::Event,
    model::{Flags, MailClass, Uid},
    protocol::{
        imap::{Code, FlagList, Literal, UploadPart, UploadPlace, UploadStep},
        mime::Summarizer,
    },
    runtime::{LocalFuture, connection::ConnectionError},
    service::{
        budget::Charge,
        intake::{Pace, STALL},
    },
    store::Delivered,
};

/// The messages of a command, complete, and not in the mailbox yet.
pub(super) struct Uploaded {
    staging: Staging,
    messages: Vec<Received>,
    /// Held until the store has written the messages.
    _charge: Charge,
}

/// A message that has come.
struct Received {
    octets: u64,
    is_seen: bool,
}

/// Receives the messages of a command for `folder`. `part` is the first part of the command, which
/// asks for at most `messages_max`.
pub(super) async fn receive(
    session: &mut Session,
    folder: &Folder,
    part: &UploadPart<'_>,
    messages_max: usize,
) -> Result<Uploaded, Failure> {
    if !session.channel.shard.messages.admits(MailClass::Submission) {
        return Err(too_many());
    }
    // A shutdown lets the whole message arrive; the deadline still applies.
    session.channel.connection.set_interruptible(false);
    let received = match Upload::new(session, folder, messages_max) {
        Ok(upload) => upload.take_in(session, part).await,
        Err(failure) => Err(failure),
    };
    session.channel.connection.set_interruptible(true);
    received
}

impl Uploaded {
    /// Puts the messages into `folder`, all or none. `answer` makes the reply to that, at once or
    /// once they are durable.
    pub(super) async fn store(
        self,
        session: &mut Session,
        folder: &Folder,
        answer: fn(&Folder, Vec<Delivered>) -> Reply,
    ) -> Reply {
        let Uploaded { staging, messages, .. } = self;
        let (stored, kept, unsettled) = folder.append(staging, &seen(&messages)).await?;
        kept.tell(session)?;
        let finish = finish(folder.clone(), stored, messages, answer);
        match unsettled {
            None => finish(session).await,
            Some(unsettled) => session.answer_later(unsettled, finish),
        }
    }

    /// Puts the message into `folder` in place of one of the selected mailbox.
    pub(super) async fn store_replacing(
        self,
        session: &mut Session,
        folder: &Folder,
        replaced: Uid,
    ) -> Result<Delivered, Failure> {
        let (selected, seen) = (session.selected()?, seen(&self.messages));
        let (stored, kept) = folder.replace(self.staging, &seen, (selected, replaced)).await?;
        kept.tell(session)?;
        tell_nearly_full(session, folder).await;
        tell_events(session, &[stored], &self.messages);
        Ok(stored)
    }
}

/// What is to be done once the messages are durable.
fn finish(
    folder: Folder,
    stored: Vec<Delivered>,
    messages: Vec<Received>,
    answer: fn(&Folder, Vec<Delivered>) -> Reply,
) -> impl for<'s> FnOnce(&'s mut Session) -> LocalFuture<'s, Reply> {
    move |session| {
        Box::pin(async move {
            tell_events(session, &stored, &messages);
            tell_nearly_full(session, &folder).await;
            answer(&folder, stored)
        })
    }
}

fn seen(messages: &[Received]) -> Vec<bool> {
    messages.iter().map(|message| message.is_seen).collect()
}

fn tell_events(session: &mut Session, stored: &[Delivered], messages: &[Received]) {
    for (delivered, message) in stored.iter().zip(messages) {
        let Delivered { account, mailbox, uid, .. } = *delivered;
        session.note_added((account, mailbox), uid);
        let (trail, octets) = (session.channel.connection.trail(), message.octets);
        session.channel.shard.tell(&Event::Appended { trail, account, mailbox, uid, octets });
    }
}

/// Messages being received, and the memory they take.
struct Upload {
    staging: Staging,
    summarizer: Summarizer,
    charge: Charge,
    pace: Pace,
    messages: Vec<Received>,
    messages_max: usize,
    /// Octets of all the messages.
    octets: u64,
    /// Of the current message.
    attributes: Option<Attributes>,
    /// There is NUL in it.
    has_nul: bool,
}

impl Upload {
    fn new(session: &Session, folder: &Folder, messages_max: usize) -> Result<Upload, Failure> {
        Ok(Upload {
            staging: folder.stage()?,
            summarizer: Summarizer::new(),
            charge: Charge::new(&session.channel.shard.messages, MailClass::Submission),
            pace: session.literal_pace(),
            messages: Vec::new(),
            messages_max,
            octets: 0,
            attributes: None,
            has_nul: false,
        })
    }

    async fn take_in(
        mut self,
        session: &mut Session,
        part: &UploadPart<'_>,
    ) -> Result<Uploaded, Failure> {
        self.run(session, part).await?;
        let mut place = part.place;
        while place != UploadPlace::End {
            let bytes = session.next_part(&mut self.pace).await?;
            let part = UploadPart::parse_rest(place, &bytes).map_err(Failure::bad)?;
            self.run(session, &part).await?;
            place = part.place;
        }
        let Upload { staging, messages, charge, .. } = self;
        Ok(Uploaded { staging, messages, _charge: charge })
    }

    async fn run(&mut self, session: &mut Session, part: &UploadPart<'_>) -> Result<(), Failure> {
        for step in &part.steps {
            match step {
                UploadStep::Begin { flags, internal_date } => {
                    let now = || session.channel.shard.executor.now();
                    let internal_date = internal_date.unwrap_or_else(now);
                    let FlagList { system, keywords } = flags;
                    let keywords = keywords.iter().map(|&it| it.to_owned()).collect();
                    self.begin(session, Attributes { flags: *system, keywords, internal_date })
                        .await?;
                }
                UploadStep::Literal => self.literal(session).await?,
                UploadStep::Utf8Literal if !session.utf8() => {
                    return Err(Failure::no(Code::Cannot, "ENABLE UTF8=ACCEPT first"));
                }
                UploadStep::Utf8Literal => self.literal(session).await?,
                UploadStep::Url(url) => self.quote(session, url).await?,
                UploadStep::End => self.end(session).await?,
            }
        }
        Ok(())
    }

    async fn begin(&mut self, session: &Session, attributes: Attributes) -> Result<(), Failure> {
        if self.messages.len() >= self.messages_max {
            // RFC 9738 3.1, if it is that limit.
            let limit = session.imap().limit_of_saves();
            let limit = limit.filter(|limit| *limit as usize <= self.messages_max);
            let code = limit.map_or(Code::Limit, |limit| Code::MessageLimit(limit, None));
            return Err(Failure::no(code, "Too many messages in one command"));
        }
        if !self.messages.is_empty() {
            self.staging.next().await?;
            self.pace = session.literal_pace();
        }
        self.attributes = Some(attributes);
        Ok(())
    }

    async fn end(&mut self, session: &Session) -> Result<(), Failure> {
        let missing = || Failure::bad("A message is missing");
        let attributes = self.attributes.take().ok_or_else(missing)?;
        let received = self.staging.size();
        if received == 0 {
            // RFC 3502 6.3.11: how a client gives up a command that it has begun.
            return Err(Failure::no(Code::Cannot, "An empty message is not stored"));
        }
        let is_seen = attributes.flags.contains(Flags::SEEN);
        let summarizer = std::mem::replace(&mut self.summarizer, Summarizer::new());
        let summary = summarizer.finish().encode();
        let octets_max = session.imap().limits.message;
        let conversion = std::mem::take(&mut self.has_nul).then_some(Conversion { octets_max });
        let ended = self.staging.end(summary, attributes, conversion, &mut self.charge).await;
        let octets = ended?;
        self.octets = self.octets.saturating_sub(received).saturating_add(octets);
        self.check_all(session, 0)?;
        self.messages.push(Received { octets, is_seen });
        Ok(())
    }

    /// Whether `more` octets of the current message may come.
    fn check_size(&self, session: &Session, more: u64) -> Result<(), Failure> {
        let of_one = session.imap().limits.message;
        if self.staging.size().saturating_add(more) > of_one {
            let text = format!("A message may have {of_one} octets");
            return Err(Failure::no(Code::TooBig, text));
        }
        self.check_all(session, more)
    }

    /// Whether all messages may have `more` octets.
    fn check_all(&self, session: &Session, more: u64) -> Result<(), Failure> {
        let options = session.imap();
        let of_all = options.append_octets_max.max(options.limits.message);
        if self.octets.saturating_add(more) > of_all {
            let text = format!("The messages of one command may have {of_all} octets");
            return Err(Failure::no(Code::TooBig, text));
        }
        Ok(())
    }

    /// Requests the literal if the client waits for it, and receives it.
    async fn literal(&mut self, session: &mut Session) -> Result<(), Failure> {
        let missing = || Failure::bad("Message literal missing");
        let literal = session.literal.ok_or_else(missing)?;
        self.check_size(session, literal.size)?;
        // Taken only when it will be read: the conversation discards a refused literal, so that
        // its octets are not read as commands.
        session.literal = None;
        if literal.sync {
            session.writer().continuation("Ready for the message");
            session.channel.flush().await?;
        }
        let mut remaining = literal.size;
        while remaining > 0 {
            let refused = self.piece(session, literal, &mut remaining).await;
            if let Err(failure) = refused {
                session.literal = Some(Literal { size: remaining, sync: false, ..literal });
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Copies what an URL names.
    async fn quote(&mut self, session: &Session, url: &[u8]) -> Result<(), Failure> {
        let mut quoted = Quoted::find(session, url).await?;
        self.check_size(session, quoted.size())?;
        while quoted.size() > 0 {
            let piece = quoted.next().await?;
            self.has_nul |= memchr::memchr(0, &piece).is_some();
            self.push(&piece).await?;
            session.channel.shard.executor.yield_now().await;
        }
        self.pace = session.literal_pace();
        Ok(())
    }

    /// Receives some of the `remaining` octets of a literal.
    async fn piece(
        &mut self,
        session: &mut Session,
        literal: Literal,
        remaining: &mut u64,
    ) -> Result<(), Failure> {
        if session.channel.connection.input().is_empty() && self.staging.staged() > 0 {
            let waited = session.wait_for_literal(&mut self.pace, Some(STALL)).await;
            if matches!(waited, Err(ConnectionError::TimedOut)) {
                self.stalled().await?;
            } else {
                waited?;
            }
        }
        let count = session.literal_input(*remaining, &mut self.pace).await?;
        let chunk = session.channel.connection.input().get(..count).unwrap_or_default();
        // RFC 3501 4.3: a literal has no NUL; RFC 3516 4.4: a literal8 may.
        let has_nul = memchr::memchr(0, chunk).is_some();
        self.has_nul |= has_nul;
        let pushed = match !literal.binary && has_nul {
            true => Err(Failure::no(Code::Cannot, "The message contains NUL octets")),
            false => self.push(chunk).await,
        };
        session.channel.connection.consume(count);
        *remaining -= count as u64;
        pushed
    }

    async fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.octets += octets.len() as u64;
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
}
