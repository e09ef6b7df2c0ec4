//! What the system enforces of a job, by trying.

use estop_watchdog::JobObjectManager;
use estop_watchdog::job::{CPU_WEIGHT_DEFAULT, Containment, Enforced, JobSpec, Limits, Program};
use estop_watchdog::ladder::Thresholds;

use super::Check;
use crate::platform::host;
use crate::site::Site;

/// A limit as it is tried, and whether the kernel enforces it.
struct Trial {
    name: &'static str,
    limits: Limits,
    enforced: fn(Enforced) -> bool,
}

/// Makes an empty job with each limit, which says whether the kernel enforces it, and takes it away again.
pub(super) fn limits(site: &Site) -> Vec<Check> {
    let none = Limits::default();
    let bytes = Some(1 << 30);
    let trial = |name, limits, enforced| Trial { name, limits, enforced };
    let trials = [
        trial("memory", Limits { memory_max: bytes, ..none }, |enforced| enforced.memory),
        trial("pids", Limits { pids_max: Some(16), ..none }, |enforced| enforced.pids),
        trial("cpu", Limits { cpu_max: Some(1.0), ..none }, |enforced| enforced.cpu),
        trial("process-memory", Limits { process_memory_max: bytes, ..none }, |enforced| enforced.process_memory),
        trial("cpu-weight", Limits { cpu_weight: Some(CPU_WEIGHT_DEFAULT), ..none }, |enforced| enforced.cpu_weight),
        trial("io", Limits { io_max: bytes, ..none }, |enforced| enforced.io),
    ];
    trials.iter().map(|trial| check(site, trial)).collect()
}

fn check(site: &Site, Trial { name, limits, enforced }: &Trial) -> Check {
    let shown = format!("{name}-limit");
    let job = match JobObjectManager::create(spec(site, *limits), Thresholds::default()) {
        Ok(job) => job,
        Err(estop_watchdog::Error::Unenforceable { reason, .. }) => {
            return Check::lacking(shown, "not to be had: a workload that asks for it is refused", reason);
        }
        Err(error) => return Check::broken(shown, error.to_string(), "see the checks above"),
    };
    let enforced = enforced(job.job().enforced());
    job.release();
    if enforced {
        return Check::ok(shown, "enforced by the kernel");
    }
    let watched = "watched by the guardian, which stops the job when it is passed";
    // The others no kernel here enforces, whatever is done about it.
    if matches!(*name, "memory" | "pids" | "cpu") {
        return Check::lacking(shown, watched, host::how_to_enforce(name));
    }
    Check::ok(shown, watched)
}

fn spec(site: &Site, limits: Limits) -> JobSpec {
    JobSpec {
        name: "doctor".to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
        instance: site.instance(),
        program: Program::default(),
        limits,
        together: None,
        containment: Containment::default(),
        output_counted: false,
        secrets_dir: None,
    }
}
