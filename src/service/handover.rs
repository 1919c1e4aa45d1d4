//! A logged-in connection moves to the shard that owns its account.
//!
//! Only between commands, with all output flushed: the connection is taken apart (descriptor, TLS
//! state, unread bytes) and sent over the mesh with the protocol's own state. Only the new owner
//! answers the log-in and the commands pipelined after it. If the owner cannot be reached, the
//! connection comes back and the client gets a refusal in its protocol.

use std::{
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::Shard;
use crate::{
    model::{MailClass, ShardId},
    runtime::{
        LocalFuture,
        connection::{Connection, DetachedConnection},
        executor::Priority,
        mesh::Class,
        resources::ShardResources,
    },
};

/// How long the owner may take to take over.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the owner did not take the connection; the client gets a temporary refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The connection between two shards; the side that takes it out owns it.
type Parcel<H> = Arc<Mutex<Option<(DetachedConnection, H)>>>;

/// Sends `connection` and `state` to `target`, where `resume` continues with them. Returns both if
/// the owner is full, shutting down or silent.
pub async fn hand_over<H, F>(
    shard: &Rc<Shard>,
    target: ShardId,
    connection: Connection,
    state: H,
    resume: F,
) -> Result<(), (Connection, H)>
where
    H: Send + 'static,
    F: FnOnce(Connection, Rc<Shard>, H) -> LocalFuture<'static, ()> + Send + 'static,
{
    let parcel: Parcel<H> = Arc::new(Mutex::new(Some((connection.detach(), state))));
    let carried = parcel.clone();
    let outcome = shard
        .mesh
        .call(target, Class::Handover, TIMEOUT, move |owner| {
            Box::pin(take_over(owner, carried, resume))
        })
        .await;
    if matches!(outcome, Ok(Ok(()))) {
        return Ok(());
    }
    match take(&parcel) {
        Some((detached, state)) => Err((Connection::attach(detached), state)),
        // The owner took it after our timeout.
        None => Ok(()),
    }
}

async fn take_over<H, F>(owner: Rc<Shard>, parcel: Parcel<H>, resume: F) -> Result<(), Refused>
where
    H: Send + 'static,
    F: FnOnce(Connection, Rc<Shard>, H) -> LocalFuture<'static, ()>,
{
    if owner.shutting_down.get()
        || ShardResources::current().connections_full(MailClass::Submission)
    {
        return Err(Refused);
    }
    let (detached, state) = take(&parcel).ok_or(Refused)?;
    let session = resume(Connection::attach(detached), owner.clone(), state);
    owner.executor.spawn(Priority::Foreground, session);
    Ok(())
}

fn take<H>(parcel: &Parcel<H>) -> Option<(DetachedConnection, H)> {
    // Nothing panics under this lock, so it cannot be poisoned; if it were, the value would still
    // be valid.
    parcel.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
}
