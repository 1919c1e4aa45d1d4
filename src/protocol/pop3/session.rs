//! The states of a POP3 session (RFC 1939 3): which command is legal when, and all answers that
//! need neither directory nor maildrop.
//!
//! `service::pop3` feeds it the connection's input, performs the action of each [`Event`] and
//! reports the result ([`Session::tls_started`], [`Session::logged_in`]). UPDATE is not a state
//! here: QUIT ends the session whatever the result of the update.

use super::{
    COMMAND_MAX, Command, CommandError, LINE_MAX, ListingKind, parse, write_err, write_ok,
};
use crate::protocol::{
    line::{Frame, LineFramer},
    sasl::{self, Credentials, Exchange, Mechanisms, NotOffered, Question, SaslError},
};

/// What this connection may do, as announced by CAPA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The connection is encrypted, or cleartext passwords are allowed.
    pub login: bool,
    /// What AUTH takes.
    pub mechanisms: Mechanisms,
    /// STLS can be used.
    pub start_tls: bool,
}

/// One connection's session. Plain data: a handover moves it.
#[derive(Debug)]
pub struct Session {
    framer: LineFramer,
    state: State,
    offer: Offer,
    bad_commands_left: u32,
    /// UTF8 was given (RFC 6856 2.1).
    utf8: bool,
}

#[derive(Debug)]
enum State {
    Authorization {
        /// From USER, while waiting for PASS.
        user: Option<String>,
    },
    /// In the middle of AUTH: the next line is not a command.
    Exchange(Exchange),
    Transaction,
}

/// One processed line of the input.
#[derive(PartialEq, Debug)]
pub struct Step {
    /// Octets of input that are processed.
    pub consumed: usize,
    /// The command's keyword, for metrics.
    pub command: &'static str,
    pub event: Event,
}

/// The action required.
#[derive(PartialEq, Debug)]
pub enum Event {
    /// There is no complete line: send the answers so far and read on.
    Incomplete,
    /// Only [`Answer::write`].
    Answer(Answer),
    /// [`Answer::write`], then close.
    Close(Answer),
    /// Answer +OK, send it, start TLS, [`Session::tls_started`].
    StartTls,
    /// Find out, and call [`Session::answer`].
    Ask(Question),
    /// As the last answer was: open the maildrop, answer, [`Session::logged_in`]; or refuse.
    Judged,
    Stat,
    List(ListingKind, Option<u32>),
    Retr(u32),
    Top(u32, u32),
    Dele(u32),
    Rset,
    /// Delete the marked messages, if there is a maildrop; answer and close.
    Quit,
}

/// An answer that needs only the session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Ok(&'static str),
    Err(&'static str),
    /// `+ ` and base64 (RFC 5034 4).
    Challenge(String),
    Capabilities(Offer),
    Languages,
}

impl Answer {
    pub fn write(self, output: &mut Vec<u8>) {
        match self {
            Answer::Ok(text) => write_ok(output, text),
            Answer::Err(text) => write_err(output, text),
            Answer::Challenge(base64) => {
                for part in ["+ ", &base64, "\r\n"] {
                    output.extend_from_slice(part.as_bytes());
                }
            }
            Answer::Capabilities(offer) => write_capabilities(offer, output),
            Answer::Languages => {
                write_ok(output, "Languages follow");
                output.extend_from_slice(b"en English\r\ni-default Default language\r\n.\r\n");
            }
        }
    }
}

/// RFC 2449 5: the same list in both states. What cannot be used here is not offered: neither
/// cleartext passwords (RFC 2595 2.2) nor a second TLS.
fn write_capabilities(offer: Offer, output: &mut Vec<u8>) {
    write_ok(output, "Capability list follows");
    if offer.login {
        output.extend_from_slice(b"USER\r\n");
    }
    if !offer.mechanisms.is_empty() {
        output.extend_from_slice(b"SASL");
        for mechanism in offer.mechanisms.iter() {
            output.push(b' ');
            output.extend_from_slice(mechanism.name().as_bytes());
        }
        output.extend_from_slice(b"\r\n");
    }
    if offer.start_tls {
        output.extend_from_slice(b"STLS\r\n");
    }
    output.extend_from_slice(
        b"TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\n\
          UTF8\r\nLANG\r\nIMPLEMENTATION Ringmail\r\n.\r\n",
    );
}

const NOT_PRIVATE: &str = "[AUTH] passwords are only accepted over TLS";
/// RFC 3206 4: what the client showed says nothing.
const REFUSED: &str = "[AUTH] the mechanism has failed";

impl Session {
    /// Answers `bad_commands_max` illegal lines; one more ends the session.
    pub fn new(offer: Offer, bad_commands_max: u32) -> Session {
        Session {
            framer: LineFramer::new(LINE_MAX),
            state: State::Authorization { user: None },
            offer,
            bad_commands_left: bad_commands_max,
            utf8: false,
        }
    }

    /// TLS is on: nothing that the client sent before counts (RFC 2595 4).
    pub fn tls_started(&mut self, offer: Offer) {
        self.state = State::Authorization { user: None };
        self.framer = LineFramer::new(LINE_MAX);
        self.offer = offer;
    }

    /// What is offered is known only now: after the handshake.
    pub fn set_offer(&mut self, offer: Offer) {
        self.offer = offer;
    }

    /// The maildrop is open.
    pub fn logged_in(&mut self) {
        self.state = State::Transaction;
    }

    /// Takes one line from `input`.
    pub fn next(&mut self, input: &[u8]) -> Step {
        let (consumed, frame) = self.framer.next(input);
        let (command, event) = match frame {
            Frame::Incomplete => ("", Event::Incomplete),
            Frame::Line(line) => self.line(line),
            Frame::BareLf => ("other", self.bad("lines must end with CRLF")),
            Frame::TooLong => ("other", self.bad("line too long")),
            Frame::Endless => ("other", Event::Close(Answer::Err("line too long"))),
        };
        Step { consumed, command, event }
    }

    fn line(&mut self, line: &[u8]) -> (&'static str, Event) {
        if let State::Exchange(exchange) = &mut self.state {
            let step = exchange.respond(line);
            return ("AUTH", self.sasl(step));
        }
        if line.len() > COMMAND_MAX {
            return ("other", self.bad("line too long"));
        }
        match parse(line) {
            Ok(command) => (command.name(), self.command(command)),
            Err(CommandError::Unknown) => ("other", self.bad("unknown command")),
            Err(CommandError::Arguments(syntax)) => ("other", self.bad(syntax)),
        }
    }

    fn command(&mut self, command: Command<'_>) -> Event {
        match command {
            Command::Capa => return Event::Answer(Answer::Capabilities(self.offer)),
            Command::Lang(tag) => return self.lang(tag),
            Command::Quit => return Event::Quit,
            _ => {}
        }
        match self.state {
            State::Transaction => self.transaction_command(command),
            _ => self.authorization_command(command),
        }
    }

    fn authorization_command(&mut self, command: Command<'_>) -> Event {
        match command {
            Command::User(_) | Command::Pass(_) if !self.offer.login => self.bad(NOT_PRIVATE),
            Command::User(name) => self.user(name),
            Command::Pass(password) => self.pass(password),
            Command::Auth { mechanism, initial_response } => self.auth(mechanism, initial_response),
            // RFC 6856 2.1: a client must not do this, since names might be sent twice.
            Command::Stls if self.utf8 => self.bad("STLS must come before UTF8"),
            Command::Stls if self.offer.start_tls => Event::StartTls,
            Command::Stls => self.bad("TLS is not available"),
            Command::Utf8 => {
                self.utf8 = true;
                Event::Answer(Answer::Ok("UTF-8 enabled"))
            }
            _ => self.bad("log in first"),
        }
    }

    fn transaction_command(&mut self, command: Command<'_>) -> Event {
        match command {
            Command::Stat => Event::Stat,
            Command::List(number) => Event::List(ListingKind::Size, number),
            Command::Uidl(number) => Event::List(ListingKind::UniqueId, number),
            Command::Retr(number) => Event::Retr(number),
            Command::Top(number, lines) => Event::Top(number, lines),
            Command::Dele(number) => Event::Dele(number),
            Command::Rset => Event::Rset,
            Command::Noop => Event::Answer(Answer::Ok("done")),
            _ => self.bad("only before login"),
        }
    }

    /// Any name is accepted, so that clients cannot learn which ones exist (RFC 1939 7, 13).
    fn user(&mut self, name: &[u8]) -> Event {
        match std::str::from_utf8(name) {
            Ok(name) if name.len() <= sasl::USER_MAX => {
                self.state = State::Authorization { user: Some(name.to_owned()) };
                Event::Answer(Answer::Ok("send PASS"))
            }
            _ => self.bad("invalid user name"),
        }
    }

    fn pass(&mut self, password: &[u8]) -> Event {
        let State::Authorization { user } = &mut self.state else {
            return self.bad("USER first");
        };
        match (user.take(), std::str::from_utf8(password)) {
            (None, _) => self.bad("USER first"),
            (Some(user), Ok(password)) => {
                let credentials = Credentials { user, password: password.to_owned() };
                Event::Ask(Question::Password { credentials, authorization: None })
            }
            (Some(_), Err(_)) => self.bad("[AUTH] invalid password"),
        }
    }

    fn auth(&mut self, mechanism: &[u8], initial_response: Option<&[u8]>) -> Event {
        match self.offer.mechanisms.choose(mechanism, self.offer.login) {
            Ok(mechanism) => {
                let (exchange, step) =
                    Exchange::start(mechanism, self.offer.mechanisms, initial_response);
                self.state = State::Exchange(exchange);
                self.sasl(step)
            }
            Err(NotOffered::NeedsPrivacy) => self.bad(NOT_PRIVATE),
            Err(NotOffered::Unknown) => self.bad("mechanism not supported"),
        }
    }

    /// Takes the answer to the last [`Event::Ask`].
    pub fn answer(&mut self, answer: sasl::Answer) -> Event {
        match &mut self.state {
            State::Exchange(exchange) => {
                let step = exchange.answer(answer);
                self.sasl(step)
            }
            // USER and PASS.
            _ => Event::Judged,
        }
    }

    fn sasl(&mut self, step: sasl::Step) -> Event {
        match step {
            sasl::Step::Challenge(base64) => Event::Answer(Answer::Challenge(base64)),
            sasl::Step::Ask(question) => Event::Ask(question),
            sasl::Step::Over => {
                self.state = State::Authorization { user: None };
                Event::Judged
            }
            sasl::Step::Failed(SaslError::Cancelled) => self.bad("authentication cancelled"),
            sasl::Step::Failed(SaslError::Undecodable(what)) => self.bad(what),
            sasl::Step::Failed(SaslError::Refused(_)) => self.bad(REFUSED),
        }
    }

    /// RFC 6856 3.2: English is the only language, under any of its names.
    fn lang(&mut self, tag: Option<&[u8]>) -> Event {
        let Some(tag) = tag else {
            return Event::Answer(Answer::Languages);
        };
        let is = |name: &[u8]| tag.eq_ignore_ascii_case(name);
        if is(b"i-default") {
            Event::Answer(Answer::Ok("i-default Default language"))
        } else if is(b"*") || is(b"en") || tag.get(..3).is_some_and(|it| it == b"en-") {
            Event::Answer(Answer::Ok("en English"))
        } else {
            self.bad("language not supported")
        }
    }

    /// Refuses; an AUTH exchange in progress is over.
    fn bad(&mut self, reason: &'static str) -> Event {
        if let State::Exchange(_) = self.state {
            self.state = State::Authorization { user: None };
        }
        match self.bad_commands_left.checked_sub(1) {
            Some(left) => {
                self.bad_commands_left = left;
                Event::Answer(Answer::Err(reason))
            }
            None => Event::Close(Answer::Err("too many bad commands")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN: Offer = Offer { login: true, mechanisms: Mechanisms::ALL, start_tls: true };
    const CLOSED: Offer = Offer { login: false, mechanisms: Mechanisms::NONE, start_tls: true };
    const UNDER_TLS: Offer = Offer { start_tls: false, ..OPEN };

    /// Client lines and their results: answers as sent, events in their debug form.
    const CASES: &[(Offer, &[(&str, &str)])] = &[
        (
            OPEN,
            &[
                ("STAT", "-ERR log in first"),
                ("NOOP", "-ERR log in first"),
                ("PASS x", "-ERR USER first"),
                ("USER alice", "+OK send PASS"),
                ("PASS a b", "Login alice/a b"),
                ("PASS a b", "-ERR USER first"),
                ("STLS", "StartTls"),
                ("UTF8", "+OK UTF-8 enabled"),
                ("STLS", "-ERR STLS must come before UTF8"),
                ("QUIT", "Quit"),
            ],
        ),
        (
            OPEN,
            &[
                ("AUTH PLAIN AGEAYg==", "Login a/b"),
                ("AUTH PLAIN", "+ "),
                ("AGEAYg==", "Login a/b"),
                ("AUTH plain", "+ "),
                ("*", "-ERR authentication cancelled"),
                ("AUTH PLAIN", "+ "),
                // Not a command now, but base64 of three octets.
                ("QUIT", "-ERR [AUTH] the mechanism has failed"),
                ("AUTH PLAIN =", "-ERR [AUTH] the mechanism has failed"),
                ("AUTH PLAIN YwBhAGI=", "Login a/b for c"),
                ("AUTH CRAM-MD5", "-ERR mechanism not supported"),
                ("AUTH LOGIN", "+ VXNlcm5hbWU6"),
                ("YQ==", "+ UGFzc3dvcmQ6"),
                ("Yg==", "Login a/b"),
            ],
        ),
        (
            CLOSED,
            &[
                ("USER alice", "-ERR [AUTH] passwords are only accepted over TLS"),
                ("PASS x", "-ERR [AUTH] passwords are only accepted over TLS"),
                ("AUTH PLAIN AGEAYg==", "-ERR [AUTH] passwords are only accepted over TLS"),
                ("tls", "-ERR unknown command"),
                ("STLS", "StartTls"),
            ],
        ),
        (UNDER_TLS, &[("STLS", "-ERR TLS is not available"), ("STLS now", "-ERR no arguments")]),
        (
            OPEN,
            &[
                ("LANG *", "+OK en English"),
                ("LANG en-GB", "+OK en English"),
                ("LANG I-Default", "+OK i-default Default language"),
                ("LANG de", "-ERR language not supported"),
                ("LANG", "+OK Languages follow"),
            ],
        ),
    ];

    fn shown(event: Event) -> String {
        match event {
            Event::Answer(answer) | Event::Close(answer) => {
                let mut output = Vec::new();
                answer.write(&mut output);
                let text = String::from_utf8(output).expect("text");
                text.split("\r\n").next().expect("a line").to_owned()
            }
            Event::Ask(Question::Password { credentials, authorization }) => {
                let other = authorization.map(|other| format!(" for {other}"));
                let Credentials { user, password } = credentials;
                format!("Login {user}/{password}{}", other.unwrap_or_default())
            }
            event => format!("{event:?}"),
        }
    }

    fn say(session: &mut Session, line: &str) -> String {
        let input = format!("{line}\r\nnext");
        let step = session.next(input.as_bytes());
        assert_eq!(step.consumed, line.len() + 2, "{line}");
        if let Event::Ask(_) = step.event {
            assert_eq!(session.answer(sasl::Answer::Refused), Event::Judged, "{line}");
        }
        shown(step.event)
    }

    #[test]
    fn cases() {
        for (offer, lines) in CASES {
            let mut session = Session::new(*offer, 100);
            for (line, expected) in *lines {
                assert_eq!(say(&mut session, line), *expected, "{line}");
            }
        }
    }

    #[test]
    fn commands_after_login() {
        let mut session = Session::new(OPEN, 100);
        session.logged_in();
        for (line, expected) in [
            ("STAT", "Stat"),
            ("LIST", "List(Size, None)"),
            ("LIST 1", "List(Size, Some(1))"),
            ("UIDL 2", "List(UniqueId, Some(2))"),
            ("RETR 1", "Retr(1)"),
            ("TOP 1 2", "Top(1, 2)"),
            ("DELE 1", "Dele(1)"),
            ("RSET", "Rset"),
            ("NOOP", "+OK done"),
            ("USER a", "-ERR only before login"),
            ("AUTH PLAIN =", "-ERR only before login"),
            ("STLS", "-ERR only before login"),
            ("UTF8", "-ERR only before login"),
            ("LANG", "+OK Languages follow"),
            ("CAPA", "+OK Capability list follows"),
            ("QUIT", "Quit"),
        ] {
            assert_eq!(say(&mut session, line), expected, "{line}");
        }
    }

    #[test]
    fn capabilities_follow_the_offer() {
        let all: String = Mechanisms::ALL.iter().map(|it| format!(" {}", it.name())).collect();
        for (offer, first) in [
            (OPEN, format!("USER\r\nSASL{all}\r\nSTLS\r\nTOP")),
            (CLOSED, "STLS\r\nTOP".to_owned()),
            (UNDER_TLS, format!("USER\r\nSASL{all}\r\nTOP")),
        ] {
            let mut output = Vec::new();
            Answer::Capabilities(offer).write(&mut output);
            let text = String::from_utf8(output).expect("text");
            assert!(text.starts_with(&format!("+OK Capability list follows\r\n{first}")), "{text}");
            assert!(text.ends_with("IMPLEMENTATION Ringmail\r\n.\r\n"), "{text}");
        }
    }

    #[test]
    fn tls_forgets_what_was_said() {
        let mut session = Session::new(OPEN, 100);
        assert_eq!(say(&mut session, "USER alice"), "+OK send PASS");
        session.tls_started(UNDER_TLS);
        assert_eq!(say(&mut session, "PASS x"), "-ERR USER first");
        assert_eq!(say(&mut session, "STLS"), "-ERR TLS is not available");
    }

    #[test]
    fn limits() {
        let mut session = Session::new(OPEN, 3);
        let too_long = "-ERR line too long";
        assert_eq!(say(&mut session, &format!("USER {}", "x".repeat(COMMAND_MAX))), too_long);
        assert_eq!(say(&mut session, &"x".repeat(LINE_MAX + 1)), too_long);
        assert_eq!(shown(session.next(b"NOOP\n").event), "-ERR lines must end with CRLF");
        let step = session.next(b"FOO\r\n");
        assert_eq!(step.event, Event::Close(Answer::Err("too many bad commands")));
    }

    #[test]
    fn a_bad_line_ends_an_exchange() {
        let mut session = Session::new(OPEN, 3);
        assert_eq!(say(&mut session, "AUTH PLAIN"), "+ ");
        assert_eq!(say(&mut session, &"x".repeat(LINE_MAX + 1)), "-ERR line too long");
        assert_eq!(say(&mut session, "USER a"), "+OK send PASS");
    }

    proptest! {
        #[test]
        fn no_input_panics(input: Vec<u8>, logged_in: bool) {
            let mut session = Session::new(OPEN, 3);
            if logged_in {
                session.logged_in();
            }
            let mut rest = &input[..];
            loop {
                let step = session.next(rest);
                rest = &rest[step.consumed..];
                if step.event == Event::Incomplete {
                    break;
                }
            }
        }
    }
}
