//! ringload: drives any SMTP, LMTP, POP3 or IMAP server and reports how long its clients waited.
//!
//! It shares no code with the server, so no parser bug can hide on both sides. In an open loop
//! (`--rate`) every operation has an intended start, and its latency counts from there: a stall of
//! the server counts for all operations that were due meanwhile (no coordinated omission). In a
//! closed loop each connection starts its next operation when the last is done: for capacity.

mod arguments;
mod client;
mod ledger;
mod record;
mod report;
mod run;
mod schedule;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(why) = arguments.check() {
        eprintln!("ringload: {why}");
        return ExitCode::from(2);
    }
    match run::run(&arguments) {
        Ok(summary) => {
            print!("{}", report::text(&summary));
            if let Some(path) = &arguments.common().json
                && let Err(error) = report::write_json(path, &summary)
            {
                eprintln!("ringload: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
            if summary.errors_total() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("ringload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
