//! A peer's replies to the SMTP and LMTP client: arbitrary bytes, whole and in pieces, give the same
//! results, one for each recipient, in bounded memory; and nothing but CRLF ends a line of what is
//! sent, except in a binary message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::smtp::client::{
    Capabilities, Envelope, Fault, RcptLine, RcptResult, Reply, ReplyParser, REPLY_OCTETS_MAX,
    REPLY_TEXT_MAX, Step, Transaction,
};

const RECIPIENTS: [RcptLine<'_>; 4] = [
    RcptLine { path: "<a@y.test>", parameters: "" },
    RcptLine { path: "<b@y.test>", parameters: " NOTIFY=NEVER" },
    RcptLine { path: "<\u{e9}@y.test>", parameters: "" },
    RcptLine { path: "<c@y.test>\r\nRSET", parameters: "" },
];

/// The peer's replies, given in pieces of `piece` octets.
struct Peer<'a> {
    parser: ReplyParser,
    input: &'a [u8],
    piece: usize,
}

impl Peer<'_> {
    /// `None` at the end of the input.
    fn reply(&mut self) -> Result<Option<Reply>, Fault> {
        let mut octets = 0;
        while !self.input.is_empty() {
            let piece = &self.input[..self.piece.min(self.input.len())];
            let (done, parsed) = self.parser.next(piece);
            assert!(done <= piece.len());
            octets += done;
            self.input = &self.input[done..];
            if let Some(reply) = parsed? {
                assert!((200..600).contains(&reply.code) && octets <= REPLY_OCTETS_MAX);
                assert!(!reply.text.chars().any(|c| c.is_control() && c != '\n'));
                return Ok(Some(reply));
            }
            assert_eq!(done, piece.len());
        }
        Ok(None)
    }
}

fn play(lmtp: bool, input: &[u8], piece: usize) -> (Vec<RcptResult>, Vec<u8>, bool) {
    let mut peer = Peer { parser: ReplyParser::default(), input, piece };
    let mut output = Vec::new();
    let capabilities = match peer.reply() {
        Ok(Some(reply)) if reply.is_positive() => Capabilities::parse(&reply),
        _ => Capabilities::default(),
    };
    let binary = capabilities.binary_mime && capabilities.chunking;
    let envelope =
        Envelope { mail_from: "<a@x.test>", recipients: &RECIPIENTS, size: 9, binary };
    let hello = if lmtp { "LHLO x.test" } else { "EHLO x.test" };
    let mut transaction = Transaction::new(envelope, &capabilities, lmtp).with_hello(hello);
    let mut content = [&b"a\n."[..], b"\r", b".\r\n\n", b".b\r\n."].into_iter();
    let usable = loop {
        match transaction.advance(&mut output) {
            Step::Done { usable } => break usable,
            Step::Content => match content.next() {
                Some(piece) => transaction.push(piece, &mut output),
                None => transaction.finish(&mut output),
            },
            Step::Await(stage) => match peer.reply() {
                Ok(Some(reply)) => drop(transaction.reply(reply)),
                Ok(None) => transaction.lose(stage, "closed"),
                Err(fault) => transaction.desynchronised(fault),
            },
        }
    };
    assert!(binary || output.iter().enumerate().all(|(at, octet)| match octet {
        b'\n' => at > 0 && output[at - 1] == b'\r',
        b'\r' => output.get(at + 1) == Some(&b'\n'),
        _ => true,
    }));
    assert!(!output.windows(10).any(|ten| ten == b"<c@y.test>"), "a command in a path");
    let results = transaction.into_results();
    assert_eq!(results.len(), RECIPIENTS.len());
    for result in &results {
        if let RcptResult::Accepted { reply } | RcptResult::Refused { reply, .. } = result {
            assert!(reply.text.len() <= REPLY_TEXT_MAX);
        }
    }
    (results, output, usable)
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let lmtp = choice % 2 == 1;
    let whole = play(lmtp, input, input.len().max(1));
    assert_eq!(whole, play(lmtp, input, 1));
    assert_eq!(whole, play(lmtp, input, 1 + usize::from(choice) / 2));
});
