//! `ringmail resolve …`: where mail for a domain would go, asked in the same way as the server
//! asks.

use std::{path::PathBuf, rc::Rc};

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    control,
    resolver::{Kind, MAIL_PORT, MailHost, Name, Records, Reply, Resolver, TlsDemand, TlsTrouble},
    runtime::shard::{self, ShardContext, ShardOptions},
};

use super::{json, output::print_line, printable};
use crate::cli::{RecordKind, ResolveArguments};

/// Memory that one shard locks for its ring here: it opens no files and few sockets.
const RING_MEMORY: usize = 1 << 20;

/// What was found of one name.
struct Answer {
    json: String,
    text: String,
    is_found: bool,
}

pub fn resolve(arguments: ResolveArguments) -> Result<()> {
    let ResolveArguments { names, kind, host, json, config, set } = arguments;
    let settings = settings(config, &set)?;
    let (servers, worker) = control::dns(&settings.dns_options())?;
    worker.start().context("cannot start a thread for the DNS")?;
    // Where the server itself would be reached counts only for the server.
    let options = settings.resolver_options(Vec::new());
    let life = move |context: ShardContext| async move {
        let resolver = Rc::new(Resolver::new(servers, context.executor.clone(), options));
        let mut answers = Vec::new();
        for name in names {
            answers.push(match kind {
                Some(kind) => records(&resolver, &name, kind.into()).await,
                None if host => one_host(&resolver, &name).await,
                None => exchange(&resolver, &name).await,
            });
        }
        answers
    };
    let shard_options = ShardOptions { io_memory: RING_MEMORY, ..settings.shard_options() };
    let shards = shard::start(&shard_options, vec![life]).context("cannot start a shard")?;
    let lives: Vec<Vec<Answer>> = shards.join().into_iter().collect::<Result<_, _>>()?;
    let mut failed = 0;
    for answer in lives.into_iter().flatten() {
        print_line(if json { answer.json } else { printable_block(&answer.text) })?;
        failed += usize::from(!answer.is_found);
    }
    if failed > 0 {
        bail!("{failed} name(s) without an answer");
    }
    Ok(())
}

fn settings(config: Option<PathBuf>, set: &[String]) -> Result<Settings> {
    Ok(match config {
        Some(path) => Settings::load(&path)?,
        None => Settings::of_overrides(set)?,
    })
}

fn printable_block(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

impl From<RecordKind> for Kind {
    fn from(kind: RecordKind) -> Kind {
        match kind {
            RecordKind::Mx => Kind::Mx,
            RecordKind::A => Kind::A,
            RecordKind::Aaaa => Kind::Aaaa,
            RecordKind::Tlsa => Kind::Tlsa,
            RecordKind::Txt => Kind::Txt,
            RecordKind::Cname => Kind::Cname,
            RecordKind::Sts => Kind::Sts,
        }
    }
}

fn failure(name: &str, what: &str, status: &str) -> Answer {
    let fields = [
        ("name", json::text(name)),
        ("error", json::text(what)),
        ("status", json::text(status)),
        ("permanent", status.starts_with('5').to_string()),
    ];
    let text = format!("{name}: {status} {what}");
    Answer { json: json::object(&fields), text, is_found: false }
}

async fn exchange(resolver: &Resolver, domain: &str) -> Answer {
    let exchange = match resolver.exchange(domain).await {
        Ok(exchange) => exchange,
        Err(trouble) => return failure(domain, &trouble.to_string(), trouble.status()),
    };
    let mut demands = Vec::new();
    for host in &exchange.hosts {
        demands.push(tls(resolver.tls_of_exchange(domain, &exchange, host, MAIL_PORT).await));
    }
    let hosts = exchange.hosts.iter().zip(&demands);
    let hosts: Vec<String> = hosts.map(|(host, tls)| host_json(host, tls)).collect();
    let json = json::object(&[
        ("name", json::text(domain)),
        ("site", json::text(&exchange.site)),
        ("authentic", exchange.authentic.to_string()),
        ("implicit", exchange.implicit.to_string()),
        ("hosts", json::list(&hosts)),
    ]);
    let is = |flag: bool, what: &'static str| if flag { what } else { "" };
    let mut text = format!(
        "{domain}:{}{}",
        is(exchange.authentic, " authentic"),
        is(exchange.implicit, " no MX record, the domain itself")
    );
    for (host, tls) in exchange.hosts.iter().zip(&demands) {
        text.push_str(&format!("\n  {}, {tls}", host_text(host)));
    }
    Answer { json, text, is_found: true }
}

async fn one_host(resolver: &Resolver, name: &str) -> Answer {
    match resolver.host(name).await {
        Ok(host) => {
            let tls = tls(resolver.tls_of_host(&host, MAIL_PORT).await);
            let text = format!("{}, {tls}", host_text(&host));
            Answer { json: host_json(&host, &tls), text, is_found: true }
        }
        Err(trouble) => failure(name, &trouble.to_string(), trouble.status()),
    }
}

/// What a connection to the host must have, in words.
fn tls(demand: Result<TlsDemand, TlsTrouble>) -> String {
    match demand {
        Ok(TlsDemand::Opportunistic) => "TLS if offered".to_owned(),
        Ok(TlsDemand::Dane { records, .. }) => format!("DANE, {} record(s)", records.len()),
        Ok(TlsDemand::Sts { testing: true, .. }) => "MTA-STS, testing".to_owned(),
        Ok(TlsDemand::Sts { .. }) => "MTA-STS".to_owned(),
        Err(trouble) => format!("not now: {} {trouble}", trouble.status()),
    }
}

fn host_json(host: &MailHost, tls: &str) -> String {
    let addresses: Vec<String> =
        host.addresses.iter().map(|address| json::text(&address.to_string())).collect();
    json::object(&[
        ("name", json::text(&host.name)),
        ("preference", host.preference.to_string()),
        ("addresses", json::list(&addresses)),
        ("authentic", host.authentic.to_string()),
        ("canonical", json::optional(host.canonical.as_ref().map(Name::as_str))),
        ("tls", json::text(tls)),
    ])
}

fn host_text(host: &MailHost) -> String {
    let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
    let alias = host.canonical.as_ref().map(|name| format!(" (alias of {name})"));
    format!(
        "{:5} {}{} {}{}",
        host.preference,
        host.name,
        alias.unwrap_or_default(),
        addresses.join(" "),
        if host.authentic { " authentic" } else { "" }
    )
}

/// The records of one kind, as they are.
async fn records(resolver: &Resolver, text: &str, kind: Kind) -> Answer {
    let Ok(name) = Name::parse(text) else {
        return failure(text, "this is not a domain name", "5.1.2");
    };
    match &*resolver.ask(&name, kind).await {
        Reply::Found(found) => {
            let lines = lines(&found.records);
            let quoted: Vec<String> = lines.iter().map(|line| json::text(line)).collect();
            let json = json::object(&[
                ("name", json::text(text)),
                ("kind", json::text(&kind.to_string())),
                ("records", json::list(&quoted)),
                ("authentic", found.authentic.to_string()),
                ("canonical", json::text(found.name.as_str())),
                ("seconds", found.age.as_secs().to_string()),
            ]);
            let flag = if found.authentic { " authentic" } else { "" };
            let mut text = format!("{kind} of {text}:{flag}");
            lines.iter().for_each(|line| text.push_str(&format!("\n  {line}")));
            Answer { json, text, is_found: true }
        }
        Reply::Nothing { exists: true, .. } => failure(text, "no such record", "5.4.4"),
        Reply::Nothing { exists: false, .. } => failure(text, "no such name", "5.1.2"),
        Reply::Failed(why) => failure(text, &why.to_string(), "4.4.3"),
    }
}

fn lines(records: &Records) -> Vec<String> {
    match records {
        Records::Mx(records) => records
            .iter()
            .map(|mx| match &mx.host {
                Some(host) => format!("{} {host}", mx.preference),
                None if mx.is_root => format!("{} .", mx.preference),
                None => format!("{} (no host name)", mx.preference),
            })
            .collect(),
        Records::Addresses(records) => records.iter().map(ToString::to_string).collect(),
        Records::Tlsa(records) => records.iter().map(ToString::to_string).collect(),
        Records::Text(records) => records.clone(),
        Records::Cname(records) => records.iter().map(ToString::to_string).collect(),
        Records::Sts(policy) => policy.lines.clone(),
    }
}
