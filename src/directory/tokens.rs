//! Bearer tokens (RFC 6750): whose they are. Signed ones (JWT, RFC 7519) are verified here, with
//! the keys of their issuer (RFC 7517); of others the issuer is asked (RFC 7662). Keys and answers
//! come from a [`TokenServer`] on the control thread.
//!
//! A token counts only if its signature has an algorithm of [`ALGORITHMS`] and a key for that very
//! algorithm verifies it: what the token itself says about keys (`jwk`, `jku`, `x5c`) is not looked
//! at, and a key for RSA is never taken for a shared secret. Issuer, audience and times must be
//! there and right.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
    signature::{self, Verifier},
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::{Map, Value};

use crate::runtime::LocalFuture;

/// The only ones: neither shared secrets nor none.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Keys of an issuer that are kept.
const KEYS_MAX: usize = 64;

/// Which tokens count; `config` fills it.
#[derive(Clone, Default, Debug)]
pub struct TokenOptions {
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must have this.
    pub audience: String,
    /// The claim that names the account.
    pub claim: String,
    /// Whether there are keys to verify tokens with.
    pub has_keys: bool,
    /// Whether the issuer is asked about tokens that are not signed.
    pub introspects: bool,
}

/// Why a token does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// With what is wrong with it, for the operator.
    #[error("the token is not valid: {0}")]
    Refused(&'static str),
    #[error("the issuer of tokens does not answer")]
    Unavailable,
}

/// Who talks to the issuer.
pub trait TokenServer: Send + Sync {
    /// Gets the keys anew, unless it has just done so; done when they are there. `None` if too much
    /// is under way.
    fn get_keys(&self) -> Option<LocalFuture<'static, ()>>;

    /// The account that the issuer names for this token. `None` as above.
    fn introspect(&self, token: &str) -> Option<LocalFuture<'static, Result<String, TokenError>>>;
}

/// Judges tokens. Shared by all shards.
pub struct Tokens {
    options: TokenOptions,
    keys: ArcSwap<Vec<Key>>,
    server: Arc<dyn TokenServer>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("options", &self.options).finish_non_exhaustive()
    }
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a look at a signed token led to.
#[derive(PartialEq, Eq, Debug)]
enum Look {
    Names(String),
    Refused(&'static str),
    /// The issuer may have a new key.
    UnknownKey,
}

impl Tokens {
    pub fn new(options: TokenOptions, server: Arc<dyn TokenServer>) -> Tokens {
        // Already installed: by another server in this process (tests).
        let _ = PROVIDER.install_default();
        Tokens { options, keys: ArcSwap::default(), server }
    }

    /// Replaces the keys by those of a JWK set (RFC 7517 5); returns how many can be used.
    ///
    /// # Errors
    /// The text is no such set, or has no key that can be used.
    pub fn set_keys(&self, text: &[u8]) -> Result<usize, String> {
        let keys = usable_keys(text)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// Whether keys were there once.
    pub fn have_keys(&self) -> bool {
        !self.keys.load().is_empty()
    }

    /// Whether log-ins by token can succeed.
    pub fn work(&self) -> bool {
        self.options.introspects || !self.keys.load().is_empty()
    }

    /// The log-in name of the account that `token` is for.
    pub async fn name_of(&self, token: &str) -> Result<String, TokenError> {
        let is_signed = token.split('.').count() == 3;
        if is_signed && self.options.has_keys {
            let mut look = self.look(token);
            if look == Look::UnknownKey {
                self.server.get_keys().ok_or(TokenError::Unavailable)?.await;
                look = self.look(token);
            }
            return match look {
                Look::Names(name) => Ok(name),
                Look::Refused(why) => Err(TokenError::Refused(why)),
                Look::UnknownKey => Err(TokenError::Refused("no key of the issuer fits it")),
            };
        }
        if !self.options.introspects {
            return Err(TokenError::Refused("it is not a signed one"));
        }
        self.server.introspect(token).ok_or(TokenError::Unavailable)?.await
    }

    fn look(&self, token: &str) -> Look {
        // A header without an algorithm that we know ("none") is an error already.
        let Ok(header) = decode_header(token) else {
            return Look::Refused("its header cannot be read, or names no algorithm");
        };
        if !ALGORITHMS.contains(&header.alg) {
            return Look::Refused("its algorithm is none of RS256, ES256 and EdDSA");
        }
        let keys = self.keys.load();
        let is_named =
            |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        let fitting = keys.iter().filter(|key| key.algorithm == header.alg).filter(is_named);
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.options.issuer]);
        validation.set_audience(&[&self.options.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        let mut found = Look::UnknownKey;
        for key in fitting {
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(data) => {
                    let name = name_in(&data.claims, &self.options.claim);
                    return name.map_or_else(Look::Refused, Look::Names);
                }
                // Another key without a name may be the one.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    found = Look::Refused("its signature is wrong");
                }
                Err(error) => return Look::Refused(flaw(error.kind())),
            }
        }
        found
    }

    /// The account that an answer of the issuer names (RFC 7662 2.2), and how long it holds at
    /// most, `now` and that in seconds since 1970.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn introspected(
        &self,
        answer: &[u8],
        now: u64,
    ) -> Result<(String, Option<u64>), &'static str> {
        let answer: Map<String, Value> =
            serde_json::from_slice(answer).map_err(|_| "the issuer's answer cannot be read")?;
        if answer.get("active") != Some(&Value::Bool(true)) {
            return Err("the issuer says that it is not active");
        }
        let until = match answer.get("exp") {
            None => None,
            Some(time) => Some(time.as_u64().filter(|until| *until > now).ok_or(EXPIRED)?),
        };
        let begins = match answer.get("nbf") {
            None => 0,
            Some(time) => time.as_u64().ok_or(NOT_YET)?,
        };
        let TokenOptions { issuer, audience, claim, .. } = &self.options;
        let is_ours = match answer.get("aud") {
            Some(Value::Array(all)) => all.iter().any(|one| one == audience),
            Some(one) => one == audience,
            None => true,
        };
        let is_theirs = answer.get("iss").is_none_or(|it| it == issuer);
        if begins > now {
            return Err(NOT_YET);
        }
        if !audience.is_empty() && !is_ours {
            return Err(OTHER_AUDIENCE);
        }
        if !issuer.is_empty() && !is_theirs {
            return Err(OTHER_ISSUER);
        }
        Ok((name_in(&answer, claim)?, until))
    }
}

const EXPIRED: &str = "it has expired";
const NOT_YET: &str = "it is not valid yet";
const OTHER_AUDIENCE: &str = "it is for another audience than oauth.audience";
const OTHER_ISSUER: &str = "another than oauth.issuer has issued it";

/// What is wrong with a token, in words for the operator.
fn flaw(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => EXPIRED,
        ErrorKind::ImmatureSignature => NOT_YET,
        ErrorKind::InvalidAudience => OTHER_AUDIENCE,
        ErrorKind::InvalidIssuer => OTHER_ISSUER,
        ErrorKind::MissingRequiredClaim(_) => "one of the claims iss, aud and exp is missing",
        _ => "it cannot be read",
    }
}

/// The name in the claim; none in an address that the issuer has not verified.
fn name_in(claims: &Map<String, Value>, claim: &str) -> Result<String, &'static str> {
    let is_doubtful =
        claim == "email" && claims.get("email_verified").is_some_and(|it| *it != Value::Bool(true));
    let name = claims.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty());
    match name {
        None => Err("it has no claim oauth.claim, which names the account"),
        Some(_) if is_doubtful => Err("its issuer has not verified its email"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// How many keys of a JWK set can be used.
///
/// # Errors
/// None can.
pub fn count_keys(text: &[u8]) -> Result<usize, String> {
    usable_keys(text).map(|keys| keys.len())
}

fn usable_keys(text: &[u8]) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let keys: Vec<Key> = set.keys.iter().filter_map(Key::of).take(KEYS_MAX).collect();
    match keys.is_empty() {
        true => Err("no key for RS256, ES256 or EdDSA".to_owned()),
        false => Ok(keys),
    }
}

impl Key {
    /// `None` for keys of other kinds and for other purposes.
    fn of(jwk: &Jwk) -> Option<Key> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_this = match (common.key_algorithm, algorithm) {
            (None, _)
            | (Some(KeyAlgorithm::RS256), Algorithm::RS256)
            | (Some(KeyAlgorithm::ES256), Algorithm::ES256)
            | (Some(KeyAlgorithm::EdDSA), Algorithm::EdDSA) => true,
            (Some(_), _) => false,
        };
        let is_to_verify = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        if !is_for_this || !is_to_verify {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { id: common.key_id.clone(), algorithm, key })
    }
}

/// ring does the arithmetic, as everywhere else here.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(RingVerifier::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<RingVerifier, Error> {
        let fits = matches!(
            (algorithm, key.family()),
            (Algorithm::RS256, AlgorithmFamily::Rsa)
                | (Algorithm::ES256, AlgorithmFamily::Ec)
                | (Algorithm::EdDSA, AlgorithmFamily::Ed)
        );
        match fits {
            true => Ok(RingVerifier { algorithm, key: key.clone() }),
            false => Err(ErrorKind::InvalidAlgorithm.into()),
        }
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        sync::{LazyLock, Mutex},
    };

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use futures_lite::future::block_on;
    use ring::{
        hmac,
        rand::SystemRandom,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
            RSA_PKCS1_SHA256, RsaKeyPair,
        },
    };
    use rsa::{
        RsaPrivateKey,
        pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey},
        traits::PublicKeyParts,
    };
    use serde_json::json;

    use super::*;

    /// Has the keys that a test puts there.
    #[derive(Default)]
    struct Issuer {
        tokens: Mutex<Option<(Arc<Tokens>, Vec<u8>)>>,
        fetches: Mutex<usize>,
    }

    impl TokenServer for Issuer {
        fn get_keys(&self) -> Option<LocalFuture<'static, ()>> {
            *self.fetches.lock().expect("a lock") += 1;
            if let Some((tokens, keys)) = self.tokens.lock().expect("a lock").take() {
                tokens.set_keys(&keys).expect("keys");
            }
            Some(Box::pin(async {}))
        }

        fn introspect(
            &self,
            token: &str,
        ) -> Option<LocalFuture<'static, Result<String, TokenError>>> {
            let name = format!("{token}@demo.test");
            Some(Box::pin(async { Ok(name) }))
        }
    }

    // Keys of RSA take their time.
    static OURS: LazyLock<Keys> = LazyLock::new(Keys::new);
    static THEIRS: LazyLock<Keys> = LazyLock::new(Keys::new);

    fn encoded(octets: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(octets)
    }

    struct Keys {
        rsa: RsaKeyPair,
        rsa_der: Vec<u8>,
        ec: EcdsaKeyPair,
        ed: Ed25519KeyPair,
        set: Value,
    }

    impl Keys {
        fn new() -> Keys {
            let rsa = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).expect("a key");
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
            let ec = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
            let ed = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
            let point = ec.public_key().as_ref();
            let set = json!({"keys": [
                {"kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256",
                 "n": encoded(&rsa.n().to_bytes_be()), "e": encoded(&rsa.e().to_bytes_be())},
                {"kty": "EC", "kid": "e", "crv": "P-256",
                 "x": encoded(&point[1..33]), "y": encoded(&point[33..])},
                {"kty": "OKP", "kid": "d", "crv": "Ed25519",
                 "x": encoded(ed.public_key().as_ref())},
                // Shared secrets, keys to encrypt with and keys of other kinds are not taken.
                {"kty": "oct", "kid": "s", "k": "AAAA"},
                {"kty": "RSA", "kid": "x", "use": "enc", "n": "AQAB", "e": "AQAB"},
                {"kty": "EC", "kid": "p", "crv": "P-384", "x": "AAAA", "y": "AAAA"},
            ]});
            let der = rsa.to_pkcs1_der().expect("DER");
            Keys {
                rsa: RsaKeyPair::from_der(der.as_bytes()).expect("a key"),
                rsa_der: rsa.to_public_key().to_pkcs1_der().expect("DER").as_bytes().to_vec(),
                ec,
                ed,
                set,
            }
        }

        fn sign(&self, header: Value, claims: &Value) -> String {
            let algorithm = header["alg"].as_str().unwrap_or_default().to_owned();
            let (header, claims) = (header.to_string(), claims.to_string());
            let message = format!("{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()));
            let random = SystemRandom::new();
            let octets = message.as_bytes();
            let signature = match &*algorithm {
                "RS256" => {
                    let mut out = vec![0; self.rsa.public().modulus_len()];
                    let signed = self.rsa.sign(&RSA_PKCS1_SHA256, &random, octets, &mut out);
                    signed.expect("signed");
                    out
                }
                "ES256" => self.ec.sign(&random, octets).expect("signed").as_ref().to_vec(),
                "EdDSA" => self.ed.sign(octets).as_ref().to_vec(),
                // The classic: the public key, taken for a shared secret.
                "HS256" => {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &self.rsa_der);
                    hmac::sign(&key, octets).as_ref().to_vec()
                }
                _ => Vec::new(),
            };
            format!("{message}.{}", encoded(&signature))
        }
    }

    fn options() -> TokenOptions {
        TokenOptions {
            issuer: "https://id.test".to_owned(),
            audience: "mail".to_owned(),
            claim: "email".to_owned(),
            has_keys: true,
            introspects: false,
        }
    }

    fn claims() -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": "https://id.test", "aud": ["other", "mail"], "exp": now + 600,
               "nbf": now - 10, "email": "alice@demo.test"})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value,
        }
        claims
    }

    #[test]
    fn tokens_are_taken_only_from_the_issuer_for_us_and_in_their_time() {
        let (keys, others) = (&*OURS, &*THEIRS);
        let issuer = Arc::new(Issuer::default());
        let tokens = Tokens::new(options(), issuer.clone());
        assert!(!tokens.work());
        assert_eq!(tokens.set_keys(keys.set.to_string().as_bytes()), Ok(3));
        assert!(tokens.work());
        let now = jsonwebtoken::get_current_timestamp();
        let name = |token: &str| block_on(tokens.name_of(token));
        let alice = Ok("alice@demo.test".to_owned());
        for (algorithm, id) in [("RS256", "r"), ("ES256", "e"), ("EdDSA", "d")] {
            let header = json!({"alg": algorithm, "kid": id});
            assert_eq!(name(&keys.sign(header.clone(), &claims())), alice, "{algorithm}");
            assert_eq!(name(&keys.sign(json!({"alg": algorithm}), &claims())), alice);
            let refused = |why| Err(TokenError::Refused(why));
            let forged = refused("its signature is wrong");
            assert_eq!(name(&others.sign(header.clone(), &claims())), forged, "wrong key");
            const MISSING: &str = "one of the claims iss, aud and exp is missing";
            const UNVERIFIED: &str = "its issuer has not verified its email";
            const NAMELESS: &str = "it has no claim oauth.claim, which names the account";
            for (claim, value, why) in [
                ("iss", json!("https://other.test"), OTHER_ISSUER),
                ("iss", Value::Null, MISSING),
                ("aud", json!("other"), OTHER_AUDIENCE),
                ("aud", json!([]), OTHER_AUDIENCE),
                ("aud", Value::Null, MISSING),
                ("exp", json!(now - 100), EXPIRED),
                ("exp", json!("never"), MISSING),
                ("exp", Value::Null, MISSING),
                ("nbf", json!(now + 100), NOT_YET),
                ("nbf", json!("soon"), "it cannot be read"),
                ("email", Value::Null, NAMELESS),
                ("email", json!(""), NAMELESS),
                ("email", json!(1), NAMELESS),
                ("email_verified", json!(false), UNVERIFIED),
                ("email_verified", json!("false"), UNVERIFIED),
            ] {
                let token = keys.sign(header.clone(), &with(claim, value.clone()));
                assert_eq!(name(&token), refused(why), "{algorithm} {claim} {value}");
            }
            let token = keys.sign(header, &claims());
            let (front, signature) = token.rsplit_once('.').expect("three parts");
            assert_eq!(name(&format!("{front}.")), forged);
            assert_eq!(name(&format!("{front}x.{signature}")), forged);
        }
    }

    fn is_refused(found: Result<String, TokenError>) -> bool {
        matches!(found, Err(TokenError::Refused(_)))
    }

    #[test]
    fn tokens_that_choose_their_own_key_are_refused() {
        let (keys, others) = (&*OURS, &*THEIRS);
        let tokens = Tokens::new(options(), Arc::new(Issuer::default()));
        tokens.set_keys(keys.set.to_string().as_bytes()).expect("keys");
        let jwk = others.set["keys"][0].clone();
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "None"}),
            json!({"alg": "HS256", "kid": "r"}),
            json!({"alg": "HS256"}),
            json!({"alg": "RS256", "kid": "r", "jwk": jwk}),
            json!({"alg": "RS256", "kid": "unknown"}),
            // Of another kind than the key that is named.
            json!({"alg": "ES256", "kid": "r"}),
            json!({"alg": "RS512", "kid": "r"}),
            json!({"alg": "RS256", "kid": "r", "crit": ["x"]}),
            json!({"kid": "r"}),
        ] {
            let token = others.sign(header.clone(), &claims());
            assert!(is_refused(block_on(tokens.name_of(&token))), "{header}");
        }
        // Signed with our public key as a secret.
        for header in [json!({"alg": "HS256", "kid": "r"}), json!({"alg": "HS256"})] {
            let token = keys.sign(header, &claims());
            assert!(is_refused(block_on(tokens.name_of(&token))));
        }
        for token in ["", ".", "..", "a.b.c", "x", "e30.e30.", "e30.e30.e30.e30"] {
            assert!(is_refused(block_on(tokens.name_of(token))), "{token}");
        }
    }

    #[test]
    fn a_new_key_is_asked_for() {
        let (old, new) = (&*OURS, &*THEIRS);
        let issuer = Arc::new(Issuer::default());
        let tokens = Arc::new(Tokens::new(options(), issuer.clone()));
        let mut first = old.set.clone();
        first["keys"].as_array_mut().expect("a list").truncate(1);
        tokens.set_keys(first.to_string().as_bytes()).expect("keys");
        let set = new.set.to_string().into_bytes();
        *issuer.tokens.lock().expect("a lock") = Some((tokens.clone(), set));
        let token = new.sign(json!({"alg": "ES256", "kid": "e"}), &claims());
        assert_eq!(block_on(tokens.name_of(&token)), Ok("alice@demo.test".to_owned()));
        let retired = old.sign(json!({"alg": "RS256", "kid": "r"}), &claims());
        assert!(is_refused(block_on(tokens.name_of(&retired))));
        assert_eq!(*issuer.fetches.lock().expect("a lock"), 1);
        for text in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
            assert!(tokens.set_keys(text.as_bytes()).is_err(), "{text}");
        }
        assert!(tokens.work(), "the keys stay");
    }

    #[test]
    fn answers_of_the_issuer() {
        let tokens = Tokens::new(
            TokenOptions { has_keys: false, introspects: true, ..options() },
            Arc::new(Issuer::default()),
        );
        assert_eq!(block_on(tokens.name_of("abc")), Ok("abc@demo.test".to_owned()));
        let name = "a@b.test";
        let cases = RefCell::new(0);
        let check = |answer: Value, expected: Result<Option<u64>, &'static str>| {
            *cases.borrow_mut() += 1;
            let found = tokens.introspected(answer.to_string().as_bytes(), 1000);
            assert_eq!(found, expected.map(|until| (name.to_owned(), until)), "{answer}");
        };
        check(json!({"active": true, "email": name}), Ok(None));
        check(json!({"active": true, "email": name, "exp": 1001}), Ok(Some(1001)));
        check(json!({"active": true, "email": name, "aud": ["mail"]}), Ok(None));
        check(json!({"active": true, "email": name, "iss": "https://id.test"}), Ok(None));
        check(json!({"active": true, "email": name, "exp": 1000}), Err(EXPIRED));
        check(json!({"active": true, "email": name, "exp": "x"}), Err(EXPIRED));
        check(json!({"active": true, "email": name, "nbf": 1001}), Err(NOT_YET));
        check(json!({"active": true, "email": name, "aud": "other"}), Err(OTHER_AUDIENCE));
        check(
            json!({"active": true, "email": name, "iss": "https://other.test"}),
            Err(OTHER_ISSUER),
        );
        check(json!({"active": true}), Err("it has no claim oauth.claim, which names the account"));
        let inactive = Err("the issuer says that it is not active");
        check(json!({"active": "true", "email": name}), inactive);
        check(json!({"active": false, "email": name}), inactive);
        check(json!([]), Err("the issuer's answer cannot be read"));
        assert_eq!(*cases.borrow(), 13);
    }
}
