//! What operators see of the queue and do to it: lists by filters, one message in detail, the
//! shape by destination and age, and holding, releasing, trying now, returning and removing.
//!
//! Lists are made from memory, in slices, so that a million messages take well under a second and
//! hold up nobody.

use std::{rc::Rc, time::Duration};

use super::{
    Carrier, Queue, QueueId, Way,
    envelope::{Envelope, Origin, Problem, domain_of},
    settle::Chore,
    state::{Entry, Phase, Route},
};
use crate::{
    model::Timestamp,
    store::{Settled, Settlement, StoreError},
};

/// Messages looked at before others run.
const SLICE: usize = 2048;

/// Which messages are meant. All conditions must hold; the default is every message.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Filter {
    pub ids: Vec<QueueId>,
    /// Part of the reverse-path, without case; `<>` for the null path.
    pub sender: Option<String>,
    /// Part of an address.
    pub recipient: Option<String>,
    /// Domain of a recipient.
    pub domain: Option<String>,
    /// Name of a site, or a host of it.
    pub site: Option<String>,
    pub older: Option<Duration>,
    pub younger: Option<Duration>,
    /// The beginning of the last status, e.g. `4.7`.
    pub error: Option<String>,
    pub larger: Option<u64>,
    pub held: Option<bool>,
}

/// A message in a list.
#[derive(Clone, PartialEq, Debug)]
pub struct Listed {
    pub id: QueueId,
    pub arrived: Timestamp,
    pub octets: u64,
    pub origin: Origin,
    pub priority: i8,
    pub held: bool,
    pub sender: String,
    /// Empty if there are many.
    pub recipients: Vec<String>,
    pub parts: Vec<ListedPart>,
}

/// Its recipients at one destination.
#[derive(Clone, PartialEq, Debug)]
pub struct ListedPart {
    /// The domain, or empty: here.
    pub destination: String,
    pub site: Option<String>,
    pub recipients: u32,
    pub next_attempt: Timestamp,
    /// `waiting`, `ready` or `sending`.
    pub phase: &'static str,
    /// `4.2.1`, or empty.
    pub status: String,
    /// Why the destination or site is not reached, if it is not.
    pub problem: Option<Problem>,
}

/// A site as it is now.
#[derive(Clone, PartialEq, Debug)]
pub struct SiteFacts {
    pub name: String,
    pub ready: usize,
    pub connections: usize,
    pub connections_allowed: usize,
    pub connections_max: usize,
    pub rate: u32,
    /// How long no connection will be opened.
    pub pause: Duration,
    pub delivered: u64,
    pub deferred: u64,
    pub problem: Option<Problem>,
}

fn contains(text: &str, needle: &str) -> bool {
    let (text, needle) = (text.as_bytes(), needle.as_bytes());
    needle.is_empty()
        || text.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

impl<C: Carrier> Queue<C> {
    /// The messages that `filter` means, in order, from `after` on: at most `most`.
    pub async fn list(&self, filter: &Filter, after: Option<QueueId>, most: usize) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut from = after;
        while listed.len() < most {
            let mut looked_at = 0;
            let mut unknown = Vec::new();
            {
                let state = self.inner.state.borrow();
                let begin = match from {
                    Some(after) => std::ops::Bound::Excluded(after),
                    None => std::ops::Bound::Unbounded,
                };
                let entries = state.entries.range((begin, std::ops::Bound::Unbounded));
                for (id, entry) in entries.take(SLICE) {
                    looked_at += 1;
                    from = Some(*id);
                    match self.fits(filter, *id, entry) {
                        Some(true) => listed.push(self.listed(*id, entry)),
                        Some(false) => {}
                        // Its recipients are on disk only.
                        None => unknown.push(*id),
                    }
                    if listed.len() >= most {
                        break;
                    }
                }
            }
            for id in unknown {
                if let Some((_, _, envelope)) = self.load(id).await
                    && has_recipient(&envelope, filter)
                    && let Some(entry) = self.inner.state.borrow().entries.get(&id)
                {
                    listed.push(self.listed(id, entry));
                }
            }
            if looked_at < SLICE {
                break;
            }
            self.inner.executor.yield_now().await;
        }
        listed.sort_unstable_by_key(|it| it.id);
        listed
    }

    /// Whether a message is meant; `None` if only its envelope on disk tells.
    fn fits(&self, filter: &Filter, id: QueueId, entry: &Entry) -> Option<bool> {
        let now = self.inner.executor.now();
        let age = Duration::from_micros(u64::try_from(now.0 - entry.arrived.0).unwrap_or(0));
        let state = self.inner.state.borrow();
        let any_part = |test: &dyn Fn(&super::state::Part) -> bool| entry.parts.iter().any(test);
        let sure = (filter.ids.is_empty() || filter.ids.contains(&id))
            && filter.sender.as_deref().is_none_or(|wanted| match wanted {
                "<>" => entry.sender.is_empty(),
                wanted => contains(&entry.sender, wanted),
            })
            && filter.older.is_none_or(|limit| age >= limit)
            && filter.younger.is_none_or(|limit| age < limit)
            && filter.larger.is_none_or(|limit| entry.body.size > limit)
            && filter.held.is_none_or(|held| held == entry.held)
            && filter.domain.as_deref().is_none_or(|domain| {
                any_part(&|part| {
                    let name = state.name(part.destination);
                    name.is_some_and(|name| name.eq_ignore_ascii_case(domain))
                })
            })
            && filter.site.as_deref().is_none_or(|wanted| {
                any_part(&|part| {
                    let destination = state.destinations.get(part.destination as usize);
                    matches!(destination.map(|it| &it.route), Some(Route::Found { site, .. })
                    if site.name.eq_ignore_ascii_case(wanted)
                        || site.way.borrow().hosts().iter().any(|host| {
                            host.eq_ignore_ascii_case(wanted)
                        }))
                })
            })
            && filter.error.as_deref().is_none_or(|wanted| {
                any_part(&|part| status_text(part.status).starts_with(wanted))
            });
        if !sure {
            return Some(false);
        }
        match &filter.recipient {
            None => Some(true),
            Some(_) if entry.recipients.is_empty() => None,
            Some(wanted) => Some(contains(&entry.recipients, wanted)),
        }
    }

    fn listed(&self, id: QueueId, entry: &Entry) -> Listed {
        let state = self.inner.state.borrow();
        let part = |part: &super::state::Part| {
            let destination = state.destinations.get(part.destination as usize);
            let site = match destination.map(|it| &it.route) {
                Some(Route::Found { site, .. }) => Some(site),
                _ => None,
            };
            ListedPart {
                destination: state.name(part.destination).unwrap_or_default().to_owned(),
                site: site.map(|site| site.name.clone()),
                recipients: part.recipients,
                next_attempt: part.due,
                phase: match part.phase {
                    Phase::Waiting => "waiting",
                    Phase::Ready => "ready",
                    Phase::Busy => "sending",
                },
                status: status_text(part.status),
                problem: site.and_then(|site| site.problem.borrow().clone()),
            }
        };
        Listed {
            id,
            arrived: entry.arrived,
            octets: entry.body.size,
            origin: entry.origin,
            priority: entry.priority,
            held: entry.held,
            sender: entry.sender.to_string(),
            recipients: entry
                .recipients
                .split('\n')
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
                .collect(),
            parts: entry.parts.iter().map(part).collect(),
        }
    }

    /// The messages with recipients at a destination.
    pub fn names_at(&self, destination: &str) -> Vec<QueueId> {
        let state = self.inner.state.borrow();
        let Some(number) = state.destination_named(destination) else { return Vec::new() };
        let at = |entry: &Entry| entry.parts.iter().any(|part| part.destination == number);
        state.entries.iter().filter(|(_, entry)| at(entry)).map(|(id, _)| *id).collect()
    }

    /// One message with its envelope as it is on disk.
    pub async fn show(&self, id: QueueId) -> Option<(Listed, Rc<Envelope>)> {
        let (_, _, envelope) = self.load(id).await?;
        let state = self.inner.state.borrow();
        let entry = state.entries.get(&id)?;
        Some((self.listed(id, entry), envelope))
    }

    /// The number of recipients by destination and age class; `edges` ascend.
    pub async fn shape(&self, edges: &[Duration]) -> Vec<(String, Vec<u64>)> {
        let mut counts: std::collections::BTreeMap<u32, Vec<u64>> = Default::default();
        let mut from = None;
        let now = self.inner.executor.now();
        loop {
            let mut looked_at = 0;
            {
                let state = self.inner.state.borrow();
                let begin = match from {
                    Some(after) => std::ops::Bound::Excluded(after),
                    None => std::ops::Bound::Unbounded,
                };
                let entries = state.entries.range((begin, std::ops::Bound::Unbounded));
                for (id, entry) in entries.take(SLICE) {
                    looked_at += 1;
                    from = Some(*id);
                    let age =
                        Duration::from_micros(u64::try_from(now.0 - entry.arrived.0).unwrap_or(0));
                    let class = edges.partition_point(|edge| *edge <= age);
                    for part in &entry.parts {
                        let of = counts
                            .entry(part.destination)
                            .or_insert_with(|| vec![0; edges.len() + 1]);
                        if let Some(count) = of.get_mut(class) {
                            *count += u64::from(part.recipients);
                        }
                    }
                }
            }
            if looked_at < SLICE {
                break;
            }
            self.inner.executor.yield_now().await;
        }
        let state = self.inner.state.borrow();
        let named = |(number, of): (u32, Vec<u64>)| Some((state.name(number)?.to_owned(), of));
        counts.into_iter().filter_map(named).collect()
    }

    /// The sites, busiest first.
    pub fn sites(&self, most: usize) -> Vec<SiteFacts> {
        let now = self.inner.executor.moment();
        let state = self.inner.state.borrow();
        let mut sites: Vec<SiteFacts> = state
            .sites
            .values()
            .map(|site| SiteFacts {
                name: site.name.clone(),
                ready: site.ready.get(),
                connections: site.open.get(),
                connections_allowed: site.allowed(),
                connections_max: site.limits.get().connections,
                rate: site.limits.get().rate,
                pause: site.not_before.get().since(now),
                delivered: site.delivered.get(),
                deferred: site.deferred.get(),
                problem: site.problem.borrow().clone(),
            })
            .collect();
        sites.sort_by_key(|site| std::cmp::Reverse((site.ready, site.connections, site.delivered)));
        sites.truncate(most);
        sites
    }

    /// Tries these messages now, also if their sites pause. Returns how many exist.
    pub fn flush(&self, ids: &[QueueId]) -> usize {
        let now = self.inner.executor.now();
        let mut state = self.inner.state.borrow_mut();
        let mut found = 0;
        for id in ids {
            let Some(entry) = state.entries.get(id) else { continue };
            found += 1;
            for part in &entry.parts {
                let destination = state.destinations.get(part.destination as usize);
                if let Some(Route::Found { site, .. }) = destination.map(|it| &it.route) {
                    site.forgive();
                }
            }
            state.reschedule(*id, |_| now);
        }
        drop(state);
        self.wake();
        found
    }

    /// Holds or releases a message, durably. False if there is none.
    ///
    /// # Errors
    /// As for [`crate::store::Account::settle`].
    pub async fn set_held(&self, id: QueueId, held: bool) -> Result<bool, StoreError> {
        let Some((partition, _, envelope)) = self.load(id).await else { return Ok(false) };
        let mut changed = (*envelope).clone();
        changed.held = held;
        if !held {
            changed.hold_until = None;
        }
        let changes = vec![(0, Some(changed.encode_head()))];
        let account = partition.queue().await?;
        let settled =
            account.settle(id.mailbox, id.uid, Settlement::Changed(changes), None).await?;
        if settled == Settled::Gone {
            return Ok(false);
        }
        let now = self.inner.executor.now();
        let mut state = self.inner.state.borrow_mut();
        if let Some(entry) = state.entries.get_mut(&id) {
            entry.held = held;
            entry.fresh = None;
        }
        state.reschedule(id, |part| if held { part.due } else { now });
        drop(state);
        self.wake();
        Ok(true)
    }

    /// Removes a message without telling its sender, or (with a reason) returns it. False if there
    /// is none, or it is being sent.
    ///
    /// # Errors
    /// As for [`crate::store::Account::settle`].
    pub async fn remove(&self, id: QueueId, bounce: Option<&str>) -> Result<bool, StoreError> {
        let destinations: Vec<u32> = {
            let mut state = self.inner.state.borrow_mut();
            let Some(entry) = state.entries.get(&id) else { return Ok(false) };
            if entry.parts.iter().any(|part| part.phase == Phase::Busy) {
                return Ok(false);
            }
            let numbers = entry.parts.iter().map(|part| part.destination).collect();
            // Out of all indexes: it is ours now.
            state.claim(id);
            numbers
        };
        if let Some(reason) = bounce {
            let problem = Problem {
                at: self.inner.executor.now(),
                status: "5.7.1".to_owned(),
                reason: reason.to_owned(),
                ..Problem::default()
            };
            for destination in destinations {
                self.add_chore(Chore::Return(id, destination, problem.clone()));
            }
            return Ok(true);
        }
        let removed = async {
            let partition = self.partition(id.partition).ok_or(StoreError::NoSuchMailbox)?;
            let account = partition.queue().await?;
            account.settle(id.mailbox, id.uid, Settlement::Removed, None).await
        };
        match removed.await {
            Ok(_) => {
                let entry = self.inner.state.borrow_mut().remove(id);
                self.dropped(entry.is_some_and(|entry| entry.fresh.is_some()));
                Ok(true)
            }
            Err(error) => {
                self.trouble(id, &destinations);
                Err(error)
            }
        }
    }
}

fn has_recipient(envelope: &Envelope, filter: &Filter) -> bool {
    let wanted = filter.recipient.as_deref().unwrap_or_default();
    let domain = filter.domain.as_deref();
    envelope.recipients.values().any(|recipient| {
        contains(&recipient.address, wanted)
            && domain.is_none_or(|it| domain_of(&recipient.address).eq_ignore_ascii_case(it))
    })
}

/// `4.2.1`, or empty for none.
fn status_text([class, subject, detail]: [u16; 3]) -> String {
    match class {
        0 => String::new(),
        _ => format!("{class}.{subject}.{detail}"),
    }
}
