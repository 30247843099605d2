"""Slices of an optimizer give what the whole Keras optimizer gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.backends.shuffle.slices.optimizer import SliceOptimizer, clip_scale
from spark_dlobd.backends.shuffle.slices.optimizer_state import join_states, owners, split_state
from spark_dlobd.backends.shuffle.slices.plan import SlicePlan, empty_aligned
from spark_dlobd.backends.shuffle.slices.rules import cut_rule
from spark_dlobd.backends.shuffle.slices.variables import (
    VariableSpec,
    blocks,
    build_variable,
    variable_specs,
)
from spark_dlobd.errors import ConfigurationError, ModelError, WorkersDisagreeError

COUNTS = (1, 2, 3, 5)
# of each kind of rule some; the others are cut in three
CUT_IN_MANY_WAYS = {"adam", "nadam", "lamb", "custom", "global_clipnorm", "accumulation_clipped"}
SPECS = (
    VariableSpec("model/conv/kernel", (3, 1, 2)),
    VariableSpec("model/conv/bias", (7,)),
    VariableSpec("model/scale", ()),
    VariableSpec("model/dense/kernel", (5, 3)),
    VariableSpec("model/dense/bias", (3,)),
)
TOTAL = sum(spec.size for spec in SPECS)
UPDATES = 5


@keras.saving.register_keras_serializable("test_shuffle_optimizer")
class SignOfMean(keras.optimizers.SGD):
    """Steps by the sign of a variable's mean gradient: needs whole variables."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(
            keras.ops.sign(keras.ops.mean(gradient)) + 0 * gradient, variable, learning_rate
        )


@keras.saving.register_keras_serializable("test_shuffle_optimizer")
class NoDecayOfBiases(keras.optimizers.AdamW):
    """Excludes biases by name, as its own code."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exclude_from_weight_decay(var_names=["bias"])


@keras.saving.register_keras_serializable("test_shuffle_optimizer")
class Centralized(keras.optimizers.SGD):
    """Looks at all gradients at once."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply([g - grads[0] for g in grads], trainable_variables)


@keras.saving.register_keras_serializable("test_shuffle_optimizer")
class Hoarder(keras.optimizers.SGD):
    """Holds one vector for all variables."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.history = self.add_variable(shape=(len(variables),), name="history")


o = keras.optimizers
ELEMENTWISE = {
    "sgd": lambda **k: o.SGD(0.1, **k),
    "momentum": lambda **k: o.SGD(0.1, momentum=0.9, **k),
    "nesterov": lambda **k: o.SGD(0.1, momentum=0.9, nesterov=True, **k),
    "adam": lambda **k: o.Adam(0.01, **k),
    "amsgrad": lambda **k: o.Adam(0.01, amsgrad=True, **k),
    "adamw": lambda **k: o.AdamW(0.01, **({"weight_decay": 0.01} | k)),
    "rmsprop": lambda **k: o.RMSprop(0.01, **k),
    "rmsprop_centered_momentum": lambda **k: o.RMSprop(0.01, momentum=0.9, centered=True, **k),
    "adagrad": lambda **k: o.Adagrad(0.1, **k),
    "adadelta": lambda **k: o.Adadelta(1.0, **k),
    "adamax": lambda **k: o.Adamax(0.01, **k),
    "nadam": lambda **k: o.Nadam(0.01, **k),
    "ftrl": lambda **k: o.Ftrl(
        0.1, l1_regularization_strength=0.01, l2_regularization_strength=0.01, beta=0.1, **k
    ),
    "lion": lambda **k: o.Lion(0.01, **k),
    "schedule_free": lambda **k: o.ScheduleFreeAdamW(0.01, warmup_steps=2, **k),
}
PER_VARIABLE = {
    "lamb": lambda **k: o.Lamb(0.01, **k),
    "muon": lambda **k: o.Muon(0.01, **k),
    "adafactor": lambda **k: o.Adafactor(0.01, **k),
    "custom": lambda **k: SignOfMean(0.1, momentum=0.9, **k),
}
OPTIONS = {
    "clipvalue": lambda: o.Adam(0.01, clipvalue=0.5),
    "clipnorm": lambda: o.SGD(0.1, momentum=0.9, clipnorm=0.7),
    "global_clipnorm": lambda: o.SGD(0.1, momentum=0.9, global_clipnorm=0.7),
    "global_clipnorm_far": lambda: o.SGD(0.1, global_clipnorm=1e6),
    "global_clipnorm_whole": lambda: o.Lamb(0.01, global_clipnorm=0.7),
    "weight_decay": lambda: o.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "weight_decay_whole": lambda: o.Lamb(0.01, weight_decay=0.1),
    "own_exclusion": lambda: NoDecayOfBiases(learning_rate=0.01, weight_decay=0.2),
    "ema": lambda: o.Adam(0.01, use_ema=True, ema_momentum=0.8),
    "ema_overwrite": lambda: o.SGD(0.1, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2),
    "ema_muon": lambda: o.Muon(0.01, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2),
    "cosine": lambda: o.Adam(o.schedules.CosineDecay(0.1, 4)),
    "exponential": lambda: o.SGD(o.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9),
    "accumulation": lambda: o.Adam(0.01, gradient_accumulation_steps=2, use_ema=True),
    "accumulation_clipped": lambda: o.SGD(
        0.1,
        momentum=0.9,
        gradient_accumulation_steps=2,
        global_clipnorm=0.3,
        loss_scale_factor=4.0,
    ),
    "accumulation_lamb": lambda: o.Lamb(0.01, gradient_accumulation_steps=2, clipnorm=0.3),
    "loss_scale": lambda: o.Adam(0.01, loss_scale_factor=128.0, clipvalue=0.01),
}


def vectors(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=TOTAL).astype(np.float32) for _ in range(count)]


WEIGHTS = vectors(0, 1)[0]
GRADIENTS = vectors(1, 2 * UPDATES)


def serialized(optimizer: Any) -> Any:
    return json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))


class Whole:
    """The reference: Keras's own optimizer on the variables of the model."""

    def __init__(
        self, optimizer: Any, specs: Sequence[VariableSpec] = SPECS, jit: bool = False
    ) -> None:
        self.plan = SlicePlan.of([spec.size for spec in specs], 1)
        self.specs = specs
        values = self.plan.variables(WEIGHTS)
        self.variables = [build_variable(s, v) for s, v in zip(specs, values, strict=True)]
        self.optimizer = optimizer
        self.jit = jit

    def build(self) -> None:
        self.optimizer.build(self.variables)
        self.step = tf.function(
            lambda gradients: self.optimizer.apply(self.shaped(gradients), self.variables),
            autograph=False,
            jit_compile=self.jit,
        )

    def shaped(self, gradients: list[Any]) -> list[Any]:
        return [
            tf.reshape(g, spec.shape) if spec.trained else None
            for g, spec in zip(gradients, self.specs, strict=True)
        ]

    def apply(self, gradient: np.ndarray) -> np.ndarray:
        if not self.optimizer.built:
            self.build()
        self.step([tf.constant(g) for g in self.plan.variables(gradient)])
        return self.weights()

    def weights(self) -> np.ndarray:
        return np.concatenate([np.ravel(v) for v in self.variables])

    def finalize(self) -> np.ndarray:
        self.optimizer.finalize_variable_values(self.variables)
        return self.weights()


class Sliced:
    """All slices in one process."""

    def __init__(
        self,
        config: Any,
        count: int,
        specs: Sequence[VariableSpec] = SPECS,
        jit: bool | None = False,
    ) -> None:
        self.rule = cut_rule(config, specs)
        self.plan = SlicePlan.of(
            [spec.size for spec in specs], count, whole_variables=self.rule.whole_variables
        )
        self.slices = [
            SliceOptimizer(config, self.plan, n, specs, jit_compile=jit) for n in range(count)
        ]

    def load(self, weights: np.ndarray, states: Any = None) -> Sliced:
        for n, (one, part) in enumerate(zip(self.slices, self.plan.cut(weights), strict=True)):
            one.load(part, states[n] if states else None)
        return self

    def apply(self, gradient: np.ndarray, learning_rate: float | None = None) -> np.ndarray:
        parts = self.plan.cut(gradient)
        scale = None
        if self.rule.global_clipnorm is not None:
            total = sum(s.sum_of_squares(g) for s, g in zip(self.slices, parts, strict=True))
            scale = clip_scale(total, self.rule.global_clipnorm)
        return np.concatenate(
            [
                s.apply(g, clip_scale=scale, learning_rate=learning_rate)
                for s, g in zip(self.slices, parts, strict=True)
            ]
        )

    def states(self) -> list[list[np.ndarray]]:
        return [one.state() for one in self.slices]

    def finalize(self) -> np.ndarray:
        return np.concatenate([one.finalize() for one in self.slices])


def assert_close(sliced: np.ndarray, whole: np.ndarray) -> None:
    np.testing.assert_allclose(sliced, whole, rtol=1e-6, atol=1e-7)


def check_equal(
    make: Any, specs: Sequence[VariableSpec] = SPECS, counts: Sequence[int] = COUNTS
) -> None:
    """Five updates of the whole and of some numbers of slices; then states and final weights."""
    whole = Whole(make(), specs)
    expected = [whole.apply(gradient) for gradient in GRADIENTS[:UPDATES]]
    state = [np.array(v) for v in whole.optimizer.variables]
    final = whole.finalize()
    for count in counts:
        sliced = Sliced(serialized(make()), count, specs).load(WEIGHTS)
        for gradient, weights in zip(GRADIENTS, expected, strict=False):
            assert_close(sliced.apply(gradient), weights)
        states = sliced.states()
        joined = make()
        joined.build(whole.variables)
        join_states(sliced.plan, states, joined, specs)
        for variable, value in zip(joined.variables, state, strict=True):
            assert_close(np.array(variable), value)
        assert_same(split_state(joined, sliced.plan, specs), states)
        assert_close(sliced.finalize(), final)


def assert_same(first: Any, second: Any) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(np.ravel(a), np.ravel(b))


def counts_of(name: str) -> tuple[int, ...]:
    return COUNTS if name in CUT_IN_MANY_WAYS else (3,)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_optimizers_are_cut_anywhere(name):
    make = ELEMENTWISE[name]

    rule = cut_rule(serialized(make()))

    assert (rule.whole_variables, rule.global_clipnorm) == (False, None)
    assert "each element by itself" in rule.reason
    check_equal(make, counts=counts_of(name))


@pytest.mark.parametrize("name", PER_VARIABLE)
def test_optimizers_that_look_at_whole_variables_are_cut_between_them(name):
    make = PER_VARIABLE[name]

    assert cut_rule(serialized(make())).whole_variables
    check_equal(make, counts=counts_of(name))


@pytest.mark.parametrize("name", OPTIONS)
def test_what_all_optimizers_can_do(name):
    check_equal(OPTIONS[name], counts=counts_of(name))


@pytest.mark.parametrize("make", [lambda: o.AdamW(0.01, weight_decay=0.3), lambda: o.Lamb(0.01)])
def test_exclusions_from_weight_decay_given_with_the_variables(make):
    whole = Whole(make())
    whole.optimizer.weight_decay = 0.3
    whole.optimizer.exclude_from_weight_decay(var_names=["bias", "model/scale"])
    specs = variable_specs(whole.variables, whole.optimizer)

    assert [spec.decay for spec in specs] == [True, False, False, True, False]
    assert [replace(spec, decay=True) for spec in specs] == list(SPECS)
    expected = [whole.apply(gradient) for gradient in GRADIENTS[:UPDATES]]
    for count in COUNTS:
        sliced = Sliced(serialized(whole.optimizer), count, specs).load(WEIGHTS)
        for gradient, weights in zip(GRADIENTS, expected, strict=False):
            assert_close(sliced.apply(gradient), weights)
        joined = make()
        joined.build(whole.variables)
        join_states(sliced.plan, sliced.states(), joined, specs)
        for variable, value in zip(joined.variables, whole.optimizer.variables, strict=True):
            assert_close(np.array(variable), np.array(value))


@pytest.mark.parametrize("make", [lambda: o.AdamW(0.01, weight_decay=0.3), lambda: o.Lamb(0.01)])
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variables_without_gradient_stay_as_they_are(make):
    specs = tuple(replace(spec, trained="conv" not in spec.path) for spec in SPECS)

    check_equal(make, specs)


def test_constraints_need_whole_variables_and_hold():
    constraint = keras.saving.serialize_keras_object(keras.constraints.UnitNorm(axis=0))
    specs = (*SPECS[:3], replace(SPECS[3], constraint=constraint), SPECS[4])

    rule = cut_rule(serialized(o.Adam()), specs)

    assert rule.whole_variables
    assert "constraint on the whole variable model/dense/kernel" in rule.reason
    check_equal(lambda: o.Adam(0.01), specs)
    sliced = Sliced(serialized(o.Adam(0.01)), 2, specs).load(WEIGHTS)
    kernel = sliced.plan.variables(sliced.apply(GRADIENTS[0]))[3].reshape(5, 3)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), [1, 1, 1], rtol=1e-6)


def test_whole_variables_are_built_as_the_model_has_them():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(inputs), name="net")

    for variable, spec in zip(
        model.trainable_variables, variable_specs(model.trainable_variables), strict=True
    ):
        built = build_variable(spec, np.zeros(spec.size, np.float32))
        assert (built.path, built.name, built.shape) == (
            variable.path,
            variable.name,
            variable.shape,
        )
        assert built.value.name == variable.value.name  # what weight decay looks at


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.Adam(0.01, global_clipnorm=0.1, use_ema=True, ema_momentum=0.5),
        lambda: o.Lamb(0.05, clipnorm=0.1, weight_decay=0.1),
    ],
)
def test_a_model_trained_by_slices_is_that_of_fit(make):
    rng = np.random.default_rng(7)
    rows, labels = rng.normal(size=(48, 5)), rng.normal(size=(48, 1))
    reference, model = (
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        for _ in range(2)
    )
    model.set_weights(reference.get_weights())
    reference.compile(make(), "mse", jit_compile=False)
    model.compile(make(), "mse", jit_compile=False)
    specs = variable_specs(model.trainable_variables, model.optimizer)
    sliced = Sliced(serialized(model.optimizer), 3, specs, jit=None)

    reference.fit(rows, labels, batch_size=16, shuffle=False, verbose=0)
    weights = flattened(model.trainable_variables)
    sliced.load(weights)
    for start in range(0, 48, 16):
        with tf.GradientTape() as tape:
            part = slice(start, start + 16)
            loss = model.compute_loss(y=labels[part], y_pred=model(rows[part]))
        gradients = tape.gradient(loss, model.trainable_variables)
        weights = sliced.apply(flattened(gradients))
        assign(model.trainable_variables, sliced.plan, weights)
    model.optimizer.build(model.trainable_variables)
    join_states(sliced.plan, sliced.states(), model.optimizer, specs)
    assign(model.trainable_variables, sliced.plan, sliced.finalize())

    for found, expected in (
        (model.trainable_variables, reference.trainable_variables),
        (model.optimizer.variables, reference.optimizer.variables),
    ):
        np.testing.assert_allclose(flattened(found), flattened(expected), rtol=1e-5, atol=1e-6)


def flattened(tensors: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(t) for t in tensors]).astype(np.float32)


def assign(variables: Sequence[Any], plan: SlicePlan, weights: np.ndarray) -> None:
    for variable, value in zip(variables, plan.variables(weights), strict=True):
        variable.assign(value.reshape(variable.shape))


@pytest.mark.parametrize(
    "make",
    [
        ELEMENTWISE["adam"],
        ELEMENTWISE["rmsprop"],
        OPTIONS["accumulation_clipped"],
        lambda **k: o.Adam(
            o.schedules.CosineDecay(0.1, 4), use_ema=True, ema_overwrite_frequency=2, **k
        ),
    ],
)
def test_the_compiled_update_is_the_same(make):
    whole, plain = Whole(make(), jit=True), Whole(make())
    sliced = Sliced(serialized(make()), 3, jit=None).load(WEIGHTS)
    for gradient in GRADIENTS[:UPDATES]:
        expected = whole.apply(gradient)
        found = sliced.apply(gradient)
        assert_close(found, expected)
        np.testing.assert_allclose(found, plain.apply(gradient), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_a_learning_rate_from_a_callback(jit):
    whole = Whole(o.SGD(0.1, momentum=0.9), jit=jit)
    sliced = Sliced(serialized(o.SGD(0.1, momentum=0.9)), 2, jit=jit).load(WEIGHTS)

    assert_close(sliced.apply(GRADIENTS[0]), whole.apply(GRADIENTS[0]))
    whole.optimizer.learning_rate = 0.01
    assert_close(sliced.apply(GRADIENTS[1], learning_rate=0.01), whole.apply(GRADIENTS[1]))
    assert_close(sliced.apply(GRADIENTS[2]), whole.apply(GRADIENTS[2]))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        ELEMENTWISE["adam"],
        PER_VARIABLE["muon"],
        OPTIONS["ema_overwrite"],
        OPTIONS["accumulation_clipped"],
        ELEMENTWISE["nadam"],
    ],
)
def test_a_resumed_optimizer_continues_bit_for_bit(make, jit):
    config = serialized(make())
    undisturbed = Sliced(config, 2, jit=jit).load(WEIGHTS)
    for gradient in GRADIENTS[:3]:
        weights = undisturbed.apply(gradient)
    states = [[np.array(value) for value in one] for one in undisturbed.states()]

    resumed = Sliced(config, 2, jit=jit).load(weights, states)

    for gradient in GRADIENTS[3:6]:
        assert undisturbed.apply(gradient).tobytes() == resumed.apply(gradient).tobytes()
    assert_same(resumed.states(), undisturbed.states())


def test_loading_again_rewinds():
    sliced = Sliced(serialized(o.Adam(0.01)), 2).load(WEIGHTS)
    first = sliced.apply(GRADIENTS[0])
    states = sliced.states()
    second = sliced.apply(GRADIENTS[1])

    assert np.array_equal(sliced.load(first, states).apply(GRADIENTS[1]), second)
    assert np.array_equal(sliced.load(WEIGHTS).apply(GRADIENTS[0]), first)


@pytest.mark.parametrize("make", [ELEMENTWISE["schedule_free"], PER_VARIABLE["adafactor"]])
def test_a_state_goes_on_with_another_number_of_slices(make):
    config = serialized(make())
    three, five = Sliced(config, 3).load(WEIGHTS), Sliced(config, 5)
    for gradient in GRADIENTS[:2]:
        weights = three.apply(gradient)
    full = make()
    full.build(Whole(make()).variables)
    join_states(three.plan, three.states(), full, SPECS)

    five.load(weights, split_state(full, five.plan, SPECS))

    for gradient in GRADIENTS[2:4]:
        assert_close(five.apply(gradient), three.apply(gradient))


@pytest.mark.parametrize("jit", [False, True])
def test_returned_arrays_do_not_change_with_later_updates(jit):
    sliced = SliceOptimizer(
        serialized(o.Adam(0.1)), SlicePlan.of([TOTAL], 1), 0, flat_spec(), jit_compile=jit
    )
    sliced.load(WEIGHTS)
    before = WEIGHTS.copy()
    weights, state = sliced.apply(GRADIENTS[0]), sliced.state()
    kept = [weights.copy(), *(value.copy() for value in state)]
    for gradient in GRADIENTS[1:4]:
        sliced.apply(gradient)

    assert_same([[weights, *state]], [kept])
    assert not weights.flags.writeable
    assert np.array_equal(WEIGHTS, before)


@pytest.mark.parametrize("jit", [False, True])
def test_an_aligned_gradient_is_read_in_place_and_left_alone(jit):
    aligned = empty_aligned(TOTAL)
    aligned[:] = GRADIENTS[0]
    plan = SlicePlan.of([TOTAL], 1)
    first, second = (
        SliceOptimizer(serialized(o.SGD(0.1)), plan, 0, flat_spec(), jit_compile=jit)
        for _ in range(2)
    )
    first.load(WEIGHTS)
    second.load(WEIGHTS)

    assert np.array_equal(first.apply(aligned), second.apply(GRADIENTS[0]))
    assert np.array_equal(aligned, GRADIENTS[0])
    aligned[:] = GRADIENTS[1]
    assert np.array_equal(first.apply(aligned), second.apply(GRADIENTS[1]))


def flat_spec() -> tuple[VariableSpec, ...]:
    return (VariableSpec("flat", (TOTAL,)),)


def test_a_slice_without_elements():
    plan = SlicePlan.of([1, 1], 3)
    specs = (VariableSpec("a", ()), VariableSpec("b", (1,)))
    empty = SliceOptimizer("adam", plan, 2, specs)
    nothing = np.zeros(0, np.float32)

    assert empty.initial_state(nothing) == []
    assert empty.apply(nothing).shape == (0,)
    assert (empty.sum_of_squares(nothing), empty.state()) == (0.0, [])
    assert empty.finalize().shape == (0,)


def test_elements_that_are_alike_make_one_block():
    specs = tuple(replace(spec, decay="bias" not in spec.path) for spec in SPECS)
    sizes = [spec.size for spec in SPECS]

    (only,) = blocks(SlicePlan.of(sizes, 2), 1, SPECS)
    kernels, biases = blocks(SlicePlan.of(sizes, 1), 0, specs)
    one_each = blocks(SlicePlan.of(sizes, 1, whole_variables=True), 0, specs)

    assert only.pieces == ((16, 32),)
    assert (kernels.pieces, kernels.variable.decay) == (((0, 6), (13, 29)), True)
    assert (biases.pieces, biases.variable.decay) == (((6, 13), (29, 32)), False)
    assert [block.variable for block in one_each] == list(specs)


def test_the_scale_of_a_global_norm_by_hand():
    assert clip_scale(25.0, 10.0) == 1.0  # norm 5
    assert clip_scale(25.0, 1.0) == pytest.approx(0.2)
    assert clip_scale(0.0, 1.0) == 1.0
    assert np.isnan(clip_scale(float("inf"), 1.0))
    assert np.isnan(clip_scale(float("nan"), 1.0))
    assert np.isnan(clip_scale(1e39, 1.0))  # infinite in float32, as in Keras


@pytest.mark.parametrize("size", [1, 8191, 8193, 300_000])
def test_sum_of_squares_over_many_chunks(size):
    gradient = np.random.default_rng(5).normal(size=size).astype(np.float32)
    one = SliceOptimizer(
        serialized(o.SGD(global_clipnorm=1.0)),
        SlicePlan.of([size], 1),
        0,
        (VariableSpec("v", (size,)),),
    )
    one.load(np.zeros(size, np.float32))

    exact = float(np.sum(np.square(gradient, dtype=np.float64)))
    assert one.sum_of_squares(gradient) == pytest.approx(exact, rel=1e-6)


def test_what_belongs_to_which_variable():
    names = [o.Adam(), o.Nadam(use_ema=True), o.Adafactor(), o.Muon()]
    specs = (VariableSpec("m/a", (2, 2)), VariableSpec("m/b", (3,)))

    found = [owners(optimizer, specs) for optimizer in names]

    shared = [None, None]  # iteration and learning rate
    assert found[0] == [*shared, 0, 0, 1, 1]
    assert found[1] == [*shared, 0, 1, 0, 0, 1, 1, None]
    assert found[2] == [*shared, 0, 0, 0, 1, 1, 1]
    assert found[3] == [*shared, 0, 1, 1]


def test_variables_of_the_same_path_keep_their_own_state():
    specs = (VariableSpec("layer/w", (2, 2)), VariableSpec("layer/w", (2, 2)))
    variables = [build_variable(s, np.zeros(4, np.float32)) for s in specs]
    full = o.Adafactor()
    full.build(variables)
    plan = SlicePlan.of([4, 4], 2, whole_variables=True)
    states = split_state(full, plan, specs)
    for number, state in enumerate(states):
        state[2:] = [np.full_like(value, number + 1) for value in state[2:]]

    join_states(plan, states, full, specs)

    means = [float(np.mean(v)) for v in full.variables[2:]]
    assert means == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: o.LossScaleOptimizer(o.Adam()), "LossScaleOptimizer.*mixed_bfloat16.*horovod"),
        (lambda: o.MultiOptimizer(o.OptimizerMap(o.Adam())), "MultiOptimizer.*Use one optimizer"),
        (lambda: Centralized(0.1), "overrides apply.*update_step"),
    ],
)
def test_what_cannot_be_cut_is_refused(make, match):
    with pytest.raises(ConfigurationError, match=match):
        cut_rule(serialized(make()))


def test_an_optimizer_nobody_registered_is_refused():
    config = serialized(SignOfMean(0.1)) | {"registered_name": "elsewhere>Unknown"}

    with pytest.raises(ConfigurationError, match=r"not known here. Register its class"):
        cut_rule(config)


def test_state_that_belongs_to_no_variable_is_refused_before_training():
    sliced = Sliced(serialized(Hoarder(0.1)), 2)

    with pytest.raises(ConfigurationError, match="Hoarder creates history"):
        sliced.load(WEIGHTS)


@pytest.mark.parametrize(("clipnorm", "expected"), [(None, None), (0.0, None), (2.0, 2.0)])
def test_the_rule_flags_a_global_norm(clipnorm, expected):
    assert cut_rule(serialized(o.Adam(global_clipnorm=clipnorm))).global_clipnorm == expected


def test_the_rule_takes_names():
    assert not cut_rule("sgd").whole_variables


def test_variables_that_are_not_float32_are_refused():
    with pytest.raises(ModelError, match=r"half is float16. Use the dtype policy"):
        variable_specs([keras.Variable(np.zeros(3), dtype="float16", name="half")])


def test_wrong_use_is_refused():
    sliced = Sliced(serialized(o.Adam(o.schedules.CosineDecay(0.1, 4))), 2)
    one = sliced.slices[0]
    with pytest.raises(ConfigurationError, match=r"Call load\(\) first"):
        one.state()
    with pytest.raises(ConfigurationError, match=r"shape \(16,\). Got float32 of shape \(32,\)"):
        one.load(WEIGHTS)
    sliced.load(WEIGHTS)
    with pytest.raises(ConfigurationError, match=r"shape \(16,\). Got float64"):
        one.apply(np.zeros(16))
    with pytest.raises(ConfigurationError, match="cannot replace the learning-rate schedule"):
        one.apply(GRADIENTS[0][:16], learning_rate=0.1)
    with pytest.raises(ConfigurationError, match=r"if and only if.*clip_scale=0.5"):
        one.apply(GRADIENTS[0][:16], clip_scale=0.5)
    with pytest.raises(ConfigurationError, match=r"has 3 arrays of .* Got 2"):
        one.load(WEIGHTS[:16], one.state()[:2])


def test_a_global_norm_without_its_scale_is_refused():
    sliced = Sliced(serialized(o.SGD(global_clipnorm=1.0)), 2).load(WEIGHTS)

    with pytest.raises(ConfigurationError, match=r"if and only if.*global_clipnorm=1.0"):
        sliced.slices[0].apply(GRADIENTS[0][:16])


def test_states_that_do_not_fit_are_refused():
    sliced = Sliced(serialized(o.Adam()), 2).load(WEIGHTS)
    states = sliced.states()
    full = o.Adam()
    with pytest.raises(ConfigurationError, match="must be built on the 5 trainable variables"):
        join_states(sliced.plan, states, full, SPECS)
    full.build(Whole(full).variables)
    with pytest.raises(ConfigurationError, match=r"one state for each of 2 slices. Got 1"):
        join_states(sliced.plan, states[:1], full, SPECS)
    with pytest.raises(ConfigurationError, match=r"slice 1 must have 4 arrays. Got 3"):
        join_states(sliced.plan, [states[0], states[1][:3]], full, SPECS)
    with pytest.raises(ConfigurationError, match="slice 1 has an array of 3 elements instead of"):
        join_states(sliced.plan, [states[0], [*states[1][:3], np.zeros(3)]], full, SPECS)
    with pytest.raises(ConfigurationError, match="The plan cuts 5 variables"):
        join_states(sliced.plan, states, full, SPECS[:2])
    sliced.slices[0].apply(GRADIENTS[0][:16])
    with pytest.raises(WorkersDisagreeError, match="Slice 1 has 0 where earlier slices have 1"):
        join_states(sliced.plan, sliced.states(), full, SPECS)
