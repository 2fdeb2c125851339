#!/bin/sh
# Reproduce bert-base-squad at FP16 with ixRT, from download to report: `make all`.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
. "$scripts/upstream.sh"
infer_with_ixrt fp16 "$@"
