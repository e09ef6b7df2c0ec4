//! What is taken from a workload for the sake of its guard, and what it can reach all the same. Each line is attacked by the
//! program's own tests; `docs/isolation.md` has the table.

use super::cover;
use super::host::Host;
use super::procfs;
use super::refuse::Refusals;
use super::spawn::Namespaces;
use crate::job::spec::JobSpec;
use crate::job::{Isolation, Reach};

/// What is taken from a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confinement {
    isolation: Isolation,
    /// Whether the workload names processes by other numbers than estop does, if it can name them at all.
    own_pids: bool,
    landlock: Option<Landlock>,
    refusals: Refusals,
    /// Whether estop's user may write to cgroups, its guardian's among them.
    writes_cgroups: bool,
}

/// How much Landlock takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Landlock {
    /// Writing below `/sys`, mounting and unmounting.
    writing: bool,
    /// Signals to processes outside.
    signals: bool,
}

impl Confinement {
    /// What the workload of `spec` is to do without on this host, in a cgroup, or in a PID namespace of its own.
    pub(super) fn of(spec: &JobSpec, host: &Host, in_cgroup: bool, own_pids: bool) -> Self {
        let isolation = super::isolation(spec.program.user.as_ref());
        let separate = isolation == Isolation::SeparateUid;
        let writes_cgroups = !separate && (host.root || host.cgroup_root.is_ok());
        // Another user, who cannot even name its guardian, is kept from everything by that.
        let wanted = spec.containment.landlock && !(separate && own_pids);
        let signals = host.landlock >= Host::LANDLOCK_WITH_SIGNALS;
        // What takes mounts away is left out where nothing could be gained by writing.
        let writing = in_cgroup || writes_cgroups || !own_pids;
        let landlock = Landlock { writing, signals };
        let landlock = (wanted && host.landlock > 0 && (writing || signals)).then_some(landlock);
        // An ordinary user's filter takes new privileges away, as Landlock does.
        let refusing = wanted && !separate && (!spec.containment.new_privileges || host.root || landlock.is_some());
        let (refuses, ranks) = host.seccomp;
        let refusals = Refusals {
            leaving: refusing && refuses && in_cgroup,
            ranking: (refusing && ranks && !own_pids).then(std::process::id),
        };
        Self { isolation, own_pids, landlock, refusals, writes_cgroups }
    }

    /// Takes it from this process and its children, for ever.
    ///
    /// # Errors
    /// What could not be applied, and why.
    pub(super) fn apply(self) -> Result<(), String> {
        if let Some(landlock) = self.landlock {
            cover::keep_in(landlock.writing, landlock.signals)
                .map_err(|detail| format!("Landlock could not be applied: {detail}"))?;
        }
        self.refusals.apply().map_err(|error| format!("seccomp could not be applied: {error}"))
    }

    /// What is taken from its further commands: those may be there to signal it, and what is in a domain of its own cannot. In a
    /// PID namespace they can name nobody else.
    pub(super) fn of_commands(self) -> Self {
        let landlock =
            self.landlock.map(|landlock| Landlock { signals: landlock.signals && !self.own_pids, ..landlock });
        Self { landlock: landlock.filter(|landlock| landlock.writing || landlock.signals), ..self }
    }

    pub(super) fn is_of_another_user(self) -> bool {
        self.isolation == Isolation::SeparateUid
    }

    fn keeps_from_writing(self) -> bool {
        self.landlock.is_some_and(|landlock| landlock.writing)
    }

    /// Whether nothing of it can get into another cgroup.
    pub(super) fn keeps_in_cgroup(self) -> bool {
        self.is_of_another_user()
            || self.keeps_from_writing() && self.refusals.leaving && procfs::cgroups_lie_below_sys()
    }

    /// What it can reach all the same, in a cgroup and in `namespaces`.
    pub(super) fn reachable(self, in_cgroup: bool, namespaces: Namespaces) -> Vec<Reach> {
        if self.is_of_another_user() {
            return Vec::new();
        }
        let root = self.isolation == Isolation::Root;
        let scoped = self.landlock.is_some_and(|landlock| landlock.signals);
        let reach = |reach: Reach, possible: bool| possible.then_some(reach);
        let all = [
            // Whoever can freeze or kill the cgroup of its guardian needs no signal.
            reach(Reach::Signal, !self.own_pids && !scoped || self.writes_cgroups && !self.keeps_from_writing()),
            // Of the same user nobody traces what does not let itself be dumped; that does not hold root.
            reach(Reach::Ptrace, root && self.landlock.is_none()),
            reach(Reach::Renice, !self.own_pids && self.refusals.ranking.is_none()),
            reach(Reach::OomScore, root && !self.own_pids),
            reach(Reach::LeaveCgroup, in_cgroup && !self.keeps_in_cgroup()),
            // What is mounted in a user namespace only its maker unmounts, and the workload is not.
            reach(Reach::State, !namespaces.mount || root && !self.keeps_from_writing()),
        ];
        all.into_iter().flatten().collect()
    }
}
