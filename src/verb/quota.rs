//! `ringmail quota …`: asks the running server.

use anyhow::{Result, bail};
use ringmail::{
    control,
    model::QuotaLimits,
    server::operate::{self, QuotaRequest},
};

use super::{
    Usage,
    queue::{Answer, Asked},
};
use crate::cli::QuotaVerb;

pub fn quota(verb: QuotaVerb) -> Result<()> {
    let (verb, json, place) = match verb {
        QuotaVerb::List { account, json, place } => {
            (operate::QuotaVerb::List { account }, json, place)
        }
        QuotaVerb::Set { account, storage, messages, json, place } => {
            let limits = QuotaLimits { octets: storage.map(|it| it.as_u64()), messages };
            (operate::QuotaVerb::Set { account, limits }, json, place)
        }
        QuotaVerb::Remove { account, json, place } => {
            (operate::QuotaVerb::Remove { account }, json, place)
        }
    };
    let request = QuotaRequest { verb, json };
    let line = request.line();
    if QuotaRequest::parse(&line).as_ref() != Some(&request) {
        return Err(Usage("names have no control characters".to_owned()).into());
    }
    if line.len() > control::REQUEST_MAX as usize - 1 {
        return Err(Usage("this name is too long".to_owned()).into());
    }
    let asked = Asked::of(&place)?;
    let mut answer = Answer::default();
    match asked.ask(&line, &mut answer)? {
        true => answer.end(),
        false => bail!(
            "{}: no server runs here, and only a server knows and changes quotas: start it first, \
             e.g. ringmail serve --config ringmail.toml",
            asked.data_dir.display()
        ),
    }
}
