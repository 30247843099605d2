"""Updates of single rows of a table and of its optimizer state.

Imported late: it imports TensorFlow. Keras's optimizers turn the gradient of a few rows
into one of the whole table, or read and write all of their state. For optimizers that
work element by element the same ``update_step`` is run here on the rows alone, on the
server that has them. Rows that a batch does not touch keep their state: momenta do not
decay and nothing moves there ("lazy" updates).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class _Rows:
    """Some rows of a variable, as an optimizer sees them."""

    def __init__(self, variable: Any, indices: Any) -> None:
        self._variable = variable
        self._indices = indices
        self._before = tf.gather(variable, indices)
        self.value = self._before

    @property
    def dtype(self) -> str:
        return str(self.value.dtype.name)

    @property
    def shape(self) -> Any:
        return self.value.shape

    def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> Any:
        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def write(self) -> None:
        """Add what changed: concurrent updates of a row do not overwrite each other."""
        change = tf.IndexedSlices(self.value - self._before, self._indices)
        self._variable.scatter_add(change)


def update_rows(optimizer: Any, variable: Any, gradient: tf.IndexedSlices, rate: Any) -> None:
    """Apply the gradient of some rows of `variable`; inside the step's graph.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        One of `checks.ELEMENTWISE`, built on `variable` among others.
    variable : keras.Variable
        A table or a piece of one.
    gradient : tf.IndexedSlices
        Rows may occur several times; they are added up first.
    rate : tensor
        The learning rate.
    """
    indices, positions = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(indices))
    raw = variable.value
    with tf.device(raw.device):
        rows = _Rows(raw, indices)
        proxy, slots = _with_rows(optimizer, variable, indices)
        proxy.update_step(tf.identity(values), rows, rate)
        for changed in (rows, *slots):
            changed.write()


def _with_rows(optimizer: Any, variable: Any, indices: Any) -> tuple[Any, list[_Rows]]:
    """Copy of the optimizer whose state is that of the rows."""
    index = optimizer._get_variable_index(variable)
    # copy.copy would write the optimizer to a file and read it again
    proxy = object.__new__(type(optimizer))
    proxy.__dict__.update(optimizer.__dict__)
    slots: list[_Rows] = []
    for name, kept in _state_lists(optimizer).items():
        rows = _Rows(kept[index].value, indices)
        slots.append(rows)
        proxy.__dict__[name] = [rows]
    proxy.__dict__["_get_variable_index"] = lambda _: 0
    proxy.__dict__["assign"] = _assign
    proxy.__dict__["assign_add"] = lambda target, value: _assign(target, target.value + value)
    proxy.__dict__["assign_sub"] = lambda target, value: _assign(target, target.value - value)
    return proxy, slots


def _assign(target: _Rows, value: Any) -> None:
    target.value = tf.cast(value, target.value.dtype)


def _state_lists(optimizer: Any) -> dict[str, Any]:
    """Attributes that hold one state variable per trained variable."""
    trained = optimizer._trainable_variables
    state = {id(variable) for variable in optimizer.variables}
    return {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == len(trained)
        and all(id(variable) in state for variable in value)
        and name not in ("_trainable_variables", "_variables")
    }
