//! The control socket: the interface of `ringmail user` and similar commands to a running server.
//!
//! A client sends one line over a Unix socket in the data directory, which only the directory's
//! owner can open, and gets one or many lines: `reload` answers `ok`, `ok: ` with the settings that
//! need a restart, or `error: why`; `verify` and
//! `verify repair` answer with the lines of `server::examine` as they come, `block list` and
//! `block lift ...` with those of `server::blocks`, `queue ...`, `acl ...` and others with those of
//! `server::operate`,
//! `tlsrpt ...` with those of `tls_report`.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod dns;
mod https;
pub mod json;
mod oauth;
mod socket;
mod sts;
mod tls_report;

pub use dns::{DnsOptions, DnsQueue, DnsWorker, Servers, TrustAnchorError, dns};
pub use https::HttpsOptions;
pub use oauth::{Introspection, KeySource, OauthOptions, OauthWorker, oauth, unusable_token_files};
pub use socket::{Asker, Handler, REQUEST_MAX, Reply, TIMEOUT, bind, path, request, serve, stream};
pub use sts::{PolicyNews, PolicyWatcher, StsOptions};
pub use tls_report::{
    Mailer, ReportToSend, Submitted, TlsReportCounters, TlsReportOptions, TlsReportRequest,
    TlsReporter, tls_reports_at_rest,
};
