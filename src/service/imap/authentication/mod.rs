//! Commands of a client that is not logged in (RFC 3501 6.2): STARTTLS, AUTHENTICATE, LOGIN.

mod authenticate;
mod credentials;
mod login;
mod start_tls;
