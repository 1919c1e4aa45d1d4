//! What becomes of each recipient: delivered once, put off, returned, and who is told.

use super::*;

#[test]
fn each_recipient_gets_it_once_and_the_message_goes() {
    let world = World::new();
    let running = world.start(1);
    running.submit("s@x.test", &["ok1@a.test", "ok2@a.test", "ok3@b.test"]);
    running.wait(3);
    assert!(running.queue.is_empty());
    for address in ["ok1@a.test", "ok2@a.test", "ok3@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.outside.transactions.borrow().len(), 2, "one for each site");
    assert_eq!(world.outside.reports.get(), 0);
    running.crash();
    let running = world.start(2);
    running.wait(3);
    assert!(running.queue.is_read() && running.queue.is_empty());
    assert_eq!(world.got("ok1@a.test"), 1);
}

#[test]
fn refusals_are_returned_once_and_temporary_ones_tried_by_the_schedule() {
    let world = World::new();
    let running = world.start(3);
    running.submit("s@x.test", &["never@a.test", "later@a.test", "ok@a.test"]);
    running.wait(5);
    assert_eq!(world.got("s@x.test"), 1, "the report");
    assert_eq!((world.got("ok@a.test"), world.tried("later@a.test")), (1, 1));
    let left = running.listed(&Filter::default());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].parts[0].status, "4.2.0");
    running.wait(20);
    assert_eq!(world.tried("later@a.test"), 2, "after 10 s");
    running.wait(400);
    assert_eq!(world.got("s@x.test"), 2, "told that it is late");
    world.outside.up.borrow_mut().insert("later@a.test".to_owned());
    running.wait(1200);
    assert_eq!(world.got("later@a.test"), 1);
    assert!(running.queue.is_empty());
    assert_eq!((world.tried("never@a.test"), world.got("s@x.test")), (1, 2));
    assert_eq!(world.got("ok@a.test"), 1);
}

#[test]
fn lost_connections_leave_the_rest_for_later() {
    let world = World::new();
    let running = world.start(7);
    running.submit("s@x.test", &["lost@a.test"]);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(5);
    assert_eq!(world.got("ok@a.test"), 1);
    world.outside.up.borrow_mut().insert("lost@a.test".to_owned());
    running.wait(30);
    assert!(running.queue.is_empty());
    assert_eq!(world.got("lost@a.test"), 1);
}

/// A connection that the other side has ended meanwhile is no attempt.
#[test]
fn a_message_that_was_not_begun_is_tried_on_another_connection_at_once() {
    let world = World::new();
    let running = world.start(13);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(1);
    running.submit("s@x.test", &["stale@a.test", "ok2@b.test"]);
    running.wait(1);
    assert_eq!((world.got("stale@a.test"), world.got("ok2@b.test")), (1, 1));
    assert!(running.queue.is_empty());
}

/// They share a destination, and so the time of the next attempt.
#[test]
fn who_was_put_off_is_not_tried_at_once_with_whom_no_command_reached() {
    let world = World::new();
    let running = world.start(7);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(1);
    running.submit("s@x.test", &["stale@a.test", "later@a.test"]);
    running.wait(5);
    assert_eq!((world.got("stale@a.test"), world.tried("later@a.test")), (0, 1));
    running.wait(15);
    assert_eq!(world.got("stale@a.test"), 1);
}

#[test]
fn notifications_are_sent_as_asked_for() {
    let world = World::new();
    let running = world.start(10);
    let on = |success, failure| Some(Notify::On { success, failure, delay: false });
    let mut envelope = running.envelope("s@x.test", &["ok1@a.test", "ok2@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = on(true, false);
    running.submit_with(envelope);
    running.wait(2);
    assert_eq!(world.got("s@x.test"), 1);
    let mut envelope = running.envelope("t@x.test", &["never1@a.test", "never2@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = Some(Notify::Never);
    envelope.recipients.get_mut(&2).unwrap().notify = on(true, false);
    running.submit_with(envelope);
    running.wait(2);
    assert_eq!(world.got("t@x.test"), 0);
    assert!(running.queue.is_empty());
}

#[test]
fn the_time_that_an_attempt_took_is_kept_with_its_problem() {
    let mut world = World::new();
    world.options.site.rate = 60;
    let running = world.start(25);
    let first = running.submit("s@x.test", &["later1@a.test"]);
    let second = running.submit("s@x.test", &["later2@a.test"]);
    running.wait(5);
    let waited = |running: &Running, id| {
        let (_, envelope) = running.simulation.clone().run_until(running.queue.show(id)).unwrap();
        let times = envelope.recipients[&1].problem.as_ref().unwrap().times.clone();
        let steps: Vec<Step> = times.iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [Step::Queue, Step::Resolve]);
        times.iter().next().unwrap().1
    };
    assert!(waited(&running, first) < Duration::from_millis(100));
    let long = waited(&running, second);
    assert!((900..1100).contains(&long.as_millis()), "{long:?} for its place by the rate");
    running.crash();
    let running = world.start(26);
    running.wait(1);
    assert_eq!(waited(&running, second), long, "it is on disk");
}
