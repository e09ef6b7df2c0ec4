//! A filesystem that can be frozen: who writes to it then sleeps so that nothing can end him. Thawed and unmounted whatever
//! becomes of the test.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::scene::is_root;

/// Waits for the test to let go of its standard input, also by being killed. It is not one of those that a scene ends.
const KEEPER: &str = "trap '' HUP INT TERM\n\
    read -r line\n\
    fsfreeze -u \"$MOUNT\" 2>/dev/null\n\
    i=0\n\
    while ! umount \"$MOUNT\" 2>/dev/null && [ $i -lt 200 ]; do sleep 0.05; i=$((i + 1)); done\n\
    [ $i -lt 200 ] || umount -l \"$MOUNT\"";

/// An ext4 filesystem on the disk that `ESTOP_TEST_DISK` names, which is one test's at a time; else in a file, by a loop device.
pub(crate) struct Freezable {
    mount: PathBuf,
    keeper: Child,
    hold: Option<ChildStdin>,
}

impl Freezable {
    /// Mounted below `dir`. Says so, and gives none, where that cannot be done.
    pub(crate) fn mount(dir: &Path) -> Option<Self> {
        let mount = dir.join("frozen");
        let (image, options) = if let Some(disk) = std::env::var_os("ESTOP_TEST_DISK") {
            (PathBuf::from(disk), "defaults")
        } else {
            let image = dir.join("frozen.img");
            std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
            (image, "loop")
        };
        std::fs::create_dir(&mount).unwrap();
        let done = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let (from, to) = (image.to_str().unwrap(), mount.to_str().unwrap());
        if !is_root() || !done("mkfs.ext4", &["-q", "-F", from]) || !done("mount", &["-o", options, from, to]) {
            eprintln!("NOT TESTED: no filesystem can be made and mounted here that could be frozen");
            return None;
        }
        let mut keeper = Command::new("setsid");
        keeper.args(["sh", "-c", KEEPER]).env("MOUNT", to).stdin(Stdio::piped());
        let mut keeper = keeper.spawn().unwrap();
        let hold = keeper.stdin.take();
        let frozen = Self { mount, keeper, hold };
        if frozen.freeze() {
            frozen.thaw();
            return Some(frozen);
        }
        eprintln!("NOT TESTED: no filesystem can be frozen here");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Whoever writes sleeps from now on.
    pub(crate) fn freeze(&self) -> bool {
        Command::new("fsfreeze").arg("-f").arg(&self.mount).status().is_ok_and(|status| status.success())
    }

    pub(crate) fn thaw(&self) {
        assert!(Command::new("fsfreeze").arg("-u").arg(&self.mount).status().unwrap().success());
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.keeper.wait();
    }
}
