//! The outgoing client against scripted peers, over real sockets of the loopback network: a thread
//! says what the script says and checks what it is sent.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ringmail::{
    protocol::smtp::client::{Envelope, RcptLine, RcptResult, Stage},
    runtime::{
        LocalFuture,
        connect::Sockets,
        executor::Executor,
        shard::{self, ShardContext, ShardOptions},
    },
    service::relay::client::{Client, ClientOptions, Content, Failed, Target},
};

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
    /// Closes, with unread octets: a reset.
    Close,
    /// Does nothing until the client closes.
    Hang,
}

use Act::{Close, Hang, Hear, HearMessage, Say, Skip, Trickle};

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
    Target { address, source: None, host: "mx.test".into(), hello: "me.test".into(), lmtp: false }
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
        Say("250 b has it\r\n452 4.2.2 c is full\r\n"),
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
        limits: ringmail::runtime::resources::ResourceLimits {
            connections_max: 1,
            ..Default::default()
        },
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
