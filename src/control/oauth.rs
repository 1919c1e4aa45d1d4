//! What the issuer of bearer tokens says: its keys (RFC 7517), from a file or by HTTPS, and whose a
//! token is (RFC 7662), by HTTPS. On the control thread; shards ask through [`TokenServer`].
//!
//! Keys are got at the start, every hour, and when a token names a key that is not known, though
//! not more than once a minute: whoever makes up key names causes no traffic. Answers about tokens
//! are remembered for a bounded time, the positive ones only.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::http::{Request, StatusCode, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hashbrown::HashMap;
use http_body_util::{BodyExt, Full, Limited};
use ring::digest;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    dns::{DnsAsker, DnsWorker},
    https::{self, Https, HttpsOptions},
};
use crate::{
    directory::{TokenError, TokenOptions, TokenServer, Tokens, count_keys},
    events::{Event, EventSender},
    protocol::tls_report::{Endpoint, HttpsUrl},
    runtime::{
        LocalFuture,
        folder::read_file,
        worker::{self, Answer},
    },
};

/// How long the issuer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of its keys, and of an answer about a token.
const ANSWER_MAX: usize = 256 * 1024;
const SECRET_FILE_MAX: u64 = 4096;
/// How often its keys are got, after a failure, and at most.
const REFRESH: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(60);
/// Questions that wait, and that are under way.
const WAITING_MAX: usize = 256;
const UNDER_WAY_MAX: usize = 32;
/// Tokens that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// How the issuer is asked; `config` fills it.
#[derive(Clone, Debug)]
pub struct OauthOptions {
    pub tokens: TokenOptions,
    pub keys: Option<KeySource>,
    pub introspection: Option<Introspection>,
    /// How long an answer about a token holds at most.
    pub cache: Duration,
    pub https: HttpsOptions,
}

/// Where the issuer's keys are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeySource {
    File(PathBuf),
    Url(HttpsUrl),
}

/// Where the issuer answers questions about tokens, and who we are there.
#[derive(Clone, Debug)]
pub struct Introspection {
    pub url: HttpsUrl,
    pub client_id: String,
    pub client_secret_file: Option<PathBuf>,
}

/// The setting of each file that cannot be used, and why, with what becomes of it. Blocks: for the
/// start and `check`.
pub fn unusable_token_files(options: &OauthOptions) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if let Some(KeySource::File(path)) = &options.keys
        && let Err(why) = read_keys(path).and_then(|text| count_keys(&text))
    {
        found.push(("oauth.keys", format!("{}: {why}; {WITHOUT_KEYS}", path.display())));
    }
    let secret = options.introspection.as_ref().and_then(|it| it.client_secret_file.as_ref());
    if let Some(path) = secret
        && let Err(error) = read_file(path, SECRET_FILE_MAX)
    {
        let then = "the provider cannot be asked about tokens until it can be read";
        let what = format!("{}: cannot read: {error}; {then}", path.display());
        found.push(("oauth.client_secret_file", what));
    }
    found
}

fn read_keys(path: &Path) -> Result<Vec<u8>, String> {
    read_file(path, ANSWER_MAX as u64).map_err(|error| format!("cannot read: {error}"))
}

enum Job {
    Keys(Answer<()>),
    Introspect(String, Answer<Result<String, TokenError>>),
}

/// Takes questions from the shards.
struct OauthQueue {
    jobs: mpsc::Sender<Job>,
}

impl TokenServer for OauthQueue {
    fn get_keys(&self) -> Option<LocalFuture<'static, ()>> {
        let (answer, awaited) = worker::answer();
        self.jobs.try_send(Job::Keys(answer)).ok()?;
        Some(Box::pin(async move { awaited.await.unwrap_or_default() }))
    }

    fn introspect(&self, token: &str) -> Option<LocalFuture<'static, Result<String, TokenError>>> {
        let (answer, awaited) = worker::answer();
        self.jobs.try_send(Job::Introspect(token.to_owned(), answer)).ok()?;
        Some(Box::pin(async move { awaited.await.unwrap_or(Err(TokenError::Unavailable)) }))
    }
}

/// Answers the questions: runs on the control thread.
pub struct OauthWorker {
    jobs: mpsc::Receiver<Job>,
    issuer: Arc<Issuer>,
    /// Whether the operator knows that the file with the keys cannot be used.
    is_told: bool,
}

struct Issuer {
    options: OauthOptions,
    tokens: Arc<Tokens>,
    https: Https,
    dns: DnsAsker,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
    events: EventSender,
    /// From then on the operator may be told again that it does not answer.
    next_told: Mutex<Option<Instant>>,
}

struct Remembered {
    name: String,
    until: Instant,
}

/// The judge of tokens, and the worker that it asks. `is_told`: the operator knows that
/// [`unusable_token_files`] has the keys' file.
pub fn oauth(
    options: OauthOptions,
    dns: &DnsWorker,
    events: EventSender,
    is_told: bool,
) -> (Arc<Tokens>, OauthWorker) {
    let (sender, jobs) = mpsc::channel(WAITING_MAX);
    let server = Arc::new(OauthQueue { jobs: sender });
    let tokens = Arc::new(Tokens::new(options.tokens.clone(), server));
    let https = Https::new(options.https.clone());
    let issuer = Issuer {
        options,
        tokens: tokens.clone(),
        https,
        dns: dns.asker(),
        remembered: Mutex::default(),
        events,
        next_told: Mutex::default(),
    };
    (tokens, OauthWorker { jobs, issuer: Arc::new(issuer), is_told })
}

impl OauthWorker {
    /// Answers until the process ends.
    pub async fn run(mut self) {
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut next = Instant::now();
        let mut soonest = next;
        loop {
            if self.issuer.options.keys.is_some() && Instant::now() >= next {
                next = Instant::now() + self.refresh().await;
                soonest = Instant::now() + RETRY;
            }
            let job =
                match timeout(next.saturating_duration_since(Instant::now()), self.jobs.recv())
                    .await
                {
                    Ok(Some(job)) => job,
                    Ok(None) => return,
                    Err(_) if self.issuer.options.keys.is_none() => {
                        next = Instant::now() + REFRESH;
                        continue;
                    }
                    Err(_) => continue,
                };
            match job {
                Job::Keys(answer) => {
                    if Instant::now() >= soonest {
                        next = Instant::now() + self.refresh().await;
                        soonest = Instant::now() + RETRY;
                    }
                    answer.give(());
                }
                Job::Introspect(token, answer) => {
                    // The semaphore is never closed.
                    let Ok(place) = places.clone().acquire_owned().await else { return };
                    let issuer = self.issuer.clone();
                    tokio::spawn(async move {
                        if answer.is_awaited() {
                            answer.give(issuer.name_of(&token).await);
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    /// Gets the keys; returns when to get them again. The old ones stay if there are none.
    async fn refresh(&mut self) -> Duration {
        match self.issuer.keys().await.and_then(|text| self.issuer.tokens.set_keys(&text)) {
            Ok(_) => REFRESH,
            Err(error) => {
                // The start has told of a file that it could not read.
                if !std::mem::take(&mut self.is_told) {
                    let text = format!("oauth.keys: {error}; {}", self.issuer.without_keys());
                    self.issuer.events.tell(&Event::Warning { text: &text });
                }
                RETRY
            }
        }
    }
}

/// What becomes of log-ins while the keys' file cannot be used, for people.
const WITHOUT_KEYS: &str = "log-ins by signed tokens fail until it can be used, which is tried \
                                every minute";

impl Issuer {
    fn without_keys(&self) -> &'static str {
        match self.tokens.have_keys() {
            true => "the keys that were there before stay; the next try is in a minute",
            false => WITHOUT_KEYS,
        }
    }

    async fn keys(&self) -> Result<Vec<u8>, String> {
        match &self.options.keys {
            None => Err("no keys are configured".to_owned()),
            Some(KeySource::File(path)) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || {
                    read_keys(&path).map_err(|why| format!("{}: {why}", path.display()))
                });
                read.await.unwrap_or_else(|error| Err(error.to_string()))
            }
            Some(KeySource::Url(url)) => {
                let request = Request::get(url.target.as_str()).body(Full::default());
                let answer = self.exchange(url, request.map_err(|error| error.to_string())?).await;
                answer.map_err(|why| format!("{}: {why}", Endpoint::Https(url.clone())))
            }
        }
    }

    async fn name_of(&self, token: &str) -> Result<String, TokenError> {
        let key = digest::digest(&digest::SHA256, token.as_bytes());
        let key: [u8; 32] = key.as_ref().try_into().unwrap_or_default();
        let now = Instant::now();
        if let Some(found) = self.remembered().get(&key).filter(|it| now < it.until) {
            return Ok(found.name.clone());
        }
        let answer = match self.introspect(token).await {
            Ok(answer) => answer,
            Err(why) => {
                self.tell_unreached(&why);
                return Err(TokenError::Unavailable);
            }
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (name, until) = self.tokens.introspected(&answer, time).map_err(TokenError::Refused)?;
        let left = until.map_or(Duration::MAX, |until| Duration::from_secs(until - time));
        let until = now + left.min(self.options.cache);
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, it| now < it.until);
        }
        // Beyond the limit the issuer is asked each time.
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(key, Remembered { name: name.clone(), until });
        }
        Ok(name)
    }

    /// Tells the operator, at most once a minute.
    fn tell_unreached(&self, why: &str) {
        let Some(asked) = &self.options.introspection else { return };
        let now = Instant::now();
        let mut next = self.next_told.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_some_and(|next| now < next) {
            return;
        }
        *next = Some(now + RETRY);
        let url = Endpoint::Https(asked.url.clone());
        let text = format!("oauth.introspection: {url}: {why}: log-ins by token fail for now");
        self.events.tell(&Event::Warning { text: &text });
    }

    /// RFC 7662 2.1.
    async fn introspect(&self, token: &str) -> Result<Vec<u8>, String> {
        let asked = self.options.introspection.as_ref().ok_or("introspection is not configured")?;
        let Introspection { url, client_id, client_secret_file } = asked;
        let mut request = Request::post(url.target.as_str())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(path) = client_secret_file {
            let secret = read_file(path, SECRET_FILE_MAX);
            let secret = secret.map_err(|error| {
                format!("oauth.client_secret_file: {}: {error}", path.display())
            })?;
            let secret = String::from_utf8_lossy(&secret);
            // RFC 6749 2.3.1.
            let both = format!("{}:{}", form_encoded(client_id), form_encoded(secret.trim_end()));
            let both = format!("Basic {}", STANDARD.encode(both));
            request = request.header(header::AUTHORIZATION, both);
        }
        let mut body = format!("token={}&token_type_hint=access_token", form_encoded(token));
        if client_secret_file.is_none() && !client_id.is_empty() {
            body.push_str(&format!("&client_id={}", form_encoded(client_id)));
        }
        let request = request.body(Full::new(Bytes::from(body)));
        self.exchange(url, request.map_err(|error| error.to_string())?).await
    }

    async fn exchange(
        &self,
        url: &HttpsUrl,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Vec<u8>, String> {
        let host = match url.port {
            443 => url.host.clone(),
            port => format!("{}:{port}", url.host),
        };
        let host = host.parse().map_err(|_| "invalid host".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("ringmail"));
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
        let exchange = async {
            let addresses: Vec<IpAddr> = self.dns.addresses(&url.host).await?;
            let connected = self.https.connect(&url.host, &addresses, url.port).await;
            let stream = connected.map_err(|error| format!("cannot connect: {error}"))?;
            let response = https::exchange(stream, request).await.map_err(|it| it.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("HTTP status {}", response.status()));
            }
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
        };
        timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, octet| {
        match octet {
            b'-' | b'_' | b'.' | b'*' => out.push(octet.into()),
            octet if octet.is_ascii_alphanumeric() => out.push(octet.into()),
            octet => out.push_str(&format!("%{octet:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_are_encoded() {
        assert_eq!(form_encoded("a-b.c_d*E9"), "a-b.c_d*E9");
        assert_eq!(form_encoded("a b&c=d+\u{e9}:/~"), "a%20b%26c%3Dd%2B%C3%A9%3A%2F%7E");
    }
}
