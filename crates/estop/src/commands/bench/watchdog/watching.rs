//! What a guardian costs that watches a tree of sleeping processes.

use std::time::{Duration, Instant};

use estop_watchdog::job::Tier;

use super::{Interrupt, Measurement, Stops, Tree, Unit, middle};
use crate::failure::{Failure, Result};
use crate::platform::processes::{cpu_time, memory};
use crate::site::Site;

/// How long one tree is watched, for each round.
const WATCH: Duration = Duration::from_millis(1200);
/// How often it is sampled: as ever, and seldom.
const INTERVALS: [(Duration, &str); 2] = [(Duration::from_millis(100), ""), (Duration::from_secs(1), "_1_hz")];
/// The aim, in shares of a core.
const SHARE: f64 = 0.001;
/// The aim, in bytes.
const MEMORY: f64 = (4 << 20) as f64;

/// Watches trees of `processes` processes. A host on which such a tree is not there in time is measured without.
pub(super) fn measure(
    site: &Site,
    processes: u64,
    rounds: u32,
    stops: &mut Stops,
    interrupt: &Interrupt,
) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for (interval, suffix) in INTERVALS {
        let name = format!("monitoring_overhead_{processes}_processes{suffix}");
        let tree = match Tree::sleeping(site, format!("watched-{processes}{suffix}"), processes, interval, interrupt) {
            Ok(tree) => tree,
            Err(failure) => {
                interrupt.check()?;
                measurements.push(Measurement::missing(name, Unit::Ratio, failure.message));
                continue;
            }
        };
        let share = share_of_core(tree.guardian(), WATCH * rounds, interrupt)?;
        let taken = memory(tree.guardian());
        let stopped = tree.stop()?;
        stops.count(&stopped.report);
        let over = format!("mean over {:.1} s", (WATCH * rounds).as_secs_f64());
        let mut overhead = Measurement::middle(name, Unit::Ratio, vec![share]).below(SHARE);
        overhead.detail = format!("{over}; {}", sampling_in(stopped.report.tier, interval));
        measurements.push(overhead);
        if suffix.is_empty() {
            let name = format!("guardian_memory_{processes}_processes");
            let values = taken.iter().map(|taken| taken.private).collect();
            let measured = middle(name, Unit::Bytes, values, Some("the system does not tell")).below(MEMORY);
            measurements.push(measured.with(&taken.map(|taken| taken.made_of).unwrap_or_default()));
        }
    }
    Ok(measurements)
}

/// How often a job of this tier is sampled.
fn sampling_in(tier: Tier, interval: Duration) -> String {
    let often = format!("{:.0} samples a second", 1.0 / interval.as_secs_f64());
    match tier {
        Tier::Kernel => often,
        // Without a cgroup's counters a sample costs a look at each process; a guardian bounds what that may cost in all.
        Tier::Namespace | Tier::Tracked => format!("at most {often}: fewer where they are dear, without a cgroup"),
    }
}

/// The share of one core that the process `pid` used for a while.
fn share_of_core(pid: u32, watch: Duration, interrupt: &Interrupt) -> Result<f64> {
    let gone = || Failure::failed("a guardian ended while it was measured", "this is an error in estop");
    let (before, started) = (cpu_time(pid).ok_or_else(gone)?, Instant::now());
    while started.elapsed() < watch {
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(50).min(watch));
    }
    let (after, elapsed) = (cpu_time(pid).ok_or_else(gone)?, started.elapsed());
    Ok(after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64())
}
