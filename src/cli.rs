//! Arguments. One enum variant a verb; `main` matches on it.
//!
//! In `after_help` a paragraph is one line, which clap wraps; a line that clap must not wrap (an
//! example) begins with two spaces and fits 80 columns.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use ringmail::{
    config::{PARTITIONS_MAX, SHARDS_MAX},
    queue::QueueId,
};

/// A mail server on io_uring: accepts mail over SMTP and LMTP, serves it over POP3 and IMAP
#[derive(Debug, Parser)]
#[command(name = "ringmail", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  ringmail demo                             try it: everything on 127.0.0.1
  ringmail check --config ringmail.toml     find mistakes in a configuration
  ringmail user add alice@example.org --config ringmail.toml
  ringmail serve --config ringmail.toml     run it

Each command has its own help: ringmail demo --help.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.")]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run everything on 127.0.0.1 with ready-made accounts (password "demo")
    Demo(DemoArguments),
    /// Run the server with a configuration file
    Serve(ConfigArguments),
    /// Find mistakes in a configuration or a data directory, without starting anything
    Check(CheckArguments),
    /// Check every byte and message of a data directory; report damage, save what can be saved
    Verify(VerifyArguments),
    /// Show the contents of the files in a data directory
    Inspect(InspectArguments),
    /// List and lift blocks of log-ins after wrong passwords
    Block {
        #[command(subcommand)]
        verb: BlockVerb,
    },
    /// Make and show the keys that sign mail (DKIM), and their DNS records
    Dkim {
        #[command(subcommand)]
        verb: DkimVerb,
    },
    /// List, try, hold, return and remove mail that waits for other servers
    Queue {
        #[command(subcommand)]
        verb: QueueVerb,
    },
    /// Show and change who may do what with mailboxes; make public mailboxes
    Acl {
        #[command(subcommand)]
        verb: AclVerb,
    },
    /// Show and change how much mail accounts may have
    Quota {
        #[command(subcommand)]
        verb: QuotaVerb,
    },
    /// Explain what happens to a queued message, or where mail for an address goes and why
    Explain(ExplainArguments),
    /// Show where mail for a domain goes, by the DNS
    Resolve(ResolveArguments),
    /// Show and send reports to other domains on TLS (RFC 8460)
    Tlsrpt {
        #[command(subcommand)]
        verb: TlsrptVerb,
    },
    /// Show what happens now: events, and what is said in sessions with other hosts
    Trace(TraceArguments),
    /// Add, list, remove and import accounts, and change passwords
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Ports: base + 25 SMTP, 587 submission, 465 submissions, 24 LMTP, 110 POP3, 995 POP3S, 143 IMAP, \
993 IMAPS, 80 admin HTTP.

Accounts: alice@demo.test, bob@demo.test and, with --users N, user1@demo.test to userN@demo.test; \
each has the password \"demo\".

Settings have the defaults of docs/ringmail.example.toml, except runtime.connections_per_shard and \
imap.sessions_per_account, which are 9000: two shards then fit into the 20,000 file descriptors \
that a plain shell may have, and a load test may use thousands of clients and few accounts; and \
imap.url_hosts, which is demo.test, localhost and 127.0.0.1. --set changes these too. Log-ins do \
not need TLS.

Examples:
  ringmail demo
  ringmail demo --dir /tmp/mail --users 1000 --shards 1
  ringmail demo --set store.segment_size=8MiB --set smtp.recipients_max=5
  ringmail demo --smarthost 127.0.0.1:2626
  ringmail demo --set 'dns.servers=[\"127.0.0.1:53\"]'

Without --smarthost and dns.servers, mail for other domains is refused.

  printf 'Subject: Hello\\r\\n\\r\\nHello.\\r\\n' > hello.eml
  curl smtp://127.0.0.1:2025 --mail-from me@example.org \\
       --mail-rcpt alice@demo.test -T hello.eml
  curl -u alice@demo.test:demo 'imap://127.0.0.1:2143/INBOX;MAILINDEX=1'")]
pub struct DemoArguments {
    /// Directory for mail, accounts and the certificate; created if absent
    #[arg(long, default_value = "ringmail-demo")]
    pub dir: PathBuf,
    /// Added to every standard port: SMTP is at 2025
    #[arg(long, default_value_t = 2000, value_name = "PORT")]
    pub port_base: u16,
    /// Also make user1@demo.test to userN@demo.test
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub users: u32,
    /// Shards (one executor each); 0 = one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    #[arg(value_parser = value_parser!(u16).range(..=i64::from(SHARDS_MAX)))]
    pub shards: u16,
    /// Partitions when DIR is new; fixed afterwards [default: one for each shard]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    pub partitions: Option<u16>,
    /// Send all mail for other domains to this host, e.g. 127.0.0.1:2626
    #[arg(long, value_name = "HOST:PORT")]
    pub smarthost: Option<String>,
    /// A setting as in the configuration file, except [listen], [tls] and those above; repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints \"ringmail: ready\" once every port is listening. SIGTERM and SIGINT shut it down in order; \
SIGHUP makes it read users, aliases, groups, DKIM keys and certificates again, and domains, \
addresses, routes, sites and most of [queue] in the configuration. To open ports below 1024, \
start it as root; it then switches to the configuration's user.

Example:
  ringmail serve --config /etc/ringmail/ringmail.toml")]
pub struct ConfigArguments {
    /// The configuration file (docs/ringmail.example.toml shows every key)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(after_help = "\
--config checks the settings, certificate and key, the files of users, aliases and groups, the \
data directory, and what the host grants (io_uring, locked memory, file descriptors), but opens no \
port. --dir checks whether this program knows the version of every file in a data directory; \
\"ringmail verify\" looks for damage.

Examples:
  ringmail check --config ringmail.toml
  ringmail check --dir ringmail-demo

Exit codes: 0 nothing wrong, 1 something is wrong, 2 a setting is wrong.")]
pub struct CheckArguments {
    /// The configuration file to check
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A data directory: can this binary open it?
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Reads every file, batch, entry and message, and counts the references to bodies. If a server runs \
on the directory, it does the work itself, in the background.

With --repair, what was salvaged of accounts and folders becomes durable: messages whose folder is \
lost appear in a folder \"Recovered\". A message whose own bytes are damaged stays listed but \
cannot be fetched.

Examples:
  ringmail verify --config ringmail.toml
  ringmail verify --dir ringmail-demo --repair --dry-run
  ringmail verify --dir ringmail-demo --json damage.json

Exit codes: 0 no damage, 1 damage, or something could not be verified.")]
pub struct VerifyArguments {
    #[command(flatten)]
    pub place: Place,
    /// Make salvaged data durable
    #[arg(long)]
    pub repair: bool,
    /// With --repair: report damage, write nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// Also write the result to FILE, for programs
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Only reads, and takes no lock: safe beside a running server, whose newest batches may be missing \
or look torn. --config or --dir is needed, before or after the command.

Examples:
  ringmail inspect segments --dir ringmail-demo
  ringmail inspect entries --dir ringmail-demo
  ringmail inspect account alice@demo.test --dir ringmail-demo")]
pub struct InspectArguments {
    #[command(subcommand)]
    pub verb: InspectVerb,
    #[command(flatten)]
    pub place: GlobalPlace,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Asks the DNS servers of the settings, as the server does, from an empty cache. Without --config \
the settings have their defaults: the servers of /etc/resolv.conf.

Examples:
  ringmail resolve example.org
  ringmail resolve example.org --config ringmail.toml --json
  ringmail resolve _25._tcp.mx.example.org --kind tlsa --set dns.validate=true

Exit codes: 0 everything found, 1 something was not.")]
pub struct ResolveArguments {
    /// Domains, as behind the @ of an address
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Show records of this kind instead
    #[arg(long, value_name = "KIND")]
    pub kind: Option<RecordKind>,
    /// The names are of hosts: look at no MX records
    #[arg(long, conflicts_with = "kind")]
    pub host: bool,
    /// Print JSON, a line each, for programs
    #[arg(long)]
    pub json: bool,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting as in the configuration file; repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE", conflicts_with = "config")]
    pub set: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RecordKind {
    Mx,
    A,
    Aaaa,
    Tlsa,
    Txt,
    Cname,
    /// The domain's MTA-STS policy
    Sts,
}

/// As [`Place`], also after the verb below.
#[derive(Debug, Args, Clone)]
pub struct GlobalPlace {
    /// The server's configuration file
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Or the server's data directory, e.g. ringmail-demo for a demo
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum InspectVerb {
    /// Every segment (file of the log) and its contents
    #[command(after_help = "\
Example:
  ringmail inspect segments --dir ringmail-demo")]
    Segments,
    /// The checkpoint files: where a start begins to read the log
    #[command(after_help = "\
Example:
  ringmail inspect checkpoint --dir ringmail-demo")]
    Checkpoint,
    /// The batches (what was written and synced at once) of one segment
    #[command(after_help = "\
Examples (the first segment; one that \"inspect segments\" has named):
  ringmail inspect batches --dir ringmail-demo
  ringmail inspect batches 1/segment-0000000000000001 --dir ringmail-demo")]
    Batches {
        /// PARTITION/NAME, as "inspect segments" shows them [default: the first]
        segment: Option<String>,
    },
    /// The entries (messages, changes, pages) of one segment
    #[command(after_help = "\
Examples (the first segment; one that \"inspect segments\" has named):
  ringmail inspect entries --dir ringmail-demo
  ringmail inspect entries 1/segment-0000000000000001 --dir ringmail-demo")]
    Entries {
        /// PARTITION/NAME, as "inspect segments" shows them [default: the first]
        segment: Option<String>,
    },
    /// The folders of an account
    #[command(after_help = "\
Example:
  ringmail inspect account alice@demo.test --dir ringmail-demo")]
    Account {
        /// Its address, e.g. alice@example.org
        address: String,
    },
}

/// Whose accounts: a configuration's or a demo directory's.
#[derive(Debug, Args, Clone)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Or the server's data directory, e.g. ringmail-demo for a demo
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum AppPasswordVerb {
    /// Make a password and print it: it is never shown again
    #[command(after_help = "\
Example:
  ringmail user app-password add alice@example.org telephone --dir DIR")]
    Add {
        #[command(flatten)]
        which: AppPasswordName,
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List names and dates
    #[command(after_help = "\
Example:
  ringmail user app-password list alice@example.org --config ringmail.toml")]
    List {
        /// The account's address, e.g. alice@example.org
        address: String,
        #[command(flatten)]
        place: Place,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Revoke one
    #[command(after_help = "\
Example:
  ringmail user app-password remove alice@example.org telephone --dir DIR")]
    Remove {
        #[command(flatten)]
        which: AppPasswordName,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub struct AppPasswordName {
    /// The account's address, e.g. alice@example.org
    pub address: String,
    /// Of the program or device that has it, up to 64 octets
    pub name: String,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Changes the users file. This is safe beside a running server, which is notified at once.

Examples:
  ringmail user add alice@example.org --config ringmail.toml
  ringmail user list --config ringmail.toml
  ringmail user import accounts.txt --dry-run --config ringmail.toml")]
pub enum UserVerb {
    /// Add an account
    #[command(after_help = "\
Examples (the first asks for the password):
  ringmail user add alice@example.org --config ringmail.toml
  printf 'secret\\n' | ringmail user add bob@example.org --config ringmail.toml")]
    Add(PasswordArguments),
    /// Give an account another address: mail, folders and rights stay its own
    #[command(after_help = "\
Groups, aliases, access lists by name and settings that name an address are not changed; lines of \
files that name the old one or the new one are noted.

Example:
  ringmail user rename bob@example.org rob@example.org --config ringmail.toml")]
    Rename {
        /// The account's address, e.g. bob@example.org
        address: String,
        /// Its new address
        new: String,
        /// Report what would be changed, change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List account numbers and addresses
    #[command(after_help = "\
Examples:
  ringmail user list --config ringmail.toml
  ringmail user list --json --config ringmail.toml | jq -r .address")]
    List {
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Change a password
    #[command(after_help = "\
Example:
  ringmail user passwd alice@example.org --config ringmail.toml")]
    Passwd(PasswordArguments),
    /// Passwords for single programs and devices, beside the account's own
    #[command(after_help = "\
Example:
  ringmail user app-password add alice@example.org telephone --dir DIR")]
    #[command(subcommand)]
    AppPassword(AppPasswordVerb),
    /// Remove an account's log-in and address (its mail stays in the store)
    #[command(after_help = "\
Example:
  ringmail user remove alice@example.org --config ringmail.toml")]
    Remove {
        /// The account's address, e.g. alice@example.org
        address: String,
        /// Report what would be removed, remove nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Add the accounts in a file; change the passwords of existing ones
    #[command(after_help = "\
A line is an address, white space and a password or its argon2id hash; empty lines and lines that \
begin with # are skipped.

Examples:
  ringmail user import accounts.txt --dry-run --config ringmail.toml
  ringmail user import - --config ringmail.toml < accounts.txt")]
    Import {
        /// The file, or - for standard input
        file: PathBuf,
        /// Check the file, report what would be added, add nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
With tlsrpt.enabled, sessions with the mail servers of other domains are counted, and each domain \
that wants it gets a report once a day (docs/operations.md).

Examples:
  ringmail tlsrpt show --config ringmail.toml
  ringmail tlsrpt send example.org --dry-run --config ringmail.toml")]
pub enum TlsrptVerb {
    /// Show what is counted, and the reports that wait to be sent
    #[command(after_help = "\
Without a running server it shows what is on disk.

Examples:
  ringmail tlsrpt show --config ringmail.toml
  ringmail tlsrpt show --json --dir ringmail-demo")]
    Show {
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Send reports now: what was counted so far, and those that wait
    #[command(after_help = "\
What is counted later goes into a further report of the same day.

Examples:
  ringmail tlsrpt send --dry-run --config ringmail.toml
  ringmail tlsrpt send example.org --dir ringmail-demo")]
    Send {
        /// Only the report to this domain
        domain: Option<String>,
        /// Show what would be sent and where, send nothing
        #[arg(long)]
        dry_run: bool,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Keys are files in the folder dkim of the data directory. Every key of a domain signs what its \
users send, so keys are changed by adding one, publishing its record, and deleting the old file a \
week later; SIGHUP makes the server read them again.

Examples:
  ringmail dkim generate example.org --config ringmail.toml
  ringmail dkim show example.org --config ringmail.toml
  ringmail dkim list --dir ringmail-demo")]
pub enum DkimVerb {
    /// Make a key, and print the DNS record to publish
    #[command(after_help = "\
Examples (ed25519 beside rsa: not every receiver knows it):
  ringmail dkim generate example.org --config ringmail.toml
  ringmail dkim generate example.org --algorithm ed25519 --config ringmail.toml
  ringmail dkim generate example.org --selector mail2027 --dir ringmail-demo")]
    Generate {
        /// The domain whose users' mail it signs, and that of the domains below it
        domain: String,
        /// Its name in the DNS [default: the algorithm's name]
        #[arg(long, value_name = "NAME")]
        selector: Option<String>,
        /// The kind of key
        #[arg(long, value_enum, default_value = "rsa")]
        algorithm: KeyAlgorithm,
        #[command(flatten)]
        place: Place,
    },
    /// List keys: domain, selector, algorithm, file
    #[command(after_help = "\
Example:
  ringmail dkim list --config ringmail.toml")]
    List {
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Print the DNS records to publish, as lines of a zone file
    #[command(after_help = "\
Example:
  ringmail dkim show example.org --config ringmail.toml")]
    Show {
        /// Only this domain's
        domain: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum KeyAlgorithm {
    /// 2048 bits
    Rsa,
    Ed25519,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Asks the running server: blocks exist only in its memory, and a restart forgets them.

Examples:
  ringmail block list --config ringmail.toml
  ringmail block lift alice@example.org --config ringmail.toml
  ringmail block lift 192.0.2.0/24 --config ringmail.toml
  ringmail block lift --all --dir ringmail-demo")]
pub enum BlockVerb {
    /// List blocks: account, network, wrong passwords, time until the next attempt
    #[command(after_help = "\
Example:
  ringmail block list --config ringmail.toml")]
    List {
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Forgive wrong passwords
    #[command(after_help = "\
Reports how many accounts and networks were forgiven. The exit code is 0 even if there were none.

Examples:
  ringmail block lift alice@example.org --config ringmail.toml
  ringmail block lift 192.0.2.0/24 --config ringmail.toml
  ringmail block lift --all --config ringmail.toml")]
    Lift {
        /// An account's address, or a client's IP address or network
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        what: Option<String>,
        /// Forgive all
        #[arg(long)]
        all: bool,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Asks the running server. Without one, list, show and shape read the disk, which takes seconds when \
many messages wait.

A message is meant if all conditions hold, and always as a whole, with all its recipients: except \
that cancel and bounce with both names and --recipient concern only the recipient with exactly \
that address.

With --json each line is an object; docs/operations.md lists the fields. Notes go to standard error.

Examples:
  ringmail queue list --config ringmail.toml
  ringmail queue list --domain x.example --error 4.7 --json --dir ringmail-demo
  ringmail queue show 0-9-41 --config ringmail.toml
  ringmail queue flush --site mx.example.org --config ringmail.toml
  ringmail queue bounce --sender news@ --older 2d --config ringmail.toml
  ringmail queue shape --config ringmail.toml

Exit codes: 0 done, 1 a message was not found or not changed, or it failed, 2 wrong usage.")]
pub enum QueueVerb {
    /// List messages: age, size, sender, recipients, state, last problem
    #[command(after_help = "\
Examples:
  ringmail queue list --config ringmail.toml
  ringmail queue list --older 4h --larger 10MiB --limit 0 --dir ringmail-demo
  ringmail queue list --error 4.7 --json --config ringmail.toml | jq -r .sender")]
    List {
        #[command(flatten)]
        which: WhichMessages,
        /// Show at most so many; 0: all [default: 100; with --json all]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show messages in detail: each recipient, its attempts, problems and next attempt
    #[command(after_help = "\
Example:
  ringmail queue show 0-9-41 --config ringmail.toml")]
    Show {
        /// Names of messages, as in "queue list"
        #[arg(required = true, value_name = "ID")]
        ids: Vec<QueueId>,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Count recipients by domain and age in minutes, as Postfix' qshape
    #[command(after_help = "\
Examples (domains of recipients; of senders):
  ringmail queue shape --config ringmail.toml
  ringmail queue shape --by-sender --rows 50 --error 4.4 --dir ringmail-demo")]
    Shape {
        #[command(flatten)]
        which: WhichMessages,
        /// Domains of senders instead
        #[arg(long)]
        by_sender: bool,
        /// Show at most so many domains
        #[arg(long, default_value_t = 20, value_name = "N")]
        rows: usize,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Try messages now, also if their sites pause (not those on hold)
    #[command(after_help = "\
Examples:
  ringmail queue flush --all --config ringmail.toml
  ringmail queue flush --domain example.org --config ringmail.toml")]
    Flush(ActArguments),
    /// Do not try messages until they are released
    #[command(after_help = "\
Example:
  ringmail queue hold --sender news@example.org --config ringmail.toml")]
    Hold(ActArguments),
    /// Try messages on hold again, also those whose sender asked for a later time
    #[command(after_help = "\
Example:
  ringmail queue release 0-9-41 --config ringmail.toml")]
    Release(ActArguments),
    /// Treat messages as if they had arrived now: failures and hold are forgotten
    #[command(after_help = "\
Example:
  ringmail queue requeue --domain example.org --config ringmail.toml")]
    Requeue(ActArguments),
    /// Remove messages; nobody is told. Without --yes, show what would go
    #[command(after_help = "\
Examples (what would go; remove it):
  ringmail queue cancel --sender spam@example.org --config ringmail.toml
  ringmail queue cancel --sender spam@example.org --yes --config ringmail.toml

Only one of its recipients:
  ringmail queue cancel 0-9-41 --recipient x@example.org --yes --dir DIR")]
    Cancel {
        #[command(flatten)]
        act: ActArguments,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Only show it, as without --yes
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
    /// Return messages to their senders. Without --yes, show which
    #[command(after_help = "\
Examples (what would be returned; return it):
  ringmail queue bounce 0-9-41 --config ringmail.toml
  ringmail queue bounce 0-9-41 --yes --config ringmail.toml

For only one of its recipients:
  ringmail queue bounce 0-9-41 --recipient x@example.org --yes --dir DIR")]
    Bounce {
        #[command(flatten)]
        act: ActArguments,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Only show it, as without --yes
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// What the sender is told
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "returned by the operator of this server"
        )]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Access lists are those of SETACL (RFC 4314). An identifier is an address, $group, anyone, authuser \
or owner; with - before it, its rights are taken away. Rights are letters: l see, r read, s mark \
as seen, w change flags, i put in, p send mail to, k create below, x delete or rename, t mark as \
deleted, e expunge, a change the list. Older letters (RFC 2086): c is k and x, d is t and e. The \
owner always has l and a.

The public mailboxes belong to \"Shared\", which clients show them below. Asks the running server; \
without one, list reads the disk, and nothing can be changed.

Examples:
  ringmail acl list --config ringmail.toml
  ringmail acl list alice@example.org Projects --dir ringmail-demo
  ringmail acl set Shared News anyone lr --create --config ringmail.toml
  ringmail acl set alice@example.org Projects bob@example.org +lr --dir DIR
  ringmail acl remove alice@example.org Projects bob@example.org --dir DIR
  ringmail acl seen alice@example.org Projects personal --dir DIR

Exit codes: 0 done, 1 not found or failed, 2 wrong usage.")]
pub enum AclVerb {
    /// List the access lists of an account or a mailbox, or all there are
    #[command(after_help = "\
Examples:
  ringmail acl list --config ringmail.toml
  ringmail acl list Shared --json --config ringmail.toml
  ringmail acl list alice@example.org Projects --dir ringmail-demo")]
    List {
        /// An account's address, or Shared [default: all that share something]
        account: Option<String>,
        /// One of its mailboxes
        mailbox: Option<String>,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Set, add (+) or take away (-) rights of an identifier on a mailbox
    #[command(override_usage = "ringmail acl set [OPTIONS] ACCOUNT MAILBOX IDENTIFIER [+|-]RIGHTS")]
    #[command(after_help = "\
Rights are letters, each once: \"ringmail acl --help\" has them. A group is written in quotes, \
for the shell.

Examples (set; add; take away):
  ringmail acl set Shared News anyone lr --create --config ringmail.toml
  ringmail acl set alice@example.org Projects bob@example.org +ie --dir DIR
  ringmail acl set alice@example.org Projects '$staff' -e --dir DIR")]
    Set {
        /// An account's address, or Shared
        account: String,
        /// One of its mailboxes: Projects/2027
        mailbox: String,
        /// An address, '$group', anyone, authuser or owner; with - before it, rights are taken away
        #[arg(allow_hyphen_values = true)]
        identifier: Option<String>,
        /// Letters of rights
        #[arg(allow_hyphen_values = true)]
        rights: Option<String>,
        /// Create the public mailbox if there is none
        #[arg(long)]
        create: bool,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Print JSON, one object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Remove the entry of an identifier
    #[command(override_usage = "ringmail acl remove [OPTIONS] ACCOUNT MAILBOX IDENTIFIER")]
    #[command(after_help = "\
Examples:
  ringmail acl remove Shared News anyone --dry-run --config ringmail.toml
  ringmail acl remove Shared News anyone --config ringmail.toml")]
    Remove {
        /// An account's address, or Shared
        account: String,
        /// One of its mailboxes: Projects/2027
        mailbox: String,
        /// Whose entry, as "acl list" shows it; '$group' in quotes, for the shell
        #[arg(allow_hyphen_values = true)]
        identifier: Option<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Print JSON, one object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Say whether each user has his own \Seen in a mailbox, or all share one
    #[command(after_help = "\
Public mailboxes are \"personal\" and those of accounts \"shared\" until this says otherwise. The \
owner's \\Seen is always that of the mailbox. What users have seen while it was personal is kept, \
and counts again if it becomes personal again.

Examples:
  ringmail acl seen alice@example.org Projects personal --config ringmail.toml
  ringmail acl seen Shared News shared --config ringmail.toml")]
    Seen {
        /// An account's address, or Shared
        account: String,
        /// One of its mailboxes: Projects/2027
        mailbox: String,
        #[arg(value_enum)]
        whose: Whose,
        /// Print JSON, one object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
What is set for an account comes before quota.storage, quota.messages and [[domain_quota]] of the \
configuration. \"Shared\" stands for the public mailboxes, which nothing limits by default. Mail \
beyond a limit that is set stays; nothing more is taken. Asks the running server.

Examples:
  ringmail quota list --config ringmail.toml
  ringmail quota set alice@example.org --storage 5GiB --config ringmail.toml
  ringmail quota remove alice@example.org --config ringmail.toml

Exit codes: 0 done, 1 not found or failed, 2 wrong usage.")]
pub enum QuotaVerb {
    /// Show how much an account has and may have, or all for which something was set
    #[command(after_help = "\
Examples:
  ringmail quota list --json --config ringmail.toml
  ringmail quota list alice@example.org --dir ringmail-demo")]
    List {
        /// An account's address, or Shared [default: all for which something was set]
        account: Option<String>,
        /// Print JSON, an object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Set the limits of an account, in place of those it has
    #[command(override_usage = "ringmail quota set [OPTIONS] ACCOUNT")]
    #[command(after_help = "\
Without an option the account has no limit of that kind, whatever the default is. 0 is a limit: \
the account takes no mail at all. (In the configuration 0 means no limit.)

Examples:
  ringmail quota set alice@example.org --messages 100000 --dir DIR
  ringmail quota set bob@example.org --storage 500MB --config ringmail.toml")]
    Set {
        /// An account's address, or Shared
        account: String,
        /// Octets of all messages, e.g. 5GiB
        #[arg(long, value_name = "SIZE")]
        storage: Option<bytesize::ByteSize>,
        /// Number of messages
        #[arg(long, value_name = "COUNT")]
        messages: Option<u64>,
        /// Print JSON, one object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Give an account the limits of the configuration again
    #[command(after_help = "\
Examples:
  ringmail quota remove alice@example.org --config ringmail.toml")]
    Remove {
        /// An account's address, or Shared
        account: String,
        /// Print JSON, one object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// Whose `\Seen` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Whose {
    /// Each user's own
    Personal,
    /// One for all, as the other flags
    Shared,
}

#[derive(Debug, Args)]
#[command(after_help = "\
For a message: its recipients with attempts, last replies and next attempts, its expiry, its trail \
in the event log, the limits of its sites, and for each destination what follows. For an address: \
aliases first. For a domain: route, hosts and addresses, what TLS must be, the state of the site.

Asks the running server, which asks the DNS; nothing is connected to.

Examples:
  ringmail explain 0-9-41 --config ringmail.toml
  ringmail explain bob@example.org --config ringmail.toml
  ringmail explain example.org --json --dir ringmail-demo

Exit codes: 0 explained, 1 not found or failed, 2 wrong usage.")]
pub struct ExplainArguments {
    /// The name of a message as in "queue list", an address, or a domain
    #[arg(value_name = "MESSAGE|DESTINATION")]
    pub subject: String,
    /// Print JSON, one object, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is an object of JSON: the events of the event log, also of kinds that are not written, \
and what is \"sent\" and \"heard\" in sessions with other hosts, without messages and passwords.

With a text, only lines with it, and those of the connections that they belong to. A reader that \
is too slow loses lines, and is told how many. Ends with Ctrl-C, or with the server.

Examples:
  ringmail trace --config ringmail.toml
  ringmail trace bob@example.org --config ringmail.toml
  ringmail trace 192.0.2.7 --dir ringmail-demo")]
pub struct TraceArguments {
    /// An address, a domain, an IP address, or any other text
    #[arg(value_name = "TEXT")]
    pub wanted: Option<String>,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Args)]
pub struct ActArguments {
    #[command(flatten)]
    pub which: WhichMessages,
    /// All messages
    #[arg(long)]
    pub all: bool,
    /// Print JSON, one object, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub place: Place,
}

/// Conditions on queued messages.
#[derive(Debug, Args)]
pub struct WhichMessages {
    /// Names of messages, as in "queue list"
    #[arg(value_name = "ID")]
    pub ids: Vec<QueueId>,
    /// Part of the sender's address; <> for reports
    #[arg(long, value_name = "TEXT")]
    pub sender: Option<String>,
    /// Part of a recipient's address
    #[arg(long, value_name = "TEXT")]
    pub recipient: Option<String>,
    /// Domain of a recipient; local: mailboxes here
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Site, as in "queue list", or a host of it
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Waiting for at least so long, e.g. 90m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub older: Option<Duration>,
    /// Waiting for less, e.g. 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub younger: Option<Duration>,
    /// Last status begins so, e.g. 4.7, or part of the last reply
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Larger than this, e.g. 10MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub larger: Option<u64>,
    /// Smaller than this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub smaller: Option<u64>,
    /// On hold
    #[arg(long)]
    pub held: bool,
    /// Not on hold
    #[arg(long, conflicts_with = "held")]
    pub not_held: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    let wanted = "expected a number of octets, or a size such as 8KiB or 10MiB";
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| wanted.to_owned())
}

#[derive(Debug, Args)]
pub struct PasswordArguments {
    /// The account's address, e.g. alice@example.org
    pub address: String,
    /// Read the password from standard input, one line (the default without a terminal)
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;

    fn each(command: &Command, path: &str, look: &mut dyn FnMut(&str, &Command)) {
        let path = format!("{path} {}", command.get_name()).trim_start().to_owned();
        look(&path, command);
        for verb in command.get_subcommands() {
            each(verb, &path, look);
        }
    }

    #[test]
    fn every_help_has_an_example_and_wraps_well() {
        each(&Arguments::command(), "", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = 0;
            let mut before = "";
            for line in help.lines() {
                match line.strip_prefix("  ") {
                    Some(example) => {
                        assert!(line.len() < 80, "{path}: clap would wrap: {line}");
                        examples += usize::from(example.starts_with(path));
                    }
                    // Two such lines are one paragraph, broken where clap breaks it again.
                    None => assert!(line.is_empty() || before.is_empty(), "{path}: {line}"),
                }
                before = line;
            }
            assert!(examples > 0, "{path}: no example");
        });
    }

    /// As long as clap wraps at all.
    #[test]
    fn no_help_is_wider_than_asked_for() {
        each(&Arguments::command(), "", &mut |path, command| {
            for width in [80, 100] {
                let help = command.clone().term_width(width).render_long_help().to_string();
                for line in help.lines() {
                    assert!(line.chars().count() <= width, "{path} at {width}: {line}");
                }
            }
        });
    }

    #[test]
    fn examples_can_be_parsed() {
        each(&Arguments::command(), "", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  ringmail ")) {
                // What follows two spaces says what it is for.
                let line = line.split("  ").next().unwrap_or_default();
                let line = line.split(" < ").next().unwrap_or_default();
                let line = line.split(" | ").next().unwrap_or_default();
                let words = ["ringmail"].into_iter().chain(line.split_whitespace());
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{path}: {line}: {error}");
                }
            }
        });
    }
}
