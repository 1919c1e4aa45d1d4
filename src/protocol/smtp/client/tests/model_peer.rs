//! A peer that knows what it means by each reply, and miscounts them once: no result may contradict
//! it.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A peer that does as its plan says, but for one reply.
#[derive(Clone, Debug)]
struct Plan {
    offer: &'static str,
    lmtp: bool,
    /// 250, or a refusal.
    mail: u16,
    rcpt: Vec<u16>,
    data: u16,
    /// To the message; with LMTP one for each recipient.
    end: Vec<u16>,
    miscount: Miscount,
}

#[derive(Clone, Copy, Debug)]
enum Miscount {
    None,
    /// The reply of this number is never sent.
    TooFew(usize),
    /// Another one of this code follows it. `late`: it is not there yet when the client looks.
    TooMany(usize, u16, bool),
    /// One of this code is left from the transaction before.
    Left(u16),
}

/// The peer's side of a transaction: what it is sent, what it says, and what it means.
struct ModelPeer {
    plan: Plan,
    input: Vec<u8>,
    /// Replies that the client has not read.
    said: VecDeque<Reply>,
    replies: usize,
    in_data: bool,
    sender: bool,
    recipients: Vec<usize>,
    taken: Vec<bool>,
    /// Whose reply to the message was not sent.
    unsaid: Option<usize>,
    /// 354 was sent: one too many would be that to the message.
    late: bool,
}

impl ModelPeer {
    fn new(plan: Plan) -> ModelPeer {
        let left = match plan.miscount {
            Miscount::Left(code) => Some(said(code, "one left")),
            _ => None,
        };
        let late = matches!(plan.miscount, Miscount::TooMany(_, _, true) | Miscount::Left(_));
        ModelPeer {
            taken: vec![false; plan.rcpt.len()],
            plan,
            input: Vec::new(),
            said: left.into_iter().collect(),
            replies: 0,
            in_data: false,
            sender: false,
            recipients: Vec::new(),
            unsaid: None,
            late,
        }
    }

    /// False if the reply is not sent.
    fn say(&mut self, code: u16, text: &str) -> bool {
        let number = self.replies;
        self.replies += 1;
        match self.plan.miscount {
            Miscount::TooFew(missing) if missing == number => return false,
            Miscount::TooMany(place, extra, _) if place == number => {
                self.said.push_back(said(code, text));
                self.said.push_back(said(extra, "one too many"));
                // Nothing that is sent behind 354 has a number: it must be there at once.
                self.late &= code != 354;
            }
            _ => self.said.push_back(said(code, text)),
        }
        true
    }

    /// Takes what the client has sent, and answers it.
    fn hear(&mut self, sent: &mut Vec<u8>) {
        self.input.append(sent);
        loop {
            if self.in_data {
                let end = self.input.windows(3).position(|it| it == b".\r\n");
                let Some(end) = end else { return };
                self.input.drain(..end + 3);
                self.in_data = false;
                self.end();
                continue;
            }
            let Some(end) = self.input.iter().position(|it| *it == b'\n') else { return };
            let line = String::from_utf8(self.input[..end - 1].to_vec()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let chunk: usize = match words[..] {
                ["BDAT", size, ..] => size.parse().unwrap(),
                _ => 0,
            };
            if self.input.len() < end + 1 + chunk {
                return;
            }
            self.input.drain(..end + 1 + chunk);
            match words[..] {
                ["MAIL", ..] => {
                    self.sender = self.plan.mail == 250;
                    self.say(self.plan.mail, "mail");
                }
                ["RCPT", path, ..] => {
                    let digits = path.trim_matches(|it: char| !it.is_ascii_digit());
                    let at: usize = digits.parse().unwrap();
                    let code = if self.sender { self.plan.rcpt[at] } else { 503 };
                    if code == 250 {
                        self.recipients.push(at);
                    }
                    self.say(code, &format!("rcpt {at}"));
                }
                ["DATA"] if self.recipients.is_empty() => drop(self.say(554, "data")),
                ["DATA"] => {
                    self.in_data = self.plan.data == 250;
                    self.say(if self.in_data { 354 } else { self.plan.data }, "data");
                }
                ["BDAT", ..] if self.recipients.is_empty() => drop(self.say(503, "chunk")),
                ["BDAT", _] => drop(self.say(250, "chunk")),
                ["BDAT", ..] => self.end(),
                ["RSET"] => {
                    self.recipients.clear();
                    self.say(250, "rset");
                }
                ["EHLO" | "LHLO", ..] => {
                    self.recipients.clear();
                    self.say(250, &format!("mx\n{}", self.plan.offer));
                }
                _ => panic!("{line}"),
            }
        }
    }

    fn end(&mut self) {
        let recipients = std::mem::take(&mut self.recipients);
        for at in &recipients {
            self.taken[*at] = self.plan.end[if self.plan.lmtp { *at } else { 0 }] == 250;
        }
        if !self.plan.lmtp {
            self.say(self.plan.end[0], "end");
            return;
        }
        for at in recipients {
            if !self.say(self.plan.end[at], &format!("end {at}")) {
                self.unsaid = Some(at);
            }
        }
    }

    /// The text of the refusal that a recipient has for good, if it has one.
    fn refusal(&self, at: usize) -> Option<String> {
        let Plan { mail, rcpt, data, end, lmtp, .. } = &self.plan;
        let (end, end_text) = match lmtp {
            true => (end[at], format!("end {at}")),
            false => (end[0], "end".to_owned()),
        };
        let all = [
            (*mail, "mail".to_owned()),
            (rcpt[at], format!("rcpt {at}")),
            (*data, "data".to_owned()),
            (end, end_text),
        ];
        let (code, text) = all.into_iter().find(|(code, _)| *code != 250)?;
        (code >= 500).then_some(text)
    }
}

/// Sends a message to the peer, as `service::relay::client` does.
fn send_to(plan: Plan, octets: usize) -> (Vec<RcptResult>, bool, ModelPeer) {
    let recipients = recipients(plan.rcpt.len());
    let lines = lines(&recipients);
    let binary = plan.offer.contains("BINARYMIME");
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 1, binary };
    let hello = if plan.lmtp { "LHLO me" } else { "EHLO me" };
    let mut transaction =
        Transaction::new(envelope, &capabilities(plan.offer), plan.lmtp).with_hello(hello);
    let mut peer = ModelPeer::new(plan);
    let content = vec![b'x'; octets];
    let mut content = content.chunks(70_000);
    let mut sent = Vec::new();
    loop {
        let step = transaction.advance(&mut sent);
        match step {
            Step::Done { .. } => break,
            Step::Content => match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => transaction.finish(&mut sent),
            },
            Step::Await(stage) => {
                peer.hear(&mut sent);
                let Some(reply) = peer.said.pop_front() else {
                    transaction.lose(stage, "closed");
                    break;
                };
                if transaction.reply(reply).is_err() {
                    break;
                }
                if transaction.expects_nothing()
                    && !peer.late
                    && let Some(reply) = peer.said.pop_front()
                    && transaction.reply(reply).is_err()
                {
                    break;
                }
            }
        }
    }
    let in_doubt = transaction.is_in_doubt();
    (transaction.into_results(), in_doubt, peer)
}

fn plans() -> impl Strategy<Value = Plan> {
    let code = || prop_oneof![4 => Just(250u16), 1 => Just(550), 1 => Just(451)];
    let offer = prop_oneof![
        Just(""),
        Just("PIPELINING"),
        Just("PIPELINING\nCHUNKING"),
        Just("PIPELINING\nCHUNKING\nBINARYMIME"),
        Just("CHUNKING\nBINARYMIME"),
    ];
    let extra = || prop_oneof![Just(250u16), Just(550), Just(450)];
    let miscount = prop_oneof![
        1 => Just(Miscount::None),
        4 => (0usize..9).prop_map(Miscount::TooFew),
        4 => (0usize..9, extra(), any::<bool>())
            .prop_map(|(at, code, late)| Miscount::TooMany(at, code, late)),
        1 => extra().prop_map(Miscount::Left),
    ];
    let recipients = (1usize..5).prop_flat_map(move |count| {
        (proptest::collection::vec(code(), count), proptest::collection::vec(code(), count))
    });
    (offer, any::<bool>(), code(), recipients, code(), miscount).prop_map(
        |(offer, lmtp, mail, (rcpt, end), data, miscount)| {
            // With one command at a time a reply too many has come before the next command; or no
            // client can tell.
            let pipelined = offer.contains("PIPELINING") && !(lmtp && offer.contains("BINARYMIME"));
            let miscount = match miscount {
                Miscount::TooMany(at, code, _) if !pipelined => Miscount::TooMany(at, code, false),
                Miscount::Left(_) if !pipelined => Miscount::None,
                miscount => miscount,
            };
            // BDAT has no command before the message to refuse.
            let data = if offer.contains("CHUNKING") { 250 } else { data };
            Plan { offer, lmtp, mail, rcpt, data, end, miscount }
        },
    )
}

/// A refusal too late for its recipient is that of a chunk, and 503 to the last chunk that of EHLO.
#[test]
fn a_refused_chunk_counts_when_ehlo_is_answered() {
    let plan = Plan {
        offer: "PIPELINING\nCHUNKING",
        lmtp: false,
        mail: 250,
        rcpt: vec![550, 550],
        data: 250,
        end: vec![250, 250],
        miscount: Miscount::TooMany(0, 250, true),
    };
    let (results, in_doubt, _) = send_to(plan, 200_000);
    let results: Vec<String> = results.iter().map(shown).collect();
    assert_eq!((results, in_doubt), (vec!["lost reset after dot".to_owned(); 2], true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A peer that leaves one reply out, or sends one too many: what is said to be accepted was,
    /// and what is said to be refused for good was, by this very reply.
    #[test]
    fn results_are_those_that_the_peer_meant(
        plan in plans(),
        octets in prop_oneof![3 => Just(10usize), 1 => Just(200_000)],
    ) {
        let (results, in_doubt, peer) = send_to(plan, octets);
        let honest = matches!(peer.plan.miscount, Miscount::None);
        prop_assert!(!(honest && in_doubt));
        for (at, result) in results.iter().enumerate() {
            match result {
                // See `Transaction::lose`.
                RcptResult::Accepted { .. } if peer.unsaid == Some(at) => {}
                RcptResult::Accepted { .. } => prop_assert!(peer.taken[at], "{results:?}"),
                RcptResult::Refused { reply, .. } if result.is_permanent() => {
                    let meant = peer.refusal(at);
                    prop_assert_eq!(Some(&*reply.text), meant.as_deref(), "{:?}", results);
                }
                _ => prop_assert!(!honest || !peer.taken[at] && peer.refusal(at).is_none()),
            }
        }
    }
}
