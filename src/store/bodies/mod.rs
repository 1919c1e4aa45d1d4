//! Octets of messages on their way into the log and back out.
//!
//! A body of up to `BODY_CHUNK` is inside its commit entry; a longer one is written as chunk
//! entries while it arrives, so that a session never holds more than one chunk of it, and the
//! commit entry lists them (`format::body`). Where it pays, a body or each chunk of it is
//! compressed; lengths elsewhere are uncompressed ones.
//!
//! `write` takes a body in pieces, `read` returns it. [`Bodies`] is the state shared by the bodies
//! of one partition: the entries read last, the unreferenced chunks, counters. Shard-local.

pub mod compression;
pub(crate) mod read;
pub(crate) mod write;

use std::{cell::RefCell, rc::Rc};

use self::{
    compression::{BodyCounters, Compression},
    read::{EntryCache, RecentSummaries},
    write::{REASSEMBLED_MAX, StagedChunks},
};
use super::{admission::Admission, damage::Damages, log::Log};
use crate::runtime::wait::Permits;
use crate::{model::Lsn, runtime::executor::Executor};

/// The bodies of one partition. Readers and writers of bodies hold it.
pub(super) struct Bodies {
    log: Log,
    executor: Rc<dyn Executor>,
    admission: Rc<Admission>,
    damages: Rc<Damages>,
    /// How new ones are compressed; `None`: not at all.
    compression: Option<Compression>,
    cache: EntryCache,
    staging: RefCell<StagedChunks>,
    /// Limits how many are reassembled at a time.
    reassembly: Rc<Permits>,
    /// Summaries of recent messages.
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

    /// The log was reopened: bodies begun before are refused, because some of their chunks may not
    /// have been written, and entries read from the log's end may have been replaced.
    pub(super) fn reset(&self) {
        self.staging.borrow_mut().clear();
        self.cache.clear();
        self.recent.take();
    }

    /// The chunks without a reference so far, with the bytes each takes in the log.
    pub(super) fn staged_chunks(&self) -> Vec<(Lsn, u32)> {
        self.staging.borrow().values().flatten().copied().collect()
    }
}
