//! The envelope of a queued message: what its sender asked for, and who still has to get it.
//!
//! It is stored as annotations beside the message (`store/handle/annotations.rs`): number 0 is what
//! concerns the whole message, each further number is one recipient that is left. A recipient who
//! is done with, whatever the end, has no annotation any more.
//!
//! Each annotation is a version octet and a list of fields: tag, length, content. Unknown tags are
//! skipped, so later versions can add fields. `docs/disk_format.md`, "The queue", lists them.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use bytes::Bytes;

use super::times::Times;
use crate::{
    model::{AccountId, Timestamp},
    protocol::smtp::{BodyKind, Notify, Return},
    store::AnnotationChanges,
};

/// First octet of an annotation of this kind; the queue of deliveries that partitions lack uses 1
/// and 2 (`service/delivery/redelivery.rs`).
const VERSION: u8 = 16;

/// Octets kept of a reply or another reason.
pub const REASON_MAX: usize = 1024;

/// How the message came to us: decides what is shed first, and who is told of limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Origin {
    /// Written here: a report about another message.
    Report = 0,
    /// From a user who logged in.
    Submission = 1,
    /// From another server, for a mailbox or alias here.
    #[default]
    Inbound = 2,
    /// From another server or a listed network, for elsewhere.
    Relay = 3,
}

impl Origin {
    const EVERY: [Origin; 4] = [Origin::Report, Origin::Submission, Origin::Inbound, Origin::Relay];

    /// The name in listings, events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Report => "report",
            Origin::Submission => "submission",
            Origin::Inbound => "inbound",
            Origin::Relay => "relay",
        }
    }
}

/// BY (RFC 2852 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverBy {
    pub deadline: Timestamp,
    /// Return it after the deadline; else only notify.
    pub returns: bool,
    /// Relays report that they have passed it on.
    pub trace: bool,
}

/// The times of a message that its schedule depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timetable {
    /// As [`Envelope::begins`].
    pub begins: Timestamp,
    /// As [`Envelope::deadline`].
    pub deadline: Option<Timestamp>,
    /// As [`Envelope::notify_by`].
    pub notify_by: Option<Timestamp>,
}

/// All of a queued message except its text.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Envelope {
    pub arrived: Timestamp,
    pub origin: Origin,
    /// The reverse-path without brackets; empty for reports.
    pub sender: String,
    /// ENVID as xtext (RFC 3461 4.4).
    pub envelope_id: Option<String>,
    pub ret: Option<Return>,
    pub body: BodyKind,
    pub smtp_utf8: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// MT-PRIORITY (RFC 6710), -9 to 9.
    pub priority: i8,
    pub deliver_by: Option<DeliverBy>,
    /// Not tried before (RFC 4865).
    pub hold_until: Option<Timestamp>,
    /// Returned after this, whatever the setting says.
    pub expires: Option<Timestamp>,
    /// Not tried until an operator releases it.
    pub held: bool,
    /// The trail of its arrival, for events.
    pub trail: String,
    /// The id in our Received field.
    pub id: String,
    /// By the number of its annotation, from 1.
    pub recipients: BTreeMap<u32, Recipient>,
}

/// A recipient who is left.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recipient {
    /// The forward-path without brackets, as it is sent on.
    pub address: String,
    /// Delivered here, if set.
    pub account: Option<AccountId>,
    /// Its copy goes to the Junk mailbox.
    pub quarantined: bool,
    /// ORCPT: `addr-type ";" xtext` (RFC 3461 4.2).
    pub original: Option<String>,
    pub notify: Option<Notify>,
    /// The reverse-path for this recipient, if it is not the message's (SRS, VERP).
    pub sender: Option<String>,
    /// Attempts that had an answer of their own.
    pub attempts: u32,
    /// The sender was told of the delay.
    pub warned: bool,
    /// The TLS policy of its domain does not count (RFC 8689 4.2.2).
    pub any_tls: bool,
    /// The last temporary failure.
    pub problem: Option<Problem>,
}

/// Why a recipient could not get the message.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Problem {
    pub at: Timestamp,
    /// `5.1.1` (RFC 3463).
    pub status: String,
    /// The reply of the other side, or what else happened.
    pub reason: String,
    /// The server that said so.
    pub host: Option<String>,
    /// Whether `reason` is an SMTP reply.
    pub is_reply: bool,
    /// How long the attempt took.
    pub times: Times,
}

impl Recipient {
    /// The domain of the address, as given; empty for a recipient without one.
    pub fn domain(&self) -> &str {
        domain_of(&self.address)
    }
}

/// The part after the last `@`.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// ORCPT for a path that came without one (RFC 3461 4.2, RFC 6533 3).
pub fn original_recipient(path: &str) -> String {
    let kind = if path.is_ascii() { "rfc822" } else { "utf-8" };
    let mut original = format!("{kind};");
    for character in path.chars() {
        match character {
            '+' | '=' | ' ' | '\u{0}'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(original, "+{:02X}", u32::from(character));
            }
            other => original.push(other),
        }
    }
    original
}

mod tag {
    pub(super) const ARRIVED: u8 = 1;
    pub(super) const ORIGIN: u8 = 2;
    pub(super) const SENDER: u8 = 3;
    pub(super) const ENVELOPE_ID: u8 = 4;
    pub(super) const RETURN: u8 = 5;
    pub(super) const BODY: u8 = 6;
    pub(super) const SMTP_UTF8: u8 = 7;
    pub(super) const REQUIRE_TLS: u8 = 8;
    pub(super) const PRIORITY: u8 = 9;
    pub(super) const DELIVER_BY: u8 = 10;
    pub(super) const HOLD_UNTIL: u8 = 11;
    pub(super) const HELD: u8 = 12;
    pub(super) const WARNED: u8 = 13;
    pub(super) const TRAIL: u8 = 14;
    pub(super) const ID: u8 = 15;
    pub(super) const EXPIRES: u8 = 16;

    pub(super) const ADDRESS: u8 = 32;
    pub(super) const ACCOUNT: u8 = 33;
    pub(super) const QUARANTINED: u8 = 34;
    pub(super) const ORIGINAL: u8 = 35;
    pub(super) const NOTIFY: u8 = 36;
    pub(super) const ATTEMPTS: u8 = 37;
    pub(super) const PROBLEM_AT: u8 = 38;
    pub(super) const PROBLEM_STATUS: u8 = 39;
    pub(super) const PROBLEM_REASON: u8 = 40;
    pub(super) const PROBLEM_HOST: u8 = 41;
    pub(super) const PROBLEM_IS_REPLY: u8 = 42;
    pub(super) const ANY_TLS: u8 = 43;
    pub(super) const PROBLEM_TIMES: u8 = 44;
}

/// Appends fields to an annotation.
struct Fields(Vec<u8>);

impl Fields {
    fn new() -> Fields {
        Fields(vec![VERSION])
    }

    fn put(&mut self, tag: u8, content: &[u8]) {
        let content = content.get(..usize::from(u16::MAX)).unwrap_or(content);
        self.0.push(tag);
        self.0.extend_from_slice(&(content.len() as u16).to_le_bytes());
        self.0.extend_from_slice(content);
    }

    fn text(&mut self, tag: u8, text: &str) {
        if !text.is_empty() {
            self.put(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u8, set: bool) {
        if set {
            self.put(tag, &[]);
        }
    }

    fn time(&mut self, tag: u8, time: Timestamp) {
        self.put(tag, &time.0.to_le_bytes());
    }

    fn end(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// The fields of an annotation, in order; `None` for one that is no list of fields.
fn fields(annotation: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let (&version, mut rest) = annotation.split_first()?;
    let mut fields = Vec::new();
    while let Some((&tag, after)) = rest.split_first() {
        let (len, after) = after.split_first_chunk::<2>()?;
        let (content, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        fields.push((tag, content));
        rest = after;
    }
    (version == VERSION).then_some(fields)
}

fn text(content: &[u8]) -> Option<String> {
    String::from_utf8(content.to_vec()).ok()
}

fn time(content: &[u8]) -> Option<Timestamp> {
    content.try_into().ok().map(|octets| Timestamp(i64::from_le_bytes(octets)))
}

impl Envelope {
    /// All annotations of a new message.
    pub fn annotations(&self) -> Vec<(u32, Bytes)> {
        let recipients = self.recipients.iter().map(|(number, it)| (*number, it.encode()));
        std::iter::once((0, self.encode_head())).chain(recipients).collect()
    }

    /// Annotation 0.
    pub fn encode_head(&self) -> Bytes {
        let mut out = Fields::new();
        out.time(tag::ARRIVED, self.arrived);
        out.put(tag::ORIGIN, &[self.origin as u8]);
        out.text(tag::SENDER, &self.sender);
        out.text(tag::ENVELOPE_ID, self.envelope_id.as_deref().unwrap_or_default());
        if let Some(ret) = self.ret {
            out.put(tag::RETURN, &[u8::from(ret == Return::Full)]);
        }
        match self.body {
            BodyKind::SevenBit => {}
            BodyKind::EightBitMime => out.put(tag::BODY, &[1]),
            BodyKind::BinaryMime => out.put(tag::BODY, &[2]),
        }
        out.flag(tag::SMTP_UTF8, self.smtp_utf8);
        out.flag(tag::REQUIRE_TLS, self.require_tls);
        if self.priority != 0 {
            out.put(tag::PRIORITY, &self.priority.to_le_bytes());
        }
        if let Some(DeliverBy { deadline, returns, trace }) = self.deliver_by {
            let mut content = deadline.0.to_le_bytes().to_vec();
            content.push(u8::from(returns) | u8::from(trace) << 1);
            out.put(tag::DELIVER_BY, &content);
        }
        if let Some(until) = self.hold_until {
            out.time(tag::HOLD_UNTIL, until);
        }
        if let Some(expires) = self.expires {
            out.time(tag::EXPIRES, expires);
        }
        out.flag(tag::HELD, self.held);
        out.text(tag::TRAIL, &self.trail);
        out.text(tag::ID, &self.id);
        out.end()
    }

    /// `None` for annotations of another kind, or damaged ones.
    pub fn decode(annotations: &[(u32, Bytes)]) -> Option<Envelope> {
        let (_, head) = annotations.first().filter(|(number, _)| *number == 0)?;
        let mut envelope = Envelope::default();
        for (tag, content) in fields(head)? {
            let it = &mut envelope;
            match tag {
                tag::ARRIVED => it.arrived = time(content)?,
                tag::ORIGIN => {
                    let known = Origin::EVERY.into_iter();
                    it.origin = known.fold(Origin::default(), |found, origin| {
                        if content == [origin as u8] { origin } else { found }
                    });
                }
                tag::SENDER => it.sender = text(content)?,
                tag::ENVELOPE_ID => it.envelope_id = Some(text(content)?),
                tag::RETURN => {
                    it.ret = Some(if content == [1] { Return::Full } else { Return::Headers });
                }
                tag::BODY => {
                    it.body = match content {
                        [2] => BodyKind::BinaryMime,
                        _ => BodyKind::EightBitMime,
                    }
                }
                tag::SMTP_UTF8 => it.smtp_utf8 = true,
                tag::REQUIRE_TLS => it.require_tls = true,
                tag::PRIORITY => it.priority = i8::from_le_bytes(content.try_into().ok()?),
                tag::DELIVER_BY => {
                    let (deadline, rest) = content.split_at_checked(8)?;
                    let bits = *rest.first()?;
                    it.deliver_by = Some(DeliverBy {
                        deadline: time(deadline)?,
                        returns: bits & 1 != 0,
                        trace: bits & 2 != 0,
                    });
                }
                tag::HOLD_UNTIL => it.hold_until = Some(time(content)?),
                tag::EXPIRES => it.expires = Some(time(content)?),
                tag::HELD => it.held = true,
                tag::TRAIL => it.trail = text(content)?,
                tag::ID => it.id = text(content)?,
                _ => {}
            }
        }
        for (number, value) in annotations.get(1..)? {
            envelope.recipients.insert(*number, Recipient::decode(value)?);
        }
        Some(envelope)
    }

    /// The changes that turn the stored `before` into this envelope.
    pub fn changes_from(&self, before: &Envelope) -> AnnotationChanges {
        let mut changes = AnnotationChanges::new();
        let head = self.encode_head();
        if head != before.encode_head() {
            changes.push((0, Some(head)));
        }
        for (number, old) in &before.recipients {
            match self.recipients.get(number) {
                None => changes.push((*number, None)),
                Some(new) if new != old => changes.push((*number, Some(new.encode()))),
                Some(_) => {}
            }
        }
        changes
    }

    /// When it could first be tried: its schedule and its expiry count from then on (RFC 4865 4: a
    /// message that is held does not expire meanwhile).
    pub fn begins(&self) -> Timestamp {
        self.arrived.max(self.hold_until.unwrap_or(self.arrived))
    }

    pub(super) fn timetable(&self) -> Timetable {
        let (begins, deadline) = (self.begins(), self.deadline());
        Timetable { begins, deadline, notify_by: self.notify_by() }
    }

    /// Its age at `now`.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(now.0.saturating_sub(self.arrived.0)).unwrap_or(0))
    }

    /// After this it is returned, whatever the setting says: what its sender asked for (RFC 2852),
    /// or who wrote it.
    pub fn deadline(&self) -> Option<Timestamp> {
        let asked = self.deliver_by.filter(|by| by.returns).map(|by| by.deadline);
        asked.into_iter().chain(self.expires).min()
    }

    /// When the sender wants to know that it is not delivered yet (RFC 2852 4); a time before it
    /// came was told of by whom it came from.
    pub fn notify_by(&self) -> Option<Timestamp> {
        let asked = self.deliver_by.filter(|by| !by.returns).map(|by| by.deadline);
        asked.filter(|deadline| *deadline > self.arrived)
    }

    /// The reverse-path under which `recipient` gets the message.
    pub fn sender_for<'a>(&'a self, recipient: &'a Recipient) -> &'a str {
        recipient.sender.as_deref().unwrap_or(&self.sender)
    }
}

impl Recipient {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Fields::new();
        out.text(tag::ADDRESS, &self.address);
        if let Some(account) = self.account {
            out.put(tag::ACCOUNT, &account.0.to_le_bytes());
        }
        out.flag(tag::QUARANTINED, self.quarantined);
        out.text(tag::ORIGINAL, self.original.as_deref().unwrap_or_default());
        match self.notify {
            None => {}
            Some(Notify::Never) => out.put(tag::NOTIFY, &[0]),
            Some(Notify::On { success, failure, delay }) => {
                let bits = u8::from(success) | u8::from(failure) << 1 | u8::from(delay) << 2;
                out.put(tag::NOTIFY, &[bits]);
            }
        }
        if let Some(sender) = &self.sender {
            out.put(tag::SENDER, sender.as_bytes());
        }
        if self.attempts > 0 {
            out.put(tag::ATTEMPTS, &self.attempts.to_le_bytes());
        }
        out.flag(tag::WARNED, self.warned);
        out.flag(tag::ANY_TLS, self.any_tls);
        if let Some(problem) = &self.problem {
            out.time(tag::PROBLEM_AT, problem.at);
            out.text(tag::PROBLEM_STATUS, &problem.status);
            out.text(tag::PROBLEM_REASON, clip(&problem.reason));
            out.text(tag::PROBLEM_HOST, problem.host.as_deref().unwrap_or_default());
            out.flag(tag::PROBLEM_IS_REPLY, problem.is_reply);
            if !problem.times.is_empty() {
                out.put(tag::PROBLEM_TIMES, &problem.times.encode());
            }
        }
        out.end()
    }

    fn decode(annotation: &[u8]) -> Option<Recipient> {
        let mut recipient = Recipient::default();
        let mut problem = Problem::default();
        let mut has_problem = false;
        for (tag, content) in fields(annotation)? {
            match tag {
                tag::ADDRESS => recipient.address = text(content)?,
                tag::ACCOUNT => {
                    recipient.account =
                        Some(AccountId(u64::from_le_bytes(content.try_into().ok()?)));
                }
                tag::QUARANTINED => recipient.quarantined = true,
                tag::ORIGINAL => recipient.original = Some(text(content)?),
                tag::NOTIFY => {
                    recipient.notify = Some(match content.first()? {
                        0 => Notify::Never,
                        bits => Notify::On {
                            success: bits & 1 != 0,
                            failure: bits & 2 != 0,
                            delay: bits & 4 != 0,
                        },
                    });
                }
                tag::SENDER => recipient.sender = Some(text(content)?),
                tag::ATTEMPTS => {
                    recipient.attempts = u32::from_le_bytes(content.try_into().ok()?);
                }
                tag::WARNED => recipient.warned = true,
                tag::ANY_TLS => recipient.any_tls = true,
                tag::PROBLEM_AT => (problem.at, has_problem) = (time(content)?, true),
                tag::PROBLEM_STATUS => problem.status = text(content)?,
                tag::PROBLEM_REASON => problem.reason = text(content)?,
                tag::PROBLEM_HOST => problem.host = Some(text(content)?),
                tag::PROBLEM_IS_REPLY => problem.is_reply = true,
                tag::PROBLEM_TIMES => problem.times = Times::decode(content),
                _ => {}
            }
        }
        recipient.problem = has_problem.then_some(problem);
        Some(recipient)
    }
}

/// At most [`REASON_MAX`] octets of `reason`.
pub fn clip(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let recipient = |number: u32| Recipient {
            address: format!("r{number}@example.org"),
            original: Some("rfc822;x+2By@example.org".to_owned()),
            notify: Some(Notify::On { success: true, failure: false, delay: true }),
            ..Recipient::default()
        };
        Envelope {
            arrived: Timestamp(77),
            origin: Origin::Relay,
            sender: "s@example.net".to_owned(),
            envelope_id: Some("id+3D1".to_owned()),
            ret: Some(Return::Headers),
            body: BodyKind::EightBitMime,
            smtp_utf8: true,
            require_tls: true,
            priority: -3,
            deliver_by: Some(DeliverBy { deadline: Timestamp(-9), returns: true, trace: false }),
            hold_until: Some(Timestamp(100)),
            expires: Some(Timestamp(200)),
            held: true,
            trail: "1-2-3".to_owned(),
            id: "abc".to_owned(),
            recipients: (1..=3).map(|number| (number, recipient(number))).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut whole = envelope();
        let second = whole.recipients.get_mut(&2).unwrap();
        second.account = Some(AccountId(7));
        second.quarantined = true;
        second.sender = Some(String::new());
        second.attempts = 3;
        second.warned = true;
        second.any_tls = true;
        second.notify = Some(Notify::Never);
        second.problem = Some(Problem {
            at: Timestamp(5),
            status: "4.2.0".to_owned(),
            reason: "450 busy".to_owned(),
            host: Some("mx.example".to_owned()),
            is_reply: true,
            times: Times::default(),
        });
        if let Some(problem) = &mut second.problem {
            problem.times.add(super::super::Step::Connect, Duration::from_millis(7));
        }
        assert_eq!(Envelope::decode(&whole.annotations()), Some(whole));
        let plain = Envelope { sender: String::new(), ..Envelope::default() };
        assert_eq!(Envelope::decode(&plain.annotations()), Some(plain));
    }

    #[test]
    fn the_deadline_is_the_first_of_all() {
        let by = |deadline, returns| {
            Some(DeliverBy { deadline: Timestamp(deadline), returns, trace: false })
        };
        for (deliver_by, expires, deadline) in [
            (None, None, None),
            (by(5, true), None, Some(5)),
            (by(5, false), None, None),
            (by(5, true), Some(7), Some(5)),
            (by(9, true), Some(7), Some(7)),
            (by(5, false), Some(7), Some(7)),
        ] {
            let expires = expires.map(Timestamp);
            let envelope = Envelope { deliver_by, expires, ..Envelope::default() };
            assert_eq!(envelope.deadline(), deadline.map(Timestamp), "{envelope:?}");
        }
    }

    #[test]
    fn nothing_read_from_disk_can_panic() {
        let annotations = envelope().annotations();
        let head = &annotations[0].1;
        for at in 0..head.len() {
            let _ = Envelope::decode(&[(0, head.slice(..at))]);
            for bit in 0..8 {
                let mut wrong = head.to_vec();
                wrong[at] ^= 1 << bit;
                let _ = Envelope::decode(&[(0, Bytes::from(wrong))]);
            }
        }
        assert_eq!(Envelope::decode(&[]), None);
        assert_eq!(Envelope::decode(&annotations[1..]), None);
        assert_eq!(Envelope::decode(&[(0, Bytes::from_static(&[2]))]), None, "another kind");
    }

    #[test]
    fn changes_are_the_difference() {
        let before = envelope();
        let mut after = before.clone();
        after.recipients.remove(&1);
        after.recipients.get_mut(&3).unwrap().attempts = 1;
        let changes = after.changes_from(&before);
        assert_eq!(changes.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(before.changes_from(&before), []);
        after.held = false;
        assert_eq!(after.changes_from(&before)[0].0, 0);
    }

    #[test]
    fn reasons_are_clipped_between_characters() {
        let long = "é".repeat(REASON_MAX);
        assert_eq!(clip(&long).len(), REASON_MAX);
        assert_eq!(clip("short"), "short");
    }
}
