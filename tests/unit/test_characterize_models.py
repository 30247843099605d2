"""Layer and weight counts of the models, derived from the shapes of their layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_dlobd.characterize.subjects import models
from spark_dlobd.errors import ConfigurationError


def conv(size: int, inputs: int, outputs: int) -> int:
    return size * size * inputs * outputs + outputs


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def inception(
    inputs: int, one: int, r3: int, three: int, r5: int, five: int, projection: int
) -> int:
    return (
        conv(1, inputs, one)
        + conv(1, inputs, r3)
        + conv(3, r3, three)
        + conv(1, inputs, r5)
        + conv(5, r5, five)
        + conv(1, inputs, projection)
    )


LENET = conv(5, 1, 20) + conv(5, 20, 50) + dense(4 * 4 * 50, 500) + dense(500, 10)
SOFTMAX = dense(28 * 28, 10)
QUICK = conv(5, 3, 32) + conv(5, 32, 32) + conv(5, 32, 64) + dense(4 * 4 * 64, 10)
VGG_CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG = (
    sum(conv(3, a, b) for a, b in zip([3, *VGG_CHANNELS[:-1]], VGG_CHANNELS, strict=True))
    + sum(4 * channels for channels in VGG_CHANNELS)
    + dense(512, 512)
    + dense(512, 512)
    + dense(512, 10)
)
ALEXNET = (
    conv(11, 3, 96)
    + conv(5, 96, 256)
    + conv(3, 256, 384)
    + conv(3, 384, 384)
    + conv(3, 384, 256)
    + dense(6 * 6 * 256, 4096)
    + dense(4096, 4096)
    + dense(4096, 10)
)
GOOGLENET_BODY = (
    conv(7, 3, 64)
    + conv(1, 64, 64)
    + conv(3, 64, 192)
    + inception(192, 64, 96, 128, 16, 32, 32)
    + inception(256, 128, 128, 192, 32, 96, 64)
    + inception(480, 192, 96, 208, 16, 48, 64)
    + inception(512, 160, 112, 224, 24, 64, 64)
    + inception(512, 128, 128, 256, 24, 64, 64)
    + inception(512, 112, 144, 288, 32, 64, 64)
    + inception(528, 256, 160, 320, 32, 128, 128)
    + inception(832, 256, 160, 320, 32, 128, 128)
    + inception(832, 384, 192, 384, 48, 128, 128)
)

EXPECTED = {
    "softmax": ((28, 28, 1), 0, 1, SOFTMAX),
    "lenet": ((28, 28, 1), 2, 2, LENET),
    "cifar10_quick": ((32, 32, 3), 3, 1, QUICK),
    "vgg16": ((32, 32, 3), 13, 3, VGG),
    "alexnet": ((256, 256, 3), 5, 3, ALEXNET),
    "googlenet": ((256, 256, 3), 21, 1, GOOGLENET_BODY + dense(1024, 10)),
}


def test_the_published_counts() -> None:
    assert LENET == 431_080
    assert SOFTMAX == 7_850
    assert QUICK == 89_578
    assert VGG == 15_262_026
    assert ALEXNET == 58_322_314
    assert GOOGLENET_BODY + dense(1024, 1000) == 6_998_552


def test_all_models_are_checked() -> None:
    assert set(models.model_names()) == set(EXPECTED)


def deepest(model: Any, kind: str) -> int:
    """Layers of `kind` on the longest path through the model."""
    import keras

    wanted = getattr(keras.layers, kind)
    depth: dict[str, int] = {}
    for operation in model.operations if hasattr(model, "operations") else model.layers:
        below = [
            depth[parent.operation.name]
            for node in operation._inbound_nodes
            for parent in node.parent_nodes
            if parent.operation.name in depth
        ]
        depth[operation.name] = max(below, default=0) + isinstance(operation, wanted)
    return max(depth.values())


@pytest.mark.parametrize("name", EXPECTED)
def test_shapes_layers_and_weights(name: str) -> None:
    pytest.importorskip("tensorflow")
    shape, convolutions, dense_layers, weights = EXPECTED[name]
    entry = models.get_model(name)
    assert (entry.input_shape, entry.classes) == (shape, 10)
    assert (entry.convolutions, entry.dense, entry.weights) == (convolutions, dense_layers, weights)
    model = entry.build()
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 10)
    assert model.count_params() == weights
    assert deepest(model, "Conv2D") == convolutions
    assert deepest(model, "Dense") == dense_layers


@pytest.mark.parametrize("name", ["softmax", "lenet", "cifar10_quick"])
def test_same_seed_gives_the_same_weights(name: str) -> None:
    pytest.importorskip("tensorflow")
    first, again, other = (models.build_model(name, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.get_weights()[0], again.get_weights()[0])
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_pixels_are_scaled_inside_the_model() -> None:
    pytest.importorskip("tensorflow")
    model = models.build_model("softmax")
    kernel, bias = model.get_weights()
    bright = model(np.full((1, 28, 28, 1), 255.0)).numpy()
    scores = np.exp(kernel.sum(axis=0) + bias)
    np.testing.assert_allclose(bright[0], scores / scores.sum(), rtol=1e-4)


def test_googlenet_with_all_of_imagenet_has_seven_million_weights() -> None:
    pytest.importorskip("tensorflow")
    assert models.get_model("googlenet").build(classes=1000).count_params() == 6_998_552


def test_unknown_model_lists_the_names() -> None:
    with pytest.raises(ConfigurationError, match=r"'softmax', 'lenet'.*'googlenet'.*Got 'resnet'"):
        models.get_model("resnet")
