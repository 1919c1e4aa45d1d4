//! Bearer tokens: what a client sends as one, sets of keys, and answers of an issuer. Nothing
//! panics, and no token counts that nobody here has signed.
#![no_main]

use std::sync::{Arc, OnceLock};

use futures_lite::future::block_on;
use libfuzzer_sys::fuzz_target;
use ringmail::{
    directory::{TokenError, TokenOptions, TokenServer, Tokens},
    runtime::LocalFuture,
};

/// The public keys of RFC 7517 A.1.
const KEYS: &str = r#"{"keys":[
{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
 "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"},
{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}]}"#;

/// Has nothing new to say.
struct Silent;

impl TokenServer for Silent {
    fn get_keys(&self) -> Option<LocalFuture<'static, ()>> {
        Some(Box::pin(async {}))
    }

    fn introspect(&self, _: &str) -> Option<LocalFuture<'static, Result<String, TokenError>>> {
        Some(Box::pin(async { Err(TokenError::Refused("it is not known")) }))
    }
}

fn tokens() -> Tokens {
    let options = TokenOptions {
        issuer: "https://id.example.org".to_owned(),
        audience: "mail".to_owned(),
        claim: "email".to_owned(),
        has_keys: true,
        introspects: true,
    };
    Tokens::new(options, Arc::new(Silent))
}

fuzz_target!(|input: &[u8]| {
    static TOKENS: OnceLock<Tokens> = OnceLock::new();
    let known = TOKENS.get_or_init(|| {
        let tokens = tokens();
        assert_eq!(tokens.set_keys(KEYS.as_bytes()), Ok(2));
        tokens
    });
    let Some((&first, rest)) = input.split_first() else { return };
    match first % 3 {
        0 => {
            if let Ok(token) = std::str::from_utf8(rest) {
                assert!(block_on(known.name_of(token)).is_err());
            }
        }
        1 => drop(tokens().set_keys(rest)),
        _ => drop(known.introspected(rest, 1_000_000)),
    }
});
