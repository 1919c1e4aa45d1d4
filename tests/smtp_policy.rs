//! A policy that answers late, refuses, defers, discards, quarantines or stays silent, at every
//! step of SMTP and LMTP sessions, on two simulated shards.

#[allow(dead_code)] // what transcripts need
mod smtp_world;
mod transcript;

use std::{cell::RefCell, rc::Rc, time::Duration};

use ringmail::{
    model::AccountId,
    protocol::smtp::{Extensions, Limits, Notify, Reply},
    runtime::{answer::Answer, executor::Executor, simulation::Simulation},
    service::smtp::{
        Client as Judged, FIELDS_MAX, ListenerKind, Policy, Route, Ruling, Step, Verdict,
    },
};
use smtp_world::{ALICE, BOB, Choices, Client, Ground, World};

const NO: Reply = Reply("550 5.7.1 We do not like that");
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Connect,
    Hello,
    Sender,
    Recipient,
    MessageStart,
    Message,
}

const STEPS: [At; 6] =
    [At::Connect, At::Hello, At::Sender, At::Recipient, At::MessageStart, At::Message];

/// The policy's action at one step, after `delay`; `None`: never.
#[derive(Clone)]
struct Rule {
    at: At,
    /// Only for a recipient whose path begins like this.
    path: &'static str,
    delay: Option<u64>,
    ruling: Ruling,
}

/// A policy that follows rules, and records what it was shown.
#[derive(Default)]
struct Scripted {
    simulation: RefCell<Option<Simulation>>,
    rules: RefCell<Vec<Rule>>,
    silence: RefCell<Option<Verdict>>,
    seen: RefCell<Vec<String>>,
    read: RefCell<Vec<Vec<u8>>>,
}

impl Policy for Scripted {
    fn judge<'a>(&'a self, client: Judged<'a>, step: Step<'a>) -> Answer<'a, Ruling> {
        let (at, path) = match step {
            Step::Connect => (At::Connect, String::new()),
            Step::Hello(name) => (At::Hello, name.to_owned()),
            Step::Sender { path, parameters } => {
                (At::Sender, format!("{} {:?}", path.as_str(), parameters.size))
            }
            Step::Recipient(recipient) => {
                let route = match recipient.route.clone() {
                    Route::Here { account, detail } => format!("here {account} {detail:?}"),
                    Route::Elsewhere { account, shard, detail } => {
                        format!("elsewhere {account} {} {detail:?}", shard.0)
                    }
                    Route::Refused(reply) => reply.0.to_owned(),
                    other => format!("{other:?}"),
                };
                (At::Recipient, format!("{} {route}", recipient.path))
            }
            Step::MessageStart { recipients } => (At::MessageStart, recipients.len().to_string()),
            Step::Message { recipients, .. } => {
                let said = recipients.iter().map(|it| format!("{} {:?}", it.path, it.parameters));
                (At::Message, said.collect::<Vec<_>>().join(", "))
            }
        };
        self.seen.borrow_mut().push(format!("{at:?} {path} by {:?}", client.name));
        let rules = self.rules.borrow();
        let found = rules.iter().find(|it| it.at == at && path.starts_with(it.path)).cloned();
        let accept = Rule { at, path: "", delay: Some(0), ruling: Verdict::Accept.into() };
        let rule = found.unwrap_or(accept);
        let message = match step {
            Step::Message { message, .. } => Some(message),
            _ if rule.delay == Some(0) => return Answer::now(rule.ruling),
            _ => None,
        };
        let simulation = self.simulation.borrow().clone().expect("told");
        Answer::later(async move {
            if let Some(message) = message {
                let mut read = Vec::new();
                loop {
                    let piece = message.read(read.len() as u64).await.expect("staged");
                    if piece.is_empty() {
                        break;
                    }
                    read.extend_from_slice(&piece);
                }
                assert_eq!(read.len() as u64, message.size());
                self.read.borrow_mut().push(read);
            }
            match rule.delay {
                Some(seconds) => simulation.sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
            rule.ruling
        })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn silence(&self) -> Verdict {
        self.silence.borrow().unwrap_or(Verdict::Defer)
    }
}

fn rule(at: At, delay: Option<u64>, verdict: Verdict) -> Rule {
    Rule { at, path: "", delay, ruling: verdict.into() }
}

fn world(ground: &Ground, listener: ListenerKind, rules: Vec<Rule>) -> (World, Rc<Scripted>) {
    let policy = Rc::new(Scripted::default());
    *policy.rules.borrow_mut() = rules;
    let limits = Limits {
        message_size_max: 4 << 20,
        extensions: Extensions { dsn: true, ..Extensions::default() },
        ..Limits::default()
    };
    let choices = Choices { listener, limits, policy: policy.clone(), ..Choices::default() };
    let world = World::new(ground, choices);
    *policy.simulation.borrow_mut() = Some(world.simulation.clone());
    (world, policy)
}

/// All replies to one session that sends one message, pipelined; and how long it took.
fn session(world: &World, hello: &str, recipients: &[&str], body: &str) -> (Vec<String>, Duration) {
    let start = world.simulation.moment();
    let mut client = world.client();
    let mut replies = Vec::new();
    let mut say = |client: &mut Client, text: &str| {
        client.say(text);
        let reply = next_reply(client);
        replies.push(reply.clone());
        reply
    };
    let greeting = say(&mut client, "");
    if greeting.starts_with("220") {
        say(&mut client, &format!("{hello} client.test\r\n"));
        say(&mut client, "MAIL FROM:<carol@far.test>\r\n");
        for recipient in recipients {
            say(&mut client, &format!("RCPT TO:{recipient}\r\n"));
        }
        if say(&mut client, "DATA\r\n").starts_with("354") {
            say(&mut client, &format!("{body}.\r\n"));
            if hello == "LHLO" {
                let accepted = replies[3..].iter().filter(|it| it.starts_with("250 2.1.5")).count();
                for _ in 1..accepted {
                    replies.push(next_reply(&mut client));
                }
            }
        }
    }
    if !greeting.starts_with("421") {
        client.say("QUIT\r\n");
        client.expect("221");
    }
    (replies, world.simulation.moment().since(start))
}

thread_local! {
    /// Received and not examined yet.
    static UNREAD: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The last line of the next reply.
fn next_reply(client: &mut Client) -> String {
    loop {
        let line = UNREAD.with_borrow_mut(|unread| {
            let end = unread.find("\r\n")?;
            let line = unread[..end].to_owned();
            unread.drain(..end + 2);
            Some(line)
        });
        match line {
            Some(line) if line.as_bytes().get(3) == Some(&b' ') => return line,
            Some(_) => {}
            None => {
                let more = transcript::Peer::receive(client);
                assert!(!more.is_empty(), "closed");
                UNREAD.with_borrow_mut(|it| it.push_str(&String::from_utf8_lossy(&more)));
            }
        }
    }
}

const BODY: &str = "Subject: judged\r\n\r\nHello\r\n";
const BOTH: [&str; 2] = ["<alice@demo.test>", "<bob@demo.test>"];

/// Messages in INBOX and Junk of alice, on this shard, and bob, on another.
fn delivered(world: &World) -> [[usize; 2]; 2] {
    [ALICE, BOB]
        .map(|account: AccountId| ["INBOX", "Junk"].map(|name| world.mailbox(account, name).len()))
}

#[test]
fn every_verdict_at_every_step_at_once_and_late() {
    let ground = Ground::new();
    for (listener, hello) in [(ListenerKind::Smtp, "EHLO"), (ListenerKind::Lmtp, "LHLO")] {
        for at in STEPS {
            for delay in [0, 7] {
                for verdict in [
                    Verdict::Accept,
                    Verdict::Refuse(NO),
                    Verdict::Defer,
                    Verdict::Discard,
                    Verdict::Quarantine,
                ] {
                    let (world, _) = world(&ground, listener, vec![rule(at, Some(delay), verdict)]);
                    let (replies, took) = session(&world, hello, &BOTH, BODY);
                    let what = format!("{hello} {at:?} {delay} {verdict:?}: {replies:?}");
                    let times = match at {
                        At::Recipient => 2,
                        _ => 1,
                    };
                    assert_eq!(took.as_secs(), delay * times, "{what}");
                    let refusal = match verdict {
                        Verdict::Refuse(_) => Some("550 5.7.1"),
                        Verdict::Defer if at == At::Connect => Some("421 4.7.1"),
                        Verdict::Defer => Some("451 4.7.1"),
                        _ => None,
                    };
                    let place = match at {
                        At::Connect => 0,
                        At::Hello => 1,
                        At::Sender => 2,
                        At::Recipient => 3,
                        At::MessageStart => 5,
                        At::Message => 6,
                    };
                    let (inbox, junk) = match verdict {
                        Verdict::Accept => (1, 0),
                        Verdict::Quarantine => (0, 1),
                        _ => (0, 0),
                    };
                    assert_eq!(delivered(&world), [[inbox, junk]; 2], "{what}");
                    match refusal {
                        Some(refusal) => assert!(replies[place].starts_with(refusal), "{what}"),
                        None => {
                            let end = if hello == "LHLO" { 2 } else { 1 };
                            assert_eq!(replies.len(), 6 + end, "{what}");
                            let last = &replies[6..];
                            assert!(last.iter().all(|it| it.starts_with("250 2.0.0")), "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_silent_policy_is_not_waited_for_longer_than_it_says() {
    let ground = Ground::new();
    for (silence, inbox) in [(Verdict::Accept, 1), (Verdict::Defer, 0)] {
        for at in STEPS {
            let (world, policy) =
                world(&ground, ListenerKind::Smtp, vec![rule(at, None, Verdict::Accept)]);
            *policy.silence.borrow_mut() = Some(silence);
            let (replies, took) = session(&world, "EHLO", &["<alice@demo.test>"], BODY);
            assert_eq!(took, PATIENCE, "{at:?} {replies:?}");
            assert_eq!(delivered(&world)[0], [inbox, 0], "{at:?} {replies:?}");
        }
    }
}

/// While one session waits for its verdict, others are served.
#[test]
fn a_verdict_that_takes_its_time_holds_nobody_else_up() {
    let ground = Ground::new();
    let (world, policy) =
        world(&ground, ListenerKind::Smtp, vec![rule(At::Sender, Some(15), Verdict::Accept)]);
    let mut waiting = world.client();
    waiting.say("EHLO slow\r\n");
    waiting.expect("250");
    waiting.say("MAIL FROM:<a@b>\r\n");
    transcript::Peer::settle(&mut waiting);
    policy.rules.borrow_mut().clear();
    let (_, took) = session(&world, "EHLO", &["<alice@demo.test>"], BODY);
    assert_eq!(took, Duration::ZERO);
    assert_eq!(delivered(&world)[0], [1, 0]);
    let before = world.simulation.moment();
    waiting.expect("250");
    assert_eq!(world.simulation.moment().since(before).as_secs(), 15);
}

#[test]
fn what_a_policy_is_shown() {
    let ground = Ground::new();
    let (world, policy) = world(&ground, ListenerKind::Smtp, Vec::new());
    let mut client = world.client();
    client.expect("220");
    client.say("EHLO client.test\r\nMAIL FROM:<carol@far.test> SIZE=30\r\n");
    client.say("RCPT TO:<alice+lists@demo.test> NOTIFY=NEVER\r\n");
    client.say("RCPT TO:<BOB@demo.test> ORCPT=rfc822;b@c.test\r\nRCPT TO:<nobody@demo.test>\r\n");
    client.expect("550");
    client.say(&format!("BDAT {} LAST\r\n{BODY}", BODY.len()));
    client.expect("250");
    let never = Some(Notify::Never);
    let expected = [
        "Connect  by \"\"".to_owned(),
        "Hello client.test by \"\"".to_owned(),
        "Sender carol@far.test Some(30) by \"client.test\"".to_owned(),
        "Recipient alice+lists@demo.test here 1 Some(\"lists\") by \"client.test\"".to_owned(),
        "Recipient BOB@demo.test elsewhere 2 1 None by \"client.test\"".to_owned(),
        "Recipient nobody@demo.test 550 5.1.1 No such user here by \"client.test\"".to_owned(),
        "MessageStart 2 by \"client.test\"".to_owned(),
        format!(
            "Message alice+lists@demo.test RecipientParameters {{ orcpt: None, notify: {never:?} }}, \
             BOB@demo.test RecipientParameters {{ orcpt: Some(\"rfc822;b@c.test\"), \
             notify: None }} by \"client.test\""
        ),
    ];
    assert_eq!(*policy.seen.borrow(), expected);
    assert_eq!(*policy.read.borrow(), [BODY.as_bytes()]);
}

/// A staged body can be read wherever it is: here, on another shard but not sent there yet, or in
/// its log.
#[test]
fn a_policy_reads_what_is_staged_and_adds_fields() {
    let ground = Ground::new();
    let line = "0123456789012345678901234567890\r\n";
    for recipients in [&BOTH[..1], &BOTH[1..], &BOTH] {
        for lines in [0, 1, 8_000, 9_000, 40_000] {
            let body = format!("Subject: x\r\n\r\n{}", line.repeat(lines));
            let fields = b"Authentication-Results: mail.demo.test; none\r\n".to_vec();
            let rule = Rule {
                at: At::Message,
                path: "",
                delay: Some(1),
                ruling: Ruling { verdict: Verdict::Accept, fields },
            };
            let (world, policy) = world(&ground, ListenerKind::Smtp, vec![rule]);
            let (replies, _) = session(&world, "EHLO", recipients, &body);
            assert!(replies.last().unwrap().starts_with("250 2.0.0"), "{replies:?}");
            let read = policy.read.borrow().concat();
            assert!(read == body.as_bytes(), "{recipients:?} {lines}");
            for account in [ALICE, BOB] {
                let inbox = world.inbox(account);
                let mine = if account == ALICE { BOTH[0] } else { BOTH[1] };
                assert_eq!(inbox.len(), usize::from(recipients.contains(&mine)));
                for message in inbox {
                    let begin = "Return-Path: <carol@far.test>\r\n\
                                 Authentication-Results: mail.demo.test; none\r\n\
                                 Received: from client.test ";
                    assert!(message.starts_with(begin), "{message:.300}");
                    assert!(message.ends_with(&body), "{lines}");
                }
            }
        }
    }
}

#[test]
fn fields_beyond_their_limit_or_cut_are_left_out() {
    let ground = Ground::new();
    let long = format!("X: {}\r\n", "x".repeat(FIELDS_MAX));
    for fields in [long.as_str(), "X: no line end"] {
        let ruling = Ruling { verdict: Verdict::Accept, fields: fields.as_bytes().to_vec() };
        let rule = Rule { at: At::Message, path: "", delay: Some(0), ruling };
        let (world, _) = world(&ground, ListenerKind::Smtp, vec![rule]);
        session(&world, "EHLO", &BOTH[..1], BODY);
        let [message] = world.inbox(ALICE).try_into().expect("one");
        assert!(message.starts_with("Return-Path: <carol@far.test>\r\nReceived:"), "{message}");
    }
}

/// Each recipient's own verdict, and LMTP's own reply for each.
#[test]
fn recipients_are_judged_one_by_one() {
    let ground = Ground::new();
    let of = |path, verdict: Verdict| Rule { path, ..rule(At::Recipient, Some(0), verdict) };
    let all = ["<alice@demo.test>", "<alice+x@demo.test>", "<bob@demo.test>", "<user1@demo.test>"];
    for (listener, hello) in [(ListenerKind::Smtp, "EHLO"), (ListenerKind::Lmtp, "LHLO")] {
        let rules = vec![
            of("alice+x", Verdict::Quarantine),
            of("bob", Verdict::Quarantine),
            of("user1", Verdict::Discard),
        ];
        let (world, _) = world(&ground, listener, rules);
        let (replies, _) = session(&world, hello, &all, BODY);
        let end = &replies[8..];
        assert_eq!(end.len(), if hello == "LHLO" { 4 } else { 1 }, "{replies:?}");
        assert!(end.iter().all(|it| it.starts_with("250 2.0.0")), "{replies:?}");
        // Alice is named twice: the milder verdict applies to her single copy.
        assert_eq!(delivered(&world), [[1, 0], [0, 1]], "{hello}");
        assert_eq!(world.inbox(AccountId(3)).len(), 0);
    }
}

/// A client quarantined at its first step: for all its mail, or, if the step was its greeting,
/// until it greets again.
#[test]
fn a_verdict_on_the_client_holds_for_all_its_mail() {
    let ground = Ground::new();
    for (at, expected) in [(At::Connect, [0, 3]), (At::Hello, [1, 2])] {
        let (world, policy) =
            world(&ground, ListenerKind::Smtp, vec![rule(at, Some(0), Verdict::Quarantine)]);
        let mut client = world.client();
        client.expect("220");
        let mut send = |hello: &str| {
            client.say(&format!("{hello}MAIL FROM:<a@b>\r\nRCPT TO:<alice@demo.test>\r\nDATA\r\n"));
            client.expect("354");
            client.say(&format!("{BODY}.\r\n"));
            client.expect("250");
        };
        send("EHLO x\r\n");
        send("");
        policy.rules.borrow_mut().clear();
        send("EHLO x\r\n");
        assert_eq!(delivered(&world)[0], expected, "{at:?}");
    }
}
