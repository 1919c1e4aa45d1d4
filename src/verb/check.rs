//! `ringmail check`: says what `serve` would stumble over, and starts nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    directory::{DirectorySnapshot, UsersFile},
    runtime::tls::Certificate,
    server::data_dir,
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
    println!(
        "{}: format {}, {} partitions: this binary can open it",
        path.display(),
        layout.format,
        layout.partitions
    );
    Ok(())
}
