# Root's `now`, which reaches every estop of the host: on a host of its own, made of namespaces. `everyone.sh ESTOP DIR`.
set -e
estop=$1
dir=$2
mount --make-rprivate /
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mounted=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
umount -l "$mounted"
mount -t cgroup2 none "$mounted"

# Another estop of root's, and one of an ordinary user, each with something to put back.
villain() {
    echo "echo bad > $1/kb/note; trap '' TERM; : > $1/ready; while :; do sleep 0.05; done"
}
mkdir -p "$dir/other/kb" "$dir/user/kb" /run/user/61235
for place in other user; do
    echo good > "$dir/$place/kb/note"
done
chown -R 61235:61235 "$dir/user" /run/user/61235
chmod 700 /run/user/61235
"$estop" --state-dir "$dir/other/state" run --name theirs --protect "$dir/other/kb" -- sh -c "$(villain "$dir/other")" &
other=$!
(
    cd "$dir/user"
    exec env -i PATH="$PATH" HOME="$dir/user" XDG_RUNTIME_DIR=/run/user/61235 \
        setpriv --reuid 61235 --regid 61235 --clear-groups \
        "$estop" run --name users --protect "$dir/user/kb" -- sh -c "$(villain "$dir/user")"
) &
user=$!
tries=0
until [ -e "$dir/other/ready" ] && [ -e "$dir/user/ready" ]; do
    tries=$((tries + 1))
    [ $tries -lt 800 ] || { echo "nothing was started" >&2; exit 1; }
    sleep 0.05
done

# What the user has put where root looks, to have it end a job that nobody has named: neither its directory nor its guardian.
jobs=/run/user/61235/estop/jobs
as_user() {
    setpriv --reuid 61235 --regid 61235 --clear-groups "$@"
}
as_user ln -s "$dir/other/state/run/jobs/theirs" "$jobs/planted"
as_user cp -r "$jobs/users" "$jobs/copied"
as_user ln -sf "$dir/other/state/run/jobs/theirs/guardian.sock" "$jobs/copied/guardian.sock"
for name in planted copied; do
    code=0
    "$estop" --json now "$name" > "$dir/$name.json" || code=$?
    [ $code = 3 ]
    rm -r "${jobs:?}/$name"
done

"$estop" --json now > "$dir/now.json"
for pid in $other $user; do
    code=0
    wait "$pid" || code=$?
    [ $code = 124 ]
done
[ "$(cat "$dir/other/kb/note" "$dir/user/kb/note")" = "good
good" ]
"$estop" --json --state-dir "$dir/other/state" status > "$dir/other.json"
"$estop" --json --state-dir "$dir/user/.local/state/estop" status > "$dir/user.json"
