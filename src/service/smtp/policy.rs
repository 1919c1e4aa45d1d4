//! What may be said to a client at each step of its session, beside what is legal: the seam for all that
//! judges clients and mail.
//!
//! A session asks the shard's [`Policy`] when a client connects, before its greeting; at HELO and EHLO; at
//! MAIL and RCPT; before a message may come; and when it is whole. Each time the answer may come later:
//! the session waits, the shard does not. A policy that stays silent is not waited for longer than it
//! says itself, and says what holds then.
//!
//! A step that the protocol, the directory or the store refuses is refused whatever a policy says; a
//! recipient that is refused is shown to it all the same.

use std::{net::IpAddr, time::Duration};

use futures_lite::future::or;

use super::{
    ListenerKind,
    recipient::{Recipient, Recipients},
};
use crate::{
    model::AccountId,
    protocol::smtp::{MailParameters, Path, Reply},
    runtime::answer::Answer,
    service::{Shard, delivery::Delivery},
};

/// What to do with a client, a recipient or a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept,
    /// With this reply. To a connection: 554, and the client is heard until QUIT; with 421 it ends.
    Refuse(Reply),
    /// Refuse for now.
    Defer,
    /// Say yes, and keep nothing of it.
    Discard,
    /// Say yes, and deliver to the mailbox for junk.
    Quarantine,
}

/// A verdict, and what a message gets on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    pub verdict: Verdict,
    /// Of a message: whole header fields to put before it, each with its CRLF. At most
    /// [`FIELDS_MAX`] octets.
    pub fields: Vec<u8>,
}

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Ruling {
        Ruling { verdict, fields: Vec::new() }
    }
}

/// Octets of the header fields that a policy adds to a message; longer ones are left out.
pub const FIELDS_MAX: usize = 16 * 1024;

/// Who is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client<'a> {
    pub peer: IpAddr,
    pub listener: ListenerKind,
    /// What it calls itself; empty before HELO or EHLO.
    pub name: &'a str,
    pub tls: bool,
    /// Whom it logged in as.
    pub account: Option<AccountId>,
}

/// Where a session stands.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    /// Nothing was said yet.
    Connect,
    /// HELO, EHLO or LHLO with this name.
    Hello(&'a str),
    Sender {
        path: Path<'a>,
        parameters: MailParameters<'a>,
    },
    Recipient(&'a Recipient<'a>),
    /// Before 354, or the first chunk.
    MessageStart {
        recipients: &'a Recipients,
    },
    /// It is whole, and its body can be read.
    Message {
        recipients: &'a Recipients,
        message: &'a Delivery,
    },
}

/// Judges clients and mail. Shard-local, shared by all sessions.
pub trait Policy {
    /// What to do at this step.
    fn judge<'a>(&'a self, client: Client<'a>, step: Step<'a>) -> Answer<'a, Ruling>;

    /// How long an answer may take.
    fn patience(&self) -> Duration;

    /// What holds where no answer came.
    fn silence(&self) -> Verdict;
}

/// The policy of a server that has none.
pub struct AcceptAll;

impl Policy for AcceptAll {
    fn judge<'a>(&'a self, _: Client<'a>, _: Step<'a>) -> Answer<'a, Ruling> {
        Answer::now(Verdict::Accept.into())
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn silence(&self) -> Verdict {
        Verdict::Accept
    }
}

/// The policy's ruling, or what holds where it stays silent.
pub(super) fn ask<'a>(shard: &'a Shard, client: Client<'a>, step: Step<'a>) -> Answer<'a, Ruling> {
    let policy = &*shard.policy;
    let answer = policy.judge(client, step);
    if answer.is_ready() {
        return answer;
    }
    let silence = async move {
        shard.executor.sleep(policy.patience()).await;
        shard.metrics.count("smtp_policy_silences_total", 1);
        policy.silence().into()
    };
    Answer::later(or(answer, silence))
}

/// Where a message goes that is taken, from the mildest on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) enum Disposition {
    #[default]
    Deliver,
    Quarantine,
    Discard,
}

impl Verdict {
    /// Where it goes then.
    ///
    /// # Errors
    /// With the reply, if it is not taken.
    pub(super) fn disposition(self) -> Result<Disposition, Reply> {
        match self {
            Verdict::Accept => Ok(Disposition::Deliver),
            Verdict::Quarantine => Ok(Disposition::Quarantine),
            Verdict::Discard => Ok(Disposition::Discard),
            Verdict::Refuse(reply) => Err(reply),
            Verdict::Defer => Err(super::replies::DEFERRED),
        }
    }
}
