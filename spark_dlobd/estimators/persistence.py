"""Saving and loading: Spark's Params JSON plus one ``model.keras`` file.

The file goes through Hadoop's FileSystem of the session, so any URL that Spark
can write works.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pyspark
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter

from spark_dlobd.errors import ModelError, PersistenceError
from spark_dlobd.estimators.network import FittedNetwork, FittedOutput
from spark_dlobd.estimators.stage_files import (
    METADATA,
    MODEL_FILE,
    already_there,
    check_free,
    java_message,
    metadata_text,
    read_bytes,
    undone_on_failure,
    write_bytes,
)
from spark_dlobd.estimators.stage_metadata import FORMAT, SECTION, parse, seal
from spark_dlobd.estimators.stage_tables import (
    read_file,
    read_line,
    read_table,
    write_line,
    write_table,
)
from spark_dlobd.job.columns import Piece, TensorColumn, numpy_dtype
from spark_dlobd.job.network import Network, OutputSpec, ProblemType
from spark_dlobd.processes.tensorflow_import import import_keras
from spark_dlobd.spark import is_connect, spark_context
from spark_dlobd.training.archive import check_archive
from spark_dlobd.training.custom_objects import CustomObjects
from spark_dlobd.training.optimizer_state import check_optimizer_state

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_OPTIMIZER_FILE = "optimizer.npz"
_HASHES = {"model_sha256": MODEL_FILE, "optimizer_sha256": _OPTIMIZER_FILE}


class _ArchiveWriter(MLWriter):
    """The network as a file, and after it Params and extra metadata as JSON."""

    def __init__(self, instance: Any) -> None:
        super().__init__()
        self.instance = instance

    def save(self, path: str) -> None:
        """Write the stage; after a failure nothing of it is left.

        Raises
        ------
        PersistenceError
            If `path` holds a stage and is not to be overwritten, or cannot be written.
        """
        # What cannot be saved must not cost the stage that would be overwritten.
        self._content()
        try:
            super().save(path)
        except (Py4JError, PySparkException) as error:
            raise PersistenceError(f"Cannot save to {path}: {java_message(error)}") from error

    def saveImpl(self, path: str) -> None:
        network, extra = self._content()
        extra["compile_config"] = {} if network is None else dict(network.compile_config)
        spark = self.sparkSession
        files = {
            MODEL_FILE: b"" if network is None else network.archive,
            _OPTIMIZER_FILE: b"" if network is None else network.optimizer_state,
        }
        if is_connect(spark):
            self._write_tables(spark, path.rstrip("/"), files, extra)
            return
        sealed = self._sealed(files, extra)
        check_free(spark, path)
        with undone_on_failure(spark, path) as written:
            for name, content in files.items():
                if content:
                    write_bytes(spark, f"{path.rstrip('/')}/{name}", content)
                    written.append(name)
            # Last, because a stage without metadata is none.
            written.append(METADATA)
            DefaultParamsWriter.saveMetadata(
                self.instance, path, _for_metadata(spark), extraMetadata=sealed
            )

    def _handleOverwrite(self, path: str) -> None:
        # with Spark Connect there is no JVM to ask: each folder of the stage is overwritten
        if not is_connect(self.sparkSession):
            super()._handleOverwrite(path)

    def _write_tables(
        self, spark: SparkSession, path: str, files: Mapping[str, bytes], extra: dict[str, Any]
    ) -> None:
        """Write the stage through DataFrames; without metadata, the last of it, it is none."""
        overwrite = self.shouldOverwrite
        folder = f"{path}/{METADATA}"
        if not overwrite and read_line(spark, folder) is not None:
            raise already_there(path, METADATA)
        sealed = self._sealed(files, {**extra, "tables": True})
        for name, content in files.items():
            if content:
                write_table(spark, f"{path}/{name}.parquet", content, overwrite)
        text = DefaultParamsWriter._get_metadata_to_save(self.instance, spark, sealed)
        write_line(spark, folder, text, overwrite)

    def _sealed(self, files: Mapping[str, bytes], extra: dict[str, Any]) -> dict[str, Any]:
        """Metadata beside Spark's own, with the hashes of the files and of all metadata."""
        own = {"format": FORMAT, "has_model": bool(files[MODEL_FILE]), **extra}
        for key, name in _HASHES.items():
            if files[name]:
                own[key] = hashlib.sha256(files[name]).hexdigest()
        sealed = {"timestamp": round(time.time() * 1000), SECTION: own}
        where = _for_metadata(self.sparkSession)
        text = DefaultParamsWriter._get_metadata_to_save(self.instance, where, sealed)
        return {**sealed, SECTION: {**own, "digest": seal(json.loads(text))}}

    def _content(self) -> tuple[Network | None, dict[str, Any]]:
        """What is saved, and what the metadata says beside what every stage has."""
        raise NotImplementedError


class _ArchiveReader(MLReader[Any]):
    _KEYS: ClassVar[Sequence[Mapping[str, type]]] = ({},)
    """What is in the metadata beside what every stage has: one of these."""

    def __init__(self, cls: type[Any]) -> None:
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> Any:
        """Read a stage.

        Raises
        ------
        PersistenceError
            If there is none, it is one of another class, a file is missing or damaged, or a
            custom object is not registered.
        """
        spark = self.sparkSession
        try:
            return self._load(spark, path.rstrip("/"))
        except PersistenceError:
            raise
        except Exception as error:
            # What is damaged fails in as many ways as there are parts of Spark and Python.
            raise PersistenceError(
                f"{path} does not hold a {self.cls.__name__} that can be read: "
                f"{type(error).__name__}: {java_message(error)}"
            ) from error

    def _load(self, spark: SparkSession, path: str) -> Any:
        name = f"{self.cls.__module__}.{self.cls.__name__}"
        metadata = parse(_metadata_of(spark, path), path, name, self._KEYS)
        extra = metadata[SECTION]
        instance = self.cls()
        _check_params(instance, metadata, path)
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
        objects = _registered_objects(extra["custom_objects"], path)
        network = self._network(spark, path, extra, objects) if extra["has_model"] else None
        self._restore(instance, network, extra)
        return instance

    def _network(
        self, spark: SparkSession, path: str, extra: dict[str, Any], objects: CustomObjects
    ) -> Network:
        tables = bool(extra.get("tables"))
        archive = _content_of(spark, f"{path}/{MODEL_FILE}", tables)
        _check_model_file(archive, extra.get("model_sha256"), path)
        state = b""
        if "optimizer_sha256" in extra:
            where = f"{path}/{_OPTIMIZER_FILE}"
            state = _content_of(spark, where, tables)
            _check_hash(state, extra["optimizer_sha256"], where)
            check_optimizer_state(state, where)
        return Network(archive, extra["compile_config"], objects, state)

    def _restore(self, instance: Any, network: Network | None, extra: dict[str, Any]) -> None:
        raise NotImplementedError


class DLModelWriter(_ArchiveWriter):
    """Writes a `DLModel`."""

    def _content(self) -> tuple[Network | None, dict[str, Any]]:
        fitted: FittedNetwork = self.instance.fitted()
        return fitted.network, {
            "custom_objects": sorted(fitted.network.custom_objects),
            **_description(fitted),
            "history": self.instance.history,
            "report": self.instance.report,
        }


class DLModelReader(_ArchiveReader):
    """Reads a `DLModel`."""

    _KEYS: ClassVar[Sequence[Mapping[str, type]]] = (
        {"features": dict, "output": dict, "label_metadata": dict, "history": dict, "report": dict},
        {"inputs": list, "outputs": list, "history": dict, "report": dict},
    )

    def _restore(self, instance: Any, network: Network | None, extra: dict[str, Any]) -> None:
        if network is None:
            raise ValueError("a model has a network, and this one says it has none")
        instance._fitted = _fitted(network, extra)
        instance._history = extra["history"]
        instance._report = extra["report"]


class DLEstimatorWriter(_ArchiveWriter):
    """Writes an estimator."""

    def _content(self) -> tuple[Network | None, dict[str, Any]]:
        from spark_dlobd.training.custom_objects import referenced_objects

        network: Network | None = self.instance._network
        given = [self.instance._value(name) for name in ("loss", "optimizer", "metrics")]
        own = () if network is None else network.custom_objects
        return network, {"custom_objects": sorted({*own, *referenced_objects(given)})}


class DLEstimatorReader(_ArchiveReader):
    """Reads an estimator."""

    def _restore(self, instance: Any, network: Network | None, extra: dict[str, Any]) -> None:
        instance._network = network


def _registered_objects(names: Iterable[str], path: str) -> CustomObjects:
    names = list(names)
    if not names:
        return CustomObjects()
    keras = import_keras()
    registry = keras.saving.get_custom_objects()
    missing = [name for name in names if name not in registry]
    if missing:
        raise PersistenceError(
            f"{path} needs custom objects that are not registered with Keras: "
            f"{', '.join(map(repr, missing))}. Code is never stored with a model: import the "
            "module whose @keras.saving.register_keras_serializable() registers them, then load."
        )
    return CustomObjects((name, registry[name]) for name in names)


def _input_dtype(network: Network) -> str:
    from spark_dlobd.training import keras_codec
    from spark_dlobd.training.signature import inputs_of

    import_keras()
    model = keras_codec.archive_to_model(network.archive, network.custom_objects)
    return inputs_of(model).tensors[0].dtype


def _description(fitted: FittedNetwork) -> dict[str, Any]:
    """What the metadata say of a network: for one input and output as older versions read it."""
    inputs = [_plain(asdict(column), _LATER_OF_INPUTS) for column in fitted.inputs]
    specs = [_plain(asdict(output.spec), _LATER_OF_OUTPUTS) for output in fitted.outputs]
    metadata = [output.label_metadata for output in fitted.outputs]
    if len(inputs) == len(specs) == 1:
        return {"features": inputs[0], "output": specs[0], "label_metadata": metadata[0]}
    outputs = [
        {"spec": spec, "label_metadata": one} for spec, one in zip(specs, metadata, strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs}


def _plain(data: dict[str, Any], newer: Iterable[str]) -> dict[str, Any]:
    """Without what older versions do not know and what says nothing."""
    later = {key for key in newer if not data.get(key)}
    if data.get("stored") == "tensor":
        later.add("stored")
    return {key: value for key, value in data.items() if key not in later}


_LATER_OF_INPUTS = ("part", "beside", "flags", "padding")
_LATER_OF_OUTPUTS = ("name", "shape")


def _fitted(network: Network, extra: dict[str, Any]) -> FittedNetwork:
    if "features" not in extra:
        outputs = (
            FittedOutput(_output(one["spec"]), one["label_metadata"]) for one in extra["outputs"]
        )
        return FittedNetwork(network, tuple(map(_features, extra["inputs"])), tuple(outputs))
    features = _features(extra["features"])
    if "takes" not in extra["features"]:
        # Older versions wrote how the rows had been stored, not what the network takes.
        features = replace(features, dtype=_input_dtype(network))
    output = FittedOutput(_output(extra["output"]), extra["label_metadata"])
    return FittedNetwork(network, (features,), (output,))


def _features(data: dict[str, Any]) -> TensorColumn:
    beside = tuple(Piece(*piece) for piece in data.get("beside", ()))
    column = TensorColumn(**{**data, "shape": tuple(data["shape"]), "beside": beside})
    numpy_dtype(column.dtype)
    if any(type(extent) is not int or extent < 0 for extent in column.shape):
        raise ValueError(f"shape must be a list of whole numbers. Got {data['shape']!r}.")
    return column


def _output(data: dict[str, Any]) -> OutputSpec:
    output = OutputSpec(**{**data, "shape": tuple(data.get("shape", ()))})
    kinds = (type(output.units), type(output.from_logits))
    if output.problem not in get_args(ProblemType) or kinds != (int, bool) or output.units < 1:
        raise ValueError(f"no network has such an output: {data!r}.")
    return output


def _check_params(instance: Any, metadata: dict[str, Any], path: str) -> None:
    for section in ("paramMap", "defaultParamMap"):
        unknown = [name for name in metadata[section] if not instance.hasParam(name)]
        if unknown:
            raise PersistenceError(
                f"{path}/metadata: {section} holds Params that {type(instance).__name__} does not "
                f"have: {', '.join(map(repr, unknown))}. A newer version of this library may know "
                "them."
            )


def _check_model_file(archive: bytes, saved: str | None, path: str) -> None:
    try:
        check_archive(archive)
    except ModelError as error:
        raise PersistenceError(
            f"{path}/{MODEL_FILE} is damaged, or no file of Keras. {error}"
        ) from error
    if saved is not None:
        _check_hash(archive, saved, f"{path}/{MODEL_FILE}")


def _check_hash(content: bytes, saved: str, path: str) -> None:
    if hashlib.sha256(content).hexdigest() != saved:
        raise PersistenceError(
            f"{path} is not the file that was saved: its SHA-256 is not the one in the metadata. "
            "Save the stage again."
        )


def _metadata_of(spark: SparkSession, path: str) -> str:
    if not is_connect(spark):
        return metadata_text(spark, path)
    line = read_line(spark, f"{path}/{METADATA}")
    if line is None:
        raise PersistenceError(
            f"{path}/{METADATA} does not exist. Was the stage saved completely, and by this "
            "library?"
        )
    return line


def _content_of(spark: SparkSession, path: str, tables: bool) -> bytes:
    """A file of a stage, however it was written."""
    if tables:
        return read_table(spark, f"{path}.parquet")
    return read_file(spark, path) if is_connect(spark) else read_bytes(spark, path)


def _for_metadata(spark: SparkSession) -> Any:
    """What PySpark's writer of metadata takes: a session, before Spark 4 its context."""
    return spark_context(spark) if pyspark.__version__.startswith("3.") else spark
