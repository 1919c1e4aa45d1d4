//! IMAP as a whole against models, also with mistakes planted.

mod shared_model;
