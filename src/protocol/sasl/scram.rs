//! SCRAM (RFC 5802, RFC 7677): the password is proved without being sent, and the server proves
//! that it knows it. With -PLUS, also that nobody sits between the two ends of TLS: the client
//! signs what the connection is bound to (RFC 5929, RFC 9266).
//!
//! The server stores [`Keys`], from which nobody can log in. What a client proves is settled here;
//! whether it may try at all is the service's decision, which is why even a wrong proof is a
//! question.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{digest, hmac, pbkdf2};

use super::{Answer, Binding, Machine, Move, PASSWORD_MAX, Question, SaslError, USER_MAX};

/// Longest nonce that is taken from a client, octets.
const NONCE_MAX: usize = 512;

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hash {
    Sha256,
    Sha1,
}

impl Hash {
    /// The strongest first.
    pub const ALL: [Hash; 2] = [Hash::Sha256, Hash::Sha1];

    /// As RFC 5803 names the stored form.
    pub fn scheme(self) -> &'static str {
        match self {
            Hash::Sha256 => "SCRAM-SHA-256",
            Hash::Sha1 => "SCRAM-SHA-1",
        }
    }

    /// Octets of a key.
    pub fn size(self) -> usize {
        self.digest().output_len()
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        }
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
    }

    /// `SaltedPassword` of RFC 5802 3: slow on purpose.
    fn salted(self, password: &str, salt: &[u8], iterations: std::num::NonZeroU32) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
        };
        let mut out = vec![0; self.size()];
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut out);
        out
    }
}

/// What proves one password (RFC 5802 3).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl KeyPair {
    /// Of a password. Takes some milliseconds: never on a shard. `None` if SASLprep (RFC 4013)
    /// refuses the password: no client could prove it.
    pub fn of(
        hash: Hash,
        password: &str,
        salt: &[u8],
        iterations: std::num::NonZeroU32,
    ) -> Option<KeyPair> {
        let password = stringprep::saslprep(password).ok()?;
        if password.is_empty() || password.len() > PASSWORD_MAX {
            return None;
        }
        let salted = hash.salted(&password, salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let stored_key = digest::digest(hash.digest(), &client_key).as_ref().to_vec();
        Some(KeyPair { stored_key, server_key: hash.hmac(&salted, b"Server Key") })
    }
}

/// What the server has for a name. A user may have several passwords; all share one salt, since
/// the client is told only one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub pairs: Vec<KeyPair>,
}

/// What the service answers to [`Question::Keys`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ground {
    pub keys: Keys,
    /// The server's part of the nonce: printable ASCII without commas, never used before.
    pub nonce: String,
    /// What the connection is bound to, if the client asked for it and the connection has it.
    pub bound_to: Option<Vec<u8>>,
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Scram {
    hash: Hash,
    /// The client chose the mechanism with -PLUS.
    plus: bool,
    /// A mechanism with -PLUS is offered.
    plus_is_offered: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    ClientFirst,
    AwaitsKeys(ClientFirst),
    ClientFinal {
        first: ClientFirst,
        server_first: String,
        nonce: String,
        ground: Ground,
    },
    AwaitsVerdict {
        server_final: Option<String>,
    },
    /// The client has the server's proof, and has nothing more to say.
    Proved,
}

/// The client's first message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct ClientFirst {
    gs2_header: String,
    bare: String,
    user: String,
    authorization: Option<String>,
    nonce: String,
    binding: Option<Binding>,
}

impl Scram {
    pub(super) fn new(hash: Hash, plus: bool, plus_is_offered: bool) -> Scram {
        Scram { hash, plus, plus_is_offered, state: State::ClientFirst }
    }

    fn client_first(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        let first = ClientFirst::parse(message)?;
        match first.gs2_header.as_bytes().first() {
            Some(b'p') if !self.plus => return Err(refused("channel binding without -PLUS")),
            Some(b'n' | b'y') if self.plus => {
                return Err(refused("-PLUS without channel binding"));
            }
            // RFC 5802 6: the client can bind, and believes that we cannot: somebody between us
            // has removed -PLUS from the list.
            Some(b'y') if self.plus_is_offered => {
                return Err(refused("this server does channel binding"));
            }
            _ => {}
        }
        let question =
            Question::Keys { user: first.user.clone(), hash: self.hash, binding: first.binding };
        self.state = State::AwaitsKeys(first);
        Ok(Move::Ask(question))
    }

    fn server_first(&mut self, first: ClientFirst, ground: Ground) -> Result<Move, SaslError> {
        if first.binding.is_some() && ground.bound_to.is_none() {
            return Err(refused("no such channel binding on this connection"));
        }
        let nonce = format!("{}{}", first.nonce, ground.nonce);
        let salt = STANDARD.encode(&ground.keys.salt);
        let server_first = format!("r={nonce},s={salt},i={}", ground.keys.iterations);
        let challenge = server_first.clone().into_bytes();
        self.state = State::ClientFinal { first, server_first, nonce, ground };
        Ok(Move::Challenge(challenge))
    }

    fn client_final(
        &mut self,
        message: &[u8],
        first: ClientFirst,
        server_first: &str,
        nonce: &str,
        ground: Ground,
    ) -> Result<Move, SaslError> {
        let message = std::str::from_utf8(message).map_err(|_| refused("not UTF-8"))?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(refused("no proof"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|it| it.strip_prefix("c="));
        let binding = binding.ok_or(refused("no channel binding"))?;
        let binding = STANDARD.decode(binding).map_err(|_| refused("invalid base64"))?;
        let sent_nonce = attributes.next().and_then(|it| it.strip_prefix("r="));
        if sent_nonce != Some(nonce) {
            return Err(refused("another nonce"));
        }
        let proof = STANDARD.decode(proof).map_err(|_| refused("invalid base64"))?;
        if proof.len() != self.hash.size() {
            return Err(refused("a proof of another length"));
        }
        let mut expected = first.gs2_header.into_bytes();
        expected.extend_from_slice(ground.bound_to.as_deref().unwrap_or_default());
        let auth_message = format!("{},{server_first},{without_proof}", first.bare);
        let auth_message = auth_message.as_bytes();
        // Every pair is tried, so that the time says nothing.
        let mut right = None;
        for pair in ground.keys.pairs {
            if self.proves(&proof, &pair, auth_message) && right.is_none() {
                right = Some(pair);
            }
        }
        // RFC 5802 6: with other channel-binding data somebody sits between.
        let right = right.filter(|_| binding == expected);
        let server_final = right.as_ref().map(|pair| {
            let signature = self.hash.hmac(&pair.server_key, auth_message);
            format!("v={}", STANDARD.encode(signature))
        });
        self.state = State::AwaitsVerdict { server_final };
        Ok(Move::Ask(Question::Proof {
            user: first.user,
            authorization: first.authorization,
            hash: self.hash,
            proved: right.map(|pair| pair.stored_key),
        }))
    }

    /// RFC 5802 3: the hash of `ClientProof XOR ClientSignature` is the stored key.
    fn proves(&self, proof: &[u8], pair: &KeyPair, auth_message: &[u8]) -> bool {
        let signature = self.hash.hmac(&pair.stored_key, auth_message);
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let stored = digest::digest(self.hash.digest(), &client_key);
        let differences =
            stored.as_ref().iter().zip(&pair.stored_key).fold(0, |all, (a, b)| all | (a ^ b));
        differences == 0 && pair.stored_key.len() == self.hash.size()
    }
}

impl Machine for Scram {
    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        match std::mem::replace(&mut self.state, State::Proved) {
            State::ClientFirst => self.client_first(message),
            State::ClientFinal { first, server_first, nonce, ground } => {
                self.client_final(&message, first, &server_first, &nonce, ground)
            }
            // RFC 4422 3.1, RFC 3501 6.2.2: an empty response to what came with success.
            State::Proved if message.is_empty() => Ok(Move::Over),
            _ => Err(refused("nothing more was asked")),
        }
    }

    fn answer(&mut self, answer: Answer) -> Result<Move, SaslError> {
        match (std::mem::replace(&mut self.state, State::Proved), answer) {
            (State::AwaitsKeys(first), Answer::Ground(ground)) => self.server_first(first, *ground),
            (State::AwaitsVerdict { server_final: Some(text) }, Answer::Accepted) => {
                Ok(Move::Challenge(text.into_bytes()))
            }
            _ => Ok(Move::Over),
        }
    }
}

impl ClientFirst {
    /// `client-first-message = gs2-header client-first-message-bare` (RFC 5802 7).
    fn parse(message: Vec<u8>) -> Result<ClientFirst, SaslError> {
        let message = String::from_utf8(message).map_err(|_| refused("not UTF-8"))?;
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(refused("SCRAM wants a header and a message"));
        };
        let binding = match flag {
            "n" | "y" => None,
            flag => {
                let name = flag.strip_prefix("p=").ok_or(refused("invalid channel binding"))?;
                let binding = Binding::parse(name);
                Some(binding.ok_or(refused("channel binding of a type that is not offered"))?)
            }
        };
        let authorization = match authzid {
            "" => None,
            authzid => {
                let name = authzid.strip_prefix("a=").ok_or(refused("invalid identity"))?;
                Some(sasl_name(name)?)
            }
        };
        let mut attributes = bare.split(',');
        // RFC 5802 5.1: "m=" is for extensions that must be understood.
        let user = attributes.next().and_then(|it| it.strip_prefix("n="));
        let user = sasl_name(user.ok_or(refused("no user name"))?)?;
        let user = stringprep::saslprep(&user).map_err(|_| refused("invalid user name"))?;
        if user.is_empty() {
            return Err(refused("invalid user name"));
        }
        let user = user.into_owned();
        let nonce = attributes.next().and_then(|it| it.strip_prefix("r="));
        let nonce = nonce.ok_or(refused("no nonce"))?;
        let is_printable = |it: &u8| matches!(it, 0x21..=0x2b | 0x2d..=0x7e);
        if nonce.is_empty() || nonce.len() > NONCE_MAX || !nonce.as_bytes().iter().all(is_printable)
        {
            return Err(refused("invalid nonce"));
        }
        let nonce = nonce.to_owned();
        let gs2_header = format!("{flag},{authzid},");
        let bare = bare.to_owned();
        Ok(ClientFirst { gs2_header, bare, user, authorization, nonce, binding })
    }
}

/// `saslname = 1*(value-safe-char / "=2C" / "=3D")` (RFC 5802 7).
pub(super) fn sasl_name(text: &str) -> Result<String, SaslError> {
    let invalid = refused("invalid user name");
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        let (escaped, following) = after.split_at_checked(2).ok_or(invalid)?;
        name.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return Err(invalid),
        });
        rest = following;
    }
    name.push_str(rest);
    if name.is_empty() || name.len() > USER_MAX || name.contains('\0') {
        return Err(invalid);
    }
    Ok(name)
}

const fn refused(why: &'static str) -> SaslError {
    SaslError::Refused(why)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::{
        super::{Exchange, Mechanism, Mechanisms, Step},
        *,
    };

    fn base64(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn text(challenge: &str) -> String {
        String::from_utf8(STANDARD.decode(challenge).expect("base64")).expect("text")
    }

    fn ground(hash: Hash, password: &str, salt: &str, nonce: &str) -> Ground {
        let salt = STANDARD.decode(salt).expect("base64");
        let iterations = NonZeroU32::new(4096).expect("iterations");
        let pairs = vec![KeyPair::of(hash, password, &salt, iterations).expect("keys")];
        let keys = Keys { salt, iterations: 4096, pairs };
        Ground { keys, nonce: nonce.to_owned(), bound_to: None }
    }

    fn asked(step: Step) -> Question {
        match step {
            Step::Ask(question) => question,
            step => panic!("{step:?}"),
        }
    }

    fn proved(question: &Question) -> bool {
        matches!(question, Question::Proof { proved: Some(_), .. })
    }

    /// The client's and the server's messages in turn. C and S as in the RFC.
    struct Example {
        mechanism: Mechanism,
        hash: Hash,
        server_nonce: &'static str,
        salt: &'static str,
        client_first: &'static str,
        server_first: &'static str,
        client_final: &'static str,
        server_final: &'static str,
    }

    /// RFC 5802 5.
    const SHA_1: Example = Example {
        mechanism: Mechanism::ScramSha1,
        hash: Hash::Sha1,
        server_nonce: "3rfcNHYJY1ZVvWVs7j",
        salt: "QSXCR+Q6sek8bf92",
        client_first: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        server_first: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        client_final: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,\
                       p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        server_final: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    };

    /// RFC 7677 3.
    const SHA_256: Example = Example {
        mechanism: Mechanism::ScramSha256,
        hash: Hash::Sha256,
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        client_first: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_final: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    };

    /// Plays an example up to the question about the proof.
    fn play(example: &Example, client_final: &str) -> (Exchange, Step) {
        let Example { mechanism, hash, server_nonce, salt, .. } = *example;
        let offered = [mechanism].into_iter().collect();
        let (mut exchange, step) = Exchange::start(mechanism, offered, None);
        assert_eq!(step, Step::Challenge(String::new()));
        let step = exchange.respond(base64(example.client_first).as_bytes());
        let expected = Question::Keys { user: "user".to_owned(), hash, binding: None };
        assert_eq!(asked(step), expected);
        let ground = ground(hash, "pencil", salt, server_nonce);
        let Step::Challenge(challenge) = exchange.answer(Answer::Ground(Box::new(ground))) else {
            panic!("no challenge");
        };
        assert_eq!(text(&challenge), example.server_first);
        let step = exchange.respond(base64(client_final).as_bytes());
        (exchange, step)
    }

    #[test]
    fn the_examples_of_the_rfcs() {
        for example in [&SHA_1, &SHA_256] {
            let (mut exchange, step) = play(example, example.client_final);
            assert!(proved(&asked(step)));
            let Step::Challenge(challenge) = exchange.answer(Answer::Accepted) else {
                panic!("no server-final-message");
            };
            assert_eq!(text(&challenge), example.server_final);
            assert_eq!(exchange.respond(b""), Step::Over);
        }
    }

    #[test]
    fn what_is_refused_gets_no_proof_of_the_server() {
        // Right, but not admitted; and a wrong proof, whatever is answered.
        let (mut exchange, step) = play(&SHA_256, SHA_256.client_final);
        assert!(proved(&asked(step)));
        assert_eq!(exchange.answer(Answer::Refused), Step::Over);
        let wrong = SHA_256.client_final.replace("dHzb", "dHzc");
        let (mut exchange, step) = play(&SHA_256, &wrong);
        assert!(!proved(&asked(step)));
        assert_eq!(exchange.answer(Answer::Accepted), Step::Over);
    }

    #[test]
    fn final_messages() {
        let nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for (message, why) in [
            (format!("c=biws,{nonce}"), "no proof"),
            (format!("{nonce},{proof}"), "no channel binding"),
            (format!("c=!,{nonce},{proof}"), "invalid base64"),
            (format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,{proof}"), "another nonce"),
            (format!("c=biws,{nonce}x,{proof}"), "another nonce"),
            (format!("c=biws,{nonce},p=!"), "invalid base64"),
            (format!("c=biws,{nonce},p="), "a proof of another length"),
            (format!("c=biws,{nonce},p=AAAA"), "a proof of another length"),
        ] {
            let (_, step) = play(&SHA_256, &message);
            assert_eq!(step, Step::Failed(refused(why)), "{message}");
        }
        // Another header than in the first message: "y,,".
        let (_, step) = play(&SHA_256, &SHA_256.client_final.replace("c=biws", "c=eSws"));
        assert!(!proved(&asked(step)));
        let (mut exchange, _) = play(&SHA_256, SHA_256.client_final);
        exchange.answer(Answer::Accepted);
        assert!(matches!(exchange.respond(b"eA=="), Step::Failed(_)));
    }

    #[test]
    fn first_messages() {
        let plain = Mechanism::ScramSha256;
        let plus = Mechanism::ScramSha256Plus;
        let all = Mechanisms::ALL;
        let without: Mechanisms = [plain].into_iter().collect();
        let cases: &[(Mechanism, Mechanisms, &str, Result<(&str, Option<Binding>), &str>)] = &[
            (plain, all, "n,,n=a,r=x", Ok(("a", None))),
            (plain, all, "n,a=b,n=a,r=x", Ok(("a", None))),
            (plain, all, "n,,n=a=2Cb=3Dc,r=x,ext=1", Ok(("a,b=c", None))),
            // SASLprep: a soft hyphen is nothing, a Roman numeral letters (RFC 4013 3).
            (plain, all, "n,,n=I\u{ad}X,r=x", Ok(("IX", None))),
            (plain, all, "n,,n=\u{2168},r=x", Ok(("IX", None))),
            (plain, all, "n,,n=\u{7},r=x", Err("invalid user name")),
            (plain, all, "n,,n=\u{ad},r=x", Err("invalid user name")),
            (plain, all, "n,,n=a=2D,r=x", Err("invalid user name")),
            (plain, all, "n,,n=a=2,r=x", Err("invalid user name")),
            (plain, all, "n,,n==\u{e9}\u{e9},r=x", Err("invalid user name")),
            (plain, all, "n,,n=,r=x", Err("invalid user name")),
            (plain, all, "n,,m=1,n=a,r=x", Err("no user name")),
            (plain, all, "n,,n=a", Err("no nonce")),
            (plain, all, "n,,n=a,r=", Err("invalid nonce")),
            (plain, all, "n,,n=a,r=\u{e9}", Err("invalid nonce")),
            (plain, all, "n,b,n=a,r=x", Err("invalid identity")),
            (plain, all, "n,", Err("SCRAM wants a header and a message")),
            (plain, all, "", Err("SCRAM wants a header and a message")),
            (plain, all, "x,,n=a,r=x", Err("invalid channel binding")),
            // RFC 5802 6: the downgrade.
            (plain, all, "y,,n=a,r=x", Err("this server does channel binding")),
            (plain, without, "y,,n=a,r=x", Ok(("a", None))),
            (plain, all, "p=tls-exporter,,n=a,r=x", Err("channel binding without -PLUS")),
            (plus, all, "n,,n=a,r=x", Err("-PLUS without channel binding")),
            (plus, all, "y,,n=a,r=x", Err("-PLUS without channel binding")),
            (plus, all, "p=tls-exporter,,n=a,r=x", Ok(("a", Some(Binding::Exporter)))),
            (plus, all, "p=tls-server-end-point,,n=a,r=x", Ok(("a", Some(Binding::EndPoint)))),
            (
                plus,
                all,
                "p=tls-unique,,n=a,r=x",
                Err("channel binding of a type that is not offered"),
            ),
        ];
        for (mechanism, offered, message, expected) in cases {
            let message = base64(message);
            let (_, step) = Exchange::start(*mechanism, *offered, Some(message.as_bytes()));
            match expected {
                Ok((user, binding)) => {
                    let hash = Hash::Sha256;
                    let expected =
                        Question::Keys { user: (*user).to_owned(), hash, binding: *binding };
                    assert_eq!(asked(step), expected);
                }
                Err(why) => assert_eq!(step, Step::Failed(refused(why)), "{message}"),
            }
        }
        let long = base64(&format!("n,,n=a,r={}", "x".repeat(NONCE_MAX + 1)));
        let (_, step) = Exchange::start(plain, all, Some(long.as_bytes()));
        assert_eq!(step, Step::Failed(refused("invalid nonce")));
    }

    /// What a client sends last (RFC 5802 3).
    fn client_final(
        hash: Hash,
        password: &str,
        gs2_header: &str,
        bare: &str,
        server_first: &str,
        bound_to: &[u8],
    ) -> String {
        let attribute = |name: &str| {
            let mut all = server_first.split(',');
            all.find_map(|it| it.strip_prefix(name)).expect(name).to_owned()
        };
        let salt = STANDARD.decode(attribute("s=")).expect("salt");
        let iterations = attribute("i=").parse().expect("iterations");
        let salted = hash.salted(password, &salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let stored_key = digest::digest(hash.digest(), &client_key);
        let binding = STANDARD.encode([gs2_header.as_bytes(), bound_to].concat());
        let without_proof = format!("c={binding},r={}", attribute("r="));
        let auth_message = format!("{bare},{server_first},{without_proof}");
        let signature = hash.hmac(stored_key.as_ref(), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    /// The client's password and what its connection is bound to, and the server's; whether that
    /// proves anything.
    fn bound(theirs: &[u8], ours: &[u8], password: &str) -> bool {
        let (header, bare) = ("p=tls-exporter,,", "n=a,r=x");
        let first = base64(&format!("{header}{bare}"));
        let mechanism = Mechanism::ScramSha256Plus;
        let (mut exchange, _) = Exchange::start(mechanism, Mechanisms::ALL, Some(first.as_bytes()));
        let mut ground = ground(Hash::Sha256, "first", "W22ZaJ0SNY7soEsUEjb6gQ==", "y");
        let other = KeyPair::of(
            Hash::Sha256,
            "second",
            &ground.keys.salt,
            NonZeroU32::new(4096).expect("iterations"),
        );
        ground.keys.pairs.extend(other);
        ground.bound_to = Some(ours.to_vec());
        let Step::Challenge(challenge) = exchange.answer(Answer::Ground(Box::new(ground))) else {
            panic!("no challenge");
        };
        let server_first = text(&challenge);
        let last = client_final(Hash::Sha256, password, header, bare, &server_first, theirs);
        proved(&asked(exchange.respond(base64(&last).as_bytes())))
    }

    #[test]
    fn another_end_of_the_channel_proves_nothing() {
        assert!(bound(b"channel", b"channel", "first"));
        assert!(bound(b"channel", b"channel", "second"));
        assert!(!bound(b"channel", b"channel", "third"));
        assert!(!bound(b"theirs", b"ours", "first"));
        assert!(!bound(b"", b"ours", "first"));
    }

    #[test]
    fn a_connection_without_the_binding_refuses_it() {
        let first = base64("p=tls-exporter,,n=a,r=x");
        let mechanism = Mechanism::ScramSha256Plus;
        let (mut exchange, _) = Exchange::start(mechanism, Mechanisms::ALL, Some(first.as_bytes()));
        let ground = ground(Hash::Sha256, "first", "W22ZaJ0SNY7soEsUEjb6gQ==", "y");
        let step = exchange.answer(Answer::Ground(Box::new(ground)));
        let why = "no such channel binding on this connection";
        assert_eq!(step, Step::Failed(refused(why)));
    }

    proptest! {
        #[test]
        fn no_message_panics(first in "[nyp],,n=[a-z=,]{0,6},r=[a-z]{0,5}.{0,5}", last in ".{0,99}") {
            let mechanism = Mechanism::ScramSha256;
            let (mut exchange, _) = Exchange::start(mechanism, Mechanisms::NONE, None);
            exchange.respond(base64(&first).as_bytes());
            let pair = KeyPair { stored_key: vec![1; 32], server_key: vec![2; 32] };
            let keys = Keys { salt: vec![3; 16], iterations: 1, pairs: vec![pair] };
            let ground = Ground { keys, nonce: "n".to_owned(), bound_to: None };
            exchange.answer(Answer::Ground(Box::new(ground)));
            exchange.respond(base64(&last).as_bytes());
            exchange.answer(Answer::Refused);
            exchange.respond(b"");
        }
    }
}
