//! Recovers an account whose page or message table is damaged from the rest of the log.
//!
//! Called by `paging` when reading an account fails, the only time that the whole log is read for
//! one account. It starts from the newest intact page, then applies every effect found; for a lost
//! run, it takes the messages that their entries in the log still name. Messages named by a
//! surviving expunge stay deleted; flags are those of the latest mod-sequence found. Messages of an
//! unknown mailbox are put into "Recovered". UIDs, mod-sequences and UIDVALIDITY continue well
//! above everything seen. A mailbox with a lost run forgets earlier expunges: some may have been in
//! that run.
//!
//! Nothing is invented: messages without a surviving record are lost, and reported.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashSet;

use super::{
    super::{
        account::{
            namespace::{NameLimits, Namespace},
            page::decode_account,
            state::{AccountCell, AccountState},
            tombstones::Tombstone,
        },
        annotations::{self, Damaged},
        damage::{Damage, Place},
        error::StoreError,
        format::{
            annotations::Rows,
            blocks::BlockRunRef,
            effect::{Effect, LoggedEffects, decode_effects},
            run::{RunRecord, RunRef},
        },
        log::EntryKind,
        message::Message,
    },
    Accounts,
};
use crate::model::{AccountId, Lsn, MailboxId, Uid};

/// Mailbox for messages of unknown mailboxes.
pub(crate) const RECOVERED: &str = "Recovered";

/// What the log has of one account.
#[derive(Default)]
struct Remains {
    /// The newest intact page.
    page: Option<FoundPage>,
    /// Every effect, in order.
    effects: LoggedEffects,
    /// Highest UID named by any entry's header, damaged ones included.
    highest: BTreeMap<MailboxId, Uid>,
}

/// An intact page of the account.
struct FoundPage {
    lsn: Lsn,
    applied: Lsn,
    version: u8,
    payload: Vec<u8>,
}

/// Messages by UID.
type Records = BTreeMap<Uid, Message>;

/// The remains of a mailbox.
#[derive(Default)]
struct Remnant {
    records: Records,
    /// Those in the intact runs.
    tombstones: Vec<Tombstone>,
    /// Whether a run is lost.
    lost: bool,
}

/// UIDs between two intact runs, `low < uid < high`, where the messages of a lost run may have
/// been.
type Window = (u32, u32);

impl Accounts {
    /// Recovers the account from the log. `None` if another task did so meanwhile.
    pub(crate) async fn salvage_account(
        &self,
        id: AccountId,
        why: &StoreError,
    ) -> Result<Option<AccountState>, StoreError> {
        let _turn = self.damages.turn().await;
        if self.cells.borrow().contains_key(&id) {
            return Ok(None);
        }
        self.damages.note(why, Place { account: Some(id), ..Place::default() });
        let remains = self.remains_of(id).await?;
        let (mut state, from) = match &remains.page {
            Some(page) => match decode_account(page.version, page.lsn, &page.payload) {
                Ok(state) => (state, page.applied),
                Err(_) => (AccountState::new(id), Lsn(0)),
            },
            None => (AccountState::new(id), Lsn(0)),
        };
        state.tombstone_limits = self.tombstone_limits;
        for (lsn, effect) in remains.effects.iter().filter(|(lsn, _)| *lsn >= from) {
            let counts = Namespace::concerns(effect)
                || matches!(
                    effect,
                    Effect::Property { .. } | Effect::Keyword { .. } | Effect::Annotations { .. }
                );
            if counts {
                state.stage(*lsn, effect);
                state.publish(*lsn, effect, &mut Vec::new());
            }
        }
        if !state.exists() {
            if remains.effects.is_empty() && remains.page.is_none() {
                // An empty page of an account that nothing else names.
                return Ok(Some(AccountState::new(id)));
            }
            self.create_again(&mut state);
        }
        state.skip_mailbox_numbers();
        self.restore_orphans(&mut state, &remains, from);
        for mailbox in state.names.ids().collect::<Vec<_>>() {
            if mailbox_is_recovered(&state, mailbox) {
                continue;
            }
            let runs = state.mailboxes.get(&mailbox).map_or(Vec::new(), |it| it.runs.clone());
            let remnant = self.remnant_of(&runs, &remains, mailbox, from).await;
            let highest = remains.highest.get(&mailbox).copied().unwrap_or_default();
            if let Some(found) = state.mailboxes.get_mut(&mailbox) {
                found.replace_table(remnant.records.into_values(), highest);
            }
        }
        let highest = state.mailboxes.values().map(|it| it.status.highest_mod_seq).max();
        state.mod_seq = state.mod_seq.max(highest.unwrap_or_default());
        state.pending_mod_seq = state.mod_seq;
        state.skip_numbers();
        state.applied = self.log.durable_lsn();
        state.dirty = true;
        self.checkpoint_wanted.set();
        Ok(Some(state))
    }

    fn create_again(&self, state: &mut AccountState) {
        let mailboxes = self.first_mailboxes(state.id);
        let effect = Effect::Account { account: state.id, mailboxes };
        state.stage(Lsn(0), &effect);
        state.publish(Lsn(0), &effect, &mut Vec::new());
    }

    async fn remains_of(&self, id: AccountId) -> Result<Remains, StoreError> {
        let mut remains = Remains::default();
        self.log
            .survey(&mut |lsn, header, payload| {
                let own = header.account == id;
                if own && header.uid.0 > 0 {
                    let highest = remains.highest.entry(header.mailbox).or_default();
                    *highest = (*highest).max(header.uid);
                }
                let Some(payload) = payload else { return };
                match header.kind {
                    EntryKind::AccountPage if own => {
                        let version = header.version;
                        let applied = decode_account(version, lsn, payload).map(|it| it.applied);
                        let newest = remains.page.as_ref().map_or(Lsn(0), |page| page.applied);
                        if let Ok(applied) = applied
                            && applied >= newest
                        {
                            let payload = payload.to_vec();
                            remains.page = Some(FoundPage { lsn, applied, version, payload });
                        }
                    }
                    EntryKind::Transaction => remains.take(id, lsn, payload),
                    kind if own && kind.is_effect() => remains.take(id, lsn, payload),
                    _ => {}
                }
            })
            .await?;
        remains.effects.sort_by_key(|(lsn, _)| *lsn);
        Ok(remains)
    }

    /// A mailbox's messages: those of its intact runs; those added from `from` on; and, where a run
    /// is lost, those left in the log.
    async fn remnant_of(
        &self,
        runs: &[RunRef],
        remains: &Remains,
        mailbox: MailboxId,
        from: Lsn,
    ) -> Remnant {
        let Remnant { mut records, mut tombstones, mut lost } = Remnant::default();
        let mut windows: Vec<Window> = Vec::new();
        let (mut last, mut open) = (0, false);
        for run in runs {
            let found = match self.read_run(run).await {
                Ok(found) => found,
                Err(error) => {
                    let account = remains.account();
                    self.damages.note(
                        &error,
                        Place { account, mailbox: Some(mailbox), ..Place::default() },
                    );
                    (open, lost) = (true, true);
                    continue;
                }
            };
            for (uid, record) in found {
                // Only new messages show a run's range: it may also change older ones.
                match record {
                    RunRecord::Put(_) => {
                        if std::mem::take(&mut open) {
                            windows.push((last, uid.0));
                        }
                        last = last.max(uid.0);
                    }
                    RunRecord::Expunged { mod_seq } => tombstones.push((mod_seq, uid)),
                    RunRecord::Flags { .. } => {}
                }
                put(&mut records, uid, record);
            }
            self.executor.yield_now().await;
        }
        if open {
            windows.push((last, u32::MAX));
        }
        remains.add(&mut records, mailbox, from, &windows);
        Remnant { records, tombstones, lost }
    }

    /// Recovers a mailbox's table if one of its runs, or their count, is damaged.
    pub(crate) async fn salvage_table(
        &self,
        cell: &AccountCell,
        id: MailboxId,
        runs: &[RunRef],
        why: &StoreError,
    ) -> Result<(), StoreError> {
        let _turn = self.damages.turn().await;
        let account = cell.state.borrow().id;
        let place = Place { account: Some(account), mailbox: Some(id), ..Place::default() };
        self.damages.note(why, place);
        let remains = self.remains_of(account).await?;
        // Changes since the page are in the delta.
        let Remnant { mut records, tombstones, lost } =
            self.remnant_of(runs, &remains, id, Lsn(u64::MAX)).await;
        let mut state = cell.state.borrow_mut();
        let mailbox = state.mailboxes.get_mut(&id).ok_or(StoreError::NoSuchMailbox)?;
        if mailbox.loaded.is_some() || mailbox.runs != runs {
            return Ok(());
        }
        for (uid, record) in mailbox.changes().flatten() {
            put(&mut records, *uid, *record);
        }
        let before = mailbox.status.messages;
        let floor = mailbox.tombstones.floor();
        mailbox.replace_table(records.into_values(), Uid(0));
        if !lost {
            // Only new messages are added to a mailbox whose table is not loaded.
            mailbox.restore_tombstones(floor, &tombstones);
        }
        let after = mailbox.status.messages;
        state.dirty = true;
        state.holding.set(None);
        drop(state);
        if after < before {
            let what = format!("{} of {before} messages have no record left", before - after);
            let segment = "log".to_owned();
            self.damages.note_loss(Damage { segment, offset: 0, what, place });
        }
        self.checkpoint_wanted.set();
        Ok(())
    }

    /// Replaces a damaged run of a mailbox's annotations by what the log still has of its messages.
    ///
    /// # Errors
    /// `damaged`'s, if it is not damage; others like those of reads.
    pub(crate) async fn salvage_annotations(
        &self,
        cell: &AccountCell,
        id: MailboxId,
        damaged: Damaged,
    ) -> Result<(), StoreError> {
        if !matches!(damaged.error, StoreError::Corrupt { .. }) {
            return Err(damaged.error);
        }
        let _turn = self.damages.turn().await;
        let account = cell.state.borrow().id;
        // Runs newer than the damaged one, oldest first; `None` once that is gone.
        let newer = |state: &AccountState| -> Option<Vec<BlockRunRef>> {
            let runs = state.mailboxes.get(&id)?.annotations.as_ref()?.runs();
            let at = runs.iter().position(|run| *run == damaged.run)?;
            Some(runs.iter().skip(at + 1).copied().collect())
        };
        // Otherwise another task replaced it, or it was merged meanwhile.
        if newer(&cell.state.borrow()).is_none() {
            return Ok(());
        }
        let place = Place { account: Some(account), mailbox: Some(id), ..Place::default() };
        self.damages.note(&damaged.error, place);
        let mut lost = vec![damaged.run];
        let uids = damaged.run.first..=damaged.run.last;
        // The latest value of each that the log has, and its entry.
        let mut found: BTreeMap<(Uid, u32), (Lsn, Option<Bytes>)> = BTreeMap::new();
        for (lsn, effect) in &self.remains_of(account).await?.effects {
            if let Effect::Annotations { mailbox, uid, values, .. } = effect
                && *mailbox == id
                && uids.contains(uid)
            {
                for (number, value) in values {
                    found.insert((*uid, *number), (*lsn, value.clone()));
                }
            }
        }
        // Checkpoints may write more runs meanwhile.
        let mut looked_at: Vec<BlockRunRef> = Vec::new();
        let mut state = loop {
            let run = {
                let state = cell.state.borrow_mut();
                let Some(newer) = newer(&state) else { return Ok(()) };
                match newer.into_iter().find(|run| !looked_at.contains(run)) {
                    Some(run) => run,
                    None => break state,
                }
            };
            looked_at.push(run);
            match annotations::read(&self.log, &[run], uids.clone()).await {
                Ok(rows) => {
                    for (place, value) in rows {
                        // Entries after a run are not in it.
                        if found.get(&place).is_none_or(|(lsn, _)| *lsn < run.lsn) {
                            found.insert(place, (run.lsn, value));
                        }
                    }
                }
                Err(Damaged { run, error: StoreError::Corrupt { .. } }) => lost.push(run),
                // It may be readable later.
                Err(Damaged { error, .. }) => return Err(error),
            }
        };
        let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(()) };
        let rows: Rows = found.into_iter().map(|(place, (_, value))| (place, value)).collect();
        for run in lost {
            let given_up = mailbox
                .change_annotations(|annotations| annotations.give_up(run.lsn, rows.clone()));
            given_up.iter().for_each(|run| self.log.release(run.lsn, run.entry_len));
        }
        state.dirty = true;
        self.checkpoint_wanted.set();
        Ok(())
    }

    /// Adds messages of unknown mailboxes, unless the mailbox's deletion was found.
    fn restore_orphans(&self, state: &mut AccountState, remains: &Remains, from: Lsn) {
        let mut deleted = HashSet::new();
        let mut orphaned: BTreeMap<MailboxId, ()> = BTreeMap::new();
        for (lsn, effect) in &remains.effects {
            match effect {
                Effect::DeleteMailbox { mailbox, .. } => drop(deleted.insert(*mailbox)),
                Effect::Message { mailbox, .. }
                    if *lsn >= from && !state.names.contains(*mailbox) =>
                {
                    orphaned.insert(*mailbox, ());
                }
                _ => {}
            }
        }
        let mut found: Vec<Message> = Vec::new();
        for mailbox in orphaned.into_keys().filter(|mailbox| !deleted.contains(mailbox)) {
            let mut records = Records::new();
            remains.add(&mut records, mailbox, from, &[]);
            found.extend(records.into_values());
        }
        if found.is_empty() {
            return;
        }
        let limits = NameLimits { name_max: usize::MAX, mailboxes_max: usize::MAX };
        if let Ok(new) = state.names.plan_create(RECOVERED, None, limits) {
            for mailbox in new {
                let effect = Effect::CreateMailbox { account: state.id, mailbox };
                state.stage(Lsn(0), &effect);
                state.publish(Lsn(0), &effect, &mut Vec::new());
            }
        }
        let Some(recovered) = state.names.find(RECOVERED) else { return };
        let Some(mailbox) = state.mailboxes.get_mut(&recovered) else { return };
        let first = mailbox.status.uid_next.0;
        let numbered = found.into_iter().zip(first..).map(|(message, uid)| {
            // Keyword bits refer to another mailbox's table.
            let flags =
                crate::model::FlagSet { system: message.flags.system, ..Default::default() };
            Message { uid: Uid(uid), flags, ..message }
        });
        mailbox.replace_table(numbered, Uid(0));
    }
}

/// Whether "Recovered" was created just now, with its messages in place.
fn mailbox_is_recovered(state: &AccountState, mailbox: MailboxId) -> bool {
    state.names.find(RECOVERED) == Some(mailbox)
        && state
            .mailboxes
            .get(&mailbox)
            .is_some_and(|it| it.runs.is_empty() && !it.delta.is_empty())
}

fn put(records: &mut Records, uid: Uid, record: RunRecord) {
    match record {
        RunRecord::Put(message) => drop(records.insert(uid, message)),
        RunRecord::Flags { flags, mod_seq } => {
            if let Some(message) = records.get_mut(&uid) {
                (message.flags, message.mod_seq) = (flags, mod_seq);
            }
        }
        RunRecord::Expunged { .. } => drop(records.remove(&uid)),
    }
}

impl Remains {
    fn account(&self) -> Option<AccountId> {
        self.effects.first().and_then(|(_, effect)| effect.account())
    }

    fn take(&mut self, id: AccountId, lsn: Lsn, payload: &[u8]) {
        // Content of another version has stopped the start; here it is skipped.
        let _ = decode_effects(lsn, payload, |effect| {
            if effect.account() == Some(id) {
                self.effects.push((lsn, effect));
            }
        });
    }

    /// Adds to `records` the messages of `mailbox` that were added from `from` on or are in a
    /// window; then applies every surviving flag change and expunge, of any time.
    fn add(&self, records: &mut Records, mailbox: MailboxId, from: Lsn, windows: &[Window]) {
        let in_window = |uid: Uid| windows.iter().any(|(low, high)| uid.0 > *low && uid.0 < *high);
        for (lsn, effect) in &self.effects {
            if let Effect::Message { mailbox: of, message, .. } = effect
                && *of == mailbox
                && (*lsn >= from || in_window(message.uid))
            {
                records.entry(message.uid).or_insert(*message);
            }
        }
        for (_, effect) in &self.effects {
            match effect {
                Effect::Flags { mailbox: of, mod_seq, groups, .. } if *of == mailbox => {
                    for (flags, uids) in groups {
                        for uid in uids {
                            if let Some(message) = records.get_mut(uid)
                                && message.mod_seq < *mod_seq
                            {
                                (message.flags, message.mod_seq) = (*flags, *mod_seq);
                            }
                        }
                    }
                }
                Effect::Expunge { mailbox: of, uids, .. } if *of == mailbox => {
                    for uid in uids {
                        records.remove(uid);
                    }
                }
                _ => {}
            }
        }
    }
}
