//! The layers between the octets of the transport and those of the protocol: TLS next to the wire,
//! and above it layers that the protocol may add (deflate, RFC 4978). `Connection` moves the octets
//! in and out; a plain connection has no layer and no overhead.
//!
//! ```text
//! received -> open (layer 0) -> open (layer 1) -> input
//! sent     <- seal (layer 0) <- seal (layer 1) <- output
//! ```
//!
//! A layer is a pure state machine. Input that it cannot open yet because it is incomplete is kept
//! beside it in a buffer that counts against the shard's budget. A handover takes the chain apart,
//! layer by layer with its kept input, and reassembles it on the other shard.
//!
//! With one layer, octets go from the receive buffer into the input, and from the output into the
//! send buffer, without a copy in between; each further layer uses an intermediate buffer for the
//! duration of a call.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::rc::Rc;

use rustls_pki_types::CertificateDer;

use super::{
    budget::HolderId,
    channel_binding::Bound,
    connection::ConnectionError,
    resources::{PooledBuffer, ShardResources},
    tls_client::TlsFacts,
};

/// One layer of a stream. `Send`: it travels when its connection is handed over.
pub(super) trait Layer: Send {
    /// Opens `sealed`, which may be overwritten, and appends the result to `opened`; the layer's
    /// own messages to the peer go to `outgoing`. Returns how many octets of `sealed` are
    /// processed: the rest is passed again with more behind it. After an error `outgoing` may hold
    /// an alert for the peer.
    fn open(
        &mut self,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError>;

    /// Seals all of `message` into `outgoing`. `kept` is what `open` left; returns how many octets
    /// of it are processed, as some may be opened at the same time.
    fn seal(
        &mut self,
        message: &[u8],
        kept: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError>;

    /// Appends the end of our side of the stream. The last call.
    fn seal_end(&mut self, kept: &mut [u8], outgoing: &mut Vec<u8>) -> Result<(), ConnectionError>;

    /// Whether messages can be sealed: the two sides have completed the handshake.
    fn is_settled(&self) -> bool {
        true
    }

    /// Whether the peer has ended its side: no more will be opened.
    fn has_ended(&self) -> bool;

    /// Whether `open` stopped at a limit, and is to be called again with what it left, even if
    /// nothing is received.
    fn has_more(&self) -> bool {
        false
    }

    /// The session expects nothing soon: gives up memory that can be had again.
    fn rest(&mut self) {}

    /// What is sealed next is the last: nothing of the layer may follow it.
    fn seal_last(&mut self) {}

    /// Both sides end the layer here: what follows passes through it as it is.
    fn end(&mut self) {}

    /// Whether all that may come passes through it as it is.
    fn is_spent(&self) -> bool {
        false
    }

    /// Most octets kept of an incomplete piece; more means a peer that never completes one.
    fn kept_max(&self) -> usize;

    /// Whether the stream is encrypted.
    fn is_private(&self) -> bool {
        false
    }

    /// Of TLS, once the two sides have agreed.
    fn facts(&self) -> Option<TlsFacts> {
        None
    }

    /// Of TLS, once the two sides have agreed: what the connection is bound to.
    fn bound(&self) -> Option<&Bound> {
        None
    }

    /// Of TLS: the peer's certificate, verified.
    fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        None
    }
}

/// A layer, and the input that it could not open yet.
struct Stage {
    layer: Box<dyn Layer>,
    kept: PooledBuffer,
}

/// The layers of one connection, the one nearest to the wire first. Shard-local.
#[derive(Default)]
pub(super) struct Layers {
    stages: Vec<Stage>,
}

/// Layers between two shards, each with its kept input.
pub(super) struct DetachedLayers(Vec<(Box<dyn Layer>, Vec<u8>)>);

impl Layers {
    /// Puts a layer on top of the others. `kept` is empty.
    pub(super) fn push(&mut self, layer: Box<dyn Layer>, kept: PooledBuffer) {
        self.stages.reserve_exact(1);
        self.stages.push(Stage { layer, kept });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    fn each(&self) -> impl Iterator<Item = &dyn Layer> {
        self.stages.iter().map(|stage| &*stage.layer)
    }

    pub(super) fn are_settled(&self) -> bool {
        self.each().all(Layer::is_settled)
    }

    pub(super) fn have_ended(&self) -> bool {
        self.each().any(Layer::has_ended)
    }

    /// Whether [`Layers::open_more`] opens more.
    pub(super) fn have_more(&self) -> bool {
        self.each().any(Layer::has_more)
    }

    pub(super) fn rest(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.layer.rest());
    }

    /// See [`Layer::seal_last`]: of the highest layer.
    pub(super) fn seal_last(&mut self) {
        if let Some(stage) = self.stages.last_mut() {
            stage.layer.seal_last();
        }
    }

    /// See [`Layer::end`]: of the highest layer.
    pub(super) fn end_highest(&mut self) {
        if let Some(stage) = self.stages.last_mut() {
            stage.layer.end();
        }
    }

    /// Takes the highest layer off if it does nothing any more.
    pub(super) fn drop_spent(&mut self) {
        self.stages.pop_if(|stage| stage.layer.is_spent() && stage.kept.bytes().is_empty());
    }

    pub(super) fn are_private(&self) -> bool {
        self.each().any(Layer::is_private)
    }

    pub(super) fn facts(&self) -> Option<TlsFacts> {
        self.each().find_map(Layer::facts)
    }

    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.each().find_map(Layer::peer_certificate)
    }

    pub(super) fn bound(&self) -> Option<&Bound> {
        self.each().find_map(Layer::bound)
    }

    /// Before a wait: shrinks the kept input's buffers to their contents, and counts them.
    pub(super) fn fit(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.kept.fit());
    }

    /// Opens `received`, which comes from the wire, through all layers into `input`. The layers'
    /// own messages to the peer go to `wire`, also after an error.
    pub(super) fn open(
        &mut self,
        received: &mut [u8],
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        self.open_from(0, received, input, wire)
    }

    /// Opens what the layers have left, although nothing was received.
    pub(super) fn open_more(
        &mut self,
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        let highest = self.stages.iter().rposition(|stage| stage.layer.has_more());
        match highest {
            Some(index) => self.open_from(index, &mut [], input, wire),
            None => Ok(()),
        }
    }

    /// Opens `received` by the highest layer alone: what the peer sent right after it was agreed.
    pub(super) fn open_highest(
        &mut self,
        received: &mut [u8],
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        self.open_from(self.stages.len().saturating_sub(1), received, input, wire)
    }

    /// As [`Layers::open`], from layer `index` up.
    fn open_from(
        &mut self,
        index: usize,
        received: &mut [u8],
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        let is_top = index + 1 == self.stages.len();
        let Some(stage) = self.stages.get_mut(index) else { return Ok(()) };
        let (mut opened, mut outgoing) = (Vec::new(), Vec::new());
        let up = if is_top { input.bytes_mut() } else { &mut opened };
        let down = if index == 0 { wire.bytes_mut() } else { &mut outgoing };
        stage.open(received, up, down)?;
        if !outgoing.is_empty() {
            self.seal_below(index, &outgoing, input, wire)?;
        }
        match opened.is_empty() {
            true => Ok(()),
            false => self.open_from(index + 1, &mut opened, input, wire),
        }
    }

    /// Seals `message` through all layers into `wire`. Input opened at the same time goes to
    /// `input`.
    pub(super) fn seal(
        &mut self,
        message: &[u8],
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        self.seal_below(self.stages.len(), message, input, wire)
    }

    /// As [`Layers::seal`], by the layers below `index`.
    fn seal_below(
        &mut self,
        index: usize,
        message: &[u8],
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        let is_top = index == self.stages.len();
        let Some(below) = index.checked_sub(1) else { return Ok(()) };
        let Some(stage) = self.stages.get_mut(below) else { return Ok(()) };
        let (mut opened, mut outgoing) = (Vec::new(), Vec::new());
        let up = if is_top { input.bytes_mut() } else { &mut opened };
        let down = if below == 0 { wire.bytes_mut() } else { &mut outgoing };
        stage.seal(message, up, down)?;
        if !opened.is_empty() {
            self.open_from(index, &mut opened, input, wire)?;
        }
        match outgoing.is_empty() {
            true => Ok(()),
            false => self.seal_below(below, &outgoing, input, wire),
        }
    }

    /// Seals the end of our side of each layer, from the top down, into `wire`.
    pub(super) fn seal_end(
        &mut self,
        input: &mut PooledBuffer,
        wire: &mut PooledBuffer,
    ) -> Result<(), ConnectionError> {
        for index in (0..self.stages.len()).rev() {
            let Some(Stage { layer, kept }) = self.stages.get_mut(index) else { continue };
            let mut outgoing = Vec::new();
            let down = if index == 0 { wire.bytes_mut() } else { &mut outgoing };
            match kept.bytes().is_empty() {
                true => layer.seal_end(&mut [], down)?,
                false => layer.seal_end(kept.bytes_mut(), down)?,
            }
            if !outgoing.is_empty() {
                self.seal_below(index, &outgoing, input, wire)?;
            }
        }
        Ok(())
    }

    /// Takes the chain apart for another shard.
    pub(super) fn detach(self) -> DetachedLayers {
        let stages = self.stages.into_iter();
        DetachedLayers(stages.map(|stage| (stage.layer, stage.kept.into_vec())).collect())
    }

    /// Makes a detached chain this shard's.
    pub(super) fn attach(
        detached: DetachedLayers,
        resources: &Rc<ShardResources>,
        holder: HolderId,
    ) -> Layers {
        let stages = detached.0.into_iter().map(|(layer, kept)| {
            let kept = PooledBuffer::from_vec(kept, resources, holder);
            Stage { layer, kept }
        });
        Layers { stages: stages.collect() }
    }
}

impl Stage {
    /// Opens `received` behind the kept input, and keeps an incomplete rest.
    fn open(
        &mut self,
        received: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), ConnectionError> {
        let Stage { layer, kept } = self;
        if kept.bytes().is_empty() {
            let done = layer.open(received, opened, outgoing)?;
            if let Some(rest @ [_, ..]) = received.get(done..) {
                kept.reserve(rest.len());
                kept.bytes_mut().extend_from_slice(rest);
            }
        } else {
            kept.bytes_mut().extend_from_slice(received);
            let done = layer.open(kept.bytes_mut(), opened, outgoing)?;
            kept.bytes_mut().drain(..done);
        }
        kept.release_if_empty();
        if kept.bytes().len() > layer.kept_max() {
            return Err(rustls::Error::General("record or handshake too long".into()).into());
        }
        kept.recount();
        Ok(())
    }

    fn seal(
        &mut self,
        message: &[u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), ConnectionError> {
        let Stage { layer, kept } = self;
        if kept.bytes().is_empty() {
            return layer.seal(message, &mut [], opened, outgoing).map(drop);
        }
        let done = layer.seal(message, kept.bytes_mut(), opened, outgoing)?;
        kept.bytes_mut().drain(..done);
        kept.release_if_empty();
        Ok(())
    }
}
