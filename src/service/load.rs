//! How busy a shard is, and what it puts off when it is too busy: mail of strangers first, then
//! relaying, and last the mail of users and of the operator's own servers.
//!
//! A shard measures its **lag**: a task asks to be woken every [`TICK`], and records how late it
//! runs. That is how long every other task waits, too. The lag counts as a mean over some seconds
//! ([`MEMORY`]), so that one slow moment puts nothing off; a [`Level`] ends at half the lag at
//! which it began, so that it does not flap.
//!
//! Sessions ask at MAIL, the queue before it opens a connection. Ownership: shard-local, in
//! [`Shard`].

use std::{cell::Cell, rc::Rc, time::Duration};

use super::Shard;
use crate::model::{ClassCounts, MailClass};

/// How often the lag is measured.
const TICK: Duration = Duration::from_millis(100);

/// The time over which the lag is a mean, about.
const MEMORY: Duration = Duration::from_secs(3);

/// What a shard puts off, by how far it is behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Level {
    #[default]
    Nothing,
    /// From `runtime.lag_max` on: mail of strangers.
    Strangers,
    /// From twice that: one connection to each site is enough.
    Relaying,
    /// From four times that: mail of users and LMTP, too.
    All,
}

impl Level {
    /// The value in metrics.
    pub fn number(self) -> u64 {
        self as u64
    }
}

/// How far behind the shard is.
pub struct Load {
    /// Zero: nothing is ever put off.
    lag_max: Duration,
    lag: Cell<Duration>,
    level: Cell<Level>,
    /// Messages answered 250, and MAIL commands refused for the load.
    accepted: ClassCounts,
    put_off: ClassCounts,
}

impl Load {
    /// `lag_max`: `runtime.lag_max`.
    pub fn new(lag_max: Duration) -> Load {
        Load {
            lag_max,
            lag: Cell::default(),
            level: Cell::default(),
            accepted: ClassCounts::default(),
            put_off: ClassCounts::default(),
        }
    }

    /// The mean lag.
    pub fn lag(&self) -> Duration {
        self.lag.get()
    }

    pub fn level(&self) -> Level {
        self.level.get()
    }

    /// Messages that were accepted, by class.
    pub fn accepted(&self) -> &ClassCounts {
        &self.accepted
    }

    /// MAIL commands that were refused for the load, by class.
    pub fn put_off(&self) -> &ClassCounts {
        &self.put_off
    }

    /// Whether mail of a client of this class is taken now.
    pub fn admits(&self, client: MailClass) -> bool {
        match client {
            MailClass::Inbound | MailClass::NullSender => self.level.get() < Level::Strangers,
            MailClass::Submission | MailClass::Local => self.level.get() < Level::All,
        }
    }

    /// Whether the queue opens no more connections than it must.
    pub fn slows_relaying(&self) -> bool {
        self.level.get() >= Level::Relaying
    }

    /// A task ran `late` after the time it was due; `elapsed`: since its last run.
    pub fn note(&self, late: Duration, elapsed: Duration) {
        let weight = elapsed.as_secs_f64() / (elapsed + MEMORY).as_secs_f64();
        let mean = self.lag.get().as_secs_f64();
        let mean = mean + (late.as_secs_f64() - mean) * weight;
        let lag = Duration::try_from_secs_f64(mean).unwrap_or_default();
        self.lag.set(lag);
        let (begins, lasts) = (self.level_at(lag), self.level_at(lag.saturating_mul(2)));
        self.level.set(self.level.get().clamp(begins, lasts));
    }

    fn level_at(&self, lag: Duration) -> Level {
        let most = self.lag_max;
        match lag {
            _ if most.is_zero() || lag < most => Level::Nothing,
            _ if lag < most.saturating_mul(2) => Level::Strangers,
            _ if lag < most.saturating_mul(4) => Level::Relaying,
            _ => Level::All,
        }
    }
}

/// Measures the lag of a shard until it ends. To be run with the priority of sessions.
pub async fn watch(shard: Rc<Shard>) {
    let executor = shard.executor.clone();
    while !shard.shutting_down.get() {
        let began = executor.moment();
        executor.sleep(TICK).await;
        let elapsed = executor.moment().since(began);
        shard.load.note(elapsed.saturating_sub(TICK), elapsed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Ticks with this lag until the level changes, at most 1,000.
    fn ticks_until_change(load: &Load, late: Duration) -> (u32, Level) {
        let before = load.level();
        let changed = (1..=1000).find(|_| {
            load.note(late, TICK + late);
            load.level() != before
        });
        (changed.unwrap_or(0), load.level())
    }

    #[test]
    fn strangers_give_way_first_and_users_last() {
        let load = Load::new(SECOND);
        let admitted = |load: &Load| MailClass::ALL.map(|class| load.admits(class));
        assert_eq!(admitted(&load), [true; 4]);
        // Inbound, submission, local, null sender.
        let users_only = [false, true, true, false];
        let (ticks, level) = ticks_until_change(&load, SECOND.mul_f64(1.5));
        assert_eq!((level, admitted(&load)), (Level::Strangers, users_only));
        assert!(ticks > 1, "one slow moment is none");
        assert!(!load.slows_relaying());
        assert_eq!(ticks_until_change(&load, 3 * SECOND).1, Level::Relaying);
        assert!(load.slows_relaying() && admitted(&load) == users_only);
        assert_eq!(ticks_until_change(&load, 9 * SECOND).1, Level::All);
        assert_eq!(admitted(&load), [false; 4]);
    }

    #[test]
    fn a_level_ends_at_half_of_its_lag() {
        let load = Load::new(SECOND);
        ticks_until_change(&load, SECOND.mul_f64(1.2));
        assert_eq!(ticks_until_change(&load, SECOND.mul_f64(0.6)), (0, Level::Strangers));
        let (ticks, level) = ticks_until_change(&load, Duration::ZERO);
        assert!(ticks > 0 && level == Level::Nothing);
        assert!(load.lag() < SECOND / 2);
    }

    #[test]
    fn without_a_limit_nothing_is_put_off() {
        let load = Load::new(Duration::ZERO);
        assert_eq!(ticks_until_change(&load, 60 * SECOND), (0, Level::Nothing));
        load.note(Duration::MAX, Duration::MAX / 2);
        assert_eq!(load.level(), Level::Nothing);
    }
}
