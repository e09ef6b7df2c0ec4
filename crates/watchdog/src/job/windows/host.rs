//! The host that the jobs run on.

use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

/// The share of its memory that is in use.
pub(super) fn memory_in_use() -> Option<f64> {
    let mut status = MEMORYSTATUSEX {
        dwLength: u32::try_from(size_of::<MEMORYSTATUSEX>()).unwrap_or(0),
        ..MEMORYSTATUSEX::default()
    };
    // SAFETY: the structure is alive and says how large it is.
    let told = unsafe { GlobalMemoryStatusEx(&raw mut status) } != 0;
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = || 1.0 - status.ullAvailPhys as f64 / status.ullTotalPhys as f64;
    (told && status.ullTotalPhys > 0).then(share)
}
