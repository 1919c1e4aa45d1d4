//! Where events go, and which ones; `config` fills it.

use std::path::PathBuf;

use super::{Kind, Kinds};

/// Where the lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTarget {
    Stderr,
    Stdout,
    /// systemd's, each event a record of its own.
    Journal,
    /// Appended to, and reopened on SIGHUP.
    File(PathBuf),
}

impl EventTarget {
    /// By its name in the configuration.
    pub fn named(name: &str) -> EventTarget {
        match name {
            "stderr" => EventTarget::Stderr,
            "stdout" => EventTarget::Stdout,
            "journal" => EventTarget::Journal,
            path => EventTarget::File(PathBuf::from(path)),
        }
    }

    pub fn name(&self) -> String {
        match self {
            EventTarget::Stderr => "stderr".to_owned(),
            EventTarget::Stdout => "stdout".to_owned(),
            EventTarget::Journal => "journal".to_owned(),
            EventTarget::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// The event log's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventOptions {
    pub target: EventTarget,
    pub kinds: Kinds,
}

impl Default for EventOptions {
    /// All but connections: log-ins and messages name the peer, while port scans make only
    /// connections.
    fn default() -> EventOptions {
        let on = |kind: &Kind| *kind != Kind::Connections;
        EventOptions {
            target: EventTarget::Stderr,
            kinds: Kind::ALL.into_iter().filter(on).collect(),
        }
    }
}
