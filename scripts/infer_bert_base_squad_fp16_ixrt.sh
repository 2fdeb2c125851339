#!/bin/sh
# Reproduce bert-base-squad at FP16 with ixRT, from download to report: `make all`.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
. "$scripts/upstream.sh"

usage() {
    cat <<'TEXT'
usage: infer_bert_base_squad_fp16_ixrt.sh [--bs N]

Build the engine with ixRT at FP16, run SQuAD v1.1 dev through it, and judge accuracy and QPS
against the golden file.

  --bs N   the batch; default: 32

The environment's variables pass on to make, such as DEVICE, DATASET, LIMIT and PLUGIN_LIBRARY;
`make help` lists all that it knows.
TEXT
}

batch=32 fixed=fp16
read_options "$@"
case ${BACKEND:-ixrt} in
    ixrt) ;;
    *)
        fail "BACKEND is '$BACKEND', and this command runs ixRT; unset it, or run" \
            "scripts/build_engine.sh and scripts/inference_squad.sh"
        ;;
esac
run_make all PROFILE=bert-base-squad BACKEND=ixrt "PRECISION=$fixed" "BATCH=$batch"
