//! Looking at every name of a tree.

use std::io;

use super::{SkipReason, Skipped};
use crate::Result;
use crate::error::Context as _;
use crate::path::StorePath;
use crate::platform::{NodeKind, Refusal, Stat, Tree, refusal};

/// A name and what the filesystem says about it.
pub(super) struct Walked {
    pub(super) path: StorePath,
    pub(super) stat: Stat,
    pub(super) target: Vec<u8>,
}

/// Everything in a tree.
#[derive(Default)]
pub(super) struct Walk {
    /// In order of the paths.
    pub(super) found: Vec<Walked>,
    /// Directories whose content could not be seen.
    pub(super) blind: Vec<StorePath>,
    pub(super) skipped: Skipped,
}

/// Walks `tree`. Directories are opened from the root each, so that deep nesting costs no descriptors and a directory that is moved
/// meanwhile leads nowhere else.
pub(super) fn walk(tree: &Tree) -> Result<Walk> {
    let mut walk = Walk::default();
    let stat = tree.open_dir(&[]).and_then(|root| Stat::of(&root)).context("look at", tree.path())?;
    walk.found.push(Walked { path: StorePath::root(), stat, target: Vec::new() });
    let mut waiting = Vec::new();
    walk.enter(tree, None, &mut waiting).context("list", tree.path())?;
    while let Some(directory) = waiting.pop() {
        match walk.enter(tree, Some(&directory), &mut waiting) {
            Ok(()) => {}
            Err(error) => walk.refused(directory, &error),
        }
    }
    walk.found.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(walk)
}

impl Walk {
    fn enter(&mut self, tree: &Tree, directory: Option<&StorePath>, waiting: &mut Vec<StorePath>) -> io::Result<()> {
        let directory = directory.map_or(&[][..], StorePath::as_bytes);
        for listed in tree.list(directory)? {
            let path = StorePath::child(directory, &listed.name);
            if listed.stat.kind == NodeKind::Special {
                self.skipped.add(path, SkipReason::Special);
                continue;
            }
            // A file of another device in a directory of this one is the doing of an overlay; a mount is told by opening it.
            if listed.stat.kind == NodeKind::Directory && tree.is_elsewhere(&listed.stat) {
                self.blind(path, SkipReason::Mount);
                continue;
            }
            if listed.stat.kind == NodeKind::Directory {
                waiting.push(path.clone());
            }
            self.found.push(Walked { path, stat: listed.stat, target: listed.target });
        }
        Ok(())
    }

    fn blind(&mut self, path: StorePath, reason: SkipReason) {
        self.skipped.add(path.clone(), reason);
        self.blind.push(path);
    }

    /// A directory could not be entered: it vanished, or it can't be seen into.
    fn refused(&mut self, directory: StorePath, error: &io::Error) {
        match refusal(error) {
            Refusal::Gone => self.found.retain(|walked| walked.path != directory),
            Refusal::Mount => {
                self.found.retain(|walked| walked.path != directory);
                self.blind(directory, SkipReason::Mount);
            }
            Refusal::TooLong => self.blind(directory, SkipReason::TooLong),
            Refusal::Other => self.blind(directory, SkipReason::Unreadable),
        }
    }
}
