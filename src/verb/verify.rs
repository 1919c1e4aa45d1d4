//! `ringmail verify`: checks every byte and every message of a data directory and reports what is
//! damaged and whose it is; with `--repair`, makes salvaged data durable.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use ringmail::{
    config::Settings,
    control,
    directory::UsersFile,
    model::AccountId,
    runtime::folder::Folder,
    server::{data_dir, examine},
    store::StoreOptions,
};

use super::{bytes_bar, json, output::print_line, printable};
use crate::cli::VerifyArguments;

/// One parsed `finding` line.
struct Found {
    partition: String,
    file: String,
    offset: u64,
    account: Option<String>,
    uid: Option<u32>,
    folder: Option<String>,
    what: String,
}

#[derive(Default)]
struct Outcome {
    found: Vec<Found>,
    failed: Vec<String>,
    sums: BTreeMap<String, u64>,
    /// Partitions verified completely.
    reports: u64,
    /// Octets of the lines received so far, about.
    kept: usize,
}

/// Two million findings. The process on the control socket might not be our server.
const KEPT_MAX: usize = 512 << 20;

/// A verifying server has a lot to do and runs it at low priority.
const SILENCE_MAX: Duration = Duration::from_secs(600);

pub fn verify(arguments: VerifyArguments) -> Result<()> {
    let (data_dir, users_file, options) = place(&arguments)?;
    let repair = arguments.repair && !arguments.dry_run;
    let mut outcome = Outcome::default();
    let addresses = data_dir::as_owner(&data_dir, || {
        outcome.fill(&data_dir, options, repair)?;
        Ok(addresses(&users_file))
    })?;
    // The report is written even if nobody reads the text.
    let printed = outcome.print(&addresses);
    if let Some(path) = &arguments.json {
        write_report(path, &outcome.json(&addresses))
            .with_context(|| format!("{}: cannot write", path.display()))?;
    }
    printed?;
    let damaged = outcome.sums.get("findings").copied().unwrap_or(0);
    match (outcome.failed.first(), damaged) {
        (Some(why), _) => bail!("{}", printable(why)),
        (None, _) if outcome.reports == 0 => {
            bail!("{}: the server stopped before it had verified anything", data_dir.display())
        }
        (None, 0) => Ok(()),
        (None, count) if arguments.repair && arguments.dry_run => bail!(
            "{}: damage in {count} place(s); --repair would make the salvaged data durable",
            data_dir.display()
        ),
        (None, count) if repair => bail!(
            "{}: damage in {count} place(s); the salvaged data is now durable",
            data_dir.display()
        ),
        (None, count) => bail!("{}: damage in {count} place(s)", data_dir.display()),
    }
}

fn addresses(users_file: &Path) -> BTreeMap<String, String> {
    match UsersFile::load(users_file) {
        Ok(file) => file.users().map(|user| (user.id.to_string(), user.address.clone())).collect(),
        Err(_) => BTreeMap::new(),
    }
}

/// Writes to the path that the caller named, and does not follow a planted link there.
fn write_report(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    let name = path.file_name().context("not a file name")?;
    let folder = Folder::open(parent.unwrap_or(Path::new(".")))?;
    Ok(folder.replace_as_owner(name, text.as_bytes())?)
}

fn place(arguments: &VerifyArguments) -> Result<(PathBuf, PathBuf, StoreOptions)> {
    match (&arguments.place.config, &arguments.place.dir) {
        (Some(config), _) => {
            let settings = Settings::load(config)?;
            let users = settings.users_path();
            let options = settings.store_options();
            Ok((settings.data_dir, users, options))
        }
        (None, Some(directory)) => {
            let users = directory.join("users");
            Ok((directory.clone(), users, StoreOptions::default()))
        }
        (None, None) => Err(super::Usage("--config or --dir is needed".to_owned()).into()),
    }
}

fn known(field: &str) -> Option<String> {
    (field != "-").then(|| field.to_owned())
}

impl Outcome {
    /// Verifies with the server that runs on `data_dir`, otherwise in this process.
    fn fill(&mut self, data_dir: &Path, options: StoreOptions, repair: bool) -> Result<()> {
        // Bytes of files, and of bodies read.
        let bar = bytes_bar("verifying", 0);
        let folder = Folder::open(data_dir)?;
        let request = if repair { "verify repair" } else { "verify" };
        let mut each = |line: &str| self.take(line, &bar);
        let online = control::stream(&folder, request, SILENCE_MAX, &mut each)
            .with_context(|| format!("{}: the server does not answer", data_dir.display()))?;
        if !online {
            let (sender, lines) = mpsc::channel();
            let path = data_dir.to_owned();
            let work =
                thread::spawn(move || examine::verify_offline(&path, options, repair, sender));
            lines.iter().try_for_each(|line| self.take(&line, &bar))?;
            work.join().map_err(|_| anyhow::anyhow!("the verifying thread ended"))??;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// # Errors
    /// When the answer is longer than any store can send.
    fn take(&mut self, line: &str, bar: &ProgressBar) -> io::Result<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.as_slice() {
            ["total", bytes] => bar.inc_length(bytes.parse().unwrap_or(0)),
            ["progress", bytes] => bar.inc(bytes.parse().unwrap_or(0)),
            _ => self.keep(line, &fields)?,
        }
        Ok(())
    }

    fn keep(&mut self, line: &str, fields: &[&str]) -> io::Result<()> {
        self.kept += line.len() + size_of::<Found>();
        if self.kept > KEPT_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the server's answer is too long",
            ));
        }
        match fields {
            ["finding", partition, file, offset, account, uid, folder, what] => {
                self.found.push(Found {
                    partition: (*partition).to_owned(),
                    file: (*file).to_owned(),
                    offset: offset.parse().unwrap_or(0),
                    account: known(account),
                    uid: uid.parse().ok(),
                    folder: known(folder),
                    what: (*what).to_owned(),
                });
            }
            ["report", _, numbers @ ..] => {
                self.reports += 1;
                for (name, value) in numbers.iter().filter_map(|number| number.split_once('=')) {
                    let sum = self.sums.entry(name.to_owned()).or_default();
                    *sum = sum.saturating_add(value.parse().unwrap_or(0));
                }
            }
            ["failed", partition, why] => {
                self.failed.push(format!("partition {partition}: {why}"));
            }
            _ => self.failed.push(line.to_owned()),
        }
        Ok(())
    }

    fn print(&self, addresses: &BTreeMap<String, String>) -> Result<()> {
        for found in &self.found {
            let mut whose = String::new();
            if let Some(account) = &found.account {
                let address = addresses.get(account);
                whose += &match address {
                    Some(address) => format!(" {address}"),
                    None if *account == AccountId::QUEUE.to_string() => " the queue".to_owned(),
                    None if *account == AccountId::SHARES.to_string() => {
                        " the index of shares".to_owned()
                    }
                    None if *account == AccountId::PUBLIC.to_string() => {
                        " the public folders".to_owned()
                    }
                    None => format!(" account {account}"),
                };
            }
            if let Some(folder) = &found.folder {
                whose += &format!(", folder {folder}");
            }
            if let Some(uid) = &found.uid {
                whose += &format!(", UID {uid}");
            }
            let line = format!(
                "damaged: partition {}, {} at offset {}:{whose}{} {}",
                found.partition,
                found.file,
                found.offset,
                if whose.is_empty() { "" } else { ":" },
                found.what
            );
            print_line(printable(&line))?;
        }
        for why in &self.failed {
            print_line(format_args!("not verified: {}", printable(why)))?;
        }
        let sum = |name: &str| self.sums.get(name).copied().unwrap_or(0);
        print_line(format_args!(
            "{} files, {} bytes, {} batches, {} entries; {} accounts, {} folders, {} messages \
             ({} of them damaged), {} in the queue",
            sum("files"),
            sum("bytes"),
            sum("batches"),
            sum("entries"),
            sum("accounts"),
            sum("folders"),
            sum("messages"),
            sum("messages_damaged"),
            sum("queued"),
        ))?;
        print_line(format_args!(
            "{} bodies of {} bytes are referred to {} times: storing each once saves {} bytes",
            sum("bodies"),
            sum("body_bytes"),
            sum("references"),
            sum("shared_bytes"),
        ))?;
        print_line(format_args!("{} damaged place(s)", sum("findings")))
    }

    fn json(&self, addresses: &BTreeMap<String, String>) -> String {
        let findings: Vec<String> = self
            .found
            .iter()
            .map(|found| {
                let address = found.account.as_ref().and_then(|id| addresses.get(id));
                json::object(&[
                    ("partition", json::text(&found.partition)),
                    ("file", json::text(&found.file)),
                    ("offset", found.offset.to_string()),
                    ("account", json::optional(found.account.as_deref())),
                    ("address", json::optional(address.map(String::as_str))),
                    ("folder", json::optional(found.folder.as_deref())),
                    ("uid", found.uid.map_or("null".to_owned(), |uid| uid.to_string())),
                    ("what", json::text(&found.what)),
                ])
            })
            .collect();
        let failed: Vec<String> = self.failed.iter().map(|why| json::text(why)).collect();
        let sums: Vec<(&str, String)> =
            self.sums.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
        let all = json::object(&[
            ("sums", json::object(&sums)),
            ("findings", json::list(&findings)),
            ("failed", json::list(&failed)),
        ]);
        format!("{all}\n")
    }
}
