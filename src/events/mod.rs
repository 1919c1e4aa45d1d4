//! The event log for the operator: one JSON object a line, each with a time and a name.
//!
//! Shards and threads report an [`Event`]. It is rendered on the spot, so that borrowed values need
//! not be copied first, and goes to the writer's thread (`server/event_writer.rs`) through a
//! bounded queue. Events that do not fit are counted and dropped: no sender ever waits.
//!
//! ```text
//! event    what can happen, its fields, and the kind by which it is turned on and off
//! line     a line of JSON: bounded values, no control characters
//! queue    from shards and threads to the writer
//! options  where lines go, and which
//! tap      operators who watch as it happens
//! ```
//!
//! Invariants: no password and no octet of a message's content is in an event; a value is at most
//! [`VALUE_MAX`] octets long, so a line is bounded too.

mod event;
mod line;
mod options;
mod queue;
mod tap;

pub use self::{
    event::{EVENTS, Event, EventRow, Kind, Kinds, Limit},
    line::{VALUE_MAX, rfc3339},
    options::{EventOptions, EventTarget},
    queue::{Chunk, EventQueue, EventSender, ShardEvents, queue},
    tap::{Spoken, TAPS_MAX, Tap},
};
