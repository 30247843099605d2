"""The models of the characterization by name, with what is known about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dlobd.characterize.subjects import networks
from spark_dlobd.errors import ConfigurationError

__all__ = ["ModelEntry", "build_model", "get_model", "model_names"]


@dataclass(frozen=True)
class ModelEntry:
    """One model of the characterization.

    Attributes
    ----------
    name : str
        Name in a sweep.
    title : str
        Name in figures and tables.
    input_shape : tuple of int
        ``(height, width, channels)`` of the images, one byte an element.
    classes : int
        Width of the output.
    convolutions : int
        Convolutional layers on the longest path, which is how the literature counts.
    dense : int
        Fully connected layers, the output included.
    weights : int
        Parameters, those of batch normalization that are not trained included.
    multiply_adds : int
        Of the forward pass of one image, convolutions and dense layers alone.
    learning_rate : float
        Of the Adam optimizer, low enough that the model learns.
    data : str
        Data set that the literature trains it on.
    network : callable
        ``(input_shape, classes)`` to an uncompiled Keras model.
    """

    name: str
    title: str
    input_shape: tuple[int, int, int]
    classes: int
    convolutions: int
    dense: int
    weights: int
    multiply_adds: int
    learning_rate: float
    data: str
    network: Callable[[tuple[int, ...], int], Any]

    def build(self, seed: int = 0, classes: int | None = None) -> Any:
        """Return a new, uncompiled Keras model with weights drawn from `seed`.

        Parameters
        ----------
        seed : int, default 0
            Of Keras, numpy and Python's random.
        classes : int, optional
            Another width of the output, e.g. 1000 for all of ImageNet.
        """
        import keras

        keras.utils.set_random_seed(seed)
        return self.network(self.input_shape, classes or self.classes)


_MODELS = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "softmax", "SoftMax Regression", (28, 28, 1), 10, 0, 1, 7_850, 7_840, 1e-3, "mnist",
            networks.softmax_regression,
        ),
        ModelEntry(
            "lenet", "LeNet", (28, 28, 1), 10, 2, 2, 431_080, 2_293_000, 1e-3, "mnist",
            networks.lenet,
        ),
        ModelEntry(
            "cifar10_quick", "CIFAR-10 Quick", (32, 32, 3), 10, 3, 1, 89_578, 12_298_240, 1e-3,
            "cifar10", networks.cifar10_quick,
        ),
        ModelEntry(
            "vgg16", "VGG-16", (32, 32, 3), 10, 13, 3, 15_262_026, 313_725_952, 1e-3,
            "cifar10", networks.vgg16,
        ),
        ModelEntry(
            "alexnet", "AlexNet", (256, 256, 3), 10, 5, 3, 58_322_314, 1_131_201_056, 1e-4,
            "imagenet", networks.alexnet,
        ),
        ModelEntry(
            "googlenet", "GoogLeNet", (256, 256, 3), 10, 21, 1, 5_983_802, 1_581_658_112, 1e-3,
            "imagenet", networks.googlenet,
        ),
    )
}  # fmt: skip


def model_names() -> tuple[str, ...]:
    """Names of all models, small ones first."""
    return tuple(_MODELS)


def get_model(name: str) -> ModelEntry:
    """Return what is known about a model.

    Raises
    ------
    ConfigurationError
        If there is no such model; the message lists the names.

    Examples
    --------
    >>> get_model("lenet").weights
    431080
    """
    if name not in _MODELS:
        raise ConfigurationError(
            f"model must be one of {', '.join(map(repr, _MODELS))}. Got {name!r}."
        )
    return _MODELS[name]


def build_model(name: str, seed: int = 0) -> Any:
    """Return the uncompiled Keras model of that name, as `ModelEntry.build` does."""
    return get_model(name).build(seed)
