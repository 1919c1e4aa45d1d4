//! Sessions counted by recipient domain, policy and failure, in the form in which the report has
//! them (RFC 8460 4.4).
//!
//! Memory is bounded whatever the domains of the world publish: [`DOMAINS_MAX`], [`POLICIES_MAX`],
//! [`DETAILS_MAX`] and [`OCTETS_MAX`]. What is over a limit is still counted, in less detail: a
//! failure without its hosts, a session under a policy without its text. Sessions of domains that
//! do not fit any more are only counted together.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Recipient domains of a day.
pub const DOMAINS_MAX: usize = 10_000;

/// Policies of a domain in a day: for DANE there is one for each host.
pub const POLICIES_MAX: usize = 16;

/// Different failures under one policy in a day.
pub const DETAILS_MAX: usize = 100;

/// Octets of all that is kept of a day, about.
pub const OCTETS_MAX: usize = 16 << 20;

/// Days that are kept apart; what is older is dropped.
pub const DAYS_MAX: usize = 4;

/// Octets of a policy's text: later lines are left out.
const POLICY_OCTETS_MAX: usize = 4096;

/// Octets of a value that another host has said.
const VALUE_MAX: usize = 256;

/// Octets of an entry besides its text.
const ENTRY: usize = 96;

/// What kind of policy a session was under (RFC 8460 4.4, "policy-type").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    Tlsa,
    Sts,
    NoPolicyFound,
}

/// The policy that sessions were under.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    #[serde(rename = "policy-type")]
    pub kind: PolicyKind,
    /// The lines of an MTA-STS policy, or TLSA records as in a zone file.
    #[serde(rename = "policy-string", default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// Whose policy it is; for DANE the TLSA base domain (RFC 7672 2.2.3).
    #[serde(rename = "policy-domain")]
    pub domain: String,
    /// The `mx` patterns of an MTA-STS policy.
    #[serde(rename = "mx-host", default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

impl Policy {
    /// Of a domain that has none.
    pub fn none(domain: &str) -> Policy {
        Policy::without_text(PolicyKind::NoPolicyFound, domain)
    }

    /// One whose text is not known.
    pub fn without_text(kind: PolicyKind, domain: &str) -> Policy {
        Policy { kind, lines: Vec::new(), domain: domain.to_owned(), hosts: Vec::new() }
    }

    /// The policy with as much of its text as is kept.
    #[must_use]
    pub fn clipped(mut self) -> Policy {
        for texts in [&mut self.lines, &mut self.hosts] {
            let mut octets = 0;
            texts.retain(|text| {
                octets += text.len();
                octets <= POLICY_OCTETS_MAX
            });
        }
        self
    }

    fn octets(&self) -> usize {
        let texts = self.lines.iter().chain(&self.hosts);
        texts.map(|text| text.len() + 24).sum::<usize>() + self.domain.len() + ENTRY
    }
}

/// What went wrong (RFC 8460 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultType {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    TlsaInvalid,
    DnssecInvalid,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

/// One way in which sessions failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    pub result_type: ResultType,
    /// Our own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending_mta_ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_mx_hostname: Option<String>,
    /// Its name in its greeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_mx_helo: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason_code: Option<String>,
}

impl Failure {
    /// One of which no more is known.
    pub fn of(result_type: ResultType) -> Failure {
        Failure {
            result_type,
            sending_mta_ip: None,
            receiving_mx_hostname: None,
            receiving_mx_helo: None,
            receiving_ip: None,
            failure_reason_code: None,
        }
    }

    fn clipped(mut self) -> Failure {
        let texts = [
            &mut self.receiving_mx_hostname,
            &mut self.receiving_mx_helo,
            &mut self.failure_reason_code,
        ];
        for text in texts.into_iter().flatten() {
            let mut end = text.len().min(VALUE_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.retain(|character| !character.is_control());
        }
        self
    }

    fn octets(&self) -> usize {
        let texts =
            [&self.receiving_mx_hostname, &self.receiving_mx_helo, &self.failure_reason_code];
        ENTRY + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// A [`Failure`] and its sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Detail {
    #[serde(flatten)]
    pub failure: Failure,
    #[serde(rename = "failed-session-count")]
    pub sessions: u64,
}

/// The sessions under one policy.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Summary {
    #[serde(rename = "total-successful-session-count")]
    pub successes: u64,
    #[serde(rename = "total-failure-session-count")]
    pub failures: u64,
}

/// All about one policy of a domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyTally {
    pub policy: Policy,
    pub summary: Summary,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failure_details: Vec<Detail>,
}

/// What one recipient domain gets a report about.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Domain {
    pub policies: Vec<PolicyTally>,
}

impl Domain {
    /// The sessions under all its policies.
    pub fn summary(&self) -> Summary {
        self.policies.iter().fold(Summary::default(), |sum, it| Summary {
            successes: sum.successes.saturating_add(it.summary.successes),
            failures: sum.failures.saturating_add(it.summary.failures),
        })
    }

    fn octets(&self) -> usize {
        let of_policy = |it: &PolicyTally| {
            let details = it.failure_details.iter().map(|detail| detail.failure.octets());
            it.policy.octets() + details.sum::<usize>()
        };
        self.policies.iter().map(of_policy).sum()
    }
}

/// The sessions of some time.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Aggregate {
    /// By recipient domain, in A-labels.
    pub domains: BTreeMap<String, Domain>,
    /// Sessions with domains that did not fit.
    #[serde(default)]
    pub not_counted: u64,
    /// About; not kept on disk.
    #[serde(skip)]
    octets: usize,
}

impl Aggregate {
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.not_counted == 0
    }

    /// Counts one session of mail for `domain`; `failure` if TLS failed.
    pub fn record(&mut self, domain: &str, policy: &Policy, failure: Option<Failure>) {
        match failure {
            None => self.add(domain, policy, 1, Vec::new()),
            Some(failure) => self.add(domain, policy, 0, vec![Detail { failure, sessions: 1 }]),
        }
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: Aggregate) {
        self.not_counted = self.not_counted.saturating_add(other.not_counted);
        for (domain, tallies) in other.domains {
            for PolicyTally { policy, summary, failure_details } in tallies.policies {
                self.add(&domain, &policy, summary.successes, failure_details);
            }
        }
    }

    fn add(&mut self, domain: &str, policy: &Policy, successes: u64, details: Vec<Detail>) {
        let is_full = self.octets >= OCTETS_MAX;
        let sum = |before: u64, more: u64| before.saturating_add(more);
        let failures = details.iter().fold(0, |all, detail| sum(all, detail.sessions));
        if !self.domains.contains_key(domain) {
            if is_full || self.domains.len() >= DOMAINS_MAX {
                self.not_counted = sum(self.not_counted, sum(successes, failures));
                return;
            }
            self.octets += domain.len() + ENTRY;
        }
        let tallies = &mut self.domains.entry(domain.to_owned()).or_default().policies;
        let known = tallies.iter().position(|it| it.policy == *policy);
        let at = known.unwrap_or_else(|| {
            let mut new = policy.clone().clipped();
            if is_full || tallies.len() >= POLICIES_MAX {
                new = Policy::without_text(policy.kind, domain);
            }
            tallies.iter().position(|it| it.policy == new).unwrap_or_else(|| {
                self.octets += new.octets();
                tallies.push(PolicyTally {
                    policy: new,
                    summary: Summary::default(),
                    failure_details: Vec::new(),
                });
                tallies.len() - 1
            })
        });
        let Some(tally) = tallies.get_mut(at) else { return };
        tally.summary.successes = sum(tally.summary.successes, successes);
        tally.summary.failures = sum(tally.summary.failures, failures);
        for Detail { failure, sessions } in details {
            let known = &mut tally.failure_details;
            let failure = failure.clipped();
            let mut place = known.iter().position(|it| it.failure == failure);
            let mut new = failure;
            if place.is_none() && (known.len() >= DETAILS_MAX || self.octets >= OCTETS_MAX) {
                new = Failure::of(new.result_type);
                place = known.iter().position(|it| it.failure == new);
            }
            match place.and_then(|at| known.get_mut(at)) {
                Some(detail) => detail.sessions = sum(detail.sessions, sessions),
                None => {
                    self.octets += new.octets();
                    known.push(Detail { failure: new, sessions });
                }
            }
        }
    }

    /// Counts the octets again, after the aggregate was read from disk.
    pub fn measure(&mut self) {
        let of_domain = |(name, domain): (&String, &Domain)| name.len() + ENTRY + domain.octets();
        self.octets = self.domains.iter().map(of_domain).sum();
    }
}

/// The number of a day of UTC, from 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Day(pub u32);

const DAY_SECONDS: u64 = 24 * 3600;

impl Day {
    /// `seconds`: of the Unix clock.
    pub fn of(seconds: u64) -> Day {
        Day(u32::try_from(seconds / DAY_SECONDS).unwrap_or(u32::MAX))
    }

    /// Its first second.
    pub fn begin(self) -> u64 {
        u64::from(self.0) * DAY_SECONDS
    }

    /// The first second after it.
    pub fn end(self) -> u64 {
        self.begin() + DAY_SECONDS
    }
}

/// What was counted, by day.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Collected(BTreeMap<Day, Aggregate>);

impl Collected {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sessions of `day`. A clock that runs wild must not fill memory: of too many days the
    /// oldest are dropped.
    pub fn day(&mut self, day: Day) -> &mut Aggregate {
        while self.0.len() >= DAYS_MAX && !self.0.contains_key(&day) {
            self.0.pop_first();
        }
        self.0.entry(day).or_default()
    }

    pub fn into_days(self) -> impl Iterator<Item = (Day, Aggregate)> {
        self.0.into_iter()
    }
}
