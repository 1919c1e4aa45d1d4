//! `ringmail check`: finds what would make `serve` fail, and starts nothing.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use ringmail::{
    config::{Settings, TlsFiles},
    control::unusable_token_files,
    directory::{DirectoryError, DirectorySnapshot, UsersFile},
    dkim::{KeyFolder, Keyring},
    model::{Lsn, PartitionId},
    runtime::{
        folder::Folder,
        host,
        privilege::{self, PrivilegeError},
        tls::TlsContexts,
        tls_client::Trust,
    },
    server::{self, access, data_dir},
    store::log::{
        check_checkpoint, checkpoint_of_name, dissect, epoch_of_name, partition_of_file,
        version_of_file,
    },
};

use super::{
    bytes_bar,
    output::{complain, print_line},
    partition_bytes, read_if_there,
};
use crate::cli::CheckArguments;

pub fn check(arguments: CheckArguments) -> Result<()> {
    match (arguments.config, arguments.dir) {
        (Some(config), _) => check_config(&config),
        (None, Some(directory)) => check_directory(&directory),
        // clap requires one of the two.
        (None, None) => Ok(()),
    }
}

fn check_config(path: &Path) -> Result<()> {
    let settings = Settings::load(path)?;
    let mut problems: Vec<String> = user_problem(&settings).into_iter().collect();
    if let Some(files) = settings.tls.as_ref().filter(|_| problems.is_empty())
        && let Err(error) = load_certificate(&settings, files)?
    {
        problems.push(error);
    }
    if problems.is_empty() {
        problems.extend(as_server(&settings, || unusable_files(&settings))?);
    }
    for warning in server::absent_sources(&settings) {
        print_line(format_args!("warning: {warning}"))?;
    }
    let users_path = settings.users_path();
    let users_folder = users_path.parent().unwrap_or(Path::new("."));
    match inside(users_folder, || UsersFile::load(&users_path))? {
        None => print_line(format_args!("{}: absent: no accounts yet", users_path.display()))?,
        Some(Ok(file)) => {
            print_line(format_args!(
                "{}: {}",
                users_path.display(),
                counted(file.users().count(), "account", "accounts")
            ))?;
        }
        Some(Err(error)) if error.is_absence() => {
            print_line(format_args!("{}: absent: no accounts yet", users_path.display()))?;
        }
        Some(Err(error)) => problems.push(error.to_string()),
    }
    if problems.is_empty() {
        match load_directory(&settings)? {
            Ok((snapshot, unreached)) => {
                let files = settings.directory_files();
                let aliases = counted(snapshot.alias_count(), "alias", "aliases");
                print_line(format_args!("{}: {aliases}", files.aliases.display()))?;
                let groups = counted(snapshot.group_count(), "group", "groups");
                print_line(format_args!("{}: {groups}", files.groups.display()))?;
                // A start says the same and goes on.
                problems.extend(unreached);
                for (is_mistake, text) in settings.unknown_accounts(&snapshot) {
                    match is_mistake {
                        true => problems.push(text),
                        false => print_line(format_args!("warning: {text}"))?,
                    }
                }
            }
            Err(error) => problems.extend(error.to_string().lines().map(str::to_owned)),
        }
    }
    let keys = KeyFolder::of(&settings.data_dir);
    if let Some(Err(error)) = inside(&settings.data_dir, || Keyring::load(&keys))? {
        problems.push(error.to_string());
    }
    let layout = inside(&settings.data_dir, || data_dir::read_layout(&settings.data_dir))?;
    match layout.unwrap_or(Ok(None)) {
        Ok(None) => print_line(format_args!(
            "{}: has no mail yet: the first start makes the partitions",
            settings.data_dir.display()
        ))?,
        Ok(Some(layout)) => {
            let data_dir = settings.data_dir.display();
            print_line(format_args!("{data_dir}: {} partitions", layout.partitions))?;
            if let Some(warning) = server::other_partitions(&settings, layout) {
                print_line(format_args!("warning: {data_dir}: {warning}"))?;
            }
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    if problems.is_empty()
        && let Err(error) = access::check(&settings)
    {
        problems.push(format!("{error:#}"));
    }
    match host::probe(server::demand(&settings)?) {
        // Under another limit, e.g. that of a systemd unit, `serve` reports its own number.
        Ok(granted) => {
            for warning in &granted.warnings {
                print_line(format_args!("warning: {warning}"))?;
            }
        }
        Err(complaint) => problems.push(complaint.to_string()),
    }
    for problem in &problems {
        complain(problem);
    }
    if problems.is_empty() {
        print_line(format_args!("{}: ok", path.display()))
    } else {
        bail!("{}: {} problem(s)", path.display(), problems.len())
    }
}

/// What is wrong with the user that the server is to switch to.
fn user_problem(settings: &Settings) -> Option<String> {
    let user = settings.user.as_ref()?;
    let error = match privilege::identity(user, settings.group.as_deref()) {
        Ok(owner) if owner.uid.is_root() => PrivilegeError::IsRoot(user.clone()),
        Ok(_) => return None,
        Err(error) => error,
    };
    let setting = if matches!(error, PrivilegeError::NoGroup(_)) { "group" } else { "user" };
    Some(format!("{setting}: {error}"))
}

/// Users, aliases, groups and what the routes name, read as the owner of the data directory, or as
/// the server's user before there is one: a start hands the directory over first.
fn load_directory(
    settings: &Settings,
) -> Result<Result<(DirectorySnapshot, Vec<String>), DirectoryError>> {
    let (files, options) = (settings.directory_files(), settings.directory_options());
    let load = || DirectorySnapshot::check(&files, &options);
    match inside(&settings.data_dir, load)? {
        Some(loaded) => Ok(loaded),
        None => as_server(settings, load),
    }
}

/// Files that settings name and that a start, or the first use, would not be able to use. Those of
/// routes belong to the directory.
fn unusable_files(settings: &Settings) -> Vec<String> {
    let report_authorities = settings.tlsrpt.ca_file.as_ref().filter(|_| settings.tlsrpt.enabled);
    let authorities = [
        ("queue.ca_file", settings.queue.ca_file.as_ref()),
        ("mta_sts.ca_file", settings.mta_sts.ca_file.as_ref().filter(|_| settings.mta_sts.check)),
        ("tlsrpt.ca_file", report_authorities),
    ];
    let mut problems = Vec::new();
    for (setting, path) in authorities.iter().filter_map(|(name, path)| Some((name, (*path)?))) {
        let (trust, complaints) = Trust::load(path);
        let usable = if trust.is_empty() { "it has no authority" } else { "some are not usable" };
        let why = complaints.first().map_or(usable, String::as_str);
        if trust.is_empty() || !complaints.is_empty() {
            let place = settings.place(setting);
            problems.push(format!("{place}: {}: {why}; name a file of PEM", path.display()));
        }
    }
    if let Err(error) = settings.dns_options().check() {
        problems.push(format!("{}: {error}", settings.place("dns.trust_anchor")));
    }
    let tokens = settings.oauth_options();
    let of_tokens = tokens.iter().flat_map(unusable_token_files);
    problems.extend(of_tokens.map(|(name, why)| format!("{}: {why}", settings.place(name))));
    problems
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Reads as the server's user, who may be denied files of root's. The inner error is what is wrong.
fn load_certificate(settings: &Settings, files: &TlsFiles) -> Result<Result<(), String>> {
    let loaded = as_server(settings, || files.load())?;
    // Whether the key belongs to the certificate.
    let Err(error) = loaded.and_then(TlsContexts::new) else { return Ok(Ok(())) };
    let named = files.settings_of(&error);
    let advice = match named.as_slice() {
        ["tls.client_authorities"] => {
            "name a file with the certificates (PEM) of those who sign clients' certificates, or \
             remove the setting"
        }
        _ => "make the files (docs/going_live.md, \"Certificate\"), or correct the settings",
    };
    let places: Vec<String> = named.iter().map(|name| settings.place(name)).collect();
    Ok(Err(format!("{}: {error}; {advice}", places.join(", "))))
}

/// Runs `look` as the user that the settings name, if we are root.
fn as_server<T>(settings: &Settings, look: impl FnOnce() -> T) -> Result<T> {
    match &settings.user {
        Some(user) if privilege::is_root() => {
            let owner = privilege::identity(user, settings.group.as_deref())?;
            Ok(privilege::act_as(owner, look)?)
        }
        _ => Ok(look()),
    }
}

/// Runs `look` as the owner of `folder`; `None` if the folder is absent.
fn inside<T>(folder: &Path, look: impl FnOnce() -> T) -> Result<Option<T>> {
    match Folder::open(folder) {
        Ok(folder) => Ok(Some(folder.act(look)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot open", folder.display())),
    }
}

fn check_directory(path: &Path) -> Result<()> {
    data_dir::as_owner(path, || check_partitions(path))
}

fn check_partitions(path: &Path) -> Result<()> {
    let layout = data_dir::read_layout(path)?
        .with_context(|| format!("{}: not a ringmail data directory", path.display()))?;
    let mut files = FilesByFormat::new();
    let bar = bytes_bar("checking", partition_bytes(path, layout.partitions));
    for number in 0..layout.partitions {
        let folder = path.join(format!("partition-{number:04}"));
        for (format, count) in check_partition(&folder, number, &bar)? {
            *files.entry(format).or_default() += count;
        }
    }
    bar.finish_and_clear();
    print_line(format_args!(
        "{}: {} partitions, {}: this binary can open it",
        path.display(),
        layout.partitions,
        told(&files)
    ))
}

/// Number of files of each version; of those whose version cannot be read, under `None`.
type FilesByFormat = BTreeMap<Option<u16>, usize>;

/// "3 files of format 1, 2 of format 2, 1 that cannot be read (see ringmail verify)".
fn told(files: &FilesByFormat) -> String {
    let mut told = Vec::new();
    let known = files.iter().filter(|(format, _)| format.is_some());
    for (format, count) in known.chain(files.get_key_value(&None)) {
        let noun = match (told.is_empty(), count) {
            (true, 1) => " file",
            (true, _) => " files",
            (false, _) => "",
        };
        told.push(match format {
            Some(format) => format!("{count}{noun} of format {format}"),
            None => format!("{count}{noun} that cannot be read (see ringmail verify)"),
        });
    }
    if told.is_empty() { "no files".to_owned() } else { told.join(", ") }
}

/// Checks that every file is this partition's, and that this binary knows its version and layout
/// and the kind of every entry. Damage is not looked for here: `ringmail verify` does that.
fn check_partition(folder: &Path, number: u16, bar: &ProgressBar) -> Result<FilesByFormat> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut files = FilesByFormat::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{}: cannot read", folder.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let (epoch, sequence) = (epoch_of_name(name), checkpoint_of_name(name));
        if epoch.is_none() && sequence.is_none() {
            continue;
        }
        let Some(bytes) = read_if_there(&path)? else { continue };
        let partition = PartitionId(number);
        if let Some(other) = partition_of_file(&bytes).filter(|other| *other != partition) {
            bail!(
                "{}: belongs to partition {other}, not to {number}: put each partition's files back \
                 into its own folder",
                path.display()
            );
        }
        let refused = if let Some(epoch) = epoch {
            match dissect(&bytes, partition, epoch, Lsn(0)) {
                Ok(found) => found.entries.into_iter().find_map(|entry| entry.unknown),
                Err(error) => Some(error.to_string()),
            }
        } else {
            let sequence = sequence.unwrap_or_default();
            check_checkpoint(&bytes, partition, sequence).err().map(|error| error.to_string())
        };
        if let Some(why) = refused {
            bail!("{}: {why}; start the ringmail that wrote it, or a later one", path.display());
        }
        *files.entry(version_of_file(&bytes)).or_default() += 1;
        bar.inc(bytes.len() as u64);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::of_version, *};

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");
    const FILES: [&str; 2] = ["segment-0000000000000001", "checkpoint-0000000000000001"];

    #[test]
    fn the_first_format_can_be_opened() {
        let compacted = Path::new(GOLDEN).with_file_name("v1-compacted");
        let of = |folder: &Path| told(&check_partition(folder, 7, &ProgressBar::hidden()).unwrap());
        assert_eq!(of(&compacted), "3 files of format 1");
        assert_eq!(of(Path::new(GOLDEN)), "2 files of format 1");
        let both = [(Some(1), 3), (Some(2), 1), (None, 1)].into();
        assert_eq!(
            told(&both),
            "3 files of format 1, 1 of format 2, 1 that cannot be read (see ringmail verify)"
        );
        assert_eq!(told(&[(Some(2), 1)].into()), "1 file of format 2");
    }

    #[test]
    fn a_file_of_a_later_version_is_named() {
        for changed in FILES {
            let place = tempfile::tempdir().unwrap();
            for name in FILES {
                let version = if name == changed { 99 } else { 1 };
                let bytes = of_version(version, &Path::new(GOLDEN).join(name));
                fs::write(place.path().join(name), bytes).unwrap();
            }
            let error =
                check_partition(place.path(), 7, &ProgressBar::hidden()).unwrap_err().to_string();
            assert!(error.contains(changed) && error.contains("version 99"), "{error}");
        }
    }

    #[test]
    fn a_file_of_another_partition_is_named() {
        for folder in [Path::new(GOLDEN), &Path::new(GOLDEN).with_file_name("v1-compacted")] {
            for entry in fs::read_dir(folder).unwrap() {
                let (place, from) = (tempfile::tempdir().unwrap(), entry.unwrap().path());
                let name = from.file_name().and_then(|name| name.to_str()).unwrap();
                if epoch_of_name(name).is_none() && checkpoint_of_name(name).is_none() {
                    continue;
                }
                fs::copy(&from, place.path().join(name)).unwrap();
                assert!(check_partition(place.path(), 7, &ProgressBar::hidden()).is_ok());
                let error = check_partition(place.path(), 0, &ProgressBar::hidden()).unwrap_err();
                let expected = format!("{name}: belongs to partition 7, not to 0");
                assert!(error.to_string().contains(&expected), "{error:#}");
            }
        }
    }

    /// `serve` would stop at this error if root starts it; the user who runs `check` may not be
    /// root.
    #[test]
    fn a_user_that_is_not_there_is_a_problem() {
        for (names, expected) in [
            ("user = \"nobody-of-this-name\"", "user: no user \"nobody-of-this-name\""),
            ("user = \"root\"", "user: user \"root\" is root"),
            ("user = \"daemon\"\ngroup = \"no-such-group\"", "group: no group \"no-such-group\""),
        ] {
            let text = format!(
                "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\ndata_dir = \"mail\"\n{names}\n\
                 listen = {{ submissions = [], pop3s = [], imaps = [] }}\n"
            );
            let settings = Settings::parse(Path::new("t.toml"), &text).unwrap();
            let problem = user_problem(&settings).unwrap();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    /// A start would fail, or go on without what the file should hold.
    #[test]
    fn files_that_cannot_be_used_are_problems() {
        let place = tempfile::tempdir().unwrap();
        let (absent, empty) = (place.path().join("absent"), place.path().join("empty"));
        fs::write(&empty, "no certificate, no key\n").unwrap();
        for (path, is_there) in [(&absent, false), (&empty, true)] {
            let path = path.display();
            let text = format!(
                "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\ndata_dir = \"mail\"\n\
                 listen = {{ submissions = [], pop3s = [], imaps = [] }}\n\
                 dns = {{ validate = true, trust_anchor = \"{path}\" }}\n\
                 queue = {{ ca_file = \"{path}\" }}\nmta_sts = {{ ca_file = \"{path}\" }}\n\
                 tlsrpt = {{ enabled = true, ca_file = \"{path}\" }}\n\
                 oauth = {{ issuer = \"https://id.test\", audience = \"mail\", keys = \"{path}\", \
                 introspection = \"https://id.test/i\", client_id = \"x\", \
                 client_secret_file = \"{path}\" }}\n"
            );
            let settings = Settings::parse(Path::new("/t.toml"), &text).unwrap();
            let problems = unusable_files(&settings);
            let mut names = vec![
                "queue.ca_file",
                "mta_sts.ca_file",
                "tlsrpt.ca_file",
                "dns.trust_anchor",
                "oauth.keys",
            ];
            // An empty secret is one.
            names.extend((!is_there).then_some("oauth.client_secret_file"));
            assert_eq!(problems.len(), names.len(), "{problems:#?}");
            for (problem, name) in problems.iter().zip(names) {
                let line = settings.value_lines[name];
                let expected = format!("--set:{line}: {name}: {path}: ");
                assert!(problem.starts_with(&expected), "{problem}");
            }
        }
    }

    /// Beside a running server: a name without a file, like a dangling link.
    #[test]
    fn a_file_that_goes_meanwhile_is_no_problem() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", place.path().join(FILES[0])).unwrap();
        let found = check_partition(place.path(), 7, &ProgressBar::hidden()).unwrap();
        assert_eq!(told(&found), "no files");
    }
}
