//! Threads of what a search found: what is compared comes from cards, the tree is made by
//! [`super::threading`], beside the shard if there are many messages.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use super::{
    super::{accounts::Reading, reply::Failure, selected::Selected},
    column::Column,
    order::sent_seconds,
    scan::Hit,
    threading::{Facts, Forest, Links, by_references, by_references_alone, by_subject},
};
use crate::{
    protocol::{
        imap::{Code, message::thread::Algorithm},
        mime::{
            Collation,
            card::{self, ThreadCard},
        },
    },
    runtime::executor::{Executor, offload},
    store::Message,
};

/// Messages that are read before other sessions get their turn, and most whose threads are made on
/// the shard.
const MESSAGES_PER_TURN: usize = 1_024;

/// References of all messages of one command: 16 MiB, and some 100 MiB while threads are made.
const REFERENCES_OF_ALL_MAX: usize = 2_000_000;

/// What is compared of all messages.
#[derive(Default)]
struct Gathered {
    facts: Vec<Facts>,
    /// The ID of each, and where its references end.
    ids: Vec<(Option<u64>, u32)>,
    references: Vec<u64>,
}

impl Gathered {
    fn thread(&self, algorithm: Algorithm) -> Forest {
        if algorithm == Algorithm::OrderedSubject {
            return by_subject(&self.facts);
        }
        let mut links = Links::default();
        let mut start = 0;
        for (id, end) in &self.ids {
            let end = *end as usize;
            let references = self.references.get(start..end).unwrap_or_default();
            links.add(*id, references.iter().copied());
            start = end;
        }
        match algorithm {
            Algorithm::Refs => by_references_alone(links, &self.facts),
            _ => by_references(links, &self.facts),
        }
    }
}

/// The threads of `hits`: messages of the forest are positions in it.
pub(in crate::service::imap) async fn thread(
    hits: &[Hit],
    (algorithm, collation): (Algorithm, Collation),
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Forest, Failure> {
    let with_subjects = algorithm != Algorithm::Refs;
    let with_references = algorithm != Algorithm::OrderedSubject;
    let mut gathered = Gathered::default();
    let mut dates = Column::new(reading, card::DATES);
    let mut subjects = Subjects::new(reading, collation);
    let mut threads = Column::new(reading, card::THREAD);
    for (count, hit) in hits.iter().enumerate() {
        if count % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
            executor.yield_now().await;
        }
        let Some(message) = selected.message(hit.index) else { continue };
        let arrived = message.internal_date.unix_seconds();
        let sent = sent_seconds(&mut dates, &message).await?;
        let (subject, is_reply) = match with_subjects {
            true => subjects.read(&message).await?,
            false => (None, false),
        };
        gathered.facts.push(Facts { sent, arrived, subject, is_reply });
        if with_references {
            let mut id = None;
            let take = |card: &[u8]| {
                let card = ThreadCard::decode(card)?;
                id = card.id;
                gathered.references.extend(card.references());
                Ok(())
            };
            threads.read(&message, take).await?;
            if gathered.references.len() > REFERENCES_OF_ALL_MAX {
                return Err(Failure::no(Code::Limit, "The messages have too many references"));
            }
            gathered.ids.push((id, gathered.references.len() as u32));
        }
    }
    match gathered.facts.len() {
        0..=MESSAGES_PER_TURN => Ok(gathered.thread(algorithm)),
        _ => Ok(offload(executor, move || gathered.thread(algorithm)).await),
    }
}

/// Base subjects as hashes of their keys. Each command has a secret of its own, so that nobody can
/// choose subjects with the same hash.
struct Subjects<'r> {
    column: Column<'r>,
    collation: Collation,
    state: RandomState,
    key: Vec<u8>,
}

impl<'r> Subjects<'r> {
    fn new(reading: &'r Reading, collation: Collation) -> Subjects<'r> {
        let column = Column::new(reading, card::SUBJECT);
        Subjects { column, collation, state: RandomState::new(), key: Vec::new() }
    }

    /// `None` for an empty subject; and whether it is of a reply or forwarded message.
    async fn read(&mut self, message: &Message) -> Result<(Option<u64>, bool), Failure> {
        let Subjects { column, collation, state, key } = self;
        let mut found = (None, false);
        let take = |card: &[u8]| {
            let (text, is_reply) = card::base_subject(card)?;
            let hash = || {
                key.clear();
                collation.push_order_key(text, key);
                let mut hasher = state.build_hasher();
                hasher.write(key);
                hasher.finish()
            };
            found = ((!text.is_empty()).then(hash), is_reply);
            Ok(())
        };
        column.read(message, take).await?;
        Ok(found)
    }
}
