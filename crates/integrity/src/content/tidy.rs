//! Freeing the room of content that nothing refers to any more.
//!
//! A content in pieces needs its map and them. A map that builds on that of a content which is given up is written anew, in full,
//! before. Of a group of pages only those that some map needs are copied; what else stands in a pack that stays is forgotten, so that
//! nothing new is built on it.

use std::collections::{HashMap, HashSet};

use super::format::{ENTRY_BYTES, Entry, HEADER_BYTES, Kind};
use super::map::Body;
use super::pack::Pack;
use super::{ContentId, Location, Mark, Packs, Sink as _, pack};
use crate::error::Context as _;
use crate::{Error, Result};

/// A pack is rewritten once less than this share of it (in percent) is still needed.
const WORTH_REWRITING_PERCENT: u64 = 70;

/// What tidying the packs did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tidied {
    /// Packs removed.
    pub(crate) packs: u64,
    /// Contents moved to another pack, because theirs was removed.
    pub(crate) moved: u64,
    /// Bytes freed on the device.
    pub(crate) bytes: u64,
}

/// Packs whose needed contents have been copied elsewhere, so that they can go once the log knows of the copies.
pub(crate) struct Emptied {
    numbers: Vec<u32>,
    moved: u64,
}

/// All pages of a group.
const WHOLE: u32 = u32::MAX;

/// An entry that is needed.
struct Kept {
    id: ContentId,
    location: Location,
    /// Nothing if it can't be read.
    entry: Option<Entry>,
    /// Of a group, the slots that are needed.
    live: u32,
}

impl Kept {
    /// About how much of its pack is needed.
    fn bytes(&self) -> u64 {
        let Some(entry) = self.entry else { return 0 };
        let share = if entry.kind == Kind::Group { self.live.count_ones() } else { u32::BITS };
        ENTRY_BYTES + entry.stored * u64::from(share) / u64::from(u32::BITS)
    }
}

impl Packs {
    /// Copies what is in `needed` out of the packs of which little is needed. Nothing is removed yet, but what nothing needs is
    /// forgotten. What was stored and is in no catalogue yet counts as needed.
    ///
    /// A pack with a needed content that can't be read is left as it is, for whatever can still be saved from it.
    pub(crate) fn evacuate(&self, needed: &HashSet<ContentId>) -> Result<Emptied> {
        let mut needed = needed.clone();
        needed.extend(self.inner().fresh.iter().map(|(id, _)| *id));
        let live = self.pieces(&needed)?;
        // Before anything is copied, so that no copy is built on what goes.
        self.inner().index.retain(|id, _| live.contains_key(id));
        let mut kept = self.kept(&live)?;
        let mut emptied = Emptied { numbers: Vec::new(), moved: 0 };
        let current = self.sync()?.pack;
        // All is decided before anything is copied: a copy makes the pack it goes to longer.
        let mut sparse = Vec::new();
        for number in self.numbers()? {
            let keep = kept.remove(&number).unwrap_or_default();
            let length = self.path(number).metadata().context("look at", &self.path(number))?.len();
            let is_new = number == current && length <= HEADER_BYTES;
            if !is_new && is_sparse(&keep, length) {
                sparse.push((number, keep));
            }
        }
        if sparse.iter().any(|(number, _)| *number == current) {
            self.leave(current)?;
        }
        for (number, keep) in sparse {
            if self.copy_out(&keep)? {
                emptied.moved += keep.len() as u64;
                emptied.numbers.push(number);
            }
        }
        Ok(emptied)
    }

    /// Removes the packs that were evacuated and forgotten.
    pub(crate) fn remove(&self, emptied: &Emptied) -> Result<Tidied> {
        let mut tidied = Tidied { moved: emptied.moved, ..Tidied::default() };
        for number in &emptied.numbers {
            let path = self.path(*number);
            let length = path.metadata().context("look at", &path)?.len();
            std::fs::remove_file(&path).context("remove", &path)?;
            tidied.packs += 1;
            tidied.bytes += length;
        }
        estop_durable::replace::sync_dir(&self.dir)?;
        Ok(tidied)
    }

    /// Forgets what stands in packs that are about to be removed.
    pub(crate) fn forget(&self, emptied: &Emptied) {
        let mut inner = self.inner();
        inner.index.retain(|_, location| !emptied.numbers.contains(&location.pack));
        inner.fresh.retain(|(_, location)| !emptied.numbers.contains(&location.pack));
    }

    /// Where every content stands now.
    pub(crate) fn locations(&self) -> Vec<(ContentId, Location)> {
        self.inner().index.iter().map(|(id, location)| (*id, *location)).collect()
    }

    /// Goes on in a new pack, so that `number` can be removed.
    pub(super) fn leave(&self, number: u32) -> Result<()> {
        let mut inner = self.inner();
        let last = self.last_number()?;
        let next = Mark { pack: last.max(number), length: u64::MAX };
        inner.writer = Some(pack::Writer::resume(&self.dir, next, last)?);
        Ok(())
    }

    /// Everything that the contents in `needed` are made of, they themselves included; of groups of pages, which of their slots.
    fn pieces(&self, needed: &HashSet<ContentId>) -> Result<HashMap<ContentId, u32>> {
        let mut live: HashMap<ContentId, u32> = needed.iter().map(|id| (*id, WHOLE)).collect();
        for id in self.mapped(needed)? {
            let mut reader = self.reader();
            let body = match reader.map(&id) {
                Ok(Body::Chunks(map)) => {
                    live.extend(map.pieces.iter().map(|(chunk, _)| (*chunk, WHOLE)));
                    continue;
                }
                Ok(Body::Pages(body)) => body,
                Err(error) => {
                    unless_damaged(error)?;
                    continue;
                }
            };
            let map = match reader.page_map(&id) {
                Ok(map) => map,
                Err(error) => {
                    unless_damaged(error)?;
                    continue;
                }
            };
            for page in &map.pages {
                *live.entry(map.groups[page.group as usize]).or_default() |= 1 << page.slot;
            }
            if body.base.is_some_and(|base| !needed.contains(&base.id)) {
                self.put_map(id, &Body::Pages(map.body(body.next)))?;
            }
        }
        Ok(live)
    }

    /// Those of `ids` that are stored in pieces.
    fn mapped(&self, ids: &HashSet<ContentId>) -> Result<Vec<ContentId>> {
        let all = ids.iter().map(|id| (*id, WHOLE)).collect();
        let entries = self.kept(&all)?.into_values().flatten();
        Ok(entries.filter(|kept| kept.entry.is_some_and(|it| it.kind == Kind::Map)).map(|kept| kept.id).collect())
    }

    /// The entries named in `live`, by their packs and in the order in which they stand there.
    fn kept(&self, live: &HashMap<ContentId, u32>) -> Result<HashMap<u32, Vec<Kept>>> {
        let mut kept: HashMap<u32, Vec<Kept>> = HashMap::new();
        for (id, location) in &self.inner().index {
            if let Some(live) = live.get(id) {
                let item = Kept { id: *id, location: *location, entry: None, live: *live };
                kept.entry(location.pack).or_default().push(item);
            }
        }
        for (number, items) in &mut kept {
            items.sort_unstable_by_key(|item| item.location.offset);
            let pack = match Pack::open(&self.dir, *number) {
                Ok(pack) => pack,
                Err(Error::PackDamaged { .. }) => continue,
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for item in items {
                item.entry = pack.entry(item.location.offset)?.filter(|entry| entry.id == item.id);
            }
        }
        Ok(kept)
    }

    /// Copies entries to the current pack; `false` if one of them can't be read.
    fn copy_out(&self, keep: &[Kept]) -> Result<bool> {
        for item in keep {
            if let Err(error) = self.copy(item) {
                unless_damaged(error)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes what is needed of an entry a second time, elsewhere.
    fn copy(&self, item: &Kept) -> Result<()> {
        let mut reader = self.reader();
        let (entry, location) = reader.entry(&item.id)?;
        match entry.kind {
            Kind::Plain => self.copy_content(&item.id, location),
            Kind::Map => {
                let body = reader.map(&item.id)?;
                self.put_map(item.id, &body)
            }
            Kind::Group => {
                let mut group = reader.group(&item.id)?;
                group.keep(item.live);
                self.put_group(&group).map(drop)
            }
        }
    }

    /// Writes a content a second time, elsewhere. It goes through a temporary file, since it may be longer than memory.
    fn copy_content(&self, id: &ContentId, location: Location) -> Result<()> {
        let mut file = tempfile::tempfile_in(&self.dir).context("make a temporary file in", &self.dir)?;
        self.read_to(id, &mut file)?;
        std::io::Seek::rewind(&mut file).context("read a temporary file in", &self.dir)?;
        self.inner().index.remove(id);
        let taken = self.take(&mut file, &self.dir, None);
        if taken.is_err() {
            self.inner().index.insert(*id, location);
        }
        taken.map(drop)
    }
}

fn is_sparse(keep: &[Kept], length: u64) -> bool {
    let needed: u64 = keep.iter().map(Kept::bytes).sum();
    needed.saturating_mul(100) < length.saturating_sub(HEADER_BYTES).max(1).saturating_mul(WORTH_REWRITING_PERCENT)
}

/// Damage is no reason to give up: what it concerns is left as it is.
fn unless_damaged(error: Error) -> Result<()> {
    match error {
        Error::ContentMissing { .. } | Error::ContentDamaged { .. } | Error::PackDamaged { .. } => Ok(()),
        error => Err(error),
    }
}
