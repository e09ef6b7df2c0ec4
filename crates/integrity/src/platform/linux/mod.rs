//! Linux: `openat2`, `statx`, extended attributes, `/proc`.

pub(super) mod meta;
pub(super) mod processes;
pub(super) mod tree;
