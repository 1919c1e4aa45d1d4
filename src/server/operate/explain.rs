//! `ringmail explain`: a queued message with all that is decided about it, or where mail for an
//! address or domain would go and why.

use std::rc::Rc;

use super::{
    lines::{self, output, problem_json, site_json, site_text},
    live::{Asking, Gone, Shown, shown},
};
use crate::{
    control::json,
    directory::{ALIAS_REJECTED, Destination, Reason, Target},
    model::{AccountId, ShardId},
    queue::{QueueId, SiteFacts},
    runtime::{LocalFuture, mesh::MeshGate},
    service::{
        Shard,
        delivery::{Posting, posting},
        relay::{HostFacts, WayFacts},
    },
};

/// Targets of an alias whose ways are explained.
const TARGETS_MAX: usize = 20;

/// What is to be explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    Message(QueueId),
    Address(String),
    Domain(String),
}

impl Subject {
    /// The name of a message, an address, or a domain.
    pub fn parse(text: &str) -> Option<Subject> {
        if let Ok(id) = text.parse() {
            return Some(Subject::Message(id));
        }
        let text = text.trim_start_matches('<').trim_end_matches('>');
        let fits = !text.is_empty() && !text.chars().any(|it| it.is_control() || it == ' ');
        fits.then(|| match text.contains('@') {
            true => Subject::Address(text.to_owned()),
            false => Subject::Domain(text.to_lowercase()),
        })
    }

    /// The line that asks for it.
    pub fn line(&self, as_json: bool) -> String {
        let subject = match self {
            Subject::Message(id) => id.to_string(),
            Subject::Address(text) | Subject::Domain(text) => text.clone(),
        };
        format!("explain\t{}\t{subject}", if as_json { "json" } else { "text" })
    }

    /// The subject of such a line, and whether JSON is wanted.
    pub fn of_line(line: &str) -> Option<(Subject, bool)> {
        let (form, subject) = line.strip_prefix("explain\t")?.split_once('\t')?;
        Some((Subject::parse(subject)?, form == "json"))
    }
}

/// What the directory says about an address, for people and for programs.
#[derive(Clone, Default, Debug)]
struct Found {
    result: &'static str,
    text: Vec<String>,
    accounts: Vec<AccountId>,
    /// The account of a sub-address, the number of its shard, and the detail.
    detail: Option<(AccountId, u16, String)>,
    /// Addresses elsewhere.
    remote: Vec<String>,
}

/// Answers one request.
pub(in crate::server) async fn explain(
    gate: MeshGate<Shard>,
    subject: Subject,
    as_json: bool,
    lines: tokio::sync::mpsc::Sender<String>,
) {
    let asking = Asking { gate, lines };
    let answer = async {
        match subject {
            Subject::Message(id) => asking.message(id, as_json).await?,
            Subject::Address(address) => asking.address(address, as_json).await?,
            Subject::Domain(domain) => asking.domain(domain, as_json).await?,
        }
        asking.tell(["ok".to_owned()]).await
    };
    // A reader that is gone needs no answer.
    let _ = answer.await;
}

async fn ways(shard: &Shard, destinations: Vec<String>) -> Vec<WayFacts> {
    let mut ways = Vec::new();
    for destination in destinations {
        ways.push(shard.relay().carrier().explain(shard, &destination).await);
    }
    ways
}

fn domain_of(address: &str) -> String {
    crate::queue::domain_of(address).to_lowercase()
}

async fn look_up(shard: Rc<Shard>, address: String) -> (Found, Vec<WayFacts>) {
    let mut found = Found::default();
    let here = |account: AccountId| {
        let (partition, owner) = (shard.partition_of(account), shard.owner_of(account));
        format!("mailbox of account {account}, in partition {partition} of shard {}", owner.0)
    };
    match shard.directory.resolve(&address).await {
        Err(why) => {
            found.result = "unavailable";
            found.text.push(format!("the directory does not answer: {why}"));
        }
        Ok(Destination::Mailbox(account)) => {
            found.result = "mailbox";
            found.text.push(here(account));
            found.accounts.push(account);
        }
        Ok(Destination::Subaddress(account)) => {
            found.result = "mailbox";
            found.text.push(format!("a sub-address: {}", here(account)));
            found.accounts.push(account);
            let detail = shard.directory.detail(&address);
            found.detail = detail.map(|it| (account, shard.owner_of(account).0, it.to_owned()));
        }
        Ok(Destination::Several(targets)) => {
            found.result = "alias";
            for target in targets.iter() {
                match target {
                    Target::Account { account, detail } => {
                        found.text.push(here(*account));
                        found.accounts.push(*account);
                        if let (Some(detail), None) = (detail, &found.detail) {
                            let number = shard.owner_of(*account).0;
                            found.detail = Some((*account, number, detail.to_string()));
                        }
                    }
                    Target::Remote { address, reason } => {
                        let why = match reason {
                            Reason::Alias => "an alias",
                            Reason::Forward => "the account forwards its mail",
                            Reason::CatchAll => "the catch-all of the domain",
                            Reason::Return => "a return path of forwarded mail",
                        };
                        found.text.push(format!("{address} ({why})"));
                        found.remote.push(address.to_string());
                    }
                }
            }
        }
        Ok(Destination::Discard) => {
            found.result = "discard";
            found.text.push("accepted and thrown away".to_owned());
        }
        Ok(Destination::Reject(text)) => {
            found.result = "reject";
            found.text.push(format!("refused for good: 550 {ALIAS_REJECTED} {text}"));
        }
        Ok(Destination::Relay) => {
            found.result = "relay";
            found.text.push("accepted from everybody, for another server".to_owned());
            found.remote.push(address.clone());
        }
        Ok(Destination::UnknownUser) => {
            found.result = "unknown";
            found.text.push("the domain is ours, and has no such address: 550 5.1.1".to_owned());
        }
        Ok(Destination::Foreign) => {
            found.result = "foreign";
            let who = "not ours: accepted from users who logged in and from smtp.relay_networks";
            found.text.push(who.to_owned());
            found.remote.push(address.clone());
        }
    }
    let mut domains: Vec<String> =
        found.remote.iter().take(TARGETS_MAX).map(|it| domain_of(it)).collect();
    domains.sort();
    domains.dedup();
    let ways = ways(&shard, domains).await;
    if found.result == "foreign" && ways.iter().any(|way| way.refused) {
        found.text = vec!["not ours, and refused from everybody".to_owned()];
    }
    (found, ways)
}

impl Asking {
    async fn message(&self, id: QueueId, as_json: bool) -> Result<(), Gone> {
        type Explained = Option<(Shown, Vec<WayFacts>)>;
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, Explained> {
            Box::pin(async move {
                let shown = shown(&shard, id).await?;
                let destinations: Vec<String> =
                    shown.listed.parts.iter().map(|part| part.destination.clone()).collect();
                let ways = ways(&shard, destinations).await;
                Some((shown, ways))
            })
        };
        let found = self.every_shard(question).await?.into_iter().flatten().next();
        let Some((Shown { listed, envelope, sites, now }, ways)) = found else {
            let left = "it was delivered, returned or removed, or never was there";
            let hint = "the event log has its trail";
            return self.tell([format!("!{id}: not in the queue: {left}; {hint}")]).await;
        };
        if !as_json {
            self.tell(lines::shown(&listed, &envelope, &sites, now, false)).await?;
            let ways: Vec<String> = ways.iter().flat_map(|it| output(&way_text(it, &[]))).collect();
            return self.tell(ways).await;
        }
        let shown = lines::shown(&listed, &envelope, &sites, now, true).concat();
        let ways: Vec<String> = ways.iter().map(|way| way_json(way, &[])).collect();
        let shown = shown.strip_prefix('=').unwrap_or("null").to_owned();
        let object = json::object(&[("message", shown), ("ways", json::list(&ways))]);
        self.tell([format!("={object}")]).await
    }

    async fn address(&self, address: String, as_json: bool) -> Result<(), Gone> {
        let asked = address.clone();
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, (Found, Vec<WayFacts>)> {
            Box::pin(look_up(shard, asked))
        };
        let Some((found, ways)) = self.shard(0, question).await? else { return Ok(()) };
        let sites = self.sites(&ways).await?;
        let folder = match found.detail.clone() {
            Some((account, number, detail)) => self.folder(account, number, detail).await?,
            None => None,
        };
        if as_json {
            let remote: Vec<String> = found.remote.iter().map(|it| json::text(it)).collect();
            let accounts: Vec<String> = found.accounts.iter().map(ToString::to_string).collect();
            let ways: Vec<String> =
                ways.iter().zip(&sites).map(|(way, sites)| way_json(way, sites)).collect();
            let object = json::object(&[
                ("address", json::text(&address)),
                ("result", json::text(found.result)),
                ("accounts", json::list(&accounts)),
                ("remote", json::list(&remote)),
                ("folder", folder.as_ref().map_or("null".to_owned(), FolderOfDetail::json)),
                ("ways", json::list(&ways)),
            ]);
            return self.tell([format!("={object}")]).await;
        }
        self.tell(output(&format!("{address}: {}", found.result))).await?;
        let text: Vec<String> =
            found.text.iter().flat_map(|line| output(&format!("  {line}"))).collect();
        self.tell(text).await?;
        if let Some(folder) = folder {
            self.tell(output(&format!("  {}", folder.text()))).await?;
        }
        for (way, sites) in ways.iter().zip(&sites) {
            self.tell(output(&way_text(way, sites))).await?;
        }
        Ok(())
    }

    /// The folder that a sub-address names.
    async fn folder(
        &self,
        account: AccountId,
        number: u16,
        detail: String,
    ) -> Result<Option<FolderOfDetail>, Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, Option<FolderOfDetail>> {
            Box::pin(async move {
                let partition = shard.local_partition(account)?;
                let posting = posting(partition, account, &detail).await.ok()?;
                Some(FolderOfDetail { account, detail, posting })
            })
        };
        Ok(self.shard(number, question).await?.flatten())
    }

    async fn domain(&self, domain: String, as_json: bool) -> Result<(), Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, Vec<WayFacts>> {
            Box::pin(async move { ways(&shard, vec![domain]).await })
        };
        let ways = self.shard(0, question).await?.unwrap_or_default();
        let sites = self.sites(&ways).await?;
        for (way, sites) in ways.iter().zip(&sites) {
            match as_json {
                true => self.tell([format!("={}", way_json(way, sites))]).await?,
                false => self.tell(output(&way_text(way, sites))).await?,
            }
        }
        Ok(())
    }

    /// The state of each way's site, on each shard that has one.
    async fn sites(&self, ways: &[WayFacts]) -> Result<Vec<Vec<(ShardId, SiteFacts)>>, Gone> {
        let mut found = Vec::new();
        for way in ways {
            let name = way.site.clone().unwrap_or_default();
            type There = Option<(ShardId, SiteFacts)>;
            let question = move |shard: Rc<Shard>| -> LocalFuture<'static, There> {
                let name = name.clone();
                Box::pin(async move { Some((shard.id, shard.relay().site_named(&name)?)) })
            };
            found.push(self.every_shard(question).await?.into_iter().flatten().collect());
        }
        Ok(found)
    }
}

/// Where mail to a sub-address goes.
struct FolderOfDetail {
    account: AccountId,
    detail: String,
    posting: Posting,
}

impl FolderOfDetail {
    fn text(&self) -> String {
        let FolderOfDetail { account, detail, posting } = self;
        match posting {
            Posting { folder: None, .. } => {
                format!("account {account} has no folder {detail:?}: mail goes to INBOX")
            }
            Posting { folder: Some(name), anyone: true } => {
                format!("mail goes to the folder {name:?} of account {account}: anyone has p on it")
            }
            Posting { folder: Some(name), anyone: false } => format!(
                "mail from outside goes to INBOX: anyone has no p on the folder {name:?} of account \
                 {account}; what users submit goes there if they have p"
            ),
        }
    }

    fn json(&self) -> String {
        json::object(&[
            ("account", self.account.to_string()),
            ("detail", json::text(&self.detail)),
            ("folder", json::optional(self.posting.folder.as_deref())),
            ("anyone_may_post", self.posting.anyone.to_string()),
        ])
    }
}

fn host_json(host: &HostFacts) -> String {
    let addresses: Vec<String> =
        host.addresses.iter().map(|address| json::text(&address.to_string())).collect();
    json::object(&[
        ("name", json::text(&host.name)),
        ("preference", host.preference.to_string()),
        ("port", host.port.to_string()),
        ("addresses", json::list(&addresses)),
        ("authentic", host.authentic.to_string()),
        ("tls", json::text(&host.tls)),
    ])
}

fn way_json(way: &WayFacts, sites: &[(ShardId, SiteFacts)]) -> String {
    let hosts: Vec<String> = way.hosts.iter().map(host_json).collect();
    let sites: Vec<String> = sites.iter().map(|(_, site)| site_json(site)).collect();
    let problem = way.problem.as_ref();
    let destination = if way.destination.is_empty() { "local" } else { &way.destination };
    json::object(&[
        ("domain", json::text(destination)),
        ("route", json::text(&way.route)),
        ("site", json::optional(way.site.as_deref())),
        ("hosts", json::list(&hosts)),
        ("problem", problem_json(problem.map(|(problem, _)| problem))),
        ("permanent", problem.is_some_and(|(_, permanent)| *permanent).to_string()),
        ("refused", way.refused.to_string()),
        ("sites", json::list(&sites)),
    ])
}

fn way_text(way: &WayFacts, sites: &[(ShardId, SiteFacts)]) -> String {
    let destination = if way.destination.is_empty() { "local" } else { &way.destination };
    let mut text = format!("{destination}\n  route: {}\n", way.route);
    for host in &way.hosts {
        let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
        let authentic = if host.authentic { " (DNSSEC)" } else { "" };
        text.push_str(&format!(
            "  host: {} {} port {}{authentic}: {}\n    {}\n",
            host.preference,
            host.name,
            host.port,
            if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") },
            host.tls
        ));
    }
    if let Some((problem, permanent)) = &way.problem {
        let what = match (way.refused, permanent) {
            (false, true) => "its mail is returned",
            (false, false) => "its mail waits",
            (true, true) => "new mail is refused, what is in the queue is returned",
            (true, false) => "new mail is refused, what is in the queue waits",
        };
        text.push_str(&format!("  {what}: {} {}\n", problem.status, problem.reason));
    }
    match (sites, &way.site) {
        ([], Some(site)) => text.push_str(&format!("  site {site}\n")),
        (sites, _) => {
            for (shard, site) in sites {
                text.push_str(&format!("  on shard {}, {}\n", shard.0, site_text(site)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let id = "0-9-41".parse().unwrap();
        let address = |text: &str| Some(Subject::Address(text.to_owned()));
        let domain = |text: &str| Some(Subject::Domain(text.to_owned()));
        for (text, expected) in [
            ("0-9-41", Some(Subject::Message(id))),
            ("<a+b@X.test>", address("a+b@X.test")),
            ("X.test", domain("x.test")),
            ("1-2", domain("1-2")),
            ("", None),
            ("a\tb", None),
            ("<>", None),
        ] {
            let found = Subject::parse(text);
            assert_eq!(found, expected, "{text}");
            if let Some(subject) = found {
                for json in [false, true] {
                    let line = subject.line(json);
                    assert_eq!(Subject::of_line(&line), Some((subject.clone(), json)));
                }
            }
        }
        assert_eq!(Subject::of_line("explain\tjson"), None);
    }
}
