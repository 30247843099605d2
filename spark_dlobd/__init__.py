"""Keras models trained and applied inside Spark ML Pipelines."""
