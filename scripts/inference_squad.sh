#!/bin/sh
# Run bert-base-squad, score it and judge it: `make infer evaluate verify`.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
. "$scripts/upstream.sh"

usage() {
    cat <<'TEXT'
usage: inference_squad.sh --bs N [--int8]

Run SQuAD v1.1 dev through the engine, print QPS, exact_match and F1, and judge them against
the golden file. What is missing is built first.

  --bs N   the batch
  --int8   INT8 instead of FP16

The environment's variables pass on to make, such as BACKEND, DEVICE, DATASET and LIMIT;
`make help` lists all that it knows. Without --int8, PRECISION replaces FP16.
TEXT
}

batch='' precision=${PRECISION:-fp16} fixed=''
read_options "$@"
run_make infer evaluate verify PROFILE=bert-base-squad "PRECISION=$precision" "BATCH=$batch"
