//! `estop now` ends jobs whatever state their brain and guardians are in, and nothing that is not a job of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod now {
    #[cfg(unix)]
    mod everyone;
    mod forged;
    mod latch;
    mod order;
}
mod scene;
