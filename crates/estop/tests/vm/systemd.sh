#!/bin/sh
# Runs in a machine of its own, with systemd as its init (scripts/vm --systemd): the daemon as a service, and what becomes of its
# guardians, workloads and callers when it is restarted, replaced, hangs, or is killed with all of its unit. Its argument is the program.
set -eu

built=$1
unit=$(dirname "$0")/../../../../packaging/estop.service
place=/run/estop-test
# A program that can be replaced, as an upgrade does.
estop=$place/estop
mkdir -p "$place/none"
cp "$built" "$estop"
cat >"$place/estop.toml" <<END_OF_CONFIGURATION
[workload.a]
command = ["/bin/sleep", "1000"]
memory_max = "64MiB"
pids_max = 20

[workload.b]
command = ["/bin/sleep", "2000"]
autostart = false

[workload.c]
command = ["/bin/sh", "-c", "trap 'echo asked >$place/asked; exit 0' TERM; while :; do /bin/sleep 0.1; done"]
restart = "always"
autostart = false
END_OF_CONFIGURATION

# As it is shipped, but for where things are, a watchdog that a test can wait for, many starts in a short time, and a start that can
# be held up. With the kill mode $1, and more lines $2.
install_unit() {
    sed -e "s|^ExecStart=.*|ExecStartPre=/bin/sh -c 'while [ -e $place/hold ]; do sleep 0.1; done'\nExecStart=$estop --config $place/estop.toml --state-dir $place/state up\nStandardError=append:$place/log\n${2-}|" \
        -e 's|^WatchdogSec=.*|WatchdogSec=2|' -e "s|^KillMode=.*|KillMode=$1|" -e 's|^\[Unit\]|&\nStartLimitIntervalSec=0|' \
        "$unit" >/run/systemd/system/estop.service
    systemctl daemon-reload
}

fail() {
    echo "FAILED: $*"
    systemctl status estop --no-pager -l || true
    systemctl list-units --all --no-pager --plain 'estop*' || true
    tail -n 30 "$place/log" || true
    exit 1
}
ask() { "$estop" --state-dir "$place/state" --json "$@"; }
workload() { ask status | grep -o '"name":"'"${1-a}"'"[^]]*' | grep -o '"pid":[0-9]*' | tail -n 1; }
shown() { systemctl show -p "$1" --value "${2-estop}"; }
main() { shown MainPID; }
scope() { systemctl list-units --all --plain --no-legend "estop-guardian-$1.*" | cut -d ' ' -f 1; }
# The members of the cgroup of a unit, and of those below it.
members() { find "/sys/fs/cgroup$(shown ControlGroup "$1")" -name cgroup.procs -exec cat {} +; }
adopted() { grep -c 'adopted' "$place/log" || true; }
wait_for() {
    for _ in $(seq 300); do
        eval "$2" && return 0
        sleep 0.1
    done
    fail "$1"
}
another_daemon() {
    wait_for "another daemon" '[ "$(main)" -gt 0 ] && [ "$(main)" != "$old" ] && [ "$(shown ActiveState)" = active ]'
}
note() {
    old=$(main)
    known=$(adopted)
}
# The same workload under the same guardian, in the same scope, adopted by another daemon, and nothing but that in the unit.
goes_on() {
    another_daemon
    wait_for "it is adopted" '[ "$(adopted)" -gt "$known" ]'
    [ "$(workload)" = "$before" ] || fail "the workload is another, or gone"
    [ "$(scope a)" = "$home" ] || fail "its guardian is in $(scope a)"
    [ "$(members "$home")" = "$guardian" ] || fail "its guardian is another, or gone"
    [ "$(members estop)" = "$(main)" ] || fail "in the unit there is more than the daemon: $(members estop)"
}

# The harder one: the shipped kill mode spares guardians that stand in the unit too.
install_unit control-group
echo "started, and ready when systemctl returns; the guardian in a scope of its own"
systemctl start estop || fail "it does not start"
[ "$(shown ActiveState)" = active ] || fail "it is not active"
wait_for "the workload runs" '[ -n "$(workload)" ]'
before=$(workload)
home=$(scope a)
[ -n "$home" ] || fail "there is no scope"
[ "$(shown Delegate "$home")" = yes ] || fail "the scope is not delegated"
case " $(shown Before "$home") " in *" estop.service "*) ;; *) fail "at a shutdown the scope would be stopped before the daemon" ;; esac
guardian=$(members "$home")
[ "$(tr '\0' ' ' <"/proc/$guardian/cmdline")" = "estop __guardian " ] || fail "in the scope there is: $(cat "/proc/$guardian/cmdline")"
[ "$(members estop)" = "$(main)" ] || fail "in the unit there is more than the daemon: $(members estop)"
[ "$(shown NFileDescriptorStore)" = 1 ] || fail "the socket is not kept"

echo "restarted: all goes on"
note
systemctl restart estop || fail "it does not restart"
goes_on

echo "hanging: systemd's watchdog ends it, and the next one adopts"
note
kill -STOP "$old"
goes_on

echo "killed: the same"
note
kill -KILL "$old"
goes_on

echo "all of the unit killed: the same"
note
systemctl kill -s KILL estop
goes_on

echo "upgraded: the same, under another program"
note
cp "$built" "$estop.new"
mv "$estop.new" "$estop"
systemctl restart estop || fail "it does not restart"
goes_on
[ "$(readlink "/proc/$(main)/exe")" = "$estop" ] || fail "the daemon is not the new program"
[ "$(readlink "/proc/$guardian/exe")" = "$estop (deleted)" ] || fail "the guardian is not the old program"

echo "who asks while it restarts is answered"
note
touch "$place/hold"
systemctl restart --no-block estop
wait_for "the daemon ends" '[ "$(main)" != "$old" ] && [ ! -e "/proc/$old" ]'
ask start b >"$place/answer" &
client=$!
# Beside the socket that systemd keeps there is that of a caller whom nobody has accepted.
wait_for "the caller waits" '[ "$(grep -c "brain.sock" /proc/net/unix)" -ge 2 ]'
rm "$place/hold"
wait "$client" || fail "the caller is not answered: $(cat "$place/answer")"
goes_on
[ "$(shown NFileDescriptorStore)" = 1 ] || fail "other than one socket is kept"

echo "a scope goes with its workload"
[ -n "$(scope b)" ] || fail "there is no scope"
ask stop b >/dev/null || fail "it does not stop"
wait_for "the scope is gone" '[ -z "$(scope b)" ]'

echo "a kept socket whose file is another is let go"
note
touch "$place/hold"
systemctl restart --no-block estop
wait_for "the daemon ends" '[ "$(main)" != "$old" ] && [ ! -e "/proc/$old" ]'
rm "$place/state/run/brain.sock" "$place/hold"
goes_on
ask start b >/dev/null || fail "nobody answers"
ask stop b >/dev/null || fail "it does not stop"
wait_for "one socket is kept" '[ "$(shown NFileDescriptorStore)" = 1 ]'

echo "stopped: all goes on, and the emergency stop needs no daemon"
systemctl stop estop || fail "it does not stop"
[ "$(workload)" = "$before" ] || fail "the workload is gone"
[ "$(members "$home")" = "$guardian" ] || fail "its guardian is another, or gone"
ask now | grep -q '"proven_empty":true' || fail "not proven"
pgrep -x sleep >/dev/null && pgrep -af 'sleep 1000' && fail "the workload is alive"
wait_for "the scope is gone" '[ -z "$(scope a)" ]'
ask reset --reason "the test goes on" >/dev/null || fail "it is not reset"

echo "no scope to be had: it says so, and the shipped kill mode spares the guardian; one that is adopted gets its scope later"
install_unit process "Environment=PATH=$place/none"
systemctl start estop || fail "it does not start"
wait_for "the workload runs" '[ -n "$(workload)" ]'
before=$(workload)
[ -z "$(scope a)" ] || fail "there is a scope"
ask start b >/dev/null || fail "it does not start"
[ "$(grep -c 'guardians stay in the cgroup' "$place/log")" = 1 ] || fail "it is not said once"
[ "$(members estop | wc -l)" = 3 ] || fail "not all are in the unit: $(members estop)"
guardian=$(members estop | while read -r pid; do grep -qz __guardian "/proc/$pid/cmdline" && echo "$pid"; done | sort -n | head -n 1)
note
systemctl restart estop || fail "it does not restart"
another_daemon
wait_for "it is adopted" '[ "$(adopted)" -ge "$((known + 2))" ]'
[ "$(workload)" = "$before" ] || fail "the workload is another, or gone"
install_unit process
note
systemctl restart estop || fail "it does not restart"
wait_for "the guardian has its scope" '[ -n "$(scope a)" ] && [ -n "$(scope b)" ]'
home=$(scope a)
goes_on

echo "its scope stopped: the workload is asked to end"
systemctl stop "$home" || fail "it does not stop"
wait_for "the workload has ended" '! pgrep -f "sleep 1000" >/dev/null'
wait_for "the scope is gone" '[ -z "$(scope a)" ]'

echo "down: nothing is left"
ask down >/dev/null || fail "it does not go down"
wait_for "the unit is inactive" '[ "$(shown ActiveState)" = inactive ]'
[ -z "$(scope b)" ] || wait_for "the scope is gone" '[ -z "$(scope b)" ]'
[ ! -e "$place/state/run/brain.sock" ] || fail "the socket is still there"
echo "the host shuts down: the daemon goes first, and workloads are asked to end"
ask reset --reason "the test goes on" >/dev/null 2>&1 || true
systemctl start estop || fail "it does not start"
ask start c >/dev/null || fail "it does not start"
starts=$(grep -c 'started workload="c"' "$place/log")
# All that a shutdown stops in order, without its last step. This machine's own service is not among that.
printf '[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\n' >/run/systemd/system/test-down.target
systemctl daemon-reload
systemctl start --job-mode=replace-irreversibly test-down.target || fail "it does not shut down"
wait_for "the unit is inactive" '[ "$(shown ActiveState)" = inactive ]'
wait_for "the scopes are gone" '[ -z "$(scope a)$(scope c)" ]'
[ -e "$place/asked" ] || fail "the workload was not asked"
[ "$(grep -c 'started workload="c"' "$place/log")" = "$starts" ] || fail "it was started again"
echo "all passed"
