//! The queue in memory: a short entry for each message, and the order in which they are tried.
//!
//! A message has a [`Part`] for each destination of its recipients. A part waits until it is due,
//! is then ready, busy while it is being sent, and gone when its recipients are done with. This
//! file keeps the indexes consistent; it does no I/O and knows no clock.
//!
//! Memory: an entry is some 400 bytes with one destination; addresses are kept for listings if
//! they are short.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::{
    ANY_TLS, HERE, QueueId, Way,
    envelope::{Envelope, Origin, Problem, Recipient, Timetable},
    site::Site,
    times::Step,
};
use crate::{
    model::{ClassCounts, MailClass, MailboxId, Moment, PartitionId, Timestamp, Uid},
    store::MessageBody,
};

/// Octets of recipients' addresses kept in memory for listings.
const RECIPIENTS_KEPT: usize = 200;

/// Destinations that are looked at to find the most urgent message of a site.
const LOOK_MAX: usize = 8;

/// Messages of a partition that are looked at to find the oldest.
const OLDEST_LOOK: usize = 64;

/// The number of a destination in [`State::destinations`].
pub(super) type DestinationId = u32;

pub(super) struct Entry {
    pub body: MessageBody,
    pub arrived: Timestamp,
    pub times: Timetable,
    pub origin: Origin,
    pub priority: i8,
    pub held: bool,
    pub sender: Box<str>,
    /// Separated by line feeds; empty if they are long.
    pub recipients: Box<str>,
    pub parts: SmallVec<[Part; 1]>,
    /// A result of it is being recorded.
    pub settling: bool,
    /// As it was accepted, until its first attempt ends.
    pub fresh: Option<Rc<Envelope>>,
}

pub(super) struct Part {
    pub destination: DestinationId,
    pub recipients: u32,
    pub due: Timestamp,
    pub phase: Phase,
    pub warned: bool,
    /// The status of the last temporary failure, e.g. `[4, 2, 1]`.
    pub status: [u16; 3],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Until it is due; or for ever if the entry is held.
    Waiting,
    Ready,
    Busy,
}

/// Order of ready messages: urgent ones first, submissions and reports before others, then by the
/// time at which they became due. By age, old messages that are refused again and again would keep
/// new ones from a site that cannot take all of them in time.
pub(super) type Rank = (i8, u8, Timestamp, QueueId);

pub(super) enum Route<W> {
    Unknown,
    Asking,
    Found { site: Rc<Site<W>>, until: Moment },
}

pub(super) struct Destination<W> {
    pub name: Box<str>,
    pub parts: usize,
    pub ready: BTreeSet<Rank>,
    pub route: Route<W>,
    /// Why the last look-up did not find its site.
    pub problem: Option<Rc<Problem>>,
    /// It is in its site's list of destinations with ready messages.
    pub in_turn: bool,
    /// How long its last look-up took.
    pub lookup: Duration,
}

pub(super) struct State<W> {
    pub entries: BTreeMap<QueueId, Entry>,
    pub destinations: Slab<Destination<W>>,
    by_name: HashMap<Box<str>, DestinationId>,
    waiting: BTreeSet<(Timestamp, QueueId, DestinationId)>,
    pub sites: BTreeMap<Box<str>, Rc<Site<W>>>,
    /// Octets of all messages.
    pub octets: u64,
    /// Messages.
    pub counts: ClassCounts,
}

/// What a connection sends next.
pub(super) struct Pick {
    pub id: QueueId,
    /// Parts of it that go to the same site.
    pub destinations: SmallVec<[DestinationId; 1]>,
}

impl<W> Default for State<W> {
    fn default() -> State<W> {
        State {
            entries: BTreeMap::new(),
            destinations: Slab::new(),
            by_name: HashMap::new(),
            waiting: BTreeSet::new(),
            sites: BTreeMap::new(),
            octets: 0,
            counts: ClassCounts::default(),
        }
    }
}

/// The destination of a recipient: [`HERE`] or a domain in lower case, perhaps with [`ANY_TLS`].
pub fn destination_of(recipient: &Recipient) -> String {
    match recipient.account {
        Some(_) => HERE.to_owned(),
        None => {
            let mut destination = recipient.domain().to_ascii_lowercase();
            if recipient.any_tls {
                destination.push_str(ANY_TLS);
            }
            destination
        }
    }
}

impl<W: Way> State<W> {
    /// Adds a message. `next`: when a recipient is tried.
    pub(super) fn add(
        &mut self,
        id: QueueId,
        body: MessageBody,
        envelope: &Rc<Envelope>,
        fresh: bool,
        next: impl Fn(&Recipient) -> Timestamp,
    ) {
        if self.entries.contains_key(&id) {
            return;
        }
        let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
        for recipient in envelope.recipients.values() {
            let destination = self.destination(destination_of(recipient));
            let due = next(recipient).max(envelope.hold_until.unwrap_or_default());
            match parts.iter_mut().find(|part| part.destination == destination) {
                Some(part) => {
                    part.recipients += 1;
                    part.due = part.due.min(due);
                    part.warned &= recipient.warned;
                }
                None => {
                    parts.push(Part {
                        destination,
                        recipients: 1,
                        due,
                        phase: Phase::Waiting,
                        warned: recipient.warned,
                        status: status_of(recipient),
                    });
                }
            }
        }
        let mut addresses = String::new();
        for recipient in envelope.recipients.values() {
            if !addresses.is_empty() {
                addresses.push('\n');
            }
            addresses.push_str(&recipient.address);
            if addresses.len() > RECIPIENTS_KEPT {
                addresses.clear();
                break;
            }
        }
        for part in &parts {
            if let Some(destination) = self.destinations.get_mut(part.destination as usize) {
                destination.parts += 1;
            }
            if !envelope.held {
                self.waiting.insert((part.due, id, part.destination));
            }
        }
        self.octets += body.size;
        let entry = Entry {
            body,
            arrived: envelope.arrived,
            times: envelope.timetable(),
            origin: envelope.origin,
            priority: envelope.priority,
            held: envelope.held,
            sender: envelope.sender.as_str().into(),
            recipients: addresses.into_boxed_str(),
            parts,
            settling: false,
            fresh: fresh.then(|| envelope.clone()),
        };
        self.counts.add(entry.class(), 1);
        self.entries.insert(id, entry);
    }

    fn destination(&mut self, name: String) -> DestinationId {
        if let Some(known) = self.by_name.get(name.as_str()) {
            return *known;
        }
        let name: Box<str> = name.into();
        let number = self.destinations.insert(Destination {
            name: name.clone(),
            parts: 0,
            ready: BTreeSet::new(),
            route: Route::Unknown,
            problem: None,
            in_turn: false,
            lookup: Duration::ZERO,
        }) as DestinationId;
        self.by_name.insert(name, number);
        number
    }

    pub(super) fn destination_named(&self, name: &str) -> Option<DestinationId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn name(&self, destination: DestinationId) -> Option<&str> {
        self.destinations.get(destination as usize).map(|it| &*it.name)
    }

    /// When the next part is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(due, ..)| *due)
    }

    /// When the oldest of the messages that came first arrived: in each partition they are in that
    /// order, except those that were put back ([`OLDEST_LOOK`] of them may hide it).
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let mut oldest: Option<Timestamp> = None;
        let mut from = QueueId { partition: PartitionId(0), mailbox: MailboxId(0), uid: Uid(0) };
        while let Some((first, _)) = self.entries.range(from..).next() {
            let partition = first.partition;
            let entries = self.entries.range(*first..).take(OLDEST_LOOK);
            let here = entries.take_while(|(id, _)| id.partition == partition);
            oldest = here.map(|(_, entry)| entry.arrived).chain(oldest).min();
            let Some(next) = partition.0.checked_add(1) else { break };
            from.partition = PartitionId(next);
        }
        oldest
    }

    /// Makes up to `most` parts ready that are due at `now`; their destinations.
    pub(super) fn take_due(&mut self, now: Timestamp, most: usize) -> SmallVec<[DestinationId; 4]> {
        let mut destinations = SmallVec::new();
        for _ in 0..most {
            let Some(&(due, id, destination)) = self.waiting.first() else { break };
            if due > now {
                break;
            }
            self.waiting.pop_first();
            self.make_ready(id, destination);
            if !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
        destinations
    }

    fn make_ready(&mut self, id: QueueId, number: DestinationId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let urgency = entry.urgency();
        let Some(part) = entry.parts.iter_mut().find(|part| part.destination == number) else {
            return;
        };
        if part.phase == Phase::Waiting {
            part.phase = Phase::Ready;
            let rank = rank(id, urgency, part);
            if let Some(destination) = self.destinations.get_mut(number as usize)
                && destination.ready.insert(rank)
                && let Route::Found { site, .. } = &destination.route
            {
                site.ready.set(site.ready.get() + 1);
            }
        }
    }

    /// A destination was looked up.
    pub(super) fn looked_up(&mut self, number: DestinationId, took: Duration) {
        if let Some(destination) = self.destinations.get_mut(number as usize) {
            destination.lookup = took;
        }
    }

    /// The time that a message spent before its attempt, since it was due.
    pub(super) fn times_before(&self, pick: &Pick, now: Timestamp) -> [(Step, Duration); 2] {
        let parts = self.entries.get(&pick.id).into_iter().flat_map(|entry| &entry.parts);
        let due = parts.filter(|part| pick.destinations.contains(&part.destination));
        let due = due.map(|part| part.due).min().unwrap_or(now);
        let waited = u64::try_from(now.0.saturating_sub(due.0)).unwrap_or(0);
        let lookups = pick.destinations.iter().filter_map(|it| self.destinations.get(*it as usize));
        let lookup = lookups.map(|destination| destination.lookup).max().unwrap_or_default();
        [(Step::Queue, Duration::from_micros(waited)), (Step::Resolve, lookup)]
    }

    /// Binds a destination to its site.
    pub(super) fn found(&mut self, number: DestinationId, site: &Rc<Site<W>>, until: Moment) {
        let Some(destination) = self.destinations.get_mut(number as usize) else { return };
        leave(number, destination);
        site.ready.set(site.ready.get() + destination.ready.len());
        destination.route = Route::Found { site: site.clone(), until };
        destination.problem = None;
        self.take_turn(number);
        self.forget_unused(number);
    }

    /// A destination's site could not be found.
    pub(super) fn not_found(&mut self, number: DestinationId, problem: &Problem) {
        if let Some(destination) = self.destinations.get_mut(number as usize) {
            destination.problem = Some(Rc::new(problem.clone()));
        }
        self.unbind(number, Route::Unknown);
    }

    /// Forgets where a destination's mail goes.
    pub(super) fn unbind(&mut self, number: DestinationId, route: Route<W>) {
        let Some(destination) = self.destinations.get_mut(number as usize) else { return };
        leave(number, destination);
        destination.route = route;
        self.forget_unused(number);
    }

    /// Forgets a destination without mail.
    fn forget_unused(&mut self, number: DestinationId) {
        let Some(destination) = self.destinations.get_mut(number as usize) else { return };
        if destination.parts == 0
            && !destination.in_turn
            && !matches!(destination.route, Route::Asking)
        {
            let name = std::mem::take(&mut destination.name);
            self.by_name.remove(&name);
            self.destinations.remove(number as usize);
        }
    }

    /// Puts a destination with ready messages into its site's list of such.
    pub(super) fn take_turn(&mut self, number: DestinationId) {
        let Some(destination) = self.destinations.get_mut(number as usize) else { return };
        if let Route::Found { site, .. } = &destination.route
            && !destination.in_turn
            && !destination.ready.is_empty()
        {
            destination.in_turn = true;
            site.hungry.borrow_mut().push_back(number);
        }
    }

    /// Takes the next message for a connection to `site`, with all its parts that go there.
    pub(super) fn pick(&mut self, site: &Rc<Site<W>>) -> Option<Pick> {
        let number = self.most_urgent(site)?;
        let destination = self.destinations.get_mut(number as usize)?;
        let rank = destination.ready.pop_first()?;
        let id = rank.3;
        site.ready.set(site.ready.get().saturating_sub(1));
        let more = !destination.ready.is_empty();
        destination.in_turn = more;
        if more {
            site.hungry.borrow_mut().push_back(number);
        }
        let mut picked: SmallVec<[DestinationId; 1]> = SmallVec::from_slice(&[number]);
        let entry = self.entries.get_mut(&id)?;
        let urgency = entry.urgency();
        for part in &mut entry.parts {
            if part.destination == number {
                part.phase = Phase::Busy;
            } else if part.phase == Phase::Ready
                && let Some(other) = self.destinations.get_mut(part.destination as usize)
                && let Route::Found { site: its, .. } = &other.route
                && Rc::ptr_eq(its, site)
            {
                other.ready.remove(&self::rank(id, urgency, part));
                site.ready.set(site.ready.get().saturating_sub(1));
                part.phase = Phase::Busy;
                picked.push(part.destination);
            }
        }
        Some(Pick { id, destinations: picked })
    }

    /// Takes the destination with the most urgent message, of the next few in turn, out of its
    /// site's list.
    fn most_urgent(&mut self, site: &Rc<Site<W>>) -> Option<DestinationId> {
        let mut hungry = site.hungry.borrow_mut();
        loop {
            let mut best: Option<(Rank, usize)> = None;
            let mut stale = None;
            for (at, number) in hungry.iter().enumerate().take(LOOK_MAX) {
                let destination = self.destinations.get(*number as usize);
                let first = destination.and_then(|it| it.ready.first()).copied();
                let Some(first) = first else {
                    stale = Some(at);
                    break;
                };
                let urgency = |rank: &Rank| (rank.0, rank.1);
                if best.is_none_or(|(so_far, _)| urgency(&first) < urgency(&so_far)) {
                    best = Some((first, at));
                }
            }
            if let Some(at) = stale {
                if let Some(number) = hungry.remove(at)
                    && let Some(destination) = self.destinations.get_mut(number as usize)
                {
                    destination.in_turn = false;
                    drop(hungry);
                    self.forget_unused(number);
                    hungry = site.hungry.borrow_mut();
                }
                continue;
            }
            let (_, at) = best?;
            return hungry.remove(at);
        }
    }

    /// Makes the ready messages of a destination busy, at most `most` at a time: all of them will
    /// be deferred or returned.
    pub(super) fn take_ready(&mut self, number: DestinationId, most: usize) -> Vec<QueueId> {
        let mut taken = Vec::new();
        let Some(destination) = self.destinations.get_mut(number as usize) else { return taken };
        while taken.len() < most
            && let Some(rank) = destination.ready.pop_first()
        {
            if let Route::Found { site, .. } = &destination.route {
                site.ready.set(site.ready.get().saturating_sub(1));
            }
            taken.push(rank.3);
        }
        for id in &taken {
            if let Some(part) = self.part(*id, number) {
                part.phase = Phase::Busy;
            }
        }
        taken
    }

    pub(super) fn part(&mut self, id: QueueId, number: DestinationId) -> Option<&mut Part> {
        let entry = self.entries.get_mut(&id)?;
        entry.parts.iter_mut().find(|part| part.destination == number)
    }

    /// A busy part waits until it was due, and at least until `due`.
    pub(super) fn put_off(&mut self, id: QueueId, number: DestinationId, due: Timestamp) {
        let parts = self.entries.get(&id).into_iter().flat_map(|entry| &entry.parts);
        let known = parts.filter(|part| part.destination == number).map(|part| part.due).max();
        self.defer(id, number, known.map_or(due, |known| known.max(due)));
    }

    /// A busy part waits until `due`.
    pub(super) fn defer(&mut self, id: QueueId, number: DestinationId, due: Timestamp) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let held = entry.held;
        let Some(part) = entry.parts.iter_mut().find(|part| part.destination == number) else {
            return;
        };
        (part.phase, part.due) = (Phase::Waiting, due);
        if !held {
            self.waiting.insert((due, id, number));
        }
    }

    /// The recipients of a part are done with. Whether the message has no part left.
    pub(super) fn end_part(&mut self, id: QueueId, number: DestinationId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return true };
        let Some(at) = entry.parts.iter().position(|part| part.destination == number) else {
            return entry.parts.is_empty();
        };
        let part = entry.parts.remove(at);
        let rank = rank(id, entry.urgency(), &part);
        let last = entry.parts.is_empty();
        self.unlink(id, rank, &part);
        last
    }

    /// Takes a part out of the indexes.
    fn unlink(&mut self, id: QueueId, rank: Rank, part: &Part) {
        self.waiting.remove(&(part.due, id, part.destination));
        let Some(destination) = self.destinations.get_mut(part.destination as usize) else {
            return;
        };
        if destination.ready.remove(&rank)
            && let Route::Found { site, .. } = &destination.route
        {
            site.ready.set(site.ready.get().saturating_sub(1));
        }
        destination.parts = destination.parts.saturating_sub(1);
        self.forget_unused(part.destination);
    }

    /// Removes a message with all its parts.
    pub(super) fn remove(&mut self, id: QueueId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.counts.remove(entry.class(), 1);
        for part in &entry.parts {
            self.unlink(id, rank(id, entry.urgency(), part), part);
        }
        self.octets = self.octets.saturating_sub(entry.body.size);
        Some(entry)
    }

    /// When the parts of a message are due, by destination.
    pub(super) fn schedule(&self, id: QueueId) -> Vec<(String, Timestamp)> {
        let parts = self.entries.get(&id).into_iter().flat_map(|entry| &entry.parts);
        let named = |part: &Part| Some((self.name(part.destination)?.to_owned(), part.due));
        parts.filter_map(named).collect()
    }

    /// All parts of a message become busy.
    pub(super) fn claim(&mut self, id: QueueId) {
        self.reschedule(id, |part| part.due);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        for part in &mut entry.parts {
            self.waiting.remove(&(part.due, id, part.destination));
            part.phase = Phase::Busy;
        }
    }

    /// Parts that are not busy are due at `due`, if the message is not held.
    pub(super) fn reschedule(&mut self, id: QueueId, due: impl Fn(&Part) -> Timestamp) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let (urgency, held) = (entry.urgency(), entry.held);
        for part in &mut entry.parts {
            if part.phase == Phase::Busy {
                continue;
            }
            self.waiting.remove(&(part.due, id, part.destination));
            if let Some(destination) = self.destinations.get_mut(part.destination as usize)
                && destination.ready.remove(&rank(id, urgency, part))
                && let Route::Found { site, .. } = &destination.route
            {
                site.ready.set(site.ready.get().saturating_sub(1));
            }
            (part.phase, part.due) = (Phase::Waiting, due(part));
            if !held {
                self.waiting.insert((part.due, id, part.destination));
            }
        }
    }

    /// Sites with neither mail nor connections are forgotten once there are many.
    pub(super) fn tidy_sites(&mut self) {
        if self.sites.len() > SITES_KEPT {
            let used = |site: &Rc<Site<W>>| Rc::strong_count(site) > 1 || site.open.get() > 0;
            self.sites.retain(|_, site| used(site));
        }
    }
}

/// Sites without mail that are remembered.
const SITES_KEPT: usize = 10_000;

/// Takes a destination out of the counts of its site.
fn leave<W>(number: DestinationId, destination: &mut Destination<W>) {
    if let Route::Found { site, .. } = &destination.route {
        site.ready.set(site.ready.get().saturating_sub(destination.ready.len()));
        if std::mem::take(&mut destination.in_turn) {
            site.hungry.borrow_mut().retain(|other| *other != number);
        }
    }
}

impl Entry {
    /// Submissions before reports: a flood of reports delays nobody's own mail.
    fn urgency(&self) -> (i8, u8) {
        let standing = match self.origin {
            Origin::Submission => 0,
            Origin::Report => 1,
            Origin::Inbound => 2,
            Origin::Relay => 3,
        };
        (-self.priority.max(-100), standing)
    }

    fn class(&self) -> MailClass {
        match self.origin {
            _ if self.sender.is_empty() => MailClass::NullSender,
            Origin::Submission => MailClass::Submission,
            Origin::Report => MailClass::NullSender,
            Origin::Inbound | Origin::Relay => MailClass::Inbound,
        }
    }
}

fn rank(id: QueueId, (priority, standing): (i8, u8), part: &Part) -> Rank {
    (priority, standing, part.due, id)
}

/// The numbers of a recipient's last status; zeros if it has none.
pub(super) fn status_of(recipient: &Recipient) -> [u16; 3] {
    recipient.problem.as_ref().map_or([0; 3], |problem| parse_status(&problem.status))
}

/// `4.2.1` as numbers.
pub(super) fn parse_status(status: &str) -> [u16; 3] {
    let mut numbers = status.splitn(3, '.').map(|number| number.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}
