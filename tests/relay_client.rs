//! The outgoing client against scripted peers, over real sockets of the loopback network: a thread
//! says what the script says and checks what it is sent.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, poll_once};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::digest::{SHA256, SHA512, digest};
use ringmail::{
    model::Tlsa,
    protocol::{
        sasl::Credentials,
        smtp::client::{Envelope, RcptLine, RcptResult, Stage},
    },
    runtime::{
        LocalFuture,
        connect::{Dialer, Sockets},
        connection::{Connection, ConnectionError},
        executor::Executor,
        resources::{ResourceLimits, ShardResources},
        shard::{self, ShardContext, ShardOptions},
        simulation::Simulation,
        tls_client::{ClientTls, TlsFacts, TlsFailure, Trust, Verification, Verified},
    },
    service::relay::client::{Client, ClientOptions, Content, Failed, Target, TlsUse},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring as ring_provider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What a peer does next.
#[derive(Clone)]
enum Act {
    /// Sends this.
    Say(&'static str),
    /// Sends this octet by octet.
    Trickle(&'static str),
    /// Reads one line, and checks it.
    Hear(&'static str),
    /// Reads a message up to its end, and checks it.
    HearMessage(String),
    /// Reads so many octets.
    Skip(usize),
    /// Answers a TLS handshake; if that fails, the script is over.
    Tls(Arc<ServerConfig>),
    /// Closes, with unread octets: a reset.
    Close,
    /// Does nothing until the client closes.
    Hang,
}

use Act::{Close, Hang, Hear, HearMessage, Say, Skip, Tls, Trickle};

/// A stream of either kind.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A peer that serves one connection; its thread fails if the client departs from the script.
struct Peer {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

fn peer(script: Vec<Act>) -> Peer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        act(socket, script);
    });
    Peer { address, thread }
}

fn act(socket: TcpStream, script: Vec<Act>) {
    let mut stream: BufReader<Box<dyn Stream>> = BufReader::new(Box::new(socket));
    for act in script {
        match act {
            Say(text) => stream.get_mut().write_all(text.as_bytes()).unwrap(),
            Trickle(text) => {
                for octet in text.as_bytes() {
                    std::thread::sleep(Duration::from_millis(30));
                    if stream.get_mut().write_all(&[*octet]).is_err() {
                        return;
                    }
                }
            }
            Hear(expected) => assert_eq!(line(&mut stream), expected),
            HearMessage(expected) => {
                let mut message = String::new();
                while !message.ends_with("\r\n.\r\n") {
                    message.push_str(&line(&mut stream));
                    message.push_str("\r\n");
                }
                assert!(message == expected, "{} octets", message.len());
            }
            Skip(count) => {
                std::io::copy(&mut (&mut stream).take(count as u64), &mut std::io::sink()).unwrap();
            }
            Tls(config) => {
                assert!(stream.buffer().is_empty(), "the client speaks before TLS");
                let mut tls = ServerConnection::new(config).unwrap();
                let mut socket = stream.into_inner();
                while tls.is_handshaking() {
                    if tls.complete_io(&mut socket).is_err() {
                        return;
                    }
                }
                stream = BufReader::new(Box::new(StreamOwned::new(tls, socket)));
            }
            Close => return,
            Hang => {
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        }
    }
}

fn line(stream: &mut BufReader<Box<dyn Stream>>) -> String {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).unwrap();
    let line = String::from_utf8(line).unwrap();
    line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no line: {line:?}")).to_owned()
}

/// A message in pieces.
struct Pieces(Vec<Vec<u8>>, usize);

impl Content for Pieces {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<&[u8]>, String>> {
        self.1 += 1;
        Box::pin(async move { Ok(self.0.get(self.1 - 1).map(Vec::as_slice)) })
    }
}

fn message() -> Pieces {
    Pieces(vec![b"Subject: x\r\n\r\nHi\n.".to_vec(), b"\r\nyou".to_vec()], 0)
}

const MESSAGE_SENT: &str = "Subject: x\r\n\r\nHi\r\n..\r\nyou\r\n.\r\n";

/// Runs `life` on a shard of its own.
fn on_a_shard<T: Send + 'static, F: Future<Output = T>>(
    life: impl FnOnce(Rc<dyn Executor>) -> F + Send + 'static,
) -> T {
    let start = async move |context: ShardContext| life(context.executor).await;
    let lives = shard::start(&ShardOptions::default(), vec![start]).unwrap().join();
    lives.into_iter().next().unwrap().unwrap()
}

fn target(address: SocketAddr) -> Target {
    Target {
        path: None,
        address,
        source: None,
        host: "mx.test".into(),
        hello: "me.test".into(),
        lmtp: false,
        tls: TlsUse::Opportunistic,
        credentials: None,
    }
}

fn options() -> ClientOptions {
    ClientOptions { quit_timeout: Duration::from_millis(300), ..ClientOptions::default() }
}

/// Sends one message to two recipients, and says goodbye.
fn deliver(target: Target, options: ClientOptions) -> Result<Vec<String>, Failed> {
    on_a_shard(async move |executor| {
        let mut client = Client::connect(&executor, &Sockets, &options, &target).await?;
        let sent = send(&mut client, message()).await;
        client.quit().await;
        Ok(sent)
    })
}

async fn send(client: &mut Client, mut message: Pieces) -> Vec<String> {
    let recipients = [
        RcptLine { path: "<b@y>", parameters: "" },
        RcptLine { path: "<c@y>", parameters: " NOTIFY=NEVER" },
    ];
    let envelope =
        Envelope { mail_from: "<a@x>", recipients: &recipients, size: 30, binary: false };
    let sent = client.send(&envelope, &mut message).await;
    let mut results: Vec<String> = sent.recipients.iter().map(shown).collect();
    if !sent.connection_usable {
        results.push("unusable".into());
    }
    results
}

fn shown(result: &RcptResult) -> String {
    match result {
        RcptResult::Accepted { reply } => format!("accepted {reply}"),
        RcptResult::Refused { stage, reply } => format!("refused {} {reply}", stage.name()),
        RcptResult::Unsent => "unsent".into(),
        RcptResult::Lost { stage, what, after_final_dot } => {
            let after = if *after_final_dot { " after dot" } else { "" };
            format!("lost {}{after}: {what}", stage.name())
        }
    }
}

/// The script's beginning, up to the end of the envelope.
fn greeted(ehlo: &'static str, rest: Vec<Act>) -> Vec<Act> {
    [vec![Say("220 mx.test\r\n"), Hear("EHLO me.test"), Say(ehlo)], rest].concat()
}

fn enveloped(rest: Vec<Act>) -> Vec<Act> {
    let envelope = vec![
        Hear("MAIL FROM:<a@x>"),
        Hear("RCPT TO:<b@y>"),
        Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
        Hear("DATA"),
    ];
    greeted("250-mx.test\r\n250 PIPELINING\r\n", [envelope, rest].concat())
}

fn check(script: Vec<Act>, expected: &[&str]) {
    let peer = peer(script);
    let results = deliver(target(peer.address), options()).unwrap();
    peer.thread.join().unwrap();
    assert_eq!(results, expected);
}

#[test]
fn a_message_is_sent_and_the_session_ends_politely() {
    check(
        enveloped(vec![
            Say("250 ok\r\n250 ok\r\n550 5.1.1 no such user\r\n354 go\r\n"),
            HearMessage(MESSAGE_SENT.into()),
            Say("250 2.0.0 queued as 1\r\n"),
            Hear("QUIT"),
            Say("221 bye\r\n"),
            Hang,
        ]),
        &["accepted 250 2.0.0 queued as 1", "refused rcpt 550 5.1.1 no such user"],
    );
}

#[test]
fn helo_where_ehlo_is_unknown() {
    check(
        greeted(
            "502 5.5.2 what?\r\n",
            vec![
                Hear("HELO me.test"),
                Say("250 mx.test\r\n"),
                Hear("MAIL FROM:<a@x>"),
                Say("250 ok\r\n"),
                Hear("RCPT TO:<b@y>"),
                Say("250 ok\r\n"),
                Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
                Say("250 ok\r\n"),
                Hear("DATA"),
                Say("354 go\r\n"),
                HearMessage(MESSAGE_SENT.into()),
                Say("250 queued\r\n"),
                Hear("QUIT"),
                Close,
            ],
        ),
        &["accepted 250 queued", "accepted 250 queued"],
    );
}

#[test]
fn lmtp_answers_for_each() {
    let peer = peer(vec![
        Say("220 lmtp.test\r\n"),
        Hear("LHLO me.test"),
        Say("250-lmtp.test\r\n250 PIPELINING\r\n"),
        Hear("MAIL FROM:<a@x>"),
        Hear("RCPT TO:<b@y>"),
        Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
        Hear("DATA"),
        Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        HearMessage(MESSAGE_SENT.into()),
        Hear("LHLO me.test"),
        Say("250 b has it\r\n452 4.2.2 c is full\r\n250-lmtp.test\r\n250 PIPELINING\r\n"),
        Hear("QUIT"),
        Close,
    ]);
    let target = Target { lmtp: true, ..target(peer.address) };
    let results = deliver(target, options()).unwrap();
    peer.thread.join().unwrap();
    assert_eq!(results, ["accepted 250 b has it", "refused end 452 4.2.2 c is full"]);
}

#[test]
fn a_session_serves_many_messages_and_notices_that_it_is_closed() {
    let transaction = || {
        vec![
            Hear("MAIL FROM:<a@x>"),
            Hear("RCPT TO:<b@y>"),
            Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
            Hear("DATA"),
            Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
            HearMessage(MESSAGE_SENT.into()),
        ]
    };
    let script = [
        transaction(),
        vec![Say("250 one\r\n"), Hear("RSET"), Say("250 ok\r\n")],
        transaction(),
        vec![Say("250 two\r\n421 4.4.2 idle for too long\r\n"), Close],
    ];
    let peer = peer(greeted("250-mx.test\r\n250 PIPELINING\r\n", script.concat()));
    let target = target(peer.address);
    on_a_shard(async move |executor| {
        let mut client = Client::connect(&executor, &Sockets, &options(), &target).await.unwrap();
        assert_eq!(send(&mut client, message()).await, ["accepted 250 one"; 2]);
        client.reset().await.unwrap();
        assert!(client.is_alive().await);
        let results = send(&mut client, message()).await;
        assert_eq!(results[..2], ["accepted 250 two"; 2]);
        executor.sleep(Duration::from_millis(200)).await;
        assert!(!client.is_alive().await);
        let results = send(&mut client, message()).await;
        assert!(results[0].starts_with("lost mail: "), "{results:?}");
        client.quit().await;
    });
    peer.thread.join().unwrap();
}

#[test]
fn a_connection_lost_after_the_final_dot_is_told_apart() {
    let go = Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    let lost = "lost end after dot: connection closed by the peer";
    check(
        enveloped(vec![go.clone(), HearMessage(MESSAGE_SENT.into()), Close]),
        &[lost, lost, "unusable"],
    );
    let lost = "lost data: connection closed by the peer";
    check(enveloped(vec![Say("250 ok\r\n250 ok\r\n250 ok\r\n"), Close]), &[lost, lost, "unusable"]);
    let lost = "lost rcpt: the peer sent a line that is no reply";
    check(enveloped(vec![Say("250 ok\r\n550 no\r\n\0\0\0\r\n"), Hang]), &[lost, lost, "unusable"]);
}

#[test]
fn a_large_message_is_refused_in_the_middle() {
    let script = enveloped(vec![
        Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        Skip(100_000),
        Say("552 5.3.4 too large\r\n"),
        Hang,
    ]);
    let peer = peer(script);
    let target = target(peer.address);
    let results = on_a_shard(async move |executor| {
        let mut client = Client::connect(&executor, &Sockets, &options(), &target).await.unwrap();
        let waits = Waits(executor.clone(), vec![b'x'; 200_000], 0);
        let mut results = Vec::new();
        let mut waits = waits;
        let recipients = [
            RcptLine { path: "<b@y>", parameters: "" },
            RcptLine { path: "<c@y>", parameters: " NOTIFY=NEVER" },
        ];
        let envelope =
            Envelope { mail_from: "<a@x>", recipients: &recipients, size: 1, binary: false };
        let sent = client.send(&envelope, &mut waits).await;
        results.extend(sent.recipients.iter().map(shown));
        assert!(!sent.connection_usable);
        client.quit().await;
        results
    });
    peer.thread.join().unwrap();
    assert_eq!(results, ["refused content 552 5.3.4 too large"; 2]);
}

/// A message that pauses before its end.
struct Waits(Rc<dyn Executor>, Vec<u8>, usize);

impl Content for Waits {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<&[u8]>, String>> {
        self.2 += 1;
        Box::pin(async move {
            if self.2 == 1 {
                return Ok(Some(&self.1[..]));
            }
            self.0.sleep(Duration::from_millis(300)).await;
            Ok(None)
        })
    }
}

#[test]
fn sessions_that_do_not_begin_say_where_and_why() {
    let short = ClientOptions {
        greeting_timeout: Duration::from_millis(400),
        command_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(400),
        ..options()
    };
    let cases: Vec<(Vec<Act>, Stage, &str)> = vec![
        (vec![Close], Stage::Greeting, "connection closed by the peer"),
        (vec![Hang], Stage::Greeting, "timed out"),
        // A trickle gains no time.
        (vec![Trickle("220-one octet now and then\r\n")], Stage::Greeting, "timed out"),
        (vec![Say("554 go away\r\n"), Hear("QUIT"), Close], Stage::Greeting, "554 go away"),
        (vec![Say("421 busy\r\n"), Hang], Stage::Greeting, "421 busy"),
        (
            vec![Say("SSH-2.0-x\r\n"), Hang],
            Stage::Greeting,
            "the peer sent a line that is no reply",
        ),
        (
            vec![Say("220 a\r\n250 b\r\n"), Hang],
            Stage::Greeting,
            "the peer sent a reply that answers nothing",
        ),
        (greeted("450 later\r\n", vec![Hear("QUIT"), Close]), Stage::Hello, "450 later"),
        (
            greeted("550 no\r\n", vec![Hear("HELO me.test"), Say("550 still no\r\n"), Hang]),
            Stage::Hello,
            "550 still no",
        ),
    ];
    for (script, stage, what) in cases {
        let peer = peer(script);
        let begun = Instant::now();
        let failed = deliver(target(peer.address), short.clone()).unwrap_err();
        peer.thread.join().unwrap();
        assert_eq!((failed.stage, &*failed.what), (stage, what));
        assert_eq!(failed.reply.is_some(), what.starts_with(|c: char| c.is_ascii_digit()));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // Nobody listens.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let failed = deliver(target(free), short.clone()).unwrap_err();
    assert_eq!(failed.stage, Stage::Connect);
    assert!(failed.what.contains("refused"), "{failed}");
    // Nobody answers: the queue of connections is full.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let silent = listener.local_addr().unwrap().as_socket().unwrap();
    let _waiting = TcpStream::connect(silent).unwrap();
    let failed = deliver(target(silent), short).unwrap_err();
    assert_eq!((failed.stage, &*failed.what), (Stage::Connect, "timed out"));
}

#[test]
fn the_source_address_is_used() {
    let seen = Arc::new(Mutex::new(None));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let peer = {
        let seen = seen.clone();
        std::thread::spawn(move || {
            let (socket, from) = listener.accept().unwrap();
            *seen.lock().unwrap() = Some(from.ip());
            act(socket, vec![Say("554 no\r\n"), Hang]);
        })
    };
    let source = Some(Ipv4Addr::new(127, 0, 0, 77).into());
    let failed = deliver(Target { source, ..target(address) }, options()).unwrap_err();
    peer.join().unwrap();
    assert_eq!((failed.stage, *seen.lock().unwrap()), (Stage::Greeting, source));
}

#[test]
fn a_full_shard_dials_nobody() {
    let limited = ShardOptions {
        limits: ResourceLimits { connections_max: 1, ..ResourceLimits::default() },
        ..ShardOptions::default()
    };
    let peer = peer(vec![Say("220 mx.test\r\n"), Hear("EHLO me.test"), Say("250 x\r\n"), Hang]);
    let target = target(peer.address);
    let life = async move |context: ShardContext| {
        let executor = context.executor;
        let first = Client::connect(&executor, &Sockets, &options(), &target).await.unwrap();
        let refused = Client::connect(&executor, &Sockets, &options(), &target).await.err();
        assert_eq!(refused.unwrap().stage, Stage::Connect);
        assert_eq!(context.resources.connection_count(), 1);
        first.quit().await;
        assert_eq!(context.resources.connection_count(), 0);
    };
    let lives = shard::start(&limited, vec![life]).unwrap().join();
    assert!(lives.into_iter().all(|life| life.is_ok()));
    peer.thread.join().unwrap();
}

/// An authority, and certificates of hosts.
struct Issued {
    authority: CertificateDer<'static>,
    authority_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Issued {
    fn new() -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("Test authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let made = params.self_signed(&key).unwrap();
        let (authority, authority_pem) = (made.der().clone(), made.pem());
        Issued { authority, authority_pem, issuer: Issuer::new(params, key) }
    }

    /// For mx.test, issued by the authority.
    fn host(&self, expired: bool) -> Host {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Host { chain: vec![leaf, self.authority.clone()], key: Arc::new(key) }
    }
}

/// What a host presents.
#[derive(Clone)]
struct Host {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyPair>,
}

impl Host {
    /// Self-signed, expired, for another name.
    fn shabby() -> Host {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["old.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        Host { chain, key: Arc::new(key) }
    }

    fn alone(&self) -> Host {
        Host { chain: self.chain[..1].to_vec(), ..self.clone() }
    }

    /// The same certificates, without their key.
    fn impostor(&self) -> Host {
        Host { key: Arc::new(KeyPair::generate().unwrap()), ..self.clone() }
    }

    fn config(&self, version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Names) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let key = ring_provider::sign::any_supported_type(&key).unwrap();
        let names = Names::default();
        let certificate = Arc::new(CertifiedKey::new(self.chain.clone(), key));
        let resolver = Presents { certificate, names: names.clone() };
        let provider = Arc::new(ring_provider::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        (Arc::new(config), names)
    }
}

/// Names that clients asked for.
type Names = Arc<Mutex<Vec<Option<String>>>>;

#[derive(Debug)]
struct Presents {
    certificate: Arc<CertifiedKey>,
    names: Names,
}

impl ResolvesServerCert for Presents {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.names.lock().unwrap().push(hello.server_name().map(str::to_owned));
        Some(self.certificate.clone())
    }
}

/// A session up to the reply to the second EHLO, with STARTTLS.
fn over_tls(config: Arc<ServerConfig>, after: Vec<Act>) -> Vec<Act> {
    let secured = vec![Hear("STARTTLS"), Say("220 go\r\n"), Tls(config), Hear("EHLO me.test")];
    greeted("250-mx.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n", [secured, after].concat())
}

fn ending(ehlo: &'static str) -> Vec<Act> {
    vec![Say(ehlo), Hear("QUIT"), Close]
}

/// Begins and ends a session.
fn session(target: Target, options: ClientOptions) -> Result<Option<TlsFacts>, Failed> {
    on_a_shard(async move |executor| {
        let client = Client::connect(&executor, &Sockets, &options, &target).await?;
        let facts = client.tls_facts();
        client.quit().await;
        Ok(facts)
    })
}

/// How the host was verified, or why not.
fn verify(host: &Host, tls: TlsUse, trust: &Arc<Trust>) -> Result<Verified, TlsFailure> {
    let results = [&TLS12, &TLS13].map(|version| {
        let (config, names) = host.config(version);
        let script = match tls {
            TlsUse::Implicit(_) => {
                let secured = greeted("250 mx.test\r\n", vec![Hear("QUIT"), Close]);
                [vec![Tls(config)], secured].concat()
            }
            _ => over_tls(config, ending("250 mx.test\r\n")),
        };
        let peer = peer(script);
        let target = Target { tls: tls.clone(), ..target(peer.address) };
        let result = session(target, ClientOptions { trust: trust.clone(), ..options() });
        peer.thread.join().unwrap();
        assert_eq!(*names.lock().unwrap(), [Some("mx.test".to_owned())]);
        let expected = if *version == TLS12 { "TLSv1.2" } else { "TLSv1.3" };
        let verified = result.map(|facts| {
            let facts = facts.unwrap();
            assert_eq!(facts.version, expected);
            facts.verified
        });
        verified.map_err(|failed| {
            assert_eq!((failed.stage, failed.reply.is_some()), (Stage::Tls, false));
            failed.tls.unwrap()
        })
    });
    let [older, newer] = results;
    assert_eq!(older, newer);
    newer
}

fn record(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> Tlsa {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate).unwrap();
    let key = parsed.subject_public_key_info();
    let selected: &[u8] = if selector == 0 { certificate } else { &key };
    let data = match matching {
        0 => selected.into(),
        1 => digest(&SHA256, selected).as_ref().into(),
        _ => digest(&SHA512, selected).as_ref().into(),
    };
    Tlsa { usage, selector, matching, data }
}

#[test]
fn certificates_are_verified_by_name() {
    let issued = Issued::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &issued.authority_pem).unwrap();
    let (trust, problems) = Trust::load(file.path());
    assert!(problems.is_empty() && !trust.is_empty(), "{problems:?}");
    let trust = Arc::new(trust);
    let names = |names: &[&str]| Verification::Names(names.iter().map(|it| (*it).into()).collect());
    let by = |host: &Host, verification| verify(host, TlsUse::Required(verification), &trust);

    let good = issued.host(false);
    let verified = Ok(Verified::Name("mx.test".into()));
    assert_eq!(by(&good, names(&["mx.test"])), verified);
    assert_eq!(by(&good, names(&["a.test", "bad name", "mx.test"])), verified);
    assert_eq!(verify(&good, TlsUse::Implicit(names(&["mx.test"])), &trust), verified);
    assert_eq!(by(&good, names(&["other.test"])), Err(TlsFailure::HostMismatch));
    assert_eq!(by(&good, names(&[])), Err(TlsFailure::HostMismatch));
    assert_eq!(by(&issued.host(true), names(&["mx.test"])), Err(TlsFailure::Expired));
    assert_eq!(by(&Issued::new().host(false), names(&["mx.test"])), Err(TlsFailure::NotTrusted));
    // Someone else's certificate.
    assert_eq!(by(&good.impostor(), names(&["mx.test"])), Err(TlsFailure::Certificate));
    let nobody = Arc::new(Trust::nobody());
    let required = TlsUse::Required(names(&["mx.test"]));
    assert_eq!(verify(&good, required, &nobody), Err(TlsFailure::NotTrusted));

    // Opportunistic: anything will do.
    for host in [&good, &Host::shabby(), &good.impostor()] {
        let tried = verify(host, TlsUse::Opportunistic, &nobody);
        assert_eq!(tried, Ok(Verified::NotAsked));
    }
}

#[test]
fn certificates_are_verified_by_tlsa_records() {
    let issued = Issued::new();
    let (good, shabby) = (issued.host(false), Host::shabby());
    let nobody = Arc::new(Trust::nobody());
    let by_name = |host: &Host, tlsa: &[Tlsa], name: &str| {
        let dane = Verification::Dane { tlsa: tlsa.into(), names: vec![name.into()] };
        verify(host, TlsUse::Required(dane), &nobody)
    };
    let by = |host: &Host, tlsa: &[Tlsa]| by_name(host, tlsa, "mx.test");
    let one = std::slice::from_ref;
    let unmatched = Err(TlsFailure::NoMatchingRecord);
    let (own, authority) = (&shabby.chain[0], &issued.authority);

    // RFC 7672 3.1.1: neither the name nor the date counts.
    for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let right = record(3, selector, matching, own);
        let wrong = record(3, selector, matching, &good.chain[0]);
        assert_eq!(by(&shabby, one(&right)), Ok(Verified::DaneEe));
        assert_eq!(by(&shabby, one(&wrong)), unmatched);
        assert_eq!(by(&shabby, &[wrong, right]), Ok(Verified::DaneEe));
    }
    assert_eq!(by(&shabby.impostor(), &[record(3, 1, 1, own)]), Err(TlsFailure::Certificate));

    // RFC 7672 3.1.2: an authority's record; name and date count.
    let verified = Ok(Verified::DaneTa("mx.test".into()));
    for (selector, matching) in [(0, 0), (0, 1), (1, 1), (1, 2)] {
        let right = record(2, selector, matching, authority);
        let wrong = record(2, selector, matching, &Issued::new().authority);
        assert_eq!(by(&good, one(&right)), verified);
        assert_eq!(by(&good, one(&wrong)), unmatched);
        let mismatch = Err(TlsFailure::HostMismatch);
        assert_eq!(by_name(&good, one(&right), "other.test"), mismatch);
        assert_eq!(by(&issued.host(true), &[right]), Err(TlsFailure::Expired));
    }
    // RFC 7671 5.2.2: an authority that is not in the chain, but whole in the record.
    assert_eq!(by(&good.alone(), &[record(2, 0, 0, authority)]), verified);
    assert_eq!(by(&good.alone(), &[record(2, 1, 1, authority)]), unmatched);
    // A host's own certificate is no authority, and an authority's is not the host's.
    assert_eq!(by(&good, &[record(2, 1, 1, &good.chain[0])]), unmatched);
    assert_eq!(by(&good, &[record(3, 1, 1, authority)]), unmatched);

    // RFC 7671 9: only the strongest digest counts.
    let weak = record(3, 1, 1, own);
    assert_eq!(by(&shabby, &[weak.clone(), record(3, 1, 2, authority)]), unmatched);
    assert_eq!(by(&shabby, &[weak, record(3, 0, 2, authority)]), Ok(Verified::DaneEe));

    // RFC 7672 2.2 and 3.1.3: with no usable record TLS is all that is asked for.
    let short = Tlsa { data: [1, 2, 3].into(), ..record(3, 1, 1, authority) };
    let unusable = [
        record(0, 1, 1, authority),
        record(1, 1, 1, authority),
        record(4, 1, 1, authority),
        Tlsa { selector: 2, ..record(3, 1, 1, authority) },
        Tlsa { matching: 3, ..record(3, 1, 1, authority) },
        Tlsa { data: [].into(), ..record(3, 1, 0, authority) },
        short,
    ];
    assert_eq!(by(&shabby, &unusable), Ok(Verified::NoUsableRecord));
    assert_eq!(by(&shabby, &[&unusable[..], &[record(3, 1, 1, authority)]].concat()), unmatched);
}

#[test]
fn tls_is_used_as_far_as_the_route_wants_it() {
    let required = TlsUse::Required(Verification::None);
    let (config, _) = Host::shabby().config(&TLS13);
    let offered = "250-mx.test\r\n250 STARTTLS\r\n";
    let plain = || vec![Hear("QUIT"), Close];
    let refusing = || [vec![Hear("STARTTLS"), Say("454 later\r\n")], plain()].concat();
    let injecting = |text| greeted(offered, vec![Hear("STARTTLS"), Say(text), Hang]);
    let injected =
        Err((Stage::StartTls, "the peer sent octets between its reply to STARTTLS and TLS"));
    let cases: Vec<(TlsUse, Vec<Act>, Result<bool, (Stage, &str)>)> = vec![
        (TlsUse::Opportunistic, over_tls(config.clone(), ending("250 x\r\n")), Ok(true)),
        (TlsUse::Never, greeted(offered, plain()), Ok(false)),
        (TlsUse::Opportunistic, greeted("250 mx.test\r\n", plain()), Ok(false)),
        (TlsUse::Opportunistic, greeted(offered, refusing()), Ok(false)),
        (required.clone(), greeted(offered, refusing()), Err((Stage::StartTls, "454 later"))),
        (
            required.clone(),
            greeted("250 mx.test\r\n", plain()),
            Err((Stage::StartTls, "the peer does not offer TLS")),
        ),
        // RFC 3207 6: whatever was put in before TLS must not be taken for the peer's words.
        (TlsUse::Opportunistic, injecting("220 go\r\n250 injected\r\n"), injected),
        (required, injecting("220 go\r\n2"), injected),
    ];
    for (at, (tls, script, expected)) in cases.into_iter().enumerate() {
        let peer = peer(script);
        let result = session(Target { tls, ..target(peer.address) }, options());
        peer.thread.join().unwrap();
        let result = result.map(|facts| facts.is_some());
        let result = result.map_err(|failed| (failed.stage, failed.what));
        assert_eq!(result, expected.map_err(|(stage, what)| (stage, what.into())), "{at}");
    }
    // No TLS at all where it was promised.
    let nonsense = vec![Hear("STARTTLS"), Say("220 go\r\n"), Trickle("nonsense"), Hang];
    let peer = peer(greeted(offered, nonsense));
    let failed = session(target(peer.address), options()).unwrap_err();
    peer.thread.join().unwrap();
    assert_eq!((failed.stage, failed.tls), (Stage::Tls, Some(TlsFailure::Handshake)));
}

#[test]
fn a_message_travels_under_tls() {
    let (config, _) = Host::shabby().config(&TLS13);
    let text: String = format!("{}\r\n", "x".repeat(2000)).repeat(250);
    let script = over_tls(
        config,
        vec![
            Say("250-mx.test\r\n250 PIPELINING\r\n"),
            Hear("MAIL FROM:<a@x>"),
            Hear("RCPT TO:<b@y>"),
            Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
            Hear("DATA"),
            Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
            HearMessage(format!("{text}.\r\n")),
            Say("250 queued\r\n"),
            Hear("QUIT"),
            Close,
        ],
    );
    let peer = peer(script);
    let target = target(peer.address);
    let results = on_a_shard(async move |executor| {
        let mut client = Client::connect(&executor, &Sockets, &options(), &target).await.unwrap();
        let pieces = text.as_bytes().chunks(77_777).map(<[u8]>::to_vec).collect();
        let results = send(&mut client, Pieces(pieces, 0)).await;
        client.quit().await;
        results
    });
    peer.thread.join().unwrap();
    assert_eq!(results, ["accepted 250 queued"; 2]);
}

#[test]
fn passwords_are_sent_as_the_peer_wants_them_and_only_under_tls() {
    let (config, _) = Host::shabby().config(&TLS13);
    let login = || {
        vec![
            Say("250-mx.test\r\n250 AUTH LOGIN\r\n"),
            Hear("AUTH LOGIN"),
            Say("334 VXNlcm5hbWU6\r\n"),
            Hear("bWU="),
            Say("334 UGFzc3dvcmQ6\r\n"),
            Hear("c2VjcmV0"),
        ]
    };
    let plain = |ehlo| vec![Say(ehlo), Hear("AUTH PLAIN AG1lAHNlY3JldA==")];
    let offers = "250-mx.test\r\n250 AUTH LOGIN PLAIN\r\n";
    let quit = || vec![Hear("QUIT"), Close];
    let accepted = || [vec![Say("235 welcome\r\n")], quit()].concat();
    let refused = || [vec![Say("535 5.7.8 who are you\r\n")], quit()].concat();
    let under_tls = |after: Vec<Vec<Act>>| over_tls(config.clone(), after.concat());
    let no_mechanism = "the peer offers neither AUTH PLAIN nor LOGIN";
    let opportunistic = TlsUse::Opportunistic;
    let cases: Vec<(&TlsUse, Vec<Act>, Result<(), &str>)> = vec![
        (&opportunistic, under_tls(vec![plain(offers), accepted()]), Ok(())),
        (&opportunistic, under_tls(vec![login(), accepted()]), Ok(())),
        (&opportunistic, under_tls(vec![login(), refused()]), Err("535 5.7.8 who are you")),
        (&opportunistic, under_tls(vec![plain(offers), vec![Say("334 \r\n"), Hang]]), Err("334")),
        (
            &opportunistic,
            under_tls(vec![ending("250-mx.test\r\n250 AUTH GSSAPI\r\n")]),
            Err(no_mechanism),
        ),
        (&opportunistic, greeted(offers, quit()), Err("a password is not sent without TLS")),
        // The operator has said so.
        (
            &TlsUse::Never,
            greeted(offers, [vec![Hear("AUTH PLAIN AG1lAHNlY3JldA==")], accepted()].concat()),
            Ok(()),
        ),
    ];
    for (at, (tls, script, expected)) in cases.into_iter().enumerate() {
        let peer = peer(script);
        let credentials = Some(Credentials { user: "me".into(), password: "secret".into() });
        let target = Target { tls: tls.clone(), credentials, ..target(peer.address) };
        let result = session(target, options());
        peer.thread.join().unwrap();
        let result = result.map(drop).map_err(|failed| (failed.stage, failed.what));
        assert_eq!(result, expected.map_err(|what| (Stage::Auth, what.to_owned())), "{at}");
    }
}

/// Connections over memory.
struct Pipes(RefCell<Option<Connection>>);

impl Dialer for Pipes {
    fn dial(
        &self,
        _: SocketAddr,
        _: Option<IpAddr>,
        _: Duration,
    ) -> LocalFuture<'_, Result<Connection, ConnectionError>> {
        Box::pin(async { self.0.take().ok_or(ConnectionError::Closed) })
    }
}

/// How long a client waits, in virtual time, for a peer that has sent `said` and is silent then.
fn patience(said: &'static str) -> (Duration, Vec<String>) {
    let simulation = Simulation::new(1);
    let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
    ShardResources::install(ResourceLimits::default(), &executor);
    let (connection, peer) = Connection::memory();
    let pipes = Pipes(RefCell::new(Some(connection)));
    simulation.run_until(async move {
        peer.send(b"220 mx.test\r\n");
        let target = target((Ipv4Addr::LOCALHOST, 25).into());
        let options = ClientOptions::default();
        let connecting = Client::connect(&executor, &pipes, &options, &target);
        let answering = async {
            peer.receive().await;
            peer.send(b"250-mx.test\r\n250 PIPELINING\r\n");
        };
        let (client, ()) = futures_lite::future::zip(connecting, answering).await;
        let mut client = client.unwrap();
        let begun = executor.moment();
        let answering = async {
            for said in said.split('|') {
                peer.receive().await;
                peer.send(said.as_bytes());
            }
        };
        let (results, ()) =
            futures_lite::future::zip(send(&mut client, message()), answering).await;
        (executor.moment().since(begun), results)
    })
}

/// RFC 5321 4.5.3.2.
#[test]
fn each_stage_has_its_time_out() {
    let cases = [
        ("", 5, "lost mail: timed out"),
        ("250 ok\r\n250", 5, "lost rcpt: timed out"),
        ("250 ok\r\n250 ok\r\n250 ok\r\n", 2, "lost data: timed out"),
        ("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n|250-", 10, "lost end after dot: timed out"),
    ];
    for (said, minutes, expected) in cases {
        let (waited, results) = patience(said);
        assert_eq!(results, [expected, expected, "unusable"]);
        let least = Duration::from_secs(60 * minutes);
        assert!((least..least + Duration::from_secs(5)).contains(&waited), "{waited:?}");
    }
}

/// RFC 9422 4.2.
#[test]
fn a_session_ends_after_the_messages_that_the_peer_takes() {
    let transaction = vec![
        Hear("MAIL FROM:<a@x>"),
        Hear("RCPT TO:<b@y>"),
        Hear("RCPT TO:<c@y> NOTIFY=NEVER"),
        Hear("DATA"),
        Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        HearMessage(MESSAGE_SENT.into()),
        Say("250 queued\r\n"),
        Hear("QUIT"),
        Close,
    ];
    let one = "250-mx.test\r\n250-LIMITS MAILMAX=1\r\n250 PIPELINING\r\n";
    check(greeted(one, transaction), &["accepted 250 queued", "accepted 250 queued", "unusable"]);
}

/// A handshake and one line from the server, with octets of its stream changed. True if the line
/// arrived.
fn changed_handshake(
    tls: &ClientTls,
    config: &Arc<ServerConfig>,
    changes: &[(usize, u8)],
    piece: usize,
) -> bool {
    let (mut connection, peer) = Connection::memory();
    let mut server = ServerConnection::new(config.clone()).unwrap();
    server.writer().write_all(b"220 secure\r\n").unwrap();
    let (mut at, mut turns_left) = (0, 1_usize);
    let mut exchange = || {
        let received = peer.take_output();
        let mut received = &received[..];
        while !received.is_empty() && server.read_tls(&mut received).is_ok() {
            let _ = server.process_new_packets();
        }
        let mut stream = Vec::new();
        while server.wants_write() && server.write_tls(&mut stream).is_ok() {}
        for (change, by) in changes {
            if let Some(octet) = change.checked_sub(at).and_then(|at| stream.get_mut(at)) {
                *octet ^= by;
            }
        }
        at += stream.len();
        // The connection lets others run now and then; it waits for more only once it has read all.
        turns_left = turns_left.saturating_sub(1) + stream.len().div_ceil(piece);
        match turns_left {
            0 => peer.close(),
            _ => stream.chunks(piece).for_each(|piece| peer.send(piece)),
        }
    };
    let second = Duration::from_secs(1);
    let mut wait = |connection: &mut Connection, begins: bool| {
        let mut waiting: LocalFuture<'_, Result<(), ConnectionError>> = match begins {
            true => Box::pin(connection.start_tls_as_client(tls, second)),
            false => Box::pin(connection.fill(second)),
        };
        loop {
            match block_on(poll_once(&mut waiting)) {
                Some(result) => return result.is_ok(),
                None => exchange(),
            }
        }
    };
    let mut good = wait(&mut connection, true);
    while good && !connection.input().ends_with(b"\r\n") {
        good = wait(&mut connection, false);
    }
    assert!(!good || connection.input() == b"220 secure\r\n");
    good
}

#[test]
fn a_changed_handshake_ends_the_connection() {
    let host = Host::shabby();
    let tls = |verification| ClientTls {
        server_name: "mx.test".into(),
        verification,
        trust: Arc::new(Trust::nobody()),
    };
    let tlsa = [record(3, 1, 1, &host.chain[0])].into();
    let checks = [Verification::None, Verification::Dane { tlsa, names: vec![] }].map(tls);
    let (mut arrived, mut refused) = (0, 0);
    for version in [&TLS12, &TLS13] {
        let (config, _) = host.config(version);
        for tls in &checks {
            for piece in [1, 2, 7, 5000] {
                assert!(changed_handshake(tls, &config, &[], piece));
            }
            for at in 0..1200 {
                let change = [(at, 1 << (at % 8)), (at + at % 5 * 100, 0x10)];
                match changed_handshake(tls, &config, &change[..1 + at % 2], 1 + at * 7 % 400) {
                    true => arrived += 1,
                    false => refused += 1,
                }
            }
        }
    }
    // Behind the end of the stream, or in a certificate that nobody looks at in TLS 1.2.
    assert!(refused > 1000 && arrived > 100, "{refused} refused, {arrived} arrived");
}
