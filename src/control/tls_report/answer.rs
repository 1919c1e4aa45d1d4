//! What `ringmail tlsrpt` asks and gets: the counts and the reports that wait, for people or as
//! JSON, and reports that are sent at once, or would be.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    Sent, TlsReporter, UNDER_WAY_MAX, now,
    state::{Due, State},
};
use crate::{
    control::json,
    events::rfc3339,
    model::Timestamp,
    protocol::tls_report::{Domain, Endpoint, PolicyKind},
};

/// What `ringmail tlsrpt` asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsReportRequest {
    Show {
        json: bool,
    },
    /// `domain`: in A-labels; all if `None`.
    Send {
        domain: Option<String>,
        dry: bool,
        json: bool,
    },
}

impl TlsReportRequest {
    /// The line on the control socket.
    pub fn line(&self) -> String {
        let form = |json: &bool| if *json { "json" } else { "text" };
        match self {
            TlsReportRequest::Show { json } => format!("tlsrpt\tshow\t{}", form(json)),
            TlsReportRequest::Send { domain, dry, json } => {
                let what = if *dry { "try" } else { "send" };
                let domain = domain.as_deref().unwrap_or_default();
                format!("tlsrpt\t{what}\t{}\t{domain}", form(json))
            }
        }
    }

    /// `None` for a line that is no such request.
    pub fn parse(line: &str) -> Option<TlsReportRequest> {
        let mut words = line.strip_prefix("tlsrpt\t")?.split('\t');
        let (verb, json) = (words.next()?, words.next()? == "json");
        let dry = match verb {
            "show" => return Some(TlsReportRequest::Show { json }),
            "try" => true,
            "send" => false,
            _ => return None,
        };
        let domain = words.next().filter(|it| !it.is_empty()).map(str::to_owned);
        Some(TlsReportRequest::Send { domain, dry, json })
    }
}

impl TlsReporter {
    /// Answers a request of `ringmail tlsrpt`.
    pub async fn answer(self: Arc<Self>, request: TlsReportRequest, lines: mpsc::Sender<String>) {
        self.take_counts();
        let answer = async {
            match request {
                TlsReportRequest::Show { json } => {
                    let all = self.state().lines(now(), json);
                    tell(&lines, all).await?;
                }
                TlsReportRequest::Send { domain, dry: true, json } => {
                    self.send_dry(domain.as_deref(), json, &lines).await?;
                }
                TlsReportRequest::Send { domain, dry: false, json } => {
                    self.send_now(domain.as_deref(), json, &lines).await?;
                }
            }
            tell(&lines, ["ok".to_owned()]).await
        };
        // A reader that is gone needs no answer.
        let _ = answer.await;
    }

    /// What would be sent now, and where.
    async fn send_dry(
        &self,
        domain: Option<&str>,
        as_json: bool,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Gone> {
        let mut copy = self.state().clone();
        let is_wanted = |name: &str| domain.is_none_or(|wanted| wanted == name);
        copy.close(|_| true, is_wanted, now(), |_| 0);
        copy.due.retain(|due| is_wanted(&due.domain));
        if copy.due.is_empty() {
            return tell(lines, nothing(as_json)).await;
        }
        for mut due in copy.due {
            let results = match self.endpoints(&mut due).await {
                Ok(found) if found.is_empty() => {
                    vec![Sent { to: None, result: "unwanted", reason: None }]
                }
                Ok(found) => {
                    let would = |it: &Endpoint| Sent {
                        to: Some(it.to_string()),
                        result: "would",
                        reason: None,
                    };
                    found.iter().map(would).collect()
                }
                Err(reason) => {
                    vec![Sent { to: None, result: "deferred", reason: Some(reason) }]
                }
            };
            let document = self.report(&due).json();
            tell(lines, due.told(&results, Some(&document), as_json)).await?;
            if !as_json && results.iter().any(|sent| sent.result == "would") {
                tell(lines, [format!("=  {document}")]).await?;
            }
        }
        Ok(())
    }

    /// Sends what was counted so far, and what waits, without any delay.
    async fn send_now(
        self: &Arc<Self>,
        domain: Option<&str>,
        as_json: bool,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Gone> {
        let is_wanted = |name: &str| domain.is_none_or(|wanted| wanted == name);
        let begun: Vec<Due> = {
            let mut state = self.state();
            state.close(|_| true, is_wanted, now(), |_| now());
            self.note_change();
            std::iter::from_fn(|| state.begin(|due| is_wanted(&due.domain))).collect()
        };
        if begun.is_empty() {
            return tell(lines, nothing(as_json)).await;
        }
        let mut told = Ok(());
        for some in begun.chunks(UNDER_WAY_MAX) {
            // Some servers take their time.
            let attempts = some.iter().cloned().map(|due| {
                let reporter = self.clone();
                tokio::spawn(async move { reporter.attempt(due).await })
            });
            for (attempt, due) in attempts.collect::<Vec<_>>().into_iter().zip(some) {
                let results = attempt.await.unwrap_or_default();
                // The attempts go on if the reader is gone.
                if told.is_ok() {
                    told = tell(lines, due.told(&results, None, as_json)).await;
                }
            }
        }
        self.save_beside().await;
        told
    }
}

/// The reader of an answer is gone.
struct Gone;

async fn tell(
    lines: &mpsc::Sender<String>,
    all: impl IntoIterator<Item = String>,
) -> Result<(), Gone> {
    for line in all {
        lines.send(line).await.map_err(|_| Gone)?;
    }
    Ok(())
}

fn nothing(as_json: bool) -> Option<String> {
    (!as_json).then(|| "=no sessions were counted".to_owned())
}

impl State {
    /// All of it, for people or as a JSON object a line.
    pub(super) fn lines(&self, now: u64, as_json: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for counts in self.days.values() {
            for (domain, content) in &counts.counts.domains {
                let day = seconds(counts.from);
                if as_json {
                    lines.push(object(&[
                        ("state", json::text("counting")),
                        ("domain", json::text(domain)),
                        ("begin", json::text(&day)),
                        ("policies", policies(content)),
                    ]));
                } else {
                    lines.push(format!("={domain}  counting since {day}"));
                    lines.extend(text(content));
                }
            }
            let not_counted = counts.counts.not_counted;
            if not_counted > 0 && !as_json {
                lines.push(format!("={not_counted} sessions with further domains"));
            }
        }
        for due in &self.due {
            let (begin, end) = (seconds(due.begin), seconds(due.end));
            if as_json {
                let left = due.left.as_ref().map(|left| {
                    json::list(&left.iter().map(|it| json::text(it)).collect::<Vec<_>>())
                });
                lines.push(object(&[
                    ("state", json::text("due")),
                    ("domain", json::text(&due.domain)),
                    ("report", json::text(&due.id)),
                    ("begin", json::text(&begin)),
                    ("end", json::text(&end)),
                    ("next_attempt", json::text(&seconds(due.at))),
                    ("attempts", due.attempts.to_string()),
                    ("left", left.unwrap_or("null".to_owned())),
                    ("policies", policies(&due.content)),
                ]));
                continue;
            }
            let when = match due.at > now {
                true => format!("next attempt at {}", seconds(due.at)),
                false => "to be sent now".to_owned(),
            };
            let Due { domain, attempts, .. } = due;
            lines.push(format!("={domain}  {begin} to {end}: {when}, after {attempts} attempts"));
            lines.extend(text(&due.content));
        }
        if lines.is_empty() {
            lines.extend(nothing(as_json));
        }
        lines
    }
}

impl Due {
    fn told(&self, results: &[Sent], document: Option<&str>, as_json: bool) -> Vec<String> {
        results.iter().map(|sent| self.line(sent, document, as_json)).collect()
    }

    /// What became, or would become, of it.
    fn line(&self, sent: &Sent, document: Option<&str>, as_json: bool) -> String {
        let Sent { to, result, reason } = sent;
        if as_json {
            let mut fields = vec![
                ("domain", json::text(&self.domain)),
                ("report", json::text(&self.id)),
                ("to", json::optional(to.as_deref())),
                ("result", json::text(result)),
                ("reason", json::optional(reason.as_deref())),
            ];
            fields.extend(document.map(|document| ("document", document.to_owned())));
            return object(&fields);
        }
        let to = to.as_deref().unwrap_or("its endpoints");
        let why = reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
        let what = match *result {
            "unwanted" => "wants no reports".to_owned(),
            "would" => format!("would be sent to {to}"),
            "deferred" => format!("cannot be sent to {to} now{why}"),
            "dropped" => format!("could not be sent to {to}{why}"),
            "queued" => format!("in the queue for {to}"),
            other => format!("{other} to {to}"),
        };
        format!("={}  {what}", self.domain)
    }
}

fn object(fields: &[(&str, String)]) -> String {
    format!("={}", json::object(fields))
}

fn policies(content: &Domain) -> String {
    serde_json::to_string(&content.policies).unwrap_or_default()
}

fn text(content: &Domain) -> Vec<String> {
    let mut lines = Vec::new();
    for tally in &content.policies {
        let (policy, summary) = (&tally.policy, tally.summary);
        let kind = match policy.kind {
            PolicyKind::Tlsa => "DANE",
            PolicyKind::Sts => "MTA-STS",
            PolicyKind::NoPolicyFound => "no policy",
        };
        let (good, bad) = (summary.successes, summary.failures);
        lines.push(format!("=  {kind} of {}: {good} succeeded, {bad} failed", policy.domain));
        for detail in &tally.failure_details {
            let failure = &detail.failure;
            let name = serde_json::to_value(failure.result_type).unwrap_or_default();
            let mut line =
                format!("=    {} {}", detail.sessions, name.as_str().unwrap_or_default());
            let parts = [&failure.receiving_mx_hostname, &failure.failure_reason_code];
            parts.into_iter().flatten().for_each(|part| line.push_str(&format!(", {part}")));
            lines.push(line);
        }
    }
    lines
}

fn seconds(seconds: u64) -> String {
    let time = Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
    let text = rfc3339(time);
    format!("{}Z", text.split(['.', 'Z']).next().unwrap_or_default())
}
