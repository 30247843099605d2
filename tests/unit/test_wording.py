from __future__ import annotations

import math

import pytest

from spark_dlobd.errors import WorkerError
from spark_dlobd.wording import did_you_mean, float_range, int_range, useful_part


def test_ranges_are_words() -> None:
    assert int_range(1) == "an int of at least 1"
    assert int_range(0, 2) == "an int from 0 to 2"
    assert float_range(0, open_low=True) == "a float above 0"
    assert float_range(0.5) == float_range(0.5, math.inf) == "a float of at least 0.5"
    assert float_range(0, 1) == "a float of at least 0 and below 1"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("batch_size", "Did you mean 'batchSize'?"),
        ("EPOCH", "Did you mean 'epochs'?"),
        ("num_workers", "Did you mean 'numTrainWorkers'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(name: str, hint: str) -> None:
    assert did_you_mean(name, ["epochs", "batchSize", "numTrainWorkers"]) == hint


GRAPH_ERROR = """InvalidArgumentError: Graph execution error:

Detected at node net_1/embedding_1/GatherV2 defined at (most recent call last):
  File "train.py", line 3, in <module>

  File "keras/src/layers/layer.py", line 941, in __call__

indices[0,0] = 7 is not in [0, 4)
\t [[{{node net_1/embedding_1/GatherV2}}]] [Op:__inference_one_step_on_data_9]"""


def test_an_error_of_a_graph_says_first_what_is_wrong() -> None:
    said = (
        "InvalidArgumentError: indices[0,0] = 7 is not in [0, 4)\n"
        "\t [[{{node net_1/embedding_1/GatherV2}}]] [Op:__inference_one_step_on_data_9]"
    )
    assert useful_part(GRAPH_ERROR) == said
    error = WorkerError(GRAPH_ERROR, 1, "host", "train epoch 0", f"Traceback:\n{GRAPH_ERROR}")
    assert str(error).startswith(f"Rank 1 on host failed in phase 'train epoch 0': {said}\n\n")
    assert "layer.py" in str(error)


def test_other_errors_keep_their_words() -> None:
    assert useful_part("ValueError: a\n\n\x1b[1mb\x1b[0m\n") == "ValueError: a\nb"
    nothing = "InvalidArgumentError: Graph execution error:\n\nDetected at node n defined at\n"
    assert useful_part(nothing) == "InvalidArgumentError: Graph execution error:"
