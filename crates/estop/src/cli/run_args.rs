//! The options of `estop run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use estop_watchdog::job::CPU_WEIGHTS;

use crate::config::{self, CpuPercent, Period, Size};

/// Guards one command in the foreground. No configuration file is needed.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct RunArguments {
    /// What to call it; a breach latches this name
    #[arg(long)]
    pub name: Option<String>,
    /// Most memory of the whole tree, such as 2GiB
    #[arg(long, value_name = "SIZE")]
    pub memory_max: Option<Size>,
    /// Largest share of the processors in percent; 100 is one core
    #[arg(long, value_name = "PERCENT")]
    pub cpu_max: Option<CpuPercent>,
    /// Most processes and threads
    #[arg(long, value_name = "N")]
    pub pids_max: Option<u64>,
    /// Longest run time, such as 10m
    #[arg(long, value_name = "DURATION")]
    pub time_max: Option<Period>,
    /// Most memory of each of its processes
    #[arg(long, value_name = "SIZE")]
    pub process_memory_max: Option<Size>,
    /// Share of the processors where other workloads want them too, 1 to 10000; theirs is 100
    #[arg(long, value_name = "N", value_parser = weights())]
    pub cpu_weight: Option<u32>,
    /// Most processor time of the whole tree, such as 1h
    #[arg(long, value_name = "DURATION")]
    pub cpu_time_max: Option<Period>,
    /// Most bytes read and written in a second, such as 50MiB
    #[arg(long, value_name = "SIZE")]
    pub io_max: Option<Size>,
    /// How long it may take to end after it was asked to
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<Period>,
    /// Snapshot this directory first, and put it back after a `CRITICAL_STOP`
    #[arg(long, value_name = "DIR")]
    pub protect: Vec<PathBuf>,
    /// Give it a secret in a variable
    #[arg(long, value_name = "ENV=NAME")]
    pub secret: Vec<Pair>,
    /// Give it a secret in a file of the directory that $`ESTOP_SECRETS_DIR` names
    #[arg(long, value_name = "FILE=NAME")]
    pub secret_file: Vec<Pair>,
    /// What a breach of a limit does
    #[arg(long, value_enum, default_value = "critical-stop")]
    pub on_breach: OnBreach,
    /// Refuse to run with weaker containment
    #[arg(long, value_enum)]
    pub require_tier: Option<Tier>,
    /// Refuse to run where the kernel does not enforce the limits that a kernel can
    #[arg(long)]
    pub enforce_by_kernel: bool,
    /// Run it as this user (root only)
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Write the run's JSON to this file
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Let it gain privileges, as sudo does
    #[arg(long)]
    pub allow_new_privs: bool,
    /// Leave it in this PID namespace
    #[arg(long)]
    pub no_pid_namespace: bool,
    /// Do not keep it from its guard by Landlock and seccomp
    #[arg(long)]
    pub no_landlock: bool,
    /// Do without a cgroup
    #[arg(long, hide = true)]
    pub no_cgroup: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn weights() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(u64::from(*CPU_WEIGHTS.start())..=u64::from(*CPU_WEIGHTS.end()))
}

/// `KEY=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The variable or file.
    pub target: String,
    /// The secret.
    pub name: String,
}

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((target, name))
                if !target.is_empty()
                    && !name.is_empty()
                    && !target.contains(['/', '\0'])
                    && !target.starts_with('.') =>
            {
                Ok(Self { target: target.to_owned(), name: name.to_owned() })
            }
            _ => Err("write KEY=NAME, where NAME is a secret's name".to_owned()),
        }
    }
}

/// What a breach does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnBreach {
    /// Freeze and hold
    Freeze,
    /// Ask, wait, then kill
    Stop,
    /// Kill, latch, recover
    CriticalStop,
}

impl From<OnBreach> for config::OnBreach {
    fn from(on_breach: OnBreach) -> Self {
        match on_breach {
            OnBreach::Freeze => Self::Freeze,
            OnBreach::Stop => Self::Stop,
            OnBreach::CriticalStop => Self::CriticalStop,
        }
    }
}

/// How strong a containment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// A cgroup v2 or a Job Object
    Kernel,
    /// A PID namespace
    Namespace,
    /// Subreaper and sweep
    Tracked,
}

impl From<Tier> for config::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Kernel => Self::Kernel,
            Tier::Namespace => Self::Namespace,
            Tier::Tracked => Self::Tracked,
        }
    }
}
