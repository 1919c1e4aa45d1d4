//! Settings of the queue; `config` fills them.

use std::time::Duration;

use smallvec::SmallVec;

use super::envelope::Timetable;
use crate::model::Timestamp;

/// See [`QueueOptions::uids_per_mailbox`]: a quarter is spare for messages that are on their way
/// into the mailbox when it is used up.
const UIDS_PER_MAILBOX: u32 = 3 << 30;

/// How long a connection may wait for its turn under a rate limit that several share.
const RATE_WAIT_SECONDS: usize = 10;

/// How mail waits and how it is sent. Replaced as a whole on reload.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueOptions {
    /// Pauses between attempts; the last one repeats. Not empty.
    pub retry: Vec<Duration>,
    /// When the sender is told that a message is late; zero: never.
    pub delay_warning: Duration,
    /// When a message that could not be delivered is returned.
    pub expire: Duration,
    /// Octets of a message that a report of failure returns whole; of a longer one it returns the
    /// header.
    pub return_max: u64,
    /// Messages waiting in each partition before further ones are refused.
    pub messages_max: u32,
    /// UIDs of a mailbox of the queue that are used: then its successor takes new messages. Not a
    /// setting.
    pub uids_per_mailbox: u32,
    /// Outgoing connections of each shard.
    pub connections: usize,
    /// How long a connection without work is kept open.
    pub idle: Duration,
    /// Limits of every site that no [`Shape`] names.
    pub site: SiteLimits,
    pub shapes: Vec<Shape>,
}

/// Limits of one site. Connections and rate count for all shards together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SiteLimits {
    /// Connections at once.
    pub connections: usize,
    /// Messages on one connection.
    pub messages_per_connection: u32,
    /// Recipients of one transaction.
    pub recipients: usize,
    /// Messages a minute; 0: no limit.
    pub rate: u32,
}

/// Limits of the sites whose name, or one of whose destinations, matches.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// A domain or host; `*.example.org` matches those below it.
    pub pattern: String,
    pub limits: SiteLimits,
}

impl Default for SiteLimits {
    fn default() -> SiteLimits {
        SiteLimits { connections: 20, messages_per_connection: 100, recipients: 100, rate: 0 }
    }
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        QueueOptions {
            retry: [5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            delay_warning: minutes(4 * 60),
            expire: minutes(5 * 24 * 60),
            return_max: 50 * 1024,
            messages_max: 1_000_000,
            uids_per_mailbox: UIDS_PER_MAILBOX,
            connections: 1000,
            idle: Duration::from_secs(2),
            site: SiteLimits::default(),
            shapes: Vec::new(),
        }
    }
}

impl SiteLimits {
    /// Connections that are useful: with a rate limit, as many as send what it allows in a few
    /// seconds. The other side would close a connection that waits for long.
    pub(super) fn connections_used(&self) -> usize {
        let most = match self.rate {
            0 => usize::MAX,
            rate => rate as usize * RATE_WAIT_SECONDS / 60,
        };
        self.connections.min(most).max(1)
    }
}

impl QueueOptions {
    /// The pause after an attempt that failed `age` after the message arrived. It depends on the
    /// age alone, so that nothing about it needs to be kept on disk. `draw` is random: the pause
    /// differs by up to a tenth, so that messages do not all come back at once.
    pub fn pause(&self, age: Duration, draw: u64) -> Duration {
        let mut reached = Duration::ZERO;
        let mut pause = Duration::from_secs(300);
        for step in &self.retry {
            pause = *step;
            reached = reached.saturating_add(*step);
            if age < reached {
                break;
            }
        }
        let share = (draw % 2001) as i64 - 1000;
        let micros = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX / 2);
        let micros = micros.saturating_add(micros / 10_000 * share);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0).max(1000))
    }

    /// When the sender is told that a message is late; `None`: never. What it asked for takes the
    /// place of the setting.
    pub fn warning_at(&self, times: &Timetable) -> Option<Timestamp> {
        let usual =
            || (!self.delay_warning.is_zero()).then(|| times.begins.after(self.delay_warning));
        times.notify_by.or_else(usual)
    }

    /// When the attempt is due that follows the one that `failed` then: at a time of the message at
    /// the latest, so that what the sender is told then is true. `draw` as in
    /// [`QueueOptions::pause`].
    pub fn next_attempt(&self, times: &Timetable, failed: Timestamp, draw: u64) -> Timestamp {
        let age = u64::try_from(failed.0.saturating_sub(times.begins.0)).unwrap_or(0);
        let due = failed.after(self.pause(Duration::from_micros(age), draw));
        let warning = self.warning_at(times).filter(|at| *at > failed);
        let latest = [Some(times.begins.after(self.expire)), times.deadline, warning];
        latest.into_iter().flatten().fold(due, Timestamp::min).max(failed)
    }

    /// The longest pause between attempts, without its random part.
    pub fn pause_max(&self) -> Duration {
        self.retry.iter().copied().max().unwrap_or(Duration::MAX)
    }

    /// The first shape that names one of these hosts or domains, and its place in the row.
    pub(super) fn shape_of<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Option<(usize, SiteLimits)> {
        let names: SmallVec<[&str; 4]> = names.into_iter().collect();
        let is_meant = |shape: &Shape| names.iter().any(|name| matches(&shape.pattern, name));
        let place = self.shapes.iter().position(is_meant)?;
        Some((place, self.shapes.get(place)?.limits))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name
            .len()
            .checked_sub(parent.len() + 1)
            .and_then(|at| name.split_at_checked(at))
            .is_some_and(|(_, tail)| {
                tail.strip_prefix('.').is_some_and(|tail| tail.eq_ignore_ascii_case(parent))
            }),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_age_and_differ_a_little() {
        let options = QueueOptions {
            retry: [10, 100, 1000].map(Duration::from_secs).to_vec(),
            ..QueueOptions::default()
        };
        let pause = |age, draw| options.pause(Duration::from_secs(age), draw).as_secs();
        assert_eq!(
            [0, 9, 10, 109, 110, 99_999].map(|age| pause(age, 1000)),
            [10, 10, 100, 100, 1000, 1000]
        );
        assert_eq!((pause(0, 0), pause(0, 2000)), (9, 11));
        for draw in 0..5000 {
            assert!((900..=1100).contains(&pause(500, draw)));
        }
        let none = QueueOptions { retry: Vec::new(), ..options };
        assert!(none.pause(Duration::ZERO, 7) > Duration::from_secs(200));
    }

    #[test]
    fn shapes_are_found_by_domain_and_host() {
        let limits = |connections| SiteLimits { connections, ..SiteLimits::default() };
        let shape = |pattern: &str, connections| Shape {
            pattern: pattern.to_owned(),
            limits: limits(connections),
        };
        let shapes = vec![shape("*.google.test", 2), shape("slow.example", 1)];
        let options = QueueOptions { shapes, ..QueueOptions::default() };
        let of = |host: &str, domain: &str| {
            let (place, limits) = options.shape_of([host, domain])?;
            Some((place, limits.connections))
        };
        assert_eq!(of("mx.Google.test", "gmail.example"), Some((0, 2)));
        assert_eq!(of("google.test", "gmail.example"), None);
        assert_eq!(of("notgoogle.test", "x"), None);
        assert_eq!(of("mx.example", "SLOW.example"), Some((1, 1)));
        assert_eq!(of("slow.example", "mx.google.test"), Some((0, 2)), "the first one counts");
    }
}
