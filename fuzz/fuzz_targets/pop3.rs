//! POP3: arbitrary bytes to a session, whole and byte by byte, give the same events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::{
    pop3::{Event, Offer, Session},
    sasl::{Answer, Mechanisms},
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
                Event::Ask(_) => {
                    if session.answer(Answer::Accepted) == Event::Judged {
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

fuzz_target!(|input: &[u8]| {
    assert_eq!(events(input, input.len().max(1)), events(input, 1));
});
