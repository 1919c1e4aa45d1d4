//! The floor of an SMTP server's network side: one thread, one epoll set, one recv and one send per
//! round trip. It parses just enough to answer, and discards the text.
//!
//! `benches/smtp_floor.py` runs it in turn with Ringmail; `benches/one_connection.py` uses it as
//! the minimum cost of a round trip. It is a measuring aid without limits and time-outs.
//!
//!     cargo build --release --example smtp_floor && target/release/examples/smtp_floor 32025

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{SockFlag, accept4},
};

const LISTENER: u64 = 0;
const END_OF_TEXT: &[u8] = b"\r\n.\r\n";

struct Client {
    stream: TcpStream,
    in_text: bool,
    /// An unfinished line, or the last octets of the text.
    tail: Vec<u8>,
    replies: Vec<u8>,
    done: bool,
}

impl Client {
    fn new(stream: TcpStream) -> Client {
        let replies = b"220 floor.test ESMTP\r\n".to_vec();
        Client { stream, in_text: false, tail: Vec::new(), replies, done: false }
    }

    fn feed(&mut self, input: &[u8]) {
        let joined;
        let mut rest = input;
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(input);
            joined = std::mem::take(&mut self.tail);
            rest = &joined;
        }
        loop {
            let end = match self.in_text {
                true => memchr::memmem::find(rest, END_OF_TEXT).map(|at| at + END_OF_TEXT.len()),
                false => memchr::memchr(b'\n', rest).map(|at| at + 1),
            };
            let Some(end) = end else {
                let kept = if self.in_text { rest.len().min(4) } else { rest.len() };
                self.tail.extend_from_slice(&rest[rest.len() - kept..]);
                return;
            };
            let (piece, after) = rest.split_at(end);
            rest = after;
            self.replies.extend_from_slice(match piece.get(..4) {
                _ if std::mem::take(&mut self.in_text) => b"250 2.0.0 Ok\r\n",
                Some(b"EHLO" | b"HELO") => b"250-floor.test\r\n250 8BITMIME\r\n",
                Some(b"DATA") => {
                    self.in_text = true;
                    b"354 go on\r\n"
                }
                Some(b"QUIT") => {
                    self.done = true;
                    b"221 2.0.0 bye\r\n"
                }
                _ => b"250 2.0.0 Ok\r\n",
            });
        }
    }

    /// Sends the replies; false if the connection is over.
    fn reply(&mut self) -> bool {
        let sent = self.replies.is_empty() || self.stream.write_all(&self.replies).is_ok();
        self.replies.clear();
        sent && !self.done
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).ok_or("usage: smtp_floor PORT")?.parse::<u16>()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    // A backlog as long as Ringmail's, and options that accepted sockets inherit.
    let socket = socket2::SockRef::from(&listener);
    socket.listen(4096)?;
    socket.set_tcp_nodelay(true)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut clients = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; 65_536];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            let key = event.data();
            if key == LISTENER {
                accept(&listener, &epoll, &mut clients)?;
                continue;
            }
            let Some(client) = clients.get_mut(&key) else { continue };
            let open = match client.stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(read) => {
                    client.feed(&buffer[..read]);
                    client.reply()
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !open {
                clients.remove(&key);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &Epoll,
    clients: &mut HashMap<u64, Client>,
) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    while let Ok(socket) = accept4(listener.as_raw_fd(), flags) {
        // SAFETY: accept4 has just made this descriptor; it has no other owner.
        let socket =
            unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
        let key = socket.as_raw_fd() as u64;
        let watched = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(socket.as_fd(), EpollEvent::new(watched, key))?;
        let mut client = Client::new(socket.into());
        if client.reply() {
            clients.insert(key, client);
        }
    }
    Ok(())
}
