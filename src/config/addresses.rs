//! Addresses and routes in the configuration: `[addresses]` and the `[[route]]` tables, with the
//! checks that concern several of their keys.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    ConfigProblem, Settings,
    schema::{self, host_and_port},
    sections::https_url,
};
use crate::{
    directory::{
        Destination, DirectoryFiles, DirectoryOptions, DirectorySnapshot, HostOptions, Inbound,
        Master, Password, RouteOptions, RouteTo, SenderOptions, TlsPolicy, socket_path,
    },
    model::Network,
};

const SMTP_PORT: u16 = 25;
const SUBMISSIONS_PORT: u16 = 465;
const LMTP_PORT: u16 = 24;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressesSection {
    /// Characters between a name and the detail of a sub-address.
    pub separators: String,
    /// Pairs "old=new": senders' domains, and what they become on the way out.
    pub rewrite_senders: Vec<String>,
    /// Whether they become that in header fields, too.
    pub rewrite_headers: bool,
    /// Senders whose mail goes out with a return path for each recipient.
    pub verp_senders: Vec<String>,
    /// Domain of the return paths of forwarded mail.
    pub srs_domain: Option<String>,
    /// `<data_dir>/srs.key` unless set.
    pub srs_key_file: Option<PathBuf>,
}

impl Default for AddressesSection {
    fn default() -> AddressesSection {
        AddressesSection {
            separators: DirectoryOptions::default().separators,
            rewrite_senders: Vec::new(),
            rewrite_headers: false,
            verp_senders: Vec::new(),
            srs_domain: None,
            srs_key_file: None,
        }
    }
}

/// One `[[route]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    pub domains: Vec<String>,
    pub to: RouteWord,
    /// With or without a port.
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub mx: bool,
    #[serde(default)]
    pub tls: Option<TlsWord>,
    #[serde(default)]
    pub implicit_tls: bool,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub text: Option<String>,
    /// Strangers may send to all addresses in these domains.
    #[serde(default)]
    pub accept_all: bool,
    /// Strangers may send to the addresses in this file.
    #[serde(default)]
    pub recipients_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteWord {
    Local,
    Mx,
    Relay,
    Lmtp,
    Discard,
    Reject,
}

/// `directory::TlsPolicy` as the file spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsWord {
    Never,
    Opportunistic,
    Required,
    Verified,
}

impl From<TlsWord> for TlsPolicy {
    fn from(word: TlsWord) -> TlsPolicy {
        match word {
            TlsWord::Never => TlsPolicy::Never,
            TlsWord::Opportunistic => TlsPolicy::Opportunistic,
            TlsWord::Required => TlsPolicy::Required,
            TlsWord::Verified => TlsPolicy::Verified,
        }
    }
}

/// A password, which no error or log shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl RouteTable {
    /// All other domains to one host.
    fn smarthost(host: &str) -> RouteTable {
        RouteTable {
            domains: vec!["*".to_owned()],
            to: RouteWord::Relay,
            host: Some(host.to_owned()),
            mx: false,
            tls: None,
            implicit_tls: false,
            user: None,
            password: None,
            password_file: None,
            text: None,
            accept_all: false,
            recipients_file: None,
        }
    }

    /// The keys that do not fit the others, and why.
    fn problems(&self, hostname: &str) -> Vec<(&'static str, String)> {
        use RouteWord::{Discard, Lmtp, Local, Mx, Reject, Relay};
        let word = format!("{:?}", self.to).to_lowercase();
        let has_host = matches!(self.to, Relay | Lmtp);
        let set = [
            ("host", self.host.is_some(), has_host),
            ("mx", self.mx, self.to == Relay),
            ("tls", self.tls.is_some(), has_host || self.to == Mx),
            ("implicit_tls", self.implicit_tls, has_host),
            ("user", self.user.is_some(), has_host),
            ("password", self.password.is_some(), has_host),
            ("password_file", self.password_file.is_some(), has_host),
            ("text", self.text.is_some(), self.to == Reject),
            ("accept_all", self.accept_all, self.to != Local),
            ("recipients_file", self.recipients_file.is_some(), self.to != Local),
        ];
        let useless = set.into_iter().filter(|(_, is_set, fits)| *is_set && !fits);
        let no_effect = || format!("has no effect with to = \"{word}\": remove it");
        let mut problems: Vec<_> = useless.map(|(key, ..)| (key, no_effect())).collect();
        let mut say = |key, what: &str| problems.push((key, what.to_owned()));
        match self.to {
            Relay | Lmtp if self.host.is_none() => {
                say("to", "needs a host, e.g. host = \"smtp.partner.example:25\"");
            }
            Reject if self.text.is_none() => {
                say("to", "needs a text, e.g. text = \"no mail for this domain\"");
            }
            Local if self.domains.iter().any(|domain| domain.starts_with(['*', '.'])) => {
                say("domains", "a domain that is kept here is named in full");
            }
            Discard | Mx | Relay | Lmtp | Reject | Local => {}
        }
        let socket = self.host.as_deref().and_then(socket_path);
        if socket.is_some() {
            let tls = [("tls", self.tls.is_some()), ("implicit_tls", self.implicit_tls)];
            if self.to != Lmtp {
                say("host", "a socket is for to = \"lmtp\": name a host here");
            }
            for (key, _) in tls.into_iter().filter(|(_, is_set)| *is_set) {
                say(key, "has no effect with a socket: remove it");
            }
        }
        let host = self.host.as_deref().and_then(host_and_port).map(|(host, _)| host);
        if host.is_some_and(|host| host.eq_ignore_ascii_case(hostname)) {
            say("host", "is this server itself: mail would come back again and again");
        }
        match (&self.user, &self.password, &self.password_file) {
            (None, None, None) => {}
            (Some(_), Some(_), None) | (Some(_), None, Some(_)) => {
                let weak = matches!(self.tls, Some(TlsWord::Never | TlsWord::Opportunistic));
                let near = socket.is_some() || host.is_some_and(is_loopback);
                if weak && !self.implicit_tls && !near {
                    say(
                        "tls",
                        "would send the password without TLS: use \"required\" or \"verified\"",
                    );
                }
            }
            (None, Some(_), _) => say("password", "needs a user"),
            (None, _, Some(_)) => say("password_file", "needs a user"),
            (Some(_), None, None) => say("user", "needs a password or a password_file"),
            (Some(_), Some(_), Some(_)) => {
                say("password_file", "is there beside password: remove one of them");
            }
        }
        match (self.accept_all, &self.recipients_file) {
            (true, Some(_)) => {
                say("recipients_file", "has no effect with accept_all: remove one of them");
            }
            (true, None) if self.domains.iter().any(|domain| domain == "*") => {
                say(
                    "accept_all",
                    "would relay for everybody: name the domains that this server is a backup for",
                );
            }
            _ => {}
        }
        problems
    }

    fn options(&self) -> RouteOptions {
        let to = match self.to {
            RouteWord::Local => RouteTo::Local,
            RouteWord::Mx => RouteTo::Mx(self.tls.map(TlsPolicy::from).unwrap_or_default()),
            RouteWord::Relay | RouteWord::Lmtp => RouteTo::Host(self.host()),
            RouteWord::Discard => RouteTo::Discard,
            RouteWord::Reject => RouteTo::Reject(self.text.clone().unwrap_or_default()),
        };
        let inbound = match &self.recipients_file {
            Some(path) => Inbound::Listed(path.clone()),
            None if self.accept_all => Inbound::All,
            None => Inbound::Refuse,
        };
        RouteOptions { domains: self.domains.clone(), to, inbound }
    }

    /// Checked when the file was read.
    fn host(&self) -> HostOptions {
        let text = self.host.as_deref().unwrap_or_default();
        let (host, port) = host_and_port(text).unwrap_or((text, None));
        let lmtp = self.to == RouteWord::Lmtp;
        let is_socket = socket_path(text).is_some();
        let usual = match (lmtp, self.implicit_tls) {
            _ if is_socket => 0,
            (true, _) => LMTP_PORT,
            (false, true) => SUBMISSIONS_PORT,
            (false, false) => SMTP_PORT,
        };
        let password = match (&self.password, &self.password_file) {
            (Some(Secret(text)), _) => Some(Password::Text(text.clone())),
            (None, Some(path)) => Some(Password::File(path.clone())),
            (None, None) => None,
        };
        // A password goes only to the host that it is for.
        let tls = match (self.tls, &password) {
            _ if is_socket => TlsPolicy::Never,
            (Some(word), _) => word.into(),
            (None, Some(_)) if !is_loopback(host) => TlsPolicy::Verified,
            (None, _) => TlsPolicy::default(),
        };
        HostOptions {
            host: host.to_owned(),
            port: port.unwrap_or(usual),
            mx: self.mx,
            lmtp,
            tls,
            implicit_tls: self.implicit_tls,
            credentials: self.user.clone().zip(password),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What a setting gives to whoever has an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gift<'s> {
    /// As it is written; of [`GiftKind::Served`] it can be `@domain`.
    pub to: &'s str,
    /// File, line and setting.
    pub place: String,
    pub what: GiftKind<'s>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiftKind<'s> {
    Administrator,
    Submitter,
    /// `whom`: an address, `@domain`, or `*` for all.
    Master {
        whom: &'s str,
    },
    Served {
        master: &'s str,
    },
}

impl GiftKind<'_> {
    /// What whoever has the address does.
    pub fn of_account(&self) -> String {
        match self {
            GiftKind::Administrator => "owns the public folders".to_owned(),
            GiftKind::Submitter => "may read what users let submission servers read".to_owned(),
            GiftKind::Master { whom: "*" } => "may log in as every account".to_owned(),
            GiftKind::Master { whom } if whom.starts_with('@') => {
                format!("may log in as every account of {}", whom.trim_start_matches('@'))
            }
            GiftKind::Master { whom } => format!("may log in as {whom}"),
            GiftKind::Served { master } => format!("lets {master} log in to it"),
        }
    }

    /// What becomes of it without an account.
    fn without_account(&self) -> &'static str {
        match self {
            GiftKind::Administrator => "nobody is an administrator by it",
            GiftKind::Submitter => "nobody is a submitter by it",
            GiftKind::Master { .. } => "nobody is a master by it",
            GiftKind::Served { .. } => "nobody can be acted for by it",
        }
    }
}

impl Settings {
    /// Checks addresses and routes: keys that depend on each other.
    pub(super) fn check_addresses(&self, path: &Path, text: &str) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        for (index, route) in self.route.iter().enumerate() {
            for (key, what) in route.problems(&self.hostname) {
                let span = schema::table_span(text, "route", index, Some(key));
                let name = format!("route.{key}");
                problems.push(ConfigProblem::at(path, text, span, Some(&name), what));
            }
            let ours = self.domains.iter().map(|domain| (domain, "domains has it too"));
            let above = self.route.iter().take(index).flat_map(|route| &route.domains);
            let taken = ours.chain(above.map(|domain| (domain, "a route above has it too")));
            let mut seen = Vec::new();
            for domain in route.domains.iter().map(|domain| domain.to_lowercase()) {
                let twice = match seen.contains(&domain) {
                    true => Some("is there twice"),
                    false => {
                        let mut taken = taken.clone();
                        taken.find(|(other, _)| other.to_lowercase() == domain).map(|it| it.1)
                    }
                };
                if let Some(why) = twice {
                    let span = schema::table_span(text, "route", index, Some("domains"));
                    let what = format!("{domain}: {why}: remove one of them");
                    problems.push(ConfigProblem::at(path, text, span, Some("route.domains"), what));
                }
                seen.push(domain);
            }
        }
        let mut wrong = |name: &str, what: &str| {
            let span = schema::value_span(text, name);
            problems.push(ConfigProblem::at(path, text, span, Some(name), what));
        };
        let section = &self.addresses;
        if section.rewrite_headers && section.rewrite_senders.is_empty() {
            wrong(
                "addresses.rewrite_headers",
                "has no effect without addresses.rewrite_senders: set that too, or remove it",
            );
        }
        if section.srs_key_file.is_some() && section.srs_domain.is_none() {
            wrong(
                "addresses.srs_key_file",
                "has no effect without addresses.srs_domain: set that too, or remove it",
            );
        }
        // Tokens that somebody else has made for somebody else must not do.
        if self.oauth.keys.is_some()
            && (self.oauth.issuer.is_empty() || self.oauth.audience.is_empty())
        {
            wrong("oauth.keys", "needs oauth.issuer and oauth.audience: set both");
        }
        let is_url = |text: &String| text.contains("://") && https_url(text).is_none();
        if self.oauth.keys.as_ref().is_some_and(is_url) {
            wrong("oauth.keys", "is neither a path nor an https URL that names a host");
        }
        // RFC 7662 2.1: who asks must show who it is.
        if self.oauth.introspection.is_some() && self.oauth.client_id.is_empty() {
            wrong(
                "oauth.introspection",
                "needs oauth.client_id: set the name that the provider knows this server by",
            );
        }
        if section.separators.is_empty() && !section.verp_senders.is_empty() {
            wrong(
                "addresses.verp_senders",
                "their return paths are sub-addresses: addresses.separators may not be empty",
            );
        }
        for (index, network) in self.smtp.relay_networks.iter().enumerate() {
            let mut all = ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse().ok());
            let network = network.parse::<Network>().ok();
            if network.is_some_and(|network| all.any(|all| network.contains(&all))) {
                let span = schema::item_span(text, "smtp.relay_networks", index);
                let what = "would relay for everybody: name your own networks";
                problems.push(ConfigProblem::at(
                    path,
                    text,
                    span,
                    Some("smtp.relay_networks"),
                    what,
                ));
            }
        }
        problems
    }

    /// `base`: what relative paths count from.
    pub(super) fn resolve_address_paths(&mut self, base: &Path) {
        let routes = self.route.iter_mut();
        let of_routes =
            routes.flat_map(|route| [&mut route.password_file, &mut route.recipients_file]);
        let srs_keys = &mut self.addresses.srs_key_file;
        let others = [&mut self.aliases_file, &mut self.groups_file, srs_keys];
        for path in of_routes.chain(others).flatten() {
            *path = base.join(&*path);
        }
    }

    /// Sends all mail for other domains to `host`, as `ringmail demo --smarthost` asks.
    ///
    /// # Errors
    /// If it is no host, or another route has all other domains.
    pub fn set_smarthost(&mut self, host: &str) -> Result<(), ConfigProblem> {
        let wrong = |what: &str| Err(ConfigProblem::file("--smarthost", format!("{host}: {what}")));
        if host_and_port(host).is_none_or(|(_, port)| port.is_none()) {
            return wrong("expected HOST:PORT, e.g. 127.0.0.1:2626");
        }
        if self.route.iter().flat_map(|route| &route.domains).any(|domain| domain == "*") {
            return wrong("a route of --set has all other domains: remove one of them");
        }
        self.route.push(RouteTable::smarthost(host));
        Ok(())
    }

    /// Whether `domains` or a route says that mail for this domain is kept here.
    pub fn is_local(&self, domain: &str) -> bool {
        let domain = domain.to_ascii_lowercase();
        let local = self.route.iter().filter(|route| route.to == RouteWord::Local);
        let mut named = self.domains.iter().chain(local.flat_map(|route| &route.domains));
        named.any(|it| match it.to_ascii_lowercase().as_str() {
            "*" => true,
            it if it.starts_with('.') => domain.ends_with(it),
            it => it == domain,
        })
    }

    /// What settings give to accounts by their addresses, each with the file and line. It stays
    /// when an account is removed, for whoever gets the address.
    pub fn gifts(&self) -> Vec<Gift<'_>> {
        let imap = &self.imap;
        let administrators =
            self.named("imap.administrators", &imap.administrators, &self.administrator_lines);
        let submitters = self.named("imap.submitters", &imap.submitters, &self.submitter_lines);
        let masters = &self.authentication.masters;
        let masters = self.named("authentication.masters", masters, &self.master_lines);
        let administrators = administrators.map(|it| (it, GiftKind::Administrator));
        let all = administrators.chain(submitters.map(|it| (it, GiftKind::Submitter)));
        let mut gifts: Vec<_> = all.map(|((to, place), what)| Gift { to, place, what }).collect();
        for (text, place) in masters {
            let Some((master, whom)) = text.split_once('=') else { continue };
            let gift = |to, what| Gift { to, place: place.clone(), what };
            gifts.push(gift(master, GiftKind::Master { whom }));
            if whom != "*" {
                gifts.push(gift(whom, GiftKind::Served { master }));
            }
        }
        gifts
    }

    fn named<'s>(
        &'s self,
        setting: &'static str,
        names: &'s [String],
        lines: &'s [usize],
    ) -> impl Iterator<Item = (&'s str, String)> {
        let file = self.source.as_deref().unwrap_or(Path::new("--set")).display();
        let named = names.iter().zip(lines);
        named.map(move |(name, line)| (&**name, format!("{file}:{line}: {setting}")))
    }

    /// The administrators, submitters and masters who are no accounts, and accounts and domains of
    /// masters that are not there: whether that is a mistake, and what it is. One who is only not
    /// there yet is none.
    pub fn unknown_accounts(&self, directory: &DirectorySnapshot) -> Vec<(bool, String)> {
        let mut told = Vec::new();
        for Gift { to, place, what } in self.gifts() {
            let domain = to.rsplit_once('@').map_or("", |(_, domain)| domain).to_lowercase();
            let is_domain = to.starts_with('@');
            if directory.user(to).is_some() || (is_domain && directory.is_local_domain(&domain)) {
                continue;
            }
            let (is_mistake, why) = match directory.resolve(to) {
                _ if !directory.is_local_domain(&domain) => {
                    (true, format!("{domain} is not a domain of ours: correct it, or remove it"))
                }
                Destination::Subaddress(_) => (true, "a sub-address: name the account".to_owned()),
                Destination::UnknownUser => {
                    (false, "no account has this address: add it, or correct it".to_owned())
                }
                _ => {
                    (true, "an alias, or another address of a mailbox: name the account".to_owned())
                }
            };
            told.push((is_mistake, format!("{place}: {to}: {why}; {}", what.without_account())));
        }
        told
    }

    pub fn directory_options(&self) -> DirectoryOptions {
        let section = &self.addresses;
        let key = section.srs_key_file.clone();
        let key = key.unwrap_or_else(|| self.data_dir.join("srs.key"));
        let pair =
            |text: &String| text.split_once('=').map(|(old, new)| (old.to_owned(), new.to_owned()));
        DirectoryOptions {
            domains: self.domains.clone(),
            postmaster: None,
            separators: section.separators.clone(),
            routes: self.route.iter().map(RouteTable::options).collect(),
            senders: SenderOptions {
                rewrite_headers: section.rewrite_headers,
                rewrite: section.rewrite_senders.iter().filter_map(pair).collect(),
                verp: section.verp_senders.clone(),
                srs: section.srs_domain.clone().map(|domain| (domain, key)),
            },
            // Checked when the file was read.
            relay_networks: (self.smtp.relay_networks.iter())
                .filter_map(|text| text.parse().ok())
                .collect(),
            scram: self.authentication.scram.into(),
            masters: (self.authentication.masters.iter())
                .filter_map(|text| Master::parse(text))
                .collect(),
        }
    }

    /// The files of accounts, aliases and groups.
    pub fn directory_files(&self) -> DirectoryFiles {
        let (aliases, groups) = (self.aliases_file.clone(), self.groups_file.clone());
        DirectoryFiles {
            users: self.users_path(),
            aliases_named: aliases.is_some(),
            aliases: aliases.unwrap_or_else(|| self.data_dir.join("aliases")),
            groups_named: groups.is_some(),
            groups: groups.unwrap_or_else(|| self.data_dir.join("groups")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "hostname = \"mx.demo.test\"\ndomains = [\"demo.test\"]\ndata_dir = \"d\"\n\
                        listen = { submissions = [], pop3s = [], imaps = [] }\n";

    fn parse(text: &str) -> Result<Settings, String> {
        let text = format!("{BASE}{text}\n");
        Settings::parse(Path::new("/etc/t.toml"), &text).map_err(|problem| problem.to_string())
    }

    #[test]
    fn keys_that_do_not_fit_are_named() {
        #[rustfmt::skip]
        const CASES: &[(&str, &str)] = &[
            ("to = \"relay\"", "7: route.to: needs a host, e.g. host ="),
            ("to = \"reject\"", "7: route.to: needs a text, e.g. text ="),
            ("to = \"mx\"\nhost = \"h.test\"", "8: route.host: has no effect with to = \"mx\": remove it"),
            ("to = \"lmtp\"\nhost = \"h.test\"\nmx = true", "9: route.mx: has no effect with to = \"lmtp\""),
            ("to = \"discard\"\ntls = \"verified\"", "8: route.tls: has no effect"),
            ("to = \"mx\"\ntext = \"x\"", "8: route.text: has no effect"),
            ("to = \"local\"\naccept_all = true", "8: route.accept_all: has no effect"),
            ("to = \"relay\"\nhost = \"MX.demo.test:26\"", "8: route.host: is this server itself"),
            ("to = \"relay\"\nhost = \"h.test\"\nuser = \"u\"", "9: route.user: needs a password or"),
            ("to = \"relay\"\nhost = \"h.test\"\npassword = \"p\"", "9: route.password: needs a user"),
            ("to = \"relay\"\nhost = \"h.test\"\nuser = \"u\"\npassword = \"p\"\npassword_file = \"f\"",
             "11: route.password_file: is there beside password"),
            ("to = \"relay\"\nhost = \"h.test\"\nuser = \"u\"\npassword = \"p\"\ntls = \"opportunistic\"",
             "11: route.tls: would send the password without TLS"),
            ("to = \"mx\"\naccept_all = true\nrecipients_file = \"f\"",
             "9: route.recipients_file: has no effect with accept_all"),
        ];
        for (text, expected) in CASES {
            let said = parse(&format!("[[route]]\ndomains = [\"a.test\"]\n{text}")).unwrap_err();
            assert!(said.starts_with(&format!("/etc/t.toml:{expected}")), "{text}\n said: {said}");
        }
        #[rustfmt::skip]
        const OTHERS: &[(&str, &str)] = &[
            ("[[route]]\ndomains = [\"*\"]\nto = \"mx\"\naccept_all = true",
             "8: route.accept_all: would relay for everybody"),
            ("[[route]]\ndomains = [\".a.test\"]\nto = \"local\"", "6: route.domains: a domain that is kept"),
            ("[[route]]\nto = \"mx\"\ndomains = [\"Demo.test\"]",
             "7: route.domains: demo.test: domains has it too: remove one of them"),
            ("[[route]]\nto = \"mx\"\ndomains = [\"*\"]\n[[route]]\nto = \"mx\"\ndomains = [\"a.test\", \"*\"]",
             "10: route.domains: *: a route above has it too"),
            ("[[route]]\nto = \"mx\"\ndomains = [\"a.test\", \"A.test\"]", "7: route.domains: a.test: is there twice"),
            ("[addresses]\nrewrite_headers = true", "6: addresses.rewrite_headers: has no effect without"),
            ("[addresses]\nsrs_key_file = \"f\"", "6: addresses.srs_key_file: has no effect without"),
            ("[oauth]\nintrospection = \"https://id.test/i\"\nclient_secret_file = \"s\"",
             "6: oauth.introspection: needs oauth.client_id: set the name that the provider"),
            ("[addresses]\nseparators = \"\"\nverp_senders = [\"a@demo.test\"]",
             "7: addresses.verp_senders: their return paths are sub-addresses"),
            ("[[route]]\ndomains = [\"a.test\"]\nto = \"relay\"\nhost = \"unix:/run/lmtp\"",
             "8: route.host: a socket is for to = \"lmtp\""),
            ("[[route]]\ndomains = [\"a.test\"]\nto = \"lmtp\"\nhost = \"unix:/run/lmtp\"\ntls = \"required\"",
             "9: route.tls: has no effect with a socket"),
            ("[[route]]\ndomains = [\"a.test\"]\nto = \"lmtp\"\nhost = \"unix:run/lmtp\"",
             "8: route.host: found \"unix:run/lmtp\"; expected a host name or address, with or"),
            ("[smtp]\nrelay_networks = [\"10.0.0.0/8\", \"0.0.0.0/0\"]",
             "6: smtp.relay_networks: would relay for everybody"),
            ("[smtp]\nrelay_networks = [\"::/0\"]", "6: smtp.relay_networks: would relay for everybody"),
        ];
        for (text, expected) in OTHERS {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(&format!("/etc/t.toml:{expected}")), "{text}\n said: {said}");
        }
    }

    #[test]
    fn all_that_does_not_fit_is_named() {
        let text = "[[route]]\ndomains = [\"Demo.test\"]\nto = \"discard\"\nmx = true\ntext = \"x\"\n\
                    [[route]]\ndomains = [\"b.test\"]\nto = \"relay\"\npassword = \"p\"\n\
                    [addresses]\nsrs_key_file = \"f\"\n\
                    [smtp]\nrelay_networks = [\"::/0\", \"0.0.0.0/0\"]";
        let said = parse(text).unwrap_err();
        let begins = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let expected = [
            "/etc/t.toml:6: route.domains:",
            "/etc/t.toml:8: route.mx:",
            "/etc/t.toml:9: route.text:",
            "/etc/t.toml:12: route.to:",
            "/etc/t.toml:13: route.password:",
            "/etc/t.toml:15: addresses.srs_key_file:",
            "/etc/t.toml:17: smtp.relay_networks:",
            "/etc/t.toml:17: smtp.relay_networks:",
        ];
        assert_eq!(said.lines().map(begins).collect::<Vec<_>>(), expected, "{said}");
    }

    #[test]
    fn routes_become_options() {
        let text = "[[route]]\ndomains = [\"*\"]\nto = \"relay\"\nhost = \"smart.test\"\n\
                    implicit_tls = true\nuser = \"me\"\npassword_file = \"secret\"\n\
                    [[route]]\ndomains = [\"a.test\"]\nto = \"lmtp\"\nhost = \"[::1]\"\n\
                    recipients_file = \"list\"\n[[route]]\ndomains = [\"b.test\"]\nto = \"relay\"\n\
                    host = \"127.0.0.1:2525\"\nmx = false\nuser = \"me\"\npassword = \"s3cret\"\n\
                    [addresses]\nsrs_domain = \"srs.test\"\n\
                    rewrite_senders = [\"c.test=demo.test\"]";
        let settings = parse(text).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        let options = settings.directory_options();
        let host = |index: usize| match &options.routes[index].to {
            RouteTo::Host(host) => host.clone(),
            other => panic!("{other:?}"),
        };
        let expected = HostOptions {
            host: "smart.test".to_owned(),
            port: 465,
            mx: false,
            lmtp: false,
            tls: TlsPolicy::Verified,
            implicit_tls: true,
            credentials: Some(("me".to_owned(), Password::File("/etc/secret".into()))),
        };
        assert_eq!(host(0), expected);
        assert_eq!((host(1).host.as_str(), host(1).port, host(1).lmtp), ("::1", 24, true));
        let socket = "[[route]]\ndomains = [\"a.test\"]\nto = \"lmtp\"\nhost = \"unix:/run/lmtp\"\n\
                      user = \"me\"\npassword = \"s3cret\"";
        let socket = parse(socket).unwrap().directory_options();
        let RouteTo::Host(socket) = &socket.routes[0].to else { panic!("no host") };
        assert_eq!((&*socket.host, socket.port), ("unix:/run/lmtp", 0));
        assert_eq!((socket.lmtp, socket.tls), (true, TlsPolicy::Never));
        assert_eq!((host(2).port, host(2).tls), (2525, TlsPolicy::Opportunistic));
        assert_eq!(options.routes[1].inbound, Inbound::Listed("/etc/list".into()));
        assert_eq!(options.senders.srs, Some(("srs.test".to_owned(), "/etc/d/srs.key".into())));
        assert_eq!(options.senders.rewrite, [("c.test".to_owned(), "demo.test".to_owned())]);
        let files = settings.directory_files();
        assert_eq!((&*files.aliases, files.aliases_named), (Path::new("/etc/d/aliases"), false));
        assert_eq!((&*files.groups, files.groups_named), (Path::new("/etc/d/groups"), false));
        let files = parse("aliases_file = \"a\"\ngroups_file = \"g\"").unwrap().directory_files();
        assert_eq!((&*files.aliases, files.aliases_named), (Path::new("/etc/a"), true));
        assert_eq!((&*files.groups, files.groups_named), (Path::new("/etc/g"), true));
    }

    #[test]
    fn a_smarthost_for_all_others() {
        let mut settings = parse("").unwrap();
        settings.set_smarthost("127.0.0.1:2626").unwrap();
        let options = settings.directory_options();
        assert_eq!(options.routes[0].domains, ["*"]);
        for host in ["x:y", "localhost", "127.0.0.1"] {
            let said = settings.set_smarthost(host).unwrap_err().to_string();
            let expected = "expected HOST:PORT, e.g. 127.0.0.1:2626";
            assert_eq!(said, format!("--smarthost: {host}: {expected}"));
        }
        let said = settings.set_smarthost("other:25").unwrap_err().to_string();
        assert!(said.contains("a route of --set has all other domains"), "{said}");
    }

    /// An administrator is an account, as a member of a group is, and so are a submitter, a master
    /// and whom it acts for.
    #[test]
    fn administrators_submitters_and_masters_are_accounts() {
        let settings = parse(
            r#"[imap]
administrators = [
  "user1@demo.test",
  "adm@demo.test", "alice+x@demo.test",
  "alice@elsewhere.test",
]
submitters = ["alice@demo.test", "submit@demo.test"]
[authentication]
masters = ["alice@demo.test=*", "adm@demo.test=*",
  "alice@demo.test=user1@demo.test", "user1@demo.test=@demo.test",
  "alice@demo.test=nobody@demo.test",
  "alice@demo.test=@elsewhere.test", "x@elsewhere.test=alice@demo.test"]
"#,
        );
        let settings = settings.expect("valid");
        let directory = DirectorySnapshot::demo("demo.test", 3);
        let said: Vec<String> = settings
            .unknown_accounts(&directory)
            .into_iter()
            .map(|(is_mistake, text)| format!("{is_mistake} {text}"))
            .collect();
        let expected = [
            "false --set:8: imap.administrators: adm@demo.test: no account has this address: add",
            "true --set:8: imap.administrators: alice+x@demo.test: a sub-address: name the account",
            "true --set:9: imap.administrators: alice@elsewhere.test: elsewhere.test is not a domain",
            "false --set:11: imap.submitters: submit@demo.test: no account has this address: add it, \
             or correct it; nobody is a submitter by it",
            "false --set:13: authentication.masters: adm@demo.test: no account has this address: \
             add it, or correct it; nobody is a master by it",
            "false --set:15: authentication.masters: nobody@demo.test: no account has this \
             address: add it, or correct it; nobody can be acted for by it",
            "true --set:16: authentication.masters: @elsewhere.test: elsewhere.test is not a \
             domain of ours: correct it, or remove it; nobody can be acted for by it",
            "true --set:16: authentication.masters: x@elsewhere.test: elsewhere.test is not",
        ];
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}");
        }
    }
}
