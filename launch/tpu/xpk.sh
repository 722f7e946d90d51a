#!/usr/bin/env bash
# Trains on one or several TPU slices of a GKE cluster with xpk (https://github.com/AI-Hypercomputer/xpk; pip install xpk).
#
#   xpk cluster create --cluster star --tpu-type=v5p-32 --num-slices=1 --zone=ZONE --project=PROJECT    once
#   CLUSTER=star ZONE=... PROJECT=... IMAGE=... launch/tpu/xpk.sh --config configs/star_i2vgenxl.py --workdir gs://...
#   xpk workload list --cluster star          kubectl logs -l jobset.sigs.k8s.io/jobset-name=star-train
#   xpk workload delete --workload star-train --cluster star
#
# Arguments go to `star-jax train`. To resume, delete the workload and run the same command again; the cluster restarts
# pods that were preempted or failed, and they resume, too.
set -euo pipefail

CLUSTER=${CLUSTER:?set CLUSTER to the name of a cluster made with xpk}
ZONE=${ZONE:?set ZONE}
PROJECT=${PROJECT:?set PROJECT}
IMAGE=${IMAGE:?set IMAGE to an image made with launch/docker/Dockerfile.tpu}
WORKLOAD=${WORKLOAD:-star-train}
TPU_TYPE=${TPU_TYPE:-v5p-32}
NUM_SLICES=${NUM_SLICES:-1}                           # number of slices; each holds a replica of the weights
MAX_RESTARTS=${MAX_RESTARTS:-50}

xpk workload create --workload "$WORKLOAD" --cluster "$CLUSTER" --zone="$ZONE" --project="$PROJECT" \
  --tpu-type="$TPU_TYPE" --num-slices="$NUM_SLICES" --docker-image="$IMAGE" --max-restarts="$MAX_RESTARTS" \
  --command "star-jax train --quiet $(printf '%q ' "$@")"
