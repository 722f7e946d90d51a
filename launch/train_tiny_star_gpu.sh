#!/usr/bin/env bash
# Trains tiny-star's light decoder on a machine without a network that has a GPU for a few minutes.
#
#   launch/train_tiny_star_gpu.sh pack PACK PHOTOGRAPHS WEIGHTS   packs all files, on a machine with a network
#   launch/train_tiny_star_gpu.sh train PACK OUT                  trains on the GPU; the same command resumes from OUT
#
# PHOTOGRAPHS is the folder from `make photographs`; WEIGHTS has alexnet.safetensors and lpips_alex.safetensors
# (docs/evaluation.md). Besides PACK (24 MB), the machine needs Python with this package and the packages that setup.py
# requires, in versions at least as new; install those that are missing or too old, such as PyAV or Grain, from wheels.
#
#   SECONDS_IN_ALL=540     time after which it stops
#   WORK=/tmp/tiny-star    work directory, from which the files in OUT are made
#   DECAY_SECONDS=90       time at the end with a fifth of the learning rate
#   WORKERS=               number of processes that make clips (default: all cores but four)
#   PAUSE_FILE=            PAUSE_FILE of launch/gpu_check.sh: gets this process group, which is paused for measurements
#   PYTHON=python3         Python with OpenCV, for the pack
#   STAR_JAX="python3 -P -m star_jax.launch.cli"   command that runs the package (default star-jax)
#   OPTIONS="--config.clips.count=9000"   more options of star-jax train-decoder
#
# Every minute OUT gets the newest checkpoint, split into files state.00, state.01, ... of at most 15 MB.
set -uo pipefail

JPEG_QUALITY=84   # quality of the photographs in the pack
PART=15M
STOPPED=143   # exit code of a run that SIGTERM stopped, after it has saved

pack() {
  local folder=$1 photographs=$2 weights=$3
  mkdir -p "$folder/photographs" "$folder/weights"
  "${PYTHON:-python3}" - "$photographs" "$folder/photographs" "$JPEG_QUALITY" <<'PYTHON' || return 1
import pathlib, sys, cv2
source, target, quality = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
SETTINGS = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
for path in sorted(source.glob("*.png")):
    if path.stat().st_size < 2**24:  # a painting of 38 MB is left out
        cv2.imwrite(str(target / f"{path.stem}.jpg"), cv2.imread(str(path)), SETTINGS)
PYTHON
  cp "$weights"/{alexnet,lpips_alex}.safetensors "$folder/weights/"
  du -sh "$folder"
}

# keep: writes the newest checkpoint of the run to OUT in parts, each of which appears when it is complete.
keep() {
  local newest
  newest=$(find "$WORK/run/checkpoints" -mindepth 1 -maxdepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1)
  [[ -z $newest || $newest == "${KEPT:-}" ]] && return 0
  rm -rf "$WORK/parts" && mkdir -p "$WORK/parts"
  tar -C "$WORK/run/checkpoints" -c "$newest" | split -d -b "$PART" - "$WORK/parts/state." || return 1
  rm -f "$OUT"/state.*
  mv "$WORK"/parts/state.* "$OUT/" && KEPT=$newest
}

# until_second SECOND OPTIONS...: trains until this second of the script, then has the run save and stop.
until_second() {
  local end=$1 pid
  shift
  setsid "${COMMAND[@]}" train-decoder --config "$ROOT/configs/tiny_star_decoder.py" --workdir "$WORK/run" \
    --allow-changed-config --config.data.num_workers="$WORKERS" \
    --config.data.source="scenes:20000:$PACK/photographs" --config.loss.metric_weights="$PACK/weights" \
    "${MORE[@]}" "$@" >>"$OUT/train.log" 2>&1 &
  pid=$!
  [[ -n ${PAUSE_FILE:-} ]] && echo "$pid" >>"$PAUSE_FILE"
  while ((SECONDS < end)) && kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if ((SECONDS - last >= 60)); then
      last=$SECONDS
      keep
    fi
  done
  kill -CONT "-$pid" 2>/dev/null
  kill -TERM "$pid" 2>/dev/null
  wait "$pid"
  code=$?
  keep
  cp -f "$WORK/run/metrics.jsonl" "$OUT/" 2>/dev/null
  ((code == 0 || code == STOPPED))
}

train() {
  PACK=$(realpath "$1") OUT=$(mkdir -p "$2" && realpath "$2") ROOT=$(realpath "$(dirname "$0")/..")
  WORK=${WORK:-/tmp/tiny-star} KEPT="" last=0 SECONDS=0
  WORKERS=${WORKERS:-$(($(nproc) > 5 ? $(nproc) - 4 : 1))}
  read -ra COMMAND <<<"${STAR_JAX:-star-jax}"
  read -ra MORE <<<"${OPTIONS:-}"
  mkdir -p "$WORK/run/checkpoints"
  export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false}
  if [[ -e $OUT/state.00 && -z $(ls "$WORK/run/checkpoints") ]]; then
    cat "$OUT"/state.* | tar -C "$WORK/run/checkpoints" -x || return 1
  fi
  local all=${SECONDS_IN_ALL:-540} rate
  rate=$(python3 -c "
import runpy; print(runpy.run_path('$ROOT/configs/tiny_star_decoder.py')['get_config']().optimizer.learning_rate / 5)")
  until_second $((all - ${DECAY_SECONDS:-90})) || return 1
  until_second "$all" --config.optimizer.learning_rate="$rate"
}

case "${1:-} $#" in
  "pack 4") pack "${@:2}" ;;
  "train 3") train "${@:2}" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' && exit 2 ;;
esac
