//! Commands about the session itself and its capabilities: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE, NOTIFY, COMPRESS, UNAUTHENTICATE, LANGUAGE, COMPARATOR. Each file has a
//! command's value, its parser and its grammar; the rows are in [`super::table`].

pub mod capability;
pub mod comparator;
pub mod compress;
pub mod enable;
pub mod id;
pub mod idle;
pub mod language;
pub mod logout;
pub mod namespace;
pub mod noop;
pub mod notify;
pub mod unauthenticate;
