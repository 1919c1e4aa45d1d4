//! Commands about how much mail may be kept (RFC 9208 4.1).

pub mod get_quota;
pub mod get_quota_root;
pub mod set_quota;
