//! Commands about URLs that say who may use them (RFC 4467).

pub mod gen_url_auth;
pub mod reset_key;
pub mod url_fetch;

/// URLs in one command.
const URLS_MAX: usize = 100;
