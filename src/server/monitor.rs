//! The control thread: admin HTTP and the control socket, on a tokio event loop beside the shards.

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use super::{Reloadable, blocks, examine, operate, probes, tls_reports};
use crate::{
    admin::{self, Health, Source},
    config::Settings,
    control::{self, DnsWorker, OauthWorker, TlsReportRequest, TlsReporter},
    events::{Event, EventSender},
    metrics::{MetricsSnapshot, render_prometheus},
    model::ShardId,
    runtime::{
        executor::Priority,
        mesh::{MeshError, MeshGate},
    },
    service::Shard,
};

/// Lines of an answer that wait for their reader: more than one partition's findings.
const LINES_MAX: usize = 16 * 1024;

/// The same of an answer about the queue, whose sender waits for its reader.
const ANSWER_LINES_MAX: usize = 1024;

/// How long a shard may take to answer a monitor; a slower shard is reported as such.
const SHARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What the thread runs and asks.
pub(super) struct Watched {
    pub dns: DnsWorker,
    /// If reports on TLS are on.
    pub reporter: Option<Arc<TlsReporter>>,
    /// If bearer tokens are taken.
    pub oauth: Option<OauthWorker>,
    pub gate: MeshGate<Shard>,
}

/// Starts the thread; its sockets are bound earlier, or here before it runs.
pub(super) fn start(
    settings: &Settings,
    admin: Vec<std::net::TcpListener>,
    watched: Watched,
    state: Arc<Reloadable>,
    events: EventSender,
) -> Result<()> {
    let Watched { dns, reporter, oauth, gate } = watched;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread's event loop")?;
    let socket_path = control::path(&settings.data_dir);
    let control_socket = {
        let _guard = runtime.enter();
        control::bind(&socket_path)
            .with_context(|| format!("{}: cannot listen", socket_path.display()))?
    };
    let source: Arc<dyn Source> =
        Arc::new(Shards { gate: gate.clone(), events: events.clone(), reporter: reporter.clone() });
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(dns.run());
                if let Some(oauth) = oauth {
                    tokio::spawn(oauth.run());
                }
                if let Some(reporter) = &reporter {
                    tokio::spawn(reporter.clone().run());
                }
                for listener in admin {
                    let source = source.clone();
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => {
                            tokio::spawn(admin::serve(listener, source));
                        }
                        Err(error) => {
                            let text = format!("admin HTTP: {error}");
                            events.tell(&Event::Warning { text: &text });
                        }
                    }
                }
                let handler: control::Handler = Arc::new(move |line, asker| {
                    events.tell(&Event::Control {
                        request: line,
                        uid: asker.uid.map(u64::from),
                        pid: asker.pid.and_then(|pid| u64::try_from(pid).ok()),
                    });
                    answer(&state, &gate, reporter.as_ref(), line, asker.uid.map(u64::from))
                });
                // This never returns: if it did, the event loop and the admin page on it would end.
                control::serve(control_socket, handler).await;
            });
        })
        .context("cannot start the control thread")?;
    Ok(())
}

fn answer(
    state: &Reloadable,
    gate: &MeshGate<Shard>,
    reporter: Option<&Arc<TlsReporter>>,
    line: &str,
    uid: Option<u64>,
) -> control::Reply {
    control::Reply::Line(match line {
        "reload" => match state.reload() {
            Ok(pending) if pending.is_empty() => "ok".to_owned(),
            Ok(pending) => format!("ok: a restart is needed for {}", pending.join(", ")),
            Err(error) => format!("error: {error:#}"),
        },
        "verify" | "verify repair" => {
            let (sender, lines) = mpsc::channel(LINES_MAX);
            tokio::spawn(verify(gate.clone(), line == "verify repair", sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("block ") => {
            let (sender, lines) = mpsc::channel(LINES_MAX);
            tokio::spawn(block(gate.clone(), request.to_owned(), sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("queue\t") => {
            let Some(request) = operate::Request::parse(request) else {
                return control::Reply::Line("error: unknown request".to_owned());
            };
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(operate::answer(gate.clone(), request, sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("acl\t") => {
            let Some(request) = operate::AclRequest::parse(request) else {
                return control::Reply::Line("error: unknown request".to_owned());
            };
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(operate::answer_acl(gate.clone(), request, uid, sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("quota\t") => {
            let Some(request) = operate::QuotaRequest::parse(request) else {
                return control::Reply::Line("error: unknown request".to_owned());
            };
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(operate::answer_quota(gate.clone(), request, uid, sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("tlsrpt\t") => {
            let Some(request) = TlsReportRequest::parse(request) else {
                return control::Reply::Line("error: unknown request".to_owned());
            };
            let Some(reporter) = reporter else {
                let off = "error: reports on TLS are off (tlsrpt.enabled)";
                return control::Reply::Line(off.to_owned());
            };
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(reporter.clone().answer(request, sender));
            return control::Reply::Lines(lines);
        }
        request if request == "trace" || request.starts_with("trace\t") => {
            let wanted = request.strip_prefix("trace\t").unwrap_or_default().to_owned();
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(operate::trace(gate.clone(), wanted, sender));
            return control::Reply::Lines(lines);
        }
        request if request.starts_with("explain\t") => {
            let Some((subject, json)) = operate::Subject::of_line(request) else {
                return control::Reply::Line("error: unknown request".to_owned());
            };
            let (sender, lines) = mpsc::channel(ANSWER_LINES_MAX);
            tokio::spawn(operate::explain(gate.clone(), subject, json, sender));
            return control::Reply::Lines(lines);
        }
        other => format!("error: unknown request \"{}\"", other.escape_debug()),
    })
}

/// Verifies all partitions, one shard after the other, each in the background.
async fn verify(gate: MeshGate<Shard>, repair: bool, lines: mpsc::Sender<String>) {
    for id in 0..gate.shard_count() {
        let sender = lines.clone();
        let (ended, end) = oneshot::channel();
        let asked = gate.post(ShardId(id), move |shard| {
            let executor = shard.executor.clone();
            let work = async move {
                for partition in shard.partitions.iter().flatten() {
                    // A caller that disconnects, or reads too slowly, misses lines.
                    let findings = Cell::new(0);
                    let tell = |line: String| {
                        findings.set(findings.get() + u64::from(line.starts_with("finding\t")));
                        drop(sender.try_send(line));
                    };
                    examine::verify(partition, repair, &tell).await;
                    let (partition, findings) = (partition.id(), findings.get());
                    shard.tell(&Event::Verified { partition, repair, findings });
                }
                let _ = ended.send(());
            };
            executor.spawn(Priority::Background, Box::pin(work));
            Box::pin(std::future::ready(()))
        });
        let outcome = match asked {
            Ok(()) => end.await.map_err(|_| MeshError::Closed),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let _ = lines.send(format!("failed\t-\tshard {id}: {error}")).await;
        }
    }
}

/// `block list` and `block lift ...`. The guard belongs to the process; the shard supplies the
/// clock.
async fn block(gate: MeshGate<Shard>, request: String, lines: mpsc::Sender<String>) {
    let answer = gate.call(ShardId(0), move |shard: Rc<Shard>| {
        Box::pin(async move { blocks::answer(&shard, &request) })
    });
    let answer = tokio::time::timeout(SHARD_TIMEOUT, answer).await;
    let answer = match answer.unwrap_or(Err(MeshError::TimedOut)) {
        Ok(answer) => answer,
        Err(error) => vec![format!("error: {error}")],
    };
    for line in answer {
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

struct Shards {
    gate: MeshGate<Shard>,
    events: EventSender,
    reporter: Option<Arc<TlsReporter>>,
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Source for Shards {
    fn metrics(&self) -> Answer<String> {
        let (gate, events) = (self.gate.clone(), self.events.clone());
        let reporter = self.reporter.clone();
        Box::pin(async move {
            let mut snapshots: Vec<(u16, MetricsSnapshot)> = Vec::new();
            for shard in 0..gate.shard_count() {
                if let Ok(snapshot) = ask(&gate, shard, probes::snapshot).await {
                    snapshots.push((shard, snapshot));
                }
            }
            // The event writer's counts are process-wide, so the first shard shows them, as for the
            // guard's.
            if let Some((_, first)) = snapshots.first_mut() {
                first.counters.insert("events_written_total", events.written());
                first.counters.insert("events_dropped_total", events.dropped());
                if let Some(reporter) = &reporter {
                    first.counters.extend(tls_reports::counters(reporter));
                }
            }
            render_prometheus(&snapshots)
        })
    }

    fn health(&self) -> Answer<Health> {
        let gate = self.gate.clone();
        Box::pin(async move {
            let mut trouble = String::new();
            for shard in 0..gate.shard_count() {
                match ask(&gate, shard, troubles).await {
                    Ok(lines) => trouble.push_str(&lines),
                    Err(error) => trouble.push_str(&format!("shard {shard}: {error}\n")),
                }
            }
            if trouble.is_empty() { Ok(()) } else { Err(trouble) }
        })
    }
}

/// Runs `question` on a shard and waits for its answer, up to a time limit.
async fn ask<T: Send + 'static>(
    gate: &MeshGate<Shard>,
    shard: u16,
    question: fn(&Shard) -> T,
) -> Result<T, MeshError> {
    let answer = gate.call(ShardId(shard), move |shard| Box::pin(async move { question(&shard) }));
    tokio::time::timeout(SHARD_TIMEOUT, answer).await.unwrap_or(Err(MeshError::TimedOut))
}

fn troubles(shard: &Shard) -> String {
    let mut lines = String::new();
    for partition in shard.partitions.iter().flatten() {
        if let Some(trouble) = partition.refusing() {
            let seconds = shard.executor.now().unix_seconds() - trouble.since.unix_seconds();
            lines.push_str(&format!(
                "partition {}: {}; new mail is refused for {seconds} s, mail can be read\n",
                partition.id(),
                trouble.reason
            ));
        }
    }
    lines
}
