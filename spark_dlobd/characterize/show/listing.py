"""What a sweep can name, as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from spark_dlobd.characterize.subjects.datasets import dataset_names, get_dataset
from spark_dlobd.characterize.subjects.models import get_model, model_names
from spark_dlobd.characterize.sweep import transports

_PATHS = {"none": "drawn by a program", "optional": "a path, or fetched", "required": "a path"}


def models_table() -> Table:
    """Models with their layers and weights."""
    table = _table("Models", ("name", "title", "data"), ("conv.", "dense", "weights"))
    for name in model_names():
        entry = get_model(name)
        counts = (str(entry.convolutions), str(entry.dense), f"{entry.weights:,}")
        table.add_row(name, entry.title, entry.data, *counts)
    return table


def data_table() -> Table:
    """Data sets with their shapes."""
    table = _table("Data", ("name", "title", "shape", "from"), ("images",))
    for name in dataset_names():
        entry = get_dataset(name)
        rows = "as in the folder" if entry.rows is None else f"{entry.rows:,}"
        shape = "x".join(map(str, entry.shape))
        table.add_row(name, entry.title, shape, _PATHS[entry.path], rows)
    return table


def transports_table() -> Table:
    """Transports with the backend each belongs to."""
    table = _table("Transports", ("name", "title", "backend", "gradients"), ())
    for backend in transports.backends():
        gradients = ", ".join(transports.compressions_of(backend)).replace("none", "fp32")
        for name in transports.transports_of(backend):
            table.add_row(name, transports.get_transport(name).title, backend, gradients)
    return table


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table
