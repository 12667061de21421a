#!/bin/sh
# The twin's side of twin-client.sh, which says what a job is. It runs `skyloadd rehearse` and no other command. A job that
# was cut short by a restart is begun again.
set -eu
umask 077

jobs=${TWIN_JOBS:-/jobs}
poll_s=${TWIN_POLL_S:-0.2}
trap 'exit 0' TERM INT # as process 1 of a container it would not hear them otherwise

rehearse() {
    job=$1
    set --
    while IFS= read -r argument; do set -- "$@" "$argument"; done <"$job/arguments"
    if [ "${1:-}" != rehearse ]; then
        echo "the twin only rehearses" >&2
        return 2
    fi
    rm -rf "$job/work"
    mkdir "$job/work"
    skyloadd "$@"
}

while :; do
    touch "$jobs/.alive"
    for job in "$jobs"/*.job; do
        if [ ! -e "$job/arguments" ] || [ -e "$job/status" ]; then continue; fi
        touch "$job/taken"
        code=0
        rehearse "$job" >"$job/stdout" 2>"$job/stderr" </dev/null || code=$?
        rm -rf "$job/release-key-file" "$job/bundles" "$job/work"
        # The job is gone if nobody waits for it any more.
        { echo "$code" >"$job/status.part" && mv "$job/status.part" "$job/status"; } 2>/dev/null || true
        echo "twin: a rehearsal ended with $code" >&2
    done
    sleep "$poll_s"
done
