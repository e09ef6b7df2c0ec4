//! What this host offers for containment.

use std::path::PathBuf;

use super::spawn::Namespaces;
use super::{cgroup, cover, refuse, spawn};
use crate::job::{Containment, Tier};

/// What this host offers, and why it does not offer more.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where cgroups for jobs can be made.
    pub cgroup_root: Result<PathBuf, String>,
    /// Whether PID and mount namespaces can be had.
    pub namespaces: Result<(), String>,
    /// The kernel's Landlock version; 0 if there is none.
    pub landlock: i32,
    /// Whether the kernel refuses system calls by seccomp, and whether those that rank a process are known here.
    pub seccomp: (bool, bool),
    /// Whether estop runs as root.
    pub root: bool,
}

impl Host {
    /// The version of Landlock that keeps a job from signalling processes outside.
    pub const LANDLOCK_WITH_SIGNALS: i32 = 6;

    /// Looks, by trying: what is configured and what is allowed are two things.
    pub fn probe() -> Self {
        let root = rustix::process::geteuid().is_root();
        let namespaces = spawn::probe(Namespaces { pid: true, mount: true, user: !root })
            .map_err(|error| format!("the kernel refuses new namespaces, or mounts in them: {error}"));
        let (landlock, seccomp) = (cover::landlock_version(), refuse::offered());
        Self { cgroup_root: cgroup::root(), namespaces, landlock, seccomp, root }
    }

    /// Whether namespaces need a user namespace around them.
    pub fn needs_user_namespace(&self) -> bool {
        !self.root
    }

    /// The strongest tier.
    pub fn tier(&self) -> Tier {
        match (&self.cgroup_root, &self.namespaces) {
            (Ok(_), _) => Tier::Kernel,
            (Err(_), Ok(())) => Tier::Namespace,
            _ => Tier::Tracked,
        }
    }

    /// Why a job with `containment` does not reach `tier`.
    pub(super) fn why_not(&self, tier: Tier, containment: &Containment) -> String {
        if tier == Tier::Kernel && !containment.cgroup || tier == Tier::Namespace && !containment.pid_namespace {
            return "it was switched off".to_owned();
        }
        let reason = match tier {
            Tier::Kernel => self.cgroup_root.as_ref().err().cloned(),
            _ => self.namespaces.as_ref().err().cloned(),
        };
        reason.unwrap_or_else(|| "it is not offered here".to_owned())
    }
}
