//! The ledger of mail for elsewhere: what senders were told, what the outside world got, and what
//! must follow from both. It outlives the crashes of the server.
//!
//! Each recipient of a message that was accepted, or of which anyone got a copy, must end in one
//! way: delivered, returned by one report to the sender, or cancelled. Hosts (`outside.rs`) note
//! what they were asked for and what they answered; senders (`sender.rs`) what they submitted.
//!
//! An address says whose it is and what its host does with it: `ok-17-2@d0.test` is recipient 2 of
//! message 17; reports about message 17 go to `t-17@back.test` or to a mailbox here.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use crate::{
    model::{AccountId, MailboxId, Timestamp},
    protocol::smtp::Notify,
    queue::{Envelope, Origin, QueueOptions, place_of},
    store::{Account, Partition, StoreError},
};

use super::{
    expectation::{PARTITIONS, partition_of},
    session::Ledger,
};

/// The mailboxes that get mail through the queue, one in each partition. No session uses them.
pub const BOXES: usize = PARTITIONS as usize;

/// A result that a host told so long before a power loss is on a disk that works.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// A domain that does not exist.
pub const GONE: &str = "gone.test";

/// Where reports to senders elsewhere go.
pub const BACK: &str = "back.test";

/// What senders were told about a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing, or that the disk is in trouble: it may be in the queue or not.
    Unknown,
    Accepted,
    /// Refused in this life.
    Refused(u32),
}

/// A message for elsewhere.
pub struct Mail {
    /// The reverse-path; empty: nobody gets reports.
    pub sender: String,
    pub arrived: Timestamp,
    pub answer: Answer,
    /// By the number in the envelope.
    pub recipients: BTreeMap<u32, Recipient>,
    /// Boxes that get their copy at once, not through the queue.
    pub direct: BTreeSet<usize>,
    pub hold_until: Option<Timestamp>,
    /// An operator holds it, and was told so.
    pub held: bool,
    /// An operator had it tried now, or released it.
    pub hurried: Option<Timestamp>,
    /// An operator asked to remove it, and was told that it is gone.
    pub cancel: Option<bool>,
    /// An operator asked to return it.
    pub returned: bool,
}

#[derive(Clone, Default)]
pub struct Recipient {
    pub address: String,
    /// The box it is delivered to.
    pub local: Option<usize>,
    pub notify: Option<Notify>,
    /// Copies that a host has taken.
    copies: Vec<Copy>,
    /// A host has refused it for ever.
    refused: Option<Told>,
    /// The replies that followed show that this was the answer to its RCPT.
    refusal_is_proven: bool,
    /// A host said last that it should come later.
    deferred: Option<Told>,
    /// How often.
    pub deferrals: u32,
    /// Reports by their ids, as the sender got them.
    reports: BTreeMap<String, Action>,
}

impl Recipient {
    pub fn new(address: String, local: Option<usize>, notify: Option<Notify>) -> Recipient {
        Recipient { address, local, notify, ..Recipient::default() }
    }
}

/// Something that a host told the server.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Timestamp,
    life: u32,
    /// Connection and message.
    conversation: Conversation,
}

/// All transactions of one message on one connection: the server records their results together.
type Conversation = (u64, u64);

/// A copy that a host has taken.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// The answer to the end of the message.
    told: Option<Told>,
    connection: u64,
    /// The host sends the reports about its delivery.
    reports: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Failed,
    Delayed,
    Done,
}

/// A report as somebody got it.
struct ReportText {
    id: String,
    /// Message, recipient, action.
    about: Vec<(u64, u32, Action)>,
}

/// What became of the copies of a report that went elsewhere.
type ReportCopies = BTreeMap<String, Vec<Copy>>;

pub struct Post {
    pub ledger: Rc<Ledger>,
    pub options: QueueOptions,
    mails: RefCell<BTreeMap<u64, Mail>>,
    reports: RefCell<ReportCopies>,
    /// When the last transaction of each ended; `None` if it had not.
    conversations: RefCell<BTreeMap<Conversation, Option<Timestamp>>>,
    /// The ends of lives: the time, and whether disks failed in it.
    lives: RefCell<Vec<(Timestamp, bool)>>,
    /// Disks may fail in this life.
    pub faults: Cell<bool>,
    connections: Cell<u64>,
    /// An operator is at work: two would not know whose change came last.
    pub operated: Cell<bool>,
    /// Accounts and addresses of the boxes.
    pub boxes: Vec<(u64, String)>,
    /// An image of a crash is looked at, from which the run does not go on: nothing is noted.
    pub aside: Cell<bool>,
    /// Hosts do what they are asked for, at the end of a run.
    pub kind: Cell<bool>,
}

/// What an address says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meant<'a> {
    /// A recipient: what its host does, message, number.
    Recipient(&'a str, u64, u32),
    /// The sender of a message: this is a report.
    Sender(u64),
}

pub fn meaning(address: &str) -> Option<Meant<'_>> {
    let (local, _) = address.split_once('@')?;
    let mut words = local.split('-');
    let kind = words.next()?;
    let token = words.next()?.parse().ok()?;
    match (kind, words.next()) {
        ("t", None) => Some(Meant::Sender(token)),
        (kind, Some(number)) => Some(Meant::Recipient(kind, token, number.parse().ok()?)),
        _ => None,
    }
}

/// The text of a message. Some are long, some lines begin with a dot.
pub fn text_of(token: u64) -> Vec<u8> {
    let mut text = format!("Subject: message {token}\r\nX-Token: {token}\r\n\r\n").into_bytes();
    let lines = match token % 37 {
        0 => 7000,
        _ => token.wrapping_mul(7919) % 40,
    };
    for line in 0..lines {
        let dots = &b".."[..(line % 3) as usize];
        text.extend_from_slice(dots);
        text.extend_from_slice(format!("line {line} of message {token}\r\n").as_bytes());
    }
    text
}

fn wants(notify: Option<Notify>, action: Action) -> bool {
    match notify {
        None => action != Action::Done,
        Some(Notify::Never) => false,
        Some(Notify::On { success, failure, delay }) => match action {
            Action::Failed => failure,
            Action::Delayed => delay,
            Action::Done => success,
        },
    }
}

/// What is durable of mail for elsewhere.
#[derive(Default)]
pub struct Standing {
    /// Envelopes in the queues.
    queued: Vec<Envelope>,
    /// Messages whose envelope cannot be read.
    unreadable: usize,
    /// Box, message.
    delivered: Vec<(usize, Vec<u8>)>,
}

impl Standing {
    pub fn is_drained(&self) -> bool {
        self.queued.is_empty() && self.unreadable == 0
    }

    async fn read_mailbox(
        &mut self,
        account: &Account,
        mailbox: MailboxId,
    ) -> Result<(), StoreError> {
        let view = match account.select(mailbox, false).await {
            // It was empty and had a successor.
            Err(StoreError::NoSuchMailbox) => return Ok(()),
            view => view?,
        };
        let Some(snapshot) = view.current() else { return Ok(()) };
        for message in snapshot.iter_from(0) {
            let values = account.annotations(mailbox, message.uid..=message.uid).await?;
            match values.get(&message.uid).and_then(|values| Envelope::decode(values)) {
                Some(envelope) if !envelope.recipients.is_empty() => self.queued.push(envelope),
                // Its end was recorded while this was read.
                _ if view.current().is_none_or(|now| now.index_of(message.uid).is_none()) => {}
                _ => self.unreadable += 1,
            }
        }
        Ok(())
    }

    /// Reads the queues and boxes.
    pub async fn read(partitions: &[Partition], post: &Post) -> Result<Standing, StoreError> {
        let mut standing = Standing::default();
        for partition in partitions {
            let account = partition.queue().await?;
            let mailboxes = account.mailboxes().into_iter();
            for mailbox in mailboxes.filter(|mailbox| place_of(&mailbox.name).is_some()) {
                standing.read_mailbox(&account, mailbox.id).await?;
            }
        }
        for (number, (account, _)) in post.boxes.iter().enumerate() {
            let partition = &partitions[usize::from(partition_of(*account))];
            let account = partition.account(AccountId(*account)).await?;
            let view = account.select(MailboxId::INBOX, false).await?;
            let Some(snapshot) = view.current() else { continue };
            for message in snapshot.iter_from(0) {
                let body = account.read_body(&message.body, 0, usize::MAX).await?;
                standing.delivered.push((number, body.to_vec()));
            }
        }
        Ok(standing)
    }

    /// The recipients of messages in the queues: message, number. Reports are left out.
    fn waiting(&self) -> Vec<(u64, u32)> {
        let of = self.queued.iter().filter(|envelope| envelope.origin != Origin::Report);
        let recipients = of.flat_map(|envelope| envelope.recipients.values());
        recipients
            .filter_map(|recipient| match meaning(&recipient.address)? {
                Meant::Recipient(_, token, number) => Some((token, number)),
                Meant::Sender(_) => None,
            })
            .collect()
    }
}

/// What hosts do with a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Take,
    Later,
    Never,
}

impl Post {
    pub fn new(ledger: Rc<Ledger>, options: QueueOptions, boxes: Vec<(u64, String)>) -> Post {
        Post {
            ledger,
            options,
            mails: RefCell::default(),
            reports: RefCell::default(),
            conversations: RefCell::default(),
            lives: RefCell::default(),
            faults: Cell::new(false),
            connections: Cell::new(0),
            operated: Cell::new(false),
            boxes,
            aside: Cell::new(false),
            kind: Cell::new(false),
        }
    }

    /// The number of the current life, from 0.
    fn life(&self) -> u32 {
        self.lives.borrow().len() as u32
    }

    /// A life ends, by whatever means.
    pub fn end_life(&self, now: Timestamp) {
        self.lives.borrow_mut().push((now, self.faults.get()));
        self.faults.set(false);
        self.operated.set(false);
    }

    /// When the last life ended.
    pub fn last_end(&self) -> Option<Timestamp> {
        self.lives.borrow().last().map(|(end, _)| *end)
    }

    pub fn connection(&self) -> u64 {
        self.connections.set(self.connections.get() + 1);
        self.connections.get()
    }

    // --- what senders and operators do ---

    pub fn submit(&self, token: u64, mail: Mail) {
        self.mails.borrow_mut().insert(token, mail);
    }

    pub fn answered(&self, token: u64, accepted: bool) {
        let answer = if accepted { Answer::Accepted } else { Answer::Refused(self.life()) };
        self.with(token, |mail| mail.answer = answer);
    }

    pub fn with<T>(&self, token: u64, work: impl FnOnce(&mut Mail) -> T) -> Option<T> {
        self.mails.borrow_mut().get_mut(&token).map(work)
    }

    // --- what hosts see ---

    /// Somebody is tried: what its host says to RCPT. Complains if it should not be tried now.
    pub fn tried(&self, address: &str, now: Timestamp) -> Verdict {
        let Some(Meant::Recipient(kind, token, number)) = meaning(address) else {
            return Verdict::Take;
        };
        let mut mails = self.mails.borrow_mut();
        let Some(mail) = mails.get_mut(&token) else {
            self.ledger.complain(format!("{address} is tried, and nobody sent that message"));
            return Verdict::Never;
        };
        if let Err(why) = self.may_be_tried(mail, number, now) {
            self.ledger.complain(format!("{address} is tried at {}: {why}", clock(now)));
        }
        let kind_now = self.kind.get();
        let Some(recipient) = mail.recipients.get_mut(&number) else { return Verdict::Never };
        match kind {
            "never" => Verdict::Never,
            "later" if recipient.deferrals < 3 && !kind_now => Verdict::Later,
            "ever" => Verdict::Later,
            _ => Verdict::Take,
        }
    }

    fn may_be_tried(&self, mail: &Mail, number: u32, now: Timestamp) -> Result<(), String> {
        if mail.answer == Answer::Refused(self.life()) {
            return Err("its sender was told that it is refused".to_owned());
        }
        if mail.held {
            return Err("it is held".to_owned());
        }
        if mail.cancel == Some(true) {
            return Err("it was removed".to_owned());
        }
        if let Some(until) = mail.hold_until.filter(|until| now < *until)
            && mail.hurried.is_none()
        {
            return Err(format!("it is to be held until {}", clock(until)));
        }
        let Some(recipient) = mail.recipients.get(&number) else {
            return Err("there is no such recipient".to_owned());
        };
        let refused = recipient.refused.filter(|_| recipient.refusal_is_proven);
        if refused.is_some_and(|told| self.is_recorded(told)) {
            return Err("it was refused for ever".to_owned());
        }
        let Some(due) = self.due(mail, recipient) else { return Ok(()) };
        if now < due {
            return Err(format!("its pause ends at {}", clock(due)));
        }
        Ok(())
    }

    /// Before when a recipient must not be tried; `None` if that is not known.
    fn due(&self, mail: &Mail, recipient: &Recipient) -> Option<Timestamp> {
        // The schedule of a message that was held begins with its release (RFC 4865); an operator
        // may have released it before.
        let begins = [Some(mail.arrived), mail.hold_until];
        begins.into_iter().flatten().filter_map(|it| self.due_since(it, mail, recipient)).min()
    }

    /// The same for a schedule that begins then.
    fn due_since(
        &self,
        begins: Timestamp,
        mail: &Mail,
        recipient: &Recipient,
    ) -> Option<Timestamp> {
        let told = recipient.deferred?;
        let pause_of = |told: Told| {
            if mail.hurried.is_some_and(|at| at >= told.at) || !self.is_recorded(told) {
                return None;
            }
            Some(told.at.after(self.options.pause(since(told.at, begins), 0)))
        };
        let own = pause_of(told)?;
        let end = begins.after(self.options.expire);
        // An attempt is made when the sender is to be warned.
        let warned = begins.after(self.options.delay_warning);
        let warned = |told: Told| if told.at < warned { warned } else { end };
        if told.life == self.life() {
            return Some(own.min(end).min(warned(told)));
        }
        // After a start the recipients of one destination are tried together, once the first of
        // them may be.
        let domain = |address: &str| address.split_once('@').map(|(_, domain)| domain.to_owned());
        let mut due = own.min(end).min(warned(told));
        for other in mail.recipients.values() {
            let same = domain(&other.address) == domain(&recipient.address);
            // One that ended in this life may have ended just now, before this one's turn.
            let before = |told: Option<Told>| told.is_some_and(|told| told.life != self.life());
            let done = before(other.refused) || other.copies.iter().any(|it| before(it.told));
            if same && !done {
                let other = other.deferred?;
                due = due.min(pause_of(other)?).min(warned(other));
            }
        }
        Some(due)
    }

    /// Whether the server must know this: it was told in this life, or had the time to record it.
    fn is_recorded(&self, told: Told) -> bool {
        let lives = self.lives.borrow();
        let Some((end, faults)) = lives.get(told.life as usize) else { return true };
        let conversations = self.conversations.borrow();
        let ended = conversations.get(&told.conversation).copied().flatten();
        !faults && ended.is_some_and(|ended| since(*end, ended) > RECORDED_WITHIN)
    }

    /// A transaction for an address begins.
    pub fn begin(&self, address: &str, at: &Place) {
        if let Some(Meant::Recipient(_, token, _) | Meant::Sender(token)) = meaning(address) {
            self.conversations.borrow_mut().insert((at.connection, token), None);
        }
    }

    /// The transaction on a connection is over.
    pub fn end(&self, at: &Place, now: Timestamp) {
        let mut conversations = self.conversations.borrow_mut();
        for (_, end) in conversations.range_mut((at.connection, 0)..=(at.connection, u64::MAX)) {
            end.get_or_insert(now);
        }
    }

    /// A host has said that a recipient should come later, or never.
    pub fn refused(
        &self,
        address: &str,
        verdict: Verdict,
        is_proven: bool,
        at: &Place,
        now: Timestamp,
    ) {
        let Some(Meant::Recipient(_, token, number)) = meaning(address) else { return };
        let told = Told { at: now, life: self.life(), conversation: (at.connection, token) };
        self.with(token, |mail| {
            let Some(recipient) = mail.recipients.get_mut(&number) else { return };
            match verdict {
                Verdict::Never => {
                    recipient.refused = Some(told);
                    recipient.refusal_is_proven = is_proven;
                }
                _ => {
                    recipient.deferrals += 1;
                    recipient.deferred = Some(told);
                }
            }
        });
    }

    /// The number of replies shows that the refusal of this recipient was meant for it.
    pub fn prove_refusal(&self, address: &str) {
        let Some(Meant::Recipient(_, token, number)) = meaning(address) else { return };
        self.with(token, |mail| {
            if let Some(recipient) = mail.recipients.get_mut(&number) {
                recipient.refusal_is_proven = true;
            }
        });
    }

    /// A host has a complete message, for these recipients; it has not answered yet.
    pub fn taken(&self, sender: &str, addresses: &[String], text: &[u8], at: &Place) {
        if let Err(why) = self.take(sender, addresses, text, at) {
            self.ledger.complain(why);
        }
    }

    fn take(
        &self,
        sender: &str,
        addresses: &[String],
        text: &[u8],
        at: &Place,
    ) -> Result<(), String> {
        let copy = Copy { told: None, connection: at.connection, reports: at.reports };
        for address in addresses {
            match meaning(address) {
                None => return Err(format!("mail for {address}, whom nobody wrote to")),
                Some(Meant::Sender(token)) => {
                    self.check_null(sender)?;
                    let report = ReportText::parse(text)?;
                    let before = self.reports.borrow().get(&report.id).cloned();
                    self.check_again(address, &before.unwrap_or_default())?;
                    self.reports.borrow_mut().entry(report.id.clone()).or_default().push(copy);
                    self.reported(token, &report)?;
                }
                Some(Meant::Recipient(_, token, number)) => {
                    if text != text_of(token) {
                        let len = text.len();
                        return Err(format!("FALSE BODY: {address} got {len} other octets"));
                    }
                    let mut mails = self.mails.borrow_mut();
                    let mail = mails.get_mut(&token).ok_or("mail that nobody sent")?;
                    let own = format!("v-{token}-{number}@{BACK}");
                    if sender != mail.sender && sender != own {
                        return Err(format!("mail of {} came from {sender}", mail.sender));
                    }
                    let recipient = mail.recipients.get_mut(&number).ok_or("no such recipient")?;
                    self.check_again(address, &recipient.copies)?;
                    recipient.copies.push(copy);
                }
            }
        }
        Ok(())
    }

    fn check_null(&self, sender: &str) -> Result<(), String> {
        match sender {
            "" => Ok(()),
            sender => Err(format!("a report came from {sender}, not from the null path")),
        }
    }

    /// Somebody gets a message again: only if the server could not know that it has it.
    fn check_again(&self, address: &str, copies: &[Copy]) -> Result<(), String> {
        match copies.iter().find(|copy| copy.told.is_some_and(|told| self.is_recorded(told))) {
            None => Ok(()),
            Some(copy) => Err(format!("{address} got it twice, first as {copy:?}")),
        }
    }

    /// The answer to the end of a message was sent.
    pub fn told(&self, addresses: &[String], at: &Place, now: Timestamp) {
        let note = |copies: &mut Vec<Copy>, token: u64| {
            let told = Told { at: now, life: self.life(), conversation: (at.connection, token) };
            let own = copies.iter_mut().filter(|copy| copy.connection == at.connection);
            own.for_each(|copy| copy.told = copy.told.or(Some(told)));
        };
        for address in addresses {
            match meaning(address) {
                Some(Meant::Recipient(_, token, number)) => {
                    self.with(token, |mail| {
                        let recipient = mail.recipients.get_mut(&number);
                        recipient.into_iter().for_each(|it| note(&mut it.copies, token));
                    });
                }
                Some(Meant::Sender(token)) => {
                    let mut reports = self.reports.borrow_mut();
                    reports.values_mut().for_each(|copies| note(copies, token));
                }
                None => {}
            }
        }
    }

    /// Somebody got a report.
    fn reported(&self, to: u64, report: &ReportText) -> Result<(), String> {
        for (token, number, action) in &report.about {
            if *token != to {
                return Err(format!("the sender of {to} got a report about {token}"));
            }
            self.note_report(*token, *number, *action, &report.id)?;
        }
        Ok(())
    }

    fn note_report(&self, token: u64, number: u32, action: Action, id: &str) -> Result<(), String> {
        let mut mails = self.mails.borrow_mut();
        let mail = mails.get_mut(&token).ok_or("a report about mail that nobody sent")?;
        let what = format!("message {token}, recipient {number}, {action:?}, in report {id}");
        if mail.sender.is_empty() {
            return Err(format!("a report about mail of nobody: {what}"));
        }
        let recipient = mail.recipients.get_mut(&number).ok_or("no such recipient")?;
        if !wants(recipient.notify, action) {
            return Err(format!("nobody wanted to know this: {what}"));
        }
        recipient.reports.insert(id.to_owned(), action);
        let count = recipient.reports.values().filter(|other| **other == action).count();
        let most = match action {
            Action::Failed | Action::Delayed => 1,
            Action::Done => recipient.copies.len().max(1),
        };
        if count > most {
            return Err(format!("reported {count} times: {what}: {:?}", recipient.reports));
        }
        Ok(())
    }

    // --- what must follow ---

    /// After a start, or on an image of a crash: whoever has no result is in the queue.
    pub fn check_durable(&self, standing: &Standing, now: Timestamp) -> Result<(), String> {
        if standing.unreadable > 0 {
            return Err(format!("{} queued messages are unreadable", standing.unreadable));
        }
        let waiting = standing.waiting();
        let mut seen = BTreeSet::new();
        if let Some(twice) = waiting.iter().find(|it| !seen.insert(**it)) {
            return Err(format!("recipient {twice:?} is queued twice"));
        }
        let boxed = self.boxed(standing)?;
        for (token, mail) in self.mails.borrow().iter() {
            if !self.binds(mail, *token, &boxed) {
                continue;
            }
            for (number, recipient) in &mail.recipients {
                let is_here = recipient.local.is_some_and(|it| boxed.contains_key(&(*token, it)));
                let ended = is_here
                    || !recipient.copies.is_empty()
                    || mail.cancel.is_some()
                    || self.may_fail(mail, recipient, now);
                if !ended && !seen.contains(&(*token, *number)) {
                    return Err(format!(
                        "LOST: {} of message {token} ({:?}) is in no queue and has no result",
                        recipient.address, mail.answer
                    ));
                }
            }
        }
        Ok(())
    }

    /// Once deliveries that a partition lacked have been repeated: direct copies are there.
    pub fn check_direct(&self, standing: &Standing) -> Result<(), String> {
        let boxed = self.boxed(standing)?;
        for (token, mail) in self.mails.borrow().iter() {
            for number in mail.direct.iter().filter(|_| mail.answer == Answer::Accepted) {
                if !boxed.contains_key(&(*token, *number)) {
                    return Err(format!("LOST: message {token} is not in box {number}"));
                }
            }
        }
        Ok(())
    }

    /// Whether a message must reach all its recipients: it was accepted, or somebody has it.
    fn binds(&self, mail: &Mail, token: u64, boxed: &BTreeMap<(u64, usize), u32>) -> bool {
        let own = |recipient: &Recipient| {
            !recipient.copies.is_empty()
                || recipient.local.is_some_and(|it| boxed.contains_key(&(token, it)))
        };
        mail.answer == Answer::Accepted || mail.recipients.values().any(own)
    }

    fn may_fail(&self, mail: &Mail, recipient: &Recipient, now: Timestamp) -> bool {
        recipient.refused.is_some()
            || mail.returned
            || recipient.address.ends_with(GONE)
            || now >= mail.arrived.after(self.options.expire)
    }

    /// How often each message is in each box. Reports in boxes are noted.
    fn boxed(&self, standing: &Standing) -> Result<BTreeMap<(u64, usize), u32>, String> {
        let mut boxed: BTreeMap<(u64, usize), u32> = BTreeMap::new();
        let mut reports = BTreeSet::new();
        for (number, text) in &standing.delivered {
            if is_report(text) {
                let report = ReportText::parse(text)?;
                if !reports.insert(report.id.clone()) {
                    return Err(format!("report {} is twice in box {number}", report.id));
                }
                let address = &self.boxes[*number].1;
                for (token, recipient, action) in &report.about {
                    let to = self.with(*token, |mail| mail.sender.clone()).unwrap_or_default();
                    if to != *address {
                        return Err(format!("{address} got a report to {to}"));
                    }
                    if !self.aside.get() {
                        self.note_report(*token, *recipient, *action, &report.id)?;
                    }
                }
                continue;
            }
            let token = token_in(text).ok_or("a box has mail that nobody sent")?;
            if !text.ends_with(&text_of(token)) {
                return Err(format!("FALSE BODY: message {token} in box {number}"));
            }
            let count = boxed.entry((token, *number)).or_default();
            *count += 1;
            if *count > 1 {
                return Err(format!("message {token} is {count} times in box {number}"));
            }
        }
        Ok(boxed)
    }

    /// At the end, with empty queues: every recipient has ended in one way.
    pub fn check_settled(&self, standing: &Standing) -> Result<(), String> {
        if !standing.is_drained() {
            return Err(format!(
                "{} messages stay in the queue, and {} that cannot be read",
                standing.queued.len(),
                standing.unreadable
            ));
        }
        let boxed = self.boxed(standing)?;
        for (token, mail) in self.mails.borrow().iter() {
            if !self.binds(mail, *token, &boxed) {
                continue;
            }
            for recipient in mail.recipients.values() {
                let here = recipient.local.is_some_and(|it| boxed.contains_key(&(*token, it)));
                self.check_end(mail, recipient, here)
                    .map_err(|why| format!("{} of message {token}: {why}", recipient.address))?;
            }
        }
        Ok(())
    }

    fn check_end(&self, mail: &Mail, recipient: &Recipient, is_here: bool) -> Result<(), String> {
        let count = |action: Action| recipient.reports.values().filter(|it| **it == action).count();
        let (failed, done) = (count(Action::Failed), count(Action::Done));
        let wanted = |action| !mail.sender.is_empty() && wants(recipient.notify, action);
        let known =
            recipient.copies.iter().any(|it| it.told.is_some_and(|at| self.is_recorded(at)));
        let delivered = is_here || !recipient.copies.is_empty();
        if is_here || known {
            // A disk that failed may have the copy of a box and say no; it may then be returned.
            if failed > 0 && (known || !mail.returned) {
                return Err("delivered, and returned, too".to_owned());
            }
            let reports = recipient.copies.iter().any(|copy| copy.reports);
            let once = is_here || recipient.copies.len() == 1;
            // Nor does an operator who returns a message know of a copy in a box that a crash kept
            // from being recorded.
            let unknown = mail.returned && !known && done == 0;
            let due = once && !reports && mail.cancel.is_none() && !unknown;
            if wanted(Action::Done) && due && done != 1 {
                return Err(format!("its delivery was reported {done} times"));
            }
            return Ok(());
        }
        if done > 0 && !delivered {
            return Err("not delivered, and reported to be".to_owned());
        }
        if mail.cancel == Some(true) || (delivered && failed == 0) {
            return Ok(());
        }
        if wanted(Action::Failed) && failed != 1 && mail.cancel.is_none() {
            return Err(format!("not delivered, and returned by {failed} reports"));
        }
        Ok(())
    }

    /// Messages held by operators, to be released at the end.
    pub fn release_all(&self, now: Timestamp) {
        for mail in self.mails.borrow_mut().values_mut() {
            (mail.held, mail.hurried) = (false, Some(now));
        }
    }
}

/// A connection of a host.
pub struct Place {
    pub connection: u64,
    /// The host sends the reports that a sender wants.
    pub reports: bool,
}

fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(later.0 - earlier.0).unwrap_or(0))
}

/// A time, short.
pub fn clock(at: Timestamp) -> String {
    format!("{:.3}", (at.0 - Timestamp::from_unix_seconds(1_700_000_000).0) as f64 / 1e6)
}

fn token_in(text: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(text.get(..text.len().min(4000))?).into_owned();
    let line = head.lines().find_map(|line| line.strip_prefix("X-Token: ").map(str::to_owned))?;
    line.trim().parse().ok()
}

fn is_report(text: &[u8]) -> bool {
    let head = text.get(..text.len().min(4000)).unwrap_or_default();
    String::from_utf8_lossy(head).contains("Content-Type: multipart/report")
}

impl ReportText {
    fn parse(text: &[u8]) -> Result<ReportText, String> {
        if !is_report(text) {
            return Err("a sender got something that is no report".to_owned());
        }
        let text = String::from_utf8_lossy(text);
        let (mut id, mut about, mut last) = (String::new(), Vec::new(), None);
        for line in text.lines() {
            if let Some(value) = line.strip_prefix("Message-ID: ")
                && id.is_empty()
            {
                id = value.to_owned();
            }
            if let Some(address) = line.strip_prefix("Final-Recipient: rfc822; ") {
                match meaning(address) {
                    Some(Meant::Recipient(_, token, number)) => last = Some((token, number)),
                    _ => return Err(format!("a report about {address}: about a report")),
                }
            }
            if let (Some(action), Some((token, number))) = (line.strip_prefix("Action: "), last) {
                last = None;
                let action = match action.trim() {
                    "failed" => Action::Failed,
                    "delayed" => Action::Delayed,
                    "delivered" | "relayed" => Action::Done,
                    other => return Err(format!("a report says {other}")),
                };
                about.push((token, number, action));
            }
        }
        match id.is_empty() || about.is_empty() {
            true => Err("a report about nothing".to_owned()),
            false => Ok(ReportText { id, about }),
        }
    }
}
