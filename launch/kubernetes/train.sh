#!/usr/bin/env bash
# Trains on GPU nodes of a Kubernetes cluster: an indexed Job with a headless Service, and one pod per node.
#
#   IMAGE=REGISTRY/star_jax:gpu NODES=4 launch/kubernetes/train.sh \
#       --config configs/star_i2vgenxl.py --workdir gs://BUCKET/run --config.data.source=gs://BUCKET/dataset
#
# Arguments go to `star-jax train`. To resume, delete the Job and give the same command. DRY_RUN=1 prints the manifest
# instead of applying it. For logs use kubectl logs job/NAME, or kubectl logs NAME-1-... for a single pod.
set -euo pipefail

export NAME=${NAME:-star}                         # name of the Job and of the Service
export IMAGE=${IMAGE:?set IMAGE to an image made with launch/docker/Dockerfile.gpu}
export NODES=${NODES:-2}
export GPUS_PER_NODE=${GPUS_PER_NODE:-8}
export CPUS=${CPUS:-96}                           # CPUs of a node, for the loader
export MEMORY=${MEMORY:-512Gi}
export SHARED_MEMORY=${SHARED_MEMORY:-64Gi}       # /dev/shm, through which loader workers pass clips
export GRACE_SECONDS=${GRACE_SECONDS:-600}        # time from SIGTERM (the pod saves) to SIGKILL
MAX_RESTARTS=${MAX_RESTARTS:-10}                  # restarts after failures; preempted pods do not count
CLAIM=${CLAIM:-}                                  # PersistentVolumeClaim for /data; not needed with gs:// paths

export BACKOFF_LIMIT=$((MAX_RESTARTS * NODES))    # a failure ends the pods of all nodes
VOLUME="emptyDir: {}"
[[ -z $CLAIM ]] || VOLUME="persistentVolumeClaim: {claimName: $CLAIM}"
ARGUMENTS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' train --quiet "$@")
export VOLUME ARGUMENTS

manifest=$(dirname "$0")/job.yaml
# Only these are replaced: "$(...)" and other dollar signs in arguments stay unchanged.
# shellcheck disable=SC2016
names='$NAME $IMAGE $NODES $GPUS_PER_NODE $CPUS $MEMORY $SHARED_MEMORY $GRACE_SECONDS $BACKOFF_LIMIT $VOLUME $ARGUMENTS'
if [[ -n ${DRY_RUN:-} ]]; then
  envsubst "$names" < "$manifest"
else
  envsubst "$names" < "$manifest" | kubectl apply -f -
fi
