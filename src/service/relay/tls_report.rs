//! Counts the TLS of sessions for reports to other domains (RFC 8460): under which policy a session
//! was, and how it failed.
//!
//! A session that got TLS as its policy wants it counts as a success for each domain whose mail it
//! carries. One that failed counts for the domain whose mail it was opened for; one that did not
//! get as far as TLS counts for nobody. What a route of the configuration demands is our own policy
//! and not reported, and neither is mail for which TLS is optional (RFC 8460 3).
//!
//! Each shard counts for itself, and hands over what it has every few seconds and when it ends
//! ([`Handover`]); the control thread adds it up (`control/tls_report.rs`).

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

use super::client::{Client, Failed};
use crate::{
    model::Timestamp,
    protocol::{
        smtp::client::Stage,
        tls_report::{Collected, Day, Failure, Policy, PolicyKind, ResultType},
    },
    resolver::{Kind, MailHost, Name, TlsDemand, TlsTrouble},
    runtime::tls_client::{TlsFailure, Verified},
};

/// Counts handed over that wait for the control thread; it takes all of them several times a
/// minute.
const WAITING_MAX: usize = 1024;

/// Domains whose mail is counted in one session.
const DOMAINS_OF_SESSION_MAX: usize = 1000;

/// From the shards to the control thread. Each end holds it for a few instructions.
#[derive(Clone, Default)]
pub struct Handover(Arc<Mutex<Vec<Collected>>>);

impl Handover {
    /// All that was handed over since the last call.
    pub fn take(&self) -> Vec<Collected> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// False if too much waits already.
    fn put(&self, counts: Collected) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = waiting.len() < WAITING_MAX;
        if fits {
            waiting.push(counts);
        }
        fits
    }
}

/// A shard's counts. By default nothing is counted.
#[derive(Default)]
pub struct TlsCounts {
    handover: Option<Handover>,
    counts: RefCell<Collected>,
}

impl TlsCounts {
    pub fn new(handover: Option<Handover>) -> TlsCounts {
        TlsCounts { handover, counts: RefCell::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.handover.is_some()
    }

    fn count(&self, now: Timestamp, domain: &str, policy: &Policy, failure: Option<Failure>) {
        if self.is_on() {
            let day = Day::of(u64::try_from(now.unix_seconds()).unwrap_or_default());
            self.counts.borrow_mut().day(day).record(domain, policy, failure);
        }
    }

    /// Hands over what was counted since the last call.
    pub fn hand_over(&self) {
        let Some(handover) = &self.handover else { return };
        let counts = self.counts.take();
        if !counts.is_empty() {
            handover.put(counts);
        }
    }
}

/// The policy that sessions with one host are under, for mail of one domain.
#[derive(Clone, Debug)]
pub(super) struct Under {
    /// The recipient domain, in A-labels.
    pub domain: String,
    pub policy: Policy,
    /// The policy belongs to this domain: mail of other domains has another one.
    pub own: bool,
    /// A fault of the policy itself, which remains even if a session is established.
    fault: Option<(ResultType, &'static str)>,
}

impl Under {
    pub(super) fn of(domain: &Name, host: &MailHost, demand: &TlsDemand) -> Under {
        let domain = domain.to_string();
        let (policy, fault) = match demand {
            TlsDemand::Opportunistic => (Policy::none(&domain), None),
            TlsDemand::Dane { records, names } => {
                let base = names.first().unwrap_or(&host.name);
                let lines = records.iter().map(ToString::to_string).collect();
                let of_base = Policy::without_text(PolicyKind::Tlsa, base);
                (Policy { lines, ..of_base }, None)
            }
            TlsDemand::Sts { policy, .. } => {
                let listed = Name::parse(&host.name).is_ok_and(|name| policy.lists(&name));
                (sts(&domain, policy), (!listed).then_some(NOT_LISTED))
            }
        };
        let own = policy.kind == PolicyKind::NoPolicyFound;
        Under { domain, policy: policy.clipped(), own, fault }
    }

    /// The same if the demand cannot be met, and what failed.
    pub(super) fn of_trouble(
        domain: &Name,
        host: &MailHost,
        trouble: &TlsTrouble,
    ) -> (Under, ResultType, String) {
        let domain = domain.to_string();
        let (policy, result, reason) = match trouble {
            TlsTrouble::NotListed { policy } => {
                let (result, reason) = NOT_LISTED;
                (sts(&domain, policy), result, reason.to_owned())
            }
            // The question for a TLSA record, or for the alias that leads to it.
            TlsTrouble::Unknown { question, failure } if question.kind != Kind::Sts => {
                let policy = Policy::without_text(PolicyKind::Tlsa, &host.name);
                (policy, ResultType::DnssecInvalid, failure.to_string())
            }
            TlsTrouble::Unknown { failure, .. } => {
                let policy = Policy::without_text(PolicyKind::Sts, &domain);
                (policy, ResultType::StsPolicyFetchError, failure.to_string())
            }
        };
        (Under { domain, policy: policy.clipped(), own: false, fault: None }, result, reason)
    }

    /// The failure of a session that could not be established; `None` if TLS is not the reason.
    pub(super) fn failure(host: &str, failed: &Failed) -> Option<Failure> {
        let (result, reason) = match (failed.stage, failed.tls) {
            (Stage::StartTls, _) => {
                let refused =
                    failed.reply.as_ref().map(|reply| format!("STARTTLS: {}", reply.code));
                (ResultType::StarttlsNotSupported, refused)
            }
            // The text contains times, so every session would seem to fail in a different way.
            (Stage::Tls, Some(TlsFailure::Expired)) => (ResultType::CertificateExpired, None),
            (Stage::Tls, Some(failure)) => (result_of(failure), Some(failed.what.clone())),
            (Stage::Tls, None) => (ResultType::ValidationFailure, Some(failed.what.clone())),
            _ => return None,
        };
        Some(Failure {
            sending_mta_ip: failed.session.local,
            receiving_mx_hostname: Some(host.to_owned()),
            receiving_mx_helo: failed.session.greeting.clone(),
            receiving_ip: failed.session.peer,
            failure_reason_code: reason,
            ..Failure::of(result)
        })
    }

    /// What is wrong with an established session; `None` if it is as the policy wants it.
    pub(super) fn fault(&self, host: &str, client: &Client) -> Option<Failure> {
        let (result, reason) = match client.tls_facts() {
            None => (ResultType::StarttlsNotSupported, None),
            Some(facts) if facts.verified == Verified::NoUsableRecord => {
                (ResultType::TlsaInvalid, None)
            }
            Some(_) => self.fault.map(|(result, reason)| (result, Some(reason.to_owned())))?,
        };
        let session = client.session();
        Some(Failure {
            sending_mta_ip: session.local,
            receiving_mx_hostname: Some(host.to_owned()),
            receiving_mx_helo: session.greeting,
            receiving_ip: session.peer,
            failure_reason_code: reason,
            ..Failure::of(result)
        })
    }

    pub(super) fn count(&self, counts: &TlsCounts, now: Timestamp, failure: Option<Failure>) {
        counts.count(now, &self.domain, &self.policy, failure);
    }
}

const NOT_LISTED: (ResultType, &str) =
    (ResultType::ValidationFailure, "the policy does not list the MX host");

fn sts(domain: &str, policy: &crate::resolver::StsPolicy) -> Policy {
    Policy {
        kind: PolicyKind::Sts,
        lines: policy.lines.clone(),
        domain: domain.to_owned(),
        hosts: policy.hosts.clone(),
    }
}

/// RFC 8460 4.3.
fn result_of(failure: TlsFailure) -> ResultType {
    match failure {
        TlsFailure::HostMismatch => ResultType::CertificateHostMismatch,
        TlsFailure::Expired => ResultType::CertificateExpired,
        TlsFailure::NotTrusted | TlsFailure::NoMatchingRecord => ResultType::CertificateNotTrusted,
        TlsFailure::Certificate | TlsFailure::Handshake => ResultType::ValidationFailure,
    }
}

/// The successes of one session: one for each domain whose mail it carries.
pub(super) struct Successes {
    under: Under,
    /// The next hop is fixed: its domain is all that counts.
    fixed: bool,
    /// In the form that addresses have.
    domains: Vec<String>,
}

impl Successes {
    pub(super) fn new(under: Under, fixed: bool) -> Successes {
        Successes { under, fixed, domains: Vec::new() }
    }

    /// The session carries mail for `domain`.
    pub(super) fn carries(&mut self, counts: &TlsCounts, now: Timestamp, domain: &str) {
        let domain = if self.fixed { "" } else { domain };
        let known = self.domains.iter().any(|it| it.eq_ignore_ascii_case(domain));
        if known || self.domains.len() >= DOMAINS_OF_SESSION_MAX {
            return;
        }
        self.domains.push(domain.to_owned());
        let Under { policy, own, .. } = &self.under;
        match Name::parse(domain) {
            Ok(name) if name.as_str() != self.under.domain => {
                let domain = name.to_string();
                let policy = if *own { Policy::none(&domain) } else { policy.clone() };
                counts.count(now, &domain, &policy, None);
            }
            _ => self.under.count(counts, now, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls_report::Summary;

    fn counts() -> (TlsCounts, Handover) {
        let handover = Handover::default();
        (TlsCounts::new(Some(handover.clone())), handover)
    }

    fn under(demand: &TlsDemand) -> Under {
        let host = MailHost {
            name: "mx.a.test".to_owned(),
            preference: 0,
            addresses: vec![[127, 0, 0, 1].into()],
            authentic: false,
            canonical: None,
        };
        Under::of(&Name::parse("a.test").unwrap(), &host, demand)
    }

    /// (domain, kind, policy domain, successes), in order.
    fn handed_over(handover: &Handover) -> Vec<(String, PolicyKind, String, Summary)> {
        let mut found = Vec::new();
        for counts in handover.take() {
            for (day, all) in counts.into_days() {
                assert_eq!(day, Day(3));
                for (name, domain) in all.domains {
                    for tally in domain.policies {
                        let policy = tally.policy;
                        found.push((name.clone(), policy.kind, policy.domain, tally.summary));
                    }
                }
            }
        }
        found
    }

    const NOW: Timestamp = Timestamp(3 * 86_400_000_000 + 5);

    #[test]
    fn a_session_counts_once_for_each_domain_whose_mail_it_carries() {
        let one = Summary { successes: 1, failures: 0 };
        let none = PolicyKind::NoPolicyFound;
        let (shard, handover) = counts();
        let mut session = Successes::new(under(&TlsDemand::Opportunistic), false);
        for domain in ["a.test", "A.test", "b.test", "bücher.test", "a.test"] {
            session.carries(&shard, NOW, domain);
        }
        assert_eq!(handed_over(&handover), []);
        shard.hand_over();
        let names = ["a.test", "b.test", "xn--bcher-kva.test"];
        let expected = names.map(|it| (it.to_owned(), none, it.to_owned(), one));
        assert_eq!(handed_over(&handover), expected);

        let records = vec![crate::model::Tlsa {
            usage: 3,
            selector: 1,
            matching: 1,
            data: vec![0xab].into(),
        }];
        let names = vec!["base.test".to_owned(), "a.test".to_owned()];
        let dane = TlsDemand::Dane { records: records.into(), names };
        let mut session = Successes::new(under(&dane), false);
        session.carries(&shard, NOW, "a.test");
        session.carries(&shard, NOW, "b.test");
        shard.hand_over();
        let expected = ["a.test", "b.test"]
            .map(|it| (it.to_owned(), PolicyKind::Tlsa, "base.test".to_owned(), one));
        assert_eq!(handed_over(&handover), expected);

        let mut session = Successes::new(under(&TlsDemand::Opportunistic), true);
        session.carries(&shard, NOW, "far.test");
        session.carries(&shard, NOW, "farther.test");
        shard.hand_over();
        let smarthost = ("a.test".to_owned(), none, "a.test".to_owned(), one);
        assert_eq!(handed_over(&handover), [smarthost]);
    }

    #[test]
    fn nothing_is_counted_unless_it_is_on() {
        let shard = TlsCounts::default();
        Successes::new(under(&TlsDemand::Opportunistic), false).carries(&shard, NOW, "a.test");
        assert!(shard.counts.borrow().is_empty());
    }

    #[test]
    fn a_control_thread_that_takes_nothing_fills_no_memory() {
        let (shard, handover) = counts();
        for _ in 0..WAITING_MAX + 5 {
            under(&TlsDemand::Opportunistic).count(&shard, NOW, None);
            shard.hand_over();
        }
        assert_eq!(handover.take().len(), WAITING_MAX);
    }

    #[test]
    fn failures_have_the_names_of_the_registry() {
        for (failure, result) in [
            (TlsFailure::HostMismatch, ResultType::CertificateHostMismatch),
            (TlsFailure::Expired, ResultType::CertificateExpired),
            (TlsFailure::NotTrusted, ResultType::CertificateNotTrusted),
            (TlsFailure::NoMatchingRecord, ResultType::CertificateNotTrusted),
            (TlsFailure::Certificate, ResultType::ValidationFailure),
            (TlsFailure::Handshake, ResultType::ValidationFailure),
        ] {
            assert_eq!(result_of(failure), result, "{failure:?}");
        }
    }
}
