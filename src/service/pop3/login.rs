//! From credentials to an open maildrop, or to the shard that has it.

use super::{
    maildrop::{OpenError, OpenMaildrop},
    session::{Client, End},
};
use crate::{
    directory::{AuthenticationError, Identity},
    metrics::Protocol,
    protocol::{
        pop3::{Event, write_err, write_ok},
        sasl::Question,
    },
};

impl Client {
    /// Finds out what the exchange asks, and says what it says next.
    pub(super) async fn ask(&mut self, question: Question) -> Result<(), End> {
        // The log-in may take some time.
        self.channel.flush().await?;
        let (shard, connection) = (&self.channel.shard, &self.channel.connection);
        let answer = self.log_in.answer(shard, question, Protocol::Pop3, connection).await;
        match self.session.answer(answer) {
            Event::Answer(answer) => answer.write(self.channel.connection.output()),
            Event::Judged => return self.judge().await,
            Event::Close(answer) => {
                answer.write(self.channel.connection.output());
                return Err(End::Closed);
            }
            _ => {}
        }
        Ok(())
    }

    /// The exchange is over.
    pub(super) async fn judge(&mut self) -> Result<(), End> {
        match self.log_in.outcome() {
            Ok(identity)
                if self.channel.shard.owner_of(identity.account) != self.channel.shard.id =>
            {
                Err(End::HandOver(identity))
            }
            Ok(identity) => {
                self.open_maildrop(&identity).await;
                Ok(())
            }
            Err(AuthenticationError::Busy) => {
                self.refuse("[SYS/TEMP] too many logins at once, try again later");
                Ok(())
            }
            // RFC 3206 4: this is not the client's fault, so it does not count as a failure.
            Err(AuthenticationError::Unavailable) => {
                self.refuse("[SYS/TEMP] the directory does not answer, try again later");
                Ok(())
            }
            Err(AuthenticationError::NoIssuer) => {
                self.refuse("[SYS/TEMP] the provider of tokens does not answer, try again later");
                Ok(())
            }
            // RFC 3206 5: not [AUTH], since the password may well be right.
            Err(AuthenticationError::Limited { .. }) => {
                self.failed("[SYS/TEMP] too many wrong passwords, try again later")
            }
            Err(AuthenticationError::Rejected) => self.failed("[AUTH] wrong user name or password"),
        }
    }

    /// Answers the log-in, on the shard that owns the account.
    pub(super) async fn open_maildrop(&mut self, identity: &Identity) {
        let Some(partition) = self.channel.shard.local_partition(identity.account).cloned() else {
            return self.refuse("[SYS/TEMP] the maildrop is not available now");
        };
        let opened = OpenMaildrop::open(partition.clone(), identity.account);
        match self.channel.shard.in_time(&partition, opened).await {
            Ok(maildrop) => {
                let (count, size) = (maildrop.numbers.count(), maildrop.numbers.size());
                self.maildrop = Some(maildrop);
                self.session.logged_in();
                self.channel.connection.set_logged_in(true);
                let text = format!("maildrop has {count} messages ({size} octets)");
                write_ok(self.channel.connection.output(), &text);
            }
            // RFC 2449 8.1.1: the password is right, so the client need not ask for another one.
            Err(OpenError::InUse) => self.refuse("[IN-USE] another session has the maildrop"),
            Err(OpenError::Store(error)) => {
                self.store_failed(&error);
                self.refuse("[SYS/TEMP] the maildrop is not available now");
            }
        }
    }

    /// Answers a failed log-in, a limited number of times.
    fn failed(&mut self, text: &str) -> Result<(), End> {
        self.refuse(text);
        self.login_failures += 1;
        if self.login_failures >= self.channel.shard.options.pop3.login_failures_max {
            return Err(End::Closed);
        }
        Ok(())
    }

    fn refuse(&mut self, text: &str) {
        write_err(self.channel.connection.output(), text);
    }
}
