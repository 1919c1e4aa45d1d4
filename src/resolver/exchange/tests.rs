//! Domains of a table, and where their mail goes.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    resolver::{ResolverOptions, zone::Zone},
    runtime::simulation::Simulation,
};

const ZONE: &[&str] = &[
    "example.org MX 20 b.example.org",
    "example.org MX 10 a.example.org",
    "a.example.org A 192.0.2.1",
    "a.example.org AAAA 2001:db8::1",
    "b.example.org A 192.0.2.2",
    // No MX.
    "implicit.example A 192.0.2.3",
    "empty.example TXT nothing",
    "null.example MX 0 .",
    "halfnull.example MX 0 .",
    "halfnull.example MX 10 b.example.org",
    // The MX records name what is no host.
    "rubbish.example MX 10 a/b",
    // Some hosts do not exist.
    "ghosts.example MX 5 ghost.example",
    "ghosts.example MX 10 b.example.org",
    "allghosts.example MX 5 ghost.example",
    "allghosts.example MX 5 ghost2.example",
    // A host whose address is not known now.
    "broken.example FAIL",
    "sick.example FAIL",
    "onesick.example MX 5 sick.example",
    "onesick.example MX 10 b.example.org",
    "allsick.example MX 5 sick.example",
    "allsick.example MX 6 ghost.example",
    // Ourselves.
    "backup.example MX 10 a.example.org",
    "backup.example MX 20 me.example",
    "backup.example MX 20 b.example.org",
    "backup.example MX 30 c.example.org",
    "loop.example MX 10 me.example",
    "loop.example MX 20 a.example.org",
    "byaddress.example MX 10 b.example.org",
    "byaddress.example MX 20 alsome.example",
    "byaddress.example MX 30 a.example.org",
    "alsome.example A 192.0.2.99",
    "ourhost.example A 192.0.2.99",
    "me.example A 192.0.2.98",
    // Odd ones.
    "address.example MX 10 192.0.2.7",
    "target.example A 192.0.2.8",
    "alias.example CNAME target.example",
    "aliased.example MX 10 alias.example",
    "nick.example CNAME example.org",
    "twice.example MX 20 b.example.org",
    "twice.example MX 10 b.example.org",
    "xn--bcher-kva.example MX 10 b.example.org",
    "!safe.example MX 10 mx.safe.example",
    "!mx.safe.example A 192.0.2.9",
    "!halfsafe.example MX 10 b.example.org",
];

/// (domain, hosts with addresses in order or the error, site)
#[rustfmt::skip]
const CASES: &[(&str, &str)] = &[
    ("example.org", "a.example.org=2001:db8::1,192.0.2.1 b.example.org=192.0.2.2"),
    ("EXAMPLE.org.", "a.example.org=2001:db8::1,192.0.2.1 b.example.org=192.0.2.2"),
    ("implicit.example", "implicit.example=192.0.2.3"),
    ("empty.example", "5.4.4 no host that takes mail for the domain has an address"),
    ("nowhere.example", "5.1.2 the domain does not exist"),
    ("x.invalid", "5.1.2 the domain does not exist"),
    ("a..b", "5.1.2 this is not a domain name"),
    ("null.example", "5.1.10 the domain does not accept mail (null MX)"),
    ("halfnull.example", "b.example.org=192.0.2.2"),
    ("rubbish.example", "5.4.4 no host that takes mail for the domain has an address"),
    ("ghosts.example", "b.example.org=192.0.2.2"),
    ("allghosts.example", "5.4.4 no host that takes mail for the domain has an address"),
    ("broken.example", "4.4.3 MX of broken.example: SERVFAIL"),
    ("onesick.example", "b.example.org=192.0.2.2"),
    ("allsick.example", "4.4.3 AAAA of sick.example: SERVFAIL"),
    ("backup.example", "a.example.org=2001:db8::1,192.0.2.1"),
    ("loop.example", "5.4.6 mail for the domain loops back to this server"),
    ("byaddress.example", "b.example.org=192.0.2.2"),
    ("ourhost.example", "5.4.6 mail for the domain loops back to this server"),
    ("me.example", "5.4.6 mail for the domain loops back to this server"),
    ("[192.0.2.99]", "5.4.6 mail for the domain loops back to this server"),
    ("[192.0.2.5]", "[192.0.2.5]=192.0.2.5"),
    ("[IPv6:2001:db8::5]", "[IPv6:2001:db8::5]=2001:db8::5"),
    ("[192.0.2]", "5.1.2 this is not a domain name"),
    ("address.example", "192.0.2.7=192.0.2.7"),
    ("aliased.example", "alias.example=192.0.2.8"),
    ("nick.example", "a.example.org=2001:db8::1,192.0.2.1 b.example.org=192.0.2.2"),
    ("twice.example", "b.example.org=192.0.2.2"),
    ("bücher.example", "b.example.org=192.0.2.2"),
];

fn resolver(simulation: &Simulation, zone: Arc<Zone>, ipv6: bool) -> Resolver {
    let own = Own {
        names: vec![Name::parse("me.example").unwrap()],
        addresses: vec!["192.0.2.99".parse().unwrap()],
    };
    let options = ResolverOptions { own, ipv6, ..ResolverOptions::default() };
    Resolver::new(zone, Rc::new(simulation.clone()), options)
}

fn zone(lines: &[&str]) -> Arc<Zone> {
    let zone = Zone::new();
    lines.iter().for_each(|line| zone.add(line));
    Arc::new(zone)
}

fn told(found: &Result<Rc<Exchange>, Trouble>) -> String {
    let host = |host: &MailHost| {
        let addresses: Vec<String> = host.addresses.iter().map(IpAddr::to_string).collect();
        format!("{}={}", host.name, addresses.join(","))
    };
    match found {
        Ok(exchange) => exchange.hosts.iter().map(host).collect::<Vec<_>>().join(" "),
        Err(trouble) => format!("{} {trouble}", trouble.status()),
    }
}

#[test]
fn where_mail_goes() {
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, zone(ZONE), true);
    for (domain, expected) in CASES {
        // The second answer comes from the cache.
        for _ in 0..2 {
            let found = simulation.run_until(resolver.exchange(domain));
            assert_eq!(told(&found), *expected, "{domain}");
            let permanent = expected.starts_with("5.");
            assert_eq!(found.is_err_and(|trouble| trouble.is_permanent()), permanent, "{domain}");
        }
    }
}

#[test]
fn a_site_is_its_set_of_hosts() {
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, zone(ZONE), true);
    let site = |domain| simulation.run_until(resolver.exchange(domain)).unwrap().site.clone();
    assert_eq!(site("example.org"), "a.example.org,b.example.org");
    assert_eq!(site("nick.example"), site("example.org"));
    assert_eq!(site("implicit.example"), "implicit.example");
    assert_eq!(site("[IPv6:2001:db8::5]"), "[ipv6:2001:db8::5]");
}

#[test]
fn long_lists_are_cut() {
    let zone = Zone::new();
    for host in 0..HOSTS_MAX + 10 {
        zone.add(&format!("many.example MX {host} a-rather-long-name-of-a-host-{host}.example"));
        for address in 0..ADDRESSES_MAX + 10 {
            zone.add(&format!("a-rather-long-name-of-a-host-{host}.example A 192.0.2.{address}"));
        }
    }
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, Arc::new(zone), true);
    let exchange = simulation.run_until(resolver.exchange("many.example")).unwrap();
    assert_eq!(exchange.hosts.len(), HOSTS_MAX);
    assert!(exchange.hosts.iter().all(|host| host.addresses.len() == ADDRESSES_MAX));
    assert_eq!(exchange.site.len(), SITE_MAX);
    let preferences: Vec<u16> = exchange.hosts.iter().map(|host| host.preference).collect();
    assert_eq!(preferences, (0..HOSTS_MAX as u16).collect::<Vec<_>>());
}

/// Each of three equal hosts is first in about a third of the cases; a worse one never.
#[test]
fn equal_hosts_share_the_load() {
    let zone = zone(&[
        "equal.example MX 10 a.example",
        "equal.example MX 10 b.example",
        "equal.example MX 10 c.example",
        "equal.example MX 20 d.example",
        "a.example A 192.0.2.1",
        "b.example A 192.0.2.2",
        "c.example A 192.0.2.3",
        "d.example A 192.0.2.4",
    ]);
    let simulation = Simulation::new(7);
    let resolver = resolver(&simulation, zone, true);
    let mut first = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..3000 {
        let exchange = simulation.run_until(resolver.exchange("equal.example")).unwrap();
        *first.entry(exchange.hosts[0].name.clone()).or_default() += 1;
        assert_eq!(exchange.hosts[3].name, "d.example");
    }
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first.values().all(|count| (850..1150).contains(count)), "{first:?}");
}

#[test]
fn ipv6_can_be_turned_off() {
    let zone = zone(ZONE);
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, zone.clone(), false);
    let found = simulation.run_until(resolver.exchange("example.org"));
    assert_eq!(told(&found), "a.example.org=192.0.2.1 b.example.org=192.0.2.2");
    assert!(zone.asked().iter().all(|question| question.kind != Kind::Aaaa));
}

#[test]
fn what_is_authentic_is_told() {
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, zone(ZONE), true);
    for (domain, records, addresses) in [
        ("safe.example", true, true),
        ("halfsafe.example", true, false),
        ("example.org", false, false),
        ("[192.0.2.5]", false, false),
    ] {
        let exchange = simulation.run_until(resolver.exchange(domain)).unwrap();
        assert_eq!(exchange.authentic, records, "{domain}");
        assert!(exchange.hosts.iter().all(|host| host.authentic == addresses), "{domain}");
    }
}

#[test]
fn hosts_of_routes() {
    let simulation = Simulation::new(1);
    let resolver = resolver(&simulation, zone(ZONE), true);
    for (host, expected) in [
        ("a.example.org", "2001:db8::1,192.0.2.1"),
        ("192.0.2.77", "192.0.2.77"),
        ("[192.0.2.77]", "192.0.2.77"),
        ("2001:db8::77", "2001:db8::77"),
        // A route to ourselves is the operator's business.
        ("me.example", "192.0.2.98"),
        ("alias.example", "192.0.2.8"),
        ("ghost.example", "5.1.2 the domain does not exist"),
        ("empty.example", "5.4.4 no host that takes mail for the domain has an address"),
        ("sick.example", "4.4.3 AAAA of sick.example: SERVFAIL"),
        ("a b", "5.1.2 this is not a domain name"),
    ] {
        let said = match simulation.run_until(resolver.host(host)) {
            Ok(found) => {
                let addresses: Vec<String> =
                    found.addresses.iter().map(IpAddr::to_string).collect();
                addresses.join(",")
            }
            Err(trouble) => format!("{} {trouble}", trouble.status()),
        };
        assert_eq!(said, expected, "{host}");
    }
    let aliased = simulation.run_until(resolver.host("alias.example")).unwrap();
    assert_eq!(aliased.canonical.unwrap().as_str(), "target.example");
}

/// A domain of many hosts asks all its questions before the first answer.
#[test]
fn the_questions_of_a_domain_are_asked_together() {
    struct Slow(Simulated);
    struct Simulated(Zone, std::sync::Mutex<Vec<Question>>);
    impl crate::resolver::NameServers for Slow {
        fn ask(&self, question: Question) -> Option<crate::runtime::LocalFuture<'static, Reply>> {
            self.0.1.lock().unwrap().push(question.clone());
            self.0.0.ask(question)
        }
    }
    let table = Zone::new();
    ZONE.iter().for_each(|line| table.add(line));
    let slow = Arc::new(Slow(Simulated(table, std::sync::Mutex::default())));
    let simulation = Simulation::new(1);
    let options = ResolverOptions { stale: Duration::ZERO, ..ResolverOptions::default() };
    let resolver = Resolver::new(slow.clone(), Rc::new(simulation.clone()), options);
    simulation.run_until(resolver.exchange("example.org")).unwrap();
    let asked: Vec<String> = slow.0.1.lock().unwrap().iter().map(Question::to_string).collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert_eq!(asked[0], "MX of example.org");
}
