//! `estop run` stands between a command and its caller as if it were not there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod run {
    mod codes;
    mod limits;
    mod signals;
    mod streams;
    mod surroundings;
    #[cfg(unix)]
    mod terminal;
}
mod scene;
