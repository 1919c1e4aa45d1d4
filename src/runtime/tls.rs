//! Certificates and the TLS configuration that all shards share.
//!
//! `TlsContext` is immutable except for one pointer: a reload swaps the whole `ServerConfig`, new
//! handshakes use the new one, running sessions keep theirs. One ticketer seals session tickets for
//! all shards and across reloads, so that a client may resume on any shard.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    channel_binding::{self, Bound},
    folder::read_file,
};

/// TLS 1.3 tickets sent after a full handshake: a reconnecting mail client uses one.
const TICKETS_SENT: usize = 1;

/// Errors of a certificate or key; each names the file. Causes are part of the text, so they are
/// not `source` too: anyhow would say them twice.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{}: cannot read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: not PEM: {reason}", path.display())]
    NotPem { path: PathBuf, reason: String },
    #[error("{}: no {wanted} in the file", path.display())]
    Missing { path: PathBuf, wanted: &'static str },
    #[error("{} with {}: {}", chain.display(), key.display(), unusable(error))]
    Unusable { chain: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(rcgen::Error),
    #[error("TLS: {0}")]
    Provider(rustls::Error),
}

impl CertificateError {
    /// The one file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            CertificateError::Unreadable { path, .. }
            | CertificateError::NotPem { path, .. }
            | CertificateError::Missing { path, .. } => Some(path),
            CertificateError::Unusable { .. }
            | CertificateError::SelfSigned(_)
            | CertificateError::Provider(_) => None,
        }
    }
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> CertificateError {
        CertificateError::SelfSigned(error)
    }
}

impl From<rustls::Error> for CertificateError {
    fn from(error: rustls::Error) -> CertificateError {
        CertificateError::Provider(error)
    }
}

fn unusable(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to the certificate".to_owned()
        }
        error => error.to_string(),
    }
}

/// A certificate chain and its private key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Clients are asked for certificates of these authorities; `None`: they are not asked.
    authorities: Option<Arc<RootCertStore>>,
    /// For error messages.
    chain_path: PathBuf,
    key_path: PathBuf,
}

impl Certificate {
    /// Reads a PEM chain (leaf first) and a PEM key (PKCS #8, PKCS #1 or SEC 1).
    pub fn load(chain_path: &Path, key_path: &Path) -> Result<Certificate, CertificateError> {
        let chain_pem = read(chain_path)?;
        let key_pem = read(key_path)?;
        Self::parse(&chain_pem, &key_pem, chain_path, key_path)
    }

    pub(super) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    fn parse(
        chain_pem: &[u8],
        key_pem: &[u8],
        chain_path: &Path,
        key_path: &Path,
    ) -> Result<Certificate, CertificateError> {
        use rustls_pki_types::pem::Error::NoItemsFound;

        let not_pem = |path: &Path, error: rustls_pki_types::pem::Error| CertificateError::NotPem {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| not_pem(chain_path, error))?;
        if chain.is_empty() {
            let path = chain_path.to_owned();
            return Err(CertificateError::Missing { path, wanted: "certificate" });
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
            NoItemsFound => {
                CertificateError::Missing { path: key_path.to_owned(), wanted: "private key" }
            }
            error => not_pem(key_path, error),
        })?;
        let (chain_path, key_path) = (chain_path.to_owned(), key_path.to_owned());
        Ok(Certificate { chain, key, authorities: None, chain_path, key_path })
    }

    /// Clients are asked for a certificate that one of the authorities in this file (PEM) has
    /// signed. They need not have one; with another one they are refused.
    pub fn asking(self, path: &Path) -> Result<Certificate, CertificateError> {
        let pem = read(path)?;
        let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| CertificateError::NotPem {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let mut authorities = RootCertStore::empty();
        if authorities.add_parsable_certificates(found).0 == 0 {
            let path = path.to_owned();
            return Err(CertificateError::Missing { path, wanted: "authority" });
        }
        Ok(Certificate { authorities: Some(Arc::new(authorities)), ..self })
    }
}

/// Octets of a certificate chain's file, or a key's.
const FILE_MAX: u64 = 4 << 20;

/// Never waits for a pipe.
fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    read_file(path, FILE_MAX)
        .map_err(|error| CertificateError::Unreadable { path: path.to_owned(), error })
}

/// A fresh self-signed certificate as PEM, for the caller to keep (`ringmail demo`).
pub struct SelfSigned {
    pub chain_pem: String,
    pub key_pem: String,
}

impl SelfSigned {
    /// `names` are DNS names or IP addresses. ECDSA P-256: the cheapest handshake.
    pub fn generate(names: &[&str]) -> Result<SelfSigned, CertificateError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(SelfSigned { chain_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() })
    }

    pub fn certificate(&self) -> Result<Certificate, CertificateError> {
        let path = Path::new("self-signed");
        Certificate::parse(self.chain_pem.as_bytes(), self.key_pem.as_bytes(), path, path)
    }
}

/// For handshakes that begin now.
struct Current {
    config: ServerConfig,
    /// What connections are bound to: a hash of the certificate.
    end_point: Option<Arc<[u8]>>,
}

/// The configurations of all listeners.
#[derive(Clone)]
pub struct TlsContexts {
    /// For other servers, which are asked for no certificate: many have one, of any authority.
    pub peers: Arc<TlsContext>,
    /// For mail programs.
    pub users: Arc<TlsContext>,
}

/// The files of TLS, read.
pub struct TlsCertificates {
    peers: Certificate,
    users: Certificate,
}

impl TlsCertificates {
    /// Reads certificate, key, and the authorities of clients' certificates, if they are asked for
    /// any.
    pub fn load(
        chain: &Path,
        key: &Path,
        authorities: Option<&Path>,
    ) -> Result<TlsCertificates, CertificateError> {
        let (peers, users) = (Certificate::load(chain, key)?, Certificate::load(chain, key)?);
        let users = match authorities {
            Some(path) => users.asking(path)?,
            None => users,
        };
        Ok(TlsCertificates { peers, users })
    }
}

impl TlsContexts {
    pub fn new(certificates: TlsCertificates) -> Result<TlsContexts, CertificateError> {
        let TlsCertificates { peers, users } = certificates;
        Ok(TlsContexts { peers: TlsContext::new(peers)?, users: TlsContext::new(users)? })
    }

    /// Uses `certificates` for handshakes from now on. On error the old ones stay.
    pub fn replace(&self, certificates: TlsCertificates) -> Result<(), CertificateError> {
        let TlsCertificates { peers, users } = certificates;
        self.users.replace(users)?;
        self.peers.replace(peers)
    }
}

/// The configuration for accepting TLS. Shared by all shards and listeners.
pub struct TlsContext {
    current: ArcSwap<Current>,
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl TlsContext {
    pub fn new(certificate: Certificate) -> Result<Arc<TlsContext>, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let ticketer = ring::Ticketer::new()?;
        let current = Current::of(certificate, &provider, &ticketer)?;
        let current = ArcSwap::from_pointee(current);
        Ok(Arc::new(TlsContext { current, provider, ticketer }))
    }

    /// Uses `certificate` for handshakes from now on. On error the old one stays.
    pub fn replace(&self, certificate: Certificate) -> Result<(), CertificateError> {
        // A ticket holds the client's certificate: those of authorities that are gone must not do.
        let ticketer = match &certificate.authorities {
            Some(_) => ring::Ticketer::new()?,
            None => self.ticketer.clone(),
        };
        let current = Current::of(certificate, &self.provider, &ticketer)?;
        self.current.store(Arc::new(current));
        Ok(())
    }

    /// The configuration for a new handshake, and what its connection will be bound to.
    pub(super) fn begin(&self) -> (Bound, Arc<ServerConfig>) {
        let current = self.current.load();
        Bound::of(&current.config, current.end_point.clone())
    }
}

impl Current {
    fn of(
        certificate: Certificate,
        provider: &Arc<CryptoProvider>,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Current, CertificateError> {
        let end_point = certificate.leaf().and_then(channel_binding::end_point);
        let config = server_config(certificate, provider, ticketer)?;
        Ok(Current { config, end_point })
    }
}

/// TLS 1.2 and 1.3, no ALPN, no early data (it can be replayed), no session
/// cache: tickets carry everything that resumption needs.
fn server_config(
    certificate: Certificate,
    provider: &Arc<CryptoProvider>,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, CertificateError> {
    let Certificate { chain, key, authorities, chain_path, key_path } = certificate;
    let verifier = match authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => {
            WebPkiClientVerifier::builder_with_provider(authorities, provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| CertificateError::Unusable { chain: chain_path, key: key_path, error })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ticketer.clone();
    config.send_tls13_tickets = TICKETS_SENT;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let made = SelfSigned::generate(&["mail.demo.test", "127.0.0.1"]).unwrap();
        let other = SelfSigned::generate(&["other.demo.test"]).unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let chain = file("chain.pem", &made.chain_pem);
        let key = file("key.pem", &made.key_pem);
        let other_key = file("other_key.pem", &other.key_pem);
        let empty = file("empty.pem", "");
        let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n");
        let absent = folder.path().join("absent.pem");

        assert!(TlsContext::new(Certificate::load(&chain, &key).unwrap()).is_ok());
        let cases: [(&Path, &Path, &[&str]); 6] = [
            (&absent, &key, &["absent.pem", "cannot read"]),
            (&chain, &absent, &["absent.pem", "cannot read"]),
            (&empty, &key, &["empty.pem", "no certificate"]),
            (&chain, &empty, &["empty.pem", "no private key"]),
            (&broken, &key, &["broken.pem", "not PEM"]),
            (
                &chain,
                &other_key,
                &["chain.pem", "other_key.pem", "the key does not belong to the certificate"],
            ),
        ];
        for (chain, key, expected) in cases {
            let made = Certificate::load(chain, key).and_then(TlsContext::new);
            let error = anyhow::Error::new(made.err().expect("must be refused"));
            let (said, with_causes) = (error.to_string(), format!("{error:#}"));
            for part in expected {
                assert!(said.contains(part), "{said:?} lacks {part:?}");
            }
            assert_eq!(said, with_causes, "said twice");
        }
    }

    #[test]
    fn replacing_changes_the_configuration_in_use() {
        let made = SelfSigned::generate(&["localhost"]).unwrap();
        let context = TlsContext::new(made.certificate().unwrap()).unwrap();
        let end_point = |context: &TlsContext| context.current.load().end_point.clone();
        let before = end_point(&context);
        let other = SelfSigned::generate(&["localhost"]).unwrap();
        context.replace(other.certificate().unwrap()).unwrap();
        assert!(before.is_some() && before != end_point(&context));
    }
}
