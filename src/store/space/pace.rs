//! How fast compaction goes: it shares the shard and the disk with mail. Used by `compaction` and
//! its mark pass; one for each cycle. Shard-local.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::super::{
    error::StoreError,
    log::{Log, time_for},
};
use crate::runtime::executor::Executor;

/// Bytes after which the background task pauses.
pub(crate) const STEP: u64 = 256 * 1024;

/// How long the end of the partition may go unnoticed during a pause.
const REST_MAX: Duration = Duration::from_millis(50);

/// Paces a cycle: limited bytes between two pauses, a limited rate overall.
pub(crate) struct Pace {
    executor: Rc<dyn Executor>,
    log: Log,
    stopped: Rc<Cell<bool>>,
    /// Bytes a second; 0 means as fast as the shares allow.
    rate: u64,
    debt: u64,
}

impl Pace {
    /// Until `stopped` is set, or `log` is in trouble.
    pub(crate) fn new(
        executor: Rc<dyn Executor>,
        log: Log,
        stopped: Rc<Cell<bool>>,
        rate: u64,
    ) -> Pace {
        Pace { executor, log, stopped, rate, debt: 0 }
    }

    /// Whether to go on: not when the partition ends or the log is in trouble.
    pub(crate) fn go_on(&self) -> bool {
        !self.stopped.get() && self.log.trouble().is_none()
    }

    /// `bytes` were read or written: yields.
    ///
    /// # Errors
    /// `Poisoned` if the cycle is to end now.
    pub(crate) async fn spent(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.debt += bytes;
        if self.rate > 0 && self.debt >= STEP {
            let mut left = time_for(self.debt, self.rate);
            self.debt = 0;
            while !left.is_zero() && self.go_on() {
                let rest = left.min(REST_MAX);
                self.executor.sleep(rest).await;
                left -= rest;
            }
        } else {
            self.executor.yield_now().await;
        }
        if self.go_on() { Ok(()) } else { Err(StoreError::Poisoned) }
    }
}
