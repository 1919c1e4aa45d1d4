//! Identifiers and values that every layer shares. Plain data: no I/O, no protocol syntax.

mod calendar;
mod class;
mod flag;
mod global;
mod grantees;
mod id;
mod network;
mod quota;
mod rights;
mod seen;
mod special_use;
mod time;
mod tlsa;
mod trail;

pub use calendar::{civil_from_days, days_from_civil, month_days};
pub use class::{ClassCounts, MailClass};
pub use flag::{
    FlagAction, FlagEdit, FlagMask, FlagSet, Flags, KEYWORDS_PER_MAILBOX_MAX, KeywordSet,
};
pub use global::is_global;
pub use grantees::{GRANTEES_OCTETS_MAX, Grantee, Grantees, MalformedGrantees};
pub use id::{AccountId, Lsn, MailboxId, ModSeq, PartitionId, ShardId, Uid, UidValidity};
pub use network::{Network, NotANetwork};
pub use quota::QuotaLimits;
pub use rights::{
    ACCESS_ENTRIES_MAX, ACCESS_LIST_OCTETS_MAX, AccessList, AccessListError, AccountName, Asker,
    Change, IDENTIFIER_MAX, Identifier, IdentifierError, MalformedAccessList, Right, Rights,
    RightsError, Subject, account_number, parse_account_number, rights_stored,
};
pub use seen::{MalformedSeenSet, SEEN_OCTETS_MAX, SeenSet};
pub use special_use::SpecialUse;
pub use time::{Moment, Timestamp};
pub use tlsa::Tlsa;
pub use trail::Trail;
