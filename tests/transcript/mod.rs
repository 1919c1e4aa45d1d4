//! Parses and plays the dialogues under `tests/transcripts/` (the README there has the format).
//!
//! Used by `tests/{smtp,pop3,imap}_transcripts.rs`, which supply a [`World`]: how to open a
//! connection. Nothing here knows a protocol, a runtime or a store.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// One client connection as the player sees it.
pub trait Peer {
    /// Passes `bytes` to the server as one piece: a read on the other side ends with them.
    fn send(&mut self, bytes: &[u8]);
    /// Lets the server process everything sent so far; over sockets it may do nothing.
    fn settle(&mut self);
    /// Waits for output of the server and takes it; empty once the server closed.
    fn receive(&mut self) -> Vec<u8>;
    /// Becomes a TLS client on this connection.
    fn start_tls(&mut self);
}

/// The source of connections. One world is created for each run of a file.
pub trait World {
    /// Opens the connection called `name`.
    fn connect(&mut self, name: &str) -> Box<dyn Peer>;
    /// Lets virtual time pass.
    fn wait(&mut self, seconds: u64);
}

/// How the client's octets are cut into pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// Everything pipelined comes as one piece.
    Whole,
    /// Every octet alone.
    Every,
    /// Cut in two after this many octets of the client's octets in this file.
    At(usize),
}

/// One parsed file.
pub struct Transcript {
    pub path: PathBuf,
    settings: HashMap<String, String>,
    steps: Vec<(usize, Step)>,
}

enum Step {
    Send(Vec<u8>),
    Expect(String),
    SkipTo(String),
    Close,
    On(String),
    StartTls,
    StartDeflate,
    EndDeflate,
    Wait(u64),
}

impl Transcript {
    /// All files of a folder under `tests/transcripts/`, by name.
    pub fn folder(folder: &str) -> Vec<Transcript> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(folder);
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&root)
            .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
            .map(|entry| entry.expect("directory entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect();
        paths.sort();
        paths.into_iter().map(Transcript::read).collect()
    }

    fn read(path: PathBuf) -> Transcript {
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Transcript::parse(path, &text)
    }

    pub fn parse(path: PathBuf, text: &str) -> Transcript {
        let mut transcript = Transcript { path, settings: HashMap::new(), steps: Vec::new() };
        for (index, line) in text.split('\n').enumerate() {
            let number = index + 1;
            if let Some(setting) = line.strip_prefix("@set ") {
                assert!(transcript.steps.is_empty(), "line {number}: @set after the first step");
                let (name, value) = setting.split_once(' ').expect("@set name value");
                transcript.settings.insert(name.to_owned(), value.trim().to_owned());
            } else if let Some(step) = parse_step(line)
                .unwrap_or_else(|what| panic!("{}:{number}: {what}", transcript.path.display()))
            {
                transcript.steps.push((number, step));
            }
        }
        transcript
    }

    /// The value of `@set name`, if the file has one.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Octets the client sends: the range for `Split::At`.
    pub fn client_octets(&self) -> usize {
        self.steps
            .iter()
            .map(|(_, step)| if let Step::Send(bytes) = step { bytes.len() } else { 0 })
            .sum()
    }

    /// Plays the file once; panics with file and line if the server's output differs.
    pub fn play(&self, world: &mut dyn World, split: Split) {
        let mut player = Player {
            transcript: self,
            world,
            split,
            sent: 0,
            connections: HashMap::new(),
            current: "main".to_owned(),
            pipelined: Vec::new(),
            captures: HashMap::new(),
            line: 0,
        };
        for (number, step) in &self.steps {
            player.line = *number;
            player.step(step);
        }
        player.flush();
    }
}

fn parse_step(line: &str) -> Result<Option<Step>, String> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Ok(Some(match word {
        "C:" => Step::Send([rest.as_bytes(), b"\r\n"].concat()),
        "C-RAW:" => Step::Send(unescape(rest)?),
        "C-REPEAT:" => {
            let (count, text) = rest.split_once(' ').ok_or("C-REPEAT: n text")?;
            let count = count.parse::<usize>().map_err(|error| error.to_string())?;
            Step::Send(unescape(text)?.repeat(count))
        }
        "S:" => Step::Expect(rest.to_owned()),
        "S-SKIP:" => Step::SkipTo(rest.to_owned()),
        "S-CLOSE" => Step::Close,
        "@on" => Step::On(rest.trim().to_owned()),
        "@tls" => Step::StartTls,
        "@deflate" => Step::StartDeflate,
        "@plain" => Step::EndDeflate,
        "@wait" => Step::Wait(rest.trim().parse().map_err(|_| "@wait seconds".to_owned())?),
        _ => return Err(format!("not a transcript line: {line:?}")),
    }))
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .ok_or("\\x needs two hexadecimal digits")?
            }
            _ => return Err("unknown escape".to_owned()),
        });
    }
    Ok(bytes)
}

struct Player<'a> {
    transcript: &'a Transcript,
    world: &'a mut dyn World,
    split: Split,
    sent: usize,
    connections: HashMap<String, Open>,
    current: String,
    /// The client's output before it next reads.
    pipelined: Vec<u8>,
    captures: HashMap<String, String>,
    line: usize,
}

/// A connection and what it received beyond the lines already compared.
struct Open {
    peer: Box<dyn Peer>,
    unread: Vec<u8>,
    deflate: Option<Deflate>,
}

/// The client's side of compression (RFC 4978).
struct Deflate {
    compress: Compress,
    decompress: Decompress,
}

impl Open {
    fn send(&mut self, bytes: &[u8]) {
        let Some(Deflate { compress, .. }) = &mut self.deflate else {
            return self.peer.send(bytes);
        };
        let mut sealed = Vec::with_capacity(bytes.len() + 1024);
        compress.compress_vec(bytes, &mut sealed, FlushCompress::Sync).expect("compressed");
        self.peer.send(&sealed);
    }

    /// Empty once the server closed.
    fn receive(&mut self) -> Vec<u8> {
        loop {
            let received = self.peer.receive();
            let Some(Deflate { decompress, .. }) = &mut self.deflate else { return received };
            if received.is_empty() {
                return received;
            }
            let mut opened = Vec::with_capacity(1 << 20);
            let sync = FlushDecompress::Sync;
            decompress.decompress_vec(&received, &mut opened, sync).expect("deflate");
            if !opened.is_empty() {
                return opened;
            }
        }
    }
}

impl Player<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(bytes) => {
                let bytes = self.substitute(bytes);
                self.pipelined.extend_from_slice(&bytes);
            }
            Step::Expect(pattern) => {
                let Some(line) = self.read_line() else {
                    self.fail(format_args!("the server closed, expected {pattern:?}"))
                };
                if !matches(pattern, &line, &mut self.captures) {
                    self.fail(format_args!("server said {line:?}, expected {pattern:?}"));
                }
            }
            Step::SkipTo(pattern) => loop {
                let Some(line) = self.read_line() else {
                    self.fail(format_args!("the server closed, expected {pattern:?}"))
                };
                if matches(pattern, &line, &mut self.captures) {
                    break;
                }
            },
            Step::Close => {
                if let Some(line) = self.read_line() {
                    self.fail(format_args!("server said {line:?}, expected it to close"));
                }
            }
            Step::On(name) => {
                self.flush();
                self.current.clone_from(name);
                self.open();
            }
            Step::StartTls => {
                self.flush();
                self.open().peer.start_tls();
            }
            Step::StartDeflate => {
                self.flush();
                let compress = Compress::new(Compression::default(), false);
                let decompress = Decompress::new(false);
                self.open().deflate = Some(Deflate { compress, decompress });
            }
            Step::EndDeflate => {
                self.flush();
                self.open().deflate = None;
            }
            Step::Wait(seconds) => {
                self.flush();
                self.world.wait(*seconds);
            }
        }
    }

    fn fail(&self, what: fmt::Arguments<'_>) -> ! {
        let path = self.transcript.path.display();
        panic!("{path}:{}: {what} (played with {:?})", self.line, self.split)
    }

    fn substitute(&self, bytes: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains("{$") => {
                let mut text = text.to_owned();
                for (name, value) in &self.captures {
                    text = text.replace(&format!("{{${name}}}"), value);
                }
                text.into_bytes()
            }
            _ => bytes.to_vec(),
        }
    }

    fn open(&mut self) -> &mut Open {
        if !self.connections.contains_key(&self.current) {
            let peer = self.world.connect(&self.current);
            self.connections
                .insert(self.current.clone(), Open { peer, unread: Vec::new(), deflate: None });
        }
        self.connections.get_mut(&self.current).expect("just opened")
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.pipelined);
        if bytes.is_empty() {
            return;
        }
        let (split, start) = (self.split, self.sent);
        self.sent += bytes.len();
        let open = self.open();
        match split {
            Split::Every => {
                for byte in &bytes {
                    open.send(std::slice::from_ref(byte));
                    open.peer.settle();
                }
            }
            Split::At(position) if position > start && position < start + bytes.len() => {
                let (first, second) = bytes.split_at(position - start);
                open.send(first);
                open.peer.settle();
                open.send(second);
            }
            Split::Whole | Split::At(_) => open.send(&bytes),
        }
    }

    /// The server's next line without CRLF; `None` once it closed.
    fn read_line(&mut self) -> Option<String> {
        self.flush();
        loop {
            let line = self.line;
            let path = self.transcript.path.display().to_string();
            let open = self.open();
            if let Some(end) = open.unread.iter().position(|&byte| byte == b'\n') {
                let bytes: Vec<u8> = open.unread.drain(..=end).collect();
                let Some(text) = bytes.strip_suffix(b"\r\n") else {
                    panic!("{path}:{line}: the server sent a bare LF after {bytes:?}")
                };
                return Some(String::from_utf8_lossy(text).into_owned());
            }
            let more = open.receive();
            if more.is_empty() {
                assert!(open.unread.is_empty(), "{path}:{line}: half a line before the close");
                return None;
            }
            open.unread.extend_from_slice(&more);
        }
    }
}

/// Whether all of `text` matches. Remembers the text of the named forms.
fn matches(pattern: &str, text: &str, captures: &mut HashMap<String, String>) -> bool {
    let mut found = captures.clone();
    let matched = matches_from(pattern, text, &mut found);
    if matched {
        *captures = found;
    }
    matched
}

fn matches_from(pattern: &str, text: &str, captures: &mut HashMap<String, String>) -> bool {
    let Some((before, kind, name, after)) = next_form(pattern) else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(before) else {
        return false;
    };
    if kind == '$' {
        let value = captures.get(name).cloned().unwrap_or_default();
        return text
            .strip_prefix(value.as_str())
            .is_some_and(|rest| matches_from(after, rest, captures));
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let longest = if kind == '#' { digits } else { text.len() };
    let shortest = usize::from(kind == '#');
    for len in (shortest..=longest).rev().filter(|&len| text.is_char_boundary(len)) {
        let (value, rest) = text.split_at(len);
        let outer = captures.insert(name.to_owned(), value.to_owned());
        if matches_from(after, rest, captures) {
            return true;
        }
        match outer {
            Some(outer) => captures.insert(name.to_owned(), outer),
            None => captures.remove(name),
        };
    }
    false
}

/// Splits a pattern at its first `{*…}`, `{#…}` or `{$…}`: text before, kind, name, the rest.
fn next_form(pattern: &str) -> Option<(&str, char, &str, &str)> {
    for (at, _) in pattern.match_indices('{') {
        let inner = &pattern[at + 1..];
        let Some(kind @ ('*' | '#' | '$')) = inner.chars().next() else { continue };
        let Some(end) = inner.find('}') else { continue };
        let name = &inner[1..end];
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Some((&pattern[..at], kind, name, &inner[end + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        const CASES: &[(&str, &str, bool)] = &[
            ("* OK done", "* OK done", true),
            ("* OK {*}", "* OK [X] done", true),
            ("{5}", "{5}", true),
            ("{5}", "5", false),
            ("{#} EXISTS", "12 EXISTS", true),
            ("{#} EXISTS", " EXISTS", false),
            ("{#a}-{$a}", "12-12", true),
            ("{#a}-{$a}", "12-13", false),
            ("250 {*}x", "250 axbx", true),
            ("250 {*}x", "250 axb", false),
        ];
        for (pattern, text, expected) in CASES {
            assert_eq!(matches(pattern, text, &mut HashMap::new()), *expected, "{pattern} {text}");
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\r\n\x00\\").as_deref(), Ok(&b"a\r\n\0\\"[..]));
        assert!(unescape(r"\q").is_err());
    }
}
