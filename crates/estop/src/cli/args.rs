//! The commands and their options, as `../shared/CONTRACT.md` names them: once released they only grow.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::RunArguments;
use crate::config::Period;

/// An emergency stop for programs that run on their own.
#[derive(Debug, Parser)]
#[command(name = "estop", version, about, long_about = None, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file
    #[arg(short, long, global = true, env = "ESTOP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state directory
    #[arg(long, global = true, env = "ESTOP_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The run directory
    #[arg(long, global = true, env = "ESTOP_RUN_DIR", value_name = "DIR", hide = true)]
    pub run_dir: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Guard one command in the foreground; no configuration file is needed
    Run(Box<RunArguments>),
    /// Run the daemon in the foreground
    Up,
    /// End the daemon and, asking first, its workloads
    Down,
    /// Start workloads
    Start {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stop workloads: ask, wait, then kill
    Stop {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Why
        #[arg(long, default_value = "stopped by an operator")]
        reason: String,
    },
    /// Stop and start workloads
    Restart {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Freeze workloads and hold them
    Freeze {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let frozen workloads run again
    Thaw {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// `CRITICAL_STOP` of all workloads, or of those named; works without the daemon
    Now {
        /// Their names; all if none is given
        names: Vec<String>,
        /// Why
        #[arg(long, default_value = "estop now")]
        reason: String,
        /// 0 kills at once, 1 asks first
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
        category: u8,
    },
    /// Release the latch after an emergency; starts nothing
    Reset {
        /// The workloads to release; everything if none is given
        names: Vec<String>,
        /// Why
        #[arg(long, default_value = "released by an operator")]
        reason: String,
    },
    /// Change limits while a workload runs
    #[command(subcommand)]
    Limit(LimitCommand),
    /// Show the latch, the daemon, workloads, stores and secrets
    Status,
    /// Show a workload's output
    Logs {
        /// Its name
        name: String,
        /// Go on showing what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Show a workload's processes, those that have ended too
    Inspect {
        /// Its name
        name: String,
        /// Show an earlier job of it
        #[arg(long, value_name = "ID")]
        job: Option<String>,
    },
    /// Snapshots of a store: a configured name, or any directory's path
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Put a store back, or only the paths named
    Rollback {
        /// A configured name, or a directory's path
        store: String,
        /// A snapshot's id, `lsn:N`, or a time (RFC 3339)
        #[arg(long, value_name = "POINT")]
        to: String,
        /// Only this path and what is below it
        #[arg(long = "path", value_name = "P")]
        paths: Vec<PathBuf>,
        /// Change nothing, say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Go on although writers are alive
        #[arg(long)]
        force: bool,
        /// Put set-uid and set-gid bits and file capabilities back too
        #[arg(long)]
        privileges: bool,
    },
    /// Change several files of a store together, or none of them
    #[command(subcommand)]
    Tx(TxCommand),
    /// Show a store's transaction log: every operation on every path
    Log {
        /// A configured name, or a directory's path
        store: String,
        /// Go on showing what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Replace secrets by new ones, test them, tell the subscribers, revoke the old ones
    Rotate {
        /// Their names
        #[arg(required_unless_present_any = ["exposed_to", "all"])]
        names: Vec<String>,
        /// All that this workload was given
        #[arg(long, value_name = "WORKLOAD", conflicts_with_all = ["names", "all"])]
        exposed_to: Option<String>,
        /// All that the configuration says how to make
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Revoke the old ones at once
        #[arg(long)]
        emergency: bool,
        /// Change nothing, say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Revoke the old ones even where no new one can be made
        #[arg(long, requires = "emergency")]
        revoke_anyway: bool,
    },
    /// Incidents
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// The critical-failure log
    #[command(subcommand)]
    Record(RecordCommand),
    /// Practise an emergency in a sandbox
    Drill {
        /// Which one
        #[arg(value_enum, default_value = "runaway")]
        scenario: Scenario,
    },
    /// Check what this host offers
    Doctor,
    /// Measure the success criteria on this host
    Bench {
        /// Which parts of it; all if none is named
        #[arg(value_enum)]
        parts: Vec<BenchPart>,
        /// How often each measurement is repeated
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Sizes of the process trees, with commas, in place of 1 to 5,000
        #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        processes: Vec<u64>,
    },
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// The daemon as a service of Windows
    #[command(subcommand, hide = cfg!(not(windows)))]
    Service(ServiceCommand),
    /// What the program's own sandboxes need of a host, also where it has no common shell
    #[command(name = "__helper", hide = true, subcommand)]
    Helper(HelperCommand),
    /// The villain of a drill
    #[command(name = "__drill-agent", hide = true)]
    DrillAgent {
        /// The knowledge base that it works on, and ruins
        knowledge: PathBuf,
        /// Where it leaves word of what it does
        signs: PathBuf,
    },
}

/// The daemon as a service of Windows. All but `status` need an administrator.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Make it a service that starts with the system, with this configuration and state directory
    Install {
        /// The service's name
        #[arg(long, default_value = "estop")]
        name: String,
        /// Have it started by hand only
        #[arg(long)]
        manual: bool,
    },
    /// Start it, and wait until it runs
    Start {
        /// The service's name
        #[arg(long, default_value = "estop")]
        name: String,
    },
    /// End the daemon; its workloads go on under their guardians
    Stop {
        /// The service's name
        #[arg(long, default_value = "estop")]
        name: String,
    },
    /// Show it
    Status {
        /// The service's name
        #[arg(long, default_value = "estop")]
        name: String,
    },
    /// End it and make it no service any more
    Uninstall {
        /// The service's name
        #[arg(long, default_value = "estop")]
        name: String,
    },
    /// What the service control manager starts
    #[command(hide = true)]
    Run {
        /// The service's name
        #[arg(long)]
        name: String,
    },
}

/// What the program's own sandboxes need.
#[derive(Debug, Subcommand)]
pub enum HelperCommand {
    /// Write standard input to a file
    WriteDown {
        /// The file
        to: PathBuf,
    },
    /// Be so many processes that sleep, for ten minutes at most
    Sleepers {
        /// How many
        count: u64,
        /// A file that is made when they are there
        sign: Option<PathBuf>,
    },
}

/// Limits.
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    /// Set limits: `memory_max=2GiB`, `memory.stop=2GiB`, `cpu.warn=80%`, `pids.freeze=100`, `time.stop=1h`
    Set {
        /// The workload
        name: String,
        /// The limits
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
}

/// Snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Make one
    Create {
        /// The store
        store: String,
        /// What to call it
        #[arg(long)]
        label: Option<String>,
        /// Never remove it by rotation
        #[arg(long)]
        pin: bool,
    },
    /// List them
    List {
        /// The store
        store: String,
    },
    /// Show one
    Show {
        /// The store
        store: String,
        /// Its id
        snapshot: String,
    },
    /// Show what differs between two points, or a point and the store as it is
    Diff {
        /// The store
        store: String,
        /// From this point
        from: String,
        /// To this point; to the store as it is, if none is given
        to: Option<String>,
    },
    /// Check that one can be restored: reads everything
    Verify {
        /// The store
        store: String,
        /// Its id; the latest if none is given
        snapshot: Option<String>,
        /// Compare the store as it is with it, byte by byte
        #[arg(long)]
        live: bool,
    },
    /// Never remove one by rotation
    Pin {
        /// The store
        store: String,
        /// Its id
        snapshot: String,
    },
    /// Let rotation remove one
    Unpin {
        /// The store
        store: String,
        /// Its id
        snapshot: String,
    },
    /// Remove those that no rule keeps; the configured rules, if none is given
    Prune {
        /// The store
        store: String,
        /// Keep so many of the latest
        #[arg(long)]
        keep_last: Option<usize>,
        /// Keep the latest of so many hours
        #[arg(long)]
        keep_hourly: Option<usize>,
        /// Keep the latest of so many days
        #[arg(long)]
        keep_daily: Option<usize>,
        /// Keep the latest of so many weeks
        #[arg(long)]
        keep_weekly: Option<usize>,
        /// Keep the latest of so many months
        #[arg(long)]
        keep_monthly: Option<usize>,
        /// Keep all that are younger
        #[arg(long, value_name = "DURATION")]
        keep_within: Option<Period>,
        /// Change nothing, say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Make the catalogue anew from log and packs
    Rebuild {
        /// The store
        store: String,
    },
    /// Restore one into an empty directory
    Restore {
        /// The store
        store: String,
        /// A snapshot's id, `lsn:N`, or a time
        snapshot: String,
        /// The directory, absent or empty
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// Set-uid and set-gid bits and file capabilities too
        #[arg(long)]
        privileges: bool,
    },
}

/// Transactions.
#[derive(Debug, Subcommand)]
pub enum TxCommand {
    /// Begin one, and print its id; it waits a day for its end
    Begin {
        /// A configured name, or a directory's path
        store: String,
    },
    /// Put a file; its content is read from standard input
    Put {
        /// The transaction's id
        tx: String,
        /// The file, as it is named in the store
        path: PathBuf,
        /// Read the content from this file instead
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Its permission bits, octal; those of the file that is there, or what fits the directory, if none are given
        #[arg(long, value_name = "MODE", value_parser = permission_bits)]
        mode: Option<u32>,
    },
    /// Delete a file, or a directory with all that is in it
    Delete {
        /// The transaction's id
        tx: String,
        /// The path, as it is named in the store
        path: PathBuf,
    },
    /// Give a file, or a directory with all that is in it, another name
    Rename {
        /// The transaction's id
        tx: String,
        /// The path, as it is named in the store
        path: PathBuf,
        /// Its new path
        to: PathBuf,
    },
    /// Do all of it, unless something that it touches was changed meanwhile
    Commit {
        /// The transaction's id
        tx: String,
        /// Have the jobs that write to the store stand still meanwhile, so that they never see half of it
        #[arg(long)]
        freeze: bool,
    },
    /// Give it up
    Rollback {
        /// The transaction's id
        tx: String,
    },
    /// List those that wait for their end
    List {
        /// A configured name, or a directory's path
        store: String,
    },
}

fn permission_bits(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "three octal digits at most, such as 644".to_owned())
}

/// Secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Put a new version; the value is read from standard input
    ///
    /// It is taken as it is, but for one newline at its end, which `echo` and editors add; where it ends with several, all are kept.
    /// At a terminal it is one line, and is not shown. Without --expect it is put on top of whatever is current.
    Put {
        /// Its name
        name: String,
        /// Only if this is the current version (0: it must not exist)
        #[arg(long, value_name = "VERSION")]
        expect: Option<u64>,
    },
    /// Print the value
    Get {
        /// Its name
        name: String,
        /// Which version; the current one if none is given
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
    },
    /// List the names
    List,
    /// List the versions
    Versions {
        /// Its name
        name: String,
    },
    /// Show which workloads received which version
    Exposure {
        /// Its name
        name: String,
    },
}

/// Incidents.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// List them, newest first
    List,
    /// Show one
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Show each step as it happens
    Follow {
        /// Its id
        id: String,
    },
    /// Let the steps go on that wait for a person
    Approve {
        /// Its id
        id: String,
        /// Only this step: rollback, rotate, restart
        #[arg(long)]
        step: Option<String>,
    },
    /// Go on with one that was interrupted
    Resume {
        /// Its id
        id: String,
    },
    /// Close one; what is left of it is not done
    Abort {
        /// Its id
        id: String,
        /// Why
        #[arg(long, default_value = "aborted by an operator")]
        reason: String,
    },
    /// Print all there is on one
    Export {
        /// Its id
        id: String,
    },
}

/// The critical-failure log.
#[derive(Debug, Subcommand)]
pub enum RecordCommand {
    /// Check its chain: finds any changed, missing or swapped line
    Verify,
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check it against this host
    Check,
    /// Print its JSON schema
    Schema,
}

/// What to practise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// An agent goes wrong: shreds and encrypts files, spawns children, eats memory
    Runaway,
}

/// What a bench measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchPart {
    /// What watching costs; freezing and stopping beside the kernel's own time; how soon limits are acted on
    Watchdog,
    /// Snapshots and rollbacks
    Data,
    /// Rotations
    Keys,
    /// The daemon's memory
    Daemon,
}
