//! One private key: made, read, and its record for the DNS.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rsa::pkcs8::EncodePrivateKey;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

/// RFC 8301 3.2: signers use at least 1024 bits and should use 2048. Longer keys do not fit the
/// UDP answers of every resolver.
const RSA_BITS: usize = 2048;
/// Octets of one string in a TXT record (RFC 1035 3.3).
const STRING_SIZE: usize = 255;
/// Columns of PEM (RFC 7468 2).
const PEM_COLUMNS: usize = 64;

/// The kind of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Rsa,
    /// RFC 8463. Not every receiver knows it: sign with an RSA key besides.
    Ed25519,
}

impl Algorithm {
    /// As in the `k=` tag of the record.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key of a domain, under its selector.
pub struct DkimKey {
    pub domain: String,
    pub selector: String,
    pair: Pair,
}

impl fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DkimKey({})", self.record_name())
    }
}

/// Makes a new key, as PEM.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn generate(algorithm: Algorithm) -> Result<String, &'static str> {
    const FAILED: &str = "cannot make a key: the system has no randomness";
    let der = match algorithm {
        Algorithm::Rsa => {
            let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, RSA_BITS);
            let der = key.map_err(|_| FAILED)?.to_pkcs8_der().map_err(|_| FAILED)?;
            der.as_bytes().to_vec()
        }
        Algorithm::Ed25519 => {
            let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| FAILED)?;
            der.as_ref().to_vec()
        }
    };
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(PEM_COLUMNS) {
        pem.extend(line.iter().map(|octet| char::from(*octet)));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

impl DkimKey {
    /// Reads PEM: PKCS #8, or PKCS #1 as other programs write it for RSA.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn parse(domain: &str, selector: &str, pem: &[u8]) -> Result<DkimKey, &'static str> {
        let der =
            PrivateKeyDer::from_pem_slice(pem).map_err(|_| "not a private key in PEM form")?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => {
                RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(Pair::Rsa)
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let edwards = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                let edwards = edwards.ok().map(Pair::Ed25519);
                edwards.or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(Pair::Rsa))
            }
            _ => None,
        };
        let pair = pair.ok_or("expected an Ed25519 key, or an RSA key of 2048 to 4096 bits")?;
        Ok(DkimKey { domain: domain.to_owned(), selector: selector.to_owned(), pair })
    }

    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::Rsa,
            Pair::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The name of its record.
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The text of its record (RFC 6376 3.6.1).
    pub fn record_text(&self) -> String {
        let public = match &self.pair {
            Pair::Rsa(pair) => subject_public_key_info(pair.public().as_ref()),
            // RFC 8463 4.2: the 32 octets alone.
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        };
        format!("v=DKIM1; k={}; p={}", self.algorithm().name(), STANDARD.encode(public))
    }

    /// Its record as a line of a zone file.
    pub fn zone_line(&self) -> String {
        let text = self.record_text();
        let strings: Vec<String> = text
            .as_bytes()
            .chunks(STRING_SIZE)
            .map(|piece| format!("\"{}\"", String::from_utf8_lossy(piece)))
            .collect();
        format!("{}. 3600 IN TXT ( {} )", self.record_name(), strings.join(" "))
    }

    /// Signs canonical octets. `None` if the system has no randomness, which RSA needs.
    pub(super) fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, data, &mut signature).ok()?;
                Some(signature)
            }
            // RFC 8463 3: it signs the hash.
            Pair::Ed25519(pair) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, data);
                Some(pair.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }
}

/// Wraps an RSAPublicKey as every verifier expects it in `p=` (RFC 5280 4.1.2.7).
fn subject_public_key_info(rsa_public_key: &[u8]) -> Vec<u8> {
    // AlgorithmIdentifier: rsaEncryption, NULL.
    const ALGORITHM: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let mut bits = vec![0];
    bits.extend_from_slice(rsa_public_key);
    let mut sequence = ALGORITHM.to_vec();
    append_der(3, &bits, &mut sequence);
    let mut info = Vec::new();
    append_der(0x30, &sequence, &mut info);
    info
}

/// Tag, length, contents; shorter than 64 KiB.
fn append_der(tag: u8, contents: &[u8], output: &mut Vec<u8>) {
    output.push(tag);
    let [high, low] = (contents.len() as u16).to_be_bytes();
    match (high, low) {
        (0, 0..=127) => output.push(low),
        (0, _) => output.extend([0x81, low]),
        _ => output.extend([0x82, high, low]),
    }
    output.extend_from_slice(contents);
}

#[cfg(test)]
pub(super) mod tests {
    use ring::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    /// RFC 8463 A.2, in PKCS #8.
    pub(crate) const RFC_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn the_key_of_the_rfc() {
        let key = DkimKey::parse("football.example.com", "brisbane", RFC_KEY.as_bytes()).unwrap();
        assert_eq!(
            key.zone_line(),
            "brisbane._domainkey.football.example.com. 3600 IN TXT ( \"v=DKIM1; k=ed25519; \
             p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\" )"
        );
    }

    #[test]
    fn what_is_made_can_be_read_and_signs() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let pem = generate(algorithm).unwrap();
            assert_ne!(pem, generate(algorithm).unwrap());
            let key = DkimKey::parse("a.test", "s", pem.as_bytes()).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            let signature = key.sign(b"data").unwrap();
            let hash = ring::digest::digest(&ring::digest::SHA256, b"data");
            let verified = match &key.pair {
                Pair::Rsa(pair) => {
                    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref())
                        .verify(b"data", &signature)
                }
                Pair::Ed25519(pair) => UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref())
                    .verify(hash.as_ref(), &signature),
            };
            assert!(verified.is_ok(), "{algorithm:?}");
            for string in key.zone_line().split('"').skip(1).step_by(2) {
                assert!(string.len() <= 255);
            }
            assert!(!format!("{key:?}").contains(pem.lines().nth(1).unwrap()));
        }
    }

    #[test]
    fn other_files_are_refused() {
        let parse = |text: &str| DkimKey::parse("a.test", "s", text.as_bytes()).map(drop);
        assert_eq!(parse(""), Err("not a private key in PEM form"));
        assert_eq!(parse("v=DKIM1"), Err("not a private key in PEM form"));
        let other = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            parse(other),
            Err("expected an Ed25519 key, or an RSA key of 2048 to 4096 bits")
        );
    }

    #[test]
    fn lengths_of_der() {
        for (length, expected) in
            [(0, &[4, 0][..]), (127, &[4, 127]), (128, &[4, 0x81, 128]), (300, &[4, 0x82, 1, 44])]
        {
            let mut output = Vec::new();
            append_der(4, &vec![0; length], &mut output);
            assert_eq!(output.len(), expected.len() + length);
            assert!(output.starts_with(expected), "{length}");
        }
    }
}
