//! `ringmail user …`: edits the users file, durably and under its lock, and notifies a running
//! server.

use std::{
    io::{self, BufRead, IsTerminal, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ringmail::{
    config::{Gift, Settings},
    control::{self, json},
    directory::{
        self, AliasMention, AppPassword, DirectoryOptions, Salt, Secret, UsersFile, UsersFileError,
        aliases_naming, groups_naming, lock_name, parse_import,
    },
    events::rfc3339,
    model::Timestamp,
    runtime::{
        folder::Folder,
        host,
        privilege::{self, Owner},
    },
    server::data_dir,
};

use super::{
    Usage,
    output::{complain, print, print_line},
    printable,
};
use crate::cli::{AppPasswordName, AppPasswordVerb, PasswordArguments, Place, UserVerb};

pub fn user(verb: UserVerb) -> Result<()> {
    // Passwords are typed here.
    host::forbid_core_dumps().context("cannot turn core dumps off")?;
    match verb {
        UserVerb::Add(arguments) => add(&arguments),
        UserVerb::Rename { address, new, dry_run, place } => {
            rename(&address, &new, dry_run, &place)
        }
        UserVerb::Passwd(arguments) => passwd(&arguments),
        UserVerb::List { json, place } => list(&place, json),
        UserVerb::Remove { address, dry_run, place } => remove(&address, dry_run, &place),
        UserVerb::Import { file, dry_run, place } => import(&file, dry_run, &place),
        UserVerb::AppPassword(verb) => app_password(&verb),
    }
}

/// Where the accounts are, and where their server's socket would be.
struct Accounts {
    users_file: PathBuf,
    data_dir: PathBuf,
    /// The server's user, who must be able to read files that root creates here.
    owner: Option<Owner>,
}

impl Accounts {
    fn find(place: &Place) -> Result<Accounts> {
        match (&place.config, &place.dir) {
            (Some(config), _) => {
                let settings = Settings::load(config)?;
                let owner = match &settings.user {
                    Some(user) if privilege::is_root() => {
                        Some(privilege::identity(user, settings.group.as_deref())?)
                    }
                    _ => None,
                };
                let users_file = settings.users_path();
                Ok(Accounts { users_file, data_dir: settings.data_dir, owner })
            }
            (None, Some(directory)) => Ok(Accounts {
                users_file: directory.join("users"),
                data_dir: directory.clone(),
                owner: None,
            }),
            (None, None) => Err(Usage("--config or --dir is needed".to_owned()).into()),
        }
    }

    fn folder(&self) -> &Path {
        self.users_file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Reads as the owner of the folder, whose contents are not trusted.
    fn load(&self) -> Result<UsersFile> {
        let path = &self.users_file;
        data_dir::as_owner(self.folder(), || Ok(UsersFile::load(path)?))
    }

    /// Writes as the owner of the folder too; in a folder of root's, the file is given to the
    /// server's user.
    fn edit<T>(&self, change: impl FnOnce(&mut UsersFile) -> Result<T>) -> Result<T> {
        let path = self.folder();
        let owner_of_new = self.owner.filter(|_| path == self.data_dir);
        let folder = Folder::make(path, owner_of_new)
            .with_context(|| format!("{}: cannot create", path.display()))?;
        folder.adopt(&lock_name(self.users_file.file_name().unwrap_or_default()))?;
        let outcome = folder.act(|| {
            let change = |file: &mut UsersFile| change(file).map_err(EditError::Change);
            UsersFile::edit_for(self.owner, &self.users_file, change)
        })?;
        let outcome = outcome.map_err(EditError::into_error)?;
        tell_server(&self.data_dir)?;
        Ok(outcome)
    }
}

/// A running server reads the files again; another one reads them at its start.
pub(super) fn tell_server(data_dir: &Path) -> Result<()> {
    let socket = control::path(data_dir);
    let not_told =
        || format!("{}: the change is saved, but the server was not notified", socket.display());
    let reply = match Folder::open(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(not_told),
        Ok(folder) => control::request(&folder, "reload"),
    };
    match reply.with_context(not_told)?.as_deref() {
        None | Some("ok") => Ok(()),
        Some(reply) if reply.starts_with("ok: ") => {
            let pending = reply.trim_start_matches("ok: ");
            complain(format_args!("note: the configuration has changed: {}", printable(pending)));
            Ok(())
        }
        Some(other) => {
            bail!("the change is saved, but the server answered: {}", printable(other))
        }
    }
}

/// Carries our own errors through `UsersFile::edit`.
enum EditError {
    File(UsersFileError),
    Change(anyhow::Error),
}

impl From<UsersFileError> for EditError {
    fn from(error: UsersFileError) -> EditError {
        EditError::File(error)
    }
}

impl EditError {
    fn into_error(self) -> anyhow::Error {
        match self {
            EditError::File(error) => error.into(),
            EditError::Change(error) => error,
        }
    }
}

fn add(arguments: &PasswordArguments) -> Result<()> {
    let accounts = Accounts::find(&arguments.place)?;
    // Before a password is typed for nothing.
    UsersFile::check_address(&arguments.address)?;
    let secret = secret(&read_password(arguments)?, None)?;
    let id = accounts.edit(|file| Ok(file.add(&arguments.address, secret)?))?;
    print_line(format_args!("added {} (account {id})", arguments.address))?;
    note_foreign_domain(&arguments.address, &arguments.place)?;
    note_names(&arguments.address, &arguments.place, Named::Already)
}

/// A slip of the hand keeps the mail for somebody else's domain here, where it is refused.
fn note_foreign_domain(address: &str, place: &Place) -> Result<()> {
    if let Some(config) = &place.config
        && let Some((_, domain)) = address.rsplit_once('@')
        && !Settings::load(config)?.is_local(domain)
    {
        complain(format_args!(
            "note: {domain} is not in `domains`: while it has an account, all mail for it is kept \
             here, and refused if it is for others; \"ringmail user remove\" undoes that"
        ));
    }
    Ok(())
}

fn passwd(arguments: &PasswordArguments) -> Result<()> {
    let accounts = Accounts::find(&arguments.place)?;
    let password = read_password(arguments)?;
    accounts.edit(|file| {
        let secret = secret(&password, file.salt(&arguments.address))?;
        Ok(file.set_secret(&arguments.address, secret)?)
    })?;
    print_line(format_args!("changed the password of {}", arguments.address))
}

/// What the file keeps of a password.
fn secret(password: &str, salt: Option<Salt>) -> Result<Secret> {
    let secret = Secret::of(password, salt)?;
    if !secret.keyring.has_keys() {
        complain(format_args!(
            "note: no mail program could prove this password by SCRAM (it has characters that RFC \
             4013 prohibits); it works otherwise"
        ));
    }
    Ok(secret)
}

fn list(place: &Place, as_json: bool) -> Result<()> {
    let accounts = Accounts::find(place)?;
    let file = accounts.load()?;
    let mut out = String::new();
    for user in file.users() {
        if as_json {
            out.push_str(&json::object(&[
                ("account", user.id.to_string()),
                ("address", json::text(&user.address)),
                ("scram", user.keyring.has_keys().to_string()),
                ("app_passwords", user.keyring.app_passwords().count().to_string()),
            ]));
            out.push('\n');
            continue;
        }
        let note = if user.keyring.has_keys() { "" } else { " (no keys of SCRAM)" };
        out.push_str(&format!("{:>8} {}{note}\n", user.id, user.address));
    }
    print(out)
}

fn app_password(verb: &AppPasswordVerb) -> Result<()> {
    match verb {
        AppPasswordVerb::Add { which: AppPasswordName { address, name }, place, json } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let add = |file: &mut UsersFile| Ok(file.add_app_password(address, name, now)?);
            let password = Accounts::find(place)?.edit(add)?;
            if !json {
                return print_line(format_args!("{password}"));
            }
            let fields = [("address", address), ("name", name), ("password", &password)];
            let fields = fields.map(|(name, value)| (name, json::text(value)));
            print_line(format_args!("{}", json::object(&fields)))
        }
        AppPasswordVerb::List { address, place, json } => {
            let file = Accounts::find(place)?.load()?;
            let all = file.user(address)?.keyring.app_passwords();
            let lines = all.map(|AppPassword { name, created }| {
                let micros = i64::try_from(created).unwrap_or(0).saturating_mul(1_000_000);
                let created = rfc3339(Timestamp(micros));
                match json {
                    true => {
                        let fields = [("address", address), ("name", &name), ("created", &created)];
                        json::object(&fields.map(|(name, value)| (name, json::text(value)))) + "\n"
                    }
                    false => format!("{created}  {}\n", printable(&name)),
                }
            });
            print(lines.collect::<String>())
        }
        AppPasswordVerb::Remove { which: AppPasswordName { address, name }, place } => {
            let remove = |file: &mut UsersFile| Ok(file.remove_app_password(address, name)?);
            Accounts::find(place)?.edit(remove)?;
            print_line(format_args!("removed the application password {name:?} of {address}"))
        }
    }
}

fn remove(address: &str, dry_run: bool, place: &Place) -> Result<()> {
    let accounts = Accounts::find(place)?;
    if dry_run {
        let file = accounts.load()?;
        if !file.contains(address) {
            bail!("no account {address}");
        }
        return print_line(format_args!(
            "would remove the log-in of {address}; its mail would stay in the store"
        ))
        .and_then(|()| note_names(address, place, Named::Still));
    }
    let id = accounts.edit(|file| Ok(file.remove(address)?))?;
    print_line(format_args!("removed {address} (account {id}); its mail stays in the store"))?;
    note_names(address, place, Named::Still)
}

fn rename(address: &str, new: &str, dry_run: bool, place: &Place) -> Result<()> {
    let accounts = Accounts::find(place)?;
    if dry_run {
        // Only in memory.
        let id = accounts.load()?.rename(address, new)?;
        print_line(format_args!("would give {address} (account {id}) the address {new}"))?;
    } else {
        let id = accounts.edit(|file| Ok(file.rename(address, new)?))?;
        print_line(format_args!("{address} (account {id}) is {new} from now on"))?;
    }
    note_foreign_domain(new, place)?;
    note_names(address, place, Named::Still)?;
    note_names(new, place, Named::Already)
}

/// What is given to whoever has an address, by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    /// By the account that was removed.
    Still,
    /// By an account that is new.
    Already,
}

/// Says what names the address, so that whoever gets it has that.
fn note_names(address: &str, place: &Place, when: Named) -> Result<()> {
    let key = address.to_lowercase();
    let settings = place.config.as_deref().map(Settings::load).transpose()?;
    let domain = key.rsplit_once('@').map_or("", |(_, domain)| domain);
    let separators = DirectoryOptions::default().separators;
    let (groups, aliases, default_domain, separators) = match (&settings, &place.dir) {
        (Some(settings), _) => {
            let default_domain = settings.domains.first().map_or("", String::as_str);
            let files = settings.directory_files();
            (files.groups, files.aliases, default_domain, settings.addresses.separators.clone())
        }
        (None, Some(folder)) => (folder.join("groups"), folder.join("aliases"), domain, separators),
        (None, None) => return Ok(()),
    };
    let note = |place: String, what: &str| {
        let (place, address) = (printable(&place).to_string(), printable(address));
        complain(match when {
            Named::Still => {
                format!("note: {place}: still names {address}: whoever gets the address {what}")
            }
            Named::Already => format!("note: {place}: names {address}, which therefore {what}"),
        });
    };
    // A mistake in the files is for the server and `check` to tell.
    let named = groups_naming(&groups, default_domain, &key).unwrap_or_default();
    for (line, group) in named {
        note(format!("{}:{line}", groups.display()), &format!("is a member of ${group}"));
    }
    let named = aliases_naming(&aliases, default_domain, &separators, &key).unwrap_or_default();
    for AliasMention { line, alias } in named {
        let what = match alias {
            Some(alias) => format!("gets the mail of {alias}"),
            None => "has its mail go where this line says".to_owned(),
        };
        note(format!("{}:{line}", aliases.display()), &what);
    }
    let is_same = |name: &str| {
        let whole = match name.contains('@') {
            true => name.to_lowercase(),
            false => format!("{name}@{default_domain}").to_lowercase(),
        };
        whole == key
    };
    for Gift { to, place, what } in settings.iter().flat_map(|it| it.gifts()) {
        if is_same(to) {
            note(place, &what.of_account());
        }
    }
    Ok(())
}

fn import(path: &Path, dry_run: bool, place: &Place) -> Result<()> {
    let accounts = Accounts::find(place)?;
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read", path.display()))?;
    }
    let wanted = parse_import(&text, path)?;
    if dry_run {
        return print_line(format_args!("would add or update {} accounts", wanted.len()));
    }
    let salts = if accounts.users_file.exists() { Some(accounts.load()?) } else { None };
    let salt = |address: &str| salts.as_ref().and_then(|file| file.salt(address));
    let passwords: Vec<_> =
        wanted.iter().map(|(address, password)| (*password, salt(address))).collect();
    let progress = progress_bar(passwords.len() as u64);
    let secrets = directory::hash_all(&passwords, &|| progress.inc(1))?;
    progress.finish_and_clear();
    let added = accounts.edit(|file| {
        let mut added = 0usize;
        for ((address, _), secret) in wanted.iter().zip(secrets) {
            added += usize::from(file.put(address, secret)?);
        }
        Ok(added)
    })?;
    print_line(format_args!("added {added}, updated {}", wanted.len() - added))
}

/// Hashing takes some 40 ms a password and core: thousands take a while.
fn progress_bar(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("hashing {bar:40} {pos}/{len}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(count).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn read_password(arguments: &PasswordArguments) -> Result<String> {
    if arguments.password_stdin || !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("standard input")?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(Usage("an empty password".to_owned()).into());
        }
        return Ok(password.to_owned());
    }
    let first = rpassword::prompt_password(format!("Password for {}: ", arguments.address))?;
    let second = rpassword::prompt_password("Once more: ")?;
    if first != second {
        return Err(Usage("the two passwords differ".to_owned()).into());
    }
    if first.is_empty() {
        return Err(Usage("an empty password".to_owned()).into());
    }
    Ok(first)
}
