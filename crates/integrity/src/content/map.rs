//! Maps: of which pieces a large content is made.
//!
//! A map stands in the packs under the name of its content. Its first 32 bytes are the BLAKE3 of the rest with that name, so that no
//! changed map is ever followed; then one postcard value, a [`Body`].
//!
//! A page map needs a hash and a place for each page: 4.5 MB for 554 MB. That must not be written again for each snapshot, so a map may
//! tell only how its content differs from another one (its base, the version before), whose map tells the rest. Against the usual
//! alternative, a tree of maps with shared branches: 1 % of the pages, changed here and there, reaches three of ten branches of even
//! 32 pages, so the tree would write 1.2 MB where the difference takes 50 KB. A chain costs reads instead. It is bounded by its length
//! ([`MOST_LINKS`]) and by what is on it (at most half as many pages as the content has); then a full map is written. So over time
//! maps cost what they tell of, at most three times, and a 32nd of a full map for each snapshot.
//!
//! What a map says of its base goes by the pages' numbers alone, never by how the base's map is laid out, so the base's map can be
//! written anew, in full, at any time. When the base itself is given up, what builds on it is (see `tidy`).

use serde::{Deserialize, Serialize};

use super::ContentId;
use super::group::{GROUP_PAGES, PAGE_BYTES, PageHash};

/// The longest chain of maps that build on each other, beside the full one at its end.
pub(super) const MOST_LINKS: u32 = 32;
const NAMING: &str = "estop-integrity 2026-11-25 map of a content";

/// How a content is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Division {
    /// Pages of 4 KiB, which are overwritten where they stand.
    Pages,
    /// Chunks whose borders follow from what is in them, so that they move with it.
    Chunks,
}

/// A map as it is stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Body {
    Pages(Pages),
    Chunks(Chunks),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chunks {
    /// How the next version is best divided, as this one and the one before looked.
    pub(super) next: Division,
    pub(super) size: u64,
    /// One after the other, with their lengths.
    pub(super) pieces: Vec<(ContentId, u32)>,
    /// The beginnings of the hashes of some pages, by which it is seen whether pages stay where they are; see `chunks`.
    pub(super) sketch: Vec<u32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pages {
    pub(super) next: Division,
    pub(super) size: u64,
    pub(super) base: Option<Base>,
    /// The groups that `runs` speaks of.
    groups: Vec<ContentId>,
    runs: Vec<Run>,
    /// Of all pages in `runs`, one after the other.
    hashes: Vec<PageHash>,
}

/// The content that another one is told against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) id: ContentId,
    /// How many maps there are from here to the full one.
    links: u32,
    /// How many pages these maps, and this one, tell of beside the full one.
    told: u64,
}

/// Pages one after the other that stand one after the other in a group.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    /// Pages between the end of the run before and this one: those are as in the base.
    skipped: u64,
    count: u32,
    group: u32,
    slot: u8,
}

/// Where a page stands, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) hash: PageHash,
    /// Which of the map's groups.
    pub(super) group: u32,
    pub(super) slot: u8,
}

/// A page map with all its pages, in memory: 40 bytes a page.
#[derive(Debug, Default, PartialEq)]
pub(super) struct PageMap {
    pub(super) size: u64,
    pub(super) groups: Vec<ContentId>,
    pub(super) pages: Vec<Page>,
    links: u32,
    told: u64,
}

impl Body {
    pub(super) fn next(&self) -> Division {
        match self {
            Self::Pages(pages) => pages.next,
            Self::Chunks(chunks) => chunks.next,
        }
    }

    /// The bytes of the map of content `id`.
    pub(super) fn encode(&self, id: &ContentId) -> postcard::Result<Vec<u8>> {
        let mut bytes = postcard::to_extend(self, vec![0; 32])?;
        let check = check(id, &bytes[32..]);
        bytes[..32].copy_from_slice(&check);
        Ok(bytes)
    }

    /// The map of content `id`; nothing if a byte of it is not as it was written.
    pub(super) fn decode(id: &ContentId, bytes: &[u8]) -> Option<Self> {
        let (known, body) = bytes.split_first_chunk::<32>()?;
        if *known != check(id, body) {
            return None;
        }
        match postcard::take_from_bytes(body) {
            Ok((body, [])) => Some(body),
            _ => None,
        }
    }
}

fn check(id: &ContentId, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(NAMING);
    hasher.update(&id.0);
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

impl PageMap {
    /// What `body` tells, where `base` is the map of its base (or an empty one, if it has none); nothing if that can't be.
    pub(super) fn apply(mut self, body: Pages) -> Option<Self> {
        let Pages { size, base, groups, runs, hashes, .. } = body;
        let total = usize::try_from(size.div_ceil(PAGE_BYTES as u64)).ok()?;
        let offset = u32::try_from(self.groups.len()).ok()?;
        let count = groups.len();
        self.groups.extend(groups);
        self.pages.truncate(total);
        let mut hashes = hashes.into_iter();
        let mut at = 0_usize;
        for run in runs {
            at = at.checked_add(usize::try_from(run.skipped).ok()?)?;
            if usize::try_from(run.group).ok()? >= count || usize::from(run.slot) + run.count as usize > GROUP_PAGES {
                return None;
            }
            for slot in (run.slot..).take(run.count as usize) {
                let page = Page { hash: hashes.next()?, group: offset.checked_add(run.group)?, slot };
                let known = self.pages.len();
                match self.pages.get_mut(at) {
                    Some(place) => *place = page,
                    None if at == known && at < total => self.pages.push(page),
                    None => return None,
                }
                at += 1;
            }
        }
        self.size = size;
        (self.links, self.told) = base.map_or((0, 0), |base| (base.links, base.told));
        (hashes.next().is_none() && self.pages.len() == total).then_some(self)
    }

    /// The full map.
    pub(super) fn body(&self, next: Division) -> Pages {
        encode(next, self.size, None, &self.groups, (0..).zip(&self.pages))
    }

    /// A map that tells only `changed`, against content `base`, of which this is the map; nothing if a full one is due.
    pub(super) fn difference(
        &self,
        base: ContentId,
        next: Division,
        size: u64,
        groups: &[ContentId],
        changed: &[(u64, Page)],
    ) -> Option<Pages> {
        let (links, told) = (self.links + 1, self.told + changed.len() as u64);
        let due = links > MOST_LINKS || told > size / PAGE_BYTES as u64 / 2;
        let base = Base { id: base, links, told };
        (!due).then(|| encode(next, size, Some(base), groups, changed.iter().map(|(at, page)| (*at, page))))
    }
}

/// The stored form of `pages`, which are in order, numbered, and stand in `groups`.
fn encode<'a>(
    next: Division,
    size: u64,
    base: Option<Base>,
    groups: &[ContentId],
    pages: impl Iterator<Item = (u64, &'a Page)>,
) -> Pages {
    let mut own = std::collections::HashMap::new();
    let mut body = Pages { next, size, base, groups: Vec::new(), runs: Vec::new(), hashes: Vec::new() };
    let mut end = 0;
    for (at, page) in pages {
        let group = *own.entry(page.group).or_insert_with(|| {
            body.groups.push(groups[page.group as usize]);
            body.groups.len() - 1
        });
        // Fewer than groups of the map, which are counted in the same type.
        let group = u32::try_from(group).unwrap_or(u32::MAX);
        body.hashes.push(page.hash);
        match body.runs.last_mut() {
            Some(run) if at == end && run.group == group && u32::from(run.slot) + run.count == u32::from(page.slot) => {
                run.count += 1;
            }
            _ => body.runs.push(Run { skipped: at - end, count: 1, group, slot: page.slot }),
        }
        end = at + 1;
    }
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(seed: u8, group: u32, slot: u8) -> Page {
        Page { hash: [seed; 32], group, slot }
    }

    fn resolved(map: &PageMap) -> Vec<(PageHash, ContentId, u8)> {
        map.pages.iter().map(|page| (page.hash, map.groups[page.group as usize], page.slot)).collect()
    }

    #[test]
    fn a_difference_and_its_base_make_the_whole() {
        let id = ContentId([1; 32]);
        let full = PageMap {
            size: 40 * 4096,
            groups: vec![ContentId([2; 32]), ContentId([3; 32])],
            pages: (0..40).map(|at| page(at, u32::from(at / 32), at % 32)).collect(),
            ..PageMap::default()
        };
        let body = full.body(Division::Pages);
        assert_eq!(body.runs.len(), 2);
        let bytes = Body::Pages(body).encode(&id).unwrap();
        let Some(Body::Pages(body)) = Body::decode(&id, &bytes) else { panic!() };
        assert_eq!(PageMap::default().apply(body).unwrap(), full);

        let groups = [full.groups.clone(), vec![ContentId([4; 32])]].concat();
        let changed = [(3, page(99, 2, 0)), (4, page(98, 2, 1)), (7, page(0, 0, 0)), (40, page(97, 2, 2))];
        let body = full.difference(id, Division::Pages, 40 * 4096 + 1, &groups, &changed).unwrap();
        assert_eq!((body.runs.len(), body.groups.len()), (3, 2));
        let mut wanted = PageMap { pages: full.pages.clone(), groups, ..PageMap::default() };
        wanted.pages.push(page(0, 0, 0));
        for (at, page) in changed {
            wanted.pages[usize::try_from(at).unwrap()] = page;
        }
        assert_eq!(resolved(&full.apply(body).unwrap()), resolved(&wanted));
    }

    #[test]
    fn every_changed_byte_of_a_map_is_noticed() {
        let id = ContentId([1; 32]);
        let pieces = vec![(ContentId([2; 32]), 7), (ContentId([3; 32]), 9)];
        let bytes = Body::Chunks(Chunks { next: Division::Chunks, size: 16, pieces, sketch: vec![5] });
        let bytes = bytes.encode(&id).unwrap();
        assert!(Body::decode(&id, &bytes).is_some());
        assert!(Body::decode(&ContentId([2; 32]), &bytes).is_none(), "it passes for another content's");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Body::decode(&id, &bad).is_none(), "byte {at}");
        }
        assert!(Body::decode(&id, &bytes[..bytes.len() - 1]).is_none());
    }
}
