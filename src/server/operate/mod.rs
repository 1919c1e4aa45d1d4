//! What operators ask about the queue for other servers, and what they do to it.
//!
//! `request` is what `ringmail queue` sends and gets, `live` answers it in a running server (on the
//! control thread, which asks the shards), `at_rest` from the disk where none runs, and `lines` is
//! how it all looks, for people and for programs. `explain` tells why mail goes where it goes,
//! `trace` what happens now. `acl` is the same for the access lists of mailboxes, `quota` for the
//! limits of accounts.

mod acl;
mod at_rest;
mod explain;
mod lines;
mod live;
mod quota;
mod request;
mod trace;

pub use self::{
    acl::{AclRequest, AclVerb, Place, SHARED, acl_at_rest},
    at_rest::answer_at_rest,
    explain::Subject,
    quota::{QuotaRequest, QuotaVerb},
    request::{IDS_MAX, Line, Request, Verb},
};
pub(super) use acl::answer as answer_acl;
pub(super) use explain::explain;
pub(super) use live::answer;
pub(super) use quota::answer as answer_quota;
pub(super) use trace::trace;
