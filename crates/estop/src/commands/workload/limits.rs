//! `KEY=VALUE` of `estop limit set`.

use std::str::FromStr;

use estop_watchdog::job::{CPU_WEIGHTS, Limits};
use estop_watchdog::ladder::{Metric, Rung, Step, Steps, Thresholds, Unit};

use crate::config::units::UnitError;
use crate::config::{self, Count, CpuPercent, Percent, Period, Size};
use crate::failure::{Failure, Result};

const HINT: &str = "write memory_max, cpu_max, pids_max, time_max, process_memory_max, cpu_weight, cpu_time_max or io_max, or METRIC.RUNG (as in [workload.NAME.limits]: memory.warn, cpu.stop, …), then = and the value (for a rung also `80% of max`, and ` for 30s` behind it), or `none`";

/// Applies one assignment.
///
/// # Errors
/// If the key or the value makes no sense.
pub(super) fn apply(limits: &mut Limits, thresholds: &mut Thresholds, assignment: &str) -> Result<()> {
    let wrong = || Failure::usage(format!("{assignment:?} is no limit"), HINT);
    let (key, value) = assignment.split_once('=').ok_or_else(wrong)?;
    let value = Some(value.trim()).filter(|value| *value != "none");
    match key.trim() {
        "memory_max" => limits.memory_max = parse::<Size>(value)?.map(Size::bytes),
        "cpu_max" => limits.cpu_max = parse::<CpuPercent>(value)?.map(CpuPercent::cores),
        "pids_max" => limits.pids_max = parse::<u64>(value)?,
        "time_max" => limits.time_max = parse::<Period>(value)?.map(Period::duration),
        "process_memory_max" => limits.process_memory_max = parse::<Size>(value)?.map(Size::bytes),
        "cpu_weight" => limits.cpu_weight = weight(value)?,
        "cpu_time_max" => limits.cpu_time_max = parse::<Period>(value)?.map(Period::duration),
        "io_max" => limits.io_max = parse::<Size>(value)?.map(Size::bytes),
        key => {
            let (metric, rung) = key.split_once('.').ok_or_else(wrong)?;
            // Written as in the configuration.
            let metric = Metric::ALL.into_iter().find(|known| known.key() == metric).ok_or_else(wrong)?;
            let rung = Rung::ALL.into_iter().find(|known| known.key() == rung).ok_or_else(wrong)?;
            *thresholds.of_mut(metric).at_mut(rung) = step(metric, value)?;
            refuse_disorder(thresholds.of(metric), assignment)?;
        }
    }
    let reached = Metric::ALL.into_iter().any(|metric| thresholds.of(metric).set().any(|(_, step)| step.at <= 0.0));
    if limits.zero().is_some() || reached {
        return Err(Failure::usage(
            format!("{assignment:?} would leave nothing to run with"),
            "use a value above zero, or `none`",
        ));
    }
    Ok(())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(value: Option<&str>) -> Result<Option<T>> {
    value
        .map(|value| value.parse().map_err(|error: T::Err| Failure::usage(format!("{value:?}: {error}"), HINT)))
        .transpose()
}

fn weight(value: Option<&str>) -> Result<Option<u32>> {
    match parse::<u32>(value)? {
        Some(weight) if !CPU_WEIGHTS.contains(&weight) => Err(Failure::usage(
            format!("{weight} is no weight"),
            format!("weights go from {} to {}", CPU_WEIGHTS.start(), CPU_WEIGHTS.end()),
        )),
        weight => Ok(weight),
    }
}

/// As the configuration writes a rung.
#[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 is enough")]
fn step(metric: Metric, value: Option<&str>) -> Result<Option<Step>> {
    fn read<T: FromStr<Err = UnitError> + Copy>(
        value: Option<&str>,
        number: impl Fn(T) -> f64,
    ) -> Result<Option<Step>> {
        Ok(parse::<config::Rung<T>>(value)?.map(|rung| rung.step(number)))
    }
    match metric.unit() {
        Unit::Bytes | Unit::BytesPerSecond => read(value, |size: Size| size.bytes() as f64),
        Unit::Cores => read(value, CpuPercent::cores),
        Unit::Number => read(value, |count: Count| count.number() as f64),
        Unit::Seconds => read(value, |time: Period| time.duration().as_secs_f64()),
        Unit::Share => read(value, Percent::share),
    }
}

fn refuse_disorder(steps: &Steps, assignment: &str) -> Result<()> {
    // Values among each other, and shares among each other: how those compare depends on the limit.
    let sorted = |of_max| steps.set().filter(|(_, step)| step.of_max == of_max).map(|(_, step)| step.at).is_sorted();
    if sorted(false) && sorted(true) {
        return Ok(());
    }
    Err(Failure::usage(format!("{assignment:?} would put the ladder out of order"), "warn ≤ throttle ≤ freeze ≤ stop"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn applied(assignments: &[&str]) -> Result<(Limits, Thresholds)> {
        let (mut limits, mut thresholds) = (Limits::default(), Thresholds::default());
        for assignment in assignments {
            apply(&mut limits, &mut thresholds, assignment)?;
        }
        Ok((limits, thresholds))
    }

    #[test]
    fn limits_and_rungs_are_set_and_lifted() {
        let (limits, thresholds) =
            applied(&["memory_max=2GiB", "cpu_max=150%", "time_max=1h", "memory.stop=1GiB", "memory.warn=512MiB"])
                .unwrap();
        assert_eq!(limits.memory_max, Some(2 << 30));
        assert_eq!(limits.cpu_max, Some(1.5));
        assert_eq!(limits.time_max, Some(Duration::from_hours(1)));
        assert_eq!(thresholds.memory.stop, Some(f64::from(1 << 30).into()));
        let (_, thresholds) =
            applied(&["memory_max=2GiB", "memory.warn=80% of max for 30s", "cpu.stop=90% for 1m"]).unwrap();
        assert_eq!(thresholds.memory.warn, Some(Step { at: 0.8, of_max: true, for_seconds: 30.0 }));
        assert_eq!(thresholds.cpu.stop, Some(Step { at: 0.9, of_max: false, for_seconds: 60.0 }));
        let (limits, thresholds) = applied(&["pids_max=5", "pids_max=none", "cpu.warn=10%", "cpu.warn=none"]).unwrap();
        assert_eq!((limits.pids_max, thresholds.cpu.warn), (None, None));
    }

    #[test]
    fn each_limit_and_each_metric_can_be_set_and_lifted() {
        let assignments = [
            "process_memory_max=1GiB",
            "cpu_weight=20",
            "cpu_time_max=10m",
            "io_max=50MiB",
            "cpu_time.warn=5m",
            "io.stop=40MiB",
        ];
        let (limits, thresholds) = applied(&assignments).unwrap();
        assert_eq!((limits.process_memory_max, limits.cpu_weight), (Some(1 << 30), Some(20)));
        assert_eq!((limits.cpu_time_max, limits.io_max), (Some(Duration::from_mins(10)), Some(50 << 20)));
        assert_eq!(
            (thresholds.cpu_time.warn, thresholds.io.stop),
            (Some(300.0.into()), Some(f64::from(40 << 20).into()))
        );
        let lifted = assignments.map(|assignment| format!("{}=none", assignment.split_once('=').unwrap().0));
        let all: Vec<&str> = assignments.into_iter().chain(lifted.iter().map(String::as_str)).collect();
        assert_eq!(applied(&all).unwrap(), (Limits::default(), Thresholds::default()));
        for metric in Metric::ALL {
            let key = metric.to_string().replace('-', "_");
            let value = if key.ends_with("time") { "1s" } else { "1" };
            let (_, thresholds) = applied(&[&format!("{key}.warn={value}")]).unwrap();
            assert!(thresholds.of(metric).warn.is_some(), "{key}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "process_memory_max=0",
            "cpu_weight=0",
            "cpu_weight=10001",
            "cpu_weight=1.5",
            "cpu_time_max=0s",
            "io_max=0",
            "cpu-time.warn=1s",
            "io.warn=0",
            "memory",
            "memory=1",
            "memory.max=1",
            "disk.stop=1",
            "memory.stop=-1",
            "pids_max=0",
            "memory_max=0",
            "time_max=abc",
            "cpu_max=0",
            "time_max=0s",
            "time.warn=0s",
            "memory.stop=0",
        ] {
            assert!(applied(&[wrong]).is_err(), "{wrong}");
        }
        assert!(applied(&["memory.stop=1MiB", "memory.warn=2MiB"]).is_err(), "out of order");
    }
}
