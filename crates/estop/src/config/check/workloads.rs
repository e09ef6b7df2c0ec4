//! Workloads: command, user, references, limits.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::Path;

use estop_watchdog::job::CPU_WEIGHTS;
use estop_watchdog::ladder::Metric;

use super::secrets::workload_reference;
use crate::config::problem::suggest;
use crate::config::{Ask, At, Command, Config, Count, CpuPercent, KeyPath, Percent, Period, Probe, Problem, Size};
use crate::config::{Ladder, OnBrainLoss, OnBreach, Together, Workload};
use crate::platform::programs::find_program;
use crate::platform::{NoProgram, account, words};

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    for (name, workload) in &config.workloads {
        let key = KeyPath::section("workload").key(name);
        runnable(workload, &key, problems);
        keeping(workload, &key, problems);
        surroundings(workload, &key, problems);
        references(config, workload, &key, problems);
        limits(workload, &key, problems);
        freezing(workload, &key, problems);
        sampling(workload, &key, problems);
        needs(config, name, workload, &key, problems);
        restarting(workload, &key, problems);
    }
    together(config, problems);
    recovery(config, problems);
}

fn runnable(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let directory = workload.directory.as_deref().unwrap_or(Path::new("/"));
    if directory.is_dir() {
        let own = workload.environment.get("PATH").map(|path| OsStr::new(path).to_owned());
        let search = own.or_else(|| std::env::var_os("PATH"));
        command(&workload.command, key.clone().key("command"), directory, search.as_deref(), problems);
        stop_steps(workload, key, directory, search.as_deref(), problems);
    } else {
        problems.push(Problem::at(
            key.clone().key("directory"),
            format!("the directory {} does not exist", directory.display()),
            "create it, or name another",
        ));
    }
    if let Some((message, hint)) = workload.user.as_deref().and_then(account::fault) {
        problems.push(Problem::at(key.clone().key("user"), message, hint));
    }
}

/// More would only hide in which the program ends.
const MOST_STEPS: usize = 8;

fn stop_steps(
    workload: &Workload,
    key: &KeyPath,
    directory: &Path,
    search: Option<&OsStr>,
    problems: &mut Vec<Problem>,
) {
    let place = key.clone().key("stop");
    if workload.stop.len() > MOST_STEPS {
        let message = format!("{} steps are too many for a stop", workload.stop.len());
        problems.push(Problem::at(place.clone(), message, format!("at most {MOST_STEPS}")));
    }
    for (index, step) in workload.stop.iter().enumerate() {
        if let Ask::Exec(exec) = &step.ask {
            command(exec, place.clone().index(index).key("exec"), directory, search, problems);
        }
    }
    for (which, check) in [("ready", &workload.ready), ("alive", &workload.alive)] {
        let place = key.clone().key(which);
        match check.as_ref().map(|check| &check.probe) {
            Some(Probe::Exec(exec)) => command(exec, place.key("exec"), directory, search, problems),
            Some(Probe::Notify) if !words::HAS_NOTIFY => {
                let message = "a program on Windows has no socket to notify by";
                problems.push(Problem::at(place, message, "use exec, http or tcp"));
            }
            _ => {}
        }
    }
}

/// Whether what it needs is there, and does not need it in turn.
fn needs(config: &Config, name: &str, workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    for (index, need) in workload.needs.iter().enumerate() {
        let place = key.clone().key("needs").index(index);
        workload_reference(config, need, place.clone(), problems);
        if config.needs_of(need).contains(name) || need == name {
            let message = format!("{need} needs {name} in turn: neither could ever be started");
            problems.push(Problem::at(place, message, "take one of the two out"));
        }
    }
}

/// More looks in a second would cost what they are to save.
const SHORTEST_INTERVAL: Period = Period::from_millis(10);
/// Fewer would miss what they are for.
const LONGEST_INTERVAL: Period = Period::from_secs(60);
/// Nobody who orders a stop waits longer for a look.
const LONGEST_LOOK: Period = Period::from_secs(5);

fn sampling(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let interval = workload.sample_interval;
    if !(SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
        let message = format!("sample_interval is {interval}");
        let hint = format!("from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}");
        problems.push(Problem::at(key.clone().key("sample_interval"), message, hint));
    }
    let look = workload.evidence_max;
    if look > LONGEST_LOOK {
        let message = format!("evidence_max is {look}: a kill would wait that long");
        problems.push(Problem::at(key.clone().key("evidence_max"), message, format!("at most {LONGEST_LOOK}")));
    }
}

/// What all of them may have together.
fn together(config: &Config, problems: &mut Vec<Problem>) {
    let Together { memory_max, cpu_max, pids_max } = config.together;
    let zero = [
        ("memory_max", memory_max == Some(Size::default())),
        ("cpu_max", cpu_max == Some(CpuPercent::default())),
        ("pids_max", pids_max == Some(0)),
    ];
    for (name, _) in zero.into_iter().filter(|(_, zero)| *zero) {
        let message = format!("{name} is 0: nothing could run at all");
        let hint = "give it a value above zero, or remove it for no limit";
        problems.push(Problem::at(KeyPath::section("together").key(name), message, hint));
    }
}

fn restarting(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    if workload.restart_window == Period::default() {
        let place = key.clone().key("restart_window");
        problems.push(Problem::at(place, "over no time at all nothing can be counted", "give it a length of time"));
    }
}

/// Whether a command can be started.
pub(super) fn command(
    command: &Command,
    key: KeyPath,
    directory: &Path,
    search: Option<&OsStr>,
    problems: &mut Vec<Problem>,
) {
    let Some(program) = command.program().filter(|program| !program.is_empty()) else {
        problems.push(Problem::at(
            key,
            "the command is empty",
            "write the program and its arguments: [\"python3\", \"agent.py\"]",
        ));
        return;
    };
    let shown = program.escape_debug();
    let (message, hint) = match find_program(program, directory, search) {
        Ok(_) => return,
        Err(NoProgram::NoFile) => {
            (format!("\"{shown}\" is not a program but a directory or a device"), "name the program in it".into())
        }
        Err(NoProgram::NotExecutable { file, hint }) => (format!("{} is not executable", file.display()), hint),
        Err(NoProgram::Missing) if Path::new(program).components().count() > 1 => (
            format!("there is no program \"{shown}\" (seen from {})", directory.display()),
            "correct the path; it is relative to `directory`".into(),
        ),
        Err(NoProgram::Missing) => {
            (format!("there is no program \"{shown}\" in PATH"), "install it, or write its whole path".into())
        }
    };
    problems.push(Problem::at(key.index(0), message, hint));
}

fn surroundings(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let given = [("environment", &workload.environment), ("secrets", &workload.secrets)];
    for (kind, variables) in given {
        for (variable, value) in variables {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                problems.push(Problem::at(
                    key.clone().key(kind).key(variable),
                    format!("\"{}\" can't be set in an environment", variable.escape_debug()),
                    "a variable has a name without '=', and no NUL character in it or in its value",
                ));
            }
        }
    }
    for variable in workload.secrets.keys().filter(|variable| workload.environment.contains_key(*variable)) {
        problems.push(Problem::at(
            key.clone().key("secrets").key(variable),
            format!("the variable {variable} is set under `environment` as well"),
            "keep one of the two",
        ));
    }
    named_twice(workload, key, problems);
    for file in workload.secret_files.keys().filter(|file| !is_file_name(file)) {
        problems.push(Problem::at(
            key.clone().key("secret_files").key(file),
            format!("\"{}\" is no name for a file of secrets", file.escape_debug()),
            "write a plain name without '/', such as db-password; the file appears in $ESTOP_SECRETS_DIR",
        ));
    }
}

/// Where case makes no difference, two names that differ by it are one.
fn named_twice(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let Workload { environment, secrets, secret_files, .. } = workload;
    for (list, names) in [("environment", environment), ("secrets", secrets), ("secret_files", secret_files)] {
        let mut seen = BTreeSet::new();
        for name in names.keys().filter(|name| !seen.insert(words::variable(name.as_ref()))) {
            let message = format!("\"{}\" is there already: case makes no other name here", name.escape_debug());
            problems.push(Problem::at(key.clone().key(list).key(name), message, "keep one of the two"));
        }
    }
}

fn is_file_name(name: &str) -> bool {
    words::file_name_fault(name).is_none()
        && !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains(['/', '\\', '\0'])
        && !name.starts_with('.')
}

fn references(config: &Config, workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let known: Vec<&str> = config.stores.keys().map(String::as_str).collect();
    for (list, stores) in [("stores", &workload.stores), ("protect", &workload.protect)] {
        let mut seen = BTreeSet::new();
        for (index, store) in stores.iter().enumerate() {
            let place = || key.clone().key(list).index(index);
            if !config.stores.contains_key(store) {
                let message = format!("there is no store \"{}\"", store.escape_debug());
                problems.push(Problem::at(place(), message, suggest(store, &known, "stores")));
            } else if !seen.insert(store) {
                problems.push(Problem::at(place(), format!("the store {store} is named twice"), "remove one of them"));
            }
        }
    }
}

fn limits(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    let Workload { memory_max, cpu_max, pids_max, time_max, process_memory_max, cpu_time_max, io_max, limits, .. } =
        workload;
    ladder(&limits.memory, "memory", *memory_max, key, problems);
    ladder(&limits.cpu, "cpu", *cpu_max, key, problems);
    ladder(&limits.pids, "pids", pids_max.map(Count::from), key, problems);
    ladder(&limits.time, "time", *time_max, key, problems);
    ladder(&limits.process_memory, "process_memory", *process_memory_max, key, problems);
    ladder(&limits.cpu_time, "cpu_time", *cpu_time_max, key, problems);
    ladder(&limits.io, "io", *io_max, key, problems);
    ladder(&limits.swap, "swap", None, key, problems);
    ladder(&limits.cpu_throttled, "cpu_throttled", None, key, problems);
    ladder(&limits.cpu_pressure, "cpu_pressure", None, key, problems);
    ladder(&limits.memory_pressure, "memory_pressure", None, key, problems);
    ladder(&limits.io_pressure, "io_pressure", None, key, problems);
    ladder(&limits.open_files, "open_files", None, key, problems);
    ladder(&limits.output, "output", None, key, problems);
    ladder(&limits.host_memory, "host_memory", None, key, problems);
    ladder(&limits.host_cpu_pressure, "host_cpu_pressure", None, key, problems);
    ladder(&limits.host_memory_pressure, "host_memory_pressure", None, key, problems);
    ladder(&limits.host_io_pressure, "host_io_pressure", None, key, problems);
    if let Some(weight) = workload.cpu_weight.filter(|weight| !CPU_WEIGHTS.contains(weight)) {
        let message = format!("cpu_weight is {weight}, which is no weight");
        let hint =
            format!("weights go from {} to {}; 100 is what the others have", CPU_WEIGHTS.start(), CPU_WEIGHTS.end());
        problems.push(Problem::at(key.clone().key("cpu_weight"), message, hint));
    }
}

/// One ladder: no rung at zero, none below the one before, none above the hard limit, which would never let it be reached.
fn ladder<T: Copy + Default + PartialOrd + Display>(
    ladder: &Ladder<T>,
    kind: &str,
    maximum: Option<T>,
    key: &KeyPath,
    problems: &mut Vec<Problem>,
) {
    let limit_key = format!("{kind}_max");
    if let Some(maximum) = maximum
        && maximum <= T::default()
    {
        let message = format!("{limit_key} is {maximum}: the program could not run at all");
        problems.push(Problem::at(
            key.clone().key(&limit_key),
            message,
            "give it a value above zero, or remove it for no limit",
        ));
    }
    let mut below: Option<(&str, T)> = None;
    for (rung, written) in ladder.rungs() {
        let place = || key.clone().key("limits").key(kind).key(rung);
        if written.lasting == Some(Period::default()) {
            problems.push(Problem::at(place(), format!("{kind}.{rung} lasts for no time"), "leave out ` for 0s`"));
        }
        let value = match written.at {
            At::Value(value) => value,
            At::OfMax(share) => {
                let (message, hint) = if maximum.is_none() {
                    (format!("{kind}.{rung} is a share of a limit that there is not"), format!("set {limit_key}"))
                } else if share <= Percent::default() {
                    (
                        format!("{kind}.{rung} is {share} of {limit_key}: it would be reached at once"),
                        "more than 0".into(),
                    )
                } else {
                    continue;
                };
                problems.push(Problem::at(place(), message, hint));
                continue;
            }
        };
        if value <= T::default() {
            let message = format!("{kind}.{rung} is {value}: it would be reached at once");
            problems.push(Problem::at(place(), message, "give it a value above zero, or remove it"));
            continue;
        }
        if let Some((lower, bound)) = below
            && value < bound
        {
            problems.push(Problem::at(
                place(),
                format!("{kind}.{rung} ({value}) is below {kind}.{lower} ({bound})"),
                "the rungs go up: warn ≤ throttle ≤ freeze ≤ stop",
            ));
        }
        if let Some(maximum) = maximum
            && value > maximum
            && maximum > T::default()
        {
            problems.push(Problem::at(
                place(),
                format!("{kind}.{rung} ({value}) is above {limit_key} ({maximum}) and would never be reached"),
                format!("lower it, or raise {limit_key}"),
            ));
        }
        below = Some((rung, value));
    }
}

fn keeping(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    if workload.log_age_max == Some(Period::default()) {
        let place = key.clone().key("log_age_max");
        problems.push(Problem::at(place, "log_age_max is 0: no output would be kept", "give it a length of time"));
    }
}

fn freezing(workload: &Workload, key: &KeyPath, problems: &mut Vec<Problem>) {
    if workload.freeze_max == Period::default() {
        problems.push(Problem::at(
            key.clone().key("freeze_max"),
            "freeze_max is 0: it could not be frozen at all",
            "give it a length of time, or write `freezable = false`",
        ));
    }
    if workload.thaw_after == Some(Period::default()) {
        let place = key.clone().key("thaw_after");
        problems.push(Problem::at(place, "thaw_after is 0: a freeze would be none", "give it a length of time"));
    }
    if workload.freezable {
        return;
    }
    let mut refuse = |place: KeyPath, what: &str| {
        problems.push(Problem::at(
            place,
            format!("{what} freezes the workload, which `freezable = false` forbids"),
            "choose another, or remove `freezable = false`",
        ));
    };
    if workload.on_breach == OnBreach::Freeze {
        refuse(key.clone().key("on_breach"), "on_breach");
    }
    if workload.on_brain_loss == OnBrainLoss::Freeze {
        refuse(key.clone().key("on_brain_loss"), "on_brain_loss");
    }
    let thresholds = workload.limits.thresholds();
    for metric in Metric::ALL.into_iter().filter(|metric| thresholds.of(*metric).freeze.is_some()) {
        let kind = metric.key();
        refuse(key.clone().key("limits").key(kind).key("freeze"), &format!("{kind}.freeze"));
    }
}

fn recovery(config: &Config, problems: &mut Vec<Problem>) {
    let recovery = &config.recovery;
    for (index, repair) in recovery.approval.iter().enumerate() {
        if !recovery.on_critical_stop.contains(repair) {
            problems.push(Problem::at(
                KeyPath::section("recovery").key("approval").index(index),
                format!("`{}` can't wait for an approval: it is not done at all", repair.step()),
                "add it to `on_critical_stop`, or remove it here",
            ));
        }
    }
}
