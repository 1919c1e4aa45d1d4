//! RETR and TOP (RFC 1939 5, 7): a body from the log to the client, piece by piece.

use super::session::{Client, End};
use crate::protocol::pop3::{MultilineWriter, write_err, write_ok};

/// Octets read at once. If a client does not read, its session holds one piece as output.
const RETR_PIECE: usize = 64 * 1024;

/// TOP rarely needs more than a header.
const TOP_PIECE: usize = 8 * 1024;

impl Client {
    pub(super) async fn retr(&mut self, number: u32) -> Result<(), End> {
        self.send_message(number, MultilineWriter::retr(), RETR_PIECE).await
    }

    pub(super) async fn top(&mut self, number: u32, body_lines: u32) -> Result<(), End> {
        self.send_message(number, MultilineWriter::top(body_lines), TOP_PIECE).await
    }

    /// The first piece is read before the reply begins, so that most failures can still be
    /// reported.
    async fn send_message(
        &mut self,
        number: u32,
        mut writer: MultilineWriter,
        piece_size: usize,
    ) -> Result<(), End> {
        let maildrop = self.maildrop()?;
        let account = maildrop.account.clone();
        let body = match maildrop.message(number) {
            Ok(message) => message.body,
            Err(reason) => {
                write_err(self.channel.connection.output(), reason);
                return Ok(());
            }
        };
        let mut offset = 0;
        loop {
            let piece = match account.read_body(&body, offset, piece_size).await {
                Ok(piece) => piece,
                Err(error) if offset == 0 => {
                    self.store_failed(&error);
                    write_err(
                        self.channel.connection.output(),
                        "[SYS/TEMP] cannot read this message now",
                    );
                    return Ok(());
                }
                // Half of the message was sent: only closing the connection can tell the client.
                Err(error) => {
                    self.store_failed(&error);
                    return Err(End::Abort);
                }
            };
            if piece.is_empty() && offset < body.size {
                return Err(End::Abort);
            }
            if offset == 0 {
                write_ok(self.channel.connection.output(), &format!("{} octets", body.size));
            }
            offset += piece.len() as u64;
            let wants_more = writer.write(&piece, self.channel.connection.output());
            drop(piece);
            if !wants_more || offset >= body.size {
                break;
            }
            self.channel.flush_if_full().await?;
        }
        writer.finish(self.channel.connection.output());
        self.count("pop3_octets_read_total", offset);
        Ok(self.channel.flush_if_full().await?)
    }
}
