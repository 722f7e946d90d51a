"""The flags by which the processes of one run find each other, for `star-jax train`."""

import argparse

from star_jax.parallel.processes import COORDINATOR, NUM_PROCESSES, PROCESS_ID


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `join_cluster` reads."""
    group = parser.add_argument_group(
        "several processes", "Slurm and TPU pods need none of these; without any, one process trains alone."
    )
    group.add_argument(
        COORDINATOR[0], metavar="HOST:PORT", help=f"address of process 0 (or {COORDINATOR[1]})"
    )
    group.add_argument(NUM_PROCESSES[0], metavar="N", help=f"number of processes (or {NUM_PROCESSES[1]})")
    group.add_argument(
        PROCESS_ID[0],
        metavar="I",
        help=f"number of this process, from 0 (or {PROCESS_ID[1]}, JOB_COMPLETION_INDEX)",
    )
    group.add_argument(
        "--coordinator-timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long processes wait for each other at the start (default 300)",
    )


def join_cluster(args: argparse.Namespace) -> None:
    """See `star_jax.parallel.processes.initialize`."""
    from star_jax.parallel.processes import initialize

    initialize(args.coordinator, args.num_processes, args.process_id, timeout=args.coordinator_timeout)
