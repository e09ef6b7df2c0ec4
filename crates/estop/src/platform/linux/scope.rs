//! A scope of systemd's for each guardian: what is done to the daemon's unit as a whole does not reach it there.
//!
//! `systemd-run --scope` makes it. That program comes with systemd and asks it through a socket of its own, so it works where no message
//! bus runs, and needs no client of that bus in this program. It becomes a `cat` in the new scope, which answers when it is there and
//! keeps the scope until the guardian has been put into it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use estop_watchdog::job::linux::{procfs, ready};

/// How long systemd may take to make a scope. The workload's start waits for that.
const LIMIT: Duration = Duration::from_secs(5);

/// Puts the process `guardian` of the job `id` of the workload `name` into a scope of its own, if this daemon is a service of systemd's
/// and it shares the service's cgroup. Where that cannot be, it stays, and the log says so once.
pub(crate) fn set_apart(guardian: u32, name: &str, id: &str) {
    static SAID: Once = Once::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(why) = enter_scope(guardian, name, id) {
        SAID.call_once(|| {
            tracing::warn!(
                workload = name,
                why,
                "guardians stay in the cgroup of the daemon's unit: what kills all of that kills them too"
            );
        });
    }
}

/// Why guardians of this host's services get no scopes, if so.
pub(super) fn obstacle() -> Option<&'static str> {
    if !is_init() {
        return Some("systemd is not this host's init");
    }
    // Moved away from where its service manager has delegated a cgroup to it, it could not limit its job.
    (!rustix::process::geteuid().is_root()).then_some("the jobs of an ordinary user lie in the unit's own cgroup")
}

/// Whether systemd is this host's init.
pub(super) fn is_init() -> bool {
    sd_notify::booted().unwrap_or(false)
}

fn enter_scope(guardian: u32, name: &str, id: &str) -> Result<(), String> {
    if let Some(why) = obstacle() {
        return Err(why.to_owned());
    }
    let own = places(std::process::id())?;
    let unit = own.iter().find_map(|place| place.path.rsplit('/').find(|part| part.ends_with(".service")));
    let unit = unit.ok_or("this daemon is in no unit of systemd's")?;
    if places(guardian)? != own {
        // One that was adopted, and has its own already.
        return Ok(());
    }
    let scope = format!("estop-guardian-{name}.{id}.scope");
    let holder = Holder::start(&scope, name, unit)?;
    let mut entered = false;
    for place in places(holder.0.id())?.iter().filter(|place| place.path.ends_with(&format!("/{scope}"))) {
        // As in `/proc/PID/cgroup`, where v2 is the hierarchy without controllers.
        let controller = place.controllers.split(',').next().filter(|first| !first.is_empty());
        let Some(mount) = procfs::cgroup_mount(controller) else { continue };
        let members = mount.join(place.path.trim_start_matches('/')).join("cgroup.procs");
        fs::write(&members, guardian.to_string()).map_err(|error| format!("{}: {error}", members.display()))?;
        entered = true;
    }
    if entered { Ok(()) } else { Err(format!("the cgroup of {scope} is not to be found")) }
}

/// Where a process is in one hierarchy of cgroups.
#[derive(PartialEq, Eq)]
struct Place {
    controllers: String,
    path: String,
}

fn places(pid: u32) -> Result<Vec<Place>, String> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some(Place { controllers: parts.next()?.to_owned(), path: parts.next()?.to_owned() })
    };
    Ok(text.lines().filter_map(place).collect())
}

/// The process that keeps a new scope, which systemd takes away when it is empty.
struct Holder(Child);

impl Holder {
    fn start(scope: &str, name: &str, unit: &str) -> Result<Self, String> {
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--no-ask-password", "--property=Delegate=yes"]);
        // At the host's shutdown the daemon goes first: it must not start again what is stopped then.
        command.arg(format!("--property=Before={unit}"));
        command.arg(format!("--description=Guardian of {name} (estop)")).arg(format!("--unit={scope}"));
        command.args(["--", "cat"]).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = Self(command.spawn().map_err(|error| format!("systemd-run: {error}"))?);
        holder.wait()?;
        Ok(holder)
    }

    /// Waits until `cat` answers, which it does in the scope only.
    fn wait(&mut self) -> Result<(), String> {
        let (Some(input), Some(output)) = (&mut self.0.stdin, &mut self.0.stdout) else { return Ok(()) };
        // One that has ended says why.
        let _ = input.write_all(b"\n");
        let deadline = Instant::now() + LIMIT;
        while !ready::readable(&*output, deadline.saturating_duration_since(Instant::now())) {
            if Instant::now() >= deadline {
                return Err(format!("systemd has made no scope in {} s", LIMIT.as_secs()));
            }
        }
        if output.read(&mut [0]).is_ok_and(|length| length == 1) {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(error) = &mut self.0.stderr {
            let _ = error.read_to_string(&mut said);
        }
        Err(format!("systemd-run: {}", said.trim()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
