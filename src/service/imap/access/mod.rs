//! Commands about who may do what with a mailbox (RFC 4314 3).

mod delete_acl;
mod get_acl;
mod list_rights;
mod my_rights;
mod set_acl;
mod subject;
