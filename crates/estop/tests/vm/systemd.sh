#!/bin/sh
# Runs in a machine of its own, with systemd as its init (scripts/vm --systemd): the daemon as a service, and what becomes of its
# workloads when it is restarted, hangs, or is stopped. Its argument is the program.
set -eu

estop=$1
unit=$(dirname "$0")/../../../../packaging/estop.service
mkdir -p /run/estop-test
cat >/run/estop-test/estop.toml <<'END'
[workload.a]
command = ["sleep", "1000"]
memory_max = "64MiB"
pids_max = 20
END
# As it is shipped, but for where things are, and a watchdog that a test can wait for.
sed -e "s|^ExecStart=.*|ExecStart=$estop --config /run/estop-test/estop.toml --state-dir /run/estop-test/state up|" \
    -e 's|^WatchdogSec=.*|WatchdogSec=2|' "$unit" >/run/systemd/system/estop.service
systemctl daemon-reload

fail() {
    echo "FAILED: $*"
    systemctl status estop --no-pager -l || true
    exit 1
}
ask() { "$estop" --state-dir /run/estop-test/state --json "$@"; }
field() { ask status | sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" | head -n 1; }
workload() { ask status | grep -o '"name":"a"[^]]*' | grep -o '"pid":[0-9]*' | tail -n 1; }
wait_for() {
    for _ in $(seq 200); do
        eval "$2" && return 0
        sleep 0.1
    done
    fail "$1"
}

echo "started, and ready when systemctl returns"
systemctl start estop || fail "it does not start"
[ "$(systemctl show -p ActiveState --value estop)" = active ] || fail "it is not active"
wait_for "the workload runs" '[ -n "$(workload)" ]'
before=$(workload)
main=$(systemctl show -p MainPID --value estop)

echo "restarted: the workload goes on"
systemctl restart estop || fail "it does not restart"
[ "$(systemctl show -p MainPID --value estop)" != "$main" ] || fail "it is the same daemon"
wait_for "it is adopted" '[ "$(workload)" = "$before" ]'

echo "hanging: systemd's watchdog ends it, and the next one adopts"
main=$(systemctl show -p MainPID --value estop)
kill -STOP "$main"
wait_for "another daemon" '[ "$(systemctl show -p MainPID --value estop)" -gt 0 ] && [ "$(systemctl show -p MainPID --value estop)" != "$main" ] && [ "$(systemctl show -p ActiveState --value estop)" = active ]'
wait_for "it is adopted" '[ "$(workload)" = "$before" ]'

echo "killed: the same"
main=$(systemctl show -p MainPID --value estop)
kill -KILL "$main"
wait_for "another daemon" '[ "$(systemctl show -p MainPID --value estop)" -gt 0 ] && [ "$(systemctl show -p MainPID --value estop)" != "$main" ] && [ "$(systemctl show -p ActiveState --value estop)" = active ]'
wait_for "it is adopted" '[ "$(workload)" = "$before" ]'

echo "stopped: the workload goes on, and the emergency stop needs no daemon"
systemctl stop estop || fail "it does not stop"
[ "$(workload)" = "$before" ] || fail "the workload is gone"
ask now | grep -q '"proven_empty":true' || fail "not proven"
pgrep -x sleep >/dev/null && pgrep -af 'sleep 1000' && fail "the workload is alive"
echo "all passed"
