//! A table that answers instead of servers: for tests and for the simulator.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Failure, Found, Kind, Name, NameServers, Question, Records, Reply, StsPolicy, question::Mx,
};
use crate::{model::Tlsa, runtime::LocalFuture};

/// The time to live of each record.
const AGE: Duration = Duration::from_secs(300);

/// Names and their records. What is not in it does not exist.
#[derive(Default)]
pub struct Zone(Mutex<Table>);

#[derive(Default)]
struct Table {
    replies: BTreeMap<(String, &'static str), Reply>,
    /// Every question, in order.
    asked: Vec<Question>,
    /// Set while no server answers.
    down: Option<Failure>,
}

impl Zone {
    pub fn new() -> Zone {
        Zone::default()
    }

    /// Adds a line as in a zone file, `example.org MX 10 mx.example.org`: MX, A, AAAA, CNAME, TLSA,
    /// TXT, and `STS mode hosts` for an MTA-STS policy; `FAIL` instead of a kind makes every query
    /// for the name fail. A `!` before the name makes the record authentic. CNAME and FAIL must
    /// come last of their name.
    ///
    /// # Panics
    /// On a line that it does not understand: tables are part of a test.
    #[allow(clippy::panic, clippy::expect_used, reason = "a test's table is wrong")]
    pub fn add(&self, line: &str) {
        let authentic = line.starts_with('!');
        let mut words = line.trim_start_matches('!').split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (owner, kind) = (word(), word());
        let name = Name::parse(owner).expect("a name");
        let mut table = self.table();
        let found = |records| Found { records, name: name.clone(), authentic, age: AGE };
        let mut add = |kind: Kind, records: Records| {
            let key = (name.to_string(), label(kind));
            match (table.replies.get_mut(&key), records) {
                (Some(Reply::Found(Found { records: Records::Mx(own), .. })), Records::Mx(new)) => {
                    own.extend(new);
                }
                (
                    Some(Reply::Found(Found { records: Records::Addresses(own), .. })),
                    Records::Addresses(new),
                ) => own.extend(new),
                (
                    Some(Reply::Found(Found { records: Records::Tlsa(own), .. })),
                    Records::Tlsa(new),
                ) => own.extend(new),
                (
                    Some(Reply::Found(Found { records: Records::Text(own), .. })),
                    Records::Text(new),
                ) => own.extend(new),
                (_, records) => {
                    table.replies.insert(key, Reply::Found(found(records)));
                }
            }
        };
        match kind {
            "MX" => {
                let preference = word().parse().expect("a preference");
                let host = word();
                let mx = Mx { preference, host: Name::parse(host).ok(), is_root: host == "." };
                add(Kind::Mx, Records::Mx(vec![mx]));
            }
            "A" | "AAAA" => {
                let kind = if kind == "A" { Kind::A } else { Kind::Aaaa };
                add(kind, Records::Addresses(vec![word().parse().expect("an address")]));
            }
            "TLSA" => {
                let mut number = || word().parse().expect("a number");
                let (usage, selector, matching) = (number(), number(), number());
                let data = word().as_bytes().into();
                add(Kind::Tlsa, Records::Tlsa(vec![Tlsa { usage, selector, matching, data }]));
            }
            "TXT" => {
                let text: Vec<&str> = words.collect();
                add(Kind::Txt, Records::Text(vec![text.join(" ")]));
            }
            "STS" => {
                let mode = word();
                let hosts: String = words.map(|host| format!("mx: {host}\n")).collect();
                let text = format!("version: STSv1\nmode: {mode}\nmax_age: 86400\n{hosts}");
                let policy = StsPolicy::parse(&text).expect("a policy");
                add(Kind::Sts, Records::Sts(Arc::new(policy)));
            }
            "STSFAIL" => {
                let reply = Reply::Failed(Failure::TimedOut);
                table.replies.insert((name.to_string(), label(Kind::Sts)), reply);
            }
            "CNAME" => {
                let target = Name::parse(word()).expect("a name");
                add(Kind::Cname, Records::Cname(vec![target.clone()]));
                let target = target.to_string();
                for kind in ["MX", "A", "AAAA", "TLSA", "TXT"] {
                    if let Some(reply) = table.replies.get(&(target.clone(), kind)).cloned() {
                        let reply = match reply {
                            Reply::Found(found) => {
                                let authentic = authentic && found.authentic;
                                Reply::Found(Found { authentic, ..found })
                            }
                            other => other,
                        };
                        table.replies.insert((name.to_string(), kind), reply);
                    }
                }
            }
            "FAIL" => {
                for kind in ["MX", "A", "AAAA", "TLSA", "TXT", "CNAME"] {
                    let reply = Reply::Failed(Failure::ServerFailed);
                    table.replies.insert((name.to_string(), kind), reply);
                }
            }
            other => panic!("{other}: no kind of record"),
        }
    }

    /// From now on each query fails, or, with `None`, is answered again.
    pub fn set_down(&self, failure: Option<Failure>) {
        self.table().down = failure;
    }

    /// The questions so far.
    pub fn asked(&self) -> Vec<Question> {
        self.table().asked.clone()
    }

    fn reply(&self, question: &Question) -> Reply {
        let mut table = self.table();
        table.asked.push(question.clone());
        if let Some(failure) = table.down {
            return Reply::Failed(failure);
        }
        let name = question.name.to_string();
        if let Some(reply) = table.replies.get(&(name.clone(), label(question.kind))) {
            return reply.clone();
        }
        let exists = table.replies.keys().any(|(owner, _)| {
            owner.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        Reply::Nothing { exists, age: AGE }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Mx => "MX",
        Kind::A => "A",
        Kind::Aaaa => "AAAA",
        Kind::Tlsa => "TLSA",
        Kind::Txt => "TXT",
        Kind::Cname => "CNAME",
        Kind::Sts => "STS",
    }
}

impl NameServers for Zone {
    fn ask(&self, question: Question) -> Option<LocalFuture<'static, Reply>> {
        let reply = self.reply(&question);
        Some(Box::pin(std::future::ready(reply)))
    }
}
