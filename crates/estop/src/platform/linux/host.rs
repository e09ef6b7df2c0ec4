//! What the host offers for containing, limiting and watching a job.

use std::path::Path;

use estop_watchdog::job::Tier;
use estop_watchdog::job::linux::Host;

use super::programs::find_program;
use super::scope;
use crate::commands::doctor::Check;
use crate::site::Site;

/// The tier that jobs here are of, and what it and their limits depend on; `limits` is what a job showed.
pub(crate) fn checks(site: &Site, limits: Vec<Check>) -> (Tier, Vec<Check>) {
    let host = Host::probe();
    let tier = host.tier();
    let mut checks = vec![
        kernel(),
        tier_check(&host, site),
        cgroup(&host),
        namespaces(&host),
        user_namespaces(),
        landlock(&host),
        seccomp(&host),
    ];
    checks.extend(limits);
    checks.push(pressure());
    checks.push(systemd());
    if let Ok(root) = &host.cgroup_root {
        // The look made it, if it was not there. The kernel refuses where there are jobs below.
        let _ = std::fs::remove_dir(root);
    }
    (tier, checks)
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Check::ok("kernel", format!("Linux {}", release.trim()))
}

fn tier_check(host: &Host, site: &Site) -> Check {
    let tier = host.tier();
    let wanting: Vec<&str> = site
        .config
        .workloads
        .iter()
        .filter(|(_, workload)| workload.require_tier.is_some_and(|required| tier < required))
        .map(|(name, _)| name.as_str())
        .collect();
    let way_up = if host.root {
        "mount a cgroup v2: `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    } else {
        "have a cgroup delegated: `systemd-run --user --scope -p Delegate=yes estop …`, or run estop as root"
    };
    if !wanting.is_empty() {
        return Check::broken("tier", format!("{tier}, which is less than {} require", wanting.join(", ")), way_up);
    }
    match tier {
        Tier::Kernel => Check::ok("tier", "kernel: the kernel ends a job's whole tree"),
        Tier::Namespace => Check::lacking("tier", "namespace: a job ends with the init of its PID namespace", way_up),
        Tier::Tracked => Check::lacking("tier", "tracked: jobs are followed by lineage, at best effort", way_up),
    }
}

fn cgroup(host: &Host) -> Check {
    match &host.cgroup_root {
        Ok(root) => Check::ok("cgroup", format!("jobs get theirs below {}", root.display())),
        Err(why) => Check::lacking("cgroup", why.clone(), "see `tier`"),
    }
}

fn namespaces(host: &Host) -> Check {
    match &host.namespaces {
        Ok(()) if host.root => Check::ok("namespaces", "PID and mount namespaces"),
        Ok(()) => Check::ok("namespaces", "PID and mount namespaces, through a user namespace"),
        Err(why) => Check::lacking(
            "namespaces",
            format!(
                "{why}: a job does not end with its guardian, and a workload under estop's own user sees estop's state"
            ),
            "run estop as root, or allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1`, or what the distribution has instead",
        ),
    }
}

fn user_namespaces() -> Check {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match most {
        Some(0) => Check::lacking("user-namespaces", "switched off", "`sysctl user.max_user_namespaces=10000`"),
        Some(most) => Check::ok("user-namespaces", format!("up to {most}")),
        None => Check::lacking("user-namespaces", "the kernel has none", "only root can have namespaces here"),
    }
}

fn landlock(host: &Host) -> Check {
    match host.landlock {
        0 => Check::lacking(
            "landlock",
            "the kernel has none",
            "boot with `lsm=landlock,…`: it keeps a job from leaving its cgroup",
        ),
        version if version < Host::LANDLOCK_WITH_SIGNALS => Check::lacking(
            "landlock",
            format!("version {version}"),
            "Linux 6.12 or later: without a PID namespace nothing else keeps a job of this user from signalling its guardian",
        ),
        version => Check::ok("landlock", format!("version {version}")),
    }
}

fn seccomp(host: &Host) -> Check {
    match host.seccomp {
        (false, _) => Check::lacking(
            "seccomp",
            "the kernel has none",
            "a kernel with CONFIG_SECCOMP_FILTER: without it a job of this user can start processes outside its cgroup",
        ),
        (true, false) => Check::lacking(
            "seccomp",
            "the calls of this processor are not known",
            "without a PID namespace a job of this user can change its guardian's priority",
        ),
        (true, true) => Check::ok("seccomp", "filters"),
    }
}

/// Lets the kernel limit the jobs of an ordinary user, where its service manager has delegated a cgroup.
pub(crate) fn make_room_for_jobs() {
    if estop_watchdog::job::linux::step_aside() && std::env::var_os("NOTIFY_SOCKET").is_some() {
        // The kernel lets nobody into a group that hands controllers on, and there systemd starts a service.
        tracing::warn!(
            "systemd cannot start this unit again while workloads run: have `DelegateSubgroup=estop-self` in it (systemd 254)"
        );
    }
}

/// How the limit called `name` would be enforced by the kernel.
pub(crate) fn how_to_enforce(name: &str) -> String {
    format!("have the controller `{name}` delegated, or run estop as root")
}

/// Where guardians of a service stand, and so what reaches them.
fn systemd() -> Check {
    if !scope::is_init() {
        return Check::ok("systemd", "is not this host's init; guardians need none to outlive the daemon");
    }
    let path = std::env::var_os("PATH");
    let tool = find_program("systemd-run", Path::new("/"), path.as_deref());
    let why = scope::obstacle().or_else(|| tool.is_err().then_some("there is no systemd-run"));
    match why {
        None => Check::ok("systemd", "the guardians of a service get scopes of their own"),
        Some(why) => Check::lacking(
            "systemd",
            format!("{why}: guardians of a service stay in its cgroup"),
            "have `KillMode=process` in its unit, so that a restart leaves them running; `systemctl kill` ends them",
        ),
    }
}

fn pressure() -> Check {
    if Path::new("/proc/pressure/memory").exists() {
        return Check::ok("pressure", "the kernel tells of pressure (PSI)");
    }
    Check::lacking("pressure", "the kernel does not tell of pressure (PSI); estop samples", "boot with `psi=1`")
}
