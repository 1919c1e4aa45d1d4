//! What happened, for whoever runs the server: one JSON object a line, each with a time and a name.
//!
//! Shards and threads tell an [`Event`]; it is rendered on the spot, so that nothing borrowed has to
//! be copied first, and goes to the writer's thread (`server/event_writer.rs`) through a bounded
//! queue. What the queue has no room for is counted and gone: nobody ever waits for it.
//!
//! ```text
//! event    what can happen, its fields, and the kind by which it is turned on and off
//! line     a line of JSON: bounded values, no control characters
//! queue    from shards and threads to the writer
//! options  where lines go, and which
//! ```
//!
//! Invariants: no password and no octet of a message's content is in an event; a value is at most
//! [`VALUE_MAX`] octets long, so a line is bounded too.

mod event;
mod line;
mod options;
mod queue;

pub use self::{
    event::{EVENTS, Event, EventRow, Kind, Kinds, Limit},
    line::VALUE_MAX,
    options::{EventOptions, EventTarget},
    queue::{Chunk, EventQueue, EventSender, ShardEvents, queue},
};
