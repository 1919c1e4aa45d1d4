//! `ringmail acl …`: asks the running server, or reads the disk where none runs.

use anyhow::Result;
use ringmail::{
    config::Settings,
    control,
    directory::UsersFile,
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
        AclVerb::Set { account, mailbox, identifier, rights, create, json, place } => {
            let entry = operate::Place { account, mailbox, identifier };
            (operate::AclVerb::Set { place: entry, rights, create }, json, place)
        }
        AclVerb::Remove { account, mailbox, identifier, dry_run, json, place } => {
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

fn users_file(place: &Place, asked: &Asked) -> Result<std::path::PathBuf> {
    match &place.config {
        Some(config) => Ok(Settings::load(config)?.users_path()),
        None => Ok(asked.data_dir.join("users")),
    }
}
