//! What a sample reads of a job, and what can be read on this host.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use super::procfs::{self, Stat};
use super::{Cgroup, LinuxJob};
use crate::job::ProcessId;
use crate::ladder::{Metric, Steps, Thresholds};
use crate::monitor::{Host, PRESSURES, Reading};

/// The share of one core that walks through `/proc` may cost for samples.
const WALKING_SHARE: f64 = 0.005;
/// How often pressures are read that nothing asks for.
const PRESSURE_EVERY: Duration = Duration::from_secs(1);
const PRESSURE_OF_HOST: &str = "only a kernel with pressure stall information (`psi=1`) counts it";
const PRESSURE: &str = "only a cgroup v2 counts it, of a kernel with pressure stall information (`psi=1`)";

impl LinuxJob {
    /// Reads what there is; what is dear only where one of `thresholds` is on it.
    pub(super) fn sample(&mut self, thresholds: &Thresholds) -> Reading {
        let mut reading = match self.cgroup {
            Some(_) => self.read_group(thresholds),
            None => self.read_processes(thresholds),
        };
        reading.tripped = self.triggers.take();
        let asked = PRESSURES.map(|metric| !thresholds.of(metric).is_empty());
        let [cpu, memory, io, of_host @ ..] = asked;
        // What nobody asks for is kept for the history.
        let due = self.pressed.is_none_or(|at| at.elapsed() >= PRESSURE_EVERY);
        self.pressed = if due { Some(Instant::now()) } else { self.pressed };
        reading.pressure =
            self.cgroup.as_ref().map(|cgroup| cgroup.pressure().read([cpu, memory || due, io])).unwrap_or_default();
        reading.host = Host {
            memory: (!thresholds.host_memory.is_empty()).then(procfs::memory_in_use).flatten(),
            pressure: self.host.read(of_host),
        };
        reading
    }

    /// The members for a sample. A walk through `/proc` costs as much as the host has processes, so it is made as often as it
    /// may cost; in between, those that are known are looked at.
    fn sampled(&mut self) -> Vec<Stat> {
        let due = self.walked.is_none_or(|(at, cost)| at.elapsed() >= cost.div_f64(WALKING_SHARE));
        if due {
            let before = Instant::now();
            let members = self.descendants();
            self.walked = Some((Instant::now(), before.elapsed()));
            self.known = members.iter().map(|stat| stat.id).collect();
            return members;
        }
        let alive = |id: &ProcessId| procfs::stat(id.pid).filter(|stat| stat.id == *id && !stat.is_dead());
        self.known.iter().filter_map(alive).collect()
    }

    /// Reads what the cgroup counts, and what it does not by its members.
    fn read_group(&mut self, thresholds: &Thresholds) -> Reading {
        let Some(cgroup) = &mut self.cgroup else { return Reading::default() };
        let mut reading = cgroup.read(thresholds);
        let enforced = cgroup.enforced();
        if !enforced.pids {
            // The job's init is ours, not the workload's.
            reading.pids = (cgroup.processes().len() as u64).saturating_sub(self.namespaces.pid.into());
        }
        // One look at them for all that is not counted by the group.
        let looked = OnceCell::new();
        let members = || looked.get_or_init(|| self.members());
        if !enforced.memory {
            reading.memory_bytes = memory_of(members(), self.limits.memory_max);
        }
        let process_steps = &thresholds.process_memory;
        if !process_steps.is_empty() {
            reading.process_memory_bytes = largest_of(members(), process_steps);
        }
        if !thresholds.open_files.is_empty() {
            reading.open_files = Some(open_files_of(members()));
        }
        reading
    }

    /// Reads what its processes have.
    fn read_processes(&mut self, thresholds: &Thresholds) -> Reading {
        let members = self.sampled();
        let init = self.child.as_ref().filter(|_| self.namespaces.pid).and_then(|child| procfs::stat(child.id.pid));
        let own = if init.is_none() { procfs::stat(std::process::id()) } else { None };
        let ticks: u64 = members.iter().chain(&init).chain(&own).map(|stat| stat.ticks).sum();
        // A process whose parent does not wait for it takes its time with it: what was seen stays counted.
        self.cpu = self.cpu.max(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()));
        Reading {
            cpu: self.cpu,
            memory_bytes: memory_of(&members, self.limits.memory_max),
            process_memory_bytes: largest_of(&members, &thresholds.process_memory),
            open_files: (!thresholds.open_files.is_empty()).then(|| open_files_of(&members)),
            pids: members.len() as u64,
            ..Reading::default()
        }
    }

    /// What one of `thresholds` is on and cannot be observed here, and why.
    pub(super) fn unobservable(&self, thresholds: &Thresholds) -> Option<(&'static str, &'static str)> {
        let told = self.cgroup.as_ref().map(Cgroup::counts).unwrap_or_default();
        let tells = |place| self.cgroup.as_ref().is_some_and(|cgroup| cgroup.pressure().tells(place));
        let watched = |metric: &Metric| !thresholds.of(*metric).is_empty();
        Metric::ALL.into_iter().filter(watched).find_map(|metric| {
            let (observed, reason) = match metric {
                Metric::Io => (
                    told.io,
                    "only the cgroup v2 controller `io` counts it; run estop as root where the hierarchy is v2 alone, or have it delegated",
                ),
                Metric::Swap => (told.swap, "only the cgroup controller `memory` counts it"),
                Metric::CpuThrottled => (told.throttled, "only the cgroup controller `cpu` counts it"),
                Metric::CpuPressure => (tells(0), PRESSURE),
                Metric::MemoryPressure => (tells(1), PRESSURE),
                Metric::IoPressure => (tells(2), PRESSURE),
                Metric::HostCpuPressure => (self.host.tells(0), PRESSURE_OF_HOST),
                Metric::HostMemoryPressure => (self.host.tells(1), PRESSURE_OF_HOST),
                Metric::HostIoPressure => (self.host.tells(2), PRESSURE_OF_HOST),
                _ => (true, ""),
            };
            (!observed).then(|| (limit_of(metric), reason))
        })
    }
}

/// What cannot be enforced where `metric` cannot be observed.
fn limit_of(metric: Metric) -> &'static str {
    if metric == Metric::Io { "io_max" } else { metric.key() }
}

/// How many descriptors `members` have open, as far as they let themselves be looked at.
fn open_files_of(members: &[Stat]) -> u64 {
    members.iter().map(|stat| procfs::open_files(stat.id.pid).unwrap_or(0)).sum()
}

/// Memory of the largest of `members` in bytes. Resident memory counts pages of files too, so it can only be too high: the
/// exact figure, which costs more, is read where it would reach one of `steps`.
fn largest_of(members: &[Stat], steps: &Steps) -> u64 {
    let page = rustix::param::page_size() as u64;
    #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 bytes is enough")]
    let matters = |resident: u64| steps.next_above(0.0).is_some_and(|lowest| resident as f64 >= lowest);
    let memory = |stat: &Stat| match stat.resident * page {
        resident if matters(resident) => procfs::undroppable_memory(stat.id.pid).unwrap_or(resident),
        resident => resident,
    };
    members.iter().map(memory).max().unwrap_or(0)
}

/// Memory of `members` in bytes. Resident memory counts shared pages once for each process, so it can only be too high: the
/// exact figure, which costs more, is read where it matters.
fn memory_of(members: &[Stat], limit: Option<u64>) -> u64 {
    let resident: u64 = members.iter().map(|stat| stat.resident).sum::<u64>() * rustix::param::page_size() as u64;
    if limit.is_none_or(|limit| resident < limit / 2) {
        return resident;
    }
    members.iter().filter_map(|stat| procfs::proportional_memory(stat.id.pid)).sum()
}
