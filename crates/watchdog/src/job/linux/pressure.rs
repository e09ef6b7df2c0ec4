//! "Pressure Stall Information": what the kernel counts of waiting, and tells of by itself.
//!
//! See `Documentation/accounting/psi.rst` of the Linux sources.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::counters::stalled;
use crate::ladder::{Metric, Thresholds, WINDOW};
use crate::monitor::{PRESSURES, Pressure, Tripped};

/// Where the host's pressure is told.
const HOST: &str = "/proc/pressure";
/// The files of the three kinds, as [`PRESSURES`] has them.
const KINDS: [&str; 3] = ["cpu", "memory", "io"];

/// The pressure of a group, or of the host.
#[derive(Debug)]
pub(super) struct Waiting([Option<File>; 3]);

impl Waiting {
    /// That of the cgroup `group`.
    pub(super) fn of_group(group: &Path) -> Self {
        Self(KINDS.map(|kind| File::open(group.join(format!("{kind}.pressure"))).ok()))
    }

    /// That of the host.
    pub(super) fn of_host() -> Self {
        Self(KINDS.map(|kind| File::open(Path::new(HOST).join(kind)).ok()))
    }

    /// Reads those that are `wanted`.
    pub(super) fn read(&self, wanted: [bool; 3]) -> Pressure {
        let mut values =
            self.0.iter().zip(wanted).map(|(file, wanted)| file.as_ref().filter(|_| wanted).and_then(stalled));
        let mut next = || values.next().flatten();
        Pressure { cpu: next(), memory: next(), io: next() }
    }

    /// Whether the one at this place is told at all.
    pub(super) fn tells(&self, place: usize) -> bool {
        self.0[place].as_ref().and_then(stalled).is_some()
    }
}

/// Asks the kernel to tell when a pressure is reached, one question for each of [`PRESSURES`].
#[derive(Debug, Default)]
pub(super) struct Triggers([Option<Asked>; PRESSURES.len()]);

/// One question, at which share it is answered, and whether it was.
#[derive(Debug)]
struct Asked {
    trigger: Trigger,
    share: f64,
    fired: bool,
}

/// A question to the kernel, which answers by priority data when the pressure is reached. It stands as long as this does.
#[derive(Debug)]
pub struct Trigger(File);

impl Triggers {
    /// One for the gravest rung of each pressure in `thresholds`. One that cannot be had leaves it to the samples.
    pub(super) fn set(thresholds: &Thresholds, group: Option<&Path>) -> Self {
        Self(PRESSURES.map(|metric| {
            let steps = thresholds.of(metric);
            let share = steps.max.or_else(|| steps.set().last().map(|(_, step)| step))?.at;
            let path = match KINDS.into_iter().zip(PRESSURES).find(|(_, own)| *own == metric) {
                Some((kind, _)) => group?.join(format!("{kind}.pressure")),
                None => Path::new(HOST).join(kind_of_host(metric)),
            };
            Some(Asked { trigger: Trigger::set(&path, share).ok()?, share, fired: false })
        }))
    }

    /// What to wait for, by priority data.
    pub(super) fn descriptors(&self) -> [Option<BorrowedFd<'_>>; PRESSURES.len()] {
        self.0.each_ref().map(|asked| asked.as_ref().map(|asked| asked.trigger.as_fd()))
    }

    /// The one at this place has fired; or it has failed, as when the group is gone, and says so for ever: it goes.
    pub(super) fn fired(&mut self, place: usize, failed: bool) {
        let Some(slot) = self.0.get_mut(place) else { return };
        if failed {
            *slot = None;
        } else if let Some(asked) = slot {
            asked.fired = true;
        }
    }

    /// Those that have fired since the last call.
    pub(super) fn take(&mut self) -> Tripped {
        self.0.each_mut().map(|asked| {
            let asked = asked.as_mut()?;
            std::mem::take(&mut asked.fired).then_some(asked.share)
        })
    }
}

fn kind_of_host(metric: Metric) -> &'static str {
    match metric {
        Metric::HostCpuPressure => "cpu",
        Metric::HostMemoryPressure => "memory",
        _ => "io",
    }
}

impl Trigger {
    /// Asks when tasks wait for `share` of [`WINDOW`], as the file at `path` counts it.
    ///
    /// # Errors
    /// If there is no such file, or this user may not ask.
    pub fn set(path: &Path, share: f64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let window = WINDOW.as_micros();
        let stall = WINDOW.mul_f64(share.clamp(0.0, 1.0)).as_micros().max(1);
        // The kernel takes the question with the zero that ends it, in one piece.
        file.write_all(format!("some {stall} {window}\0").as_bytes())?;
        Ok(Self(file))
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pressure_has_its_file() {
        assert_eq!(PRESSURES[..3], [Metric::CpuPressure, Metric::MemoryPressure, Metric::IoPressure]);
        assert_eq!(PRESSURES.map(kind_of_host)[3..], KINDS);
    }
}
