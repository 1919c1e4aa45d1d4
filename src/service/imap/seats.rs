//! Counts the sessions of each account. All of them are on the account's owner shard.
//!
//! Each session holds a mailbox snapshot and an output buffer; a client that opens sessions without
//! limit would take the memory of others.

use std::{cell::RefCell, rc::Rc};

use hashbrown::HashMap;

use crate::model::AccountId;

/// The number of sessions of each account of a shard.
#[derive(Clone, Default)]
pub struct AccountSeats(Rc<RefCell<HashMap<AccountId, u32>>>);

/// One session's seat; dropping it frees the seat.
pub(super) struct AccountSeat {
    seats: AccountSeats,
    account: AccountId,
}

impl AccountSeats {
    /// A seat for one more session of `account`; `None` if it already has `most`.
    pub(super) fn take(&self, account: AccountId, most: u32) -> Option<AccountSeat> {
        let mut taken = self.0.borrow_mut();
        let taken = taken.entry(account).or_default();
        if *taken >= most.max(1) {
            return None;
        }
        *taken += 1;
        Some(AccountSeat { seats: self.clone(), account })
    }
}

impl Drop for AccountSeat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.borrow_mut();
        match taken.get_mut(&self.account) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.account)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_account_and_given_back() {
        let seats = AccountSeats::default();
        let first = seats.take(AccountId(1), 2);
        let second = seats.take(AccountId(1), 2);
        assert!(first.is_some() && second.is_some());
        assert!(seats.take(AccountId(1), 2).is_none());
        assert!(seats.take(AccountId(2), 2).is_some());
        drop(first);
        let third = seats.take(AccountId(1), 2);
        assert!(third.is_some());
        drop((second, third));
        assert!(seats.0.borrow().is_empty(), "an account without sessions has no entry");
    }
}
