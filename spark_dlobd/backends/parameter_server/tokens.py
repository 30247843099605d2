"""Python functions of a worker's own process, called from graphs that run there.

The only module that knows TensorFlow's private registry of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_KEPT: dict[str, Callable[..., Any]] = {}  # TensorFlow's registry holds weak references


def register_function(token: str, function: Callable[..., Any]) -> None:
    """Let a ``PyFunc`` operation with `token` that runs in this process call `function`.

    Runs on each worker, before its server starts. ``tf.py_function`` makes a token of
    its own in the process that builds the graph, which is the coordinator, so the
    worker could not find its function.
    """
    from tensorflow.python.ops import script_ops

    _KEPT[token] = function
    script_ops._py_funcs._funcs[token] = function


def call_function(token: str, arguments: list[Any], dtypes: list[Any]) -> list[Any]:
    """Operation that calls the function registered where the operation runs."""
    import tensorflow as tf

    outputs = tf.raw_ops.PyFunc(input=arguments, token=token, Tout=dtypes)
    return list(outputs)
