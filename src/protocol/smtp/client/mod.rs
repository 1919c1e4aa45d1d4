//! The client's side of SMTP and LMTP without I/O: what a peer's replies mean, what it can do, and
//! what is sent when (RFC 5321, RFC 2033, RFC 2920, RFC 3030).
//!
//! `service::relay::client` moves the octets and keeps the time. Nothing here trusts a peer: a
//! reply has a most number of octets and lines, its text is made safe before anyone sees it, and a
//! reply that answers no command ends the connection, since later ones would be taken for the
//! answers of other commands.

mod body;
mod capabilities;
mod reply;
mod transaction;

#[cfg(test)]
mod tests;

pub use body::BodyEncoder;
pub use capabilities::{Capabilities, FutureRelease, PeerLimits};
pub use reply::{EnhancedCode, REPLY_LINES_MAX, REPLY_OCTETS_MAX, REPLY_TEXT_MAX};
pub use reply::{Fault, Reply, ReplyParser};
pub use transaction::{Envelope, RcptLine, RcptResult, Step, Transaction};

/// The part of a session in which something happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    Connect,
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// The STARTTLS command.
    StartTls,
    /// The TLS handshake, and the check of the certificate.
    Tls,
    Auth,
    Mail,
    Rcpt,
    /// The DATA command.
    Data,
    /// The text of the message, or a BDAT chunk that is not the last.
    Content,
    /// After the final dot or the last chunk.
    End,
    Reset,
    Quit,
}

impl Stage {
    /// For events and listings.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Hello => "hello",
            Stage::StartTls => "starttls",
            Stage::Tls => "tls",
            Stage::Auth => "auth",
            Stage::Mail => "mail",
            Stage::Rcpt => "rcpt",
            Stage::Data => "data",
            Stage::Content => "content",
            Stage::End => "end",
            Stage::Reset => "reset",
            Stage::Quit => "quit",
        }
    }
}
