"""Types of tensors as MLflow's schemas know them: those of numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Numpy's type of a tensor: bfloat16 is float32 outside of the network, strings are str.

    Examples
    --------
    >>> numpy_type("string"), numpy_type("bfloat16")
    (dtype('<U'), dtype('float32'))
    """
    import numpy as np

    return np.dtype({"bfloat16": "float32", "string": "str"}.get(dtype, dtype))
