"""The fitted stage: a trained Keras model that scores DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pyspark.ml.base import PredictionModel
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector
from pyspark.ml.util import HasTrainingSummary, MLReadable, MLWritable
from pyspark.sql import types as T

from spark_dlobd.errors import ConfigurationError, ModelError, NotAvailableError
from spark_dlobd.estimators.columns import check_dataset
from spark_dlobd.estimators.features import scored_column, scored_expression
from spark_dlobd.estimators.network import FittedNetwork
from spark_dlobd.estimators.one_row import DriverNetwork
from spark_dlobd.estimators.outputs import (
    OUTPUT_PARAMS,
    Array,
    check_thresholds,
    derive_outputs,
    num_classes,
    output_field,
    output_fields,
)
from spark_dlobd.estimators.params import PredictionParams, by_name
from spark_dlobd.estimators.persistence import DLModelReader, DLModelWriter
from spark_dlobd.estimators.scoring import (
    PayloadCache,
    ScoringPlan,
    output_expression,
    scoring_udf,
    valid_expression,
)
from spark_dlobd.estimators.summary import TrainingSummary
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.processes.worker_interpreter import prepare_workers
from spark_dlobd.spark import cores_per_task, is_connect

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructType
    from typing_extensions import Self


class _Parent:
    """The estimator that fitted a model: shared by copies, never pickled or saved."""

    def __init__(self, estimator: Estimator[Any] | None = None) -> None:
        self.estimator = estimator

    def __reduce__(self) -> tuple[Any, ...]:
        return _Parent, ()


class DLModel(
    PredictionModel[Any],
    PredictionParams,
    HasTrainingSummary[TrainingSummary],
    MLReadable["DLModel"],
    MLWritable,  # type: ignore[misc]
):
    """A Keras model as a Spark ML transformer.

    `DLEstimator.fit` returns it; `setModel` makes one from a Keras model that was
    trained elsewhere.

    Parameters
    ----------
    featuresCol : str, default "features"
        An array of numbers (flat, or nested as the network's input is), a dense or sparse
        Vector, a number, or binary of one uint8 an element.
    labelCol : str, default "label"
        Read by `evaluate` alone.
    weightCol : str, optional
        Weight of each row, read by `evaluate` alone.
    predictionCol, probabilityCol, rawPredictionCol : str
        Output columns; an empty string leaves one out. A regression has only a
        prediction: a double, or an array of doubles with several output units.
    thresholds : list of float, optional
        One per class; the class with the largest probability / threshold wins.
    handleInvalid : {"error", "skip"}, default "error"
        What happens to rows with nulls, another number of elements or values that have no
        place in the network's type (NaN, infinite, fractions for whole numbers), and to
        rows for which the network's output is NaN or infinite.
    predictBatchSize : int, default 256
        Rows per call of the network.

    Examples
    --------
    >>> model = DLModel(featuresCol="pixels").setModel(keras_model)  # doctest: +SKIP
    >>> model.transform(df).select("prediction", "probability")  # doctest: +SKIP
    """

    _input_kwargs: dict[str, Any]

    @by_name
    def __init__(
        self,
        *,
        featuresCol: str | None = None,
        labelCol: str | None = None,
        weightCol: str | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        rawPredictionCol: str | None = None,
        thresholds: list[float] | None = None,
        handleInvalid: str | None = None,
        predictBatchSize: int | None = None,
    ) -> None:
        super().__init__()
        self._fitted: FittedNetwork | None = None
        self._history: dict[str, list[float]] = {}
        self._report: dict[str, Any] = {}
        self._payload = PayloadCache()
        self._built = DriverNetwork()
        self._parent = _Parent()
        self._set_given(self._input_kwargs)

    @classmethod
    def from_training(
        cls,
        fitted: FittedNetwork,
        history: dict[str, list[float]] | None = None,
        report: dict[str, Any] | None = None,
        params_from: Estimator[Any] | None = None,
    ) -> DLModel:
        """Model of a finished training.

        Parameters
        ----------
        fitted : FittedNetwork
            The trained network and the columns it was trained on.
        history : dict of str to list of float, optional
            Metrics of every epoch.
        report : dict, optional
            Of the fit.
        params_from : DLEstimator, optional
            The estimator: its uid and the Params it shares become those of the model.
        """
        model = cls()
        model._fitted = fitted
        model._history, model._report = history or {}, report or {}
        if params_from is not None:
            model._resetUid(params_from.uid)
            params_from._copyValues(model)
            model._parent = _Parent(params_from)
        return model

    @property
    def parent(self) -> Estimator[Any] | None:
        """The estimator that fitted this model; None for one that was loaded or made by hand."""
        return self._parent.estimator

    @property
    def hasSummary(self) -> bool:
        """Whether this model was trained here, so that `summary` has something to show."""
        return bool(self._history)

    @property
    def summary(self) -> TrainingSummary:
        """History and report under the names of Spark's training summaries.

        Raises
        ------
        NotAvailableError
            If the model was not trained by `DLEstimator`.
        """
        if not self.hasSummary:
            raise NotAvailableError(
                "This DLModel was not trained by DLEstimator, so it has no summary. Ask hasSummary "
                "first; evaluate(df) gives its metrics on a DataFrame."
            )
        return TrainingSummary(self._history, self._report)

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
    def hasOptimizerState(self) -> bool:
        """Whether a fit with ``optimizerState="resume"`` can go on from this model."""
        return self._fitted is not None and bool(self._fitted.network.optimizer_state)

    @property
    def numClasses(self) -> int | None:
        """Number of classes; None for a regression, and where there is no network yet."""
        return None if self._fitted is None else num_classes(self._fitted.output)

    @property
    def numFeatures(self) -> int:
        """Numbers in one row of the network's input; -1 where there is no network yet."""
        return -1 if self._fitted is None else self._fitted.features.size

    def predict(self, value: Any) -> Any:
        """Predict one row, in this process. For many rows use `transform`.

        Parameters
        ----------
        value : Vector, sequence of numbers, ndarray, number or bytes
            One row, flat or in the shape of the network's input.

        Returns
        -------
        float or list of float
            What `transform` puts into the prediction column: the class, with
            `thresholds` applied, or the number; a list for a regression of several outputs.

        Raises
        ------
        ConfigurationError
            If there is no network.
        DataError
            If `value` is not a row that `transform` would take.
        ModelError
            If the network fails on it.

        Examples
        --------
        >>> model.predict(Vectors.dense(1.0, 2.0))  # doctest: +SKIP
        1.0
        """
        return self._one_row(value)["prediction"][0].tolist()

    def predictRaw(self, value: Any) -> DenseVector:
        """Raw predictions of one row, one for each class; see `predict`.

        Raises
        ------
        ConfigurationError
            If this is a regression.
        """
        return self._one_row_of_classes(value, "rawPrediction")

    def predictProbability(self, value: Any) -> DenseVector:
        """Probabilities of one row, one for each class; see `predict`.

        Raises
        ------
        ConfigurationError
            If this is a regression.
        """
        return self._one_row_of_classes(value, "probability")

    def _one_row_of_classes(self, value: Any, field: str) -> DenseVector:
        if field not in output_fields(self.fitted().output):
            raise ConfigurationError(f"A regression has no {field}. Use predict(value).")
        return DenseVector(self._one_row(value)[field][0])

    def _one_row(self, value: Any) -> dict[str, Array]:
        fitted = self.fitted()
        thresholds = self._value("thresholds")
        check_thresholds(thresholds, fitted.output)
        found = self._built(value, fitted.network, fitted.features)
        return derive_outputs(found, fitted.output, thresholds)

    def evaluate(self, dataset: DataFrame) -> dict[str, float]:
        """Metrics that the network is compiled with, over all rows of a DataFrame.

        Each task evaluates its rows with Keras and hands back the states of the metrics,
        which are merged here: the numbers are those of ``keras.Model.evaluate`` on all
        rows, whatever the partitions are. Rows that cannot be used are treated as in a
        fit, as `handleInvalid` says. Thresholds and the class weights of the training play
        no part.

        Parameters
        ----------
        dataset : pyspark.sql.DataFrame
            With the columns `featuresCol`, `labelCol` and, if it is set, `weightCol`.

        Returns
        -------
        dict of str to float
            ``"loss"`` and each metric under Keras's name. The loss is the mean over rows,
            of the loss times the weight if there is one.

        Raises
        ------
        ConfigurationError
            If the network is not compiled, or a column is missing or of another type.
        DataError
            If rows cannot be used, or there are none.

        Examples
        --------
        >>> model.evaluate(test)  # doctest: +SKIP
        {'loss': 0.21, 'accuracy': 0.94}
        """
        from spark_dlobd.estimators.evaluation import evaluate

        return evaluate(self, self.fitted(), self._payload, dataset)

    def getKerasModel(self) -> Any:
        """Return a fresh `keras.Model`, compiled as it was trained."""
        from spark_dlobd.training import keras_codec

        return keras_codec.network_to_model(self.fitted().network)

    def fitted(self) -> FittedNetwork:
        """Return the network with what is known of its rows and output.

        Raises
        ------
        ConfigurationError
            If there is none.
        """
        if self._fitted is None:
            raise ConfigurationError(
                "This DLModel holds no network. DLEstimator.fit(df) returns one that does; "
                "setModel(keras_model) gives it one that was trained elsewhere."
            )
        return self._fitted

    def setModel(
        self,
        model: Any,
        problemType: Literal["auto", "classification", "regression"] = "auto",
    ) -> Self:
        """Replace the network; history, report and parent belong to the old one and go.

        Parameters
        ----------
        model : keras.Model
            Of the same input and output shape as the one it replaces, if there is one.
        problemType : {"auto", "classification", "regression"}
            What the output means; ``"auto"`` keeps the problem that is known, or reads it
            off the loss the model is compiled with.

        Raises
        ------
        ModelError
            If the shapes differ or the model cannot be rebuilt.
        """
        from spark_dlobd.training import keras_codec

        old = self._fitted
        archive = keras_codec.model_to_archive(model)
        known = {} if old is None else old.network.compile_config
        config = keras_codec.compile_config(model) if model.compiled else known
        shape = keras_codec.input_shape(model)
        keep = old is not None and problemType == "auto"
        if old is not None and keep:
            problemType = "regression" if old.output.problem == "regression" else "classification"
        found = keras_codec.output_spec(model, config, problemType)
        if old is not None:
            _check_shapes(shape, old.features.shape, found.units, old.output.units)
        name = self.getFeaturesCol() if old is None else old.features.name
        # whether the output is logits is said by the loss of the new network, if it has one
        output = old.output if old is not None and keep and not model.compiled else found
        self._fitted = FittedNetwork(
            Network(archive, config, keras_codec.custom_objects_of(model, config)),
            TensorColumn(name, keras_codec.input_dtype(model), shape),
            output,
            {} if old is None else old.label_metadata,
        )
        self._payload, self._built = PayloadCache(), DriverNetwork()
        self._history, self._report, self._parent = {}, {}, _Parent()
        return self

    def transformSchema(self, schema: StructType) -> StructType:
        """Check the input columns and return the output schema, without a Spark job."""
        fitted = self.fitted()
        self._check(schema, fitted)
        added = [
            output_field(field, column, fitted.output, fitted.label_metadata)
            for field, column in self._outputs(fitted.output).items()
        ]
        return T.StructType([*schema.fields, *added])

    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_dataset(dataset)
        fitted = self.fitted()
        column = self._check(dataset.schema, fitted)
        columns = self._outputs(fitted.output)
        if not columns:
            return dataset
        spark = dataset.sparkSession
        if not is_connect(spark):
            prepare_workers(spark)
        payload, digest = self._payload.get(spark, fitted.network)
        plan = ScoringPlan(
            digest=digest,
            features=column,
            output=fitted.output,
            fields=tuple(columns),
            batch_size=self.getPredictBatchSize(),
            threads=cores_per_task(spark),
            thresholds=tuple(self._value("thresholds") or ()) or None,
            handle_invalid="skip" if self.getHandleInvalid() == "skip" else "error",
        )
        rows = scored_expression(dataset.schema, column)
        scored = f"{self.uid}_scored"
        result = dataset.withColumn(scored, scoring_udf(plan, payload)(rows))
        if plan.handle_invalid == "skip":
            result = result.filter(valid_expression(scored))
        outputs = [
            _output_column(field, output_expression(plan, scored, field), column, fitted)
            for field, column in columns.items()
        ]
        return result.select("*", *outputs).drop(scored)

    def _outputs(self, output: OutputSpec) -> dict[str, str]:
        """Field of the network's outputs -> name of the column it goes to."""
        columns = {field: self._value(OUTPUT_PARAMS[field]) for field in output_fields(output)}
        return {field: column for field, column in columns.items() if column}

    def _check(self, schema: StructType, fitted: FittedNetwork) -> TensorColumn:
        """The features column of this DataFrame, with everything else checked too."""
        self.check_params()
        column = scored_column(schema, self.getFeaturesCol(), fitted.features)
        # Spark resolves names regardless of case.
        taken = {name.lower(): name for name in schema.fieldNames()}
        for field, output_column in self._outputs(fitted.output).items():
            if output_column.lower() in taken:
                raise ConfigurationError(
                    f"Output column {output_column!r} already exists in the DataFrame, as "
                    f"{taken[output_column.lower()]!r}. Drop it, or give the model another name "
                    f"for its output, e.g. {OUTPUT_PARAMS[field]}='{output_column}2'."
                )
        check_thresholds(self._value("thresholds"), fitted.output)
        return column

    def __repr__(self) -> str:
        from spark_dlobd.report.notebook import model_repr

        return model_repr(self, None if self._fitted is None else self._fitted.network)

    def _repr_html_(self) -> str:
        """Curves, facts and what limited the fit, for notebooks."""
        from spark_dlobd.report.notebook import model_html

        return model_html(self, None if self._fitted is None else self._fitted.network)

    def write(self) -> DLModelWriter:
        """Return the writer that `save` uses."""
        return DLModelWriter(self)

    @classmethod
    def read(cls) -> DLModelReader:  # type: ignore[override]
        """Return the reader that `load` uses."""
        return DLModelReader(cls)


def _output_column(field: str, value: Column, column: str, fitted: FittedNetwork) -> Column:
    metadata = output_field(field, column, fitted.output, fitted.label_metadata).metadata
    found = value if field == "prediction" else array_to_vector(value)
    return found.alias(column, metadata=metadata)


def _check_shapes(
    shape: tuple[int, ...], expected: tuple[int, ...], units: int, expected_units: int
) -> None:
    if shape != expected or units != expected_units:
        raise ModelError(
            f"The new model must take rows of shape {expected} and have {expected_units} output "
            f"unit(s), as the one it replaces. Got {shape} and {units}."
        )
