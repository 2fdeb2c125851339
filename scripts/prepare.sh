#!/bin/sh
# Download and check what bert-base-squad needs: `make assets`.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
. "$scripts/upstream.sh"

usage() {
    cat <<'TEXT'
usage: prepare.sh v1_1

Download the SQuAD v1.1 dev set, the checkpoint and the vocabulary, and check them by hash.
The training set is not needed and not downloaded. v1_1 is the only version there is.

The environment's variables pass on to make, such as BACKEND, DATASET, OFFLINE and ASSET_MIRROR;
`make help` lists all that it knows.
TEXT
}

case ${1-} in
    -h | --help)
        usage
        exit 0
        ;;
    '') fail "which SQuAD is missing; run ${0##*/} v1_1" ;;
    v1_1) ;;
    v2_0) fail "SQuAD v2.0 is not reproduced here; run ${0##*/} v1_1" ;;
    *) fail "unknown SQuAD version '$1'; run ${0##*/} v1_1" ;;
esac
[ $# -eq 1 ] || fail "'$2' is one word too many; run ${0##*/} v1_1"

run_make assets PROFILE=bert-base-squad
