//! Messages between shards: `call` runs a closure on another shard and brings its result back.
//! STUB SIGNATURES.
//!
//! Invariant: a mesh receiver never waits on a send. A request takes one of the sender's credits
//! for that target (bounded in-flight; waits for a credit, up to the deadline), the receiver spawns
//! it as a task of its own, the reply goes to a slot the sender reserved.
#![allow(unused_variables)]

use std::{rc::Rc, time::Duration};

use super::LocalFuture;
use crate::model::ShardId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    #[error("shard did not answer in time")]
    TimedOut,
    #[error("shard is shutting down")]
    Closed,
}

/// One shard's end of the mesh; `S` is the state that calls see on their target.
pub struct Mesh<S> {
    _state: std::marker::PhantomData<S>,
}

impl<S: 'static> Mesh<S> {
    /// Runs `request` on `target` (also when that is this shard) and answers its result.
    /// The request runs to its end even when the caller stopped waiting.
    pub async fn call<T, F>(
        &self,
        target: ShardId,
        timeout: Duration,
        request: F,
    ) -> Result<T, MeshError>
    where
        T: Send + 'static,
        F: FnOnce(Rc<S>) -> LocalFuture<'static, T> + Send + 'static,
    {
        todo!()
    }
}
