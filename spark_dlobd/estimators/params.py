"""One mixin per Param.

Values are JSON-able, so that pyspark's persistence can write them. They are
read once, when the estimator builds its job.
"""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasLabelCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasThresholds,
)
from pyspark.ml.param.shared import HasValidationIndicatorCol as _SparkHasValidationIndicatorCol
from pyspark.ml.param.shared import HasWeightCol as _SparkHasWeightCol

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators import converters as to

P = TypeVar("P", bound="CheckedParams")
_SPARK_TYPES: dict[Any, str] = {
    TypeConverters.toString: "a str",
    TypeConverters.toInt: "an int",
    TypeConverters.toListFloat: "a list of floats",
}


class CheckedParams(Params):
    """Params whose wrong values are `ConfigurationError`."""

    def set(self, param: Param[Any], value: Any) -> None:
        """Set one Param.

        Raises
        ------
        ConfigurationError
            If the value does not fit.
        """
        self._shouldOwn(param)
        self._set(**{param.name: value})

    def _set(self: P, **kwargs: Any) -> P:
        for name, value in kwargs.items():
            if not self.hasParam(name):
                raise _no_such_param(self, name)
            try:
                super()._set(**{name: value})
            except TypeError as error:
                expected = _SPARK_TYPES.get(self.getParam(name).typeConverter, "of another type")
                raise to.reject(name, expected, value) from error
        return self

    def _set_given(self: P, kwargs: dict[str, Any]) -> P:
        """Set what is not None: None in a constructor means the default."""
        return self._set(**{name: value for name, value in kwargs.items() if value is not None})

    def check_params(self) -> None:
        """Raise `ConfigurationError` if a value or a combination of values is wrong."""
        for param, value in self._paramMap.items():
            if value is not None:
                param.typeConverter(value)
        if self.hasParam("thresholds"):
            _check_thresholds(self._value("thresholds"))
        _check_columns(self)
        if self._value("validationFraction") and self._value("validationIndicatorCol"):
            raise ConfigurationError(
                "validationFraction and validationIndicatorCol exclude each other. Set one of them."
            )
        batch_size, workers = self._value("batchSize"), self._value("numTrainWorkers")
        if batch_size is not None and workers is not None and batch_size < workers:
            raise ConfigurationError(
                f"batchSize must be at least numTrainWorkers, because each worker takes its slice "
                f"of the global batch. Got batchSize={batch_size}, numTrainWorkers={workers}."
            )

    def _value(self, name: str) -> Any:
        """Value of a Param; None if there is no such Param or it has no value."""
        if not self.hasParam(name) or not self.isDefined(name):
            return None
        return self.getOrDefault(name)


def _no_such_param(params: Params, name: str) -> ConfigurationError:
    names = [param.name for param in params.params]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(map(repr, names))}."
    return ConfigurationError(f"{type(params).__name__} has no Param {name!r}. {hint}")


def _check_columns(params: CheckedParams) -> None:
    roles = ("featuresCol", "labelCol", "weightCol", "validationIndicatorCol")
    outputs = ("predictionCol", "probabilityCol", "rawPredictionCol")
    taken: dict[str, str] = {}
    for role in (*roles, *outputs):
        column = params._value(role)
        if not column:
            continue
        if column in taken:
            raise ConfigurationError(
                f"{role} and {taken[column]} must name different columns. Got {column!r} for both."
            )
        taken[column] = role
    for role in roles[:2]:
        if params.hasParam(role) and params._value(role) == "":
            raise to.reject(role, "a str that is not empty", "")


def _check_thresholds(thresholds: list[float] | None) -> None:
    if thresholds is None:
        return
    if any(not value >= 0 for value in thresholds) or sum(v == 0 for v in thresholds) > 1:
        raise to.reject(
            "thresholds", "a list of floats in [0, inf) of which at most one is 0", thresholds
        )


class HasSeed(Params):
    """Param seed: the order of rows, dropout and every other draw. Default 0."""

    # numpy and TensorFlow take 32 bits, of which the ranks need some.
    seed: Param[int] = Param(
        Params._dummy(),
        "seed",
        "of the order of rows, dropout and every other draw, in [0, 2147483647]. Default 0.",
        typeConverter=to.integer("seed", 0, 2**31 - 1),
    )

    def __init__(self) -> None:
        super().__init__()
        # The default of Spark's own mixin is a hash that changes from process to process.
        self._setDefault(seed=0)

    def getSeed(self) -> int:
        """Value of seed."""
        return self.getOrDefault(self.seed)


class HasWeightCol(_SparkHasWeightCol):
    """Param weightCol: column with the weight of a row. Default None: every row counts 1."""

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(weightCol=None)


class HasValidationIndicatorCol(_SparkHasValidationIndicatorCol):
    """Param validationIndicatorCol: boolean column, true for validation rows. Default None."""

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(validationIndicatorCol=None)


class HasBatchSize(Params):
    """Param batchSize: rows of one step over all workers. Default 128."""

    batchSize: Param[int] = Param(
        Params._dummy(),
        "batchSize",
        "rows of one training step, over all workers together, in [1, inf). Default 128.",
        typeConverter=to.integer("batchSize", 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(batchSize=128)

    def getBatchSize(self) -> int:
        """Value of batchSize."""
        return self.getOrDefault(self.batchSize)


class HasEpochs(Params):
    """Param epochs: passes over the training rows. Default 1."""

    epochs: Param[int] = Param(
        Params._dummy(),
        "epochs",
        "passes over the training rows, in [1, inf). Default 1.",
        typeConverter=to.integer("epochs", 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(epochs=1)

    def getEpochs(self) -> int:
        """Value of epochs."""
        return self.getOrDefault(self.epochs)


class HasLearningRate(Params):
    """Param learningRate: replaces the optimizer's. Default None: the optimizer keeps its own."""

    learningRate: Param[float | None] = Param(
        Params._dummy(),
        "learningRate",
        "learning rate that replaces the optimizer's own, also a schedule, in (0, inf). "
        "Default None: the optimizer keeps its own.",
        typeConverter=to.optional(to.number("learningRate", 0, open_low=True)),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(learningRate=None)

    def getLearningRate(self) -> float | None:
        """Value of learningRate."""
        return self.getOrDefault(self.learningRate)


class HasNumTrainWorkers(Params):
    """Param numTrainWorkers: workers that train together. Default 1."""

    numTrainWorkers: Param[int] = Param(
        Params._dummy(),
        "numTrainWorkers",
        "workers that train together, in [1, inf). Default 1.",
        typeConverter=to.integer("numTrainWorkers", 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(numTrainWorkers=1)

    def getNumTrainWorkers(self) -> int:
        """Value of numTrainWorkers."""
        return self.getOrDefault(self.numTrainWorkers)


class HasLoss(Params):
    """Param loss: a Keras loss. Default None: what the model was compiled with."""

    loss: Param[str | dict[str, Any] | None] = Param(
        Params._dummy(),
        "loss",
        "Keras loss as a name, config dict or object. Default None: what the model was compiled "
        "with.",
        typeConverter=to.optional(to.keras_config("loss")),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(loss=None)

    def getLoss(self) -> str | dict[str, Any] | None:
        """Value of loss, an object as its config."""
        return self.getOrDefault(self.loss)


class HasOptimizer(Params):
    """Param optimizer: a Keras optimizer. Default None: the model's, or ``"adam"``."""

    optimizer: Param[str | dict[str, Any] | None] = Param(
        Params._dummy(),
        "optimizer",
        "Keras optimizer as a name, config dict or object. Default None: what the model was "
        "compiled with, or 'adam'.",
        typeConverter=to.optional(to.keras_config("optimizer")),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(optimizer=None)

    def getOptimizer(self) -> str | dict[str, Any] | None:
        """Value of optimizer, an object as its config."""
        return self.getOrDefault(self.optimizer)


class HasMetrics(Params):
    """Param metrics: Keras metrics. Default None: what the model was compiled with."""

    metrics: Param[list[Any] | None] = Param(
        Params._dummy(),
        "metrics",
        "list of Keras metrics as names, config dicts or objects. Default None: what the model "
        "was compiled with.",
        typeConverter=to.optional(to.keras_configs("metrics")),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(metrics=None)

    def getMetrics(self) -> list[Any] | None:
        """Value of metrics, objects as their configs."""
        return self.getOrDefault(self.metrics)


class HasBackend(Params):
    """Param backend: the way gradients travel. Default ``"auto"``."""

    backend: Param[Any] = Param(
        Params._dummy(),
        "backend",
        "the way gradients travel: 'auto', the name of a backend, or its config object. "
        "Default 'auto'.",
        typeConverter=to.backend_config,
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(backend="auto")

    def getBackend(self) -> Any:
        """Value of backend: a name or a config object."""
        value = self.getOrDefault(self.backend)
        if isinstance(value, str):
            return value
        from spark_dlobd.backends import registry

        return registry.from_param(value)


class HasValidationFraction(Params):
    """Param validationFraction: share of rows held out for validation. Default 0."""

    validationFraction: Param[float] = Param(
        Params._dummy(),
        "validationFraction",
        "share of the rows held out for validation, in [0, 1). Default 0.",
        typeConverter=to.number("validationFraction", 0, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(validationFraction=0.0)

    def getValidationFraction(self) -> float:
        """Value of validationFraction."""
        return self.getOrDefault(self.validationFraction)


class HasStopWhen(Params):
    """Param stopWhen: a metric and a value that end the training. Default None."""

    stopWhen: Param[str | None] = Param(
        Params._dummy(),
        "stopWhen",
        "ends the training after the first epoch whose metrics say so, for example "
        "'val_accuracy >= 0.985' or 'loss < 0.1'. Default None: all epochs.",
        typeConverter=to.optional(to.target),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(stopWhen=None)

    def getStopWhen(self) -> str | None:
        """Value of stopWhen."""
        return self.getOrDefault(self.stopWhen)


class HasHandleInvalid(Params):
    """Param handleInvalid: what happens to rows that cannot be used. Default ``"error"``."""

    handleInvalid: Param[str] = Param(
        Params._dummy(),
        "handleInvalid",
        "rows with nulls or values that cannot be used: 'error' stops, 'skip' leaves them out. "
        "Default 'error'.",
        typeConverter=to.choice("handleInvalid", "error", "skip"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(handleInvalid="error")

    def getHandleInvalid(self) -> str:
        """Value of handleInvalid."""
        return self.getOrDefault(self.handleInvalid)


class HasShuffle(Params):
    """Param shuffle: a new order of rows every epoch. Default True."""

    shuffle: Param[bool] = Param(
        Params._dummy(),
        "shuffle",
        "whether the order of rows changes every epoch. Default True.",
        typeConverter=to.boolean("shuffle"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(shuffle=True)

    def getShuffle(self) -> bool:
        """Value of shuffle."""
        return self.getOrDefault(self.shuffle)


class HasClassWeight(Params):
    """Param classWeight: weight of each class in the loss. Default None: all count 1."""

    classWeight: Param[dict[int, float] | None] = Param(
        Params._dummy(),
        "classWeight",
        "dict of class index to its weight in the loss, in [0, inf). Default None: all count 1.",
        typeConverter=to.optional(to.class_weights("classWeight")),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(classWeight=None)

    def getClassWeight(self) -> dict[int, float] | None:
        """Value of classWeight."""
        return self.getOrDefault(self.classWeight)


class HasCacheDir(Params):
    """Param cacheDir: where the training rows are materialized. Default None."""

    cacheDir: Param[str | None] = Param(
        Params._dummy(),
        "cacheDir",
        "URL of a directory all executors reach, for the materialized training rows. Default "
        "None: a temporary directory on the session's default file system.",
        typeConverter=to.optional(to.text("cacheDir")),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(cacheDir=None)

    def getCacheDir(self) -> str | None:
        """Value of cacheDir."""
        return self.getOrDefault(self.cacheDir)


class HasVerbose(Params):
    """Param verbose: how much the driver prints. Default 1."""

    verbose: Param[int] = Param(
        Params._dummy(),
        "verbose",
        "how much the driver prints, in [0, 2]: 0 nothing, 1 progress, 2 one line an epoch. "
        "Default 1.",
        typeConverter=to.integer("verbose", 0, 2),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(verbose=1)

    def getVerbose(self) -> int:
        """Value of verbose."""
        return self.getOrDefault(self.verbose)


class HasTracking(Params):
    """Param tracking: where a fit is recorded. Default ``"mlflow"``."""

    tracking: Param[str] = Param(
        Params._dummy(),
        "tracking",
        "where parameters, metrics and the model are recorded: 'mlflow' or 'none'. "
        "Default 'mlflow'.",
        typeConverter=to.choice("tracking", "mlflow", "none"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(tracking="mlflow")

    def getTracking(self) -> str:
        """Value of tracking."""
        return self.getOrDefault(self.tracking)


class HasProblemType(Params):
    """Param problemType: what the output means. Default ``"auto"``: read off the loss."""

    problemType: Param[str] = Param(
        Params._dummy(),
        "problemType",
        "what the model's output means: 'auto', 'classification' or 'regression'. Default "
        "'auto': categorical and binary crossentropies classify, other losses regress.",
        typeConverter=to.choice("problemType", "auto", "classification", "regression"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(problemType="auto")

    def getProblemType(self) -> str:
        """Value of problemType."""
        return self.getOrDefault(self.problemType)


class HasPredictBatchSize(Params):
    """Param predictBatchSize: rows the model scores at once. Default 256."""

    predictBatchSize: Param[int] = Param(
        Params._dummy(),
        "predictBatchSize",
        "rows the model scores at once, in [1, inf). Default 256.",
        typeConverter=to.integer("predictBatchSize", 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(predictBatchSize=256)

    def getPredictBatchSize(self) -> int:
        """Value of predictBatchSize."""
        return self.getOrDefault(self.predictBatchSize)


class PredictionParams(
    CheckedParams,
    HasFeaturesCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasThresholds,
    HasHandleInvalid,
    HasPredictBatchSize,
):
    """Params that the estimator and its model share."""


class TrainingParams(
    PredictionParams,
    HasLabelCol,
    HasWeightCol,
    HasValidationIndicatorCol,
    HasValidationFraction,
    HasSeed,
    HasBatchSize,
    HasEpochs,
    HasStopWhen,
    HasLearningRate,
    HasNumTrainWorkers,
    HasLoss,
    HasOptimizer,
    HasMetrics,
    HasBackend,
    HasShuffle,
    HasClassWeight,
    HasCacheDir,
    HasVerbose,
    HasTracking,
    HasProblemType,
):
    """Every Param of the estimator."""
