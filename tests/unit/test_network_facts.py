"""Facts read off an archive agree with what Keras says of the model."""

from __future__ import annotations

import numpy as np
import pytest

from spark_dlobd.report.network import network_facts

keras = pytest.importorskip("keras")


def test_weights_are_those_that_keras_counts_also_of_inner_networks_and_after_training() -> None:
    from spark_dlobd.training.keras_codec import model_to_archive

    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    given = keras.Input((5, 4))
    hidden = layers.TimeDistributed(inner)(given)
    hidden = layers.GRU(6, dropout=0.5)(hidden)
    output = layers.Dense(2, name="metrics")(layers.Dropout(0.5)(hidden))
    model = keras.Model(given, output, name="both")
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((4, 5, 4)), np.zeros((4, 2)), verbose=0)
    facts = network_facts(model_to_archive(model))
    assert facts["weights"] == model.count_params()
    assert (facts["name"], facts["class"]) == ("both", "Functional")
    assert facts["layers"] == ["TimeDistributed", "GRU 6", "Dropout 0.5", "Dense 2"]
