#!/bin/sh
# The ground's side of the twin: `skyload stage` runs this (SKYLOAD_TWIN) instead of `skyloadd`. The ground image
# has no onboard code, so the job goes through a shared volume to a container that has it (twin-server.sh), and with the job
# what will fly: manifest, bundles, prompts, and the release's key. The twin sees nothing else of the depot.
#
# A job is a directory, there under its name only when it is complete:
#   arguments                 of `skyloadd`, one a line; paths lead into the job
#   manifest, bundles, prompts, held-out, release-key-file    copies of what the arguments named
#   base                      links to the files of the base; they and a reference are read where they are
#   taken                     the twin has begun
#   stdout, stderr, status    the answer; status, the exit code, comes last
set -eu
umask 077

jobs=${TWIN_JOBS:-/jobs}
taken_within_s=${TWIN_TAKEN_WITHIN_S:-60}
poll_s=${TWIN_POLL_S:-0.2}

part=$(mktemp -d "$jobs/.part.XXXXXX")
job=$jobs/${part##*.}.job
trap 'rm -rf "$part" "$job"' EXIT
trap 'exit 130' INT TERM

while [ $# -gt 0 ]; do
    case $1 in
    --bundles)
        mkdir "$part/bundles"
        find "$2" -maxdepth 1 -name '*.skb' -exec cp -t "$part/bundles" {} +
        printf '%s\n%s\n' "$1" "$job/bundles"
        shift
        ;;
    --base)
        # Links to the base's files in the models' directory, which the twin sees under the same path.
        cp -dR "$2" "$part/base"
        printf '%s\n%s\n' "$1" "$job/base"
        shift
        ;;
    --manifest | --prompts | --held-out | --release-key-file)
        cp "$2" "$part/${1#--}"
        printf '%s\n%s\n' "$1" "$job/${1#--}"
        shift
        ;;
    --work-dir)
        printf '%s\n%s\n' "$1" "$job/work"
        shift
        ;;
    *) printf '%s\n' "$1" ;;
    esac
    shift
done >"$part/arguments"
mkdir "$part/work"
mv "$part" "$job"

began=$(date +%s)
until [ -e "$job/status" ]; do
    if [ ! -e "$job/taken" ] && [ $(($(date +%s) - began)) -ge "$taken_within_s" ]; then
        echo "no twin took the job within $taken_within_s s" >&2
        echo "hint: is the twin's container up, and does it share this volume?" >&2
        exit 1
    fi
    sleep "$poll_s"
done
cat "$job/stdout"
cat "$job/stderr" >&2
exit "$(cat "$job/status")"
