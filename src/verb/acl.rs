//! `ringmail acl …`: asks the running server, or reads the disk where none runs.

use anyhow::Result;
use ringmail::{
    config::Settings,
    control,
    directory::UsersFile,
    model::Change,
    server::operate::{self, AclRequest},
};

use super::{
    Usage,
    queue::{Answer, Asked, read_at_rest},
};
use crate::cli::{AclVerb, Place, Whose};

pub fn acl(verb: AclVerb) -> Result<()> {
    let (verb, json, place) = match verb {
        AclVerb::List { account, mailbox, json, place } => {
            (operate::AclVerb::List { account, mailbox }, json, place)
        }
        AclVerb::Set { account, mailbox, identifier, rights, create, dry_run, json, place } => {
            let identifier = named(&account, identifier)?;
            let Some(rights) = rights else { return Err(missing(&account, "RIGHTS")) };
            check_rights(&rights)?;
            let entry = operate::Place { account, mailbox, identifier };
            (operate::AclVerb::Set { place: entry, rights, create, dry: dry_run }, json, place)
        }
        AclVerb::Remove { account, mailbox, identifier, dry_run, json, place } => {
            let identifier = named(&account, identifier)?;
            let entry = operate::Place { account, mailbox, identifier };
            (operate::AclVerb::Remove { place: entry, dry: dry_run }, json, place)
        }
        AclVerb::Seen { account, mailbox, whose, json, place } => {
            let is_personal = whose == Whose::Personal;
            (operate::AclVerb::Seen { account, mailbox, is_personal }, json, place)
        }
    };
    let request = AclRequest { verb, json };
    let line = request.line();
    if AclRequest::parse(&line).as_ref() != Some(&request) {
        return Err(Usage("names have no control characters".to_owned()).into());
    }
    if line.len() > control::REQUEST_MAX as usize - 1 {
        return Err(Usage("these names are too long".to_owned()).into());
    }
    let asked = Asked::of(&place)?;
    let mut answer = Answer::default();
    if asked.ask(&line, &mut answer)? {
        return answer.end();
    }
    let users_file = users_file(&place, &asked)?;
    read_at_rest(&asked.data_dir, answer, |sender| {
        let users = match UsersFile::load(&users_file) {
            Ok(file) => Some(file.users().map(|user| (user.id, user.address.clone())).collect()),
            // Accounts may be elsewhere: owners are told by their numbers.
            Err(_) => None,
        };
        operate::acl_at_rest(&asked.data_dir, &asked.store, users, &request, sender)
    })
}

/// Of a group that is not quoted the shell leaves nothing, or another word.
const QUOTES: &str = "a group is written in single quotes, '$staff': else the shell puts nothing \
                      in its place";

/// An argument is not there.
fn missing(account: &str, what: &str) -> anyhow::Error {
    let hint = match account.split_once('/') {
        // As lists show mailboxes.
        Some((owner, mailbox)) => format!("account and mailbox are two words: {owner} {mailbox}"),
        None => QUOTES.to_owned(),
    };
    Usage(format!("{what} is missing; {hint}")).into()
}

/// An identifier that the shell left as it was, and no misspelt option.
fn named(account: &str, identifier: Option<String>) -> Result<String> {
    let Some(identifier) = identifier else { return Err(missing(account, "IDENTIFIER")) };
    if identifier.is_empty() || identifier == "-" {
        return Err(Usage(format!("the identifier is empty; {QUOTES}")).into());
    }
    if identifier.starts_with("--") {
        return Err(Usage(format!("{identifier}: no such option")).into());
    }
    Ok(identifier)
}

/// Words that other servers have for sets of rights, as far as they consist of our letters.
const WORDS: [&str; 12] = [
    "admin", "all", "append", "create", "delete", "expunge", "insert", "lookup", "none", "post",
    "read", "write",
];

/// Letters of rights, each once, are no word that means something else (RFC 4314 leaves this to
/// clients).
fn check_rights(text: &str) -> Result<()> {
    let letters = text.strip_prefix(['+', '-']).unwrap_or(text);
    let wrong = |why: &str| {
        let what = "rights are letters, each once: l see it, r read, s \\Seen, w other flags, \
                    i put in, p send mail to, k create below, x delete or rename, t \\Deleted, \
                    e expunge, a change the list (c is k and x, d is t and e); e.g. lrs to \
                    read, lrswite to work with, lrswipkxtea for all";
        Err(Usage(format!("{text}: {why}; {what}")).into())
    };
    if WORDS.contains(&letters.to_lowercase().as_str()) {
        return wrong("a word");
    }
    if letters
        .chars()
        .enumerate()
        .any(|(at, letter)| letters.chars().take(at).any(|it| it == letter))
    {
        return wrong("a letter comes twice");
    }
    match Change::parse(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => wrong(&error.to_string()),
    }
}

fn users_file(place: &Place, asked: &Asked) -> Result<std::path::PathBuf> {
    match &place.config {
        Some(config) => Ok(Settings::load(config)?.users_path()),
        None => Ok(asked.data_dir.join("users")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_letters_and_no_words() {
        for text in ["lr", "+lrs", "-e", "", "-", "lrswipkxtea", "lrswipcda", "raed"] {
            assert!(check_rights(text).is_ok(), "{text}");
        }
        for text in ["read", "all", "+all", "-write", "none", "post", "lrl", "lrz", "READ", "7"] {
            let said = check_rights(text).expect_err(text).to_string();
            assert!(said.starts_with(&format!("{text}: ")) && said.contains("lrswite"), "{said}");
        }
    }

    #[test]
    fn what_the_shell_left_out_is_said() {
        let name = |text: &str| Some(text.to_owned());
        for (account, identifier, expected) in [
            ("a@b", None, "IDENTIFIER is missing; a group is written in single quotes"),
            (
                "a@b/Work",
                None,
                "IDENTIFIER is missing; account and mailbox are two words: a@b Work",
            ),
            ("a@b", name(""), "the identifier is empty; a group is written in single quotes"),
            ("a@b", name("-"), "the identifier is empty; a group is written in single quotes"),
            ("a@b", name("--dryrun"), "--dryrun: no such option"),
        ] {
            let said = named(account, identifier).expect_err(expected).to_string();
            assert!(said.starts_with(expected), "{said}");
        }
        for text in ["bob", "-bob", "$staff", "-$staff", "anyone"] {
            assert_eq!(named("a@b", name(text)).expect(text), text);
        }
    }
}
