//! TLS reports (RFC 8460): adds up what the shards count, keeps it, and once a day sends each
//! domain its report, if it wants one and reports are on (`tlsrpt.enabled`).
//!
//! A day of UTC is closed when it is over. Each of its domains then has a report that is **due**,
//! at a random time within `tlsrpt.delay` (RFC 8460 4.1). When it is, the domain's TXT record is
//! looked up; the report goes to each endpoint by mail, through the queue, or by HTTPS. What fails
//! is tried again with growing pauses, and dropped 24 hours after the first attempt (RFC 8460 5.5).
//!
//! On disk: `tls-reports.json` in the data directory, replaced as a whole every [`SAVE_INTERVAL`],
//! when a report was sent, and at the end of the process. A crash loses the counts since then, and
//! may send a report again, under the same id.
//!
//! `state` is what is kept, `answer` what operators ask.
//!
//! Owned by the control thread; the process's end saves it once more.

mod answer;
mod state;

use std::{
    ffi::OsStr,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::timeout;

pub use self::answer::TlsReportRequest;

use self::state::{Due, FILE, State, load, path};
use super::{
    dns::{DnsAsker, DnsWorker},
    https::{self, Https, HttpsOptions},
};
use crate::{
    events::{Event, EventSender},
    model::Timestamp,
    protocol::tls_report::{
        Day, Endpoint, Failure, HttpsUrl, Policy, PolicyKind, ReportMail, ResultType, TlsReport,
        compress, endpoints,
    },
    resolver::{Found, Kind, Name, Records, Reply},
    runtime::folder::Folder,
    service::relay::Handover,
};

/// How often the shards' counts are taken, and due reports looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often what was counted is written to disk.
const SAVE_INTERVAL: Duration = Duration::from_secs(120);

/// How long after its end a day is closed, so that the last counts of the shards are there.
const CLOSE_AFTER: u64 = 30;

/// Reports that are being sent at once.
const UNDER_WAY_MAX: usize = 16;

/// Pause after the first failed attempt; each further one is twice as long, up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(300);
const RETRY_LAST: Duration = Duration::from_secs(4 * 3600);

/// How long a report is tried (RFC 8460 5.5).
const TRIED_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long one POST may take in all.
const POST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the queue may take to accept a report.
const MAIL_TIMEOUT: Duration = Duration::from_secs(60);

/// Who reports, and how; `config` fills them.
#[derive(Clone, Debug)]
pub struct TlsReportOptions {
    /// In words.
    pub organization: String,
    /// For questions about reports.
    pub contact: String,
    /// The sender of reports by mail; its domain is the submitter.
    pub from: String,
    /// How servers are reached that get reports by HTTPS.
    pub https: HttpsOptions,
    /// Reports of a day are sent at random times within this after its end.
    pub delay: Duration,
}

/// A future that can go to another thread.
pub type Submitted = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Puts mail into the queue: the seam to the shards.
pub trait Mailer: Send + Sync {
    /// `message` has no trace fields and no signature yet. It is tried until `expires`.
    fn submit(&self, mail: ReportToSend) -> Submitted;
}

/// A report as mail.
#[derive(Clone, Debug)]
pub struct ReportToSend {
    pub from: String,
    pub to: String,
    pub id: String,
    pub message: Vec<u8>,
    pub expires: Timestamp,
}

/// What became of a report at one endpoint, or without any.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    to: Option<String>,
    /// `queued`, `sent`, `deferred`, `dropped` or `unwanted`.
    result: &'static str,
    reason: Option<String>,
}

/// Counters for the metrics.
#[derive(Default, Debug)]
pub struct TlsReportCounters {
    /// Reports that an endpoint has, or the queue for it.
    pub sent: AtomicU64,
    /// Reports given up.
    pub dropped: AtomicU64,
    /// Sessions with domains beyond the limits.
    pub not_counted: AtomicU64,
}

/// Collects and sends. See the module documentation.
pub struct TlsReporter {
    options: TlsReportOptions,
    data_dir: PathBuf,
    handover: Handover,
    state: Mutex<State>,
    dns: DnsAsker,
    https: Https,
    mailer: Box<dyn Mailer>,
    events: EventSender,
    /// There is something that is not on disk.
    changed: AtomicBool,
    /// Held while it is written.
    writing: Mutex<()>,
    pub counters: TlsReportCounters,
}

impl TlsReporter {
    /// Reads what was kept before. A file that cannot be read is reported, and begun anew.
    pub fn new(
        options: TlsReportOptions,
        data_dir: PathBuf,
        dns: &DnsWorker,
        mailer: Box<dyn Mailer>,
        events: EventSender,
    ) -> Arc<TlsReporter> {
        let state = load(&data_dir).unwrap_or_else(|error| {
            let text = format!("{}: counts of TLS sessions are lost: {error}", path(&data_dir));
            events.tell(&Event::Warning { text: &text });
            State::default()
        });
        let https = Https::new(options.https.clone());
        Arc::new(TlsReporter {
            options,
            data_dir,
            handover: Handover::default(),
            state: Mutex::new(state),
            dns: dns.asker(),
            https,
            mailer,
            events,
            changed: AtomicBool::new(false),
            writing: Mutex::default(),
            counters: TlsReportCounters::default(),
        })
    }

    /// For the shards.
    pub fn handover(&self) -> Handover {
        self.handover.clone()
    }

    /// Counts that the MTA-STS policy of `domain` could not be fetched.
    pub fn policy_failed(&self, domain: &Name, result: ResultType, reason: &str) {
        let policy = Policy::without_text(PolicyKind::Sts, domain.as_str());
        let failure =
            Failure { failure_reason_code: Some(reason.to_owned()), ..Failure::of(result) };
        let now = now();
        self.state().day(Day::of(now)).record(domain.as_str(), &policy, Some(failure));
        self.note_change();
    }

    /// Runs until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut saved = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(TICK).await;
            self.take_counts();
            let closed = self.close_days(now());
            let reporter = self.clone();
            if self.has_due(now()) {
                tokio::spawn(async move { reporter.send_due().await });
            }
            if closed || saved.elapsed() >= SAVE_INTERVAL {
                saved = tokio::time::Instant::now();
                self.save_beside().await;
            }
        }
    }

    fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds up what the shards have handed over.
    fn take_counts(&self) {
        for collected in self.handover.take() {
            for (day, counts) in collected.into_days() {
                self.counters.not_counted.fetch_add(counts.not_counted, Ordering::Relaxed);
                self.state().day(day).merge(counts);
                self.note_change();
            }
        }
    }

    /// Makes the reports of days that are over. True if there were any.
    fn close_days(&self, now: u64) -> bool {
        let delay = self.options.delay.as_secs();
        let closed = self.state().close(
            |day| day.end() + CLOSE_AFTER <= now,
            |_| true,
            now,
            |day| (day.end() + random_below(delay)).max(now),
        );
        if closed {
            self.note_change();
        }
        closed
    }

    fn has_due(&self, now: u64) -> bool {
        let state = self.state();
        state.due.iter().any(|due| !due.busy && due.at <= now)
            && state.due.iter().filter(|due| due.busy).count() < UNDER_WAY_MAX
    }

    /// The next report that is due, marked as busy, unless enough are under way.
    fn begin_due(&self) -> Option<Due> {
        let (mut state, now) = (self.state(), now());
        let under_way = state.due.iter().filter(|due| due.busy).count();
        if under_way < UNDER_WAY_MAX { state.begin(|due| due.at <= now) } else { None }
    }

    /// Sends what is due, a few reports at a time.
    async fn send_due(self: &Arc<Self>) {
        let mut under_way = tokio::task::JoinSet::new();
        while let Some(due) = self.begin_due() {
            let reporter = self.clone();
            under_way.spawn(async move { drop(reporter.attempt(due).await) });
        }
        let any = !under_way.is_empty();
        while under_way.join_next().await.is_some() {}
        if any {
            self.save_beside().await;
        }
    }

    /// One attempt for a report that was marked as busy; what became of it at each endpoint.
    async fn attempt(&self, mut due: Due) -> Vec<Sent> {
        let first = *due.first.get_or_insert_with(now);
        due.attempts = due.attempts.saturating_add(1);
        let mut results = Vec::new();
        match self.endpoints(&mut due).await {
            Ok(endpoints) if endpoints.is_empty() => {
                results.push(Sent { to: None, result: "unwanted", reason: None });
            }
            Ok(endpoints) => {
                let compressed = compress(&self.report(&due).json());
                for endpoint in endpoints {
                    let to = endpoint.to_string();
                    let sent = self.send(&due, &endpoint, &compressed).await;
                    let (result, reason) = match sent {
                        Ok(result) => (result, None),
                        Err(reason) => ("deferred", Some(reason)),
                    };
                    if let (Some(left), None) = (&mut due.left, &reason) {
                        left.retain(|it| *it != to);
                    }
                    results.push(Sent { to: Some(to), result, reason });
                }
            }
            Err(reason) => {
                results.push(Sent { to: None, result: "deferred", reason: Some(reason) });
            }
        }
        let now = now();
        due.at = now + pause(due.attempts).as_secs();
        let is_over = is_over(first, due.at);
        for sent in &mut results {
            if sent.result == "deferred" && is_over {
                sent.result = "dropped";
            }
            self.tell(&due, sent);
        }
        let is_left = !is_over && results.iter().any(|sent| sent.result == "deferred");
        self.state().end(due, is_left);
        self.note_change();
        results
    }

    fn tell(&self, due: &Due, sent: &Sent) {
        match sent.result {
            "queued" | "sent" => self.counters.sent.fetch_add(1, Ordering::Relaxed),
            "dropped" => self.counters.dropped.fetch_add(1, Ordering::Relaxed),
            // Most domains want none.
            "unwanted" => return,
            _ => 0,
        };
        let sum = due.content.summary();
        self.events.tell(&Event::TlsReport {
            domain: &due.domain,
            report: &due.id,
            to: sent.to.as_deref(),
            result: sent.result,
            reason: sent.reason.as_deref(),
            successes: sum.successes,
            failures: sum.failures,
        });
    }

    /// The endpoints that do not have the report yet.
    async fn endpoints(&self, due: &mut Due) -> Result<Vec<Endpoint>, String> {
        if let Some(left) = &due.left {
            return Ok(left.iter().filter_map(|it| Endpoint::parse(it)).collect());
        }
        let found = self.look_up(&due.domain).await?;
        due.left = Some(found.iter().map(ToString::to_string).collect());
        Ok(found)
    }

    /// RFC 8460 3.
    async fn look_up(&self, domain: &str) -> Result<Vec<Endpoint>, String> {
        let Ok(name) = Name::parse(domain).and_then(|name| name.below("_smtp._tls")) else {
            return Ok(Vec::new());
        };
        let question = format!("TXT of {name}");
        match self.dns.ask(name, Kind::Txt).await {
            Reply::Found(Found { records: Records::Text(records), .. }) => Ok(endpoints(&records)),
            Reply::Found(_) | Reply::Nothing { .. } => Ok(Vec::new()),
            Reply::Failed(failure) => Err(format!("{question}: {failure}")),
        }
    }

    fn report<'a>(&'a self, due: &'a Due) -> TlsReport<'a> {
        TlsReport {
            organization: &self.options.organization,
            contact: &self.options.contact,
            submitter: submitter(&self.options.from),
            domain: &due.domain,
            id: &due.id,
            begin: due.begin,
            end: due.end,
            content: &due.content,
        }
    }

    async fn send(
        &self,
        due: &Due,
        endpoint: &Endpoint,
        compressed: &[u8],
    ) -> Result<&'static str, String> {
        match endpoint {
            Endpoint::Mail(to) => {
                let seconds = i64::try_from(now()).unwrap_or_default();
                let now = Timestamp::from_unix_seconds(seconds);
                let mail = ReportMail {
                    report: self.report(due),
                    from: &self.options.from,
                    to,
                    now,
                    attachment: compressed,
                };
                let mut message = Vec::new();
                mail.append_to(&mut message);
                let submitted = self.mailer.submit(ReportToSend {
                    from: self.options.from.clone(),
                    to: to.clone(),
                    id: due.id.clone(),
                    message,
                    expires: now.after(TRIED_FOR),
                });
                let late = Err("the queue does not answer".to_owned());
                timeout(MAIL_TIMEOUT, submitted).await.unwrap_or(late).map(|()| "queued")
            }
            Endpoint::Https(url) => {
                let late = Err("no answer in time".to_owned());
                let posted = timeout(POST_TIMEOUT, self.post(url, compressed));
                posted.await.unwrap_or(late).map(|()| "sent")
            }
        }
    }

    /// RFC 8460 5.4. The certificate must be the host's: who publishes a record must not be able to
    /// make us talk to servers that are not his.
    async fn post(&self, url: &HttpsUrl, compressed: &[u8]) -> Result<(), String> {
        let addresses = self.dns.addresses(&url.host).await?;
        let connected = self.https.connect(&url.host, &addresses, url.port).await;
        let stream = connected.map_err(|error| format!("cannot connect: {error}"))?;
        let host = match url.port {
            443 => url.host.clone(),
            port => format!("{}:{port}", url.host),
        };
        let request = Request::post(url.target.as_str())
            .header(header::HOST, host)
            .header(header::USER_AGENT, "ringmail")
            .header(header::CONTENT_TYPE, "application/tlsrpt+gzip")
            .body(Full::new(Bytes::copy_from_slice(compressed)))
            .map_err(|error| error.to_string())?;
        let response = https::exchange(stream, request).await.map_err(|it| it.to_string())?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("HTTP status {status}")),
        }
    }

    /// Writes what is kept to disk, at the end of the process.
    pub fn save(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_counts();
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        // The event loop waits for the lock: what takes long is done with a copy.
        let kept = self.state().clone();
        let text = serde_json::to_string(&kept);
        let saved = text.map_err(io::Error::other).and_then(|text| {
            Folder::open(&self.data_dir)?.replace(OsStr::new(FILE), text.as_bytes(), None)
        });
        if let Err(error) = saved {
            self.changed.store(true, Ordering::Relaxed);
            let text = format!("{}: cannot write: {error}", path(&self.data_dir));
            self.events.tell(&Event::Warning { text: &text });
        }
    }

    /// The same where it does not hold up the event loop.
    async fn save_beside(self: &Arc<Self>) {
        let reporter = self.clone();
        // It ends early only with the process.
        let _ = tokio::task::spawn_blocking(move || reporter.save()).await;
    }
}

/// What a server that does not run has left on disk, as `ringmail tlsrpt show` prints it.
///
/// # Errors
/// If the file cannot be read.
pub fn tls_reports_at_rest(data_dir: &Path, json: bool) -> io::Result<Vec<String>> {
    Ok(load(data_dir)?.lines(now(), json))
}

fn submitter(from: &str) -> &str {
    from.rsplit_once('@').map_or(from, |(_, domain)| domain)
}

/// The pause after so many attempts.
fn pause(attempts: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(RETRY_LAST)
}

/// Whether a report that was first tried at `first` is not tried any more at `at`.
fn is_over(first: u64, at: u64) -> bool {
    at >= first.saturating_add(TRIED_FOR.as_secs())
}

fn random_below(limit: u64) -> u64 {
    rand::random::<u64>() % limit.max(1)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
