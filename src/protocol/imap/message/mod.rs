//! Commands on messages of the selected mailbox (RFC 3501 6.4.3 to 6.4.7): SEARCH, SORT, THREAD,
//! CANCELUPDATE, FETCH, STORE, COPY, MOVE, EXPUNGE, UIDBATCHES. Those that name messages by numbers
//! have a `UID` form (RFC 3501 6.4.8).

pub mod cancel_update;
pub mod copy;
pub mod expunge;
pub mod fetch;
pub mod replace;
pub mod returns;
pub mod search;
pub mod sort;
pub mod store;
pub mod thread;
pub mod uid_batches;
