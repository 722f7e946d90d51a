"""The map of docs/architecture.md holds: rooms import downwards only, and no files import each other in a circle.

Imports are read from the source, those within functions too.
"""

import ast
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where the packages lie in the repository (setup.py maps them).
PACKAGES = {
    "star_jax": "star_jax",
    "star_jax.convert": "convert",
    "star_jax.configs": "configs",
    "star_jax.launch": "launch",
}
# Lowest first. A room is a folder or a loose file of star_jax/, or one of the other packages. It imports from rooms
# of lower layers, never from another room of its own layer. `star_jax` is the package itself: it names its jobs as
# text and loads them when they are first used, so that what it will load does not count.
LAYERS = (
    ("star_jax", "errors"),
    ("config", "environment", "files", "parallel"),
    ("ops", "presets", "progress"),
    ("diffusion",),
    ("models",),
    ("checkpoints", "video"),
    ("data", "init"),
    ("inference", "convert"),
    ("evaluation",),
    ("train",),
    ("benchmark", "configs"),
    ("launch",),
)
MAX_LOOSE_FILES = 6
# Modules of distributions whose names differ.
MODULES = {
    "absl-py": "absl",
    "opencv-python-headless": "cv2",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
}


@dataclass(frozen=True)
class Import:
    """A line that imports: `source` and `target` are modules, `place` is file and line."""

    source: str
    target: str
    place: str


def modules() -> dict[str, Path]:
    """Every module of the packages, and its file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def read_imports() -> list[Import]:
    """Every import statement; of the project's own modules, the target is the module that the name comes from."""
    files, imports = modules(), []
    for source, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: write imports in full"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in files else node.module for name in names]
            else:
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            imports += [Import(source, target, place) for target in targets]
    return imports


IMPORTS = read_imports()
OWN = [line for line in IMPORTS if line.target.split(".")[0] == "star_jax" and line.source != "star_jax"]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def layer(name: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if name in rooms)


def test_every_room_has_its_layer():
    rooms = {room(module) for module in modules()}
    assert rooms == {*itertools.chain(*LAYERS)}


def test_rooms_import_downwards_only():
    wrong = [
        f"{line.place}: {room(line.source)} imports {line.target}"
        for line in OWN
        if room(line.source) != room(line.target) and layer(room(line.target)) >= layer(room(line.source))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    waiting = {module: {line.target for line in OWN if line.source == module} for module in modules()}
    while free := [module for module, targets in waiting.items() if not targets & waiting.keys() - {module}]:
        for module in free:
            del waiting[module]
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def test_few_files_lie_loose():
    loose = sorted(path.name for path in (ROOT / "star_jax").glob("*.py") if path.name != "__init__.py")
    assert len(loose) <= MAX_LOOSE_FILES, loose


def test_every_package_says_what_it_offers():
    faces = {module: path for module, path in modules().items() if path.name == "__init__.py"}
    silent = [module for module, path in faces.items() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, silent


@pytest.mark.parametrize("package", ["torch", "torchvision", "diffusers"])
def test_the_product_does_without(package):
    assert not [line.place for line in IMPORTS if line.target.split(".")[0] == package]


def test_what_is_required_is_imported():
    setup = ast.parse((ROOT / "setup.py").read_text())
    (required,) = (
        node.value.elts
        for node in ast.walk(setup)
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    names = {re.split("[<>=\\[]", item.value)[0] for item in required}
    imported = {line.target.split(".")[0] for line in IMPORTS}
    unused = [name for name in names if MODULES.get(name, name.replace("-", "_")) not in imported]
    assert unused == ["importlib_resources"]  # another package's need, see setup.py
