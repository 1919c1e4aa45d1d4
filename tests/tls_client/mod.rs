//! A TLS client that does what no TLS library would: it does a correct handshake through rustls,
//! and then sends any records it is told to, sealed with the right keys, of any type and length,
//! joined and cut as the test requires. For `tests/tls_records.rs` and the fuzz target `tls`.

use std::{
    io::Read,
    sync::{Arc, Mutex},
};

use ringmail::runtime::{
    connection::TlsMode,
    pipe::MemoryPeer,
    tls::{SelfSigned, TlsContext},
};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, KeyLog,
    ProtocolVersion, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
    Tls13CipherSuite,
    crypto::{
        CryptoProvider,
        cipher::{AeadKey, Iv, MessageEncrypter, OutboundPlainMessage},
        ring,
        tls13::OkmBlock,
    },
};

/// A server's TLS and the configurations of clients of both versions that trust it.
pub struct Sides {
    pub context: Arc<TlsContext>,
    roots: Arc<RootCertStore>,
}

impl Sides {
    pub fn new() -> Sides {
        let made = SelfSigned::generate(&["localhost"]).unwrap();
        let mut roots = RootCertStore::empty();
        let pem = made.chain_pem.as_bytes();
        roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(pem).unwrap()).unwrap();
        let context = TlsContext::new(made.certificate().unwrap()).unwrap();
        Sides { context, roots: Arc::new(roots) }
    }

    pub fn implicit(&self) -> TlsMode {
        TlsMode::Implicit(self.context.clone())
    }

    pub fn client(&self, version: &'static SupportedProtocolVersion) -> RecordClient {
        let secrets = Arc::new(Secrets::default());
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        config.key_log = secrets.clone();
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        RecordClient { tls: Some(tls), secrets, sealer: None }
    }
}

/// One suite per version, both with ChaCha20-Poly1305: their keys and nonces have the same form.
fn provider() -> CryptoProvider {
    let wanted = [
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| wanted.contains(&suite.suite()));
    provider
}

/// The traffic secrets of the client's side (TLS 1.3), as rustls logs them.
#[derive(Debug, Default)]
struct Secrets {
    handshake: Mutex<Option<Vec<u8>>>,
    traffic: Mutex<Option<Vec<u8>>>,
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let kept = match label {
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET" => &self.handshake,
            "CLIENT_TRAFFIC_SECRET_0" => &self.traffic,
            _ => return,
        };
        *kept.lock().unwrap() = Some(secret.to_vec());
    }
}

pub struct RecordClient {
    /// `None` once its keys were extracted.
    tls: Option<ClientConnection>,
    secrets: Arc<Secrets>,
    sealer: Option<Sealer>,
}

struct Sealer {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
    /// The secret behind the encrypter's keys; TLS 1.3 only.
    secret: Vec<u8>,
}

impl Sealer {
    /// RFC 8446 7.3: key and nonce of TLS 1.3 from a traffic secret.
    fn tls13(secret: &[u8]) -> Sealer {
        let (mut key, mut iv) = ([0; 32], [0; 12]);
        expand_label(secret, b"key", &mut key);
        expand_label(secret, b"iv", &mut iv);
        let encrypter = suite13().aead_alg.encrypter(AeadKey::from(key), Iv::new(iv));
        Sealer { encrypter, sequence: 0, secret: secret.to_vec() }
    }
}

fn suite13() -> &'static Tls13CipherSuite {
    let tls13 = |suite| match suite {
        SupportedCipherSuite::Tls13(suite) => Some(suite),
        SupportedCipherSuite::Tls12(_) => None,
    };
    provider().cipher_suites.into_iter().find_map(tls13).unwrap()
}

/// HKDF-Expand-Label with an empty context (RFC 8446 7.1).
fn expand_label(secret: &[u8], label: &[u8], out: &mut [u8]) {
    let expander = suite13().hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let lengths = [0, out.len() as u8, label.len() as u8 + 6];
    let info: [&[u8]; 4] = [&lengths, b"tls13 ", label, &[0]];
    expander.expand_slice(&info, out).unwrap();
}

impl RecordClient {
    /// Takes the server's output; returns what the client sends in reply (at first, its hello). TLS
    /// errors are ignored: the server had reason to end.
    pub fn exchange(&mut self, peer: &MemoryPeer) -> Vec<u8> {
        let output = peer.take_output();
        let Some(tls) = &mut self.tls else { return Vec::new() };
        let mut rest = &output[..];
        while !rest.is_empty() && tls.read_tls(&mut rest).is_ok_and(|count| count > 0) {
            if tls.process_new_packets().is_err() {
                break;
            }
            let _ = tls.reader().read_to_end(&mut Vec::new());
        }
        let mut sent = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sent).unwrap();
        }
        sent
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// From here on records are sealed with the keys of the handshake (TLS 1.3, the server's flight
    /// received). False if there are none yet.
    pub fn take_handshake_keys(&mut self) -> bool {
        let secret = self.secrets.handshake.lock().unwrap().take();
        let Some(secret) = secret else { return false };
        self.sealer = Some(Sealer::tls13(&secret));
        true
    }

    /// From here on records are sealed with the keys of the finished handshake. False before that.
    pub fn take_traffic_keys(&mut self) -> bool {
        if self.is_handshaking() {
            return false;
        }
        let Some(tls) = self.tls.take() else { return self.sealer.is_some() };
        let suite = tls.negotiated_cipher_suite().unwrap();
        // It has none after an error.
        let Ok(extracted) = tls.dangerous_extract_secrets() else { return false };
        let (sequence, secrets) = extracted.tx;
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            panic!("only suites with ChaCha20-Poly1305 are offered");
        };
        let encrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => suite.aead_alg.encrypter(key, iv.as_ref(), &[]),
        };
        let secret = self.secrets.traffic.lock().unwrap().take().unwrap_or_default();
        self.sealer = Some(Sealer { encrypter, sequence, secret });
        true
    }

    /// TLS 1.3, with the traffic keys: a record that announces new keys, which are used from here
    /// on.
    pub fn key_update(&mut self) -> Vec<u8> {
        let record = self.record(22, &[24, 0, 0, 1, 0]);
        if let Some(sealer) = &mut self.sealer {
            let mut next = [0; 32];
            expand_label(&sealer.secret, b"traffic upd", &mut next);
            *sealer = Sealer::tls13(&next);
        }
        record
    }

    /// A record of `kind` with `payload`: sealed if keys were taken, otherwise plain.
    pub fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let Some(sealer) = &mut self.sealer else { return plain_record(kind, payload) };
        let message = OutboundPlainMessage {
            typ: ContentType::from(kind),
            version: ProtocolVersion::TLSv1_2,
            payload: payload.into(),
        };
        let sealed = sealer.encrypter.encrypt(message, sealer.sequence).unwrap();
        sealer.sequence += 1;
        sealed.encode()
    }
}

/// A record from before there are keys.
pub fn plain_record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    record.extend_from_slice(payload);
    record
}
