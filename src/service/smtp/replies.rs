//! Replies that say what we want, not what is legal: those are `protocol::smtp::reply`'s.

use crate::protocol::smtp::Reply;

/// The directory does not answer, so whether there is such a user is not known.
pub(super) const DIRECTORY_TROUBLE: Reply =
    Reply("451 4.3.0 The directory does not answer, try again later");
/// RFC 4954 6.
pub(super) const AUTH_TEMPORARY: Reply = Reply("454 4.7.0 Temporary authentication failure");
