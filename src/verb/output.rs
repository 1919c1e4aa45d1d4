//! Output of all verbs. `println!` and `eprintln!` panic when the text cannot be written, e.g. to a
//! full disk, or to a pipe whose reader has ended. Used by every verb and by `main`.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

/// The reader of standard output ended first, like `head`: nothing is left to do or to say.
#[derive(Debug, thiserror::Error)]
#[error("standard output: nobody reads it any more")]
pub struct ReaderGone;

/// The exit code in that case: what a shell shows for a program that SIGPIPE has ended (128 + 13).
pub const READER_GONE_CODE: u8 = 141;

/// Writes `text` to standard output, which then holds it completely.
///
/// # Errors
/// [`ReaderGone`], or why it cannot be written.
pub fn print(text: impl Display) -> anyhow::Result<()> {
    print_to(io::stdout().lock(), text)
}

/// As [`print`], with a line's end.
pub fn print_line(text: impl Display) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}

/// Writes a line to standard error. If it cannot be written there is no other place to say so.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn print_to(mut output: impl Write, text: impl Display) -> anyhow::Result<()> {
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(error) => Err(anyhow::Error::new(error).context("standard output")),
    }
}
