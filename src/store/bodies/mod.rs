//! Octets of messages on their way into the log and back out.
//!
//! A body up to `BODY_CHUNK` lies inside its commit entry; a longer one is written as chunk entries while
//! it arrives, so that a session never holds more than one chunk of it, and the commit entry lists them
//! (`format::body`). Where it pays, a body or each chunk of it is compressed; what is said of lengths
//! elsewhere is said of the body as it came.
//!
//! `write` takes a body in pieces, `read` gives it back. [`Bodies`] is what those of one partition share:
//! the entries read last, the chunks that nothing refers to yet, counters. Shard-local.

pub mod compression;
pub(crate) mod read;
pub(crate) mod write;

use std::{cell::RefCell, rc::Rc};

use self::{
    compression::{BodyCounters, Compression},
    read::{EntryCache, RecentSummaries},
    write::{REASSEMBLED_MAX, StagedChunks},
};
use super::{admission::Admission, damage::Damages, log::Log, signal::Permits};
use crate::{model::Lsn, runtime::executor::Executor};

/// The bodies of one partition. What is on its way in or out holds on to it.
pub(super) struct Bodies {
    log: Log,
    executor: Rc<dyn Executor>,
    admission: Rc<Admission>,
    damages: Rc<Damages>,
    /// How those that come are made smaller; `None`: kept as they came.
    compression: Option<Compression>,
    cache: EntryCache,
    staging: RefCell<StagedChunks>,
    /// Bounds how many are put together again at a time.
    reassembly: Rc<Permits>,
    /// Of messages that came lately.
    recent: RefCell<RecentSummaries>,
    pub(super) counters: BodyCounters,
}

impl Bodies {
    pub(super) fn new(
        log: Log,
        executor: Rc<dyn Executor>,
        admission: Rc<Admission>,
        damages: Rc<Damages>,
        compression: Option<Compression>,
    ) -> Bodies {
        Bodies {
            log,
            executor,
            admission,
            damages,
            compression,
            cache: EntryCache::default(),
            staging: RefCell::default(),
            reassembly: Rc::new(Permits::new(REASSEMBLED_MAX)),
            recent: RefCell::default(),
            counters: BodyCounters::default(),
        }
    }

    /// The log was opened again: bodies begun before are refused, of their chunks some may never have
    /// been written, and what was read of the log's end may be another by now.
    pub(super) fn reset(&self) {
        self.staging.borrow_mut().clear();
        self.cache.clear();
        self.recent.take();
    }

    /// The chunks that nothing refers to yet, with the bytes each takes in the log.
    pub(super) fn staged_chunks(&self) -> Vec<(Lsn, u32)> {
        self.staging.borrow().values().flatten().copied().collect()
    }
}
