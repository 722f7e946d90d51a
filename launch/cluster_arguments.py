"""Flags of `star-jax train` that let the processes of one run find each other."""

import argparse

from star_jax.parallel.processes import COORDINATOR, NUM_PROCESSES, PROCESS_ID


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `join_cluster` reads."""
    group = parser.add_argument_group(
        "several processes",
        "On Slurm and TPU pods none of these is needed. Elsewhere, without them, a single process trains.",
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
        help="time that processes wait for each other at the start (default 300)",
    )


def join_cluster(args: argparse.Namespace) -> None:
    """Connects the processes of a run; see `star_jax.parallel.processes.initialize`."""
    from star_jax.parallel.processes import initialize

    initialize(args.coordinator, args.num_processes, args.process_id, timeout=args.coordinator_timeout)
