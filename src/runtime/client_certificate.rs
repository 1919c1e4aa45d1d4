//! The certificate of a client that logs in with it: whose it is, and until when. That an authority
//! of ours has signed it was checked in the handshake.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{
        Decode, Tag, Tagged,
        asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef},
        oid::ObjectIdentifier,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The part of a certificate that names an account.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CertificateName {
    /// The mail addresses of the subject alternative name (RFC 5280 4.2.1.6).
    #[default]
    Email,
    /// The common name of the subject.
    CommonName,
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Names that are looked at: more than one certificate can need.
const NAMES_MAX: usize = 16;

/// The names in `certificate` that may be accounts, if it is valid at `now`, since 1970: it was
/// when the connection began, which may be long ago.
pub(super) fn names(
    certificate: &CertificateDer<'_>,
    which: CertificateName,
    now: Duration,
) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let body = &certificate.tbs_certificate;
    let validity = &body.validity;
    let (begin, end) = (validity.not_before, validity.not_after);
    if now < begin.to_unix_duration() || now > end.to_unix_duration() {
        return Vec::new();
    }
    match which {
        CertificateName::Email => {
            let Ok(Some((_, SubjectAltName(names)))) = body.get::<SubjectAltName>() else {
                return Vec::new();
            };
            let emails = names.iter().filter_map(|name| match name {
                GeneralName::Rfc822Name(address) => Some(address.to_string()),
                _ => None,
            });
            emails.take(NAMES_MAX).collect()
        }
        CertificateName::CommonName => {
            let attributes = body.subject.0.iter().flat_map(|it| it.0.iter());
            let names = attributes.filter(|it| it.oid == COMMON_NAME).filter_map(|attribute| {
                let value = &attribute.value;
                match value.tag() {
                    Tag::Utf8String => {
                        value.decode_as::<Utf8StringRef<'_>>().ok().map(|it| it.to_string())
                    }
                    Tag::PrintableString => {
                        value.decode_as::<PrintableStringRef<'_>>().ok().map(|it| it.to_string())
                    }
                    Tag::Ia5String => {
                        value.decode_as::<Ia5StringRef<'_>>().ok().map(|it| it.to_string())
                    }
                    _ => None,
                }
            });
            names.take(NAMES_MAX).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_of_a_certificate() {
        let mut params = CertificateParams::new(vec!["web.test".to_owned()]).expect("params");
        params.distinguished_name.push(DnType::CommonName, "Alice");
        for address in ["alice@a.test", "al@b.test"] {
            let address = address.try_into().expect("an address");
            params.subject_alt_names.push(SanType::Rfc822Name(address));
        }
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("signed");
        // rcgen's default validity: from 1975 to 4096.
        let now = Duration::from_secs(1_795_469_789);
        let found = |which, now| names(made.der(), which, now);
        assert_eq!(found(CertificateName::Email, now), ["alice@a.test", "al@b.test"]);
        assert_eq!(found(CertificateName::CommonName, now), ["Alice"]);
        assert!(found(CertificateName::Email, Duration::ZERO).is_empty(), "not valid yet");
        assert!(found(CertificateName::Email, now * 100).is_empty(), "not valid any more");
        assert!(names(&CertificateDer::from(vec![1, 2]), CertificateName::Email, now).is_empty());
    }
}
