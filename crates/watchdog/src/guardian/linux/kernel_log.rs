//! What the kernel says in its log about a job. See `Documentation/ABI/testing/dev-kmsg` of the Linux sources.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::guardian::evidence::KernelLines;
use crate::job::linux::kmsg;

/// How many lines are kept, the newest, and how much of each.
const LINES: usize = 50;
const LENGTH: usize = 500;
/// How many are looked at: while somebody writes without an end there is one.
const LOOKED_AT: usize = 100_000;
/// The longest record.
const RECORD: usize = 8192;
/// The inode of the first PID namespace, by whose numbers the kernel names processes (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The kernel's log from a moment on. Copies of a guardian share how far it was read: each line is found once.
#[derive(Debug)]
pub(in crate::guardian) struct KernelLog(io::Result<OwnedFd>);

impl KernelLog {
    /// From now on.
    pub(in crate::guardian) fn open() -> Self {
        Self(kmsg::from_now_on())
    }

    /// What it says about the job `id` and the processes `pids` since it was read last. Never waits.
    pub(in crate::guardian) fn about(&self, id: &str, pids: &[u32]) -> KernelLines {
        let mut found = KernelLines::default();
        let log = match &self.0 {
            Ok(log) => log,
            Err(error) => {
                found.incomplete = Some(format!("the kernel's log cannot be read: {error}"));
                return found;
            }
        };
        let names_processes =
            fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own.as_os_str() == FIRST_PID_NAMESPACE);
        let pids: HashSet<u32> = if names_processes { pids.iter().copied().collect() } else { HashSet::new() };
        let mut about = About { id, pids, learn: names_processes };
        let mut record = [0; RECORD];
        for _ in 0..LOOKED_AT {
            let length = match rustix::io::read(log, &mut record) {
                Ok(length @ 1..) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE) => {
                    found.incomplete = Some("the kernel's log was overrun".to_owned());
                    continue;
                }
                _ => return found,
            };
            let text = String::from_utf8_lossy(&record[..length]);
            if let Some(line) = message(&text).filter(|line| about.is_meant(line)) {
                if found.lines.len() == LINES {
                    found.lines.remove(0);
                    found.omitted += 1;
                }
                found.lines.push(line.chars().take(LENGTH).collect());
            }
        }
        found.incomplete = Some("the kernel's log grows faster than it is read".to_owned());
        found
    }
}

/// The text of a record: `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`, and lines with what belongs to it.
fn message(record: &str) -> Option<&str> {
    record.split_once(';')?.1.lines().next()
}

/// What a line has to name.
struct About<'a> {
    /// In the name of the job's cgroup.
    id: &'a str,
    pids: HashSet<u32>,
    /// Whether a process that is named together with the cgroup is the job's.
    learn: bool,
}

impl About<'_> {
    fn is_meant(&mut self, line: &str) -> bool {
        // How a process ended that nobody has seen before is said in the line after the one with its cgroup.
        if line.contains(self.id) {
            if self.learn {
                self.pids.extend(processes(line));
            }
            return true;
        }
        processes(line).any(|pid| self.pids.contains(&pid))
    }
}

/// The processes that a line names: `process 7 (sh)`, `pid=7`, `PID: 7`, `sh[7]`, `task sh:7 blocked`.
fn processes(line: &str) -> impl Iterator<Item = u32> {
    let bytes = line.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let begin = at + bytes[at..].iter().position(u8::is_ascii_digit)?;
            let end =
                begin + bytes[begin..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len() - begin);
            at = end;
            if is_process(&line[..begin], &line[end..])
                && let Ok(pid) = line[begin..end].parse()
            {
                return Some(pid);
            }
        }
        None
    })
}

/// Whether a number between these is a process's.
fn is_process(before: &str, after: &str) -> bool {
    if after.starts_with(|next: char| next.is_alphanumeric() || next == '.') {
        return false;
    }
    if after.starts_with(']') {
        return before.trim_end_matches(' ').ends_with('[');
    }
    let named = before.trim_end_matches([' ', '=', ':']);
    let word = |word: &str| {
        let begin = named.len().checked_sub(word.len());
        named.len() < before.len()
            && begin.is_some_and(|begin| named.is_char_boundary(begin) && named[begin..].eq_ignore_ascii_case(word))
    };
    word("pid")
        || word("process")
        || (before.ends_with(':') && before.contains("task ") && after.starts_with(" blocked"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_about_the_job_are_told_from_others() {
        let mut about = About { id: "01a2-7f", pids: HashSet::from([7, 25_939]), learn: true };
        for line in [
            "sh[7]: segfault at 0 ip 0000 sp 0000 error 4 in sh[55d0+1000]",
            "INFO: task sh:25939 blocked for more than 120 seconds.",
            "Memory cgroup out of memory: Killed process 7 (sh) total-vm:1kB",
            "CPU: 0 UID: 0 PID: 7 Comm: sh Not tainted",
            "oom_reaper: reaped process 7 (sh), now anon-rss:0kB",
            "[      7]     0     7      619 ",
            "oom-kill:constraint=X,task_memcg=/estop/1/agent.01a2-7f,task=sh,pid=4711,uid=0",
            "Memory cgroup out of memory: Killed process 4711 (sh)",
        ] {
            assert!(about.is_meant(line), "{line}");
        }
        for line in [
            "sh[77]: segfault at 7 ip 7 sp 7 error 7 in sh[55d0+1000]",
            "usb 7-1: new device number 7 using xhci",
            "Killed process 70 (7)",
            "EXT4-fs (loop7): mounted",
            "",
        ] {
            assert!(!about.is_meant(line), "{line}");
        }
        assert_eq!(message("6,6046,27245982875,-;a; b\n SUBSYSTEM=x\n"), Some("a; b"));
    }
}
