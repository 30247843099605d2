"""What a Keras archive says about its network, without TensorFlow. Runs on the driver."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

_SIZES = ("units", "filters", "output_dim", "rate", "pool_size")
_BESIDE_THE_NETWORK = ("optimizer", "metrics", "compile_metrics")
_MOST_LAYERS = 60


def network_facts(archive: bytes | None) -> dict[str, Any]:
    """Name, class, layers and number of weights of a ``.keras`` file.

    Parameters
    ----------
    archive : bytes or None
        The file; None gives no facts.

    Returns
    -------
    dict
        ``name``, ``class``, ``layers`` (a list such as ``["Conv2D 16", "Flatten",
        "Dense 10"]``; layers of inner networks follow their own) and ``weights``, the number
        of numbers that the network holds, trainable or not.
    """
    if archive is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        config = json.loads(file.read("config.json"))
        weights = _count(file.read("model.weights.h5"))
    layers = list(_layers(config))
    if len(layers) > _MOST_LAYERS:
        layers = [*layers[:_MOST_LAYERS], f"and {len(layers) - _MOST_LAYERS} more"]
    inner = config.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    return {
        "name": str(name or config["class_name"]),
        "class": str(config["class_name"]),
        "layers": layers,
        "weights": weights,
    }


def _layers(config: Mapping[str, Any]) -> Iterator[str]:
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        # a model class of the user's may mean anything by this key
        if not isinstance(layer, dict) or "class_name" not in layer:
            continue
        if layer["class_name"] == "InputLayer":
            continue
        own = layer.get("config")
        sizes = own if isinstance(own, dict) else {}
        size = next((sizes[key] for key in _SIZES if sizes.get(key) is not None), None)
        yield layer["class_name"] if size is None else f"{layer['class_name']} {_plain(size)}"
        yield from _layers(layer)


def _plain(size: Any) -> str:
    return "x".join(map(str, size)) if isinstance(size, list | tuple) else str(size)


def _count(weights: bytes) -> int:
    import h5py  # type: ignore[import-untyped]

    total = 0

    def add(name: str, item: Any) -> None:
        nonlocal total
        parts = name.split("/")
        beside = parts[0] in _BESIDE_THE_NETWORK or "seed_generator" in parts
        if isinstance(item, h5py.Dataset) and not beside:
            total += math.prod(item.shape)

    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(add)
    return total
