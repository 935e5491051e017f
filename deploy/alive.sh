#!/bin/sh
# Whether a worker, or beat, does its work: its HEARTBEAT_FILE was touched within three minutes. For any probe that runs a
# command. It needs `find` and no Python, which would take a second of every probe.
set -eu

file=${1:-${HEARTBEAT_FILE:?name the file, or set HEARTBEAT_FILE}}
test -n "$(find "$file" -mmin -3)"
