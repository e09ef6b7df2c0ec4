//! Which processes hold files of a store open for writing, as far as `/proc` shows.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::tree::Tree;
use crate::platform::OpenBy;

/// Lists processes, other than this one, with a file of `tree` open for writing. Processes of other users are seen
/// only where this user may look at their descriptors.
pub(crate) fn open_for_writing(tree: &Tree) -> Vec<OpenBy> {
    let root = tree.path();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<_> = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| look_at(pid, root))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn look_at(pid: u32, root: &Path) -> Option<OpenBy> {
    let process = Path::new("/proc").join(pid.to_string());
    for entry in fs::read_dir(process.join("fd")).ok()?.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Ok(inside) = target.strip_prefix(root) else { continue };
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap_or_default();
        if is_for_writing(&info) {
            let (command, start_time) = identify(&process)?;
            let path = String::from_utf8_lossy(inside.as_os_str().as_bytes()).into_owned();
            return Some(OpenBy { pid, start_time, command, path });
        }
    }
    None
}

/// The `flags:` line holds the flags of open(2) in octal; its lowest two bits are the access mode.
fn is_for_writing(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).is_some_and(|flags| flags & 0o3 != 0)
}

/// The name and start time in `/proc/PID/stat`: `pid (name) state …`, the start time is field 22.
fn identify(process: &Path) -> Option<(String, u64)> {
    let stat = fs::read(process.join("stat")).ok()?;
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = String::from_utf8_lossy(stat.get(close + 1..)?).into_owned();
    Some((name, rest.split_ascii_whitespace().nth(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_a_writer_and_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("read"), "x").unwrap();
        let hold = |stdin: Stdio, stdout: Stdio| {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(stdin).stdout(stdout).spawn().unwrap()
        };
        let mut writer = hold(Stdio::null(), fs::File::create(root.join("written")).unwrap().into());
        let mut reader = hold(fs::File::open(root.join("read")).unwrap().into(), Stdio::null());
        let found = open_for_writing(&Tree::open(&root).unwrap());
        for process in [&mut writer, &mut reader] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].pid, found[0].path.as_str()), (writer.id(), "written"));
        assert!(found[0].start_time > 0);
    }
}
