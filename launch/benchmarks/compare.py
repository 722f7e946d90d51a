"""Compare two reports that --json wrote: ratios, and differences between the runs.

star-jax benchmark compare before.json after.json
"""

import argparse
import json
import sys

HELP = "compare two reports: ratios, and differences between the runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.json", help="the report to compare with")
    parser.add_argument("b", metavar="B.json", help="the report to compare")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write the comparison to FILE (without FILE: print it as JSON)",
    )


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from star_jax.benchmark.report import compare, read_report
    from star_jax.files import check_report_path, write_json

    if args.json not in (None, "-"):
        check_report_path(args.json, ".json")
    rows, differences = compare(read_report(args.a), read_report(args.b))
    report = {"rows": rows, "differences": differences}
    if args.json == "-":
        json.dump(report, sys.stdout, indent=2)
        print()
        return
    if args.json:
        write_json(args.json, report)
    console = Console()
    for row in rows:
        table = Table("", "A", "B", "B / A", title=row["name"], title_justify="left")
        for key, values in row.items():
            if key != "name":
                table.add_row(key, *(f"{value:.4g}" for value in values))
        console.print(table)
    for line in differences:
        console.print(f"differs: {line}", markup=False, highlight=False)
