//! A change that was decided and logged, and whose outcome is not known yet.

use std::rc::Rc;

use super::super::{bodies::write::StagedBody, commits::Commits, error::StoreError};
use crate::model::Lsn;

/// Whoever decided on a change may go on with the next one, and asks this before he reports it.
#[must_use = "nothing is done before it is durable"]
pub struct Unsettled {
    commits: Rc<Commits>,
    /// The log's generation when the change began, if it has several entries: some may be lost.
    began: u64,
    /// The log's generation at the last entry: later an LSN may name another entry.
    generation: u64,
    /// The last entry of the change; `None` if there was nothing to change, ever.
    last: Option<Lsn>,
    /// Keeps the chunks of the body until a published message refers to them.
    _body: Option<StagedBody>,
}

impl Unsettled {
    pub(super) fn new(
        commits: Rc<Commits>,
        last: Option<Lsn>,
        body: Option<StagedBody>,
    ) -> Unsettled {
        let generation = commits.log.generation();
        Unsettled { commits, began: generation, generation, last, _body: body }
    }

    /// For a change that began when the log had this generation.
    pub(super) fn since(commits: Rc<Commits>, began: u64, last: Option<Lsn>) -> Unsettled {
        let generation = commits.log.generation();
        Unsettled { commits, began, generation, last, _body: None }
    }

    /// Resolves when the change is durable and published. Cancel-safe, and may be asked again.
    ///
    /// # Errors
    /// If it is not known to be durable, and never will be: its log failed.
    pub async fn settled(&self) -> Result<(), StoreError> {
        if let Some(last) = self.last {
            self.check_log(self.generation)?;
            self.commits.acknowledged(last).await?;
        }
        self.check_log(self.began)
    }

    fn check_log(&self, generation: u64) -> Result<(), StoreError> {
        match self.commits.log.generation() == generation {
            true => Ok(()),
            false => Err(StoreError::Poisoned),
        }
    }
}
