//! The way out: mail for other hosts, and for mailboxes here that waits in the queue.
//!
//! The queue (`crate::queue`) decides when a message is sent and to whom; this service is its
//! [`Carrier`](crate::queue::Carrier): `carrier` finds the way to a destination, `remote` sends
//! over a connection to another host, `local` delivers here, `report` writes what senders are told.
//! `etrn` tries mail at a client's request; `submission` takes mail that the server itself writes;
//! `client` speaks SMTP and LMTP; `miscounts` remembers whom to send one command at a time;
//! `tls_report` counts what becomes of TLS; `explain` tells operators what is decided, `watch` what
//! is said.

pub mod client;

mod carrier;
mod content;
mod etrn;
mod explain;
mod local;
mod miscounts;
mod options;
mod remote;
mod report;
mod submission;
mod tls_report;
mod watch;

pub(crate) use self::local::delivery_family;
pub use self::{
    carrier::{Relay, RelayWay, start},
    etrn::start_for,
    explain::{HostFacts, WayFacts},
    options::RelayOptions,
    submission::{OwnMail, submit},
    tls_report::{Handover, TlsCounts},
};
