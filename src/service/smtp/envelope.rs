//! One mail transaction as the service keeps it: recipients, and the message under way.

use std::{fmt::Write, rc::Rc};

use crate::{
    model::AccountId,
    protocol::smtp::{Opening, Reply, Role, Session, Trace, Verdict, reply},
    runtime::connection::Connection,
    service::{
        Shard,
        budget::{Charge, Trust},
        delivery::{Delivery, Failure},
    },
    store::Partition,
};

/// Octets of Return-Path and Received in most messages.
const TRACE_SIZE: usize = 512;

/// Recipients whose memory is not worth counting.
const ACCOUNTS_FEW: usize = 64;

/// Recipients accepted since MAIL and the message to them. Kept between transactions for its
/// memory if they were few.
pub(super) struct Envelope {
    /// As accepted, so with repetitions: LMTP answers for each.
    accounts: Vec<AccountId>,
    /// The forward-path if there is only one.
    first_path: String,
    delivery: Option<Box<Delivery>>,
    /// Tells whether the message under way begins with a header.
    opening: Opening,
    /// Octets of the message kept back until that is known: hardly ever any, and few.
    held: Vec<u8>,
    /// It is known, and said.
    opened: bool,
    /// Of the message under way, in our Received field and the reply.
    id: String,
    /// For `accounts`, once they are many.
    charge: Charge,
}

impl Envelope {
    pub(super) fn new(shard: &Shard, trust: Trust) -> Envelope {
        Envelope {
            accounts: Vec::new(),
            first_path: String::new(),
            delivery: None,
            opening: Opening::default(),
            held: Vec::new(),
            opened: false,
            id: String::new(),
            charge: Charge::new(&shard.messages, trust),
        }
    }

    pub(super) fn clear(&mut self) {
        self.accounts.clear();
        self.delivery = None;
        self.held = Vec::new();
        if self.accounts.capacity() > ACCOUNTS_FEW {
            self.accounts = Vec::new();
            let _ = self.charge.set(0);
        }
    }

    /// Is there room for one more message of this client?
    pub(super) fn admits(&self, shard: &Shard) -> bool {
        shard.messages.admits(self.charge.trust())
    }

    /// Octets of a message to be read at a time.
    pub(super) fn read_max(&self, shard: &Shard) -> usize {
        shard.messages.read_max(self.charge.trust())
    }

    /// A message has begun and not ended.
    pub(super) fn under_way(&self) -> bool {
        self.delivery.is_some()
    }

    /// Part of the message waits in memory.
    pub(super) fn is_staged(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.is_staged())
    }

    /// The client makes us wait in the middle of its message.
    pub(super) async fn stalled(&mut self) {
        if let Some(delivery) = &mut self.delivery {
            delivery.stalled().await;
        }
    }

    /// The client logged in: what it sends from now on is held for somebody known.
    pub(super) fn trust(&mut self, shard: &Shard) {
        self.clear();
        self.charge = Charge::new(&shard.messages, Trust::Known);
    }

    /// Takes a recipient.
    ///
    /// # Errors
    /// With the reply, if there is no memory for more.
    pub(super) fn add(&mut self, account: AccountId, forward_path: &str) -> Result<(), Reply> {
        if self.accounts.is_empty() {
            self.first_path.clear();
            self.first_path.push_str(forward_path);
        }
        self.accounts.push(account);
        if self.accounts.capacity() > ACCOUNTS_FEW
            && !self.charge.set(self.accounts.capacity() * size_of::<AccountId>())
        {
            self.accounts.pop();
            return Err(reply::MESSAGES_BUSY);
        }
        Ok(())
    }

    /// Takes octets of the message; before the first go our trace fields.
    pub(super) async fn push(
        &mut self,
        shard: &Rc<Shard>,
        session: &Session,
        connection: &Connection,
        content: &[u8],
    ) {
        if self.delivery.is_none() {
            self.begin(shard, session, connection).await;
        }
        let Some(delivery) = &mut self.delivery else { return };
        if !self.opened {
            match self.opening.push(content) {
                Verdict::Undecided => return self.held.extend_from_slice(content),
                Verdict::Headless => delivery.push(b"\r\n").await,
                Verdict::Header => {}
            }
            self.opened = true;
            delivery.push(&self.held).await;
            self.held = Vec::new();
        }
        delivery.push(content).await;
    }

    async fn begin(&mut self, shard: &Rc<Shard>, session: &Session, connection: &Connection) {
        let now = shard.executor.now();
        self.id.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.id, "{:x}.{:08x}", now.0, shard.executor.random() as u32);
        let tls = connection.tls_description();
        let trace = Trace {
            reverse_path: session.reverse_path(),
            client_name: session.client_name(),
            peer: connection.peer().ip(),
            hostname: &shard.options.hostname,
            transport: session.transport(),
            tls: tls.as_deref(),
            id: &self.id,
            forward_path: (self.accounts.len() == 1).then_some(self.first_path.as_str()),
            now,
        };
        let mut header = Vec::with_capacity(TRACE_SIZE);
        trace.append_to(&mut header);
        let mut delivery = Box::new(Delivery::new(shard, &self.accounts, self.charge.trust()));
        delivery.push(&header).await;
        (self.opening, self.opened) = (Opening::default(), false);
        self.held.clear();
        self.delivery = Some(delivery);
    }

    /// Ends the message and appends its reply or replies. True when somebody got it.
    pub(super) async fn finish(
        &mut self,
        shard: &Rc<Shard>,
        session: &Session,
        connection: &Connection,
        role: Role,
        output: &mut Vec<u8>,
    ) -> bool {
        // An empty message has no content that began it.
        if self.delivery.is_none() {
            self.begin(shard, session, connection).await;
        }
        let Some(mut delivery) = self.delivery.take() else {
            return false;
        };
        // A message that ended before its first line was known to be a field has none.
        if !self.held.is_empty() {
            delivery.push(b"\r\n").await;
            delivery.push(&std::mem::take(&mut self.held)).await;
        }
        let accepted = if role == Role::Lmtp {
            let outcome = delivery.finish_each().await;
            let mut accepted = false;
            for account in &self.accounts {
                let result = outcome.of(*account);
                accepted |= result.is_ok();
                self.append_reply(result, output);
            }
            accepted
        } else {
            let result = delivery.finish_together().await;
            self.append_reply(result, output);
            result.is_ok()
        };
        let counter =
            if accepted { "smtp_messages_accepted_total" } else { "smtp_messages_failed_total" };
        shard.metrics.count(counter, 1);
        self.clear();
        accepted
    }

    fn append_reply(&self, result: Result<(), Failure>, output: &mut Vec<u8>) {
        match result {
            Ok(()) => reply::append_delivered(output, &self.id),
            Err(failure) => failure_reply(failure).append_to(output),
        }
    }
}

/// Refuses a recipient whose partition takes no new mail, before the message is sent for nothing.
/// That of another shard tells when it gets the message.
pub(super) fn admit(shard: &Shard, account: AccountId) -> Result<AccountId, Reply> {
    let admits = shard.local_partition(account).map_or(Ok(()), Partition::admits);
    admits.map(|()| account).map_err(|error| failure_reply(error.into()))
}

/// The one place where storage troubles get their SMTP codes.
fn failure_reply(failure: Failure) -> Reply {
    match failure {
        Failure::Full => reply::STORE_FULL,
        Failure::NoMemory => reply::MESSAGES_BUSY,
        Failure::Unavailable => reply::STORE_TROUBLE,
        Failure::OverQuota => reply::MAILBOX_FULL,
        Failure::Refused => reply::MAILBOX_REFUSED,
    }
}
