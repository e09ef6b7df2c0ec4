//! Storing a content as pages: only those that the version before does not have.
//!
//! In memory while that is done: 40 bytes for each page of the version before (its map), 48 for each that differs, and 20 to 40 for each
//! of both once one differs, by which pages are found that were moved. While a full map is written, 100 more for each page. So a file
//! of 10 GB takes 200 MB, and 450 MB for a moment; none of it grows with what the pages hold.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::format::Kind;
use super::group::{Group, PAGE_BYTES, PageHash, hash};
use super::map::{Body, Division, Page, PageMap};
use super::{ContentId, Packs};
use crate::Result;
use crate::error::Context as _;

/// So much is read at a time; whole pages.
const READ_BYTES: usize = 64 * PAGE_BYTES;

/// A content on its way into the packs.
struct Paging<'a> {
    packs: &'a Packs,
    base: PageMap,
    /// The base's groups and the new ones. The last one has no name yet while it is open.
    groups: Vec<ContentId>,
    open: Option<Group>,
    /// What differs from the base, in order.
    changed: Vec<(u64, Page)>,
    /// Pages of the base, and then of `changed`, by the beginnings of their hashes; made when the first page differs.
    known: Option<HashMap<u64, u32>>,
    unchanged: u64,
}

impl Packs {
    /// Stores what `source` gives as pages, building on content `base` if its map can be read.
    pub(super) fn take_pages(
        &self,
        source: &mut dyn Read,
        path: &Path,
        base: Option<ContentId>,
        is_database: bool,
    ) -> Result<(ContentId, u64)> {
        let base = base.and_then(|id| Some((id, self.reader().page_map(&id).ok()?)));
        let (base, map) = base.map_or_else(|| (None, PageMap::default()), |(id, map)| (Some(id), map));
        let groups = map.groups.clone();
        let mut paging =
            Paging { packs: self, base: map, groups, open: None, changed: Vec::new(), known: None, unchanged: 0 };
        let mut whole = blake3::Hasher::new();
        let mut size = 0;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = fill(source, &mut buffer).context("read", path)?;
            whole.update(&buffer[..read]);
            for page in buffer[..read].chunks(PAGE_BYTES) {
                paging.take(size / PAGE_BYTES as u64, page)?;
                size += page.len() as u64;
            }
            if read < buffer.len() {
                break;
            }
        }
        paging.close_group()?;
        let id = ContentId(*whole.finalize().as_bytes());
        paging.finish(id, size, base, is_database)?;
        Ok((id, size))
    }

    pub(super) fn put_group(&self, group: &Group) -> Result<ContentId> {
        let id = group.id();
        self.put(id, &group.encode(), Kind::Group)?;
        Ok(id)
    }
}

/// Reads until `buffer` is full or there is no more.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn beginning(hash: &PageHash) -> u64 {
    u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

impl Paging<'_> {
    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let hash = hash(bytes);
        let there = usize::try_from(at).ok().and_then(|at| self.base.pages.get(at));
        if there.is_some_and(|page| page.hash == hash) {
            self.unchanged += 1;
            return Ok(());
        }
        let page = match self.find(&hash) {
            Some(page) => page,
            None => self.add(bytes, hash)?,
        };
        self.changed.push((at, page));
        Ok(())
    }

    /// A page with this hash that stands somewhere else.
    fn find(&mut self, hash: &PageHash) -> Option<Page> {
        let base = &self.base.pages;
        let known = self.known.get_or_insert_with(|| {
            let numbered = base.iter().zip(0..);
            numbered.map(|(page, number)| (beginning(&page.hash), number)).collect()
        });
        let number = *known.get(&beginning(hash))? as usize;
        let page = base.get(number).or_else(|| Some(&self.changed.get(number - base.len())?.1))?;
        (page.hash == *hash).then_some(*page)
    }

    /// Puts a page that is nowhere yet into a group.
    fn add(&mut self, bytes: &[u8], hash: PageHash) -> Result<Page> {
        if self.open.as_ref().is_some_and(Group::is_full) {
            self.close_group()?;
        }
        let open = self.open.get_or_insert_with(|| {
            self.groups.push(ContentId([0; 32]));
            Group::new(self.packs.salt())
        });
        let slot = open.push(bytes, hash);
        // More groups than fit would take terabytes of memory first.
        let group = u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX);
        if let (Some(known), Ok(number)) = (&mut self.known, u32::try_from(self.base.pages.len() + self.changed.len()))
        {
            known.insert(beginning(&hash), number);
        }
        Ok(Page { hash, group, slot })
    }

    fn close_group(&mut self) -> Result<()> {
        if let (Some(group), Some(name)) = (self.open.take(), self.groups.last_mut()) {
            *name = self.packs.put_group(&group)?;
        }
        Ok(())
    }

    /// Writes the map of what was taken, which is content `id`.
    fn finish(mut self, id: ContentId, size: u64, base: Option<ContentId>, is_database: bool) -> Result<()> {
        if base == Some(id) || self.packs.is_whole(&id)? {
            return Ok(());
        }
        let pages = size.div_ceil(PAGE_BYTES as u64);
        // A file of which most pages are somewhere else than before has things inserted into it.
        let settled = is_database || base.is_none() || self.unchanged * 2 >= pages;
        let next = if settled { Division::Pages } else { Division::Chunks };
        // A content that is there, but not whole, may be what the base builds on.
        let base = base.filter(|_| !self.packs.contains(&id));
        let difference = base.and_then(|base| self.base.difference(base, next, size, &self.groups, &self.changed));
        let body = difference.unwrap_or_else(|| {
            let mut full = std::mem::take(&mut self.base);
            full.size = size;
            full.groups = self.groups;
            full.pages.truncate(usize::try_from(pages).unwrap_or(usize::MAX));
            for (at, page) in self.changed {
                match usize::try_from(at).ok().and_then(|at| full.pages.get_mut(at)) {
                    Some(place) => *place = page,
                    None => full.pages.push(page),
                }
            }
            full.body(next)
        });
        self.packs.put_map(id, &Body::Pages(body))
    }
}
