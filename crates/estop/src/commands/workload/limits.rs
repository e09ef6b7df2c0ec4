//! `KEY=VALUE` of `estop limit set`.

use estop_watchdog::job::{CPU_WEIGHTS, Limits};
use estop_watchdog::ladder::{Metric, Steps, Thresholds};

use crate::config::{CpuPercent, Period, Size};
use crate::failure::{Failure, Result};

const HINT: &str = "write memory_max, cpu_max, pids_max, time_max, process_memory_max, cpu_weight, cpu_time_max or io_max, or METRIC.RUNG (memory, cpu, pids, time, process_memory, cpu_time, io; warn, throttle, freeze, stop), then = and the value, or `none`";

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
            let named = |known: &Metric| known.to_string().replace('-', "_") == metric;
            let metric = Metric::ALL.into_iter().find(named).ok_or_else(wrong)?;
            let number = number(metric, value)?;
            *rung_of(thresholds.of_mut(metric), rung).ok_or_else(wrong)? = number;
            refuse_disorder(thresholds.of(metric), assignment)?;
        }
    }
    let reached = Metric::ALL.into_iter().any(|metric| {
        let Steps { warn, throttle, freeze, stop } = *thresholds.of(metric);
        [warn, throttle, freeze, stop].contains(&Some(0.0))
    });
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

#[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 is enough")]
fn number(metric: Metric, value: Option<&str>) -> Result<Option<f64>> {
    Ok(match metric {
        Metric::Memory | Metric::ProcessMemory | Metric::Io => parse::<Size>(value)?.map(|size| size.bytes() as f64),
        Metric::Cpu => parse::<CpuPercent>(value)?.map(CpuPercent::cores),
        Metric::Pids => parse::<u64>(value)?.map(|pids| pids as f64),
        Metric::Time | Metric::CpuTime => parse::<Period>(value)?.map(|time| time.duration().as_secs_f64()),
    })
}

fn rung_of<'a>(steps: &'a mut Steps, rung: &str) -> Option<&'a mut Option<f64>> {
    match rung {
        "warn" => Some(&mut steps.warn),
        "throttle" => Some(&mut steps.throttle),
        "freeze" => Some(&mut steps.freeze),
        "stop" => Some(&mut steps.stop),
        _ => None,
    }
}

fn refuse_disorder(steps: &Steps, assignment: &str) -> Result<()> {
    let rungs: Vec<f64> = [steps.warn, steps.throttle, steps.freeze, steps.stop].into_iter().flatten().collect();
    if rungs.is_sorted() {
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
        assert_eq!(thresholds.memory.stop, Some(f64::from(1 << 30)));
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
        assert_eq!((thresholds.cpu_time.warn, thresholds.io.stop), (Some(300.0), Some(f64::from(40 << 20))));
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
