//! Commands of a client that is not logged in (RFC 3501 6.2).

pub(super) mod authenticate;
