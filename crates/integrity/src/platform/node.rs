//! What a name stands for, on every platform.

use crate::state::FileTime;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    File,
    Directory,
    /// A symbolic link; on Windows, whatever stands for another name.
    Symlink,
    /// A FIFO, socket or device; on Windows, a file that only its own driver can read.
    Special,
}

/// What the filesystem knows about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: NodeKind,
    /// What tells it from every other file of the filesystem.
    pub(crate) inode: u64,
    pub(crate) links: u32,
    pub(crate) size: u64,
    /// Permission bits; on Windows, the attributes that are kept.
    pub(crate) mode: u32,
    /// Owner; 0 on Windows, where it stands with the access rules.
    pub(crate) uid: u32,
    /// Group; 0 on Windows.
    pub(crate) gid: u32,
    pub(crate) mtime: FileTime,
    pub(crate) ctime: FileTime,
    /// The filesystem; nothing on Windows, where no name leads to another volume but a link, and those are not followed.
    pub(crate) device: (u32, u32),
}

/// One name of a directory.
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) stat: Stat,
    /// Where it points, if it is a symbolic link.
    pub(crate) target: Vec<u8>,
}

/// Why a name inside a tree was not opened, as far as it matters to who looks at everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not there any more, or something else is.
    Gone,
    /// Another filesystem is mounted there.
    #[cfg_attr(windows, expect(dead_code, reason = "a mounted volume is a link there, and kept as one"))]
    Mount,
    /// Its path is longer than the system takes.
    TooLong,
    /// Anything else.
    Other,
}
