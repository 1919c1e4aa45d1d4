//! POP3: arbitrary bytes to a session, whole and byte by byte, give the same events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::{
    pop3::{Event, Offer, Session},
    sasl::{
        Answer, Mechanisms, Question,
        scram::{Ground, KeyPair, Keys},
    },
};

/// Events until the session waits for more or ends; input as it would be fed by the service.
fn events(input: &[u8], piece: usize) -> Vec<Event> {
    let offer = Offer { login: true, mechanisms: Mechanisms::ALL, start_tls: true };
    let mut session = Session::new(offer, 50);
    let mut events = Vec::new();
    let mut start = 0;
    let mut end = 0;
    while end < input.len() {
        end = (end + piece).min(input.len());
        loop {
            let step = session.next(&input[start..end]);
            assert!(step.consumed <= end - start);
            start += step.consumed;
            match step.event {
                Event::Incomplete => break,
                Event::Judged => session.logged_in(),
                Event::Ask(ref question) => {
                    if session.answer(answer(question)) == Event::Judged {
                        session.logged_in();
                    }
                }
                Event::StartTls => session.tls_started(Offer { start_tls: false, ..offer }),
                Event::Close(_) | Event::Quit => {
                    events.push(step.event);
                    return events;
                }
                _ => {}
            }
            events.push(step.event);
        }
    }
    events
}

/// Everybody has keys that nobody can prove; whoever needs none is accepted.
fn answer(question: &Question) -> Answer {
    match question {
        Question::Keys { hash, .. } => {
            let key = |octet| vec![octet; hash.size()];
            let pairs = vec![KeyPair { stored_key: key(2), server_key: key(3) }];
            let keys = Keys { salt: vec![1; 16], iterations: 1, pairs };
            let bound_to = Some(vec![4; 32]);
            Answer::Ground(Box::new(Ground { keys, nonce: "n".to_owned(), bound_to }))
        }
        Question::Proof { proved, .. } => {
            assert!(proved.is_none());
            Answer::Refused
        }
        _ => Answer::Accepted,
    }
}

fuzz_target!(|input: &[u8]| {
    assert_eq!(events(input, input.len().max(1)), events(input, 1));
});
