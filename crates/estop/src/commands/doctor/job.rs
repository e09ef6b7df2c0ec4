//! What the system enforces of a job, by trying.

use estop_watchdog::JobObjectManager;
use estop_watchdog::job::{Containment, Enforced, JobSpec, Limits, Program};
use estop_watchdog::ladder::Thresholds;

use super::Check;
use crate::platform::host;
use crate::site::Site;

/// Makes an empty job with all limits, which says what the kernel enforces, and takes it away again.
pub(super) fn limits(site: &Site) -> Vec<Check> {
    let spec = JobSpec {
        name: "doctor".to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
        instance: site.instance(),
        program: Program {
            argv: Vec::new(),
            environment: Vec::new(),
            directory: None,
            user: None,
            process_group: None,
            ignored_signals: Vec::new(),
            oom_score: None,
        },
        limits: Limits { memory_max: Some(1 << 30), cpu_max: Some(1.0), pids_max: Some(16), time_max: None },
        containment: Containment::default(),
        secrets_dir: None,
    };
    let job = match JobObjectManager::create(spec, Thresholds::default()) {
        Ok(job) => job,
        Err(error) => return vec![Check::broken("job", error.to_string(), "see the checks above")],
    };
    let Enforced { memory, cpu, pids } = job.job().enforced();
    job.release();
    let check = |name: &str, enforced: bool| {
        if enforced {
            return Check::ok(format!("{name}-limit"), "enforced by the kernel");
        }
        let watched = "watched by the guardian, which stops the job when it is passed";
        Check::lacking(format!("{name}-limit"), watched, host::how_to_enforce(name))
    };
    vec![check("memory", memory), check("pids", pids), check("cpu", cpu)]
}
