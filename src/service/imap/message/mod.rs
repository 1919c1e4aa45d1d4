//! Commands on messages of the selected mailbox (RFC 3501 6.4.3 to 6.4.7): SEARCH, FETCH, STORE,
//! COPY, MOVE, EXPUNGE.

mod binary;
mod copy;
mod expunge;
mod fetch;
mod replace;
mod search;
mod search_key;
mod store;
mod uid_batches;

use super::reader;
