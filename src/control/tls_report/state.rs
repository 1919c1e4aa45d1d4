//! What is kept of TLS reports, in memory and on disk: days that are counted, and reports that
//! wait.

use std::{collections::BTreeMap, ffi::OsStr, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    protocol::tls_report::{Aggregate, DAYS_MAX, DOMAINS_MAX, Day, Domain},
    runtime::folder::Folder,
};

/// The file in the data directory.
pub(super) const FILE: &str = "tls-reports.json";

/// Octets of the file that are read.
const FILE_MAX: u64 = 256 << 20;

/// The form of the file.
const VERSION: u32 = 1;

/// Reports that wait to be sent.
pub(super) const DUE_MAX: usize = 2 * DOMAINS_MAX;

/// What is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub version: u32,
    /// Days that are not closed.
    pub days: BTreeMap<u32, Counts>,
    pub due: Vec<Due>,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Seconds of the Unix clock: since when, as an operator may have sent what was before.
    pub from: u64,
    pub counts: Aggregate,
}

/// A report that waits to be sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Due {
    pub id: String,
    pub domain: String,
    /// What it covers; `end` is the first second after it.
    pub begin: u64,
    pub end: u64,
    pub content: Domain,
    /// The next attempt.
    pub at: u64,
    /// The first attempt, once there was one.
    pub first: Option<u64>,
    pub attempts: u32,
    /// Endpoints that do not have it; `None` before they were looked up.
    pub left: Option<Vec<String>>,
    /// An attempt is under way.
    #[serde(skip)]
    pub busy: bool,
}

impl Default for State {
    fn default() -> State {
        State { version: VERSION, days: BTreeMap::new(), due: Vec::new() }
    }
}

impl State {
    pub(super) fn day(&mut self, day: Day) -> &mut Aggregate {
        // A clock that runs wild must not fill memory.
        while self.days.len() >= DAYS_MAX && !self.days.contains_key(&day.0) {
            self.days.pop_first();
        }
        let begin = Counts { from: day.begin(), counts: Aggregate::default() };
        &mut self.days.entry(day.0).or_insert(begin).counts
    }

    /// Turns the domains of some days that `is_wanted` into reports that are due `at`. True if
    /// there were any.
    pub(super) fn close(
        &mut self,
        is_over: impl Fn(Day) -> bool,
        is_wanted: impl Fn(&str) -> bool,
        now: u64,
        at: impl Fn(Day) -> u64,
    ) -> bool {
        let mut any = false;
        for (number, mut counts) in std::mem::take(&mut self.days) {
            let day = Day(number);
            if !is_over(day) {
                self.days.insert(number, counts);
                continue;
            }
            let end = day.end().min(now.max(counts.from.saturating_add(1)));
            for (domain, content) in std::mem::take(&mut counts.counts.domains) {
                if !is_wanted(&domain) {
                    counts.counts.domains.insert(domain, content);
                } else if self.due.len() < DUE_MAX {
                    any = true;
                    let id = format!("{:032x}", rand::random::<u128>());
                    let (begin, at) = (counts.from, at(day));
                    let (first, attempts, left, busy) = (None, 0, None, false);
                    self.due.push(Due {
                        id,
                        domain,
                        begin,
                        end,
                        content,
                        at,
                        first,
                        attempts,
                        left,
                        busy,
                    });
                }
            }
            counts.counts.measure();
            // Today goes on.
            if !counts.counts.domains.is_empty() {
                self.days.insert(number, counts);
            } else if day.end() > now {
                let rest = Counts { from: end, counts: Aggregate::default() };
                self.days.insert(number, rest);
            }
        }
        any
    }

    /// Marks a report as busy that is not; the report.
    pub(super) fn begin(&mut self, fits: impl Fn(&Due) -> bool) -> Option<Due> {
        let due = self.due.iter_mut().find(|due| !due.busy && fits(due))?;
        due.busy = true;
        Some(due.clone())
    }

    /// The attempt for `due` is over.
    pub(super) fn end(&mut self, due: Due, is_left: bool) {
        let place = self.due.iter().position(|it| it.id == due.id);
        match place {
            Some(at) if !is_left => drop(self.due.swap_remove(at)),
            Some(at) => {
                if let Some(kept) = self.due.get_mut(at) {
                    *kept = Due { busy: false, ..due };
                }
            }
            None => {}
        }
    }
}

pub(super) fn path(data_dir: &Path) -> String {
    data_dir.join(FILE).display().to_string()
}

/// What is kept in `data_dir`; nothing if there is no file.
pub(super) fn load(data_dir: &Path) -> io::Result<State> {
    let Some(octets) = Folder::open(data_dir)?.read(OsStr::new(FILE), FILE_MAX)? else {
        return Ok(State::default());
    };
    let mut state: State = serde_json::from_slice(&octets).map_err(io::Error::other)?;
    if state.version != VERSION {
        return Err(io::Error::other(format!("of another version ({})", state.version)));
    }
    state.days.values_mut().for_each(|day| day.counts.measure());
    Ok(state)
}
