"""A person at a terminal: `terminal.py SCENARIO PROGRAM…`, where PROGRAM runs what follows it (`estop run --`).

Ends with 0 if everything was as it should be; otherwise says on standard error what the screen showed.
"""

import os
import pty
import re
import select
import signal
import sys
import time

PATIENCE = 15


class Terminal:
    def __init__(self, argv):
        self.shown = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", PS1="$ ", HISTFILE="/dev/null", PYTHON_BASIC_REPL="1")
            os.execvp(argv[0], argv)

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self, wait):
        ready, _, _ = select.select([self.fd], [], [], wait)
        if not ready:
            return False
        try:
            text = os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            return None
        self.shown += text
        return True

    def expect(self, pattern):
        """Waits for the pattern; what was shown up to it is done with."""
        until = time.monotonic() + PATIENCE
        while True:
            found = re.search(pattern, self.shown)
            if found:
                self.shown = self.shown[found.end():]
                return found
            if time.monotonic() > until or self.read(0.1) is None and not re.search(pattern, self.shown):
                raise AssertionError(f"not shown: {pattern!r}; shown: {self.shown!r}")

    def press(self, key, pattern):
        """Presses a key until the pattern is shown: what is to get it may not be in front yet."""
        for _ in range(PATIENCE * 3):
            self.type(key)
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                self.read(0.02)
                if re.search(pattern, self.shown):
                    return self.expect(pattern)
        self.expect(pattern)

    def ends_with(self, code):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                got = os.waitstatus_to_exitcode(status)
                assert got == code, f"ended with {got}, not {code}; shown: {self.shown!r}"
                return
        raise AssertionError(f"did not end; shown: {self.shown!r}")

    def close(self):
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except OSError:
                pass
        os.close(self.fd)


def shell_inside(program, at):
    """A shell inside has job control, and says nothing about not having it."""
    terminal = at(program + ["bash", "--norc", "-i"])
    terminal.expect(r"\$ ")
    assert "job control" not in terminal.shown and "ioctl" not in terminal.shown, terminal.shown
    terminal.type("sleep 1000 & echo began\n")
    terminal.expect(r"began\r\n")
    terminal.type("jobs\n")
    terminal.expect(r"Running\s+sleep 1000")
    terminal.type("fg\n")
    terminal.expect(r"sleep 1000\r\n")
    terminal.press("\x1a", r"Stopped\s+sleep 1000")
    # What is typed may be echoed twice, by the terminal and by the shell; what is printed cannot be taken for it.
    terminal.type("kill -9 $(jobs -p); wait; echo in''front; cat\n")
    terminal.expect("infront\r\n")
    terminal.press("\x03", r"\$ ")
    # Not `exit`, which a key that was pressed once too often, and stopped the cat too, would hold up.
    terminal.type("exec sh -c 'exit 7'\n")
    terminal.ends_with(7)


def interrupted(program, at):
    """Ctrl-C ends a cat, and estop answers as a shell would."""
    terminal = at(program + ["sh", "-c", "echo ready; exec cat"])
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.ends_with(130)


def stopped_in_a_shell(program, at, body):
    """A shell in which Ctrl-Z has just stopped the program, which runs `body`."""
    terminal = at(["bash", "--norc", "-i"])
    terminal.expect(r"\$ ")
    terminal.type(" ".join(program) + f" sh -c 'echo rea''dy; {body}'\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    return terminal


def suspended(program, at):
    """Ctrl-Z stops it for the calling shell, fg goes on, and afterwards the terminal is the shell's."""
    terminal = stopped_in_a_shell(program, at, "while read line; do echo got $line; test $line = word && exit 3; done")
    terminal.expect(r"\$ ")
    # The first letter may still reach the read of a command that is only just being stopped.
    terminal.press("fg\n", "sh -c")
    # A letter of it may be there already: the line begins anew.
    terminal.type("\nword\n")
    terminal.expect("got word")
    terminal.expect(r"\$ ")
    terminal.type("echo code=$?\n")
    terminal.expect("code=3")
    terminal.type("exit\n")
    terminal.ends_with(0)


def abandoned(program, at):
    """Ctrl-Z stops it, and the shell that could let it go on is killed: the kernel hangs up on it as on any command."""
    terminal = stopped_in_a_shell(program, at, "exec cat")
    with open(f"/proc/{terminal.pid}/task/{terminal.pid}/children") as file:
        run = int(file.read())
    end = os.pidfd_open(run)
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.ends_with(-signal.SIGKILL)
    assert select.select([end], [], [], PATIENCE)[0], "it stays suspended"


def terminal_comes_back(program, at):
    """A shell inside puts its own group in front and is gone; the calling script reads from the terminal again."""
    terminal = at(["bash", "-c", " ".join(program) + " bash --norc -i; echo code=$?; read -r line; echo read=$line"])
    terminal.expect("# |[$] ")
    terminal.type("exec sleep 0\n")
    terminal.expect("code=0")
    terminal.type("here\n")
    terminal.expect("read=here")
    terminal.ends_with(0)


def python_inside(program, at):
    terminal = at(program + ["python3", "-i", "-q"])
    terminal.expect(">>> ")
    terminal.type("6 * 7\n")
    terminal.expect(r"6 \* 7\r\n42\r\n>>> ")
    terminal.type("import sys; sys.stdin.isatty(), sys.stdout.isatty()\n")
    terminal.expect(r"\(True, True\)\r\n>>> ")
    terminal.type("\x04")
    terminal.ends_with(0)


def editor_inside(program, at):
    path = os.path.join(os.environ["CANARY"], "edited")
    terminal = at(program + ["vim", "-u", "NONE", "-n", path])
    terminal.expect("edited")
    terminal.type("ihello from inside\x1b:wq\r")
    terminal.ends_with(0)
    with open(path) as file:
        assert file.read() == "hello from inside\n"


def main():
    scenario, program = sys.argv[1], sys.argv[2:]
    open_terminals = []

    def at(argv):
        open_terminals.append(Terminal(argv))
        return open_terminals[-1]

    try:
        globals()[scenario](program, at)
    finally:
        for terminal in open_terminals:
            terminal.close()


main()
