"""The networks of the characterization, layer by layer. Each returns a Keras model.

Pixels arrive as bytes and are scaled by a layer, so that they stay bytes in Spark.
Local response normalization is left out where the originals have it: it holds no
weights and was found to bring nothing (Simonyan and Zisserman, 2014).
"""

from __future__ import annotations

from typing import Any

# Channels of the inception modules: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool
# projection. Table 1 of Szegedy et al., "Going Deeper with Convolutions", 2014.
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def softmax_regression(shape: tuple[int, ...], classes: int) -> Any:
    """One dense layer."""
    from keras import layers

    return _sequential("softmax", shape, [layers.Flatten(), _output(classes)])


def lenet(shape: tuple[int, ...], classes: int) -> Any:
    """Two linear convolutions and two dense layers, as Caffe's LeNet."""
    from keras import layers

    return _sequential(
        "lenet",
        shape,
        [
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            _output(classes),
        ],
    )


def cifar10_quick(shape: tuple[int, ...], classes: int) -> Any:
    """Three convolutions and one dense layer, after cuda-convnet.

    Caffe's file of this name has a second dense layer of 64 units; this one follows
    the three and one of the characterization's table.
    """
    from keras import layers

    return _sequential(
        "cifar10_quick",
        shape,
        [
            _conv(32, 5, activation=None),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.ReLU(),
            _conv(32, 5),
            layers.AveragePooling2D(3, 2, padding="same"),
            _conv(64, 5),
            layers.AveragePooling2D(3, 2, padding="same"),
            layers.Flatten(),
            _output(classes),
        ],
    )


def vgg16(shape: tuple[int, ...], classes: int) -> Any:
    """VGG-16 (configuration D) for small images: 13 convolutions and 3 dense layers.

    Dense layers have 512 units because five poolings leave 1x1x512 of a 32x32 image,
    and convolutions are followed by batch normalization, as in BigDL's VGG for
    CIFAR-10; without it a network this deep hardly starts to learn.
    """
    from keras import layers

    stack: list[Any] = []
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            stack += [
                _conv(channels, 3, activation=None),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
        stack.append(layers.MaxPooling2D())
    stack.append(layers.Flatten())
    for _ in range(2):
        stack += [layers.Dense(512, activation="relu"), layers.Dropout(0.5)]
    return _sequential("vgg16", shape, [*stack, _output(classes)])


def alexnet(shape: tuple[int, ...], classes: int) -> Any:
    """AlexNet on one device: five convolutions and three dense layers.

    The two towers of the original are one here, because grouped convolutions have no
    gradient on a CPU in TensorFlow. Images of 256x256 are cropped to 227x227.
    """
    from keras import layers

    return _sequential(
        "alexnet",
        shape,
        [
            layers.Cropping2D(((14, 15), (14, 15))),
            layers.Conv2D(96, 11, strides=4, activation="relu"),
            layers.MaxPooling2D(3, 2),
            _conv(256, 5),
            layers.MaxPooling2D(3, 2),
            _conv(384, 3),
            _conv(384, 3),
            _conv(256, 3),
            layers.MaxPooling2D(3, 2),
            layers.Flatten(),
            layers.Dense(4096, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(4096, activation="relu"),
            layers.Dropout(0.5),
            _output(classes),
        ],
    )


def googlenet(shape: tuple[int, ...], classes: int) -> Any:
    """GoogLeNet without its two auxiliary classifiers; 21 convolutions deep, one dense.

    Images of 256x256 are cropped to 224x224.
    """
    import keras
    from keras import layers

    pixels = keras.Input(shape)
    x = layers.Cropping2D(16)(layers.Rescaling(1 / 255)(pixels))
    x = layers.Conv2D(64, 7, strides=2, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = _conv(64, 1)(x)
    x = _conv(192, 3)(x)
    for name, channels in _INCEPTION.items():
        if name in ("3a", "4a", "5a"):
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
        x = _inception(x, channels, f"inception_{name}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, _output(classes)(layers.Dropout(0.4)(x)), name="googlenet")


def _inception(x: Any, channels: tuple[int, ...], name: str) -> Any:
    from keras import layers

    one, three_reduce, three, five_reduce, five, projection = channels
    branches = [
        _conv(one, 1)(x),
        _conv(three, 3)(_conv(three_reduce, 1)(x)),
        _conv(five, 5)(_conv(five_reduce, 1)(x)),
        _conv(projection, 1)(layers.MaxPooling2D(3, 1, padding="same")(x)),
    ]
    return layers.Concatenate(name=name)(branches)


def _sequential(name: str, shape: tuple[int, ...], stack: list[Any]) -> Any:
    import keras

    scaled = [keras.Input(shape), keras.layers.Rescaling(1 / 255)]
    return keras.Sequential([*scaled, *stack], name=name)


def _conv(channels: int, size: int, activation: str | None = "relu") -> Any:
    from keras import layers

    return layers.Conv2D(channels, size, padding="same", activation=activation)


def _output(classes: int) -> Any:
    from keras import layers

    return layers.Dense(classes, activation="softmax")
