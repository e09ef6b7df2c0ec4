//! Jobs on Windows, with programs that do what they can to get away. Run under Wine where there is no Windows; what Wine takes
//! and does not enforce says so in its name.

#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod windows {
    mod contained;
    mod limited;
    mod scene;
    mod stopped;
    mod villain;
}
