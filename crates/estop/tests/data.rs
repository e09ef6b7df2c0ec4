//! The data commands, through the front door: the real program in a directory of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;

#[path = "data/configuration.rs"]
mod configuration;
#[path = "data/incidents.rs"]
mod incidents;
#[path = "data/rotation.rs"]
mod rotation;
#[path = "data/secrets.rs"]
mod secrets;
#[path = "data/snapshots.rs"]
mod snapshots;
#[cfg(not(windows))]
#[path = "data/transactions.rs"]
mod transactions;
