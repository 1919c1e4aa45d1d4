//! The replies that follow from the session's own rules, with their codes and enhanced status codes
//! (RFC 5321 4.2.3, RFC 3463, RFC 2034), in one place. Replies of the service are in
//! `service::smtp::replies`.
//!
//! Replies are constants, so that answering a command copies one short slice. Replies with variable
//! parts (greeting, capabilities, queue identifier, chunk size) have a function each. Enhanced
//! codes are sent to HELO clients as well, as other servers do: RFC 2034 4 puts them in the text,
//! where an old client ignores them.

use super::command::CommandError;

/// A one-line reply without its CRLF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply(pub &'static str);

impl Reply {
    pub fn append_to(self, output: &mut Vec<u8>) {
        output.extend_from_slice(self.0.as_bytes());
        output.extend_from_slice(b"\r\n");
    }
}

// Successful commands.
pub const MAIL_OK: Reply = Reply("250 2.1.0 Sender ok");
pub const RCPT_OK: Reply = Reply("250 2.1.5 Recipient ok");
pub const RESET_OK: Reply = Reply("250 2.0.0 Reset");
pub const NOOP_OK: Reply = Reply("250 2.0.0 Ok");
pub const START_DATA: Reply = Reply("354 End data with <CR><LF>.<CR><LF>");
pub const DELIVERED: Reply = Reply("250 2.0.0 Delivered");
/// Nothing was delivered yet.
pub const QUEUED: Reply = Reply("250 2.0.0 Queued");
pub const HELP: Reply = Reply("214 2.0.0 See RFC 5321; EHLO lists the supported extensions");
/// RFC 5321 3.5.3: it does not disclose whether the user exists; RCPT will.
pub const VRFY: Reply = Reply("252 2.1.5 Cannot verify, but will take mail and try to deliver it");
pub const FORWARD_OK: Reply = Reply("250 2.0.0 Ok");
pub const BYE: Reply = Reply("221 2.0.0 Bye");
pub const START_TLS: Reply = Reply("220 2.0.0 Begin TLS");
pub const AUTHENTICATED: Reply = Reply("235 2.7.0 Authenticated");

// Lines that are not commands.
pub const UNKNOWN_COMMAND: Reply = Reply("500 5.5.2 Command not recognized");
pub const BAD_OCTET: Reply = Reply("500 5.5.2 Control characters or invalid UTF-8 in command");
pub const BARE_LF: Reply = Reply("500 5.5.2 Lines must end in CRLF, not LF");
pub const LINE_TOO_LONG: Reply = Reply("500 5.5.2 Line too long");
pub const SYNTAX: Reply = Reply("501 5.5.4 Syntax error in arguments");
pub const BAD_REVERSE_PATH: Reply = Reply("501 5.1.7 Bad sender address syntax");
pub const BAD_FORWARD_PATH: Reply = Reply("501 5.1.3 Bad recipient address syntax");
pub const BAD_PARAMETER: Reply = Reply("501 5.5.4 Bad parameter value");
pub const UNKNOWN_PARAMETER: Reply = Reply("555 5.5.4 Parameter not recognized");
pub const UNIMPLEMENTED: Reply = Reply("502 5.5.1 Command not implemented");
pub const VRFY_OFF: Reply = Reply("502 5.7.0 Addresses are not verified");
/// XCLIENT or XFORWARD of a peer that is not trusted.
pub const NOT_TRUSTED: Reply = Reply("550 5.7.1 You may not speak for others");
pub const EXPN_OFF: Reply = Reply("502 5.7.0 Lists are not shown");
/// RFC 5321 3.5.3: the name may be right, but its members are not shown.
pub const EXPN: Reply = Reply("252 2.1.5 Cannot expand, but will take mail and try to deliver it");
/// RFC 5321 3.5.1: the words name nobody in particular.
pub const EXPN_AMBIGUOUS: Reply = Reply("553 5.1.3 Expand what? Give an address");
pub const ETRN_OFF: Reply = Reply("502 5.7.0 Mail is not sent on request");
/// RFC 6531 3.5.
pub const REVERSE_PATH_NEEDS_UTF8: Reply = Reply("550 5.6.7 This sender needs SMTPUTF8");
pub const FORWARD_PATH_NEEDS_UTF8: Reply = Reply("553 5.6.7 This recipient needs SMTPUTF8");

/// RFC 6533 3: an original recipient in UTF-8 needs the extension as other addresses do.
pub const ORIGINAL_NEEDS_UTF8: Reply = Reply("501 5.5.4 This ORCPT needs SMTPUTF8");
/// RFC 2852 4: less than the announced minimum, with return.
pub const DELIVER_BY_TOO_SHORT: Reply = Reply("555 5.5.4 Cannot deliver in so short a time");
/// RFC 4865 4: beyond what was announced.
pub const HELD_TOO_LONG: Reply = Reply("501 5.5.4 Messages are not held so long");
/// RFC 9422 4.1: more than MAILMAX. 4.5.3 would be about recipients (RFC 3463 3.6).
pub const TOO_MANY_MESSAGES: Reply =
    Reply("452 4.5.0 Too many messages in one session: connect again");

// Commands out of order.
pub const HELLO_FIRST: Reply = Reply("503 5.5.1 Say EHLO first");
pub const LHLO_FIRST: Reply = Reply("503 5.5.1 Say LHLO first");
/// RFC 2033 4.1.
pub const LHLO_NOT_HELO: Reply = Reply("500 5.5.1 This is LMTP: say LHLO");
pub const MAIL_FIRST: Reply = Reply("503 5.5.1 Say MAIL first");
pub const NESTED_MAIL: Reply = Reply("503 5.5.1 The sender is already specified");
pub const NO_RECIPIENTS: Reply = Reply("554 5.5.1 No valid recipients");
/// RFC 2033 4.2 requires 503.
pub const LMTP_NO_RECIPIENTS: Reply = Reply("503 5.5.1 No valid recipients");
/// RFC 5321 3.1: after 554 in place of the greeting.
pub const REJECTED: Reply = Reply("503 5.5.1 No service here: say QUIT");
pub const IN_TRANSACTION: Reply = Reply("503 5.5.1 Not during a mail transaction");
/// RFC 3030 3.
pub const BINARY_NEEDS_BDAT: Reply = Reply("503 5.5.1 BODY=BINARYMIME needs BDAT");
/// RFC 3030 2: DATA after BDAT of the same message.
pub const DATA_AFTER_BDAT: Reply = Reply("503 5.5.1 BDAT in progress: finish it with LAST or RSET");
/// The message is being received for the recipients given before it.
pub const RCPT_AFTER_BDAT: Reply = Reply("503 5.5.1 BDAT in progress: no more recipients");
/// RFC 3030 2: after a refused chunk only RSET is possible.
pub const CHUNKS_REFUSED: Reply = Reply("503 5.5.1 An earlier chunk was refused: say RSET");

// TLS and authentication.
pub const TLS_ALREADY: Reply = Reply("503 5.5.1 TLS is already active");
pub const TLS_UNAVAILABLE: Reply = Reply("502 5.5.1 TLS is not available");
pub const AUTH_UNAVAILABLE: Reply = Reply("502 5.5.1 Authentication is not available");
pub const AUTH_NEEDS_TLS: Reply = Reply("538 5.7.11 Authentication needs TLS: say STARTTLS first");
pub const AUTH_ALREADY: Reply = Reply("503 5.5.1 Already authenticated");
pub const AUTH_MECHANISM: Reply = Reply("504 5.5.4 Authentication mechanism not offered");
pub const AUTH_MALFORMED: Reply = Reply("501 5.5.2 Malformed authentication response");
pub const AUTH_CANCELLED: Reply = Reply("501 5.7.0 Authentication cancelled");
pub const AUTH_LINE_TOO_LONG: Reply = Reply("500 5.5.6 Authentication line too long");
pub const AUTH_REJECTED: Reply = Reply("535 5.7.8 Authentication failed");
pub const AUTH_REQUIRED: Reply = Reply("530 5.7.0 Authentication required");

// Recipients.
pub const TOO_MANY_RECIPIENTS: Reply = Reply("452 4.5.3 Too many recipients");

// Messages.
pub const TOO_LARGE: Reply = Reply("552 5.3.4 Message too large");
pub const BARE_NEWLINE: Reply = Reply("550 5.6.0 Message has CR or LF that is not part of CRLF");
pub const TEXT_LINE_TOO_LONG: Reply = Reply("550 5.6.0 Message has a line that is too long");
/// RFC 5321 6.3.
pub const MAIL_LOOP: Reply = Reply("554 5.4.6 Too many Received header fields: a mail loop");

// The end of a session.
pub const AMBIGUOUS_END: Reply =
    Reply("521 5.5.2 Lone dot between line ends that are not CRLF, closing");
pub const TOO_MANY_ERRORS: Reply = Reply("421 4.7.0 Too many errors, closing");
pub const TOO_MANY_COMMANDS: Reply = Reply("421 4.7.0 Too many commands without mail, closing");
pub const TOO_MUCH_REFUSED: Reply = Reply("421 4.3.4 Too much data after a refusal, closing");
/// RFC 3030 2: the octets of a chunk of unknown size.
pub const CHUNK_UNKNOWN: Reply = Reply("421 4.5.2 Cannot tell chunk data from commands, closing");
pub const ENDLESS_LINE: Reply = Reply("421 4.5.2 Endless line, closing");

impl CommandError {
    pub fn reply(self) -> Reply {
        match self {
            CommandError::Unknown => UNKNOWN_COMMAND,
            CommandError::Unimplemented => UNIMPLEMENTED,
            CommandError::BadOctet => BAD_OCTET,
            CommandError::Syntax => SYNTAX,
            CommandError::BadReversePath => BAD_REVERSE_PATH,
            CommandError::BadForwardPath => BAD_FORWARD_PATH,
            CommandError::ReversePathNeedsUtf8 => REVERSE_PATH_NEEDS_UTF8,
            CommandError::BadParameter => BAD_PARAMETER,
            CommandError::UnknownParameter => UNKNOWN_PARAMETER,
        }
    }
}

/// The greeting (RFC 5321 4.3.1). A host name is at most as long as a domain may be.
pub fn append_greeting(output: &mut Vec<u8>, hostname: &str, protocol: &str) {
    append_parts(output, &["220 ", hostname, " ", protocol, " Ringmail"]);
}

/// The answer to a BDAT that is not the last (RFC 3030 2).
pub fn append_chunk_ok(output: &mut Vec<u8>, octets: u64) {
    append_parts(output, &["250 2.0.0 ", &octets.to_string(), " octets received"]);
}

/// RFC 5321 3.5.3: the address that was verified.
pub fn append_verified(output: &mut Vec<u8>, mailbox: &str) {
    append_parts(output, &["250 2.1.5 <", mailbox, ">"]);
}

/// RFC 5321 3.5.1, 4.2.1: the members of a list, a line each. There is at least one.
pub fn append_members(output: &mut Vec<u8>, members: &[String]) {
    for (left, member) in (0..members.len()).rev().zip(members) {
        let mark = if left == 0 { " " } else { "-" };
        append_parts(output, &["250", mark, "2.1.5 <", member, ">"]);
    }
}

/// The answer to ETRN (RFC 1985 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueStart {
    /// Whether there are messages is not known.
    Begun,
    /// There are some; how many is not known.
    Some,
    Nothing,
    Messages(u64),
    Unable,
    NotAllowed(&'static str),
}

/// Answers ETRN; `node` as the client gave it.
pub fn append_queue_start(output: &mut Vec<u8>, node: &str, start: QueueStart) {
    match start {
        QueueStart::Begun => append_parts(output, &["250 2.0.0 Queuing for ", node, " started"]),
        QueueStart::Nothing => {
            append_parts(output, &["251 2.0.0 No messages are waiting for ", node]);
        }
        QueueStart::Some => {
            append_parts(output, &["252 2.0.0 Pending messages for ", node, " started"]);
        }
        QueueStart::Messages(count) => {
            let count = count.to_string();
            append_parts(
                output,
                &["253 2.0.0 ", &count, " pending messages for ", node, " started"],
            );
        }
        QueueStart::Unable => {
            append_parts(output, &["458 4.3.0 Unable to queue messages for ", node, " now"]);
        }
        QueueStart::NotAllowed(why) => {
            append_parts(output, &["459 4.7.1 ", node, " not allowed: ", why]);
        }
    }
}

/// A message was accepted: `what` became of it ([`DELIVERED`], [`QUEUED`]), and its id in our
/// Received field and logs.
pub fn append_accepted(output: &mut Vec<u8>, what: Reply, id: &str) {
    append_parts(output, &[what.0, " as ", id]);
}

pub(super) fn append_parts(output: &mut Vec<u8>, parts: &[&str]) {
    output.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + 2);
    for part in parts {
        output.extend_from_slice(part.as_bytes());
    }
    output.extend_from_slice(b"\r\n");
}
