"""Environment of a process that trains with TensorFlow."""

from __future__ import annotations

import os

# TensorFlow allocates and frees megabytes of activations every step. glibc would map and
# unmap them each time and the kernel clear every page again: a million page faults in 150
# steps of LeNet, 40 % of the step. With these it keeps the memory for the next step.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the highest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def tensorflow_environment(threads: int, gpus: list[str] | None) -> dict[str, str]:
    """Environment of a process that trains with TensorFlow. Pure but for the log level."""
    environment = {
        **KEEP_MEMORY,
        "KERAS_BACKEND": "tensorflow",
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment
