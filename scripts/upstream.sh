# What the commands with upstream's names share. Sourced by them, never run.
#
# Each is a thin wrapper over make: it checks its options, names profile, precision and batch, and
# leaves the rest to the Makefile. Variables of the environment pass through.

# Say in one line what is wrong and what to do next, and leave.
fail() {
    printf 'error: %s\n' "$(printf "%s" "$*" | tr '\n\r' '  ')" >&2
    exit 2
}

# Set `batch` from --bs N and `precision` from --int8, which is refused where `fixed` names the
# only precision there is.
# Usage: read_options OPTION...
read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                usage
                exit 0
                ;;
            --bs)
                [ $# -ge 2 ] || fail "--bs has no number behind it; give the batch, as in --bs 32"
                batch=$2
                shift
                ;;
            --int8)
                [ -z "$fixed" ] || fail "--int8 is not taken: this command runs $fixed;" \
                    "leave it out"
                precision=int8
                ;;
            --tgt)
                fail "--tgt is not taken: the pass marks are in golden/bert-base-squad;" \
                    "leave it out"
                ;;
            --use_trt)
                fail "--use_trt is not taken; leave it out, and for TensorRT run" \
                    "scripts/build_engine.sh and scripts/inference_squad.sh with BACKEND=tensorrt"
                ;;
            *) fail "unknown option '$1'; ${0##*/} --help lists what there is" ;;
        esac
        shift
    done
    # The digits are spelled out: a range means other characters as well in some locales.
    case $batch in
        '') fail "--bs is missing; give the batch, as in --bs 32" ;;
        0* | *[!0123456789]* | ?????*) batch_out_of_range ;;
    esac
    [ "$batch" -le 4096 ] || batch_out_of_range
}

batch_out_of_range() {
    fail "--bs is '$batch'; give a whole number from 1 to 4096"
}

# Replace this shell by make in the repository that holds the command.
# Usage: run_make WORD...
run_make() {
    command -v make >/dev/null || fail "there is no make on PATH; install GNU make"
    # make runs in another folder than the one that relative paths are meant for.
    value=''
    for name in DATASET CALIBRATION ASSET_LOCK ASSET_MIRROR PLUGIN_LIBRARY; do
        eval "value=\${$name-}"
        case $value in
            '' | /* | *://*) ;;
            *) export "$name=$PWD/$value" ;;
        esac
    done
    case ${PYTHON-} in
        /*) ;;
        # Without a slash it is looked for on PATH.
        */*) export "PYTHON=$PWD/$PYTHON" ;;
    esac
    cd -- "$scripts/.." || fail "cannot enter $scripts/..; check its permissions"
    exec make "$@"
}

# Check the options and run all of make with ixRT at one precision.
# Usage: infer_with_ixrt fp16|int8 OPTION...
infer_with_ixrt() {
    batch=32 fixed=$1
    shift
    usage() {
        cat <<TEXT
usage: ${0##*/} [--bs N]

Build the engine with ixRT at $(printf '%s' "$fixed" | tr '[:lower:]' '[:upper:]'),
run SQuAD v1.1 dev through it, and judge accuracy and QPS against the golden file.

  --bs N   the batch; default: 32

The environment's variables pass on to make, such as DEVICE, DATASET, LIMIT and PLUGIN_LIBRARY;
\`make help\` lists all that it knows.
TEXT
    }
    read_options "$@"
    case ${BACKEND:-ixrt} in
        ixrt) ;;
        *)
            fail "BACKEND is '$BACKEND', and this command runs ixRT; unset it, or run" \
                "scripts/build_engine.sh and scripts/inference_squad.sh"
            ;;
    esac
    run_make all PROFILE=bert-base-squad BACKEND=ixrt "PRECISION=$fixed" "BATCH=$batch"
}
