//! Answers about the queue of a running server: on the control thread, which asks every shard.
//!
//! A shard answers in a background task and in slices. While it is at work, the reader gets a sign
//! each second; a reader that is gone ends the answer, not what the shards have begun.

use std::{rc::Rc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    lines::{self, Reached},
    request::{LIST_STEP, Request, SHAPE_ROWS_MAX, Verb, shape_edges},
};
use crate::{
    model::{ShardId, Timestamp},
    queue::{Action, AgeShape, Envelope, Listed, Matches, SiteFacts, Tally},
    runtime::{
        LocalFuture,
        executor::Priority,
        mesh::{MeshError, MeshGate},
    },
    service::Shard,
};

/// How often a reader is told that the shards are still at work.
const SIGN_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that a dry run shows.
const DRY_SHOWN: usize = 20;

/// Who asks, and whom.
pub(super) struct Asking {
    pub gate: MeshGate<Shard>,
    pub lines: mpsc::Sender<String>,
}

/// The reader is gone.
pub(super) struct Gone;

/// Answers one request.
pub(in crate::server) async fn answer(
    gate: MeshGate<Shard>,
    request: Request,
    lines: mpsc::Sender<String>,
) {
    let asking = Asking { gate, lines };
    // A reader that is gone needs no answer.
    let _ = asking.answer(request).await;
}

impl Asking {
    async fn answer(&self, request: Request) -> Result<(), Gone> {
        match request.verb.clone() {
            Verb::List { most } => self.list(request, most).await?,
            Verb::Show => self.show(request).await?,
            Verb::Shape { by, rows } => {
                let filter = request.filter.clone();
                let question = move |shard: Rc<Shard>| -> LocalFuture<'static, AgeShape> {
                    let filter = filter.clone();
                    Box::pin(async move {
                        shard.relay().shape(&filter, by, &shape_edges(), SHAPE_ROWS_MAX).await
                    })
                };
                let mut sum = AgeShape::default();
                self.every_shard(question).await?.into_iter().for_each(|shape| sum.merge(shape));
                sum.total.resize(shape_edges().len() + 1, 0);
                sum.cut(rows);
                self.tell(lines::shape(&sum, by, request.json)).await?;
            }
            Verb::Act { action, dry: true } => self.try_dry(request, &action).await?,
            Verb::Act { action, dry: false } => self.act(request, action).await?,
        }
        self.tell(["ok".to_owned()]).await
    }

    pub(super) async fn tell(&self, lines: impl IntoIterator<Item = String>) -> Result<(), Gone> {
        for line in lines {
            self.lines.send(line).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Asks one shard. A shard that cannot be asked is named to the reader.
    pub(super) async fn shard<T: Send + 'static>(
        &self,
        number: u16,
        question: impl FnOnce(Rc<Shard>) -> LocalFuture<'static, T> + Send + 'static,
    ) -> Result<Option<T>, Gone> {
        let (reply, mut answer) = oneshot::channel();
        let asked = self.gate.post(ShardId(number), move |shard| {
            let executor = shard.executor.clone();
            let work = async move {
                // The reader may be gone.
                let _ = reply.send(question(shard).await);
            };
            executor.spawn(Priority::Background, Box::pin(work));
            Box::pin(std::future::ready(()))
        });
        let error = match asked {
            Err(error) => error,
            Ok(()) => loop {
                tokio::select! {
                    answered = &mut answer => match answered {
                        Ok(answered) => return Ok(Some(answered)),
                        Err(_) => break MeshError::Closed,
                    },
                    () = tokio::time::sleep(SIGN_INTERVAL) => {
                        self.tell([".".to_owned()]).await?;
                    }
                }
            },
        };
        self.tell([format!("!shard {number}: {error}")]).await?;
        Ok(None)
    }

    /// Asks all shards at once.
    pub(super) async fn every_shard<T: Send + 'static>(
        &self,
        question: impl Fn(Rc<Shard>) -> LocalFuture<'static, T> + Clone + Send + 'static,
    ) -> Result<Vec<T>, Gone> {
        let read = |shard: Rc<Shard>| -> LocalFuture<'static, bool> {
            Box::pin(async move { shard.relay().is_read() })
        };
        let mut asked = Vec::new();
        for number in 0..self.gate.shard_count() {
            let asking = Asking { gate: self.gate.clone(), lines: self.lines.clone() };
            let question = question.clone();
            asked.push(tokio::spawn(async move {
                if asking.shard(number, read).await? == Some(false) {
                    let note = format!("#shard {number} still reads its queue: more may come");
                    asking.tell([note]).await?;
                }
                asking.shard(number, question).await
            }));
        }
        let mut answers = Vec::new();
        for task in asked {
            // A task that ended in a panic has no answer.
            answers.extend(task.await.unwrap_or(Ok(None))?);
        }
        Ok(answers)
    }

    /// The sums of all shards, and the first `most` messages by id.
    async fn find(&self, request: &Request, most: usize) -> Result<(Matches, Timestamp), Gone> {
        let filter = request.filter.clone();
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, (Matches, Timestamp)> {
            let filter = filter.clone();
            Box::pin(async move {
                let matches = shard.relay().find(&filter, None, most).await;
                (matches, shard.executor.now())
            })
        };
        let (mut sums, mut now) = (Matches::default(), Timestamp::default());
        for (matches, then) in self.every_shard(question).await? {
            now = now.max(then);
            sums.messages += matches.messages;
            sums.recipients += matches.recipients;
            sums.octets += matches.octets;
            sums.listed.extend(matches.listed);
        }
        sums.listed.sort_unstable_by_key(|it| it.id);
        sums.listed.truncate(most);
        Ok((sums, now))
    }

    /// A list in the order of ids, unless it is long. `most` of 0: all.
    async fn list(&self, request: Request, most: u64) -> Result<(), Gone> {
        let most = if most == 0 { u64::MAX } else { most };
        let step = LIST_STEP.min(usize::try_from(most).unwrap_or(usize::MAX));
        let (sums, now) = self.find(&request, step).await?;
        let shown = sums.listed.len() as u64;
        if shown < most && shown < sums.messages {
            return self.list_long(request, most, Matches { listed: Vec::new(), ..sums }).await;
        }
        for it in &sums.listed {
            self.tell(lines::listed(it, now, request.json)).await?;
        }
        self.tell(lines::rest(&sums, shown, request.json)).await?;
        if shown == sums.messages {
            let found = |id| sums.listed.iter().any(|it| it.id == id);
            self.tell(request.missing(found)).await?;
        }
        Ok(())
    }

    /// A long list: one shard after the other, some messages at a time. `sums` has no messages yet.
    async fn list_long(&self, request: Request, most: u64, mut sums: Matches) -> Result<(), Gone> {
        let mut shown = 0;
        for number in 0..self.gate.shard_count() {
            let mut after = None;
            loop {
                let step = LIST_STEP.min(usize::try_from(most - shown).unwrap_or(usize::MAX));
                let filter = request.filter.clone();
                let question =
                    move |shard: Rc<Shard>| -> LocalFuture<'static, (Vec<Listed>, Timestamp)> {
                        Box::pin(async move {
                            let listed = shard.relay().list(&filter, after, step).await;
                            (listed, shard.executor.now())
                        })
                    };
                let Some((listed, now)) = self.shard(number, question).await? else { break };
                let Some(last) = listed.last() else { break };
                after = Some(last.id);
                shown += listed.len() as u64;
                for it in &listed {
                    self.tell(lines::listed(it, now, request.json)).await?;
                }
                if !request.filter.ids.is_empty() {
                    sums.listed.extend(listed);
                }
            }
        }
        self.tell(lines::rest(&sums, shown, request.json)).await?;
        if shown >= sums.messages {
            let found = |id| sums.listed.iter().any(|it| it.id == id);
            self.tell(request.missing(found)).await?;
        }
        Ok(())
    }

    async fn show(&self, request: Request) -> Result<(), Gone> {
        let filter = request.filter.clone();
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, Vec<Shown>> {
            let filter = filter.clone();
            Box::pin(async move {
                let mut found = Vec::new();
                for id in &filter.ids {
                    found.extend(shown(&shard, *id).await);
                }
                found
            })
        };
        let mut found: Vec<Shown> = Vec::new();
        self.every_shard(question).await?.into_iter().for_each(|some| found.extend(some));
        found.sort_unstable_by_key(|it| it.listed.id);
        found.dedup_by_key(|it| it.listed.id);
        for Shown { listed, envelope, sites, now } in &found {
            self.tell(lines::shown(listed, envelope, sites, *now, request.json)).await?;
        }
        self.tell(request.missing(|id| found.iter().any(|it| it.listed.id == id))).await
    }

    async fn try_dry(&self, request: Request, action: &Action) -> Result<(), Gone> {
        let (sums, now) = self.find(&request, DRY_SHOWN).await?;
        self.tell(lines::would(action, &sums, now, request.json)).await?;
        if sums.listed.len() as u64 == sums.messages {
            let found = |id| sums.listed.iter().any(|it| it.id == id);
            self.tell(request.missing(found)).await?;
        }
        Ok(())
    }

    async fn act(&self, request: Request, action: Action) -> Result<(), Gone> {
        let (filter, asked) = (request.filter.clone(), action.clone());
        type Done = (Reached, Vec<crate::queue::QueueId>);
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, Done> {
            let (filter, action) = (filter.clone(), asked.clone());
            Box::pin(async move {
                let ids = shard.relay().ids(&filter).await;
                let named = if filter.ids.is_empty() { Vec::new() } else { ids.clone() };
                let tally = Tally::default();
                shard.relay().act_on_all(ids, &action, &tally).await;
                let reached = Reached {
                    done: tally.done.get(),
                    busy: tally.busy.get(),
                    held: tally.held.get(),
                    gone: tally.gone.get(),
                    failed: tally.failed.get(),
                };
                (reached, named)
            })
        };
        let (mut sum, mut named) = (Reached::default(), Vec::new());
        for (reached, ids) in self.every_shard(question).await? {
            sum.done += reached.done;
            sum.busy += reached.busy;
            sum.held += reached.held;
            sum.gone += reached.gone;
            sum.failed += reached.failed;
            named.extend(ids);
        }
        self.tell(lines::acted(&action, sum, request.json)).await?;
        // Of names, each that is missing is told.
        if sum == Reached::default() && request.filter.ids.is_empty() {
            self.tell([lines::NO_MATCH.to_owned()]).await?;
        }
        self.tell(request.missing(|id| named.contains(&id))).await
    }
}

/// One message in detail, of the shard that has it.
pub(super) struct Shown {
    pub listed: Listed,
    pub envelope: Envelope,
    pub sites: Vec<SiteFacts>,
    pub now: Timestamp,
}

pub(super) async fn shown(shard: &Shard, id: crate::queue::QueueId) -> Option<Shown> {
    let queue = shard.relay();
    let (listed, envelope) = queue.show(id).await?;
    let mut names: Vec<&str> = listed.parts.iter().filter_map(|it| it.site.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let sites = names.into_iter().filter_map(|name| queue.site_named(name)).collect();
    Some(Shown { envelope: (*envelope).clone(), listed, sites, now: shard.executor.now() })
}
