//! A running `ringmail demo` of two shards, for transcripts over sockets: the real binary, real
//! ports on loopback, plain and TLS.
#![allow(dead_code)] // each test program uses its part

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{Domain, Socket, Type};

use crate::transcript::{Peer, World};

/// Standard ports, for [`DemoServer::start`].
pub const SMTP: u16 = 25;
pub const LMTP: u16 = 24;
pub const SUBMISSION: u16 = 587;
pub const POP3: u16 = 110;
pub const IMAP: u16 = 143;
pub const ADMIN: u16 = 80;

/// Ports of one demo: standard ports up to 995 above its base.
const PORTS_EACH: u16 = 1000;

/// Bases to try: below the range of ports that the system uses for outgoing connections.
const BASES: std::ops::Range<u16> = 10..30;

/// Nothing here takes longer unless it hangs.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The process ends when this is dropped.
pub struct DemoServer {
    child: Child,
    port_base: u16,
    /// The standard port for `connect`.
    port: u16,
    _directory: tempfile::TempDir,
}

impl DemoServer {
    /// Starts one on free ports; connections go to standard port `port`.
    pub fn start(port: u16) -> DemoServer {
        DemoServer::start_with(port, &[])
    }

    /// The same, with `--set` for each of `settings`.
    pub fn start_with(port: u16, settings: &[&str]) -> DemoServer {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let count = BASES.end - BASES.start;
        let process = (std::process::id() % u32::from(count)) as u16;
        for _ in 0..count {
            let turn = process.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let port_base = (BASES.start + turn % count) * PORTS_EACH;
            if let Some(server) = DemoServer::try_start(port_base, port, settings) {
                return server;
            }
        }
        panic!("no demo became ready on any ports");
    }

    fn try_start(port_base: u16, port: u16, settings: &[&str]) -> Option<DemoServer> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringmail"))
            .args(["demo", "--shards", "2", "--port-base", &port_base.to_string(), "--dir"])
            .arg(directory.path().join("demo"))
            .args(settings.iter().flat_map(|setting| ["--set", *setting]))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ringmail demo");
        let output = child.stdout.take().expect("piped");
        let ready = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "ringmail: ready");
        let server = DemoServer { child, port_base, port, _directory: directory };
        ready.then_some(server)
    }

    fn dial(&self, port: u16) -> TcpStream {
        self.dial_from(Ipv4Addr::LOCALHOST, port)
    }

    /// A connection from another address of loopback.
    pub fn dial_from(&self, source: Ipv4Addr, port: u16) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("bound");
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port_base + port));
        socket.connect(&server.into()).expect("connected to the demo");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        stream.set_write_timeout(Some(TIMEOUT)).expect("timeout");
        stream
    }

    /// The event log so far.
    pub fn events(&self) -> String {
        let path = self._directory.path().join("demo/events.log");
        std::fs::read_to_string(path).expect("the event log")
    }

    /// What `ringmail` says with these arguments and the demo's directory.
    pub fn ask(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments).stdout).expect("UTF-8")
    }

    /// The same with its notes and its exit code.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ringmail"))
            .args(arguments)
            .arg("--dir")
            .arg(self.directory())
            .output()
            .expect("ringmail")
    }

    /// The data directory.
    pub fn directory(&self) -> PathBuf {
        self._directory.path().join("demo")
    }

    /// The page of the admin port.
    pub fn metrics(&self) -> String {
        let mut stream = self.dial(ADMIN);
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        page
    }

    /// A connection to standard port `port` on which the reply to `say` contained `answer`.
    pub fn converse(&self, port: u16, say: &str, answer: &str) -> TcpStream {
        let mut stream = self.dial(port);
        stream.write_all(say.as_bytes()).expect("sent");
        let mut heard = Vec::new();
        let mut bytes = [0; 4096];
        while !String::from_utf8_lossy(&heard).contains(answer) {
            let count = stream.read(&mut bytes).expect("octets");
            assert!(count > 0, "{say:?} was answered {:?}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&bytes[..count]);
        }
        stream
    }

    /// Delivers by LMTP; header lines are added before `message`.
    pub fn deliver(&self, address: &str, message: &str) {
        let mut stream = BufReader::new(self.dial(LMTP));
        let mut say = |text: &str, code: &str| {
            stream.get_mut().write_all(text.as_bytes()).expect("sent");
            let mut line = String::new();
            while !line.starts_with(&format!("{code} ")) {
                line.clear();
                assert!(stream.read_line(&mut line).expect("read") > 0, "closed after {text:?}");
                assert!(line.starts_with(code), "{text:?} was answered {line:?}");
            }
        };
        let stuffed = message.replace("\r\n.", "\r\n..");
        say("", "220");
        say("LHLO test.example\r\n", "250");
        say("MAIL FROM:<sender@test.example>\r\n", "250");
        say(&format!("RCPT TO:<{address}>\r\n"), "250");
        say("DATA\r\n", "354");
        say(
            &format!("{stuffed}{}.\r\n", if stuffed.ends_with("\r\n") { "" } else { "\r\n" }),
            "250",
        );
        say("QUIT\r\n", "221");
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl World for DemoServer {
    fn connect(&mut self, _name: &str) -> Box<dyn Peer> {
        Box::new(SocketPeer { stream: Stream::Plain(self.dial(self.port)) })
    }

    fn wait(&mut self, seconds: u64) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// A client's connection.
struct SocketPeer {
    stream: Stream,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Peer for SocketPeer {
    fn send(&mut self, bytes: &[u8]) {
        // If the server has closed, `receive` notices it.
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
    }

    fn settle(&mut self) {}

    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        let count = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut bytes),
            Stream::Tls(stream) => stream.read(&mut bytes),
        };
        bytes.truncate(count.expect("octets or the end"));
        bytes
    }

    fn start_tls(&mut self) {
        let Stream::Plain(stream) = &self.stream else { panic!("TLS twice") };
        let stream = stream.try_clone().expect("second handle");
        self.stream = Stream::Tls(Box::new(begin_tls(stream, b"")));
    }
}

/// A client's TLS on `stream`; `prelude` is sent in the clear, together with its first message.
pub fn begin_tls(
    mut stream: TcpStream,
    prelude: &[u8],
) -> StreamOwned<ClientConnection, TcpStream> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("client");
    let mut first = prelude.to_vec();
    connection.write_tls(&mut first).expect("written to memory");
    stream.write_all(&first).expect("sent");
    StreamOwned::new(connection, stream)
}

/// The demo makes a new self-signed certificate in each directory.
#[derive(Debug)]
struct AnyCertificate;

impl AnyCertificate {
    fn provider() -> CryptoProvider {
        ring::default_provider()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = AnyCertificate::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = AnyCertificate::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        AnyCertificate::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Reads until `answer` was heard; what was heard.
pub fn hear(stream: &mut impl Read, answer: &str) -> String {
    let mut heard = String::new();
    let mut bytes = [0; 4096];
    while !heard.contains(answer) {
        let count = stream.read(&mut bytes).expect("octets");
        assert!(count > 0, "heard only {heard:?}, not {answer:?}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    heard
}

/// Says `words`, octet for octet; what was heard up to `answer`.
pub fn say(stream: &mut (impl Read + Write), words: &str, answer: &str) -> String {
    stream.write_all(words.as_bytes()).expect("sent");
    hear(stream, answer)
}
