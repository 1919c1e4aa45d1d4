//! Commands about how much mail may be kept (RFC 9208 4.1).

mod get_quota;
mod get_quota_root;
mod set_quota;
