//! Building threads (RFC 5256 3, draft-ietf-morg-inthread-01): pure, over numbers.
//!
//! Messages are numbered 0, 1, … in the order of the mailbox; IDs and subjects are hashes. Nothing
//! here recurses, so a thread may be as deep as there are messages. Loops of references are found
//! by going up from a message; all ways up together have [`STEPS_MAX`] steps, after which a link
//! that would need another way is not made.

use std::{cmp::Reverse, collections::HashMap};

/// No node.
const NONE: u32 = u32::MAX;
/// Steps up the tree, against loops; mailboxes without malice need hardly any.
const STEPS_MAX: u64 = 20_000_000;

/// What THREAD compares of a message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Facts {
    /// The sent date.
    pub sent: i64,
    pub arrived: i64,
    /// Of the base subject; `None` if that is empty.
    pub subject: Option<u64>,
    pub is_reply: bool,
}

/// The entry of a node; [`NONE`] also for what is none.
fn entry(nodes: &[u32], node: u32) -> u32 {
    nodes.get(node as usize).copied().unwrap_or(NONE)
}

fn is(marks: &[bool], node: u32) -> bool {
    marks.get(node as usize).copied().unwrap_or(false)
}

fn put<T>(entries: &mut [T], node: u32, value: T) {
    if let Some(place) = entries.get_mut(node as usize) {
        *place = value;
    }
}

fn fact(facts: &[Facts], message: u32) -> Facts {
    facts.get(message as usize).copied().unwrap_or_default()
}

/// Step 1: messages linked by their references, each added once, in the order of the mailbox.
#[derive(Default)]
pub(super) struct Links {
    /// The node of an ID.
    by_id: HashMap<u64, u32>,
    /// By node.
    parents: Vec<u32>,
    has_children: Vec<bool>,
    /// The message of a node, [`NONE`] for an ID that no message has.
    messages: Vec<u32>,
    /// The node of a message.
    nodes: Vec<u32>,
    steps: u64,
}

impl Links {
    /// `references`: the oldest first.
    pub(super) fn add(&mut self, id: Option<u64>, references: impl Iterator<Item = u64>) {
        let number = self.nodes.len() as u32;
        let node = match id {
            // Only the first message with an ID has it.
            Some(id) => match self.node_of(id) {
                node if self.message(node) == NONE => node,
                _ => self.new_node(),
            },
            None => self.new_node(),
        };
        put(&mut self.messages, node, number);
        self.nodes.push(node);
        let mut before = NONE;
        for reference in references {
            let next = self.node_of(reference);
            if before != NONE && entry(&self.parents, next) == NONE {
                self.link(before, next);
            }
            before = next;
        }
        put(&mut self.parents, node, NONE);
        if before != NONE {
            self.link(before, node);
        }
    }

    fn message(&self, node: u32) -> u32 {
        entry(&self.messages, node)
    }

    fn node_of(&mut self, id: u64) -> u32 {
        if let Some(node) = self.by_id.get(&id) {
            return *node;
        }
        let node = self.new_node();
        self.by_id.insert(id, node);
        node
    }

    fn new_node(&mut self) -> u32 {
        self.parents.push(NONE);
        self.has_children.push(false);
        self.messages.push(NONE);
        self.messages.len() as u32 - 1
    }

    /// Makes `parent` that of `child`, which has none, unless that would be a loop.
    fn link(&mut self, parent: u32, child: u32) {
        if parent == child || is(&self.has_children, child) && self.is_above(child, parent) {
            return;
        }
        put(&mut self.parents, child, parent);
        put(&mut self.has_children, parent, true);
    }

    /// Whether `node` is above `other`, or nobody knows any more.
    fn is_above(&mut self, node: u32, other: u32) -> bool {
        let mut at = other;
        while at != NONE {
            self.steps += 1;
            if at == node || self.steps > STEPS_MAX {
                return true;
            }
            at = entry(&self.parents, at);
        }
        false
    }

    /// Steps 2 and 3: the messages without the IDs that are not there.
    fn prune(self) -> Forest {
        let count = self.nodes.len();
        let mut forest = Forest::new(count);
        // Where a missing node's messages go: to a message, or to the topmost missing one.
        let mut above: Vec<u32> = vec![NONE; self.messages.len()];
        let mut way = Vec::new();
        // The dummy of a topmost missing node, and its messages.
        let mut tops: HashMap<u32, Vec<u32>> = HashMap::new();
        for number in 0..count as u32 {
            let start = entry(&self.parents, entry(&self.nodes, number));
            if start == NONE {
                forest.roots.push(number);
                continue;
            }
            let mut at = start;
            let end = loop {
                if self.message(at) != NONE {
                    break at;
                }
                if entry(&above, at) != NONE {
                    break entry(&above, at);
                }
                way.push(at);
                match entry(&self.parents, at) {
                    NONE => break at,
                    parent => at = parent,
                }
            };
            way.drain(..).for_each(|passed| put(&mut above, passed, end));
            match self.message(end) {
                NONE => tops.entry(end).or_default().push(number),
                parent => forest.adopt(parent, number),
            }
        }
        let mut tops: Vec<Vec<u32>> = tops.into_values().collect();
        tops.sort_unstable();
        for messages in tops {
            match *messages.as_slice() {
                // An only child is promoted even to the top.
                [only] => forest.roots.push(only),
                _ => {
                    let dummy = forest.new_dummy();
                    messages.into_iter().for_each(|message| forest.adopt(dummy, message));
                    forest.roots.push(dummy);
                }
            }
        }
        forest
    }
}

/// Threads: nodes below [`Forest::messages`] are messages, the others dummies at the top.
#[derive(Default)]
pub(in crate::service::imap) struct Forest {
    messages: u32,
    pub roots: Vec<u32>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
}

impl Forest {
    fn new(messages: usize) -> Forest {
        Forest {
            messages: messages as u32,
            roots: Vec::new(),
            first_child: vec![NONE; messages],
            next_sibling: vec![NONE; messages],
        }
    }

    fn is_dummy(&self, node: u32) -> bool {
        node >= self.messages
    }

    fn new_dummy(&mut self) -> u32 {
        self.first_child.push(NONE);
        self.next_sibling.push(NONE);
        self.first_child.len() as u32 - 1
    }

    fn adopt(&mut self, parent: u32, child: u32) {
        put(&mut self.next_sibling, child, entry(&self.first_child, parent));
        put(&mut self.first_child, parent, child);
    }

    fn children(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let first = entry(&self.first_child, node);
        std::iter::successors((first != NONE).then_some(first), |child| {
            let next = entry(&self.next_sibling, *child);
            (next != NONE).then_some(next)
        })
    }

    /// The message that stands for a node: a dummy's first child.
    fn standing(&self, node: u32) -> u32 {
        if self.is_dummy(node) { entry(&self.first_child, node) } else { node }
    }

    /// Steps 4 and 6: siblings by sent date, those of the top too.
    fn sort(&mut self, facts: &[Facts]) {
        let key = |message: &u32| (fact(facts, *message).sent, *message);
        let mut siblings: Vec<u32> = Vec::new();
        for node in 0..self.first_child.len() as u32 {
            siblings.clear();
            siblings.extend(self.children(node));
            if siblings.len() < 2 {
                continue;
            }
            siblings.sort_unstable_by_key(key);
            put(&mut self.first_child, node, NONE);
            siblings.iter().rev().for_each(|child| self.adopt(node, *child));
        }
        let mut roots = std::mem::take(&mut self.roots);
        roots.sort_by_cached_key(|root| key(&self.standing(*root)));
        self.roots = roots;
    }

    /// Step 5: threads of the same subject become one.
    fn merge_by_subject(&mut self, facts: &[Facts]) {
        let subject = |forest: &Forest, node| fact(facts, forest.standing(node)).subject;
        let is_reply =
            |forest: &Forest, node: u32| !forest.is_dummy(node) && fact(facts, node).is_reply;
        let mut table: HashMap<u64, u32> = HashMap::new();
        for &root in &self.roots {
            let Some(subject) = subject(self, root) else { continue };
            let known = table.entry(subject).or_insert(root);
            let replaces = self.is_dummy(root) || is_reply(self, *known) && !is_reply(self, root);
            if !self.is_dummy(*known) && replaces {
                *known = root;
            }
        }
        let roots = std::mem::take(&mut self.roots);
        let mut moved = vec![false; self.first_child.len()];
        for root in roots.iter().copied() {
            if is(&moved, root) {
                continue;
            }
            let Some(known) = subject(self, root).and_then(|subject| table.get_mut(&subject))
            else {
                continue;
            };
            if *known == root {
                continue;
            }
            put(&mut moved, root, true);
            if self.is_dummy(*known) && self.is_dummy(root) {
                let children: Vec<u32> = self.children(root).collect();
                put(&mut self.first_child, root, NONE);
                children.into_iter().for_each(|child| self.adopt(*known, child));
            } else if self.is_dummy(*known) || is_reply(self, root) && !is_reply(self, *known) {
                self.adopt(*known, root);
            } else {
                let dummy = self.new_dummy();
                put(&mut moved, *known, true);
                self.adopt(dummy, *known);
                self.adopt(dummy, root);
                self.roots.push(dummy);
                moved.push(false);
                *known = dummy;
            }
        }
        self.roots.extend(roots.into_iter().filter(|root| !is(&moved, *root)));
    }

    /// REFS: threads by their newest arrival.
    fn sort_by_arrival(&mut self, facts: &[Facts]) {
        let mut open = Vec::new();
        let mut newest = |root: u32| {
            let mut newest = None;
            open.push(root);
            while let Some(node) = open.pop() {
                newest = newest.max(facts.get(node as usize).map(|it| (it.arrived, node)));
                open.extend(self.children(node));
            }
            newest
        };
        let mut roots: Vec<_> = self.roots.iter().map(|root| (newest(*root), *root)).collect();
        roots.sort_unstable();
        self.roots = roots.into_iter().map(|(_, root)| root).collect();
    }

    /// Begins to write a thread.
    pub(in crate::service::imap) fn writing(&self, root: u32) -> Writing<'_> {
        Writing { forest: self, steps: vec![Step::Open(root)] }
    }
}

/// REFERENCES.
pub(super) fn by_references(links: Links, facts: &[Facts]) -> Forest {
    let mut forest = links.prune();
    forest.sort(facts);
    forest.merge_by_subject(facts);
    forest.sort(facts);
    forest
}

/// REFS.
pub(super) fn by_references_alone(links: Links, facts: &[Facts]) -> Forest {
    let mut forest = links.prune();
    forest.sort(facts);
    forest.sort_by_arrival(facts);
    forest
}

/// ORDEREDSUBJECT: the first message of a subject is the parent of all others.
pub(super) fn by_subject(facts: &[Facts]) -> Forest {
    let mut forest = Forest::new(facts.len());
    let mut order: Vec<u32> = (0..facts.len() as u32).collect();
    let key = |message: &u32| (fact(facts, *message).sent, *message);
    order.sort_unstable_by_key(key);
    let mut first: HashMap<Option<u64>, u32> = HashMap::new();
    // Each is adopted before those that are older.
    for message in order.iter().copied() {
        first.entry(fact(facts, message).subject).or_insert(message);
    }
    order.sort_unstable_by_key(|message| Reverse(key(message)));
    for message in order {
        match first.get(&fact(facts, message).subject) {
            Some(&parent) if parent != message => forest.adopt(parent, message),
            _ => forest.roots.push(message),
        }
    }
    forest.roots.reverse();
    forest
}

enum Step {
    /// A thread of its own, in parentheses.
    Open(u32),
    /// What follows in the thread that is open.
    Go(u32),
    Close,
}

/// A thread being written, a piece at a time (RFC 5256 4 `thread-list`).
pub(in crate::service::imap) struct Writing<'f> {
    forest: &'f Forest,
    steps: Vec<Step>,
}

impl Writing<'_> {
    /// Appends the next piece; false once there was none. `number` is how the command names a
    /// message.
    pub(in crate::service::imap) fn step(
        &mut self,
        out: &mut Vec<u8>,
        number: impl Fn(u32) -> u32,
    ) -> bool {
        let node = match self.steps.pop() {
            None => return false,
            Some(Step::Close) => {
                out.push(b')');
                return true;
            }
            Some(Step::Open(node)) => {
                out.push(b'(');
                self.steps.push(Step::Close);
                node
            }
            Some(Step::Go(node)) => node,
        };
        let forest = self.forest;
        if !forest.is_dummy(node) {
            out.extend_from_slice(number(node).to_string().as_bytes());
        }
        let mut children = forest.children(node);
        let Some(first) = children.next() else { return true };
        if !forest.is_dummy(node) {
            out.push(b' ');
        }
        let after = self.steps.len();
        self.steps.extend(children.map(Step::Open));
        if self.steps.len() == after {
            self.steps.push(Step::Go(first));
        } else {
            if let Some(others) = self.steps.get_mut(after..) {
                others.reverse();
            }
            self.steps.push(Step::Open(first));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(sent: i64, subject: u64, is_reply: bool) -> Facts {
        Facts { sent, arrived: sent, subject: (subject > 0).then_some(subject), is_reply }
    }

    fn written(forest: &Forest) -> String {
        let mut out = Vec::new();
        for root in &forest.roots {
            let mut writing = forest.writing(*root);
            while writing.step(&mut out, |message| message + 1) {}
        }
        String::from_utf8(out).expect("ASCII")
    }

    /// (ID or 0, references, sent date, subject or 0, whether it is a reply)
    type Given<'a> = (u64, &'a [u64], i64, u64, bool);

    fn linked(messages: &[Given<'_>]) -> (Links, Vec<Facts>) {
        let mut links = Links::default();
        for (id, references, ..) in messages {
            let id = (*id > 0).then_some(*id);
            links.add(id, references.iter().copied());
        }
        let facts =
            messages.iter().map(|&(_, _, sent, subject, reply)| facts(sent, subject, reply));
        (links, facts.collect())
    }

    #[test]
    fn references() {
        const CASES: &[(&[Given<'_>], &str)] = &[
            (&[], ""),
            (&[(1, &[], 1, 0, false)], "(1)"),
            // Siblings by date, in any order of arrival.
            (&[(1, &[], 1, 1, false), (2, &[1], 3, 1, true), (3, &[1], 2, 1, true)], "(1 (3)(2))"),
            (&[(3, &[1, 2], 3, 1, true), (2, &[1], 2, 1, true), (1, &[], 1, 1, false)], "(3 2 1)"),
            // Step 3: one child of a missing message is promoted, several are not.
            (&[(2, &[1], 2, 0, false)], "(1)"),
            (&[(2, &[1], 2, 0, false), (3, &[1], 1, 0, false)], "((2)(1))"),
            (&[(2, &[9, 8], 2, 0, false), (3, &[9], 1, 0, false)], "((2)(1))"),
            (&[(1, &[], 1, 0, false), (3, &[1, 2], 3, 0, false)], "(1 2)"),
            // Truncated references do not break a link; a message's own do.
            (&[(1, &[], 1, 0, false), (2, &[1], 2, 0, false), (3, &[2], 3, 0, false)], "(1 2 3)"),
            (
                &[
                    (5, &[1, 3], 5, 0, false),
                    (1, &[], 1, 0, false),
                    (2, &[1], 2, 0, false),
                    (3, &[1, 2], 3, 0, false),
                ],
                "(2 3 4 1)",
            ),
            // Loops.
            (&[(1, &[1], 1, 0, false)], "(1)"),
            (&[(1, &[2], 1, 0, false), (2, &[1], 2, 0, false)], "(2 1)"),
            (&[(1, &[2, 3, 2], 1, 0, false), (2, &[3], 2, 0, false)], "(2 1)"),
            // The second message with an ID is another one.
            (&[(1, &[], 1, 0, false), (1, &[], 2, 0, false), (2, &[1], 3, 0, false)], "(1 3)(2)"),
            // Step 5: a reply below what it answers, equals below a dummy.
            (&[(1, &[], 1, 7, false), (2, &[], 2, 7, true)], "(1 2)"),
            (&[(1, &[], 2, 7, false), (2, &[], 1, 7, true)], "(1 2)"),
            (&[(1, &[], 1, 7, true), (2, &[], 2, 7, true)], "((1)(2))"),
            (&[(1, &[], 1, 7, false), (2, &[], 2, 7, false)], "((1)(2))"),
            (&[(1, &[], 1, 7, false), (2, &[], 2, 7, false), (3, &[], 3, 7, true)], "((1)(2)(3))"),
            (
                &[
                    (1, &[9], 1, 7, true),
                    (2, &[9], 2, 7, true),
                    (3, &[8], 3, 7, true),
                    (4, &[8], 4, 7, true),
                    (5, &[], 5, 7, false),
                ],
                "((1)(2)(3)(4)(5))",
            ),
            (&[(1, &[], 1, 0, false), (2, &[], 2, 0, false)], "(1)(2)"),
        ];
        for &(messages, expected) in CASES {
            let (links, facts) = linked(messages);
            assert_eq!(written(&by_references(links, &facts)), expected, "{messages:?}");
        }
    }

    /// draft-ietf-morg-inthread-01: a thread goes to the end when a message arrives in it.
    #[test]
    fn references_alone() {
        let messages: &[Given<'_>] = &[
            (1, &[], 1, 7, false),
            (2, &[], 2, 7, false),
            (3, &[9], 3, 8, true),
            (4, &[1], 9, 7, true),
            (5, &[9], 4, 8, true),
            (6, &[1], 8, 7, true),
        ];
        let (links, mut facts) = linked(messages);
        facts.iter_mut().zip(1..).for_each(|(facts, arrived)| facts.arrived = arrived);
        assert_eq!(written(&by_references_alone(links, &facts)), "(2)((3)(5))(1 (6)(4))");
    }

    #[test]
    fn subjects() {
        let all = [
            facts(5, 7, false),
            facts(1, 8, false),
            facts(2, 7, true),
            facts(9, 7, true),
            facts(3, 0, false),
            facts(4, 8, true),
            facts(1, 7, false),
        ];
        assert_eq!(written(&by_subject(&all)), "(2 6)(7 (3)(1)(4))(5)");
    }

    /// As deep as there are messages, in either direction, and rings that would cost a way up the
    /// whole tree at each step.
    #[test]
    fn deep_threads_and_rings() {
        const COUNT: u64 = 100_000;
        for reversed in [false, true] {
            let mut links = Links::default();
            for number in 1..=COUNT {
                let number = if reversed { COUNT + 1 - number } else { number };
                links.add(Some(number), (number > 1).then(|| number - 1).into_iter());
            }
            let facts: Vec<Facts> = (0..COUNT).map(|it| facts(it as i64, 1, false)).collect();
            let forest = by_references(links, &facts);
            assert_eq!(forest.roots.len(), 1);
            let text = written(&forest);
            assert_eq!(text.matches(' ').count() as u64, COUNT - 1);
        }
        let mut links = Links::default();
        for number in 1..=COUNT {
            let before = number.max(2) - 1;
            links.add(Some(number), [before, 1, before].into_iter());
        }
        assert!(links.steps > STEPS_MAX && links.steps < 2 * STEPS_MAX);
    }

    proptest! {
        /// Every message is in it once, whatever it refers to.
        #[test]
        fn all_messages_are_told(
            messages in prop::collection::vec(
                (
                    0_u64..9,
                    prop::collection::vec(1_u64..12, 0..5),
                    0_i64..5,
                    0_u64..4,
                    any::<bool>(),
                ),
                0..14,
            ),
        ) {
            let given = messages.iter().map(|(id, references, sent, subject, is_reply)| {
                (*id, &references[..], *sent, *subject, *is_reply)
            });
            let given: Vec<Given<'_>> = given.collect();
            let build = |how: fn(Links, &[Facts]) -> Forest| {
                let (links, facts) = linked(&given);
                how(links, &facts)
            };
            let (_, all) = linked(&given);
            for forest in [build(by_references), build(by_references_alone), by_subject(&all)] {
                let text = written(&forest);
                let mut told: Vec<usize> = text
                    .split(|letter: char| !letter.is_ascii_digit())
                    .filter_map(|number| number.parse().ok())
                    .collect();
                told.sort_unstable();
                prop_assert_eq!(told, (1..=messages.len()).collect::<Vec<_>>(), "{}", text);
                prop_assert_eq!(text.matches('(').count(), text.matches(')').count());
                prop_assert!(!text.contains("()"), "{}", text);
            }
        }
    }
}
