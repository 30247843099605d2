"""Allreduce with Horovod over Gloo or MPI, inside one barrier stage."""

from spark_dlobd.backends.horovod.config import HorovodConfig

__all__ = ["HorovodConfig"]
