#!/usr/bin/env bash
# Train on GPU nodes of a Kubernetes cluster: an indexed Job with a headless Service, one pod per node.
#
#   IMAGE=REGISTRY/star_jax:gpu NODES=4 launch/kubernetes/train.sh \
#       --config configs/star_i2vgenxl.py --workdir gs://BUCKET/run --config.data.source=gs://BUCKET/dataset
#
# Arguments go to `star-jax train`. The same command resumes, once the Job of that name is deleted. DRY_RUN=1
# prints the manifest instead of applying it. Logs: kubectl logs job/NAME, or of a pod: kubectl logs NAME-1-...
set -euo pipefail

export NAME=${NAME:-star}                         # of the Job and of the Service
export IMAGE=${IMAGE:?set IMAGE to an image made with launch/docker/Dockerfile.gpu}
export NODES=${NODES:-2}
export GPUS_PER_NODE=${GPUS_PER_NODE:-8}
export CPUS=${CPUS:-96}                           # of a node, for the loader
export MEMORY=${MEMORY:-512Gi}
export SHARED_MEMORY=${SHARED_MEMORY:-64Gi}       # /dev/shm: loader workers hand clips over in it
export GRACE_SECONDS=${GRACE_SECONDS:-600}        # from SIGTERM (the pod saves) to SIGKILL
MAX_RESTARTS=${MAX_RESTARTS:-10}                  # after failures; preempted pods do not count
CLAIM=${CLAIM:-}                                  # PersistentVolumeClaim for /data; none with gs:// paths

export BACKOFF_LIMIT=$((MAX_RESTARTS * NODES))    # a failure takes the pods of all nodes with it
VOLUME="emptyDir: {}"
[[ -z $CLAIM ]] || VOLUME="persistentVolumeClaim: {claimName: $CLAIM}"
ARGUMENTS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' train --quiet "$@")
export VOLUME ARGUMENTS

manifest=$(dirname "$0")/job.yaml
# Only these: "$(...)" and other dollars in arguments stay as they are.
# shellcheck disable=SC2016
names='$NAME $IMAGE $NODES $GPUS_PER_NODE $CPUS $MEMORY $SHARED_MEMORY $GRACE_SECONDS $BACKOFF_LIMIT $VOLUME $ARGUMENTS'
if [[ -n ${DRY_RUN:-} ]]; then
  envsubst "$names" < "$manifest"
else
  envsubst "$names" < "$manifest" | kubectl apply -f -
fi
