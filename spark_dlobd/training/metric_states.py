"""How the states that ranks keep of one metric become the state over all rows.

The one implementation for all backends. Imported late: it uses Keras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.training.collective import Collective

State = Sequence[NDArray[Any]]


class MetricStates:
    """The variables of a model's metrics, and the rule by which each merges.

    Keras's own metrics hold sums (totals and counts, confusion matrices), so their states
    are added. A metric of the user says it: with a method ``merge_state(metrics)``, which
    takes over the states of other metrics of its class, or with the ``aggregation`` of its
    variables (``"sum"``, ``"mean"`` or ``"only_first_replica"``). A metric that holds other
    metrics merges as they do.

    Parameters
    ----------
    metrics : sequence of keras.metrics.Metric
        Of a model that has seen rows, or was built for them: ``model.metrics``.

    Examples
    --------
    >>> states = MetricStates(model.metrics)  # doctest: +SKIP
    >>> states.assign(states.merged([of_rank_0, of_rank_1]))  # doctest: +SKIP
    """

    def __init__(self, metrics: Sequence[Any]) -> None:
        self._units = [unit for metric in metrics for unit in _units(metric)]
        self.variables = [v for unit in self._units for v in unit.variables]
        """In the order of ``model.metrics_variables``."""
        self._fresh = [value for unit in self._units for value in unit.fresh()]

    def read(self) -> list[NDArray[Any]]:
        """State of this process, one array for each variable."""
        return [np.asarray(variable) for variable in self.variables]

    def assign(self, state: State) -> None:
        """Make it the state of this process."""
        for variable, value in zip(self.variables, state, strict=True):
            variable.assign(value)

    def merged(self, states: Sequence[State], parts: Sequence[int] | None = None) -> list[Any]:
        """The state over the rows of all of `states`; changes none of them, nor a metric.

        Parameters
        ----------
        states : sequence of sequence of numpy.ndarray
            For each rank one array for each of `variables`.
        parts : sequence of int, optional
            How many states each one is merged of already, 0 for none. Default: 1 each.
        """
        counts = [1] * len(states) if parts is None else list(parts)
        used = [(s, count) for s, count in zip(states, counts, strict=True) if count]
        result: list[Any] = []
        for unit in self._units:
            first = len(result)
            last = first + len(unit.variables)
            own = [list(state[first:last]) for state, _ in used]
            fresh = self._fresh[first:last]
            if not own:
                result += fresh
            elif unit.by_method:
                result += _by_method(unit.metric, own)
            else:
                result += [
                    _by_aggregation(kind, values, base, [count for _, count in used])
                    for kind, base, *values in zip(unit.aggregations, fresh, *own, strict=True)
                ]
        return result


def merge_metrics(model: Any, group: Collective) -> None:
    """Make every rank's metrics those of all rows; called by every rank."""
    states = MetricStates(model.metrics)
    gathered = [group.gather(value) for value in states.read()]
    states.assign(states.merged([[g[rank] for g in gathered] for rank in range(group.size)]))


def check_mergeable(metrics: Sequence[Any]) -> None:
    """Runs on the driver. Refuse metrics of which nobody knows how their states merge.

    Raises
    ------
    ConfigurationError
        Naming the metric and the lines that say it.
    """
    for metric in metrics:
        for unit in _units(metric):
            if unit.by_method:
                _try_method(unit.metric)
        for part in _with_parts(metric):
            silent = _silent_variables(part)
            if silent:
                raise _silent_error(part, silent)


@dataclass(frozen=True)
class _Unit:
    """Variables that merge together."""

    metric: Any
    variables: list[Any]
    by_method: bool

    @property
    def aggregations(self) -> list[str]:
        return ["sum" if _is_keras(type(self.metric)) else v.aggregation for v in self.variables]

    def fresh(self) -> list[NDArray[Any]]:
        """What the metric is reset to, which need not be zero."""
        variables = self.metric.variables
        reset = dict(zip(map(id, variables), self.metric.stateless_reset_state(), strict=True))
        return [np.asarray(reset[id(variable)]) for variable in self.variables]


def _units(metric: Any) -> Iterator[_Unit]:
    if _has_method(metric):
        yield _Unit(metric, list(metric.variables), True)
        return
    own = _own_variables(metric)
    if own:
        yield _Unit(metric, own, False)
    for part in _parts(metric):
        yield from _units(part)


def _parts(metric: Any) -> list[Any]:
    """Metrics that a metric holds; Keras keeps those given to ``compile`` in one."""
    if _is_keras(type(metric)) and hasattr(metric, "metrics"):
        return list(metric.metrics)
    return list(metric._metrics)


def _with_parts(metric: Any) -> Iterator[Any]:
    yield metric
    if not _has_method(metric):
        for part in _parts(metric):
            yield from _with_parts(part)


def _own_variables(metric: Any) -> list[Any]:
    of_parts = {id(v) for part in _parts(metric) for v in part.variables}
    return [v for v in metric.variables if id(v) not in of_parts]


def _is_keras(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] == "keras"


def _has_method(metric: Any) -> bool:
    return callable(getattr(metric, "merge_state", None))


def _by_aggregation(
    kind: str, values: Sequence[NDArray[Any]], fresh: NDArray[Any], counts: Sequence[int]
) -> NDArray[Any]:
    if kind == "only_first_replica":
        return np.asarray(values[0])
    if kind == "mean":
        merged = np.average(np.stack(values), axis=0, weights=counts)
    else:
        zero = fresh.astype(np.result_type(fresh.dtype, np.int8))  # bool has no difference
        merged = zero + sum(value - zero for value in values)
    return np.asarray(merged, dtype=fresh.dtype)


def _by_method(metric: Any, states: Sequence[State]) -> list[NDArray[Any]]:
    """Let copies of the metric take these states, and one of them those of the others."""
    copies = [_copy_with(metric, state) for state in states]
    copies[0].merge_state(copies[1:])
    return [np.asarray(variable) for variable in copies[0].variables]


def _copy_with(metric: Any, state: State) -> Any:
    copy = type(metric).from_config(metric.get_config())
    for variable, value in zip(copy.variables, state, strict=True):
        variable.assign(value)
    return copy


def _try_method(metric: Any) -> None:
    try:
        fresh = [np.asarray(value) for value in metric.stateless_reset_state()]
        _by_method(metric, [fresh, fresh])
    except Exception as error:
        name = type(metric).__name__
        raise ConfigurationError(
            f"merge_state() of the metric {name} {metric.name!r} fails: {type(error).__name__}: "
            f"{error}. It gets a list of metrics of the same class, made with from_config(), and "
            "takes over their states; all variables have to be created in __init__()."
        ) from error


def _silent_variables(metric: Any) -> list[Any]:
    """Variables of the user's of which nothing says how they merge.

    Keras gives ``aggregation="sum"`` to a variable for which nothing was said.
    """
    kind = type(metric)
    if _is_keras(kind) or _has_method(metric):
        return []
    base: Any = next(each for each in kind.__mro__ if _is_keras(each))
    own = _own_variables(metric)
    try:
        said = _said(metric)
        inherited = len(_own_variables(base.from_config(base.get_config(metric))))
    except Exception:  # it cannot be made again, so nothing is known of it
        said, inherited = [], 0
    if base.__name__ == "Metric":
        inherited = 0
        said += [False] * (len(own) - len(said))
    return [
        variable
        for variable, is_said in list(zip(own, said, strict=False))[inherited:]
        if not is_said or variable.aggregation == "none"
    ]


def _said(metric: Any) -> list[bool]:
    """For each variable of a new copy, whether its aggregation was given."""
    kind = type(metric)
    given: dict[int, bool] = {}

    class Recording(kind):  # type: ignore[misc, valid-type]
        def add_variable(self, *args: Any, **kwargs: Any) -> Any:
            variable = super().add_variable(*args, **kwargs)
            given[id(variable)] = "aggregation" in kwargs or len(args) > 3
            return variable

    copy = Recording.from_config(metric.get_config())
    # a keras.Variable that was made without add_variable has "none" where nothing was said
    return [given.get(id(v), v.aggregation != "none") for v in _own_variables(copy)]


def _silent_error(metric: Any, silent: Sequence[Any]) -> ConfigurationError:
    names = [n for n, v in vars(metric).items() if any(v is other for other in silent)]
    attribute = (names or [silent[0].name])[0]
    return ConfigurationError(
        f"The metric {type(metric).__name__} {metric.name!r} does not say how the states of "
        f"several workers become one: {', '.join(names or [v.name for v in silent])}. Give it a "
        "method that takes over the states of others, for example for a maximum\n"
        "    def merge_state(self, metrics):\n"
        f"        self.{attribute}.assign(max(m.{attribute} for m in [self, *metrics]))\n"
        "or, where states are added, create each variable with\n"
        f"    self.{attribute} = self.add_variable((), 'zeros', aggregation='sum')\n"
        "('mean' and 'only_first_replica' are possible too). One worker, or backend='local', "
        "needs neither."
    )
