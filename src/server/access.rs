//! Whether the server's user can use what is in the data directory. Another user, often root, may
//! have made it. `server::run` asks before it changes anything, and `ringmail check`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, Gid, Uid, User, faccessat},
};

use super::data_dir::{LOCK, STORE_FILE, partition_name, read_layout};
use crate::{
    config::Settings,
    model::PartitionId,
    runtime::privilege::{self, Owner},
    store::log::{checkpoint_of_name, epoch_of_name},
};

const READ: u32 = 0o4;
const READ_WRITE: u32 = 0o6;
const ALL: u32 = 0o7;

/// The user who will use the directory.
struct Server(Owner);

/// Checks that the user that `serve` will run as can open what is there, as far as we can look.
///
/// # Errors
/// The first file or folder that it cannot use, and the command that gives it everything.
pub fn check(settings: &Settings) -> Result<()> {
    let path = &settings.data_dir;
    let Ok(about) = fs::metadata(path) else { return Ok(()) };
    let server = Server::of(settings, &about)?;
    let Some(found) = server.first_closed(path)? else { return Ok(()) };
    let Owner { uid, gid } = server.0;
    let user = User::from_uid(uid).ok().flatten().map_or(uid.to_string(), |user| user.name);
    bail!(
        "{}: user {user}, as whom the server runs, has no access (it belongs to user {}): \
         chown -R {uid}:{gid} {}",
        found.display(),
        fs::symlink_metadata(&found).map_or("unknown".to_owned(), |about| about.uid().to_string()),
        path.display()
    )
}

impl Server {
    /// As `server::run` chooses it: `user`, otherwise the owner of the directory, if we are root.
    fn of(settings: &Settings, data_dir: &fs::Metadata) -> Result<Server> {
        Ok(Server(match &settings.user {
            _ if !privilege::is_root() => Owner { uid: Uid::effective(), gid: Gid::effective() },
            Some(user) => privilege::identity(user, settings.group.as_deref())?,
            None => {
                Owner { uid: Uid::from_raw(data_dir.uid()), gid: Gid::from_raw(data_dir.gid()) }
            }
        }))
    }

    /// The directory itself is handed over at the start, but nothing in it.
    fn first_closed(&self, data_dir: &Path) -> Result<Option<PathBuf>> {
        for (name, wanted) in [(LOCK, READ_WRITE), (STORE_FILE, READ)] {
            let path = data_dir.join(name);
            if self.is_closed(&path, wanted)? {
                return Ok(Some(path));
            }
        }
        let partitions = match read_layout(data_dir) {
            Ok(Some(layout)) => layout.partitions,
            // Reported by those who need it.
            _ => return Ok(None),
        };
        for number in 0..partitions {
            let folder = data_dir.join(partition_name(PartitionId(number)));
            if self.is_closed(&folder, ALL)? {
                return Ok(Some(folder));
            }
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let ours = entry.file_name().to_str().is_some_and(|name| {
                    epoch_of_name(name).is_some() || checkpoint_of_name(name).is_some()
                });
                if ours && self.is_closed(&entry.path(), READ_WRITE)? {
                    return Ok(Some(entry.path()));
                }
            }
        }
        Ok(None)
    }

    /// For root by owner and mode, since to root everything is open. What is absent is not closed.
    fn is_closed(&self, path: &Path, wanted: u32) -> io::Result<bool> {
        if !privilege::is_root() {
            let mode = AccessFlags::from_bits_truncate(wanted as i32);
            let access = faccessat(AT_FDCWD, path, mode, AtFlags::AT_EACCESS);
            return Ok(access == Err(Errno::EACCES));
        }
        let about = match fs::symlink_metadata(path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Owner { uid, gid } = self.0;
        let shift = match (about.uid() == uid.as_raw(), about.gid() == gid.as_raw()) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        Ok(!uid.is_root() && (about.mode() >> shift) & wanted != wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const NOBODY: Owner = Owner { uid: Uid::from_raw(65_534), gid: Gid::from_raw(65_534) };

    /// Only root can give files away.
    #[test]
    fn what_another_user_made_is_named() {
        if !Uid::effective().is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        fs::create_dir(path.join("partition-0000")).unwrap();
        let segment = "partition-0000/segment-0000000000000001";
        let names = [LOCK, STORE_FILE, "partition-0000", segment];
        for name in [LOCK, STORE_FILE, segment, "partition-0000/notes"] {
            fs::write(path.join(name), "format = 1\npartitions = 1\n").unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        for name in names {
            let found = Server(NOBODY).first_closed(path).unwrap();
            assert_eq!(found, Some(path.join(name)));
            chown(path.join(name), Some(65_534), Some(65_534)).unwrap();
        }
        assert_eq!(Server(NOBODY).first_closed(path).unwrap(), None);
        // Of its group, with the rights of the group.
        chown(path.join(LOCK), Some(0), None).unwrap();
        assert_eq!(Server(NOBODY).first_closed(path).unwrap(), Some(path.join(LOCK)));
        fs::set_permissions(path.join(LOCK), fs::Permissions::from_mode(0o660)).unwrap();
        assert_eq!(Server(NOBODY).first_closed(path).unwrap(), None);
    }
}
