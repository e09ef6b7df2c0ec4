//! What is measured, and in what.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::WINDOW;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Memory that cannot be dropped (anonymous and shared), in bytes.
    Memory,
    /// Cores busy, averaged over [`WINDOW`]: 1.0 is one core.
    Cpu,
    /// Processes and threads.
    Pids,
    /// Seconds since the start.
    Time,
    /// Memory of the largest process, in bytes.
    ProcessMemory,
    /// CPU time of all processes that ever were in the job, in seconds.
    CpuTime,
    /// Bytes read and written in a second, averaged over [`WINDOW`].
    Io,
    /// Memory that was swapped out, in bytes.
    Swap,
    /// The share of the time in which its share of the processors was used up, averaged over [`WINDOW`].
    CpuThrottled,
    /// The share of the time in which some of its threads waited for a processor, averaged over [`WINDOW`]. See the kernel's
    /// "Pressure Stall Information".
    CpuPressure,
    /// The same for memory.
    MemoryPressure,
    /// The same for input and output.
    IoPressure,
    /// Open descriptors, on Windows handles, of all its processes.
    OpenFiles,
    /// Bytes of output written in a second, averaged over [`WINDOW`].
    Output,
    /// The share of the host's memory that is in use: what the kernel could not give to a new program.
    HostMemory,
    /// As [`Metric::CpuPressure`], of the whole host.
    HostCpuPressure,
    /// As [`Metric::MemoryPressure`], of the whole host.
    HostMemoryPressure,
    /// As [`Metric::IoPressure`], of the whole host.
    HostIoPressure,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; METRICS] = [
        Self::Memory,
        Self::Cpu,
        Self::Pids,
        Self::Time,
        Self::ProcessMemory,
        Self::CpuTime,
        Self::Io,
        Self::Swap,
        Self::CpuThrottled,
        Self::CpuPressure,
        Self::MemoryPressure,
        Self::IoPressure,
        Self::OpenFiles,
        Self::Output,
        Self::HostMemory,
        Self::HostCpuPressure,
        Self::HostMemoryPressure,
        Self::HostIoPressure,
    ];

    /// Its place in [`Metric::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// As a configuration names it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Time => "time",
            Self::ProcessMemory => "process_memory",
            Self::CpuTime => "cpu_time",
            Self::Io => "io",
            Self::Swap => "swap",
            Self::CpuThrottled => "cpu_throttled",
            Self::CpuPressure => "cpu_pressure",
            Self::MemoryPressure => "memory_pressure",
            Self::IoPressure => "io_pressure",
            Self::OpenFiles => "open_files",
            Self::Output => "output",
            Self::HostMemory => "host_memory",
            Self::HostCpuPressure => "host_cpu_pressure",
            Self::HostMemoryPressure => "host_memory_pressure",
            Self::HostIoPressure => "host_io_pressure",
        }
    }

    /// In what it is counted.
    pub fn unit(self) -> Unit {
        match self {
            Self::Memory | Self::ProcessMemory | Self::Swap => Unit::Bytes,
            Self::Cpu => Unit::Cores,
            Self::Pids | Self::OpenFiles => Unit::Number,
            Self::Time | Self::CpuTime => Unit::Seconds,
            Self::Io | Self::Output => Unit::BytesPerSecond,
            Self::CpuThrottled | Self::CpuPressure | Self::MemoryPressure | Self::IoPressure => Unit::Share,
            Self::HostMemory | Self::HostCpuPressure | Self::HostMemoryPressure | Self::HostIoPressure => Unit::Share,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key().replace('_', "-"))
    }
}

/// In what a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Cores: 1.0 is one core busy.
    Cores,
    /// A number of things.
    Number,
    /// Seconds.
    Seconds,
    /// A share, of the time or of what there is, 1.0 being all of it.
    Share,
}

/// How many metrics there are.
pub(super) const METRICS: usize = 18;
