//! Commands about the session itself and its capabilities: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE, NOTIFY, COMPRESS, UNAUTHENTICATE, LANGUAGE, COMPARATOR.

mod capability;
mod comparator;
mod compress;
mod enable;
mod id;
mod idle;
mod language;
mod logout;
mod namespace;
mod noop;
mod notify;
mod unauthenticate;
