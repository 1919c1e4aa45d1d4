//! Runs a workload: threads, each with one event loop and its share of the connections.

use std::{
    cell::RefCell,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::LocalSet;

use crate::{
    arguments::{Arguments, Common, IdleArguments, ReadArguments, SmtpArguments, Tls, Verb},
    client::{
        Target,
        imap::ImapClient,
        pop3::Pop3Client,
        smtp::{SmtpClient, Style},
    },
    ledger::Ledger,
    record::Recorder,
    report::Summary,
    schedule::{Schedule, Ticket},
    workload,
};

/// How long a closed or open loop runs if neither a number nor a time is given.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// A connection with this many consecutive failures gives up: the server is not there.
const FAILURES_IN_A_ROW_MAX: u32 = 10;
/// Connections that log in at once before a read load starts; hashing passwords is slow.
const LOGINS_AT_ONCE: usize = 16;

pub fn run(arguments: &Arguments) -> Result<Summary> {
    match &arguments.verb {
        Verb::Smtp(smtp) => send(smtp, false),
        Verb::Lmtp(smtp) => send(smtp, true),
        Verb::Pop3(read) => {
            fill(read)?;
            drive("pop3", &read.common, 2110, 2995, read.operations, Pop3Load(read))
        }
        Verb::Imap(read) => {
            fill(read)?;
            let load = ImapLoad { read, weights: vec![(Operation::Fetch, 1)] };
            drive("imap", &read.common, 2143, 2993, read.operations, load)
        }
        Verb::Mix(mix) => {
            let weights = parse_weights(&mix.weights)?;
            fill(&mix.read)?;
            let load = ImapLoad { read: &mix.read, weights };
            drive("mix", &mix.read.common, 2143, 2993, mix.read.operations, load)
        }
        Verb::Idle(idle) => drive("idle", &idle.common, 2143, 2993, None, IdleLoad(idle)),
    }
}

/// The work of a connection. One value is shared by all threads; sessions are per connection.
trait Load: Sync {
    type Session;
    /// The operation name of connecting, or `None` if that is not an operation of its own.
    const CONNECT: Option<&'static str>;
    /// Sessions are made before the clock starts, and making them is not part of an operation.
    const CONNECT_FIRST: bool;

    async fn connect(&self, target: &Target, index: u64) -> Result<Self::Session>;
    /// One operation; returns its name.
    async fn operate(&self, session: &mut Self::Session, ticket: Ticket) -> Result<&'static str>;
    /// True if the session has done its share and the next operation needs a new one.
    fn spent(&self, _session: &Self::Session) -> bool {
        false
    }
    async fn disconnect(&self, session: Self::Session) -> Result<()>;
}

fn drive<L: Load>(
    title: &str,
    common: &Common,
    port: u16,
    tls_port: u16,
    operations: Option<u64>,
    load: L,
) -> Result<Summary> {
    let address = common.address.clone().unwrap_or_else(|| {
        format!("127.0.0.1:{}", if common.tls == Tls::Implicit { tls_port } else { port })
    });
    let target = Target::new(&address, common.tls, common.timeout)
        .with_context(|| format!("{address}: cannot be used"))?;
    let duration = common.duration.or(operations.is_none().then_some(DURATION_DEFAULT));
    let threads = common.threads.min(common.connections);
    let barrier = Barrier::new(threads);
    let schedule = std::sync::OnceLock::new();
    let done = AtomicU64::new(0);
    let progress = progress_bar(common.quiet, operations, duration);

    let recorders: Vec<Result<(Recorder, Duration)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (load, target, barrier, schedule, done) =
                    (&load, target.clone(), &barrier, &schedule, &done);
                let indexes: Vec<u64> =
                    (thread..common.connections).step_by(threads).map(|n| n as u64).collect();
                scope.spawn(move || {
                    let start = || {
                        barrier.wait();
                        let schedule: &Arc<Schedule> = schedule.get_or_init(|| {
                            let now = Instant::now();
                            Arc::new(Schedule::new(now, common.rate, duration, operations))
                        });
                        schedule.clone()
                    };
                    run_thread(load, target, indexes, start, done)
                })
            })
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            let count = done.load(Ordering::Relaxed);
            match operations {
                Some(_) => progress.set_position(count),
                None => {
                    let schedule: Option<&Arc<Schedule>> = schedule.get();
                    progress.set_position(
                        schedule.map_or(0, |schedule| schedule.elapsed().as_millis() as u64),
                    );
                }
            }
            progress.set_message(format!("{count} done"));
        }
        workers.into_iter().map(|worker| worker.join().expect("a load thread panicked")).collect()
    });
    progress.finish_and_clear();

    let mut recorder = Recorder::default();
    let mut elapsed = Duration::ZERO;
    for outcome in recorders {
        let (part, time) = outcome?;
        recorder.merge(part);
        elapsed = elapsed.max(time);
    }
    if recorder.operations().is_empty() && recorder.errors().is_empty() {
        bail!("{address}: nothing was done");
    }
    let missed = schedule.get().map_or(0, |schedule| schedule.missed(Instant::now()));
    Ok(Summary {
        title: format!("{title} {address}"),
        loop_kind: common.rate.map_or("closed".to_owned(), |rate| format!("open ({rate}/s)")),
        connections: common.connections,
        elapsed,
        missed,
        recorder,
    })
}

/// One event loop with the connections of `indexes`.
fn run_thread<L: Load>(
    load: &L,
    target: Target,
    indexes: Vec<u64>,
    start: impl FnOnce() -> Arc<Schedule>,
    done: &AtomicU64,
) -> Result<(Recorder, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    let recorder = RefCell::new(Recorder::default());
    let elapsed = runtime.block_on(LocalSet::new().run_until(async {
        let mut sessions: Vec<(u64, Option<L::Session>)> = Vec::with_capacity(indexes.len());
        if L::CONNECT_FIRST {
            for group in indexes.chunks(LOGINS_AT_ONCE) {
                let made = join_all(group.iter().map(|&index| {
                    let (target, recorder) = (&target, &recorder);
                    async move { (index, connect(load, target, index, recorder).await) }
                }))
                .await;
                sessions.extend(made);
            }
        } else {
            sessions.extend(indexes.into_iter().map(|index| (index, None)));
        }
        let schedule = start();
        let begin = Instant::now();
        let recorder = &recorder;
        let (target, schedule) = (&target, &schedule);
        join_all(sessions.into_iter().map(|(index, session)| {
            run_connection(load, target, index, session, schedule, recorder, done)
        }))
        .await;
        begin.elapsed()
    }));
    Ok((recorder.into_inner(), elapsed))
}

async fn connect<L: Load>(
    load: &L,
    target: &Target,
    index: u64,
    recorder: &RefCell<Recorder>,
) -> Option<L::Session> {
    let begin = Instant::now();
    match load.connect(target, index).await {
        Ok(session) => {
            if let Some(name) = L::CONNECT {
                recorder.borrow_mut().success(name, begin.elapsed());
            }
            Some(session)
        }
        Err(error) => {
            recorder.borrow_mut().error(L::CONNECT.unwrap_or("connect"), target.address, &error);
            None
        }
    }
}

/// One connection's life: tickets until there are none.
async fn run_connection<L: Load>(
    load: &L,
    target: &Target,
    index: u64,
    mut session: Option<L::Session>,
    schedule: &Schedule,
    recorder: &RefCell<Recorder>,
    done: &AtomicU64,
) {
    let mut failures = 0;
    while let Some(ticket) = schedule.take(Instant::now()) {
        if let Some(intended) = ticket.intended {
            tokio::time::sleep_until(intended.into()).await;
        }
        let begin = ticket.intended.unwrap_or_else(Instant::now);
        if session.is_none() {
            session = connect(load, target, index, recorder).await;
        }
        let Some(open) = &mut session else {
            failures += 1;
            if failures >= FAILURES_IN_A_ROW_MAX {
                return;
            }
            continue;
        };
        match load.operate(open, ticket).await {
            Ok(name) => {
                recorder.borrow_mut().success(name, begin.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
                failures = 0;
            }
            Err(error) => {
                recorder.borrow_mut().error("operation", target.address, &error);
                session = None;
                failures += 1;
                if failures >= FAILURES_IN_A_ROW_MAX {
                    return;
                }
            }
        }
        if let Some(open) = session.take_if(|open| load.spent(open)) {
            // Not counted: the server's answer to QUIT does not delay mail.
            let _ = load.disconnect(open).await;
        }
    }
    if let Some(open) = session
        && let Err(error) = load.disconnect(open).await
    {
        recorder.borrow_mut().error("disconnect", target.address, &error);
    }
}

fn progress_bar(quiet: bool, operations: Option<u64>, duration: Option<Duration>) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let length = operations.or(duration.map(|time| time.as_millis() as u64)).unwrap_or(0);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {elapsed}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// SMTP and LMTP: one operation is one message.
struct SmtpLoad<'a> {
    arguments: &'a SmtpArguments,
    style: Style,
    message: Vec<u8>,
    ledger: Option<Ledger>,
}

fn send(arguments: &SmtpArguments, lmtp: bool) -> Result<Summary> {
    let style = Style { lmtp, pipelining: arguments.pipelining, bdat: arguments.bdat };
    let plain = workload::message(arguments.size, &arguments.sender);
    let message = if arguments.bdat { plain } else { workload::dot_stuff(&plain) };
    let ledger = arguments.ledger.as_deref().map(Ledger::open).transpose()?;
    let load = SmtpLoad { arguments, style, message, ledger };
    let (title, port) = if lmtp { ("lmtp", 2024) } else { ("smtp", 2025) };
    drive(title, &arguments.common, port, 2465, arguments.messages, load)
}

impl Load for SmtpLoad<'_> {
    type Session = (SmtpClient, u64);
    const CONNECT: Option<&'static str> = None;
    const CONNECT_FIRST: bool = false;

    async fn connect(&self, target: &Target, _index: u64) -> Result<Self::Session> {
        let mut client = SmtpClient::connect(target, self.style).await?;
        if let Some(user) = &self.arguments.user {
            client.login(user, &self.arguments.password).await?;
        }
        Ok((client, 0))
    }

    async fn operate(&self, session: &mut Self::Session, ticket: Ticket) -> Result<&'static str> {
        let first = ticket.number * self.arguments.recipients_per_message;
        let recipients: Vec<String> = (0..self.arguments.recipients_per_message)
            .map(|n| 1 + (first + n) % self.arguments.recipients)
            .map(|number| workload::address(&self.arguments.recipient, number))
            .collect();
        session.1 += 1;
        let (client, sender) = (&mut session.0, &self.arguments.sender);
        let Some(ledger) = &self.ledger else {
            client.send(sender, &recipients, &self.message).await?;
            return Ok("message");
        };
        let token = ledger.token(ticket.number);
        let sent = client.send(sender, &recipients, &ledger.mark(&token, &self.message)).await;
        if sent.is_ok() || client.in_doubt() {
            ledger.note(&token, sent.is_ok(), &recipients).context("--ledger")?;
        }
        sent.map(|()| "message")
    }

    fn spent(&self, session: &Self::Session) -> bool {
        self.arguments.per_connection != 0 && session.1 >= self.arguments.per_connection
    }

    async fn disconnect(&self, session: Self::Session) -> Result<()> {
        session.0.quit().await
    }
}

/// POP3: one operation is one RETR. RFC 1939 allows one session per maildrop, so every connection
/// needs its own account.
struct Pop3Load<'a>(&'a ReadArguments);

impl Load for Pop3Load<'_> {
    type Session = Pop3Client;
    const CONNECT: Option<&'static str> = Some("login");
    const CONNECT_FIRST: bool = true;

    async fn connect(&self, target: &Target, index: u64) -> Result<Pop3Client> {
        let readers = &self.0.readers;
        if index >= readers.users {
            bail!("more connections than --users: a maildrop serves one session at a time");
        }
        let user = workload::address(&readers.user, 1 + index);
        Pop3Client::connect(target, &user, &readers.password).await
    }

    async fn operate(&self, session: &mut Pop3Client, _: Ticket) -> Result<&'static str> {
        if session.messages == 0 {
            bail!("an empty maildrop: use --fill");
        }
        session.retrieve(rand::random_range(1..=session.messages)).await?;
        Ok("RETR")
    }

    async fn disconnect(&self, session: Pop3Client) -> Result<()> {
        session.quit().await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Fetch,
    Flags,
    Store,
    Search,
    Status,
    Append,
}

impl Operation {
    const ALL: [(&'static str, Operation); 6] = [
        ("fetch", Operation::Fetch),
        ("flags", Operation::Flags),
        ("store", Operation::Store),
        ("search", Operation::Search),
        ("status", Operation::Status),
        ("append", Operation::Append),
    ];
}

/// `fetch=8,store=1` → weights.
fn parse_weights(text: &str) -> Result<Vec<(Operation, u32)>> {
    let weights: Vec<(Operation, u32)> = text
        .split(',')
        .map(|part| {
            let (name, weight) =
                part.split_once('=').with_context(|| format!("--weights: {part}: not NAME=N"))?;
            let operation = Operation::ALL.iter().find(|(known, _)| *known == name.trim());
            let (_, operation) = operation.with_context(|| {
                let names = Operation::ALL.map(|(name, _)| name).join(", ");
                format!("--weights: {name}: not one of {names}")
            })?;
            let weight = weight
                .trim()
                .parse()
                .with_context(|| format!("--weights: {part}: not a number"))?;
            Ok((*operation, weight))
        })
        .collect::<Result<_>>()?;
    if weights.iter().all(|(_, weight)| *weight == 0) {
        bail!("--weights: all are 0");
    }
    Ok(weights)
}

/// IMAP: operations drawn by weight.
struct ImapLoad<'a> {
    read: &'a ReadArguments,
    weights: Vec<(Operation, u32)>,
}

impl ImapLoad<'_> {
    fn draw(&self) -> Operation {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut rest = rand::random_range(0..total);
        for (operation, weight) in &self.weights {
            if rest < *weight {
                return *operation;
            }
            rest -= weight;
        }
        Operation::Fetch
    }
}

impl Load for ImapLoad<'_> {
    type Session = ImapClient;
    const CONNECT: Option<&'static str> = Some("login");
    const CONNECT_FIRST: bool = true;

    async fn connect(&self, target: &Target, index: u64) -> Result<ImapClient> {
        let readers = &self.read.readers;
        let user = workload::address(&readers.user, 1 + index % readers.users);
        ImapClient::connect(target, &user, &readers.password).await
    }

    async fn operate(&self, session: &mut ImapClient, _: Ticket) -> Result<&'static str> {
        let operation = self.draw();
        let needs_message = matches!(operation, Operation::Fetch | Operation::Store);
        if needs_message && session.exists == 0 {
            bail!("an empty mailbox: use --fill");
        }
        let message = rand::random_range(1..=session.exists.max(1));
        match operation {
            Operation::Fetch => {
                session.command(&format!("FETCH {message} BODY.PEEK[]")).await?;
                Ok("FETCH body")
            }
            Operation::Flags => {
                session.command("FETCH 1:* (UID FLAGS)").await?;
                Ok("FETCH flags")
            }
            Operation::Store => {
                let sign = if rand::random() { '+' } else { '-' };
                session.command(&format!("STORE {message} {sign}FLAGS (\\Flagged)")).await?;
                Ok("STORE")
            }
            Operation::Search => {
                session.command("SEARCH UNSEEN FROM sender").await?;
                Ok("SEARCH")
            }
            Operation::Status => {
                session.command("STATUS INBOX (MESSAGES UNSEEN UIDNEXT)").await?;
                Ok("STATUS")
            }
            Operation::Append => {
                let text = workload::message(self.read.fill_size, "append@example.org");
                session.append(&text).await?;
                Ok("APPEND")
            }
        }
    }

    async fn disconnect(&self, session: ImapClient) -> Result<()> {
        session.logout().await
    }
}

/// Connections that log in, IDLE until the time is over, and leave.
struct IdleLoad<'a>(&'a IdleArguments);

impl Load for IdleLoad<'_> {
    type Session = ImapClient;
    const CONNECT: Option<&'static str> = Some("login");
    const CONNECT_FIRST: bool = true;

    async fn connect(&self, target: &Target, index: u64) -> Result<ImapClient> {
        let readers = &self.0.readers;
        let user = workload::address(&readers.user, 1 + index % readers.users);
        let mut client = ImapClient::connect(target, &user, &readers.password).await?;
        client.idle().await?;
        Ok(client)
    }

    async fn operate(&self, session: &mut ImapClient, _: Ticket) -> Result<&'static str> {
        let time = self.0.common.duration.unwrap_or(DURATION_DEFAULT);
        tokio::time::sleep(time).await;
        session.done().await?;
        session.idle().await?;
        Ok("idle")
    }

    async fn disconnect(&self, mut session: ImapClient) -> Result<()> {
        session.done().await?;
        session.logout().await
    }
}

/// `--fill`: mail for every account, sent in rounds over all of them.
fn fill(read: &ReadArguments) -> Result<()> {
    if read.fill == 0 {
        return Ok(());
    }
    let arguments = SmtpArguments {
        common: Common {
            address: Some(read.fill_address.clone()),
            connections: 50,
            rate: None,
            duration: None,
            tls: Tls::None,
            threads: 1,
            timeout: read.common.timeout,
            json: None,
            quiet: read.common.quiet,
        },
        messages: Some(read.fill * read.readers.users),
        size: read.fill_size,
        recipients: read.readers.users,
        recipients_per_message: 1,
        recipient: read.readers.user.clone(),
        sender: "fill@example.org".to_owned(),
        user: None,
        password: String::new(),
        per_connection: 0,
        pipelining: false,
        bdat: false,
        ledger: None,
    };
    let summary = send(&arguments, true).context("--fill")?;
    if let Some((error, _)) = summary.recorder.errors().first_key_value() {
        bail!("--fill: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        let weights = parse_weights("fetch=2, store=1").unwrap();
        assert_eq!(weights, [(Operation::Fetch, 2), (Operation::Store, 1)]);
        for bad in ["fetch", "dance=1", "fetch=x", "fetch=0"] {
            assert!(parse_weights(bad).is_err(), "{bad}");
        }
    }
}
