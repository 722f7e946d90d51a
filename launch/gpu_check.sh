#!/usr/bin/env bash
# Measures this system on one H100 or H200 in ten minutes, the most informative parts first; needs no data or weights.
#
#   launch/gpu_check.sh [FOLDER]          reports go there (default gpu_check), one JSON a part, as it ends
#
#   SECONDS_IN_ALL=600                    no part starts or continues after that time
#   STAR_JAX="python3 -m star_jax.launch.cli"   how the package is run (default star-jax)
#   PEAK_TFLOPS=790                       what MFU refers to
#
# It can be cut off at any time. parts.tsv lists the finished parts (name, exit code, seconds); NAME.json is a part's
# report and NAME.log its output. Compiled programs stay in FOLDER/compiled: a second run begins with them.
set -uo pipefail

FOLDER=${1:-gpu_check}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-600}
PEAK_TFLOPS=${PEAK_TFLOPS:-790}
read -ra COMMAND <<<"${STAR_JAX:-star-jax}"
LEAST_SECONDS=20                       # with less left, a part would only compile

mkdir -p "$FOLDER"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(realpath "$FOLDER")/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
: >"$FOLDER/parts.tsv"
SECONDS=0
failed=0

# part NAME SECONDS ARGUMENTS...: one command of star-jax benchmark, for at most so many seconds.
part() {
  local name=$1 most=$2 left=$((SECONDS_IN_ALL - SECONDS)) begun=$SECONDS code
  shift 2
  if ((left < LEAST_SECONDS)); then
    echo "$name: left out, $left s are left"
    printf '%s\tleft out\t0\n' "$name" >>"$FOLDER/parts.tsv"
    return
  fi
  timeout "$((most < left ? most : left))" "${COMMAND[@]}" benchmark "$@" --json "$FOLDER/$name.json" \
    >"$FOLDER/$name.log" 2>&1
  code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - begun))" >>"$FOLDER/parts.tsv"
  echo "$name: exit code $code after $((SECONDS - begun)) s"
  if ((code != 0)); then
    failed=1
    tail -n 3 "$FOLDER/$name.log"
  fi
}

nvidia-smi >"$FOLDER/nvidia-smi.txt" 2>&1 || echo "no nvidia-smi here"

SIZE=(--frames 32 --height 720 --width 1280)
PEAK=(--peak-tflops "$PEAK_TFLOPS")
CONFIG=$(dirname "$0")/../configs/star_i2vgenxl.py   # beside launch/, in a checkout and where it is installed
TRAIN=(train --config "$CONFIG" --config.train.batch_size=1 --repeats 2 "${PEAK[@]}")

part layers 75 layers --budget 60 --vae-dtype float16
part forward 130 inference "${SIZE[@]}" "${PEAK[@]}"
part train 200 "${TRAIN[@]}" --config.diffusion.frequency=off
part vae-decode 60 inference --component vae-decode "${SIZE[@]}" "${PEAK[@]}"
part pipeline 200 inference --component pipeline --frames 33 --repeats 1 "${PEAK[@]}"
part vae-encode 60 inference --component vae-encode "${SIZE[@]}" "${PEAK[@]}"
part vae-encode-float16 60 inference --component vae-encode --vae-dtype float16 "${SIZE[@]}" "${PEAK[@]}"
part layers-backward 90 layers --backward --budget 80 --vae-dtype float16
part train-df 300 "${TRAIN[@]}"
exit "$failed"
