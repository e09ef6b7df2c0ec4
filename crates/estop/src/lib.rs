//! estop: an emergency stop for programs that run on their own.

pub mod config;
