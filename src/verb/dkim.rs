//! `ringmail dkim …`: makes the keys that sign what users send, and shows their DNS records.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    dkim::{Algorithm, KeyFolder, StoredKey},
    runtime::{
        folder::Folder,
        privilege::{self, Owner},
    },
    server::data_dir,
};

use super::{
    Usage, json,
    output::{complain, print_line},
    user::tell_server,
};
use crate::cli::{DkimVerb, KeyAlgorithm, Place};

pub fn dkim(verb: DkimVerb) -> Result<()> {
    match verb {
        DkimVerb::Generate { domain, selector, algorithm, place } => {
            generate(&domain, selector.as_deref(), algorithm, &Keys::find(&place)?)
        }
        DkimVerb::List { json, place } => list(json, &Keys::find(&place)?),
        DkimVerb::Show { domain, place } => show(domain.as_deref(), &Keys::find(&place)?),
    }
}

/// Where the keys are, and whose server reads them.
struct Keys {
    data_dir: PathBuf,
    owner: Option<Owner>,
    /// It is named by hand; that of a configuration is made by the first start.
    is_named: bool,
}

impl Keys {
    fn find(place: &Place) -> Result<Keys> {
        match (&place.config, &place.dir) {
            (Some(config), _) => {
                let settings = Settings::load(config)?;
                let owner = match &settings.user {
                    Some(user) if privilege::is_root() => {
                        Some(privilege::identity(user, settings.group.as_deref())?)
                    }
                    _ => None,
                };
                Ok(Keys { data_dir: settings.data_dir, owner, is_named: false })
            }
            (None, Some(directory)) => {
                Ok(Keys { data_dir: directory.clone(), owner: None, is_named: true })
            }
            (None, None) => Err(Usage("--config or --dir is needed".to_owned()).into()),
        }
    }

    fn folder(&self) -> KeyFolder {
        KeyFolder::of(&self.data_dir)
    }

    /// Reads as the owner of the data directory.
    fn list(&self) -> Result<Vec<StoredKey>> {
        if !self.data_dir.exists() && !self.is_named {
            return Ok(Vec::new());
        }
        data_dir::as_owner(&self.data_dir, || Ok(self.folder().list()?))
    }
}

fn generate(
    domain: &str,
    selector: Option<&str>,
    algorithm: KeyAlgorithm,
    keys: &Keys,
) -> Result<()> {
    let algorithm = match algorithm {
        KeyAlgorithm::Rsa => Algorithm::Rsa,
        KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
    };
    let path = keys.data_dir.display();
    let folder = Folder::make(&keys.data_dir, keys.owner)
        .with_context(|| format!("{path}: cannot create"))?;
    let selector = selector.unwrap_or(algorithm.name());
    let made = folder.act(|| keys.folder().generate(domain, selector, algorithm, keys.owner))??;
    print_line(made.key.zone_line())?;
    complain(format_args!(
        "{}: made; publish the line above in the DNS before mail is sent",
        made.file.display()
    ));
    tell_server(&keys.data_dir)
}

fn list(as_json: bool, keys: &Keys) -> Result<()> {
    let found = keys.list()?;
    if as_json {
        return found.iter().try_for_each(|StoredKey { file, key }| {
            print_line(json::object(&[
                ("domain", json::text(&key.domain)),
                ("selector", json::text(&key.selector)),
                ("algorithm", json::text(key.algorithm().name())),
                ("file", json::text(&file.to_string_lossy())),
                ("record_name", json::text(&key.record_name())),
                ("record_text", json::text(&key.record_text())),
            ]))
        });
    }
    if found.is_empty() {
        return print_line(format_args!("{}: no keys", keys.folder().path().display()));
    }
    found.iter().try_for_each(|StoredKey { file, key }| {
        let (domain, selector) = (&key.domain, &key.selector);
        let algorithm = key.algorithm().name();
        print_line(format_args!("{domain} {selector} {algorithm} {}", file.display()))
    })
}

fn show(domain: Option<&str>, keys: &Keys) -> Result<()> {
    let found = keys.list()?;
    let wanted =
        |stored: &&StoredKey| domain.is_none_or(|it| it.eq_ignore_ascii_case(&stored.key.domain));
    let lines: Vec<String> =
        found.iter().filter(wanted).map(|stored| stored.key.zone_line()).collect();
    if lines.is_empty() {
        let of = domain.map(|domain| format!(" of {domain}")).unwrap_or_default();
        bail!("{}: no keys{of}: ringmail dkim generate", keys.folder().path().display());
    }
    lines.iter().try_for_each(print_line)
}
