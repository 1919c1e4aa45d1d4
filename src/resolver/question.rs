//! What is asked of the DNS, and what it answers: the seam between a shard and the thread that
//! speaks the protocol.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use super::{Name, StsPolicy};
use crate::{model::Tlsa, runtime::LocalFuture};

/// The kinds of records that mail needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Mx,
    A,
    Aaaa,
    Tlsa,
    Txt,
    /// The alias itself, which is not followed.
    Cname,
    /// No record, but the domain's MTA-STS policy, announced by one and fetched by HTTPS (RFC
    /// 8461).
    Sts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Mx => "MX",
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Tlsa => "TLSA",
            Kind::Txt => "TXT",
            Kind::Cname => "CNAME",
            Kind::Sts => "MTA-STS policy",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    pub name: Name,
    pub kind: Kind,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.kind, self.name)
    }
}

/// The answer to a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Found(Found),
    /// There are no such records. `exists`: the name has records of other kinds, or names below it
    /// (NODATA); else it does not exist (NXDOMAIN).
    Nothing {
        exists: bool,
        /// How long this holds (RFC 2308 5).
        age: Duration,
    },
    Failed(Failure),
}

/// Records, never none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub records: Records,
    /// The name that has them: another than was asked for if that one is an alias (CNAME).
    pub name: Name,
    /// Each record and each alias on the way was authenticated by DNSSEC.
    pub authentic: bool,
    /// The shortest time to live.
    pub age: Duration,
}

/// By the [`Kind`] that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Records {
    Mx(Vec<Mx>),
    /// A or AAAA.
    Addresses(Vec<IpAddr>),
    Tlsa(Vec<Tlsa>),
    /// The strings of a TXT record joined, octets that are not UTF-8 replaced.
    Text(Vec<String>),
    Cname(Vec<Name>),
    Sts(Arc<StsPolicy>),
}

impl Records {
    pub fn is_empty(&self) -> bool {
        match self {
            Records::Mx(records) => records.is_empty(),
            Records::Addresses(records) => records.is_empty(),
            Records::Tlsa(records) => records.is_empty(),
            Records::Text(records) => records.is_empty(),
            Records::Cname(records) => records.is_empty(),
            Records::Sts(_) => false,
        }
    }
}

/// An MX record (RFC 1035 3.3.9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mx {
    /// Lower is better.
    pub preference: u16,
    /// `None` for the root, "no mail here" (RFC 7505), and for what is no host name.
    pub host: Option<Name>,
    pub is_root: bool,
}

/// Why there is no answer. All are temporary: the domain may be all right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The server could not find out: SERVFAIL.
    ServerFailed,
    Refused,
    /// Another response code, of RFC 6895 2.3.
    Code(u16),
    TimedOut,
    /// The server could not be reached, or sent what is not an answer.
    Unreachable,
    /// Signatures are wrong or missing (RFC 4033 5).
    Bogus,
    /// More aliases (CNAME) in a row than we follow, or a loop of them.
    TooManyAliases,
    /// A referral to servers that we do not ask: the configured server does not resolve for us.
    Referral,
    /// Too many queries wait.
    Busy,
    /// No server is configured.
    NoServers,
}

impl Failure {
    /// Whether an answer that is too old is better than this one (RFC 8767 4): not if someone may
    /// be forging answers.
    pub(super) fn allows_stale(self) -> bool {
        self != Failure::Bogus
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::ServerFailed => "SERVFAIL",
            Failure::Refused => "REFUSED",
            Failure::Code(1) => "FORMERR",
            Failure::Code(4) => "NOTIMP",
            Failure::Code(code) => return write!(f, "response code {code}"),
            Failure::TimedOut => "no answer in time",
            Failure::Unreachable => "no server can be reached",
            Failure::Bogus => "DNSSEC validation failed",
            Failure::TooManyAliases => "too many aliases in a row",
            Failure::Referral => "the server does not resolve for us",
            Failure::Busy => "too many queries wait",
            Failure::NoServers => "no DNS server is configured",
        })
    }
}

/// Answers questions, beside the shards. Shared by all of them.
pub trait NameServers: Send + Sync {
    /// Queues `question`; the future is the reply, on the caller's executor. `None` if too many
    /// wait.
    fn ask(&self, question: Question) -> Option<LocalFuture<'static, Reply>>;
}
