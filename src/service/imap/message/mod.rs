//! Commands on messages of the selected mailbox (RFC 3501 6.4.3 to 6.4.7): SEARCH, SORT, THREAD,
//! CANCELUPDATE, FETCH, STORE, COPY, MOVE, EXPUNGE.

mod cancel_update;
mod copy;
mod expunge;
mod fetch;
mod limit;
mod replace;
mod results;
mod search;
mod sort;
mod store;
mod thread;
mod uid_batches;
