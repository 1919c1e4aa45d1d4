//! What each verb of the command line does.

mod check;
mod inspect;
mod json;
mod run;
mod user;
mod verify;

pub use check::check;
pub use inspect::inspect;
pub use run::{demo, serve};
pub use user::user;
pub use verify::verify;

/// A command line that clap could not find wrong, but is: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
