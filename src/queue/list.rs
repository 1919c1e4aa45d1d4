//! What operators see of the queue: lists by filters, one message in detail, the shape by
//! destination or sender and age, and the sites.
//!
//! Lists are made from memory, in slices, so that a million messages take well under a second and
//! hold up nobody. Only what is not kept in memory (addresses of messages with many recipients, the
//! words of a reply) is read from disk, some messages at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    rc::Rc,
    time::Duration,
};

use super::{
    Carrier, Queue, QueueId, Way,
    envelope::{Envelope, Origin, Problem, domain_of},
    state::{DestinationId, Entry, Part, Phase, Route, State, destination_of},
};
use crate::model::{MailboxId, PartitionId, Timestamp, Uid};

/// Messages looked at before others run.
const SLICE: usize = 2048;

/// Envelopes read from disk at once.
const READ_MAX: usize = 64;

/// A list of at most this many messages of a shard has the last replies, which are read from disk:
/// a fraction of a second. In a longer one there are only their statuses.
const LISTED_WITH_REPLIES_MAX: usize = 100;

/// Which messages are meant. All conditions must hold; the default is every message.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Filter {
    pub ids: Vec<QueueId>,
    /// Part of the reverse-path, without case; `<>` for the null path.
    pub sender: Option<String>,
    /// Part of an address.
    pub recipient: Option<String>,
    /// Domain of a recipient; with a dot before it, also those below; `local` for mailboxes here.
    pub domain: Option<String>,
    /// Name of a site, or a host of it.
    pub site: Option<String>,
    pub older: Option<Duration>,
    pub younger: Option<Duration>,
    /// The beginning of the last status, e.g. `4.7`, or part of the last reply or problem.
    pub error: Option<String>,
    /// Octets.
    pub larger: Option<u64>,
    pub smaller: Option<u64>,
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
    /// When it is returned.
    pub expires: Timestamp,
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
    /// `held`, `waiting`, `ready` or `sending`.
    pub phase: &'static str,
    /// `4.2.1`, or empty.
    pub status: String,
    /// Why the destination or site is not reached, if it is not; or else, in a list of at most
    /// `LISTED_WITH_REPLIES_MAX`, the last problem of a recipient there.
    pub problem: Option<Problem>,
}

/// The messages that a filter means: some, and the sums of all.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Matches {
    pub listed: Vec<Listed>,
    pub messages: u64,
    pub recipients: u64,
    pub octets: u64,
}

/// What the rows of a shape stand for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ShapeBy {
    /// Domains of recipients.
    #[default]
    Destination,
    /// Domains of senders.
    Sender,
}

/// Recipients by domain and age class.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct AgeShape {
    /// Most recipients first.
    pub rows: Vec<(String, Vec<u64>)>,
    /// Of all messages, also those without a row.
    pub total: Vec<u64>,
    /// Domains, also those without a row.
    pub domains: u64,
}

/// A site as it is now.
#[derive(Clone, PartialEq, Debug)]
pub struct SiteFacts {
    pub name: String,
    pub ready: usize,
    pub connections: usize,
    pub connections_allowed: usize,
    pub connections_max: usize,
    pub messages_per_connection: u32,
    pub recipients_per_transaction: usize,
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

/// Whether `name` is `domain`, or, if that begins with a dot, is the domain or one below it.
fn is_in_domain(name: &str, domain: &str) -> bool {
    let Some(top) = domain.strip_prefix('.') else { return name.eq_ignore_ascii_case(domain) };
    let at = name.len().checked_sub(top.len());
    let (above, end) = at.and_then(|at| name.split_at_checked(at)).unwrap_or_default();
    !top.is_empty() && end.eq_ignore_ascii_case(top) && (above.is_empty() || above.ends_with('.'))
}

/// Whether a message passes a filter, as far as memory tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Meant,
    NotMeant,
    /// The envelope must be looked at; if the field is true, the texts of its errors too.
    Unsure {
        error: bool,
    },
}

impl<C: Carrier> Queue<C> {
    /// Calls `each` with every message that `filter` means, by id from `after` on, until it says
    /// that it has enough.
    async fn scan(
        &self,
        filter: &Filter,
        after: Option<QueueId>,
        each: &mut dyn FnMut(&State<C::Way>, QueueId, &Entry) -> bool,
    ) {
        let now = self.inner.executor.now();
        let mut named = filter.ids.clone();
        named.sort_unstable();
        named.dedup();
        named.retain(|id| after.is_none_or(|after| *id > after));
        let mut named = named.into_iter();
        let mut from = after;
        loop {
            let (mut looked_at, mut unsure) = (0, Vec::new());
            {
                let state = self.inner.state.borrow();
                let mut look = |id: QueueId, entry: &Entry| {
                    looked_at += 1;
                    match judge(filter, &state, entry, now) {
                        Verdict::Meant => return each(&state, id, entry),
                        Verdict::NotMeant => {}
                        Verdict::Unsure { error } => unsure.push((id, error)),
                    }
                    true
                };
                if filter.ids.is_empty() {
                    let begin = from.map_or(Bound::Unbounded, Bound::Excluded);
                    for (id, entry) in state.entries.range((begin, Bound::Unbounded)).take(SLICE) {
                        from = Some(*id);
                        if !look(*id, entry) {
                            return;
                        }
                    }
                } else {
                    for id in named.by_ref().take(SLICE) {
                        if let Some(entry) = state.entries.get(&id)
                            && !look(id, entry)
                        {
                            return;
                        }
                    }
                }
            }
            for some in unsure.chunks(READ_MAX) {
                let ids: Vec<QueueId> = some.iter().map(|(id, _)| *id).collect();
                let envelopes = self.envelopes(&ids).await;
                let state = self.inner.state.borrow();
                for (id, error) in some {
                    if let Some(envelope) = envelopes.get(id)
                        && is_meant(envelope, filter, *error)
                        && let Some(entry) = state.entries.get(id)
                        && !each(&state, *id, entry)
                    {
                        return;
                    }
                }
            }
            if looked_at < SLICE && named.len() == 0 {
                return;
            }
            self.inner.executor.yield_now().await;
        }
    }

    /// The envelopes of some messages, those that can be read now.
    async fn envelopes(&self, ids: &[QueueId]) -> HashMap<QueueId, Envelope> {
        let mut found = HashMap::new();
        let mut places: BTreeMap<(PartitionId, MailboxId), (Uid, Uid)> = BTreeMap::new();
        for id in ids {
            let place = places.entry((id.partition, id.mailbox)).or_insert((id.uid, id.uid));
            *place = (place.0.min(id.uid), place.1.max(id.uid));
        }
        for ((number, mailbox), (first, last)) in places {
            let Some(partition) = self.partition(number) else { continue };
            let Ok(account) = partition.queue().await else { continue };
            let Ok(values) = account.annotations(mailbox, first..=last).await else { continue };
            for (uid, stored) in values {
                let id = QueueId { partition: number, mailbox, uid };
                if ids.contains(&id)
                    && let Some(envelope) = Envelope::decode(&stored)
                {
                    found.insert(id, envelope);
                }
            }
        }
        found
    }

    /// The messages that `filter` means, in order, from `after` on: at most `most`.
    pub async fn list(&self, filter: &Filter, after: Option<QueueId>, most: usize) -> Vec<Listed> {
        let expire = self.options().expire;
        let mut listed = Vec::new();
        if most == 0 {
            return listed;
        }
        self.scan(filter, after, &mut |state, id, entry| {
            listed.push(describe(state, id, entry, expire));
            listed.len() < most
        })
        .await;
        listed.sort_unstable_by_key(|it| it.id);
        if after.is_none() {
            self.add_replies(&mut listed).await;
        }
        listed
    }

    /// As [`Queue::list`], with the sums of all that `filter` means.
    pub async fn find(&self, filter: &Filter, after: Option<QueueId>, most: usize) -> Matches {
        let expire = self.options().expire;
        let mut matches = Matches::default();
        self.scan(filter, after, &mut |state, id, entry| {
            matches.messages += 1;
            matches.octets += entry.body.size;
            matches.recipients +=
                entry.parts.iter().map(|part| u64::from(part.recipients)).sum::<u64>();
            if matches.listed.len() < most {
                matches.listed.push(describe(state, id, entry, expire));
            }
            true
        })
        .await;
        matches.listed.sort_unstable_by_key(|it| it.id);
        self.add_replies(&mut matches.listed).await;
        matches
    }

    /// Adds the last problems of recipients, which only their envelopes have. What was found
    /// counts, and not how many were asked for: who asks for all of a few messages gets their
    /// replies.
    async fn add_replies(&self, listed: &mut [Listed]) {
        if listed.len() > LISTED_WITH_REPLIES_MAX {
            return;
        }
        for it in listed {
            let lacks = |part: &ListedPart| part.problem.is_none() && !part.status.is_empty();
            if !it.parts.iter().any(lacks) {
                continue;
            }
            let Some((_, _, envelope)) = self.load(it.id).await else { continue };
            for part in it.parts.iter_mut().filter(|part| lacks(part)) {
                let here = envelope.recipients.values().filter(|recipient| {
                    recipient.problem.is_some() && destination_of(recipient) == part.destination
                });
                let problems = here.filter_map(|recipient| recipient.problem.as_ref());
                part.problem = problems.max_by_key(|problem| problem.at).cloned();
            }
        }
    }

    /// The names of all messages that `filter` means.
    pub async fn ids(&self, filter: &Filter) -> Vec<QueueId> {
        let mut ids = Vec::new();
        self.scan(filter, None, &mut |_, id, _| {
            ids.push(id);
            true
        })
        .await;
        ids
    }

    /// The messages with recipients at one of the destinations that `is_meant` names.
    pub fn names_at(&self, is_meant: impl Fn(&str) -> bool) -> Vec<QueueId> {
        let state = self.inner.state.borrow();
        let destinations = state.destinations.iter();
        let meant: BTreeSet<DestinationId> = destinations
            .filter(|(_, it)| is_meant(&it.name))
            .map(|(number, _)| number as DestinationId)
            .collect();
        let at = |entry: &Entry| entry.parts.iter().any(|it| meant.contains(&it.destination));
        state.entries.iter().filter(|(_, entry)| at(entry)).map(|(id, _)| *id).collect()
    }

    /// One message with its envelope as it is on disk.
    pub async fn show(&self, id: QueueId) -> Option<(Listed, Rc<Envelope>)> {
        let (_, _, envelope) = self.load(id).await?;
        let expire = self.options().expire;
        let state = self.inner.state.borrow();
        let entry = state.entries.get(&id)?;
        Some((describe(&state, id, entry, expire), envelope))
    }

    /// The number of recipients by domain and age class; `edges` ascend. At most `most` rows.
    pub async fn shape(
        &self,
        filter: &Filter,
        by: ShapeBy,
        edges: &[Duration],
        most: usize,
    ) -> AgeShape {
        let classes = edges.len() + 1;
        let mut counts: HashMap<String, Vec<u64>> = HashMap::new();
        let mut total = vec![0; classes];
        let now = self.inner.executor.now();
        self.scan(filter, None, &mut |state, _, entry| {
            let class = edges.partition_point(|edge| *edge <= age(entry, now));
            for part in &entry.parts {
                let name = match by {
                    ShapeBy::Destination => super::domain_of_destination(
                        state.name(part.destination).unwrap_or_default(),
                    ),
                    ShapeBy::Sender => domain_of(&entry.sender),
                };
                let recipients = u64::from(part.recipients);
                // Names repeat: most are found without a copy.
                let row = match counts.get_mut(name) {
                    Some(row) => row,
                    None => {
                        counts.entry(name.to_ascii_lowercase()).or_insert_with(|| vec![0; classes])
                    }
                };
                for counts in [row, &mut total] {
                    if let Some(count) = counts.get_mut(class) {
                        *count += recipients;
                    }
                }
            }
            true
        })
        .await;
        // They come in any order, and are sorted next.
        let mut shape =
            AgeShape { domains: counts.len() as u64, rows: counts.into_iter().collect(), total };
        shape.cut(most);
        shape
    }

    /// The sites, busiest first.
    pub fn sites(&self, most: usize) -> Vec<SiteFacts> {
        let now = self.inner.executor.moment();
        let state = self.inner.state.borrow();
        let mut busiest: Vec<_> = state.sites.values().collect();
        busiest.sort_by_key(|site| {
            std::cmp::Reverse((site.ready.get(), site.open.get(), site.delivered.get()))
        });
        busiest.into_iter().take(most).map(|site| site.facts(now)).collect()
    }

    /// The site of that name.
    pub fn site_named(&self, name: &str) -> Option<SiteFacts> {
        let now = self.inner.executor.moment();
        Some(self.inner.state.borrow().sites.get(name)?.facts(now))
    }

    /// An upper bound of when the oldest message arrived: messages may be taken up out of order.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.inner.state.borrow().oldest()
    }
}

impl AgeShape {
    /// Adds the counts of another shard.
    pub fn merge(&mut self, other: AgeShape) {
        let mut known: HashMap<String, Vec<u64>> =
            std::mem::take(&mut self.rows).into_iter().collect();
        let (before, theirs) = (known.len() as u64, other.rows.len() as u64);
        for (name, counts) in other.rows {
            add(known.entry(name).or_default(), &counts);
        }
        add(&mut self.total, &other.total);
        // Domains without a row may be counted twice.
        self.domains += other.domains;
        self.domains = self.domains.saturating_sub(before + theirs - known.len() as u64);
        self.rows = known.into_iter().collect();
    }

    /// Leaves the `most` rows with the most recipients.
    pub fn cut(&mut self, most: usize) {
        self.rows.sort_unstable_by(|one, other| {
            let sum = |row: &(String, Vec<u64>)| row.1.iter().sum::<u64>();
            sum(other).cmp(&sum(one)).then_with(|| one.0.cmp(&other.0))
        });
        self.rows.truncate(most);
    }
}

fn add(ours: &mut Vec<u64>, theirs: &[u64]) {
    ours.resize(ours.len().max(theirs.len()), 0);
    ours.iter_mut().zip(theirs).for_each(|(sum, count)| *sum += count);
}

fn age(entry: &Entry, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.0.saturating_sub(entry.arrived.0)).unwrap_or(0))
}

/// Whether a message is meant, as far as memory tells.
fn judge<W: Way>(filter: &Filter, state: &State<W>, entry: &Entry, now: Timestamp) -> Verdict {
    let any_part = |test: &dyn Fn(&Part) -> bool| entry.parts.iter().any(test);
    let destination = |part: &Part| state.destinations.get(part.destination as usize);
    let fits = filter.sender.as_deref().is_none_or(|wanted| match wanted {
        "<>" => entry.sender.is_empty(),
        wanted => contains(&entry.sender, wanted),
    }) && filter.older.is_none_or(|limit| age(entry, now) >= limit)
        && filter.younger.is_none_or(|limit| age(entry, now) < limit)
        && filter.larger.is_none_or(|limit| entry.body.size > limit)
        && filter.smaller.is_none_or(|limit| entry.body.size < limit)
        && filter.held.is_none_or(|held| held == entry.held)
        && filter.domain.as_deref().is_none_or(|domain| {
            let domain = if domain.eq_ignore_ascii_case("local") { "" } else { domain };
            any_part(&|part| {
                state
                    .name(part.destination)
                    .is_some_and(|name| is_in_domain(super::domain_of_destination(name), domain))
            })
        })
        && filter.site.as_deref().is_none_or(|wanted| {
            any_part(&|part| {
                matches!(destination(part).map(|it| &it.route), Some(Route::Found { site, .. })
                if site.name.eq_ignore_ascii_case(wanted)
                    || site.way.borrow().hosts().iter().any(|host| {
                        host.eq_ignore_ascii_case(wanted)
                    }))
            })
        });
    if !fits {
        return Verdict::NotMeant;
    }
    let mut look_for_error = false;
    if let Some(wanted) = filter.error.as_deref() {
        let known = any_part(&|part| {
            status_text(part.status).starts_with(wanted)
                || (part.status != [0; 3]
                    && problem_at(state, part).is_some_and(|it| contains(&it.reason, wanted)))
        });
        // `450` is part of a reply, `4.5` a status.
        let is_status = wanted.contains('.')
            && wanted.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
        if !known && (is_status || !any_part(&|part| part.status != [0; 3])) {
            return Verdict::NotMeant;
        }
        look_for_error = !known;
    }
    match &filter.recipient {
        Some(wanted) if !entry.recipients.is_empty() && !contains(&entry.recipients, wanted) => {
            Verdict::NotMeant
        }
        Some(_) if entry.recipients.is_empty() => Verdict::Unsure { error: look_for_error },
        _ if look_for_error => Verdict::Unsure { error: true },
        _ => Verdict::Meant,
    }
}

/// Whether an envelope has what memory could not tell.
fn is_meant(envelope: &Envelope, filter: &Filter, error: bool) -> bool {
    let wanted = filter.recipient.as_deref().unwrap_or_default();
    let words = filter.error.as_deref().filter(|_| error);
    envelope.recipients.values().any(|recipient| contains(&recipient.address, wanted))
        && words.is_none_or(|words| {
            let problems = envelope.recipients.values().filter_map(|it| it.problem.as_ref());
            problems.into_iter().any(|problem| contains(&problem.reason, words))
        })
}

/// Why the destination of a part, or its site, is not reached.
fn problem_at<W: Way>(state: &State<W>, part: &Part) -> Option<Problem> {
    let destination = state.destinations.get(part.destination as usize)?;
    match &destination.route {
        Route::Found { site, .. } => site.problem.borrow().clone(),
        _ => destination.problem.as_deref().cloned(),
    }
}

fn describe<W: Way>(state: &State<W>, id: QueueId, entry: &Entry, expire: Duration) -> Listed {
    let part = |part: &Part| {
        let destination = state.destinations.get(part.destination as usize);
        let site = match destination.map(|it| &it.route) {
            Some(Route::Found { site, .. }) => Some(site.name.clone()),
            _ => None,
        };
        ListedPart {
            destination: state.name(part.destination).unwrap_or_default().to_owned(),
            site,
            recipients: part.recipients,
            next_attempt: part.due,
            phase: match part.phase {
                Phase::Waiting if entry.held => "held",
                Phase::Waiting => "waiting",
                Phase::Ready => "ready",
                Phase::Busy => "sending",
            },
            status: status_text(part.status),
            problem: problem_at(state, part),
        }
    };
    let expires = entry.times.begins.after(expire);
    Listed {
        id,
        arrived: entry.arrived,
        octets: entry.body.size,
        origin: entry.origin,
        priority: entry.priority,
        held: entry.held,
        expires: entry.times.deadline.map_or(expires, |deadline| expires.min(deadline)),
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

/// `4.2.1`, or empty for none.
fn status_text([class, subject, detail]: [u16; 3]) -> String {
    match class {
        0 => String::new(),
        _ => format!("{class}.{subject}.{detail}"),
    }
}
