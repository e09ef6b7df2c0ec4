//! What a store holds at one moment: every path with its content and metadata.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::content::ContentId;
use crate::path::StorePath;

/// A moment as a filesystem keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// An extended attribute; on Windows, access rules, what else the filesystem knows, and streams beside the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The name with its namespace: `user.note`.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// What the name of an attribute begins with that stands for a stream beside the content, as NTFS has them. No extended attribute
/// that is kept begins so.
const STREAM: &[u8] = b"stream:";

/// The attribute that is the moment of creation, where a filesystem keeps that and it can be set.
pub(crate) const CREATED: &[u8] = b"created";

impl Attribute {
    /// The stream `name`, which holds `content`.
    #[cfg(any(windows, test))]
    pub(crate) fn stream(name: &[u8], content: ContentId) -> Self {
        Self { name: [STREAM, name].concat(), value: content.0.to_vec() }
    }

    /// The name and the content of the stream that it stands for.
    pub(crate) fn as_stream(&self) -> Option<(&[u8], ContentId)> {
        let name = self.name.strip_prefix(STREAM)?;
        Some((name, ContentId(self.value.as_slice().try_into().ok()?)))
    }
}

impl Meta {
    /// The streams beside the content: their names and what they hold.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (&[u8], ContentId)> {
        self.attributes.iter().filter_map(Attribute::as_stream)
    }

    fn is_same_but_for_times(&self, other: &Self) -> bool {
        let rights = |meta: &Self| (meta.mode, meta.uid, meta.gid);
        let beside = |meta: &Self| -> Vec<Attribute> {
            meta.attributes.iter().filter(|attribute| attribute.name != CREATED).cloned().collect()
        };
        rights(self) == rights(other) && beside(self) == beside(other)
    }
}

/// What a path is, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A regular file.
    File {
        /// Its content; `None` where it could not be read.
        content: Option<ContentId>,
        /// Its length in bytes.
        size: u64,
        /// The first path (in byte order) of the hard links in this store that are one file; `None` if it has one name.
        link: Option<StorePath>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it points to, as it stands.
        target: Vec<u8>,
    },
}

impl Node {
    /// Whether both are files, both directories or both symbolic links.
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What stands beside the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits with set-uid, set-gid and sticky: 12 bits. On Windows, the attributes that are kept.
    pub mode: u32,
    /// Owner's user id; 0 on Windows.
    pub uid: u32,
    /// Group id; 0 on Windows.
    pub gid: u32,
    /// Last modification.
    pub mtime: FileTime,
    /// Extended attributes in order of their names.
    pub attributes: Vec<Attribute>,
}

/// How the file looked when it was read, by which a later scan knows that it has not changed since. No part of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Inode number.
    pub inode: u64,
    /// Last change of content or metadata, which programs can't set back (on Windows, only on purpose).
    pub ctime: FileTime,
    /// It could still change without its ctime telling (it was changed just before it was read, or while): read it again.
    pub unsure: bool,
}

/// One version of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What it is, and its content.
    pub node: Node,
    /// Its metadata.
    pub meta: Meta,
    /// How it was recognised.
    pub seen: Seen,
}

impl Version {
    /// Whether content and metadata are the same, whatever the inode.
    pub fn same_state(&self, other: &Self) -> bool {
        self.node == other.node && self.meta == other.meta
    }

    /// Whether it counts as a file: regular files and symbolic links do, directories don't.
    pub fn is_file(&self) -> bool {
        !matches!(self.node, Node::Directory)
    }

    /// Its content's length in bytes.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File { size, .. } => *size,
            Node::Directory | Node::Symlink { .. } => 0,
        }
    }

    /// Its content, where it has some.
    pub fn content(&self) -> Option<ContentId> {
        match &self.node {
            Node::File { content, .. } => *content,
            Node::Directory | Node::Symlink { .. } => None,
        }
    }

    /// Every content it refers to: its own, and that of the streams beside it.
    pub(crate) fn contents(&self) -> impl Iterator<Item = ContentId> {
        self.content().into_iter().chain(self.meta.streams().map(|(_, content)| content))
    }

    /// The first of the names of the hard link it is one of.
    pub(crate) fn link(&self) -> Option<&StorePath> {
        match &self.node {
            Node::File { link, .. } => link.as_ref(),
            Node::Directory | Node::Symlink { .. } => None,
        }
    }
}

/// The checksum of a whole state: BLAKE3 over every path, its content's name and its metadata, in order of the paths.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChecksum(pub [u8; 32]);

impl fmt::Display for StateChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for StateChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateChecksum({self})")
    }
}

/// How much a state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files and symbolic links, by name.
    pub files: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Bytes of content; a file with several names counts once.
    pub bytes: u64,
}

/// Every path of a store at one moment, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(pub BTreeMap<StorePath, Version>);

impl State {
    /// The checksum over all of it.
    pub fn checksum(&self) -> StateChecksum {
        let mut hasher = blake3::Hasher::new_derive_key("estop 2026 state checksum, version 1");
        let mut buffer = Vec::with_capacity(64 * 1024);
        for (path, version) in &self.0 {
            encode(&mut buffer, path, version);
            if buffer.len() > 60 * 1024 {
                hasher.update(&buffer);
                buffer.clear();
            }
        }
        hasher.update(&buffer);
        StateChecksum(*hasher.finalize().as_bytes())
    }

    /// How much it holds.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (path, version) in &self.0 {
            if version.is_file() {
                totals.files += 1;
            } else if !path.is_root() {
                totals.directories += 1;
            }
            if version.link().is_none_or(|first| first == path) {
                totals.bytes += version.size();
            }
        }
        totals
    }

    /// Puts `changes` into effect.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change.after {
                Some(version) => self.0.insert(change.path, version),
                None => self.0.remove(&change.path),
            };
        }
    }
}

/// One change of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The path that changed.
    pub path: StorePath,
    /// What was there; `None` if nothing.
    pub before: Option<Version>,
    /// What is there now; `None` if nothing.
    pub after: Option<Version>,
}

/// What kind of change it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// The path is new.
    Added,
    /// The path is gone.
    Removed,
    /// Its content, or what it is, is another.
    Content,
    /// Only its metadata is another.
    Metadata,
    /// Only how it is recognised: another inode with the same content and metadata.
    Touched,
}

impl Change {
    /// What kind of change it is.
    pub fn kind(&self) -> ChangeKind {
        match (&self.before, &self.after) {
            (None, _) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
            (Some(before), Some(after)) if before.node != after.node => ChangeKind::Content,
            (Some(before), Some(after)) if before.meta != after.meta => ChangeKind::Metadata,
            (Some(_), Some(_)) => ChangeKind::Touched,
        }
    }

    /// Whether a person would call it a change: not where only a directory's time moved because of what is in it.
    pub fn is_notable(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return true };
        match self.kind() {
            ChangeKind::Touched => false,
            ChangeKind::Metadata => after.is_file() || !after.meta.is_same_but_for_times(&before.meta),
            ChangeKind::Added | ChangeKind::Removed | ChangeKind::Content => true,
        }
    }

    /// Whether it concerns a file (or symbolic link), before or after.
    pub(crate) fn is_of_file(&self) -> bool {
        self.before.iter().chain(&self.after).any(Version::is_file)
    }
}

/// Lengths stand before everything of varying length, so that no two states have the same encoding.
fn encode(buffer: &mut Vec<u8>, path: &StorePath, version: &Version) {
    let part = |buffer: &mut Vec<u8>, bytes: &[u8]| {
        buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        buffer.extend_from_slice(bytes);
    };
    part(buffer, path.as_bytes());
    match &version.node {
        Node::File { content, size, link } => {
            buffer.push(b'f');
            part(buffer, content.as_ref().map_or(&[], |id| &id.0));
            buffer.extend_from_slice(&size.to_le_bytes());
            part(buffer, link.as_ref().map_or(&[], StorePath::as_bytes));
        }
        Node::Directory => buffer.push(b'd'),
        Node::Symlink { target } => {
            buffer.push(b'l');
            part(buffer, target);
        }
    }
    let meta = &version.meta;
    for number in [meta.mode, meta.uid, meta.gid, meta.mtime.nanoseconds] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    buffer.extend_from_slice(&meta.mtime.seconds.to_le_bytes());
    buffer.extend_from_slice(&(meta.attributes.len() as u64).to_le_bytes());
    for attribute in &meta.attributes {
        part(buffer, &attribute.name);
        part(buffer, &attribute.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_beside_a_content_are_contents_too() {
        let id = |byte| ContentId([byte; 32]);
        let plain = Attribute { name: b"user.note".to_vec(), value: vec![1; 32] };
        let attributes = vec![Attribute::stream(b"Zone.Identifier", id(2)), plain];
        let mtime = FileTime { seconds: 0, nanoseconds: 0 };
        let version = Version {
            node: Node::File { content: Some(id(1)), size: 1, link: None },
            meta: Meta { mode: 0, uid: 0, gid: 0, mtime, attributes },
            seen: Seen { inode: 1, ctime: mtime, unsure: false },
        };
        assert_eq!(version.contents().collect::<Vec<_>>(), [id(1), id(2)]);
        assert_eq!(version.meta.streams().collect::<Vec<_>>(), [(&b"Zone.Identifier"[..], id(2))]);
    }
}
