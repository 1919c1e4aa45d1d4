//! The identifier that ties the events of one message together, from its connection to the
//! mailboxes that it is delivered to.
//!
//! A connection gets its trail when it is accepted and keeps it when it moves to another shard;
//! each message of the connection adds a number to it.

use std::fmt;

/// A connection of this process, or a message received on it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trail {
    /// When the accepting shard started, milliseconds since 1970: distinguishes runs of the server.
    pub run: u64,
    /// The shard that accepted it.
    pub shard: u16,
    /// Number of the connection on that shard, from 1.
    pub connection: u64,
    /// Number of the message on the connection, from 1; 0 is the connection itself.
    pub message: u32,
}

impl Trail {
    /// Of the connection's message `number`, from 1.
    pub fn message(self, number: u32) -> Trail {
        Trail { message: number, ..self }
    }
}

/// `19acdf3b2e1-0-1f3` for a connection, `19acdf3b2e1-0-1f3-2` for its second message.
impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trail { run, shard, connection, message } = self;
        write!(f, "{run:x}-{shard:x}-{connection:x}")?;
        match message {
            0 => Ok(()),
            message => write!(f, "-{message:x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_behind_its_connection() {
        let trail = Trail { run: 0x19a, shard: 2, connection: 31, message: 0 };
        assert_eq!(trail.to_string(), "19a-2-1f");
        assert_eq!(trail.message(3).to_string(), "19a-2-1f-3");
        assert_eq!(trail.message(3).message(4), trail.message(4));
    }
}
