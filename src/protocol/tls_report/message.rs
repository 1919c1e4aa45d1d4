//! A report as it is sent: the JSON document (RFC 8460 4.4), compressed, its file name, and the
//! mail that carries it (RFC 8460 5.1, 5.3).

use std::io::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use super::{Domain, PolicyTally};
use crate::{
    model::Timestamp,
    protocol::{
        mime::date::write_rfc5322,
        report::writing::{append_field, append_prose, safe},
    },
};

/// Octets of a line of base64 (RFC 2045 6.8).
const BASE64_LINE: usize = 57;

/// A report on one domain.
#[derive(Clone, Copy, Debug)]
pub struct TlsReport<'a> {
    /// Who sends it, in words.
    pub organization: &'a str,
    /// An address for questions about it.
    pub contact: &'a str,
    /// The domain of the sender's address.
    pub submitter: &'a str,
    /// The recipient domain, in A-labels.
    pub domain: &'a str,
    /// Letters, digits, full stops and hyphens.
    pub id: &'a str,
    /// Seconds of the Unix clock: the first of the time that is covered, and the first after it.
    pub begin: u64,
    pub end: u64,
    pub content: &'a Domain,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    organization_name: &'a str,
    date_range: DateRange,
    contact_info: &'a str,
    report_id: &'a str,
    policies: &'a [PolicyTally],
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
    end_datetime: String,
}

impl TlsReport<'_> {
    /// The last second that is covered.
    fn last(&self) -> u64 {
        self.end.saturating_sub(1).max(self.begin)
    }

    /// The document.
    pub fn json(&self) -> String {
        let document = Document {
            organization_name: self.organization,
            date_range: DateRange {
                start_datetime: datetime(self.begin),
                end_datetime: datetime(self.last()),
            },
            contact_info: self.contact,
            report_id: self.id,
            policies: &self.content.policies,
        };
        // Nothing in it can fail: its keys are texts.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// RFC 8460 5.1.
    pub fn filename(&self) -> String {
        let TlsReport { submitter, domain, begin, .. } = self;
        let unique: String = self.id.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{submitter}!{domain}!{begin}!{}!{unique}.json.gz", self.last())
    }
}

/// RFC 3339, whole seconds.
fn datetime(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let text = crate::events::rfc3339(Timestamp::from_unix_seconds(seconds));
    format!("{}Z", text.split(['.', 'Z']).next().unwrap_or_default())
}

/// `text` by gzip (RFC 1952).
pub fn compress(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// The mail that carries a report.
#[derive(Clone, Copy, Debug)]
pub struct ReportMail<'a> {
    pub report: TlsReport<'a>,
    pub from: &'a str,
    pub to: &'a str,
    pub now: Timestamp,
    /// The document, compressed.
    pub attachment: &'a [u8],
}

impl ReportMail<'_> {
    /// Appends the message, 7-bit throughout.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let TlsReport { organization, submitter, domain, id, content, .. } = self.report;
        let boundary = format!("=_{id}");
        let push = |parts: &[&str], out: &mut Vec<u8>| {
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        };
        append_field("From", &format!("<{}>", safe(self.from)), out);
        append_field("To", &format!("<{}>", safe(self.to)), out);
        let subject =
            format!("Report Domain: {domain} Submitter: {submitter} Report-ID: <{id}@{submitter}>");
        append_field("Subject", &subject, out);
        push(&["Date: "], out);
        write_rfc5322(self.now, out);
        push(&["\r\nMessage-ID: <", id, "@", submitter, ">\r\n"], out);
        push(&["TLS-Report-Domain: ", domain, "\r\n"], out);
        push(&["TLS-Report-Submitter: ", submitter, "\r\n"], out);
        // A report on TLS that is broken must get through all the same (RFC 8460 3, RFC 8689 3).
        push(&["TLS-Required: No\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"], out);
        push(&["Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n"], out);
        push(&["\tboundary=\"", &boundary, "\"\r\n\r\n"], out);
        push(&["This is a report on TLS, in MIME format.\r\n"], out);
        push(&["\r\n--", &boundary, "\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"], out);
        let sum = content.summary();
        let who: String = match organization.is_ascii() {
            true => safe(organization),
            false => submitter.to_owned(),
        };
        let text = format!(
            "This is an aggregate report (RFC 8460) on the TLS of mail sessions from {who} to the \
             mail servers of {domain}, from {} to {}: {} sessions succeeded, {} failed. The \
             attachment has the details.",
            datetime(self.report.begin),
            datetime(self.report.last()),
            sum.successes,
            sum.failures,
        );
        append_prose(&text, out);
        let filename = self.report.filename();
        push(&["\r\n--", &boundary, "\r\nContent-Type: application/tlsrpt+gzip\r\n"], out);
        push(&["Content-Transfer-Encoding: base64\r\n"], out);
        push(&["Content-Disposition: attachment;\r\n\tfilename=\"", &filename, "\"\r\n\r\n"], out);
        for line in self.attachment.chunks(BASE64_LINE) {
            push(&[&BASE64_STANDARD.encode(line), "\r\n"], out);
        }
        push(&["\r\n--", &boundary, "--\r\n"], out);
    }
}
