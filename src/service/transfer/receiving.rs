//! The target's end of a transfer from another partition: takes the messages as they come, and puts
//! all of them into the mailbox when it is told to.

use std::rc::Rc;

use super::{Consent, Outcome, Piece, Place, TransferFailure};
use crate::{
    model::{AccountId, MailClass},
    runtime::{executor::Priority, stream::Incoming},
    service::{Shard, budget::Charge},
    store::{StoreError, Ticket},
};

/// What the target is to receive. Sent to its owner.
pub(super) struct Receiving {
    pub target: Place,
    /// Of a MOVE, with the account that it comes from.
    pub ticket: Option<(Ticket, AccountId)>,
    pub consent: Consent,
}

impl Receiving {
    pub(super) fn begin(self, shard: &Rc<Shard>, mut incoming: Incoming<Piece, Outcome>) {
        let executor = shard.executor.clone();
        let shard = shard.clone();
        let work = async move {
            let outcome = self.take(&shard, &mut incoming).await;
            if outcome.is_ok() && self.ticket.is_some() {
                // The source may not tell us that it knows.
                shard.transfers.look();
            }
            incoming.answer(outcome);
        };
        executor.spawn(Priority::Foreground, Box::pin(work));
    }

    async fn take(&self, shard: &Rc<Shard>, incoming: &mut Incoming<Piece, Outcome>) -> Outcome {
        let refused = TransferFailure::of_target;
        let (account, mailbox) = self.target;
        let partition = shard.local_partition(account).ok_or(TransferFailure::Unavailable)?;
        // First of all: from now on the move can be given up.
        let mut shipment = partition.receive(self.ticket);
        let account = partition.account(account).await.map_err(refused)?;
        let mut charge = Charge::new(&shard.messages, MailClass::Local);
        let mut writer = partition.stage();
        loop {
            match incoming.next().await {
                Some(Piece::Chunk(chunk)) => {
                    writer.write(&chunk).await.map_err(refused)?;
                    drop(chunk);
                    if !charge.set(writer.memory()) {
                        writer.spill().await.map_err(refused)?;
                        if !charge.set(writer.memory()) {
                            return Err(TransferFailure::Unavailable);
                        }
                    }
                }
                Some(Piece::Message { uid, internal_date, summary }) => {
                    let complete = std::mem::replace(&mut writer, partition.stage());
                    let body = complete.finish(summary.to_vec()).await.map_err(refused)?;
                    shipment.add(uid, internal_date, body).await.map_err(refused)?;
                    let _ = charge.set(0);
                }
                Some(Piece::Check { expected, answer }) => {
                    let may = || -> Result<(), StoreError> {
                        (self.consent)(&account, mailbox)?;
                        match expected {
                            Some(expected) => shipment.check_for(&account, mailbox, expected),
                            None => shipment.check(&account, mailbox),
                        }
                    };
                    answer.give(may().map_err(refused));
                }
                Some(Piece::Commit(manifest)) => {
                    let mut may = |account: &_, mailbox| (self.consent)(account, mailbox);
                    let done = shipment.commit(&account, mailbox, &manifest, &mut may).await;
                    return done.map_err(refused);
                }
                None => return Err(TransferFailure::Unavailable),
            }
        }
    }
}
