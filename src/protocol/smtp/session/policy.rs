//! What a session may do: the listener's role, the limits and extensions, and what the connection
//! allows. `service::smtp` makes them from its options; a session only reads them.

use super::super::data::BareNewline;
use crate::protocol::sasl::Mechanisms;

/// The listener that the client connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Port 25: mail from other servers for our users.
    Exchange,
    /// Ports 587 and 465: mail from our users (RFC 6409).
    Submission,
    /// RFC 2033.
    Lmtp,
}

/// Limits of a session; `config` fills them through the service's options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a message, announced by SIZE.
    pub message_size_max: u64,
    pub recipients_max: usize,
    /// Recipients refused in one session before it is closed: a client guessing users.
    pub refused_recipients_max: usize,
    /// Commands refused since the last message before the session is closed.
    pub errors_max: usize,
    /// Commands since the last message, refused or not.
    pub commands_max: usize,
    pub auth_failures_max: usize,
    /// Number of Received fields from which a message is taken for looping (RFC 5321 6.3: at least
    /// 100).
    pub hops_max: usize,
    pub bare_newline: BareNewline,
    /// Octets of a line in a message. RFC 5321 4.5.3.1.6 allows clients at most 998, but real mail
    /// has more; `None` accepts any length, as it costs nothing here.
    pub text_line_max: Option<usize>,
    /// Transactions in one session (RFC 9422 MAILMAX).
    pub transactions_max: Option<usize>,
    pub extensions: Extensions,
    pub vrfy: Vrfy,
    /// EXPN (RFC 5321 3.5).
    pub expn: Offer,
    /// ETRN (RFC 1985); not in LMTP.
    pub etrn: Offer,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size_max: 50 * 1024 * 1024,
            recipients_max: 1000,
            refused_recipients_max: 100,
            errors_max: 20,
            commands_max: 4000,
            auth_failures_max: 4,
            hops_max: 100,
            bare_newline: BareNewline::Refuse,
            text_line_max: None,
            transactions_max: None,
            extensions: Extensions::default(),
            vrfy: Vrfy::default(),
            expn: Offer::default(),
            etrn: Offer::default(),
        }
    }
}

/// How VRFY is answered (RFC 5321 3.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Vrfy {
    /// 252: whether the address exists is not disclosed.
    #[default]
    Unsure,
    /// 502.
    Off,
    /// 250 or 550, by the directory.
    Known,
}

/// Who may use a command.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Offer {
    #[default]
    Nobody,
    /// Who logged in, and trusted clients ([`Security::trusted`]).
    Trusted,
    Everybody,
}

/// Extensions that promise something which the queue must keep. Each is announced, and its
/// parameters are taken, only if it is set: a demand that is silently ignored would be worse than
/// one that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Extensions {
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689; under TLS only.
    pub require_tls: bool,
    /// RFC 2852: the least time that is taken with return, seconds; `Some(0)` has no least. Not in
    /// LMTP, where the message is delivered at once.
    pub deliver_by: Option<u32>,
    /// RFC 6710.
    pub mt_priority: bool,
    /// RFC 4865: the longest time that a message is held, seconds. On submission only.
    pub future_release: Option<u32>,
    /// RFC 9422: the limits on recipients and transactions are announced.
    pub limits: bool,
}

/// What the connection allows; the service sets it at the start and after TLS starts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Security {
    pub tls: bool,
    pub can_start_tls: bool,
    /// AUTH without TLS: in demo only.
    pub plaintext_auth: bool,
    /// LMTP clients must log in, as those of submission do.
    pub lmtp_auth: bool,
    /// What AUTH takes.
    pub mechanisms: Mechanisms,
    /// The peer may say for which client it acts: for the session, or for the log of a message.
    pub xclient: bool,
    pub xforward: bool,
    /// The client is one of the site's own, as if it had logged in, for [`Offer`].
    pub trusted: bool,
}
