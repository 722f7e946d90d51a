"""What the tests of several processes run in each of them: join, sum over all devices, log."""

import argparse
import json
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from star_jax.errors import InputError, StarError
from star_jax.launch.cluster_arguments import add_cluster_arguments, join_cluster
from star_jax.parallel.peers import ending_together, gather_texts
from star_jax.parallel.processes import log_to, wait_for_all


def main() -> None:
    parser = argparse.ArgumentParser()
    add_cluster_arguments(parser)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--wait-for-sigterm", action="store_true")
    parser.add_argument("--refuse", type=int, help="number of the process that finds its input bad")
    args = parser.parse_args()
    try:
        join_cluster(args)
    except StarError as error:
        sys.exit(f"{error.exit_code}: {error}")
    log_to(args.workdir)
    if args.refuse is not None:
        return refuse(args.refuse)
    if args.wait_for_sigterm and jax.process_index() == 0:
        time.sleep(2)
    arrived = time.time()
    wait_for_all("slept")
    passed = time.time()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    values = jax.make_array_from_callback(
        (jax.device_count(),), sharding, lambda index: jnp.arange(100.0)[: jax.device_count()][index]
    )
    add = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    total = float(jax.jit(add)(values)[0])
    multihost_utils.sync_global_devices("summed")
    report = {
        "process": [jax.process_index(), jax.process_count()],
        "devices": [jax.local_device_count(), jax.device_count()],
        "sum": total,
        "gathered": gather_texts("" if jax.process_index() else "said by 0"),
        "arrived": arrived,
        "passed": passed,
        "visible_gpus": jax.config.values["jax_cuda_visible_devices"],
    }
    if args.wait_for_sigterm:
        # Only process 1 is told; both must hear of it at the same step.
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step = 0
        while not multihost_utils.reached_preemption_sync_point(step):
            time.sleep(0.01)  # steps take time: empty ones would be over before the signal is heard of
            step += 1
        report["stopped_at"] = step
        multihost_utils.sync_global_devices("stopped")
    print(json.dumps(report))


def refuse(index: int) -> None:
    """One process stops for its input, and the others wait for it in an operation of all devices."""
    try:
        with ending_together():
            if jax.process_index() == index:
                raise InputError("no such folder: clips; check the path")
            multihost_utils.sync_global_devices("never")
    except StarError as error:
        print(f"star-jax train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
