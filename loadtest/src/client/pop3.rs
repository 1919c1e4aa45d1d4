//! POP3.

use anyhow::{Context, Result, bail};

use super::{Target, Wire};
use crate::arguments::Tls;

/// A session in the transaction state.
pub struct Pop3Client {
    wire: Wire,
    /// Messages in the maildrop.
    pub messages: u64,
}

impl Pop3Client {
    pub async fn connect(target: &Target, user: &str, password: &str) -> Result<Pop3Client> {
        let mut client = Pop3Client { wire: Wire::connect(target).await?, messages: 0 };
        client.status("greeting").await?;
        if target.tls == Tls::Starttls {
            client.command("STLS").await?;
            client.wire.start_tls().await?;
        }
        client.command(&format!("USER {user}")).await?;
        client.command(&format!("PASS {password}")).await?;
        let status = client.command("STAT").await?;
        client.messages = status
            .split(' ')
            .nth(1)
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("STAT: {status}"))?;
        Ok(client)
    }

    /// RETR of message `number`, from 1.
    pub async fn retrieve(&mut self, number: u64) -> Result<()> {
        self.command(&format!("RETR {number}")).await?;
        while self.wire.line().await? != b"." {}
        Ok(())
    }

    pub async fn quit(mut self) -> Result<()> {
        self.command("QUIT").await.map(|_| ())
    }

    async fn command(&mut self, line: &str) -> Result<String> {
        self.wire.send(format!("{line}\r\n").as_bytes()).await?;
        let verb = line.split(' ').next().unwrap_or(line).to_owned();
        self.status(&verb).await
    }

    async fn status(&mut self, what: &str) -> Result<String> {
        let line = self.wire.line().await?;
        let text = String::from_utf8_lossy(line).into_owned();
        if !line.starts_with(b"+OK") {
            bail!("{what}: {text}");
        }
        Ok(text)
    }
}
