"""The fitted stage: a trained Keras model that scores DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pyspark import keyword_only
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param import Params
from pyspark.ml.param.shared import HasLabelCol
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import functions as F

from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.estimators.features import feature_expression
from spark_dlobd.estimators.outputs import check_thresholds, num_classes
from spark_dlobd.estimators.params import PredictionParams
from spark_dlobd.estimators.scoring import PayloadCache, ScoringPlan, output_expression, scoring_udf
from spark_dlobd.spark import slots, spark_context
from spark_dlobd.training.custom_objects import CustomObjects
from spark_dlobd.training.job import ColumnSpec, ModelSpec, OutputSpec, TensorColumn, TrainResult

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructType

    from spark_dlobd.estimators.persistence import DLModelReader, DLModelWriter

_OUTPUTS = {
    "predictionCol": "prediction",
    "probabilityCol": "probability",
    "rawPredictionCol": "rawPrediction",
}


class DLModel(
    Model,
    PredictionParams,
    HasLabelCol,
    MLReadable["DLModel"],
    MLWritable,  # type: ignore[misc]
):
    """A Keras model as a Spark ML transformer.

    `DLEstimator.fit` returns it; `setModel` makes one from a Keras model that was
    trained elsewhere.

    Parameters
    ----------
    featuresCol : str, default "features"
        An array of numbers, a dense or sparse Vector, a number, or binary of one
        uint8 an element.
    labelCol : str, default "label"
        Not read when scoring.
    predictionCol, probabilityCol, rawPredictionCol : str
        Output columns; an empty string leaves one out. A regression has only a
        prediction: a double, or an array of doubles with several output units.
    thresholds : list of float, optional
        One per class; the class with the largest probability / threshold wins.
    handleInvalid : {"error", "skip"}, default "error"
        What happens to rows with nulls, NaN or another number of elements.
    predictBatchSize : int, default 256
        Rows per call of the network.

    Examples
    --------
    >>> model = DLModel(featuresCol="pixels").setModel(keras_model)  # doctest: +SKIP
    >>> model.transform(df).select("prediction", "probability")  # doctest: +SKIP
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str | None = None,
        labelCol: str | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        rawPredictionCol: str | None = None,
        thresholds: list[float] | None = None,
        handleInvalid: str | None = None,
        predictBatchSize: int | None = None,
    ) -> None:
        super().__init__()
        self._archive: bytes | None = None
        self._custom_objects = CustomObjects()
        self._compile_config: dict[str, Any] = {}
        self._features: TensorColumn | None = None
        self._output: OutputSpec | None = None
        self._label_metadata: dict[str, Any] = {}
        self._history: dict[str, list[float]] = {}
        self._report: dict[str, Any] = {}
        self._payload = PayloadCache()
        self._set_given(self._input_kwargs)

    @classmethod
    def from_training(
        cls,
        spec: ModelSpec,
        result: TrainResult,
        columns: ColumnSpec,
        label_metadata: dict[str, Any] | None = None,
        params_from: Params | None = None,
    ) -> DLModel:
        """Model of a finished training.

        Parameters
        ----------
        spec : ModelSpec
            What was trained.
        result : TrainResult
            The trained weights, the history and the report.
        columns : ColumnSpec
            What it was trained on.
        label_metadata : dict, optional
            Metadata of the label column; the prediction column carries it.
        params_from : Params, optional
            The estimator, whose shared Params are copied.
        """
        model = cls()
        model._archive = result.archive
        model._custom_objects = CustomObjects(spec.custom_objects)
        model._compile_config = dict(spec.compile_config)
        model._features = columns.features
        model._output = spec.output
        model._label_metadata = dict(label_metadata or {})
        model._history = result.history
        model._report = result.report
        if params_from is not None:
            params_from._copyValues(model)
        return model

    @property
    def history(self) -> dict[str, list[float]]:
        """Per-epoch metrics of the training, by name."""
        return self._history

    @property
    def report(self) -> dict[str, Any]:
        """Facts about the training, JSON-able; empty for a model that was not trained here.

        Returns
        -------
        dict
            A `spark_dlobd.report.schema.FitReport`, which documents every key: seconds by
            phase and epoch, metrics over time, seconds to accuracies and to the target,
            bytes sent, shares of the time, utilization by rank, what limits the fit, and
            how it came about (versions, seed, shard plan, backend and transport).
        """
        return self._report

    @property
    def numClasses(self) -> int | None:
        """Number of classes; None for a regression."""
        return num_classes(self._fitted()[2])

    def getKerasModel(self) -> Any:
        """Return a fresh `keras.Model`, compiled as it was trained."""
        archive, _, _ = self._fitted()
        from spark_dlobd.training import keras_codec

        model = keras_codec.archive_to_model(archive, self._custom_objects)
        if self._compile_config:
            keras_codec.compile_model(model, self._compile_config, self._custom_objects)
        return model

    def setModel(
        self,
        model: Any,
        problemType: Literal["auto", "classification", "regression"] = "auto",
    ) -> DLModel:
        """Replace the network.

        Parameters
        ----------
        model : keras.Model
            Of the same input and output shape as the one it replaces, if there is one.
        problemType : {"auto", "classification", "regression"}
            What the output means; ``"auto"`` keeps what is known, or reads it off the
            loss the model is compiled with.

        Raises
        ------
        ModelError
            If the shapes differ or the model cannot be rebuilt.
        """
        from spark_dlobd.training import keras_codec

        archive = keras_codec.model_to_archive(model)
        config = keras_codec.compile_config(model) if model.compiled else self._compile_config
        shape = keras_codec.input_shape(model)
        keep = self._output is not None and problemType == "auto"
        found = keras_codec.output_spec(model, config, "regression" if keep else problemType)
        if self._features is not None and self._output is not None:
            _check_shapes(shape, self._features.shape, found.units, self._output.units)
        if self._features is None:
            name = self.getFeaturesCol()
            self._features = TensorColumn(name, keras_codec.input_dtype(model), shape)
        if not keep:
            self._output = found
        self._custom_objects = keras_codec.custom_objects_of(model, config)
        self._archive, self._compile_config, self._payload = archive, config, PayloadCache()
        return self

    def transformSchema(self, schema: StructType) -> StructType:
        """Check the input columns and return the output schema, without a Spark job."""
        from pyspark.ml.linalg import VectorUDT
        from pyspark.sql import types as T

        _, features, output = self._fitted()
        self._check(schema, features, output)
        result = T.StructType(list(schema.fields))
        several = output.problem == "regression" and output.units > 1
        for name, column in self._outputs(output).items():
            kind: T.DataType = VectorUDT()
            if name == "prediction":
                kind = T.ArrayType(T.DoubleType()) if several else T.DoubleType()
            result = result.add(T.StructField(column, kind, True))
        return result

    def _transform(self, dataset: DataFrame) -> DataFrame:
        archive, features, output = self._fitted()
        self._check(dataset.schema, features, output)
        columns = self._outputs(output)
        if not columns:
            return dataset
        context = spark_context(dataset.sparkSession)
        broadcast, digest = self._payload.get(context, archive, self._custom_objects)
        plan = ScoringPlan(
            digest=digest,
            features=TensorColumn(self.getFeaturesCol(), features.dtype, features.shape),
            output=output,
            fields=tuple(columns),
            batch_size=self.getPredictBatchSize(),
            threads=slots(dataset.sparkSession).cores_per_task,
            thresholds=tuple(self.getThresholds()) if self.isDefined("thresholds") else None,
            handle_invalid="skip" if self.getHandleInvalid() == "skip" else "error",
        )
        rows = feature_expression(dataset.schema, self.getFeaturesCol(), features)
        scored = f"{self.uid}_scored"
        result = dataset.withColumn(scored, scoring_udf(plan, broadcast)(rows))
        if plan.handle_invalid == "skip":
            result = result.filter(F.col(f"{scored}.valid"))
        outputs = [
            self._output_column(field, output_expression(plan, scored, field), column, output)
            for field, column in columns.items()
        ]
        return result.select("*", *outputs).drop(scored)

    def _output_column(self, field: str, value: Column, column: str, output: OutputSpec) -> Column:
        if field == "prediction":
            return value.alias(column, metadata=_as_ml_attr(self._label_metadata))
        classes = {"ml_attr": {"num_attrs": num_classes(output)}}
        return array_to_vector(value).alias(column, metadata=classes)

    def _outputs(self, output: OutputSpec) -> dict[str, str]:
        """Field of the network's outputs -> name of the column it goes to."""
        names = ("predictionCol",) if output.problem == "regression" else tuple(_OUTPUTS)
        columns = {_OUTPUTS[name]: self._value(name) for name in names}
        return {field: column for field, column in columns.items() if column}

    def _fitted(self) -> tuple[bytes, TensorColumn, OutputSpec]:
        if self._archive is None or self._features is None or self._output is None:
            raise ConfigurationError(
                "This DLModel holds no network. DLEstimator.fit(df) returns one that does; "
                "setModel(keras_model) gives it one that was trained elsewhere."
            )
        return self._archive, self._features, self._output

    def _check(self, schema: StructType, features: TensorColumn, output: OutputSpec) -> None:
        self.check_params()
        feature_expression(schema, self.getFeaturesCol(), features)
        for column in self._outputs(output).values():
            if column in schema.fieldNames():
                raise ConfigurationError(
                    f"Output column {column!r} already exists in the DataFrame. Drop it, or give "
                    "the model another name for its output, e.g. predictionCol='prediction2'."
                )
        check_thresholds(self._value("thresholds"), output)

    def __repr__(self) -> str:
        if self._features is None or self._output is None:
            return f"DLModel(uid={self.uid!r}, no network)"
        return (
            f"DLModel(uid={self.uid!r}, problem={self._output.problem!r}, "
            f"input={self._features.shape}, units={self._output.units})"
        )

    def write(self) -> DLModelWriter:
        """Return the writer that `save` uses."""
        from spark_dlobd.estimators.persistence import DLModelWriter

        return DLModelWriter(self)

    @classmethod
    def read(cls) -> DLModelReader:  # type: ignore[override]
        """Return the reader that `load` uses."""
        from spark_dlobd.estimators.persistence import DLModelReader

        return DLModelReader(cls)


def _check_shapes(
    shape: tuple[int, ...], expected: tuple[int, ...], units: int, expected_units: int
) -> None:
    if shape != expected or units != expected_units:
        raise ModelError(
            f"The new model must take rows of shape {expected} and have {expected_units} output "
            f"unit(s), as the one it replaces. Got {shape} and {units}."
        )


def _as_ml_attr(metadata: dict[str, Any]) -> dict[str, Any]:
    if not metadata or "ml_attr" in metadata:
        return metadata
    return {"ml_attr": metadata}
