"""Compare two reports that --json wrote: ratios, and what differed between the runs.

star-jax benchmark compare before.json after.json
"""

import argparse
import json
import sys

HELP = "two reports: ratios, and what differed between the runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.json", help="the report to compare with")
    parser.add_argument("b", metavar="B.json", help="the report to compare")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from star_jax.benchmark.report import compare, read_report

    rows, differences = compare(read_report(args.a), read_report(args.b))
    if args.json:
        json.dump({"rows": rows, "differences": differences}, sys.stdout, indent=2)
        print()
        return
    console = Console()
    for row in rows:
        table = Table("", "A", "B", "B / A", title=row["name"], title_justify="left")
        for key, values in row.items():
            if key != "name":
                table.add_row(key, *(f"{value:.4g}" for value in values))
        console.print(table)
    for line in differences:
        console.print(f"differs: {line}", markup=False, highlight=False)
