"""Test accuracy of LeNet on MNIST after 2 epochs, with both controllers.

``python -m benchmarks.accuracy``: 2 workers, global batch 128. The figure is the
lower of the two.
"""

from __future__ import annotations

from typing import Any

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from spark_dlobd import HorovodConfig


def main() -> None:
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator

    (x, y), (x_test, y_test) = mnist()
    spark = session()
    train, test = frame(spark, x, y), frame(spark, x_test, y_test)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    accuracy: dict[str, float] = {}
    losses: dict[str, Any] = {}
    for controller in ("gloo", "mpi"):
        config = HorovodConfig(controller=controller)  # type: ignore[arg-type]
        model = estimator(epochs=2, backend=config).fit(train)
        accuracy[controller] = evaluator.evaluate(model.transform(test))
        losses[controller] = [round(value, 5) for value in model.history["loss"]]
        print(f"{controller}: {accuracy[controller]:.4f}", flush=True)
    spark.stop()
    print_result(
        "accuracy",
        min(accuracy.values()),
        wanted=">= 0.985",
        accuracy=accuracy,
        loss=losses,
    )


if __name__ == "__main__":
    main()
