//! SMTP, submission and LMTP: arbitrary bytes to a session, whole and in pieces, get the same
//! replies and give the same messages; and every command parses back to the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::{
    sasl::{Answer, Mechanisms},
    smtp::{Event, Limits, Role, Security, Session, command, reply},
};

/// All replies and message octets; input as it would be fed by the service.
fn play(role: Role, input: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
    let security = Security {
        can_start_tls: true,
        plaintext_auth: true,
        mechanisms: Mechanisms::ALL,
        xclient: true,
        xforward: true,
        ..Security::default()
    };
    let mut session = Session::new(role, Limits::default(), security);
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    let (mut start, mut end, mut recipients) = (0, 0, 0);
    while end < input.len() {
        end = (end + piece).min(input.len());
        loop {
            let (consumed, event) = session.next(&input[start..end], &mut output);
            assert!(consumed <= end - start);
            start += consumed;
            match event {
                Event::Incomplete => break,
                Event::Answered(_) => (),
                Event::Reset(_) => recipients = 0,
                Event::MessageRefused(_) => {
                    session.end_transaction(false);
                    recipients = 0;
                }
                Event::Greeting(greeting) => {
                    session.accept_greeting(
                        &greeting,
                        "me.test",
                        ringmail::model::Timestamp(0),
                        &mut output,
                    );
                    recipients = 0;
                }
                Event::Sender(sender) => session.accept_sender(&sender, &mut output),
                Event::Recipient(_) => {
                    recipients += 1;
                    session.accept_recipient(&mut output);
                }
                Event::MessageStart(_) => {
                    assert!(recipients > 0);
                    session.accept_message(&mut output);
                }
                Event::Content(content) => messages.extend_from_slice(content),
                Event::MessageEnd => {
                    assert!(recipients > 0);
                    reply::DELIVERED.append_to(&mut output);
                    session.end_transaction(true);
                    recipients = 0;
                }
                Event::Judged => session.authenticated(&mut output),
                Event::Authenticate(_) => {
                    if session.answer(Answer::Accepted, &mut output) == Event::Judged {
                        session.authenticated(&mut output);
                    }
                }
                Event::StartTls => {
                    session.tls_started(Mechanisms::ALL);
                    recipients = 0;
                }
                Event::Verify(_) => reply::VRFY.append_to(&mut output),
                Event::Expand(_) => reply::EXPN.append_to(&mut output),
                Event::StartQueue(node) => {
                    let start = reply::QueueStart::Messages(1);
                    reply::append_queue_start(&mut output, node.text, start);
                }
                Event::ClientClaimed => {
                    session.greet("me.test", &mut output);
                    recipients = 0;
                }
                Event::Close(_) => return (output, messages),
            }
        }
    }
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
    (output, messages)
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let role = [Role::Exchange, Role::Submission, Role::Lmtp][usize::from(choice) % 3];
    let whole = play(role, input, input.len().max(1));
    assert_eq!(whole, play(role, input, 1));
    assert_eq!(whole, play(role, input, 1 + usize::from(choice) / 3));
    let _ = command::parse(input);
});
