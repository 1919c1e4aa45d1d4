//! Operators who watch events as they happen (`ringmail trace`), also those of kinds that are not
//! written, and the lines of sessions with other hosts, which are never written.
//!
//! Shard-local. A tap never waits: what its reader does not take in time is lost to it.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
};

use super::line::Line;
use crate::model::Timestamp;

/// Taps of a shard at once.
pub const TAPS_MAX: usize = 4;

/// Takes a line, without its end. False: nobody reads any more.
pub type Tap = Box<dyn Fn(&str) -> bool>;

/// A line of a session with another host.
#[derive(Clone, Copy, Debug)]
pub struct Spoken<'a> {
    pub session: &'a str,
    pub host: &'a str,
    pub peer: IpAddr,
    /// By us.
    pub sent: bool,
    pub line: &'a str,
}

#[derive(Default)]
pub(super) struct Taps {
    taps: RefCell<Vec<Tap>>,
    open: Cell<bool>,
}

impl Taps {
    pub(super) fn are_open(&self) -> bool {
        self.open.get()
    }

    /// False if there are too many.
    pub(super) fn add(&self, tap: Tap) -> bool {
        let mut taps = self.taps.borrow_mut();
        if taps.len() >= TAPS_MAX {
            // Those without a reader end at their next line.
            taps.retain(|tap| tap(""));
        }
        let fits = taps.len() < TAPS_MAX;
        if fits {
            taps.push(tap);
            self.open.set(true);
        }
        fits
    }

    /// Passes on a line, or what `append` makes of it.
    pub(super) fn tell(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut line = Vec::new();
        append(&mut line);
        let line = String::from_utf8_lossy(&line);
        let mut taps = self.taps.borrow_mut();
        taps.retain(|tap| tap(line.trim_end()));
        self.open.set(!taps.is_empty());
    }
}

impl Spoken<'_> {
    pub(super) fn append_to(&self, out: &mut Vec<u8>, time: Timestamp) {
        let Spoken { session, host, peer, sent, line: text } = self;
        let mut line = Line::begin(out, time, if *sent { "sent" } else { "heard" });
        line.field("session", session);
        line.field("host", host);
        line.field("peer", peer);
        line.field("line", text);
        line.end();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn taps_end_with_their_readers() {
        let taps = Taps::default();
        assert!(!taps.are_open());
        let heard = Rc::new(RefCell::new(Vec::new()));
        for number in 0..TAPS_MAX + 1 {
            let heard = heard.clone();
            let tap = move |line: &str| {
                heard.borrow_mut().push(line.to_owned());
                number > 0
            };
            // The first one's reader is gone, which is noticed when there is no room.
            assert!(taps.add(Box::new(tap)), "{number}");
        }
        assert!(!taps.add(Box::new(|_| true)));
        heard.borrow_mut().clear();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let spoken = Spoken { session: "0-1", host: "mx", peer, sent: false, line: "250 \"ok\"" };
        taps.tell(|out| spoken.append_to(out, Timestamp(0)));
        let line = concat!(
            r#"{"time":"1970-01-01T00:00:00.000000Z","event":"heard","session":"0-1","#,
            r#""host":"mx","peer":"192.0.2.1","line":"250 \"ok\""}"#
        );
        assert_eq!(*heard.borrow(), [line; TAPS_MAX]);
    }
}
