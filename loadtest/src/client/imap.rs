//! IMAP4rev1.

use anyhow::{Context, Result, bail};

use super::{Target, Wire};
use crate::arguments::Tls;

/// A session with INBOX selected.
pub struct ImapClient {
    wire: Wire,
    tag: u64,
    /// Messages in the mailbox, as last reported.
    pub exists: u64,
}

impl ImapClient {
    pub async fn connect(target: &Target, user: &str, password: &str) -> Result<ImapClient> {
        let mut client = ImapClient { wire: Wire::connect(target).await?, tag: 0, exists: 0 };
        let greeting = client.wire.line().await?;
        if !greeting.starts_with(b"* OK") {
            bail!("greeting: {}", String::from_utf8_lossy(greeting));
        }
        if target.tls == Tls::Starttls {
            client.command("STARTTLS").await?;
            client.wire.start_tls().await?;
        }
        client.command(&format!("LOGIN {} {}", quoted(user), quoted(password))).await?;
        client.command("SELECT INBOX").await?;
        Ok(client)
    }

    /// Sends one command and reads up to its tagged OK.
    pub async fn command(&mut self, text: &str) -> Result<()> {
        self.tag += 1;
        let tag = format!("r{}", self.tag);
        self.wire.send(format!("{tag} {text}\r\n").as_bytes()).await?;
        self.finish(&tag, text).await
    }

    /// APPEND to INBOX with a synchronizing literal.
    pub async fn append(&mut self, message: &[u8]) -> Result<()> {
        self.tag += 1;
        let tag = format!("r{}", self.tag);
        let command = format!("{tag} APPEND INBOX {{{}}}\r\n", message.len());
        self.wire.send(command.as_bytes()).await?;
        self.continuation().await?;
        self.wire.send(message).await?;
        self.wire.send(b"\r\n").await?;
        self.finish(&tag, "APPEND").await
    }

    /// Enters IDLE; afterwards only [`ImapClient::done`] may be called.
    pub async fn idle(&mut self) -> Result<()> {
        self.tag += 1;
        self.wire.send(format!("r{} IDLE\r\n", self.tag).as_bytes()).await?;
        self.continuation().await
    }

    pub async fn done(&mut self) -> Result<()> {
        self.wire.send(b"DONE\r\n").await?;
        let tag = format!("r{}", self.tag);
        self.finish(&tag, "IDLE").await
    }

    pub async fn logout(mut self) -> Result<()> {
        self.command("LOGOUT").await
    }

    /// Untagged lines may come first.
    async fn continuation(&mut self) -> Result<()> {
        loop {
            let line = self.wire.line().await?;
            match line.first() {
                Some(b'+') => return Ok(()),
                Some(b'*') => {}
                _ => bail!("no continuation: {}", String::from_utf8_lossy(line)),
            }
        }
    }

    async fn finish(&mut self, tag: &str, what: &str) -> Result<()> {
        loop {
            let line = self.wire.line().await?;
            if let Some(rest) = line.strip_prefix(tag.as_bytes()) {
                if rest.starts_with(b" OK") {
                    return Ok(());
                }
                let verb = what.split(' ').next().unwrap_or(what);
                bail!("{verb}: {}", String::from_utf8_lossy(rest));
            }
            if line.starts_with(b"* BYE") && what != "LOGOUT" {
                bail!("{}", String::from_utf8_lossy(line));
            }
            if let Some(count) = exists(line) {
                self.exists = count;
            }
            if let Some(size) = literal(line) {
                let size = size.context("a literal with a bad size")?;
                self.wire.skip(size).await?;
            }
        }
    }
}

/// `* 5 EXISTS`
fn exists(line: &[u8]) -> Option<u64> {
    let number = line.strip_prefix(b"* ")?.strip_suffix(b" EXISTS")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// A line that ends in `{123}` is followed by that many octets; the inner `None` is a bad number.
fn literal(line: &[u8]) -> Option<Option<usize>> {
    let inner = line.strip_suffix(b"}")?;
    let open = inner.iter().rposition(|&byte| byte == b'{')?;
    Some(std::str::from_utf8(&inner[open + 1..]).ok().and_then(|digits| digits.parse().ok()))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(exists(b"* 17 EXISTS"), Some(17));
        assert_eq!(exists(b"* 17 RECENT"), None);
        assert_eq!(literal(b"* 1 FETCH (BODY[] {42}"), Some(Some(42)));
        assert_eq!(literal(b"* 1 FETCH (BODY[] {x}"), Some(None));
        assert_eq!(literal(b"* OK done"), None);
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
