"""Which tensors a Keras model takes and gives, by name. Keras is imported late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dlobd.errors import ModelError
from spark_dlobd.job.columns import Stored, Structure, TensorColumn


@dataclass(frozen=True)
class Tensor:
    """One input or output of a network.

    Attributes
    ----------
    name : str
        As Keras names it, or its key where inputs are a dict.
    shape : tuple of int
        Of one row.
    dtype : str
        E.g. ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def column(self, part: str) -> TensorColumn:
        """Rows as the network takes them, of no column yet."""
        stored: Stored = "text" if self.dtype == "string" else "tensor"
        name = part or self.name
        return TensorColumn(name, self.dtype, self.shape, part=part, stored=stored)


@dataclass(frozen=True)
class Signature:
    """Inputs or outputs of a network.

    Attributes
    ----------
    tensors : tuple of Tensor
        In the network's order.
    structure : Structure
        How Keras takes or gives them. Parts of a single one have no name.
    """

    tensors: tuple[Tensor, ...]
    structure: Structure

    @property
    def parts(self) -> tuple[str, ...]:
        """Name of each tensor within `structure`."""
        return self.structure.names


def inputs_of(model: Any) -> Signature:
    """Inputs of a built model.

    Raises
    ------
    ModelError
        If the model does not say what it takes, or an axis has no fixed length.
    """
    tensors = getattr(model, "inputs", None)
    if tensors:
        return _symbolic(
            model, list(tensors), _symbolic_structure(model, "input", tensors), "takes"
        )
    built = (model.get_build_config() or {}).get("input_shape")
    named = _shapes_by_name(model, built)
    single = len(named) == 1 and not isinstance(built, dict)
    kind = Structure() if single else _structure(built, tuple(named))
    dtype = str(model.input_dtype)
    found = (Tensor(name, _fixed(model, shape, "takes"), dtype) for name, shape in named.items())
    return Signature(tuple(found), kind)


def outputs_of(model: Any) -> Signature:
    """Outputs of a built model.

    Raises
    ------
    ModelError
        If an axis has no fixed length, or an output is no tensor.
    """
    tensors = getattr(model, "outputs", None)
    if tensors:
        structure = _symbolic_structure(model, "output", tensors)
        return _symbolic(model, list(tensors), structure, "gives")
    outputs = model.compute_output_spec(symbolic(inputs_of(model)))
    if hasattr(outputs, "shape"):
        return _symbolic(model, [outputs], Structure(), "gives")
    if isinstance(outputs, dict):
        names = tuple(sorted(outputs))
        found = [outputs[name] for name in names]
        return _symbolic(model, found, Structure("dict", names), "gives")
    names = tuple(f"output_{place}" for place in range(1, len(outputs) + 1))
    structure = Structure("list", names) if len(names) > 1 else Structure()
    return _symbolic(model, list(outputs), structure, "gives")


def symbolic(signature: Signature, rows: int | None = None) -> Any:
    """Keras tensors of a signature, as the network takes them."""
    import keras

    pairs = zip(signature.parts, signature.tensors, strict=True)
    found = {part: keras.KerasTensor((rows, *one.shape), one.dtype) for part, one in pairs}
    return signature.structure.packed(found)


def tensors_by_part(result: Any, structure: Structure) -> dict[str, Any]:
    """What a call of the network gave, by name."""
    if structure.kind == "dict":
        return {name: result[name] for name in structure.names}
    several = list(result) if isinstance(result, (list, tuple)) else [result]
    return dict(zip(structure.names, several, strict=True))


def _symbolic_structure(model: Any, side: str, tensors: list[Any]) -> Structure:
    whole = getattr(model, side, None)
    if isinstance(whole, dict) and (len(tensors) > 1 or side == "output"):
        return Structure("dict", tuple(sorted(whole)))
    if len(tensors) == 1:
        return Structure()
    if not isinstance(whole, (list, tuple)) or len(whole) != len(tensors):
        raise ModelError(
            f"Model {model.name!r} nests its {side}s. They have to be a list or a dict of tensors, "
            f"as in keras.Model(inputs=[a, b], outputs={{'x': x, 'y': y}})."
        )
    names = [one.name for one in tensors] if side == "input" else list(model.output_names)
    return Structure("list", tuple(names))


def _symbolic(model: Any, tensors: list[Any], structure: Structure, verb: str) -> Signature:
    if any(not hasattr(one, "shape") for one in tensors):
        raise ModelError(f"Model {model.name!r} {verb} something that is no tensor.")
    names = structure.names if structure.kind != "one" else [tensors[0].name]
    found = (
        Tensor(name, _fixed(model, tuple(one.shape), verb), str(one.dtype))
        for name, one in zip(names, tensors, strict=True)
    )
    return Signature(tuple(found), structure)


def _shapes_by_name(model: Any, shape: Any) -> dict[str, tuple[Any, ...]]:
    """Shapes that a subclassed model was built with."""
    if isinstance(shape, dict):
        return {name: tuple(shape[name]) for name in sorted(shape)}
    if isinstance(shape, (list, tuple)) and shape:
        if all(isinstance(one, (list, tuple)) for one in shape):
            return {f"input_{place}": tuple(one) for place, one in enumerate(shape, start=1)}
        if not any(isinstance(one, (list, tuple, dict)) for one in shape):
            return {"input": tuple(shape)}
    raise ModelError(
        f"Model {model.name!r} does not say which inputs it takes (got {shape!r}). "
        "Call it once on a batch of data before passing it: a tensor, or a list or dict of tensors."
    )


def _structure(shape: Any, names: tuple[str, ...]) -> Structure:
    return Structure("dict" if isinstance(shape, dict) else "list", names)


def _fixed(model: Any, batch_shape: tuple[Any, ...], verb: str) -> tuple[int, ...]:
    shape = tuple(batch_shape)[1:]
    if any(extent is None for extent in shape):
        hint = " Give it in keras.Input(shape=...)." if verb == "takes" else ""
        raise ModelError(
            f"Model {model.name!r} {verb} rows of shape {shape}; every axis needs a fixed "
            f"length.{hint}"
        )
    return tuple(int(extent) for extent in shape)
