//! Commands about URLs that say who may use them (RFC 4467).

mod gen_url_auth;
mod reset_key;
mod url_fetch;

use super::{reply::Failure, state::Session};
use crate::{protocol::imap::Code, store::UrlKey};

/// A new key for a mailbox. The executor's numbers cannot be foretold.
fn fresh_key(session: &Session) -> UrlKey {
    let mut key = UrlKey::default();
    for octets in key.chunks_exact_mut(size_of::<u64>()) {
        octets.copy_from_slice(&session.channel.shard.executor.random().to_le_bytes());
    }
    key
}

fn unknown_mechanism() -> Failure {
    Failure::no(Code::Cannot, "The only mechanism is INTERNAL")
}
