//! Who is alive, found without estop: by the file that a process runs and by what stands in its environment. Every animal runs from
//! a folder of its keeper's own; what a process maps of its file, it cannot hide.

use std::path::Path;

/// One that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) state: char,
    pub(crate) command: String,
}

/// All that runs a file below `dir`, or has `marker` in its environment. What has ended, and waits to be reaped, runs nothing.
pub(crate) fn alive(dir: &Path, marker: &str) -> Vec<Seen> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && is_one(*pid, dir, marker)).filter_map(look).collect()
}

fn is_one(pid: u32, dir: &Path, marker: &str) -> bool {
    let executable = std::fs::read_link(format!("/proc/{pid}/exe"));
    if executable.is_ok_and(|path| path.starts_with(dir)) {
        return true;
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.windows(marker.len()).any(|part| part == marker.as_bytes())
}

/// `None` if it has ended.
fn look(pid: u32) -> Option<Seen> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(") ")?;
    let (state, command) = (tail.chars().next()?, head.split_once('(')?.1.to_owned());
    (!matches!(state, 'Z' | 'X')).then_some(Seen { pid, state, command })
}

/// Ends what was left behind, so that a failed test leaves nothing.
pub(crate) fn end(seen: &[Seen]) {
    for one in seen {
        let Some(pid) = rustix::process::Pid::from_raw(one.pid.cast_signed()) else { continue };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
