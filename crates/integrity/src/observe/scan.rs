//! The full scan: every name is looked at, and read only if it looks different from what is known.
//!
//! "Looks different" means another size, mtime, ctime, inode, mode or owner. A program can set the mtime back, but not the ctime. A
//! file that was read so soon after its last change that a further one might not show is read again the next time.

use std::collections::{BTreeSet, HashMap};

use super::capture::{Captured, ToRead, capture_all};
use super::walk::{Walk, Walked, walk};
use super::{Coverage, Observation, Observer, SkipReason, Unstable};
use crate::Result;
use crate::content::{ContentId, Sink, WHOLE_BYTES};
use crate::path::StorePath;
use crate::platform::{NodeKind, Stat, Tree};
use crate::progress::Progress;
use crate::state::{Change, Meta, Node, Seen, State, Version};

/// Looks at every name. Needs no help from the kernel and nothing running.
#[derive(Debug, Default)]
pub(crate) struct Scan;

/// A name to be read, with what is known about it.
pub(super) struct Differing<'a> {
    pub(super) walked: &'a Walked,
    pub(super) link: Option<&'a StorePath>,
    pub(super) before: Option<&'a Version>,
}

impl Observer for Scan {
    fn observe(&mut self, tree: &Tree, known: &State, sink: &dyn Sink, progress: &dyn Progress) -> Result<Observation> {
        let mut walk = walk(tree)?;
        let found = std::mem::take(&mut walk.found);
        let links = links(&found);
        let (differing, mut changes) = compare(&found, &links, known, &walk);
        let to_read = to_read(&differing, known);
        let captured = capture_all(tree, &to_read, sink, progress)?;
        let mut skipped = walk.skipped;
        let mut unstable = Unstable::default();
        for (item, captured) in differing.iter().zip(captured) {
            let path = item.walked.path.clone();
            match &captured {
                Captured::Read { torn: true, .. } => unstable.add(path.clone()),
                Captured::Mount => skipped.add(path.clone(), SkipReason::Mount),
                Captured::Unreadable(stat) if stat.kind == NodeKind::File => {
                    skipped.add(path.clone(), SkipReason::Unreadable);
                }
                _ => {}
            }
            let before = item.before.cloned();
            let after = version_of(item, captured);
            if before != after {
                changes.push(Change { path, before, after });
            }
        }
        changes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        if has_orphans(known, &changes) {
            changes = without_orphans(known, &changes);
        }
        Ok(Observation { changes, skipped, unstable, coverage: Coverage::FullScan })
    }
}

/// For each name, the first name of the hard links in this tree that are the same file.
fn links(found: &[Walked]) -> Vec<Option<&StorePath>> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, walked) in found.iter().enumerate() {
        if walked.stat.kind == NodeKind::File && walked.stat.links > 1 {
            groups.entry((walked.stat.device, walked.stat.inode)).or_default().push(at);
        }
    }
    let mut links = vec![None; found.len()];
    for group in groups.into_values().filter(|group| group.len() > 1) {
        for at in &group {
            links[*at] = Some(&found[group[0]].path);
        }
    }
    links
}

/// Divides what was found and what was known, both in order of the paths, into what is to be read and what is gone.
fn compare<'a>(
    found: &'a [Walked],
    links: &[Option<&'a StorePath>],
    known: &'a State,
    walk: &Walk,
) -> (Vec<Differing<'a>>, Vec<Change>) {
    let mut differing = Vec::new();
    let mut gone = Vec::new();
    let mut remaining = known.0.iter().peekable();
    for (walked, link) in found.iter().zip(links) {
        while let Some(passed) = remaining.next_if(|(path, _)| **path < walked.path) {
            gone.push(passed);
        }
        let before = remaining.next_if(|(path, _)| **path == walked.path).map(|(_, version)| version);
        if before.is_none_or(|version| looks_different(version, walked, *link)) {
            differing.push(Differing { walked, link: *link, before });
        }
    }
    gone.extend(remaining);
    let seen_to_be_gone = gone.into_iter().filter(|(path, _)| !walk.blind.iter().any(|blind| path.is_within(blind)));
    let removed = |(path, version): (&StorePath, &Version)| Change {
        path: path.clone(),
        before: Some(version.clone()),
        after: None,
    };
    (differing, seen_to_be_gone.map(removed).collect())
}

/// With the content that each had before: under this name, or, of a large file that had another, as the file with its inode.
fn to_read<'a>(differing: &[Differing<'a>], known: &State) -> Vec<ToRead<'a>> {
    let is_moved = |item: &Differing<'_>| item.before.is_none() && item.walked.stat.size > WHOLE_BYTES;
    let by_inode: HashMap<u64, ContentId> = if differing.iter().any(is_moved) {
        known.0.values().filter_map(|version| Some((version.seen.inode, version.content()?))).collect()
    } else {
        HashMap::new()
    };
    let before = |item: &Differing<'_>| match item.before {
        Some(version) => version.content(),
        None => by_inode.get(&item.walked.stat.inode).copied(),
    };
    differing.iter().map(|item| ToRead { walked: item.walked, before: before(item) }).collect()
}

/// Whether something would be left in what is no directory any more: it was seen at another moment than that.
fn has_orphans(known: &State, changes: &[Change]) -> bool {
    let is_directory = |version: Option<&Version>| version.is_some_and(|version| version.node == Node::Directory);
    let after = |path: &StorePath| match changes.binary_search_by(|change| change.path.cmp(path)) {
        Ok(at) => changes[at].after.as_ref(),
        Err(_) => known.0.get(path),
    };
    changes.iter().any(|change| {
        let parent = change.path.parent().filter(|_| change.after.is_some());
        let in_none = parent.is_some_and(|parent| !is_directory(after(&parent)));
        let vanished = is_directory(change.before.as_ref()) && !is_directory(change.after.as_ref());
        in_none || vanished && below(known, &change.path).any(|path| after(path).is_some())
    })
}

/// What is known below a directory.
fn below<'a>(known: &'a State, directory: &'a StorePath) -> impl Iterator<Item = &'a StorePath> {
    // In the order of the bytes, what begins like it stands together; not all of that is in it.
    let like_it = known.0.range(directory..).map(|(path, _)| path);
    let like_it = like_it.take_while(|path| path.as_bytes().starts_with(directory.as_bytes()));
    like_it.filter(move |path| *path != directory && path.is_within(directory))
}

/// Leaves out what is in directories that vanished while the tree was looked at: no state holds a file without its directory.
fn without_orphans(known: &State, changes: &[Change]) -> Vec<Change> {
    let mut state = known.clone();
    state.apply(changes.iter().cloned());
    // Directories stand before what is in them, so that one pass finds all.
    let paths: Vec<_> = state.0.keys().cloned().collect();
    for path in paths {
        let is_directory = |parent: &StorePath| state.0.get(parent).is_some_and(|it| it.node == Node::Directory);
        if path.parent().is_some_and(|parent| !is_directory(&parent)) {
            state.0.remove(&path);
        }
    }
    let paths: BTreeSet<_> = known.0.keys().chain(state.0.keys()).collect();
    let change = |path: &StorePath| Change {
        path: path.clone(),
        before: known.0.get(path).cloned(),
        after: state.0.get(path).cloned(),
    };
    paths.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

pub(super) fn looks_different(version: &Version, walked: &Walked, link: Option<&StorePath>) -> bool {
    let stat = &walked.stat;
    let meta = &version.meta;
    let same_node = match &version.node {
        Node::File { content, size, link: known } => {
            stat.kind == NodeKind::File && content.is_some() && *size == stat.size && known.as_ref() == link
        }
        Node::Directory => stat.kind == NodeKind::Directory,
        Node::Symlink { target } => stat.kind == NodeKind::Symlink && *target == walked.target,
    };
    let same_meta = (meta.mode, meta.uid, meta.gid, meta.mtime) == (stat.mode, stat.uid, stat.gid, stat.mtime);
    let same_seen = (version.seen.inode, version.seen.ctime) == (stat.inode, stat.ctime);
    !(same_node && same_meta && same_seen) || version.seen.unsure
}

pub(super) fn version_of(item: &Differing<'_>, captured: Captured) -> Option<Version> {
    let (stat, attributes, content, size, unsure) = match captured {
        Captured::Gone | Captured::Mount => return None,
        Captured::Read { stat, attributes, content, size, unsure, .. } => (stat, attributes, content, size, unsure),
        // What is not known keeps its last known value, so that nothing seems to have changed that may not have.
        Captured::Unreadable(stat) => {
            let attributes = item.before.map(|before| before.meta.attributes.clone()).unwrap_or_default();
            (stat, attributes, None, stat.size, true)
        }
    };
    let node = match item.walked.stat.kind {
        NodeKind::File => Node::File { content, size, link: item.link.cloned() },
        NodeKind::Directory => Node::Directory,
        NodeKind::Symlink => Node::Symlink { target: item.walked.target.clone() },
        NodeKind::Special => return None,
    };
    let Stat { mode, uid, gid, mtime, inode, ctime, .. } = stat;
    Some(Version { node, meta: Meta { mode, uid, gid, mtime, attributes }, seen: Seen { inode, ctime, unsure } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::content::{ContentId, HashOnly};
    use crate::progress::Silent;

    fn observe(tree: &Tree, known: &State) -> Vec<Change> {
        Scan.observe(tree, known, &HashOnly, &Silent).unwrap().changes
    }

    fn names(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|change| change.path.to_string()).collect()
    }

    #[test]
    fn a_file_that_may_have_changed_unseen_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("note"), "as it is").unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let mut known = State::default();
        known.apply(observe(&tree, &known));
        let note: StorePath = "note".parse().unwrap();
        let version = known.0.get_mut(&note).unwrap();
        assert!(version.seen.unsure, "it was read right after it was written");
        let Node::File { content, .. } = &mut version.node else { panic!("{version:?}") };
        // As if it had been changed after it was read, within the same tick of the clock.
        *content = Some(ContentId([0; 32]));
        version.seen.unsure = false;
        known.0.get_mut(&StorePath::root()).unwrap().seen.unsure = false;
        assert_eq!(observe(&tree, &known), [], "nothing shows it");
        known.0.get_mut(&note).unwrap().seen.unsure = true;
        let found = observe(&tree, &known);
        let right = ContentId(*blake3::hash(b"as it is").as_bytes());
        assert_eq!(found[0].after.as_ref().unwrap().content(), Some(right));
    }

    #[test]
    fn names_in_a_directory_that_vanished_are_no_part_of_the_state() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/e")).unwrap();
        std::fs::write(dir.path().join("d/e/f"), "").unwrap();
        std::fs::write(dir.path().join("g"), "").unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let mut changes = observe(&tree, &State::default());
        assert_eq!(names(&changes), [".", "d", "d/e", "d/e/f", "g"]);
        assert!(!has_orphans(&State::default(), &changes));
        changes.remove(1);
        assert!(has_orphans(&State::default(), &changes));
        assert_eq!(names(&without_orphans(&State::default(), &changes)), [".", "g"]);
    }

    #[test]
    fn what_is_left_of_a_directory_that_is_none_any_more_is_found_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/e")).unwrap();
        for name in ["d/e/f", "d-beside", "da"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        let mut known = State::default();
        known.apply(observe(&tree, &known));
        std::fs::remove_dir_all(dir.path().join("d")).unwrap();
        let mut gone = observe(&tree, &known);
        assert_eq!(names(&gone), [".", "d", "d/e", "d/e/f"]);
        assert!(!has_orphans(&known, &gone), "all that was in it is gone with it");
        let last = gone.pop().unwrap();
        assert!(has_orphans(&known, &gone), "{} is left", last.path);
        assert_eq!(without_orphans(&known, &gone).len(), 4);
    }
}
