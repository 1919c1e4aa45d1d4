//! The configuration file: TOML in, each module's own Options out.
//!
//! The server reads this file and never writes it. Unknown keys are errors; every error names the
//! file, the line and the setting, and says what is allowed; all that can be told at once are.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod addresses;
mod file;
mod problem;
mod queue;
mod schema;
mod sections;

pub use addresses::{Gift, GiftKind};
pub use file::{DEMO_DOMAIN, Listen, Settings, TlsFiles};
pub use problem::{ConfigProblem, ConfigProblems};
pub use schema::{PARTITIONS_MAX, SETTINGS, SHARDS_MAX, Said, Setting};
