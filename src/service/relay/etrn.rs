//! ETRN (RFC 1985): mail for a client's domain is tried now, on every shard.
//!
//! A request costs a look through the queue and forgives the pause of a site that is down. So a
//! domain is started once in [`START_INTERVAL`], and a shard works on one request at a time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use hashbrown::HashMap;

use crate::{
    directory::NextHop,
    model::{Moment, ShardId},
    protocol::smtp::{Node, NodeKind, reply::QueueStart},
    queue::Filter,
    runtime::{LocalFuture, mesh::Class},
    service::Shard,
};

/// A domain is not started again for this long.
const START_INTERVAL: Duration = Duration::from_secs(60);

/// Domains that a shard remembers as started. Further ones are refused until some are forgotten.
const STARTED_MAX: usize = 1024;

/// How long a shard may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages rescheduled before others run.
const SLICE: usize = 512;

/// What a shard started lately. Shard-local, part of its carrier.
#[derive(Default)]
pub(super) struct Starts {
    /// By the name in a [`Filter`].
    started: RefCell<HashMap<String, Moment>>,
    working: Cell<bool>,
}

impl Starts {
    /// Whether `domain` may be started at `now`; if so, that is remembered, and others wait until
    /// the result is dropped.
    fn begin(&self, domain: &str, now: Moment) -> Option<Work<'_>> {
        let mut started = self.started.borrow_mut();
        let is_over = |then: Moment| now.since(then) >= START_INTERVAL;
        if self.working.get() || started.get(domain).is_some_and(|then| !is_over(*then)) {
            return None;
        }
        if started.len() >= STARTED_MAX {
            started.retain(|_, then| !is_over(*then));
        }
        if started.len() >= STARTED_MAX {
            return None;
        }
        started.insert(domain.to_owned(), now);
        self.working.set(true);
        Some(Work(self))
    }
}

/// A request in progress.
struct Work<'a>(&'a Starts);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.working.set(false);
    }
}

/// Tries the mail for `node` now; the result is the answer to the client.
pub async fn start_for(shard: &Rc<Shard>, node: Node<'_>) -> QueueStart {
    let name = node.name().to_lowercase();
    let domain = match node.kind {
        // We have no named queues.
        NodeKind::Queue => return QueueStart::Unable,
        NodeKind::Domain => name,
        NodeKind::Below => format!(".{name}"),
    };
    if matches!(shard.directory.next_hop(domain.trim_start_matches('.')), NextHop::Local) {
        return QueueStart::NotAllowed("its mail is kept here");
    }
    let (mut messages, mut refused, mut unknown) = (0, false, false);
    for target in 0..shard.mesh.shard_count() {
        let domain = domain.clone();
        let ask = move |target: Rc<Shard>| -> LocalFuture<'static, Option<Started>> {
            Box::pin(async move { start_here(&target, domain).await })
        };
        match shard.mesh.call(ShardId(target), Class::Upkeep, ANSWER_TIMEOUT, ask).await {
            Ok(Some(Started { count, are_all })) => {
                messages += count;
                unknown |= !are_all;
            }
            Err(_) => unknown = true,
            Ok(None) => refused = true,
        }
    }
    summed(messages, refused, unknown)
}

/// The answer, with so many `messages` that were found; some shards may have `refused`, or not know
/// how many there are.
fn summed(messages: u64, refused: bool, unknown: bool) -> QueueStart {
    match (messages, refused, unknown) {
        (0, true, _) => QueueStart::Unable,
        (0, _, true) => QueueStart::Begun,
        (0, ..) => QueueStart::Nothing,
        (count, false, false) => QueueStart::Messages(count),
        // RFC 1985 5.1: some are waiting, but there may be more.
        _ => QueueStart::Some,
    }
}

/// Messages of a shard that were started.
struct Started {
    count: u64,
    /// Otherwise there may be more: the queue is still being read.
    are_all: bool,
}

/// `None` if it may not be started now.
async fn start_here(shard: &Rc<Shard>, domain: String) -> Option<Started> {
    let queue = shard.relay();
    let starts = &queue.carrier().starts;
    let _work = starts.begin(&domain, shard.executor.moment())?;
    let filter = Filter { domain: Some(domain), held: Some(false), ..Filter::default() };
    let ids = queue.ids(&filter).await;
    let mut count = 0;
    for some in ids.chunks(SLICE) {
        count += queue.flush(some) as u64;
        shard.executor.yield_now().await;
    }
    Some(Started { count, are_all: queue.is_read() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_started_once_a_minute() {
        let starts = Starts::default();
        let at = |seconds| Moment::default().after(Duration::from_secs(seconds));
        let work = starts.begin("a.test", at(100));
        assert!(work.is_some());
        assert!(starts.begin("b.test", at(100)).is_none(), "one at a time");
        drop(work);
        let begins = |domain, seconds| starts.begin(domain, at(seconds)).is_some();
        assert!(!begins("a.test", 159));
        assert!(begins(".a.test", 159));
        assert!(begins("a.test", 160));
    }

    /// A number is told only if it is that of all shards.
    #[test]
    fn what_shards_say_is_summed_up() {
        for (messages, refused, unknown, expected) in [
            (0, false, false, QueueStart::Nothing),
            (3, false, false, QueueStart::Messages(3)),
            (0, false, true, QueueStart::Begun),
            (3, false, true, QueueStart::Some),
            (3, true, false, QueueStart::Some),
            (0, true, false, QueueStart::Unable),
            (0, true, true, QueueStart::Unable),
        ] {
            assert_eq!(
                summed(messages, refused, unknown),
                expected,
                "{messages} {refused} {unknown}"
            );
        }
    }

    #[test]
    fn the_domains_remembered_are_limited() {
        let starts = Starts::default();
        let at = |seconds| Moment::default().after(Duration::from_secs(seconds));
        for number in 0..STARTED_MAX {
            assert!(starts.begin(&format!("d{number}.test"), at(1)).is_some());
        }
        assert!(starts.begin("new.test", at(60)).is_none());
        assert!(starts.begin("new.test", at(61)).is_some());
        assert_eq!(starts.started.borrow().len(), 1);
    }
}
