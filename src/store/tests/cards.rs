//! Checkpoints make cards, which agree with the messages' own entries and are remade when damaged.

use super::*;
use crate::store::{
    CARD_PARTS, CardReader,
    log::{EntryKind, dissect, epoch_of_name},
};

/// Every third octet of a summary to each part.
pub(super) fn thirds(summary: &[u8], parts: &mut [Vec<u8>; CARD_PARTS]) {
    summary.iter().enumerate().for_each(|(at, octet)| parts[at % CARD_PARTS].push(*octet));
}

/// Delivers messages whose summaries differ, and some of whose bodies are long.
async fn fill(partition: &Partition, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let body = bytes(n, if n % 50 == 7 { 40_000 } else { 200 + n as usize });
        let mut writer = partition.stage();
        writer.write(&body).await.unwrap();
        let summary = format!("Subject: the {n}th of many messages that are much alike");
        let body = writer.finish(summary.into_bytes()).await.unwrap();
        partition.deliver(body, vec![target(ALICE)], None).await.unwrap();
    }
}

/// Checks that every message's card agrees with its own entry. Returns how many have one.
async fn check_all(partition: &Partition) -> usize {
    let account = partition.account(ALICE).await.unwrap();
    let mut with_cards = 0;
    let mut readers: Vec<CardReader> =
        (0..CARD_PARTS).map(|part| account.cards(MailboxId::INBOX, part)).collect();
    for message in snapshot(&account, MailboxId::INBOX).await.iter_from(0) {
        let summary = account.read_summary(&message.body).await.unwrap();
        let mut expected: [Vec<u8>; CARD_PARTS] = Default::default();
        thirds(&summary, &mut expected);
        for (reader, expected) in readers.iter_mut().zip(&expected) {
            reader.seek(message).await.unwrap();
            assert_eq!(reader.card(), expected, "{}", message.uid);
        }
        let state = account.cell.state.borrow();
        let run = state.mailboxes[&MailboxId::INBOX].cards.run_of(message.uid);
        with_cards += usize::from(run.is_some());
    }
    with_cards
}

fn card_runs(world: &World) -> Vec<(String, usize, usize)> {
    let mut runs = Vec::new();
    for name in world.device.names() {
        let Some(epoch) = epoch_of_name(&name) else { continue };
        let content = world.device.content(&name).unwrap();
        let Ok(found) = dissect(&content, world.options.partition, epoch, Lsn(0)) else { continue };
        for entry in found.entries {
            if entry.header.is_some_and(|header| header.kind == EntryKind::CardRun) {
                runs.push((name.clone(), entry.offset as usize, content.len()));
            }
        }
    }
    runs
}

#[test]
fn checkpoints_make_cards_of_many_messages_and_none_of_few() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        fill(&partition, 0..60).await;
        partition.checkpoint().await.unwrap();
        assert_eq!(check_all(&partition).await, 0);
        fill(&partition, 60..400).await;
        partition.checkpoint().await.unwrap();
        assert_eq!(check_all(&partition).await, 400);
        // A few more; then enough, which are merged with the others; expunged messages do no harm.
        fill(&partition, 400..450).await;
        let account = partition.account(ALICE).await.unwrap();
        let gone: Vec<Uid> = (1..=450).filter(|uid| uid % 3 == 0).map(Uid).collect();
        account.remove(MailboxId::INBOX, &gone).await.unwrap();
        partition.checkpoint().await.unwrap();
        assert_eq!(check_all(&partition).await, 400 - 133);
        for round in 0..8 {
            fill(&partition, 450 + 80 * round..530 + 80 * round).await;
            partition.checkpoint().await.unwrap();
        }
        assert_eq!(check_all(&partition).await, 300 + 640);
        {
            let state = account.cell.state.borrow();
            let runs = state.mailboxes[&MailboxId::INBOX].cards.runs();
            assert!(runs.len() <= 4, "{} runs", runs.len());
        }
        partition.compact().await.unwrap();
        assert_eq!(check_all(&partition).await, 300 + 640);
        drop(account);
        partition.close().await.unwrap();
        let partition = world.open().await;
        assert_eq!(check_all(&partition).await, 300 + 640);
        assert_eq!(partition.verify(&|_| {}).await.unwrap().findings_total, 0);
    });
}

/// Any bit of a run of cards may rot: every message can still be described, and new cards are made.
#[test]
fn damaged_cards_are_made_anew() {
    for at in [60, 90, 300, 900] {
        run(async |world: Rc<World>| {
            let partition = world.open().await;
            fill(&partition, 0..300).await;
            partition.checkpoint().await.unwrap();
            partition.close().await.unwrap();
            let runs = card_runs(&world);
            assert_eq!(runs.len(), 1);
            let (name, offset, _) = &runs[0];
            world.device.corrupt(name, |bytes| bytes[offset + at] ^= 1);
            let partition = world.open().await;
            // The background task may have made some by the time all are read.
            assert!(check_all(&partition).await < 300, "{at}");
            assert!(partition.damage_news().iter().any(|it| it.place.account == Some(ALICE)));
            partition.checkpoint().await.unwrap();
            assert_eq!(check_all(&partition).await, 300, "{at}");
            partition.close().await.unwrap();
        });
    }
}

/// A mailbox whose messages have none, like one of the first format, gets them when it is read
/// through.
#[test]
fn who_looks_through_a_mailbox_without_cards_has_them_made() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        fill(&partition, 0..200).await;
        partition.checkpoint().await.unwrap();
        let account = partition.account(ALICE).await.unwrap();
        {
            let mut state = account.cell.state.borrow_mut();
            state.mailboxes.get_mut(&MailboxId::INBOX).unwrap().cards = Default::default();
        }
        assert!(check_all(&partition).await < 200);
        // The background task was asked to make them.
        for _ in 0..1_000 {
            world.simulation.yield_now().await;
        }
        world.simulation.sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(check_all(&partition).await, 200);
    });
}

/// Cards are given up while a checkpoint makes others: the new ones must not replace the lost ones.
#[test]
fn cards_given_up_under_a_checkpoint_are_made_anew() {
    let mut given_up = 0;
    for turns in 0..12 {
        run(async |world: Rc<World>| {
            let partition = world.open().await;
            fill(&partition, 0..1000).await;
            partition.checkpoint().await.unwrap();
            fill(&partition, 1000..1400).await;
            let (account, other) = (partition.account(ALICE).await.unwrap(), partition.clone());
            let checkpoint = async move { other.checkpoint().await.unwrap() };
            world.simulation.spawn(Priority::Foreground, Box::pin(checkpoint));
            for _ in 0..turns {
                world.simulation.yield_now().await;
            }
            {
                let mut state = account.cell.state.borrow_mut();
                let cards = &mut state.mailboxes.get_mut(&MailboxId::INBOX).unwrap().cards;
                if let Some(&first) = cards.runs().first() {
                    given_up += cards.give_up(first.lsn).len();
                    state.dirty = true;
                }
            }
            for _ in 0..3 {
                partition.checkpoint().await.unwrap();
            }
            assert_eq!(check_all(&partition).await, 1400, "after {turns} turns");
        });
    }
    assert!(given_up >= 12, "{given_up}");
}
