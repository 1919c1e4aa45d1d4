//! SMTP, submission and LMTP sessions: decides what is wanted; `protocol::smtp` decides what is
//! legal.
//!
//! The server's acceptor runs [`run`] for each connection. Its limits come from [`SmtpOptions`].

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod conversation;
mod envelope;
mod policy;
mod recipient;
mod replies;

use std::{rc::Rc, sync::Arc, time::Duration};

pub use self::{
    policy::{AcceptAll, Client, FIELDS_MAX, Policy, Ruling, Step, Verdict},
    recipient::{Accepted, Recipient, Recipients, Route},
};

use crate::{
    metrics::Protocol,
    model::{MailClass, Network},
    protocol::smtp::{Limits, Role},
    runtime::connection::Connection,
    service::Shard,
};

/// Limits and timeouts of SMTP sessions; `config` fills them.
#[derive(Clone, Debug)]
pub struct SmtpOptions {
    pub limits: Limits,
    /// How long to wait for a command (RFC 5321 4.5.3.2.7: five minutes at least).
    pub command_timeout: Duration,
    /// Peers that may use XCLIENT.
    pub xclient: Arc<[Network]>,
    /// Peers that may use XFORWARD.
    pub xforward: Arc<[Network]>,
}

impl Default for SmtpOptions {
    fn default() -> SmtpOptions {
        const FIVE_MINUTES: Duration = Duration::from_secs(300);
        SmtpOptions {
            limits: Limits::default(),
            command_timeout: FIVE_MINUTES,
            xclient: Arc::new([]),
            xforward: Arc::new([]),
        }
    }
}

/// Which port the client came to. TLS on it is the connection's matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenerKind {
    /// Port 25.
    Smtp,
    /// Port 587.
    Submission,
    /// Port 465: as 587, TLS from the first octet (RFC 8314 3.3).
    Submissions,
    Lmtp,
}

impl ListenerKind {
    fn role(self) -> Role {
        match self {
            ListenerKind::Smtp => Role::Exchange,
            ListenerKind::Submission | ListenerKind::Submissions => Role::Submission,
            ListenerKind::Lmtp => Role::Lmtp,
        }
    }

    /// Of a client that has not logged in.
    fn class(self) -> MailClass {
        match self {
            // LMTP clients are the site's own servers.
            ListenerKind::Lmtp => MailClass::Local,
            _ => MailClass::Inbound,
        }
    }

    /// The label in metrics.
    pub fn protocol(self) -> Protocol {
        match self {
            ListenerKind::Smtp => Protocol::Smtp,
            ListenerKind::Submission | ListenerKind::Submissions => Protocol::Submission,
            ListenerKind::Lmtp => Protocol::Lmtp,
        }
    }
}

/// Serves one client until either side ends the connection.
pub fn run(
    connection: Connection,
    shard: Rc<Shard>,
    kind: ListenerKind,
) -> impl Future<Output = ()> {
    conversation::converse(connection, shard, kind)
}
