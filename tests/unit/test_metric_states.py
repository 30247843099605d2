"""States of one metric on several ranks become the state over all rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.training.metric_states import MetricStates, check_mergeable, merge_metrics

register = keras.saving.register_keras_serializable("metric_states")


class Errors(keras.metrics.Metric):  # type: ignore[misc]
    """Largest and smallest error, for tests that say differently how they merge."""

    def __init__(self, name: str = "errors", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_weight(initializer="zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = keras.ops.max(keras.ops.abs(y_true - y_pred))
        self.largest.assign(keras.ops.maximum(self.largest, error))

    def result(self) -> Any:
        return self.largest.value


@register
class Silent(Errors):
    """Says nothing: Keras would add the states."""


@register
class Largest(Errors):
    def merge_state(self, metrics: Any) -> None:
        self.largest.assign(max(m.largest for m in [self, *metrics]))


@register
class Declared(keras.metrics.Metric):  # type: ignore[misc]
    """One variable of each kind."""

    def __init__(self, name: str = "declared", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", aggregation="sum")
        self.mean = self.add_variable((2,), "zeros", aggregation="mean")
        self.first = self.add_variable((), "zeros", None, "only_first_replica")
        self.plain = keras.Variable(0.0, aggregation="sum", trainable=False)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.sum(y_true))

    def result(self) -> Any:
        return self.total.value


@register
class MyMean(keras.metrics.Mean):  # type: ignore[misc]
    """Adds no state to that of Keras's own."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(y_true - y_pred, sample_weight)


@register
class MyR2(keras.metrics.R2Score):  # type: ignore[misc]
    """Keras makes its variables only when it sees rows."""


@register
class MeanAndLargest(MyMean):
    def __init__(self, name: str = "mean_and_largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_weight(initializer="zeros", name="largest")


@register
class TwoMetrics(keras.metrics.Metric):  # type: ignore[misc]
    """Holds other metrics and no variable of its own."""

    def __init__(self, name: str = "two", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.precision = keras.metrics.Precision()
        self.largest = self.made()

    def made(self) -> Any:
        return Largest()

    def result(self) -> Any:
        return self.precision.result() + self.largest.result()


@register
class HoldsSilent(TwoMetrics):
    def made(self) -> Any:
        return Silent()


@register
class FromOne(keras.metrics.Metric):  # type: ignore[misc]
    """Is reset to one, which belongs to no rank."""

    def __init__(self, name: str = "from_one", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "ones", aggregation="sum")

    def reset_state(self) -> None:
        self.total.assign(1.0)


@register
class Nothing(keras.metrics.Metric):  # type: ignore[misc]
    """Has no variable."""

    def result(self) -> float:
        return 0.5


@register
class NeedsMore(Largest):
    """Cannot be made from its config."""

    def __init__(self, limit: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)


def array(*values: float) -> Any:
    return np.array(values if len(values) > 1 else values[0], "float32")


def test_states_of_keras_metrics_are_added() -> None:
    states = MetricStates([keras.metrics.Mean()])
    total, count = states.merged([[array(3), array(2)], [array(5), array(1)]])
    assert (float(total), float(count)) == (8, 3)


def test_a_metric_says_with_a_method_how_it_merges() -> None:
    states = MetricStates([keras.metrics.Mean(), Largest()])
    own = [[array(3), array(2), array(36.95)], [array(5), array(1), array(35.59)]]
    assert [float(v) for v in states.merged(own)] == [8, 3, pytest.approx(36.95)]


def test_a_variable_says_with_its_aggregation_how_it_merges() -> None:
    states = MetricStates([Declared()])
    first = [array(1), array(2, 4), array(7), array(10)]
    second = [array(3), array(4, 8), array(9), array(20)]
    total, mean, only, plain = states.merged([first, second])
    assert (float(total), mean.tolist(), float(only), float(plain)) == (4, [3, 6], 7, 30)
    assert {value.dtype.name for value in (total, mean, only, plain)} == {"float32"}


def test_a_state_may_be_merged_of_several_already() -> None:
    states = MetricStates([Declared()])
    first = [array(1), array(2, 4), array(7), array(10)]
    third = [array(3), array(5, 10), array(9), array(20)]
    total, mean, only, _ = states.merged([first, third], [2, 1])
    assert (float(total), mean.tolist(), float(only)) == (4, [3, 6], 7)
    nothing_yet = states.merged([])
    for value, alone in zip(states.merged([nothing_yet, third], [0, 1]), third, strict=True):
        np.testing.assert_array_equal(value, alone)


def test_what_a_metric_is_reset_to_counts_once() -> None:
    states = MetricStates([FromOne()])
    assert float(states.merged([[array(4)], [array(6)]])[0]) == 1 + 3 + 5
    assert float(states.merged([])[0]) == 1


def test_a_metric_of_metrics_merges_as_they_do() -> None:
    states = MetricStates([TwoMetrics()])
    true, false, largest = states.merged(
        [[array(1)[None], array(2)[None], array(9)], [array(3)[None], array(4)[None], array(8)]]
    )
    assert (true.tolist(), false.tolist(), float(largest)) == ([4], [6], 9)


def test_merging_leaves_states_and_metrics_as_they_are() -> None:
    metric = Largest()
    metric.largest.assign(2.0)
    states = MetricStates([metric])
    mine = [array(1)]
    states.merged([mine, [array(5)]])
    assert float(mine[0]) == 1
    assert float(metric.largest) == 2
    states.assign([array(5)])
    assert [float(v) for v in states.read()] == [5]


class Ranks:
    """Two ranks; the other one has the same state plus one."""

    rank, size = 0, 2

    def gather(self, value: Any) -> Any:
        return np.stack([value, value + 1])


def test_every_metric_of_a_model_becomes_that_of_all_ranks() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse", metrics=[Largest()])
    model.evaluate(np.array([[1.0], [2.0]]), np.array([[0.0], [5.0]]), verbose=0)
    # squared errors 1 and 9 of two rows, largest error 3
    merge_metrics(model, Ranks())  # type: ignore[arg-type]
    found = {name: float(value) for name, value in model.get_metrics_result().items()}
    assert found == {"loss": pytest.approx((10 + 11) / (2 + 3)), "errors": 4.0}


def wrapped() -> Any:
    return keras.metrics.MeanMetricWrapper(lambda y_true, y_pred: y_true, name="mine")


@pytest.mark.parametrize(
    "make",
    [keras.metrics.AUC, wrapped, Largest, Declared, MyMean, MyR2, TwoMetrics, FromOne, Nothing],
)
def test_what_says_how_it_merges_is_accepted(make: Any) -> None:
    check_mergeable([make()])


def test_a_subclass_whose_variables_keras_has_made_is_accepted() -> None:
    metric = MyR2()
    metric.update_state(np.ones((2, 1)), np.ones((2, 1)))
    assert len(metric.variables) == 5
    check_mergeable([metric])


@pytest.mark.parametrize("kind", [Silent, MeanAndLargest, HoldsSilent])
def test_what_says_nothing_is_refused_with_the_lines_that_cure_it(kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_mergeable([kind()])
    said = str(caught.value)
    name = "Silent 'errors'" if kind is HoldsSilent else kind.__name__
    assert f"The metric {name}" in said
    assert "become one: largest." in said
    cure = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert cure[:2] == [
        "def merge_state(self, metrics):",
        "self.largest.assign(max(m.largest for m in [self, *metrics]))",
    ]
    assert cure[2] == "self.largest = self.add_variable((), 'zeros', aggregation='sum')"


def test_a_metric_that_makes_its_variables_late_says_nothing_of_them() -> None:
    class Late(keras.metrics.Metric):  # type: ignore[misc]
        def update_state(self, y_true: Any, y_pred: Any) -> None:
            self.seen = self.add_weight(initializer="zeros", name="seen")

    metric = Late()
    metric.update_state(1, 1)
    with pytest.raises(ConfigurationError, match=r"Late 'late' does not say how .* one: seen"):
        check_mergeable([metric])


def test_a_method_that_fails_is_found_on_the_driver() -> None:
    with pytest.raises(ConfigurationError, match=r"merge_state\(\) of the metric NeedsMore.*limit"):
        check_mergeable([NeedsMore(1.0)])
