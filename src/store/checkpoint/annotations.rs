//! The annotations' part of a checkpoint: changes go to runs, which are merged while they are short
//! and rewritten when much of them is garbage.
//!
//! Most of it happens before an account is captured, in pieces: a run holds published values
//! without a time, so it may be written at any time. Changes published between the last piece and
//! the capture follow with the capture.

use std::{ops::RangeInclusive, rc::Rc};

use super::{Checkpoints, newest};
use crate::{
    model::{AccountId, MailboxId, Uid},
    plant::{Plant, planted},
    store::{
        account::{
            annotations::MailboxAnnotations,
            mailbox::Mailbox,
            state::{AccountCell, AccountState},
        },
        annotations::{Damaged, make_run, read},
        error::StoreError,
        format::{
            annotations::Rows,
            blocks::{BlockRunRef, MadeRun},
        },
        log::{EntryHeader, EntryKind, entry_len},
    },
};

/// Octets of changes written at once: a millisecond of work.
const PIECE: usize = 256 * 1024;
/// Messages whose annotations are rewritten at once.
const REWRITTEN_AT_ONCE: usize = 512;
const ALL: RangeInclusive<Uid> = Uid(0)..=Uid(u32::MAX);

impl Checkpoints {
    /// Writes the changed annotations of a mailbox, and rewrites all of them if much of the runs is
    /// garbage.
    pub(super) async fn write_annotations(
        &self,
        cell: &Rc<AccountCell>,
        id: MailboxId,
    ) -> Result<(), StoreError> {
        loop {
            let (joined, wants_rewrite) = {
                let state = cell.state.borrow();
                let Some((annotations, messages)) = annotations_of(&state, id) else {
                    return Ok(());
                };
                if !annotations.has_changes() {
                    break;
                }
                let count = annotations.to_join(annotations.changed_octets().min(PIECE));
                (newest(annotations.runs(), count).to_vec(), annotations.wants_rewrite(messages))
            };
            // Then merging is of no use.
            let joined = if wants_rewrite { Vec::new() } else { joined };
            let (joined, older) = match read(&self.log, &joined, ALL).await {
                Ok(rows) => (joined, rows),
                // One bad sector must not keep the whole partition from its checkpoints.
                Err(Damaged { error: StoreError::Io(_), .. }) => Default::default(),
                Err(damaged) => {
                    self.accounts.salvage_annotations(cell, id, damaged).await?;
                    continue;
                }
            };
            self.room().await?;
            {
                let state = &mut *cell.state.borrow_mut();
                let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(()) };
                if mailbox.annotations.as_ref().is_some_and(|it| it.runs().ends_with(&joined)) {
                    self.append_annotations(state.id, id, mailbox, &joined, older)?;
                }
            }
            self.executor.yield_now().await;
        }
        self.rewrite_annotations(cell, id).await
    }

    /// Writes the remaining changes to a run of their own. Does not await.
    pub(super) fn append_annotations_left(
        &self,
        state: &mut AccountState,
    ) -> Result<(), StoreError> {
        let account = state.id;
        for (id, mailbox) in &mut state.mailboxes {
            while mailbox.annotations.as_ref().is_some_and(|it| it.has_changes()) {
                self.append_annotations(account, *id, mailbox, &[], Rows::new())?;
            }
        }
        Ok(())
    }

    /// Writes the first changes of a mailbox over the rows of its newest runs, which are those in
    /// `joined`.
    fn append_annotations(
        &self,
        account: AccountId,
        id: MailboxId,
        mailbox: &mut Mailbox,
        joined: &[BlockRunRef],
        mut rows: Rows,
    ) -> Result<(), StoreError> {
        let Some(annotations) = &mut mailbox.annotations else { return Ok(()) };
        let oldest = annotations.runs().len() == joined.len();
        let changes = annotations.take_changes(PIECE);
        if !planted(Plant::LoseAnnotations) {
            rows.extend(changes.clone());
        }
        if oldest {
            // There are no older rows for them to hide.
            rows.retain(|_, value| value.is_some());
        }
        if let Some(loaded) = &mailbox.loaded {
            rows.retain(|(uid, _), _| loaded.table.by_uid(*uid).is_some());
        }
        let run = match self.append_annotation_run(account, id, &rows) {
            Ok(run) => run,
            Err(error) => {
                annotations.put_under(changes);
                return Err(error);
            }
        };
        let replaced = annotations.add(joined.len(), run.into_iter().collect());
        self.release_cards(replaced);
        mailbox.change_annotations(|_| ());
        Ok(())
    }

    fn append_annotation_run(
        &self,
        account: AccountId,
        id: MailboxId,
        rows: &Rows,
    ) -> Result<Option<BlockRunRef>, StoreError> {
        let Some(MadeRun { payload, first, last, rows }) = make_run(rows) else { return Ok(None) };
        let header = EntryHeader::new(EntryKind::AnnotationRun, account, id, Uid(0));
        let lsn = self.append(header, &payload)?;
        let entry_len = entry_len(payload.len()) as u32;
        Ok(Some(BlockRunRef { lsn, entry_len, first, last, rows }))
    }

    /// Rewrites all annotations of a mailbox's messages, if that pays.
    async fn rewrite_annotations(
        &self,
        cell: &Rc<AccountCell>,
        id: MailboxId,
    ) -> Result<(), StoreError> {
        let wanted = |state: &AccountState| {
            annotations_of(state, id).is_some_and(|(it, messages)| it.wants_rewrite(messages))
        };
        if !wanted(&cell.state.borrow()) {
            return Ok(());
        }
        match self.accounts.ensure_table(cell, id).await {
            Err(StoreError::NoSuchMailbox) => return Ok(()),
            loaded => loaded?,
        }
        let (older, loaded) = {
            let state = cell.state.borrow();
            let Some((annotations, _)) = annotations_of(&state, id) else { return Ok(()) };
            let loaded = state.mailboxes.get(&id).and_then(|mailbox| mailbox.loaded.clone());
            (annotations.runs().to_vec(), loaded)
        };
        let Some(loaded) = loaded else { return Ok(()) };
        let account = cell.state.borrow().id;
        let (mut runs, mut rows, mut octets) = (Vec::new(), Rows::new(), 0);
        let mut from = Uid(0);
        loop {
            let piece = loaded.table.iter_from(loaded.table.lower_bound(from));
            let piece: Vec<Uid> = piece.take(REWRITTEN_AT_ONCE).map(|it| it.uid).collect();
            let (Some(first), Some(last)) = (piece.first(), piece.last()) else { break };
            from = Uid(last.0.saturating_add(1));
            let found = match read(&self.log, &older, *first..=*last).await {
                Ok(found) => found,
                // The next checkpoint writes them.
                Err(Damaged { error: StoreError::Io(_), .. }) => return Ok(()),
                Err(damaged) => return self.accounts.salvage_annotations(cell, id, damaged).await,
            };
            for (place, value) in found {
                if value.is_some() && piece.binary_search(&place.0).is_ok() {
                    octets += value.as_ref().map_or(0, |value| value.len());
                    rows.insert(place, value);
                }
            }
            if octets >= PIECE {
                self.room().await?;
                runs.extend(self.append_annotation_run(account, id, &rows)?);
                (rows, octets) = (Rows::new(), 0);
            }
            self.executor.yield_now().await;
        }
        self.room().await?;
        runs.extend(self.append_annotation_run(account, id, &rows)?);
        let mut state = cell.state.borrow_mut();
        let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(()) };
        let replaced = mailbox.change_annotations(|annotations| annotations.replace(&older, runs));
        self.release_cards(replaced);
        Ok(())
    }
}

/// The annotations of a mailbox that has any, and its number of messages.
fn annotations_of(state: &AccountState, id: MailboxId) -> Option<(&MailboxAnnotations, u32)> {
    let mailbox = state.mailboxes.get(&id)?;
    Some((mailbox.annotations.as_deref()?, mailbox.status.messages))
}
