#!/bin/sh
# Build the engine of bert-base-squad: `make engine`.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
. "$scripts/upstream.sh"

usage() {
    cat <<'TEXT'
usage: build_engine.sh --bs N [--int8]

Build the engine, and before it whatever it is built from.

  --bs N   the batch: the largest one where the backend's engines have a largest batch
  --int8   INT8 instead of FP16

The environment's variables pass on to make, such as BACKEND, DEVICE and OFFLINE;
`make help` lists all that it knows. Without --int8, PRECISION replaces FP16.
TEXT
}

batch='' precision=${PRECISION:-fp16} fixed=''
read_options "$@"
run_make engine PROFILE=bert-base-squad "PRECISION=$precision" "BATCH=$batch"
