//! The `ringmail` program: arguments in, exit code out.

mod cli;
mod verb;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Verb};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 2: the caller must change the command line or the configuration; 141: nobody reads the output
/// any more; 1: any other failure.
fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Demo(arguments) => verb::demo(arguments),
        Verb::Serve(arguments) => verb::serve(arguments),
        Verb::Check(arguments) => verb::check(arguments),
        Verb::Verify(arguments) => verb::verify(arguments),
        Verb::Explain(arguments) => verb::explain(arguments),
        Verb::Inspect(arguments) => verb::inspect(arguments),
        Verb::Block { verb } => verb::block(verb),
        Verb::Dkim { verb } => verb::dkim(verb),
        Verb::Acl { verb } => verb::acl(verb),
        Verb::Queue { verb } => verb::queue(verb),
        Verb::Quota { verb } => verb::quota(verb),
        Verb::Tlsrpt { verb } => verb::tlsrpt(verb),
        Verb::Resolve(arguments) => verb::resolve(arguments),
        Verb::Trace(arguments) => verb::trace(arguments),
        Verb::User { verb } => verb::user(verb),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.downcast_ref::<verb::ReaderGone>().is_some() {
                return ExitCode::from(verb::READER_GONE_CODE);
            }
            if error.downcast_ref::<verb::Incomplete>().is_some() {
                return ExitCode::from(1);
            }
            // The text may quote untrusted data, so control characters are escaped for the
            // terminal.
            let text = verb::printable_lines(&format!("{error:#}"));
            verb::complain(format_args!("ringmail: {text}"));
            let wrong_usage = error.downcast_ref::<ringmail::config::ConfigProblem>().is_some()
                || error.downcast_ref::<ringmail::config::ConfigProblems>().is_some()
                || error.downcast_ref::<verb::Usage>().is_some();
            ExitCode::from(if wrong_usage { 2 } else { 1 })
        }
    }
}
