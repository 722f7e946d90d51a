"""Prints the figures of docs/architecture.md: python tests/architecture_counts.py."""

import ast

from test_architecture import OWN, ROOT, layer, modules, room


def functions() -> list[tuple[int, str]]:
    """(lines, place) of every function of the product, longest first."""
    found = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                found.append((lines, f"{path.relative_to(ROOT)}: {node.name}"))
    return sorted(found, reverse=True)


def num_lines(paths) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


if __name__ == "__main__":
    files = modules()
    arrows = {(room(line.source), room(line.target)) for line in OWN} - {(room(m), room(m)) for m in files}
    loose = [path for path in (ROOT / "star_jax").glob("*.py") if path.name != "__init__.py"]
    print("rooms", len({room(module) for module in files} - {"star_jax"}))
    print("loose files in star_jax/", len(loose))
    print("arrows between rooms", len(arrows))
    print("arrows that run back up", sum(layer(target) >= layer(source) for source, target in arrows))
    print("files, lines of the product", len(files), num_lines(files.values()))
    print("lines of its tests", num_lines((ROOT / "tests").rglob("*.py")))
    longest = max(files.values(), key=lambda path: num_lines([path]))
    print("longest file", num_lines([longest]), longest.relative_to(ROOT))
    print("longest functions", *functions()[:3], sep="\n  ")
