//! What the kernel says about a job: here nothing.

use crate::guardian::evidence::KernelLines;

/// There is no log of the kernel's that names processes.
#[derive(Debug)]
pub(in crate::guardian) struct KernelLog;

impl KernelLog {
    /// Nothing is opened.
    pub(in crate::guardian) fn open() -> Self {
        Self
    }

    /// Says that nothing is known.
    #[expect(clippy::unused_self, reason = "as on the other platforms")]
    pub(in crate::guardian) fn about(&self, _id: &str, _pids: &[u32]) -> KernelLines {
        KernelLines {
            incomplete: Some("Windows has no log of the kernel that names processes".to_owned()),
            ..KernelLines::default()
        }
    }
}
