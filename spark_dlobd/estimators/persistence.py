"""Saving and loading: Spark's Params JSON plus one ``model.keras`` file.

The file goes through Hadoop's FileSystem of the session, so any URL that Spark
can write works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter

from spark_dlobd.errors import PersistenceError
from spark_dlobd.spark import spark_context
from spark_dlobd.training.custom_objects import CustomObjects
from spark_dlobd.training.job import OutputSpec, TensorColumn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.estimators.model import DLModel

FORMAT = 1
_FILE = "model.keras"
_CHUNK_BYTES = 4 << 20


def write_bytes(spark: SparkSession, path: str, data: bytes) -> None:
    """Runs on the driver. Write a file through Hadoop's FileSystem.

    Raises
    ------
    PersistenceError
        If it cannot be written.
    """
    try:
        file_system, where = _open_file_system(spark, path)
        stream = file_system.create(where, False)
        try:
            for start in range(0, len(data), _CHUNK_BYTES):
                stream.write(bytearray(data[start : start + _CHUNK_BYTES]))
        finally:
            stream.close()
    except Py4JError as error:
        raise PersistenceError(f"Cannot write {path}: {_java_message(error)}") from error


def read_bytes(spark: SparkSession, path: str) -> bytes:
    """Runs on the driver. Read a file through Hadoop's FileSystem.

    Raises
    ------
    PersistenceError
        If it is not there or cannot be read.
    """
    try:
        file_system, where = _open_file_system(spark, path)
        if not file_system.exists(where):
            raise PersistenceError(
                f"{path} does not exist. Was the stage saved completely, and by this library?"
            )
        stream = file_system.open(where)
        try:
            return b"".join(_chunks(stream))
        finally:
            stream.close()
    except Py4JError as error:
        raise PersistenceError(f"Cannot read {path}: {_java_message(error)}") from error


class _ArchiveWriter(MLWriter):
    """Params and extra metadata as JSON, the network as a file beside them."""

    def __init__(self, instance: Any) -> None:
        super().__init__()
        self.instance = instance

    def saveImpl(self, path: str) -> None:
        archive, extra = self._content()
        spark = self.sparkSession
        metadata = {"spark_dlobd": {"format": FORMAT, "has_model": archive is not None, **extra}}
        # First, because it refuses a path that is taken.
        DefaultParamsWriter.saveMetadata(self.instance, path, spark, extraMetadata=metadata)
        if archive is not None:
            write_bytes(spark, f"{path.rstrip('/')}/{_FILE}", archive)

    def _content(self) -> tuple[bytes | None, dict[str, Any]]:
        raise NotImplementedError


class _ArchiveReader(MLReader[Any]):
    def __init__(self, cls: type[Any]) -> None:
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> Any:
        """Read a stage.

        Raises
        ------
        PersistenceError
            If a file is missing or damaged, or a custom object is not registered.
        """
        spark = self.sparkSession
        metadata = DefaultParamsReader.loadMetadata(path, spark)
        extra = metadata.get("spark_dlobd")
        if not isinstance(extra, dict) or extra.get("format") != FORMAT:
            found = extra.get("format") if isinstance(extra, dict) else None
            raise PersistenceError(
                f"{path} does not hold a stage in format {FORMAT} of this library. Got format "
                f"{found!r} and class {metadata.get('class')!r}."
            )
        instance = self.cls()
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
        archive = None
        if extra["has_model"]:
            archive = read_bytes(spark, f"{path.rstrip('/')}/{_FILE}")
            _check_archive(archive, path)
        custom_objects = _registered_objects(extra["custom_objects"], path)
        self._restore(instance, archive, custom_objects, extra)
        return instance

    def _restore(
        self, instance: Any, archive: bytes | None, objects: CustomObjects, extra: dict[str, Any]
    ) -> None:
        raise NotImplementedError


class DLModelWriter(_ArchiveWriter):
    """Writes a `DLModel`."""

    def _content(self) -> tuple[bytes | None, dict[str, Any]]:
        model: DLModel = self.instance
        archive, features, output = model._fitted()
        return archive, {
            "custom_objects": sorted(model._custom_objects),
            "compile_config": model._compile_config,
            "features": asdict(features),
            "output": asdict(output),
            "label_metadata": model._label_metadata,
            "history": model._history,
            "report": model._report,
        }


class DLModelReader(_ArchiveReader):
    """Reads a `DLModel`."""

    def _restore(
        self, instance: Any, archive: bytes | None, objects: CustomObjects, extra: dict[str, Any]
    ) -> None:
        features = extra["features"]
        instance._archive = archive
        instance._custom_objects = objects
        instance._compile_config = extra["compile_config"]
        instance._features = TensorColumn(**{**features, "shape": tuple(features["shape"])})
        instance._output = OutputSpec(**extra["output"])
        instance._label_metadata = extra["label_metadata"]
        instance._history = extra["history"]
        instance._report = extra["report"]


class DLEstimatorWriter(_ArchiveWriter):
    """Writes an estimator: ``_model_archive`` and ``_custom_objects`` beside its Params."""

    def _content(self) -> tuple[bytes | None, dict[str, Any]]:
        from spark_dlobd.training.custom_objects import referenced_objects

        given = [self.instance._value(name) for name in ("loss", "optimizer", "metrics")]
        return self.instance._model_archive, {
            "custom_objects": sorted({*self.instance._custom_objects, *referenced_objects(given)}),
            "compile_config": self.instance._compile_config,
        }


class DLEstimatorReader(_ArchiveReader):
    """Reads an estimator."""

    def _restore(
        self, instance: Any, archive: bytes | None, objects: CustomObjects, extra: dict[str, Any]
    ) -> None:
        instance._model_archive = archive
        instance._custom_objects = objects
        instance._compile_config = extra["compile_config"]


def _registered_objects(names: Iterable[str], path: str) -> CustomObjects:
    names = list(names)
    if not names:
        return CustomObjects()
    import keras

    registry = keras.saving.get_custom_objects()
    missing = [name for name in names if name not in registry]
    if missing:
        raise PersistenceError(
            f"{path} needs custom objects that are not registered with Keras: "
            f"{', '.join(map(repr, missing))}. Code is never stored with a model: import the "
            "module whose @keras.saving.register_keras_serializable() registers them, then load."
        )
    return CustomObjects((name, registry[name]) for name in names)


def _check_archive(archive: bytes, path: str) -> None:
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            damaged = file.testzip()
            complete = {"config.json", "model.weights.h5"} <= set(file.namelist())
    except zipfile.BadZipFile as error:
        raise PersistenceError(
            f"{path}/{_FILE} is damaged: {error}. Save the stage again."
        ) from error
    if damaged or not complete:
        raise PersistenceError(f"{path}/{_FILE} is damaged or incomplete. Save the stage again.")


def _open_file_system(spark: SparkSession, path: str) -> tuple[Any, Any]:
    context = spark_context(spark)
    where = context._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    return where.getFileSystem(context._jsc.hadoopConfiguration()), where


def _chunks(stream: Any) -> Iterable[bytes]:
    while chunk := bytes(stream.readNBytes(_CHUNK_BYTES)):
        yield chunk


def _java_message(error: Py4JError) -> str:
    cause = getattr(error, "java_exception", None)
    return str(cause.toString()) if cause is not None else str(error)
