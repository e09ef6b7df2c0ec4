//! Putting versions of paths into a directory tree: for a rollback's staging and for restoring elsewhere.

use std::path::{Path, PathBuf};

use crate::content::Packs;
use crate::error::Context as _;
use crate::path::StorePath;
use crate::platform::{AsNative, NodeKind, Privileges, Stat, Tree, streams, to_path, write_meta};
use crate::state::{Meta, Node, Version};
use crate::{Error, Result};

/// Where contents come from, and what is held back.
pub(crate) struct Materials<'a> {
    pub(crate) packs: &'a Packs,
    pub(crate) privileges: Privileges,
}

/// The full path, for messages.
pub(crate) fn full(tree: &Tree, path: &StorePath) -> PathBuf {
    tree.path().join(to_path(path.as_bytes()))
}

impl Materials<'_> {
    /// Makes the file or symbolic link `version` at `path`, where nothing may be, with its metadata. A file that cannot be made
    /// whole is not left there.
    pub(crate) fn make(&self, tree: &Tree, path: &StorePath, version: &Version) -> Result<()> {
        let place = full(tree, path);
        match &version.node {
            Node::Symlink { target } => {
                tree.make_symlink(target, &version.meta, path).context("make the symbolic link", &place)
            }
            Node::Directory => tree.make_dir(path).context("make the directory", &place),
            Node::File { content, .. } => {
                let Some(id) = content else {
                    let detail = "its content could not be read when it was observed".to_owned();
                    return Err(Error::NotRestorable { count: 1, path: path.to_string(), detail });
                };
                let mut file = tree.make_file(path).context("create", &place)?;
                let filled =
                    self.packs.read_to(id, &mut file).and_then(|_| self.give(&file, &version.meta, false, &place));
                if filled.is_err() {
                    // The failure that matters is the first one.
                    let _ = tree.remove(path, false);
                }
                filled
            }
        }
    }

    /// Gives the file or directory at `path` the metadata `meta`.
    pub(crate) fn dress(&self, tree: &Tree, path: &StorePath, meta: &Meta) -> Result<()> {
        let place = full(tree, path);
        let file = tree.open_for_meta(path).context("open", &place)?;
        let directory = Stat::of(&file).context("look at", &place)?.kind == NodeKind::Directory;
        self.give(&file, meta, directory, &place)
    }

    /// Gives an open file or directory what stands beside its content: its time last, which all the rest changes.
    fn give(&self, file: &impl AsNative, meta: &Meta, directory: bool, place: &Path) -> Result<()> {
        streams::put(file, meta, self.packs, place)?;
        write_meta(file, &self.privileges.allowed(meta, directory)).context("set the metadata of", place)?;
        streams::settle(file).context("synchronise", place)
    }
}
