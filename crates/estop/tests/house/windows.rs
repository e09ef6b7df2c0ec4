//! What a house needs on Windows: a shell and a few commands of its own, and the program itself in it, so that all that a test has
//! started is known by where its file is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::{ESTOP, House, PATIENCE};

/// What scripts and tests run by name. All are one program, which goes by its name.
const COMMANDS: [&str; 14] =
    ["sh", "sleep", "touch", "cat", "head", "tr", "true", "false", "env", "setsid", "yes", "hog", "hold", "show"];

fn bin(house: &Path) -> PathBuf {
    house.join("bin")
}

/// The program of many names, as cargo has built it.
pub(crate) fn villain() -> PathBuf {
    Path::new(ESTOP).with_file_name("examples").join("villain.exe")
}

/// Wine delivers no Ctrl-Break: nobody hears that they are asked to end, and waiting for it is only waiting.
pub(super) fn configuration(text: &str) -> String {
    if !estop_watchdog::job::windows::is_wine() || text.contains("grace") {
        return text.to_owned();
    }
    let grace = |line: &str| line.starts_with("[workload.") && !line.contains(".limits");
    text.lines().map(|line| line.to_owned() + if grace(line) { "\ngrace = \"300ms\"\n" } else { "\n" }).collect()
}

pub(super) fn furnish(house: &Path) {
    std::fs::create_dir(bin(house)).unwrap();
    // Files of the house's own: of one with several names a process may be told to run any, and so to be another house's.
    std::fs::copy(villain(), own_villain(house)).unwrap();
    std::fs::copy(ESTOP, program(house)).unwrap();
    for command in COMMANDS {
        std::fs::hard_link(own_villain(house), bin(house).join(command).with_extension("exe")).unwrap();
    }
}

fn own_villain(house: &Path) -> PathBuf {
    bin(house).join("villain.exe")
}

/// What a process has open that has just ended goes a moment later.
pub(super) fn clear(house: &Path) {
    let begun = Instant::now();
    while let Err(error) = std::fs::remove_dir_all(house) {
        if begun.elapsed() >= PATIENCE {
            assert!(std::thread::panicking(), "{} stays: {error}", house.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn program(house: &Path) -> PathBuf {
    bin(house).join("estop.exe")
}

pub(super) fn lead(command: &mut Command, house: &Path) {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString = std::env::join_paths(std::iter::once(bin(house)).chain(std::env::split_paths(&old))).unwrap();
    command.env("PATH", path);
}

pub(super) fn script(house: &House, path: &Path, body: &str) -> PathBuf {
    house.file(path.with_extension("sh"), format!("{body}\n"));
    let program = house.path().join(path).with_extension("exe");
    std::fs::hard_link(own_villain(&house.path()), &program).unwrap();
    program
}

pub(super) fn signal_code(_status: ExitStatus) -> i32 {
    unreachable!("nothing ends by a signal here")
}
