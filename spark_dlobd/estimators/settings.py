"""Everything that an estimator is told: Params, and what is no Param because it is alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dlobd.conversion import reject_type
from spark_dlobd.errors import ConfigurationError, NotAvailableError
from spark_dlobd.estimators.columns import check_dataset
from spark_dlobd.estimators.converters import checked_callbacks
from spark_dlobd.estimators.live_rows import LiveRows
from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.params import TrainingParams, by_name_only
from spark_dlobd.job.network import Network
from spark_dlobd.tracking.base import Tracker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from typing_extensions import Self


class FitSettings(TrainingParams):
    """What a fit is asked to do: the Params, the network, callbacks and a tracker."""

    _live_objects: ClassVar[tuple[str, ...]] = (
        "model",
        "callbacks",
        "transformation",
        "tracker",
        "validationData",
    )

    def __init__(self) -> None:
        super().__init__()
        self._network: Network | None = None
        self._callbacks: tuple[Any, ...] = ()
        self._transformation: Callable[..., Any] | None = None
        self._tracker: Tracker | None = None
        self._validation_data = LiveRows()

    @by_name_only
    def setParams(self, **kwargs: Any) -> Self:
        """Set what the constructor takes, by name.

        Unlike there, None is a value: it sets back what is None by default, such as
        ``learningRate``, ``callbacks`` and ``tracker``.

        Raises
        ------
        ConfigurationError, ModelError
            If a value does not fit.
        """
        params = dict(kwargs)
        live = {name: params.pop(name) for name in self._live_objects if name in kwargs}
        self._set(**params)
        for name, value in live.items():
            getattr(self, f"set{name[0].upper()}{name[1:]}")(value)
        return self

    @property
    def callbacks(self) -> tuple[Any, ...]:
        """Keras callbacks of which each rank gets copies.

        Raises
        ------
        ConfigurationError
            When set to anything else.
        """
        return self._callbacks

    @callbacks.setter
    def callbacks(self, value: Sequence[Any]) -> None:
        self._callbacks = checked_callbacks(value)

    def setCallbacks(self, value: Sequence[Any] | None) -> Self:
        """Set the Keras callbacks of which each rank gets copies; None takes them back.

        Raises
        ------
        ConfigurationError
            If it is anything else.
        """
        self.callbacks = () if value is None else value
        return self

    @property
    def transformation(self) -> Callable[..., Any] | None:
        """What changes each batch of rows that train; None without."""
        return self._transformation

    @transformation.setter
    def transformation(self, value: Callable[..., Any] | None) -> None:
        if value is not None and not callable(value):
            raise reject_type("transformation", "a function of a batch, or Keras layers", value)
        self._transformation = value

    def setTransformation(self, value: Callable[..., Any] | None) -> Self:
        """Set what changes each batch of rows that train; None takes it back.

        Raises
        ------
        ConfigurationError
            If it cannot be called.
        """
        self.transformation = value
        return self

    @property
    def tracker(self) -> Tracker | None:
        """What hears of the fit; None for the default `MlflowTracker()`.

        Raises
        ------
        ConfigurationError
            When set to anything but a `spark_dlobd.tracking.Tracker`.
        """
        return self._tracker

    @tracker.setter
    def tracker(self, value: Tracker | None) -> None:
        if value is not None and not isinstance(value, Tracker):
            raise reject_type("tracker", "a subclass of spark_dlobd.tracking.Tracker", value)
        self._tracker = value

    def setTracker(self, value: Tracker | None) -> Self:
        """Set what hears of the fit; None for the default `MlflowTracker()`.

        Raises
        ------
        ConfigurationError
            If it is anything else than a `spark_dlobd.tracking.Tracker`.
        """
        self.tracker = value
        return self

    @property
    def validationData(self) -> DataFrame | None:
        """Rows that only validate, as a DataFrame of their own; None without one.

        Raises
        ------
        ConfigurationError
            When set to anything but a DataFrame of Spark.
        """
        return self._validation_data.rows

    @validationData.setter
    def validationData(self, value: DataFrame | None) -> None:
        if value is not None:
            check_dataset(value, "validationData")
        # copies share the one that they have, so a new one takes its place
        self._validation_data = LiveRows(value)

    def setValidationData(self, value: DataFrame | None) -> Self:
        """Set the rows that only validate, as a DataFrame of their own; None takes it back.

        Raises
        ------
        ConfigurationError
            If it is anything but a DataFrame of Spark.
        """
        self.validationData = value
        return self

    def check_params(self) -> None:
        """Raise `ConfigurationError` if a value or a combination of values is wrong."""
        super().check_params()
        others = ("validationFraction", "validationIndicatorCol")
        both = [name for name in others if self.validationData is not None and self._value(name)]
        if both:
            raise ConfigurationError(
                f"validationData and {both[0]} exclude each other. Set one of them."
            )

    def setModel(self, model: Any) -> Self:
        """Copy the model to train: a Keras model, or a `DLModel` to train further.

        Raises
        ------
        ConfigurationError
            If a `DLModel` holds no network.
        ModelError
            If it is not built, has several inputs or outputs, or refers to custom
            objects that are not registered.
        """
        from spark_dlobd.training import keras_codec

        if isinstance(model, DLModel):
            self._network = model.fitted().network
            return self
        archive = keras_codec.model_to_archive(model)
        compiled = keras_codec.own_compile_config(model)
        objects = keras_codec.custom_objects_of(model, compiled)
        self._network = Network(archive, compiled, objects)
        return self

    def getModel(self) -> Any:
        """Return a fresh copy of the Keras model, compiled as the given one was.

        Raises
        ------
        NotAvailableError
            If there is no model.
        """
        from spark_dlobd.training import keras_codec

        return keras_codec.network_to_model(self.network)

    @property
    def network(self) -> Network:
        """The model as data.

        Raises
        ------
        NotAvailableError
            If there is no model.
        """
        if self._network is None:
            raise NotAvailableError(
                "model must be a built keras.Model. Got None: pass DLEstimator(model=...) or call "
                "setModel(model)."
            )
        return self._network
