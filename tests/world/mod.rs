//! A small server in memory: shards with real directory and store on one simulated executor, and
//! clients over pipes, plain or TLS. Transcripts are played on it without sockets.
//!
//! The test supplies the service loop ([`Serve`]). Alice's account is always on shard 0;
//! connections arrive on the shard that the test names, so that a handover needs only another
//! number.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::{
    cell::Cell,
    io::{Read, Write},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use argon2::password_hash::{PasswordHasher, SaltString};
use ringmail::{
    directory::{
        Directory, DirectoryOptions, DirectorySnapshot, Lift, PasswordJob, PasswordWorkers,
        PeerLimits, SharedDirectory, UsersFile,
    },
    events::ShardEvents,
    metrics::ShardMetrics,
    model::{AccountId, Flags, MailboxId, PartitionId, ShardId},
    protocol::mime,
    runtime::{
        LocalFuture,
        connection::{Connection, TlsMode},
        device::{
            Device,
            memory::{Faults, MemoryDevice},
        },
        executor::{Executor, Priority},
        mesh,
        pipe::MemoryPeer,
        simulation::Simulation,
        tls::{SelfSigned, TlsContext},
    },
    service::{
        ServiceOptions, Shard,
        budget::MessageBudget,
        imap::{self, Outcome},
        smtp::AcceptAll,
    },
    store::{Account, Partition, Quotas, Shares, StoreOptions},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::transcript;

const HOST: &str = "mail.demo.test";
pub const ALICE: AccountId = AccountId(1);

/// Serves one connection that arrived on shard `entry` of `shards` to its end, including handovers.
pub type Serve = fn(Connection, Rc<[Rc<Shard>]>, usize) -> LocalFuture<'static, ()>;

/// [`Serve`] for IMAP: does the work of the acceptor and the mesh.
pub fn serve_imap(
    connection: Connection,
    shards: Rc<[Rc<Shard>]>,
    entry: usize,
) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let mut outcome = imap::run(connection, shards[entry].clone()).await;
        while let Outcome::HandOver(connection, handover) = outcome {
            let owner = shards[entry].owner_of(handover.identity.account);
            let connection = Connection::attach(connection.detach());
            outcome =
                imap::resume(connection, shards[usize::from(owner.0)].clone(), handover).await;
        }
    })
}

/// Shared by all runs, because creating it takes time.
pub struct Kit {
    pub simulation: Simulation,
    directory: Directory,
    tls: Arc<TlsContext>,
    client_config: Arc<rustls::ClientConfig>,
}

/// Alice and bob with cheap hashes, since wrong passwords are hashed each time.
pub fn accounts() -> DirectorySnapshot {
    accounts_of(&["alice", "bob"])
}

/// With ids from 1, in this order.
pub fn accounts_of(names: &[&str]) -> DirectorySnapshot {
    let params = argon2::Params::new(8, 1, 1, None).expect("parameters");
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::from_b64("c2FsdHNhbHQ").expect("salt");
    let hash = hasher.hash_password(b"demo", &salt).expect("hash").to_string();
    let mut file = UsersFile::new();
    for name in names {
        file.add(&format!("{name}@demo.test"), std::sync::Arc::<str>::from(hash.as_str()))
            .expect("added");
    }
    let options =
        DirectoryOptions { domains: vec!["demo.test".to_owned()], ..DirectoryOptions::default() };
    DirectorySnapshot::new(&file, &options).expect("snapshot")
}

/// Hashes immediately: the simulated executor has no other threads.
pub struct AtOnce;

impl PasswordWorkers for AtOnce {
    fn try_run(&self, job: PasswordJob) -> bool {
        job();
        true
    }
}

impl Kit {
    pub fn new() -> Kit {
        Kit::of(&["alice", "bob"])
    }

    /// With accounts of these names; numbers begin at 1.
    pub fn of(names: &[&str]) -> Kit {
        let shared = SharedDirectory::new(accounts_of(names), PeerLimits::default());
        Kit::with_directory(|_| Directory::new(shared, Rc::new(AtOnce)))
    }

    /// All shards use the directory that `make` creates.
    pub fn with_directory(make: impl FnOnce(&Simulation) -> Directory) -> Kit {
        let made = SelfSigned::generate(&[HOST]).expect("certificate");
        let tls = TlsContext::new(made.certificate().expect("certificate")).expect("TLS");
        let certificate =
            CertificateDer::from_pem_slice(made.chain_pem.as_bytes()).expect("certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("root");
        let client_config =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let simulation = Simulation::new(1);
        Kit {
            directory: make(&simulation),
            simulation,
            tls,
            client_config: Arc::new(client_config),
        }
    }
}

/// One fresh pair of shards.
pub struct SimulatedWorld<'k> {
    kit: &'k Kit,
    serve: Serve,
    pub shards: Rc<[Rc<Shard>]>,
    /// The device of the partition with alice's account.
    pub device: MemoryDevice,
    entry: usize,
}

impl<'k> SimulatedWorld<'k> {
    pub fn new(kit: &'k Kit, serve: Serve, entry: usize, plaintext: bool) -> SimulatedWorld<'k> {
        SimulatedWorld::with_memory(kit, serve, entry, plaintext, 64 << 20)
    }

    /// With `intake_memory` for the messages that each shard is receiving.
    pub fn with_memory(
        kit: &'k Kit,
        serve: Serve,
        entry: usize,
        plaintext: bool,
        intake_memory: usize,
    ) -> SimulatedWorld<'k> {
        SimulatedWorld::with_options(kit, serve, entry, options(plaintext), intake_memory)
    }

    pub fn with_options(
        kit: &'k Kit,
        serve: Serve,
        entry: usize,
        options: ServiceOptions,
        intake_memory: usize,
    ) -> SimulatedWorld<'k> {
        let options = Arc::new(options);
        let executor: Rc<dyn Executor> = Rc::new(kit.simulation.clone());
        // Wrong passwords of earlier runs must not count.
        kit.directory.lift(&Lift::All);
        let (seats, _gate) = mesh::build::<Shard>(2);
        let alices = ALICE.partition(2);
        let owners: Vec<ShardId> =
            (0..2).map(|number| ShardId(u16::from(PartitionId(number) != alices))).collect();
        let device = MemoryDevice::new();
        let shares = Arc::new(Shares::new(2));
        let quotas = Arc::new(Quotas::new(2, None));
        let mut shards = Vec::new();
        for (seat, number) in seats.into_iter().zip(0..) {
            let id = ShardId(number);
            let device = if id == ShardId(0) { device.clone() } else { MemoryDevice::new() };
            let partitions = (0..2)
                .map(|number| {
                    (owners[usize::from(number)] == id).then(|| {
                        open(&kit.simulation, &device, PartitionId(number), (&shares, &quotas))
                    })
                })
                .collect();
            shards.push(Rc::new(Shard {
                id,
                options: options.clone(),
                executor: executor.clone(),
                mesh: seat.join(executor.clone()),
                directory: kit.directory.clone(),
                metrics: Rc::new(ShardMetrics::new()),
                events: ShardEvents::nowhere(id),
                load: ringmail::service::load::Load::new(std::time::Duration::from_secs(1)),
                messages: MessageBudget::new(intake_memory),
                partitions,
                owners: owners.clone(),
                deliveries: Default::default(),
                transfers: Default::default(),
                policy: Rc::new(AcceptAll),
                relay: Default::default(),
                tls_counts: Default::default(),
                imap_seats: Default::default(),
                reloads: Default::default(),
                leases: Default::default(),
                follows: Default::default(),
                signing: Default::default(),
                shares: shares.clone(),
                quotas: quotas.clone(),
                nearly_full: Default::default(),
                resolver: ringmail::resolver::Resolver::new(
                    Arc::new(ringmail::resolver::zone::Zone::new()),
                    executor.clone(),
                    Default::default(),
                ),
                shutting_down: Cell::new(false),
            }));
        }
        for shard in &shards {
            shard.mesh.open(shard.clone());
        }
        SimulatedWorld { kit, serve, shards: shards.into(), device, entry }
    }

    pub fn alices_partition(&self) -> Partition {
        self.shards[0].local_partition(ALICE).expect("shard 0 owns it").clone()
    }

    pub fn with_account<T>(&self, work: impl AsyncFnOnce(&Account) -> T) -> T {
        self.with_account_of(ALICE, work)
    }

    /// Work on an account, at its shard.
    pub fn with_account_of<T>(&self, id: AccountId, work: impl AsyncFnOnce(&Account) -> T) -> T {
        let partition = self.shards.iter().find_map(|shard| shard.local_partition(id));
        let partition = partition.expect("owned by a shard");
        self.kit.simulation.run_until(async {
            let account = partition.account(id).await.expect("account");
            work(&account).await
        })
    }

    /// Says whether `\Seen` of a mailbox is each user's own.
    pub fn set_seen_is_personal(&self, owner: AccountId, name: &str, is_personal: bool) {
        self.with_account_of(owner, async |account| {
            let mailbox = account.mailbox_by_name(name).expect("mailbox").id;
            account.set_seen_is_personal(mailbox, is_personal).await.expect("set");
        });
        self.settle();
    }

    /// Puts a message into alice's INBOX.
    pub fn deliver(&self, message: &str) {
        let now = self.shards[0].executor.now();
        let partition = self.alices_partition();
        self.with_account(async |account| {
            let mut writer = partition.stage();
            writer.write(message.as_bytes()).await.expect("written");
            let body = writer.finish(Vec::new()).await.expect("staged");
            account
                .append(MailboxId::INBOX, body, Flags::default(), &[], now)
                .await
                .expect("appended");
        });
    }

    /// UIDs in alice's INBOX.
    pub fn uids(&self) -> Vec<u32> {
        self.with_account(async |account| {
            let view = account.select(MailboxId::INBOX, false).await.expect("selected");
            let snapshot = view.current().expect("there");
            snapshot.iter_from(0).map(|message| message.uid.0).collect()
        })
    }

    /// Alice's disk takes 100 seconds for the next operation.
    pub fn slow_disk(&self) {
        self.device.set_clock(self.shards[0].executor.clone());
        let (appends, syncs) = self.device.operations();
        let slow = vec![(appends + syncs, Duration::from_secs(100))];
        self.device.inject(Faults { slow, ..Faults::default() });
    }

    pub fn sleep(&self, seconds: u64) {
        let sleep = self.shards[0].executor.sleep(Duration::from_secs(seconds));
        self.kit.simulation.run_until(sleep);
    }

    /// Lets the server do everything possible without time passing.
    pub fn settle(&self) {
        self.kit.simulation.run_idle();
    }

    /// A client of IMAP that has logged in.
    pub fn log_in(&self, name: &str) -> Client {
        let mut client = self.client();
        client.read_to("* OK");
        client.done(&format!("LOGIN {name}@demo.test demo"));
        client
    }

    pub fn client(&self) -> Client {
        let tls = TlsMode::Upgrade(self.kit.tls.clone());
        let (connection, peer) = Connection::memory_tls(&tls).expect("connection");
        let task = (self.serve)(connection, self.shards.clone(), self.entry);
        self.shards[0].executor.spawn(Priority::Foreground, task);
        Client {
            simulation: self.kit.simulation.clone(),
            peer,
            tls: None,
            unread: Vec::new(),
            client_config: self.kit.client_config.clone(),
        }
    }
}

/// Ends the partitions' tasks: the simulation goes on with other worlds.
impl Drop for SimulatedWorld<'_> {
    fn drop(&mut self) {
        for shard in self.shards.iter() {
            shard.mesh.close();
        }
        for partition in self.shards.iter().flat_map(|shard| &shard.partitions).flatten() {
            // Fails if the test made the disk fail.
            let _ = self.kit.simulation.run_until(partition.close());
        }
        self.kit.simulation.run_idle();
    }
}

fn open(
    simulation: &Simulation,
    device: &MemoryDevice,
    partition: PartitionId,
    (shares, quotas): (&Arc<Shares>, &Arc<Quotas>),
) -> Partition {
    let device: Rc<dyn Device> = Rc::new(device.clone());
    let card_split = mime::split_card;
    let options = StoreOptions {
        partition,
        segment_size: 1 << 20,
        card_split,
        shares: shares.clone(),
        quotas: quotas.clone(),
        ..StoreOptions::default()
    };
    let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
    let (partition, _report) =
        simulation.run_until(Partition::open(device, executor, options)).expect("opens");
    partition
}

pub fn options(plaintext: bool) -> ServiceOptions {
    ServiceOptions {
        hostname: HOST.to_owned(),
        allow_plaintext_auth: plaintext,
        lmtp_auth: false,
        certificate_name: Default::default(),
        tokens: None,
        smtp: Default::default(),
        pop3: Default::default(),
        imap: Default::default(),
        intake: Default::default(),
        quota: Default::default(),
        lag_max: Duration::from_secs(1),
        relay: Default::default(),
        write_timeout: Duration::from_secs(60),
        tls_handshake_timeout: Duration::from_secs(60),
    }
}

/// The client's end of one connection.
pub struct Client {
    simulation: Simulation,
    pub peer: MemoryPeer,
    tls: Option<rustls::ClientConnection>,
    /// Received but not yet compared.
    unread: Vec<u8>,
    client_config: Arc<rustls::ClientConfig>,
}

impl Client {
    pub fn say(&mut self, text: impl AsRef<[u8]>) {
        transcript::Peer::send(self, text.as_ref());
    }

    /// The server's output up to and including a line that begins with `start`.
    pub fn read_to(&mut self, start: &str) -> String {
        String::from_utf8_lossy(&self.read_octets_to(start)).into_owned()
    }

    /// The same, where there may be octets that are not UTF-8.
    pub fn read_octets_to(&mut self, start: &str) -> Vec<u8> {
        let mut found = std::mem::take(&mut self.unread);
        loop {
            let text = String::from_utf8_lossy(&found).into_owned();
            let ends = |line: &str| line.starts_with(start);
            if text.ends_with("\r\n") && text.lines().next_back().is_some_and(ends) {
                return found;
            }
            let more = transcript::Peer::receive(self);
            assert!(!more.is_empty(), "closed after {text:.2000}");
            found.extend(more);
        }
    }

    /// The answer to one command, up to its tagged response or BYE; with NOTIFY also what is told
    /// at once after it.
    pub fn answer(&mut self, command: &str) -> String {
        self.say(format!("t {command}\r\n"));
        let mut found = String::new();
        loop {
            let more = transcript::Peer::receive(self);
            assert!(!more.is_empty(), "closed after {command}: {found}");
            found.push_str(&String::from_utf8(more).expect("UTF-8"));
            let last = found.lines().next_back().unwrap_or_default();
            let ends = ["t OK ", "t NO ", "t BAD "];
            let has_end = |line: &str| ends.iter().any(|end| line.starts_with(end));
            let is_over = last.starts_with("* BYE") || found.lines().any(has_end);
            if found.ends_with("\r\n") && is_over {
                return found;
            }
        }
    }

    /// The same, which must be OK.
    pub fn done(&mut self, command: &str) -> String {
        let told = self.answer(command);
        assert!(told.contains("t OK "), "{command}: {told}");
        told
    }

    /// The server's next octets must be `text`.
    pub fn expect(&mut self, text: &str) {
        while self.unread.len() < text.len() {
            let more = transcript::Peer::receive(self);
            assert!(!more.is_empty(), "closed after {:?}", String::from_utf8_lossy(&self.unread));
            self.unread.extend(more);
        }
        let found: Vec<u8> = self.unread.drain(..text.len()).collect();
        assert!(found == text.as_bytes(), "{:.300}", String::from_utf8_lossy(&found));
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

impl transcript::World for SimulatedWorld<'_> {
    fn connect(&mut self, _name: &str) -> Box<dyn transcript::Peer> {
        Box::new(self.client())
    }

    fn wait(&mut self, seconds: u64) {
        let sleep = self.shards[0].executor.sleep(Duration::from_secs(seconds));
        self.kit.simulation.run_until(sleep);
    }
}
