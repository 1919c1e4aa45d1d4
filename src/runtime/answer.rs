//! A result that is available at once or later, without a task or an allocation in the first case.
//!
//! The directory and the SMTP policy return it: a lookup in memory is [`Answer::now`], a query to a
//! thread beside the shards is [`Answer::later`]. Callers await both in the same way.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::LocalFuture;

/// A future that may be done before it is polled. Shard-local.
#[must_use = "an answer is asked for by awaiting it"]
pub struct Answer<'a, T>(State<'a, T>);

enum State<'a, T> {
    /// `None` once it was taken.
    Now(Option<T>),
    Later(LocalFuture<'a, T>),
}

impl<'a, T: 'a> Answer<'a, T> {
    pub fn now(value: T) -> Answer<'a, T> {
        Answer(State::Now(Some(value)))
    }

    pub fn later(value: impl Future<Output = T> + 'a) -> Answer<'a, T> {
        Answer(State::Later(Box::pin(value)))
    }

    /// Whether awaiting it returns at once.
    pub fn is_ready(&self) -> bool {
        matches!(self.0, State::Now(_))
    }

    /// Maps the result.
    pub fn map<U: 'a>(self, make: impl FnOnce(T) -> U + 'a) -> Answer<'a, U> {
        match self.0 {
            State::Now(value) => Answer(State::Now(value.map(make))),
            State::Later(value) => Answer::later(async move { make(value.await) }),
        }
    }
}

/// Nothing in it is pinned: the future has a box of its own.
impl<T> Unpin for Answer<'_, T> {}

impl<T> Future for Answer<'_, T> {
    type Output = T;

    /// Like other futures, it must not be polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            State::Now(value) => value.take().map_or(Poll::Pending, Poll::Ready),
            State::Later(value) => value.as_mut().poll(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once, yield_now};

    use super::*;

    #[test]
    fn at_once_and_later() {
        let at_once = Answer::now(3).map(|number| number + 1);
        assert!(at_once.is_ready());
        assert_eq!(block_on(poll_once(at_once)), Some(4));

        let late = Answer::later(async {
            yield_now().await;
            3
        });
        let mut late = late.map(|number| number + 1);
        assert!(!late.is_ready());
        assert_eq!(block_on(poll_once(&mut late)), None);
        assert_eq!(block_on(late), 4);
    }
}
