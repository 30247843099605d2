"""The JSON of a saved stage: garbage, missing and unknown keys, and every single flipped bit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spark_dlobd.errors import PersistenceError
from spark_dlobd.estimators.stage_metadata import parse, seal

CLASS = "spark_dlobd.estimators.model.DLModel"
KEYS = ({"history": dict},)


def metadata(**own: Any) -> dict[str, Any]:
    return {
        "class": CLASS,
        "timestamp": 1795654993436,
        "sparkVersion": "4.0.5",
        "uid": "DLModel_f19c",
        "paramMap": {"thresholds": [0.3, 1e-07]},
        "defaultParamMap": {"predictBatchSize": 256},
        "spark_dlobd": {
            "format": 1,
            "has_model": True,
            "custom_objects": [],
            "compile_config": {"loss": "mse"},
            "history": {"loss": [2.5, float("nan")]},
            **own,
        },
    }


def sealed(data: dict[str, Any]) -> str:
    section = {**data["spark_dlobd"], "digest": seal(data)}
    return json.dumps({**data, "spark_dlobd": section}, separators=(",", ":"))


def read(text: str) -> dict[str, Any]:
    return parse(text, "/stage", CLASS, KEYS)


def test_every_flipped_bit_is_found_or_changes_nothing() -> None:
    whole = sealed(metadata())
    expected = json.dumps(read(whole))
    harmless = []
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole.encode())
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            # Spark reads the first line, and what is no UTF-8 as a sign for that.
            found = read(flipped.decode(errors="replace").splitlines()[0])
        except PersistenceError:
            continue
        assert json.dumps(found) == expected
        harmless.append(whole[bit // 8])
    assert harmless == ["e"], "1e-07 is 1E-07"


def test_stages_of_the_first_versions_have_no_digest() -> None:
    assert read(json.dumps(metadata()))["uid"] == "DLModel_f19c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"/stage/metadata is no JSON: .*Save the stage again"),
        ("\x00\x01garbage", r"/stage/metadata is no JSON"),
        ("[" * 100_000, r"/stage/metadata is no JSON: maximum recursion"),
        ("[1]", r"/stage/metadata is no JSON object"),
        ("{}", r"format 1 of this library. Got format None and class None"),
        (json.dumps(metadata(format=2)), r"Got format 2 and class '.*DLModel'"),
        (json.dumps(metadata(format=True)), r"Got format True"),
        (json.dumps({**metadata(), "spark_dlobd": "x"}), r"Got format None"),
        (json.dumps({**metadata(), "class": None}), r"of class None, .*Load it with its class"),
        (json.dumps({**metadata(), "uid": 3}), r"/metadata: 'uid' must be a str\. Got 3\."),
        (json.dumps({**metadata(), "paramMap": []}), r"'paramMap' must be a dict\. Got \[\]\."),
        (json.dumps(metadata(history=[1])), r"'history' must be a dict\. Got \[1\]"),
        (json.dumps(metadata(has_model=1)), r"'has_model' must be a bool\. Got 1\."),
        (json.dumps(metadata(colour=1)), r"spark_dlobd has .*Missing: \[\], unknown: \['colour'\]"),
    ],
)
def test_garbage(text: str, message: str) -> None:
    with pytest.raises(PersistenceError, match=message):
        read(text)


@pytest.mark.parametrize("key", ["class", "uid", "sparkVersion", "paramMap", "defaultParamMap"])
def test_a_key_of_spark_that_is_missing(key: str) -> None:
    data = metadata()
    del data[key]
    with pytest.raises(PersistenceError, match=rf"Missing: \['{key}'\]|of class None"):
        read(json.dumps(data))


@pytest.mark.parametrize("key", ["has_model", "custom_objects", "compile_config", "history"])
def test_a_key_of_ours_that_is_missing(key: str) -> None:
    data = metadata()
    del data["spark_dlobd"][key]
    with pytest.raises(PersistenceError, match=rf"spark_dlobd has .*Missing: \['{key}'\]"):
        read(json.dumps(data))


def test_another_value_does_not_match_the_digest() -> None:
    changed = sealed(metadata()).replace("256", "257")
    with pytest.raises(PersistenceError, match=r"/stage/metadata is not as it was saved"):
        read(changed)


def test_both_classes_are_in_the_error() -> None:
    with pytest.raises(
        PersistenceError,
        match=r"class '.*\.DLModel', .* as 'x\.DLEstimator'\. Load it with DLModel\.load\(path\)",
    ):
        parse(sealed(metadata()), "/stage", "x.DLEstimator", {})
