//! What a stop does without: descriptors, memory, processes, processors, a disk, the brain, and the guardian itself.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod faults {
    mod injected;
    mod killed;
    mod path;
    mod starved;
    mod trace;
}
mod scene;
