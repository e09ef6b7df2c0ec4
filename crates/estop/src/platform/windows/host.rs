//! What the host offers for containing, limiting and watching a job.

use estop_watchdog::job::Tier;
use estop_watchdog::job::windows::is_wine;
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;

use crate::commands::doctor::Check;
use crate::site::Site;

/// The tier that jobs here are of, and what it and their limits depend on; `limits` is what a job showed.
pub(crate) fn checks(_site: &Site, limits: Vec<Check>) -> (Tier, Vec<Check>) {
    let mut checks = vec![system(), Check::ok("tier", "kernel: Job Objects; the system ends a job's whole tree")];
    checks.extend(limits);
    (Tier::Kernel, checks)
}

fn system() -> Check {
    let mut version = OSVERSIONINFOW {
        dwOSVersionInfoSize: u32::try_from(size_of::<OSVERSIONINFOW>()).unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the structure has the size that it says, and lives until the call returns.
    unsafe { RtlGetVersion(&raw mut version) };
    let (major, minor, build) = (version.dwMajorVersion, version.dwMinorVersion, version.dwBuildNumber);
    let shown = format!("Windows {major}.{minor}.{build}");
    if is_wine() {
        let hint = "for tests only: it takes the limits of memory and processes and enforces none";
        return Check::lacking("system", format!("Wine, as {shown}"), hint);
    }
    Check::ok("system", shown)
}

/// Jobs need none here.
pub(crate) fn make_room_for_jobs() {}

/// How the limit called `name` would be enforced by the kernel.
pub(crate) fn how_to_enforce(name: &str) -> String {
    format!("the {name} limit is enforced by Windows 8 and later")
}
