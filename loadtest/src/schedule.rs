//! When operations start. Shared by all threads; a ticket is one operation's right to start.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Hands out operations until their number or the time is used up.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    end: Option<Instant>,
    /// Time between intended starts; `None` in a closed loop.
    interval: Option<Duration>,
    operations_max: u64,
    next: AtomicU64,
}

/// One operation: its number and, in an open loop, when it was meant to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub number: u64,
    pub intended: Option<Instant>,
}

impl Schedule {
    pub fn new(
        start: Instant,
        rate: Option<f64>,
        duration: Option<Duration>,
        operations: Option<u64>,
    ) -> Schedule {
        Schedule {
            start,
            end: duration.map(|duration| start + duration),
            interval: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            operations_max: operations.unwrap_or(u64::MAX),
            next: AtomicU64::new(0),
        }
    }

    /// The next operation, or `None` if there is none left to start at `now`. In an open loop the
    /// schedule does not wait: when all connections are late, operations start late, and the
    /// latency of each still counts from its intended start.
    pub fn take(&self, now: Instant) -> Option<Ticket> {
        if self.end.is_some_and(|end| now >= end) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.operations_max {
            return None;
        }
        let intended = match self.interval {
            None => None,
            Some(interval) => {
                let offset = interval.as_nanos().checked_mul(u128::from(number))?;
                let at = self.start + Duration::from_nanos(u64::try_from(offset).ok()?);
                if self.end.is_some_and(|end| at >= end) {
                    return None;
                }
                Some(at)
            }
        };
        Some(Ticket { number, intended })
    }

    /// Operations that were due by the end but never started: the server could not sustain an open
    /// loop's rate.
    pub fn missed(&self, now: Instant) -> u64 {
        let Some(interval) = self.interval else { return 0 };
        let elapsed = self.end.map_or(now, |end| end.min(now)).duration_since(self.start);
        let due = (elapsed.as_nanos() / interval.as_nanos().max(1)) as u64;
        due.min(self.operations_max).saturating_sub(self.next.load(Ordering::Relaxed))
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_loop_counts() {
        let start = Instant::now();
        let schedule = Schedule::new(start, None, None, Some(2));
        assert_eq!(schedule.take(start), Some(Ticket { number: 0, intended: None }));
        assert_eq!(schedule.take(start), Some(Ticket { number: 1, intended: None }));
        assert_eq!(schedule.take(start), None);
    }

    #[test]
    fn open_loop_keeps_its_own_time() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let schedule = Schedule::new(start, Some(2.0), Some(2 * second), None);
        // All connections stalled for 1.9 s: the intended starts did not.
        let late = start + Duration::from_millis(1900);
        let intended: Vec<_> = (0..4).map(|_| schedule.take(late).unwrap().intended).collect();
        let expected: Vec<_> = (0..4).map(|n| Some(start + n * second / 2)).collect();
        assert_eq!(intended, expected);
        assert_eq!(schedule.take(late), None);
    }

    #[test]
    fn what_nobody_started_is_missed() {
        let start = Instant::now();
        let schedule = Schedule::new(start, Some(100.0), Some(Duration::from_secs(1)), None);
        schedule.take(start);
        assert_eq!(schedule.missed(start + Duration::from_secs(5)), 99);
    }
}
