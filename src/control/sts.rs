//! MTA-STS policies of other domains (RFC 8461): fetched by HTTPS, kept in memory and on disk.
//!
//! A policy is fetched when the domain's TXT record names another id than that of the kept one, and
//! some time before that one ends, so that whoever blocks the fetch for a while gains nothing. A
//! kept policy stays in force for its `max_age`, whatever the DNS and the policy server say
//! meanwhile, and also across restarts: that is what protects from a downgrade.
//!
//! On disk: `mta-sts/DOMAIN` in the data directory; the first line is `1 ID FETCHED` (seconds of
//! the Unix clock), the rest the policy file. Files can be deleted while the server is stopped.
//!
//! Owned by the DNS worker, on the control thread.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use hashbrown::HashMap;
use http_body_util::{BodyExt, Empty, Limited};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use super::https::{self, Https, HttpsOptions};
use crate::{
    protocol::tls_report::ResultType,
    resolver::{
        Found, Name, Records, Reply, StsPolicy,
        sts::{POLICY_MAX, announced},
    },
    runtime::folder::{Folder, read_file},
};

/// Policies that are kept; of further domains those are forgotten that end first.
const KEPT_MAX: usize = 20_000;

/// How long a fetch may take, with all addresses of the server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// How long what was found out is the answer, before the TXT record is looked at again.
const ANSWER_AGE: Duration = Duration::from_secs(600);

/// The same after a fetch that failed (RFC 8461 3.3).
const RETRY_AGE: Duration = Duration::from_secs(300);

/// A kept policy is fetched again after this time, or after half its life.
const REFRESH_AGE: Duration = Duration::from_secs(24 * 3600);

/// Octets of the first line of a file.
const HEAD_MAX: usize = 128;

/// How policies are fetched and kept; `config` fills them.
#[derive(Clone, Default, Debug)]
pub struct StsOptions {
    /// Where policies are kept; in memory only if `None`.
    pub folder: Option<PathBuf>,
    /// How policy servers are reached.
    pub https: HttpsOptions,
    /// Where every policy is fetched instead of port 443 of `mta-sts.` and the domain: for tests.
    pub server: Option<SocketAddr>,
}

/// All kept policies.
pub(super) struct Keeper {
    options: StsOptions,
    kept: Mutex<HashMap<Name, Kept>>,
    https: Https,
    watcher: OnceLock<PolicyWatcher>,
}

/// What happened to the policy of a domain.
#[derive(Clone, Copy, Debug)]
pub enum PolicyNews<'a> {
    /// Another policy than before is in force.
    Changed { before: &'a StsPolicy, now: &'a StsPolicy },
    /// The policy that the domain announces could not be fetched. `kept`: one from before is in
    /// force.
    Failed { result: ResultType, reason: &'a str, kept: bool },
}

/// Hears of policies: the domain, the id that it announces, and what happened. Called on the
/// control thread; must not wait.
pub type PolicyWatcher = Box<dyn Fn(&Name, &str, PolicyNews<'_>) + Send + Sync>;

#[derive(Clone)]
struct Kept {
    id: String,
    policy: Arc<StsPolicy>,
    /// Seconds of the Unix clock.
    fetched: u64,
}

impl Kept {
    fn remaining(&self, now: u64) -> Duration {
        self.policy.age.saturating_sub(Duration::from_secs(now.saturating_sub(self.fetched)))
    }

    fn is_young(&self, now: u64) -> bool {
        let age = Duration::from_secs(now.saturating_sub(self.fetched));
        age < REFRESH_AGE.min(self.policy.age / 2)
    }
}

/// Why a policy cannot be fetched, for reports (RFC 8460 4.3).
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no address")]
    NoAddress,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Certificate(std::io::Error),
    #[error("HTTP: {0}")]
    Http(String),
    #[error(transparent)]
    Policy(#[from] crate::resolver::sts::NoPolicy),
    #[error("no answer in time")]
    TimedOut,
}

impl FetchError {
    /// RFC 8460 4.3.2.2.
    fn result(&self) -> ResultType {
        match self {
            FetchError::Certificate(_) => ResultType::StsWebpkiInvalid,
            FetchError::Policy(_) => ResultType::StsPolicyInvalid,
            FetchError::NoAddress
            | FetchError::Connect(_)
            | FetchError::Http(_)
            | FetchError::TimedOut => ResultType::StsPolicyFetchError,
        }
    }
}

impl Keeper {
    /// Reads what is kept on disk.
    pub(super) fn new(options: StsOptions) -> Keeper {
        let kept = options.folder.as_deref().map(load).unwrap_or_default();
        let https = Https::new(options.https.clone());
        Keeper { options, kept: Mutex::new(kept), https, watcher: OnceLock::new() }
    }

    /// From now on `watcher` hears of policies. A second call changes nothing.
    pub(super) fn watch(&self, watcher: PolicyWatcher) {
        let _ = self.watcher.set(watcher);
    }

    fn tell(&self, domain: &Name, id: &str, news: PolicyNews<'_>) {
        if let Some(watcher) = self.watcher.get() {
            watcher(domain, id, news);
        }
    }

    /// The policy in force for `domain`. `records`: the TXT records of `_mta-sts.` and the domain,
    /// `addresses` of the policy server, if it is asked.
    pub(super) async fn policy(
        self: &Arc<Self>,
        domain: &Name,
        records: &[String],
        addresses: impl Future<Output = Vec<IpAddr>> + Send,
    ) -> Reply {
        let kept = self.kept().get(domain).cloned().filter(|it| !it.remaining(now()).is_zero());
        let (id, age) = match (announced(records), &kept) {
            (Some(id), Some(kept)) if kept.id == id && kept.is_young(now()) => (None, ANSWER_AGE),
            (Some(id), _) => (Some(id), ANSWER_AGE),
            (None, Some(_)) => (None, ANSWER_AGE),
            (None, None) => return Reply::Nothing { exists: true, age: ANSWER_AGE },
        };
        let Some(id) = id else { return answer(domain, kept, age) };
        let fetched = timeout(FETCH_TIMEOUT, self.fetch(domain, addresses));
        match fetched.await.unwrap_or(Err(FetchError::TimedOut)) {
            Ok((text, policy)) => {
                let policy = Arc::new(policy);
                if let Some(before) = kept.filter(|before| before.policy != policy) {
                    let news = PolicyNews::Changed { before: &before.policy, now: &policy };
                    self.tell(domain, id, news);
                }
                let new = Kept { id: id.to_owned(), policy, fetched: now() };
                self.keep(domain, new.clone(), text);
                answer(domain, Some(new), age)
            }
            Err(error) => {
                let (result, reason) = (error.result(), error.to_string());
                let kept_one = kept.is_some();
                let news = PolicyNews::Failed { result, reason: &reason, kept: kept_one };
                self.tell(domain, id, news);
                answer(domain, kept, RETRY_AGE)
            }
        }
    }

    async fn fetch(
        &self,
        domain: &Name,
        addresses: impl Future<Output = Vec<IpAddr>> + Send,
    ) -> Result<(String, StsPolicy), FetchError> {
        let host = domain.below("mta-sts").map_err(|_| FetchError::NoAddress)?;
        let connected = match self.options.server {
            Some(server) => self.https.connect_to(host.as_str(), &[server]).await,
            None => {
                let addresses = addresses.await;
                if addresses.is_empty() {
                    return Err(FetchError::NoAddress);
                }
                self.https.connect(host.as_str(), &addresses, 443).await
            }
        };
        let stream = connected.map_err(|error| match https::is_about_certificate(&error) {
            true => FetchError::Certificate(error),
            false => FetchError::Connect(error),
        })?;
        let text = get(stream, host.as_str()).await?;
        let policy = StsPolicy::parse(&text)?;
        Ok((text, policy))
    }

    fn keep(self: &Arc<Self>, domain: &Name, new: Kept, text: String) {
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX && !kept.contains_key(domain) {
            let now = now();
            // In any order: of equal ones it does not matter which goes.
            let first = kept.iter().min_by_key(|(_, it)| it.remaining(now));
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                kept.remove(&name);
                self.on_disk(move |folder| {
                    let _ = std::fs::remove_file(folder.join(name.as_str()));
                });
            }
        }
        let content = format!("1 {} {}\n{text}", new.id, new.fetched);
        kept.insert(domain.clone(), new);
        drop(kept);
        let name = domain.clone();
        self.on_disk(move |folder| {
            // The policy counts while the process lives, also if it cannot be written.
            let _ = Folder::make(folder, None).and_then(|folder| {
                folder.replace(OsStr::new(name.as_str()), content.as_bytes(), None)
            });
        });
    }

    /// Runs `work` where it does not hold up the event loop.
    fn on_disk(self: &Arc<Self>, work: impl FnOnce(&Path) + Send + 'static) {
        let keeper = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(folder) = keeper.options.folder.as_deref() {
                work(folder);
            }
        });
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Name, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(domain: &Name, kept: Option<Kept>, age: Duration) -> Reply {
    match kept {
        Some(kept) => Reply::Found(Found {
            age: age.min(kept.remaining(now())),
            records: Records::Sts(kept.policy),
            name: domain.clone(),
            authentic: false,
        }),
        None => Reply::Nothing { exists: true, age },
    }
}

/// The policy file; redirections are not followed (RFC 8461 3.3).
async fn get(stream: TlsStream<TcpStream>, host: &str) -> Result<String, FetchError> {
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(header::HOST, host)
        .header(header::USER_AGENT, "ringmail")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let answered = https::exchange(stream, request).await;
    let response = answered.map_err(|error| FetchError::Http(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Http(format!("status {}", response.status())));
    }
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media = media.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("text/plain") {
        return Err(FetchError::Http(format!("a policy of type {media:?}")));
    }
    let body = Limited::new(response.into_body(), POLICY_MAX).collect().await;
    let body = body.map_err(|error| FetchError::Http(error.to_string()))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The policies in `folder` that are still in force; deletes the others.
fn load(folder: &Path) -> HashMap<Name, Kept> {
    let mut kept = HashMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return kept };
    let now = now();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(domain) = name.to_str().and_then(|it| Name::parse(it).ok()) else { continue };
        match parse(&entry.path()).filter(|it| !it.remaining(now).is_zero()) {
            Some(policy) if kept.len() < KEPT_MAX => drop(kept.insert(domain, policy)),
            _ => drop(std::fs::remove_file(entry.path())),
        }
    }
    kept
}

fn parse(path: &Path) -> Option<Kept> {
    let bytes = read_file(path, (POLICY_MAX + HEAD_MAX) as u64).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, policy) = text.split_once('\n')?;
    let mut words = head.split(' ');
    let ("1", id, fetched) = (words.next()?, words.next()?, words.next()?) else { return None };
    let policy = Arc::new(StsPolicy::parse(policy).ok()?);
    Some(Kept { id: id.to_owned(), policy, fetched: fetched.parse().ok()? })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const POLICY: &str = "version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 1000\n";

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn kept(age: u64) -> Kept {
        let policy = Arc::new(StsPolicy::parse(POLICY).unwrap());
        Kept { id: "1".to_owned(), policy, fetched: now() - age }
    }

    fn keeper(folder: &Path) -> Arc<Keeper> {
        // Nothing listens at port 9.
        let server = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let options =
            StsOptions { folder: Some(folder.to_owned()), server, ..StsOptions::default() };
        Arc::new(Keeper::new(options))
    }

    fn in_force(keeper: &Arc<Keeper>, domain: &str, records: &[&str]) -> bool {
        let records: Vec<String> = records.iter().map(|&text| text.to_owned()).collect();
        let domain = name(domain);
        let reply = keeper.policy(&domain, &records, ready(Vec::new()));
        matches!(run(reply), Reply::Found(_))
    }

    /// Whoever hides the record, or blocks the policy server, gains nothing while the policy lives;
    /// nor does a restart help.
    #[test]
    fn a_kept_policy_stays_in_force() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("mta-sts");
        let first = keeper(&folder);
        assert!(!in_force(&first, "young.example", &["v=STSv1; id=1"]));
        for (domain, age) in [("young.example", 10), ("old.example", 900), ("ended.example", 1001)]
        {
            run(async {
                first.keep(&name(domain), kept(age), POLICY.to_owned());
            });
        }
        // The runtime's end waits for the files.
        for keeper in [first, keeper(&folder)] {
            for records in [&["v=STSv1; id=1"][..], &["v=STSv1; id=2"], &[]] {
                assert!(in_force(&keeper, "young.example", records), "{records:?}");
                assert!(in_force(&keeper, "old.example", records), "{records:?}");
                assert!(!in_force(&keeper, "ended.example", records), "{records:?}");
                assert!(!in_force(&keeper, "other.example", records), "{records:?}");
            }
        }
        assert!(!folder.join("ended.example").exists(), "deleted at the second start");
    }

    /// The domain's DNS leads into our network.
    #[test]
    fn no_policy_is_fetched_from_a_private_address() {
        let keeper = Arc::new(Keeper::new(StsOptions::default()));
        let (told, heard) = std::sync::mpsc::channel();
        keeper.watch(Box::new(move |_, _, news| {
            if let PolicyNews::Failed { result, reason, .. } = news {
                told.send((result, reason.to_owned())).unwrap();
            }
        }));
        let (domain, records) = (name("a.example"), ["v=STSv1; id=1".to_owned()]);
        let addresses = ready(vec!["169.254.169.254".parse().unwrap()]);
        assert!(matches!(run(keeper.policy(&domain, &records, addresses)), Reply::Nothing { .. }));
        let (result, reason) = heard.recv().unwrap();
        assert_eq!(result, ResultType::StsPolicyFetchError);
        assert!(reason.contains("169.254.169.254 is no address of the Internet"), "{reason}");
    }

    #[test]
    fn files_that_are_no_policies_are_deleted() {
        let place = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("a.example", format!("1 x {}\n{POLICY}", now())),
            ("b.example", format!("2 x {}\n{POLICY}", now())),
            ("c.example", "rubbish".to_owned()),
            ("d.example", String::new()),
            ("e.example", format!("1 x yesterday\n{POLICY}")),
            ("f.example", format!("1 x {}\nversion: STSv1\n", now())),
        ] {
            std::fs::write(place.path().join(file), text).unwrap();
        }
        std::fs::write(place.path().join("g.example"), [0xFF, 0]).unwrap();
        let keeper = keeper(place.path());
        assert_eq!(keeper.kept().len(), 1);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
