"""The estimator: a Keras model as a stage of a Spark ML Pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.ml.base import Predictor
from pyspark.ml.util import MLReadable, MLWritable

from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.params import by_name
from spark_dlobd.estimators.persistence import DLEstimatorReader, DLEstimatorWriter
from spark_dlobd.estimators.settings import FitSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

    from spark_dlobd.cost.explanation import Explanation
    from spark_dlobd.tracking.base import Tracker

logger = logging.getLogger("spark_dlobd")


class DLEstimator(Predictor[DLModel], FitSettings, MLReadable["DLEstimator"], MLWritable):
    """Trains a Keras model on a DataFrame. Runs on the driver.

    Parameters
    ----------
    model : keras.Model or DLModel
        Built, compiled or not. It is copied when
        it is set: training changes neither it nor this estimator. A `DLModel` is trained
        further: its network, as it is compiled, is where the fit begins.
    featuresCol : str, default "features"
        Scalars, arrays, dense or sparse vectors, or bytes (uint8), reshaped to the
        model's input; strings for an input of strings. A field of a struct is named by its
        path, ``"user.age"``, where no column has that very name.
    inputCols : list of str, optional
        In place of `featuresCol`: numbers, booleans, arrays and vectors side by side in the
        one input, in this order.
    inputs : dict of str to str, list of str or ImageColumn or SequenceColumn, optional
        In place of `featuresCol`, for a network of several inputs: the column of each, or a
        list of columns side by side. Names are those of ``keras.Input``, or the keys where
        inputs are a dict.
    labelCol : str, default "label"
        Class indices ``0 .. K-1``, numbers, or arrays or vectors of several units; of flags,
        0 or 1 for each unit, with a binary loss over several. For an output of several axes
        arrays of its shape, flat or nested, or bytes; of class indices for each position with
        ``sparse_categorical_crossentropy``. An autoencoder learns `featuresCol`.
    labels : dict of str to str, optional
        In place of `labelCol`, for a network of several outputs: the column that each
        learns. An output without a loss needs none.
    weightCol : str or dict of str to str, optional
        Weight of each row in the loss; of several outputs for all, or by output.
    validationIndicatorCol : str, optional
        Boolean column, true for rows that only validate, or 1 for them and else 0.
    validationFraction : float, default 0.0
        Share of the rows drawn for validation.
    validationData : DataFrame, optional
        Rows that only validate, in place of a share or an indicator, with the columns as
        this stage takes them: in a pipeline those that the stages before it make. Every fit
        of a CrossValidator validates on it. Not persisted with the estimator.
    predictionCol, probabilityCol, rawPredictionCol : str
        Output columns of the model; an empty name leaves one out.
    outputCols : dict of str to str, optional
        For a network of several outputs, whose columns are called ``<output>_prediction``,
        ``<output>_probability`` and ``<output>_rawPrediction``: other names for some of them;
        an empty name leaves one out.
    thresholds : list of float, optional
        The class with the largest probability / threshold is predicted; of several labels
        each whose probability is above its threshold.
    loss, optimizer : str, dict or Keras object, optional
        Override what the model was compiled with. Losses of several outputs are a dict by
        output; one that is not named learns nothing.
    lossWeights : dict of str to float, optional
        Factor of each output's loss in the sum.
    optimizerState : {"discard", "keep", "resume"}
        What becomes of the optimizer's momenta and counts. ``"discard"``, the default:
        the fit begins anew and forgets them. ``"keep"``: it begins anew, and the model
        holds them, also when it is saved. ``"resume"``: it goes on from those that the
        `DLModel` given as `model` holds, and keeps them again; the learning rate is the
        one they end with, unless `learningRate` or `optimizer` is set. Not with
        ``"parameter_server"``, nor with ``"shuffle"`` and ``sync_every`` above 1.
    metrics : list or dict of str to list, optional
        Overrides the model's metrics; of several outputs a dict by output.
    learningRate : float, optional
        Overrides the optimizer's learning rate.
    batchSize : int, default 128
        Rows of one step over all workers (the global batch), so the number of
        workers changes neither the learning rate nor the mathematics.
    epochs : int, default 1
        Passes over the training rows.
    stopWhen : str, optional
        Ends the training after the first epoch that reaches it, on all workers together:
        a metric, one of >=, >, <=, < and a number, e.g. ``"val_accuracy >= 0.985"``.
    numTrainWorkers : int, default 1
        Workers that train together; each takes a slot. 0 lets the library choose: one in the
        driver, or several where the rows (which are counted), the network and the slots make
        them pay; the report says why.
    backend : str or config object, default "auto"
        ``"auto"``, ``"local"``, ``"horovod"``, ``"collective"``, ``"parameter_server"``,
        ``"shuffle"``, or a config such as ``HorovodConfig(controller="mpi")``. ``"auto"`` is
        ``"local"`` for one worker; for several ``"horovod"`` where it is installed,
        ``"collective"`` where MPI is, else ``"shuffle"``.
    callbacks : sequence of keras.callbacks.Callback, optional
        Each rank gets copies; their decisions are made on metrics of all ranks. With
        ``"shuffle"`` they run on the driver.
        Not persisted with the estimator.
    transformation : callable or Keras layers, optional
        Changes each batch of rows that train, such as by augmentation, ahead of the step:
        ``f(x)`` returns inputs like `x`, ``f(x, y)`` a pair like both. A parameter called
        ``seed`` gets two numbers of this step, which are the same wherever the step is done
        again: for ``tf.random.stateless_*``, or ``numpy.random.default_rng``. Keras layers
        draw by it without being asked to; one called ``training`` gets True. It is called with
        tensors of TensorFlow, which traces it once; where that is not possible with numpy
        arrays. Weights of rows stay. Not persisted with the estimator.
    shuffle : bool, default True
        New order of rows every epoch.
    classWeight : dict of int to float, optional
        Weight of each class in the loss.
    handleInvalid : {"error", "skip"}
        What happens to rows with nulls, NaN or impossible labels.
    seed : int, default 0
        Of the order of rows, dropout and the validation draw.
    cacheDir : str, optional
        Where training rows are materialized; must be reachable by all executors.
    reader : {"auto", "petastorm", "pyarrow"}
        The library through which workers read those rows. ``"auto"`` (default): petastorm
        where the driver can use it, else pyarrow.
    verbose : {"auto", 0, 1, 2}
        What the driver prints. ``"auto"`` (default) and 1: a live line in a terminal or a
        notebook, elsewhere a line an epoch on standard output, and a sign of life in waits of
        more than 10 seconds. 2: a line an epoch alone. After the fit the last line has its
        results. 0: nothing.
    tracking : {"mlflow", "none"}
        Where the fit is recorded.
    tracker : Tracker, optional
        Replaces the default `MlflowTracker()`. Not persisted.
    problemType : {"auto", "classification", "multilabel", "regression"}
        What the output means, where the loss does not say.
    predictBatchSize : int, default 256
        Rows the model scores at once.

    Examples
    --------
    >>> import keras
    >>> from pyspark.ml.linalg import Vectors
    >>> df = spark.createDataFrame(
    ...     [(Vectors.dense([float(i % 2), 1.0]), i % 2) for i in range(64)], ["features", "label"]
    ... )  # doctest: +SKIP
    >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    >>> estimator = DLEstimator(
    ...     model=net, loss="sparse_categorical_crossentropy", epochs=2, tracking="none"
    ... )
    >>> estimator.fit(df).transform(df).select("prediction").count()  # doctest: +SKIP
    64
    """

    _input_kwargs: dict[str, Any]

    @by_name
    def __init__(
        self,
        *,
        model: Any = None,
        featuresCol: str | None = None,
        inputCols: Sequence[str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        labelCol: str | None = None,
        labels: Mapping[str, str] | None = None,
        weightCol: str | Mapping[str, str] | None = None,
        validationIndicatorCol: str | None = None,
        validationFraction: float | None = None,
        validationData: DataFrame | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        rawPredictionCol: str | None = None,
        outputCols: Mapping[str, str] | None = None,
        thresholds: list[float] | None = None,
        loss: Any = None,
        lossWeights: Mapping[str, float] | None = None,
        optimizer: Any = None,
        optimizerState: str | None = None,
        metrics: Any = None,
        learningRate: float | None = None,
        batchSize: int | None = None,
        epochs: int | None = None,
        stopWhen: str | None = None,
        numTrainWorkers: int | None = None,
        backend: Any = None,
        callbacks: Sequence[Any] = (),
        transformation: Callable[..., Any] | None = None,
        shuffle: bool | None = None,
        classWeight: dict[int, float] | None = None,
        handleInvalid: str | None = None,
        seed: int | None = None,
        cacheDir: str | None = None,
        reader: str | None = None,
        verbose: int | str | None = None,
        tracking: str | None = None,
        tracker: Tracker | None = None,
        problemType: str | None = None,
        predictBatchSize: int | None = None,
    ) -> None:
        super().__init__()
        self._set_given(self._input_kwargs)

    def transformSchema(self, schema: StructType) -> StructType:
        """Check the settings against a schema and return that of the fitted model's output.

        Starts no Spark job.

        Parameters
        ----------
        schema : pyspark.sql.types.StructType
            Of the DataFrame to be fitted.

        Returns
        -------
        pyspark.sql.types.StructType
            With the output columns of the model that `fit` would return.

        Raises
        ------
        ConfigurationError, ModelError, DataError
            If `fit` would refuse such a DataFrame, or `transform` would.
        """
        from spark_dlobd.estimators.preparation import untrained

        return DLModel.from_training(untrained(self, schema), params_from=self).transformSchema(
            schema
        )

    def _fit(self, dataset: DataFrame) -> DLModel:
        from spark_dlobd.estimators.fitting import fit_once

        return fit_once(self, dataset)

    def explain(
        self, dataset: DataFrame, workers: int | Sequence[int] | None = None
    ) -> Explanation:
        """Predict what a fit would take with each backend, from some seconds of probing.

        Trains nothing that is kept and writes nothing. Processes like those of ranks time
        some steps of copies of the model on the first rows; the network and Spark's stages
        are timed once per application. Slots have to be free meanwhile. Everything that
        ``fit`` would refuse before it reads all rows is refused here too; the rows are only
        counted, but for the first ones.

        Parameters
        ----------
        dataset : pyspark.sql.DataFrame
            What ``fit`` would take.
        workers : int or sequence of int, optional
            Numbers of workers to predict, besides ``numTrainWorkers``. Default: 1, 2, 4
            and so on up to all slots.

        Returns
        -------
        Explanation
            Numbers as attributes, ``to_json()``, and a table when printed.

        Raises
        ------
        ConfigurationError, ModelError, DataError
            As ``fit``.
        WorkerError
            If the model cannot be trained on the first rows.
        TrainingError
            If the probe failed or took too long.

        Examples
        --------
        >>> print(estimator.explain(df))  # doctest: +SKIP
        """
        from spark_dlobd.estimators.explain import explain

        return explain(self, dataset, workers)

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[Any]
    ) -> Iterator[tuple[int, DLModel]]:
        """Fit one model per param map, with the data materialized once.

        Parameters
        ----------
        dataset : pyspark.sql.DataFrame
            The rows.
        paramMaps : sequence of dict
            Params of each model.

        Returns
        -------
        iterator of (int, DLModel)
            Safe to advance from several threads. Maps that change columns or the
            validation split get a materialization of their own.
        """
        from spark_dlobd.estimators.fitting import SharedDataFits

        return SharedDataFits([self.copy(extra) for extra in paramMaps], dataset)

    def __repr__(self) -> str:
        from spark_dlobd.report.notebook import estimator_repr

        return estimator_repr(self, self._network)

    def _repr_html_(self) -> str:
        """Network and Params, for notebooks."""
        from spark_dlobd.report.notebook import estimator_html

        return estimator_html(self, self._network)

    def write(self) -> DLEstimatorWriter:
        """Return a writer; what is no Param but a live object is left out with a warning."""
        names = ("callbacks", "transformation", "tracker", "validationData")
        if live := [name for name in names if getattr(self, name) not in (None, ())]:
            logger.warning(
                "Not saved with the estimator, because these are live objects: %s. Set them again "
                "after loading.",
                ", ".join(live),
            )
        return DLEstimatorWriter(self)

    @classmethod
    def read(cls) -> DLEstimatorReader:  # type: ignore[override]
        """Return a reader."""
        return DLEstimatorReader(cls)
