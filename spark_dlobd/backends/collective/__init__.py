"""Allreduce with TensorFlow's own collectives, inside one barrier stage."""

from spark_dlobd.backends.collective.config import CollectiveConfig

__all__ = ["CollectiveConfig"]
