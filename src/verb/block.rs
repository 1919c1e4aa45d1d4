//! `ringmail block …`: lists the blocks of a running server after wrong passwords, and lifts them.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    control,
    model::{Network, NotANetwork},
    server::data_dir,
};

use super::{Usage, json, output::print_line, printable};
use crate::cli::{BlockVerb, Place};

pub fn block(verb: BlockVerb) -> Result<()> {
    match verb {
        BlockVerb::List { json, place } => list(&place, json),
        BlockVerb::Lift { what, json, place, .. } => lift(what.as_deref(), &place, json),
    }
}

/// One parsed line of the answer.
struct Found {
    account: Option<String>,
    network: String,
    failures: u64,
    seconds: u64,
}

impl Found {
    fn parse(line: &str) -> Option<Found> {
        let fields: Vec<&str> = line.split('\t').collect();
        let ["block", account, network, failures, seconds] = fields.as_slice() else { return None };
        Some(Found {
            account: (*account != "-").then(|| (*account).to_owned()),
            network: (*network).to_owned(),
            failures: failures.parse().ok()?,
            seconds: seconds.parse().ok()?,
        })
    }

    fn json(&self) -> String {
        json::object(&[
            ("account", json::optional(self.account.as_deref())),
            ("network", json::text(&self.network)),
            ("failures", self.failures.to_string()),
            ("seconds", self.seconds.to_string()),
        ])
    }

    fn text(&self) -> String {
        let account = self.account.as_deref().unwrap_or("(all accounts)");
        let Found { network, failures, seconds, .. } = self;
        let wait = match seconds {
            0 => "now".to_owned(),
            seconds => format!("in {seconds} s"),
        };
        let line =
            format!("{account} from {network}: {failures} wrong passwords, next attempt {wait}");
        printable(&line)
    }
}

fn list(place: &Place, as_json: bool) -> Result<()> {
    let lines = ask(place, "block list")?;
    let found: Vec<Found> = lines.iter().filter_map(|line| Found::parse(line)).collect();
    if as_json {
        found.iter().try_for_each(|found| print_line(found.json()))
    } else if found.is_empty() {
        print_line("no log-ins are held back")
    } else {
        found.iter().try_for_each(|found| print_line(found.text()))
    }
}

fn lift(what: Option<&str>, place: &Place, as_json: bool) -> Result<()> {
    let lines = ask(place, &format!("block lift {}", request(what)?))?;
    let lifted: u64 = lines
        .iter()
        .find_map(|line| line.strip_prefix("lifted\t")?.parse().ok())
        .context("the server did not report how many it lifted")?;
    if as_json {
        print_line(json::object(&[("lifted", lifted.to_string())]))
    } else {
        print_line(outcome(what, lifted))
    }
}

/// Having nothing to lift is not a failure: the requested state holds. But a name may be
/// misspelled.
fn outcome(what: Option<&str>, lifted: u64) -> String {
    match (lifted, what) {
        (0, Some(what)) => format!("lifted 0: no wrong passwords are counted for {what}"),
        (0, None) => "lifted 0: no log-ins are held back".to_owned(),
        _ => format!("lifted {lifted}"),
    }
}

/// `None` means all. Text with an `@` is an account; an address or network is that of clients;
/// other text is a name in the default domain.
fn request(what: Option<&str>) -> Result<String> {
    match what {
        None => Ok("all".to_owned()),
        Some(text) if text.parse::<Network>().is_ok() => Ok(format!("network {text}")),
        Some(text) if text.contains(['/', ':']) && !text.contains('@') => {
            Err(Usage(format!("{text}: {NotANetwork}")).into())
        }
        Some(text) if text.is_empty() || text.chars().any(char::is_control) => {
            Err(Usage("neither an account nor a network".to_owned()).into())
        }
        Some(text) => Ok(format!("account {text}")),
    }
}

/// More than any server can send: the guard's tables are bounded.
const ANSWER_MAX: usize = 64 << 20;

fn ask(place: &Place, request: &str) -> Result<Vec<String>> {
    let data_dir: PathBuf = match (&place.config, &place.dir) {
        (Some(config), _) => Settings::load(config)?.data_dir,
        (None, Some(directory)) => directory.clone(),
        (None, None) => return Err(Usage("--config or --dir is needed".to_owned()).into()),
    };
    let folder = data_dir::open_folder(&data_dir)?;
    let (mut lines, mut octets) = (Vec::new(), 0);
    let mut keep = |line: &str| {
        octets += line.len() + size_of::<String>();
        if octets > ANSWER_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the server's answer is too long",
            ));
        }
        lines.push(line.to_owned());
        Ok(())
    };
    let runs = control::stream(&folder, request, control::TIMEOUT, &mut keep)
        .with_context(|| format!("{}: the server does not answer", data_dir.display()))?;
    if !runs {
        bail!("{}: no server runs here; blocks are in its memory only", data_dir.display());
    }
    match lines.last().map(String::as_str) {
        Some("ok") => Ok(lines),
        Some(other) => bail!("the server answered: {}", printable(other)),
        None => bail!("the server gave no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_lift() {
        const CASES: &[(Option<&str>, Option<&str>)] = &[
            (None, Some("all")),
            (Some("192.0.2.7"), Some("network 192.0.2.7")),
            (Some("2001:db8::/48"), Some("network 2001:db8::/48")),
            (Some("alice@demo.test"), Some("account alice@demo.test")),
            (Some("alice"), Some("account alice")),
            (Some("192.0.2.0/33"), None),
            (Some("a\nb"), None),
            (Some(""), None),
        ];
        for (what, expected) in CASES {
            assert_eq!(request(*what).ok().as_deref(), *expected, "{what:?}");
        }
    }

    #[test]
    fn nothing_to_lift_says_so() {
        for (what, expected) in [
            (Some("a@b"), "lifted 0: no wrong passwords are counted for a@b"),
            (Some("192.0.2.0/24"), "lifted 0: no wrong passwords are counted for 192.0.2.0/24"),
            (None, "lifted 0: no log-ins are held back"),
        ] {
            assert_eq!(outcome(what, 0), expected);
        }
        assert_eq!(outcome(Some("a@b"), 2), "lifted 2");
    }

    #[test]
    fn lines() {
        let found = Found::parse("block\ta@b\t192.0.2.7\t6\t2").unwrap();
        let expected = r#"{"account":"a@b","network":"192.0.2.7","failures":6,"seconds":2}"#;
        assert_eq!(found.json(), expected);
        let text = "a@b from 192.0.2.7: 6 wrong passwords, next attempt in 2 s";
        assert_eq!(found.text(), text);
        // Listed for its failures, but it need not wait any more.
        let found = Found::parse("block\ta@b\t192.0.2.7\t6\t0").unwrap();
        assert_eq!(found.text(), "a@b from 192.0.2.7: 6 wrong passwords, next attempt now");
        assert!(Found::parse("block\t-\t192.0.2.0/24\t6\t2").unwrap().account.is_none());
        assert!(Found::parse("ok").is_none());
    }
}
