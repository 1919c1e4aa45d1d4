//! A connection to another host, as the queue uses it: a message becomes one or more transactions,
//! and each reply the result of a recipient.

use std::{rc::Rc, time::Duration};

use super::{
    carrier::{problem_of, times_of},
    client::Client,
    content::{Converted, StoredContent, Surveyed, sign_again, survey},
    miscounts::Miscounts,
    tls_report::Successes,
};
use crate::{
    metrics::Protocol,
    protocol::smtp::{
        BodyKind, ByMode, DeliverBy,
        client::{Envelope, RcptLine, RcptResult, Stage},
        relay_parameters::{Demands, Hindrance, Offers, append_recipient_parameters},
    },
    queue::{Job, Outcome, Problem, Recipient, Session, Times},
    runtime::LocalFuture,
    service::Shard,
    store::StoreError,
};

pub(super) struct RemoteSession {
    /// `None` once it is ended.
    client: Option<Client>,
    shard: Rc<Shard>,
    host: String,
    /// Set if its TLS is as the policy wants it, and sessions are counted.
    successes: Option<Successes>,
    miscounts: Rc<Miscounts>,
    usable: bool,
    /// Messages sent before.
    used: bool,
}

/// The host's offers as the parameters see them.
fn offers(client: &Client) -> Offers {
    let capabilities = client.capabilities();
    Offers {
        // The client adds SIZE.
        size: false,
        eight_bit_mime: capabilities.eight_bit_mime,
        binary_mime: capabilities.binary_mime && capabilities.chunking,
        smtp_utf8: capabilities.smtp_utf8,
        dsn: capabilities.dsn,
        require_tls: capabilities.require_tls
            && client.tls_facts().is_some_and(|facts| facts.verified.is_authenticated()),
        deliver_by: capabilities.deliver_by,
        mt_priority: capabilities.mt_priority.is_some(),
    }
}

/// Whether nothing of a message was begun: the other side had ended the connection while it was
/// idle. `before`: the results of earlier transactions with the same message.
fn never_begun(before: &[Option<RcptResult>], now: &[RcptResult]) -> bool {
    let ended = |it: &RcptResult| matches!(it, RcptResult::Lost { stage: Stage::Mail, .. });
    before.iter().all(Option::is_none) && now.iter().all(ended)
}

impl RemoteSession {
    pub(super) fn new(
        client: Client,
        shard: Rc<Shard>,
        host: String,
        successes: Option<Successes>,
        miscounts: Rc<Miscounts>,
    ) -> RemoteSession {
        let (usable, used) = (true, false);
        RemoteSession { client: Some(client), shard, host, successes, miscounts, usable, used }
    }

    fn failed(&self, status: &str, reason: &str) -> Outcome {
        Outcome::Failed(Problem {
            at: self.shard.executor.now(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            host: Some(self.host.clone()),
            is_reply: false,
            times: Times::default(),
        })
    }

    /// Sends it to the recipients whose addresses the host can read.
    async fn transmit(&mut self, job: &Job<'_>) -> Vec<(u32, Outcome)> {
        let lacks_utf8 =
            self.client.as_ref().is_some_and(|client| !client.capabilities().smtp_utf8);
        let is_wide = |recipient: &Recipient| lacks_utf8 && !recipient.address.is_ascii();
        if !job.recipients.iter().any(|(_, recipient)| is_wide(recipient)) {
            return self.transact(job).await;
        }
        // RFC 6531 3.2.
        let (wide, others): (Vec<_>, Vec<_>) =
            job.recipients.iter().partition(|(_, recipient)| is_wide(recipient));
        let refused = self.failed(Hindrance::Utf8.status(), Hindrance::Utf8.reason());
        let mut outcomes: Vec<_> =
            wide.iter().map(|(number, _)| (*number, refused.clone())).collect();
        if !others.is_empty() {
            outcomes.extend(self.transact(&Job { recipients: &others, ..*job }).await);
        }
        outcomes
    }

    fn unreadable(&self, error: &StoreError) -> Outcome {
        Outcome::Deferred(Problem {
            at: self.shard.executor.now(),
            status: "4.3.0".to_owned(),
            reason: format!("the message cannot be read: {error}"),
            ..Problem::default()
        })
    }

    async fn transact(&mut self, job: &Job<'_>) -> Vec<(u32, Outcome)> {
        let all = |outcome: Outcome| -> Vec<(u32, Outcome)> {
            job.recipients.iter().map(|(number, _)| (*number, outcome.clone())).collect()
        };
        let Some(client) = &mut self.client else { return Vec::new() };
        if self.miscounts.has(&self.host, client.peer(), self.shard.executor.moment()) {
            client.send_one_by_one();
        }
        let offers = offers(client);
        let tls = client.tls_facts().map(|facts| facts.to_string());
        let now = self.shard.executor.now();
        let envelope = job.envelope;
        // RFC 6531 3.2: a message that does not need SMTPUTF8 can go where it is not offered.
        let mut utf8 = envelope.smtp_utf8;
        let mut surveyed = None;
        if utf8 && !offers.smtp_utf8 && job.sender.is_ascii() {
            match survey(job.partition, job.body).await {
                Ok(found) => {
                    utf8 = found.needs_utf8;
                    surveyed = Some(found);
                }
                Err(error) => return all(self.unreadable(&error)),
            }
        }
        let demands = Demands {
            size: job.body.size,
            body: envelope.body,
            utf8,
            ret: envelope.ret,
            envelope_id: envelope.envelope_id.as_deref(),
            require_tls: envelope.require_tls,
            deliver_by: envelope.deliver_by.map(|by| {
                let left = by.deadline.0.saturating_sub(envelope.arrived.0) / 1_000_000;
                DeliverBy {
                    seconds: left.clamp(-999_999_999, 999_999_999) as i32,
                    mode: if by.returns { ByMode::Return } else { ByMode::Notify },
                    trace: by.trace,
                }
            }),
            elapsed: envelope.age(now),
            priority: (envelope.priority != 0).then_some(envelope.priority),
        };
        let mut mail_from = format!("<{}>", job.sender);
        let body = match demands.append_mail_parameters(&offers, &mut mail_from) {
            Ok(body) => body,
            Err(hindrance) => return all(self.failed(hindrance.status(), hindrance.reason())),
        };
        // RFC 6152 3, RFC 3030 3. Many clients do not declare what they send; even so, a host that
        // takes only 7-bit messages must not get others.
        let declared = envelope.body != BodyKind::SevenBit;
        let mut plan = None;
        if body == BodyKind::SevenBit && (declared || !offers.eight_bit_mime) {
            let found = match surveyed {
                Some(found) => Ok(found),
                None => survey(job.partition, job.body).await,
            };
            match found {
                Ok(Surveyed { plan: Some(found), .. }) => plan = Some(found),
                // As it came: its sender asked for nothing else.
                Ok(_) if !declared => {}
                Ok(_) => {
                    let reason = "the mail server takes 7-bit messages only, and this one cannot \
                                  be converted";
                    return all(self.failed("5.6.3", reason));
                }
                Err(error) => return all(self.unreadable(&error)),
            }
        }
        let converted = plan.as_ref().filter(|plan| plan.changes());
        let mut signatures = None;
        if let Some(plan) = converted {
            self.shard.metrics.count("relay_messages_converted_total", 1);
            let binary = envelope.body == BodyKind::BinaryMime;
            let again = sign_again(&self.shard, job.partition, job.body, plan, binary).await;
            signatures = match again {
                Ok(signatures) => signatures,
                Err(error) => return all(self.unreadable(&error)),
            };
            let again = u64::from(signatures.is_some());
            self.shard.metrics.count("relay_messages_signed_again_total", again);
        }
        let lines: Vec<(String, String)> = job
            .recipients
            .iter()
            .map(|(_, recipient)| {
                let mut parameters = String::new();
                let original = recipient.original.as_deref();
                let notify = recipient.notify;
                append_recipient_parameters(original, notify, &offers, &mut parameters);
                (format!("<{}>", recipient.address), parameters)
            })
            .collect();
        let mut times = Vec::new();
        let mut results: Vec<Option<RcptResult>> = vec![None; lines.len()];
        loop {
            let left: Vec<usize> = (0..lines.len())
                .filter(|at| matches!(results.get(*at), Some(None | Some(RcptResult::Unsent))))
                .collect();
            if left.is_empty() || !self.usable {
                break;
            }
            let recipients: Vec<RcptLine<'_>> = left
                .iter()
                .filter_map(|at| lines.get(*at))
                .map(|(path, parameters)| RcptLine { path, parameters })
                .collect();
            let transaction = Envelope {
                mail_from: &mail_from,
                recipients: &recipients,
                size: job.body.size,
                binary: body == BodyKind::BinaryMime,
            };
            let sent = match converted {
                None => {
                    let mut content = StoredContent::for_others(job.partition, job.body);
                    client.send(&transaction, &mut content).await
                }
                Some(plan) => {
                    let mut content =
                        Converted::new(job.partition, job.body, plan, signatures.clone());
                    client.send(&transaction, &mut content).await
                }
            };
            self.usable = sent.connection_usable;
            times.extend(sent.times);
            if sent.in_doubt {
                self.shard.metrics.count("relay_miscounts_total", 1);
                let now = self.shard.executor.moment();
                self.miscounts.note(&self.host, client.peer(), now);
            }
            if self.used && !self.usable && never_begun(&results, &sent.recipients) {
                return all(Outcome::Again);
            }
            self.used = true;
            let progress = sent.recipients.iter().any(|it| *it != RcptResult::Unsent);
            for (at, result) in left.into_iter().zip(sent.recipients) {
                if let Some(place) = results.get_mut(at) {
                    *place = Some(result);
                }
            }
            if !progress {
                break;
            }
        }
        let now = self.shard.executor.now();
        let times = times_of(&times);
        let with_host = |problem: Problem| {
            let (host, times) = (Some(self.host.clone()), times.clone());
            Problem { host, times, ..problem }
        };
        let lost = |what: String| {
            Outcome::Deferred(with_host(Problem {
                at: now,
                status: "4.4.2".to_owned(),
                reason: what,
                ..Problem::default()
            }))
        };
        let outcome = |(result, (number, recipient)): (Option<RcptResult>, &(u32, &Recipient))| {
            let outcome = match result {
                Some(RcptResult::Accepted { reply }) => Outcome::Delivered {
                    host: self.host.clone(),
                    reply: format!("{} {}", reply.code, reply.text),
                    tls: tls.clone(),
                    is_reported: demands.relay_is_reported(recipient.notify, &offers),
                },
                Some(ref result @ RcptResult::Refused { ref reply, .. }) => {
                    let problem = with_host(problem_of(reply, now));
                    match result.is_permanent() {
                        true => Outcome::Failed(problem),
                        false => Outcome::Deferred(problem),
                    }
                }
                Some(RcptResult::Lost { stage, what, .. }) => {
                    lost(format!("{}: {what}", stage.name()))
                }
                Some(RcptResult::Unsent) | None => {
                    lost("the connection ended before its turn".to_owned())
                }
            };
            (*number, outcome)
        };
        results.into_iter().zip(job.recipients).map(outcome).collect()
    }
}

impl Session for RemoteSession {
    fn send<'a>(&'a mut self, job: &'a Job<'a>) -> LocalFuture<'a, Vec<(u32, Outcome)>> {
        Box::pin(async move {
            if let Some(successes) = &mut self.successes {
                let now = self.shard.executor.now();
                for (_, recipient) in job.recipients {
                    successes.carries(&self.shard.tls_counts, now, recipient.domain());
                }
            }
            let began = self.shard.executor.moment();
            let outcomes = self.transmit(job).await;
            let took: Duration = self.shard.executor.moment().since(began);
            self.shard.metrics.command(Protocol::Relay, "TRANSACTION", took);
            outcomes
        })
    }

    fn is_usable(&self) -> bool {
        self.usable
            && self
                .client
                .as_ref()
                .is_some_and(|client| client.transactions_left().is_none_or(|left| left > 0))
    }

    fn is_alive(&mut self) -> LocalFuture<'_, bool> {
        Box::pin(async move {
            match &mut self.client {
                Some(client) => client.is_alive().await,
                None => false,
            }
        })
    }

    fn end(mut self: Box<Self>) -> LocalFuture<'static, ()> {
        Box::pin(async move {
            if let Some(client) = self.client.take() {
                client.quit().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::smtp::client::Reply;

    /// A recipient who has the message must not be tried again because a later transaction with the
    /// rest of them found the connection closed.
    #[test]
    fn only_a_message_that_was_not_begun_is_tried_again_at_once() {
        let lost = |stage| RcptResult::Lost {
            stage,
            what: "closed".to_owned(),
            after_final_dot: stage == Stage::End,
        };
        let accepted = || RcptResult::Accepted { reply: Reply::local(250, "ok") };
        let none = || vec![None, None];
        assert!(never_begun(&none(), &[lost(Stage::Mail), lost(Stage::Mail)]));
        assert!(!never_begun(&none(), &[lost(Stage::Mail), lost(Stage::End)]));
        assert!(!never_begun(&none(), &[lost(Stage::Rcpt)]));
        assert!(!never_begun(&none(), &[accepted()]));
        for before in [accepted(), RcptResult::Unsent, lost(Stage::Mail)] {
            assert!(!never_begun(&[Some(before), None], &[lost(Stage::Mail)]));
        }
    }
}
