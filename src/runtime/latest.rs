//! A value of which only the latest matters, told from one shard to another.
//!
//! The teller never waits, and what was not heard is replaced: a listener that is slow costs the
//! teller nothing, and never more than one value. Each end notices when the other one is gone.
//!
//! Ownership: [`Teller`] is on the telling shard, each [`Listener`] on its own; values are shared
//! between threads.

use tokio::sync::watch;

use super::bell::hear;

/// The telling end.
#[derive(Default)]
pub struct Teller<T>(watch::Sender<T>);

/// A listening end.
pub struct Listener<T>(watch::Receiver<T>);

/// The teller is gone: no newer value will come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nothing more is told")]
pub struct Silent;

impl<T> Teller<T> {
    /// A teller without listeners, and the first value.
    pub fn new(first: T) -> Teller<T> {
        Teller(watch::Sender::new(first))
    }

    /// A further listener. The value of now is not news to it.
    pub fn listen(&self) -> Listener<T> {
        Listener(self.0.subscribe())
    }

    /// Replaces the value.
    pub fn tell(&self, value: T) {
        self.0.send_replace(value);
    }

    /// Changes the value in place. `change` returns whether there is news for the listeners.
    pub fn tell_if(&self, change: impl FnOnce(&mut T) -> bool) {
        self.0.send_if_modified(change);
    }

    /// Passes the latest value to `read`, which must not tell.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.borrow())
    }

    pub fn is_alone(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves when nobody listens any more. Cancel-safe.
    pub async fn alone(&self) {
        hear(self.0.closed()).await;
    }
}

impl<T> Listener<T> {
    /// Resolves when there is news since [`Listener::with`] was called last. Cancel-safe.
    ///
    /// # Errors
    /// `Silent` if there is none and the teller is gone.
    pub async fn news(&mut self) -> Result<(), Silent> {
        hear(self.0.changed()).await.map_err(|_| Silent)
    }

    /// Passes the latest value to `read`, which must not wait for the teller.
    pub fn with<R>(&mut self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.borrow_and_update())
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn only_the_latest_is_heard_and_each_end_notices_the_others_end() {
        block_on(async {
            let teller = Teller::new(1);
            let (mut first, mut second) = (teller.listen(), teller.listen());
            assert!(poll_once(first.news()).await.is_none());
            teller.tell(2);
            teller.tell(3);
            assert_eq!(first.news().await, Ok(()));
            assert_eq!(first.with(|value| *value), 3);
            assert!(poll_once(first.news()).await.is_none(), "heard already");
            teller.tell_if(|_| false);
            assert!(poll_once(first.news()).await.is_none(), "no news");
            drop(first);
            assert!(poll_once(teller.alone()).await.is_none());
            drop(teller);
            assert_eq!((second.news().await, second.with(|value| *value)), (Ok(()), 3));
            assert_eq!(second.news().await, Err(Silent));
            let teller = Teller::new(0);
            drop(teller.listen());
            teller.alone().await;
            assert!(teller.is_alone());
        });
    }
}
