//! The outside world: hosts that take mail, badly, and the names by which they are found.
//!
//! The server's own relay and SMTP client talk to these hosts over connections in memory. A host
//! refuses connections, hangs, is slow, says 4xx, 421 or 5xx at any stage, or closes the connection
//! there; after the end of a message it closes it before or after it has taken the message. Some
//! hosts are down for a while, or for ever. All of this is drawn from the seed; what happened is
//! noted in the ledger (`post.rs`).

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use crate::{
    model::Timestamp,
    resolver::{Failure, zone::Zone},
    runtime::{
        LocalFuture,
        connect::Dialer,
        connection::{Connection, ConnectionError},
        executor::{Executor, Priority},
        pipe::MemoryPeer,
        simulation::Simulation,
    },
};

use super::post::{Place, Post, Verdict};

/// Hosts; their addresses are 10.0.0.0 and so on.
const HOSTS: usize = 6;
/// The host that is always down.
const DOWN: usize = 4;
/// The host that takes reports; it never refuses them for ever.
const BACK: usize = 5;
/// Failures of [`BACK`] in a row, so that no report expires.
const BACK_FAILURES: u32 = 2;

/// Domains of recipients, as often as they are drawn.
pub const DOMAINS: [&str; 10] = [
    "d0.test",
    "d0.test",
    "d1.test",
    "d2.test",
    "d2.test",
    "d3.test",
    "d3.test",
    "dark.test",
    "down.test",
    super::post::GONE,
];

/// The names of the outside world. `dark.test` cannot be found out in some lives.
pub fn zone(dark: bool) -> Arc<Zone> {
    let zone = Zone::new();
    for line in [
        // Two domains with the same hosts, one with two hosts, one without MX.
        "d0.test MX 10 mx0.test",
        "d1.test MX 10 mx0.test",
        "d2.test MX 10 mx1.test",
        "d2.test MX 20 mx2.test",
        "d3.test A 10.0.0.3",
        "down.test MX 10 mx4.test",
        "back.test MX 10 mx5.test",
        "mx0.test A 10.0.0.0",
        "mx1.test A 10.0.0.1",
        "mx2.test A 10.0.0.2",
        "mx4.test A 10.0.0.4",
        "mx5.test A 10.0.0.5",
        if dark { "dark.test FAIL" } else { "dark.test MX 10 mx0.test" },
    ] {
        zone.add(line);
    }
    Arc::new(zone)
}

/// What a host does at a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Fine,
    Later,
    /// 421, and the connection ends.
    Closing,
    Never,
    Close,
    Hang,
}

/// One life's way to the outside world.
pub struct Outside {
    post: Rc<Post>,
    simulation: Simulation,
    /// Failures of [`BACK`] in a row.
    failures: Cell<u32>,
    /// Hosts that are down until then.
    down: [Cell<Timestamp>; HOSTS],
}

/// Nobody can be reached: for servers that are only looked at.
pub struct Nobody;

impl Dialer for Nobody {
    fn dial(
        &self,
        _: SocketAddr,
        _: Option<IpAddr>,
        _: Duration,
    ) -> LocalFuture<'_, Result<Connection, ConnectionError>> {
        Box::pin(std::future::ready(Err(refused())))
    }
}

fn refused() -> ConnectionError {
    io::Error::from(io::ErrorKind::ConnectionRefused).into()
}

/// The dialer of a life.
pub struct Reach(pub Rc<Outside>);

impl Dialer for Reach {
    fn dial(
        &self,
        address: SocketAddr,
        _: Option<IpAddr>,
        timeout: Duration,
    ) -> LocalFuture<'_, Result<Connection, ConnectionError>> {
        let outside = self.0.clone();
        Box::pin(async move {
            let host = match address.ip() {
                IpAddr::V4(address) => usize::from(Ipv4Addr::octets(&address)[3]),
                IpAddr::V6(_) => HOSTS,
            };
            let simulation = outside.simulation.clone();
            match outside.connecting(host) {
                Mood::Fine => {}
                Mood::Hang => {
                    simulation.sleep(timeout).await;
                    return Err(ConnectionError::TimedOut);
                }
                _ => {
                    simulation.sleep(outside.moment()).await;
                    return Err(refused());
                }
            }
            let (connection, peer) = Connection::memory();
            let place = Place { connection: outside.post.connection(), reports: host == 0 };
            let visit = Visit {
                outside,
                host,
                peer,
                place,
                input: Vec::new(),
                greeted: false,
                unproven: RefCell::default(),
            };
            simulation.spawn(Priority::Foreground, Box::pin(visit.run()));
            Ok(connection)
        })
    }
}

impl Outside {
    pub fn new(post: Rc<Post>, simulation: Simulation) -> Outside {
        Outside { post, simulation, failures: Cell::new(0), down: Default::default() }
    }

    fn pick(&self, below: u64) -> u64 {
        self.simulation.random() % below
    }

    /// Up to a few milliseconds, seldom seconds.
    fn moment(&self) -> Duration {
        match self.pick(12) {
            0 => Duration::from_millis(self.pick(4000)),
            _ => Duration::from_millis(self.pick(20)),
        }
    }

    fn connecting(&self, host: usize) -> Mood {
        if host == DOWN || host >= HOSTS {
            return Mood::Close;
        }
        let now = self.simulation.now();
        if self.post.kind.get() {
            return Mood::Fine;
        }
        if host != BACK && self.pick(15) == 0 {
            self.down[host].set(now.after(Duration::from_secs(self.pick(40))));
        }
        if now < self.down[host].get() {
            return Mood::Close;
        }
        match self.mood(host, 15) {
            Mood::Fine => Mood::Fine,
            Mood::Hang => Mood::Hang,
            _ => Mood::Close,
        }
    }

    /// Anything but `Fine` once in `seldom`.
    fn mood(&self, host: usize, seldom: u64) -> Mood {
        if self.post.kind.get() || self.pick(seldom) > 0 {
            return Mood::Fine;
        }
        let mood = match self.pick(10) {
            0..=3 => Mood::Later,
            4 => Mood::Closing,
            5..=6 => Mood::Never,
            7..=8 => Mood::Close,
            _ => Mood::Hang,
        };
        if host != BACK {
            return mood;
        }
        if self.failures.get() >= BACK_FAILURES {
            return Mood::Fine;
        }
        self.failures.set(self.failures.get() + 1);
        if mood == Mood::Never { Mood::Later } else { mood }
    }
}

/// One connection of a host.
struct Visit {
    outside: Rc<Outside>,
    host: usize,
    peer: MemoryPeer,
    place: Place,
    input: Vec<u8>,
    /// It has answered EHLO.
    greeted: bool,
    /// Refused in a group of commands, of which not all are answered.
    unproven: RefCell<Vec<String>>,
}

/// The connection is over.
struct Over;

#[derive(Default)]
struct Transaction {
    sender: String,
    recipients: Vec<String>,
    text: Vec<u8>,
}

impl Visit {
    async fn run(mut self) {
        let _ = self.converse().await;
        self.outside.post.end(&self.place, self.now());
    }

    fn now(&self) -> Timestamp {
        self.outside.simulation.now()
    }

    /// Plays a mood; the reply is `fine` if it is fine. Whether it was.
    async fn act(&mut self, mood: Mood, fine: &str) -> Result<bool, Over> {
        if self.outside.pick(20) == 0 {
            self.outside.simulation.sleep(self.outside.moment()).await;
        }
        match mood {
            Mood::Fine => self.say(fine),
            Mood::Later => self.say("451 4.3.0 not now\r\n"),
            Mood::Never => self.say("554 5.3.0 not here\r\n"),
            Mood::Closing => {
                self.say("421 4.3.2 closing\r\n");
                return Err(Over);
            }
            Mood::Close => return Err(Over),
            Mood::Hang => loop {
                if self.peer.receive().await.is_empty() {
                    return Err(Over);
                }
            },
        }
        Ok(mood == Mood::Fine)
    }

    fn say(&self, reply: &str) {
        // In one piece or in two.
        let at = match self.outside.pick(8) {
            0 => self.outside.pick(reply.len() as u64) as usize,
            _ => 0,
        };
        let (one, two) = reply.as_bytes().split_at(at);
        self.peer.send(one);
        self.peer.send(two);
    }

    async fn more(&mut self) -> Result<(), Over> {
        let more = self.peer.receive().await;
        self.input.extend_from_slice(&more);
        if more.is_empty() { Err(Over) } else { Ok(()) }
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(at) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).map_err(|_| Over);
            }
            self.more().await?;
        }
    }

    async fn octets(&mut self, count: usize) -> Result<Vec<u8>, Over> {
        while self.input.len() < count {
            self.more().await?;
        }
        Ok(self.input.drain(..count).collect())
    }

    fn mood(&self, seldom: u64) -> Mood {
        self.outside.mood(self.host, seldom)
    }

    async fn converse(&mut self) -> Result<(), Over> {
        if !self.act(self.mood(25), "220 host.test ESMTP\r\n").await? {
            return Err(Over);
        }
        let mut open: Option<Transaction> = None;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match (verb.to_ascii_uppercase().as_str(), &mut open) {
                ("EHLO", _) => {
                    self.hello().await?;
                    self.outside.post.end(&self.place, self.now());
                }
                ("HELO", _) => drop(self.act(self.mood(30), "250 host.test\r\n").await?),
                ("MAIL", _) => {
                    self.outside.post.end(&self.place, self.now());
                    self.unproven.borrow_mut().clear();
                    open = None;
                    if self.act(self.mood_of_mail(), "250 2.1.0 ok\r\n").await? {
                        let sender = path(rest).to_owned();
                        open = Some(Transaction { sender, ..Transaction::default() });
                    }
                }
                ("RCPT", Some(transaction)) => {
                    let address = path(rest).to_owned();
                    if self.recipient(&address).await? {
                        transaction.recipients.push(address);
                    }
                }
                ("DATA", Some(transaction)) if !transaction.recipients.is_empty() => {
                    let mood = self.mood(30);
                    self.refuse_all(mood, &transaction.recipients, !self.pipelines());
                    if mood == Mood::Fine {
                        self.prove_refusals();
                    }
                    if self.act(mood, "354 go on\r\n").await? {
                        transaction.text = self.dotted().await?;
                        self.finish(transaction, true).await?;
                    }
                    self.outside.post.end(&self.place, self.now());
                    open = None;
                }
                ("BDAT", transaction) => {
                    let mut words = rest.split(' ');
                    let count = words.next().and_then(|it| it.parse().ok()).ok_or(Over)?;
                    let octets = self.octets(count).await?;
                    let last = words.next().is_some_and(|it| it.eq_ignore_ascii_case("LAST"));
                    match transaction {
                        Some(transaction) if !transaction.recipients.is_empty() => {
                            transaction.text.extend_from_slice(&octets);
                            if last {
                                self.finish(transaction, !self.pipelines()).await?;
                                // With PIPELINING the client records nothing before EHLO is
                                // answered.
                                if !self.pipelines() {
                                    self.outside.post.end(&self.place, self.now());
                                }
                                open = None;
                            } else if self.mood(40) == Mood::Close {
                                return Err(Over);
                            } else {
                                self.say("250 2.0.0 more\r\n");
                            }
                        }
                        _ => self.say("503 5.5.1 no recipients\r\n"),
                    }
                }
                ("RSET", _) => {
                    self.outside.post.end(&self.place, self.now());
                    open = None;
                    self.prove_refusals();
                    self.say("250 2.0.0 ok\r\n");
                }
                ("NOOP", _) => self.say("250 2.0.0 ok\r\n"),
                ("QUIT", _) => {
                    self.act(self.mood(10), "221 2.0.0 bye\r\n").await?;
                    return Err(Over);
                }
                ("RCPT" | "DATA", _) => self.say("503 5.5.1 no transaction\r\n"),
                _ => self.say("500 5.5.2 what?\r\n"),
            }
        }
    }

    async fn hello(&mut self) -> Result<(), Over> {
        let reply = match self.host {
            0 => "250-host.test\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 DSN\r\n",
            1 => "502 5.5.1 too old\r\n",
            2 => "250-host.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            3 => "250-host.test\r\n250-SIZE 1000000\r\n250 CHUNKING\r\n",
            _ => "250-host.test\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
        };
        let mood = match self.mood(30) {
            // Behind a message that could be the answer to it: it would be sent again.
            Mood::Later | Mood::Never if self.greeted => Mood::Fine,
            mood => mood,
        };
        self.greeted = true;
        if mood == Mood::Fine && reply.starts_with("250-") {
            self.prove_refusals();
        }
        self.act(mood, reply).await.map(drop)
    }

    fn pipelines(&self) -> bool {
        !matches!(self.host, 1 | 3)
    }

    /// All commands so far are answered, one reply each. Noted before the last one is said.
    fn prove_refusals(&self) {
        let unproven = std::mem::take(&mut *self.unproven.borrow_mut());
        unproven.iter().for_each(|address| self.outside.post.prove_refusal(address));
    }

    /// A host that refuses MAIL for ever would not know whom it refused.
    fn mood_of_mail(&self) -> Mood {
        match self.mood(30) {
            Mood::Never => Mood::Later,
            mood => mood,
        }
    }

    /// Whether a recipient is taken.
    async fn recipient(&mut self, address: &str) -> Result<bool, Over> {
        let post = self.outside.post.clone();
        post.begin(address, &self.place);
        let verdict = post.tried(address, self.now());
        let mood = match verdict {
            Verdict::Take => self.mood(25),
            Verdict::Later => Mood::Later,
            Verdict::Never => Mood::Never,
        };
        self.refuse_all(mood, &[address.to_owned()], !self.pipelines());
        self.act(mood, "250 2.1.5 ok\r\n").await
    }

    /// Notes a refusal before it is said: the server may act on it at once.
    fn refuse_all(&self, mood: Mood, addresses: &[String], is_proven: bool) {
        let verdict = match mood {
            Mood::Later => Verdict::Later,
            Mood::Never => Verdict::Never,
            _ => return,
        };
        for address in addresses {
            self.outside.post.refused(address, verdict, is_proven, &self.place, self.now());
            if !is_proven {
                self.unproven.borrow_mut().push(address.clone());
            }
        }
    }

    /// The octets of a message up to the final dot.
    async fn dotted(&mut self) -> Result<Vec<u8>, Over> {
        let mut text = Vec::new();
        loop {
            if self.outside.pick(2000) == 0 && self.mood(2) == Mood::Close {
                return Err(Over);
            }
            let line = self.line().await?;
            match line.strip_prefix('.') {
                Some("") => return Ok(text),
                Some(rest) => text.extend_from_slice(rest.as_bytes()),
                None => text.extend_from_slice(line.as_bytes()),
            }
            text.extend_from_slice(b"\r\n");
        }
    }

    /// The message is complete.
    async fn finish(&mut self, transaction: &Transaction, is_proven: bool) -> Result<(), Over> {
        let Transaction { sender, recipients, text } = transaction;
        let post = self.outside.post.clone();
        let mood = self.mood(8);
        match mood {
            Mood::Close | Mood::Hang if self.outside.pick(2) == 0 => {
                // Taken, and never answered.
                post.taken(sender, recipients, text, &self.place);
                self.act(mood, "").await?;
            }
            Mood::Fine => {
                post.taken(sender, recipients, text, &self.place);
                self.outside.simulation.sleep(self.outside.moment()).await;
                post.told(recipients, &self.place, self.now());
                self.say("250 2.0.0 taken\r\n");
                if self.host == BACK {
                    self.outside.failures.set(0);
                }
            }
            mood => {
                self.refuse_all(mood, recipients, is_proven);
                self.act(mood, "").await?;
            }
        }
        Ok(())
    }
}

/// The path in `FROM:<path> parameters`, without brackets.
fn path(rest: &str) -> &str {
    let from = rest.find('<').map_or(0, |at| at + 1);
    let to = rest.find('>').unwrap_or(rest.len());
    rest.get(from..to).unwrap_or_default()
}

/// Makes name servers fail for a while, now and then.
pub async fn trouble_names(simulation: Simulation, post: Rc<Post>, zone: Arc<Zone>) {
    loop {
        let pause = |most: u64| Duration::from_millis(simulation.random() % (most * 1000));
        simulation.sleep(pause(200)).await;
        if post.kind.get() {
            return;
        }
        let failures = [Failure::ServerFailed, Failure::TimedOut, Failure::Unreachable];
        zone.set_down(Some(failures[(simulation.random() % 3) as usize]));
        simulation.sleep(pause(15)).await;
        zone.set_down(None);
    }
}
