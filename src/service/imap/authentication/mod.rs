//! Commands in the not authenticated state (RFC 3501 6.2): STARTTLS, AUTHENTICATE, LOGIN.

mod authenticate;
mod credentials;
mod login;
mod start_tls;
