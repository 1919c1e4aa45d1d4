//! When a message is tried: its schedule, its expiry, holds, and the order of many.

use super::*;

#[test]
fn results_wait_for_a_slow_disk_without_spinning() {
    let world = World::new();
    let running = world.start(13);
    running.submit("s@x.test", &["ok@a.test", "ok@b.test", "ok@c.test", "ok@d.test"]);
    let (appends, syncs) = world.device.operations();
    let slow = (0..20).map(|at| (appends + syncs + at, Duration::from_secs(3))).collect();
    world.device.inject(Faults { slow, ..Faults::default() });
    running.simulation.allow_polls(20_000);
    running.wait(200);
    assert!(running.queue.is_empty());
    assert!(["a", "b", "c", "d"].iter().all(|it| world.got(&format!("ok@{it}.test")) == 1));
}

#[test]
fn what_cannot_be_delivered_expires_and_reports_are_never_returned() {
    let world = World::new();
    let running = world.start(4);
    running.submit("s@x.test", &["later@a.test"]);
    running.submit("", &["later2@a.test", "never@b.test"]);
    running.submit("never@s.test", &["ok@gone.test"]);
    running.wait(6000);
    assert!(running.queue.is_empty(), "{:?}", running.listed(&Filter::default()));
    assert_eq!(world.got("s@x.test"), 2, "a warning and a report");
    assert_eq!(world.tried("never@s.test"), 1, "a report that cannot be delivered ends there");
    assert_eq!(world.outside.reports.get(), 3);
    assert!(world.tried("later@a.test") >= 4);
}

/// What expires has a last attempt: after a long outage of our own the other side may be up, and
/// the report says why it could not be delivered.
#[test]
fn the_last_attempt_is_at_the_end_of_a_message_s_time() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(100_000)];
    world.options.delay_warning = Duration::ZERO;
    let running = world.start(16);
    running.submit("s@x.test", &["later1@a.test", "later2@b.test"]);
    running.wait(10);
    world.outside.up.borrow_mut().insert("later1@a.test".to_owned());
    running.wait(world.options.expire.as_secs());
    assert!(running.queue.is_empty());
    assert_eq!((world.got("later1@a.test"), world.tried("later2@b.test")), (1, 2));
    assert_eq!(world.got("s@x.test"), 1);
    let reasons = world.outside.reasons.borrow();
    assert!(reasons[0].contains("450 later"), "{reasons:?}");
}

/// A restart does not change it.
#[test]
fn mail_can_have_a_time_of_its_own() {
    let world = World::new();
    let running = world.start(17);
    let mut envelope = running.envelope("s@x.test", &["later@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = Some(Notify::Never);
    envelope.expires = Some(envelope.arrived.after(Duration::from_secs(600)));
    running.submit_with(envelope);
    running.wait(5);
    running.crash();
    let running = world.start(18);
    running.wait(500);
    assert_eq!(running.queue.len(), 1);
    running.wait(110);
    assert!(running.queue.is_empty(), "{:?}", running.listed(&Filter::default()));
    assert_eq!(world.outside.reports.get(), 0);
}

/// Its client was told 250: no trouble with reading may leave it until the next start.
#[test]
fn a_message_that_cannot_be_read_at_once_is_taken_up_later() {
    let mut world = World::new();
    world.account_budget = 1;
    let running = world.start(17);
    running.simulation.clone().run_until(async {
        let envelope = running.envelope("s@x.test", &["ok@a.test"]);
        let id = running.store(&envelope).await;
        running.partition.checkpoint().await.unwrap();
        world.device.inject(Faults { unreadable: true, ..Faults::default() });
        assert!(settle::body_of(&running.partition, id.mailbox, id.uid).await.is_err());
        running.queue.take_in(&running.partition, id, Rc::new(envelope)).await;
        assert!(running.queue.is_empty());
        running.simulation.sleep(Duration::from_secs(5)).await;
        world.device.inject(Faults::default());
    });
    running.wait(5);
    assert_eq!(world.got("ok@a.test"), 1);
}

/// More messages are tried again than the site can take in that time.
#[test]
fn old_messages_that_are_refused_again_and_again_do_not_keep_new_ones_waiting() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(1)];
    world.options.site.connections = 1;
    let running = world.start(15);
    for number in 0..400 {
        running.submit("s@x.test", &[&format!("later{number}@a.test")]);
    }
    running.wait(20);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(10);
    assert_eq!(world.got("ok@a.test"), 1);
}

#[test]
fn lookups_that_fail_now_are_repeated() {
    let world = World::new();
    let running = world.start(6);
    running.submit("s@x.test", &["ok@dark.test"]);
    running.wait(5);
    assert_eq!(running.listed(&Filter::default())[0].parts[0].status, "4.4.3");
    world.outside.up.borrow_mut().insert("dark.test".to_owned());
    running.wait(15);
    assert_eq!(world.got("ok@dark.test"), 1);
}

/// RFC 4865: a message may be held for as long as others may wait.
#[test]
fn a_message_that_was_held_does_not_expire_meanwhile() {
    let world = World::new();
    let running = world.start(15);
    let mut envelope = running.envelope("s@x.test", &["later@a.test"]);
    let hold = world.options.expire;
    envelope.hold_until = Some(running.simulation.now().after(hold));
    running.submit_with(envelope);
    running.wait(hold.as_secs() + 5);
    assert_eq!((world.tried("later@a.test"), world.got("s@x.test")), (1, 0));
    running.wait(20);
    assert!(world.tried("later@a.test") >= 2, "by its schedule");
    running.wait(hold.as_secs());
    assert!(running.queue.is_empty());
    assert_eq!(world.got("s@x.test"), 2, "a warning and a report");
}

#[test]
fn urgent_mail_overtakes() {
    let world = World::new();
    let mut options = world.options.clone();
    options.site.connections = 1;
    let world = World { options, ..world };
    let running = world.start(12);
    let mut last = None;
    for number in 0..30 {
        let address = format!("ok{number}@a.test");
        let mut envelope = running.envelope("s@x.test", &[&address]);
        envelope.origin = Origin::Relay;
        if number == 29 {
            envelope.priority = 5;
            last = Some(address.clone());
        }
        running.submit_with(envelope);
    }
    running.wait(5);
    let attempts = world.outside.attempts.borrow();
    let place = attempts.iter().position(|it| Some(it) == last.as_ref()).unwrap();
    assert_eq!(attempts.len(), 30);
    assert!(place < 29, "{place}");
}

/// RFC 2852 4: when the time is over, the sender is told, whatever the setting says, and the
/// message is tried on; each relay that the sender is to know of is reported, without NOTIFY too.
#[test]
fn the_sender_of_mail_to_be_delivered_by_a_time_is_told() {
    for (delay_warning, notify) in [(0, None), (30, None), (300, Some(Notify::Never))] {
        let mut world = World::new();
        world.options.delay_warning = Duration::from_secs(delay_warning);
        world.options.retry = vec![Duration::from_secs(1000)];
        let running = world.start(24);
        let mut envelope = running.envelope("s@x.test", &["later@a.test", "told@b.test"]);
        envelope.recipients.get_mut(&1).unwrap().notify = notify;
        let deadline = envelope.arrived.after(Duration::from_secs(100));
        envelope.deliver_by = Some(DeliverBy { deadline, returns: false, trace: true });
        running.submit_with(envelope);
        running.wait(5);
        assert_eq!((world.got("told@b.test"), world.got("s@x.test")), (1, 1), "its relay");
        running.crash();
        let running = world.start(25);
        running.wait(90);
        assert_eq!(world.got("s@x.test"), 1, "not yet");
        running.wait(15);
        let told = if notify.is_none() { 2 } else { 1 };
        assert_eq!(world.got("s@x.test"), told, "late");
        running.wait(600);
        assert_eq!((world.got("s@x.test"), running.queue.len()), (told, 1));
    }
}
