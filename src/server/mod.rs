//! Puts a server together: data directory, users, certificates, listeners, shards, control thread.

pub mod data_dir;
