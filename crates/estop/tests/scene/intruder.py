"""A workload that attacks its guard when it is told to: `intruder.py ESTOP STATE RUN_DIR GROUP`.

An order is a file `$CANARY/order-N` with a line of words: the attack, and whom it is on. When it was tried, `done-N` says what the
intruder thinks came of it, for whoever reads a failure: whether it came off is looked at from outside.
"""

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time

estop, state, run_dir, group = sys.argv[1:]
canary = os.environ["CANARY"]
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = libc.syscall.restype = ctypes.c_long
ATTACH, DETACH, SEIZE, INTERRUPT = 16, 17, 0x4206, 0x4207
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
CLONE3, PIDFD_GETFD = 435, 438
attacks = {}


def attack(function):
    attacks[function.__name__] = function
    return function


def call(number, *arguments):
    answer = libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def all_of(tries):
    """Tries everything, and says what came of each."""
    said = []
    for name, function in tries:
        try:
            said.append(f"{name}: {function()}")
        except Exception as error:
            said.append(f"{name}: {error!r}")
    return "; ".join(said)


def shell(*words):
    result = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    return f"{result.returncode} {(result.stdout + result.stderr).decode(errors='replace').strip()}"


# Signals.


@attack
def stop(pid):
    os.kill(pid, signal.SIGSTOP)


@attack
def stop_by_descriptor(pid):
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGSTOP)


@attack
def stop_by_notification(pid):
    near, far = socket.socketpair()
    F_SETSIG = 10
    fcntl.fcntl(near, F_SETSIG, signal.SIGSTOP)
    fcntl.fcntl(near, fcntl.F_SETOWN, pid)
    fcntl.fcntl(near, fcntl.F_SETFL, fcntl.fcntl(near, fcntl.F_GETFL) | os.O_ASYNC)
    far.send(b"x")


@attack
def stop_the_group(_pid):
    """That which it was started in, by the one of its children that has stayed there."""
    os.write(to_group, b"x")
    os.waitpid(in_group, os.WUNTRACED)
    os.kill(in_group, signal.SIGCONT)


@attack
def freeze(pid):
    paths = [group, f"/proc/{pid}/root{group}"]
    return all_of([(path, lambda path=path: write(path + "/cgroup.freeze", "1")) for path in paths])


@attack
def kill(pid):
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)


# Tracing.


def ptrace(*arguments):
    if libc.ptrace(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


@attack
def seize(pid):
    ptrace(SEIZE, pid, 0, 0)


@attack
def attach(pid):
    ptrace(ATTACH, pid, 0, 0)


@attack
def let_go(pid):
    libc.ptrace(INTERRUPT, pid, 0, 0)
    WALL = 0x40000000
    os.waitpid(pid, WALL)
    ptrace(DETACH, pid, 0, 0)


@attack
def write_memory(pid, address):
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    text = ctypes.create_string_buffer(b"V")
    local, remote = Part(ctypes.cast(text, ctypes.c_void_p), 1), Part(address, 1)
    if libc.process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) != 1:
        raise OSError(ctypes.get_errno(), "process_vm_writev")


@attack
def write_memory_file(pid, address):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as file:
        file.seek(address)
        file.write(b"M")


# Priorities and limits.


@attack
def nice(pid):
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + 3)


@attack
def nice_group(pid):
    os.setpriority(os.PRIO_PGRP, pid, os.getpriority(os.PRIO_PROCESS, 0) + 4)


@attack
def nice_by_old_calls(pid):
    """By the entrance of 32-bit programs, where the same call has another number. Not every kernel has it: in a child."""
    SETPRIORITY, PROCESS = 97, 0
    numbers = [struct.pack("<I", number) for number in (SETPRIORITY, PROCESS, pid, 6)]
    loads = b"".join(code + number for code, number in zip((b"\xb8", b"\xbb", b"\xb9", b"\xba"), numbers))
    child = os.fork()
    if child == 0:
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        PUSH_RBX, INT_80, POP_RBX_RET = b"\x53", b"\xcd\x80", b"\x5b\xc3"
        memory.write(PUSH_RBX + loads + INT_80 + POP_RBX_RET)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        os._exit(-ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    return os.waitpid(child, 0)


@attack
def affinity(pid):
    os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})


@attack
def policy(pid):
    os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


@attack
def io_priority(pid):
    PROCESS, BEST_EFFORT_LOWEST = 1, (2 << 13) | 7
    call(IOPRIO_SET, PROCESS, pid, BEST_EFFORT_LOWEST)


@attack
def limit(pid):
    resource.prlimit(pid, resource.RLIMIT_MSGQUEUE, (4242, 4242))


@attack
def oom_score(pid):
    write(f"/proc/{pid}/oom_score_adj", "777")


# The cgroup.


def groups():
    """Where it could go: the top of every hierarchy, and estop's own places."""
    mounts = [line.split() for line in open("/proc/mounts")]
    tops = [mount[1] for mount in mounts if mount[2] in ("cgroup2", "cgroup")]
    return [group, *tops, *(os.path.join(top, "estop") for top in tops)]


@attack
def leave(pid):
    own = str(os.getpid())
    tries = [(place, lambda place=place: write(place + "/cgroup.procs", own)) for place in groups()]
    tries.append(("by its root", lambda: write(f"/proc/{pid}/root{group}/cgroup.procs", own)))
    mounted = f"mkdir -p {canary}/mnt; mount -t cgroup2 none {canary}/mnt && echo {own} > {canary}/mnt/cgroup.procs"
    tries.append(("mounted", lambda: shell("sh", "-c", mounted)))
    for flags in ("-UrmC", "-mC"):
        tries.append((f"mounted in {flags}", lambda flags=flags: shell("unshare", flags, "sh", "-c", mounted)))
    for target in (pid, 1):
        inside = f"echo {own} > {group}/cgroup.procs"
        tries.append((f"entered {target}", lambda target=target: shell("nsenter", f"-t{target}", "-C", "-m", "sh", "-c", inside)))
    return all_of(tries)


@attack
def start_outside(_pid):
    """`clone3` puts a child into a cgroup of which it has no more than the directory."""

    class Arguments(ctypes.Structure):
        names = "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup"
        _fields_ = [(name, ctypes.c_uint64) for name in names.split()]

    CLONE_INTO_CGROUP, PATH = 0x200000000, 0o10000000

    def start(place):
        directory = os.open(place, PATH | os.O_DIRECTORY)
        arguments = Arguments(flags=CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory)
        if call(CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)) == 0:
            os.execvp("sleep", ["sleep", "1000"])
        return "started"

    return all_of([(place, lambda place=place: start(place)) for place in groups()])


# The state.


def plant(name, state=state, run_dir=run_dir):
    """Leaves files in estop's directories, and says what it has read there."""

    def read():
        with open(f"{state}/token") as file:
            return file.read()

    where = [(place, lambda place=place: write(f"{place}/planted-{name}", name)) for place in (state, run_dir)]
    return all_of([*where, ("token", read)])


@attack
def plant_directly(_pid):
    return plant("directly")


@attack
def plant_below_the_root_of(pid):
    return plant("root", f"/proc/{pid}/root{state}", f"/proc/{pid}/root{run_dir}")


@attack
def plant_below_the_directory_of(pid):
    return plant("cwd", f"/proc/{pid}/cwd/state", f"/proc/{pid}/cwd/state/run")


@attack
def plant_by_descriptors_of(pid):
    places = [f"/proc/{pid}/fd/{number}" for number in range(3, 40)]
    try:
        pidfd = os.pidfd_open(pid)
        for number in range(3, 40):
            try:
                places.append(f"/proc/self/fd/{call(PIDFD_GETFD, pidfd, number, 0)}")
            except OSError:
                pass
    except OSError:
        pass
    tries = [(place, lambda place=place: write(place + "/planted-fd", "fd")) for place in places]
    return all_of(tries)[-300:]


@attack
def plant_in_the_mounts_of(pid):
    script = f"echo > {state}/planted-nsenter; echo > {run_dir}/planted-nsenter; cat {state}/token"
    return all_of([(target, lambda target=target: shell("nsenter", f"-t{target}", "-m", "sh", "-c", script)) for target in (pid, 1)])


UNCOVER = """
umount -l {run}; umount -l {state}; echo > {state}/planted-uncovered; cat {state}/token
mkdir -p {canary}/bind; mount --bind / {canary}/bind && echo > {canary}/bind{state}/planted-bind
mount --rbind / {canary}/bind && umount -l {canary}/bind{run}; umount -l {canary}/bind{state}; echo > {canary}/bind{state}/planted-rbind
"""


@attack
def uncover(_pid):
    script = UNCOVER.format(run=run_dir, state=state, canary=canary)
    outer = [("here", lambda: shell("sh", "-c", script))]
    return all_of([*outer, *((flags, lambda flags=flags: shell("unshare", flags, "sh", "-c", script)) for flags in ("-Urm", "-m"))])


@attack
def order(_pid):
    environment = dict(os.environ, ESTOP_STATE_DIR=state, ESTOP_RUN_DIR=run_dir)
    tries = [["freeze", "bystander"], ["limit", "set", "w", "time_max=none"], ["stop", "bystander"]]
    results = [subprocess.run([estop, *words], env=environment, capture_output=True, timeout=30) for words in tries]
    return "; ".join(result.stderr.decode(errors="replace") for result in results)


def stay_in_the_group():
    """A child that stays in the process group of the start, and stops it when it is told to."""
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        while os.read(theirs, 1):
            os.kill(0, signal.SIGSTOP)
        os._exit(0)
    os.setpgid(0, 0)
    return child, ours


in_group, to_group = stay_in_the_group()
number = 0
write(f"{canary}/ready", "")
while True:
    path = f"{canary}/order-{number}"
    if not os.path.exists(path):
        time.sleep(0.005)
        continue
    with open(path) as file:
        name, *numbers = file.read().split()
    try:
        said = attacks[name](*map(int, numbers))
    except Exception as error:
        said = repr(error)
    write(f"{canary}/done", str(said))
    os.rename(f"{canary}/done", f"{canary}/done-{number}")
    number += 1
