//! Blocks of log-ins after wrong passwords: listing and lifting them for the operator.
//!
//! Lines of an answer are fields between tabs: `block`, account or `-`, network, failures, seconds
//! until the next attempt, for `ringmail block`.

use crate::{
    directory::{Block, Lift},
    model::NotANetwork,
    service::{Shard, authentication},
};

/// Answers `block list`, `block lift all`, `block lift account NAME`, `block lift network NETWORK`.
pub(super) fn answer(shard: &Shard, request: &str) -> Vec<String> {
    if request == "block list" {
        let blocks = shard.directory.blocks(authentication::now(shard));
        return blocks.iter().map(line).chain(["ok".to_owned()]).collect();
    }
    match lift(request) {
        Ok(what) => vec![format!("lifted\t{}", shard.directory.lift(&what)), "ok".to_owned()],
        Err(why) => vec![format!("error: {why}")],
    }
}

fn lift(request: &str) -> Result<Lift, &'static str> {
    let what = request.strip_prefix("block lift ").ok_or("unknown request")?;
    match what.split_once(' ') {
        None if what == "all" => Ok(Lift::All),
        Some(("account", name)) => Ok(Lift::Account(name.to_owned())),
        Some(("network", network)) => match network.parse() {
            Ok(network) => Ok(Lift::Network(network)),
            Err(NotANetwork) => Err("unknown request"),
        },
        _ => Err("unknown request"),
    }
}

fn line(block: &Block) -> String {
    let Block { account, network, failures, left } = block;
    // The name is what a client sent, so it may contain anything.
    let account = account.as_ref().map_or("-".to_owned(), |name| name.escape_debug().to_string());
    format!("block\t{account}\t{network}\t{failures}\t{}", left.as_secs_f64().ceil())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests() {
        assert_eq!(lift("block lift all"), Ok(Lift::All));
        let account = Lift::Account("a b@demo.test".to_owned());
        assert_eq!(lift("block lift account a b@demo.test"), Ok(account));
        let network = Lift::Network("192.0.2.0/24".parse().unwrap());
        assert_eq!(lift("block lift network 192.0.2.0/24"), Ok(network));
        for wrong in ["block lift", "block lift x", "block lift network x", "block lift all x"] {
            assert!(lift(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_cannot_break_lines() {
        let block = Block {
            account: Some("a\tb\nc".to_owned()),
            network: "192.0.2.7".parse().unwrap(),
            failures: 6,
            left: Duration::from_millis(1200),
        };
        assert_eq!(line(&block), "block\ta\\tb\\nc\t192.0.2.7\t6\t2");
    }
}
