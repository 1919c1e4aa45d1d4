//! After every recovery: what was found against what must be there.

use std::collections::BTreeSet;

use super::expectation::{Found, Key, Known, Model, SHARED};

/// Holds everything found against the model and takes it over. For a server that only crashed and
/// met failures within the device's contract; its spools must be empty.
pub fn recovered(model: &mut Model, found: &Found) -> Result<(), String> {
    if let Some((_, error)) = found.errors.first() {
        return Err(error.clone());
    }
    for (owner, client) in model.clients.iter_mut().enumerate() {
        let share = &found.shares[owner];
        if owner as u64 == SHARED {
            let places =
                |messages: &std::collections::BTreeMap<Key, Known>| -> BTreeSet<(Key, u64)> {
                    messages.iter().map(|(key, known)| (*key, known.token)).collect()
                };
            let (expected, there) = (places(&client.share.messages), places(&share.messages));
            if expected != there {
                return Err(format!("shared messages {expected:?}, found {there:?}"));
            }
            client.share = share.clone();
            continue;
        }
        client.reconcile(share, true).map_err(|error| format!("session {owner}: {error}"))?;
    }
    nothing_taken_back(model, found)
}

/// What anybody saw is there, or its removal was asked for; and no number went back.
fn nothing_taken_back(model: &mut Model, found: &Found) -> Result<(), String> {
    let there = |key: &Key| found.shares.iter().find_map(|share| share.messages.get(key));
    for (key, mod_seq) in &model.seen {
        let now = there(key).map(|known| known.mod_seq);
        if now.is_none_or(|now| now < *mod_seq) && !model.removed(key) {
            return Err(format!("{key:?} was seen with {mod_seq}, and is {now:?}: taken back"));
        }
    }
    for place in model.statuses.keys() {
        if !found.statuses.contains_key(place) && !model.removed(&(place.0, place.1, 0)) {
            return Err(format!("mailbox {place:?} was seen, and is gone"));
        }
    }
    model.statuses.retain(|place, _| found.statuses.contains_key(place));
    for (place, status) in &found.statuses {
        model.see_status(*place, *status)?;
    }
    for (key, known) in found.shares.iter().flat_map(|share| &share.messages) {
        model.see(*key, known.token, known.mod_seq)?;
    }
    model.seen.retain(|key, _| there(key).is_some());
    // A removal that did not come about is one no more.
    model.removals.retain(|key| match key.2 {
        0 => !found.statuses.contains_key(&(key.0, key.1)),
        _ => there(key).is_none(),
    });
    Ok(())
}
