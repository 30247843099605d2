"""Whether Spark protects its traffic, which decides what `auto` may open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd.spark import protection


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, None),
        ({"spark.authenticate": "false"}, None),
        ({"spark.authenticate": "true"}, "spark.authenticate"),
        ({"spark.network.crypto.enabled": "TRUE"}, "spark.network.crypto.enabled"),
        ({"spark.ssl.rpc.enabled": "true"}, "spark.ssl.rpc.enabled"),
    ],
)
def test_the_setting_is_named(settings: dict[str, str], found: str | None) -> None:
    session: Any = SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: settings))
    assert protection(session) == found
