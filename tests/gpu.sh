#!/usr/bin/env bash
# Everything that needs a GPU, in parts of less than ten minutes each. Needs the CUDA toolkit; `bench` and `evaluate` need
# Python with torch (PYTHON, python3 by default), `sanitize` needs compute-sanitizer.
#
#   tests/gpu.sh build                           the program and the tests
#   tests/gpu.sh test                            every kernel, golden runs, gradients, and all engines alike
#   tests/gpu.sh repeat                          two runs of the demo give the same bits
#   tests/gpu.sh sanitize                        the kernels' tests under compute-sanitizer (memcheck, then racecheck)
#   tests/gpu.sh bench [tf32|fp32]               steps of blocks against PyTorch
#   tests/gpu.sh evaluate                        evaluations against PyTorch
#   tests/gpu.sh accuracy DATA WEIGHTS BITS OUT  MobileNetV2 with 20,000 iterations; the same call goes on after an interruption
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python3}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release

# Runs tests by their names, separated by spaces, with a command before the newest build of them.
tests() {
  local newest
  newest=$(find "$target/deps" -maxdepth 1 -name 'integration-*' -perm -u+x ! -name '*.*' -printf '%T@ %p\n' | sort -rn | head -1)
  # shellcheck disable=SC2086
  (cd cli && "${@:2}" "${newest#* }" $1)
}

case "${1:-}" in
  build)
    cargo build --release --locked -p qdrop --features cuda
    cargo test --release --locked -p qdrop --features cuda --test integration --no-run
    ;;
  test)
    "$target/qdrop" devices
    tests "cuda_kernels cuda_engine golden gradients engines:: inference:: fused:: strategies::" env
    ;;
  repeat)
    rm -rf "$target/repeat"
    for i in 1 2; do
      "$target/qdrop" quantize demo --device cuda --set 'compare=[]' --out "$target/repeat/$i"
    done
    cmp "$target/repeat/1/model.safetensors" "$target/repeat/2/model.safetensors" && echo "the same bits"
    ;;
  sanitize)
    for tool in memcheck racecheck; do
      tests "cuda_kernels" env QDROP_ONLY_GPU=1 compute-sanitizer --error-exitcode 1 --tool "$tool"
    done
    ;;
  bench)
    flag=--tf32
    [ "${2:-tf32}" = fp32 ] && flag=
    against="$PYTHON cli/examples/torch_block.py --device cuda"
    blocks="resnet18.layer1.0 resnet18.layer2.0 resnet18.layer3.0 resnet18.layer4.0 mobilenet_v2.features.2 mobilenet_v2.features.16"
    # shellcheck disable=SC2086
    "$target/qdrop" bench $blocks --device cuda $flag --iters 30 --against "$against"
    ;;
  evaluate)
    "$target/qdrop" bench evaluate.resnet18 evaluate.mobilenet_v2 --device cuda --tf32 --iters 30 \
      --against "$PYTHON cli/examples/torch_block.py --device cuda"
    ;;
  accuracy)
    data=$2 weights=$3 bits=$4 out=$5
    if [ -d "$out" ]; then
      "$target/qdrop" resume "$out"
    else
      "$target/qdrop" quantize "best/mobilenet_v2_$bits" --device cuda --iters 20000 --set tf32=true \
        --data "$data" --weights "$weights" --out "$out"
    fi
    ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
