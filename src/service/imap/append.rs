//! APPEND (RFC 3501 6.3.11, RFC 4315): a message from the client, streamed into the store.
//!
//! Octets go once from the connection's input to the summary and the log; memory does not grow with
//! the message. Whatever can be refused is refused before the literal is asked for.

use super::{
    folder,
    literal::Literal,
    reply::{Done, Failure, Reply, try_create},
    session::Session,
};
use crate::{
    protocol::{
        imap::{Append, Code},
        mime::Summarizer,
    },
    store::{BodyWriter, StagedBody},
};

pub(super) async fn append(session: &mut Session, append: &Append<'_>) -> Reply {
    let account = session.account()?;
    let name = folder::existing_name(&append.mailbox).map_err(|_| try_create())?;
    let mailbox = account.mailbox_by_name(&name).ok_or_else(try_create)?;
    let literal = session.literal.take().ok_or_else(|| Failure::bad("Message literal missing"))?;
    let body = receive(session, literal).await?;
    let keywords: Vec<String> = append.flags.keywords.iter().map(|&it| it.to_owned()).collect();
    let date = append.internal_date.unwrap_or_else(|| session.shard.executor.now());
    let appended = account
        .append(mailbox.id, body, append.flags.system, &keywords, date)
        .await
        .map_err(Failure::with_try_create)?;
    Done::with_code(Code::AppendUid(appended.uid_validity, appended.uid), "APPEND completed")
}

/// Asks for the literal if the client waits, and takes it in.
async fn receive(session: &mut Session, literal: Literal) -> Result<StagedBody, Failure> {
    let account = session.account()?;
    let Some(partition) = session.shard.local_partition(account.id()).cloned() else {
        return Err(Failure::no(Code::Unavailable, "The account is not available now"));
    };
    if literal.sync {
        session.writer().continuation("Ready for the message");
        session.flush().await?;
    }
    // A shutdown lets the message come in whole; the deadline still bounds it.
    session.connection.set_interruptible(false);
    let received = take_in(session, literal, partition.stage()).await;
    session.connection.set_interruptible(true);
    received
}

/// Takes in the literal and the end of the command. All of it is read even if the store refuses:
/// the stream must stay in step.
async fn take_in(
    session: &mut Session,
    literal: Literal,
    mut writer: BodyWriter,
) -> Result<StagedBody, Failure> {
    let mut summarizer = Summarizer::new();
    let mut refusal: Option<Failure> = None;
    let mut remaining = literal.size;
    while remaining > 0 {
        let count = session.literal_input(remaining).await?;
        if refusal.is_none() {
            let chunk = session.connection.input().get(..count).unwrap_or_default();
            // RFC 3501 4.3: a literal has no NUL (RFC 3516 would allow it; we do not offer that).
            if memchr::memchr(0, chunk).is_some() {
                refusal = Some(Failure::no(Code::Cannot, "The message contains NUL octets"));
            } else {
                summarizer.push(chunk);
                refusal = writer.write(chunk).await.err().map(Failure::from);
            }
        }
        session.connection.consume(count);
        remaining -= count as u64;
    }
    session.end_of_literal().await?;
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(writer.finish(summarizer.finish().encode()).await?),
    }
}
