//! How many sessions an account has. All of them are on its owner's shard, and nowhere else.
//!
//! Each holds the snapshot of a mailbox and up to [`super::state`]'s output; a client that opens
//! sessions without end would take the memory of others' by that.

use std::{cell::RefCell, rc::Rc};

use hashbrown::HashMap;

use crate::model::AccountId;

/// The sessions of a shard's accounts.
#[derive(Clone, Default)]
pub struct AccountSeats(Rc<RefCell<HashMap<AccountId, u32>>>);

/// One session's place; dropped, it is free.
pub(super) struct AccountSeat {
    seats: AccountSeats,
    account: AccountId,
}

impl AccountSeats {
    /// A place for one more session of `account`; `None` if it has `most` already.
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
        assert!(seats.0.borrow().is_empty(), "who has no session costs nothing");
    }
}
