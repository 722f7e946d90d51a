#!/usr/bin/env bash
# Degrades clips with several seeds, upscales them, and scores the results beside bicubic interpolation.
#
#   launch/evaluate_clips.sh OUT CLIP... [-- OPTION OF star-jax upscale...]
#   SEEDS="0 1 2" launch/evaluate_clips.sh out/scores horse.mp4 cog_1.mp4 -- --checkpoint DIR --steps 15
#
# OUT/truth, OUT/low/seed_N and OUT/results/seed_N have the clips (as images, which are lossless), OUT/scores.json has
# the scores, and OUT/NAME.png is a picture of each clip. The same command resumes: existing clips are kept.
# The degradation crops sides to a multiple of 4, so scoring needs --crop.
set -euo pipefail

SEEDS=${SEEDS:-0 1 2 3 4}
RECIPE=${RECIPE:-realbasicvsr}

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

mkdir -p "$out/truth"
for clip in "${clips[@]}"; do
  ln -sfn "$(realpath -e "$clip")" "$out/truth/$(basename "$clip")"
  name=$(basename "${clip%.*}")
  for seed in $SEEDS; do
    low=$out/low/seed_$seed result=$out/results/seed_$seed
    mkdir -p "$low" "$result"
    [[ -d $low/$name ]] || star-jax degrade "$clip" -o "$low/$name/%05d.png" \
      --recipe "$RECIPE" --seed "$seed" --frames 99999
    [[ -d $result/$name ]] || star-jax upscale "$low/$name" -o "$result/$name/%05d.png" "$@"
  done
  star-jax evaluate "$result/$name" "$clip" --input "$low/$name" --crop --quiet --picture "$out/$name.png"
done
star-jax evaluate "$out/results" "$out/truth" --input "$out/low" --baseline bicubic --crop --json "$out/scores.json"
