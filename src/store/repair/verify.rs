//! Checks a partition down to the last byte: every file, every account's tables and counters, every
//! message's body, and the number of references to each body.
//!
//! Called by `ringmail verify`. Works on an open partition, in the background and at the rate of
//! compaction, so that sessions hardly notice. Damage found on the way is salvaged in memory, as
//! for any reader; nothing is written here.

use hashbrown::HashMap;

use super::{
    super::{
        account::{
            mailbox::Mailbox, namespace::MailboxInfo, snapshot::Snapshot, state::AccountCell,
        },
        annotations,
        commits::standing::Spooled,
        damage::{Damage, Place},
        error::StoreError,
        format::blocks::BlockRunRef,
        log::{Checked, EntryKind, Flaw, time_for},
        message::{MailboxStatus, Message, MessageBody},
    },
    reopen::Repair,
};
use crate::model::{AccountId, Flags, Lsn, MailboxId, Uid};

/// Findings that are listed; further ones are only counted.
const FINDINGS_MAX: usize = 10_000;
/// Bodies whose references are counted: 24 bytes each.
const BODIES_MAX: usize = 4 << 20;
/// Bytes of bodies after which it pauses.
const REST_AFTER: u64 = 256 * 1024;
/// Bytes of a body read at once.
const READ_SIZE: usize = 1 << 20;

/// One damaged place, and whose it is if known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub file: String,
    pub offset: u64,
    pub what: String,
    pub account: Option<AccountId>,
    pub folder: Option<String>,
    pub uid: Option<Uid>,
}

/// What [`Partition::verify`](super::Partition::verify) checked and found.
#[derive(Clone, Default, Debug)]
pub struct VerifyReport {
    pub checked: Checked,
    pub accounts: u64,
    pub folders: u64,
    pub messages: u64,
    /// Messages that cannot be read.
    pub messages_damaged: u64,
    /// Messages that wait for delivery.
    pub queued: u64,
    /// Different bodies, and their bytes.
    pub bodies: u64,
    pub body_bytes: u64,
    /// References to them.
    pub references: u64,
    /// Bytes that storing each body once saves.
    pub shared_bytes: u64,
    /// False if there were too many bodies to count references.
    pub recounted: bool,
    pub findings: Vec<Finding>,
    pub findings_total: u64,
}

impl VerifyReport {
    /// A place is listed once for each message in it; without an owner only if none is known.
    fn find(&mut self, finding: Finding) {
        let here = |other: &&mut Finding| {
            other.file == finding.file
                && other.offset == finding.offset
                && ((other.uid, other.account) == (finding.uid, finding.account)
                    || other.account.is_none()
                    || finding.account.is_none())
        };
        if let Some(known) = self.findings.iter_mut().find(here) {
            if known.account.is_none() && finding.account.is_some() {
                *known = finding;
            }
            return;
        }
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn find_error(
        &mut self,
        error: StoreError,
        account: Option<AccountId>,
        folder: Option<&str>,
        uid: Option<Uid>,
    ) -> Result<(), StoreError> {
        let StoreError::Corrupt { segment: file, offset, what } = error else { return Err(error) };
        let folder = folder.map(str::to_owned);
        self.find(Finding { file, offset, what, account, folder, uid });
        Ok(())
    }
}

/// The number of references to each body.
#[derive(Default)]
struct References {
    counts: HashMap<Lsn, (u64, u64)>,
    full: bool,
    /// Bytes of bodies read since the last pause.
    unrested: u64,
}

impl References {
    fn count(&mut self, body: &MessageBody) {
        if self.counts.len() >= BODIES_MAX && !self.counts.contains_key(&body.lsn) {
            self.full = true;
            return;
        }
        self.counts.entry(body.lsn).or_insert((0, body.size)).0 += 1;
    }
}

impl Repair {
    /// Approximate number of bytes that [`Repair::verify`] will report as progress.
    pub(crate) async fn verify_bytes(&self) -> Result<u64, StoreError> {
        let files = self.commits.log.files().await?;
        Ok(files.iter().map(|(_, len)| 2 * len).sum())
    }

    pub(crate) async fn verify(&self, progress: &dyn Fn(u64)) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        let mut flaws = Vec::new();
        let log = &self.commits.log;
        let rate = self.commits.options.compaction_rate;
        report.checked = log.check_files(rate, &mut |flaw| flaws.push(flaw), progress).await?;
        let mut references = References::default();
        for id in self.commits.accounts.ids() {
            self.verify_account(id, &mut report, &mut references, progress).await?;
            self.commits.executor.yield_now().await;
        }
        self.verify_spool(&mut report, &mut references).await?;
        for flaw in flaws {
            let finding = self.named(flaw).await;
            report.find(finding);
        }
        for Damage { segment: file, offset, what, place } in self.damages.all() {
            let folder = self.folder_name(place.account, place.mailbox).await;
            let Place { account, uid, .. } = place;
            report.find(Finding { file, offset, what, account, folder, uid });
        }
        report.bodies = references.counts.len() as u64;
        // Sums are the same in any order.
        for (count, size) in references.counts.values() {
            report.references += count;
            report.body_bytes += size;
            report.shared_bytes += (count - 1) * size;
        }
        report.recounted = !references.full;
        Ok(report)
    }

    pub(crate) async fn describe(&self, id: AccountId) -> Result<Vec<Vec<String>>, StoreError> {
        let cell = self.commits.accounts.load(id).await?;
        let folders = cell.state.borrow().names.list();
        let mut rows = Vec::with_capacity(folders.len());
        for MailboxInfo { id: mailbox, name, .. } in folders {
            self.commits.accounts.ensure_table(&cell, mailbox).await?;
            let state = cell.state.borrow();
            let Some(found) = state.live_mailbox(mailbox) else { continue };
            let last =
                found.snapshot().and_then(|all| Some(all.get(all.len().checked_sub(1)?)?.uid));
            let status = found.status;
            rows.push(vec![
                name,
                mailbox.to_string(),
                status.uid_validity.to_string(),
                status.uid_next.to_string(),
                status.messages.to_string(),
                status.unseen.to_string(),
                status.recent.to_string(),
                status.told_mod_seq().to_string(),
                status.size.to_string(),
                last.map_or("-".to_owned(), |uid| uid.to_string()),
            ]);
        }
        Ok(rows)
    }

    /// The owner of the damaged entry.
    async fn named(&self, flaw: Flaw) -> Finding {
        let Flaw { file, offset, what, entry } = flaw;
        let owner = entry.filter(|header| header.account.0 != 0);
        let account = owner.map(|header| header.account);
        let mailbox = owner.map(|header| header.mailbox).filter(|mailbox| mailbox.0 != 0);
        let uid = owner.map(|header| header.uid).filter(|uid| uid.0 != 0);
        let folder = self.folder_name(account, mailbox).await;
        let kind = entry.map_or(String::new(), |header| format!("{}: ", kind_name(header.kind)));
        Finding { file, offset, what: format!("{kind}{what}"), account, folder, uid }
    }

    async fn folder_name(
        &self,
        account: Option<AccountId>,
        mailbox: Option<MailboxId>,
    ) -> Option<String> {
        let cell = self.commits.accounts.load(account?).await.ok()?;
        let state = cell.state.borrow();
        state.names.info(mailbox?).map(|info| info.name)
    }

    async fn verify_account(
        &self,
        id: AccountId,
        report: &mut VerifyReport,
        references: &mut References,
        progress: &dyn Fn(u64),
    ) -> Result<(), StoreError> {
        let cell = match self.commits.accounts.load(id).await {
            Ok(cell) => cell,
            Err(error) => return report.find_error(error, Some(id), None, None),
        };
        if !cell.state.borrow().exists() {
            // Looked at, and never made: a queue that nothing came to.
            return Ok(());
        }
        report.accounts += 1;
        let folders = cell.state.borrow().names.list();
        let rate = self.commits.options.compaction_rate;
        for MailboxInfo { id: mailbox, name, .. } in folders {
            match self.commits.accounts.ensure_table(&cell, mailbox).await {
                // Deleted meanwhile.
                Err(StoreError::NoSuchMailbox) => continue,
                Err(error) => report.find_error(error, Some(id), Some(&name), None)?,
                Ok(()) => {}
            }
            let (found, (status, recent_from), alive) = {
                let state = cell.state.borrow();
                let Some(mailbox) = state.live_mailbox(mailbox) else { continue };
                let counters = (mailbox.status, mailbox.recent_from);
                (mailbox.snapshot(), counters, expunged_and_there(mailbox))
            };
            let Some(found) = found else { continue };
            report.folders += 1;
            if let Err(error) = self.verify_annotations(&cell, mailbox).await {
                report.find_error(error, Some(id), Some(&name), None)?;
            }
            if let Some(uid) = alive {
                let (file, what) =
                    ("tombstones".to_owned(), "expunged, but still present".to_owned());
                let (account, folder, uid) = (Some(id), Some(name.clone()), Some(uid));
                report.find(Finding { file, offset: 0, what, account, folder, uid });
            }
            if let Some(what) = miscounted(&found, status, recent_from) {
                let file = "counters".to_owned();
                let (account, folder) = (Some(id), Some(name.clone()));
                report.find(Finding { file, offset: 0, what, account, folder, uid: None });
            }
            for message in found.iter_from(0) {
                report.messages += 1;
                report.queued += u64::from(id == AccountId::QUEUE);
                references.count(&message.body);
                if let Err(error) = self.verify_body(&message.body).await {
                    report.messages_damaged += 1;
                    report.find_error(error, Some(id), Some(&name), Some(message.uid))?;
                }
                let run = {
                    let state = cell.state.borrow();
                    state.live_mailbox(mailbox).and_then(|it| it.cards.run_of(message.uid))
                };
                if let Some(run) = run
                    && let Err(error) = self.verify_card(run, message).await
                {
                    report.find_error(error, Some(id), Some(&name), Some(message.uid))?;
                }
                progress(message.body.size);
                references.unrested += message.body.size;
                if rate > 0 && references.unrested >= REST_AFTER {
                    let bytes = std::mem::take(&mut references.unrested);
                    self.commits.executor.sleep(time_for(bytes, rate)).await;
                } else {
                    self.commits.executor.yield_now().await;
                }
            }
        }
        Ok(())
    }

    /// Values beside messages that cannot be read.
    async fn verify_annotations(
        &self,
        cell: &AccountCell,
        mailbox: MailboxId,
    ) -> Result<(), StoreError> {
        let runs = {
            let state = cell.state.borrow();
            let annotations = state.live_mailbox(mailbox).and_then(|it| it.annotations.as_ref());
            annotations.map_or(Vec::new(), |annotations| annotations.runs().to_vec())
        };
        for run in runs {
            let read = annotations::read(&self.commits.log, &[run], run.first..=run.last).await;
            read.map_err(|damaged| damaged.error)?;
            self.commits.executor.yield_now().await;
        }
        Ok(())
    }

    async fn verify_body(&self, body: &MessageBody) -> Result<(), StoreError> {
        self.commits.bodies.read_summary(body).await?;
        let mut offset = 0;
        while offset < body.size {
            let piece = self.commits.bodies.read_body(body, offset, READ_SIZE).await?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Compares a message's card with the message's own entry. A damaged card is remade by the next
    /// checkpoint after it was read.
    async fn verify_card(&self, run: BlockRunRef, message: &Message) -> Result<(), StoreError> {
        // One that cannot be read is told already.
        let Ok(summary) = self.commits.bodies.read_summary(&message.body).await else {
            return Ok(());
        };
        if self.cards.agrees(run, message.uid, &message.body, &summary).await? {
            return Ok(());
        }
        let what = "a card that is not of its message".to_owned();
        let segment = "log".to_owned();
        Err(StoreError::Corrupt { segment, offset: run.lsn.0, what })
    }

    async fn verify_spool(
        &self,
        report: &mut VerifyReport,
        references: &mut References,
    ) -> Result<(), StoreError> {
        let spooled: Vec<Spooled> =
            self.commits.standing.borrow().spool.values().cloned().collect();
        for spooled in spooled {
            report.queued += 1;
            references.count(&spooled.body);
            if let Err(error) = self.verify_body(&spooled.body).await {
                report.find_error(error, None, Some("(spool)"), None)?;
            }
        }
        Ok(())
    }
}

/// A UID with a tombstone that belongs to a message, or was never allocated.
fn expunged_and_there(mailbox: &Mailbox) -> Option<Uid> {
    let table = &mailbox.loaded.as_ref()?.table;
    let mut uids = mailbox.tombstones.iter().map(|(_, uid)| uid);
    uids.find(|uid| *uid >= mailbox.status.uid_next || table.by_uid(*uid).is_some())
}

/// The difference between a mailbox's counters and its messages, if any.
fn miscounted(found: &Snapshot, told: MailboxStatus, recent_from: Uid) -> Option<String> {
    let mut counted = MailboxStatus::default();
    let (mut last, mut mod_seq) = (Uid(0), told.highest_mod_seq);
    for message in found.iter_from(0) {
        counted.messages += 1;
        counted.recent += u32::from(message.uid >= recent_from);
        counted.unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
        counted.deleted += u32::from(message.flags.system.contains(Flags::DELETED));
        counted.size = counted.size.saturating_add(message.body.size);
        last = last.max(message.uid);
        mod_seq = mod_seq.max(message.mod_seq);
    }
    let same = (told.messages, told.unseen, told.deleted, told.size, told.recent)
        == (counted.messages, counted.unseen, counted.deleted, counted.size, counted.recent)
        && told.uid_next > last
        && told.highest_mod_seq == mod_seq;
    (!same).then(|| format!("kept counters {told:?}, counted {counted:?}, last UID {last}"))
}

/// The name of an entry kind in reports.
pub fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::BodyChunk => "body chunk",
        EntryKind::Message => "message",
        EntryKind::Flags => "flags",
        EntryKind::Expunge => "expunge",
        EntryKind::Mailbox => "mailbox",
        EntryKind::Account => "account",
        EntryKind::Keyword => "keyword",
        EntryKind::Subscription => "subscription",
        EntryKind::Acl => "ACL",
        EntryKind::Quota => "quota",
        EntryKind::Metadata => "metadata",
        EntryKind::Spool => "spooled message",
        EntryKind::Unspool => "end of a spooled message",
        EntryKind::Intent => "intent",
        EntryKind::Transaction => "transaction",
        EntryKind::AccountPage => "account page",
        EntryKind::MailboxRun => "mailbox run",
        EntryKind::DirectoryPage => "directory page",
        EntryKind::CheckpointRoot => "checkpoint root",
        EntryKind::CardRun => "card run",
        EntryKind::Annotations => "annotations",
        EntryKind::AnnotationRun => "annotation run",
    }
}
