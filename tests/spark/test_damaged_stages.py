"""Stages that are damaged, malicious or of another class, and disks that fill meanwhile."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.ml import PipelineModel
from pyspark.ml.util import DefaultParamsWriter
from pyspark.sql import SparkSession

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError, PersistenceError
from spark_dlobd.estimators import stage_files
from tests.small_disk import small_disk
from tests.spark.tiny import estimator, linear

keras = pytest.importorskip("keras")
FLIPS = 8


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> DLModel:
    network = linear()
    network.compile("sgd", "mse")
    network.set_weights([np.array([[1.0], [10.0]], "float32")])
    model = DLModel(predictBatchSize=7).setModel(network)
    model._history = {"loss": [2.0, 1.5]}
    return model


@pytest.fixture(scope="module")
def saved(model: DLModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "model"
    model.save(str(path))
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy without Hadoop's checksums, as other file systems have none."""
    return shutil.copytree(saved, tmp_path / "copy", ignore=shutil.ignore_patterns(".*.crc"))


def content(model: DLModel) -> tuple[Any, ...]:
    params = {param.name: value for param, value in model.extractParamMap().items()}
    return model.uid, params, model.fitted(), model.history


def metadata_file(stage: Path) -> Path:
    return next((stage / "metadata").glob("part-*"))


def edit(stage: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the metadata as a program would that knows nothing of the digest."""
    file = metadata_file(stage)
    data = json.loads(file.read_text())
    data["spark_dlobd"].pop("digest", None)
    data["spark_dlobd"].pop("model_sha256", None)
    change(data)
    file.write_text(json.dumps(data))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_flipped_bit_in_any_file(model: DLModel, saved: Path, tmp_path: Path) -> None:
    """It is found, with Hadoop's checksums and without, or it changes nothing."""
    found = 0
    for file in (path for path in sorted(saved.rglob("*")) if path.is_file()):
        bits = 8 * file.stat().st_size
        for bit in range(0, bits, max(1, bits // FLIPS) | 1):
            copy = shutil.copytree(saved, tmp_path / "copy")
            flipped = bytearray(file.read_bytes())
            flipped[bit // 8] ^= 1 << bit % 8
            damaged = copy / file.relative_to(saved)
            damaged.write_bytes(flipped)
            if bit % 2:
                damaged.with_name(f".{file.name}.crc").unlink(missing_ok=True)
            try:
                assert content(DLModel.load(str(copy))) == content(model)
            except PersistenceError:
                found += 1
            shutil.rmtree(copy)
    assert found > 2 * FLIPS


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff\n" * 7])
def test_garbage_in_any_file(copied: Path, garbage: bytes) -> None:
    for file in (metadata_file(copied), copied / "model.keras"):
        whole = file.read_bytes()
        file.write_bytes(garbage)
        with pytest.raises(PersistenceError, match=r"metadata is (empty|no JSON)|is damaged"):
            DLModel.load(str(copied))
        file.write_bytes(whole)
    DLModel.load(str(copied))


@pytest.mark.parametrize("part", ["metadata", "metadata/part", "model.keras", ""])
def test_a_part_that_is_gone(copied: Path, part: str) -> None:
    if part == "metadata/part":
        metadata_file(copied).unlink()
    elif part == "model.keras":
        (copied / part).unlink()
    else:
        shutil.rmtree(copied / part)
    with pytest.raises(PersistenceError, match=r"does not exist|metadata"):
        DLModel.load(str(copied))


def test_the_class_is_checked(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PersistenceError, match=r"class '.*\.DLModel'.* as '.*DLEstimator'.*DLModel\.load\(path\)"
    ):
        DLEstimator.load(str(copied))
    estimator(linear()).save(str(tmp_path / "estimator"))
    with pytest.raises(PersistenceError, match=r"class '.*\.DLEstimator'.* as '.*\.DLModel'"):
        DLModel.load(str(tmp_path / "estimator"))


def test_a_stage_saved_before_there_was_a_digest(
    model: DLModel, copied: Path, tmp_path: Path
) -> None:
    edit(copied, lambda data: None)
    assert "sha256" not in metadata_file(copied).read_text()
    assert content(DLModel.load(str(copied))) == content(model)
    (copied / "model.keras").write_bytes(b"garbage")
    with pytest.raises(PersistenceError, match=r"model\.keras is damaged"):
        DLModel.load(str(copied))
    est = estimator(linear(), epochs=4)
    est.save(str(tmp_path / "estimator"))
    edit(tmp_path / "estimator", lambda data: None)
    (
        tmp_path / "estimator" / "metadata" / f".{metadata_file(tmp_path / 'estimator').name}.crc"
    ).unlink()
    assert DLEstimator.load(str(tmp_path / "estimator")).getEpochs() == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["paramMap"].update(colour=1), "paramMap holds Params .*'colour'"),
        (lambda data: data["defaultParamMap"].update(colour=1), "defaultParamMap .*'colour'"),
        (
            lambda data: data["paramMap"].update(predictBatchSize=0),
            r"a DLModel that can be read: ConfigurationError: predictBatchSize must be .*Got 0\.",
        ),
        (lambda data: data["defaultParamMap"].update(predictBatchSize="x"), "predictBatchSize"),
        (lambda data: data.update(sparkVersion="x"), "can be read: ValueError: .*version"),
        (lambda data: data["spark_dlobd"].update(has_model=False), "this one says it has none"),
        (lambda data: data["spark_dlobd"].update(custom_objects=[3]), r"not registered.*: 3\."),
        (lambda data: data["spark_dlobd"]["features"].pop("dtype"), "TypeError: .*'dtype'"),
        (lambda data: data["spark_dlobd"]["features"].update(dtype="f99"), "TypeError: .*f99"),
        (lambda data: data["spark_dlobd"]["features"].update(colour=1), "TypeError: .*'colour'"),
        (lambda data: data["spark_dlobd"]["features"].update(shape=["2"]), "shape must be a list"),
        (lambda data: data["spark_dlobd"]["output"].update(problem="x"), "such an output: .*'x'"),
        (lambda data: data["spark_dlobd"]["output"].update(units=0), "such an output: .*0"),
    ],
)
def test_wrong_values(copied: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit(copied, change)
    with pytest.raises(PersistenceError, match=message):
        DLModel.load(str(copied))


def test_the_file_of_another_model(copied: Path, tmp_path: Path) -> None:
    DLModel().setModel(_compiled(3)).save(str(tmp_path / "other"))
    shutil.copy(tmp_path / "other" / "model.keras", copied / "model.keras")
    with pytest.raises(PersistenceError, match=r"model\.keras is not the file that was saved"):
        DLModel.load(str(copied))


def _compiled(units: int) -> Any:
    network = linear(units)
    network.compile("sgd", "mse")
    return network


def test_a_zip_bomb_is_refused_at_once(copied: Path) -> None:
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(copied / "model.keras") as whole,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    ):
        for name in whole.namelist():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(whole.read(name))
                for _ in range(80 if name.endswith("h5") else 0):
                    member.write(bytes(1 << 20))
    (copied / "model.keras").write_bytes(bomb.getvalue())
    before = time.monotonic()
    with pytest.raises(PersistenceError, match=r"members declare 83,\d+,\d+ bytes.*67,108,864"):
        DLModel.load(str(copied))
    assert time.monotonic() - before < 20


class FullDisk:
    """A file system whose files take one chunk."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create(self, *where: Any) -> Any:
        stream = self._real.create(*where)

        class Stream:
            def write(self, data: bytearray) -> None:
                stream.write(data)
                raise Py4JError("java.io.IOException: No space left on device")

            def close(self) -> None:
                stream.close()

        return Stream()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    opened = stage_files._open_file_system

    def open_full(*where: Any) -> tuple[Any, Any]:
        system, path = opened(*where)
        return FullDisk(system), path

    monkeypatch.setattr(stage_files, "_open_file_system", open_full)
    monkeypatch.setattr(stage_files, "_CHUNK_BYTES", 1000)
    return monkeypatch


def test_a_disk_that_fills_with_the_network(
    model: DLModel, tmp_path: Path, full_disk: pytest.MonkeyPatch
) -> None:
    path = f"file://{tmp_path}/new/folder/model"
    with pytest.raises(PersistenceError, match=r"Cannot write .*model\.keras: .*No space left"):
        model.save(path)
    assert files_below(tmp_path) == []
    full_disk.undo()
    model.save(path)
    assert content(DLModel.load(path)) == content(model)


def test_what_did_not_fit_gives_its_room_back(spark: SparkSession, tmp_path: Path) -> None:
    def network(width: int) -> DLModel:
        layers = [keras.Input((width,)), keras.layers.Dense(width)]
        return DLModel().setModel(keras.Sequential(layers))

    with small_disk(tmp_path / "disk", "200k") as disk:
        with pytest.raises(PersistenceError, match="No space left on device"):
            network(300).save(f"file://{disk}/large")
        network(3).save(f"file://{disk}/small")
        assert [path.name for path in disk.iterdir()] == ["small"]


@pytest.mark.parametrize("error", [Py4JError("No space left on device"), KeyboardInterrupt()])
def test_a_disk_that_fills_with_the_metadata(
    model: DLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also Ctrl-C in that moment; what others have in the same folder stays."""
    save = DefaultParamsWriter.saveMetadata

    def save_half(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise error

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").touch()
    monkeypatch.setattr(DefaultParamsWriter, "saveMetadata", staticmethod(save_half))
    with pytest.raises(
        PersistenceError if isinstance(error, Py4JError) else KeyboardInterrupt,
        match=r"Cannot save to .*/model: No space left on device|^$",
    ):
        model.save(str(tmp_path / "model"))
    assert files_below(tmp_path) == ["model", "model/notes.txt"]
    monkeypatch.undo()
    model.save(str(tmp_path / "model"))
    assert content(DLModel.load(str(tmp_path / "model"))) == content(model)


def test_a_pipeline_on_a_full_disk_can_be_overwritten(
    model: DLModel, tmp_path: Path, full_disk: pytest.MonkeyPatch
) -> None:
    """Spark writes the pipeline's own metadata first and leaves them; no stage is left."""
    pipeline, path = PipelineModel([model]), tmp_path / "pipeline"
    with pytest.raises(PersistenceError, match=r"Cannot write .*0_DLModel.*No space left"):
        pipeline.save(str(path))
    assert os.listdir(path) == ["metadata"]
    full_disk.undo()
    pipeline.write().overwrite().save(str(path))
    assert content(PipelineModel.load(str(path)).stages[0]) == content(model)


def test_what_cannot_be_saved_costs_nothing(model: DLModel, copied: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no network"):
        DLModel().write().overwrite().save(str(copied))
    assert content(DLModel.load(str(copied))) == content(model)
    with pytest.raises(PersistenceError, match=r"already exists: it holds metadata.*overwrite\(\)"):
        model.save(str(copied))
    (copied / "metadata").rename(copied / "other")
    with pytest.raises(PersistenceError, match=r"already exists: it holds model\.keras"):
        model.save(str(copied))


def test_a_path_that_cannot_be_overwritten(model: DLModel) -> None:
    with pytest.raises(PersistenceError, match=r"Cannot save to nope://x/y: .*nope"):
        model.write().overwrite().save("nope://x/y")
