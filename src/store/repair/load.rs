//! The contents of a log: the pages of its last checkpoint and later entries, or everything if
//! these are damaged.
//!
//! Called when a partition opens, and when it reopens after a failed write (`reopen`); nothing here
//! knows of a partition.

use hashbrown::HashMap;

use super::{
    super::{
        accounts::{Known, page_directory::PageDirectory},
        commits::standing::Standing,
        error::StoreError,
        format::{
            effect::{LoggedEffects, decode_effects},
            root::{Root, decode_directory, decode_root},
        },
        log::{EntryHeader, EntryKind, Log, Recovered, RecoveryReport, Replay},
    },
    rebuild::Rebuild,
};
use crate::{
    model::{AccountId, Lsn},
    plant::{Plant, planted},
};

/// The contents of a log, from pages and effects.
pub(crate) struct Contents {
    report: RecoveryReport,
    directory: PageDirectory,
    root: Root,
    /// Effects that pages lack.
    accounts: HashMap<AccountId, LoggedEffects>,
    effects: LoggedEffects,
}

/// The parts of a partition, or of one whose log was reopened.
pub(crate) struct Loaded {
    pub report: RecoveryReport,
    /// The root of the last checkpoint, from which the parts below are made.
    pub root: Root,
    pub known: Known,
    pub standing: Standing,
}

/// Reads the last checkpoint's pages and later entries; or everything, if these are damaged.
/// `begin` replays, and turns the recovered log into one that takes appends.
pub(crate) async fn load<L>(
    mut recovered: Recovered,
    begin: impl AsyncFnOnce(Recovered, &mut Replay<'_>) -> Result<(L, RecoveryReport), StoreError>,
) -> Result<(L, Contents), StoreError> {
    let loaded = match recovered.is_continuous() {
        true => load_directory(&recovered).await,
        false => Err(StoreError::Corrupt {
            segment: "log".to_owned(),
            offset: 0,
            what: "the newest checkpoint is lost, an older one is incomplete".to_owned(),
        }),
    };
    match loaded {
        Ok((directory, root)) => {
            let mut replayed = Replayed::default();
            let mut replay = |lsn, header: &_, payload: &[u8]| replayed.take(lsn, header, payload);
            let (log, report) = begin(recovered, &mut replay).await?;
            let Replayed { accounts, standing: effects } = replayed;
            Ok((log, Contents { report, directory, root, accounts, effects }))
        }
        Err(StoreError::Corrupt { segment, offset, what }) => {
            recovered.replay_everything();
            let mut rebuild = Rebuild::default();
            let mut replay = |lsn, header: &_, payload: &[u8]| rebuild.take(lsn, header, payload);
            let (log, mut report) = begin(recovered, &mut replay).await?;
            let what = format!("{what}; all segments were read instead");
            report.damage.push((segment, offset, what));
            let directory = rebuild.finish(&report.lost_entries);
            let Rebuild { accounts, root, standing: effects, .. } = rebuild;
            Ok((log, Contents { report, directory, root, accounts, effects }))
        }
        Err(error) => Err(error),
    }
}

impl Contents {
    /// Reads entries that the pages only name, from their log.
    pub(crate) async fn complete(self, log: &Log) -> Result<Loaded, StoreError> {
        let Contents { mut report, directory, root, accounts, effects } = self;
        let mut standing = Standing::from_root(&root);
        load_spool(log, &root, &mut standing, &mut report).await?;
        standing.replay(&effects);
        let known = Known { directory, replayed: accounts, lost: root.lost.max(report.lost) };
        Ok(Loaded { report, root, known, standing })
    }
}

/// Reads the last checkpoint's root and the locations of all accounts.
async fn load_directory(recovered: &Recovered) -> Result<(PageDirectory, Root), StoreError> {
    let Some(checkpoint) = recovered.checkpoint() else {
        return Ok((PageDirectory::new(), Root::default()));
    };
    let (_, payload) = recovered.read(checkpoint.root).await?;
    let root =
        decode_root(&payload).map_err(|error| StoreError::undecodable(checkpoint.root, error))?;
    let mut directory = PageDirectory::from_root(&root);
    for page in root.buckets.iter().flatten() {
        let (_, payload) = recovered.read(*page).await?;
        directory.fill(
            decode_directory(&payload).map_err(|error| StoreError::undecodable(*page, error))?,
        );
    }
    Ok((directory, root))
}

/// Reads the spooled messages that the root names; one that is damaged is reported and lost.
async fn load_spool(
    log: &Log,
    root: &Root,
    standing: &mut Standing,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    for lsn in &root.spool {
        let decoded = match log.read(*lsn).await {
            Ok((_, payload)) => standing
                .take_spooled(*lsn, &payload)
                .map_err(|error| StoreError::undecodable(*lsn, error)),
            Err(error) => Err(error),
        };
        match decoded {
            Err(StoreError::Corrupt { segment, offset, what }) => {
                report.damage.push((segment, offset, format!("spooled message: {what}")));
            }
            decoded => decoded?,
        }
    }
    Ok(())
}

/// Effects found in the log after the last checkpoint, sorted by account.
#[derive(Default)]
struct Replayed {
    accounts: HashMap<AccountId, LoggedEffects>,
    standing: LoggedEffects,
}

impl Replayed {
    fn take(&mut self, lsn: Lsn, header: &EntryHeader, payload: &[u8]) -> Result<(), StoreError> {
        match header.kind {
            EntryKind::BodyChunk
            | EntryKind::AccountPage
            | EntryKind::MailboxRun
            | EntryKind::DirectoryPage
            | EntryKind::CheckpointRoot
            | EntryKind::CardRun
            | EntryKind::AnnotationRun => return Ok(()),
            _ => {}
        }
        let mut taken = 0;
        decode_effects(lsn, payload, |effect| {
            taken += 1;
            if taken > 1 && planted(Plant::HalfTransaction) {
                return;
            }
            match effect.account() {
                Some(account) => self.accounts.entry(account).or_default().push((lsn, effect)),
                None => self.standing.push((lsn, effect)),
            }
        })
        .map_err(|error| StoreError::undecodable(lsn, error))
    }
}
