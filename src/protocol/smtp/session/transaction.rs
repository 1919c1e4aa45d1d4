//! A mail transaction without its message (RFC 5321 3.3): MAIL, RCPT, and how it ends. The message
//! is in `message`.

use super::{
    super::{
        command::Verb,
        reply::{self, Reply},
    },
    Event, ForwardPath, Hello, Sender, Session, Transaction, answer,
};

impl Session {
    pub(super) fn mail<'a>(&mut self, sender: Sender<'a>) -> Result<Event<'a>, Reply> {
        // RFC 9422 4.1: those count that fail, too.
        if self.limits.transactions_max.is_some_and(|most| self.transactions >= most) {
            return Err(reply::TOO_MANY_MESSAGES);
        }
        self.transactions += 1;
        if self.hello == Hello::None {
            return Err(self.hello_first());
        }
        if self.must_log_in() && !self.authenticated {
            return Err(reply::AUTH_REQUIRED);
        }
        if self.transaction.open {
            return Err(reply::NESTED_MAIL);
        }
        self.check_demands(&sender.parameters)?;
        // RFC 4954 5: AUTH= belongs to the extension, but senders that log in elsewhere send
        // AUTH=<> to every server. It has no effect, so it is accepted here too.
        // RFC 1870 6.1: refused before any octet is sent.
        if sender.parameters.size.is_some_and(|size| size > self.limits.message_size_max) {
            return Err(reply::TOO_LARGE);
        }
        Ok(Event::Sender(sender))
    }

    /// Accepts the sender.
    pub fn accept_sender(&mut self, sender: &Sender<'_>, output: &mut Vec<u8>) {
        let transaction = &mut self.transaction;
        transaction.open = true;
        transaction.reverse_path.clear();
        transaction.reverse_path.push_str(sender.reverse_path.as_str());
        transaction.body = sender.parameters.body;
        transaction.smtp_utf8 = sender.parameters.smtp_utf8;
        reply::MAIL_OK.append_to(output);
    }

    pub(super) fn recipient<'a>(
        &mut self,
        forward_path: ForwardPath<'a>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Reply> {
        if forward_path.parameters.ask_for_notification() && !self.limits.extensions.dsn {
            return Err(reply::UNKNOWN_PARAMETER);
        }
        if !self.transaction.open {
            return Err(reply::MAIL_FIRST);
        }
        if self.transaction.chunked {
            return Err(reply::RCPT_AFTER_BDAT);
        }
        if self.transaction.recipients >= self.limits.recipients_max {
            // RFC 5321 4.5.3.1.10: a temporary refusal, so that the client sends the rest later. It
            // does not count as an error, since a long list would then end the session.
            return Ok(answer(Event::Answered(Verb::Rcpt), reply::TOO_MANY_RECIPIENTS, output));
        }
        if !self.transaction.smtp_utf8 && !forward_path.path.is_ascii() {
            return Err(reply::FORWARD_PATH_NEEDS_UTF8);
        }
        let original = forward_path.parameters.orcpt;
        if !self.transaction.smtp_utf8 && original.is_some_and(|orcpt| !orcpt.is_ascii()) {
            return Err(reply::ORIGINAL_NEEDS_UTF8);
        }
        Ok(Event::Recipient(forward_path))
    }

    pub fn accept_recipient(&mut self, output: &mut Vec<u8>) {
        self.transaction.recipients += 1;
        reply::RCPT_OK.append_to(output);
    }

    pub fn refuse_recipient(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.refused_recipients += 1;
        refusal.append_to(output);
    }

    /// [`Session::refuse_recipient`] with a line that is not one of ours: it must be printable.
    pub fn reject_recipient(&mut self, line: &str, output: &mut Vec<u8>) {
        self.refused_recipients += 1;
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
    }

    pub fn reverse_path(&self) -> &str {
        &self.transaction.reverse_path
    }

    /// Call after [`Event::MessageEnd`] was answered, or after [`Event::MessageRefused`]. An
    /// accepted message resets the error counts.
    pub fn end_transaction(&mut self, accepted: bool) {
        self.reset_transaction();
        if accepted {
            self.errors = 0;
            self.commands = 0;
        }
    }

    pub(super) fn reset_transaction(&mut self) {
        self.forwarded = None;
        let mut reverse_path = std::mem::take(&mut self.transaction.reverse_path);
        reverse_path.clear();
        self.transaction = Transaction { reverse_path, ..Transaction::default() };
    }
}
