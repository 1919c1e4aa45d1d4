//! `ringmail trace`: events as they happen, with the lines of sessions with other hosts, until the
//! reader goes.
//!
//! A line is meant if it contains the text that is looked for, or belongs to a connection of which
//! a line was meant. What was said in a session before is kept for a while, so that it is shown
//! from its beginning. Nothing waits for the reader: lines that it does not take in time are
//! counted.

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::live::{Asking, Gone};
use crate::{
    events::TAPS_MAX,
    runtime::{LocalFuture, mesh::MeshGate},
    service::Shard,
};

/// Connections that are followed, on each shard.
const FOLLOWED_MAX: usize = 4096;

/// Lines of sessions that are kept in case they are meant later.
const KEPT_MAX: usize = 2048;

/// How often the reader gets a sign that we are there.
const SIGN_INTERVAL: Duration = Duration::from_secs(1);

/// Answers `trace`, as long as somebody reads.
pub(in crate::server) async fn trace(
    gate: MeshGate<Shard>,
    wanted: String,
    lines: mpsc::Sender<String>,
) {
    let asking = Asking { gate, lines };
    let watched = async {
        let lines = asking.lines.clone();
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, bool> {
            let following = Following::new(&wanted);
            let lines = lines.clone();
            let tap = move |line: &str| following.take(line, &lines);
            Box::pin(async move { shard.events.tap(Box::new(tap)) })
        };
        let added = asking.every_shard(question).await?;
        if added.contains(&false) {
            let why = format!("error: {TAPS_MAX} traces are under way already");
            return asking.tell([why]).await;
        }
        loop {
            asking.tell([".".to_owned()]).await?;
            tokio::time::sleep(SIGN_INTERVAL).await;
        }
    };
    let _: Result<(), Gone> = watched.await;
}

/// What one reader follows on a shard.
struct Following {
    /// In lower case; empty: all.
    wanted: String,
    connections: RefCell<HashSet<String>>,
    /// Lines of sessions that were not meant so far, by connection.
    kept: RefCell<VecDeque<(String, String)>>,
    missed: Cell<u64>,
}

impl Following {
    fn new(wanted: &str) -> Following {
        Following {
            wanted: wanted.to_lowercase(),
            connections: RefCell::default(),
            kept: RefCell::default(),
            missed: Cell::new(0),
        }
    }

    /// False if nobody reads any more.
    fn take(&self, line: &str, lines: &mpsc::Sender<String>) -> bool {
        if lines.is_closed() {
            return false;
        }
        self.choose(line, &mut |line| {
            let missed = self.missed.get();
            if missed > 0 && lines.try_send(format!("#{missed} lines were lost here")).is_ok() {
                self.missed.set(0);
            }
            if lines.try_send(format!("={line}")).is_err() {
                self.missed.set(self.missed.get() + 1);
            }
        });
        true
    }

    fn choose(&self, line: &str, show: &mut dyn FnMut(&str)) {
        if line.is_empty() {
            return;
        }
        let connection = connection(line);
        let mut connections = self.connections.borrow_mut();
        let followed = connection.as_ref().is_some_and(|it| connections.contains(it));
        if followed || line.to_lowercase().contains(&self.wanted) {
            if let Some(connection) = connection.filter(|_| !followed) {
                self.kept.borrow_mut().retain(|(of, earlier)| {
                    let is_its = *of == connection;
                    if is_its {
                        show(earlier);
                    }
                    !is_its
                });
                if connections.len() >= FOLLOWED_MAX {
                    connections.clear();
                }
                connections.insert(connection);
            }
            show(line);
        } else if let Some(session) = connection.filter(|it| it.starts_with("session ")) {
            let mut kept = self.kept.borrow_mut();
            if kept.len() >= KEPT_MAX {
                kept.pop_front();
            }
            kept.push_back((session, line.to_owned()));
        }
    }
}

/// The connection that a line is about: a client's, by its trail without the number of the message,
/// or a session with another host.
fn connection(line: &str) -> Option<String> {
    let value = |name: &str| {
        let (_, rest) = line.split_once(&format!(",\"{name}\":\""))?;
        Some(rest.split_once('"')?.0)
    };
    if let Some(session) = value("session") {
        return Some(format!("session {session}"));
    }
    let parts: Vec<&str> = value("trail")?.splitn(4, '-').collect();
    Some(parts.get(..3)?.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(following: &Following, line: &str) -> Vec<String> {
        let mut shown = Vec::new();
        following.choose(line, &mut |line| shown.push(line.to_owned()));
        shown
    }

    #[test]
    fn a_connection_is_followed_from_its_beginning() {
        let following = Following::new("Bob@X.test");
        let lines = [
            r#"{"event":"heard","session":"0-1","line":"220 mx"}"#,
            r#"{"event":"heard","session":"0-2","line":"220 mx"}"#,
            r#"{"event":"sent","session":"0-1","line":"RCPT TO:<bob@x.test>"}"#,
            r#"{"event":"heard","session":"0-1","line":"250 ok"}"#,
            r#"{"event":"message","trail":"a-0-1-1","to":"bob@x.test"}"#,
            r#"{"event":"delivered","trail":"a-0-1-1"}"#,
            r#"{"event":"delivered","trail":"a-0-10-1"}"#,
            r#"{"event":"disconnected","trail":"a-0-1"}"#,
        ];
        let shown: Vec<usize> = lines.iter().map(|line| chosen(&following, line).len()).collect();
        assert_eq!(shown, [0, 0, 2, 1, 1, 1, 0, 1]);
        let all = Following::new("");
        assert!(lines.iter().all(|line| chosen(&all, line).len() == 1));
    }

    #[test]
    fn a_slow_reader_loses_lines_and_is_told() {
        let (sender, mut lines) = mpsc::channel(2);
        let following = Following::new("");
        for number in 0..5 {
            assert!(following.take(&format!("{{{number}}}"), &sender));
        }
        assert_eq!(lines.try_recv().unwrap(), "={0}");
        assert_eq!(lines.try_recv().unwrap(), "={1}");
        assert!(following.take("{5}", &sender));
        assert_eq!(lines.try_recv().unwrap(), "#3 lines were lost here");
        assert_eq!(lines.try_recv().unwrap(), "={5}");
        drop(lines);
        assert!(!following.take("{6}", &sender));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let following = Following::new("never");
        for number in 0..KEPT_MAX * 2 {
            following.choose(&format!("{{\"e\":0,\"session\":\"{number}\"}}"), &mut |_| ());
        }
        assert_eq!(following.kept.borrow().len(), KEPT_MAX);
    }
}
