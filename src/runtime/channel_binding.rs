//! What a TLS connection is bound to (RFC 5056), so that a log-in on it cannot be carried over from
//! another connection: keying material (RFC 9266) and the hash of our certificate (RFC 5929 4).
//!
//! rustls has no exporter on its unbuffered connections. But it gives the secret that keying
//! material is derived from to a key log, so each connection has a log of its own, which takes that
//! secret and no other. TLS 1.2 has none: without an extended master secret its exporter is not
//! safe (RFC 9266 4), and rustls does not tell whether there was one.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use ring::{digest, hkdf};
use rustls::{KeyLog, ServerConfig};
use rustls_pki_types::CertificateDer;
use x509_cert::der::{Decode, oid::ObjectIdentifier};

/// A type of channel binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelBinding {
    Exporter,
    EndPoint,
}

/// RFC 9266 2.
const LABEL: &str = "EXPORTER-Channel-Binding";
const SIZE: usize = 32;

/// The label of `SSLKEYLOGFILE`.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

/// What one connection is bound to.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    exporter: Arc<ExporterSecret>,
    end_point: Option<Arc<[u8]>>,
}

/// The exporter secret, once the handshake has it.
#[derive(Default)]
struct ExporterSecret(OnceLock<Box<[u8]>>);

impl fmt::Debug for ExporterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExporterSecret").finish_non_exhaustive()
    }
}

impl KeyLog for ExporterSecret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == EXPORTER_SECRET {
            let _ = self.0.set(secret.into());
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }
}

impl Bound {
    /// For a connection that begins; it must use the configuration that comes with it.
    pub(super) fn of(
        config: &ServerConfig,
        end_point: Option<Arc<[u8]>>,
    ) -> (Bound, Arc<ServerConfig>) {
        let exporter = Arc::<ExporterSecret>::default();
        let mut config = config.clone();
        config.key_log = exporter.clone();
        (Bound { exporter, end_point }, Arc::new(config))
    }

    /// After the handshake.
    pub(super) fn to(&self, what: ChannelBinding) -> Option<Vec<u8>> {
        match what {
            ChannelBinding::Exporter => exported(self.exporter.0.get()?),
            ChannelBinding::EndPoint => self.end_point.as_deref().map(<[u8]>::to_vec),
        }
    }

    /// Whether it is bound to anything.
    pub(super) fn is_bound(&self) -> bool {
        self.exporter.0.get().is_some() || self.end_point.is_some()
    }
}

/// RFC 8446 7.5 with an empty context: the exporter of TLS 1.3.
fn exported(secret: &[u8]) -> Option<Vec<u8>> {
    let (kdf, hash) = match secret.len() {
        32 => (hkdf::HKDF_SHA256, &digest::SHA256),
        48 => (hkdf::HKDF_SHA384, &digest::SHA384),
        _ => return None,
    };
    let empty = digest::digest(hash, b"");
    let derived = expand_label(kdf, secret, LABEL, empty.as_ref(), hash.output_len())?;
    expand_label(kdf, &derived, "exporter", empty.as_ref(), SIZE)
}

/// `HKDF-Expand-Label` of RFC 8446 7.1.
fn expand_label(
    kdf: hkdf::Algorithm,
    secret: &[u8],
    label: &str,
    context: &[u8],
    size: usize,
) -> Option<Vec<u8>> {
    struct Size(usize);
    impl hkdf::KeyType for Size {
        fn len(&self) -> usize {
            self.0
        }
    }
    let label = format!("tls13 {label}");
    let mut info = u16::try_from(size).ok()?.to_be_bytes().to_vec();
    for field in [label.as_bytes(), context] {
        info.push(u8::try_from(field.len()).ok()?);
        info.extend_from_slice(field);
    }
    let mut out = vec![0; size];
    let info = [&info[..]];
    let expanded = hkdf::Prk::new_less_safe(kdf, secret);
    expanded.expand(&info, Size(size)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

/// RFC 5929 4.1: the hash of the certificate, by the hash of its signature; with MD5 and SHA-1 by
/// SHA-256. `None` for signatures without a hash, or with one of their own choice.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> Option<Arc<[u8]>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let hash = hash_of(&parsed.signature_algorithm.oid)?;
    Some(digest::digest(hash, certificate).as_ref().into())
}

fn hash_of(signature: &ObjectIdentifier) -> Option<&'static digest::Algorithm> {
    const SHA_256: &[&str] = &[
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4",
        "1.2.840.113549.1.1.5",
        "1.2.840.113549.1.1.11",
        "1.2.840.10045.4.1",
        "1.2.840.10045.4.3.2",
    ];
    const SHA_384: &[&str] = &["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const SHA_512: &[&str] = &["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
    let signature = signature.to_string();
    [(SHA_256, &digest::SHA256), (SHA_384, &digest::SHA384), (SHA_512, &digest::SHA512)]
        .into_iter()
        .find_map(|(names, hash)| names.contains(&&*signature).then_some(hash))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            connection::{Connection, TlsMode},
            tls::{SelfSigned, TlsContext},
        },
        *,
    };

    #[test]
    fn both_ends_export_the_same() {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let made = SelfSigned::generate(&["localhost"]).expect("made");
            let certificate = made.certificate().expect("certificate");
            let leaf = certificate.leaf().expect("a leaf").clone();
            let context = TlsContext::new(certificate).expect("context");
            let (bound, config) = context.begin();
            let mut server = rustls::ServerConnection::new(config).expect("server");
            let mut roots = rustls::RootCertStore::empty();
            roots.add(leaf.clone()).expect("a root");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let client = rustls::ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = "localhost".try_into().expect("a name");
            let mut client = rustls::ClientConnection::new(Arc::new(client), name).expect("client");
            while client.is_handshaking() || server.is_handshaking() {
                let mut wire = Vec::new();
                client.write_tls(&mut wire).expect("written");
                server.read_tls(&mut &wire[..]).expect("read");
                server.process_new_packets().expect("processed");
                wire.clear();
                server.write_tls(&mut wire).expect("written");
                client.read_tls(&mut &wire[..]).expect("read");
                client.process_new_packets().expect("processed");
            }
            let theirs = client.export_keying_material([0; SIZE], LABEL.as_bytes(), Some(b""));
            let theirs = (version == &rustls::version::TLS13).then(|| theirs.expect("exported"));
            let ours = bound.to(ChannelBinding::Exporter);
            assert_eq!(ours, theirs.map(|it| it.to_vec()), "{version:?}");
            // rcgen signs with ECDSA and SHA-256.
            let hash = digest::digest(&digest::SHA256, &leaf);
            assert_eq!(bound.to(ChannelBinding::EndPoint).as_deref(), Some(hash.as_ref()));
            assert!(bound.is_bound());
        }
    }

    #[test]
    fn cleartext_is_bound_to_nothing() {
        let (connection, _peer) = Connection::memory();
        assert!(!connection.is_bound());
        assert_eq!(connection.bound_to(ChannelBinding::Exporter), None);
        let made = SelfSigned::generate(&["localhost"]).expect("made");
        let context = TlsContext::new(made.certificate().expect("made")).expect("context");
        let (connection, _peer) =
            Connection::memory_tls(&TlsMode::Implicit(context)).expect("connection");
        assert_eq!(connection.bound_to(ChannelBinding::Exporter), None, "before the handshake");
    }
}
