//! Both ends of the control socket.

use std::{
    fs,
    future::Future,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};

use crate::runtime::folder::Folder;

/// Longest request line, octets: it may name a thousand messages.
pub const REQUEST_MAX: u64 = 64 * 1024;
/// Longest line of an answer, octets; a longer one comes in pieces.
const LINE_MAX: u64 = 64 * 1024;
/// How long either end waits for the other.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Connections answered at once; others wait.
const CONNECTIONS_MAX: usize = 16;

/// Pause after a connection that could not be accepted: most likely no descriptor was free.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The answer to a request.
pub enum Reply {
    Line(String),
    /// Lines as they come, until the senders are dropped.
    Lines(mpsc::Receiver<String>),
}

/// The caller, as the kernel identifies it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Asker {
    pub uid: Option<u32>,
    pub pid: Option<i32>,
}

/// Answers one request line (without its line end).
pub type Handler = Arc<dyn Fn(&str, Asker) -> Reply + Send + Sync>;

/// Path of the socket of the server on `data_dir`.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Listens at `path`; a socket left by a dead server is replaced (the data directory's lock
/// guarantees that no other one runs).
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests, a few at a time, for as long as the process lives.
pub async fn serve(listener: UnixListener, handler: Handler) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, _) = persist(|| listener.accept()).await;
        // Fails only on a closed semaphore, and ours is never closed.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let handler = handler.clone();
        tokio::spawn(async move {
            // One caller's broken pipe does not concern the others.
            let _ = answer(stream, &handler).await;
            drop(seat);
        });
    }
}

/// The first success of `accept`. A process that is out of descriptors gets some back when sessions
/// end; if it stopped listening, it would be unreachable until the next start.
async fn persist<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
    }
}

async fn answer(stream: UnixStream, handler: &Handler) -> io::Result<()> {
    let credentials = stream.peer_cred().ok();
    let asker =
        Asker { uid: credentials.map(|it| it.uid()), pid: credentials.and_then(|it| it.pid()) };
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = AsyncBufReader::new(reader.take(REQUEST_MAX));
    tokio::time::timeout(TIMEOUT, reader.read_line(&mut line)).await??;
    let mut write = async |mut line: String| {
        line.push('\n');
        tokio::time::timeout(TIMEOUT, writer.write_all(line.as_bytes())).await?
    };
    match handler(line.trim_end(), asker) {
        Reply::Line(reply) => write(reply).await,
        Reply::Lines(mut lines) => {
            while let Some(reply) = lines.recv().await {
                write(reply).await?;
            }
            Ok(())
        }
    }
}

/// Sends a request to the server that runs on the data directory `folder`; `None` if none does.
pub fn request(folder: &Folder, line: &str) -> io::Result<Option<String>> {
    let Some(mut stream) = connect(folder)? else { return Ok(None) };
    stream.set_read_timeout(Some(TIMEOUT))?;
    writeln!(stream, "{line}")?;
    let mut reply = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut reply)?;
    Ok(Some(reply.trim_end().to_owned()))
}

/// Sends a request to the server that runs on the data directory `folder` and passes each line of
/// the answer to `each`, until that fails; false if none runs. Gives up on a server that is silent
/// for `silence_max`.
///
/// The listener might not be our server: `each` limits what it keeps.
pub fn stream(
    folder: &Folder,
    line: &str,
    silence_max: Duration,
    each: &mut dyn FnMut(&str) -> io::Result<()>,
) -> io::Result<bool> {
    let Some(mut stream) = connect(folder)? else { return Ok(false) };
    stream.set_read_timeout(Some(silence_max))?;
    writeln!(stream, "{line}")?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut reply = String::new();
        if reader.by_ref().take(LINE_MAX).read_line(&mut reply)? == 0 {
            return Ok(true);
        }
        each(reply.trim_end_matches(['\r', '\n']))?;
    }
}

/// Connects as the folder's owner, who may have put a link to another user's socket there.
fn connect(folder: &Folder) -> io::Result<Option<BlockingUnixStream>> {
    let path = path(folder.path());
    let stream = match folder.act(|| BlockingUnixStream::connect(path)).map_err(io::Error::other)? {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(Some(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_not_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut failures = 2;
        let accepted = runtime.block_on(persist(|| {
            failures -= 1;
            let full = failures >= 0;
            let error = || io::Error::from_raw_os_error(libc::EMFILE);
            async move { if full { Err(error()) } else { Ok(7) } }
        }));
        assert_eq!((accepted, failures), (7, -1));
    }

    #[test]
    fn asks_and_is_answered() {
        let place = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(place.path()).unwrap());
        assert_eq!(request(&folder, "reload").unwrap(), None);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(&path(place.path())).unwrap();
            let handler: Handler = Arc::new(|line, asker| {
                assert_eq!(asker.pid, Some(std::process::id() as i32));
                if line != "count" {
                    return Reply::Line(format!("got {line}"));
                }
                let (sender, lines) = mpsc::channel(3);
                (1..=3).for_each(|n| sender.try_send(n.to_string()).unwrap());
                Reply::Lines(lines)
            });
            tokio::spawn(serve(listener, handler));
            let asked = folder.clone();
            let reply =
                tokio::task::spawn_blocking(move || request(&asked, "reload").unwrap()).await;
            assert_eq!(reply.unwrap().as_deref(), Some("got reload"));
            let counted = tokio::task::spawn_blocking(move || {
                let mut lines = Vec::new();
                let asked = stream(&folder, "count", TIMEOUT, &mut |line| {
                    lines.push(line.to_owned());
                    match line {
                        "2" => Err(io::ErrorKind::FileTooLarge.into()),
                        _ => Ok(()),
                    }
                });
                (asked.unwrap_err().kind(), lines)
            });
            let (why, lines) = counted.await.unwrap();
            assert_eq!(
                (why, lines.as_slice()),
                (io::ErrorKind::FileTooLarge, ["1", "2"].map(String::from).as_slice())
            );
        });
    }
}
