#!/usr/bin/env bash
# Measures this system on one H100 or H200 in ten minutes, without data or weights; the most informative parts come first.
#
#   launch/gpu_check.sh [FOLDER]          writes reports to FOLDER (default gpu_check), one JSON file per finished part
#
#   SECONDS_IN_ALL=600                    no part starts or continues after this time
#   STAR_JAX="python3 -P -m star_jax.launch.cli"   command that runs the package (default star-jax)
#   PEAK_TFLOPS=790                       peak that MFU refers to
#   PAUSE_FILE=FILE                       process groups that share the GPU, one number per line: they are paused
#                                         while something is timed, and run while programs are compiled
#
# The training step compiles in parallel with the other parts, and is paused like the groups in PAUSE_FILE while those
# are timed. The fastest forms of operations are stored in the installed package (star-jax benchmark layers --write),
# and then the networks are measured with them.
#
# The script can be interrupted at any time. parts.tsv lists the finished parts (name, exit code, seconds); NAME.json is
# a part's report, and NAME.log is its output. Compiled programs stay in FOLDER/compiled for the next run.
set -uo pipefail

FOLDER=${1:-gpu_check}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-600}
PEAK_TFLOPS=${PEAK_TFLOPS:-790}
read -ra COMMAND <<<"${STAR_JAX:-star-jax}"
LEAST_SECONDS=20                       # in less time, a part would only compile

mkdir -p "$FOLDER"
PAUSE_FILE=${PAUSE_FILE:-$FOLDER/groups}
touch "$PAUSE_FILE"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(realpath "$FOLDER")/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false   # several processes share the device's memory
: >"$FOLDER/parts.tsv"
SECONDS=0

# part NAME SECONDS ARGUMENTS...: runs star-jax benchmark ARGUMENTS for at most SECONDS seconds.
part() {
  local name=$1 most=$2 left=$((SECONDS_IN_ALL - SECONDS)) begun=$SECONDS code
  shift 2
  if ((left < LEAST_SECONDS)); then
    echo "$name: left out, because only $left s are left"
    printf '%s\tleft out\t0\n' "$name" >>"$FOLDER/parts.tsv"
    return 0
  fi
  # timeout starts a new process group.
  timeout -k 5 "$((most < left ? most : left))" "${COMMAND[@]}" benchmark "$@" --pause "$PAUSE_FILE" \
    --json "$FOLDER/$name.json" >"$FOLDER/$name.log" 2>&1 &
  echo $! >>"$PAUSE_FILE"
  wait $!
  code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - begun))" >>"$FOLDER/parts.tsv"
  echo "$name: exit code $code after $((SECONDS - begun)) s, at $SECONDS s"
  if ((code != 0)); then
    tail -n 12 "$FOLDER/$name.log" | cut -c1-2000 | sed "s/^/  $name | /"
    resume
  fi
  return "$code"
}

# Continues groups that are still paused because a part was cut off while it timed something.
resume() {
  local group
  while read -r group; do
    kill -CONT -- "-$group" 2>/dev/null
  done <"$PAUSE_FILE"
  return 0
}
trap resume EXIT

nvidia-smi >"$FOLDER/nvidia-smi.txt" 2>&1 || echo "nvidia-smi is not available"

SIZE=(--frames 32 --height 720 --width 1280)
PEAK=(--peak-tflops "$PEAK_TFLOPS")
PLAIN=(--form group_norm=two_pass --form frames_attention=pixels_first)   # without the Pallas kernels
CONFIG=$(dirname "$0")/../configs/star_i2vgenxl.py   # configs/ is beside launch/ in a checkout and when installed
TRAIN=(train --config "$CONFIG:paper" --config.train.batch_size=1 --repeats 2 "${PEAK[@]}" "${PLAIN[@]}")

training() {
  part train 420 "${TRAIN[@]}" --config.diffusion.frequency=off
  part train-df 500 "${TRAIN[@]}"
}
part layers 90 layers --budget 60 --vae-dtype float16 --write
FORMS=()
part forward 150 inference "${SIZE[@]}" "${PEAK[@]}" --repeats 3 || FORMS=("${PLAIN[@]}")
training &   # not earlier: its compilation uses all cores, and the forward pass then took over 150 s to compile
part vae-decode 60 inference --component vae-decode "${SIZE[@]}" "${PEAK[@]}"
part vae-encode 60 inference --component vae-encode "${SIZE[@]}" "${PEAK[@]}"
part pipeline 240 inference --component pipeline --frames 33 --repeats 1 "${PEAK[@]}" "${FORMS[@]}"
part forward-plain 150 inference "${SIZE[@]}" "${PEAK[@]}" "${PLAIN[@]}" --repeats 3
part vae-encode-float16 60 inference --component vae-encode --vae-dtype float16 "${SIZE[@]}" "${PEAK[@]}"
part layers-backward 90 layers --backward --budget 80 --vae-dtype float16
wait
! cut -f 2 "$FOLDER/parts.tsv" | grep -qvE '^(0|left out)$'
