//! Commands about the session itself and its capabilities: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE.

mod capability;
mod enable;
mod id;
mod idle;
mod logout;
mod namespace;
mod noop;
