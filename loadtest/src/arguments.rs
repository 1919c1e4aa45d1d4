//! Command line.
//!
//! In `after_help` a paragraph is one line, which clap wraps; a line that clap must not wrap (an example)
//! begins with two spaces and fits 80 columns.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load generator for SMTP, LMTP, POP3 and IMAP servers, open or closed loop.
#[derive(Debug, Parser)]
#[command(name = "ringload", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
In a closed loop each connection starts its next operation when the last is done: how much can the \
server do? In an open loop (--rate) operations start at scheduled times, whatever the server does, and latency \
counts from those times: how long do clients wait?

Examples, with \"ringmail demo --users 1000\" running:
  ringload smtp --recipients 1000 --messages 100000
  ringload smtp --recipients 1000 --rate 5000 --duration 30s
  ringload imap --users 100 --fill 100
  ringload idle --users 1000 --connections 5000 --duration 30s

Each command has its own help: ringload smtp --help.

Exit codes: 0 all operations succeeded, 1 some failed, 2 wrong usage.")]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Send messages by SMTP
    #[command(after_help = "\
Examples, with \"ringmail demo --users 1000\" running (capacity; latency at 5,000 messages a second; \
submission; a record of acknowledged messages, to check after a crash):
  ringload smtp --recipients 1000 --messages 100000
  ringload smtp --recipients 1000 --rate 5000 --duration 30s
  ringload smtp --tls implicit --user bob@demo.test --sender bob@demo.test
  ringload smtp --recipients 1000 --ledger acknowledged.txt")]
    Smtp(SmtpArguments),
    /// Send messages by LMTP (a reply for each recipient)
    #[command(after_help = "\
Example, with \"ringmail demo --users 1000\" running:
  ringload lmtp --recipients 1000 --recipients-per-message 10")]
    Lmtp(SmtpArguments),
    /// Read messages by POP3: one operation is a RETR
    #[command(after_help = "\
A maildrop serves one session at a time: --users must not be less than --connections.

Example, with \"ringmail demo --users 1000\" running:
  ringload pop3 --users 100 --connections 100 --fill 10")]
    Pop3(ReadArguments),
    /// Read messages by IMAP: one operation is a FETCH of a whole message
    #[command(after_help = "\
Example, with \"ringmail demo --users 1000\" running:
  ringload imap --users 100 --fill 100 --duration 30s")]
    Imap(ReadArguments),
    /// Hold connections in IMAP IDLE for --duration
    #[command(after_help = "\
Example, with \"ringmail demo --users 1000\" running:
  ringload idle --users 1000 --connections 5000 --duration 30s")]
    Idle(IdleArguments),
    /// Mixed IMAP work: FETCH, STORE, SEARCH, STATUS, APPEND, with weights
    #[command(after_help = "\
Operations: fetch (a whole message), flags (of all messages), store (a flag of one), search, status, append.

Example, with \"ringmail demo --users 1000\" running:
  ringload mix --users 100 --fill 100 --weights fetch=10,append=1")]
    Mix(MixArguments),
}

/// The option's help describes the values, since clap switches to long help for documented
/// variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    None,
    Implicit,
    Starttls,
}

#[derive(Debug, Args)]
pub struct Common {
    /// Server [default: the demo's port on 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// Connections at once
    #[arg(long, short = 'c', default_value_t = 100, value_name = "N")]
    pub connections: usize,
    /// Open loop: operations a second, over all connections [default: closed loop]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Stop after this long, e.g. 30s [default: 10s, unless --messages or --operations is given]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// No TLS, from the first byte (465, 993, 995), or by STARTTLS or STLS; certificates are not checked
    #[arg(long, value_enum, default_value = "none")]
    pub tls: Tls,
    /// Threads, each with its own event loop
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Give up on an operation after this long
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s", value_name = "TIME")]
    pub timeout: Duration,
    /// Also write the result to FILE, for programs
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct SmtpArguments {
    #[command(flatten)]
    pub common: Common,
    /// Stop after this many messages
    #[arg(long, short = 'm', value_name = "N")]
    pub messages: Option<u64>,
    /// Message size, octets, headers included
    #[arg(long, short = 'l', default_value_t = 4096, value_name = "OCTETS")]
    pub size: usize,
    /// Accounts to spread messages over, in turn
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub recipients: u64,
    /// Recipients of one message
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub recipients_per_message: u64,
    /// Recipient address; {} is a number from 1 to --recipients
    #[arg(long, default_value = "user{}@demo.test", value_name = "PATTERN")]
    pub recipient: String,
    /// Sender address
    #[arg(long, default_value = "sender@example.org", value_name = "ADDRESS")]
    pub sender: String,
    /// Log in as this account first (AUTH PLAIN)
    #[arg(long, value_name = "ADDRESS")]
    pub user: Option<String>,
    /// Password of every account
    #[arg(long, default_value = "demo")]
    pub password: String,
    /// Messages on one connection; 0 = no limit, 1 = a new connection for each
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub per_connection: u64,
    /// MAIL, RCPT and DATA in one write (RFC 2920)
    #[arg(long)]
    pub pipelining: bool,
    /// BDAT instead of DATA (RFC 3030)
    #[arg(long)]
    pub bdat: bool,
    /// Give each message an X-Ringload header field and append a line to FILE for it: "250 TOKEN RECIPIENTS"
    /// as soon as it is acknowledged, "??? ..." when its content was sent and no 250 came
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
}

/// Which accounts read.
#[derive(Debug, Args)]
pub struct Readers {
    /// Accounts to log in as, in turn
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub users: u64,
    /// Account address; {} is a number from 1 to --users
    #[arg(long, default_value = "user{}@demo.test", value_name = "PATTERN")]
    pub user: String,
    /// Password of every account
    #[arg(long, default_value = "demo")]
    pub password: String,
}

#[derive(Debug, Args)]
pub struct ReadArguments {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub readers: Readers,
    /// Stop after this many operations
    #[arg(long, short = 'n', value_name = "N")]
    pub operations: Option<u64>,
    /// First send each account this many messages through --fill-address, in addition to those it has
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub fill: u64,
    /// LMTP server for --fill
    #[arg(long, default_value = "127.0.0.1:2024", value_name = "HOST:PORT")]
    pub fill_address: String,
    /// Size of messages sent by --fill and APPEND, octets
    #[arg(long, default_value_t = 4096, value_name = "OCTETS")]
    pub fill_size: usize,
}

#[derive(Debug, Args)]
pub struct IdleArguments {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub readers: Readers,
}

#[derive(Debug, Args)]
pub struct MixArguments {
    #[command(flatten)]
    pub read: ReadArguments,
    /// Weights of the operations
    #[arg(
        long,
        default_value = "fetch=8,flags=4,store=3,search=1,status=2,append=1",
        value_name = "NAME=N,..."
    )]
    pub weights: String,
}

impl Arguments {
    pub fn common(&self) -> &Common {
        match &self.verb {
            Verb::Smtp(smtp) | Verb::Lmtp(smtp) => &smtp.common,
            Verb::Pop3(read) | Verb::Imap(read) => &read.common,
            Verb::Idle(idle) => &idle.common,
            Verb::Mix(mix) => &mix.read.common,
        }
    }

    /// Checks that clap cannot express by types.
    pub fn check(&self) -> Result<(), String> {
        let common = self.common();
        if common.connections == 0 || common.threads == 0 {
            return Err("--connections and --threads must be at least 1".to_owned());
        }
        if common.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err("--rate must be more than 0".to_owned());
        }
        match &self.verb {
            Verb::Smtp(smtp) | Verb::Lmtp(smtp) => {
                if smtp.recipients == 0 || smtp.recipients_per_message == 0 {
                    return Err("--recipients and --recipients-per-message: at least 1".to_owned());
                }
                if smtp.size > 1 << 30 {
                    return Err("--size: at most 1 GiB".to_owned());
                }
                Ok(())
            }
            Verb::Pop3(read) | Verb::Imap(read) => read.readers.check(),
            Verb::Idle(idle) => idle.readers.check(),
            Verb::Mix(mix) => mix.read.readers.check(),
        }
    }
}

impl Readers {
    fn check(&self) -> Result<(), String> {
        if self.users == 0 { Err("--users must be at least 1".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;

    fn each(look: &mut dyn FnMut(&str, &Command)) {
        let command = Arguments::command();
        look("ringload", &command);
        for verb in command.get_subcommands() {
            look(&format!("ringload {}", verb.get_name()), verb);
        }
    }

    #[test]
    fn every_help_has_an_example_that_can_be_parsed_and_wraps_well() {
        each(&mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = 0;
            let mut before = "";
            for line in help.lines() {
                match line.strip_prefix("  ") {
                    Some(example) => {
                        assert!(line.len() < 80, "{path}: clap would wrap: {line}");
                        examples += usize::from(example.starts_with(path));
                        let arguments = Arguments::try_parse_from(example.split_whitespace());
                        let arguments = arguments.unwrap_or_else(|error| panic!("{line}: {error}"));
                        assert_eq!(arguments.check(), Ok(()), "{line}");
                    }
                    None => assert!(line.is_empty() || before.is_empty(), "{path}: {line}"),
                }
                before = line;
            }
            assert!(examples > 0, "{path}: no example");
            for width in [80, 100] {
                let help = command.clone().term_width(width).render_long_help().to_string();
                for line in help.lines() {
                    assert!(line.chars().count() <= width, "{path} at {width}: {line}");
                }
            }
        });
    }
}
