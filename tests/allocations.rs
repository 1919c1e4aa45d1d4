//! How often a delivery allocates memory: per message, and per connection. One real shard in this
//! process, its log on disk; only allocations of the shard's thread are counted.
//!
//! glommio's allocations depend on how often the shard goes to sleep, and so on the clock. Many
//! clients in step make their share per client small; the bounds leave room for the rest.
//! docs/performance.md has the counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ringmail::{
    directory::{
        Directory, DirectorySnapshot, PasswordJob, PasswordWorkers, PeerLimits, SharedDirectory,
    },
    events::ShardEvents,
    metrics::ShardMetrics,
    model::{MailClass, PartitionId, ShardId},
    runtime::{
        acceptor::{Acceptor, BoundListener, Entrance},
        connection::TlsMode,
        device::{Device, file::FileDevice},
        executor::Priority,
        mesh,
        shard::{self, ShardContext, ShardOptions},
    },
    service::{
        ServiceOptions, Shard,
        budget::MessageBudget,
        intake::IntakeOptions,
        smtp::{self, ListenerKind},
    },
    store::{Partition, StoreOptions},
};

/// Clients that do everything together, and the number of rounds.
const CLIENTS: usize = 50;
const ROUNDS: usize = 20;

/// Allocations per message on an open connection (19 to 20 were counted), and per connection
/// without a message (10 to 11).
const MESSAGE_MAX: f64 = 23.0;
const CONNECTION_MAX: f64 = 13.0;

/// Counts allocations on threads that opt in.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn note() {
    if COUNTED.get() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed to the system's allocator; counting neither allocates nor touches
// its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps to the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nobody;

impl PasswordWorkers for Nobody {
    fn try_run(&self, _: PasswordJob) -> bool {
        false
    }
}

/// One shard that accepts mail on `listener` until `ended`.
async fn serve(
    context: ShardContext,
    device: FileDevice,
    listener: BoundListener,
    ended: Arc<AtomicBool>,
) {
    let executor = context.executor.clone();
    let device: Rc<dyn Device> = Rc::new(device);
    let options = StoreOptions { partition: PartitionId(0), ..StoreOptions::default() };
    let (partition, _) = Partition::open(device, executor.clone(), options).await.expect("opens");
    let (mut seats, _gate) = mesh::build::<Shard>(1);
    let snapshot = DirectorySnapshot::demo("demo.test", 2);
    let shared = SharedDirectory::new(snapshot, PeerLimits::default());
    let intake = IntakeOptions::default();
    let shard = Rc::new(Shard {
        id: ShardId(0),
        options: Arc::new(ServiceOptions {
            hostname: "mail.demo.test".to_owned(),
            allow_plaintext_auth: true,
            lmtp_auth: false,
            certificate_name: Default::default(),
            tokens: None,
            smtp: Default::default(),
            pop3: Default::default(),
            imap: Default::default(),
            intake: intake.clone(),
            relay: Default::default(),
            quota: Default::default(),
            lag_max: std::time::Duration::from_secs(1),
            write_timeout: Duration::from_secs(60),
            tls_handshake_timeout: Duration::from_secs(60),
        }),
        executor: executor.clone(),
        mesh: seats.remove(0).join(executor.clone()),
        directory: Directory::new(shared, Rc::new(Nobody)),
        policy: Rc::new(smtp::AcceptAll),
        metrics: Rc::new(ShardMetrics::new()),
        load: ringmail::service::load::Load::new(std::time::Duration::from_secs(1)),
        messages: MessageBudget::new(intake.memory),
        events: ShardEvents::nowhere(ShardId(0)),
        partitions: vec![Some(partition)],
        owners: vec![ShardId(0)],
        deliveries: Default::default(),
        transfers: Default::default(),
        relay: Default::default(),
        tls_counts: Default::default(),
        imap_seats: Default::default(),
        reloads: Default::default(),
        leases: Default::default(),
        follows: Default::default(),
        signing: Default::default(),
        shares: Default::default(),
        quotas: Default::default(),
        nearly_full: Default::default(),
        resolver: ringmail::resolver::Resolver::new(
            Arc::new(ringmail::resolver::zone::Zone::new()),
            executor.clone(),
            Default::default(),
        ),
        shutting_down: Cell::new(false),
    });
    shard.mesh.open(shard.clone());
    let acceptor = Acceptor {
        listener,
        entrance: Rc::new(Entrance {
            class: MailClass::Local,
            tls: TlsMode::Off,
            clients: None,
            proxies: Arc::new([]),
        }),
        session: Rc::new(move |connection, _| {
            Box::pin(smtp::run(connection, shard.clone(), ListenerKind::Smtp))
        }),
    };
    executor.spawn(Priority::Foreground, Box::pin(acceptor.run(executor.clone())));
    COUNTED.set(true);
    while !ended.load(Ordering::Relaxed) {
        executor.sleep(Duration::from_millis(200)).await;
    }
}

struct Clients(Vec<BufReader<TcpStream>>);

impl Clients {
    fn connect(address: SocketAddr) -> Clients {
        let connect = |_| {
            let stream = TcpStream::connect(address).expect("connects");
            stream.set_nodelay(true).expect("set");
            BufReader::new(stream)
        };
        let mut clients = Clients((0..CLIENTS).map(connect).collect());
        clients.expect("220");
        clients.say("EHLO client.test\r\n", "250");
        clients
    }

    fn say(&mut self, text: &str, code: &str) {
        for client in &mut self.0 {
            client.get_mut().write_all(text.as_bytes()).expect("sent");
        }
        self.expect(code);
    }

    fn expect(&mut self, code: &str) {
        for client in &mut self.0 {
            let mut line = String::new();
            while line.as_bytes().get(3) != Some(&b' ') {
                line.clear();
                client.read_line(&mut line).expect("a reply");
            }
            assert!(line.starts_with(code), "{line}");
        }
    }

    fn deliver(&mut self, text: &str) {
        self.say("MAIL FROM:<sender@example.org>\r\n", "250");
        self.say("RCPT TO:<user1@demo.test>\r\n", "250");
        self.say("DATA\r\n", "354");
        self.say(text, "250");
    }

    fn quit(mut self) {
        self.say("QUIT\r\n", "221");
    }
}

/// Allocations per client in one round.
fn counted(mut turn: impl FnMut()) -> f64 {
    let before = COUNT.load(Ordering::Relaxed);
    (0..ROUNDS).for_each(|_| turn());
    (COUNT.load(Ordering::Relaxed) - before) as f64 / (ROUNDS * CLIENTS) as f64
}

#[test]
fn a_message_and_a_connection_ask_for_memory_seldom() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = FileDevice::new(folder.path());
    let listener = BoundListener::bind((Ipv4Addr::LOCALHOST, 0).into(), 256).expect("bound");
    let address = listener.local().expect("an address");
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    let life = move |context| serve(context, device, listener, told);
    let threads = shard::start(&ShardOptions::default(), vec![life]).expect("starts");

    let text = format!(
        "From: a@example.org\r\nSubject: one\r\n\r\n{}.\r\n",
        "A line of text.\r\n".repeat(240)
    );
    let mut clients = Clients::connect(address);
    // Warm-up: pools and tables reach their size.
    counted(|| clients.deliver(&text));
    let message = counted(|| clients.deliver(&text));
    let connection = counted(|| Clients::connect(address).quit());
    clients.quit();
    ended.store(true, Ordering::Relaxed);
    assert!(threads.join().into_iter().all(|life| life.is_ok()));

    println!("allocations: {message:.1} a message, {connection:.1} a connection");
    assert!(message <= MESSAGE_MAX, "{message} a message");
    assert!(connection <= CONNECTION_MAX, "{connection} a connection");
}
