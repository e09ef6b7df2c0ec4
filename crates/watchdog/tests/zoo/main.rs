//! The zoo: programs that resist being stopped, each in each tier, and a look at what is left that asks nobody but the kernel.
//!
//! Without arguments twenty stops of each, or `ESTOP_ZOO_STOPS`. `ESTOP_ZOO_SECONDS=600 … claim --ignored` goes on for that long and keeps its counts in
//! the file `ESTOP_ZOO_COUNTS`, so that it can be taken up again.
//!
//! This one program is the test, the guardian and the animal, so that it needs no test harness that would stand before `main`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(target_os = "linux")]
mod animals;
#[cfg(target_os = "linux")]
mod cage;
#[cfg(target_os = "linux")]
mod claim;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod sight;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use libtest_mimic::{Arguments, Trial};

    use keeper::{Housing, Keeper};

    estop_watchdog::guardian::enter(&keeper::NoRecord);
    if let Some(name) = std::env::var_os(animals::ANIMAL) {
        animals::live(name.to_str().unwrap());
    }
    // Without the variable, what this host does not have is shown as ignored.
    let all = std::env::var_os("ESTOP_TEST_REQUIRE_ALL").is_some();
    let fast = Housing::ALL.into_iter().flat_map(|housing| {
        let left_out = !all && !housing.is_offered();
        animals::NAMES.iter().map(move |animal| {
            let trial = move || {
                Keeper::new().stop_often(housing, animal, keeper::fast());
                Ok(())
            };
            Trial::test(format!("{}::{animal}", housing.name()), trial).with_ignored_flag(left_out)
        })
    });
    let claims = Housing::ALL.into_iter().map(|housing| {
        let trial = move || {
            claim::count(housing);
            Ok(())
        };
        Trial::test(format!("{}::claim", housing.name()), trial).with_ignored_flag(true)
    });
    libtest_mimic::run(&Arguments::from_args(), fast.chain(claims).collect()).exit_code()
}

/// Windows' villains are those of the test `windows`.
#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), Vec::new()).exit_code()
}
