"""Asynchronous training through TensorFlow's parameter servers inside Spark tasks."""
