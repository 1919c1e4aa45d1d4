//! Quotas of accounts, as operators see and change them: what `ringmail quota` sends over the
//! control socket, and the answers of a running server, on the control thread, which asks the
//! shards of the accounts.
//!
//! The lines are those of `request`.

use std::{collections::BTreeMap, rc::Rc};

use tokio::sync::mpsc;

use super::{
    acl::{Owner, owner},
    live::{Asking, Gone},
};
use crate::{
    control::json,
    model::{AccountId, QuotaLimits},
    runtime::{LocalFuture, mesh::MeshGate},
    service::{Shard, access::By, quota},
    store::{StoreError, Usage},
};

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuotaVerb {
    /// An account; all for which limits were set.
    List { account: Option<String> },
    /// What is not limited here has no limit.
    Set { account: String, limits: QuotaLimits },
    /// Back to the default.
    Remove { account: String },
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotaRequest {
    pub verb: QuotaVerb,
    pub json: bool,
}

impl QuotaRequest {
    /// The line that asks for it. Control characters, which no name has, end up as spaces.
    pub fn line(&self) -> String {
        let (verb, account, limits) = match &self.verb {
            QuotaVerb::List { account } => ("list", account.as_deref(), QuotaLimits::default()),
            QuotaVerb::Set { account, limits } => ("set", Some(account.as_str()), *limits),
            QuotaVerb::Remove { account } => {
                ("remove", Some(account.as_str()), QuotaLimits::default())
            }
        };
        let mut line = format!("quota\t{verb}");
        let limit = |limit: Option<u64>| limit.map(|limit| limit.to_string());
        let fields = [
            ("account", account.map(|it| it.replace(char::is_control, " "))),
            ("octets", limit(limits.octets)),
            ("messages", limit(limits.messages)),
            ("json", self.json.then(|| "1".to_owned())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                line.push_str(&format!("\t{name}={value}"));
            }
        }
        line
    }

    /// `None` for anything else.
    pub fn parse(line: &str) -> Option<QuotaRequest> {
        let mut parts = line.split('\t');
        let (Some("quota"), Some(verb)) = (parts.next(), parts.next()) else { return None };
        let mut fields = BTreeMap::new();
        for part in parts {
            let (name, value) = part.split_once('=')?;
            if fields.insert(name, value).is_some() {
                return None;
            }
        }
        let json = fields.remove("json").is_some();
        let account = fields.remove("account").map(str::to_owned);
        let verb = match verb {
            "list" => QuotaVerb::List { account },
            "set" => {
                let mut limit = |name: &str| match fields.remove(name) {
                    Some(value) => value.parse().ok().map(Some),
                    None => Some(None),
                };
                let limits = QuotaLimits { octets: limit("octets")?, messages: limit("messages")? };
                QuotaVerb::Set { account: account?, limits }
            }
            "remove" => QuotaVerb::Remove { account: account? },
            _ => return None,
        };
        fields.is_empty().then_some(QuotaRequest { verb, json })
    }
}

/// Answers one request; `uid` is that of who asked.
pub(in crate::server) async fn answer(
    gate: MeshGate<Shard>,
    request: QuotaRequest,
    uid: Option<u64>,
    lines: mpsc::Sender<String>,
) {
    let asking = Asking { gate, lines };
    // A reader that is gone needs no answer.
    let _ = asking.answer_quota(request, uid).await;
}

/// What is done with an account.
#[derive(Clone, Copy)]
enum Work {
    Show,
    /// `None`: the default.
    Set(Option<QuotaLimits>, Option<u64>),
}

impl Asking {
    async fn answer_quota(&self, request: QuotaRequest, uid: Option<u64>) -> Result<(), Gone> {
        let as_json = request.json;
        let (account, work) = match request.verb {
            QuotaVerb::List { account: None } => {
                self.list_quotas(as_json).await?;
                return self.tell(["ok".to_owned()]).await;
            }
            QuotaVerb::List { account: Some(account) } => (account, Work::Show),
            QuotaVerb::Set { account, limits } => {
                if limits.octets == Some(0) || limits.messages == Some(0) {
                    let note = format!(
                        "#{account}: 0 is a limit here, as in SETQUOTA: the account takes no mail; \
                         for no limit leave the option out"
                    );
                    self.tell([note]).await?;
                }
                (account, Work::Set(Some(limits), uid))
            }
            QuotaVerb::Remove { account } => (account, Work::Set(None, uid)),
        };
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, _> {
            Box::pin(async move {
                let owner = owner(&shard, &account).await?;
                let number = shard.owner_of(owner.account).0;
                Ok::<_, String>((owner, number))
            })
        };
        match self.shard(0, question).await? {
            Some(Ok((owner, number))) => self.work_on(number, owner, work, as_json).await?,
            Some(Err(why)) => self.tell([format!("!{why}")]).await?,
            None => {}
        }
        self.tell(["ok".to_owned()]).await
    }

    async fn list_quotas(&self, as_json: bool) -> Result<(), Gone> {
        let mut is_empty = true;
        for number in 0..self.gate.shard_count() {
            let question = |shard: Rc<Shard>| -> LocalFuture<'static, _> {
                Box::pin(async move {
                    let mut accounts = Vec::new();
                    for partition in shard.partitions.iter().flatten() {
                        match partition.account_as_it_is(AccountId::SHARES).await {
                            Ok(index) => accounts.extend(index.accounts_with_quota()),
                            Err(error) => return Err(format!("{}: {error}", partition.id())),
                        }
                    }
                    Ok(accounts)
                })
            };
            let accounts = match self.shard(number, question).await? {
                Some(Ok(accounts)) => accounts,
                Some(Err(why)) => {
                    self.tell([format!("!partition {why}")]).await?;
                    continue;
                }
                None => continue,
            };
            for (account, _) in accounts {
                is_empty = false;
                let owner = Owner::of(account);
                self.work_on(number, owner, Work::Show, as_json).await?;
            }
        }
        if is_empty {
            let note = "#no account has a quota of its own; \"quota list ADDRESS\" shows what an \
                        account may have by default";
            self.tell([note.to_owned()]).await?;
        }
        Ok(())
    }

    /// Asks the account's shard, and tells what it says.
    async fn work_on(
        &self,
        number: u16,
        mut owner: Owner,
        work: Work,
        as_json: bool,
    ) -> Result<(), Gone> {
        let question = move |shard: Rc<Shard>| -> LocalFuture<'static, String> {
            Box::pin(async move {
                if owner.name.is_none() {
                    owner.name = shard.directory.name_of(owner.account);
                }
                match carry_out(&shard, &owner, work).await {
                    Ok(usage) => line(&shard, &owner, usage, as_json),
                    Err(why) => format!("!{}: {why}", owner.told()),
                }
            })
        };
        let line = self.shard(number, question).await?;
        self.tell(line).await
    }
}

async fn carry_out(shard: &Shard, owner: &Owner, work: Work) -> Result<Usage, String> {
    let Some(partition) = shard.local_partition(owner.account) else {
        return Err("not available now".to_owned());
    };
    let failed = |error: StoreError| error.to_string();
    if let Work::Set(limits, uid) = work {
        let by = By::Operator { uid };
        quota::set(shard, partition, owner.account, limits, by).await.map_err(failed)?;
    }
    let account = partition.account_as_it_is(owner.account).await.map_err(failed)?;
    Ok(account.usage())
}

fn line(shard: &Shard, owner: &Owner, usage: Usage, as_json: bool) -> String {
    let own = shard.quotas.own(owner.account);
    let Usage { messages, octets, limits } = usage;
    if as_json {
        let limit = |of: fn(QuotaLimits) -> Option<u64>| {
            own.and_then(of).map_or_else(|| "null".to_owned(), |limit| limit.to_string())
        };
        let mut fields = owner.account_fields();
        fields.extend([
            ("octets", octets.to_string()),
            ("octets_max", limits.octets.to_string()),
            ("messages", messages.to_string()),
            ("messages_max", limits.messages.to_string()),
            ("is_set", own.is_some().to_string()),
            ("octets_set", limit(|own| own.octets)),
            ("messages_set", limit(|own| own.messages)),
        ]);
        return format!("={}", json::object(&fields));
    }
    let size = |octets: u64| bytesize::ByteSize(octets).display().iec().to_string();
    let whose = if own.is_some() { "set for it" } else { "by default" };
    format!(
        "={}: {} of {}, {messages} of {} messages, {}% used ({whose})",
        owner.told(),
        size(octets),
        size(limits.octets),
        limits.messages,
        usage.percent(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        let limits = QuotaLimits { octets: Some(u64::MAX - 1), messages: None };
        for verb in [
            QuotaVerb::List { account: None },
            QuotaVerb::List { account: Some("a@b".to_owned()) },
            QuotaVerb::Set { account: "ü x".to_owned(), limits },
            QuotaVerb::Set { account: "a".to_owned(), limits: QuotaLimits::default() },
            QuotaVerb::Remove { account: "a@b".to_owned() },
        ] {
            for json in [false, true] {
                let request = QuotaRequest { verb: verb.clone(), json };
                assert_eq!(QuotaRequest::parse(&request.line()), Some(request));
            }
        }
    }

    #[test]
    fn nothing_else_is_understood() {
        for line in [
            "",
            "quota",
            "quota\tdrop",
            "quota\tset",
            "quota\tremove",
            "quota\tset\taccount=a\toctets=x",
            "quota\tset\taccount=a\toctets=-1",
            "quota\tlist\tcolour=red",
            "quota\tlist\taccount=a\taccount=b",
            "quota\tremove\taccount=a\toctets=1",
            "acl\tlist",
        ] {
            assert_eq!(QuotaRequest::parse(line), None, "{line:?}");
        }
        let account = Some("x\tjson=1\n".to_owned());
        let line = QuotaRequest { verb: QuotaVerb::List { account }, json: false }.line();
        assert_eq!(line, "quota\tlist\taccount=x json=1 ");
    }
}
