"""MLflow's Spark flavour, whose ``pyfunc`` takes and gives pandas. A flavour module of MLflow.

MLflow's own loader gives one column, which has to be called ``prediction``; a network of several
outputs has several.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame


def save_model(path: str, mlflow_model: Model, **options: Any) -> None:
    """Save as ``mlflow.spark`` does, and name this module as what loads the ``pyfunc``."""
    import mlflow.spark
    from mlflow.models.model import MLMODEL_FILE_NAME

    mlflow.spark.save_model(path=path, mlflow_model=mlflow_model, **options)
    mlflow_model.flavors["python_function"]["loader_module"] = __name__
    mlflow_model.save(str(Path(path, MLMODEL_FILE_NAME)))


def _load_pyfunc(path: str) -> PandasPipeline:
    """What MLflow calls; `path` is that of the Spark model."""
    from mlflow import spark

    loaded = spark._load_pyfunc(path)
    return PandasPipeline(loaded.spark, loaded.spark_model, loaded.signature)


class PandasPipeline:
    """A pipeline that scores pandas DataFrames.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        Where it scores.
    spark_model : pyspark.ml.PipelineModel
        What scores.
    signature : mlflow.models.ModelSignature or None
        Names the columns that are vectors, which pandas has not.
    """

    def __init__(
        self, spark: Any, spark_model: PipelineModel, signature: ModelSignature | None
    ) -> None:
        self.spark = spark
        self.spark_model = spark_model
        self.signature = signature

    def get_raw_model(self) -> PipelineModel:
        """The pipeline itself."""
        return self.spark_model

    def predict(self, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Score rows.

        Parameters
        ----------
        model_input : pandas.DataFrame
            A column for each that the pipeline reads: numbers, strings, bytes of images,
            lists and arrays.
        params : dict, optional
            MLflow's; there are none.

        Returns
        -------
        pandas.DataFrame
            The columns that the model adds, row by row; vectors as lists.
        """
        rows = self.spark.createDataFrame(model_input)
        return plain(scored_columns(self.spark_model, self._with_vectors(rows))).toPandas()

    def _with_vectors(self, rows: DataFrame) -> DataFrame:
        from mlflow.types.schema import SparkMLVector
        from pyspark.ml.functions import array_to_vector

        inputs = self.signature.inputs if self.signature is not None else None
        for column in inputs or ():
            if isinstance(column.type, SparkMLVector):
                rows = rows.withColumn(column.name, array_to_vector(column.name))
        return rows


def scored_columns(model: PipelineModel, rows: DataFrame) -> DataFrame:
    """The columns that this library's stages add and those behind them; else those of all."""
    stages = list(getattr(model, "stages", [model]))
    own = [type(stage).__module__.partition(".")[0] == "spark_dlobd" for stage in stages]
    first = own.index(True) if True in own else 0
    for stage in stages[:first]:
        rows = stage.transform(rows)
    given = set(rows.columns)
    for stage in stages[first:]:
        rows = stage.transform(rows)
    return rows.select([f"`{name}`" for name in rows.columns if name not in given])


def plain(rows: DataFrame) -> DataFrame:
    """Vectors as arrays."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F

    columns = [
        vector_to_array(F.col(f"`{field.name}`")).alias(field.name)
        if isinstance(field.dataType, VectorUDT)
        else F.col(f"`{field.name}`")
        for field in rows.schema
    ]
    return rows.select(columns)


def signature_of(model: PipelineModel, example: DataFrame) -> ModelSignature:
    """Signature by the types of some rows and of what the pipeline makes of them."""
    from mlflow.models import infer_signature

    return infer_signature(example, plain(scored_columns(model, example)))
