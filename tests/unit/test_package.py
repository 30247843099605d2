from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import pytest

import spark_dlobd
from spark_dlobd import errors


def test_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, spark_dlobd\n"
        "for name in getattr(spark_dlobd, '__all__', ()): getattr(spark_dlobd, name)\n"
        "heavy = {'tensorflow', 'keras', 'horovod', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_characterize_imports_nothing_heavy() -> None:
    code = (
        "import pkgutil, sys, importlib, spark_dlobd.characterize as package\n"
        "for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_all_is_sorted_and_resolvable() -> None:
    assert list(spark_dlobd.__all__) == sorted(spark_dlobd.__all__)
    assert len(set(spark_dlobd.__all__)) == len(spark_dlobd.__all__)
    missing = [name for name in spark_dlobd.__all__ if not hasattr(spark_dlobd, name)]
    assert missing == []


def test_every_public_object_has_a_docstring() -> None:
    objects = {name: getattr(spark_dlobd, name) for name in spark_dlobd.__all__}
    documented = {
        name: value
        for name, value in objects.items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    bare = [name for name, value in documented.items() if not (value.__doc__ or "").strip()]
    for name, value in documented.items():
        if not inspect.isclass(value):
            continue
        for attribute, member in vars(value).items():
            public = not attribute.startswith("_") and inspect.isfunction(member)
            if public and not inspect.getdoc(getattr(value, attribute)):
                bare.append(f"{name}.{attribute}")
    assert bare == []


def error_tree(root: type[errors.DLError]) -> list[type[errors.DLError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in error_tree(child))]


TREE = sorted(
    {kind for kind in error_tree(errors.DLError) if kind.__module__ == errors.__name__},
    key=lambda kind: kind.__name__,
)


def example(kind: type[errors.DLError]) -> errors.DLError:
    if issubclass(kind, errors.WorkerError):
        return kind("boom", 3, "host-7", "train epoch 2 step 17", "Traceback: boom")
    return kind("boom")


def test_the_whole_tree_is_covered() -> None:
    defined = {name for name, value in vars(errors).items() if name.endswith("Error")}
    assert {kind.__name__ for kind in TREE} == defined


@pytest.mark.parametrize("kind", TREE)
def test_error_survives_pickling(kind: type[errors.DLError]) -> None:
    error = example(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("kind", TREE)
def test_error_is_described_in_the_tree(kind: type[errors.DLError]) -> None:
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or "")


def test_worker_error_names_rank_host_phase_and_traceback() -> None:
    text = str(example(errors.WorkerLostError))
    assert text.startswith("Rank 3 on host-7 failed in phase 'train epoch 2 step 17': boom")
    assert "Original traceback of rank 3:\nTraceback: boom" in text


def test_configuration_errors_are_value_errors() -> None:
    assert issubclass(errors.MissingDependencyError, ValueError)
    assert issubclass(errors.TrainingTimeoutError, RuntimeError)
