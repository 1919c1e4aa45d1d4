//! The tasks of the queue: one waits until messages are due, one for each destination that is being
//! looked up, one for each connection, and one that returns and warns.
//!
//! Ownership: one [`Queue`] a shard, for all partitions that the shard owns.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use futures_lite::future::or;
use smallvec::SmallVec;

use super::{
    Carrier, QueueEvent, QueueId, Session, Unreachable, Way,
    envelope::{Envelope, Problem, Recipient},
    mailboxes::{Current, outgoing},
    options::QueueOptions,
    settle::{AtHand, Chore, body_of},
    site::Site,
    slots::{LOOK_AGAIN, Slot, SlotSeat},
    state::{DestinationId, Pick, Route, State},
};
use crate::{
    model::{MailClass, MailboxId, PartitionId, Timestamp, Uid},
    plant::{Plant, planted},
    runtime::{
        executor::{Executor, Priority},
        wait::{Permits, Signal},
    },
    store::{Account, MessageBody, Partition, Settlement, StoreError},
};

/// Destinations looked up at once.
const LOOKUPS_MAX: usize = 256;
/// How long a destination keeps the site that was found for it. DNS answers are cached by the
/// resolver.
const ROUTE_AGE: Duration = Duration::from_secs(60);
/// Messages moved or read before other tasks run.
const SLICE: usize = 256;
/// Longest sleep of the task that waits for due messages: the wall clock may be set.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);
/// Pause before a queue that could not be read is read again.
const READ_PAUSE: Duration = Duration::from_millis(500);
/// A connection sends at least this many messages, or lasts this long, before another shard gets
/// its turn.
const TURN_MESSAGES: u32 = 10;
const TURN: Duration = Duration::from_secs(1);
/// How often a connection without work checks whether another shard needs its slot.
const IDLE_STEP: Duration = Duration::from_millis(250);
/// After a pause of this length the other side may have ended a connection.
const PAUSE_NOTED: Duration = Duration::from_secs(1);
/// Pause before a message whose result could not be recorded is tried again.
pub(super) const TROUBLE_PAUSE: Duration = Duration::from_secs(5);
/// Envelopes of messages not yet tried that are kept in memory.
const FRESH_MAX: usize = 1000;

/// The queue of one shard. Cheap to clone.
pub struct Queue<C: Carrier> {
    pub(super) inner: Rc<Inner<C>>,
}

impl<C: Carrier> Clone for Queue<C> {
    fn clone(&self) -> Queue<C> {
        Queue { inner: self.inner.clone() }
    }
}

pub(super) struct Inner<C: Carrier> {
    pub executor: Rc<dyn Executor>,
    pub carrier: C,
    pub options: RefCell<Rc<QueueOptions>>,
    /// By number; `None` if another shard is the owner.
    pub partitions: Vec<Option<Partition>>,
    pub state: RefCell<State<C::Way>>,
    /// Where new messages of each partition go, once it is known to exist.
    pub mailboxes: RefCell<Vec<Option<Current>>>,
    due: Signal,
    lookups: Rc<Permits>,
    /// The connections of all sites, shared with other shards.
    seat: SlotSeat,
    /// Outgoing connections, also those being opened.
    connections: Cell<usize>,
    /// Sites that wait for a connection of another site to end, in order.
    starved: RefCell<VecDeque<Rc<Site<C::Way>>>>,
    pub chores: RefCell<VecDeque<Chore>>,
    pub chore: Signal,
    /// Tasks that wait for another task to settle a message; woken whenever one is settled.
    pub unsettled: RefCell<Vec<Waker>>,
    fresh: Cell<usize>,
    /// Partitions not yet read.
    unread: Cell<usize>,
    pub ended: Cell<bool>,
}

impl<C: Carrier> Queue<C> {
    pub fn new(
        executor: Rc<dyn Executor>,
        carrier: C,
        options: QueueOptions,
        partitions: Vec<Option<Partition>>,
        seat: SlotSeat,
    ) -> Queue<C> {
        let mailboxes = RefCell::new(vec![None; partitions.len()]);
        let inner = Inner {
            executor,
            carrier,
            options: RefCell::new(Rc::new(options)),
            partitions,
            state: RefCell::default(),
            mailboxes,
            due: Signal::default(),
            lookups: Rc::new(Permits::new(LOOKUPS_MAX)),
            seat,
            connections: Cell::new(0),
            starved: RefCell::default(),
            chores: RefCell::default(),
            chore: Signal::default(),
            unsettled: RefCell::default(),
            fresh: Cell::new(0),
            unread: Cell::new(0),
            ended: Cell::new(false),
        };
        Queue { inner: Rc::new(inner) }
    }

    pub fn carrier(&self) -> &C {
        &self.inner.carrier
    }

    pub fn options(&self) -> Rc<QueueOptions> {
        self.inner.options.borrow().clone()
    }

    /// Takes new settings; connections and messages use them from their next step on.
    pub fn set_options(&self, options: QueueOptions) {
        let options = Rc::new(options);
        let state = self.inner.state.borrow();
        for site in state.sites.values() {
            site.forget_shape(options.site);
            site.take_shape(options.shape_of(site.way.borrow().hosts()));
        }
        if !options.shapes.is_empty() {
            for (_, destination) in &state.destinations {
                if let Route::Found { site, .. } = &destination.route {
                    let domain = super::domain_of_destination(&destination.name);
                    site.take_shape(options.shape_of([domain]));
                }
            }
        }
        drop(state);
        *self.inner.options.borrow_mut() = options;
        self.serve_starved();
    }

    /// Starts its tasks: they read what waits in the partitions and send what is due.
    pub fn start(&self) {
        self.inner.unread.set(self.inner.partitions.iter().flatten().count());
        let spawn = |task| self.inner.executor.spawn(Priority::Background, task);
        for partition in self.inner.partitions.iter().flatten() {
            spawn(Box::pin(self.clone().read(partition.clone())));
        }
        spawn(Box::pin(self.clone().wait_for_due()));
        spawn(Box::pin(self.clone().do_chores()));
    }

    /// Ends its tasks at their next step; connections finish their message.
    pub fn end(&self) {
        self.inner.ended.set(true);
        self.inner.due.set();
        self.inner.chore.set();
        for site in self.inner.state.borrow().sites.values() {
            site.work.set();
        }
    }

    /// Whether all partitions have been read since [`Queue::start`].
    pub fn is_read(&self) -> bool {
        self.inner.unread.get() == 0
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.inner.state.borrow().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is room for another message of the class.
    pub fn admits(&self, class: MailClass) -> bool {
        let partitions = self.inner.partitions.iter().flatten().count().max(1);
        let most = self.inner.options.borrow().messages_max as usize * partitions;
        self.inner.state.borrow().counts.fits(class, 1, most)
    }

    /// The number of messages of the class.
    pub fn len_of(&self, class: MailClass) -> usize {
        self.inner.state.borrow().counts.of(class)
    }

    /// Octets of all messages.
    pub fn octets(&self) -> u64 {
        self.inner.state.borrow().octets
    }

    /// Outgoing connections, also those being opened.
    pub fn connections(&self) -> usize {
        self.inner.connections.get()
    }

    /// Takes up a message that was durably put into the queue. If it cannot be read now, a task
    /// keeps trying: nothing else would find it before the next start.
    pub async fn take_in(&self, partition: &Partition, id: QueueId, envelope: Rc<Envelope>) {
        self.note_place(id);
        match body_of(partition, id.mailbox, id.uid).await {
            Ok(Some(body)) => self.admit(id, body, &envelope),
            // It was taken back, or sent already.
            Ok(None) => {}
            Err(_) => {
                let (queue, partition) = (self.clone(), partition.clone());
                let task = async move {
                    while !queue.inner.ended.get() {
                        queue.inner.executor.sleep(READ_PAUSE).await;
                        match body_of(&partition, id.mailbox, id.uid).await {
                            Ok(Some(body)) => return queue.admit(id, body, &envelope),
                            Ok(None) => return,
                            Err(_) => {}
                        }
                    }
                };
                self.inner.executor.spawn(Priority::Background, Box::pin(task));
            }
        }
    }

    pub(super) fn admit(&self, id: QueueId, body: MessageBody, envelope: &Rc<Envelope>) {
        let now = self.inner.executor.now();
        let fresh = self.inner.fresh.get() < FRESH_MAX;
        self.inner.fresh.set(self.inner.fresh.get() + usize::from(fresh));
        self.inner.state.borrow_mut().add(id, body, envelope, fresh, |_| now);
        let event = QueueEvent::Queued { id, envelope, octets: body.size };
        self.inner.carrier.tell(&event);
        self.inner.due.set();
    }

    /// Reads the messages of all partitions and starts nothing: for inspecting a queue while no
    /// server runs.
    ///
    /// # Errors
    /// As for accounts.
    pub async fn read_only(&self) -> Result<(), StoreError> {
        for partition in self.inner.partitions.iter().flatten() {
            self.read_once(partition).await?;
        }
        Ok(())
    }

    /// Reads a partition's messages, at start-up.
    async fn read(self, partition: Partition) {
        while !self.inner.ended.get() {
            match self.read_once(&partition).await {
                Ok(()) => {
                    // If this fails, it is done at the next start.
                    let _ = self.delete_predecessors(&partition).await;
                    self.inner.unread.set(self.inner.unread.get().saturating_sub(1));
                    self.inner.due.set();
                    return;
                }
                Err(_) => self.inner.executor.sleep(READ_PAUSE).await,
            }
        }
    }

    async fn read_once(&self, partition: &Partition) -> Result<(), StoreError> {
        let account = partition.queue().await?;
        for (_, mailbox) in outgoing(&account) {
            self.read_mailbox(partition, &account, mailbox).await?;
        }
        Ok(())
    }

    async fn read_mailbox(
        &self,
        partition: &Partition,
        account: &Account,
        mailbox: MailboxId,
    ) -> Result<(), StoreError> {
        let view = account.select(mailbox, false).await?;
        let Some(snapshot) = view.current() else { return Ok(()) };
        let mut next = Uid(1);
        loop {
            let found: Vec<(Uid, MessageBody)> = snapshot
                .iter_from(snapshot.lower_bound(next))
                .take(SLICE)
                .map(|message| (message.uid, message.body))
                .collect();
            let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else {
                return Ok(());
            };
            let mut values = account.annotations(mailbox, *first..=*last).await?;
            let now = self.inner.executor.now();
            for (uid, body) in &found {
                let id = QueueId { partition: partition.id(), mailbox, uid: *uid };
                let stored = values.remove(uid).unwrap_or_default();
                let envelope = Envelope::decode(&stored);
                match envelope.filter(|envelope| !envelope.recipients.is_empty()) {
                    Some(envelope) => self.take_up(id, *body, &Rc::new(envelope), now),
                    None => self.inner.carrier.tell(&QueueEvent::Unreadable { id }),
                }
            }
            next = Uid(last.0.saturating_add(1));
            self.inner.executor.yield_now().await;
            if self.inner.ended.get() {
                return Ok(());
            }
        }
    }

    /// A message from before the start: recipients that were never refused are tried now, others
    /// when their pause is over.
    pub(super) fn take_up(
        &self,
        id: QueueId,
        body: MessageBody,
        envelope: &Rc<Envelope>,
        now: Timestamp,
    ) {
        let options = self.options();
        let draw = self.inner.executor.random();
        let next = |recipient: &Recipient| match &recipient.problem {
            _ if planted(Plant::LoseSchedule) => now,
            None => now,
            Some(problem) => options.next_attempt(&envelope.timetable(), problem.at, draw),
        };
        let mut state = self.inner.state.borrow_mut();
        if planted(Plant::LoseHold) {
            let released = Envelope { held: false, ..(**envelope).clone() };
            return state.add(id, body, &Rc::new(released), false, next);
        }
        state.add(id, body, envelope, false, next);
    }

    async fn wait_for_due(self) {
        while !self.inner.ended.get() {
            let now = self.inner.executor.now();
            let due = self.inner.state.borrow_mut().take_due(now, SLICE);
            if due.is_empty() {
                let next = self.inner.state.borrow().next_due();
                let wait = next.map_or(LOOK_AT_LEAST, |due| {
                    Duration::from_micros(u64::try_from(due.0 - now.0).unwrap_or(0))
                });
                let wait = wait.clamp(Duration::from_millis(1), LOOK_AT_LEAST);
                or(self.inner.due.take(), self.inner.executor.sleep(wait)).await;
                continue;
            }
            for destination in due {
                self.serve(destination);
            }
            self.inner.executor.yield_now().await;
        }
    }

    /// Finds the site of a destination with ready messages, or connections for it.
    pub(super) fn serve(&self, number: DestinationId) {
        let now = self.inner.executor.moment();
        let site = {
            let mut state = self.inner.state.borrow_mut();
            let Some(destination) = state.destinations.get(number as usize) else { return };
            match &destination.route {
                Route::Asking => return,
                Route::Found { site, until } if now < *until => {
                    let site = site.clone();
                    state.take_turn(number);
                    Some(site)
                }
                _ => {
                    state.unbind(number, Route::Asking);
                    None
                }
            }
        };
        match site {
            Some(site) => self.work(&site),
            None => {
                let task = self.clone().look_up(number);
                self.inner.executor.spawn(Priority::Background, Box::pin(task));
            }
        }
    }

    /// Finds the site of a destination.
    async fn look_up(self, number: DestinationId) {
        let _permit = self.inner.lookups.acquire().await;
        let name = self.inner.state.borrow().name(number).map(str::to_owned);
        let Some(name) = name else { return };
        let began = self.inner.executor.moment();
        let found = self.inner.carrier.find(&name).await;
        let took = self.inner.executor.moment().since(began);
        self.inner.state.borrow_mut().looked_up(number, took);
        match found {
            Ok(way) => {
                let site = self.site(way, &name);
                let until = self.inner.executor.moment().after(ROUTE_AGE);
                self.inner.state.borrow_mut().found(number, &site, until);
                self.work(&site);
            }
            Err(why) => {
                self.inner.state.borrow_mut().not_found(number, why.problem());
                self.put_off_destination(number, &why).await;
            }
        }
    }

    fn site(&self, way: C::Way, destination: &str) -> Rc<Site<C::Way>> {
        let options = self.options();
        let domain = super::domain_of_destination(destination);
        let shape = options.shape_of(way.hosts().into_iter().chain([domain]));
        let mut state = self.inner.state.borrow_mut();
        if let Some(site) = state.sites.get(way.site()) {
            site.take_shape(shape);
            *site.way.borrow_mut() = way;
            return site.clone();
        }
        state.tidy_sites();
        let name = way.site().to_owned();
        let is_outside = !way.hosts().is_empty();
        let seat = is_outside.then(|| self.inner.seat.site(&name));
        let site = Rc::new(Site::new(name.clone(), way, options.site, seat));
        site.take_shape(shape);
        state.sites.insert(name.into(), site.clone());
        site
    }

    /// Opens connections to a site that has work for them, or wakes an idle one.
    pub(super) fn work(&self, site: &Rc<Site<C::Way>>) {
        if site.ready.get() == 0 || self.inner.ended.get() {
            return;
        }
        if site.idle.get() > 0 {
            site.work.set();
        }
        let now = self.inner.executor.moment();
        let mut asked = false;
        while site.wants_connection(now)
            && (site.open.get() == 0 || !self.is_strained(site))
            && !self.has_all_connections()
        {
            let slot = site.take_slot(now);
            asked = slot == Slot::Asked;
            if slot != Slot::Taken {
                break;
            }
            self.inner.connections.set(self.inner.connections.get() + 1);
            let task = self.clone().connect(site.clone());
            self.inner.executor.spawn(Priority::Background, Box::pin(task));
        }
        if (site.open.get() == 0 || asked) && !site.waking.replace(true) {
            let pause = site.not_before.get().since(now);
            if pause.is_zero() && !asked && self.has_all_connections() {
                // It is woken when a connection ends.
                return self.inner.starved.borrow_mut().push_back(site.clone());
            }
            let wait = pause.max(LOOK_AGAIN);
            let (queue, site) = (self.clone(), site.clone());
            let task = async move {
                queue.inner.executor.sleep(wait).await;
                site.waking.set(false);
                queue.work(&site);
            };
            self.inner.executor.spawn(Priority::Background, Box::pin(task));
        }
    }

    /// One connection, from its opening to its end.
    async fn connect(self, site: Rc<Site<C::Way>>) {
        let way = site.way.borrow().clone();
        let opened = self.inner.carrier.open(&way).await;
        let mut leaving = false;
        match opened {
            Ok(session) => leaving = self.converse(&site, session).await,
            Err(why) => {
                let problem = why.problem().clone();
                self.inner
                    .carrier
                    .tell(&QueueEvent::SiteDown { site: &site.name, problem: &problem });
                let most = self.options().pause_max();
                if site.failed(self.inner.executor.moment(), problem, most) {
                    self.put_off_site(&site, &why).await;
                }
            }
        }
        site.closed(leaving);
        self.inner.connections.set(self.inner.connections.get() - 1);
        self.serve_starved();
        self.work(&site);
    }

    /// Sends what is ready over a connection, until it ends. True if it ended for other shards.
    async fn converse(&self, site: &Rc<Site<C::Way>>, mut session: Box<dyn Session>) -> bool {
        let began = self.inner.executor.moment();
        let (mut sent, mut leaving) = (0, false);
        while session.is_usable()
            && sent < site.limits.get().messages_per_connection.max(1)
            && !self.inner.ended.get()
        {
            // The message is chosen when its time by the rate has come: the most urgent one then.
            let waits = site.ready.get() > 0;
            if waits && !self.wait_for_place(site, &mut *session).await {
                site.return_place();
                break;
            }
            let pick = self.inner.state.borrow_mut().pick(site);
            let Some(pick) = pick else {
                if waits {
                    site.return_place();
                }
                match self.idle(site, &mut *session).await {
                    Idle::Work => continue,
                    Idle::Over => break,
                    Idle::Leave => {
                        leaving = true;
                        break;
                    }
                }
            };
            self.send(site, &pick, &mut *session).await;
            sent += 1;
            // The site may take one more connection now.
            self.work(site);
            self.inner.executor.yield_now().await;
            if site.open.get() > 1 && self.is_strained(site) {
                break;
            }
            let now = self.inner.executor.moment();
            if (sent >= TURN_MESSAGES || now.since(began) >= TURN) && site.must_leave(now) {
                leaving = true;
                break;
            }
        }
        session.end().await;
        leaving
    }

    fn has_all_connections(&self) -> bool {
        self.inner.connections.get() >= self.options().connections
    }

    /// Gives free connections to the sites that wait for one.
    fn serve_starved(&self) {
        while !self.has_all_connections() {
            let Some(site) = self.inner.starved.borrow_mut().pop_front() else { return };
            site.waking.set(false);
            self.work(&site);
        }
    }

    /// Whether other work of the shard comes before sending to it.
    fn is_strained(&self, site: &Site<C::Way>) -> bool {
        site.is_outside() && self.inner.carrier.is_strained()
    }

    /// Waits until the rate allows another message. False if the connection has ended meanwhile.
    async fn wait_for_place(&self, site: &Site<C::Way>, session: &mut dyn Session) -> bool {
        let wait = site.take_place(self.inner.executor.moment());
        let until = self.inner.executor.moment().after(wait);
        while !self.inner.ended.get() {
            let left = until.since(self.inner.executor.moment());
            if left.is_zero() {
                return wait < PAUSE_NOTED || session.is_alive().await;
            }
            // In short sleeps: a server that shuts down does not wait for it.
            self.inner.executor.sleep(left.min(IDLE_STEP)).await;
        }
        false
    }

    /// A connection without work waits for more.
    async fn idle(&self, site: &Site<C::Way>, session: &mut dyn Session) -> Idle {
        let executor = &self.inner.executor;
        let until = executor.moment().after(self.options().idle);
        let is_wanted = || !self.inner.starved.borrow().is_empty();
        let mut end = Idle::Over;
        site.idle.set(site.idle.get() + 1);
        loop {
            let left = until.since(executor.moment());
            if left.is_zero() || self.inner.ended.get() || is_wanted() {
                break;
            }
            let work = async {
                site.work.take().await;
                true
            };
            let silence = async {
                executor.sleep(left.min(IDLE_STEP)).await;
                false
            };
            if or(work, silence).await {
                end = Idle::Work;
                break;
            }
            if site.must_leave(executor.moment()) {
                end = Idle::Leave;
                break;
            }
        }
        site.idle.set(site.idle.get() - 1);
        match end {
            Idle::Work if !session.is_alive().await => Idle::Over,
            end => end,
        }
    }

    /// Sends one message to the recipients of a pick and records the results.
    async fn send(&self, site: &Rc<Site<C::Way>>, pick: &Pick, session: &mut dyn Session) {
        let before = self.inner.state.borrow().times_before(pick, self.inner.executor.now());
        let Some((partition, body, envelope)) = self.load(pick.id).await else {
            return self.trouble(pick.id, &pick.destinations);
        };
        // One that has expired gets a last attempt, which then says why it failed.
        if let Some(problem) = self.past_deadline(pick.id, self.inner.executor.now()) {
            for destination in &pick.destinations {
                self.add_chore(Chore::Return(pick.id, *destination, problem.clone()));
            }
            return;
        }
        if planted(Plant::DoneEarly)
            && let Ok(account) = partition.queue().await
        {
            let QueueId { mailbox, uid, .. } = pick.id;
            let _ = account.settle(mailbox, uid, Settlement::Removed, None).await;
        }
        let (mut outcomes, recorded) =
            self.exchange(site, pick, &partition, body, &envelope, session).await;
        for (_, outcome) in &mut outcomes {
            if let super::Outcome::Deferred(problem) | super::Outcome::Failed(problem) = outcome {
                before.iter().for_each(|(step, took)| problem.times.add(*step, *took));
            }
        }
        let envelope = match recorded.is_empty() {
            true => envelope,
            false => {
                let mut left = (*envelope).clone();
                left.recipients.retain(|number, _| !recorded.contains(number));
                Rc::new(left)
            }
        };
        self.settle(pick.id, &pick.destinations, &partition, body, &envelope, outcomes).await;
        self.forget_fresh(pick.id);
    }

    pub(super) fn forget_fresh(&self, id: QueueId) {
        let mut state = self.inner.state.borrow_mut();
        if let Some(entry) = state.entries.get_mut(&id)
            && entry.fresh.take().is_some()
        {
            self.inner.fresh.set(self.inner.fresh.get().saturating_sub(1));
        }
    }

    /// A fresh envelope left with its entry.
    pub(super) fn dropped(&self, was_fresh: bool) {
        let fresh = self.inner.fresh.get();
        self.inner.fresh.set(fresh.saturating_sub(usize::from(was_fresh)));
    }

    /// The message's partition, body and envelope; `None` if they cannot be read now.
    pub(super) async fn load(&self, id: QueueId) -> Option<(Partition, MessageBody, Rc<Envelope>)> {
        let partition = self.partition(id.partition)?;
        let (body, fresh) = {
            let state = self.inner.state.borrow();
            let entry = state.entries.get(&id)?;
            (entry.body, entry.fresh.clone())
        };
        if let Some(envelope) = fresh {
            return Some((partition, body, envelope));
        }
        let account = partition.queue().await.ok()?;
        let mut values = account.annotations(id.mailbox, id.uid..=id.uid).await.ok()?;
        let stored = values.remove(&id.uid).unwrap_or_default();
        let envelope = Envelope::decode(&stored)?;
        Some((partition, body, Rc::new(envelope)))
    }

    pub(super) fn partition(&self, number: PartitionId) -> Option<Partition> {
        self.inner.partitions.get(usize::from(number.0))?.clone()
    }

    /// Something on this server, or an operator, prevented the attempt: the message is tried again
    /// soon, but not before its time.
    pub(super) fn trouble(&self, id: QueueId, destinations: &[DestinationId]) {
        let due = self.inner.executor.now().after(TROUBLE_PAUSE);
        let mut state = self.inner.state.borrow_mut();
        for destination in destinations {
            state.put_off(id, *destination, due);
        }
        drop(state);
        self.inner.due.set();
    }

    pub(super) fn wake(&self) {
        self.inner.due.set();
    }

    /// Why a message must not be delivered any more, if its sender set a time limit (RFC 2852).
    fn past_deadline(&self, id: QueueId, now: Timestamp) -> Option<Problem> {
        let state = self.inner.state.borrow();
        let passed = state.entries.get(&id)?.times.deadline.is_some_and(|deadline| deadline <= now);
        passed.then(|| late(now, "the time that its sender allowed for delivery is over"))
    }

    /// Why a message is not tried any more, if it has expired.
    fn too_late(&self, id: QueueId, now: Timestamp) -> Option<Problem> {
        let begins = self.inner.state.borrow().entries.get(&id)?.times.begins;
        let expired = begins.after(self.options().expire) <= now;
        let expired = || expired.then(|| late(now, "it could not be delivered in time"));
        self.past_deadline(id, now).or_else(expired)
    }

    /// Every ready message of a destination is deferred, or returned.
    async fn put_off_destination(&self, number: DestinationId, why: &Unreachable) {
        loop {
            let taken = self.inner.state.borrow_mut().take_ready(number, SLICE);
            if taken.is_empty() {
                return;
            }
            for id in taken {
                match why {
                    Unreachable::Ever(problem) => {
                        self.add_chore(Chore::Return(id, number, problem.clone()));
                    }
                    Unreachable::Now(problem) => self.put_off(id, number, problem),
                }
            }
            self.wake();
            self.inner.executor.yield_now().await;
        }
    }

    /// The same for all destinations of a site.
    async fn put_off_site(&self, site: &Rc<Site<C::Way>>, why: &Unreachable) {
        let hungry: Vec<DestinationId> = site.hungry.borrow().iter().copied().collect();
        for number in hungry {
            self.put_off_destination(number, why).await;
        }
    }

    /// A part waits according to its schedule; its sender is warned if it is late, and it is
    /// returned if it has expired.
    pub(super) fn put_off(&self, id: QueueId, number: DestinationId, problem: &Problem) {
        let now = self.inner.executor.now();
        if let Some(late) = self.too_late(id, now) {
            let reason = format!("{}; the last problem was: {}", late.reason, problem.reason);
            // A security policy that forbids delivery (RFC 3463 3.8) explains more than the expiry
            // does.
            let status = match !problem.is_reply && problem.status.starts_with("4.7.") {
                true => problem.status.clone(),
                false => late.status.clone(),
            };
            let late = Problem { status, reason, host: problem.host.clone(), ..late };
            return self.add_chore(Chore::Return(id, number, late));
        }
        let options = self.options();
        let draw = self.inner.executor.random();
        let mut state = self.inner.state.borrow_mut();
        let Some(entry) = state.entries.get_mut(&id) else { return };
        let due = options.next_attempt(&entry.times, now, draw);
        let late = options.warning_at(&entry.times).is_some_and(|at| at <= now);
        let mut warn = false;
        if let Some(part) = entry.parts.iter_mut().find(|part| part.destination == number) {
            warn = late && !part.warned;
            part.status = super::state::parse_status(&problem.status);
        }
        state.defer(id, number, due);
        drop(state);
        if warn {
            self.add_chore(Chore::Warn(id, number, problem.clone()));
        }
    }

    pub(super) fn add_chore(&self, chore: Chore) {
        self.inner.chores.borrow_mut().push_back(chore);
        self.inner.chore.set();
    }

    /// The recipients of a pick, in transactions of one sender and limited length. Returns results
    /// to record, and who has the message and is recorded already.
    async fn exchange(
        &self,
        site: &Rc<Site<C::Way>>,
        pick: &Pick,
        partition: &Partition,
        body: MessageBody,
        envelope: &Envelope,
        session: &mut dyn Session,
    ) -> (Vec<(u32, super::Outcome)>, Vec<u32>) {
        let chosen = self.recipients_of(&pick.destinations, envelope);
        let mut outcomes = Vec::with_capacity(chosen.len());
        let mut recorded = Vec::new();
        let mut groups: Vec<(&str, Vec<(u32, &Recipient)>)> = Vec::new();
        for (number, recipient) in chosen {
            let sender = envelope.sender_for(recipient);
            match groups.iter_mut().find(|(other, _)| *other == sender) {
                Some((_, group)) => group.push((number, recipient)),
                None => groups.push((sender, vec![(number, recipient)])),
            }
        }
        for (sender, group) in &groups {
            for recipients in group.chunks(site.limits.get().recipients.max(1)) {
                if !session.is_usable() && !outcomes.is_empty() {
                    let lost = Problem {
                        at: self.inner.executor.now(),
                        status: "4.4.2".to_owned(),
                        reason: "the connection ended before its turn".to_owned(),
                        ..Problem::default()
                    };
                    let deferred = |(number, _): &(u32, &Recipient)| {
                        (*number, super::Outcome::Deferred(lost.clone()))
                    };
                    outcomes.extend(recipients.iter().map(deferred));
                    continue;
                }
                // The next transaction may take minutes.
                if !outcomes.is_empty() {
                    let at_hand = AtHand { id: pick.id, partition, body, envelope };
                    recorded.extend(self.record_delivered(&at_hand, &mut outcomes).await);
                }
                let job = super::Job { id: pick.id, partition, body, envelope, sender, recipients };
                outcomes.extend(session.send(&job).await);
            }
        }
        let accepted = !recorded.is_empty()
            || outcomes.iter().any(|(_, it)| {
                matches!(it, super::Outcome::Delivered { .. } | super::Outcome::Failed(_))
            });
        let begun = accepted || outcomes.iter().any(|(_, it)| *it != super::Outcome::Again);
        if !begun {
            // It says nothing about the site.
        } else if accepted {
            site.accepted();
        } else {
            site.deferred.set(site.deferred.get() + 1);
            if !session.is_usable() {
                site.pushed_back();
            }
        }
        (outcomes, recorded)
    }

    /// The recipients of an envelope that belong to `destinations`.
    pub(super) fn recipients_of<'a>(
        &self,
        destinations: &[DestinationId],
        envelope: &'a Envelope,
    ) -> Vec<(u32, &'a Recipient)> {
        let state = self.inner.state.borrow();
        let names: SmallVec<[&str; 4]> =
            destinations.iter().filter_map(|number| state.name(*number)).collect();
        let belongs = |recipient: &Recipient| {
            let name = super::state::destination_of(recipient);
            names.iter().any(|it| **it == name)
        };
        let recipients = envelope.recipients.iter();
        recipients.filter(|(_, it)| belongs(it)).map(|(number, it)| (*number, it)).collect()
    }
}

impl Unreachable {
    pub fn problem(&self) -> &Problem {
        match self {
            Unreachable::Now(problem) | Unreachable::Ever(problem) => problem,
        }
    }
}

/// What ended the idleness of a connection.
enum Idle {
    Work,
    /// No work came, or the other side closed the connection.
    Over,
    /// Another shard gets its slot.
    Leave,
}

/// The end of a message's time.
fn late(now: Timestamp, reason: &str) -> Problem {
    let (status, reason) = ("4.4.7".to_owned(), reason.to_owned());
    Problem { at: now, status, reason, ..Problem::default() }
}
