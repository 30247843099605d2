"""The examples that come with this package, written where their user can change them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from spark_dlobd.errors import ConfigurationError

FIRST = "quickstart.py"
_ORDER = (".py", ".yaml", ".md", ".properties")


def example_names() -> list[str]:
    """Names of the files: programs, sweeps, then what goes with them.

    Raises
    ------
    ConfigurationError
        If this installation came without them.
    """
    folder = resources.files("spark_dlobd") / "examples"
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    kinds = {name: Path(name).suffix for name in names if not name.startswith("__")}
    found = [name for name, suffix in kinds.items() if suffix in _ORDER]
    if FIRST not in found:
        raise ConfigurationError(
            f"This installation of spark_dlobd has no examples in {folder}. Install it anew: "
            "pip install --force-reinstall --no-deps spark-dlobd."
        )
    return sorted(found, key=lambda name: (name[0] == "_", _ORDER.index(kinds[name]), name))


def write_examples(folder: Path) -> list[Path]:
    """Write the examples; nothing is overwritten.

    Parameters
    ----------
    folder : Path
        Where; made if it is not there.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ConfigurationError
        If one of the files is there already, before anything is written, or `folder`
        cannot be written to.
    """
    names = example_names()
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise ConfigurationError(
            f"{folder} already has {', '.join(there)}, which stay as they are. Name another "
            "folder: spark-dlobd examples FOLDER."
        )
    source = resources.files("spark_dlobd") / "examples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            with (folder / name).open("xb") as file:
                file.write((source / name).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"Cannot write the examples to {folder}: {error}.") from error
    return [folder / name for name in names]
