//! Pure protocol code: bytes in, events and bytes out, time as an argument. No I/O, no store.

pub mod imap;
pub mod line;
pub mod mime;
pub mod pop3;
pub mod proxy;
pub mod report;
pub mod sasl;
pub mod smtp;
pub mod tls_report;
