//! Checks the host before any shard starts, because glommio panics with a misleading reason when
//! io_uring is refused, and running out of descriptors would show only under load.
//!
//! Every complaint says what was found and exactly what to set. Called once by `main`.

use std::{fmt, fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Locked memory that glommio needs per executor, besides `ShardOptions::io_memory`.
const LOCKED_MEMORY_PER_SHARD: u64 = 512 * 1024;

/// Descriptors that a shard uses besides connections and the store's files: rings, epoll set,
/// listeners. The process needs as many again: standard streams, control socket, admin page.
const DESCRIPTORS_PER_SHARD: u64 = 64;

/// Resources that the server will ask of the host.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub shards: u16,
    /// As `ShardOptions::io_memory`, bytes.
    pub io_memory: usize,
    /// As `ResourceLimits::connections_max`.
    pub connections_per_shard: usize,
    /// Descriptors reserved for the store: it must be able to write when every connection is in
    /// use.
    pub store_files: u64,
}

impl Demand {
    /// Descriptors that connections must not take.
    fn reserve(self) -> u64 {
        (u64::from(self.shards) + 1) * DESCRIPTORS_PER_SHARD + self.store_files
    }

    fn descriptors(self) -> u64 {
        u64::from(self.shards) * self.connections_per_shard as u64 + self.reserve()
    }

    /// Connections a shard may serve if the process may have `limit` descriptors.
    fn connections_within(self, limit: u64) -> usize {
        let left = limit.saturating_sub(self.reserve()) / u64::from(self.shards.max(1));
        self.connections_per_shard.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

/// Resources that the host grants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// As demanded, or fewer.
    pub connections_per_shard: usize,
    pub warnings: Vec<Complaint>,
}

/// A problem of the host: the server cannot run, or (`warnings`) not as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    pub found: String,
    pub remedy: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found, self.remedy)
    }
}

impl std::error::Error for Complaint {}

/// Checks the host and raises soft limits as far as it may.
pub fn probe(demand: Demand) -> Result<Grant, Complaint> {
    probe_io_uring()?;
    probe_locked_memory(demand)?;
    probe_descriptors(demand)
}

fn complaint(found: impl Into<String>, remedy: impl Into<String>) -> Complaint {
    Complaint { found: found.into(), remedy: remedy.into() }
}

/// Makes and closes a ring.
fn probe_io_uring() -> Result<(), Complaint> {
    // struct io_uring_params: 120 bytes, all zero asks for nothing special.
    let mut params = [0u64; 15];
    // SAFETY: io_uring_setup reads and writes 120 bytes at `params`, which live past the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if ring >= 0 {
        // SAFETY: the kernel has just made this descriptor for us; it has no other user.
        unsafe { libc::close(ring as libc::c_int) };
        return Ok(());
    }
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|value| value.trim().parse().ok());
    Err(explain_io_uring(&io::Error::last_os_error(), disabled))
}

/// Explains why io_uring was refused. `disabled` is sysctl kernel.io_uring_disabled.
fn explain_io_uring(error: &io::Error, disabled: Option<u8>) -> Complaint {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(2)) => complaint(
            "io_uring is switched off on this host (kernel.io_uring_disabled = 2)",
            "run `sysctl -w kernel.io_uring_disabled=0` as root and keep it in /etc/sysctl.d/",
        ),
        (Some(libc::EPERM), Some(1)) => complaint(
            "io_uring is reserved to privileged processes (kernel.io_uring_disabled = 1)",
            "run `sysctl -w kernel.io_uring_disabled=0` as root, or set \
             kernel.io_uring_group to the server's group",
        ),
        (Some(libc::EPERM), _) => complaint(
            "io_uring is forbidden to this process, most likely by a container's seccomp filter",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the profile \
             (docker or podman: --security-opt seccomp=PROFILE.json, or =unconfined to try)",
        ),
        (Some(libc::ENOSYS), _) => complaint(
            "this kernel has no io_uring (or a seccomp filter hides it)",
            "use Linux 5.8 or later with CONFIG_IO_URING=y; in a container, allow the \
             io_uring system calls in its seccomp profile",
        ),
        (Some(libc::ENOMEM), _) => complaint(
            "io_uring could not get locked memory",
            "raise the limit on locked memory: LimitMEMLOCK=infinity in the systemd unit, \
             `ulimit -l unlimited` in a shell, --ulimit memlock=-1 for a container",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => complaint(
            "no file descriptor is left for io_uring",
            "raise the limit: LimitNOFILE=1048576 in the systemd unit, `ulimit -n 1048576` \
             in a shell",
        ),
        _ => complaint(
            format!("io_uring_setup failed: {error}"),
            "Ringmail needs io_uring; see io_uring_setup(2) for this error",
        ),
    }
}

fn probe_locked_memory(demand: Demand) -> Result<(), Complaint> {
    // Root is exempt from the limit (CAP_IPC_LOCK), but privileges are dropped later.
    let needed = u64::from(demand.shards) * (LOCKED_MEMORY_PER_SHARD + demand.io_memory as u64);
    let (soft, hard) = limit(Resource::RLIMIT_MEMLOCK)?;
    if soft >= needed {
        return Ok(());
    }
    let raised = hard.max(needed);
    if setrlimit(Resource::RLIMIT_MEMLOCK, needed.min(raised), raised).is_ok() {
        return Ok(());
    }
    if hard >= needed && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok() {
        return Ok(());
    }
    Err(explain_locked_memory(demand.shards, needed, hard))
}

fn explain_locked_memory(shards: u16, needed: u64, hard: u64) -> Complaint {
    let kib = needed.div_ceil(1024);
    complaint(
        format!(
            "{shards} shards need {kib} KiB of locked memory, but the limit is {} KiB",
            hard / 1024
        ),
        format!(
            "set LimitMEMLOCK={kib}K (or infinity) in the systemd unit, `ulimit -l {kib}` in a \
             shell, --ulimit memlock={} for a container, or use fewer shards",
            kib * 1024
        ),
    )
}

/// Whether connections can be made from this address. Also of loopback addresses that
/// [`addresses`] does not list.
pub fn may_connect_from(address: std::net::IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// The addresses of the host's network interfaces; none if the system does not tell them.
pub fn addresses() -> Vec<std::net::IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |it: nix::ifaddrs::InterfaceAddress| {
        let address = it.address?;
        let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
    };
    interfaces.filter_map(address).collect()
}

/// Keys and passwords are in memory and must not end up in a core file. RLIMIT_CORE is 0; a handler
/// that `core_pattern` pipes to need not obey that, so its filter leaves out all memory too.
/// PR_SET_DUMPABLE is not used: it gives /proc/PID to root, and monitors running as our own user
/// read there. Called before privileges are dropped: afterwards the kernel may have done so.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    match fs::write("/proc/self/coredump_filter", "0") {
        // Only kernels built without core dumps have no filter.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Raises the soft limit on descriptors to what is needed, as far as the hard limit goes, and
/// grants as many connections as then fit: further ones could only fail, and the store's next file
/// with them.
fn probe_descriptors(demand: Demand) -> Result<Grant, Complaint> {
    let wanted = demand.descriptors();
    let (soft, hard) = limit(Resource::RLIMIT_NOFILE)?;
    let mut reached = soft;
    // Root may raise the hard limit as well.
    for (new_soft, new_hard) in [(wanted, hard.max(wanted)), (wanted.min(hard), hard)] {
        if reached < wanted && setrlimit(Resource::RLIMIT_NOFILE, new_soft, new_hard).is_ok() {
            reached = new_soft;
        }
    }
    grant_descriptors(demand, reached)
}

fn grant_descriptors(demand: Demand, reached: u64) -> Result<Grant, Complaint> {
    let connections_per_shard = demand.connections_within(reached);
    let fault = explain_descriptors(demand, reached);
    match fault {
        Some(fault) if connections_per_shard == 0 => Err(fault),
        fault => Ok(Grant { connections_per_shard, warnings: fault.into_iter().collect() }),
    }
}

fn explain_descriptors(demand: Demand, reached: u64) -> Option<Complaint> {
    let wanted = demand.descriptors();
    (reached < wanted).then(|| {
        complaint(
            format!(
                "{} shards with {} connections each need {wanted} file descriptors, but the limit \
                 is {reached}: after a reserve of {} for the store and other uses, {} connections \
                 a shard are served",
                demand.shards,
                demand.connections_per_shard,
                demand.reserve(),
                demand.connections_within(reached)
            ),
            format!(
                "set LimitNOFILE={wanted} in the systemd unit, `ulimit -n {wanted}` in a shell, \
                 --ulimit nofile={wanted} for a container, or configure fewer connections"
            ),
        )
    })
}

fn limit(resource: Resource) -> Result<(u64, u64), Complaint> {
    getrlimit(resource).map_err(|error| {
        complaint(format!("cannot read resource limits: {error}"), "see getrlimit(2)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_io_uring_names_its_cause_and_remedy() {
        const CASES: &[(i32, Option<u8>, &str, &str)] = &[
            (libc::EPERM, Some(2), "io_uring_disabled = 2", "sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, Some(1), "io_uring_disabled = 1", "kernel.io_uring_group"),
            (libc::EPERM, Some(0), "seccomp", "io_uring_setup"),
            (libc::EPERM, None, "seccomp", "--security-opt"),
            (libc::ENOSYS, None, "no io_uring", "5.8"),
            (libc::ENOMEM, None, "locked memory", "LimitMEMLOCK"),
            (libc::EMFILE, None, "descriptor", "LimitNOFILE"),
            (libc::EINVAL, None, "Invalid argument", "io_uring_setup(2)"),
        ];
        for &(errno, disabled, found, remedy) in CASES {
            let complaint = explain_io_uring(&io::Error::from_raw_os_error(errno), disabled);
            assert!(complaint.found.contains(found), "{complaint}");
            assert!(complaint.remedy.contains(remedy), "{complaint}");
        }
    }

    fn demand(shards: u16, connections_per_shard: usize) -> Demand {
        Demand { shards, io_memory: 1 << 16, connections_per_shard, store_files: 100 }
    }

    #[test]
    fn this_host_passes_a_small_demand() {
        let granted = Grant { connections_per_shard: 16, warnings: Vec::new() };
        assert_eq!(probe(demand(1, 16)), Ok(granted));
    }

    #[test]
    fn connections_take_what_the_store_leaves() {
        // (limit, connections granted to each of two shards that want 1,000, whether there is a
        // warning)
        const CASES: &[(u64, Option<usize>, bool)] = &[
            (2_292, Some(1_000), false),
            (1_048_576, Some(1_000), false),
            (2_291, Some(999), true),
            (1_024, Some(366), true),
            (294, Some(1), true),
            (292, None, true),
            (0, None, true),
        ];
        for &(limit, connections, told) in CASES {
            match (grant_descriptors(demand(2, 1_000), limit), connections) {
                (Ok(granted), Some(connections)) => {
                    assert_eq!(granted.connections_per_shard, connections, "{limit}");
                    assert_eq!(!granted.warnings.is_empty(), told, "{limit}");
                }
                (Err(_), None) => {}
                (found, _) => panic!("{limit}: {found:?}"),
            }
        }
    }

    #[test]
    fn limits_are_told_with_the_numbers_to_set() {
        assert_eq!(explain_descriptors(demand(4, 1000), 5000), None);
        let text = explain_descriptors(demand(4, 1000), 1024).unwrap().to_string();
        for part in ["LimitNOFILE=4420", "limit is 1024", "reserve of 420", "151 connections"] {
            assert!(text.contains(part), "{text}");
        }
        let text = explain_locked_memory(4, 6 << 20, 64 << 10).to_string();
        assert!(text.contains("LimitMEMLOCK=6144K") && text.contains("64 KiB"), "{text}");
    }
}
