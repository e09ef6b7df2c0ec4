//! estop: an emergency stop for programs that run on their own.

#![forbid(unsafe_code)]

pub mod brain;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod failure;
pub mod site;
