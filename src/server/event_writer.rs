//! The thread that writes the event log: to standard error or output, the journal, or a file.
//!
//! `server::run` starts it once it has switched to its final user, and ends it last. It takes whole
//! chunks of lines from the queue (`events`), and once a second the directory's reports of password
//! guessing. Senders never wait for it: while it cannot write, the queue fills, and events that do
//! not fit are counted; when there is room again an event `dropped` reports how many.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    directory::SharedDirectory,
    events::{Chunk, Event, EventQueue, EventSender, EventTarget},
};

/// How often the directory is asked for reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of a file after which the kernel is told to write them to the disk. Left to itself it
/// gathers half a minute's, and every commit of the store would then wait behind them: to record
/// that a file has grown, a file system writes what other files have grown by first.
const WRITE_OUT: usize = 256 * 1024;

/// How long the end of the server waits for unwritten events.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The journal's socket (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where lines go.
pub(super) enum Output {
    Stderr,
    Stdout,
    Journal(UnixDatagram),
    File {
        path: PathBuf,
        file: File,
        /// A line may have been written partially.
        torn: bool,
        /// Bytes written since the kernel was last told to write them to the disk.
        unsynced: usize,
    },
}

impl Output {
    pub(super) fn open(target: &EventTarget) -> io::Result<Output> {
        Ok(match target {
            EventTarget::Stderr => Output::Stderr,
            EventTarget::Stdout => Output::Stdout,
            EventTarget::Journal => Output::Journal(journal(Path::new(JOURNAL))?),
            EventTarget::File(path) => Output::File {
                path: path.clone(),
                file: open_file(path)?,
                torn: false,
                unsynced: 0,
            },
        })
    }

    /// Writes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Output::Stderr => io::stderr().write_all(lines),
            Output::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Output::Journal(socket) => {
                lines.split_inclusive(|octet| *octet == b'\n').try_for_each(|line| {
                    // Six is "informational" (RFC 5424 6.2.1).
                    let begin = b"PRIORITY=6\nSYSLOG_IDENTIFIER=ringmail\nMESSAGE=";
                    socket.send(&[begin, line].concat()).map(drop)
                })
            }
            Output::File { file, torn, unsynced, .. } => {
                if *torn {
                    file.write_all(b"\n")?;
                }
                *torn = true;
                file.write_all(lines)?;
                *torn = false;
                *unsynced += lines.len();
                if *unsynced >= WRITE_OUT {
                    *unsynced = 0;
                    // It may be a pipe, or the disk may fail: a log that is only in memory is still
                    // one that can be read.
                    let _ = file.sync_data();
                }
                Ok(())
            }
        }
    }

    /// Reopens the file by name; false if there is none. On an error the old one stays.
    fn reopen(&mut self) -> io::Result<bool> {
        let Output::File { path, file, torn, unsynced } = self else { return Ok(false) };
        (*file, *torn, *unsynced) = (open_file(path)?, false, 0);
        Ok(true)
    }
}

/// Opens for appending; a pipe without a reader is an error at once.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

fn journal(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// Requests of other threads to the writer.
#[derive(Default)]
struct Orders {
    reopen: AtomicBool,
    end: AtomicBool,
}

/// A handle on the thread.
pub(super) struct EventWriter {
    orders: Arc<Orders>,
    sender: EventSender,
    ended: Receiver<()>,
}

impl EventWriter {
    /// Starts the thread. `sender` sends to `queue`.
    pub(super) fn start(
        queue: EventQueue,
        sender: EventSender,
        output: Output,
        directory: &Arc<SharedDirectory>,
    ) -> io::Result<EventWriter> {
        let orders = Arc::<Orders>::default();
        let (alive, ended) = crossbeam_channel::bounded(0);
        let (theirs, tell, directory) = (orders.clone(), sender.clone(), Arc::downgrade(directory));
        thread::Builder::new().name("events".to_owned()).spawn(move || {
            let _alive: Sender<()> = alive;
            let mut writer = Writer { queue, output, told_dropped: 0, failing: false };
            let mut next_look = Instant::now();
            while !theirs.end.load(Ordering::Acquire) || !writer.queue.is_empty() {
                let wait = next_look.saturating_duration_since(Instant::now());
                let chunk = writer.queue.next(wait);
                if theirs.reopen.swap(false, Ordering::AcqRel) {
                    writer.reopen();
                }
                if let Some(chunk) = chunk {
                    writer.write(&chunk);
                }
                if Instant::now() >= next_look {
                    next_look = Instant::now() + LOOK_INTERVAL;
                    writer.tell_dropped();
                    if let Some(directory) = directory.upgrade() {
                        tell_held_back(&directory, &tell);
                    }
                }
            }
            writer.tell_dropped();
        })?;
        Ok(EventWriter { orders, sender, ended })
    }

    /// Asks for the file to be reopened: it was renamed.
    pub(super) fn reopen(&self) {
        self.orders.reopen.store(true, Ordering::Release);
        self.sender.nudge();
    }

    /// Waits until all earlier events are written, up to a time limit.
    pub(super) fn end(&self) {
        self.orders.end.store(true, Ordering::Release);
        self.sender.nudge();
        // The channel closes when the thread ends: nothing is ever sent.
        let _ = self.ended.recv_timeout(END_TIMEOUT);
    }
}

struct Writer {
    queue: EventQueue,
    output: Output,
    /// How many of the dropped events were reported.
    told_dropped: u64,
    /// The last attempt to write failed.
    failing: bool,
}

impl Writer {
    fn write(&mut self, chunk: &Chunk) {
        if chunk.count == 0 {
            return;
        }
        match self.output.write(&chunk.lines) {
            Ok(()) => {
                self.failing = false;
                self.queue.count_written(chunk.count);
                self.tell_dropped();
            }
            Err(error) => {
                self.queue.count_dropped(chunk.count);
                // If standard error is the failing output, this is lost too.
                if !std::mem::replace(&mut self.failing, true) {
                    let _ = writeln!(io::stderr(), "ringmail: events: cannot write: {error}");
                }
            }
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.queue.dropped();
        let count = dropped - self.told_dropped;
        if count == 0 {
            return;
        }
        let chunk = EventQueue::own(&Event::Dropped { count });
        if self.output.write(&chunk.lines).is_ok() {
            self.told_dropped = dropped;
            self.queue.count_written(chunk.count);
        }
    }

    fn reopen(&mut self) {
        let chunk = match self.output.reopen() {
            Ok(false) => return,
            Ok(true) => EventQueue::own(&Event::Reopened {}),
            Err(error) => {
                let text = format!("events: cannot reopen the file: {error}");
                EventQueue::own(&Event::Warning { text: &text })
            }
        };
        self.write(&chunk);
    }
}

/// A flood of guesses must not become a flood of lines: the directory keeps a limited number.
fn tell_held_back(directory: &SharedDirectory, sender: &EventSender) {
    let news = directory.news();
    for held in &news.held_back {
        sender.tell(&Event::LogInHeldBack {
            name: held.name.as_deref(),
            network: held.network,
            failures: u64::from(held.failures),
            milliseconds: held.wait.map(|wait| wait.as_millis() as u64),
        });
    }
    if news.more > 0 {
        sender.tell(&Event::LogInsHeldBack { count: news.more });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        directory::{DirectorySnapshot, PeerLimits},
        events::{Kind, queue},
    };

    fn directory() -> Arc<SharedDirectory> {
        SharedDirectory::new(DirectorySnapshot::demo("demo.test", 0), PeerLimits::default())
    }

    fn start(output: Output) -> (EventWriter, EventSender) {
        let (sender, queue) = queue(Kind::ALL.into_iter().collect());
        let writer = EventWriter::start(queue, sender.clone(), output, &directory()).unwrap();
        (writer, sender)
    }

    /// The names of the events in `text`, which is whole lines.
    fn names(text: &str) -> Vec<&str> {
        let name = |line: &'_ str| -> usize { line.find("\"event\":\"").unwrap() + 9 };
        assert!(text.ends_with('\n'), "{text}");
        text.lines().map(|line| line[name(line)..].split('"').next().unwrap()).collect()
    }

    #[test]
    fn a_file_is_appended_to_and_opened_anew() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("events.log");
        fs::write(&path, "{\"event\":\"before\"}\n").unwrap();
        let (writer, sender) = start(Output::open(&EventTarget::File(path.clone())).unwrap());
        sender.tell(&Event::Ready {});
        while sender.written() < 1 {
            thread::sleep(Duration::from_millis(1));
        }
        let rotated = place.path().join("events.log.1");
        fs::rename(&path, &rotated).unwrap();
        writer.reopen();
        while sender.written() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        sender.tell(&Event::Stop { clean: true });
        writer.end();
        assert_eq!(names(&fs::read_to_string(rotated).unwrap()), ["before", "ready"]);
        assert_eq!(names(&fs::read_to_string(path).unwrap()), ["reopened", "stop"]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_when_it_can() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("events.log");
        // Writes to it fail as on a full disk.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (writer, sender) =
            start(Output::File { path: path.clone(), file, torn: false, unsynced: 0 });
        for _ in 0..3 {
            sender.tell(&Event::Ready {});
        }
        while sender.dropped() < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        writer.reopen();
        writer.end();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(names(&text), ["reopened", "dropped"]);
        assert!(text.ends_with("\"count\":3}\n"), "{text}");
    }

    /// A reader that stops reading delays nobody, and afterwards is told how many events it missed.
    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let (writer, sender) = start(Output::File {
            path: PathBuf::new(),
            file: File::from(pipe),
            torn: false,
            unsynced: 0,
        });
        const TOLD: u64 = 2_000;
        for _ in 0..TOLD {
            sender.tell(&Event::Warning { text: &"x".repeat(300) });
        }
        let lost = sender.dropped();
        assert!(lost > 0, "a pipe has 64 KiB and the queue some chunks");
        let reading = thread::spawn(move || io::read_to_string(File::from(reader)).unwrap());
        writer.end();
        drop(writer);
        drop(sender);
        let text = reading.join().unwrap();
        let names = names(&text);
        let warnings = names.iter().filter(|name| **name == "warning").count() as u64;
        assert_eq!(warnings + lost, TOLD);
        assert!(names.contains(&"dropped"));
    }

    #[test]
    fn the_journal_gets_a_datagram_an_event() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (writer, sender) = start(Output::Journal(journal(&path).unwrap()));
        sender.tell(&Event::Ready {});
        sender.tell(&Event::Stopping {});
        writer.end();
        for name in ["ready", "stopping"] {
            let mut datagram = [0; 4096];
            let length = listener.recv(&mut datagram).unwrap();
            let text = std::str::from_utf8(&datagram[..length]).unwrap();
            let begin = "PRIORITY=6\nSYSLOG_IDENTIFIER=ringmail\nMESSAGE=";
            assert_eq!(names(text.strip_prefix(begin).unwrap()), [name]);
        }
    }
}
