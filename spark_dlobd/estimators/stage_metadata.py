"""The JSON of a saved stage: what belongs into it, and whether it is as it was written. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from spark_dlobd.errors import PersistenceError

FORMAT = 1
SECTION = "spark_dlobd"
_SPARK_KEYS: dict[str, type] = {
    "class": str,
    "uid": str,
    "sparkVersion": str,
    "paramMap": dict,
    "defaultParamMap": dict,
}
_OWN_KEYS: dict[str, type] = {"has_model": bool, "custom_objects": list, "compile_config": dict}
# Stages saved by the first versions lack the seals, not every stage has every file, and only
# those saved with Spark Connect have tables in place of files.
_OPTIONAL: dict[str, type] = {
    "digest": str,
    "model_sha256": str,
    "optimizer_sha256": str,
    "tables": bool,
}


def seal(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of everything in the metadata but the place where it stands itself.

    Parameters
    ----------
    metadata : mapping
        JSON-able.

    Examples
    --------
    >>> seal({"uid": "a", "spark_dlobd": {}}) == seal({"spark_dlobd": {"digest": "x"}, "uid": "a"})
    True
    """
    own = {key: value for key, value in metadata[SECTION].items() if key != "digest"}
    # As the reader will see it: keys of dicts are str there.
    content = json.loads(json.dumps({**metadata, SECTION: own}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse(
    text: str, path: str, expected_class: str, keys: Sequence[Mapping[str, type]]
) -> dict[str, Any]:
    """Read the metadata of a stage and check it.

    Parameters
    ----------
    text : str
        The JSON.
    path : str
        Where the stage is, for messages.
    expected_class : str
        Full name of the class whose ``load`` was called.
    keys : sequence of mapping of str to type
        What the section of this library holds for that class beside the common keys: one of
        these.

    Returns
    -------
    dict
        All of the metadata.

    Raises
    ------
    PersistenceError
        If it is garbage, of another format or class, incomplete, or not as it was saved.
    """
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PersistenceError(f"{path}/metadata is no JSON: {error}. {_AGAIN}") from error
    if not isinstance(metadata, dict):
        raise PersistenceError(f"{path}/metadata is no JSON object. {_AGAIN}")
    own = metadata.get(SECTION)
    found = own.get("format") if isinstance(own, dict) else None
    if not isinstance(own, dict) or type(found) is not int or found != FORMAT:
        raise PersistenceError(
            f"{path} does not hold a stage in format {FORMAT} of this library. Got format "
            f"{found!r} and class {metadata.get('class')!r}."
        )
    _check_class(metadata.get("class"), path, expected_class)
    _check_keys(metadata, _SPARK_KEYS, {}, f"{path}/metadata", others=True)
    fitting = next((each for each in keys if each.keys() <= own.keys()), keys[0])
    expected = {"format": int, **_OWN_KEYS, **fitting}
    _check_keys(own, expected, _OPTIONAL, f"{path}/metadata: {SECTION}", others=False)
    if "digest" in own and own["digest"] != seal(metadata):
        raise PersistenceError(
            f"{path}/metadata is not as it was saved: its content does not match its digest. "
            f"{_AGAIN}"
        )
    return metadata


_AGAIN = "Save the stage again."


def _check_class(found: Any, path: str, expected: str) -> None:
    if found == expected:
        return
    load = f"{found.rpartition('.')[2]}.load(path)" if isinstance(found, str) else "its class"
    raise PersistenceError(
        f"{path} holds a stage of class {found!r}, which cannot be loaded as {expected!r}. "
        f"Load it with {load}."
    )


def _check_keys(
    data: Mapping[str, Any],
    required: Mapping[str, type],
    optional: Mapping[str, type],
    where: str,
    *,
    others: bool,
) -> None:
    missing = sorted(set(required) - set(data))
    unknown = [] if others else sorted(set(data) - set(required) - set(optional))
    if missing or unknown:
        raise PersistenceError(
            f"{where} has other keys than it must. Missing: {missing}, unknown: {unknown}. {_AGAIN}"
        )
    for key, kind in {**required, **optional}.items():
        if key in data and type(data[key]) is not kind:
            raise PersistenceError(
                f"{where}: {key!r} must be a {kind.__name__}. Got {data[key]!r}. {_AGAIN}"
            )
