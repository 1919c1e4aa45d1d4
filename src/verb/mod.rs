//! What each verb of the command line does.

mod check;
mod run;
mod user;

pub use check::check;
pub use run::{demo, serve};
pub use user::user;

/// A command line that clap could not find wrong, but is: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
