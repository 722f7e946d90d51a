#!/usr/bin/env bash
# Trains on one or several Cloud TPU slices (v5e, v5p, v6e) with queued resources, in a container on every host.
#
#   launch/tpu/pod.sh run --config configs/star_i2vgenxl.py --workdir gs://BUCKET/run ...   create, setup, train, wait
#   launch/tpu/pod.sh create                  requests the slices, and waits until they are ready
#   launch/tpu/pod.sh setup                   pulls the image, and the checkpoint, on every host
#   launch/tpu/pod.sh train --config ...      starts, or resumes, training on every host
#   launch/tpu/pod.sh wait                    waits until training ends; prints each host's exit code
#   launch/tpu/pod.sh logs [HOST]             prints the log of a host (default 0), in slice SLICE if there are several
#   launch/tpu/pod.sh ssh HOST|all COMMAND    runs a command on one host or on all
#   launch/tpu/pod.sh stop                    SIGTERM: training saves and ends
#   launch/tpu/pod.sh delete                  deletes the slices
#
# Arguments after `train` and `run` go to `star-jax train`. When a spot slice is preempted, `run` requests a new one, and
# resumes. It can be interrupted and started again at any time, and uses existing slices and containers. Interrupt it
# before `stop`; otherwise it would resume the training.
set -euo pipefail

NAME=${NAME:-star}
ZONE=${ZONE:?set ZONE, such as europe-west4-b}
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5p-32}          # such as v5litepod-16, v6e-16, v5p-32 (v5p counts cores)
NUM_SLICES=${NUM_SLICES:-1}                           # slices of that type; each holds a replica of the weights
SLICE=${SLICE:-0}                                     # slice of the host in `logs` and `ssh`
IMAGE=${IMAGE:?set IMAGE to an image made with launch/docker/Dockerfile.tpu, in a registry that the slice reaches}
CHECKPOINT=${CHECKPOINT:-}                            # gs:// folder that is copied to /data/checkpoint on every host
PROVISIONING=${PROVISIONING---spot}                   # or "" (on demand), --reserved
GRACE_SECONDS=${GRACE_SECONDS:-600}                   # time from SIGTERM (training saves) to SIGKILL
MAX_RESTARTS=${MAX_RESTARTS:-10}                      # restarts after failures; preempted slices do not count
POLL_SECONDS=${POLL_SECONDS:-60}

case $ACCELERATOR_TYPE in
  v5p-*) RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5} ;;
  v5litepod-*) RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite} ;;
  v6e-*) RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv6e} ;;
  *) RUNTIME_VERSION=${RUNTIME_VERSION:?set RUNTIME_VERSION for $ACCELERATOR_TYPE} ;;
esac

state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2> /dev/null \
    || echo NONE
}

on() { # HOST|all COMMAND
  local slice=$SLICE
  if [[ $NUM_SLICES -gt 1 ]]; then
    [[ $1 != all ]] || slice=all
    gcloud compute tpus queued-resources ssh "$NAME" --zone="$ZONE" --node="$slice" --worker="$1" --command="$2"
  else
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
  fi
}

create() {
  local now nodes=(--node-id="$NAME")
  [[ $NUM_SLICES -eq 1 ]] || nodes=(--node-count="$NUM_SLICES" --node-prefix="$NAME")
  while now=$(state) && [[ $now != ACTIVE ]]; do
    case $now in
      NONE)
        # shellcheck disable=SC2086  # an empty provisioning flag must not be an argument
        gcloud compute tpus queued-resources create "$NAME" "${nodes[@]}" --zone="$ZONE" \
          --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" $PROVISIONING
        ;;
      FAILED | SUSPENDED) delete ;;
      *) echo "$NAME: $now" >&2; sleep "$POLL_SECONDS" ;;
    esac
  done
}

setup() {
  on all "sudo gcloud auth configure-docker ${IMAGE%%/*} --quiet && sudo docker pull --quiet $IMAGE"
  if [[ -n $CHECKPOINT ]]; then
    on all "sudo mkdir -p /var/star/checkpoint && sudo gcloud storage rsync --recursive $CHECKPOINT /var/star/checkpoint"
  fi
}

train() {
  # The container has the host's network and devices, because JAX asks the metadata server for the host and slice.
  # Arguments are quoted twice, because ssh starts another shell.
  on all "sudo docker rm --force star > /dev/null 2>&1; sudo docker run --detach --name=star --init --net=host --privileged \
--ulimit=memlock=-1 --ipc=host --volume=/var/star:/data $IMAGE star-jax train --quiet $(printf '%q ' "$@")"
}

wait_for_end() {
  on all "sudo docker wait star"
}

stop() {
  on all "sudo docker stop --time=$GRACE_SECONDS star"
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

run() {
  local failures=0 codes
  while true; do
    create
    if ! on all "sudo docker inspect --format={{.State.Running}} star | grep --quiet true" 2> /dev/null; then
      setup
      train "$@"
    fi
    codes=$(wait_for_end | tr -d '\r' | sort -u | tr '\n' ' ') || codes=
    if [[ $(state) != ACTIVE ]]; then
      echo "$NAME is gone (preempted, or not active any more); requesting another slice" >&2
      continue
    fi
    case $codes in
      "") sleep "$POLL_SECONDS"; continue ;; # ssh failed; the container is still running
      "0 ") echo "$NAME: done" >&2; return 0 ;;
      "2 " | "0 2 ") echo "$NAME: wrong arguments; see $0 logs" >&2; return 2 ;;
    esac
    failures=$((failures + 1))
    if [[ $failures -gt $MAX_RESTARTS ]]; then
      echo "$NAME: failed $failures times, the last time with exit code ${codes% }; see $0 logs" >&2
      return 1
    fi
    echo "$NAME: ended with exit code ${codes% }; resuming" >&2
  done
}

command=${1:-}
shift || true
case $command in
  create | setup | stop | delete) "$command" ;;
  train | run) "$command" "$@" ;;
  wait) wait_for_end ;;
  logs) on "${1:-0}" "sudo docker logs --tail=1000 star" ;;
  ssh) on "$@" ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
