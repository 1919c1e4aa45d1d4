//! Signatures (DKIM) on what users submit: which keys sign, and where.
//!
//! SMTP asks for a signer when a user's MAIL is accepted, and for the fields when the message is
//! complete. An RSA signature is made by a worker thread. When too many wait there, the shard makes
//! it itself: late is worse than a millisecond, and unsigned is worse than both.

use std::sync::Arc;

use crate::{
    dkim::{SharedKeyring, Signer, Unsigned},
    model::Timestamp,
    runtime::worker::WorkerPool,
};

/// A shard's handle on the keys. By default there are none.
#[derive(Clone, Default)]
pub struct Signing {
    keys: Arc<SharedKeyring>,
    workers: Option<WorkerPool>,
}

impl Signing {
    pub fn new(keys: Arc<SharedKeyring>, workers: WorkerPool) -> Signing {
        Signing { keys, workers: Some(workers) }
    }

    /// Signs for `domain`, if there is a key for it.
    pub(super) fn signer(&self, domain: &str) -> Option<Signer> {
        self.keys.signer(domain)
    }

    /// The fields for the top of the message, each with its CRLF.
    pub(super) async fn sign(&self, signer: Signer, message: Unsigned, now: Timestamp) -> Vec<u8> {
        let seconds = u64::try_from(now.0).unwrap_or_default() / 1_000_000;
        let Some(workers) = self.workers.as_ref().filter(|_| signer.is_slow()) else {
            return signer.sign(&message, seconds);
        };
        let message = Arc::new(message);
        let job = (signer.clone(), message.clone());
        match workers.try_run(move || job.0.sign(&job.1, seconds)) {
            Ok(signed) => signed.await,
            Err(_) => signer.sign(&message, seconds),
        }
    }
}
