//! `KEY=VALUE` of `estop limit set`.

use estop_watchdog::job::Limits;
use estop_watchdog::ladder::{Metric, Steps, Thresholds};

use crate::config::{CpuPercent, Period, Size};
use crate::failure::{Failure, Result};

const HINT: &str = "write memory_max, cpu_max, pids_max or time_max, or METRIC.RUNG (memory, cpu, pids, time; warn, throttle, freeze, stop), then = and the value, or `none`";

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
        key => {
            let (metric, rung) = key.split_once('.').ok_or_else(wrong)?;
            let metric = Metric::ALL.into_iter().find(|known| known.to_string() == metric).ok_or_else(wrong)?;
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

#[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 is enough")]
fn number(metric: Metric, value: Option<&str>) -> Result<Option<f64>> {
    Ok(match metric {
        Metric::Memory => parse::<Size>(value)?.map(|size| size.bytes() as f64),
        Metric::Cpu => parse::<CpuPercent>(value)?.map(CpuPercent::cores),
        Metric::Pids => parse::<u64>(value)?.map(|pids| pids as f64),
        Metric::Time => parse::<Period>(value)?.map(|time| time.duration().as_secs_f64()),
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
    fn what_makes_no_sense_is_refused() {
        for wrong in [
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
