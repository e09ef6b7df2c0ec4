//! Other processes.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use estop_watchdog::job::linux::{self, procfs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::output::bytes;
use crate::failure::Result;

/// Clock ticks of a second, as `/proc/PID/stat` counts (`USER_HZ`, the same on every Linux).
const TICKS: f64 = 100.0;

/// Takes all descriptors that there may be. Only for commands that start nothing.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer the stop may not be proven, and says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// From here on no workload of the same user can trace this process or read its memory, secrets and all.
pub(crate) fn forbid_tracing() {
    linux::forbid_tracing();
}

/// From here on what a child of this process leaves behind becomes this process's own.
///
/// # Errors
/// The system's answer.
pub(crate) fn inherit_orphans() -> Result<()> {
    Ok(linux::inherit_orphans()?)
}

/// Ends all that this process has started, and all that they have, for at most `limit`. Whether something is left.
pub(crate) fn end_descendants(limit: Duration) -> bool {
    !linux::end_descendants(limit).is_empty()
}

/// How this process ends that answers a command's own code.
pub(crate) fn end_with(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

/// How many processes have the mark of the job `id` in their environment, by a look of its own.
pub(crate) fn marked(id: &str) -> usize {
    procfs::marked(format!("ESTOP_JOB={id}").as_bytes()).len()
}

/// `program`, to be started in a session of its own, which a kill by process group misses.
pub(crate) fn apart(program: &std::path::Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program).process_group(0);
    command
}

/// The processor time of the process `pid`, which has one thread: to the nanosecond where the kernel keeps that (`schedstat`).
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let exact = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let exact =
        exact.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).filter(|nanoseconds| *nanoseconds > 0);
    #[expect(clippy::cast_precision_loss, reason = "ticks of some seconds")]
    exact.map(Duration::from_nanos).or_else(|| Some(Duration::from_secs_f64(procfs::stat(pid)?.ticks as f64 / TICKS)))
}

/// Memory of a process.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// That nobody else has, in bytes.
    pub(crate) private: f64,
    /// Of what that consists, for a person.
    pub(crate) made_of: String,
}

/// Memory of the process `pid`. Where the kernel shows no details, private is what is resident and not shared.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    let details = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = details.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    if let (Some(written), Some(clean)) = (of("Private_Dirty"), of("Private_Clean")) {
        let shared = of("Shared_Dirty").unwrap_or_default() + of("Shared_Clean").unwrap_or_default();
        let made_of = format!(
            "private: {} written, {} of files that nobody else maps at the moment; {} that it shares with others",
            bytes(written),
            bytes(clean),
            bytes(shared)
        );
        return Some(Memory { private: (written + clean) as f64, made_of });
    }
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: Vec<f64> = statm.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    #[expect(clippy::cast_precision_loss, reason = "the size of a page")]
    let private = (pages.get(1)? - pages.get(2)?) * rustix::param::page_size() as f64;
    Some(Memory { private, made_of: "resident and not shared".to_owned() })
}
