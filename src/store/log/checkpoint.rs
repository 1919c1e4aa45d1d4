//! Publishing a checkpoint: from then on a start reads its pages and replays only later entries.
//!
//! Called by the state above the log, one at a time, after it appended the pages and their root.
//! The order matters: root durable, new file durable, and only then are the older files deleted.

use std::io;

use super::super::error::StoreError;
use super::{
    Checkpoint, Log, failed,
    segment::{CheckpointFile, checkpoint_name},
};
use crate::{
    model::Lsn,
    plant::{Plant, planted},
};

impl Log {
    /// Makes `root` the entry from which a start begins, replaying from `replay_from`.
    ///
    /// # Errors
    /// If the log failed, or the small file could not be written; the older checkpoint then stays
    /// valid, and the log goes on.
    pub async fn publish_checkpoint(&self, root: Lsn, replay_from: Lsn) -> Result<(), StoreError> {
        self.durable(root).await?;
        let checkpoint = Checkpoint { root, replay_from };
        let (sequence, durable, scan_from) = {
            let state = &mut *self.0.state.borrow_mut();
            let sequence = state.checkpoint_next;
            state.checkpoint_next += 1;
            state.checkpoint_files.insert(sequence);
            (sequence, Lsn(state.durable), Lsn(state.batch_before(replay_from)))
        };
        let partition = self.0.options.partition;
        let content =
            CheckpointFile { partition, sequence, checkpoint, durable, scan_from }.encode();
        self.write_checkpoint(sequence, content).await?;
        {
            let state = &mut *self.0.state.borrow_mut();
            if sequence > state.checkpoint_sequence {
                state.checkpoint = Some(checkpoint);
                state.checkpoint_sequence = sequence;
            }
            state.probe.checkpoints += 1;
        }
        self.delete_checkpoints_before(sequence).await
    }

    async fn write_checkpoint(&self, sequence: u64, content: Vec<u8>) -> Result<(), StoreError> {
        let device = &self.0.device;
        let size = content.len() as u64;
        let file = device.create(&checkpoint_name(sequence), size).await.map_err(failed)?;
        file.append(0, content).await.0.map_err(failed)?;
        if !planted(Plant::SkipCheckpointSync) {
            file.sync().await.map_err(failed)?;
        }
        device.sync_directory().await.map_err(failed)
    }

    /// The deletions need no sync of their own: an old file that reappears is older than the
    /// newest.
    async fn delete_checkpoints_before(&self, sequence: u64) -> Result<(), StoreError> {
        loop {
            let oldest = {
                let files = &mut self.0.state.borrow_mut().checkpoint_files;
                match files.first().copied().filter(|oldest| *oldest < sequence) {
                    Some(oldest) => files.pop_first().unwrap_or(oldest),
                    None => return Ok(()),
                }
            };
            match self.0.device.delete(&checkpoint_name(oldest)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
}
