//! SMTP and LMTP.

use anyhow::{Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Target, Wire};
use crate::arguments::Tls;

/// Options that stay the same for all connections of a run.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub lmtp: bool,
    pub pipelining: bool,
    pub bdat: bool,
}

/// A session after its greeting, ready for transactions.
pub struct SmtpClient {
    wire: Wire,
    style: Style,
    /// Reused for each transaction's commands.
    commands: Vec<u8>,
    /// The server may have the last message's content without having acknowledged it.
    in_doubt: bool,
}

impl SmtpClient {
    pub async fn connect(target: &Target, style: Style) -> Result<SmtpClient> {
        let wire = Wire::connect(target).await?;
        let mut client = SmtpClient { wire, style, commands: Vec::new(), in_doubt: false };
        client.expect(220, "greeting").await?;
        client.hello().await?;
        if target.tls == Tls::Starttls {
            client.wire.send(b"STARTTLS\r\n").await?;
            client.expect(220, "STARTTLS").await?;
            client.wire.start_tls().await?;
            client.hello().await?;
        }
        Ok(client)
    }

    async fn hello(&mut self) -> Result<()> {
        let verb = if self.style.lmtp { "LHLO" } else { "EHLO" };
        self.wire.send(format!("{verb} ringload.invalid\r\n").as_bytes()).await?;
        self.expect(250, verb).await
    }

    /// AUTH PLAIN (RFC 4616) with an initial response.
    pub async fn login(&mut self, user: &str, password: &str) -> Result<()> {
        let token = STANDARD.encode(format!("\0{user}\0{password}"));
        self.wire.send(format!("AUTH PLAIN {token}\r\n").as_bytes()).await?;
        self.expect(235, "AUTH").await
    }

    /// One transaction. `message` is dot-stuffed with its final dot unless BDAT is used.
    pub async fn send(
        &mut self,
        sender: &str,
        recipients: &[String],
        message: &[u8],
    ) -> Result<()> {
        let last = if self.style.bdat {
            format!("BDAT {} LAST\r\n", message.len())
        } else {
            "DATA\r\n".to_owned()
        };
        let mail = format!("MAIL FROM:<{sender}>\r\n");
        let replies = if self.style.lmtp { recipients.len() } else { 1 };
        if self.style.pipelining {
            self.commands.clear();
            self.commands.extend_from_slice(mail.as_bytes());
            for recipient in recipients {
                self.commands.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
            }
            self.commands.extend_from_slice(last.as_bytes());
            if self.style.bdat {
                self.commands.extend_from_slice(message);
                self.in_doubt = true;
            }
            self.wire.send(&self.commands).await?;
            self.expect(250, "MAIL").await?;
            for _ in recipients {
                self.expect(250, "RCPT").await?;
            }
        } else {
            self.wire.send(mail.as_bytes()).await?;
            self.expect(250, "MAIL").await?;
            for recipient in recipients {
                self.wire.send(format!("RCPT TO:<{recipient}>\r\n").as_bytes()).await?;
                self.expect(250, "RCPT").await?;
            }
            self.wire.send(last.as_bytes()).await?;
            if self.style.bdat {
                self.in_doubt = true;
                self.wire.send(message).await?;
            }
        }
        if !self.style.bdat {
            self.expect(354, "DATA").await?;
            self.in_doubt = true;
            self.wire.send(message).await?;
        }
        for _ in 0..replies {
            self.expect(250, "message").await?;
        }
        self.in_doubt = false;
        Ok(())
    }

    /// After a failed `send`: whether the server may have the message anyway.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    pub async fn quit(mut self) -> Result<()> {
        self.wire.send(b"QUIT\r\n").await?;
        self.expect(221, "QUIT").await
    }

    async fn expect(&mut self, code: u16, what: &str) -> Result<()> {
        loop {
            let line = self.wire.line().await?;
            let continued = line.get(3) == Some(&b'-');
            let got: u16 = line
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            if got != code {
                bail!("{what}: {}", String::from_utf8_lossy(line));
            }
            if !continued {
                return Ok(());
            }
        }
    }
}
