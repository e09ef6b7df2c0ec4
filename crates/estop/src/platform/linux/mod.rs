//! The program on Linux.

pub(crate) mod account;
pub(crate) mod bare;
pub(crate) mod channel;
pub(crate) mod commands;
pub(crate) mod ending;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod foreground;
pub(crate) mod host;
pub(crate) mod places;
pub(crate) mod pressure;
pub(crate) mod processes;
pub(crate) mod programs;
mod scope;
pub(crate) mod service;
pub(crate) mod terminal;
pub(crate) mod words;
