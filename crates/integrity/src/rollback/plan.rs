//! What to do to get from one state to another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::path::StorePath;
use crate::platform::Privileges;
use crate::state::{Meta, Node, State, Version};
use crate::verify::difference;

/// The paths a rollback is about: these and what is below them; none: all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection<'a>(pub(crate) &'a [StorePath]);

impl Selection<'_> {
    fn holds(self, path: &StorePath) -> bool {
        self.0.is_empty() || self.0.iter().any(|selected| path.is_within(selected))
    }

    /// The selected part of `state`. Hard links to names outside are not seen as such.
    pub(crate) fn of(self, state: &State) -> State {
        if self.0.is_empty() {
            return state.clone();
        }
        let inside = state.0.iter().filter(|(path, _)| self.holds(path));
        let mut part: BTreeMap<_, _> = inside.map(|(path, version)| (path.clone(), version.clone())).collect();
        relink(&mut part);
        State(part)
    }
}

/// Names the groups of hard links after their first names among `part`.
fn relink(part: &mut BTreeMap<StorePath, Version>) {
    let mut groups: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
    for (path, version) in &*part {
        if let Some(first) = version.link() {
            groups.entry(first.clone()).or_default().push(path.clone());
        }
    }
    for group in groups.into_values() {
        let first = (group.len() > 1).then(|| group[0].clone());
        for path in group {
            if let Some(Version { node: Node::File { link, .. }, .. }) = part.get_mut(&path) {
                link.clone_from(&first);
            }
        }
    }
}

/// A file or symbolic link to be put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) path: StorePath,
    pub(crate) version: Version,
    /// It is another name of the file put by this number.
    pub(crate) same_as: Option<usize>,
}

/// Every step, in the order of the fields; within a field in the order of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// To be moved away, with everything below.
    pub(crate) removals: Vec<StorePath>,
    /// Directories to be made.
    pub(crate) directories: Vec<StorePath>,
    /// Files and symbolic links to be put in place.
    pub(crate) puts: Vec<Put>,
    /// Files of which only the metadata differs.
    pub(crate) dressings: Vec<(StorePath, Meta)>,
    /// Metadata of directories, deepest first: what is done in one changes its time.
    pub(crate) directory_metas: Vec<(StorePath, Meta)>,
    /// Files and links removed, including those below a removed directory.
    pub(crate) removed_files: u64,
    /// Files and links that are as they should be.
    pub(crate) unchanged_files: u64,
}

impl Plan {
    /// What makes the selected part `current` into `wanted`. `everything` is the whole state at the recovery point, from which
    /// directories above the selection come that are no longer there.
    pub(crate) fn between(
        current: &State,
        wanted: &State,
        everything: &State,
        live: &State,
        privileges: Privileges,
    ) -> Self {
        let mut plan = Self::default();
        plan.remove_extra(current, wanted);
        let mut puts = BTreeSet::new();
        for (path, version) in &wanted.0 {
            plan.bring(path, version, current.0.get(path), privileges, &mut puts);
        }
        plan.put_files(wanted, &puts);
        plan.add_missing_parents(wanted, everything, live);
        plan.dress_directories(current, wanted, everything, privileges);
        plan
    }

    fn remove_extra(&mut self, current: &State, wanted: &State) {
        for (path, version) in &current.0 {
            if wanted.0.contains_key(path) || path.is_root() {
                continue;
            }
            self.removed_files += u64::from(version.is_file());
            let within_removed =
                path.parent().is_some_and(|parent| current.0.contains_key(&parent) && !wanted.0.contains_key(&parent));
            if !within_removed {
                self.removals.push(path.clone());
            }
        }
    }

    fn bring(
        &mut self,
        path: &StorePath,
        version: &Version,
        there: Option<&Version>,
        privileges: Privileges,
        puts: &mut BTreeSet<StorePath>,
    ) {
        let same_kind = there.filter(|there| there.node.same_kind(&version.node));
        let same = same_kind.is_some_and(|there| difference(version, there, privileges).is_none());
        match (&version.node, same_kind) {
            (Node::Directory, None) => self.directories.push(path.clone()),
            (Node::Directory, Some(_)) => {}
            // What could not be read then is not known, so what is there now is all there is.
            (Node::File { content: None, .. }, _) => {}
            _ if same => {}
            (Node::File { link: None, content: Some(_), .. }, Some(there)) if there.node == version.node => {
                self.dressings.push((path.clone(), version.meta.clone()));
            }
            _ => {
                puts.insert(path.clone());
            }
        }
    }

    /// Hard links are put together: a group with one name to be put is put as a whole.
    fn put_files(&mut self, wanted: &State, puts: &BTreeSet<StorePath>) {
        let groups: BTreeSet<_> = puts.iter().filter_map(|path| wanted.0.get(path)?.link()).collect();
        let mut numbers: HashMap<&StorePath, usize> = HashMap::new();
        let mut files = 0;
        for (path, version) in &wanted.0 {
            files += u64::from(version.is_file());
            let unread = matches!(version.node, Node::File { content: None, .. });
            let group = version.link().filter(|first| groups.contains(first) && !unread);
            if group.is_none() && !puts.contains(path) {
                continue;
            }
            let same_as = group.and_then(|first| numbers.get(first).copied());
            if let Some(first) = group {
                numbers.entry(first).or_insert(self.puts.len());
            }
            self.puts.push(Put { path: path.clone(), version: version.clone(), same_as });
        }
        self.unchanged_files = files - self.puts.len() as u64 - self.dressings.len() as u64;
    }

    /// Directories above a selected path that were there at the recovery point and are not now.
    fn add_missing_parents(&mut self, wanted: &State, everything: &State, live: &State) {
        let mut missing = BTreeSet::new();
        for path in self.puts.iter().map(|put| &put.path).chain(&self.directories) {
            let mut above = path.parent();
            while let Some(parent) = above {
                let is_there = live.0.get(&parent).is_some_and(|version| version.node == Node::Directory);
                if !is_there && !wanted.0.contains_key(&parent) && everything.0.contains_key(&parent) {
                    missing.insert(parent.clone());
                }
                above = parent.parent();
            }
        }
        self.directories.extend(missing);
        self.directories.sort_unstable();
    }

    /// Those that differ, and those in which something is done.
    fn dress_directories(&mut self, current: &State, wanted: &State, everything: &State, privileges: Privileges) {
        let mut touched: BTreeSet<StorePath> = self.directories.iter().cloned().collect();
        let changed = self.puts.iter().map(|put| &put.path).chain(&self.directories).chain(&self.removals);
        let parents: Vec<_> = changed.map(|path| path.parent().unwrap_or_else(StorePath::root)).collect();
        touched.extend(parents.into_iter().filter(|parent| wanted.0.contains_key(parent)));
        for (path, version) in &wanted.0 {
            let there = current.0.get(path);
            if version.node == Node::Directory && there.is_none_or(|it| difference(version, it, privileges).is_some()) {
                touched.insert(path.clone());
            }
        }
        let metas = touched.into_iter().filter_map(|path| {
            let version = wanted.0.get(&path).or_else(|| everything.0.get(&path))?;
            (version.node == Node::Directory).then(|| (path, version.meta.clone()))
        });
        self.directory_metas = metas.collect();
        self.directory_metas.sort_by_key(|(path, _)| std::cmp::Reverse(path.depth()));
    }

    /// Files whose content or metadata is put back.
    pub(crate) fn restored_files(&self) -> u64 {
        self.puts.len() as u64 + self.dressings.len() as u64
    }

    /// Files whose set-uid or set-gid bits or capabilities are held back.
    pub(crate) fn withheld(&self, privileges: Privileges) -> Vec<String> {
        let puts = self.puts.iter().map(|put| (&put.path, &put.version.meta));
        let all = puts.chain(self.dressings.iter().map(|(path, meta)| (path, meta)));
        let held = all.filter(|(_, meta)| privileges.allowed(meta, false) != **meta);
        held.map(|(path, _)| path.to_string()).collect()
    }

    /// Bytes of content put back; a file with several names counts once.
    pub(crate) fn bytes(&self) -> u64 {
        self.puts.iter().filter(|put| put.same_as.is_none()).map(|put| put.version.size()).sum()
    }
}
