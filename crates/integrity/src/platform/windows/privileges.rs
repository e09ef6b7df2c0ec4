//! What an administrator or a service may do beyond the access rules, as root may on Linux.

use std::sync::OnceLock;

use estop_durable::privileges::{Privilege, enable};

/// Whether this process may read and write everything, and give files to anybody. Asked for once, for the whole process.
pub(super) fn may_restore() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let backup = enable(Privilege::Backup).unwrap_or(false);
        enable(Privilege::Restore).unwrap_or(false) && backup
    })
}
