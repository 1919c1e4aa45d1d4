//! Commands about the session itself and its capabilities: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE, COMPRESS, UNAUTHENTICATE, LANGUAGE, COMPARATOR.
//! NAMESPACE, IDLE, NOTIFY, COMPRESS, UNAUTHENTICATE, LANGUAGE.

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
