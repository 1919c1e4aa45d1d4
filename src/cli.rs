//! Arguments. One enum variant a verb; `main` matches on it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A thread-per-core mail gateway and mailbox server on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringmail", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:
  ringmail demo                                 try it: everything on 127.0.0.1, ports 2000 + n
  ringmail check --config ringmail.toml         find mistakes in a configuration
  ringmail serve --config ringmail.toml         run it
  ringmail user add alice@example.org --config ringmail.toml

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.")]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run everything on 127.0.0.1 with ready-made accounts (password "demo")
    Demo(DemoArguments),
    /// Run the server that a configuration describes
    Serve(ConfigArguments),
    /// Find mistakes in a configuration or a data directory, without starting anything
    Check(CheckArguments),
    /// Check every byte and message of a data directory; name what is damaged, save what can be
    Verify(VerifyArguments),
    /// Show what the files of a data directory hold
    Inspect(InspectArguments),
    /// List and lift what holds log-ins back after wrong passwords
    Block {
        #[command(subcommand)]
        verb: BlockVerb,
    },
    /// Add, list, remove and import accounts, and change passwords
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Ports: base + 25 SMTP, 587 submission, 465 submissions, 24 LMTP, 110 POP3,
995 POP3S, 143 IMAP, 993 IMAPS, 80 admin HTTP. Accounts: alice@demo.test, bob@demo.test and with
--users N also user1@demo.test ... userN@demo.test, all with password \"demo\".

Examples:
  ringmail demo
  ringmail demo --dir /tmp/mail --users 1000 --shards 1
  ringmail demo --set store.segment_size=8MiB --set smtp.message_size_max=1MiB
  curl --url smtp://127.0.0.1:2025 --mail-from me@example.org --mail-rcpt alice@demo.test -T msg.eml
  curl --user alice@demo.test:demo 'imap://127.0.0.1:2143/INBOX;MAILINDEX=1'")]
pub struct DemoArguments {
    /// Where mail, accounts and the certificate stay; created if absent
    #[arg(long, default_value = "ringmail-demo")]
    pub dir: PathBuf,
    /// Added to every standard port
    #[arg(long, default_value_t = 2000)]
    pub port_base: u16,
    /// Also make user1@demo.test to userN@demo.test
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub users: u32,
    /// Shards (one executor each); 0 = one a core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub shards: u16,
    /// Partitions when DIR is new; fixed afterwards [default: one for each shard]
    #[arg(long, value_name = "N")]
    pub partitions: Option<u16>,
    /// A setting of the configuration file, e.g. store.segment_size=8MiB; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// The configuration file (docs/ringmail.example.toml shows every key)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CheckArguments {
    /// The configuration file to check
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A data directory: can this binary open it?
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Works whether or not a server runs on the directory: if one does, it does the
work, in the background. Every file, batch, entry and message is read; references to bodies are
counted. Exit code 1 if anything is damaged.

With --repair, what damage has left of accounts and folders becomes durable: messages whose folder is
lost come back in \"Recovered\". A message whose own bytes are damaged stays listed and cannot be
fetched.

Examples:
  ringmail verify --config ringmail.toml
  ringmail verify --dir ringmail-demo --repair --dry-run
  ringmail verify --dir ringmail-demo --json damage.json"
)]
pub struct VerifyArguments {
    #[command(flatten)]
    pub place: Place,
    /// Make durable what could be salvaged
    #[arg(long)]
    pub repair: bool,
    /// With --repair: say what is damaged, and write nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// Write the result to FILE, for machines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Only reads, and takes no lock: safe beside a server that runs, whose newest
batches may be missing or look torn.

Examples:
  ringmail inspect segments --dir ringmail-demo
  ringmail inspect entries 0/segment-0000000000000001 --dir ringmail-demo
  ringmail inspect account alice@demo.test --dir ringmail-demo"
)]
pub struct InspectArguments {
    #[command(subcommand)]
    pub verb: InspectVerb,
    #[command(flatten)]
    pub place: GlobalPlace,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// As [`Place`], also after the verb below.
#[derive(Debug, Args, Clone)]
pub struct GlobalPlace {
    /// Configuration file of the server
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Directory of a demo
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum InspectVerb {
    /// Every segment, with what it holds
    Segments,
    /// The checkpoint files
    Checkpoint,
    /// The batches of one segment
    Batches {
        /// PARTITION/NAME, e.g. 0/segment-0000000000000001
        segment: String,
    },
    /// The entries of one segment
    Entries {
        /// PARTITION/NAME, e.g. 0/segment-0000000000000001
        segment: String,
    },
    /// The folders of an account
    Account {
        /// Its address
        address: String,
    },
}

/// Whose accounts: a configuration's or a demo directory's.
#[derive(Debug, Args, Clone)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Configuration file of the server
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of a demo
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "A running server is told at once.")]
pub enum UserVerb {
    /// Add an account; the password is asked for unless --password-stdin
    Add(PasswordArguments),
    /// List addresses and account numbers
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Change a password
    Passwd(PasswordArguments),
    /// Remove an account's log-in and address (its mail stays in the store)
    Remove {
        /// The account's address
        address: String,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Add the accounts of a file of "address password" lines ("-": standard input)
    Import {
        /// One account a line: address, white space, password
        file: PathBuf,
        /// Check the file and say what would be added, and add nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Asks the running server: blocks are in its memory, and a restart forgets them.

Examples:
  ringmail block list --config ringmail.toml
  ringmail block lift alice@example.org --config ringmail.toml
  ringmail block lift 192.0.2.0/24 --config ringmail.toml
  ringmail block lift --all --dir ringmail-demo"
)]
pub enum BlockVerb {
    /// Who is held back: account, network, wrong passwords, seconds until the next attempt
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Forgive wrong passwords
    Lift {
        /// An account's address, or an address or network that log-ins come from
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        what: Option<String>,
        /// Forgive all
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub struct PasswordArguments {
    /// The account's address, e.g. alice@example.org
    pub address: String,
    /// Read the password from standard input (one line) without asking
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    pub place: Place,
}
