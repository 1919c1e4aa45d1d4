//! `ringmail serve` and `ringmail demo`.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Context, Result};
use ringmail::{
    config::{DEMO_DOMAIN, Settings},
    directory::UsersFile,
    runtime::{folder::Folder, tls::SelfSigned},
    server::{self, data_dir},
};

use super::output::complain;
use crate::cli::{ConfigArguments, DemoArguments};

pub fn serve(arguments: ConfigArguments) -> Result<()> {
    server::run(Settings::load(&arguments.config)?, false)
}

/// As long as a start waits for the ports of a server that was killed.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

pub fn demo(arguments: DemoArguments) -> Result<()> {
    let DemoArguments { dir, port_base, users, shards, partitions, smarthost, set } = arguments;
    let mut settings = Settings::demo(&dir, port_base, shards, partitions, &set)?;
    if let Some(host) = smarthost {
        settings.set_smarthost(&host)?;
    }
    let folder =
        Folder::make(&dir, None).with_context(|| format!("{}: cannot create", dir.display()))?;
    folder.tighten().with_context(|| format!("{}: cannot change its mode", dir.display()))?;
    data_dir::as_owner(&dir, || prepare(&folder, users as usize))?;
    // This is the only one of our ports that other programs are known to use (2024, on development
    // machines); a demo without LMTP still shows everything else. `serve` treats it as an error.
    if let Err(error) = server::probe_ports(&settings.listen.lmtp, Duration::from_secs(1)) {
        complain(format_args!(
            "ringmail demo: running without LMTP: {error:#}; try another --port-base"
        ));
        settings.listen.lmtp.clear();
    }
    // Before anything is said that looks like a success.
    let listen = &settings.listen;
    let others = [
        &listen.smtp,
        &listen.submission,
        &listen.submissions,
        &listen.pop3,
        &listen.pop3s,
        &listen.imap,
        &listen.imaps,
        &listen.admin,
    ];
    let others: Vec<_> = others.into_iter().flatten().copied().collect();
    server::probe_ports(&others, PORT_PATIENCE)
        .map_err(|error| anyhow::anyhow!("{error:#}; try another --port-base than {port_base}"))?;
    complain(format_args!(
        "ringmail demo: data in {}, ports {port_base} + standard, accounts alice and bob@{DEMO_DOMAIN}, \
         password \"demo\"",
        dir.display()
    ));
    server::run(settings, true)
}

/// Accounts and a fresh certificate.
fn prepare(folder: &Folder, users: usize) -> Result<()> {
    data_dir::refuse_if_running(folder)?;
    UsersFile::ensure_demo(&folder.path().join("users"), DEMO_DOMAIN, users)?;
    let fresh = SelfSigned::generate(&[
        "localhost",
        DEMO_DOMAIN,
        &format!("mail.{DEMO_DOMAIN}"),
        "127.0.0.1",
    ])?;
    for (name, pem) in [("certificate.pem", &fresh.chain_pem), ("key.pem", &fresh.key_pem)] {
        folder
            .replace(OsStr::new(name), pem.as_bytes(), None)
            .with_context(|| format!("{}/{name}: cannot write", folder.path().display()))?;
    }
    Ok(())
}
