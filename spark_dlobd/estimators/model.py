"""The fitted stage: a trained Keras model that scores DataFrames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.ml.base import PredictionModel
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.ml.util import HasTrainingSummary, MLReadable, MLWritable
from pyspark.sql import types as T

from spark_dlobd.errors import ConfigurationError, ModelError, NotAvailableError
from spark_dlobd.estimators.columns import check_dataset, input_columns, row_columns
from spark_dlobd.estimators.features import scored_expression
from spark_dlobd.estimators.network import FittedNetwork, FittedOutput
from spark_dlobd.estimators.one_row import DriverNetwork
from spark_dlobd.estimators.outputs import (
    OUTPUT_PARAMS,
    Array,
    check_thresholds,
    derive_outputs,
    num_classes,
    output_field,
    output_fields,
    prediction_of,
)
from spark_dlobd.estimators.params import PredictionParams, by_name
from spark_dlobd.estimators.persistence import DLModelReader, DLModelWriter
from spark_dlobd.estimators.scoring import (
    Field,
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
from spark_dlobd.spark import cores_per_task, is_connect, let_vectors_pass
from spark_dlobd.training.output import Override
from spark_dlobd.training.signature import Tensor, inputs_of

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
        Vector, a number, or binary of one uint8 an element; a string for an input of strings.
    inputCols, inputs, outputCols
        As of `DLEstimator`, for columns side by side and several inputs and outputs.
    labelCol : str, default "label"
        Read by `evaluate` alone, as are `labels`, which are by output.
    weightCol : str or dict of str to str, optional
        Weight of each row, read by `evaluate` alone.
    predictionCol, probabilityCol, rawPredictionCol : str
        Output columns; an empty string leaves one out. A regression has only a
        prediction: a double, or an array of doubles with several output units. That of a
        multi-label network is an array of the indices of predicted labels. Outputs of several
        axes are flat arrays, and so are the classes, probabilities and raw predictions where
        each position has its own; the shape of a row is in the column's metadata as
        ``metadata["spark_dlobd"]["shape"]``, a list of int.
    thresholds : list of float, optional
        One per class; the class with the largest probability / threshold wins. Of a
        multi-label network one per label, which is predicted where its probability is above.
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
        inputCols: Sequence[str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        labelCol: str | None = None,
        labels: Mapping[str, str] | None = None,
        weightCol: str | Mapping[str, str] | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        rawPredictionCol: str | None = None,
        outputCols: Mapping[str, str] | None = None,
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
        """Number of classes, or of labels where each is true or not by itself.

        None for a regression, several outputs, and without a network.
        """
        if self._fitted is None or len(self._fitted.outputs) > 1:
            return None
        return num_classes(self._fitted.outputs[0].spec)

    @property
    def numFeatures(self) -> int:
        """Numbers in one row of the network's inputs; -1 where there is no network yet."""
        return -1 if self._fitted is None else sum(one.size for one in self._fitted.inputs)

    def predict(self, value: Any) -> Any:
        """Predict one row, in this process. For many rows use `transform`.

        Parameters
        ----------
        value : Vector, sequence of numbers, ndarray, number, bytes or dict of these
            One row, flat or in the shape of the network's input; of several inputs by name.

        Returns
        -------
        float, list of float or dict of these
            What `transform` puts into the prediction column: the class, with
            `thresholds` applied, or the number; a list for a regression of several units and
            for the classes of each position, flat; the list of predicted labels of a
            multi-label network; of several outputs by name.

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
        found = self._one_row(value)
        predictions = {
            spec.name: prediction_of(found[spec.name]["prediction"][0], spec)
            for spec in self.fitted().specs
        }
        return predictions if len(predictions) > 1 else next(iter(predictions.values()))

    def predictRaw(self, value: Any) -> DenseVector:
        """Raw predictions of one row, one for each class or label; see `predict`.

        Of the classes of each position flat, position by position.

        Raises
        ------
        ConfigurationError
            If this is a regression.
        """
        return self._one_row_of_classes(value, "rawPrediction")

    def predictProbability(self, value: Any) -> DenseVector:
        """Probabilities of one row, one for each class or label; see `predict`.

        Of the classes of each position flat, position by position.

        Raises
        ------
        ConfigurationError
            If this is a regression.
        """
        return self._one_row_of_classes(value, "probability")

    def _one_row_of_classes(self, value: Any, field: str) -> DenseVector:
        specs = self.fitted().specs
        if len(specs) > 1 or field not in output_fields(specs[0]):
            what = "A regression" if len(specs) == 1 else "A network of several outputs"
            raise ConfigurationError(f"{what} has no {field}. Use predict(value).")
        return DenseVector(self._one_row(value)[""][field][0])

    def _one_row(self, value: Any) -> dict[str, dict[str, Array]]:
        """Fields of each output, by its name."""
        fitted = self.fitted()
        thresholds = self._value("thresholds")
        check_thresholds(thresholds, fitted.specs)
        found = self._built(value, fitted.network, row_columns(self, fitted.inputs))
        return {
            spec.name: derive_outputs(one, spec, thresholds)
            for one, spec in zip(found, fitted.specs, strict=True)
        }

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
            With the columns of the inputs, the labels and, if it is set, `weightCol`; of a
            network of several outputs with a label for each that has a loss.

        Returns
        -------
        dict of str to float
            ``"loss"`` and each metric under Keras's name. The loss is the mean over rows,
            of the loss times the weight if there is one. Of several outputs it is their
            weighted sum, beside ``"<output>_loss"`` of each as a mean over rows.

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
        problemType: Override = "auto",
    ) -> Self:
        """Replace the network; history, report and parent belong to the old one and go.

        Parameters
        ----------
        model : keras.Model
            Of the same input and output shape as the one it replaces, if there is one.
        problemType : {"auto", "classification", "multilabel", "regression"}
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
        takes = inputs_of(model)
        keep = old is not None and problemType == "auto"
        if old is not None and keep:
            problemType = _kept_problem(old)
        specs = keras_codec.output_specs(model, config, problemType)
        if old is not None:
            _check_shapes(takes.tensors, specs, old)
        # whether the output is logits is said by the loss of the new network, if it has one
        kept = old is not None and keep and not model.compiled
        outputs = [FittedOutput(spec) for spec in specs]
        if old is not None:
            outputs = [
                before if kept else replace(before, spec=after.spec)
                for before, after in zip(old.outputs, outputs, strict=True)
            ]
        self._fitted = FittedNetwork(
            Network(archive, config, keras_codec.custom_objects_of(model, config)),
            tuple(
                tensor.column(part) for tensor, part in zip(takes.tensors, takes.parts, strict=True)
            ),
            tuple(outputs),
        )
        self._payload, self._built = PayloadCache(), DriverNetwork()
        self._history, self._report, self._parent = {}, {}, _Parent()
        return self

    def transformSchema(self, schema: StructType) -> StructType:
        """Check the input columns and return the output schema, without a Spark job."""
        fitted = self.fitted()
        self._check(schema, fitted)
        added = [
            _output_field(field, column, fitted) for field, column in self._columns(fitted).items()
        ]
        return T.StructType([*schema.fields, *added])

    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_dataset(dataset)
        fitted = self.fitted()
        inputs = self._check(dataset.schema, fitted)
        columns = self._columns(fitted)
        if not columns:
            return dataset
        spark = dataset.sparkSession
        if not is_connect(spark):
            prepare_workers(spark)
        let_vectors_pass(spark, dataset.schema)
        payload, digest = self._payload.get(spark, fitted.network)
        plan = ScoringPlan(
            digest=digest,
            inputs=inputs,
            outputs=fitted.specs,
            fields=tuple(columns),
            batch_size=self.getPredictBatchSize(),
            threads=cores_per_task(spark),
            thresholds=tuple(self._value("thresholds") or ()) or None,
            handle_invalid="skip" if self.getHandleInvalid() == "skip" else "error",
        )
        rows = [scored_expression(dataset.schema, column) for column in inputs]
        scored = f"{self.uid}_scored"
        result = dataset.withColumn(scored, scoring_udf(plan, payload)(*rows))
        if plan.handle_invalid == "skip":
            result = result.filter(valid_expression(scored))
        outputs = [
            _output_column(field, output_expression(plan, scored, field), column, fitted)
            for field, column in columns.items()
        ]
        return result.select("*", *outputs).drop(scored)

    def _columns(self, fitted: FittedNetwork) -> dict[Field, str]:
        """Fields of the network's outputs -> names of the columns they go to."""
        fields = {
            Field(place, name): self._column(spec, name)
            for place, spec in enumerate(fitted.specs)
            for name in output_fields(spec)
        }
        if len(fitted.outputs) > 1:
            self._check_names(fitted)
        return {field: column for field, column in fields.items() if column}

    def _column(self, spec: OutputSpec, field: str) -> str:
        if not spec.name:
            return str(self._value(OUTPUT_PARAMS[field]))
        usual = spec.column(field)
        return str((self._value("outputCols") or {}).get(usual, usual))

    def _check_names(self, fitted: FittedNetwork) -> None:
        """Refuse names of columns that several outputs do not have."""
        usual = [spec.column(field) for spec in fitted.specs for field in output_fields(spec)]
        unknown = [name for name in self._value("outputCols") or {} if name not in usual]
        if unknown:
            raise ConfigurationError(
                f"outputCols must name columns of this network: {', '.join(map(repr, usual))}. "
                f"Got {', '.join(map(repr, unknown))}."
            )
        for name in OUTPUT_PARAMS.values():
            if self.isSet(name):
                raise ConfigurationError(
                    f"{name} is for a network of one output. Got {self._value(name)!r} for "
                    f"{len(fitted.outputs)}: write outputCols={{{usual[0]!r}: 'another name'}}."
                )

    def _check(self, schema: StructType, fitted: FittedNetwork) -> tuple[TensorColumn, ...]:
        """The input columns of this DataFrame, with everything else checked too."""
        self.check_params()
        parts = [one.part for one in fitted.inputs]
        inputs = input_columns(self, schema, fitted.tensors, parts)
        # Spark resolves names regardless of case.
        taken = {name.lower(): name for name in schema.fieldNames()}
        columns = self._columns(fitted)
        for field, output_column in columns.items():
            if output_column.lower() in taken:
                raise ConfigurationError(
                    f"Output column {output_column!r} already exists in the DataFrame, as "
                    f"{taken[output_column.lower()]!r}. Drop it, or give the model another name "
                    f"for its output, e.g. {_rename(fitted, field, output_column)}."
                )
            if len(fitted.outputs) > 1:
                taken[output_column.lower()] = output_column
        check_thresholds(self._value("thresholds"), fitted.specs)
        return inputs

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


def _rename(fitted: FittedNetwork, field: Field, column: str) -> str:
    spec = fitted.specs[field.output]
    if not spec.name:
        return f"{OUTPUT_PARAMS[field.name]}='{column}2'"
    return f"outputCols={{'{spec.column(field.name)}': '{column}2'}}"


def _output_field(field: Field, column: str, fitted: FittedNetwork) -> T.StructField:
    output = fitted.outputs[field.output]
    return output_field(field.name, column, output.spec, output.label_metadata)


def _output_column(field: Field, value: Column, column: str, fitted: FittedNetwork) -> Column:
    wanted = _output_field(field, column, fitted)
    found = array_to_vector(value) if isinstance(wanted.dataType, VectorUDT) else value
    return found.alias(column, metadata=wanted.metadata)


def _check_shapes(
    inputs: Sequence[Tensor], outputs: Sequence[OutputSpec], old: FittedNetwork
) -> None:
    given: tuple[Any, Any] = [one.shape for one in inputs], [spec.units for spec in outputs]
    wanted: tuple[Any, Any] = [one.shape for one in old.inputs], [spec.units for spec in old.specs]
    shapes = zip(outputs, old.specs, strict=False)
    # what was saved by an older version says nothing of the axes of its output
    if given == wanted and any(one.shape != other.shape != () for one, other in shapes):
        given = given[0], [spec.shape or spec.units for spec in outputs]
        wanted = wanted[0], [spec.shape or spec.units for spec in old.specs]
    if given != wanted:
        raise ModelError(
            f"The new model must take rows of shape {_listed(wanted[0])} and have "
            f"{_listed(wanted[1])} output unit(s), as the one it replaces. Got {_listed(given[0])} "
            f"and {_listed(given[1])}."
        )


def _kept_problem(old: FittedNetwork) -> Override:
    """What the outputs of a network mean that replaces this one."""
    problems = {spec.problem for spec in old.specs}
    if problems == {"regression"}:
        return "regression"
    if len(old.specs) > 1:
        return "auto"
    return "multilabel" if problems == {"multilabel"} else "classification"


def _listed(values: Sequence[Any]) -> str:
    return " and ".join(map(str, values))
