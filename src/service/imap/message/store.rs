//! STORE (RFC 3501 6.4.6, RFC 7162 3.1.3): flags of many messages at once.

use super::{
    super::{
        accounts::not_allowed,
        folder,
        handler::Handler,
        reply::{Done, Failure, Reply},
        selected::Selected,
        state::Session,
        sync::OwnChange,
    },
    limit::{self, Limited},
};
use crate::{
    model::{FlagAction, FlagEdit, FlagMask, FlagSet, Flags, ModSeq, Rights, Uid},
    protocol::imap::{Code, FetchResponse, message::store::Store},
    store::{FlagChange, FlagOutcome, Snapshot},
};

impl Handler for Store<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writable()?;
        if self.unchanged_since.is_some() {
            session.check_mod_seqs()?;
        }
        let folder = folder::selected(session, Rights::NONE).await?;
        let within = folder.rights().flags();
        if !may_store(self, within) {
            return Err(not_allowed());
        }
        let selected = session.selected()?;
        let mut indexes = selected.indexes(self.uid, &self.set)?;
        let limited = Limited::cut_ranges(session, &mut indexes)?;
        let current = selected.view.current();
        let mut uids: Vec<Uid> = Vec::new();
        let mut expunged = false;
        for index in indexes.into_iter().flatten() {
            session.turn_of_scan(index).await;
            let Some(message) = selected.numbering().get(index) else { continue };
            match current.as_ref().and_then(|it| it.index_of(message.uid)) {
                Some(_) => uids.push(message.uid),
                None => expunged = true,
            }
        }
        if self.unchanged_since.is_some() {
            session.enable_condstore();
        }
        let keywords: Vec<String> = self.flags.keywords.iter().map(|&it| it.to_owned()).collect();
        let system = self.flags.system;
        let change =
            FlagChange { within, ..FlagChange::new(self.action, system, keywords.clone()) };
        let (uid, silent, action) = (self.uid, self.silent, self.action);
        let stored = Stored { uid, silent, action, system, keywords, expunged, limited };
        let selected = session.selected()?;
        let since = self.unchanged_since;
        let begun = folder.begin_store_flags(selected, &uids, change.clone(), since).await?;
        let begun = match since.and_then(|since| self.unaffected(selected, since, &begun.0)) {
            None => begun,
            Some((uids, until)) => {
                let (mut outcome, unsettled) = begun;
                if let Some(unsettled) = unsettled {
                    unsettled.settled().await?;
                }
                let again = folder.begin_store_flags(selected, &uids, change, Some(until)).await?;
                outcome.modified.retain(|uid| uids.binary_search(uid).is_err());
                outcome.modified.extend(again.0.modified);
                outcome.modified.sort_unstable();
                outcome.updated.extend(again.0.updated);
                outcome.updated.sort_unstable();
                (outcome, again.1)
            }
        };
        match begun {
            (outcome, None) => stored.answer(session, &outcome).await,
            (outcome, Some(unsettled)) => session.answer_later(unsettled, move |session| {
                Box::pin(async move { stored.answer(session, &outcome).await })
            }),
        }
    }
}

impl Store<'_> {
    /// Of the messages that were refused because they changed, those of which the flags that are
    /// named did not change since the client was told of them, and up to which mod-sequence they
    /// did not: if flags are added or removed, what else changed does not matter (RFC 7162 3.1.12).
    /// Since 0 a keyword changed that a message has; one that it does not have is no metadata of it
    /// (3.1.3).
    fn unaffected(
        &self,
        selected: &Selected,
        since: ModSeq,
        outcome: &FlagOutcome,
    ) -> Option<(Vec<Uid>, ModSeq)> {
        if outcome.modified.is_empty() || self.action == FlagAction::Replace {
            return None;
        }
        let (told, now) = (selected.told(), selected.view.current()?);
        let keywords: Vec<String> = self.flags.keywords.iter().map(|&it| it.to_owned()).collect();
        let named = FlagSet::named(self.flags.system, &keywords, now.keywords());
        let of_named = |flags: FlagSet| FlagSet {
            system: flags.system & named.system,
            keywords: flags.keywords.without(flags.keywords.without(named.keywords)),
        };
        let is_absent = since == ModSeq(0) && named.system == Flags::default();
        let find = |snapshot: &Snapshot, uid| snapshot.get(snapshot.index_of(uid)?).copied();
        let is_unaffected = |uid: &Uid| {
            let (Some(known), Some(is)) = (find(told, *uid), find(&now, *uid)) else {
                return false;
            };
            let has = of_named(is.flags);
            known.mod_seq <= since && of_named(known.flags) == has
                || is_absent && has == FlagSet::default()
        };
        let uids: Vec<Uid> = outcome.modified.iter().copied().filter(is_unaffected).collect();
        (!uids.is_empty()).then(|| (uids, now.status().highest_mod_seq))
    }
}

/// What a STORE asked for.
struct Stored {
    uid: bool,
    silent: bool,
    action: FlagAction,
    system: Flags,
    keywords: Vec<String>,
    /// Some of its messages are gone.
    expunged: bool,
    limited: Option<Limited>,
}

impl Stored {
    async fn answer(&self, session: &mut Session, outcome: &FlagOutcome) -> Reply {
        tell(session, self, outcome).await?;
        let reply = self.reply(session, outcome);
        limit::answer(session, self.limited, reply)
    }

    fn reply(&self, session: &Session, outcome: &FlagOutcome) -> Reply {
        let refused = refused_numbers(session, self.uid, &outcome.modified)?;
        let modified = (!refused.is_empty()).then_some(Code::Modified(refused));
        // RFC 2180 4.2.2: the other messages are done; a client that uses numbers must learn that
        // some are gone. RFC 7162 3.1.3: MODIFIED is always told, with a NO, too.
        if self.expunged && !self.uid {
            let code = modified.unwrap_or(Code::ExpungeIssued);
            return Err(Failure::no(code, "Some messages were expunged"));
        }
        match modified {
            None => Done::ok("STORE completed"),
            Some(code) => Done::with_code(code, "Some messages were modified"),
        }
    }
}

/// RFC 4314 4: a STORE is refused only if none of its flags may be changed; flags that may not be
/// are left as they are. Replacing all flags names all of them.
fn may_store(store: &Store<'_>, within: FlagMask) -> bool {
    let names_keywords = !store.flags.keywords.is_empty();
    let named = match store.action {
        FlagAction::Replace => FlagMask::ALL,
        _ => FlagMask { system: store.flags.system, keywords: names_keywords },
    };
    let common = FlagMask {
        system: named.system & within.system,
        keywords: named.keywords && within.keywords,
    };
    named.is_empty() || !common.is_empty()
}

/// RFC 7162 3.1.3: the MODIFIED code has UIDs or sequence numbers, as the command had.
fn refused_numbers(session: &Session, uid: bool, uids: &[Uid]) -> Result<Vec<u32>, Failure> {
    if uid {
        return Ok(uids.iter().map(|uid| uid.0).collect());
    }
    let numbering = session.selected()?.numbering();
    Ok(uids.iter().filter_map(|&uid| Some(numbering.index_of(uid)? as u32 + 1)).collect())
}

/// Sends the FETCH responses of STORE. Changes that other sessions made meanwhile are sent as well,
/// so that the client's view of every message is correct.
async fn tell(session: &mut Session, store: &Stored, outcome: &FlagOutcome) -> Result<(), Failure> {
    let uids: Vec<Uid> = outcome.updated.iter().map(|(uid, _)| *uid).collect();
    let Some(newer) = session.selected()?.view.current() else { return Ok(()) };
    // New keywords are in the table now.
    let flags = FlagSet::named(store.system, &store.keywords, newer.keywords());
    // What the client expects: flags that were left as they are must be told even after .SILENT.
    let edit = FlagEdit { action: store.action, flags, within: FlagMask::ALL };
    let own = OwnChange { uids: &uids, edit, mod_seqs: store.silent };
    session.tell_changes_but(store.uid, own).await?;
    if !store.silent {
        let updated = outcome.updated.iter().map(|(uid, _)| *uid);
        match store.limited {
            None => tell_updated(session, store.uid, updated).await?,
            // RFC 9738 3.1
            Some(_) => tell_updated(session, store.uid, updated.rev()).await?,
        }
    }
    Ok(())
}

/// Sends one FETCH response for each message of `updated`.
async fn tell_updated(
    session: &mut Session,
    uid: bool,
    updated: impl Iterator<Item = Uid>,
) -> Result<(), Failure> {
    let told = session.selected()?.told().clone();
    for named in updated {
        let selected = session.selected()?;
        let Some(index) = selected.numbering().index_of(named) else { continue };
        let Some(message) = selected.message(index) else { continue };
        let recent = selected.is_recent(named);
        let (naming, condstore) = (session.naming(uid), session.condstore());
        let out = session.channel.connection.output();
        let mut response = FetchResponse::about(out, naming, index as u32 + 1, message.uid);
        response.flags(out, message.flags, told.keywords(), recent);
        if condstore {
            response.mod_seq(out, message.mod_seq);
        }
        response.end(out);
        session.channel.flush_if_full().await?;
    }
    Ok(())
}
