//! Restart and crash: what was acknowledged is found again, and nobody gets a message twice.

use super::*;

/// Later transactions with the same message may take long.
#[test]
fn who_has_a_message_does_not_get_it_again_after_a_crash_in_its_next_transaction() {
    let mut world = World::new();
    world.options.site.recipients = 2;
    let running = world.start(11);
    let to = ["ok@a.test", "never@a.test", "ok2@a.test", "later@a.test", "hang@a.test"];
    running.submit("s@x.test", &to);
    running.wait(2);
    assert_eq!((world.got("ok@a.test"), world.got("ok2@a.test")), (1, 1));
    running.crash();
    world.outside.up.borrow_mut().extend(["hang@a.test".to_owned(), "later@a.test".to_owned()]);
    let running = world.start(12);
    running.wait(200);
    for address in to.iter().filter(|it| !it.starts_with("never")) {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.got("s@x.test"), 1, "one report about the refused one");
    assert!(running.queue.is_empty());
}

#[test]
fn a_restart_finds_everything_and_keeps_the_schedule() {
    let world = World::new();
    let running = world.start(8);
    running.submit("s@x.test", &["later@a.test", "ok@b.test"]);
    let mut held = running.envelope("s@x.test", &["ok@held.test"]);
    held.held = true;
    let held = running.submit_with(held);
    let mut future = running.envelope("s@x.test", &["ok@future.test"]);
    future.hold_until = Some(running.simulation.now().after(Duration::from_secs(60)));
    running.submit_with(future);
    running.wait(8);
    running.simulation.clone().run_until(running.partition.checkpoint()).unwrap();
    assert_eq!((world.got("ok@b.test"), world.tried("later@a.test")), (1, 1));
    running.crash();
    world.outside.up.borrow_mut().insert("later@a.test".to_owned());
    // The clock begins anew.
    let running = world.start(9);
    running.wait(1);
    assert!(running.queue.is_read());
    assert_eq!(running.queue.len(), 3);
    running.wait(30);
    assert_eq!((world.got("later@a.test"), world.got("ok@b.test")), (1, 1));
    assert_eq!((world.got("ok@future.test"), world.got("ok@held.test")), (0, 0));
    running.wait(60);
    assert_eq!(world.got("ok@future.test"), 1);
    let released = running.simulation.clone().run_until(running.queue.set_held(held, false));
    assert!(released.unwrap());
    running.wait(2);
    assert_eq!(world.got("ok@held.test"), 1);
    assert!(running.queue.is_empty());
}

#[test]
fn what_is_returned_by_an_operator_stays_so_after_a_crash() {
    let world = World::new();
    let running = world.start(18);
    let id = running.submit("s@x.test", &["later@a.test", "ok@down.test"]);
    running.wait(2);
    let bounce = Action::Bounce("not wanted".to_owned());
    let returned = running.queue.act(id, &bounce);
    assert_eq!(running.simulation.clone().run_until(returned).unwrap(), Acted::Done);
    running.crash();
    assert_eq!(*world.outside.reasons.borrow(), ["not wanted"; 2]);
    let running = world.start(19);
    running.wait(20);
    assert!(running.queue.is_empty());
    assert_eq!((world.got("s@x.test"), world.outside.reports.get()), (1, 1));
}

/// A disk that is full has no room for reports.
#[test]
fn who_has_the_message_does_not_get_it_again_while_no_report_can_be_written() {
    let world = World::new();
    let running = world.start(21);
    world.outside.full.set(true);
    running.submit("s@x.test", &["ok1@a.test", "never@a.test"]);
    running.submit("s@x.test", &["ok2@b.test", "never@c.test"]);
    running.wait(2000);
    for address in ["ok1@a.test", "ok2@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    running.crash();
    let running = world.start(22);
    running.wait(20);
    world.outside.full.set(false);
    running.wait(20);
    assert!(running.queue.is_empty());
    for address in ["ok1@a.test", "ok2@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.outside.reports.get(), 2);
}

#[test]
fn all_that_is_done_to_messages_survives_a_restart() {
    let world = World::new();
    let running = world.start(14);
    let ids: Vec<QueueId> =
        (0..300).map(|n| running.submit("s@x.test", &[&format!("later{n}@a.test")])).collect();
    running.wait(2);
    let act = |running: &Running, ids: &[QueueId], action: &Action| {
        let tally = Tally::default();
        let all = running.queue.act_on_all(ids.to_vec(), action, &tally);
        running.simulation.clone().run_until(all);
        (tally.done.get(), tally.busy.get(), tally.gone.get(), tally.failed.get())
    };
    assert_eq!(act(&running, &ids[..100], &Action::Hold), (100, 0, 0, 0));
    assert_eq!(act(&running, &ids[100..200], &Action::Cancel), (100, 0, 0, 0));
    assert_eq!(act(&running, &ids[90..110], &Action::Cancel), (10, 0, 10, 0));
    let held = Filter { held: Some(true), ..Filter::default() };
    assert_eq!(running.listed(&held).len(), 90);
    assert!(running.listed(&held).iter().all(|it| it.parts[0].phase == "held"));
    let tried = world.tried("later0@a.test");
    running.queue.flush(&ids);
    running.wait(60);
    assert_eq!(world.tried("later0@a.test"), tried, "held");
    running.crash();

    let running = world.start(15);
    running.wait(60);
    assert_eq!((running.queue.len(), running.listed(&held).len()), (190, 90));
    assert_eq!(world.tried("later0@a.test"), tried, "held");
    assert_eq!(act(&running, &ids[..1], &Action::Release), (1, 0, 0, 0));
    running.wait(1);
    assert_eq!(world.tried("later0@a.test"), tried + 1);

    // It begins anew: with its attempts, its age and its hold.
    running.wait(1000);
    assert_eq!(act(&running, &ids[1..2], &Action::Requeue), (1, 0, 0, 0));
    let renewed = Filter { ids: vec![ids[1]], ..Filter::default() };
    let listed = running.listed(&renewed);
    assert!(
        !listed[0].held
            && listed[0].arrived.after(Duration::from_secs(1)) > running.simulation.now()
    );
    running.wait(1);
    let (_, envelope) = running.simulation.clone().run_until(running.queue.show(ids[1])).unwrap();
    assert_eq!(envelope.recipients[&1].attempts, 1);
    let told = world.got("s@x.test");
    assert_eq!(act(&running, &ids[1..2], &Action::Bounce("not wanted".to_owned())), (1, 0, 0, 0));
    running.wait(2);
    assert_eq!(world.got("s@x.test"), told + 1);
    assert_eq!(running.listed(&renewed), []);
}
