#!/bin/sh
# The link container: the emulator between the two networks, the only thing that is in both.
set -eu

exec skyload link run \
    --profile "${SKY:-/sky.yaml}" --seed "${SEED:-1}" --epoch "$(($(date +%s) / 60 * 60))" \
    --ground 0.0.0.0:7001 --space 0.0.0.0:7002 --satellite satellite:7003 \
    --control /run/skyload/link.sock --statistics-file /run/skyload/link.json
