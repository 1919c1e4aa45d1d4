//! A folder held by its descriptor, for root working where other users may write.
//!
//! The service user owns the data directory, so it may put a link, a pipe or another folder where
//! root will look next. Hence: the path to a folder is walked name by name, and root follows only
//! links that only root can have made; files are named relative to the descriptor, opened without
//! following links, and created under fresh names; and root works in another user's folder as that
//! user ([`Folder::act`]), so that wherever it was led, it has no more rights than that user, and
//! creates no file that the owner cannot open.
//!
//! Called by `server::data_dir`, `directory::users_file` and the verbs. Blocks, so never called on
//! a shard.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat},
    sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat},
};

use super::privilege::{self, Owner, PrivilegeError};

/// A folder that holds mail is private to its owner, and so are the files in it.
pub const FOLDER_MODE: u32 = 0o700;
pub const FILE_MODE: u32 = 0o600;

/// Other users must be able to pass through the parents.
const PARENT_MODE: u32 = 0o755;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Bits that let group and others create and rename files in it.
const OTHERS_WRITE: u32 = 0o022;
/// Links on the path to one folder; Linux has the same limit.
const LINKS_MAX: usize = 40;
/// Fresh names tried: a name is taken only if it was guessed.
const NAMES_MAX: usize = 16;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    stat: FileStat,
    /// Only root can have led us here.
    trusted: bool,
}

impl Folder {
    /// Opens the folder `path`.
    pub fn open(path: &Path) -> io::Result<Folder> {
        Folder::walk(path, None)
    }

    /// Opens the folder `path`, creating it and its missing parents. If root creates it, it is
    /// given to `owner`.
    pub fn make(path: &Path, owner: Option<Owner>) -> io::Result<Folder> {
        Folder::walk(path, Some(owner))
    }

    fn walk(path: &Path, make: Option<Option<Owner>>) -> io::Result<Folder> {
        let path = std::path::absolute(path)?;
        let mut rest = names(&path);
        let mut here = Place::top()?;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            match here.look(&name)? {
                Some(stat) if kind(&stat) == SFlag::S_IFLNK => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = here.follow(&name, &stat)?;
                    if target.is_absolute() {
                        here = Place::top()?;
                    }
                    let mut ahead = names(&target);
                    ahead.append(&mut rest);
                    rest = ahead;
                }
                Some(_) => here = here.enter(&name)?,
                None => match make {
                    Some(owner) => here = here.make(&name, rest.is_empty(), owner)?,
                    None => return Err(Errno::ENOENT.into()),
                },
            }
        }
        let fd = openat(&here.fd, ".", FOLDER_FLAGS, Mode::empty())?;
        Ok(Folder { stat: fstat(&fd)?, fd, path, trusted: here.trusted })
    }

    /// The folder `name` in this one, created if it is absent; never the target of a link.
    pub fn child(&self, name: &str) -> io::Result<Folder> {
        match mkdirat(&self.fd, name, Mode::from_bits_truncate(FOLDER_MODE)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let fd = openat(&self.fd, name, FOLDER_FLAGS | OFlag::O_NOFOLLOW, Mode::empty())?;
        let (stat, path) = (fstat(&fd)?, self.path.join(name));
        Ok(Folder { fd, path, stat, trusted: self.trusted })
    }

    /// Absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn owner(&self) -> Owner {
        owner_of(&self.stat)
    }

    /// Gives it to `owner`. Refused if a user other than root can have put another folder in its
    /// place.
    pub fn give(&mut self, owner: Owner) -> io::Result<()> {
        if self.owner().uid == owner.uid {
            return Ok(());
        }
        if !self.trusted {
            return Err(refusal(
                "others can write to its parent folder: change its owner by hand (chown)",
            ));
        }
        fchown(&self.fd, Some(owner.uid), Some(owner.gid))?;
        self.stat = fstat(&self.fd)?;
        Ok(())
    }

    /// Removes the permissions of group and others, if the folder is ours; returns the old mode if
    /// anything was changed.
    ///
    /// # Errors
    /// If it belongs to root, others could write to it and it is not empty: the contents may not be
    /// root's.
    pub fn tighten(&self) -> io::Result<Option<u32>> {
        let mode = self.stat.st_mode & 0o7777;
        if mode & OTHERS == 0 || Uid::effective() != self.owner().uid {
            return Ok(None);
        }
        if privilege::is_root() && mode & OTHERS_WRITE != 0 && !self.is_empty()? {
            return Err(refusal(
                "belongs to root, others can write to it, and it is not empty: chmod go-w",
            ));
        }
        fchmod(&self.fd, Mode::from_bits_truncate(FOLDER_MODE))?;
        Ok(Some(mode))
    }

    fn is_empty(&self) -> io::Result<bool> {
        let mut entries = Dir::from_fd(self.fd.try_clone()?)?;
        let other = entries.iter().find(|entry| match entry {
            Ok(entry) => !matches!(entry.file_name().to_bytes(), b"." | b".."),
            Err(_) => true,
        });
        Ok(other.is_none())
    }

    /// Runs `work` as the folder's owner, if we are root and the owner is not.
    ///
    /// # Errors
    /// If root's own folder is where others could swap it for another, or others can put links into
    /// it.
    pub fn act<T>(&self, work: impl FnOnce() -> T) -> Result<T, PrivilegeError> {
        if privilege::is_root() && self.owner().uid.is_root() {
            self.refuse_if_shared().map_err(|error| self.about(error))?;
        }
        privilege::act_as(self.owner(), work)
    }

    fn refuse_if_shared(&self) -> io::Result<()> {
        if !self.trusted {
            return Err(refusal(
                "belongs to root, in a folder that others can write to: chown it to them",
            ));
        }
        match self.stat.st_mode & OTHERS_WRITE {
            0 => Ok(()),
            _ => Err(refusal(
                "belongs to root, but others can write to it: chmod go-w, or chown it to them",
            )),
        }
    }

    fn about(&self, error: io::Error) -> PrivilegeError {
        PrivilegeError::Directory { path: self.path.clone(), error }
    }

    /// Gives the owner an empty file that earlier versions created as root (a lock). Any other file
    /// stays as it is: it may have been planted to be given away.
    pub fn adopt(&self, name: &OsStr) -> io::Result<()> {
        if !privilege::is_root() || self.owner().uid.is_root() {
            return Ok(());
        }
        let file = match self.open_file(name, OFlag::O_RDONLY) {
            Ok(file) => file,
            // Absent, or not a file that we created.
            Err(_) => return Ok(()),
        };
        let stat = fstat(&file)?;
        if stat.st_uid == 0 && stat.st_nlink == 1 && stat.st_size == 0 {
            fchown(&file, Some(self.owner().uid), Some(self.owner().gid))?;
        }
        Ok(())
    }

    /// The contents of the file `name`; `None` if it is absent.
    pub fn read(&self, name: &OsStr, max: u64) -> io::Result<Option<Vec<u8>>> {
        match self.open_file(name, OFlag::O_RDONLY) {
            Ok(file) => read_bounded(file, max).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens or creates the file `name`, for locks; a new one is given to `owner`.
    pub fn lock_file(&self, name: &OsStr, owner: Option<Owner>) -> io::Result<File> {
        match self.create(name) {
            Ok(file) => {
                own(&file, owner)?;
                Ok(file)
            }
            Err(Errno::EEXIST) => {
                let file = self.open_file(name, OFlag::O_RDWR)?;
                let stat = fstat(&file)?;
                let ours = stat.st_uid == Uid::effective().as_raw() && stat.st_nlink == 1;
                if ours && stat.st_mode & OTHERS != 0 {
                    fchmod(&file, Mode::from_bits_truncate(FILE_MODE))?;
                }
                Ok(file)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the file `name` as a whole and durably. Owner and mode stay; a new one is private
    /// to its owner, who is `owner`.
    pub fn replace(&self, name: &OsStr, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
        let before = match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFREG => Some(stat),
            Ok(_) => return Err(not_a_file()),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let (fresh, mut file) = self.create_fresh(name)?;
        let written = (|| {
            match &before {
                Some(stat) => keep_owner(&file, stat)?,
                None => own(&file, owner)?,
            }
            file.write_all(bytes)?;
            file.sync_all()?;
            renameat(&self.fd, &*fresh, &self.fd, name)?;
            self.sync()
        })();
        if written.is_err() {
            // The first error matters more than one of the clean-up.
            let _ = unlinkat(&self.fd, &*fresh, UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// As [`Folder::replace`], as the folder's owner. In root's folder it acts as root, wherever
    /// the folder is: no link is followed, so nothing outside the folder is changed, and a file of
    /// another user is left alone.
    pub fn replace_as_owner(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        let before = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if before.is_ok_and(|stat| stat.st_uid != self.owner().uid.as_raw()) && privilege::is_root()
        {
            return Err(refusal("the file belongs to another user"));
        }
        privilege::act_as(self.owner(), || self.replace(name, bytes, None))
            .map_err(io::Error::other)?
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.fd.try_clone()?).sync_all()
    }

    fn create_fresh(&self, name: &OsStr) -> io::Result<(OsString, File)> {
        for _ in 0..NAMES_MAX {
            let mut fresh = name.to_owned();
            fresh.push(format!(".new-{:016x}", rand::random::<u64>()));
            match self.create(&fresh) {
                Err(Errno::EEXIST) => {}
                made => return Ok((fresh, made?)),
            }
        }
        Err(Errno::EEXIST.into())
    }

    fn create(&self, name: &OsStr) -> nix::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | FILE_FLAGS;
        let file = openat(&self.fd, name, flags, Mode::from_bits_truncate(FILE_MODE))?;
        Ok(File::from(file))
    }

    fn open_file(&self, name: &OsStr, access: OFlag) -> io::Result<File> {
        let file = openat(&self.fd, name, access | FILE_FLAGS, Mode::empty());
        plain_file(file.map_err(|errno| match errno {
            Errno::ELOOP => not_a_file(),
            errno => errno.into(),
        })?)
    }
}

/// Reads a file in a place where links are the administrator's own; never waits for a pipe.
pub fn read_file(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    read_bounded(plain_file(openat(AT_FDCWD, path, flags, Mode::empty())?)?, max)
}

const FOLDER_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// A planted pipe must not make us wait for its other end.
const FILE_FLAGS: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// A step on the path: for looking up names below it, not for reading it.
struct Place {
    fd: OwnedFd,
    stat: FileStat,
    trusted: bool,
}

impl Place {
    fn top() -> io::Result<Place> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, "/", flags, Mode::empty())?;
        Ok(Place { stat: fstat(&fd)?, fd, trusted: true })
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<FileStat>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether only root can have put `entry` here. A process that is not root has nothing to lose.
    fn vouches_for(&self, entry: &FileStat) -> bool {
        if !privilege::is_root() {
            return true;
        }
        let sticky = self.stat.st_mode & 0o1000 != 0 && entry.st_uid == 0;
        self.trusted && self.stat.st_uid == 0 && (self.stat.st_mode & OTHERS_WRITE == 0 || sticky)
    }

    fn follow(&self, name: &OsStr, link: &FileStat) -> io::Result<PathBuf> {
        if !self.vouches_for(link) {
            let what = format!("{:?} is a link that other users could have planted", name);
            return Err(refusal(&what));
        }
        Ok(PathBuf::from(readlinkat(&self.fd, name)?))
    }

    fn enter(&self, name: &OsStr) -> io::Result<Place> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Place { trusted: self.vouches_for(&stat), stat, fd })
    }

    /// In another user's folder, creates it as that user.
    fn make(&self, name: &OsStr, last: bool, owner: Option<Owner>) -> io::Result<Place> {
        let mode = if last { FOLDER_MODE } else { PARENT_MODE };
        let above = owner_of(&self.stat);
        let made =
            privilege::act_as(above, || mkdirat(&self.fd, name, Mode::from_bits_truncate(mode)));
        match made.map_err(io::Error::other)? {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut place = self.enter(name)?;
        if privilege::is_root() && place.trusted {
            let fd = openat(&place.fd, ".", FOLDER_FLAGS, Mode::empty())?;
            // Independent of our umask.
            fchmod(&fd, Mode::from_bits_truncate(mode))?;
            if let Some(owner) = owner.filter(|_| last) {
                fchown(&fd, Some(owner.uid), Some(owner.gid))?;
                place.stat = fstat(&fd)?;
            }
        }
        Ok(place)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    names.collect()
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn owner_of(stat: &FileStat) -> Owner {
    Owner { uid: Uid::from_raw(stat.st_uid), gid: Gid::from_raw(stat.st_gid) }
}

fn plain_file(fd: OwnedFd) -> io::Result<File> {
    match kind(&fstat(&fd)?) {
        SFlag::S_IFREG => Ok(File::from(fd)),
        _ => Err(not_a_file()),
    }
}

fn read_bounded(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {max} bytes"))),
        false => Ok(bytes),
    }
}

/// Only root gives files away.
fn own(file: impl AsFd, owner: Option<Owner>) -> io::Result<()> {
    match owner.filter(|_| privilege::is_root()) {
        Some(owner) => Ok(fchown(file, Some(owner.uid), Some(owner.gid))?),
        None => Ok(()),
    }
}

/// As far as permitted: a process that is not root is the owner now, and a group that it could not
/// keep must not be replaced by another that can read.
fn keep_owner(file: impl AsFd, before: &FileStat) -> io::Result<()> {
    let Owner { uid, gid } = owner_of(before);
    let now = fstat(&file)?;
    let mut mode = before.st_mode & 0o777;
    if privilege::is_root() {
        fchown(&file, Some(uid), Some(gid))?;
    } else if now.st_gid != before.st_gid && fchown(&file, None, Some(gid)).is_err() {
        mode &= !0o070;
    }
    Ok(fchmod(&file, Mode::from_bits_truncate(mode))?)
}

fn not_a_file() -> io::Error {
    refusal("not a regular file (a link, a pipe or the like)")
}

fn refusal(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    };

    use super::*;

    const NOBODY: u32 = 65_534;

    #[test]
    fn names_that_are_no_plain_files_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let folder = Folder::make(&place.path().join("mail"), None).unwrap();
        for name in ["users", "lock"] {
            symlink(&victim, folder.path().join(name)).unwrap();
            let name = OsStr::new(name);
            assert!(folder.read(name, 100).is_err());
            assert!(folder.replace(name, b"x", None).is_err());
            assert!(folder.lock_file(name, None).is_err());
        }
        symlink(place.path(), folder.path().join("partition-0000")).unwrap();
        assert!(folder.child("partition-0000").is_err());
        nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(folder.read(OsStr::new("pipe"), 100).is_err());
        assert!(read_file(&folder.path().join("pipe"), 100).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(read_file(&victim, 7).is_err());
        assert_eq!(read_file(&victim, 8).unwrap(), b"precious");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 4);
    }

    #[test]
    fn made_and_tightened() {
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let path = place.path().join("above").join("mail");
        let folder = Folder::make(&path, None).unwrap();
        assert_eq!((mode(&path), folder.tighten().unwrap()), (0o700, None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Folder::open(&path).unwrap().tighten().unwrap(), Some(0o755));
        assert_eq!(mode(&path), 0o700);
        let lock = path.join("lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o666)).unwrap();
        folder.lock_file(OsStr::new("lock"), None).unwrap();
        assert_eq!(mode(&lock), 0o600);
        folder.replace(OsStr::new("key"), b"secret", None).unwrap();
        assert_eq!(mode(&path.join("key")), 0o600);
    }

    /// Needs two users, and therefore root.
    #[test]
    fn root_is_not_led_astray() {
        if !privilege::is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (victim, theirs) = (place.path().join("victim"), place.path().join("theirs"));
        fs::create_dir(&victim).unwrap();
        fs::create_dir(&theirs).unwrap();
        symlink(&victim, theirs.join("mail")).unwrap();
        symlink(&theirs, place.path().join("ours")).unwrap();
        chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
        // A link made by root is followed; a missing one is not created.
        assert_eq!(Folder::open(&place.path().join("ours")).unwrap().owner().uid.as_raw(), NOBODY);
        assert!(Folder::open(&theirs.join("mail")).is_err());
        assert!(Folder::make(&theirs.join("mail"), None).is_err());
        // Root does not give away what it finds there: it may be a folder that was moved.
        let moved = theirs.join("moved");
        fs::create_dir(&moved).unwrap();
        let nobody = Owner { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY) };
        assert!(Folder::open(&moved).unwrap().give(nobody).is_err());
        assert!(Folder::open(&moved).unwrap().act(|| ()).is_err());
        let mut kept = Folder::open(&victim).unwrap();
        kept.give(nobody).unwrap();
        assert_eq!(fs::metadata(&victim).unwrap().uid(), NOBODY);
    }
}
