//! estop: an emergency stop for programs that run on their own.

#![deny(unsafe_code)]

pub mod brain;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod failure;
mod platform;
pub mod site;
