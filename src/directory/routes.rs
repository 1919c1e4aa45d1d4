//! Routes: where mail for the domains of others goes, and for which of them strangers may send.
//!
//! [`RouteOptions`] come from the configuration; [`Routes`] are those, with their passwords and
//! lists of recipients read, as part of a [`super::DirectorySnapshot`]. The queue asks for the next
//! hop of each remote recipient, SMTP whether a recipient of another domain is accepted.
//!
//! A route never leads back into the directory: `local` only makes a domain ours. So no chain of
//! routes and aliases has more than one route in it, at its end.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};

use super::{
    address::Address,
    files::{DirectoryError, read_recipients, read_secret},
};

/// One `[[route]]` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteOptions {
    /// `example.org`; `.example.org` for the domains below it; `*` for all others.
    pub domains: Vec<String>,
    pub to: RouteTo,
    pub inbound: Inbound,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteTo {
    /// The domain is ours, as if in `domains`.
    Local,
    /// To the hosts that DNS names.
    Mx(TlsPolicy),
    Host(HostOptions),
    /// Accepted, and thrown away.
    Discard,
    /// Refused with this text.
    Reject(String),
}

/// What a path of this host begins with, where a next hop is named.
const SOCKET: &str = "unix:";

/// A next hop by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostOptions {
    /// A name or an address, without brackets; or "unix:" and the path of a socket.
    pub host: String,
    /// 0 with a socket.
    pub port: u16,
    /// Look `host` up as a mail domain (its MX) and not as a host.
    pub mx: bool,
    pub lmtp: bool,
    pub tls: TlsPolicy,
    /// TLS from the first octet (RFC 8314).
    pub implicit_tls: bool,
    pub credentials: Option<(String, Password)>,
}

/// A password in the configuration.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Text(String),
    /// The first line of this file.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => f.write_str("Text(..)"),
            Password::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Which recipients in the route's domains strangers may send to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// None: only our users and networks that may relay use the route.
    Refuse,
    /// All: a backup MX that does not know the recipients.
    All,
    /// Those in this file, one address or `@domain` a line.
    Listed(PathBuf),
}

/// What a connection to a next hop needs. DANE and MTA-STS may ask for more.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TlsPolicy {
    Never,
    /// If offered, whatever the certificate.
    #[default]
    Opportunistic,
    /// Always, whatever the certificate.
    Required,
    /// Always, with a certificate that is valid for the host's name.
    Verified,
}

impl TlsPolicy {
    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            TlsPolicy::Never => "never",
            TlsPolicy::Opportunistic => "opportunistic",
            TlsPolicy::Required => "required",
            TlsPolicy::Verified => "verified",
        }
    }
}

/// Where mail for a domain goes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// The hosts that DNS names.
    Mx(TlsPolicy),
    Host(Arc<RelayHost>),
    /// The domain is ours.
    Local,
    Discard,
    /// Refused for good with this text: 550 [`super::ROUTE_REJECTED`].
    Reject(Arc<str>),
}

/// A fixed next hop. As in [`HostOptions`], with the password read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayHost {
    pub host: String,
    pub port: u16,
    pub mx: bool,
    pub lmtp: bool,
    pub tls: TlsPolicy,
    pub implicit_tls: bool,
    pub credentials: Option<Credentials>,
}

impl RelayHost {
    /// The socket of this host that it is, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        socket_path(&self.host)
    }

    /// As the configuration names it, with its port.
    pub fn place(&self) -> String {
        match self.socket() {
            Some(_) => self.host.clone(),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The path in `unix:/path`.
pub fn socket_path(host: &str) -> Option<&Path> {
    host.strip_prefix(SOCKET).map(Path::new)
}

/// For AUTH (RFC 4954).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ..)", self.user)
    }
}

/// All routes, as read.
#[derive(Debug, Default)]
pub(super) struct Routes {
    exact: HashMap<String, Arc<Route>>,
    /// Of the domains below, by the domain without its leading dot.
    below: HashMap<String, Arc<Route>>,
    others: Option<Arc<Route>>,
}

#[derive(Debug)]
struct Route {
    next_hop: NextHop,
    accepts: Accepts,
}

#[derive(Debug)]
enum Accepts {
    Nobody,
    All,
    /// Canonical addresses, and `@domain`.
    Listed(HashSet<String>),
}

impl Routes {
    /// Reads the files that the routes name.
    pub(super) fn load(options: &[RouteOptions]) -> Result<Routes, DirectoryError> {
        let mut routes = Routes::default();
        for RouteOptions { domains, to, inbound } in options {
            let accepts = match inbound {
                Inbound::Refuse => Accepts::Nobody,
                Inbound::All => Accepts::All,
                Inbound::Listed(path) => {
                    let read = read_recipients(path);
                    Accepts::Listed(read.map_err(|error| error.of("route.recipients_file"))?)
                }
            };
            let route = Arc::new(Route { next_hop: next_hop(to)?, accepts });
            for domain in domains {
                let domain = domain.to_lowercase();
                match domain.strip_prefix('.') {
                    _ if domain == "*" => routes.others = Some(route.clone()),
                    Some(parent) => {
                        routes.below.insert(parent.to_owned(), route.clone());
                    }
                    None => {
                        routes.exact.insert(domain, route.clone());
                    }
                }
            }
        }
        Ok(routes)
    }

    /// `domain` is in lower case. The longest match decides.
    fn route(&self, domain: &str) -> Option<&Route> {
        if let Some(route) = self.exact.get(domain) {
            return Some(route);
        }
        let mut rest = domain;
        while let Some((_, parent)) = rest.split_once('.').filter(|_| !self.below.is_empty()) {
            if let Some(route) = self.below.get(parent) {
                return Some(route);
            }
            rest = parent;
        }
        self.others.as_deref()
    }

    /// For a domain that is not ours, in lower case.
    pub(super) fn next_hop(&self, domain: &str) -> NextHop {
        let route = self.route(domain);
        route.map_or(NextHop::Mx(TlsPolicy::default()), |route| route.next_hop.clone())
    }

    /// Whether strangers may send to `address` in a domain that is not ours; `None` if they may not
    /// send to the domain at all.
    pub(super) fn accepts(&self, address: &Address) -> Option<bool> {
        match &self.route(&address.domain)?.accepts {
            Accepts::Nobody => None,
            Accepts::All => Some(true),
            Accepts::Listed(addresses) => Some(
                addresses.contains(&address.key())
                    || addresses.contains(&format!("@{}", address.domain)),
            ),
        }
    }
}

fn next_hop(to: &RouteTo) -> Result<NextHop, DirectoryError> {
    Ok(match to {
        RouteTo::Local => NextHop::Local,
        RouteTo::Mx(tls) => NextHop::Mx(*tls),
        RouteTo::Discard => NextHop::Discard,
        RouteTo::Reject(text) => NextHop::Reject(Arc::from(text.as_str())),
        RouteTo::Host(options) => {
            let HostOptions { host, port, mx, lmtp, tls, implicit_tls, credentials } =
                options.clone();
            let credentials = credentials
                .map(|(user, password)| {
                    let password = match password {
                        Password::Text(text) => text,
                        Password::File(path) => {
                            let read = read_secret(&path);
                            read.map_err(|error| error.of("route.password_file"))?
                        }
                    };
                    Ok::<_, DirectoryError>(Credentials { user, password })
                })
                .transpose()?;
            NextHop::Host(Arc::new(RelayHost {
                host,
                port,
                mx,
                lmtp,
                tls,
                implicit_tls,
                credentials,
            }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(domains: &[&str], to: RouteTo, inbound: Inbound) -> RouteOptions {
        RouteOptions { domains: domains.iter().map(|it| (*it).to_owned()).collect(), to, inbound }
    }

    #[test]
    fn the_longest_match_decides() {
        let reject = |text: &str| RouteTo::Reject(text.to_owned());
        let routes = Routes::load(&[
            route(&["*"], reject("others"), Inbound::Refuse),
            route(&[".example.org"], reject("below"), Inbound::Refuse),
            route(&[".deep.example.org", "Example.org"], reject("deep"), Inbound::Refuse),
            route(&["a.example.org"], RouteTo::Discard, Inbound::Refuse),
        ])
        .unwrap();
        for (domain, expected) in [
            ("example.org", "deep"),
            ("b.example.org", "below"),
            ("x.b.example.org", "below"),
            ("deep.example.org", "below"),
            ("x.deep.example.org", "deep"),
            ("notexample.org", "others"),
            ("org", "others"),
            ("", "others"),
        ] {
            let expected = NextHop::Reject(Arc::from(expected));
            assert_eq!(routes.next_hop(domain), expected, "{domain}");
        }
        assert_eq!(routes.next_hop("a.example.org"), NextHop::Discard);
        assert_eq!(Routes::default().next_hop("x"), NextHop::Mx(TlsPolicy::Opportunistic));
    }

    #[test]
    fn files_of_routes() {
        let folder = tempfile::tempdir().unwrap();
        let (list, secret) = (folder.path().join("list"), folder.path().join("secret"));
        std::fs::write(&list, "# ours\nAlice@B.test\n@c.test\n").unwrap();
        std::fs::write(&secret, "pass word\n").unwrap();
        let host = HostOptions {
            host: "smart.test".to_owned(),
            port: 587,
            mx: false,
            lmtp: false,
            tls: TlsPolicy::Verified,
            implicit_tls: false,
            credentials: Some(("me".to_owned(), Password::File(secret.clone()))),
        };
        let options = [
            route(
                &["b.test", "c.test"],
                RouteTo::Mx(TlsPolicy::Required),
                Inbound::Listed(list.clone()),
            ),
            route(&["all.test"], RouteTo::Discard, Inbound::All),
            route(&["*"], RouteTo::Host(host), Inbound::Refuse),
        ];
        let routes = Routes::load(&options).unwrap();
        for (address, expected) in [
            ("ALICE@b.test", Some(true)),
            ("bob@b.test", Some(false)),
            ("bob@c.test", Some(true)),
            ("x@all.test", Some(true)),
            ("x@other.test", None),
        ] {
            let address = Address::parse(address).unwrap();
            assert_eq!(routes.accepts(&address), expected, "{address:?}");
        }
        let NextHop::Host(host) = routes.next_hop("other.test") else { panic!("no host") };
        let Credentials { user, password } = host.credentials.clone().unwrap();
        assert_eq!((&*user, &*password), ("me", "pass word"));
        assert!(!format!("{routes:?}{options:?}").contains("pass word"), "no password is shown");
        std::fs::write(&list, "alice@b.test\n\nbob\n").unwrap();
        let said = Routes::load(&options).unwrap_err().to_string();
        assert_eq!(said, format!("{}:3: \"bob\": expected an address or @domain", list.display()));
        std::fs::write(&secret, "\n").unwrap();
        std::fs::write(&list, "").unwrap();
        let said = Routes::load(&options).unwrap_err().to_string();
        assert_eq!(said, format!("{}:1: expected a password in the first line", secret.display()));
        for (gone, setting) in [(&secret, "route.password_file"), (&list, "route.recipients_file")]
        {
            std::fs::remove_file(gone).unwrap();
            let said = Routes::load(&options).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{setting}: {}: No such", gone.display())), "{said}");
        }
    }
}
