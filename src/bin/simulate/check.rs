//! Checks after every recovery: compares the recovered state with the expected one.

use std::collections::{BTreeMap, BTreeSet};

use super::expectation::{Found, Key, Known, Model, PropertyPlace, SHARED, Share, partition_of};

/// Compares everything found with the model and takes it over. For a server that only crashed and
/// met failures within the device's contract; its queues must be empty.
pub fn recovered(model: &mut Model, found: &Found) -> Result<(), String> {
    if let Some(error) = found.wrong.first().or(found.errors.first().map(|(_, error)| error)) {
        return Err(error.clone());
    }
    if let Some((.., inexact)) = found.inexact.first() {
        return Err(inexact.clone());
    }
    for (owner, client) in model.clients.iter_mut().enumerate() {
        let share = &found.shares[owner];
        if owner as u64 == SHARED {
            let places = |messages: &BTreeMap<Key, Known>| -> BTreeSet<(Key, u64)> {
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

/// Everything that a client saw is there, or its removal was requested; and no number decreased.
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
    let properties: BTreeMap<&PropertyPlace, &Vec<u8>> =
        found.shares.iter().flat_map(|share| &share.properties).collect();
    for (place, seen) in &model.properties_seen {
        let removed = model.property_removals.get(place).is_some_and(|at| at > seen)
            || model.removed(&(place.0, place.1, 0));
        if !properties.contains_key(place) && !removed {
            return Err(format!("property {place:?} was seen with {seen}, and is gone"));
        }
    }
    for (place, value) in &properties {
        model.see_property((*place).clone(), value)?;
    }
    model.properties_seen.retain(|place, _| properties.contains_key(place));
    model.sights.retain(|place, _| found.statuses.contains_key(place));
    for (place, sight) in &found.sights {
        model.remember(*place, sight.clone());
    }
    model.statuses.retain(|place, _| found.statuses.contains_key(place));
    for (place, status) in &found.statuses {
        model.see_status(*place, *status)?;
    }
    for (key, known) in found.shares.iter().flat_map(|share| &share.messages) {
        model.see(*key, known.token, known.mod_seq)?;
    }
    model.seen.retain(|key, _| there(key).is_some());
    // A removal that did not happen is dropped.
    model.removals.retain(|key| match key.2 {
        0 => !found.statuses.contains_key(&(key.0, key.1)),
        _ => there(key).is_none(),
    });
    Ok(())
}

/// What the disk of one partition did, and what its recovery reported.
pub struct Damage {
    pub partition: u16,
    /// Recovery named damage.
    pub named: bool,
    /// The disk lied about syncs: what it lost cannot be known.
    pub lied: bool,
}

/// After a disk broke its contract: nothing false is served, damage is named, and everything that
/// was not hit is unchanged. `model` is exact unless the disk lied.
pub fn damaged(model: &Model, found: &Found, damage: &Damage) -> Result<(), String> {
    if let Some(wrong) = found.wrong.first() {
        return Err(wrong.clone());
    }
    for (key, known) in found.shares.iter().flat_map(|share| &share.messages) {
        let ever = model.ever.get(key).copied().unwrap_or(known.token);
        if ever != known.token {
            return Err(format!("FALSE BODY: {key:?} is {ever}, served as {}", known.token));
        }
    }
    let hit = |account: u64| partition_of(account) == damage.partition;
    if let Some((_, error)) = found.errors.iter().find(|(account, _)| !hit(*account)) {
        return Err(format!("a partition that was not hit: {error}"));
    }
    if damage.lied {
        return honest_partition_intact(model, found, hit);
    }
    // At the floor itself nothing more is known than that messages were lost.
    if let Some((.., inexact)) = found.inexact.iter().find(|(_, above, _)| *above) {
        return Err(inexact.clone());
    }
    let failed = |account: u64| found.errors.iter().any(|(of, _)| *of == account);
    for (owner, client) in model.clients.iter().enumerate() {
        for account in accounts_of(&client.share, &found.shares[owner]) {
            let excused = hit(account) && damage.named;
            let (mut expected, there) =
                (client.share.only(account), found.shares[owner].only(account));
            if failed(account) {
                // Unreadable messages were named; the rest is compared.
                expected.messages.retain(|key, _| there.messages.contains_key(key));
                if there.mailboxes.is_empty() {
                    continue;
                }
            }
            let differences = expected.differences(&there);
            if !differences.is_empty() && !excused {
                return Err(format!("not named by anybody: {}", differences.join("; ")));
            }
        }
    }
    Ok(())
}

fn honest_partition_intact(
    model: &Model,
    found: &Found,
    hit: impl Fn(u64) -> bool,
) -> Result<(), String> {
    for (key, mod_seq) in model.seen.iter().filter(|(key, _)| !hit(key.0)) {
        let there = found.shares.iter().find_map(|share| share.messages.get(key));
        if there.is_none_or(|known| known.mod_seq < *mod_seq) && !model.removed(key) {
            return Err(format!("{key:?} lies on an honest disk and is {there:?}"));
        }
    }
    Ok(())
}

fn accounts_of(one: &Share, other: &Share) -> BTreeSet<u64> {
    let of_messages = one.messages.keys().chain(other.messages.keys()).map(|key| key.0);
    let of_mailboxes = one.mailboxes.keys().chain(other.mailboxes.keys()).map(|(of, _)| *of);
    let of_names = one.subscriptions.iter().chain(&other.subscriptions).map(|(of, _)| *of);
    let of_properties = one.properties.keys().chain(other.properties.keys()).map(|place| place.0);
    let of_grants = one.grants.iter().chain(&other.grants).map(|grant| grant.0);
    of_messages.chain(of_mailboxes).chain(of_names).chain(of_properties).chain(of_grants).collect()
}

/// Everything that was readable `before` is readable `after`.
pub fn still_there(before: &Found, after: &Found) -> Result<(), String> {
    for (before, after) in std::iter::zip(&before.shares, &after.shares) {
        for (key, known) in &before.messages {
            if after.messages.get(key).is_none_or(|now| now.token != known.token) {
                return Err(format!("{key:?} was {known:?}, and cannot be read now"));
            }
        }
    }
    Ok(())
}
