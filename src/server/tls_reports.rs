//! What reports on TLS (`control/tls_report.rs`) need of the rest of the server: the way of their
//! mail into the queue, and news of MTA-STS policies, which also become events.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    control::{
        Mailer, PolicyNews, PolicyWatcher, ReportToSend, Submitted, TlsReportOptions, TlsReporter,
    },
    dkim::SharedKeyring,
    events::{Event, EventSender},
    model::ShardId,
    runtime::mesh::MeshGate,
    service::{
        Shard,
        relay::{OwnMail, submit},
    },
};

/// Mail goes into the queue of the first shard.
pub(super) struct QueueMailer(pub MeshGate<Shard>);

impl Mailer for QueueMailer {
    fn submit(&self, mail: ReportToSend) -> Submitted {
        let gate = self.0.clone();
        Box::pin(async move {
            let asked = gate.call(ShardId(0), move |shard: Rc<Shard>| {
                Box::pin(async move {
                    let ReportToSend { from, to, id, message, expires } = mail;
                    let mail = OwnMail { sender: from, to, id, message, expires };
                    submit(&shard, mail).await.map_err(|failure| failure.to_string())
                })
            });
            asked.await.unwrap_or_else(|error| Err(error.to_string()))
        })
    }
}

/// Tells the event log of policies, and counts those that could not be fetched.
pub(super) fn policy_watcher(
    reporter: Option<Arc<TlsReporter>>,
    events: EventSender,
) -> PolicyWatcher {
    Box::new(move |domain, id, news| match news {
        PolicyNews::Changed { before, now } => {
            let (before, mode) = (before.mode.name(), now.mode.name());
            events.tell(&Event::StsPolicyChanged { domain: domain.as_str(), id, before, mode });
        }
        PolicyNews::Failed { result, reason, kept } => {
            events.tell(&Event::StsPolicyFailed { domain: domain.as_str(), id, reason, kept });
            if let Some(reporter) = &reporter {
                reporter.policy_failed(domain, result, reason);
            }
        }
    })
}

/// The warning if reports by mail go without a signature.
pub(super) fn unsigned(options: &TlsReportOptions, keys: &SharedKeyring) -> Option<String> {
    let (_, domain) = options.from.rsplit_once('@')?;
    keys.signer(domain).is_none().then(|| {
        format!(
            "tlsrpt.enabled: no DKIM key of {domain}, and receivers ignore reports by mail without a \
             signature (RFC 8460 3): ringmail dkim generate {domain}"
        )
    })
}

/// Counters of the process, for the metrics.
pub(super) fn counters(reporter: &TlsReporter) -> [(&'static str, u64); 3] {
    let counters = &reporter.counters;
    [
        ("tls_reports_sent_total", counters.sent.load(Ordering::Relaxed)),
        ("tls_reports_dropped_total", counters.dropped.load(Ordering::Relaxed)),
        ("tls_report_sessions_not_counted_total", counters.not_counted.load(Ordering::Relaxed)),
    ]
}
