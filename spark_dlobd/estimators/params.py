"""One mixin per Param.

Values are JSON-able, so that pyspark's persistence can write them. They are
read once, when the estimator builds its job.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, cast, get_args

from pyspark.ml.param import Param, Params, TypeConverters, shared

from spark_dlobd import conversion as to
from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError
from spark_dlobd.estimators import converters
from spark_dlobd.estimators.setters import Setter
from spark_dlobd.training.output import Override
from spark_dlobd.wording import did_you_mean

P = TypeVar("P", bound="CheckedParams")
F = TypeVar("F", bound=Callable[..., None])
M = TypeVar("M", bound=Callable[..., Any])
_ROLES = ("featuresCol", "labelCol", "weightCol", "validationIndicatorCol")
_FEATURES = ("featuresCol", "inputCols", "inputs")
_OUTPUTS = ("predictionCol", "probabilityCol", "rawPredictionCol")
_SPARK_TYPES: dict[Any, str] = {
    TypeConverters.toString: "a str",
    TypeConverters.toInt: "an int",
    TypeConverters.toListFloat: "a list of floats",
}


def by_name(init: F) -> F:
    """Decorate an ``__init__`` that takes everything by name.

    Like pyspark's ``keyword_only`` it keeps what was given in ``_input_kwargs``. What does
    not fit is a `ConfigurationTypeError` that says what to write.
    """
    names = tuple(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            raise _not_by_name(type(self).__name__, args[0], names)
        for name in kwargs:
            if name not in names:
                raise _no_such_param(type(self).__name__, name, names)
        self._input_kwargs = kwargs
        init(self, **kwargs)

    return cast(F, wrapper)


def by_name_only(method: M) -> M:
    """Decorate a ``setParams`` that takes everything by name, to say so in the same words."""

    @functools.wraps(method)
    def wrapper(self: CheckedParams, *args: Any, **kwargs: Any) -> Any:
        if args:
            raise _not_by_name(type(self).__name__, args[0], self._names())
        return method(self, **kwargs)

    return cast(M, wrapper)


class CheckedParams(Params):
    """Params whose wrong values are `ConfigurationError`.

    None takes a value back where None is the Param's default; elsewhere it is a wrong
    value like any other.
    """

    # what a stage takes by name beside its Params
    _live_objects: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        # What the constructor was called with, such as a live Keras model, has been read.
        return {name: value for name, value in vars(self).items() if name != "_input_kwargs"}

    def set(self, param: Param[Any], value: Any) -> None:
        """Set one Param.

        Raises
        ------
        ConfigurationError
            If the value does not fit.
        """
        self._shouldOwn(param)
        self._set(**{param.name: value})

    @by_name_only
    def setParams(self: P, **kwargs: Any) -> P:
        """Set what the constructor takes, by name.

        Unlike there, None is a value: it sets the Param back where its default is None.

        Raises
        ------
        ConfigurationError
            If a value does not fit.
        """
        return self._set(**kwargs)

    def _set(self: P, **kwargs: Any) -> P:
        for name, value in kwargs.items():
            if not self.hasParam(name):
                raise _no_such_param(type(self).__name__, name, self._names())
            param = self.getParam(name)
            if value is None and self._defaultParamMap.get(param) is None:
                self.clear(param)
            else:
                self._paramMap[param] = _converted(param, value)
        return self

    def _set_given(self: P, kwargs: dict[str, Any]) -> P:
        """Set what is not None: None in a constructor means the default."""
        return self.setParams(
            **{name: value for name, value in kwargs.items() if value is not None}
        )

    def _names(self) -> list[str]:
        """What the constructor and `setParams` take."""
        return [*self._live_objects, *(param.name for param in self.params)]

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


def _converted(param: Param[Any], value: Any) -> Any:
    try:
        return param.typeConverter(value)
    except ConfigurationError:
        raise
    except TypeError as error:
        expected = _SPARK_TYPES.get(param.typeConverter, "of another type")
        refused = to.reject_type(param.name, expected, value)
        hint = _column_hint(param.name, value)
        raise ConfigurationTypeError(f"{refused} {hint}" if hint else str(refused)) from error


def _column_hint(name: str, value: Any) -> str:
    if value is None and name in _OUTPUTS:
        return f"{name}='' leaves the column out."
    if type(value).__name__ == "Column":
        return f"Write the column's name, e.g. {name}='{name.removesuffix('Col')}'."
    if name == "featuresCol" and isinstance(value, (list, tuple)) and value:
        return f"Several columns side by side are inputCols={list(value)!r}."
    if name == "labelCol" and isinstance(value, (list, tuple)) and value:
        return (
            f"Put several columns into one first: VectorAssembler(inputCols={list(value)!r}, "
            f"outputCol='label'), then write labelCol='label'. For several outputs of the network "
            "write labels={'output': 'column', ...}."
        )
    return ""


def _no_such_param(owner: str, name: str, names: Iterable[str]) -> ConfigurationTypeError:
    names = sorted(names)
    hint = did_you_mean(name, names) or f"It has {', '.join(map(repr, names))}."
    return ConfigurationTypeError(f"{owner} has no Param {name!r}. {hint}")


def _not_by_name(owner: str, value: Any, names: Iterable[str]) -> ConfigurationTypeError:
    kind = type(value)
    write = f"write a name before it, one of {', '.join(names)}"
    if any(base.__name__ == "Model" and base.__module__[:5] == "keras" for base in kind.__mro__):
        write = f"write {owner}" + ("(model=...)" if "model" in names else "().setModel(...)")
    return ConfigurationTypeError(
        f"{owner} takes its arguments by name. Got a value of type {kind.__name__}: {write}."
    )


def _check_columns(params: CheckedParams) -> None:
    taken: dict[str, str] = {}
    for role in (*_ROLES, *_OUTPUTS):
        column = params._value(role)
        if not column or isinstance(column, dict) or _is_replaced(params, role):
            continue
        other = taken.setdefault(column.lower(), role)
        if (role, other) == ("labelCol", "featuresCol"):
            continue  # an autoencoder learns its input; what else may not is found with the loss
        if other != role:
            raise ConfigurationError(
                f"{role} and {other} must name different columns, not only in upper and lower "
                f"case. Got {column!r} and {params._value(other)!r}."
            )
    for role in _ROLES[:2]:
        if params.hasParam(role) and params._value(role) == "":
            raise to.reject(role, "a str that is not empty", "")
    given = [name for name in _FEATURES if params.hasParam(name) and params.isSet(name)]
    given = [name for name in given if params._value(name) is not None]
    if len(given) > 1:
        raise ConfigurationError(
            f"{' and '.join(given)} exclude each other: each says which columns the network takes. "
            "Set one of them."
        )
    if params._value("labels") is not None and params.isSet("labelCol"):
        raise ConfigurationError(
            "labels and labelCol exclude each other. Set labels for a network of several outputs, "
            "labelCol for one."
        )


def _is_replaced(params: CheckedParams, role: str) -> bool:
    """Whether another Param says what this one would."""
    if role == "featuresCol":
        return params._value("inputCols") is not None or params._value("inputs") is not None
    return role == "labelCol" and params._value("labels") is not None


def _check_thresholds(thresholds: list[float] | None) -> None:
    if thresholds is None:
        return
    if any(not value >= 0 for value in thresholds) or sum(v == 0 for v in thresholds) > 1:
        raise to.reject(
            "thresholds", "a list of floats of at least 0, of which at most one is 0", thresholds
        )


class HasSeed(shared.HasSeed):
    """Param seed: the order of rows, dropout and every other draw. Default 0."""

    # numpy and TensorFlow take 32 bits, of which the ranks need some.
    seed: Param[int] = Param(
        Params._dummy(),
        "seed",
        "of the order of rows, dropout and every other draw, from 0 to 2147483647. Default 0.",
        typeConverter=to.integer("seed", 0, 2**31 - 1),
    )
    setSeed = Setter(seed)

    def __init__(self) -> None:
        # Not Spark's own: its default is a hash that changes from process to process.
        super(shared.HasSeed, self).__init__()
        self._setDefault(seed=0)

    def getSeed(self) -> int:
        """Value of seed."""
        return self.getOrDefault(self.seed)


class HasFeaturesCol(shared.HasFeaturesCol):
    """Param featuresCol: column the network takes. Default ``"features"``."""

    setFeaturesCol = Setter(shared.HasFeaturesCol.featuresCol)


class HasInputCols(shared.HasInputCols):
    """Param inputCols: columns side by side as the one input. Default None: featuresCol."""

    inputCols: Param[list[str] | None] = Param(  # type: ignore[assignment]
        Params._dummy(),
        "inputCols",
        "columns of numbers, booleans, arrays and vectors that stand side by side in the network's "
        "one input, in this order. Default None: featuresCol.",
        typeConverter=to.optional(to.names("inputCols")),
    )
    setInputCols = Setter(inputCols)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(inputCols=None)

    def getInputCols(self) -> list[str] | None:  # type: ignore[override]
        """Value of inputCols."""
        return self.getOrDefault(self.inputCols)


class HasInputs(Params):
    """Param inputs: the columns of each input of the network. Default None: featuresCol."""

    inputs: Param[dict[str, Any] | None] = Param(
        Params._dummy(),
        "inputs",
        "dict of each input of the network to its column, or to a list of columns side by side. "
        "Default None: a network of one input, which takes featuresCol.",
        typeConverter=to.optional(converters.input_columns),
    )
    setInputs: Setter[Any] = Setter(inputs)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(inputs=None)

    def getInputs(self) -> dict[str, Any] | None:
        """Value of inputs."""
        return self.getOrDefault(self.inputs)


class HasLabels(Params):
    """Param labels: the column that each output learns. Default None: labelCol."""

    labels: Param[dict[str, str] | None] = Param(
        Params._dummy(),
        "labels",
        "dict of outputs of the network to the columns they learn; one without a loss needs none. "
        "Default None: a network of one output, which learns labelCol.",
        typeConverter=to.optional(to.by_name("labels", "outputs to columns", to.text("labels"))),
    )
    setLabels: Setter[Any] = Setter(labels)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(labels=None)

    def getLabels(self) -> dict[str, str] | None:
        """Value of labels."""
        return self.getOrDefault(self.labels)


class HasOutputCols(Params):
    """Param outputCols: other names for the columns of several outputs. Default None."""

    outputCols: Param[dict[str, str] | None] = Param(
        Params._dummy(),
        "outputCols",
        "dict of columns of a network with several outputs, such as 'clicked_probability', to "
        "other names; an empty name leaves one out. Default None.",
        typeConverter=to.optional(converters.output_columns),
    )
    setOutputCols: Setter[Any] = Setter(outputCols)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(outputCols=None)

    def getOutputCols(self) -> dict[str, str] | None:
        """Value of outputCols."""
        return self.getOrDefault(self.outputCols)


class HasLossWeights(Params):
    """Param lossWeights: factor of each output's loss in the sum. Default None: all count 1."""

    lossWeights: Param[dict[str, float] | None] = Param(
        Params._dummy(),
        "lossWeights",
        "dict of outputs of the network to the factor of their loss in the sum, at least 0. "
        "Default None: what the model was compiled with, or 1.",
        typeConverter=to.optional(
            to.by_name("lossWeights", "outputs to numbers", to.number("lossWeights", 0))
        ),
    )
    setLossWeights: Setter[Any] = Setter(lossWeights)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(lossWeights=None)

    def getLossWeights(self) -> dict[str, float] | None:
        """Value of lossWeights."""
        return self.getOrDefault(self.lossWeights)


class HasLabelCol(shared.HasLabelCol):
    """Param labelCol: column the network learns. Default ``"label"``."""

    setLabelCol = Setter(shared.HasLabelCol.labelCol)


class HasPredictionCol(shared.HasPredictionCol):
    """Param predictionCol: output column. Default ``"prediction"``."""

    setPredictionCol = Setter(shared.HasPredictionCol.predictionCol)


class HasProbabilityCol(shared.HasProbabilityCol):
    """Param probabilityCol: output column. Default ``"probability"``."""

    setProbabilityCol = Setter(shared.HasProbabilityCol.probabilityCol)


class HasRawPredictionCol(shared.HasRawPredictionCol):
    """Param rawPredictionCol: output column. Default ``"rawPrediction"``."""

    setRawPredictionCol = Setter(shared.HasRawPredictionCol.rawPredictionCol)


class HasThresholds(shared.HasThresholds):
    """Param thresholds: one for each class. Default None: the largest probability wins."""

    setThresholds: Setter[list[float] | None] = Setter(
        cast("Param[list[float] | None]", shared.HasThresholds.thresholds)
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(thresholds=None)


class HasWeightCol(shared.HasWeightCol):
    """Param weightCol: column with the weight of a row. Default None: every row counts 1."""

    weightCol: Param[Any] = Param(
        Params._dummy(),
        "weightCol",
        "column with the weight of a row, or a dict of outputs of the network to such columns. "
        "Default None: every row counts 1.",
        typeConverter=to.optional(converters.weight_columns),
    )
    setWeightCol: Setter[Any] = Setter(weightCol)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(weightCol=None)


class HasValidationIndicatorCol(shared.HasValidationIndicatorCol):
    """Param validationIndicatorCol: column, true or 1 for validation rows. Default None."""

    setValidationIndicatorCol: Setter[str | None] = Setter(
        cast("Param[str | None]", shared.HasValidationIndicatorCol.validationIndicatorCol)
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(validationIndicatorCol=None)


class HasBatchSize(shared.HasBatchSize):
    """Param batchSize: rows of one step over all workers. Default 128."""

    batchSize: Param[int] = Param(
        Params._dummy(),
        "batchSize",
        "rows of one training step, over all workers together, at least 1. Default 128.",
        typeConverter=to.integer("batchSize", 1),
    )
    setBatchSize = Setter(batchSize)

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
        "passes over the training rows, at least 1. Default 1.",
        typeConverter=to.integer("epochs", 1),
    )
    setEpochs = Setter(epochs)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(epochs=1)

    def getEpochs(self) -> int:
        """Value of epochs."""
        return self.getOrDefault(self.epochs)


class HasLearningRate(shared.HasLearningRate):
    """Param learningRate: replaces the optimizer's. Default None: the optimizer keeps its own."""

    learningRate: Param[float | None] = Param(  # type: ignore[assignment]
        Params._dummy(),
        "learningRate",
        "learning rate that replaces the optimizer's own, also a schedule, above 0. "
        "Default None: the optimizer keeps its own.",
        typeConverter=to.optional(to.number("learningRate", 0, open_low=True)),
    )
    setLearningRate = Setter(learningRate)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(learningRate=None)

    def getLearningRate(self) -> float | None:  # type: ignore[override]
        """Value of learningRate."""
        return self.getOrDefault(self.learningRate)


class HasNumTrainWorkers(shared.HasNumTrainWorkers):
    """Param numTrainWorkers: workers that train together, 0 to let a rule choose. Default 1."""

    numTrainWorkers: Param[int] = Param(
        Params._dummy(),
        "numTrainWorkers",
        "workers that train together; 0 lets the library choose how many. Default 1.",
        typeConverter=to.integer("numTrainWorkers", 0),
    )
    setNumTrainWorkers = Setter(numTrainWorkers)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(numTrainWorkers=1)

    def getNumTrainWorkers(self) -> int:
        """Value of numTrainWorkers."""
        return self.getOrDefault(self.numTrainWorkers)


class HasLoss(shared.HasLoss):
    """Param loss: a Keras loss. Default None: what the model was compiled with."""

    loss: Param[str | dict[str, Any] | None] = Param(  # type: ignore[assignment]
        Params._dummy(),
        "loss",
        "Keras loss as a name, config dict or object, or a dict of these by output. Default None: "
        "what the model was compiled with.",
        typeConverter=to.optional(converters.keras_config("loss", several=True)),
    )
    setLoss: Setter[Any] = Setter(loss)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(loss=None)

    def getLoss(self) -> str | dict[str, Any] | None:  # type: ignore[override]
        """Value of loss, an object as its config."""
        return self.getOrDefault(self.loss)


class HasOptimizer(Params):
    """Param optimizer: a Keras optimizer. Default None: the model's, or ``"adam"``."""

    optimizer: Param[str | dict[str, Any] | None] = Param(
        Params._dummy(),
        "optimizer",
        "Keras optimizer as a name, config dict or object. Default None: what the model was "
        "compiled with, or 'adam'.",
        typeConverter=to.optional(converters.keras_config("optimizer")),
    )
    setOptimizer: Setter[Any] = Setter(optimizer)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(optimizer=None)

    def getOptimizer(self) -> str | dict[str, Any] | None:
        """Value of optimizer, an object as its config."""
        return self.getOrDefault(self.optimizer)


class HasMetrics(Params):
    """Param metrics: Keras metrics. Default None: what the model was compiled with."""

    metrics: Param[Any] = Param(
        Params._dummy(),
        "metrics",
        "list of Keras metrics as names, config dicts or objects, or a dict of these by output. "
        "Default None: what the model was compiled with.",
        typeConverter=to.optional(converters.keras_configs("metrics")),
    )
    setMetrics: Setter[Any] = Setter(metrics)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(metrics=None)

    def getMetrics(self) -> Any:
        """Value of metrics, objects as their configs."""
        return self.getOrDefault(self.metrics)


class HasBackend(Params):
    """Param backend: the way gradients travel. Default ``"auto"``."""

    backend: Param[Any] = Param(
        Params._dummy(),
        "backend",
        "the way gradients travel: 'auto', the name of a backend, or its config object. "
        "Default 'auto'.",
        typeConverter=converters.backend_config,
    )
    setBackend: Setter[Any] = Setter(backend)

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
        "share of the rows held out for validation, at least 0 and below 1. Default 0.",
        typeConverter=to.number("validationFraction", 0, 1),
    )
    setValidationFraction = Setter(validationFraction)

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
        typeConverter=to.optional(converters.target),
    )
    setStopWhen = Setter(stopWhen)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(stopWhen=None)

    def getStopWhen(self) -> str | None:
        """Value of stopWhen."""
        return self.getOrDefault(self.stopWhen)


class HasHandleInvalid(shared.HasHandleInvalid):
    """Param handleInvalid: what happens to rows that cannot be used. Default ``"error"``."""

    handleInvalid: Param[str] = Param(
        Params._dummy(),
        "handleInvalid",
        "rows with nulls or values that cannot be used: 'error' stops, 'skip' leaves them out. "
        "Default 'error'.",
        typeConverter=to.choice("handleInvalid", "error", "skip"),
    )
    setHandleInvalid = Setter(handleInvalid)

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
    setShuffle = Setter(shuffle)

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
        "dict of class index to its weight in the loss, at least 0. Default None: all count 1.",
        typeConverter=to.optional(to.class_weights("classWeight")),
    )
    setClassWeight = Setter(classWeight)

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
    setCacheDir = Setter(cacheDir)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(cacheDir=None)

    def getCacheDir(self) -> str | None:
        """Value of cacheDir."""
        return self.getOrDefault(self.cacheDir)


class HasReader(Params):
    """Param reader: the library through which workers read rows. Default ``"auto"``."""

    reader: Param[str] = Param(
        Params._dummy(),
        "reader",
        "the library through which workers read the training rows: 'petastorm' or 'pyarrow'. "
        "Default 'auto': petastorm where the driver can use it, else pyarrow.",
        typeConverter=to.choice("reader", "auto", "petastorm", "pyarrow"),
    )
    setReader = Setter(reader)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(reader="auto")

    def getReader(self) -> str:
        """Value of reader."""
        return self.getOrDefault(self.reader)


class HasVerbose(Params):
    """Param verbose: how much the driver prints. Default ``"auto"``."""

    verbose: Param[int | str] = Param(
        Params._dummy(),
        "verbose",
        "how much the driver prints: 0 nothing; 1 a live line in a terminal or a notebook, "
        "elsewhere one line an epoch; 2 one line an epoch; 'auto' as 1. Default 'auto'.",
        typeConverter=to.integer_or("verbose", 0, 2, "auto"),
    )
    setVerbose = Setter(verbose)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(verbose="auto")

    def getVerbose(self) -> int | str:
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
    setTracking = Setter(tracking)

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
        "what the model's output means: 'auto', 'classification', 'multilabel' or 'regression'. "
        "Default 'auto': categorical and binary crossentropies classify, a binary one over several "
        "units each label by itself; other losses regress.",
        typeConverter=to.choice("problemType", *get_args(Override)),
    )
    setProblemType = Setter(problemType)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(problemType="auto")

    def getProblemType(self) -> str:
        """Value of problemType."""
        return self.getOrDefault(self.problemType)


class HasOptimizerState(Params):
    """Param optimizerState: what becomes of the optimizer's state. Default ``"discard"``."""

    optimizerState: Param[str] = Param(
        Params._dummy(),
        "optimizerState",
        "the optimizer's momenta and counts: 'discard' begins anew and forgets them, 'keep' begins "
        "anew and the model holds them, 'resume' goes on from those that the given DLModel holds. "
        "Default 'discard'.",
        typeConverter=to.choice("optimizerState", "discard", "keep", "resume"),
    )
    setOptimizerState = Setter(optimizerState)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(optimizerState="discard")

    def getOptimizerState(self) -> str:
        """Value of optimizerState."""
        return self.getOrDefault(self.optimizerState)


class HasPredictBatchSize(Params):
    """Param predictBatchSize: rows the model scores at once. Default 256."""

    predictBatchSize: Param[int] = Param(
        Params._dummy(),
        "predictBatchSize",
        "rows the model scores at once, at least 1. Default 256.",
        typeConverter=to.integer("predictBatchSize", 1),
    )
    setPredictBatchSize = Setter(predictBatchSize)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(predictBatchSize=256)

    def getPredictBatchSize(self) -> int:
        """Value of predictBatchSize."""
        return self.getOrDefault(self.predictBatchSize)


class PredictionParams(
    CheckedParams,
    HasLabelCol,
    HasLabels,
    HasFeaturesCol,
    HasInputCols,
    HasInputs,
    HasOutputCols,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasThresholds,
    HasWeightCol,
    HasHandleInvalid,
    HasPredictBatchSize,
):
    """Params that the estimator and its model share."""


class TrainingParams(
    PredictionParams,
    HasValidationIndicatorCol,
    HasValidationFraction,
    HasSeed,
    HasBatchSize,
    HasEpochs,
    HasStopWhen,
    HasLearningRate,
    HasNumTrainWorkers,
    HasLoss,
    HasLossWeights,
    HasOptimizer,
    HasOptimizerState,
    HasMetrics,
    HasBackend,
    HasShuffle,
    HasClassWeight,
    HasCacheDir,
    HasReader,
    HasVerbose,
    HasTracking,
    HasProblemType,
):
    """Every Param of the estimator."""
