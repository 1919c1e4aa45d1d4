//! Commands about the session itself and what it may use: CAPABILITY, NOOP, LOGOUT, ID, ENABLE,
//! NAMESPACE, IDLE.

pub(super) mod capability;
pub(super) mod idle;
