//! Tables: what comes from a peer, what is made of it. Here is what plays a transcript; the tests
//! are in a file for each subject.

mod bodies;
mod chunks;
mod limits;
mod lmtp;
mod miscounts;
mod model_peer;
mod replies;
mod transactions;

use super::*;

/// A peer, and what is sent to it.
struct Case<'a> {
    name: &'static str,
    /// Lines of the reply to EHLO behind the name.
    capabilities: &'static str,
    lmtp: bool,
    /// See [`Transaction::with_hello`].
    hello: Option<&'static str>,
    recipients: usize,
    content: &'static [u8],
    /// `C: ` what is sent, without CRLF; `S: ` what the peer says then. A turn of the client is
    /// sent at once.
    transcript: &'a [&'a str],
    /// One for each recipient.
    results: &'a [&'a str],
    usable: bool,
}

const PLAIN: Case<'static> = Case {
    name: "",
    capabilities: "",
    lmtp: false,
    hello: None,
    recipients: 1,
    content: b"Hi\r\n.\r\n",
    transcript: &[],
    results: &[],
    usable: true,
};

/// The same for a peer that takes chunks: EHLO behind the message proves the count of its replies.
const CHUNKED: Case<'static> =
    Case { capabilities: "PIPELINING\nCHUNKING", hello: Some("EHLO me"), ..PLAIN };

fn shown(result: &RcptResult) -> String {
    match result {
        RcptResult::Accepted { reply } => format!("accepted {reply}"),
        RcptResult::Refused { stage, reply } => format!("refused {} {reply}", stage.name()),
        RcptResult::Unsent => "unsent".into(),
        RcptResult::Lost { stage, after_final_dot, .. } => {
            format!("lost {}{}", stage.name(), if *after_final_dot { " after dot" } else { "" })
        }
    }
}

fn capabilities(lines: &str) -> Capabilities {
    Capabilities::parse(&Reply::local(250, &format!("mx.test\n{lines}")))
}

fn recipients(count: usize) -> Vec<(String, &'static str)> {
    let parameters = |at| if at == 0 { " NOTIFY=NEVER" } else { "" };
    (0..count).map(|at| (format!("<r{at}@y>"), parameters(at))).collect()
}

fn lines<'a>(recipients: &'a [(String, &'static str)]) -> Vec<RcptLine<'a>> {
    recipients.iter().map(|(path, parameters)| RcptLine { path, parameters }).collect()
}

/// Turns of a transcript: who, and what.
fn turns(transcript: &[&str]) -> Vec<(char, String)> {
    let mut turns: Vec<(char, String)> = Vec::new();
    for line in transcript {
        let (who, text) = line.split_once(": ").unwrap();
        let who = who.chars().next().unwrap();
        match turns.last_mut() {
            Some((last, said)) if *last == who => said.push_str(&format!("{text}\r\n")),
            _ => turns.push((who, format!("{text}\r\n"))),
        }
    }
    turns
}

fn play(case: &Case<'_>, piece: usize) {
    let name = case.name;
    let recipients = recipients(case.recipients);
    let lines = lines(&recipients);
    let size = case.content.len() as u64;
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size, binary: false };
    let mut transaction = Transaction::new(envelope, &capabilities(case.capabilities), case.lmtp);
    if let Some(hello) = case.hello {
        transaction = transaction.with_hello(hello);
    }
    let mut parser = ReplyParser::default();
    let mut turns = turns(case.transcript).into_iter().peekable();
    let mut content = case.content.chunks(piece);
    let mut sent = Vec::new();
    let mut inbox: Vec<u8> = Vec::new();
    let usable = loop {
        let step = transaction.advance(&mut sent);
        if let Step::Done { usable } = step {
            break usable;
        }
        let mut finished = false;
        if step == Step::Content && inbox.is_empty() {
            match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => {
                    transaction.finish(&mut sent);
                    finished = true;
                }
            }
            if !finished {
                continue;
            }
        }
        if !sent.is_empty() {
            let (who, expected) = turns.next().unwrap_or_else(|| panic!("{name}: no turn left"));
            assert_eq!((who, String::from_utf8_lossy(&sent)), ('C', expected.into()), "{name}");
            sent.clear();
        }
        if finished {
            continue;
        }
        if inbox.is_empty() {
            let (who, said) = turns.next().unwrap_or_else(|| panic!("{name}: the peer is silent"));
            assert_eq!(who, 'S', "{name}: {said}");
            inbox = said.into_bytes();
        }
        // To the end of one reply, in pieces.
        let reply = loop {
            let (done, reply) = parser.next(&inbox[..piece.min(inbox.len())]);
            inbox.drain(..done);
            if let Some(reply) = reply.unwrap() {
                break reply;
            }
        };
        if transaction.reply(reply).is_err() {
            break false;
        }
    };
    assert!(inbox.is_empty() && turns.peek().is_none(), "{name}: not all was said");
    let results: Vec<String> = transaction.into_results().iter().map(shown).collect();
    assert_eq!(
        (results, usable),
        (case.results.iter().map(|it| it.to_string()).collect(), case.usable),
        "{name}"
    );
}

/// Plays each case, in pieces of every small size.
fn play_all(cases: &[Case<'_>]) {
    for case in cases {
        (1..20).chain([1000]).for_each(|piece| play(case, piece));
    }
}

/// A reply of a peer.
fn said(code: u16, text: &str) -> Reply {
    Reply { local: false, ..Reply::local(code, text) }
}

/// What becomes of recipients if the peer says this, and then closes; and whether its count is in
/// doubt. A code of 0: the message is sent here.
fn cut_off(count: usize, offer: &str, lmtp: bool, replies: &[(u16, &str)]) -> (Vec<String>, bool) {
    let recipients = recipients(count);
    let lines = lines(&recipients);
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 7, binary: false };
    let hello = if lmtp { "LHLO me" } else { "EHLO me" };
    let mut transaction = Transaction::new(envelope, &capabilities(offer), lmtp).with_hello(hello);
    let mut sent = Vec::new();
    for (code, text) in replies {
        let step = transaction.advance(&mut sent);
        if *code == 0 {
            assert_eq!(step, Step::Content);
            transaction.finish(&mut sent);
            continue;
        }
        assert!(matches!(step, Step::Await(_)), "{step:?} before {text}");
        if transaction.reply(said(*code, text)).is_err() {
            break;
        }
    }
    transaction.advance(&mut sent);
    transaction.lose(transaction.stage(), "closed");
    let in_doubt = transaction.is_in_doubt();
    (transaction.into_results().iter().map(shown).collect(), in_doubt)
}

/// A peer that takes everything, with any number of commands without an answer.
fn play_accepting(
    mut transaction: Transaction<'_>,
    content: &[u8],
) -> (Vec<RcptResult>, Vec<u8>, usize) {
    let (mut sent, mut answered, mut most) = (Vec::new(), 0, 0);
    let mut content = content.chunks(1000);
    loop {
        match transaction.advance(&mut sent) {
            Step::Done { .. } => return (transaction.into_results(), sent, most),
            Step::Content => match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => transaction.finish(&mut sent),
            },
            Step::Await(stage) => {
                most = most.max(sent.iter().filter(|octet| **octet == b'\n').count() - answered);
                answered += 1;
                let code = if stage == Stage::Data { 354 } else { 250 };
                transaction.reply(Reply::local(code, "ok")).unwrap();
            }
        }
    }
}
