//! Commands about the session itself and its capabilities: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE. Each file has a command's value, its parser and its grammar; the rows are in
//! [`super::table`].

pub mod capability;
pub mod enable;
pub mod id;
pub mod idle;
pub mod logout;
pub mod namespace;
pub mod noop;
