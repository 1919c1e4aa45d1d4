//! How long the stages of an attempt took: kept with the problem in which it ended, so that
//! operators see where a message lost its time.
//!
//! Stored with the recipient (`docs/disk_format.md`, "The queue"): for each stage its number, which
//! is never used for another one, and microseconds.

use std::time::Duration;

/// A part of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// From the time at which the message was due, or was accepted, until its turn.
    Queue = 0,
    /// The last look-up of its destination, which other messages may share.
    Resolve = 1,
    Connect = 2,
    Greeting = 3,
    Hello = 4,
    StartTls = 5,
    Tls = 6,
    Auth = 7,
    Mail = 8,
    Rcpt = 9,
    Data = 10,
    Content = 11,
    /// From the end of the message to the final reply.
    End = 12,
}

impl Step {
    const ALL: [Step; 13] = [
        Step::Queue,
        Step::Resolve,
        Step::Connect,
        Step::Greeting,
        Step::Hello,
        Step::StartTls,
        Step::Tls,
        Step::Auth,
        Step::Mail,
        Step::Rcpt,
        Step::Data,
        Step::Content,
        Step::End,
    ];

    /// For events and listings.
    pub fn name(self) -> &'static str {
        match self {
            Step::Queue => "queue",
            Step::Resolve => "resolve",
            Step::Connect => "connect",
            Step::Greeting => "greeting",
            Step::Hello => "hello",
            Step::StartTls => "starttls",
            Step::Tls => "tls",
            Step::Auth => "auth",
            Step::Mail => "mail",
            Step::Rcpt => "rcpt",
            Step::Data => "data",
            Step::Content => "content",
            Step::End => "end",
        }
    }
}

/// The time of each step that an attempt came to, in the order of [`Step`]. A reused connection has
/// none for its beginning.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Times(Vec<(Step, Duration)>);

/// Octets of a step as it is stored.
const STEP_OCTETS: usize = 5;

impl Times {
    /// Adds to the time of a step.
    pub fn add(&mut self, step: Step, took: Duration) {
        match self.0.binary_search_by_key(&(step as u8), |(step, _)| *step as u8) {
            Ok(at) => {
                if let Some((_, so_far)) = self.0.get_mut(at) {
                    *so_far = so_far.saturating_add(took);
                }
            }
            Err(at) => self.0.insert(at, (step, took)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Step, Duration)> + '_ {
        self.0.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(self.0.len() * STEP_OCTETS);
        for (step, took) in &self.0 {
            octets.push(*step as u8);
            let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            octets.extend_from_slice(&micros.to_le_bytes());
        }
        octets
    }

    /// Unknown steps are left out.
    pub(super) fn decode(octets: &[u8]) -> Times {
        let mut times = Times::default();
        for stored in octets.as_chunks::<STEP_OCTETS>().0 {
            let [number, micros @ ..] = stored;
            if let Some(step) = Step::ALL.into_iter().find(|step| *step as u8 == *number) {
                times.add(
                    step,
                    Duration::from_micros(u64::from(u32::from_le_bytes(micros.to_owned()))),
                );
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read() {
        let mut times = Times::default();
        assert!(times.is_empty() && Times::decode(&times.encode()) == times);
        for (number, step) in (1..).zip(Step::ALL.into_iter().rev()) {
            times.add(step, Duration::from_micros(number));
        }
        times.add(Step::Rcpt, Duration::from_millis(1));
        let read = Times::decode(&times.encode());
        assert_eq!(read, times);
        let names: Vec<&str> = read.iter().map(|(step, _)| step.name()).collect();
        assert_eq!(names, Step::ALL.map(Step::name));
        assert!(read.iter().any(|it| it == (Step::Rcpt, Duration::from_micros(1004))));
        times.add(Step::End, Duration::MAX);
        let longest = Times::decode(&times.encode()).iter().last().unwrap().1;
        assert_eq!(longest, Duration::from_micros(u64::from(u32::MAX)));
        assert!(Times::decode(&[99, 0, 0, 0, 0, 1, 2]).is_empty());
    }
}
