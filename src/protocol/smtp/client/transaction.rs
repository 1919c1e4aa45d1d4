//! One mail transaction as its client (RFC 5321 3.3; LMTP: RFC 2033 4.2): which commands may be
//! sent, which command a reply answers, and what became of each recipient.
//!
//! The caller loops: [`Transaction::advance`] appends what can be sent and says what to wait for;
//! the next reply goes to [`Transaction::reply`], pieces of the message to [`Transaction::push`].
//! At [`Step::Done`] every recipient has exactly one result.
//!
//! With PIPELINING (RFC 2920 3.1), MAIL, all RCPT and DATA go out in one write, up to
//! [`PIPELINED_MAX`] unanswered commands: a peer that does not read while its replies are not read
//! must not stop both sides. If all recipients were refused and the peer wants the message anyway,
//! it gets a lone dot. With CHUNKING the message goes out in chunks instead, where they can be
//! pipelined (with LMTP never) or the message is binary.
//!
//! Whose reply it is follows only from the number of those before it, and peers leave replies out
//! or send some too many. So a refusal for good in a pipelined group counts only when the group is
//! proven complete: by 354 to DATA, which answers nothing else; by the reply of several lines to
//! EHLO (see [`Transaction::with_hello`]); by 2xx to RSET, which ends a transaction without a
//! message, as a reply too many would leave it the one to DATA, which is never 2xx. If the
//! connection ends before that, the recipients are reported as lost, to be tried again. One command
//! at a time needs no proof.
//!
//! A reply that cannot be an answer to its command (3xx to RCPT, 2xx to DATA), or one too many,
//! means that replies and commands do not match: then no refusal counts, and every recipient that
//! was not accepted is lost. [`Transaction::is_in_doubt`] tells the caller of both, so that it need
//! not rely on the number of replies of that peer again.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::VecDeque;

use super::{
    Stage,
    body::BodyEncoder,
    capabilities::Capabilities,
    reply::{Fault, Reply},
};

/// Unanswered commands.
const PIPELINED_MAX: usize = 100;
/// Unanswered chunks.
const CHUNKS_PIPELINED_MAX: usize = 8;
/// Octets of a chunk, about; the last has what remains.
const CHUNK_SIZE: usize = 64 * 1024;
/// A peer that refuses a message before its end has seen this much of it.
const EARLY_OCTETS: usize = 64 * 1024;
/// Octets of a command without its CRLF. All extensions together need fewer than 2,048.
const COMMAND_OCTETS_MAX: usize = 4096;

/// A recipient's path, with angle brackets, and its parameters: empty, or each after a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RcptLine<'a> {
    pub path: &'a str,
    pub parameters: &'a str,
}

/// What is sent to whom.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The reverse-path with angle brackets, then the parameters that the peer understands, each
    /// after a space, but not SIZE, which is added here.
    pub mail_from: &'a str,
    pub recipients: &'a [RcptLine<'a>],
    /// Octets of the message, or an estimate, for SIZE (RFC 1870 6.1).
    pub size: u64,
    /// The message is declared BODY=BINARYMIME in `mail_from`.
    pub binary: bool,
}

/// What became of a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RcptResult {
    /// The peer has taken the message for it.
    Accepted { reply: Reply },
    /// 4xx or 5xx.
    Refused { stage: Stage, reply: Reply },
    /// The peer takes no more recipients in one transaction: to be sent in the next.
    Unsent,
    /// No answer. `after_final_dot`: the peer may have taken the message.
    Lost { stage: Stage, what: String, after_final_dot: bool },
}

impl RcptResult {
    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        let RcptResult::Refused { stage, reply } = self else { return false };
        // RFC 5321 4.5.3.1.10: some servers say 552 for too many recipients in one transaction.
        let too_many = *stage == Stage::Rcpt
            && reply.code == 552
            && reply.enhanced.is_none_or(|it| (it.subject, it.detail) == (5, 3));
        reply.is_permanent() && !too_many
    }

    /// Refused without asking the peer.
    fn is_local(&self) -> bool {
        matches!(self, RcptResult::Refused { reply, .. } if reply.local)
    }
}

/// What the caller does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send the output, wait for a reply to this and give it to [`Transaction::reply`].
    Await(Stage),
    /// Give the next piece of the message to [`Transaction::push`], or its end to
    /// [`Transaction::finish`]; send the output now and then.
    Content,
    /// All is known. `usable`: the connection can serve another transaction.
    Done { usable: bool },
}

/// A command that has no answer yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Mail,
    Rcpt(usize),
    Data,
    /// A chunk that is not the last.
    Chunk,
    /// The final dot or the last chunk, for all recipients.
    End,
    /// The same of LMTP, for one recipient.
    EndFor(usize),
    /// A lone dot, after DATA was accepted for nobody.
    Nothing,
    Reset,
    /// EHLO behind a message, or in place of RSET, see [`Transaction::with_hello`].
    Hello,
}

impl Command {
    fn stage(self) -> Stage {
        match self {
            Command::Mail => Stage::Mail,
            Command::Rcpt(_) => Stage::Rcpt,
            Command::Data => Stage::Data,
            Command::Chunk => Stage::Content,
            Command::End | Command::EndFor(_) | Command::Nothing => Stage::End,
            Command::Reset | Command::Hello => Stage::Reset,
        }
    }
}

/// Where the transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// MAIL, RCPT and DATA; `next` is the number of the next command: 0 is MAIL.
    Envelope {
        next: usize,
    },
    Content,
    /// The end of the message was sent.
    Ended,
    Resetting,
    Over,
}

/// What is known of a recipient.
#[derive(Clone, Debug)]
enum Standing {
    Unknown,
    /// RCPT was accepted.
    Taken,
    Over(RcptResult),
}

impl Standing {
    /// The message was refused for it.
    fn is_refused_at_end(&self) -> bool {
        matches!(self, Standing::Over(RcptResult::Refused { stage: Stage::End, .. }))
    }
}

/// See the module documentation.
pub struct Transaction<'a> {
    envelope: Envelope<'a>,
    lmtp: bool,
    pipelining: bool,
    chunking: bool,
    /// Append SIZE to MAIL.
    says_size: bool,
    /// The whole EHLO command, if it is used: see [`Transaction::with_hello`].
    hello: Option<&'a str>,
    /// Some reply is not that to its command.
    out_of_step: bool,
    /// The replies to RCPT belong to the recipients that they were taken for.
    rcpt_proven: bool,
    /// All replies so far belong to the commands that they were taken for.
    proven: bool,
    /// Results were taken back, as they could be those of other commands.
    in_doubt: bool,
    phase: Phase,
    awaited: VecDeque<Command>,
    standings: Vec<Standing>,
    /// Recipients of this transaction: the first ones of the envelope.
    count: usize,
    sender_accepted: bool,
    data_sent: bool,
    data_accepted: bool,
    /// Refused for all recipients.
    refusal: Option<(Stage, Reply)>,
    /// The peer said that it closes, or the replies make no sense.
    unusable: bool,
    encoder: BodyEncoder,
    /// Octets of the message so far.
    pushed: usize,
    /// Encoded octets of the next chunk.
    chunk: Vec<u8>,
    /// The message, or a part of it, was refused.
    failed: bool,
    /// The end of the message is among the octets sent, or about to be.
    end_sent: bool,
}

impl<'a> Transaction<'a> {
    pub fn new(envelope: Envelope<'a>, capabilities: &Capabilities, lmtp: bool) -> Transaction<'a> {
        // LMTP: a reply too many to RCPT makes for one reply more that is awaited to the message,
        // and the one to LHLO would come in its place. So there must be DATA, or one command at a
        // time.
        let by_choice = capabilities.pipelining && !lmtp;
        let chunking = capabilities.chunking && (by_choice || envelope.binary);
        let pipelining = capabilities.pipelining && !(lmtp && chunking);
        let limit = capabilities.limits.rcpt_max.map_or(usize::MAX, |limit| limit as usize);
        let count = envelope.recipients.len().min(limit);
        let encoder = match chunking {
            true => BodyEncoder::chunks(envelope.binary),
            false => BodyEncoder::data(),
        };
        let mut transaction = Transaction {
            envelope,
            lmtp,
            pipelining,
            chunking,
            says_size: capabilities.size.is_some(),
            hello: None,
            out_of_step: false,
            rcpt_proven: !pipelining,
            proven: !pipelining,
            in_doubt: false,
            phase: Phase::Envelope { next: 0 },
            awaited: VecDeque::new(),
            standings: vec![Standing::Unknown; envelope.recipients.len()],
            count,
            sender_accepted: false,
            data_sent: false,
            data_accepted: false,
            refusal: None,
            unusable: false,
            encoder,
            pushed: 0,
            chunk: Vec::new(),
            failed: false,
            end_sent: false,
        };
        if let Some(reply) = impossible(&envelope, capabilities) {
            transaction.settle(Stage::Mail, &reply);
            transaction.phase = Phase::Over;
            return transaction;
        }
        for standing in transaction.standings.iter_mut().skip(count) {
            *standing = Standing::Over(RcptResult::Unsent);
        }
        for at in 0..count {
            if let Some(reply) =
                envelope.recipients.get(at).and_then(|it| unsendable(it, capabilities))
            {
                transaction.decide(at, RcptResult::Refused { stage: Stage::Rcpt, reply });
            }
        }
        if !transaction.has_open() {
            transaction.phase = Phase::Over;
        }
        transaction
    }

    /// `command`: EHLO and our name, of an ESMTP session. With BDAT all good replies are 250, so a
    /// peer that has sent one reply too many to pipelined commands would not be found out: its
    /// reply to a recipient would be taken for that to the message, and its refusal of one
    /// recipient for that of another. With DATA there is 354 in between. So EHLO follows the
    /// message, at once, and takes the place of RSET (RFC 5321 4.1.4): its reply has several lines,
    /// as PIPELINING is in it. Until it has come, no refusal is decided. LHLO does the same behind
    /// a message for several recipients, as the replies to that have nothing behind them either
    /// (RFC 2920 3.1 allows it there).
    pub fn with_hello(mut self, command: &'a str) -> Transaction<'a> {
        self.hello = Some(command).filter(|_| self.pipelining);
        self
    }

    /// Whether results were taken back, or the peer sent replies that belong to no command: the
    /// number of its replies cannot be relied on.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Appends the commands that can be sent now to `output`, and says what to do next.
    pub fn advance(&mut self, output: &mut Vec<u8>) -> Step {
        loop {
            if let Some(step) = self.try_advance(output) {
                return step;
            }
        }
    }

    /// `None`: the phase has changed.
    fn try_advance(&mut self, output: &mut Vec<u8>) -> Option<Step> {
        match self.phase {
            Phase::Envelope { next } => self.send_envelope(next, output),
            Phase::Content => {
                if self.awaited.len() >= self.window(CHUNKS_PIPELINED_MAX) {
                    return self.await_next();
                }
                if self.refusal.is_some() {
                    return self.await_next().or_else(|| self.end(output));
                }
                Some(Step::Content)
            }
            Phase::Ended => self.await_next().or_else(|| self.end(output)),
            Phase::Resetting => self.await_next().or_else(|| {
                self.phase = Phase::Over;
                None
            }),
            Phase::Over => Some(Step::Done { usable: !self.unusable }),
        }
    }

    /// How many commands may be without an answer.
    fn window(&self, most: usize) -> usize {
        if self.pipelining { most } else { 1 }
    }

    fn await_next(&self) -> Option<Step> {
        self.awaited.front().map(|command| Step::Await(command.stage()))
    }

    fn send_envelope(&mut self, mut next: usize, output: &mut Vec<u8>) -> Option<Step> {
        // A full window is refilled once half of it is answered, so that writes stay large.
        let window = self.window(PIPELINED_MAX);
        if self.awaited.len() <= window / 2 {
            while self.awaited.len() < window && self.send_command(next, output) {
                next += 1;
            }
        }
        self.phase = Phase::Envelope { next };
        if let Some(step) = self.await_next() {
            return Some(step);
        }
        // All that was sent is answered, and there is no more to send.
        let wanted = self.refusal.is_none() && self.has_taken();
        match (wanted, self.data_accepted) {
            (true, _) => self.phase = Phase::Content,
            (false, true) => return self.send_nothing(output),
            (false, false) => return self.end(output),
        }
        None
    }

    /// False if there is no such command, or no point in it.
    fn send_command(&mut self, number: usize, output: &mut Vec<u8>) -> bool {
        if self.refusal.is_some() || self.unusable {
            return false;
        }
        let command = match number {
            0 => {
                output.extend_from_slice(b"MAIL FROM:");
                output.extend_from_slice(self.envelope.mail_from.as_bytes());
                if self.says_size {
                    let size = self.envelope.size;
                    output.extend_from_slice(format!(" SIZE={size}").as_bytes());
                }
                Command::Mail
            }
            number if number <= self.count => {
                let at = number - 1;
                let Some(line) = self.envelope.recipients.get(at) else { return false };
                if matches!(self.standings.get(at), Some(Standing::Over(_))) {
                    // Refused without asking.
                    return true;
                }
                output.extend_from_slice(b"RCPT TO:");
                output.extend_from_slice(line.path.as_bytes());
                output.extend_from_slice(line.parameters.as_bytes());
                Command::Rcpt(at)
            }
            number if number == self.count + 1 && !self.chunking && self.has_open() => {
                output.extend_from_slice(b"DATA");
                self.data_sent = true;
                Command::Data
            }
            _ => return false,
        };
        output.extend_from_slice(b"\r\n");
        self.awaited.push_back(command);
        true
    }

    /// After DATA was accepted although no recipient was.
    fn send_nothing(&mut self, output: &mut Vec<u8>) -> Option<Step> {
        // RFC 2033 4.2: an LMTP server has no reply for a message without recipients. And a peer
        // that refused the sender and accepts recipients might take an empty message.
        if self.lmtp || !self.sender_accepted {
            self.unusable = true;
            return self.end(output);
        }
        // RFC 2920 3.1.
        output.extend_from_slice(b".\r\n");
        self.data_accepted = false;
        self.awaited.push_back(Command::Nothing);
        self.phase = Phase::Ended;
        None
    }

    /// Nothing more is awaited, and no message can be sent or it was.
    fn end(&mut self, output: &mut Vec<u8>) -> Option<Step> {
        if let Some((stage, reply)) = self.refusal.take() {
            self.settle(stage, &reply);
        }
        self.phase = Phase::Over;
        // RFC 3030 2: after a refused chunk, also the last one, only RSET is defined.
        // Nor is it needed where EHLO followed the message.
        let open = !self.end_sent || (self.chunking && self.failed && self.hello.is_none());
        if open && !self.unusable {
            // The reply to DATA shows by RSET that there is one too many, the one to RCPT does not.
            let hello = self.hello.filter(|_| !self.data_sent);
            let (line, command) = match hello {
                Some(hello) => (hello, Command::Hello),
                None => ("RSET", Command::Reset),
            };
            output.extend_from_slice(line.as_bytes());
            output.extend_from_slice(b"\r\n");
            self.awaited.push_back(command);
            self.phase = Phase::Resetting;
        }
        None
    }

    /// Takes the next reply.
    ///
    /// # Errors
    /// If it is no answer to what was sent. All that is not decided is lost then; the caller ends
    /// the connection.
    pub fn reply(&mut self, reply: Reply) -> Result<(), Fault> {
        let stage = self.stage();
        // The reply to EHLO came early: another one is missing.
        self.out_of_step |= self.awaited.front() != Some(&Command::Hello)
            && self.awaited.contains(&Command::Hello)
            && offers_extensions(&reply);
        let reply = reply.clipped();
        let taken = self.take_reply(&reply);
        if let Err(fault) = taken {
            self.shifted(stage, &fault.to_string());
            return Err(fault);
        }
        if reply.is_closing() && self.phase != Phase::Over {
            self.close(&reply);
        }
        Ok(())
    }

    fn take_reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        let Some(command) = self.awaited.pop_front() else {
            if reply.is_closing() && self.phase != Phase::Content {
                self.unusable = true;
                return Ok(());
            }
            // A peer may refuse a message before it has all of it, but never accept it. Each chunk
            // has a reply of its own.
            let early = self.phase == Phase::Content
                && reply.code >= 400
                && (!self.chunking || reply.is_closing());
            if !early {
                return Err(Fault::Unsolicited);
            }
            self.settle(Stage::Content, reply);
            if self.pipelining && self.pushed < EARLY_OCTETS {
                // It is rather a second one to DATA.
                let lost = self.lost(Stage::Content, "the peer refused the message before its end");
                self.withdraw(&lost);
            }
            self.unusable = true;
            self.phase = Phase::Over;
            return Ok(());
        };
        let positive = match command {
            // RFC 5321 4.3.2: 354.
            Command::Data => reply.is_intermediate(),
            _ => reply.is_positive(),
        };
        // Some peers do not like EHLO twice, or close the session here.
        let disliked = matches!(reply.code, 421 | 500..=504);
        match command {
            Command::Hello => {
                let answered = positive && reply.text.contains('\n');
                self.out_of_step |= !disliked && !answered;
            }
            Command::Reset => self.out_of_step |= !disliked && !positive,
            _ => {}
        }
        if self.out_of_step || !positive && reply.code < 400 {
            return Err(Fault::Unexpected);
        }
        self.failed |= !positive && matches!(command.stage(), Stage::Content | Stage::End);
        match (command, positive) {
            (Command::Mail, true) => self.sender_accepted = true,
            (Command::Data, true) => {
                self.data_accepted = true;
                (self.rcpt_proven, self.proven) = (true, true);
            }
            (Command::Mail | Command::Data | Command::Chunk, false) => {
                // The first is the cause of the others.
                self.refusal.get_or_insert((command.stage(), reply.clone()));
            }
            (Command::Rcpt(at), true) => {
                if let Some(standing) = self.standings.get_mut(at) {
                    *standing = Standing::Taken;
                }
            }
            (Command::Rcpt(at), false) => {
                let stage = Stage::Rcpt;
                self.decide(at, RcptResult::Refused { stage, reply: reply.clone() });
            }
            // The message that was accepted has a hole.
            (Command::End | Command::EndFor(_), true) if self.refusal.is_some() => {
                return Err(Fault::Unexpected);
            }
            // The refusal of a chunk before the last one is the cause of this one.
            (Command::End | Command::EndFor(_), false) if self.refusal.is_some() => {}
            (Command::End, true) => {
                for at in 0..self.count {
                    self.decide(at, RcptResult::Accepted { reply: reply.clone() });
                }
            }
            (Command::End, false) => self.settle(Stage::End, reply),
            (Command::EndFor(at), true) => {
                self.decide(at, RcptResult::Accepted { reply: reply.clone() });
            }
            (Command::EndFor(at), false) => {
                let stage = Stage::End;
                self.decide(at, RcptResult::Refused { stage, reply: reply.clone() });
            }
            (Command::Reset, true) => self.proven |= self.data_sent,
            (Command::Hello, true) => self.proven = true,
            (Command::Chunk | Command::Nothing, _) => {}
            (Command::Reset | Command::Hello, false) => {
                self.unusable = true;
                // That of a chunk: it is no better proven.
                if let Some((stage, reply)) = self.refusal.take() {
                    self.settle(stage, &reply);
                }
                self.withdraw_unproven(Stage::Reset, "the peer did not answer as expected");
            }
        }
        if self.end_sent && self.awaited.is_empty() {
            // There is no better proof.
            self.proven = true;
        }
        Ok(())
    }

    /// The peer said 421: no more answers come.
    fn close(&mut self, reply: &Reply) {
        self.unusable = true;
        self.phase = Phase::Over;
        if self.end_sent {
            // LMTP: the others have no answer of their own.
            return self.lose(Stage::End, "the peer closed the connection");
        }
        let closing = RcptResult::Refused { stage: Stage::Rcpt, reply: reply.clone() };
        let (stage, reply) = self.refusal.take().unwrap_or((Stage::Rcpt, reply.clone()));
        self.settle(stage, &reply);
        if !self.proven {
            self.withdraw(&closing);
        }
    }

    /// Takes a piece of the message. Only after [`Step::Content`]; call [`Transaction::advance`]
    /// before the next.
    pub fn push(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if self.phase != Phase::Content || self.refusal.is_some() {
            return;
        }
        self.pushed = self.pushed.saturating_add(piece.len());
        if !self.chunking {
            return self.encoder.push(piece, output);
        }
        if self.chunk.len() >= CHUNK_SIZE {
            self.send_chunk(false, output);
            self.awaited.push_back(Command::Chunk);
        }
        self.encoder.push(piece, &mut self.chunk);
    }

    /// The message is complete. Only after [`Step::Content`].
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        if self.phase != Phase::Content || self.refusal.is_some() {
            return;
        }
        if self.chunking {
            self.encoder.finish(&mut self.chunk);
            self.send_chunk(true, output);
        } else {
            self.encoder.finish(output);
            output.extend_from_slice(b".\r\n");
        }
        self.end_sent = true;
        self.phase = Phase::Ended;
        let mut ends = 1;
        if self.lmtp {
            // RFC 2033 4.2: one reply for each accepted recipient, in the order of RCPT.
            let before = self.awaited.len();
            for (at, standing) in self.standings.iter().enumerate() {
                if matches!(standing, Standing::Taken) {
                    self.awaited.push_back(Command::EndFor(at));
                }
            }
            ends = self.awaited.len() - before;
            self.proven &= ends == 1;
        } else {
            self.awaited.push_back(Command::End);
        }
        if let Some(hello) = self.hello.filter(|_| self.chunking || ends > 1) {
            output.extend_from_slice(hello.as_bytes());
            output.extend_from_slice(b"\r\n");
            self.awaited.push_back(Command::Hello);
        }
    }

    fn send_chunk(&mut self, last: bool, output: &mut Vec<u8>) {
        let last = if last { " LAST" } else { "" };
        output.extend_from_slice(format!("BDAT {}{last}\r\n", self.chunk.len()).as_bytes());
        output.extend_from_slice(&self.chunk);
        self.chunk.clear();
    }

    /// The connection broke at `stage`: recipients without a result are lost, and those with one
    /// that is not proven.
    pub fn lose(&mut self, stage: Stage, what: &str) {
        self.unusable = true;
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            if let Some((stage, reply)) = self.refusal.take() {
                self.settle(stage, &reply);
            }
            self.withdraw_unproven(stage, what);
        }
        let lost = self.lost(stage, what);
        for at in 0..self.standings.len() {
            self.decide(at, lost.clone());
        }
    }

    fn lost(&self, stage: Stage, what: &str) -> RcptResult {
        RcptResult::Lost { stage, what: what.to_owned(), after_final_dot: self.end_sent }
    }

    /// The replies that came may be those to other commands, as one may be missing.
    fn withdraw_unproven(&mut self, stage: Stage, what: &str) {
        if self.proven {
            return;
        }
        let lost = self.lost(stage, what);
        if self.awaited.iter().any(|it| matches!(it, Command::EndFor(_))) {
            // RFC 2033 4.2: a server that stops in the middle has delivered for those that it
            // accepted, and must not get them again and again. One that forgets a reply has
            // accepted for all before the first refusal as well, but for the one whose reply nobody
            // has seen.
            let behind = self.standings.iter_mut().skip_while(|it| !it.is_refused_at_end());
            for standing in behind {
                if matches!(standing, Standing::Over(RcptResult::Accepted { .. })) {
                    *standing = Standing::Over(lost.clone());
                    self.in_doubt = true;
                }
            }
        }
        self.withdraw(&lost);
    }

    /// Replaces refusals for good by `instead`.
    fn withdraw(&mut self, instead: &RcptResult) {
        for standing in &mut self.standings {
            let Standing::Over(result) = standing else { continue };
            let of_rcpt = matches!(result, RcptResult::Refused { stage: Stage::Rcpt, .. });
            if result.is_permanent() && !result.is_local() && !(of_rcpt && self.rcpt_proven) {
                *result = instead.clone();
                self.in_doubt = true;
            }
        }
    }

    /// Replies and commands do not match: no refusal counts, and if a reply too many came before
    /// the one to the message, that does not either.
    fn shifted(&mut self, stage: Stage, what: &str) {
        self.refusal = None;
        self.in_doubt = true;
        let lost = self.lost(stage, what);
        // Of several replies to a message, the first stands: the one too many came behind it.
        let mut first = true;
        for standing in &mut self.standings {
            first &= !standing.is_refused_at_end();
            let doubtful = match standing {
                Standing::Over(result @ RcptResult::Refused { .. }) => !result.is_local(),
                Standing::Over(RcptResult::Accepted { .. }) => {
                    let later = !std::mem::take(&mut first);
                    self.out_of_step || (self.lmtp && later)
                }
                Standing::Over(_) => false,
                Standing::Unknown | Standing::Taken => true,
            };
            if doubtful {
                *standing = Standing::Over(lost.clone());
            }
        }
        self.unusable = true;
        self.phase = Phase::Over;
    }

    /// The peer sent something that cannot be read: no later answer can be trusted.
    pub fn desynchronised(&mut self, fault: Fault) {
        self.lose(self.stage(), &fault.to_string());
    }

    /// The stage that the transaction is in.
    pub fn stage(&self) -> Stage {
        match (self.awaited.front(), self.phase) {
            (Some(command), _) => command.stage(),
            (None, Phase::Content) => Stage::Content,
            (None, Phase::Resetting) => Stage::Reset,
            (None, Phase::Ended | Phase::Over) if self.end_sent => Stage::End,
            (None, _) => Stage::Mail,
        }
    }

    /// Whether no answer is missing: more octets from the peer would answer nothing.
    pub fn expects_nothing(&self) -> bool {
        self.awaited.is_empty()
    }

    /// The results, in the order of the recipients.
    pub fn into_results(mut self) -> Vec<RcptResult> {
        if self.standings.iter().any(|it| !matches!(it, Standing::Over(_))) {
            self.lose(self.stage(), "the transaction was given up");
        }
        let lost = self.lost(Stage::Mail, "the transaction was given up");
        let results = self.standings.into_iter().map(|standing| match standing {
            Standing::Over(result) => result,
            Standing::Unknown | Standing::Taken => lost.clone(),
        });
        results.collect()
    }

    /// The same answer for every recipient that has none.
    fn settle(&mut self, stage: Stage, reply: &Reply) {
        for at in 0..self.standings.len() {
            self.decide(at, RcptResult::Refused { stage, reply: reply.clone() });
        }
        if stage == Stage::Mail {
            // The answers to RCPT only follow from that to MAIL (RFC 5321 4.1.4: 503).
            let sender = RcptResult::Refused { stage, reply: reply.clone() };
            for standing in &mut self.standings {
                if let Standing::Over(result @ RcptResult::Refused { stage: Stage::Rcpt, .. }) =
                    standing
                {
                    *result = sender.clone();
                }
            }
        }
    }

    /// The first result counts.
    fn decide(&mut self, at: usize, result: RcptResult) {
        if let Some(standing @ (Standing::Unknown | Standing::Taken)) = self.standings.get_mut(at) {
            *standing = Standing::Over(result);
        }
    }

    fn has_taken(&self) -> bool {
        self.standings.iter().any(|it| matches!(it, Standing::Taken))
    }

    fn has_open(&self) -> bool {
        self.standings.iter().any(|it| !matches!(it, Standing::Over(_)))
    }
}

/// Whether it can only be the reply to EHLO of a peer with PIPELINING.
fn offers_extensions(reply: &Reply) -> bool {
    reply.is_positive() && reply.lines().skip(1).any(|line| line.eq_ignore_ascii_case("PIPELINING"))
}

/// What the peer need not be asked for, as it said before that it would refuse.
fn impossible(envelope: &Envelope<'_>, capabilities: &Capabilities) -> Option<Reply> {
    if !is_one_line(envelope.mail_from) {
        return Some(Reply::local(501, "5.1.7 The sender cannot be written in a command"));
    }
    if capabilities.size_max().is_some_and(|most| envelope.size > most) {
        // RFC 1870 6.1.
        return Some(Reply::local(552, "5.3.4 The message is larger than the host accepts"));
    }
    if envelope.binary && !(capabilities.binary_mime && capabilities.chunking) {
        return Some(Reply::local(554, "5.6.1 The host does not accept binary messages"));
    }
    if !envelope.mail_from.is_ascii() && !capabilities.smtp_utf8 {
        return Some(Reply::local(550, "5.6.7 The host does not accept addresses beyond ASCII"));
    }
    None
}

fn unsendable(line: &RcptLine<'_>, capabilities: &Capabilities) -> Option<Reply> {
    if !is_one_line(line.path) || !is_one_line(line.parameters) {
        return Some(Reply::local(501, "5.1.3 The recipient cannot be written in a command"));
    }
    if !line.path.is_ascii() && !capabilities.smtp_utf8 {
        return Some(Reply::local(553, "5.6.7 The host does not accept addresses beyond ASCII"));
    }
    None
}

/// Nothing in `text` could end a command and begin another.
fn is_one_line(text: &str) -> bool {
    text.len() <= COMMAND_OCTETS_MAX && !text.chars().any(char::is_control)
}
