//! DKIM signatures (RFC 6376, RFC 8463) on what our users send.
//!
//! A submission pushes the message through a [`MessageDigest`] while it passes to the store: the
//! header is kept, up to a limit, and the body is only hashed. At its end a [`Signer`] makes one
//! `DKIM-Signature` field for each key of the sender's domain, for the message's prologue. Two keys
//! at once are how keys are changed: the new record is published, both sign, and later the old one
//! goes.
//!
//! An RSA signature takes most of a millisecond, so services have it made by a worker thread.
//! [`KeyFolder`] is where the keys lie; the server reads all of them at the start and on reload
//! into a [`Keyring`], which is immutable and shared.
//!
//! Both canonicalizations are "relaxed", and the fields that a reader sees are signed once more
//! than they are there, so that nobody can add another (RFC 6376 8.15).

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod canonical;
mod digest;
mod folder;
mod key;
mod signer;

pub use self::{
    digest::{BodyHash, MessageDigest, Unsigned},
    folder::{DkimError, KeyFolder, Keyring, SharedKeyring, StoredKey},
    key::{Algorithm, DkimKey},
    signer::Signer,
};
