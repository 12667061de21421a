#!/bin/sh
# The ground container: one update, from no keys to CONFIRMED; exits 0 then. Killed and started again, it goes on.
set -eu

satellite=${SATELLITE:-SAT-1}
home=${GROUND_HOME:-/ground}
stick=${STICK:-/stick}
release=${SECOND:-/models/second}
link=${LINK:-link:7001}
sky=${SKY:-/sky.yaml}

say() { printf '\n== %s\n' "$*"; }

if [ ! -e "$home/has-keys" ]; then
    say "keys, and a kit for $satellite on the integration stick"
    rm -rf "$stick/kit.part" "$SKYLOAD_DEPOT"
    skyload keys init --satellite "$satellite" --kit "$stick/kit.part"
    touch "$home/has-keys"
fi
# A rename, so that the satellite takes a whole kit or none.
[ ! -d "$stick/kit.part" ] || mv "$stick/kit.part" "$stick/kit"

if [ ! -e "$home/has-update" ]; then
    say "stage: pack, rehearse on the twin, sign"
    skyload stage "$release" --for "$satellite" --name "$(basename "$release")"
    touch "$home/has-update"
fi

if [ ! -e "$home/has-flown" ]; then
    epoch=$(($(date +%s) / 60 * 60)) # as the link does: see sky.yaml
    say "plan"
    skyload plan --for "$satellite" --profile "$sky" --loss 10%
    say "uplink"
    skyload uplink --for "$satellite" --link "$link" --profile "$sky" --epoch "$epoch"
    touch "$home/has-flown"
fi

say "status"
skyload status --for "$satellite"
say "ask"
tries_left=20 # started again together with the satellite, we may be faster than its model loads
until skyload ask "${QUESTION:-What is the capital of France?}" --for "$satellite" --link "$link" --max-tokens 24; do
    tries_left=$((tries_left - 1))
    [ "$tries_left" -gt 0 ] || exit 6
    sleep 3
done
say "CONFIRMED"
