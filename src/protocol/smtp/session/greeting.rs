//! HELO, EHLO and LHLO (RFC 5321 4.1.1.1): what is announced, and whether what is announced is what
//! a client asks for.

use std::time::Duration;

use super::{
    super::{
        command::Verb,
        original_client::{XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES},
        parameter::MailParameters,
        reply::{self, Reply},
        timing::{ByMode, Hold, rfc3339},
    },
    Event, Extensions, Greeting, Hello, Offer, Role, Session,
};
use crate::model::Timestamp;

impl Session {
    pub(super) fn hello<'a>(&mut self, greeting: Greeting<'a>) -> Result<Event<'a>, Reply> {
        match (greeting.verb, self.role) {
            (Verb::Helo | Verb::Ehlo, Role::Lmtp) => Err(reply::LHLO_NOT_HELO),
            (Verb::Lhlo, Role::Exchange | Role::Submission) => Err(reply::UNKNOWN_COMMAND),
            _ => Ok(Event::Greeting(greeting)),
        }
    }

    /// Accepts the greeting. `hostname` is our own; `now` is for what is announced as a date.
    pub fn accept_greeting(
        &mut self,
        greeting: &Greeting<'_>,
        hostname: &str,
        now: Timestamp,
        output: &mut Vec<u8>,
    ) {
        self.reset_transaction();
        self.client_name.clear();
        self.client_name.push_str(greeting.client_name);
        if greeting.verb == Verb::Helo {
            self.hello = Hello::Helo;
            return reply::append_parts(output, &["250 ", hostname]);
        }
        self.hello = Hello::Extended;
        let hold_max = Duration::from_secs(self.offered().future_release.unwrap_or(0).into());
        self.held_until_max = now.after(hold_max);
        self.append_capabilities(hostname, output);
    }

    pub(super) fn hello_first(&self) -> Reply {
        if self.role == Role::Lmtp { reply::LHLO_FIRST } else { reply::HELLO_FIRST }
    }

    /// RFC 5321 4.1.1.1: only what can be used in this state.
    fn append_capabilities(&self, hostname: &str, output: &mut Vec<u8>) {
        reply::append_parts(output, &["250-", hostname]);
        output.extend_from_slice(
            b"250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-BINARYMIME\r\n",
        );
        let size = self.limits.message_size_max.to_string();
        reply::append_parts(output, &["250-SIZE ", &size]);
        if self.security.can_start_tls && !self.security.tls {
            output.extend_from_slice(b"250-STARTTLS\r\n");
        }
        if self.auth_permitted().is_ok() && !self.authenticated {
            output.extend_from_slice(b"250-AUTH");
            for mechanism in self.security.mechanisms.iter() {
                output.push(b' ');
                output.extend_from_slice(mechanism.name().as_bytes());
            }
            output.extend_from_slice(b"\r\n");
        }
        self.append_extensions(output);
        if self.offers(self.limits.expn) {
            output.extend_from_slice(b"250-EXPN\r\n");
        }
        if self.offers_etrn() {
            output.extend_from_slice(b"250-ETRN\r\n");
        }
        if self.security.xclient {
            reply::append_parts(output, &["250-XCLIENT ", XCLIENT_ATTRIBUTES]);
        }
        if self.security.xforward {
            reply::append_parts(output, &["250-XFORWARD ", XFORWARD_ATTRIBUTES]);
        }
        output.extend_from_slice(b"250-HELP\r\n250 ENHANCEDSTATUSCODES\r\n");
    }

    fn append_extensions(&self, output: &mut Vec<u8>) {
        let offered = self.offered();
        if offered.dsn {
            output.extend_from_slice(b"250-DSN\r\n");
        }
        if offered.require_tls {
            output.extend_from_slice(b"250-REQUIRETLS\r\n");
        }
        match offered.deliver_by {
            None => {}
            Some(0) => output.extend_from_slice(b"250-DELIVERBY\r\n"),
            Some(least) => reply::append_parts(output, &["250-DELIVERBY ", &least.to_string()]),
        }
        if offered.mt_priority {
            output.extend_from_slice(b"250-MT-PRIORITY\r\n");
        }
        if let Some(seconds) = offered.future_release {
            let (seconds, until) = (seconds.to_string(), rfc3339(self.held_until_max));
            reply::append_parts(output, &["250-FUTURERELEASE ", &seconds, " ", &until]);
        }
        if offered.limits {
            let recipients = format!("250-LIMITS RCPTMAX={}", self.limits.recipients_max);
            let transactions = self.limits.transactions_max;
            let transactions = transactions.map(|most| format!(" MAILMAX={most}"));
            reply::append_parts(output, &[&recipients, transactions.as_deref().unwrap_or("")]);
        }
    }

    /// What of [`Extensions`] holds for this role and this connection.
    fn offered(&self) -> Extensions {
        let Extensions { dsn, require_tls, deliver_by, mt_priority, future_release, limits } =
            self.limits.extensions;
        Extensions {
            dsn,
            // RFC 8689 2: not announced before TLS.
            require_tls: require_tls && self.security.tls,
            deliver_by: deliver_by.filter(|_| self.role != Role::Lmtp),
            mt_priority,
            // RFC 4865 4: for submission.
            future_release: future_release.filter(|_| self.role == Role::Submission),
            limits,
        }
    }

    pub(super) fn offers(&self, offer: Offer) -> bool {
        match offer {
            Offer::Nobody => false,
            Offer::Trusted => self.authenticated || self.security.trusted,
            Offer::Everybody => true,
        }
    }

    pub(super) fn offers_etrn(&self) -> bool {
        self.role != Role::Lmtp && self.offers(self.limits.etrn)
    }

    /// Parameters of extensions that are not offered are unknown.
    pub(super) fn check_demands(&self, parameters: &MailParameters<'_>) -> Result<(), Reply> {
        let offered = self.offered();
        if parameters.ask_for_notification() && !offered.dsn
            || parameters.require_tls && !offered.require_tls
            || parameters.deliver_by.is_some() && offered.deliver_by.is_none()
            || parameters.priority.is_some() && !offered.mt_priority
            || parameters.hold.is_some() && offered.future_release.is_none()
        {
            return Err(reply::UNKNOWN_PARAMETER);
        }
        // RFC 2852 4: the minimum is for mode R only.
        if let (Some(by), Some(least)) = (parameters.deliver_by, offered.deliver_by)
            && by.mode == ByMode::Return
            && i64::from(by.seconds) < i64::from(least)
        {
            return Err(reply::DELIVER_BY_TOO_SHORT);
        }
        let too_long = match (parameters.hold, offered.future_release) {
            (Some(Hold::For(seconds)), Some(most)) => seconds > most,
            (Some(Hold::Until(until)), Some(_)) => until > self.held_until_max,
            _ => false,
        };
        if too_long { Err(reply::HELD_TOO_LONG) } else { Ok(()) }
    }
}
