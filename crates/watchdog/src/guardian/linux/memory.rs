//! The guardian's memory: what a kill needs is there before it, and stays.

use std::hint::black_box;

/// The heap that is there beforehand: enough for an order, what is remembered of it, and the longest answer.
const HEAP: usize = 256 << 10;
/// The stack that is.
const STACK: usize = 128 << 10;
/// Where a stack may still have to grow, it is not locked: one that is must not grow beyond what a user may lock.
const STACK_FREE: usize = 64 << 10;

/// Has the pages of heap and stack ready that a kill needs, and keeps from being taken away what this process uses, as far as its
/// user may (`RLIMIT_MEMLOCK`). What cannot be had is harmless: then a kill waits for a page as every other process does.
pub(in crate::guardian) fn stay_in_memory() {
    keep_heap();
    fill_stack();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    // What is written to first, which nothing else can bring back where there is no swap to bring it from; then the code.
    for wanted in [is_stack, is_written, is_code] {
        for mapping in maps.lines().filter_map(Mapping::parse).filter(wanted) {
            mapping.lock();
        }
    }
}

/// What the heap has had it keeps, and gets in one piece: then it does not ask the kernel for more in the middle of a kill.
fn keep_heap() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_MMAP_THRESHOLD, 32 << 20)] {
        // SAFETY: takes two numbers. A refusal leaves all as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
    let mut room = vec![0_u8; HEAP];
    for page in room.chunks_mut(4096) {
        page[0] = 1;
    }
    black_box(&room);
}

#[inline(never)]
#[expect(
    clippy::large_stack_arrays,
    reason = "that it is on the stack is the point; the least there can be is far more"
)]
fn fill_stack() {
    let mut room = [0_u8; STACK + STACK_FREE];
    for page in room.chunks_mut(4096) {
        page[0] = 1;
    }
    black_box(&room);
}

/// A line of `/proc/self/maps`.
struct Mapping<'a> {
    begin: usize,
    end: usize,
    rights: &'a str,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (begin, end) = fields.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let rights = fields.next()?;
        Some(Self { begin: number(begin)?, end: number(end)?, rights, name: fields.nth(3).unwrap_or_default() })
    }

    /// Locks what is there of it and what comes to be, and brings nothing in: of a large program most is never used.
    fn lock(&self) {
        let begin = if is_stack(self) { (self.begin + STACK_FREE).min(self.end) } else { self.begin };
        // SAFETY: takes numbers, and changes nothing about what the memory holds.
        unsafe {
            libc::syscall(libc::SYS_mlock2, begin, self.end - begin, libc::MLOCK_ONFAULT);
        }
    }
}

fn is_stack(mapping: &Mapping<'_>) -> bool {
    mapping.name == "[stack]"
}

fn is_written(mapping: &Mapping<'_>) -> bool {
    mapping.rights.starts_with("rw") && !is_stack(mapping)
}

fn is_code(mapping: &Mapping<'_>) -> bool {
    mapping.rights.starts_with("r-") && !mapping.name.starts_with("[v")
}
