//! What a step of a session reports to the service, and what the service has to do about it. All
//! borrow the input.

use super::super::{
    address::Path,
    command::{Node, Verb},
    parameter::{MailParameters, RecipientParameters},
};
use crate::protocol::sasl;

/// The result of a step.
#[derive(PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// More input is needed.
    Incomplete,
    /// The command was answered.
    Answered(Verb),
    /// The command was answered, and the transaction is over: forget recipients and message.
    Reset(Verb),
    /// Call `accept_greeting`, which also ends the transaction, or `refuse`.
    Greeting(Greeting<'a>),
    /// Call `accept_sender` or `refuse`.
    Sender(Sender<'a>),
    /// Call `accept_recipient` or `refuse_recipient`.
    Recipient(ForwardPath<'a>),
    /// Before the first octet of a message: before 354, or at the first BDAT. Call `accept_message`
    /// or `refuse_message`.
    MessageStart(Verb),
    /// Octets of the message, dots removed.
    Content(&'a [u8]),
    /// The message is complete: append its reply, or in LMTP a reply for each accepted recipient,
    /// in their order, and call `end_transaction`.
    MessageEnd,
    /// The message was refused for its content, and answered: call `end_transaction`.
    MessageRefused(Verb),
    /// Find out, and call `answer`, which returns the next event.
    Authenticate(sasl::Question),
    /// As the last answer was: call `authenticated` or `refuse_authentication`.
    Judged,
    /// VRFY: append its reply, or call `refuse_recipient`.
    Verify(&'a str),
    /// EXPN: append its reply, or call `refuse_recipient`.
    Expand(&'a str),
    /// ETRN: append its reply.
    StartQueue(Node<'a>),
    /// XCLIENT: the session is as new. Call `assume_login` if the client is known to have logged
    /// in, and greet, or reject it.
    ClientClaimed,
    /// Send the output, start TLS, call `tls_started`.
    StartTls,
    /// Send the output and close.
    Close(Verb),
}

/// HELO, EHLO or LHLO, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting<'a> {
    pub verb: Verb,
    /// The client's name for itself.
    pub client_name: &'a str,
}

/// MAIL, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender<'a> {
    pub reverse_path: Path<'a>,
    pub parameters: MailParameters<'a>,
}

/// RCPT, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardPath<'a> {
    pub path: Path<'a>,
    pub parameters: RecipientParameters<'a>,
}
