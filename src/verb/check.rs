//! `ringmail check`: says what `serve` would stumble over, and starts nothing.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    directory::{DirectorySnapshot, UsersFile},
    model::{Lsn, PartitionId},
    runtime::tls::Certificate,
    server::data_dir,
    store::log::{check_checkpoint, checkpoint_of_name, dissect, epoch_of_name},
};

use crate::cli::CheckArguments;

pub fn check(arguments: CheckArguments) -> Result<()> {
    match (arguments.config, arguments.dir) {
        (Some(config), _) => check_config(&config),
        (None, Some(directory)) => check_directory(&directory),
        // clap asks for one of the two.
        (None, None) => Ok(()),
    }
}

fn check_config(path: &Path) -> Result<()> {
    let settings = Settings::load(path)?;
    let mut problems = Vec::new();
    if let Some(tls) = &settings.tls {
        let files = tls.get_ref();
        if let Err(error) = Certificate::load(&files.certificate, &files.key) {
            problems.push(error.to_string());
        }
    }
    let users_path = settings.users_path();
    match UsersFile::load(&users_path) {
        Ok(file) => {
            if DirectorySnapshot::new(&file, &settings.directory_options()).is_none() {
                problems.push(format!("{}: no account for postmaster", users_path.display()));
            }
            println!("{}: {} accounts", users_path.display(), file.users().count());
        }
        Err(error) if error.is_absence() => {
            println!("{}: absent: no accounts yet", users_path.display());
        }
        Err(error) => problems.push(error.to_string()),
    }
    match data_dir::read_layout(&settings.data_dir) {
        Ok(None) => println!("{}: will be made at start", settings.data_dir.display()),
        Ok(Some(layout)) => println!(
            "{}: format {}, {} partitions",
            settings.data_dir.display(),
            layout.format,
            layout.partitions
        ),
        Err(error) => problems.push(format!("{error:#}")),
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("{}: ok", path.display());
        Ok(())
    } else {
        bail!("{}: {} problem(s)", path.display(), problems.len())
    }
}

fn check_directory(path: &Path) -> Result<()> {
    let layout = data_dir::read_layout(path)?
        .with_context(|| format!("{}: not a ringmail data directory", path.display()))?;
    let mut files = 0;
    for number in 0..layout.partitions {
        files += check_partition(&path.join(format!("partition-{number:04}")), number)?;
    }
    println!(
        "{}: format {}, {} partitions, {files} files: this binary can open it",
        path.display(),
        layout.format,
        layout.partitions
    );
    Ok(())
}

/// Whether every file of a partition is of a version and layout, and every entry of a kind, that
/// this binary knows. Damage is no matter here: `ringmail verify` looks for it.
fn check_partition(folder: &Path, number: u16) -> Result<usize> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut files = 0;
    for entry in entries {
        let path = entry.with_context(|| format!("{}: cannot read", folder.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let read = || fs::read(&path).with_context(|| format!("{}: cannot read", path.display()));
        let partition = PartitionId(number);
        let refused = if let Some(epoch) = epoch_of_name(name) {
            match dissect(&read()?, partition, epoch, Lsn(0)) {
                Ok(found) => found.entries.into_iter().find_map(|entry| entry.unknown),
                Err(error) => Some(error.to_string()),
            }
        } else if let Some(sequence) = checkpoint_of_name(name) {
            check_checkpoint(&read()?, partition, sequence).err().map(|error| error.to_string())
        } else {
            continue;
        };
        if let Some(why) = refused {
            bail!("{}: {why}; start the ringmail that wrote it, or a later one", path.display());
        }
        files += 1;
    }
    Ok(files)
}
