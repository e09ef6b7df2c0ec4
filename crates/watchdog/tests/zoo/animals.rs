//! The animals: one way each to resist being stopped. All of them are bounded: in number, in memory and in time.

use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// Which animal a program is.
pub(crate) const ANIMAL: &str = "ZOO_ANIMAL";
/// Where it leaves word.
pub(crate) const PLACE: &str = "ZOO_PLACE";
/// How often it has executed itself.
const AGAIN: &str = "ZOO_AGAIN";
/// How many processes the deep, the wide and the bomb may have.
pub(crate) const SIZE: &str = "ZOO_SIZE";

/// How long one that nobody ends lives.
const LIFE: Duration = Duration::from_secs(LIFE_SECONDS as u64);
const LIFE_SECONDS: u32 = 120;

/// All of them.
pub(crate) const NAMES: &[&str] = &[
    "sleeper",
    "setsid",
    "daemon",
    "bomb",
    "chain",
    "deaf",
    "stopped",
    "frozen",
    "traced",
    "vfork",
    "deep",
    "wide",
    "changeling",
    "threads",
    "hog",
    "pid-namespaces",
    "user-namespace",
    "leaver",
    "closer",
    "nameless",
    "holder",
    "writer",
    "negligent",
    "reaper",
];

/// What an animal does; it does not come back.
pub(crate) fn live(name: &str) -> ! {
    // Nobody's patience is endless, also if this test is killed.
    // SAFETY: takes a number.
    unsafe { libc::alarm(LIFE_SECONDS) };
    match name {
        "sleeper" | "frozen" => {}
        "setsid" => apart(),
        "daemon" => daemon(),
        "bomb" => bomb(),
        "chain" => chain(),
        "deaf" => ignore_all(),
        "stopped" => stopped(),
        "traced" => traced(),
        "vfork" => vfork(),
        "deep" => deep(size()),
        "wide" => wide(size()),
        "changeling" => changeling(),
        "threads" => threads(),
        "hog" => hog(),
        "pid-namespaces" => nest(3),
        "user-namespace" => user_namespace(),
        "leaver" => leave(),
        "closer" => close_all(),
        "nameless" => forget_name(),
        "holder" => hold_port(),
        "writer" => write_on(),
        "negligent" => neglect(),
        "reaper" => reap_orphans(),
        other => panic!("there is no animal {other}"),
    }
    ready();
    sleep()
}

fn place() -> PathBuf {
    PathBuf::from(std::env::var_os(PLACE).unwrap())
}

fn size() -> u32 {
    std::env::var(SIZE).unwrap().parse().unwrap()
}

/// Says something to the keeper: the file appears whole.
fn tell(name: &str, text: &str) {
    let part = place().join(format!("{name}.part"));
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, place().join(name)).unwrap();
}

fn ready() {
    tell("ready", "");
}

fn sleep() -> ! {
    let begun = Instant::now();
    while begun.elapsed() < LIFE {
        std::thread::sleep(Duration::from_secs(1));
    }
    std::process::exit(0)
}

/// Whether this is the child.
fn fork() -> bool {
    // SAFETY: no animal that forks has a second thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    pid == 0
}

/// A child that does `work`, and sleeps after that.
fn child(work: impl FnOnce()) {
    if fork() {
        work();
        sleep();
    }
}

/// A number that children share.
fn shared() -> &'static AtomicU32 {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: the place is chosen by the kernel, and stays for the life of the process.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED).unwrap()
    };
    // SAFETY: the page is aligned, zeroed and never unmapped.
    unsafe { &*page.cast::<AtomicU32>() }
}

fn setsid() {
    let _ = rustix::process::setsid();
}

fn apart() {
    child(setsid);
    child(|| child(setsid));
}

/// As daemons do: a child of a child, in a session of its own, without the streams.
fn daemon() {
    let through = shared();
    if fork() {
        setsid();
        if fork() {
            std::env::set_current_dir("/").unwrap();
            close_all();
            through.store(1, Ordering::SeqCst);
            sleep();
        }
        std::process::exit(0);
    }
    until(|| through.load(Ordering::SeqCst) == 1);
}

fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() && begun.elapsed() < LIFE {
        std::thread::yield_now();
    }
}

/// All fork, until there are enough; then they turn in place.
fn bomb() {
    let (count, most) = (shared(), size());
    loop {
        if count.fetch_add(1, Ordering::SeqCst) >= most {
            break;
        }
        // Beyond the limit the kernel says no.
        // SAFETY: there is no second thread.
        unsafe { libc::fork() };
    }
    if !place().join("ready").exists() {
        // Several say it at once; each writes its own.
        let part = place().join(format!("ready.{}", std::process::id()));
        std::fs::write(&part, "").unwrap();
        std::fs::rename(part, place().join("ready")).unwrap();
    }
    spin()
}

fn spin() -> ! {
    let begun = Instant::now();
    while begun.elapsed() < LIFE {
        std::hint::spin_loop();
    }
    std::process::exit(0)
}

/// Each forks one and ends: there are never more than a few, and never the same.
fn chain() {
    const CHAINS: u32 = 6;
    let (begun, links, end) = (Instant::now(), shared(), place().join("end"));
    let mut canary = std::fs::OpenOptions::new().append(true).create(true).open(place().join("canary")).unwrap();
    for _ in 0..CHAINS {
        if fork() {
            setsid();
            while begun.elapsed() < LIFE && !end.exists() {
                links.fetch_add(1, Ordering::Relaxed);
                canary.write_all(b".").unwrap();
                // SAFETY: there is no second thread.
                if unsafe { libc::fork() } > 0 {
                    // SAFETY: ends this process, whose memory nobody else needs.
                    unsafe { libc::_exit(0) };
                }
            }
            std::process::exit(0);
        }
    }
    until(|| links.load(Ordering::Relaxed) > 50);
}

fn ignore_all() {
    for signal in 1..=64 {
        // SAFETY: no handler is installed. Those that cannot be ignored are refused.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

fn stopped() {
    let (one, other) = (shared(), shared());
    for through in [one, other] {
        child(|| {
            setsid();
            through.store(1, Ordering::SeqCst);
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        });
    }
    until(|| one.load(Ordering::SeqCst) + other.load(Ordering::SeqCst) == 2);
}

/// One that holds another in the middle of a system call, and wants to be asked before it ends.
fn traced() {
    let ready = shared();
    // SAFETY: there is no second thread.
    let held = unsafe { libc::fork() };
    assert!(held >= 0);
    if held == 0 {
        sleep();
    }
    child(|| {
        let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEFORK;
        // SAFETY: takes numbers; refused where tracing is forbidden.
        unsafe { libc::ptrace(libc::PTRACE_SEIZE, held, 0, options) };
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, held, 0, 0) };
        // SAFETY: the status is not asked for.
        unsafe { libc::waitpid(held, std::ptr::null_mut(), libc::__WALL) };
        ready.store(1, Ordering::SeqCst);
    });
    until(|| ready.load(Ordering::SeqCst) == 1);
}

/// A parent that the kernel holds until its child executes or ends.
fn vfork() {
    let through = shared();
    if fork() {
        // SAFETY: a child with its own memory; the parent waits in the kernel until that ends.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            through.store(1, Ordering::SeqCst);
        }
        sleep();
    }
    until(|| through.load(Ordering::SeqCst) == 1);
}

fn deep(depth: u32) {
    let reached = shared();
    let mut level = 0;
    while level < depth && fork() {
        level += 1;
        reached.fetch_add(1, Ordering::SeqCst);
    }
    if level > 0 {
        sleep();
    }
    until(|| reached.load(Ordering::SeqCst) == depth);
}

fn wide(width: u32) {
    for _ in 0..width {
        child(|| {});
    }
}

/// Executes itself again and again.
fn changeling() {
    let times: u32 = std::env::var(AGAIN).map_or(0, |times| times.parse().unwrap());
    match times {
        10 => ready(),
        // Each renews its alarm.
        100_000 => std::process::exit(0),
        _ => {}
    }
    let path = CString::new(std::env::current_exe().unwrap().as_os_str().as_bytes()).unwrap();
    let variables = std::env::vars_os().filter(|(name, _)| name != AGAIN);
    let mut environment: Vec<CString> = variables
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).unwrap())
        .collect();
    environment.push(CString::new(format!("{AGAIN}={}", times + 1)).unwrap());
    let ends: Vec<*const libc::c_char> = environment.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect();
    let arguments = [path.as_ptr(), std::ptr::null()];
    // SAFETY: both lists end with a null and live until the call, which returns only if it fails.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), ends.as_ptr()) };
    panic!("{}", std::io::Error::last_os_error());
}

/// Threads that start threads.
fn threads() {
    for _ in 0..8 {
        std::thread::spawn(|| {
            let begun = Instant::now();
            while begun.elapsed() < LIFE {
                std::thread::spawn(|| {}).join().unwrap();
            }
        });
    }
}

/// Memory that is written all the time.
fn hog() {
    const HOLD: usize = 64 << 20;
    for _ in 0..2 {
        child(|| {
            let mut held = vec![1_u8; HOLD];
            let begun = Instant::now();
            while begun.elapsed() < LIFE {
                for page in held.chunks_mut(4096) {
                    page[0] = page[0].wrapping_add(1);
                }
            }
        });
    }
}

/// PID namespaces in each other, with somebody alive in each.
fn nest(depth: u32) {
    let reached = shared();
    let mut level = 0;
    while level < depth {
        // SAFETY: takes flags. Where it is refused there is no namespace, and no animal of this kind.
        let made = unsafe { libc::unshare(libc::CLONE_NEWPID) };
        assert!(made == 0 || !rustix::process::geteuid().is_root(), "{}", std::io::Error::last_os_error());
        reached.fetch_add(1, Ordering::SeqCst);
        if !fork() {
            break;
        }
        level += 1;
    }
    if level > 0 {
        // An init, which hears nothing that it has not asked for.
        sleep();
    }
    until(|| reached.load(Ordering::SeqCst) >= depth);
}

fn user_namespace() {
    let through = shared();
    child(|| {
        // SAFETY: takes flags.
        let made = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS) };
        assert!(made == 0, "{}", std::io::Error::last_os_error());
        child(setsid);
        through.store(1, Ordering::SeqCst);
    });
    until(|| through.load(Ordering::SeqCst) == 1);
}

/// Goes into another cgroup, of every hierarchy, where it may; so does its child, without it.
fn leave() {
    child(|| {
        setsid();
        leave_groups();
    });
    leave_groups();
}

fn leave_groups() {
    use estop_watchdog::job::linux::procfs::cgroup_mount;
    for controller in [None, Some("pids"), Some("memory"), Some("freezer")] {
        let Some(mount) = cgroup_mount(controller) else { continue };
        // Its own root is no place of the test's; but nothing is left there but this process, which ends.
        let _ = std::fs::write(mount.join("cgroup.procs"), std::process::id().to_string());
    }
}

fn close_all() {
    // SAFETY: nothing that is open is needed, and nothing owns it that would close it again.
    unsafe { libc::close_range(0, u32::MAX, 0) };
}

/// Another name, no arguments and no environment.
fn forget_name() {
    let begin = first_argument();
    rustix::thread::set_name(c"kworker/0:1").unwrap();
    ready();
    if let Some((at, length)) = begin {
        // SAFETY: the kernel has put arguments and environment there, and nobody reads them any more.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, length) };
    }
    sleep_without_environment()
}

fn sleep_without_environment() -> ! {
    child(|| {});
    sleep()
}

/// Where the arguments begin, and how long they and the environment are: fields 48 to 51 of `/proc/self/stat`.
fn first_argument() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let (begin, end): (usize, usize) = (fields.get(45)?.parse().ok()?, fields.get(48)?.trim().parse().ok()?);
    (begin != 0 && end > begin).then(|| (begin, end - begin))
}

/// A port of this host, held by a child.
fn hold_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    tell("port", &listener.local_addr().unwrap().port().to_string());
    child(move || {
        setsid();
        let _kept = listener;
        sleep();
    });
}

/// Writes until the last moment.
fn write_on() {
    for number in 0..2 {
        let canary = place().join(format!("canary-{number}"));
        child(move || {
            setsid();
            let mut file = std::fs::File::create(canary).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < LIFE {
                file.write_all(b".").unwrap();
            }
        });
    }
    until(|| {
        (0..2).all(|number| place().join(format!("canary-{number}")).metadata().is_ok_and(|found| found.len() > 0))
    });
}

/// Children that have ended and that nobody waits for, of a parent that does not run.
fn neglect() {
    let through = shared();
    child(|| {
        for _ in 0..20 {
            if fork() {
                std::process::exit(0);
            }
        }
        through.store(1, Ordering::SeqCst);
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
    });
    until(|| through.load(Ordering::SeqCst) == 1);
}

/// As an init: it hears nothing, and inherits what others leave behind.
fn reap_orphans() {
    rustix::process::set_child_subreaper(Some(Pid::INIT)).unwrap();
    ignore_all();
    // SAFETY: no handler is installed. Ignored, no child's end could be waited for.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    for _ in 0..5 {
        if fork() {
            child(setsid);
            std::process::exit(0);
        }
    }
    ready();
    let begun = Instant::now();
    while begun.elapsed() < LIFE {
        let _ = rustix::process::wait(WaitOptions::empty());
        std::thread::sleep(Duration::from_millis(1));
    }
}
