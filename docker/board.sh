#!/bin/sh
# The satellite container. On its first day: take the kit off the integration stick, put release 1 on board. Every day:
# run the daemon. Each step leaves old or new, so the container may be killed at any moment and started again.
set -eu

home=${SATELLITE_HOME:-/satellite}
stick=${STICK:-/stick}
release=${FIRST:-/models/first}

if [ ! -d "$home/kit" ]; then
    echo "satellite: waiting for a kit on the stick" >&2
    until [ -d "$stick/kit" ]; do sleep 0.5; done
    rm -rf "$home/kit.part"
    cp -Rp "$stick/kit" "$home/kit.part"
    # The kit listens on loopback; in a container frames come from outside.
    sed -i 's/^listen = "127\.0\.0\.1:7003"/listen = "0.0.0.0:7003"/' "$home/kit.part/satellite.toml"
    grep -q '"0\.0\.0\.0:7003"' "$home/kit.part/satellite.toml" || { echo "satellite: no link.listen in the kit" >&2; exit 3; }
    mv "$home/kit.part" "$home/kit"
fi
rm -rf "$stick/kit" # the keys on board are the only copies

config=$home/kit/satellite.toml
if [ ! -e "$home/provisioned" ]; then
    skyloadd provision "$release" --config "$config" --name "$(basename "$release")"
    touch "$home/provisioned"
fi
exec skyloadd run --config "$config"
