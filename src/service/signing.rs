//! Signatures (DKIM) on what users submit: which keys sign, and where.
//!
//! SMTP asks for a signer when a user's MAIL is accepted, and for the fields when the message is
//! complete. The relay asks again if it must change a message that we signed. A worker thread makes
//! RSA signatures. When too many wait for it, the shard makes them itself: a millisecond of its
//! time is better than a late message, and both are better than an unsigned one.

use std::sync::Arc;

use crate::{
    dkim::{SharedKeyring, Signer, Unsigned},
    model::Timestamp,
    runtime::worker::WorkerPool,
};

/// What happens to the signatures of a changed message.
#[derive(Clone, Default, Debug)]
pub(super) struct SignedAgain {
    /// The fields that were right before.
    pub stale: Vec<Vec<u8>>,
    /// The new ones, each with its CRLF.
    pub fields: Vec<u8>,
}

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

    /// A message that we signed was changed on its way out. The fields to take out of it, and those
    /// to put on its top; `None` if none of its signatures is ours, or no key is left to sign with.
    pub(super) async fn sign_again(
        &self,
        before: Unsigned,
        after: Unsigned,
        now: Timestamp,
    ) -> Option<SignedAgain> {
        let signers: Vec<Signer> =
            before.signing_domains().iter().filter_map(|domain| self.signer(domain)).collect();
        if signers.is_empty() {
            return None;
        }
        let seconds = u64::try_from(now.0).unwrap_or_default() / 1_000_000;
        let job = Arc::new(move || {
            let mut again = SignedAgain::default();
            for signer in &signers {
                let own = signer.own(&before);
                if !own.is_empty() {
                    again.stale.extend(own);
                    again.fields.extend(signer.sign(&after, seconds));
                }
            }
            again
        });
        let again = match self.workers.as_ref() {
            None => job(),
            Some(workers) => {
                let work = job.clone();
                match workers.try_run(move || work()) {
                    Ok(done) => done.await,
                    Err(_) => job(),
                }
            }
        };
        (!again.fields.is_empty()).then_some(again)
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
