"""Chains of Python stages joined by shuffles of raw bytes: all of Spark's internals we use.

Runs on the driver. PySpark's own ``partitionBy`` pickles records and sends every stage's
function through cloudpickle; here a record is one ``bytes`` and a function is pickled once
for all stages that run it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pyspark

if TYPE_CHECKING:
    from pyspark import SparkContext

StageFunction = Callable[[int, Iterator[bytes]], Iterable[bytes]]
_PLACING = "spark_dlobd.placing"


class Exchange:
    """Stages of `partitions` tasks each, every task at its own place.

    Parameters
    ----------
    context : pyspark.SparkContext
        The classic context.
    partitions : int
        Tasks of every stage.
    warm_up : callable
        Run once by every task of the first stage; it must return an iterable of
        nothing. Where it ran is where Spark runs that partition of every later stage, as
        long as the executor lives.
    """

    def __init__(self, context: SparkContext, partitions: int, warm_up: StageFunction) -> None:
        self._context = context
        self._jvm: Any = context._jvm
        self.partitions = partitions
        source = context.parallelize(range(partitions), partitions)
        places = source.mapPartitionsWithIndex(functools.partial(_take_place, warm_up, partitions))
        places._bypass_serializer = True  # type: ignore[attr-defined]
        self._places: Any = places._jrdd
        self._places.cache()

    def place(self) -> None:
        """Run the first stage."""
        self._context._jsc.setCallSite("build model")
        self._context.setLocalProperty(_PLACING, "true")
        try:
            self._places.count()
        finally:
            self._context.setLocalProperty(_PLACING, None)  # type: ignore[arg-type]

    def function(self, stage: StageFunction) -> Any:
        """Pickle what a stage runs, for any number of stages."""
        from pyspark.serializers import NoOpSerializer

        raw = NoOpSerializer()  # type: ignore[no-untyped-call]
        return _private("_wrap_function", "core.rdd")(self._context, stage, raw, raw)

    def chain(self, stages: Iterable[tuple[str, Any]]) -> Chain:
        """Join stages; the records of the last are what the chain collects.

        Parameters
        ----------
        stages : iterable of (str, function)
            What Spark's UI shows and what `function` returned. All but the last must
            yield, in turns, the partition that a record goes to (``pack_long``) and
            the record, `partitions` times. Every stage sees an empty record besides
            each record.
        """
        partitioner = self._jvm.PythonPartitioner(self.partitions, 0)
        current = self._places
        shuffles: list[Any] = []
        described = list(stages)
        for index, (name, function) in enumerate(described):
            self._context._jsc.setCallSite(name)
            stage = self._jvm.PythonRDD(current.rdd(), function, False, False)
            if index == len(described) - 1:
                return Chain(self._context, name, stage, shuffles)
            pairs = self._jvm.PairwiseRDD(stage).asJavaPairRDD().partitionBy(partitioner)
            shuffles.append(pairs)
            # Spark asks the first side of a zip where its tasks should run
            current = self._places.zip(self._jvm.PythonRDD.valueOfPair(pairs))
        raise ValueError("a chain needs at least one stage")

    def close(self) -> None:
        """Forget the places."""
        self._places.unpersist(False)


def _private(name: str, module: str) -> Any:
    """A function of PySpark; before Spark 4 all of them were in one module."""
    module = "rdd" if pyspark.__version__.startswith("3.") else module
    return getattr(importlib.import_module(f"pyspark.{module}"), name)


class Chain:
    """One Spark job."""

    def __init__(self, context: SparkContext, name: str, last: Any, shuffles: list[Any]) -> None:
        self._context = context
        self._name = name
        self._last = last
        self._shuffles = shuffles

    def collect(self) -> list[bytes]:
        """Run the job; one record per yield of the last stage."""
        from pyspark.serializers import NoOpSerializer

        # as RDD.collect does, which would call the stage "collect at ..."
        self._context._jsc.setCallSite(self._name)
        jvm: Any = self._context._jvm
        served = jvm.PythonRDD.collectAndServe(self._last)
        raw = NoOpSerializer()  # type: ignore[no-untyped-call]
        records: Any = _private("_load_from_socket", "util")(served, raw)
        if not isinstance(records, AbstractContextManager):  # in Spark 4.0
            return list(records)
        with records as stream:
            return list(stream)

    def remove_shuffles(self) -> None:
        """Delete the shuffle files now; Spark itself would wait for a garbage collection."""
        cleaner = self._context._jsc.sc().cleaner()
        if cleaner.isEmpty():
            return
        for pairs in self._shuffles:
            shuffle = pairs.rdd().dependencies().apply(0).shuffleId()
            cleaner.get().doCleanupShuffle(shuffle, False)
        self._shuffles = []


def _take_place(
    warm_up: StageFunction, partitions: int, index: int, records: Iterator[Any]
) -> Iterator[bytes]:
    """Runs on each worker. An empty record for every partition.

    Spark also runs this for a place that was lost, in a second Python worker beside that
    of the stage which needs it: there is nothing to warm up then.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is not None and context.getLocalProperty(_PLACING) == "true":
        yield from warm_up(index, records)
    else:
        for _ in records:
            pass
    yield from [b""] * partitions
