//! The service's part of one mail transaction: the recipients, and the message being received.

use std::{collections::BTreeMap, fmt::Write, rc::Rc, time::Duration};

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::{
    policy::{self, Client, Disposition, FIELDS_MAX, Ruling, Step},
    recipient::{Accepted, Aim, Recipient, Recipients, Route},
    replies::{
        MAILBOX_FULL, MAILBOX_FULL_NOW, MAILBOX_REFUSED, MESSAGES_BUSY, QUEUE_FULL, STORE_FULL,
        STORE_TROUBLE, TOO_BUSY,
    },
};
use crate::{
    directory::Directory,
    dkim::Signer,
    events::{Event, Limit},
    model::{AccountId, MailClass, Timestamp, Trail},
    protocol::{
        mime::HeaderRewriter,
        smtp::{
            BodyKind, ByMode, Hold, MailParameters, Opening, RecipientParameters, Reply, Role,
            Sender, Session, TlsRequired, Trace, Verdict, reply,
        },
    },
    queue::{self, Origin},
    runtime::connection::Connection,
    service::{
        Shard,
        budget::Charge,
        delivery::{Delivery, Failure, Poster},
        quota,
        signed_text::SignedText,
    },
    store::Partition,
};

/// Counts messages that were refused after their content or because of it.
pub(super) const MESSAGES_FAILED: &str = "smtp_messages_failed_total";

/// Octets of Return-Path and Received in most messages.
const TRACE_SIZE: usize = 512;

/// Memory of recipients that is too small to count.
const RECIPIENTS_FREE: usize = 4 * 1024;
/// Memory of recipients that is kept between transactions.
const RECIPIENTS_KEPT: usize = 1024;

/// Recipients accepted since MAIL and the message to them. Kept between transactions to reuse its
/// memory if there were few.
pub(super) struct Envelope {
    recipients: Recipients,
    /// The user who sends to sub-addresses.
    poster: Option<Poster>,
    /// The disposition for all of them so far.
    disposition: Disposition,
    delivery: Option<Box<Delivery>>,
    /// Determines whether the message begins with a header.
    opening: Opening,
    /// Octets of the message held back until that is known: rarely any, and few.
    held: Vec<u8>,
    /// Whether that is known and was written.
    opened: bool,
    passage: Passage,
    /// Looks for the field in a message that goes into the queue.
    tls_required: Option<Box<TlsRequired>>,
    /// What MAIL asked for.
    asked: Asked,
    /// The size that MAIL announced; 0 if it did not.
    announced: u64,
    /// The message's id, in our Received field and the reply.
    id: String,
    /// When the message began.
    began: Timestamp,
    /// The trail of the current message, or of the last one.
    trail: Trail,
    /// Of the client.
    class: MailClass,
    /// Charges the memory of `recipients`, once there are many; its class is the message's.
    charge: Charge,
}

/// What the octets of a message pass on their way into the delivery.
#[derive(Default)]
struct Passage {
    /// Rewrites domains of senders: `None` for strangers, and without the setting.
    rewriter: Option<Box<HeaderRewriter>>,
    /// Signs the message: `None` for strangers, and for domains without a key.
    signature: Option<Box<(Signer, SignedText)>>,
}

impl Passage {
    async fn pass(&mut self, directory: &Directory, delivery: &mut Delivery, octets: &[u8]) {
        match self.rewriter.as_mut().filter(|rewriter| !rewriter.is_over()) {
            Some(rewriter) => {
                let octets = rewriter.push(octets, |domain| directory.rewritten_domain(domain));
                self.pass_rewritten(delivery, &octets).await;
            }
            None => self.pass_rewritten(delivery, octets).await,
        }
    }

    /// The message is complete.
    async fn end(&mut self, directory: &Directory, delivery: &mut Delivery) {
        if let Some(mut rewriter) = self.rewriter.take() {
            let rest = rewriter.finish(|domain| directory.rewritten_domain(domain));
            self.pass_rewritten(delivery, &rest).await;
        }
    }

    /// The message is written again before it is signed. `binary`: it came as BODY=BINARYMIME.
    async fn lose_nul(&mut self, delivery: &mut Delivery, binary: bool) {
        let mut text = None;
        let has_signer = self.signature.is_some();
        let written = &mut |octets: &[u8]| {
            if has_signer {
                text.get_or_insert_with(|| SignedText::new(binary)).push(octets);
            }
        };
        // What was read in part only is not what is stored.
        if delivery.lose_nul(written).await
            && let (Some((_, signed)), Some(text)) = (self.signature.as_deref_mut(), text)
        {
            *signed = text;
        }
    }

    async fn pass_rewritten(&mut self, delivery: &mut Delivery, octets: &[u8]) {
        if let Some((_, text)) = self.signature.as_deref_mut() {
            text.push(octets);
        }
        delivery.push(octets).await;
    }
}

/// The result of a message, for the operator.
pub(super) enum Outcome<'a> {
    Accepted {
        octets: u64,
    },
    /// `octets` that were received, if it was refused before its end.
    Refused {
        octets: u64,
        reply: &'a str,
    },
}

impl Envelope {
    /// `trail` is that of the connection, or of its last message.
    pub(super) fn new(shard: &Shard, class: MailClass, trail: Trail) -> Envelope {
        Envelope {
            recipients: Recipients::default(),
            poster: None,
            disposition: Disposition::default(),
            delivery: None,
            opening: Opening::default(),
            held: Vec::new(),
            opened: false,
            passage: Passage::default(),
            tls_required: None,
            asked: Asked::default(),
            announced: 0,
            id: String::new(),
            began: Timestamp::default(),
            trail,
            class,
            charge: Charge::new(&shard.messages, class),
        }
    }

    pub(super) fn clear(&mut self) {
        self.recipients.clear();
        self.poster = None;
        self.disposition = Disposition::default();
        self.delivery = None;
        self.passage = Passage::default();
        self.tls_required = None;
        self.held = Vec::new();
        if self.recipients.memory() > RECIPIENTS_KEPT {
            self.recipients = Recipients::default();
            let _ = self.charge.set(0);
        }
    }

    /// A user sends the message: asked for only if it matters.
    pub(super) fn note_poster(&mut self, poster: impl FnOnce() -> Poster) {
        if self.poster.is_none() && self.recipients.have_details() {
            self.poster = Some(poster());
        }
    }

    pub(super) fn trail(&self) -> Trail {
        self.trail
    }

    pub(super) fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// Sets what happens to the message, unless something worse was already decided.
    pub(super) fn dispose(&mut self, disposition: Disposition) {
        self.disposition = self.disposition.max(disposition);
    }

    /// The class of a message with this sender.
    fn class_of(&self, sender: &Sender<'_>) -> MailClass {
        let is_null = sender.reverse_path.mailbox().is_none();
        match self.class {
            MailClass::Inbound | MailClass::Submission if is_null => MailClass::NullSender,
            class => class,
        }
    }

    /// Whether the shard takes another message of this client, as busy as it is.
    ///
    /// # Errors
    /// The reply, if it does not.
    pub(super) fn admit_to_load(&self, shard: &Shard, sender: &Sender<'_>) -> Result<(), Reply> {
        if shard.load.admits(self.class) {
            return Ok(());
        }
        shard.load.put_off().add(self.class_of(sender), 1);
        shard.events.limit_met(Limit::Lag, None);
        Err(TOO_BUSY)
    }

    /// Whether there is room for one more message of this client.
    pub(super) fn admits(&self, shard: &Shard) -> bool {
        shard.messages.admits(self.charge.class())
    }

    /// Octets of a message to read at a time.
    pub(super) fn read_max(&self, shard: &Shard) -> usize {
        shard.messages.read_max(self.charge.class())
    }

    /// Whether a message has begun and not ended.
    pub(super) fn under_way(&self) -> bool {
        self.delivery.is_some()
    }

    /// Whether part of the message waits in memory.
    pub(super) fn is_staged(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.is_staged())
    }

    /// The client pauses in the middle of its message.
    pub(super) async fn stalled(&mut self) {
        if let Some(delivery) = &mut self.delivery {
            delivery.stalled().await;
        }
    }

    /// The client logged in: its memory is charged as a known client's from now on.
    pub(super) fn trust(&mut self, shard: &Shard) {
        self.clear();
        self.class = MailClass::Submission;
        self.charge = Charge::new(&shard.messages, self.class);
    }

    /// Adds a recipient.
    ///
    /// # Errors
    /// The reply, if it cannot be delivered to, or there is no memory for more.
    pub(super) fn add(
        &mut self,
        shard: &Shard,
        recipient: &Recipient<'_>,
        disposition: Disposition,
    ) -> Result<(), Reply> {
        match &recipient.route {
            Route::Here { account, .. } => admit(shard, *account)?,
            Route::Refused(reply) => return Err(*reply),
            Route::Rejected { .. } => return Ok(()),
            _ => {}
        }
        if recipient.is_queued() && !shard.relay().admits(self.charge.class()) {
            return Err(QUEUE_FULL);
        }
        self.recipients.push(recipient, disposition);
        let memory = self.recipients.memory();
        if memory > RECIPIENTS_FREE && !self.charge.set(memory) {
            self.recipients.pop();
            return Err(MESSAGES_BUSY);
        }
        Ok(())
    }

    /// Adds octets of the message.
    pub(super) async fn push(&mut self, shard: &Rc<Shard>, content: &[u8]) {
        if self.delivery.is_none() {
            self.begin(shard);
        }
        let Some(delivery) = &mut self.delivery else { return };
        let (passage, directory) = (&mut self.passage, &shard.directory);
        if let Some(seen) = &mut self.tls_required {
            seen.push(content);
        }
        if !self.opened {
            match self.opening.push(content) {
                Verdict::Undecided => return self.held.extend_from_slice(content),
                Verdict::Headless => passage.pass(directory, delivery, b"\r\n").await,
                Verdict::Header => {}
            }
            self.opened = true;
            passage.pass(directory, delivery, &self.held).await;
            self.held = Vec::new();
        }
        passage.pass(directory, delivery, content).await;
    }

    /// Recipients whose copy goes into the queue.
    fn queued(&self) -> impl Iterator<Item = (Accepted<'_>, Disposition, Aim<'_>)> {
        let of_all = self.disposition;
        let queued = self.recipients.queued();
        queued.filter(move |(_, own, _)| (*own).max(of_all) < Disposition::Discard)
    }

    /// Keeps what MAIL asked for.
    pub(super) fn note_sender(&mut self, sender: &Sender<'_>, now: Timestamp) {
        self.asked = Asked::of(&sender.parameters, now);
        self.charge.set_class(self.class_of(sender));
        self.announced = sender.parameters.size.unwrap_or(0);
    }

    /// The octets that MAIL announced (RFC 1870), as far as it did.
    pub(super) fn announced(&self) -> u64 {
        self.announced
    }

    /// Domains of senders in the next message's header are rewritten, or not.
    pub(super) fn rewrite_headers(&mut self, is_wanted: bool) {
        self.passage.rewriter = is_wanted.then(Box::default);
    }

    /// The next message is signed, or not.
    pub(super) fn sign_with(&mut self, signer: Option<Signer>, sender: &Sender<'_>) {
        let binary = sender.parameters.body == BodyKind::BinaryMime;
        self.passage.signature = signer.map(|signer| Box::new((signer, SignedText::new(binary))));
    }

    /// The fields of the signature, if the message gets one.
    async fn signed(&mut self, shard: &Shard) -> Vec<u8> {
        let Some(signature) = self.passage.signature.take() else { return Vec::new() };
        let (signer, text) = *signature;
        let Some(message) = text.finish() else { return Vec::new() };
        let fields = shard.signing.sign(signer, message, self.began).await;
        shard.metrics.count("smtp_messages_signed_total", u64::from(!fields.is_empty()));
        fields
    }

    fn begin(&mut self, shard: &Rc<Shard>) {
        self.began = shard.executor.now();
        self.trail.message += 1;
        self.id.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.id, "{:x}.{:08x}", self.began.0, shard.executor.random() as u32);
        let delivered = |disposition: Disposition| disposition.max(self.disposition);
        let accounts = self.recipients.accounts();
        let kept = accounts.filter(|(_, it)| delivered(*it) < Disposition::Discard);
        let class = self.charge.class();
        let mut delivery = Delivery::new(shard, kept.map(|(account, _)| account), class);
        let folders = self.recipients.folders();
        if !folders.is_empty() {
            delivery = delivery.posted_by(self.poster.clone().unwrap_or_default(), folders);
        }
        if self.queued().next().is_some() {
            delivery = delivery.with_queue();
            self.tls_required = Some(Box::default());
        }
        (self.opening, self.opened) = (Opening::default(), false);
        self.held.clear();
        self.delivery = Some(Box::new(delivery.under(self.trail)));
    }

    /// The prologue of the message: the return path (RFC 5321 4.4), fields that the policy adds,
    /// our Received field and our signature.
    fn prologue(
        &self,
        shard: &Shard,
        session: &Session,
        connection: &Connection,
        fields: &[u8],
        signed: &[u8],
    ) -> Vec<u8> {
        let tls = connection.tls_description();
        let trace = Trace {
            reverse_path: session.reverse_path(),
            client_name: session.client_name(),
            peer: connection.peer().ip(),
            hostname: &shard.options.hostname,
            transport: session.transport(),
            tls: tls.as_deref(),
            id: &self.id,
            forward_path: self.recipients.only_path(),
            now: self.began,
        };
        let fits = fields.len() <= FIELDS_MAX && fields.ends_with(b"\r\n");
        let mut prologue = Vec::with_capacity(TRACE_SIZE + fields.len() + signed.len());
        trace.append_return_path_to(&mut prologue);
        prologue.extend_from_slice(if fits { fields } else { &[] });
        trace.append_received_to(&mut prologue);
        prologue.extend_from_slice(signed);
        prologue
    }

    /// Ends the message and appends its reply or replies. True if it was accepted.
    pub(super) async fn finish(
        &mut self,
        shard: &Rc<Shard>,
        session: &Session,
        connection: &Connection,
        client: Client<'_>,
        output: &mut Vec<u8>,
    ) -> bool {
        // An empty message has no content that would have begun it.
        if self.delivery.is_none() {
            self.begin(shard);
        }
        let Some(mut delivery) = self.delivery.take() else {
            return false;
        };
        // A message that ended before its first line was known to be a field has no header.
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.passage.pass(&shard.directory, &mut delivery, b"\r\n").await;
            self.passage.pass(&shard.directory, &mut delivery, &held).await;
        }
        self.passage.end(&shard.directory, &mut delivery).await;
        let octets = delivery.size();
        let mut ruling = Ruling::from(policy::Verdict::Accept);
        if !delivery.is_for_nobody() {
            let step = Step::Message { recipients: &self.recipients, message: &delivery };
            ruling = policy::ask(shard, client, step).await;
        }
        let results = match ruling.verdict.disposition() {
            Err(refusal) => Err(refusal),
            Ok(disposition) => {
                self.dispose(disposition);
                // The policy has seen what came, and signatures of what came.
                if self.disposition != Disposition::Discard && delivery.is_to_lose_nul() {
                    let binary = self.asked.is_binary();
                    Box::pin(self.passage.lose_nul(&mut delivery, binary)).await;
                }
                let signed = self.signed(shard).await;
                let prologue = self.prologue(shard, session, connection, &ruling.fields, &signed);
                if self.queued().next().is_some() {
                    delivery.send_on(self.outgoing(shard, session, client));
                }
                Ok(self.deliver(*delivery, prologue, client.listener.role()).await)
            }
        };
        let replies = if client.listener.role() == Role::Lmtp { self.recipients.len() } else { 1 };
        let refusal = match results {
            Err(refusal) => {
                (0..replies).for_each(|_| refusal.append_to(output));
                Some(refusal)
            }
            Ok(results) => {
                for (result, what) in results.iter().zip(self.accepted_as(client.listener.role())) {
                    append_reply(shard, *result, (what, &self.id), output);
                }
                let failure = results.iter().find_map(|result| result.err());
                let failure = failure.filter(|_| !results.iter().any(Result::is_ok));
                failure.map(|failure| failure_reply(shard, failure))
            }
        };
        let accepted = refusal.is_none();
        match refusal {
            None => {
                shard.load.accepted().add(self.charge.class(), 1);
                self.tell(shard, session, client, Outcome::Accepted { octets });
            }
            Some(Reply(reply)) => {
                self.tell(shard, session, client, Outcome::Refused { octets, reply });
            }
        }
        let counter = match (accepted, self.disposition) {
            (false, _) => MESSAGES_FAILED,
            (true, Disposition::Deliver) => "smtp_messages_accepted_total",
            (true, Disposition::Quarantine) => "smtp_messages_quarantined_total",
            (true, Disposition::Discard) => "smtp_messages_discarded_total",
        };
        shard.metrics.count(counter, 1);
        self.clear();
        accepted
    }

    /// Logs the event, before the session forgets the transaction.
    pub(super) fn tell(
        &self,
        shard: &Shard,
        session: &Session,
        client: Client<'_>,
        outcome: Outcome<'_>,
    ) {
        // XFORWARD: the log names the client of the server before.
        let forwarded = session.forwarded();
        let peer = forwarded.and_then(|it| it.address).unwrap_or(client.peer);
        let name = forwarded.and_then(|it| it.hello.as_deref()).unwrap_or(client.name);
        macro_rules! event {
            ($event:ident { $($own:tt)* }) => {
                Event::$event {
                    trail: self.trail,
                    protocol: client.listener.protocol(),
                    peer,
                    client: name,
                    tls: client.tls,
                    from: session.reverse_path(),
                    to: self.recipients.only_path(),
                    recipients: self.recipients.len() as u64,
                    account: client.account,
                    $($own)*
                }
            };
        }
        shard.tell(&match outcome {
            Outcome::Accepted { octets } => event!(Message { id: &self.id, octets }),
            Outcome::Refused { octets, reply } => event!(MessageRefused { octets, reply }),
        });
    }

    /// The results of the delivery: one, or in LMTP one for each recipient.
    async fn deliver(
        &self,
        mut delivery: Delivery,
        prologue: Vec<u8>,
        role: Role,
    ) -> SmallVec<[Result<(), Failure>; 1]> {
        let of_all = self.disposition;
        let each = || self.recipients.accounts().map(|(it, own)| (it, own.max(of_all)));
        if of_all == Disposition::Discard {
            let count = if role == Role::Lmtp { self.recipients.len() } else { 1 };
            return std::iter::repeat_n(Ok(()), count).collect();
        }
        // An account named twice gets the milder of the two dispositions.
        let clean = |account| each().any(|it| it == (account, Disposition::Deliver));
        let suspect = each().filter(|(account, it)| {
            *it == Disposition::Quarantine && (of_all == *it || !clean(*account))
        });
        delivery.quarantine(suspect.map(|(account, _)| account).collect());
        delivery.prepend(prologue);
        if role != Role::Lmtp {
            return SmallVec::from_elem(delivery.finish_together().await, 1);
        }
        let outcome = delivery.finish_each().await;
        let result = |(accounts, queued, own): (SmallVec<[AccountId; 1]>, bool, Disposition)| {
            if own.max(of_all) == Disposition::Discard {
                return Ok(());
            }
            let here = accounts.iter().try_for_each(|account| outcome.of(*account));
            here.and(if queued { outcome.of_queue() } else { Ok(()) })
        };
        self.recipients.each().map(result).collect()
    }

    /// The envelope of the copy in the queue.
    fn outgoing(&self, shard: &Shard, session: &Session, client: Client<'_>) -> queue::Envelope {
        let directory = &shard.directory;
        let own = client.listener.role() == Role::Submission || client.account.is_some();
        let mut sender = session.reverse_path().to_owned();
        if own && let Some(rewritten) = directory.rewritten_sender(&sender) {
            sender = rewritten;
        }
        let now = Duration::from_micros(self.began.0.unsigned_abs());
        // RFC 8689 4.1: what MAIL asks for comes first.
        let any_tls = !self.asked.parameters.require_tls
            && self.tls_required.as_ref().is_some_and(|seen| seen.is_no());
        let mut recipients = BTreeMap::new();
        let mut relayed = false;
        // Aliases overlap, and clients repeat themselves: each address gets one copy.
        let mut seen = HashSet::new();
        let queued = self.queued().filter(|(_, _, aim)| {
            seen.insert(match *aim {
                Aim::Account(account) | Aim::Reported(account) => (Some(account), ""),
                Aim::Onward { address, .. } => (None, address),
            })
        });
        for (number, (accepted, own_disposition, aim)) in (1..).zip(queued) {
            let RecipientParameters { orcpt, notify } = accepted.parameters;
            let mut recipient = queue::Recipient {
                original: orcpt.map(str::to_owned),
                notify,
                any_tls,
                quarantined: own_disposition.max(self.disposition) == Disposition::Quarantine,
                ..queue::Recipient::default()
            };
            match aim {
                Aim::Account(account) | Aim::Reported(account) => {
                    recipient.address = accepted.path.to_owned();
                    recipient.account = Some(account);
                }
                Aim::Onward { address, reason } => {
                    recipient.address = address.to_owned();
                    match reason {
                        None => {
                            relayed = true;
                            recipient.sender = directory.variable_sender(&sender, address);
                        }
                        Some(_) => {
                            // RFC 3461 5.2.7.2: reports name the recipient as the sender knew it.
                            let original = || queue::original_recipient(accepted.path);
                            recipient.original.get_or_insert_with(original);
                            recipient.sender = directory.forwarded_sender(&sender, now);
                        }
                    }
                }
            }
            recipients.insert(number, recipient);
        }
        let origin = match (own, relayed) {
            (true, _) => Origin::Submission,
            (false, true) => Origin::Relay,
            (false, false) => Origin::Inbound,
        };
        let Asked { ref parameters, .. } = self.asked;
        queue::Envelope {
            arrived: self.began,
            origin,
            sender,
            // RFC 6710 5.1: only who is known to us may ask for more.
            priority: if origin == Origin::Inbound { 0 } else { parameters.priority },
            trail: self.trail.to_string(),
            id: self.id.clone(),
            recipients,
            ..parameters.clone()
        }
    }

    /// What each reply says of a message that was accepted: there is one, or in LMTP one for each
    /// recipient.
    fn accepted_as(&self, role: Role) -> impl Iterator<Item = Reply> {
        let of_all = self.disposition;
        let of_each = self.recipients.each().map(move |(accounts, queued, own)| {
            let kept = own.max(of_all) < Disposition::Discard;
            (kept && !accounts.is_empty(), kept && queued)
        });
        let said = |(delivered, queued)| match (delivered, queued) {
            (false, true) => reply::QUEUED,
            _ => reply::DELIVERED,
        };
        let (each, one) = match role {
            Role::Lmtp => (Some(of_each), None),
            _ => (None, Some(of_each.fold((false, false), |a, b| (a.0 || b.0, a.1 || b.1)))),
        };
        each.into_iter().flatten().chain(one).map(said)
    }
}

fn append_reply(
    shard: &Shard,
    result: Result<(), Failure>,
    (what, id): (Reply, &str),
    output: &mut Vec<u8>,
) {
    match result {
        Ok(()) => reply::append_accepted(output, what, id),
        Err(failure) => failure_reply(shard, failure).append_to(output),
    }
}

/// What MAIL asked for, as the envelope in the queue has it.
#[derive(Default)]
struct Asked {
    parameters: queue::Envelope,
}

impl Asked {
    /// BODY=BINARYMIME.
    fn is_binary(&self) -> bool {
        self.parameters.body == BodyKind::BinaryMime
    }

    fn of(parameters: &MailParameters<'_>, now: Timestamp) -> Asked {
        let deliver_by = parameters.deliver_by.map(|by| {
            let offset = i64::from(by.seconds).saturating_mul(1_000_000);
            queue::DeliverBy {
                deadline: Timestamp(now.0.saturating_add(offset)),
                returns: by.mode == ByMode::Return,
                trace: by.trace,
            }
        });
        let hold_until = parameters.hold.map(|hold| match hold {
            Hold::For(seconds) => now.after(Duration::from_secs(seconds.into())),
            Hold::Until(until) => until,
        });
        Asked {
            parameters: queue::Envelope {
                envelope_id: parameters.envelope_id.map(str::to_owned),
                ret: parameters.ret,
                body: parameters.body,
                smtp_utf8: parameters.smtp_utf8,
                require_tls: parameters.require_tls,
                priority: parameters.priority.unwrap_or(0),
                deliver_by,
                hold_until,
                ..queue::Envelope::default()
            },
        }
    }
}

/// Refuses a recipient whose partition takes no new mail, before the message is sent in vain. A
/// partition of another shard reports it when it gets the message.
fn admit(shard: &Shard, account: AccountId) -> Result<(), Reply> {
    let admits = shard.local_partition(account).map_or(Ok(()), Partition::admits);
    admits.map_err(|error| failure_reply(shard, error.into()))
}

/// The only place where storage errors are mapped to SMTP codes.
fn failure_reply(shard: &Shard, failure: Failure) -> Reply {
    match failure {
        Failure::Full => STORE_FULL,
        Failure::NoMemory => MESSAGES_BUSY,
        Failure::Unavailable => STORE_TROUBLE,
        Failure::OverQuota => mailbox_full(shard),
        Failure::Refused => MAILBOX_REFUSED,
    }
}

fn mailbox_full(shard: &Shard) -> Reply {
    if shard.options.quota.defers { MAILBOX_FULL_NOW } else { MAILBOX_FULL }
}

/// Refuses a recipient who has a quota and no room for one more message, before the message is
/// sent in vain. Those of an alias are not asked: the others may have room.
pub(super) async fn has_room(
    shard: &Rc<Shard>,
    recipient: &Recipient<'_>,
    octets: u64,
) -> Result<(), Reply> {
    match recipient.route {
        Route::Here { account, .. } | Route::Elsewhere { account, .. } => {
            match quota::has_room(shard, account, octets).await {
                true => Ok(()),
                false => Err(mailbox_full(shard)),
            }
        }
        _ => Ok(()),
    }
}
