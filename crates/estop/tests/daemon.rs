//! The daemon: what it starts goes on without it, and the next one takes it over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod daemon {
    mod adoption;
    #[cfg(unix)]
    mod evidence;
    mod health;
    mod incidents;
    #[cfg(unix)]
    mod kept;
    #[cfg(unix)]
    mod output;
    mod schedule;
    mod secrets;
    #[cfg(unix)]
    mod stuck;
    mod thresholds;
    #[cfg(unix)]
    mod together;
    mod workloads;
}
mod scene;
