//! A service manager that keeps the daemon's socket for the next one, as systemd does. Under systemd itself: `tests/vm/systemd.sh`.

use std::fs::{read, remove_file};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::house::PATIENCE;
use crate::scene::{Running, Scene, Signal, until};

/// Puts the descriptor `argv[1]` where a service manager does, under the name `argv[2]`, and becomes the rest.
const HANDS_OVER: &str = "import os, sys\n\
    kept, name, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]\n\
    os.dup2(kept, 3)\n\
    os.close(kept)\n\
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES=name)\n\
    os.execv(program[0], program)\n";

/// A service manager, and what it has been told to keep.
struct Manager<'a> {
    scene: &'a Scene,
    place: PathBuf,
    socket: UnixDatagram,
}

impl<'a> Manager<'a> {
    fn new(scene: &'a Scene) -> Self {
        let place = scene.path().join("notify");
        let socket = UnixDatagram::bind(&place).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { scene, place, socket }
    }

    fn start(&self) -> Running {
        self.scene.start(self.scene.command(&["up"]).env("NOTIFY_SOCKET", &self.place))
    }

    /// Starts the daemon with `kept`, which it calls `name`.
    fn start_with(&self, kept: &OwnedFd, name: &str) -> Running {
        let daemon = self.scene.command(&["up"]);
        let inherited = rustix::io::fcntl_dupfd_cloexec(kept, 20).unwrap();
        fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HANDS_OVER, &inherited.as_raw_fd().to_string(), name]);
        command.arg(daemon.get_program()).args(daemon.get_args()).current_dir(self.scene.path());
        for (variable, value) in daemon.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        self.scene.start(command.env("NOTIFY_SOCKET", &self.place))
    }

    /// The next message that begins with `wanted`, and the descriptor that came with it.
    fn hear(&self, wanted: &str) -> (String, Option<OwnedFd>) {
        loop {
            let mut bytes = [0; 512];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let heard = recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
            let mut descriptor = None;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    descriptor = descriptors.next();
                }
            }
            let text = String::from_utf8(bytes[..heard.bytes].to_vec()).unwrap();
            if text.starts_with(wanted) {
                return (text, descriptor);
            }
        }
    }

    /// What the daemon has this keep: its name, and it.
    fn keep(&self) -> (String, OwnedFd) {
        let (text, descriptor) = self.hear("FDSTORE=1");
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap().to_owned();
        (name, descriptor.unwrap())
    }
}

/// Whether somebody has connected whom nobody has accepted.
fn waits(listener: &impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[test]
fn who_asks_between_two_daemons_is_answered_by_the_next() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n");
    let manager = Manager::new(&scene);
    let brain = manager.start();
    let (name, kept) = manager.keep();
    brain.signal(Signal::KILL);
    brain.wait().expect(137);

    let caller = scene.spawn(&["start", "a"]);
    until("the caller waits", || waits(&kept));
    let brain = manager.start_with(&kept, &name);
    caller.wait().expect(0);
    let workload = scene.status("a")["pid"].as_u64().unwrap();
    let environment = String::from_utf8_lossy(&read(format!("/proc/{workload}/environ")).unwrap()).into_owned();
    assert!(!environment.contains("LISTEN_"), "what is the daemon's own was handed on: {environment}");

    // Who asks in vain is told who hangs: not the daemon that opened the socket.
    brain.signal(Signal::STOP);
    let seen = scene.json(0, &["status"])["brain"].clone();
    assert_eq!((&seen["answers"], &seen["pid"]), (&false.into(), &brain.pid().into()));
    brain.signal(Signal::CONT);

    // Told to end, it leaves the file for the next.
    brain.leave();
    assert!(scene.run_dir().join("brain.sock").exists());

    // Where another file stands there, or none, the kept socket is nobody's way to the daemon.
    remove_file(scene.run_dir().join("brain.sock")).unwrap();
    let brain = manager.start_with(&kept, &name);
    assert!(manager.hear("FDSTOREREMOVE=1").0.contains(&format!("FDNAME={name}\n")));
    let (another, _kept) = manager.keep();
    assert_ne!(another, name);
    until("it answers", || scene.json(0, &["status"])["brain"]["answers"] == true);

    scene.json(0, &["down"]);
    brain.wait().expect(0);
    assert!(!scene.run_dir().join("brain.sock").exists());
    scene.expect_nothing_left();
}
