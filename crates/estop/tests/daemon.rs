//! The daemon: what it starts goes on without it, and the next one takes it over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod daemon {
    mod adoption;
    mod health;
    mod incidents;
    mod schedule;
    mod secrets;
    mod thresholds;
    #[cfg(unix)]
    mod together;
    mod workloads;
}
mod scene;
