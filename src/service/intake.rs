//! Limits of memory and time for incoming messages, in every protocol.
//!
//! A [`Pace`] limits how long a client may take over one message (DATA, BDAT, an APPEND's literal):
//! a pause, a minimum rate, and a total time. A message that is not yet in a mailbox holds back the
//! compaction of everything logged after it.

use std::time::Duration;

use crate::model::Moment;

/// Limits of messages being received; `config` fills them.
#[derive(Clone, Debug)]
pub struct IntakeOptions {
    /// Bytes that the messages being received by one shard may hold together.
    pub memory: usize,
    /// How long a client may pause while it sends a message (RFC 5321 4.5.3.2.5 gives it three
    /// minutes for a block).
    pub silence: Duration,
    /// Minimum octets a second of an incoming message, pauses apart.
    pub rate_min: u64,
    /// How long receiving one message may take in total.
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

/// A sender that pauses this long is slow: the received part need not stay in memory.
pub const STALL: Duration = Duration::from_secs(1);

/// The time left for one message. Each octet adds some, up to a full pause.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The deadline unless more arrives.
    until: Moment,
    /// The final deadline.
    end: Moment,
}

impl Pace {
    pub fn new(options: &IntakeOptions, now: Moment) -> Pace {
        Pace { until: now.after(options.silence), end: now.after(options.deadline) }
    }

    /// `octets` of the message arrived.
    pub fn credit(&mut self, options: &IntakeOptions, octets: usize, now: Moment) {
        let micros = (octets as u64).saturating_mul(1_000_000) / options.rate_min.max(1);
        let bought = match options.rate_min {
            0 => now.after(options.silence),
            _ => self.until.after(Duration::from_micros(micros)),
        };
        self.until = bought.min(now.after(options.silence));
    }

    /// How long to wait for more; zero if no time is left.
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

    /// How many seconds a message lasts if its client sends `octets` every `every` seconds.
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
