//! The admin port: `GET /metrics` (Prometheus text) and `GET /healthz`.
//!
//! It runs on the control thread and asks the shards through [`Source`], which `server` implements
//! over the mesh.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod http;

pub use http::{Health, Source, serve};
