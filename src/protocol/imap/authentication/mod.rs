//! Commands of a client that is not logged in (RFC 3501 6.2): STARTTLS, AUTHENTICATE, LOGIN.

pub mod authenticate;
pub mod login;
pub mod start_tls;
