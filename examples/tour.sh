#!/bin/sh
# A tour of the command line on an embedded bus in a directory of its own. Needs `busline` in the PATH.
set -eu
bus=$(mktemp -d)
trap 'rm -rf "$bus"' EXIT
export BUSLINE_URL="file:$bus"
data=$(dirname "$0")/data/earthquakes.ndjson

echo '# A week of earthquakes, one message a line; the reporting network is the key.'
busline publish quakes --lines --file "$data" --key-field net

echo '# Replay: the first two of Hawaii.'
busline read quakes --pattern hv --count 2

echo '# A group gets each message once, and goes on where it was.'
busline --json consume quakes --group night-shift --pattern us --count 3
busline --json consume quakes --group night-shift --count 1

echo '# What cannot be handled goes to the dead letters, with the reason.'
busline consume quakes --group night-shift --count 2 --reject 'the sensor was moved'
busline dead list night-shift
busline dead list night-shift --filter "payload.magnitude >= 4.5 and reason ~ '#'"

echo '# Back to the group that rejected them, and to nobody else.'
busline dead redrive night-shift --dry-run
busline dead redrive night-shift
busline groups quakes

echo '# Is everything in order?'
busline log verify "$bus"
busline doctor
