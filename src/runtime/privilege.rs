//! Dropping root permanently, after the low ports are bound and before the shards start.
//!
//! Must run while the process has one thread: the kernel keeps credentials per thread, and although
//! libc changes all threads' user ids, threads of glommio or tokio must never run as root.

use std::{io, path::PathBuf};

use nix::unistd::{
    Gid, Group, Uid, User, getgroups, setegid, seteuid, setgid, setgroups, setresgid, setresuid,
    setuid,
};

/// The owner of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub uid: Uid,
    pub gid: Gid,
}

/// Why privileges could not be dropped. The server must not go on as root then. Causes are part of
/// the text, so they are not `source` too: anyhow would say them twice.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("no user {0:?} on this system")]
    NoUser(String),
    #[error("no group {0:?} on this system")]
    NoGroup(String),
    #[error("user {0:?} is root: choose one without privileges")]
    IsRoot(String),
    #[error("cannot {action}: {error}")]
    Failed { action: &'static str, error: io::Error },
    #[error("{}: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("privileges could be regained after dropping them; refusing to run")]
    Regained,
}

/// Whether this process may drop privileges, and should.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Switches to `user` (with `group`, or else the user's own group, and no others), irrevocably, for
/// this process and everything that it executes.
pub fn drop_to(user: &str, group: Option<&str>) -> Result<(), PrivilegeError> {
    let owner = identity(user, group)?;
    if owner.uid.is_root() {
        return Err(PrivilegeError::IsRoot(user.to_owned()));
    }
    become_owner(owner)
}

/// As [`drop_to`], to a user known by its ids.
pub fn become_owner(Owner { uid, gid }: Owner) -> Result<(), PrivilegeError> {
    let failed = |action| move |error: nix::Error| failure(action, error);
    // Groups first: once the user is no longer root they cannot be changed.
    setgroups(&[gid]).map_err(failed("set supplementary groups"))?;
    setgid(gid).map_err(failed("set the group"))?;
    setresgid(gid, gid, gid).map_err(failed("set the saved group"))?;
    setuid(uid).map_err(failed("set the user"))?;
    setresuid(uid, uid, uid).map_err(failed("set the saved user"))?;
    forbid_new_privileges()?;
    verify_dropped(uid, gid)
}

/// The ids of `user`, with `group` or else the user's own.
pub fn identity(user: &str, group: Option<&str>) -> Result<Owner, PrivilegeError> {
    let (account, gid) = look_up(user, group)?;
    Ok(Owner { uid: account.uid, gid })
}

/// Runs `work` as `owner`, if we are root and the owner is not: for files that root uses in another
/// user's folder. The real user id stays root, so that the other user can neither signal nor trace
/// us.
pub fn act_as<T>(owner: Owner, work: impl FnOnce() -> T) -> Result<T, PrivilegeError> {
    let failed = |action| move |error: nix::Error| failure(action, error);
    if !is_root() || owner.uid.is_root() {
        return Ok(work());
    }
    let groups = getgroups().map_err(failed("read supplementary groups"))?;
    let _root = BackToRoot { groups, gid: Gid::effective() };
    setgroups(&[owner.gid]).map_err(failed("set supplementary groups"))?;
    setegid(owner.gid).map_err(failed("set the group"))?;
    seteuid(owner.uid).map_err(failed("set the user"))?;
    Ok(work())
}

struct BackToRoot {
    groups: Vec<Gid>,
    gid: Gid,
}

impl Drop for BackToRoot {
    fn drop(&mut self) {
        let back = seteuid(Uid::from_raw(0))
            .and_then(|()| setegid(self.gid))
            .and_then(|()| setgroups(&self.groups));
        // The following code relies on being root again; it must not run with a partial identity.
        if back.is_err() {
            std::process::abort();
        }
    }
}

fn look_up(user: &str, group: Option<&str>) -> Result<(User, Gid), PrivilegeError> {
    let failed = |action| move |error: nix::Error| failure(action, error);
    let account = User::from_name(user)
        .map_err(failed("look up the user"))?
        .ok_or_else(|| PrivilegeError::NoUser(user.to_owned()))?;
    let gid = match group {
        None => account.gid,
        Some(name) => {
            Group::from_name(name)
                .map_err(failed("look up the group"))?
                .ok_or_else(|| PrivilegeError::NoGroup(name.to_owned()))?
                .gid
        }
    };
    Ok((account, gid))
}

/// No later execve gains privileges by set-user-id bits or file capabilities.
pub fn forbid_new_privileges() -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(|error| failure("set no_new_privs", error))
}

/// Verifies by trying to become root again, which must fail.
fn verify_dropped(uid: Uid, gid: Gid) -> Result<(), PrivilegeError> {
    let root = Uid::from_raw(0);
    let regained = setuid(root).is_ok() || setresuid(root, root, root).is_ok();
    let dropped = Uid::current() == uid
        && Uid::effective() == uid
        && Gid::current() == gid
        && Gid::effective() == gid;
    if regained || !dropped { Err(PrivilegeError::Regained) } else { Ok(()) }
}

fn failure(action: &'static str, error: nix::Error) -> PrivilegeError {
    PrivilegeError::Failed { action, error: error.into() }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the child process of `dropping_is_final`.
    const CHILD: &str = "RINGMAIL_TEST_DROP_PRIVILEGES";

    #[test]
    fn unknown_and_privileged_users_are_refused() {
        let error = drop_to("no-such-user-here", None).unwrap_err();
        assert!(matches!(error, PrivilegeError::NoUser(_)), "{error}");
        let error = drop_to("root", None).unwrap_err();
        assert!(matches!(error, PrivilegeError::IsRoot(_)), "{error}");
        let error = drop_to("nobody", Some("no-such-group-here")).unwrap_err();
        assert!(matches!(error, PrivilegeError::NoGroup(_)), "{error}");
    }

    /// Runs this test again in a separate process, since there is no way back. Without root it
    /// checks that dropping fails instead of passing silently.
    #[test]
    fn dropping_is_final() {
        if std::env::var_os(CHILD).is_some() {
            return drop_and_look();
        }
        if !is_root() {
            let error = drop_to("nobody", None).unwrap_err();
            assert!(matches!(error, PrivilegeError::Failed { .. }), "{error}");
            return;
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runtime::privilege::tests::dropping_is_final"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
    }

    fn drop_and_look() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        drop_to("nobody", None).unwrap();
        assert_eq!(Uid::effective(), nobody.uid);
        assert_eq!(nix::unistd::getgroups().unwrap(), [nobody.gid]);
        assert!(nix::unistd::seteuid(Uid::from_raw(0)).is_err());
        assert_eq!(nix::sys::prctl::get_no_new_privs(), Ok(true));
    }
}
