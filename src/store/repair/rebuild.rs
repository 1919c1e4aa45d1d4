//! A start with a damaged root or directory: the locations of accounts are found from all segments.
//!
//! Called by `Partition::open`; takes every entry of the log, in any order. For each account the
//! newest page counts, and the effects that it lacks; the same holds for the root and the
//! partition's own state. If an account's newest page is damaged, its location is kept too: loading
//! it fails, and `salvage` handles that.

use hashbrown::HashMap;

use super::super::{
    account::page::decode_account,
    accounts::page_directory::PageDirectory,
    error::StoreError,
    format::{
        effect::{Effect, LoggedEffects, decode_effects},
        root::{Root, decode_root},
    },
    log::{EntryHeader, EntryKind},
};
use crate::model::{AccountId, Lsn};

/// What the log has of all accounts.
#[derive(Default)]
pub(crate) struct Rebuild {
    /// Page of each account, and the first effect it lacks.
    pages: HashMap<AccountId, (Lsn, Lsn)>,
    pub accounts: HashMap<AccountId, LoggedEffects>,
    pub root: Root,
    pub standing: LoggedEffects,
}

impl Rebuild {
    pub(crate) fn take(
        &mut self,
        lsn: Lsn,
        header: &EntryHeader,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        match header.kind {
            EntryKind::BodyChunk
            | EntryKind::MailboxRun
            | EntryKind::DirectoryPage
            | EntryKind::CardRun
            | EntryKind::AnnotationRun => Ok(()),
            EntryKind::AccountPage => {
                // One that cannot be decoded is ignored: the next load reports it.
                if let Ok(state) = decode_account(header.version, lsn, payload) {
                    self.take_page(state.id, lsn, state.applied);
                }
                Ok(())
            }
            EntryKind::CheckpointRoot => {
                if let Ok(root) = decode_root(payload)
                    && root.applied >= self.root.applied
                {
                    self.standing.retain(|(lsn, _)| *lsn >= root.applied);
                    self.root = root;
                }
                Ok(())
            }
            _ => decode_effects(lsn, payload, |effect| self.take_effect(lsn, effect))
                .map_err(|error| StoreError::undecodable(lsn, error)),
        }
    }

    fn take_page(&mut self, id: AccountId, lsn: Lsn, applied: Lsn) {
        if self.pages.get(&id).is_some_and(|(_, known)| *known > applied) {
            return;
        }
        self.pages.insert(id, (lsn, applied));
        if let Some(effects) = self.accounts.get_mut(&id) {
            effects.retain(|(lsn, _)| *lsn >= applied);
        }
    }

    fn take_effect(&mut self, lsn: Lsn, effect: Effect) {
        let Some(id) = effect.account() else {
            if lsn >= self.root.applied {
                self.standing.push((lsn, effect));
            }
            return;
        };
        if self.pages.get(&id).is_none_or(|(_, applied)| lsn >= *applied) {
            self.accounts.entry(id).or_default().push((lsn, effect));
        }
    }

    /// Sorts everything. `lost` are entries that damage made unreadable.
    pub(crate) fn finish(&mut self, lost: &[(Lsn, EntryHeader)]) -> PageDirectory {
        // Compacted segments came first; of one entry the effects keep their order.
        self.standing.sort_by_key(|(lsn, _)| *lsn);
        self.accounts.retain(|_, effects| !effects.is_empty());
        for effects in self.accounts.values_mut() {
            effects.sort_by_key(|(lsn, _)| *lsn);
        }
        for (lsn, header) in lost.iter().filter(|(_, h)| h.kind == EntryKind::AccountPage) {
            if self.pages.get(&header.account).is_none_or(|(page, _)| page < lsn) {
                self.pages.insert(header.account, (*lsn, Lsn(0)));
            }
        }
        let mut directory = PageDirectory::new();
        let mut pages: Vec<(AccountId, Lsn)> =
            self.pages.iter().map(|(id, (page, _))| (*id, *page)).collect();
        pages.sort_unstable();
        pages.into_iter().for_each(|(id, page)| directory.set(id, page));
        directory
    }
}
