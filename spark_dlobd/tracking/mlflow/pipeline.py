"""Fitted pipelines in MLflow's Spark flavour. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spark_dlobd.processes.versions import requirements

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame


def log_pipeline_model(
    pipeline_model: PipelineModel,
    name: str = "pipeline",
    *,
    run_id: str | None = None,
    registered_model_name: str | None = None,
    dfs_tmpdir: str | None = None,
    pip_requirements: list[str] | None = None,
    example: DataFrame | None = None,
) -> ModelInfo:
    """Log a fitted pipeline in MLflow's Spark flavour. Runs on the driver.

    Spark writes the model into `dfs_tmpdir`, the driver uploads it: executors need
    no access to MLflow's artifact store. Loaded as a ``pyfunc`` it takes a pandas DataFrame
    and returns one with the columns that the model adds: images are bytes, arrays and
    vectors lists.

    Parameters
    ----------
    pipeline_model : pyspark.ml.PipelineModel
        Every stage must be writable and importable where it is loaded.
    name : str, optional
        Name of the model. Default ``"pipeline"``.
    run_id : str, optional
        The run it belongs to, e.g. ``MlflowTracker.run_id``, on MLflow's current
        tracking URI. Default is the active run; without one the model belongs to
        the current experiment alone.
    registered_model_name : str, optional
        Also register it under this name.
    dfs_tmpdir : str, optional
        Directory that driver and executors share. Default is MLflow's
        (MLFLOW_DFS_TMP).
    pip_requirements : list of str, optional
        Default is the installed versions of this library, PySpark, TensorFlow,
        Keras, petastorm, PyArrow, numpy and pandas.
    example : pyspark.sql.DataFrame, optional
        Rows as they will be scored. Their columns and those that the model adds become its
        signature, which MLflow checks what it is given against. No rows are read.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Among others ``model_uri``.

    Examples
    --------
    >>> rows = df.select("age", "photo")  # doctest: +SKIP
    >>> info = log_pipeline_model(
    ...     pipeline_model, run_id=tracker.run_id, example=rows
    ... )  # doctest: +SKIP
    >>> mlflow.pyfunc.load_model(info.model_uri).predict(rows.toPandas())  # doctest: +SKIP
    >>> scored = mlflow.spark.load_model(info.model_uri).transform(df)  # doctest: +SKIP
    """
    from mlflow.models import Model

    from spark_dlobd.tracking.mlflow import pandas_flavour

    # mlflow.spark.log_model first lets Spark write to the artifact store itself,
    # which logs a long Java error for every store that Hadoop does not know.
    info: ModelInfo = Model.log(
        None,
        pandas_flavour,
        name=name,
        run_id=run_id,
        registered_model_name=registered_model_name,
        spark_model=pipeline_model,
        dfs_tmpdir=dfs_tmpdir,
        pip_requirements=pip_requirements or _pipeline_requirements(),
        signature=None if example is None else pandas_flavour.signature_of(pipeline_model, example),
    )
    return info


def _pipeline_requirements() -> list[str]:
    packages = ("spark_dlobd", "pyspark", "tensorflow", "keras", "petastorm", "pyarrow")
    return requirements(*packages, "numpy", "pandas")
