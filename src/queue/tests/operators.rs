//! What operators ask and order: lists and filters, hold, release, return and removal.

use super::*;

#[test]
fn operators_find_try_return_and_remove() {
    let world = World::new();
    let running = world.start(11);
    let first = running.submit("alice@x.test", &["later1@a.test"]);
    let second = running.submit("bob@x.test", &["later2@b.test"]);
    let third = running.submit("", &["ok@down.test"]);
    running.wait(2);
    let ids = |filter: Filter| -> Vec<QueueId> {
        running.listed(&filter).into_iter().map(|it| it.id).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(ids(Filter { sender: text("ALICE"), ..Filter::default() }), [first]);
    assert_eq!(ids(Filter { sender: text("<>"), ..Filter::default() }), [third]);
    assert_eq!(ids(Filter { recipient: text("later2@"), ..Filter::default() }), [second]);
    assert_eq!(ids(Filter { domain: text("B.test"), ..Filter::default() }), [second]);
    for (domain, count) in [(".test", 3), (".B.test", 1), (".est", 0), (".", 0), ("test", 0)] {
        let found = ids(Filter { domain: text(domain), ..Filter::default() });
        assert_eq!(found.len(), count, "{domain}");
    }
    assert_eq!(ids(Filter { site: text("mx.a.test"), ..Filter::default() }), [first]);
    assert_eq!(ids(Filter { error: text("4.4"), ..Filter::default() }), [third]);
    let few = running.simulation.clone().run_until(running.queue.list(&Filter::default(), None, 9));
    let reasons = |all: &[Listed]| -> BTreeMap<QueueId, bool> {
        let problem = |it: &Listed| it.parts.iter().all(|part| part.problem.is_some());
        all.iter().map(|it| (it.id, problem(it))).collect()
    };
    assert_eq!(reasons(&few), [first, second, third].map(|id| (id, true)).into(), "with replies");
    let found =
        running.simulation.clone().run_until(running.queue.find(&Filter::default(), None, 9));
    assert_eq!(found.listed, few);
    let all = running.listed(&Filter::default());
    assert_eq!(reasons(&all), reasons(&few), "who asks for all of a few gets their replies");
    let minute = Some(Duration::from_secs(60));
    assert_eq!(ids(Filter { older: minute, ..Filter::default() }), []);
    assert_eq!(ids(Filter { younger: minute, ..Filter::default() }).len(), 3);
    assert_eq!(second.to_string().parse(), Ok(second));

    let tried = world.tried("later1@a.test");
    let flush =
        |id| running.simulation.clone().run_until(running.queue.act(id, &Action::Flush)).unwrap();
    running.simulation.clone().run_until(running.queue.set_held(first, true)).unwrap();
    assert_eq!(flush(first), Acted::Held);
    running.wait(1);
    assert_eq!(world.tried("later1@a.test"), tried);
    running.simulation.clone().run_until(running.queue.set_held(first, false)).unwrap();
    running.wait(1);
    let tried = world.tried("later1@a.test");
    assert_eq!(flush(first), Acted::Done);
    running.wait(1);
    assert_eq!(world.tried("later1@a.test"), tried + 1);
    let shape = running.simulation.clone().run_until(async {
        let edges = [Duration::from_secs(1), Duration::from_secs(100)];
        running.queue.shape(&Filter::default(), ShapeBy::Destination, &edges, 2).await
    });
    assert_eq!((shape.rows.len(), shape.domains, &*shape.total), (2, 3, &[0, 3, 0][..]));
    assert!(shape.rows.iter().all(|(_, counts)| *counts == [0, 1, 0]));

    let returned = running.queue.remove(first, Some("not wanted"));
    assert_eq!(running.simulation.clone().run_until(returned).unwrap(), Acted::Done);
    let removed = running.queue.remove(second, None);
    assert_eq!(running.simulation.clone().run_until(removed).unwrap(), Acted::Done);
    running.wait(2);
    assert_eq!((world.got("alice@x.test"), world.got("bob@x.test")), (1, 0));
    assert_eq!(ids(Filter::default()), [third]);
}

#[test]
fn one_recipient_of_a_message_can_be_returned_or_removed() {
    let world = World::new();
    let running = world.start(16);
    let id = running
        .submit("s@x.test", &["later1@a.test", "later2@a.test", "later3@B.test", "ok@c.test"]);
    running.wait(2);
    let act = |running: &Running, recipient: &str, reason: Option<&str>| {
        let (recipient, reason) = (recipient.to_owned(), reason.map(str::to_owned));
        let action = Action::Drop { recipient, reason };
        running.simulation.clone().run_until(running.queue.act(id, &action)).unwrap()
    };
    let left = |running: &Running| -> Vec<String> {
        let shown = running.simulation.clone().run_until(running.queue.show(id));
        let recipients = shown.map(|(_, envelope)| envelope.recipients.clone()).unwrap_or_default();
        recipients.into_values().map(|it| it.address).collect()
    };
    let due = |running: &Running| running.listed(&Filter::default())[0].parts[0].next_attempt;
    let before = due(&running);
    assert_eq!(act(&running, "later@a.test", None), Acted::Gone, "part of an address");
    assert_eq!(act(&running, "later1@a.test", None), Acted::Done);
    assert_eq!(left(&running), ["later2@a.test", "later3@B.test"]);
    assert_eq!(due(&running), before, "the others keep their schedule");
    assert_eq!(world.outside.reports.get(), 0);
    assert_eq!(act(&running, "LATER3@b.test", Some("not wanted")), Acted::Done);
    assert_eq!(act(&running, "later3@b.test", Some("not wanted")), Acted::Gone);
    running.wait(1);
    assert_eq!((world.got("s@x.test"), left(&running)), (1, vec!["later2@a.test".to_owned()]));
    assert_eq!(*world.outside.reasons.borrow(), ["not wanted"]);
    running.crash();

    let running = world.start(17);
    running.wait(1);
    assert_eq!(left(&running), ["later2@a.test"], "it is durable");
    let tried = world.tried("later2@a.test");
    running.wait(120);
    assert!(world.tried("later2@a.test") > tried);
    assert_eq!(world.tried("later1@a.test"), 1);
    // The last one takes the message along.
    assert_eq!(act(&running, "later2@a.test", None), Acted::Done);
    assert!(running.queue.is_empty());
    assert_eq!(act(&running, "later2@a.test", None), Acted::Gone);
    running.wait(1);
    assert_eq!(world.outside.reports.get(), 1);
}

/// Both commands have read the message before either has changed it.
#[test]
fn a_message_that_is_held_while_a_recipient_is_removed_is_held() {
    let world = World::new();
    let running = world.start(20);
    let id = running.submit("s@x.test", &["later1@a.test", "later2@a.test"]);
    running.wait(2);
    let action = Action::Drop { recipient: "later1@a.test".to_owned(), reason: None };
    let dropped = running.queue.act(id, &action);
    let held = running.queue.act(id, &Action::Hold);
    let both = futures_lite::future::zip(dropped, held);
    let (dropped, held) = running.simulation.clone().run_until(both);
    assert_eq!((dropped.unwrap(), held.unwrap()), (Acted::Done, Acted::Done));
    running.wait(200);
    assert_eq!(world.tried("later2@a.test"), 1);
    let released = running.queue.act(id, &Action::Release);
    assert_eq!(running.simulation.clone().run_until(released).unwrap(), Acted::Done);
    running.wait(2);
    assert_eq!(world.tried("later2@a.test"), 2);
}

/// A recipient that was returned without an attempt is not returned again with the whole message.
#[test]
fn what_was_returned_before_an_attempt_is_not_returned_twice() {
    let world = World::new();
    let running = world.start(24);
    let id = running.submit("s@x.test", &["a@dark.test", "a@gone.test"]);
    running.wait(2);
    assert_eq!(*world.outside.reasons.borrow(), ["no such domain"]);
    let action = Action::Bounce("unwanted".to_owned());
    let bounced = running.queue.act(id, &action);
    assert_eq!(running.simulation.clone().run_until(bounced).unwrap(), Acted::Done);
    running.wait(20);
    assert_eq!(*world.outside.reasons.borrow(), ["no such domain", "unwanted"]);
    assert!(running.queue.is_empty());
}

/// What an operator could not do does not hurry a message.
#[test]
fn a_command_that_failed_leaves_the_schedule() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(100)];
    let running = world.start(25);
    let id = running.submit("s@x.test", &["later@a.test"]);
    running.wait(2);
    world.outside.full.set(true);
    let action = Action::Bounce("unwanted".to_owned());
    let bounced = running.queue.act(id, &action);
    assert!(running.simulation.clone().run_until(bounced).is_err());
    running.wait(50);
    assert_eq!(world.tried("later@a.test"), 1);
    running.wait(100);
    assert_eq!(world.tried("later@a.test"), 2);
}

#[test]
fn what_memory_does_not_have_is_found_on_disk() {
    let world = World::new();
    let running = world.start(13);
    let many: Vec<String> = (0..60).map(|n| format!("later{n}@many.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = running.submit("a@x.test", &many);
    let short = running.submit("b@x.test", &["later@a.test"]);
    let down = running.submit("c@x.test", &["ok@down.test"]);
    let dark = running.submit("d@x.test", &["ok@dark.test"]);
    running.wait(2);
    let ids = |filter: &Filter| -> Vec<QueueId> {
        running.listed(filter).into_iter().map(|it| it.id).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let recipient = |wanted: &str| Filter { recipient: text(wanted), ..Filter::default() };
    let error = |wanted: &str| Filter { error: text(wanted), ..Filter::default() };
    assert_eq!(ids(&recipient("LATER59@many")), [long]);
    assert_eq!(ids(&recipient("later60@many")), []);
    assert_eq!(ids(&error("450 LATER")), [long, short]);
    assert_eq!(ids(&error("connection refused")), [down]);
    assert_eq!(ids(&error("no answer")), [dark]);
    assert_eq!(ids(&error("4.2")), [long, short]);
    assert_eq!(ids(&error("4.9")), []);
    let both = Filter { recipient: text("later"), ..error("450") };
    assert_eq!(ids(&both), [long, short]);
    assert_eq!(ids(&Filter { ids: vec![dark, short, dark], ..Filter::default() }), [short, dark]);
    assert_eq!(ids(&Filter { ids: vec![short], ..error("4.4") }), []);
    assert_eq!(ids(&Filter { smaller: Some(1), ..Filter::default() }), []);
    let found =
        running.simulation.clone().run_until(running.queue.find(&Filter::default(), Some(long), 2));
    assert_eq!((found.listed.len(), found.messages, found.recipients), (2, 3, 3));
}

/// Measured by hand: `cargo test --lib a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a while and tells times"]
fn a_million_messages_are_listed_in_slices() {
    let world = World::new();
    let running = world.start(16);
    let id = running.submit("s@x.test", &["later@a.test"]);
    running.wait(1);
    let (partition, mailbox) = (id.partition, id.mailbox);
    let body = running.queue.inner.state.borrow().entries[&id].body;
    for number in 2..1_000_002 {
        let address = format!("r{number}@d{}.test", number % 1000);
        let envelope = Rc::new(running.envelope(&format!("s{}@y.test", number % 50), &[&address]));
        let id = QueueId { partition, mailbox, uid: crate::model::Uid(number) };
        let later = running.simulation.now().after(Duration::from_secs(4000));
        running.queue.inner.state.borrow_mut().add(id, body, &envelope, false, |_| later);
    }
    let text = |text: &str| Some(text.to_owned());
    for filter in [
        Filter::default(),
        Filter { recipient: text("r999999@"), ..Filter::default() },
        Filter { sender: text("s7@"), domain: text("d7.test"), ..Filter::default() },
        Filter { error: text("4.2"), ..Filter::default() },
    ] {
        let began = std::time::Instant::now();
        let find = running.queue.find(&filter, None, 100);
        let found = running.simulation.clone().run_until(find);
        println!("{} found in {:?}: {filter:?}", found.messages, began.elapsed());
    }
    let began = std::time::Instant::now();
    let edges = [Duration::from_secs(60)];
    let all = Filter::default();
    let shape = running.queue.shape(&all, ShapeBy::Destination, &edges, 20);
    let shape = running.simulation.clone().run_until(shape);
    println!("{} domains in {:?}", shape.domains, began.elapsed());
}
