"""Fitted pipelines in MLflow's Spark flavour. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spark_dlobd.processes.versions import requirements

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from pyspark.ml import PipelineModel


def log_pipeline_model(
    pipeline_model: PipelineModel,
    name: str = "pipeline",
    *,
    run_id: str | None = None,
    registered_model_name: str | None = None,
    dfs_tmpdir: str | None = None,
    pip_requirements: list[str] | None = None,
) -> ModelInfo:
    """Log a fitted pipeline in MLflow's Spark flavour. Runs on the driver.

    Spark writes the model into `dfs_tmpdir`, the driver uploads it: executors need
    no access to MLflow's artifact store. Loading it as a ``pyfunc`` needs an output
    column named ``prediction``.

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

    Returns
    -------
    mlflow.models.model.ModelInfo
        Among others ``model_uri``.

    Examples
    --------
    >>> info = log_pipeline_model(pipeline_model, run_id=tracker.run_id)  # doctest: +SKIP
    >>> scored = mlflow.spark.load_model(info.model_uri).transform(df)  # doctest: +SKIP
    """
    import mlflow.spark
    from mlflow.models import Model

    # mlflow.spark.log_model first lets Spark write to the artifact store itself,
    # which logs a long Java error for every store that Hadoop does not know.
    info: ModelInfo = Model.log(
        None,
        mlflow.spark,
        name=name,
        run_id=run_id,
        registered_model_name=registered_model_name,
        spark_model=pipeline_model,
        dfs_tmpdir=dfs_tmpdir,
        pip_requirements=pip_requirements or _pipeline_requirements(),
    )
    return info


def _pipeline_requirements() -> list[str]:
    packages = ("spark_dlobd", "pyspark", "tensorflow", "keras", "petastorm", "pyarrow")
    return requirements(*packages, "numpy", "pandas")
