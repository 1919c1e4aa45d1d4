//! SIGTERM, SIGINT and SIGHUP as callbacks on a plain thread.
//!
//! The handler itself only records the signal (signal-hook); the thread may then do what a signal
//! handler must not: lock, allocate, post to the shards through a `MeshGate`.

use std::{io, thread};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};

/// The action that a signal requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM or SIGINT: finish commands in progress and exit.
    Terminate,
    /// SIGHUP: read users and certificates again.
    Reload,
}

/// The running signal thread; dropping it ends the thread and leaves the signals ignored.
pub struct SignalThread {
    handle: Handle,
}

/// Calls `on_signal` for each signal from now on, one after the other.
pub fn start(mut on_signal: impl FnMut(Signal) + Send + 'static) -> io::Result<SignalThread> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for number in signals.forever() {
            on_signal(if number == SIGHUP { Signal::Reload } else { Signal::Terminate });
        }
    })?;
    Ok(SignalThread { handle })
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_reaches_the_callback() {
        let (sender, received) = crossbeam_channel::unbounded();
        let _thread = start(move |signal| sender.send(signal).unwrap()).unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert_eq!(received.recv(), Ok(Signal::Reload));
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(received.recv(), Ok(Signal::Terminate));
    }
}
