# A program of many habits. Everything it starts writes to $CANARY for as long as it lives.
me=$0
case $1 in
beat) # ignores every request to end
    trap '' TERM HUP INT QUIT USR1 USR2
    while :; do echo x >>"$CANARY/$2"; sleep 0.1; done ;;
session) setsid "$me" beat session & ;;
daemon) ( (setsid "$me" beat daemon &) & ) ;;
nameless) # without the environment by which it could be found
    (env -i PATH="$PATH" CANARY="$CANARY" setsid "$me" beat nameless &) ;;
stopped)
    "$me" beat stopped &
    while [ ! -s "$CANARY/stopped" ]; do sleep 0.02; done
    kill -STOP $! ;;
deep)
    if [ "$2" -gt 0 ]; then "$me" deep $(($2 - 1)) & wait; else exec "$me" beat deep; fi ;;
wide)
    n=0
    while [ $n -lt 25 ]; do sleep 1000 & n=$((n + 1)); done
    echo x >"$CANARY/wide" ;;
everything)
    for habit in session daemon nameless stopped wide; do "$me" $habit; done
    "$me" deep 8 &
    for name in session daemon nameless stopped wide deep; do
        while [ ! -s "$CANARY/$name" ]; do sleep 0.02; done
    done
    echo x >"$CANARY/ready"
    [ "$2" = leave ] || exec "$me" beat main ;;
bomb) # forks without end; only ever under a cap
    while :; do "$me" bomb & done 2>/dev/null ;;
esac
