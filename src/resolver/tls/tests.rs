//! Domains with and without DANE and MTA-STS, and what their hosts must have.

use std::rc::Rc;

use super::*;
use crate::{
    resolver::{ResolverOptions, zone::Zone},
    runtime::simulation::Simulation,
};

const ZONE: &[&str] = &[
    "!dane.example MX 10 mx.dane.example",
    "!mx.dane.example A 192.0.2.1",
    "!_25._tcp.mx.dane.example TLSA 3 1 1 abc",
    "!_587._tcp.mx.dane.example TLSA 2 0 1 def",
    // The records of the host are not signed.
    "!weak.example MX 10 mx.weak.example",
    "!mx.weak.example A 192.0.2.2",
    "_25._tcp.mx.weak.example TLSA 3 1 1 abc",
    // Its addresses are not, so its TLSA records are not asked for.
    "!plain.example MX 10 mx.plain.example",
    "mx.plain.example A 192.0.2.3",
    "_25._tcp.mx.plain.example FAIL",
    // Nor are the MX records.
    "forged.example MX 10 mx.dane.example",
    // Somebody hides the TLSA records.
    "!hidden.example MX 10 mx.hidden.example",
    "!mx.hidden.example A 192.0.2.4",
    "_25._tcp.mx.hidden.example FAIL",
    "!none.example MX 10 mx.none.example",
    "!mx.none.example A 192.0.2.5",
    "!implicit.example A 192.0.2.6",
    "!_25._tcp.implicit.example TLSA 3 1 1 abc",
    "!nick.example CNAME mx.dane.example",
    "!alias.example MX 10 nick.example",
    "!ownrecord.example CNAME mx.none.example",
    "!_25._tcp.ownrecord.example TLSA 3 1 1 abc",
    "!aliased.example MX 10 ownrecord.example",
    // An alias that leads out of its signed zone: only its own records count.
    "outside.example A 192.0.2.10",
    "_25._tcp.outside.example FAIL",
    "!leads.example CNAME outside.example",
    "!_25._tcp.leads.example TLSA 3 1 1 abc",
    "!away.example MX 10 leads.example",
    "!bare.example CNAME outside.example",
    "!out.example MX 10 bare.example",
    "unsigned.example CNAME outside.example",
    "_25._tcp.unsigned.example FAIL",
    "!wrong.example MX 10 unsigned.example",
    "!mx.authority.example A 192.0.2.11",
    "!_25._tcp.mx.authority.example TLSA 2 1 1 abc",
    "!authority.example MX 10 mx.authority.example",
    // One of the hosts has DANE.
    "!some.example MX 10 mx.none.example",
    "!some.example MX 20 mx.dane.example",
    "!mixed.example MX 10 mx.dane.example",
    "!mixed.example MX 20 mx.none.example",
    "mixed.example STS enforce mx.none.example",
    // MTA-STS.
    "sts.example MX 10 mx.sts.example",
    "sts.example MX 20 other.example",
    "mx.sts.example A 192.0.2.7",
    "other.example A 192.0.2.8",
    "sts.example STS enforce mx.sts.example",
    "unknown.example MX 10 other.example",
    "unknown.example STSFAIL",
    "testing.example MX 10 other.example",
    "testing.example STS testing mx.testing.example",
    "over.example MX 10 mx.sts.example",
    "over.example STS none",
    "!both.example MX 10 mx.dane.example",
    "both.example STS enforce elsewhere.example",
];

/// (domain, for each host in order what it must have)
const CASES: &[(&str, &[&str])] = &[
    ("dane.example", &["dane mx.dane.example,dane.example"]),
    ("weak.example", &["opportunistic"]),
    ("plain.example", &["opportunistic"]),
    ("forged.example", &["opportunistic"]),
    ("hidden.example", &["4.4.3 TLSA of _25._tcp.mx.hidden.example: SERVFAIL"]),
    ("none.example", &["opportunistic"]),
    ("implicit.example", &["dane implicit.example"]),
    ("alias.example", &["dane mx.dane.example,nick.example,alias.example"]),
    ("aliased.example", &["dane ownrecord.example,aliased.example"]),
    ("away.example", &["dane leads.example,away.example"]),
    ("out.example", &["opportunistic"]),
    ("wrong.example", &["opportunistic"]),
    (
        "sts.example",
        &["sts mx.sts.example", "4.7.5 the domain's MTA-STS policy does not list this host"],
    ),
    ("testing.example", &["sts testing other.example"]),
    ("over.example", &["opportunistic"]),
    ("unknown.example", &["4.4.3 MTA-STS policy of unknown.example: no answer in time"]),
    ("both.example", &["dane mx.dane.example,both.example"]),
    ("[192.0.2.9]", &["opportunistic"]),
];

fn world() -> (Simulation, Arc<Zone>, Resolver) {
    let zone = Zone::new();
    ZONE.iter().for_each(|line| zone.add(line));
    let (simulation, zone) = (Simulation::new(1), Arc::new(zone));
    let options = ResolverOptions { sts: true, ..ResolverOptions::default() };
    let resolver = Resolver::new(zone.clone(), Rc::new(simulation.clone()), options);
    (simulation, zone, resolver)
}

fn told(demand: Result<TlsDemand, TlsTrouble>) -> String {
    match demand {
        Ok(TlsDemand::Opportunistic) => "opportunistic".to_owned(),
        Ok(TlsDemand::Dane { names, .. }) => format!("dane {}", names.join(",")),
        Ok(TlsDemand::Sts { name, testing: true, .. }) => format!("sts testing {name}"),
        Ok(TlsDemand::Sts { name, .. }) => format!("sts {name}"),
        Err(trouble) => format!("{} {trouble}", trouble.status()),
    }
}

#[test]
fn what_hosts_must_have() {
    let (simulation, zone, resolver) = world();
    for (domain, expected) in CASES {
        let exchange = simulation.run_until(resolver.exchange(domain)).unwrap();
        let said: Vec<String> = exchange
            .hosts
            .iter()
            .map(|host| {
                told(simulation.run_until(resolver.tls_of_exchange(domain, &exchange, host, 25)))
            })
            .collect();
        assert_eq!(said, *expected, "{domain}");
    }
    let asked = zone.asked();
    let unsafe_question = asked.iter().find(|question| {
        question.kind == Kind::Tlsa && question.name.as_str().contains("plain.example")
    });
    assert_eq!(unsafe_question, None, "RFC 7672 2.1.3");
}

/// (domain, with whom it shares connections)
const SCOPES: &[(&str, TlsScope)] = &[
    ("none.example", TlsScope::Open),
    ("weak.example", TlsScope::Open),
    ("plain.example", TlsScope::Open),
    ("dane.example", TlsScope::Dane),
    ("alias.example", TlsScope::Dane),
    ("implicit.example", TlsScope::Dane),
    // The same host, without proof that it is the domain's.
    ("forged.example", TlsScope::Open),
    ("hidden.example", TlsScope::Dane),
    ("sts.example", TlsScope::Alone),
    ("testing.example", TlsScope::Alone),
    ("unknown.example", TlsScope::Alone),
    ("over.example", TlsScope::Open),
    // DANE comes first, for all of its hosts.
    ("both.example", TlsScope::Dane),
    ("authority.example", TlsScope::Alone),
    ("some.example", TlsScope::Dane),
    ("mixed.example", TlsScope::Alone),
    ("[192.0.2.9]", TlsScope::Open),
];

#[test]
fn connections_are_shared_by_those_with_the_same_demands() {
    let (simulation, _, resolver) = world();
    for (domain, expected) in SCOPES {
        let exchange = simulation.run_until(resolver.exchange(domain)).unwrap();
        let scope = simulation.run_until(resolver.tls_scope(domain, &exchange, 25));
        assert_eq!(scope, *expected, "{domain}");
    }
}

#[test]
fn a_route_names_host_and_port() {
    let (simulation, _, resolver) = world();
    for (host, port, expected) in [
        ("mx.dane.example", 25, "dane mx.dane.example"),
        ("mx.dane.example", 587, "dane mx.dane.example"),
        ("mx.dane.example", 2525, "opportunistic"),
        ("mx.plain.example", 25, "opportunistic"),
        ("192.0.2.1", 25, "opportunistic"),
    ] {
        let found = simulation.run_until(resolver.host(host)).unwrap();
        assert_eq!(told(simulation.run_until(resolver.tls_of_host(&found, port))), expected);
    }
}

#[test]
fn sts_can_be_off() {
    let (simulation, zone, _) = world();
    let options = ResolverOptions { sts: false, ..ResolverOptions::default() };
    let resolver = Resolver::new(zone.clone(), Rc::new(simulation.clone()), options);
    let exchange = simulation.run_until(resolver.exchange("sts.example")).unwrap();
    for host in &exchange.hosts {
        let demand = resolver.tls_of_exchange("sts.example", &exchange, host, 25);
        assert_eq!(simulation.run_until(demand), Ok(TlsDemand::Opportunistic));
    }
    assert!(zone.asked().iter().all(|question| question.kind != Kind::Sts));
}
