"""Names of metrics that a fit depends on: stopWhen, and what callbacks monitor.

One that is never logged would let the training run to its end without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.target import Target


@dataclass(frozen=True)
class Watched:
    """A metric that somebody waits for.

    Attributes
    ----------
    who : str
        E.g. ``"stopWhen"`` or ``"monitor of EarlyStopping"``, for messages.
    metric : str
        Name in Keras's logs.
    given : str
        What the user wrote.
    may_come : bool
        Whether a callback of the user's before it could add the name to the logs.
    """

    who: str
    metric: str
    given: str
    may_come: bool = False


def monitored(callbacks: Sequence[Any]) -> list[Watched]:
    """What callbacks monitor, those of Keras and of the user alike.

    Parameters
    ----------
    callbacks : sequence of keras.callbacks.Callback
        In the order in which they are called.
    """
    import keras

    found = []
    own = False
    for callback in callbacks:
        own = own or _may_log(callback)
        metric = getattr(callback, "monitor", None)
        every = isinstance(callback, keras.callbacks.ModelCheckpoint) and not (
            callback.save_best_only
        )
        if isinstance(metric, str) and not every:
            who = f"monitor of {type(callback).__name__}"
            found.append(Watched(who, metric, metric, own))
    return found


def of_target(target: Target, callbacks: Sequence[Any] = ()) -> Watched:
    """What the Param stopWhen waits for; it is compared after `callbacks`."""
    may_come = any(_may_log(callback) for callback in callbacks)
    return Watched("stopWhen", target.metric, str(target), may_come)


def check_watched(
    watched: Sequence[Watched],
    names: Sequence[str] | None,
    callbacks: Sequence[Any],
    validates: bool,
) -> None:
    """Runs on the driver. Refuse what no epoch will log.

    Parameters
    ----------
    watched : sequence of Watched
        From `monitored`, and the Param stopWhen.
    names : sequence of str or None
        Metrics of the model. None: its own step may log anything, so the first epoch tells.
    callbacks : sequence of keras.callbacks.Callback
        Some log the learning rate.
    validates : bool
        Whether there are validation rows.

    Raises
    ------
    ConfigurationError
        Naming who waits for what, and what there is.
    """
    if names is None:
        return
    of_validation = [f"val_{name}" for name in names]
    known = [*names, *(of_validation if validates else [])]
    for each in watched:
        may_come = each.may_come and each.metric not in of_validation
        if may_come or each.metric in [*known, *_logged_by(callbacks)]:
            continue
        hint = ""
        if each.metric.startswith("val_") and not validates:
            hint = (
                " Names with val_ need validation rows: set validationFraction or "
                "validationIndicatorCol."
            )
        raise ConfigurationError(
            f"{each.who} must name one of {', '.join(map(repr, known))}. Got {each.given!r}.{hint}"
        )


def waiting_for_validation(
    watched: Sequence[Watched], names: Sequence[str] | None
) -> tuple[Watched, ...]:
    """Who waits for what only validation rows bring; none where `names` are not known."""
    return tuple(each for each in watched if each.metric in {f"val_{n}" for n in names or ()})


def check_validates(waiting: Sequence[Watched], why: str) -> None:
    """Refuse to train without validation where somebody waits for its metrics.

    Parameters
    ----------
    waiting : sequence of Watched
        From `waiting_for_validation`.
    why : str
        Why there are no validation rows.

    Raises
    ------
    ConfigurationError
        Naming who waits for what.
    """
    for each in waiting:
        raise ConfigurationError(
            f"{each.who} is {each.given!r}, which needs validation rows. {why} Mark rows for "
            f"validation, or leave {each.who} out."
        )


def check_logged(watched: Sequence[Watched], logs: Collection[str]) -> None:
    """Refuse what the first epoch has not logged.

    Raises
    ------
    ConfigurationError
        Naming who waits for what, and what there is.
    """
    for each in watched:
        if each.metric not in logs:
            raise ConfigurationError(
                f"{each.who} must name a metric of the training: {', '.join(map(repr, logs))}. "
                f"Got {each.given!r}."
            )


def _may_log(callback: Any) -> bool:
    """Whether it runs code of the user's, which may write into the logs."""
    import keras

    is_keras = type(callback).__module__.partition(".")[0] == "keras"
    return not is_keras or isinstance(callback, keras.callbacks.LambdaCallback)


def _logged_by(callbacks: Sequence[Any]) -> list[str]:
    import keras

    kinds = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
    return ["learning_rate"] if any(isinstance(c, kinds) for c in callbacks) else []
