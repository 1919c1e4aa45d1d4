//! The connections and the rate of a site, on one shard and on several, and which destinations are
//! one site.

use super::*;

#[test]
fn destinations_with_the_same_hosts_share_transactions_and_connections() {
    let world = World::new();
    let running = world.start(1);
    // Both are known before a message comes for both.
    running.submit("s@x.test", &["ok@one.test"]);
    running.submit("s@x.test", &["ok@two.test"]);
    running.wait(1);
    let connections = world.outside.connections.get();
    running.submit("s@x.test", &["ok1@one.test", "ok2@two.test"]);
    running.wait(1);
    assert_eq!(world.outside.connections.get(), connections, "an idle connection is used");
    let both = ["ok1@one.test".to_owned(), "ok2@two.test".to_owned()];
    let transactions = world.outside.transactions.borrow();
    // They may also become ready one after the other.
    let last: Vec<String> = transactions.iter().skip(2).flatten().cloned().collect();
    assert_eq!(last.iter().collect::<BTreeSet<_>>(), both.iter().collect());
}

#[test]
fn recipients_for_whom_any_tls_will_do_are_a_destination_of_their_own() {
    let world = World::new();
    world.outside.up.borrow_mut().insert(format!("dark.test{ANY_TLS}"));
    let running = world.start(29);
    running.submit("s@x.test", &["strict@dark.test"]);
    let mut envelope = running.envelope("s@x.test", &["any@dark.test"]);
    envelope.recipients.get_mut(&1).unwrap().any_tls = true;
    running.submit_with(envelope);
    running.wait(5);
    assert_eq!((world.got("any@dark.test"), world.got("strict@dark.test")), (1, 0));
}

#[test]
fn a_site_that_is_down_is_not_asked_for_each_message() {
    let world = World::new();
    let running = world.start(5);
    for number in 0..50 {
        running.submit("s@x.test", &[&format!("ok{number}@down.test")]);
    }
    running.wait(5);
    let first = world.outside.connections.get();
    assert!(first <= 55, "{first}");
    let listed = running.listed(&Filter::default());
    assert_eq!(listed.len(), 50);
    assert_eq!(listed[0].parts[0].status, "4.4.1");
    world.outside.up.borrow_mut().insert("mx.down.test".to_owned());
    running.wait(200);
    assert!(running.queue.is_empty());
    assert!((0..50).all(|number| world.got(&format!("ok{number}@down.test")) == 1));
}

/// The pause of a site must not make a message miss its own schedule by much, or its expiry.
#[test]
fn a_site_that_was_down_for_long_is_tried_by_the_schedule_of_its_messages() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(1), Duration::from_secs(2)];
    let running = world.start(14);
    running.submit("s@x.test", &["ok@down.test"]);
    running.wait(40);
    world.outside.up.borrow_mut().insert("mx.down.test".to_owned());
    running.wait(5);
    assert_eq!(world.got("ok@down.test"), 1);
}

/// Shards of one server, with a device each and the same outside world.
fn shards(count: u16, seed: u64, options: &QueueOptions) -> (Vec<World>, Vec<Running>) {
    let (simulation, slots) = (Simulation::new(seed), SiteSlots::new());
    let outside: Rc<Outside> = Rc::default();
    let world = |_| World { outside: outside.clone(), options: options.clone(), ..World::new() };
    let worlds: Vec<World> = (0..count).map(world).collect();
    let seats = (0..count).map(|shard| slots.seat(ShardId(shard)));
    let running = worlds.iter().zip(seats).map(|(world, seat)| world.join(&simulation, seat));
    let running = running.collect();
    (worlds, running)
}

#[test]
fn the_connections_of_a_site_are_those_of_all_shards() {
    for (limit, seed) in [(1, 1), (2, 2), (3, 3), (5, 4)] {
        let mut options = World::new().options;
        options.site.connections = limit;
        let (worlds, running) = shards(3, seed, &options);
        let outside = &worlds[0].outside;
        // The first has its mail, and the connections, before the others.
        for (number, shard) in running.iter().enumerate() {
            for message in 0..400 {
                shard.submit("s@x.test", &[&format!("ok{number}-{message}@a.test")]);
            }
        }
        running[0].wait(1);
        let got = |shard: usize| {
            let prefix = format!("ok{shard}-");
            outside.delivered.borrow().keys().filter(|it| it.starts_with(&prefix)).count()
        };
        let mut waited = 0;
        while running.iter().any(|shard| !shard.queue.is_empty()) {
            if running.iter().all(|shard| !shard.queue.is_empty()) && waited > 0 {
                assert!((1..3).all(|shard| got(shard) > 0), "{limit}: a shard starves");
            }
            running[0].wait(1);
            waited += 1;
            assert!(waited < 120, "{limit}: {} {} {}", got(0), got(1), got(2));
        }
        assert_eq!(outside.open_most.get(), limit, "connections at once");
        // Connections are kept for a turn, not for a message.
        assert!(outside.connections.get() < 300, "{limit}: {}", outside.connections.get());
    }
}

#[test]
fn the_rate_of_a_site_is_that_of_all_shards() {
    let mut options = World::new().options;
    options.site.rate = 120;
    let (worlds, running) = shards(2, 5, &options);
    for (number, shard) in running.iter().enumerate() {
        for message in 0..40 {
            shard.submit("s@x.test", &[&format!("ok{number}-{message}@a.test")]);
        }
    }
    running[0].wait(20);
    let got: Vec<String> = worlds[0].outside.delivered.borrow().keys().cloned().collect();
    let delivered = got.len();
    assert!((37..=42).contains(&delivered), "{delivered} in 20 s at two a second");
    let first = got.iter().filter(|it| it.starts_with("ok0")).count();
    assert!((10..=30).contains(&first), "{first} of {delivered}");
    running[0].wait(30);
    assert!(running.iter().all(|shard| shard.queue.is_empty()));
}

#[test]
fn a_busy_shard_needs_one_connection_for_a_site() {
    let world = World::new();
    let running = world.start(24);
    world.outside.strained.set(true);
    let submit = |from: u32| {
        for number in from..from + 300 {
            running.submit("s@x.test", &[&format!("ok{number}@a.test")]);
        }
    };
    submit(0);
    running.wait(1);
    assert_eq!(world.outside.open_most.get(), 1);
    running.wait(5);
    assert!(running.queue.is_empty(), "it goes on");
    world.outside.strained.set(false);
    submit(300);
    running.wait(1);
    assert!(world.outside.open_most.get() > 3);
    running.wait(5);
    submit(600);
    world.outside.strained.set(true);
    running.wait(1);
    assert!(world.outside.open.get() <= 1, "the others ended after their message");
}

#[test]
fn the_shape_of_any_destination_holds_also_after_a_reload() {
    let limits = |connections| SiteLimits { connections, ..SiteLimits::default() };
    let shape = |pattern: &str, connections| Shape {
        pattern: pattern.to_owned(),
        limits: limits(connections),
    };
    let mut world = World::new();
    world.options.shapes = vec![shape("nobody.test", 9), shape("two.test", 3)];
    let running = world.start(23);
    let connections = || {
        let state = running.queue.inner.state.borrow();
        state.sites.get("shared").map(|site| site.limits.get().connections)
    };
    running.submit("s@x.test", &["later@one.test"]);
    running.wait(1);
    assert_eq!(connections(), Some(20));
    running.submit("s@x.test", &["later@two.test"]);
    running.wait(1);
    assert_eq!(connections(), Some(3), "the second destination has a shape");
    running.queue.set_options(QueueOptions { site: limits(7), ..world.options.clone() });
    assert_eq!(connections(), Some(3));
    let shapes = vec![shape("one.test", 5), shape("two.test", 3)];
    running.queue.set_options(QueueOptions { shapes, ..world.options.clone() });
    assert_eq!(connections(), Some(5), "the first one counts");
    let shapes = vec![shape("shared", 4), shape("one.test", 5)];
    running.queue.set_options(QueueOptions { shapes, ..world.options.clone() });
    assert_eq!(connections(), Some(4), "a host of it");
    running.queue.set_options(QueueOptions { shapes: Vec::new(), ..world.options.clone() });
    assert_eq!(connections(), Some(20));
}

#[test]
fn a_queue_that_ends_does_not_wait_for_the_rate() {
    let mut world = World::new();
    world.options.site.rate = 1;
    let running = world.start(24);
    running.submit("s@x.test", &["ok1@a.test"]);
    running.submit("s@x.test", &["ok2@a.test"]);
    running.wait(2);
    assert_eq!((world.outside.delivered.borrow().len(), world.outside.open.get()), (1, 1));
    running.queue.end();
    running.wait(2);
    assert_eq!((world.outside.delivered.borrow().len(), world.outside.open.get()), (1, 0));
}

/// All connections are with hosts that do not answer.
/// A site that looked for a free connection again and again would need a poll each time.
#[test]
fn many_sites_that_wait_for_a_connection_cost_little() {
    const SITES: u32 = 2000;
    let mut world = World::new();
    world.options.connections = 2;
    let running = world.start(25);
    for number in 0..2 {
        running.submit("s@x.test", &[&*format!("ok@hang{number}.test")]);
    }
    running.wait(1);
    let recipients: Vec<String> = (0..SITES).map(|it| format!("ok@{it}.test")).collect();
    for some in recipients.chunks(1000) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        running.submit("s@x.test", &some);
    }
    // All sites are known then.
    running.wait(10);
    running.simulation.allow_polls(u64::from(SITES));
    running.wait(290);
    running.simulation.allow_polls(u64::MAX);
    assert!(world.outside.delivered.borrow().is_empty());
    let hosts = (0..2).map(|number| format!("mx.hang{number}.test"));
    world.outside.up.borrow_mut().extend(hosts);
    running.wait(1000);
    assert!(world.outside.delivered.borrow().len() >= SITES as usize);
}
