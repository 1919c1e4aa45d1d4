//! The mailboxes of the queue, and its share for each class of mail.

use super::*;

#[test]
fn sessions_that_need_the_mailbox_at_once_all_find_it() {
    for seed in 0..20 {
        let world = World::new();
        let running = world.start(seed);
        let found: Rc<RefCell<Vec<Result<Rc<str>, String>>>> = Rc::default();
        for _ in 0..4 {
            let (queue, partition) = (running.queue.clone(), running.partition.clone());
            let (found, clock) = (found.clone(), running.simulation.clone());
            let find = async move {
                clock.yield_now().await;
                let mailbox = queue.mailbox(&partition).await.map_err(|error| error.to_string());
                found.borrow_mut().push(mailbox);
            };
            running
                .simulation
                .spawn(crate::runtime::executor::Priority::Foreground, Box::pin(find));
        }
        running.wait(1);
        let found = found.borrow();
        assert!(found.len() == 4 && found.iter().all(|it| it.is_ok() && *it == found[0]));
    }
}

#[test]
fn mailboxes_whose_uids_are_used_up_have_successors() {
    let mut world = World::new();
    world.options.uids_per_mailbox = 5;
    let running = world.start(18);
    let mut ids: Vec<QueueId> =
        (0..12).map(|n| running.submit("s@x.test", &[&format!("later{n}@a.test")])).collect();
    // Reports follow.
    running.submit("s@x.test", &["never@a.test"]);
    running.wait(2);
    assert_eq!(world.got("s@x.test"), 1);
    let mailboxes = |running: &Running| -> Vec<String> {
        let queue = running.simulation.clone().run_until(running.partition.queue()).unwrap();
        queue.mailboxes().into_iter().map(|it| it.name).filter(|it| it != "INBOX").collect()
    };
    let all = ["Outgoing", "Outgoing 2", "Outgoing 3"];
    assert_eq!(mailboxes(&running), all);
    assert_eq!(ids.iter().map(|id| id.mailbox).collect::<BTreeSet<_>>().len(), 3);
    assert!(ids.is_sorted());
    assert_eq!(running.listed(&Filter::default()).len(), 12);
    running.crash();

    let running = world.start(19);
    running.wait(1);
    assert_eq!((running.queue.len(), mailboxes(&running)), (12, all.map(str::to_owned).to_vec()));
    let show = |id| running.simulation.clone().run_until(running.queue.show(id));
    assert!(ids.iter().all(|id| show(*id).is_some_and(|(it, _)| it.id == *id)));
    let removed = |id| running.simulation.clone().run_until(running.queue.remove(id, None));
    assert!(ids.drain(..5).all(|id| removed(id).unwrap() == Acted::Done));
    ids.push(running.submit("s@x.test", &["later12@a.test"]));
    world.outside.up.borrow_mut().extend((0..5).map(|n| format!("later{n}@a.test")));
    running.crash();

    // The first one is empty now, and goes.
    let running = world.start(20);
    running.wait(1);
    assert_eq!(mailboxes(&running), all[1..]);
    world.outside.up.borrow_mut().extend((5..13).map(|n| format!("later{n}@a.test")));
    running.wait(300);
    assert!(running.queue.is_empty());
    assert!((5..13).all(|n| world.got(&format!("later{n}@a.test")) == 1));
    running.crash();
    let running = world.start(21);
    running.wait(1);
    assert_eq!(mailboxes(&running), all[2..], "the last one stays: its UIDs are used");
    let id = running.submit("s@x.test", &["later99@a.test"]);
    assert!(id > *ids.last().unwrap());
}

#[test]
fn a_flood_of_reports_takes_a_quarter_of_the_queue() {
    let mut world = World::new();
    world.options.messages_max = 80;
    let running = world.start(22);
    let admitted = |running: &Running, class: MailClass, sender: &str, origin| {
        let mut count = 0;
        while running.queue.admits(class) {
            let mut envelope = running.envelope(sender, &["later@a.test"]);
            envelope.origin = origin;
            running.submit_with(envelope);
            count += 1;
        }
        count
    };
    assert_eq!(admitted(&running, MailClass::NullSender, "", Origin::Inbound), 20);
    assert_eq!(admitted(&running, MailClass::Inbound, "s@x.test", Origin::Relay), 40);
    assert_eq!(admitted(&running, MailClass::Submission, "s@x.test", Origin::Submission), 20);
    assert!(!running.queue.admits(MailClass::Local));
    running.wait(2);
    assert_eq!(MailClass::ALL.map(|class| running.queue.len_of(class)), [40, 20, 0, 20]);
    running.crash();
    let running = world.start(23);
    running.wait(2);
    assert_eq!(MailClass::ALL.map(|class| running.queue.len_of(class)), [40, 20, 0, 20]);
    assert!(
        !running.queue.admits(MailClass::NullSender) && !running.queue.admits(MailClass::Inbound)
    );
    let reports = Filter { sender: Some("<>".to_owned()), ..Filter::default() };
    let reports: Vec<QueueId> = running.listed(&reports).iter().map(|it| it.id).collect();
    for id in &reports {
        running.simulation.clone().run_until(running.queue.remove(*id, None)).unwrap();
    }
    assert_eq!((reports.len(), running.queue.len_of(MailClass::NullSender)), (20, 0));
    assert_eq!(admitted(&running, MailClass::Inbound, "s@x.test", Origin::Relay), 0);
    assert_eq!(admitted(&running, MailClass::NullSender, "", Origin::Inbound), 10);
    assert_eq!(
        admitted(&running, MailClass::Submission, "s@x.test", Origin::Submission),
        10,
        "the rest"
    );
}
