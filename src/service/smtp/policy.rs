//! Policy decisions at each step of a session: the interface for anything that judges clients and
//! mail.
//!
//! A session asks the shard's [`Policy`] when a client connects, before its greeting; at HELO and
//! EHLO; at MAIL and RCPT; before a message is accepted; and when it is complete. Every answer may
//! come later: the session waits, the shard does not. A policy sets how long to wait for it and the
//! verdict if it does not answer.
//!
//! A step that the protocol, the directory or the store refuses is refused whatever the policy
//! says; the policy still sees a refused recipient.

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
    /// With this reply. For a connection: 554, and the client is served until QUIT; with 421 it is
    /// closed.
    Refuse(Reply),
    /// Refuse for now.
    Defer,
    /// Accept, but deliver to nobody.
    Discard,
    /// Accept, and deliver to the Junk mailbox.
    Quarantine,
}

/// A verdict, and the header fields to add to a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    pub verdict: Verdict,
    /// For a message: complete header fields to put before it, each with its CRLF. At most
    /// [`FIELDS_MAX`] octets.
    pub fields: Vec<u8>,
}

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Ruling {
        Ruling { verdict, fields: Vec::new() }
    }
}

/// Most octets of header fields that a policy adds to a message; if they are longer, none is added.
pub const FIELDS_MAX: usize = 16 * 1024;

/// The client being judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client<'a> {
    pub peer: IpAddr,
    pub listener: ListenerKind,
    /// The name from HELO or EHLO; empty before.
    pub name: &'a str,
    pub tls: bool,
    /// The authenticated account.
    pub account: Option<AccountId>,
}

/// The step of a session.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    /// Before any command.
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
    /// It is complete, and its body can be read.
    Message {
        recipients: &'a Recipients,
        message: &'a Delivery,
    },
}

/// Judges clients and mail. Shard-local, shared by all sessions.
pub trait Policy {
    /// The ruling on this step.
    fn judge<'a>(&'a self, client: Client<'a>, step: Step<'a>) -> Answer<'a, Ruling>;

    /// How long an answer may take.
    fn patience(&self) -> Duration;

    /// The verdict if no answer came.
    fn silence(&self) -> Verdict;
}

/// The policy of a server without one.
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

/// The policy's ruling, or its default if it does not answer.
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

/// Where an accepted message goes, from the mildest on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) enum Disposition {
    #[default]
    Deliver,
    Quarantine,
    Discard,
}

impl Verdict {
    /// Where the message then goes.
    ///
    /// # Errors
    /// The reply, if it is not accepted.
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
