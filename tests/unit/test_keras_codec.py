from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.training import keras_codec as codec
from spark_dlobd.training.signature import inputs_of

keras = pytest.importorskip("keras")


@keras.saving.register_keras_serializable("codec_tests")
class Doubling(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2.0


@keras.saving.register_keras_serializable("codec_tests")
def half_squared(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y_pred - y_true), axis=-1) / 2.0


@keras.saving.register_keras_serializable("codec_tests")
class OwnStep(keras.Model):  # type: ignore[misc]
    def __init__(self, units: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def linear(units: int = 1, width: int = 3) -> Any:
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(units)])


def classifier(units: int = 3, activation: str = "softmax") -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation=activation)])


def test_archive_round_trip_keeps_weights_and_drops_optimizer_state() -> None:
    model = linear()
    small = len(codec.model_to_archive(model))
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones(4), verbose=0)
    archive = codec.model_to_archive(model)
    back = codec.archive_to_model(archive)
    assert codec.weights_hash(back) == codec.weights_hash(model)
    assert not back.compiled
    assert abs(len(archive) - small) < 200


def test_weights_hash_is_the_hash_of_the_bytes_in_order() -> None:
    model = linear(width=2)
    model.set_weights([np.array([[1.0], [2.0]], "float32"), np.array([3.0], "float32")])
    digest = hashlib.sha256()
    digest.update(b"float32(2, 1)" + np.array([1, 2], "<f4").tobytes())
    digest.update(b"float32(1,)" + np.array([3], "<f4").tobytes())
    assert codec.weights_hash(model) == digest.hexdigest()


@pytest.mark.parametrize("damage", [b"", b"not a zip file"])
def test_damaged_archive(damage: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be rebuilt from its file"):
        codec.archive_to_model(damage)


def test_not_a_model() -> None:
    with pytest.raises(ModelError, match=r"must be a keras.Model .* Got 3 of type builtins.int"):
        codec.model_to_archive(3)


def test_unbuilt_model() -> None:
    with pytest.raises(ModelError, match=r"not built.*keras.Input"):
        codec.model_to_archive(keras.Sequential([keras.layers.Dense(1)]))


@pytest.mark.filterwarnings("ignore:`build")
def test_built_in_name_only() -> None:
    model = OwnStep()
    model.build((None, 3))
    with pytest.raises(ModelError, match=r"has no weights yet.*call it once on a batch"):
        codec.model_to_archive(model)


def test_several_inputs() -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((2,), dtype="int32", name="b")
    model = keras.Model([a, b], keras.layers.Concatenate()([a, b]))
    back = codec.archive_to_model(codec.model_to_archive(model))
    found = inputs_of(back)
    assert [(one.name, one.shape, one.dtype) for one in found.tensors] == [
        ("a", (1,), "float32"),
        ("b", (2,), "int32"),
    ]
    assert found.structure.packed({"a": 1, "b": 2}) == (1, 2)


def test_nested_inputs_are_refused() -> None:
    a, b, c = (keras.Input((1,), name=name) for name in "abc")
    model = keras.Model([a, [b, c]], keras.layers.Add()([a, b, c]))
    with pytest.raises(ModelError, match=r"nests its inputs.*list or a dict of tensors"):
        codec.model_to_archive(model)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_lambda_is_refused_up_front() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)])
    with pytest.raises(ModelError, match="hold Python code"):
        codec.model_to_archive(model)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_lambda_in_a_file_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)]).save(path)
    with pytest.raises(ModelError, match="hold Python code"):
        codec.archive_to_model(path.read_bytes())


def test_unregistered_function_is_named() -> None:
    def mine(x: Any) -> Any:
        return x

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation=mine)])
    with pytest.raises(ModelError, match=r"not registered .*'mine'.*register_keras_serializable"):
        codec.model_to_archive(model)


def test_unregistered_layer_is_named() -> None:
    class Plain(keras.layers.Layer):  # type: ignore[misc]
        pass

    with pytest.raises(ModelError, match=r"not registered .*'Plain'"):
        codec.model_to_archive(keras.Sequential([keras.Input((1,)), Plain()]))


def test_unregistered_loss_is_named() -> None:
    def mine(y_true: Any, y_pred: Any) -> Any:
        return y_pred

    model = linear()
    config = codec.compile_config(model, loss=mine)
    with pytest.raises(ModelError, match=r"not registered .*'mine'"):
        codec.custom_objects_of(model, config)


def test_custom_objects_are_found_in_model_and_compile_config() -> None:
    model = keras.Sequential([keras.Input((1,)), Doubling()])
    config = codec.compile_config(model, loss=half_squared)
    found = codec.custom_objects_of(model, config)
    assert found == {
        "codec_tests>Doubling": Doubling,
        "codec_tests>half_squared": half_squared,
    }


@pytest.mark.timeout(120)
def test_custom_objects_reach_a_process_that_cannot_import_them(tmp_path: Any) -> None:
    model = keras.Sequential([keras.Input((1,)), Doubling(), keras.layers.Dense(1)])
    model.set_weights([np.array([[3.0]], "float32"), np.array([1.0], "float32")])
    config = codec.compile_config(model, loss=half_squared, optimizer="sgd", learning_rate=0.5)
    parcel = (codec.model_to_archive(model), codec.custom_objects_of(model, config), config)
    (tmp_path / "parcel").write_bytes(pickle.dumps(parcel))
    script = """
        import pickle, sys
        import numpy as np
        from spark_dlobd.training import keras_codec as codec
        archive, objects, config = pickle.load(open(sys.argv[1], "rb"))
        assert "tests.unit.test_keras_codec" not in sys.modules
        model = codec.archive_to_model(archive, objects)
        codec.compile_model(model, config, objects)
        print(float(model.predict(np.array([[2.0]]), verbose=0)[0, 0]))
        print(model.evaluate(np.array([[2.0]]), np.array([[9.0]]), verbose=0))
        again = codec.archive_to_model(codec.model_to_archive(model))
        print(type(again.layers[0]).__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "parcel")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["13.0", "8.0", "Doubling"]


def test_a_taken_name_goes_back_to_its_owner() -> None:
    @keras.saving.register_keras_serializable("codec_tests", "Twice")
    class First(keras.layers.Layer):  # type: ignore[misc]
        pass

    archive = codec.model_to_archive(keras.Sequential([keras.Input((1,)), First()]))

    @keras.saving.register_keras_serializable("codec_tests", "Twice")
    class Second(keras.layers.Layer):  # type: ignore[misc]
        pass

    model = codec.archive_to_model(archive, {"codec_tests>Twice": First})
    assert type(model.layers[0]) is First
    assert keras.saving.get_custom_objects()["codec_tests>Twice"] is Second


def test_model_with_own_train_step_round_trips_and_trains() -> None:
    model = OwnStep()
    model(np.zeros((5, 3), "float32"))
    config = codec.compile_config(model, loss="mse", optimizer="sgd")
    back = codec.archive_to_model(codec.model_to_archive(model))
    codec.compile_model(back, config)
    assert type(back) is OwnStep
    history = back.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=3, verbose=0).history["loss"]
    assert history[2] < history[0]
    assert inputs_of(back).tensors[0].shape == (3,)
    assert codec.output_specs(back, config)[0].units == 2


def test_compile_config_keeps_what_is_not_overridden() -> None:
    model = linear()
    model.compile("sgd", "mae", metrics=["mse"], steps_per_execution=4, run_eagerly=True)
    model.optimizer.learning_rate = 0.25
    config = codec.compile_config(model, loss="mse")
    assert (config["loss"], config["metrics"]) == ("mse", ["mse"])
    assert (config["steps_per_execution"], config["run_eagerly"]) == (4, True)
    assert config["optimizer"]["class_name"] == "SGD"
    assert config["optimizer"]["config"]["learning_rate"] == 0.25


def test_compile_config_default_optimizer_and_learning_rate() -> None:
    config = codec.compile_config(linear(), loss="mse", learning_rate=0.125)
    assert config["optimizer"]["class_name"] == "Adam"
    assert config["optimizer"]["config"]["learning_rate"] == 0.125


def test_learning_rate_reaches_a_wrapped_optimizer() -> None:
    wrapped = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    config = codec.compile_config(linear(), loss="mse", optimizer=wrapped, learning_rate=0.5)
    inner = config["optimizer"]["config"]["inner_optimizer"]
    assert inner["config"]["learning_rate"] == 0.5


def test_schedule_and_instances_round_trip() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    model = classifier()
    config = codec.compile_config(
        model,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        optimizer=keras.optimizers.SGD(schedule),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
    )
    codec.compile_model(model, config)
    model.optimizer.iterations.assign(10)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.5)
    result = model.evaluate(np.ones((2, 4)), np.zeros(2), verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy", "sparse_top_k_categorical_accuracy"}


def test_missing_loss() -> None:
    with pytest.raises(ConfigurationError, match="loss must be given"):
        codec.compile_config(linear())


@pytest.mark.parametrize(
    ("argument", "value"), [("loss", "nope"), ("optimizer", "nope"), ("metrics", ["nope"])]
)
def test_unknown_names(argument: str, value: Any) -> None:
    arguments = {"loss": "mse", argument: value}
    with pytest.raises(ConfigurationError, match=rf"{argument} must name .* Got 'nope'"):
        codec.compile_config(linear(), **arguments)


def test_overridden_compile_without_its_inverse() -> None:
    class Odd(keras.Model):  # type: ignore[misc]
        def compile(self, extra: int) -> None:
            super().compile(loss="mse")

    with pytest.raises(ModelError, match="Odd overrides compile"):
        codec.compile_config(Odd(), loss="mse")


@pytest.mark.parametrize(
    ("loss", "units", "activation", "expected"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", ("multiclass", 3, False)),
        ("CategoricalCrossentropy", 3, "softmax", ("multiclass", 3, False)),
        ("binary_crossentropy", 1, "sigmoid", ("binary", 1, False)),
        ("bce", 1, "sigmoid", ("binary", 1, False)),
        ("binary_focal_crossentropy", 1, "sigmoid", ("binary", 1, False)),
        ("binary_crossentropy", 2, "sigmoid", ("multilabel", 2, False)),
        ("mse", 1, "linear", ("regression", 1, False)),
        ("hinge", 1, "tanh", ("regression", 1, False)),
    ],
)
def test_output_spec(loss: str, units: int, activation: str, expected: tuple[Any, ...]) -> None:
    model = classifier(units, activation)
    (spec,) = codec.output_specs(model, codec.compile_config(model, loss=loss))
    assert (spec.problem, spec.units, spec.from_logits) == expected


def test_output_spec_from_logits() -> None:
    model = classifier(3, "linear")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (spec,) = codec.output_specs(model, codec.compile_config(model, loss=loss))
    assert (spec.problem, spec.from_logits) == ("multiclass", True)


def test_contradictions_between_loss_and_last_layer_warn() -> None:
    model = classifier(3, "linear")
    config = codec.compile_config(model, loss="sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="is linear, but the loss"):
        codec.output_specs(model, config)
    twice = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = classifier()
    with pytest.warns(UserWarning, match="applies softmax, but the loss"):
        codec.output_specs(model, codec.compile_config(model, loss=twice))


def test_problem_override() -> None:
    model = classifier(1, "linear")
    config = codec.compile_config(model, loss="hinge")
    (spec,) = codec.output_specs(model, config, "classification")
    assert (spec.problem, spec.from_logits) == ("binary", True)
    (spec,) = codec.output_specs(model, codec.compile_config(model, loss="bce"), "regression")
    assert spec.problem == "regression"


def test_one_unit_with_a_multiclass_loss() -> None:
    model = classifier(1)
    config = codec.compile_config(model, loss="sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match="one output unit per class"):
        codec.output_specs(model, config)


def test_input_shape_and_dtype() -> None:
    model = keras.Sequential([keras.Input((8, 8, 1), dtype="uint8"), keras.layers.Flatten()])
    assert inputs_of(model).tensors[0].shape == (8, 8, 1)
    assert inputs_of(model).tensors[0].dtype == "uint8"
    with pytest.raises(ModelError, match="fixed length"):
        inputs_of(keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(1)]))


@keras.saving.register_keras_serializable("codec_tests")
class BiasesKeepTheirSize(keras.optimizers.AdamW):  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "gamma"])


def excluding(**arguments: Any) -> Any:
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(**arguments)
    return optimizer


@pytest.mark.parametrize("by", ["name", "variable"])
def test_exclusions_that_no_worker_would_know_of_are_refused(by: str) -> None:
    model = linear()
    given = {"name": {"var_names": ["bias"]}, "variable": {"var_list": [model.weights[1]]}}[by]
    refused = pytest.raises(
        ConfigurationError, match=r"called on AdamW, but Keras does not write .* in __init__ of"
    )
    with refused:
        codec.compile_config(model, "mse", excluding(**given))
    with refused:
        scaled = keras.optimizers.LossScaleOptimizer(excluding(**given))
        codec.compile_config(model, "mse", scaled)
    with refused:
        DLEstimator(model=model, loss="mse", optimizer=excluding(**given))
    model.compile(excluding(**given), "mse")
    with refused:
        codec.own_compile_config(model)
    with refused:
        codec.compile_config(model)


def test_exclusions_of_an_own_class_or_without_decay_are_fine() -> None:
    model = linear()
    config = codec.compile_config(model, "mse", BiasesKeepTheirSize(weight_decay=0.1))
    codec.compile_model(model, config, codec.custom_objects_of(model, config))
    assert [model.optimizer._use_weight_decay(v) for v in model.trainable_variables] == [
        True,
        False,
    ]
    adam = keras.optimizers.Adam()
    adam.exclude_from_weight_decay(var_names=["bias"])
    codec.compile_config(model, "mse", adam)


def make_network() -> Any:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("x.keras", "Got 'x.keras' of type builtins.str. Load it first: keras.models.load_model"),
        (Path("x.keras"), "Load it first: keras.models.load_model('x.keras')."),
        (make_network, "of type builtins.function. Call it first: make_network()."),
        (keras.Sequential, "Call it first: Sequential()."),
        (DLModel(), "Take the network out of it: getKerasModel()."),
        (None, "Got None of type builtins.NoneType."),
        ("x" * 1000, "Got '" + "x" * 79 + " of type"),
    ],
)
def test_what_is_no_model_says_how_to_get_one(value: Any, advice: str) -> None:
    with pytest.raises(ModelError, match=re.escape(advice)) as caught:
        codec.check_model(value)
    assert isinstance(caught.value, TypeError)


def _scaled(policy: str) -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        given = keras.Input((3,))
        return keras.Model(given, keras.layers.Dense(1)(given))
    finally:
        keras.config.set_dtype_policy(before)


def test_losses_are_scaled_where_layers_compute_in_float16() -> None:
    """Keras goes by the policy of the model, which a model that is rebuilt does not have."""
    model = codec.archive_to_model(codec.model_to_archive(_scaled("mixed_float16")))
    config = codec.compile_config(model, loss="mse", optimizer="sgd", learning_rate=0.25)
    codec.compile_model(model, config)
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.25
    again = codec.compile_config(model)
    assert again["optimizer"]["class_name"] == "LossScaleOptimizer"
    assert again["optimizer"]["config"]["inner_optimizer"]["class_name"] == "SGD"


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_policy_of_the_process_scales_no_losses(policy: str) -> None:
    archive = codec.model_to_archive(_scaled(policy))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = codec.archive_to_model(archive)
        codec.compile_model(model, codec.compile_config(model, loss="mse"))
    finally:
        keras.config.set_dtype_policy(before)
    assert type(model.optimizer).__name__ == "Adam"


def test_scaling_that_is_off_stays_off() -> None:
    model = _scaled("mixed_float16")
    model.compile("sgd", "mse", auto_scale_loss=False)
    config = codec.compile_config(model)
    assert config["optimizer"]["class_name"] == "SGD"
