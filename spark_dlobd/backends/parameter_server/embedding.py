"""Embedding tables cut over the servers, with lookups that move only the rows they need.

Imported late: it imports TensorFlow. ``keras.layers.Embedding`` fetches its whole table
for every step when the table lives on a server. Here the layers of a loaded model are
changed in place: their rows become one or more weights on the servers, a step gathers
the distinct rows of its batch from them, and what is saved is the plain table again.
The only module that uses Keras's private bookkeeping of a layer's weights.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dlobd.errors import ConfigurationError


def spread_embeddings(model: Any, servers: int, min_partition_bytes: int) -> list[Any]:
    """Put the tables of all ``Embedding`` layers of a model on the servers.

    Call it under the strategy's scope, before the optimizer is built.

    Parameters
    ----------
    model : keras.Model
        Built under the strategy; changed in place.
    servers : int
        Tables are cut into so many pieces,
    min_partition_bytes : int
        if they have at least this size; smaller ones stay whole.

    Returns
    -------
    list of keras.Variable
        The pieces of all tables.

    Raises
    ------
    ConfigurationError
        If a table has a regularizer, a constraint, LoRA or quantized weights.
    """
    pieces: list[Any] = []
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.layers.Embedding):
            continue
        _check(layer)
        size = layer.input_dim * layer.output_dim * 4
        count = servers if size >= min_partition_bytes else 1
        pieces += _spread(layer, min(count, layer.input_dim))
    return pieces


def _check(layer: Any) -> None:
    wrong = {
        "embeddings_regularizer": layer.embeddings_regularizer,
        "embeddings_constraint": layer.embeddings_constraint,
        "lora_rank": layer.lora_rank,
        "quantization": layer.quantization_mode,
    }
    found = [name for name, value in wrong.items() if value is not None]
    if found:
        raise ConfigurationError(
            f"The embedding layer {layer.name!r} has {', '.join(found)}, which touches every row "
            "of its table in every step. backend='parameter_server' moves only the rows of a "
            "batch: leave it out, or use backend='horovod'."
        )


def _spread(layer: Any, count: int) -> list[Any]:
    table = layer._embeddings
    parts = np.array_split(np.asarray(table), count)
    layer._tracker.unlock()
    layer._untrack_variable(table)
    pieces = [
        layer.add_weight(
            shape=part.shape,
            initializer=functools.partial(_constant, part),
            name=f"embeddings_{index}",
            trainable=table.trainable,
            dtype=table.dtype,
        )
        for index, part in enumerate(parts)
    ]
    layer._tracker.lock()
    methods = {
        "call": functools.partial(_lookup, layer, pieces),
        "save_own_variables": functools.partial(_save, pieces),
        "load_own_variables": functools.partial(_load, pieces),
        "_embeddings": None,
    }
    for name, value in methods.items():
        object.__setattr__(layer, name, value)
    return pieces


def _constant(part: Any, shape: Any, dtype: Any = None) -> Any:
    return tf.constant(part, dtype)


def _lookup(layer: Any, pieces: list[Any], inputs: Any) -> Any:
    """Gather each distinct row once, on the server that has it."""
    ids = tf.cast(inputs, tf.int64)
    distinct, positions = tf.unique(tf.reshape(ids, [-1]))
    tables = [piece.value for piece in pieces]
    if len(tables) == 1:
        rows = tf.gather(tables[0], distinct)
    else:
        rows = tf.nn.embedding_lookup(tables, distinct)
    shape = tf.concat([tf.shape(ids), [layer.output_dim]], 0)
    found = tf.reshape(tf.gather(rows, positions), shape)
    found = tf.ensure_shape(found, (*inputs.shape, layer.output_dim))
    return tf.cast(found, layer.compute_dtype)


def _save(pieces: list[Any], store: Any) -> None:
    store["0"] = np.concatenate([np.asarray(piece) for piece in pieces])


def _load(pieces: list[Any], store: Any) -> None:
    parts = np.array_split(np.asarray(store["0"]), len(pieces))
    for piece, part in zip(pieces, parts, strict=True):
        piece.assign(part)
