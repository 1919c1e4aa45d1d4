//! Both ends of the control socket.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingUnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader},
    net::{UnixListener, UnixStream},
};

/// Longest request line, octets.
const REQUEST_MAX: u64 = 4096;
/// How long either end waits for the other.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one request line (without its line end) with one line.
pub type Handler = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Listens at `path`; a socket left by a server that died is replaced (the data directory's lock
/// says that none runs).
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests one after the other: each is short, and its caller waits.
pub async fn serve(listener: UnixListener, handler: Handler) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // One caller's broken pipe is its own affair.
        let _ = tokio::time::timeout(TIMEOUT, answer(stream, &handler)).await;
    }
}

async fn answer(stream: UnixStream, handler: &Handler) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    AsyncBufReader::new(reader.take(REQUEST_MAX)).read_line(&mut line).await?;
    let mut reply = handler(line.trim_end());
    reply.push('\n');
    writer.write_all(reply.as_bytes()).await
}

/// Asks the server that listens at `path`; `None` when none does.
pub fn request(path: &Path, line: &str) -> io::Result<Option<String>> {
    let mut stream = match BlockingUnixStream::connect(path) {
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
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    writeln!(stream, "{line}")?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(Some(reply.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_and_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        assert_eq!(request(&path, "reload").unwrap(), None);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(&path).unwrap();
            let handler: Handler = Arc::new(|line| format!("got {line}"));
            tokio::spawn(serve(listener, handler));
            let asked = path.clone();
            let reply =
                tokio::task::spawn_blocking(move || request(&asked, "reload").unwrap()).await;
            assert_eq!(reply.unwrap().as_deref(), Some("got reload"));
        });
    }
}
