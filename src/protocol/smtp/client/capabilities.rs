//! What a peer announced in its reply to EHLO or LHLO (RFC 5321 4.1.1.1). A line that makes no
//! sense is skipped: it announces nothing.

use super::reply::{Reply, clipped};

/// Octets of the peer's name and of other words that are kept.
const WORD_MAX: usize = 255;

/// The extensions of a peer. The default is a peer that knows only HELO.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// The peer's name, as it says.
    pub name: String,
    /// EHLO or LHLO was accepted.
    pub extended: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030; of use only with CHUNKING.
    pub binary_mime: bool,
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// RFC 3207.
    pub start_tls: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 1870: `Some(0)` if SIZE was announced without a limit.
    pub size: Option<u64>,
    /// RFC 2852: the least time that the peer takes, seconds; `Some(0)` if it did not say.
    pub deliver_by: Option<u32>,
    /// RFC 6710: the name of the peer's profile, which may be empty.
    pub mt_priority: Option<String>,
    /// RFC 4865.
    pub future_release: Option<FutureRelease>,
    /// RFC 9422.
    pub limits: PeerLimits,
    /// RFC 4954: the mechanisms that we know.
    pub auth_plain: bool,
    pub auth_login: bool,
}

/// How far into the future a message may be held (RFC 4865 4).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FutureRelease {
    /// Seconds.
    pub interval: u32,
    /// As sent, RFC 3339.
    pub date_time: String,
}

/// The limits that a peer announced (RFC 9422 4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PeerLimits {
    /// Transactions in one session.
    pub mail_max: Option<u32>,
    /// Recipients of one transaction.
    pub rcpt_max: Option<u32>,
    /// Domains among the recipients of one transaction.
    pub rcpt_domain_max: Option<u32>,
}

impl Capabilities {
    /// From a positive reply to EHLO or LHLO.
    pub fn parse(reply: &Reply) -> Capabilities {
        let mut lines = reply.lines();
        let name = lines.next().and_then(|line| line.split(' ').next());
        let mut found =
            Capabilities { name: kept(name), extended: true, ..Capabilities::default() };
        lines.for_each(|line| found.add(line));
        found
    }

    /// From a positive reply to HELO.
    pub fn none(reply: &Reply) -> Capabilities {
        Capabilities { name: kept(reply.text.split([' ', '\n']).next()), ..Capabilities::default() }
    }

    /// Octets of the largest message that the peer takes, if it said so.
    pub fn size_max(&self) -> Option<u64> {
        self.size.filter(|size| *size > 0)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        // `AUTH=PLAIN`: from before the standard, still sent for old clients.
        let (keyword, value) = keyword.split_once('=').unwrap_or((keyword, ""));
        match keyword.to_ascii_uppercase().as_str() {
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtp_utf8 = true,
            "CHUNKING" => self.chunking = true,
            "BINARYMIME" => self.binary_mime = true,
            "PIPELINING" => self.pipelining = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.require_tls = true,
            "STARTTLS" => self.start_tls = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "SIZE" => self.size = Some(words.next().and_then(|it| it.parse().ok()).unwrap_or(0)),
            "DELIVERBY" => {
                self.deliver_by = Some(words.next().and_then(|it| it.parse().ok()).unwrap_or(0));
            }
            "MT-PRIORITY" => self.mt_priority = Some(kept(words.next())),
            "FUTURERELEASE" => {
                let interval = words.next().and_then(|it| it.parse().ok());
                let date_time = kept(words.next());
                self.future_release =
                    interval.map(|interval| FutureRelease { interval, date_time });
            }
            "LIMITS" => words.for_each(|word| self.limits.add(word)),
            "AUTH" => words.chain([value]).for_each(|mechanism| {
                self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
            }),
            _ => {}
        }
    }
}

impl PeerLimits {
    /// RFC 9422 4.1: `NAME=value`, and a limit of no recipients would make no sense.
    fn add(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let value = value.parse().ok().filter(|value| *value > 0);
        match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => self.mail_max = value,
            "RCPTMAX" => self.rcpt_max = value,
            "RCPTDOMAINMAX" => self.rcpt_domain_max = value,
            _ => {}
        }
    }
}

fn kept(word: Option<&str>) -> String {
    clipped(word.unwrap_or_default(), WORD_MAX).to_owned()
}
