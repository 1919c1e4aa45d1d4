//! TLS on connections that we make: whom to trust, and how a peer's certificate is checked.
//!
//! Three ways ([`Verification`]): none, for opportunistic TLS (RFC 7435), which keeps out those who
//! only listen; by name against certificate authorities, for MTA-STS and configured hosts; and by
//! TLSA records (DANE, RFC 7672), which the resolver has found to be authentic.
//!
//! Sessions are never resumed: a resumed one is not verified again, and the next message to the
//! same host may demand another way.
//!
//! Ownership: [`Trust`] is immutable and shared by all shards; a [`ClientTls`] belongs to one
//! connection.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use ring::digest::{SHA256, SHA512, digest};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::model::Tlsa;

/// The certificate authorities that are trusted.
#[derive(Debug)]
pub struct Trust {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// The host's authorities: those that its OpenSSL uses, or of the environment's SSL_CERT_FILE
    /// and SSL_CERT_DIR. The strings say what could not be read. Reads files: not on a shard.
    pub fn of_host() -> (Trust, Vec<String>) {
        Self::of(rustls_native_certs::load_native_certs())
    }

    /// The authorities in a PEM file, or in a folder of such files, instead. Reads files: not on a
    /// shard.
    pub fn load(path: &Path) -> (Trust, Vec<String>) {
        let is_folder = path.is_dir();
        let (file, folder) = if is_folder { (None, Some(path)) } else { (Some(path), None) };
        Self::of(rustls_native_certs::load_certs_from_paths(file, folder))
    }

    /// No authorities: verification by name fails.
    pub fn nobody() -> Trust {
        Trust {
            roots: RootCertStore::empty(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }

    fn of(found: rustls_native_certs::CertificateResult) -> (Trust, Vec<String>) {
        let mut trust = Self::nobody();
        // One that cannot be parsed is none, as for other programs.
        trust.roots.add_parsable_certificates(found.certs);
        (trust, found.errors.iter().map(ToString::to_string).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

/// How the peer's certificate is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verification {
    /// Not at all.
    None,
    /// It is valid, issued by a trusted authority, and for one of these names.
    Names(Vec<String>),
    /// RFC 7672: it matches one of the records; with a record of an authority (DANE-TA) it is also
    /// valid and for one of the names. If no record is usable, TLS is used and nothing is checked
    /// (RFC 7672 2.2).
    Dane { tlsa: Arc<[Tlsa]>, names: Vec<String> },
}

/// For one connection.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// For SNI (RFC 6066 3). With DANE, the name that the TLSA records belong to (RFC 7672 8.1).
    pub server_name: String,
    pub verification: Verification,
    pub trust: Arc<Trust>,
}

/// What is known of TLS on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFacts {
    /// "TLSv1.3".
    pub version: &'static str,
    /// "TLS13_AES_256_GCM_SHA384".
    pub cipher: &'static str,
    pub verified: Verified,
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version)?;
        match &self.verified {
            Verified::NotAsked => f.write_str(", unverified"),
            Verified::NoUsableRecord => f.write_str(", no usable TLSA record"),
            Verified::Name(name) => write!(f, ", certificate for {name}"),
            Verified::DaneEe => f.write_str(", DANE"),
            Verified::DaneTa(name) => write!(f, ", DANE, certificate for {name}"),
        }
    }
}

/// How the peer was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verified {
    /// It was not.
    NotAsked,
    /// It was not, as no TLSA record was usable.
    NoUsableRecord,
    /// By an authority, for this name.
    Name(String),
    /// By its own record (DANE-EE).
    DaneEe,
    /// By the record of its authority (DANE-TA), for this name.
    DaneTa(String),
}

impl Verified {
    /// Whether the peer is the one that was meant.
    pub fn is_authenticated(&self) -> bool {
        matches!(self, Verified::Name(_) | Verified::DaneEe | Verified::DaneTa(_))
    }
}

/// Why there is no TLS, for policies and reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlsFailure {
    /// The certificate is for other names.
    HostMismatch,
    /// Expired, or not valid yet.
    Expired,
    /// Nobody trusted has issued it.
    NotTrusted,
    /// No TLSA record matches.
    NoMatchingRecord,
    /// Another fault of the certificate.
    Certificate,
    /// No common version or cipher, an alert, octets that are not TLS.
    Handshake,
}

impl TlsFailure {
    pub fn of(error: &Error) -> TlsFailure {
        let Error::InvalidCertificate(error) = error else { return TlsFailure::Handshake };
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFailure::HostMismatch
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFailure::Expired,
            CertificateError::UnknownIssuer => TlsFailure::NotTrusted,
            CertificateError::Other(OtherError(error)) if error.is::<NoMatchingRecord>() => {
                TlsFailure::NoMatchingRecord
            }
            _ => TlsFailure::Certificate,
        }
    }

    /// In words, where those of the library say less.
    pub fn words(self) -> Option<&'static str> {
        match self {
            TlsFailure::NotTrusted => Some("the certificate was issued by nobody who is trusted"),
            TlsFailure::NoMatchingRecord => Some("the certificate matches no TLSA record"),
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the certificate matches no TLSA record")]
struct NoMatchingRecord;

fn no_matching_record() -> Error {
    CertificateError::Other(OtherError(Arc::new(NoMatchingRecord))).into()
}

/// The verifier's result, kept beside the session.
#[derive(Clone, Default, Debug)]
pub(super) struct Verdict(Arc<OnceLock<Verified>>);

impl Verdict {
    pub(super) fn get(&self) -> Verified {
        self.0.get().cloned().unwrap_or(Verified::NotAsked)
    }
}

impl ClientTls {
    /// What rustls needs for a session.
    pub(super) fn begin(&self) -> Result<(Arc<ClientConfig>, ServerName<'static>, Verdict), Error> {
        let verdict = Verdict::default();
        let authenticates = match &self.verification {
            Verification::None => false,
            Verification::Names(_) => true,
            Verification::Dane { tlsa, .. } => !usable(tlsa).is_empty(),
        };
        let verifier = Verifier {
            authenticates,
            verification: self.verification.clone(),
            trust: self.trust.clone(),
            verdict: verdict.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(self.trust.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        // A name that cannot be in SNI is not sent; whether it is that of the certificate is the
        // verifier's business.
        let name = server_name(&self.server_name).unwrap_or_else(|| {
            config.enable_sni = false;
            ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
        });
        Ok((Arc::new(config), name, verdict))
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
}

#[derive(Debug)]
struct Verifier {
    /// Whether a peer that passes is the one that was meant.
    authenticates: bool,
    verification: Verification,
    trust: Arc<Trust>,
    verdict: Verdict,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, Error> {
        match &self.verification {
            Verification::None => Ok(Verified::NotAsked),
            Verification::Names(names) => {
                let name = self.verify_chain(&self.trust.roots, leaf, rest, names, now)?;
                Ok(Verified::Name(name))
            }
            Verification::Dane { tlsa, names } => self.verify_dane(tlsa, names, leaf, rest, now),
        }
    }

    /// The name that matched.
    fn verify_chain(
        &self,
        roots: &RootCertStore,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        names: &[String],
        now: UnixTime,
    ) -> Result<String, Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.trust.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, rest, now, algorithms)?;
        let mut error = CertificateError::NotValidForName.into();
        for name in names {
            let Some(parsed) = server_name(name) else { continue };
            match verify_server_name(&leaf, &parsed) {
                Ok(()) => return Ok(name.clone()),
                Err(mismatch) => error = mismatch,
            }
        }
        Err(error)
    }

    fn verify_dane(
        &self,
        tlsa: &[Tlsa],
        names: &[String],
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, Error> {
        let records: Vec<&Tlsa> = usable(tlsa);
        if records.is_empty() {
            return Ok(Verified::NoUsableRecord);
        }
        let of_usage = |usage| records.iter().filter(move |record| record.usage == usage);
        // RFC 7672 3.1.1: neither names nor dates matter.
        if of_usage(DANE_EE).any(|record| matches(record, leaf)) {
            return Ok(Verified::DaneEe);
        }
        let mut roots = RootCertStore::empty();
        for record in of_usage(DANE_TA) {
            for authority in rest.iter().filter(|authority| matches(record, authority)) {
                let _ = roots.add(authority.clone().into_owned());
            }
            if (record.selector, record.matching) == (0, 0) {
                // RFC 7671 5.2.2: the whole authority is in the record, and may be missing in the
                // chain.
                let _ = roots.add(CertificateDer::from(record.data.to_vec()));
            }
        }
        if roots.is_empty() {
            return Err(no_matching_record());
        }
        // RFC 7672 3.1.2.
        let verified = self.verify_chain(&roots, leaf, rest, names, now);
        verified.map(Verified::DaneTa).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => no_matching_record(),
            error => error,
        })
    }
}

/// Certificate usages of RFC 7218 2.1.
const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;

/// The records that count. RFC 7672 3.1.3: PKIX-TA and PKIX-EE are unusable for SMTP. RFC 7671 9:
/// of the digests of one usage and selector, only the strongest counts.
fn usable(tlsa: &[Tlsa]) -> Vec<&Tlsa> {
    let good = |record: &&Tlsa| {
        let size = match record.matching {
            0 => !record.data.is_empty(),
            1 => record.data.len() == SHA256.output_len(),
            2 => record.data.len() == SHA512.output_len(),
            _ => false,
        };
        matches!(record.usage, DANE_TA | DANE_EE) && record.selector <= 1 && size
    };
    let good: Vec<&Tlsa> = tlsa.iter().filter(good).collect();
    let is_weaker = |record: &Tlsa| {
        let kind = (record.usage, record.selector);
        record.matching == 1
            && good.iter().any(|it| it.matching == 2 && (it.usage, it.selector) == kind)
    };
    good.iter().copied().filter(|record| !is_weaker(record)).collect()
}

fn matches(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let selected: &[u8] = match record.selector {
        0 => certificate,
        _ => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => {
                key = parsed.subject_public_key_info();
                &key
            }
            Err(_) => return false,
        },
    };
    match record.matching {
        0 => selected == &*record.data,
        1 => digest(&SHA256, selected).as_ref() == &*record.data,
        _ => digest(&SHA512, selected).as_ref() == &*record.data,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verify(leaf, rest, now)?;
        let _ = self.verdict.0.set(verified);
        Ok(ServerCertVerified::assertion())
    }

    /// Where nobody is authenticated, the signature proves nothing; and old hosts have keys and
    /// certificates with which it could not be checked.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.authenticates {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.authenticates {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}
