//! Reports to other domains on the TLS of our sessions with their mail servers (RFC 8460): how
//! sessions are counted, which endpoints want a report, and how it is written.
//!
//! ```text
//! aggregate   sessions by domain, policy and failure, in the form of the report; bounded
//! endpoint    the TXT record of a domain: where its reports go
//! message     the JSON document, compressed, and the mail that carries it
//! ```
//!
//! The relay service counts, the control thread keeps and sends.

mod aggregate;
mod endpoint;
mod message;

pub use self::{
    aggregate::{
        Aggregate, Collected, DAYS_MAX, DETAILS_MAX, DOMAINS_MAX, Day, Detail, Domain, Failure,
        OCTETS_MAX, POLICIES_MAX, Policy, PolicyKind, PolicyTally, ResultType, Summary,
    },
    endpoint::{ENDPOINTS_MAX, Endpoint, HttpsUrl, endpoints},
    message::{ReportMail, TlsReport, compress},
};

#[cfg(test)]
mod tests;
