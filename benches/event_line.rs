//! The cost for a shard of reporting the two events of a message to one mailbox, with the writer's
//! end drained by another thread; and the cost if they are turned off.

use std::{hint::black_box, net::IpAddr, thread, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use ringmail::{
    events::{Event, Kind, Kinds, ShardEvents, queue},
    metrics::Protocol,
    model::{AccountId, MailboxId, PartitionId, ShardId, Timestamp, Uid},
};

fn message(events: &ShardEvents, now: Timestamp, number: u32) {
    let trail = events.next_trail().message(1);
    events.tell(
        &Event::Message {
            trail,
            id: "63f1c8a0b2d4e.0a1b2c3d",
            protocol: Protocol::Smtp,
            peer: IpAddr::from([192, 0, 2, 7]),
            client: "mail.example.org",
            tls: true,
            from: "somebody@example.org",
            to: Some("somebody.else@example.net"),
            recipients: 1,
            octets: 4096,
            account: None,
        },
        now,
    );
    events.tell(
        &Event::Delivered {
            trail: Some(trail),
            delivery: None,
            partition: PartitionId(3),
            account: AccountId(1000),
            mailbox: MailboxId::INBOX,
            uid: Uid(number),
            octets: 4500,
        },
        now,
    );
}

fn bench(criterion: &mut Criterion) {
    for (name, kinds) in
        [("message_told", Kind::ALL.into_iter().collect()), ("message_not_told", Kinds::NONE)]
    {
        let (sender, queue) = queue(kinds);
        let drain = thread::spawn(move || while queue.next(Duration::from_secs(3)).is_some() {});
        let events = ShardEvents::new(ShardId(0), sender, Timestamp(1_796_000_000_000_000));
        let mut now = Timestamp(1_796_000_000_000_000);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                now = now.after(Duration::from_micros(30));
                message(black_box(&events), now, now.0 as u32);
            });
        });
        drop(events);
        let _ = drain.join();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
