//! How messages may come in, whatever the protocol: their memory and their time.
//!
//! A [`Pace`] bounds how long a client may take over one message (DATA, BDAT, an APPEND's literal):
//! silence, a rate below the least, and a time in all. What is not yet in a mailbox holds back
//! the compaction of everything logged after it.

use std::time::Duration;

use crate::model::Moment;

/// Limits of messages under way; `config` fills them.
#[derive(Clone, Debug)]
pub struct IntakeOptions {
    /// Bytes that the messages under way of one shard may hold together.
    pub memory: usize,
    /// How long a client may send nothing of its message (RFC 5321 4.5.3.2.5 gives it three minutes
    /// for a block).
    pub silence: Duration,
    /// Octets a second that a message must come in at, silence apart.
    pub rate_min: u64,
    /// How long one message may take in all.
    pub deadline: Duration,
}

impl Default for IntakeOptions {
    fn default() -> IntakeOptions {
        IntakeOptions {
            memory: 32 << 20,
            silence: Duration::from_secs(300),
            rate_min: 256,
            deadline: Duration::from_secs(3600),
        }
    }
}

/// A sender that makes us wait this long is slow: what it has sent need not stay in memory.
pub const STALL: Duration = Duration::from_secs(1);

/// The time that one message has left. Each octet buys some, up to a whole silence.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// When patience ends unless more comes.
    until: Moment,
    /// When it ends in any case.
    end: Moment,
}

impl Pace {
    pub fn new(options: &IntakeOptions, now: Moment) -> Pace {
        Pace { until: now.after(options.silence), end: now.after(options.deadline) }
    }

    /// `octets` of the message came.
    pub fn credit(&mut self, options: &IntakeOptions, octets: usize, now: Moment) {
        let micros = (octets as u64).saturating_mul(1_000_000) / options.rate_min.max(1);
        let bought = match options.rate_min {
            0 => now.after(options.silence),
            _ => self.until.after(Duration::from_micros(micros)),
        };
        self.until = bought.min(now.after(options.silence));
    }

    /// How long to wait for more; zero when there is no time left.
    pub fn patience(&self, now: Moment) -> Duration {
        self.until.min(self.end).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Seconds that a message lasts whose client sends `octets` every `every` seconds.
    #[track_caller]
    fn check(octets: usize, every: u64, expected: u64) {
        let options = IntakeOptions::default();
        let start = Moment(1_000_000_000_000);
        let mut pace = Pace::new(&options, start);
        let mut passed = 0;
        let lasted = loop {
            let patience = pace.patience(start.after(seconds(passed)));
            if patience < seconds(every) {
                break passed + patience.as_secs();
            }
            passed += every;
            pace.credit(&options, octets, start.after(seconds(passed)));
        };
        assert_eq!(lasted, expected, "{octets} octets every {every} s");
    }

    #[test]
    fn silence_rate_and_deadline() {
        check(0, 10, 300);
        check(1, 1, 301);
        check(128, 1, 599);
        check(256, 1, 3600);
        check(100_000, 240, 3600);
        check(100_000, 301, 300);
    }

    #[test]
    fn numbers_as_large_as_they_come() {
        let options = IntakeOptions { rate_min: 0, silence: Duration::MAX, ..Default::default() };
        let now = Moment(u64::MAX - 5);
        let mut pace = Pace::new(&options, now);
        pace.credit(&options, usize::MAX, now);
        assert!(pace.patience(Moment(0)) > Duration::ZERO);
        assert_eq!(pace.patience(Moment(u64::MAX)), Duration::ZERO);
    }
}
