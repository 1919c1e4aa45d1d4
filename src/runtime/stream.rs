//! A stream of pieces from one shard to another, for data that is too large for one mesh request or
//! arrives in pieces, with one answer to all of it.
//!
//! The request that opens it ends when the other side has started, and then returns its credit: a
//! long stream must not hold credits that others need. From then on the stream has its own credits,
//! the free places of its queue: the sender waits for one, the receiver never does.
//!
//! Ownership: [`Outgoing`] is on the sending shard, [`Incoming`] on the receiving one; both may be
//! dropped at any time, which the other side notices.

use std::{rc::Rc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    LocalFuture,
    bell::hear,
    executor::Priority,
    mesh::{Class, Mesh},
};
use crate::model::ShardId;

/// The sending end, which waits for the answer.
pub struct Outgoing<P, A> {
    pieces: mpsc::Sender<P>,
    answer: oneshot::Receiver<A>,
}

/// The receiving end, which answers.
pub struct Incoming<P, A> {
    pieces: mpsc::Receiver<P>,
    answer: oneshot::Sender<A>,
}

/// The other side is gone, or never started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stream is broken")]
pub struct Broken;

impl<P, A> Outgoing<P, A> {
    /// Waits for a free place. A receiver that gave up has left its reason in the answer, if it
    /// ever started.
    pub async fn send(&self, piece: P) -> Result<(), Broken> {
        hear(self.pieces.send(piece)).await.map_err(|_| Broken)
    }

    /// Pieces that were sent and not yet received, in a stream with `places`.
    pub fn waiting(&self) -> usize {
        self.pieces.max_capacity() - self.pieces.capacity()
    }

    /// The answer, once the other side is done.
    pub async fn answer(self) -> Result<A, Broken> {
        hear(self.answer).await.map_err(|_| Broken)
    }
}

impl<P, A> Incoming<P, A> {
    /// The next piece; `None` if the sender is gone and everything that it sent was received.
    pub async fn next(&mut self) -> Option<P> {
        hear(self.pieces.recv()).await
    }

    /// Ends the stream. The sender may be gone; then the answer is dropped.
    pub fn answer(self, answer: A) {
        let _ = self.answer.send(answer);
    }
}

impl<S: 'static> Mesh<S> {
    /// Opens a stream of `places` to `target`, where `begin` starts a task that receives the pieces
    /// and answers. `class` and `timeout` are for the opening request; if that fails the stream is
    /// broken.
    pub fn open_stream<P, A, B>(
        &self,
        target: ShardId,
        class: Class,
        timeout: Duration,
        places: usize,
        begin: B,
    ) -> Outgoing<P, A>
    where
        P: Send + 'static,
        A: Send + 'static,
        B: FnOnce(Rc<S>, Incoming<P, A>) + Send + 'static,
    {
        let (pieces, incoming) = mpsc::channel(places);
        let (answered, answer) = oneshot::channel();
        let incoming = Incoming { pieces: incoming, answer: answered };
        let mesh = self.clone();
        let call = async move {
            let begun = move |state: Rc<S>| -> LocalFuture<'static, ()> {
                begin(state, incoming);
                Box::pin(std::future::ready(()))
            };
            // A request that is not executed drops its end of the stream, which the other end
            // notices.
            let _ = mesh.call(target, class, timeout, begun).await;
        };
        self.executor().spawn(Priority::Foreground, Box::pin(call));
        Outgoing { pieces, answer }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::runtime::{executor::Executor, mesh, simulation::Simulation};

    const SECOND: Duration = Duration::from_secs(1);

    struct Side {
        executor: Rc<dyn Executor>,
        taken: Cell<u32>,
    }

    fn sides(simulation: &Simulation) -> Vec<(Mesh<Side>, Rc<Side>)> {
        let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
        let (seats, _gate) = mesh::build::<Side>(2);
        let open = |seat: mesh::MeshSeat<Side>| {
            let mesh = seat.join(executor.clone());
            let side = Rc::new(Side { executor: executor.clone(), taken: Cell::new(0) });
            mesh.open(side.clone());
            (mesh, side)
        };
        seats.into_iter().map(open).collect()
    }

    /// Adds up the pieces; stops permanently after `enough`.
    fn adding(enough: u32) -> impl FnOnce(Rc<Side>, Incoming<u32, u32>) + Send {
        move |side, mut incoming| {
            let executor = side.executor.clone();
            let take = async move {
                let mut sum = 0;
                while let Some(piece) = incoming.next().await {
                    side.taken.set(side.taken.get() + 1);
                    sum += piece;
                    if side.taken.get() >= enough {
                        break;
                    }
                }
                incoming.answer(sum);
            };
            executor.spawn(Priority::Foreground, Box::pin(take));
        }
    }

    #[test]
    fn pieces_come_in_order_and_are_answered() {
        let simulation = Simulation::new(1);
        let sides = sides(&simulation);
        let mesh = sides[0].0.clone();
        let answer = simulation.run_until(async move {
            let stream = mesh.open_stream(ShardId(1), Class::Delivery, SECOND, 2, adding(10));
            assert_eq!(stream.waiting(), 0);
            for piece in 1..=10 {
                stream.send(piece).await.unwrap();
                assert!(stream.waiting() <= 2);
            }
            stream.answer().await
        });
        assert_eq!(answer, Ok(55));
        assert_eq!(sides[1].1.taken.get(), 10);
    }

    /// More streams than credits are open at once: each returned its credit.
    #[test]
    fn streams_hold_no_credits() {
        let simulation = Simulation::new(1);
        let sides = sides(&simulation);
        let mesh = sides[0].0.clone();
        let open = 2 * Class::Upkeep.credits();
        let answered = simulation.run_until(async move {
            let mut streams = Vec::new();
            for piece in 0..open {
                let begin = adding(u32::MAX);
                let stream = mesh.open_stream(ShardId(1), Class::Upkeep, SECOND, 1, begin);
                stream.send(piece as u32).await.unwrap();
                stream.send(piece as u32).await.unwrap();
                streams.push(stream);
            }
            streams.len()
        });
        assert_eq!(answered, open);
    }

    #[test]
    fn a_stream_to_nowhere_is_broken_and_so_is_one_whose_taker_left() {
        let simulation = Simulation::new(1);
        let sides = sides(&simulation);
        let mesh = sides[0].0.clone();
        simulation.run_until(async move {
            let stream = mesh.open_stream(ShardId(9), Class::Delivery, SECOND, 1, adding(1));
            let _ = stream.send(1).await;
            assert_eq!(stream.send(2).await, Err(Broken));
            assert_eq!(stream.answer().await, Err(Broken));
            let stream = mesh.open_stream(ShardId(1), Class::Delivery, SECOND, 1, adding(1));
            let _ = stream.send(7).await;
            while stream.send(8).await.is_ok() {}
            assert_eq!(stream.answer().await, Ok(7), "its reason is in the answer");
            let dropped = |_: Rc<Side>, incoming: Incoming<u32, u32>| drop(incoming);
            let stream = mesh.open_stream(ShardId(1), Class::Delivery, SECOND, 1, dropped);
            while stream.send(8).await.is_ok() {}
            assert_eq!(stream.answer().await, Err(Broken));
        });
    }
}
