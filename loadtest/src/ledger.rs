//! The acknowledged messages, one line each, for a later check that they are there.
//!
//! A line is written by one system call as soon as the outcome is known, so that a ledger is
//! correct up to the moment at which ringload or the server is killed. Shared by all threads of a
//! run.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

/// The name of the header that carries a message's token.
const HEADER: &str = "X-Ringload";

/// An open ledger.
pub struct Ledger {
    file: Mutex<File>,
    /// The unique prefix of this run's tokens.
    run: u64,
}

impl Ledger {
    /// Appends to `path`, creating it if absent.
    pub fn open(path: &Path) -> Result<Ledger> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("--ledger {}: cannot open", path.display()))?;
        Ok(Ledger { file: Mutex::new(file), run: rand::random() })
    }

    /// The token of message `number` of this run.
    pub fn token(&self, number: u64) -> String {
        format!("{:016x}.{number}", self.run)
    }

    /// `message` (in wire form) with the token's header in front.
    pub fn mark(&self, token: &str, message: &[u8]) -> Vec<u8> {
        [format!("{HEADER}: {token}\r\n").as_bytes(), message].concat()
    }

    /// Records that the message was acknowledged, or (`false`) that it may have been stored.
    pub fn note(&self, token: &str, acknowledged: bool, recipients: &[String]) -> io::Result<()> {
        let outcome = if acknowledged { "250" } else { "???" };
        let line = format!("{outcome} {token} {}\n", recipients.join(","));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_tokens() {
        let path = std::env::temp_dir().join(format!("ringload-ledger-{}", std::process::id()));
        let ledger = Ledger::open(&path).unwrap();
        let token = ledger.token(7);
        let marked = ledger.mark(&token, b"Subject: x\r\n\r\n.\r\n");
        assert_eq!(marked, format!("X-Ringload: {token}\r\nSubject: x\r\n\r\n.\r\n").as_bytes());
        let recipients = ["a@x".to_owned(), "b@x".to_owned()];
        ledger.note(&token, true, &recipients).unwrap();
        ledger.note(&ledger.token(8), false, &recipients[..1]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, format!("250 {token} a@x,b@x\n??? {} a@x\n", ledger.token(8)));
        assert_ne!(token, Ledger { file: ledger.file, run: !ledger.run }.token(7));
    }
}
