"""The plan of the house: no folder imports one above it, and no imports go in a circle.

All imports count, those inside functions and those for types alone too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import spark_dlobd

PACKAGE = Path(spark_dlobd.__file__).parent

# From the ground up; what stands in one line does not import its neighbours.
STOREYS = (
    ("wording", "users_line"),
    ("errors",),
    ("spark", "conversion"),
    ("job",),
    ("processes",),
    ("data",),
    ("training",),
    ("report",),
    ("tracking",),
    ("backends",),
    ("backends.allreduce",),
    (
        "backends.collective",
        "backends.horovod",
        "backends.local",
        "backends.parameter_server",
        "backends.shuffle",
    ),
    ("cost",),
    ("estimators",),
    ("",),  # what `import spark_dlobd` offers
    ("testing", "horovod_build", "example_files"),
    ("doctor", "characterize"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}
ROOMS = sorted(FLOOR, key=len, reverse=True)


def modules() -> dict[str, Path]:
    """Dotted names below the package, ``""`` for itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            while name.startswith("spark_dlobd"):
                module = name.removeprefix("spark_dlobd").removeprefix(".")
                if module in known:
                    yield module
                    break
                name = name.rpartition(".")[0]


def room_of(module: str) -> str:
    return next(
        room for room in ROOMS if module == room or module.startswith(room + ".") or not room
    )


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def test_every_room_has_its_storey() -> None:
    rooms = {name.split(".")[0] for name in modules()}
    assert rooms == {room.split(".")[0] for room in FLOOR}


def test_no_room_imports_one_above_it(arrows: dict[str, set[str]]) -> None:
    up = [
        f"{name} -> {imported}"
        for name, all_imported in arrows.items()
        for imported in all_imported
        if (own := room_of(name)) != (other := room_of(imported)) and FLOOR[other] >= FLOOR[own]
        if own  # the front door names what it opens to
    ]
    assert sorted(up) == []


def test_no_imports_go_in_a_circle(arrows: dict[str, set[str]]) -> None:
    graph = {name: found for name, found in arrows.items() if name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_page_on_the_architecture_has_every_room_in_this_order() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = page[page.index("| room |") : page.index("## Terms")]
    floors = [
        table.index(f"`{room or '__init__'}.py`" if _is_file(room) else f"`{room}/`")
        for rooms in STOREYS
        for room in rooms
        if "." not in room
    ]
    lines = [table.count("\n", 0, place) for place in floors]
    assert lines == sorted(lines)


def _is_file(room: str) -> bool:
    return not room or (PACKAGE / f"{room}.py").exists()
