//! Messages between shards: `call` runs a closure on another shard and returns its result.
//!
//! Invariant: a mesh receiver never waits on a send. A request takes one of the sender's credits
//! for that target (bounded in-flight; waits for a credit, up to the deadline), the receiver spawns
//! it as a task of its own, and its reply goes into a slot that the sender reserved before it sent.
//! So every inbox is bounded by the credits of all others, and no cycle of full queues can form.
//!
//! Requests have a [`Class`], each with its own credits: requests that wait for a silent disk must
//! not hold up those that need no disk.
//!
//! Only a shard's receiver task is ever woken from another thread, once for any number of messages
//! queued meanwhile; callers are woken on their own shard by their receiver.
//!
//! Ownership: `MeshSeat` and `MeshGate` are `Send` (made by the starter), `Mesh` is shard-local.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};
use slab::Slab;
use tokio::sync::oneshot;

use super::{
    LocalFuture,
    bell::DistantWaker,
    executor::{Executor, Priority},
    resources::ShardResources,
    timer::Timer,
};
use crate::model::ShardId;

/// The purpose of a request. One class never waits for the credits of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Stores a message: lasts as long as the target's disk takes.
    Delivery,
    /// A connection whose client has logged in moves to its account's owner.
    Handover,
    /// One shard asks another for state that needs no disk.
    Upkeep,
    /// Work on a mailbox for a session of another shard.
    Mailbox,
}

impl Class {
    const ALL: [Class; 4] = [Class::Delivery, Class::Handover, Class::Upkeep, Class::Mailbox];

    /// Requests of this class that one shard may have in progress on another.
    pub const fn credits(self) -> usize {
        match self {
            Class::Delivery => 256,
            Class::Handover => 64,
            Class::Upkeep => 8,
            Class::Mailbox => 256,
        }
    }
}

/// Requests that one shard may have in progress on another: the bound of an inbox.
pub const CREDITS: usize = Class::Delivery.credits()
    + Class::Handover.credits()
    + Class::Upkeep.credits()
    + Class::Mailbox.credits();

/// Requests from outside the shards that may be in progress on one shard.
pub const GATE_CREDITS: usize = 1024;

/// Messages handled before other tasks of the shard run.
const MESSAGES_AT_ONCE_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    #[error("shard did not answer in time")]
    TimedOut,
    #[error("shard is shutting down")]
    Closed,
    /// Only through a `MeshGate`: too many requests from outside are in progress.
    #[error("shard has too many requests from outside under way")]
    Busy,
}

type Answer = Box<dyn Any + Send>;
type Request<S> = Box<dyn FnOnce(Rc<S>) -> LocalFuture<'static, Answer> + Send>;
type Errand<S> = Box<dyn FnOnce(Rc<S>) -> LocalFuture<'static, ()> + Send>;

enum Message<S> {
    Request {
        source: ShardId,
        slot: usize,
        request: Request<S>,
    },
    Reply {
        slot: usize,
        answer: Answer,
    },
    /// From a gate; counts against its credits until it has run.
    Errand(Errand<S>),
}

/// The part of a shard's mesh that other threads see.
struct Inbox<S> {
    messages: Sender<Message<S>>,
    /// Set by the thread that wakes the receiver, cleared by the receiver before it looks.
    woken: AtomicBool,
    receiver: Mutex<Option<DistantWaker>>,
    closed: AtomicBool,
    errands: AtomicUsize,
}

impl<S> Inbox<S> {
    fn send(&self, message: Message<S>) -> Result<(), MeshError> {
        if self.closed.load(Ordering::Acquire) || self.messages.send(message).is_err() {
            return Err(MeshError::Closed);
        }
        if !self.woken.swap(true, Ordering::SeqCst) {
            let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(receiver) = &*receiver {
                receiver.call();
            }
        }
        Ok(())
    }
}

type Inboxes<S> = Arc<[Inbox<S>]>;

/// One shard's place in a mesh that is being made.
pub struct MeshSeat<S> {
    id: ShardId,
    inboxes: Inboxes<S>,
    messages: Receiver<Message<S>>,
}

/// Makes a mesh of `shard_count` shards: a seat for each, and the gate for other threads.
pub fn build<S: 'static>(shard_count: u16) -> (Vec<MeshSeat<S>>, MeshGate<S>) {
    let (inboxes, receivers): (Vec<Inbox<S>>, Vec<Receiver<Message<S>>>) = (0..shard_count)
        .map(|_| {
            let (messages, receiver) = crossbeam_channel::unbounded();
            let inbox = Inbox {
                messages,
                woken: AtomicBool::new(false),
                receiver: Mutex::new(None),
                closed: AtomicBool::new(false),
                errands: AtomicUsize::new(0),
            };
            (inbox, receiver)
        })
        .unzip();
    let inboxes: Inboxes<S> = inboxes.into();
    let seats = receivers
        .into_iter()
        .zip(0..)
        .map(|(messages, id)| MeshSeat { id: ShardId(id), inboxes: inboxes.clone(), messages })
        .collect();
    (seats, MeshGate { inboxes })
}

impl<S: 'static> MeshSeat<S> {
    /// Joins on the shard's thread. The mesh can call other shards at once; it answers them from
    /// `Mesh::open` on.
    pub fn join(self, executor: Rc<dyn Executor>) -> Mesh<S> {
        let resources = ShardResources::current();
        resources.start_timers(&executor);
        let of_target = || Class::ALL.map(|class| Rc::new(Credits::new(class)));
        let credits = self.inboxes.iter().map(|_| of_target()).collect();
        Mesh {
            core: Rc::new(Core {
                id: self.id,
                inboxes: self.inboxes,
                messages: self.messages,
                executor,
                resources,
                state: RefCell::new(None),
                slots: RefCell::new(Slab::new()),
                credits,
            }),
        }
    }
}

/// One shard's end of the mesh; `S` is the state that calls see on their target.
pub struct Mesh<S> {
    core: Rc<Core<S>>,
}

impl<S> Clone for Mesh<S> {
    fn clone(&self) -> Self {
        Mesh { core: self.core.clone() }
    }
}

struct Core<S> {
    id: ShardId,
    inboxes: Inboxes<S>,
    messages: Receiver<Message<S>>,
    executor: Rc<dyn Executor>,
    resources: Rc<ShardResources>,
    /// Set by `open`, taken by `close`.
    state: RefCell<Option<Rc<S>>>,
    /// Calls in progress, by the number that their request carries.
    slots: RefCell<Slab<Rc<Slot>>>,
    /// By target and class.
    credits: Vec<[Rc<Credits>; Class::ALL.len()]>,
}

/// The destination of a call's reply. The caller holds it too; if it stopped waiting, the reply is
/// dropped with the slot.
struct Slot {
    /// Returned by the answer; a call to the own shard takes none.
    credits: Option<Rc<Credits>>,
    answer: RefCell<Option<Answer>>,
    waker: RefCell<Option<Waker>>,
}

impl<S: 'static> Mesh<S> {
    /// Begins to answer requests with `state`. Requests that arrived before were kept.
    pub fn open(&self, state: Rc<S>) {
        *self.core.state.borrow_mut() = Some(state);
        let core = self.core.clone();
        let receive = async move {
            while poll_fn(|context| core.poll_receive(context)).await {
                futures_lite::future::yield_now().await;
            }
        };
        self.core.executor.spawn(Priority::Foreground, Box::pin(receive));
    }

    /// Of this shard.
    pub(super) fn executor(&self) -> &Rc<dyn Executor> {
        &self.core.executor
    }

    pub fn shard_count(&self) -> u16 {
        self.core.inboxes.len() as u16
    }

    /// Stops answering: calls to this shard fail with `Closed`, requests not yet started are
    /// dropped (their callers time out). Requests in progress run on. Also drops the state.
    pub fn close(&self) {
        let inbox = self.core.own_inbox();
        inbox.closed.store(true, Ordering::Release);
        self.core.state.borrow_mut().take();
        let receiver = inbox.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(receiver) = receiver {
            receiver.call();
        }
    }

    /// Runs `request` on `target` (which may be this shard) and returns its result. The request
    /// runs to its end even if the caller stops waiting. A shard that does not exist is `Closed`.
    pub async fn call<T, F>(
        &self,
        target: ShardId,
        class: Class,
        timeout: Duration,
        request: F,
    ) -> Result<T, MeshError>
    where
        T: Send + 'static,
        F: FnOnce(Rc<S>) -> LocalFuture<'static, T> + Send + 'static,
    {
        let core = &self.core;
        let mut deadline = Deadline::new(&core.resources, timeout);
        if target == core.id {
            return core.call_here(&mut deadline, request).await;
        }
        let index = usize::from(target.0);
        let (Some(credits), Some(inbox)) = (core.credits.get(index), core.inboxes.get(index))
        else {
            return Err(MeshError::Closed);
        };
        let credits = &credits[class as usize];
        Credits::take(credits, &mut deadline).await?;
        let (number, slot) = core.reserve_slot(credits);
        let request: Request<S> = Box::new(move |state| {
            let running = request(state);
            Box::pin(async move { Box::new(running.await) as Answer })
        });
        let message = Message::Request { source: core.id, slot: number, request };
        if let Err(error) = inbox.send(message) {
            credits.give_back();
            core.slots.borrow_mut().remove(number);
            return Err(error);
        }
        slot.answer(&mut deadline).await
    }
}

impl<S: 'static> Core<S> {
    fn own_inbox(&self) -> &Inbox<S> {
        &self.inboxes[usize::from(self.id.0)]
    }

    fn reserve_slot(&self, credits: &Rc<Credits>) -> (usize, Rc<Slot>) {
        let slot = Rc::new(Slot::new(Some(credits.clone())));
        (self.slots.borrow_mut().insert(slot.clone()), slot)
    }

    /// A call to the own shard: polled in place once, since most finish then; only one that has to
    /// wait becomes a task, so that it runs to its end like any other.
    async fn call_here<T, F>(&self, deadline: &mut Deadline, request: F) -> Result<T, MeshError>
    where
        T: Send + 'static,
        F: FnOnce(Rc<S>) -> LocalFuture<'static, T>,
    {
        let state = self.state.borrow().clone().ok_or(MeshError::Closed)?;
        let mut running = request(state);
        if let Some(value) = futures_lite::future::poll_once(&mut running).await {
            return Ok(value);
        }
        let slot = Rc::new(Slot::new(None));
        let answered = slot.clone();
        let task = async move { answered.set(Box::new(running.await)) };
        self.executor.spawn(Priority::Foreground, Box::pin(task));
        slot.answer(deadline).await
    }

    /// Handles the messages in the inbox. Ready(true) if there may be more, Ready(false) at the
    /// end.
    fn poll_receive(self: &Rc<Self>, context: &mut Context<'_>) -> Poll<bool> {
        if self.state.borrow().is_none() {
            return Poll::Ready(false);
        }
        let inbox = self.own_inbox();
        {
            let mut receiver = inbox.receiver.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *receiver {
                Some(known) => known.set(context.waker()),
                None => *receiver = Some(DistantWaker::new(context.waker())),
            }
        }
        inbox.woken.store(false, Ordering::SeqCst);
        for _ in 0..MESSAGES_AT_ONCE_MAX {
            let Ok(message) = self.messages.try_recv() else { return Poll::Pending };
            self.handle(message);
        }
        Poll::Ready(true)
    }

    fn handle(self: &Rc<Self>, message: Message<S>) {
        let core = self.clone();
        let state = self.state.borrow().clone();
        match (message, state) {
            (Message::Reply { slot, answer }, _) => {
                let slot = self.slots.borrow_mut().remove(slot);
                slot.set(answer);
                if let Some(credits) = &slot.credits {
                    credits.give_back();
                }
            }
            (Message::Request { source, slot, request }, Some(state)) => {
                let running = request(state);
                let task = async move {
                    let reply = Message::Reply { slot, answer: running.await };
                    // A source that has closed meanwhile does not wait for it.
                    let _ = core.inboxes[usize::from(source.0)].send(reply);
                };
                self.executor.spawn(Priority::Foreground, Box::pin(task));
            }
            (Message::Errand(errand), Some(state)) => {
                let running = errand(state);
                let task = async move {
                    running.await;
                    core.own_inbox().errands.fetch_sub(1, Ordering::Relaxed);
                };
                self.executor.spawn(Priority::Foreground, Box::pin(task));
            }
            // Closed by a message handled just before.
            (_, None) => {}
        }
    }
}

impl Slot {
    fn new(credits: Option<Rc<Credits>>) -> Slot {
        Slot { credits, answer: RefCell::default(), waker: RefCell::default() }
    }

    fn set(&self, answer: Answer) {
        *self.answer.borrow_mut() = Some(answer);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    #[allow(clippy::expect_used, reason = "the type is the call's own")]
    async fn answer<T: 'static>(&self, deadline: &mut Deadline) -> Result<T, MeshError> {
        let answer = poll_fn(|context| {
            if let Some(answer) = self.answer.borrow_mut().take() {
                return Poll::Ready(Ok(answer));
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            deadline.poll(context).map(Err)
        })
        .await?;
        Ok(*answer.downcast::<T>().expect("a reply has the type its call asked for"))
    }
}

/// The deadline of a call. The timer is created only once there is something to wait for.
struct Deadline {
    resources: Rc<ShardResources>,
    timeout: Duration,
    timer: Option<Timer>,
}

impl Deadline {
    fn new(resources: &Rc<ShardResources>, timeout: Duration) -> Deadline {
        Deadline { resources: resources.clone(), timeout, timer: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<MeshError> {
        let timer = self.timer.get_or_insert_with(|| {
            let timer = Timer::new(self.resources.timers());
            timer.arm(self.timeout);
            timer
        });
        if timer.poll_passed(context) { Poll::Ready(MeshError::TimedOut) } else { Poll::Pending }
    }
}

/// The credits of one target and class. First come, first served.
struct Credits {
    class: Class,
    in_use: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<CreditWait>>>,
}

/// A caller in the queue. A returned credit passes directly to the first of them.
#[derive(Default)]
struct CreditWait {
    /// A credit was granted and not taken yet.
    granted: Cell<bool>,
    /// Removed from the queue.
    called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Credits {
    fn new(class: Class) -> Credits {
        Credits { class, in_use: Cell::new(0), waiting: RefCell::default() }
    }

    async fn take(credits: &Rc<Credits>, deadline: &mut Deadline) -> Result<(), MeshError> {
        if credits.in_use.get() < credits.class.credits() {
            credits.in_use.set(credits.in_use.get() + 1);
            return Ok(());
        }
        let place = CreditPlace::queue(credits);
        poll_fn(|context| {
            if place.wait.granted.take() {
                return Poll::Ready(Ok(()));
            }
            *place.wait.waker.borrow_mut() = Some(context.waker().clone());
            deadline.poll(context).map(Err)
        })
        .await
    }

    fn give_back(&self) {
        match self.waiting.borrow_mut().pop_front() {
            None => self.in_use.set(self.in_use.get() - 1),
            Some(next) => {
                next.granted.set(true);
                next.called.set(true);
                if let Some(waker) = next.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }
}

/// A place in the queue for credits; dropping it loses no credit.
struct CreditPlace {
    credits: Rc<Credits>,
    wait: Rc<CreditWait>,
}

impl CreditPlace {
    fn queue(credits: &Rc<Credits>) -> CreditPlace {
        let wait = Rc::new(CreditWait::default());
        credits.waiting.borrow_mut().push_back(wait.clone());
        CreditPlace { credits: credits.clone(), wait }
    }
}

impl Drop for CreditPlace {
    fn drop(&mut self) {
        if self.wait.granted.get() {
            self.credits.give_back();
        } else if !self.wait.called.get() {
            self.credits.waiting.borrow_mut().retain(|wait| !Rc::ptr_eq(wait, &self.wait));
        }
    }
}

/// Access to the shards from other threads (the control thread, signals). Cheap to clone.
pub struct MeshGate<S> {
    inboxes: Inboxes<S>,
}

impl<S> Clone for MeshGate<S> {
    fn clone(&self) -> Self {
        MeshGate { inboxes: self.inboxes.clone() }
    }
}

impl<S: 'static> MeshGate<S> {
    pub fn shard_count(&self) -> u16 {
        self.inboxes.len() as u16
    }

    /// Runs `errand` on `target` at some time, without an answer.
    pub fn post<F>(&self, target: ShardId, errand: F) -> Result<(), MeshError>
    where
        F: FnOnce(Rc<S>) -> LocalFuture<'static, ()> + Send + 'static,
    {
        let inbox = self.inboxes.get(usize::from(target.0)).ok_or(MeshError::Closed)?;
        if inbox.errands.fetch_add(1, Ordering::Relaxed) >= GATE_CREDITS {
            inbox.errands.fetch_sub(1, Ordering::Relaxed);
            return Err(MeshError::Busy);
        }
        inbox.send(Message::Errand(Box::new(errand)))
    }

    /// Runs `request` on `target` and returns its result, on any executor (tokio). It waits as long
    /// as the request takes: the caller sets the deadline with its own timers.
    pub fn call<T, F>(
        &self,
        target: ShardId,
        request: F,
    ) -> impl Future<Output = Result<T, MeshError>> + Send + 'static
    where
        T: Send + 'static,
        F: FnOnce(Rc<S>) -> LocalFuture<'static, T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let posted = self.post(target, move |state| {
            let running = request(state);
            Box::pin(async move {
                // The caller may be gone.
                let _ = reply.send(running.await);
            })
        });
        async move {
            posted?;
            answer.await.map_err(|_| MeshError::Closed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use super::*;
    use crate::runtime::shard::{self, ShardContext, ShardOptions};

    const SECOND: Duration = Duration::from_secs(1);

    /// The state of each test shard.
    #[derive(Default)]
    struct State {
        id: ShardId,
        counter: Cell<u64>,
        mesh: OnceCell<Mesh<State>>,
    }

    /// Runs `test` on shard 0 of `count`; the others answer until it is done.
    fn on_shard_zero<T: Send + 'static>(
        count: u16,
        test: impl AsyncFnOnce(Rc<State>, Rc<dyn Executor>) -> T + Send + 'static,
    ) -> T {
        let (seats, _) = build::<State>(count);
        let mut test = Some(test);
        let done = Arc::new(AtomicBool::new(false));
        let starts: Vec<_> = seats
            .into_iter()
            .map(|seat| {
                let (test, done) = (test.take(), done.clone());
                move |context: ShardContext| async move {
                    let mesh = seat.join(context.executor.clone());
                    let state = Rc::new(State { id: context.id, ..State::default() });
                    let _ = state.mesh.set(mesh.clone());
                    mesh.open(state.clone());
                    let result = match test {
                        Some(test) => Some(test(state, context.executor).await),
                        None => None,
                    };
                    if result.is_some() {
                        done.store(true, Ordering::SeqCst);
                    }
                    while !done.load(Ordering::SeqCst) {
                        glommio::timer::sleep(Duration::from_millis(2)).await;
                    }
                    mesh.close();
                    result
                }
            })
            .collect();
        let results = shard::start(&ShardOptions::default(), starts).unwrap().join();
        results.into_iter().find_map(|result| result.unwrap()).unwrap()
    }

    fn mesh(state: &State) -> &Mesh<State> {
        state.mesh.get().unwrap()
    }

    #[test]
    fn calls_run_on_their_target_and_bring_results_back() {
        let ids = on_shard_zero(3, async |state, _| {
            let mut ids = Vec::new();
            for target in 0..3 {
                let call = mesh(&state).call(ShardId(target), Class::Delivery, SECOND, |state| {
                    Box::pin(async move {
                        glommio::timer::sleep(Duration::from_millis(1)).await;
                        state.id
                    })
                });
                ids.push(call.await);
            }
            ids.push(
                mesh(&state)
                    .call(ShardId(7), Class::Delivery, SECOND, |s| Box::pin(async move { s.id }))
                    .await,
            );
            ids
        });
        let expected = [Ok(ShardId(0)), Ok(ShardId(1)), Ok(ShardId(2)), Err(MeshError::Closed)];
        assert_eq!(ids, expected);
    }

    /// More calls than credits, in both directions at once: none is lost and the credits come back.
    #[test]
    fn thousands_of_crossing_calls_all_return() {
        let calls = 20 * Class::Delivery.credits();
        let (answers, in_use) = on_shard_zero(2, async move |state, executor| {
            let returned = Rc::new(Cell::new(0));
            for _ in 0..calls {
                let (state, returned) = (state.clone(), returned.clone());
                let task = async move {
                    let call =
                        mesh(&state).call(ShardId(1), Class::Delivery, 20 * SECOND, |there| {
                            Box::pin(async move {
                                // And back to the caller from within.
                                let mesh = mesh(&there).clone();
                                let back =
                                    mesh.call(ShardId(0), Class::Delivery, 20 * SECOND, |here| {
                                        here.counter.set(here.counter.get() + 1);
                                        Box::pin(async {})
                                    });
                                back.await.is_ok()
                            })
                        });
                    if call.await == Ok(true) {
                        returned.set(returned.get() + 1);
                    }
                };
                executor.spawn(Priority::Foreground, Box::pin(task));
            }
            while returned.get() < calls {
                executor.sleep(Duration::from_millis(1)).await;
            }
            let in_use = mesh(&state).core.credits[1][0].in_use.get();
            (state.counter.get(), in_use)
        });
        assert_eq!(answers, calls as u64);
        assert_eq!(in_use, 0);
    }

    #[test]
    fn a_late_answer_is_dropped_and_gives_its_credit_back() {
        let (first, second, in_use, ran) = on_shard_zero(2, async |state, executor| {
            let slow = mesh(&state).call(ShardId(1), Class::Delivery, Duration::ZERO, |there| {
                Box::pin(async move {
                    glommio::timer::sleep(Duration::from_millis(400)).await;
                    there.counter.set(1);
                })
            });
            let first = slow.await;
            let read = |there: Rc<State>| -> LocalFuture<'static, u64> {
                Box::pin(async move { there.counter.get() })
            };
            let second = mesh(&state).call(ShardId(1), Class::Delivery, SECOND, read).await;
            while mesh(&state).core.credits[1][0].in_use.get() > 0 {
                executor.sleep(Duration::from_millis(5)).await;
            }
            let ran = mesh(&state).call(ShardId(1), Class::Delivery, SECOND, read).await;
            (first, second, mesh(&state).core.slots.borrow().len(), ran)
        });
        assert_eq!(first, Err(MeshError::TimedOut));
        assert_eq!((second, in_use, ran), (Ok(0), 0, Ok(1)));
    }

    /// Messages for a shard with a silent disk take all credits of their class, and more wait for
    /// one: handovers to that shard still work.
    #[test]
    fn unanswered_deliveries_do_not_hold_up_handovers() {
        let held = Class::Delivery.credits() + 10;
        let (handed_over, delivered, begun) = on_shard_zero(2, async move |state, executor| {
            for _ in 0..held {
                let state = state.clone();
                let task = async move {
                    let silent =
                        mesh(&state).call(ShardId(1), Class::Delivery, 20 * SECOND, |there| {
                            there.counter.set(there.counter.get() + 1);
                            Box::pin(std::future::pending::<()>())
                        });
                    let _ = silent.await;
                };
                executor.spawn(Priority::Foreground, Box::pin(task));
            }
            let begun = |there: Rc<State>| -> LocalFuture<'static, u64> {
                Box::pin(async move { there.counter.get() })
            };
            while mesh(&state).core.credits[1][0].waiting.borrow().len() < 10 {
                executor.yield_now().await;
            }
            let mesh = mesh(&state);
            let handed_over = mesh.call(ShardId(1), Class::Handover, 20 * SECOND, begun).await;
            let delivered = mesh.call(ShardId(1), Class::Delivery, Duration::ZERO, begun).await;
            (handed_over, delivered, Class::Delivery.credits())
        });
        assert_eq!(handed_over, Ok(begun as u64));
        assert_eq!(delivered, Err(MeshError::TimedOut));
    }

    #[test]
    fn the_gate_is_bounded_and_works_under_tokio() {
        let (mut seats, gate) = build::<State>(1);
        let outside = gate.clone();
        let control = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let id = runtime.block_on(outside.call(ShardId(0), |state| {
                Box::pin(async move {
                    mesh(&state).close();
                    state.id
                })
            }));
            (id, outside)
        });
        let seat = seats.remove(0);
        let start = move |context: ShardContext| async move {
            let mesh = seat.join(context.executor.clone());
            let state = Rc::new(State { id: context.id, ..State::default() });
            let _ = state.mesh.set(mesh.clone());
            mesh.open(state);
            while mesh.core.state.borrow().is_some() {
                context.executor.sleep(Duration::from_millis(1)).await;
            }
            context.executor.sleep(Duration::from_millis(1)).await;
        };
        shard::start(&ShardOptions::default(), vec![start]).unwrap().join();
        let (id, outside) = control.join().unwrap();
        assert_eq!(id, Ok(ShardId(0)));
        assert_eq!(outside.post(ShardId(0), |_| Box::pin(async {})), Err(MeshError::Closed));

        let (_seats, gate) = build::<State>(1);
        for _ in 0..GATE_CREDITS {
            assert_eq!(gate.post(ShardId(0), |_| Box::pin(async {})), Ok(()));
        }
        assert_eq!(gate.post(ShardId(0), |_| Box::pin(async {})), Err(MeshError::Busy));
    }
}
