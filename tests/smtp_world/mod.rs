//! Two shards of SMTP service on one simulated executor, with clients over memory, for
//! `tests/smtp_transcripts.rs`. Alice's account is on shard 0, bob's on shard 1, so mail to both
//! crosses the mesh.

use std::{
    cell::Cell,
    io::{Read, Write},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ringmail::{
    directory::{
        Directory, DirectorySnapshot, Lift, PasswordJob, PasswordWorkers, PeerLimits,
        SharedDirectory,
    },
    events::{self, EventQueue, Kind, ShardEvents},
    metrics::ShardMetrics,
    model::{AccountId, PartitionId, QuotaLimits, ShardId, Timestamp},
    protocol::smtp::{BareNewline, Limits},
    runtime::{
        connection::{Connection, TlsMode},
        device::{Device, memory::MemoryDevice},
        executor::{Executor, Priority},
        mesh,
        pipe::MemoryPeer,
        resources::{ResourceLimits, ShardResources},
        simulation::Simulation,
        tls::{SelfSigned, TlsContext},
    },
    service::{
        ServiceOptions, Shard,
        budget::MessageBudget,
        delivery,
        intake::IntakeOptions,
        quota::QuotaOptions,
        smtp::{self, AcceptAll, ListenerKind, Policy, SmtpOptions},
    },
    store::{HoldingLimits, Partition, Quotas, StoreOptions},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::transcript::{self, Transcript};

pub const ALICE: AccountId = AccountId(1);
pub const BOB: AccountId = AccountId(2);
const HOST: &str = "mail.demo.test";

/// Hashes immediately: the simulated executor has no other threads.
struct AtOnce;

impl PasswordWorkers for AtOnce {
    fn try_run(&self, job: PasswordJob) -> bool {
        job();
        true
    }
}

/// Shared by all runs, because creating it takes time.
pub struct Ground {
    directory: Directory,
    tls: Arc<TlsContext>,
    client_config: Arc<rustls::ClientConfig>,
}

impl Ground {
    pub fn new() -> Ground {
        let made = SelfSigned::generate(&[HOST]).expect("certificate");
        let tls = TlsContext::new(made.certificate().expect("certificate")).expect("TLS");
        let certificate =
            CertificateDer::from_pem_slice(made.chain_pem.as_bytes()).expect("certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("root");
        let client_config =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let snapshot = DirectorySnapshot::demo("demo.test", 6);
        let shared = SharedDirectory::new(snapshot, PeerLimits::default());
        Ground {
            directory: Directory::new(shared, Rc::new(AtOnce)),
            tls,
            client_config: Arc::new(client_config),
        }
    }
}

/// Choices of a test or a transcript.
#[derive(Clone)]
pub struct Choices {
    pub listener: ListenerKind,
    pub plaintext_auth: bool,
    pub limits: Limits,
    pub intake: IntakeOptions,
    /// Deadlines pass with virtual time; otherwise never.
    pub deadlines: bool,
    /// Each partition's `StoreOptions::deliveries_known`.
    pub deliveries_known: usize,
    pub holding: HoldingLimits,
    /// What limits every account by default.
    pub quota: QuotaLimits,
    pub quota_options: QuotaOptions,
    pub policy: Rc<dyn Policy>,
}

impl Default for Choices {
    fn default() -> Choices {
        Choices {
            listener: ListenerKind::Smtp,
            plaintext_auth: true,
            limits: Limits { message_size_max: 1 << 20, ..Limits::default() },
            intake: IntakeOptions::default(),
            deadlines: false,
            deliveries_known: 1000,
            holding: HoldingLimits::default(),
            quota: QuotaLimits::default(),
            quota_options: QuotaOptions::default(),
            policy: Rc::new(AcceptAll),
        }
    }
}

impl Choices {
    /// From the `@set` lines of a file.
    pub fn of(file: &Transcript) -> Choices {
        let listener = match file.setting("listener") {
            None | Some("smtp") => ListenerKind::Smtp,
            Some("submission") => ListenerKind::Submission,
            Some("lmtp") => ListenerKind::Lmtp,
            Some(other) => panic!("@set listener {other}"),
        };
        let plaintext_auth = file.setting("plaintext") != Some("no");
        let deadlines = file.setting("sockets") == Some("no");
        let mut choices = Choices { listener, plaintext_auth, deadlines, ..Choices::default() };
        if file.setting("bare_newline") == Some("normalise") {
            choices.limits.bare_newline = BareNewline::Normalise;
        }
        if let Some(count) = file.setting("recipients_max") {
            choices.limits.recipients_max = count.parse().expect("@set recipients_max count");
        }
        choices
    }
}

/// One fresh pair of shards.
pub struct World {
    pub simulation: Simulation,
    pub shards: Vec<Rc<Shard>>,
    /// One for each shard.
    pub devices: Vec<MemoryDevice>,
    events: EventQueue,
    tls: Arc<TlsContext>,
    client_config: Arc<rustls::ClientConfig>,
    choices: Choices,
}

impl World {
    pub fn new(ground: &Ground, choices: Choices) -> World {
        World::on(ground, choices, vec![MemoryDevice::new(), MemoryDevice::new()])
    }

    /// On devices that may already hold mail.
    pub fn on(ground: &Ground, choices: Choices, devices: Vec<MemoryDevice>) -> World {
        let simulation = Simulation::new(1);
        // Wrong passwords of earlier runs must not count.
        ground.directory.lift(&Lift::All);
        let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
        if choices.deadlines {
            ShardResources::install(ResourceLimits::default(), &executor);
        }
        let (sender, events) = events::queue(Kind::ALL.into_iter().collect());
        let (seats, _gate) = mesh::build::<Shard>(2);
        assert_ne!(ALICE.partition(2), BOB.partition(2));
        let owners: Vec<ShardId> = (0..2)
            .map(|number| ShardId(u16::from(PartitionId(number) != ALICE.partition(2))))
            .collect();
        let quota = choices.quota;
        let quotas = Arc::new(Quotas::new(2, Some(Box::new(move |_| quota))));
        let mut shards = Vec::new();
        for (seat, number) in seats.into_iter().zip(0..) {
            let id = ShardId(number);
            let partitions = (0..2)
                .map(|number| {
                    (owners[usize::from(number)] == id).then(|| {
                        open(&simulation, &devices[usize::from(id.0)], number, (&choices, &quotas))
                    })
                })
                .collect();
            let shard = Rc::new(Shard {
                id,
                options: Arc::new(options(&choices)),
                executor: executor.clone(),
                mesh: seat.join(executor.clone()),
                directory: ground.directory.clone(),
                metrics: Rc::new(ShardMetrics::new()),
                events: ShardEvents::new(id, sender.clone(), Timestamp(0)),
                load: ringmail::service::load::Load::new(std::time::Duration::from_secs(1)),
                messages: MessageBudget::new(choices.intake.memory),
                partitions,
                owners: owners.clone(),
                deliveries: Default::default(),
                transfers: Default::default(),
                policy: choices.policy.clone(),
                relay: Default::default(),
                tls_counts: Default::default(),
                imap_seats: Default::default(),
                reloads: Default::default(),
                leases: Default::default(),
                follows: Default::default(),
                signing: Default::default(),
                shares: Default::default(),
                quotas: quotas.clone(),
                nearly_full: Default::default(),
                resolver: ringmail::resolver::Resolver::new(
                    Arc::new(ringmail::resolver::zone::Zone::new()),
                    executor.clone(),
                    Default::default(),
                ),
                shutting_down: Cell::new(false),
            });
            shard.mesh.open(shard.clone());
            shards.push(shard);
        }
        for shard in &shards {
            delivery::follow_queues(shard);
        }
        World {
            simulation,
            shards,
            devices,
            events,
            tls: ground.tls.clone(),
            client_config: ground.client_config.clone(),
            choices,
        }
    }

    /// All messages in the account's INBOX; none if the disk failed before it was created.
    pub fn inbox(&self, account: AccountId) -> Vec<String> {
        self.mailbox(account, "INBOX")
    }

    /// All messages in a mailbox of the account.
    pub fn mailbox(&self, account: AccountId, name: &str) -> Vec<String> {
        let shard = &self.shards[usize::from(self.shards[0].owner_of(account).0)];
        let partition = shard.local_partition(account).expect("owned").clone();
        self.simulation.run_until(async {
            let Ok(account) = partition.account(account).await else { return Vec::new() };
            let Some(mailbox) = account.mailbox_by_name(name) else { return Vec::new() };
            let view = account.select(mailbox.id, false).await.expect("selected");
            let snapshot = view.current().expect("there");
            let mut messages = Vec::new();
            for message in snapshot.iter_from(0) {
                let mut text = Vec::new();
                while (text.len() as u64) < message.body.size {
                    let offset = text.len() as u64;
                    let more = account.read_body(&message.body, offset, 1 << 20).await;
                    text.extend_from_slice(&more.expect("body"));
                }
                messages.push(String::from_utf8_lossy(&text).into_owned());
            }
            messages
        })
    }

    /// The lines of events since the last call.
    pub fn told(&self) -> Vec<String> {
        self.shards.iter().for_each(|shard| shard.events.flush());
        let mut told = Vec::new();
        while let Some(chunk) = self.events.next(Duration::ZERO) {
            let text = String::from_utf8(chunk.lines).expect("UTF-8");
            told.extend(text.lines().map(str::to_owned));
        }
        told
    }

    /// As [`World::told`], only those with one name.
    pub fn told_of(&self, name: &str) -> Vec<String> {
        let name = format!("\"event\":\"{name}\"");
        self.told().into_iter().filter(|line| line.contains(&name)).collect()
    }

    pub fn sleep(&self, seconds: u64) {
        let sleep = self.shards[0].executor.sleep(Duration::from_secs(seconds));
        self.simulation.run_until(sleep);
    }

    /// A client connected to shard 0.
    pub fn client(&self) -> Client {
        self.client_at(self.choices.listener)
    }

    pub fn client_at(&self, listener: ListenerKind) -> Client {
        let tls = TlsMode::Upgrade(self.tls.clone());
        let (mut connection, peer) = Connection::memory_tls(&tls).expect("connection");
        connection.set_trail(self.shards[0].events.next_trail());
        let task = smtp::run(connection, self.shards[0].clone(), listener);
        self.shards[0].executor.spawn(Priority::Foreground, Box::pin(task));
        Client {
            simulation: self.simulation.clone(),
            peer,
            tls: None,
            client_config: self.client_config.clone(),
        }
    }
}

fn open(
    simulation: &Simulation,
    device: &MemoryDevice,
    number: u16,
    (choices, quotas): (&Choices, &Arc<Quotas>),
) -> Partition {
    let device: Rc<dyn Device> = Rc::new(device.clone());
    let options = StoreOptions {
        partition: PartitionId(number),
        segment_size: 8 << 20,
        deliveries_known: choices.deliveries_known,
        holding: choices.holding,
        quotas: quotas.clone(),
        ..StoreOptions::default()
    };
    let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
    simulation.run_until(Partition::open(device, executor, options)).expect("opens").0
}

fn options(choices: &Choices) -> ServiceOptions {
    ServiceOptions {
        hostname: HOST.to_owned(),
        allow_plaintext_auth: choices.plaintext_auth,
        lmtp_auth: false,
        certificate_name: Default::default(),
        tokens: None,
        smtp: SmtpOptions { limits: choices.limits, ..SmtpOptions::default() },
        pop3: Default::default(),
        imap: Default::default(),
        intake: choices.intake.clone(),
        quota: choices.quota_options,
        lag_max: Duration::from_secs(1),
        relay: Default::default(),
        write_timeout: Duration::from_secs(60),
        tls_handshake_timeout: Duration::from_secs(60),
    }
}

/// The client's end of one connection.
pub struct Client {
    simulation: Simulation,
    peer: MemoryPeer,
    tls: Option<rustls::ClientConnection>,
    client_config: Arc<rustls::ClientConfig>,
}

impl Client {
    pub fn say(&mut self, text: &str) {
        transcript::Peer::send(self, text.as_bytes());
    }

    /// Reads until a line begins with `code` and a space; returns everything read.
    pub fn expect(&mut self, code: &str) -> String {
        let mut found = String::new();
        let last = format!("\r\n{code} ");
        while !(format!("\r\n{found}").contains(&last) && found.ends_with("\r\n")) {
            let more = transcript::Peer::receive(self);
            assert!(!more.is_empty(), "closed after {found:?}, expected {code}");
            found.push_str(&String::from_utf8_lossy(&more));
        }
        found
    }

    fn send_tls(&mut self) {
        if let Some(tls) = &mut self.tls {
            let mut sealed = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut sealed).expect("sealed");
            }
            self.peer.send(&sealed);
        }
    }

    /// One arrival of octets; `None` at the end.
    fn receive_tls(&mut self) -> Option<Vec<u8>> {
        let received = self.simulation.run_until(self.peer.receive());
        if received.is_empty() {
            return None;
        }
        let tls = self.tls.as_mut()?;
        let mut rest = &received[..];
        let mut plaintext = Vec::new();
        while !rest.is_empty() {
            tls.read_tls(&mut rest).expect("read");
            let state = tls.process_new_packets().expect("TLS");
            let start = plaintext.len();
            plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut plaintext[start..]).expect("plaintext");
        }
        self.send_tls();
        Some(plaintext)
    }
}

impl transcript::Peer for Client {
    fn send(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            None => self.peer.send(bytes),
            Some(tls) => {
                tls.writer().write_all(bytes).expect("buffered");
                self.send_tls();
            }
        }
    }

    fn settle(&mut self) {
        self.simulation.run_idle();
    }

    fn receive(&mut self) -> Vec<u8> {
        if self.tls.is_none() {
            return self.simulation.run_until(self.peer.receive());
        }
        loop {
            match self.receive_tls() {
                None => return Vec::new(),
                Some(plaintext) if !plaintext.is_empty() => return plaintext,
                Some(_) => {}
            }
        }
    }

    fn start_tls(&mut self) {
        let name = ServerName::try_from(HOST).expect("name");
        let tls = rustls::ClientConnection::new(self.client_config.clone(), name).expect("client");
        self.tls = Some(tls);
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.send_tls();
            assert!(self.receive_tls().is_some(), "closed during the handshake");
        }
    }
}

impl transcript::World for World {
    fn connect(&mut self, _name: &str) -> Box<dyn transcript::Peer> {
        Box::new(self.client())
    }

    fn wait(&mut self, seconds: u64) {
        self.sleep(seconds);
    }
}
