//! What a reload changed among the accounts, for the event log.

use std::collections::HashMap;

use crate::{
    directory::{DirectorySnapshot, User},
    events::{Event, EventSender},
    model::AccountId,
};

/// Most accounts that are named for each kind of change; all are counted.
const NAMED_MAX: usize = 100;

/// Settings that changed.
pub(super) struct SettingsChanged<'a> {
    pub in_force: &'a [&'static str],
    /// Those that need a restart.
    pub pending: &'a [&'static str],
}

/// Reports what changed: among the accounts how many, and which, and of the settings all.
pub(super) fn tell(
    events: &EventSender,
    before: &DirectorySnapshot,
    after: &DirectorySnapshot,
    settings: &SettingsChanged<'_>,
) {
    let by_id = |snapshot: &'_ DirectorySnapshot| -> HashMap<AccountId, usize> {
        snapshot.users().iter().enumerate().map(|(index, user)| (user.id, index)).collect()
    };
    let (old_ids, new_ids) = (by_id(before), by_id(after));
    let old = |user: &User| old_ids.get(&user.id).and_then(|index| before.users().get(*index));
    let mut told = Vec::new();
    let (mut added, mut removed, mut renamed, mut changed) = (0, 0, 0, 0);
    for user in after.users() {
        let (account, address) = (user.id, user.address.as_str());
        match old(user) {
            None => name(&mut told, &mut added, Event::UserAdded { account, address }),
            Some(old) => {
                let before = old.address.as_str();
                if before != address {
                    let event = Event::UserRenamed { account, address, before };
                    name(&mut told, &mut renamed, event);
                }
                if (&old.hash, &old.keyring) != (&user.hash, &user.keyring) {
                    name(&mut told, &mut changed, Event::UserChanged { account, address });
                }
            }
        }
    }
    for user in before.users() {
        if !new_ids.contains_key(&user.id) {
            let (account, address) = (user.id, user.address.as_str());
            name(&mut told, &mut removed, Event::UserRemoved { account, address });
        }
    }
    let users = after.users().len() as u64;
    let (in_force, pending) = (settings.in_force.join(", "), settings.pending.join(", "));
    told.push(Event::Reloaded {
        users,
        added,
        removed,
        renamed,
        changed,
        aliases: after.alias_count() as u64,
        groups: after.group_count() as u64,
        settings: Some(in_force.as_str()).filter(|it| !it.is_empty()),
        needs_restart: Some(pending.as_str()).filter(|it| !it.is_empty()),
    });
    events.tell_all(told);
}

fn name<'a>(told: &mut Vec<Event<'a>>, count: &mut u64, event: Event<'a>) {
    if *count < NAMED_MAX as u64 {
        told.push(event);
    }
    *count += 1;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        directory::{DirectoryOptions, UsersFile},
        events::{Kind, queue},
    };

    fn snapshot(file: &UsersFile) -> DirectorySnapshot {
        DirectorySnapshot::new(file, &DirectoryOptions::default()).unwrap()
    }

    #[test]
    fn changes_are_named_and_counted() {
        let hash = crate::directory::hash("x").unwrap();
        let other = crate::directory::hash("y").unwrap();
        let mut file = UsersFile::new();
        for name in ["a", "b", "c"] {
            file.add(&format!("{name}@example.org"), hash.clone()).unwrap();
        }
        let before = snapshot(&file);
        file.remove("a@example.org").unwrap();
        file.set_secret("b@example.org", other).unwrap();
        for number in 0..NAMED_MAX + 5 {
            file.add(&format!("n{number}@example.org"), hash.clone()).unwrap();
        }
        file.rename("c@example.org", "d@example.org").unwrap();
        let after = snapshot(&file);
        let (sender, queue) = queue(Kind::ALL.into_iter().collect());
        let settings = SettingsChanged { in_force: &["domains", "route.to"], pending: &[] };
        tell(&sender, &before, &after, &settings);
        let mut lines = Vec::new();
        while let Some(chunk) = queue.next(Duration::ZERO) {
            lines.extend(chunk.lines);
        }
        let lines = String::from_utf8(lines).unwrap();
        let count = |name: &str| lines.matches(&format!("\"event\":\"{name}\"")).count();
        assert_eq!((count("user_added"), count("user_removed")), (NAMED_MAX, 1));
        assert_eq!((count("user_changed"), count("user_renamed")), (1, 1));
        assert!(lines.contains("\"address\":\"d@example.org\",\"before\":\"c@example.org\""));
        let sum = format!(
            "\"users\":{},\"added\":{},\"removed\":1,\"renamed\":1,\"changed\":1,\"aliases\":0,\
             \"groups\":0,\"settings\":\"domains, route.to\"}}",
            2 + NAMED_MAX + 5,
            NAMED_MAX + 5
        );
        assert!(lines.contains(&sum), "{lines}");
        assert!(!lines.contains("argon2"), "no hash is in it");
    }
}
