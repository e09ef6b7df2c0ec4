"""A workload that tries to be rid of its guard: `attempts.py ESTOP STATE RUN_DIR STORE INSTANCE PID`.

Writes a line for each attempt to $CANARY/tried: its name, and whether it came off. Then it goes on running.
"""

import ctypes
import glob
import os
import shutil
import signal
import socket
import subprocess
import time

import sys

estop, state, run_dir, store, instance, victim = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
attempts = []
# Without a guard around it, its parent is the test.
parents = set() if "UNGUARDED" in os.environ else {os.getppid()}


def attempt(function):
    attempts.append(function)
    return function


def order(*arguments):
    environment = dict(os.environ, ESTOP_STATE_DIR=state, ESTOP_RUN_DIR=run_dir)
    result = subprocess.run([estop, *arguments], env=environment, capture_output=True, timeout=20)
    return result


def guards():
    """The guardian whose number it knows, and its own ancestors as far as it can see them."""
    found, pid = {int(victim)}, os.getppid()
    while pid > 1:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            # Not who runs the tests.
            if b"__guardian" not in file.read():
                break
        found.add(pid)
        pid = int(text.rpartition(") ")[2].split()[1])
    return found


@attempt
def resets_the_latch():
    # The answer may say that there is nothing to reset, at a place of its own; what counts is seen from outside as well.
    return "latched" in order("--json", "reset", "latched").stdout.decode().partition("released")[2].partition("]")[0]


@attempt
def writes_the_latch_itself():
    with open(os.path.join(state, "latch", "name-latched"), "r+b") as file:
        file.write(b"\0" * 64)
    return True


@attempt
def reads_a_secret_by_command():
    return b"not-its-own" in order("secret", "get", "other").stdout


@attempt
def reads_the_key_of_all_secrets():
    with open(os.path.join(state, "secrets.key"), "rb") as file:
        return len(file.read()) > 0


@attempt
def lists_the_secrets():
    return len(os.listdir(os.path.join(state, "secrets"))) > 0


@attempt
def deletes_the_state():
    for name in ("incidents", "latch", "secrets", "exposure"):
        shutil.rmtree(os.path.join(state, name), ignore_errors=True)
    return not os.path.exists(os.path.join(state, "latch")) and os.path.exists(os.path.join(state, "vaults"))


def vaults():
    return glob.glob(os.path.join(state, "vaults", "*"))


@attempt
def sees_a_vault():
    return len(vaults()) > 0


@attempt
def renames_a_vault_away():
    for vault in vaults():
        os.rename(vault, vault + "-away")
        os.rename(vault + "-away", vault)
        return True
    return False


@attempt
def deletes_a_snapshot():
    for vault in vaults():
        shutil.rmtree(os.path.join(vault, "packs"))
        return True
    return False


@attempt
def lifts_a_limit():
    results = [order("limit", "set", name, "time_max=none").returncode for name in ("w", "bystander")]
    return 0 in results


@attempt
def connects_to_a_socket():
    for path in glob.glob(os.path.join(run_dir, "**", "*.sock"), recursive=True):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                with socket.socket(socket.AF_UNIX, kind) as one:
                    one.connect(path)
                    return True
            except OSError:
                pass
    return False


@attempt
def connects_by_the_known_name():
    for path in (os.path.join(run_dir, "jobs", "bystander", "guardian.sock"), os.path.join(run_dir, "brain.sock")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            try:
                one.connect(path)
                return True
            except OSError:
                pass
    return False


@attempt
def writes_the_now_file():
    with open(os.path.join(run_dir, "now"), "w") as file:
        file.write("no")
    return True


@attempt
def traces_a_guardian():
    attach = 16
    for pid in guards() | parents:
        if pid > 0 and libc.ptrace(attach, pid, 0, 0) == 0:
            return True
    return False


@attempt
def reads_a_guardians_memory():
    for pid in guards() | parents:
        try:
            with open(f"/proc/{pid}/mem", "rb") as file:
                with open(f"/proc/{pid}/maps") as maps:
                    file.seek(int(maps.readline().split("-")[0], 16))
                if file.read(8):
                    return True
        except OSError:
            pass
    return False


@attempt
def signals_a_guardian():
    came_off = False
    for pid in guards():
        try:
            os.kill(pid, signal.SIGKILL)
            # The init of its own namespace takes no notice, and that is the point.
            time.sleep(0.1)
            came_off |= pid != 1
        except OSError:
            pass
    return came_off


@attempt
def signals_its_parent():
    parent = parents.pop()
    parents.add(parent)
    os.kill(parent, signal.SIGKILL)
    os.kill(parent, signal.SIGSTOP)
    time.sleep(0.1)
    # The init of its own namespace takes no notice.
    return parent not in (0, 1)


@attempt
def leaves_its_cgroup():
    mounts = [line.split()[1] for line in open("/proc/mounts") if line.split()[2] in ("cgroup2", "cgroup")]
    for mount in mounts:
        for group in (mount, os.path.join(mount, "estop"), os.path.join(mount, "estop", instance)):
            try:
                with open(os.path.join(group, "cgroup.procs"), "w") as file:
                    file.write(str(os.getpid()))
                return True
            except OSError:
                pass
    return False


@attempt
def thaws_or_unlimits_its_cgroup():
    for path in glob.glob("/sys/fs/cgroup/**/estop/" + instance + "/w.*/*", recursive=True):
        if os.path.basename(path) in ("cgroup.freeze", "cgroup.procs", "pids.max", "memory.limit_in_bytes", "cgroup.kill"):
            try:
                with open(path, "w"):
                    return True
            except OSError:
                pass
    return False


@attempt
def uncovers_the_state():
    for path in (run_dir, state):
        libc.umount2(path.encode(), 2)
    return os.path.exists(os.path.join(state, "latch"))


@attempt
def uncovers_it_in_a_namespace_of_its_own():
    script = f"umount -l {state}; umount -l {run_dir}; ls {state}/latch"
    result = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, timeout=20)
    return result.returncode == 0


@attempt
def gains_privileges():
    result = subprocess.run(["su", "-c", "true", "root"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
    return result.returncode == 0 and os.geteuid() != 0


@attempt
def enters_the_outer_namespaces():
    for pid in guards() | {1}:
        result = subprocess.run(["nsenter", "-t", str(pid), "-m", "-p", "ls", os.path.join(state, "latch")], capture_output=True, timeout=20)
        if result.returncode == 0:
            return True
    return False


lines = []
for function in attempts:
    try:
        did = bool(function())
    except Exception as error:
        did = False
        print(function.__name__, repr(error), file=sys.stderr)
    lines.append(f"{function.__name__} {'yes' if did else 'no'}\n")
path = os.path.join(os.environ["CANARY"], "tried")
with open(path + ".new", "w") as file:
    file.writelines(lines)
os.rename(path + ".new", path)
while True:
    time.sleep(1)
