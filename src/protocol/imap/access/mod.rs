//! Commands about who may do what with a mailbox (RFC 4314 3).

pub mod delete_acl;
pub mod get_acl;
pub mod list_rights;
pub mod my_rights;
pub mod set_acl;
