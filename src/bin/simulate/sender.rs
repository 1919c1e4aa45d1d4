//! Clients of the way out: they submit mail for elsewhere as the SMTP service does, and do what
//! operators do to the queue.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use crate::{
    model::{AccountId, MailClass},
    protocol::smtp::Notify,
    queue::{self, Acted, Envelope, Filter, Listed, Origin, QueueId},
    runtime::executor::Executor,
    service::{
        Shard,
        delivery::{Delivery, Failure},
    },
    store::StoreError,
};

use super::{
    outside::DOMAINS,
    post::{Answer, BACK, BOXES, Mail, Meant, Post, Recipient, meaning, text_of},
    session::Life,
};

/// Senders in each life.
pub const SENDERS: u64 = 2;

pub struct Sender {
    pub life: Rc<Life>,
    pub post: Rc<Post>,
    pub commands: usize,
}

impl Sender {
    pub async fn run(self) {
        for _ in 0..self.commands {
            if self.life.ledger.complaint.borrow().is_some() {
                break;
            }
            let outcome = match self.pick(5) {
                0..=2 => self.submit().await,
                _ if self.post.operated.replace(true) => Ok(()),
                _ => {
                    let outcome = self.operate().await;
                    self.post.operated.set(false);
                    outcome
                }
            };
            if let Err(why) = outcome {
                self.life.ledger.complain(format!("a sender: {why}"));
            }
            self.pause().await;
        }
        self.life.running.set(self.life.running.get() - 1);
    }

    fn pick(&self, below: u64) -> u64 {
        self.life.simulation.random() % below
    }

    /// Mail waits for seconds; the schedule has no effect on clients that never pause.
    async fn pause(&self) {
        match self.pick(3) {
            0 => self.life.simulation.yield_now().await,
            1 => self.life.simulation.sleep(Duration::from_millis(self.pick(2_000))).await,
            _ => self.life.simulation.sleep(Duration::from_millis(self.pick(15_000))).await,
        }
    }

    fn shard(&self) -> &Rc<Shard> {
        &self.life.shards[self.pick(self.life.shards.len() as u64) as usize]
    }

    fn notify(&self) -> Option<Notify> {
        match self.pick(6) {
            0 => Some(Notify::Never),
            1..=2 => {
                let bits = 1 + self.pick(7);
                Some(Notify::On {
                    success: bits & 1 != 0,
                    failure: bits & 2 != 0,
                    delay: bits & 4 != 0,
                })
            }
            _ => None,
        }
    }

    /// A recipient elsewhere, or a box that gets its copy through the queue.
    fn recipient(&self, token: u64, number: u32) -> Recipient {
        let notify = self.notify();
        if self.pick(6) == 0 {
            let local = Some(self.pick(BOXES as u64) as usize);
            let address = format!("ok-{token}-{number}@example");
            return Recipient::new(address, local, notify);
        }
        let kind = ["ok", "ok", "ok", "later", "never", "ever"][self.pick(6) as usize];
        let domain = DOMAINS[self.pick(DOMAINS.len() as u64) as usize];
        let address = format!("{kind}-{token}-{number}@{domain}");
        Recipient::new(address, None, notify)
    }

    async fn submit(&self) -> Result<(), String> {
        let now = self.life.simulation.now();
        let token = self.life.ledger.serial();
        let sender = match self.pick(5) {
            0 => String::new(),
            1 => self.post.boxes[self.pick(BOXES as u64) as usize].1.clone(),
            _ => format!("t-{token}@{BACK}"),
        };
        let count = match self.pick(4) {
            0 => 1 + self.pick(8),
            _ => 1 + self.pick(3),
        };
        let mut recipients: BTreeMap<u32, Recipient> = BTreeMap::new();
        for number in (1..).take(count as usize) {
            let recipient = self.recipient(token, number);
            // A box gets one copy.
            let twice = recipient.local.is_some()
                && recipients.values().any(|it| it.local == recipient.local);
            if !twice {
                recipients.insert(number, recipient);
            }
        }
        let used = |number: usize| recipients.values().any(|it| it.local == Some(number));
        let direct = (0..BOXES).filter(|number| !used(*number) && self.pick(3) == 0).collect();
        let hold_until = (self.pick(8) == 0).then(|| now.after(Duration::from_secs(20)));
        let envelope = Envelope {
            arrived: now,
            origin: [Origin::Submission, Origin::Inbound, Origin::Relay][self.pick(3) as usize],
            sender: sender.clone(),
            priority: self.pick(3) as i8 - 1,
            hold_until,
            id: format!("m{token}"),
            recipients: recipients.iter().map(|it| self.stored(token, it)).collect(),
            ..Envelope::default()
        };
        let mail = Mail {
            sender,
            arrived: now,
            answer: Answer::Unknown,
            recipients,
            direct,
            hold_until,
            held: false,
            hurried: None,
            cancel: None,
            returned: false,
        };
        let names: Vec<&str> = mail.recipients.values().map(|it| it.address.as_str()).collect();
        let what = format!("submits {token} from <{}> to {names:?}", mail.sender);
        self.life.note("sender", what);
        let direct: Vec<AccountId> =
            mail.direct.iter().map(|number| AccountId(self.post.boxes[*number].0)).collect();
        self.post.submit(token, mail);
        let outcome = self.deliver(token, direct, envelope).await;
        self.life.note("sender", format!("{token} was answered {outcome:?}"));
        match outcome {
            Ok(()) => self.post.answered(token, true),
            Err(Failure::Refused | Failure::OverQuota) => {
                return Err(format!("message {token} was refused for ever"));
            }
            Err(_) if self.life.faults => self.post.answered(token, false),
            Err(failure) => return Err(format!("message {token}: {failure}")),
        }
        Ok(())
    }

    fn stored(&self, token: u64, (number, it): (&u32, &Recipient)) -> (u32, queue::Recipient) {
        let recipient = queue::Recipient {
            address: it.address.clone(),
            account: it.local.map(|number| AccountId(self.post.boxes[number].0)),
            notify: it.notify,
            // Some have a return path of their own.
            sender: (self.pick(8) == 0).then(|| format!("v-{token}-{number}@{BACK}")),
            ..queue::Recipient::default()
        };
        (*number, recipient)
    }

    async fn deliver(
        &self,
        token: u64,
        direct: Vec<AccountId>,
        envelope: Envelope,
    ) -> Result<(), Failure> {
        let shard = self.shard();
        let mut delivery = Delivery::new(shard, direct, MailClass::Local).with_queue();
        for piece in text_of(token).chunks(1 + self.pick(60_000) as usize) {
            delivery.push(piece).await;
            if self.pick(4) == 0 {
                self.life.simulation.yield_now().await;
            }
        }
        delivery.prepend(format!("Return-Path: <{}>\r\n", envelope.sender).into_bytes());
        delivery.send_on(envelope);
        delivery.finish_together().await
    }

    /// Holds, releases, hurries, removes or returns a message of the queue.
    async fn operate(&self) -> Result<(), String> {
        let shard = self.shard();
        let listed = shard.relay().list(&Filter::default(), None, 100).await;
        if listed.is_empty() {
            return Ok(());
        }
        let Listed { id, recipients, parts, .. } =
            listed[self.pick(listed.len() as u64) as usize].clone();
        let Some(address) = recipients.first() else { return Ok(()) };
        let Some(Meant::Recipient(_, token, _)) = meaning(address) else { return Ok(()) };
        let busy = parts.iter().any(|part| part.phase == "sending");
        let now = self.life.simulation.now();
        let what = self.pick(8);
        let outcome = match what {
            0..=1 if !busy => self.hold(shard, id, token).await,
            0..=3 => {
                self.post.with(token, |mail| (mail.held, mail.hurried) = (false, Some(now)));
                let released = shard.relay().set_held(id, false).await;
                // Released in memory only after it is released on disk.
                let now = self.life.simulation.now();
                self.post.with(token, |mail| mail.hurried = Some(now));
                released.map(drop)
            }
            4..=5 => {
                self.post.with(token, |mail| mail.hurried = Some(now));
                shard.relay().flush(&[id]);
                Ok(())
            }
            6 => {
                let before = self.post.with(token, |mail| mail.cancel.replace(false)).flatten();
                let removed = shard.relay().remove(id, None).await;
                let cancel = match removed {
                    Ok(Acted::Done) => Some(true),
                    Ok(Acted::Busy | Acted::Held | Acted::Gone) => before,
                    Err(_) => Some(false),
                };
                self.post.with(token, |mail| mail.cancel = cancel);
                removed.map(drop)
            }
            _ => {
                self.post.with(token, |mail| mail.returned = true);
                shard.relay().remove(id, Some("not wanted")).await.map(drop)
            }
        };
        self.life.note("operator", format!("{what} on {id}, message {token}: {outcome:?}"));
        match outcome {
            Err(error) if !self.life.faults => Err(format!("message {token}: {error}")),
            _ => Ok(()),
        }
    }

    async fn hold(&self, shard: &Rc<Shard>, id: QueueId, token: u64) -> Result<(), StoreError> {
        if !shard.relay().set_held(id, true).await? {
            return Ok(());
        }
        // An attempt that began before goes on.
        let busy = |listed: &Listed| listed.parts.iter().any(|part| part.phase == "sending");
        if let Some((listed, _)) = shard.relay().show(id).await
            && !busy(&listed)
            && listed.held
        {
            self.post.with(token, |mail| mail.held = true);
        }
        Ok(())
    }
}
