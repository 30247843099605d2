from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spark_dlobd.backends import registry
from spark_dlobd.characterize.show.dry_run import announcement, dry_run_table
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep, SweepSpec, transports
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.report.words import about_text


def spec(**values: Any) -> SweepSpec:
    return SweepSpec.from_mapping({"models": "softmax", "backends": "horovod", **values})


def cases(**values: Any) -> list[Case]:
    return list(spec(**values).expand().cases)


def test_every_registered_backend_can_be_named() -> None:
    assert set(registry.backend_names()) <= set(transports.backends())


def test_options_are_those_of_the_backends() -> None:
    """Every transport and compression makes a config that its class accepts."""
    for backend in registry.backend_names():
        for transport in transports.transports_of(backend):
            for compression in transports.compressions_of(backend):
                options = transports.backend_options(transport, compression)
                assert registry.from_param(options).create().name == backend


def test_global_batch_is_128_for_any_number_of_workers() -> None:
    assert [(c.workers, c.batch_size) for c in cases(workers=[1, 2, 4])] == [
        (1, 128),
        (2, 128),
        (4, 128),
    ]


def test_batch_per_worker_grows_with_workers() -> None:
    found = cases(workers=[1, 4], batch_per_worker=[32])
    assert [case.batch_size for case in found] == [32, 128]


def test_all_combinations_in_order() -> None:
    found = cases(models=["softmax", "lenet"], transports=["gloo", "mpi-tcp"], workers=[1, 2])
    assert len(found) == 2 * 2 * 2
    assert [(c.model, c.transport, c.workers) for c in found[:3]] == [
        ("softmax", "gloo", 1),
        ("softmax", "gloo", 2),
        ("softmax", "mpi-tcp", 1),
    ]


def test_repetitions_come_after_each_combination_ran_once() -> None:
    assert [(c.workers, c.repeat) for c in cases(repeats=2)] == [(1, 1), (2, 1), (1, 2), (2, 2)]


def test_a_backend_without_a_named_transport_takes_its_default() -> None:
    found = cases(backends=["horovod", "shuffle"], transports="mpi-tcp", workers=2)
    assert [case.transport for case in found] == ["mpi-tcp", "spark"]


def test_data_follow_the_model() -> None:
    found = cases(models=["lenet", "vgg16"], workers=1)
    assert [case.data for case in found] == ["mnist", "cifar10"]


def test_what_does_not_exist_is_left_out_and_said() -> None:
    sweep = spec(
        models=["lenet", "cifar10_quick"],
        data=["generated-mnist", "generated-cifar10"],
        backends=["parameter_server", "shuffle"],
        compression=["none", "bf16"],
        workers=[2],
    ).expand()
    assert [(c.model, c.data, c.backend, c.compression) for c in sweep.cases] == [
        (model, data, backend, compression)
        for model, data in (("lenet", "generated-mnist"), ("cifar10_quick", "generated-cifar10"))
        for backend, compression in (
            ("parameter_server", "none"),
            ("shuffle", "none"),
            ("shuffle", "bf16"),
        )
    ]
    assert sweep.left_out == (
        "lenet on generated-cifar10: it reads 28x28x1, the images are 32x32x3",
        "cifar10_quick on generated-mnist: it reads 32x32x3, the images are 28x28x1",
        "bf16 on parameter_server: it sends gradients as they are",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ["resnet"]}, r"models must be of 'softmax'.*Got 'resnet'"),
        ({"backends": ["spark"]}, r"backends must be of 'local', 'horovod'.*Got 'spark'"),
        ({"data": ["svhn"]}, r"data must be of 'mnist'.*Got 'svhn'"),
        ({"transports": ["rdma"]}, r"transports must be of .*'ucx-rdma'.*Got 'rdma'"),
        ({"compression": ["int8"]}, r"compression must be of 'none', 'fp16', 'bf16'. Got 'int8'"),
        ({"speed": 1}, r"A sweep has no speed. Its keys are models, backends"),
        ({"models": []}, r"A sweep needs models, for example"),
        ({"workers": [0]}, r"workers must be an int of at least 1. Got 0"),
        ({"workers": [True]}, r"Got True"),
        ({"batch": ["big"]}, r"batch must be an int of at least 1. Got 'big'"),
        ({"epochs": 1.5}, r"epochs must be an int of at least 1. Got 1.5"),
        ({"rows": 0}, r"rows must be an int of at least 1. Got 0"),
        ({"time_limit_s": 0}, r"time_limit_s must be above 0. Got 0"),
        ({"batch": 128, "batch_per_worker": 64}, "batch or batch_per_worker, not both"),
        ({"paths": "mnist"}, r"paths a mapping"),
        ({"paths": {"mnist": "/no/such"}}, r"'mnist' is not a folder: '/no/such'"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        spec(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": ["cifar10"]}, r"models: 'softmax' fits no .*it reads 28x28x1, the images are 32"),
        (
            {"backends": ["local"], "compression": ["none", "fp16"]},
            r"compression: 'fp16' fits no .*local: it sends gradients as they are",
        ),
        ({"batch": 4, "workers": [2, 8]}, r"workers: 8 fits no .*8 workers with a batch of 4"),
        ({"rows": 1, "workers": [1, 2]}, r"workers: 2 fits no .*2 workers with 1 rows"),
        (
            {"transports": ["gloo", "mpi-sm"], "link_mbit": [1000]},
            r"'mpi-sm' fits no .*over links of 1000 Mbit/s: it does not leave a host",
        ),
        (
            {"models": "alexnet"},
            r"'imagenet' needs the path of a folder.*or take 'generated-imagenet'",
        ),
    ],
)
def test_impossible_combinations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        spec(**values).expand()


def test_what_other_backends_and_models_would_use_is_noted_and_ignored() -> None:
    """As in a file of all backends, of which the command line names fewer."""
    sweep = spec(
        models="softmax", data=["generated-mnist", "generated-cifar10"], backends=["shuffle"],
        transports=["gloo", "mpi-tcp", "grpc"], workers=2,
    ).expand()  # fmt: skip
    assert [(c.data, c.transport) for c in sweep.cases] == [("generated-mnist", "spark")]
    assert sweep.left_out == (
        "softmax on generated-cifar10: it reads 28x28x1, the images are 32x32x3",
        "gloo: it is a transport of horovod, and the sweep has no such backend",
        "mpi-tcp: it is a transport of horovod, and the sweep has no such backend",
        "grpc: it is a transport of parameter_server, and the sweep has no such backend",
    )


def test_id_is_stable_and_tells_cases_apart() -> None:
    case = Case("lenet", "mnist", "horovod", "gloo", 2)
    assert case.id == "lenet-mnist-horovod-gloo-w2-b128-r1-9473e015"
    assert Case("lenet", "mnist", "horovod", "gloo", 2, time_limit_s=5).id == case.id
    found = cases(
        models=["lenet", "softmax"],
        workers=[1, 2],
        compression=[None, "fp16"],
        link_mbit=[None, 1000],
        repeats=2,
    )
    assert len({case.id for case in found}) == len(found) == 32


def test_case_survives_json() -> None:
    case = Case("lenet", "mnist", "horovod", "gloo", 2, link_mbit=1000, repeat=3)
    assert Case.from_json(case.to_json()) == case
    with pytest.raises(ConfigurationError, match=r"A case has no colour. Its fields are"):
        Case.from_json({**case.to_json(), "colour": "red"})
    with pytest.raises(ConfigurationError, match=r"cannot be read.*workers"):
        Case.from_json({"model": "lenet", "data": "mnist", "backend": "local", "transport": "p"})


def test_yaml_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"""
        name: two cores
        models: [lenet, softmax]
        backends: [horovod, shuffle]
        paths: {{mnist: {tmp_path}}}
        transports: [gloo, mpi-tcp]
        workers: [1, 2]
        compression: [none, bf16]
        link_mbit: [null, 1000]
        repeats: 3
        """
    )
    settings = [
        "name=two cores",
        "models=lenet,softmax",
        "backends=horovod,shuffle",
        f"paths=mnist:{tmp_path}",
        "transports=gloo,mpi-tcp",
        "workers=1,2",
        "compression=none,bf16",
        "link_mbit=none,1000",
        "repeats=3",
    ]
    assert SweepSpec.from_yaml(path) == SweepSpec.from_settings(settings)
    assert SweepSpec.from_yaml(path, ["repeats=1", "rows=500"]) == SweepSpec.from_settings(
        [*settings, "repeats=1", "rows=500"]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: [", r"sweep\.yaml cannot be read"),
        ("- lenet", r"must hold keys such as 'models' and 'backends'. Got list"),
        ("", r"Got NoneType"),
    ],
)
def test_broken_yaml(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        SweepSpec.from_yaml(path)


def test_broken_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.yaml cannot be read"):
        SweepSpec.from_yaml("gone.yaml")
    with pytest.raises(ConfigurationError, match=r"key=value,value. Got 'workers'"):
        SweepSpec.from_settings(["workers"])
    with pytest.raises(ConfigurationError, match=r"mnist:/data/mnist. Got '/data'"):
        SweepSpec.from_settings(["paths=/data"])


def test_one_process_is_no_row_of_workers() -> None:
    sweep = spec(backends=["local", "horovod"], workers=[1, 2]).expand()
    assert [(case.backend, case.workers) for case in sweep.cases] == [
        ("local", 1),
        ("horovod", 1),
        ("horovod", 2),
    ]
    assert sweep.left_out == ("2 workers of local: they would take turns in one process",)
    assert [case.workers for case in spec(backends=["local"]).expand().cases] == [1]
    measured_by_it = spec(backends=["local", "shuffle"], workers=[2, 4]).expand()
    assert [(c.backend, c.workers) for c in measured_by_it.cases] == [
        ("local", 1),
        ("shuffle", 2),
        ("shuffle", 4),
    ]
    with pytest.raises(ConfigurationError, match="2 workers of local: they would take turns"):
        spec(backends=["local"], workers=[2]).expand()


def printed(sweep: Sweep, **arguments: Any) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(dry_run_table(sweep, **arguments))
        console.print("\n".join(announcement(sweep, **arguments)))
    return capture.get()


def test_dry_run_lists_what_runs_and_how_long() -> None:
    sweep = spec(
        data="generated-mnist", workers=[1, 2], repeats=3, backends=["local", "horovod"],
        compression=["none", "fp16"], time_limit_s=60,
    ).expand()  # fmt: skip
    assert len(sweep.cases) == (1 + 2 * 2) * 3
    done = {case.id for case in sweep.cases if case.backend == "local"}
    text = printed(sweep, estimate=lambda case: 10.0 * case.workers, done=done)
    lines = [line.split("│")[1:-1] for line in text.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert rows[0][-4:] == ["fp32", "3", "3", "-"]
    assert rows[1][-4:] == ["fp32", "3", "0", "30 s"]
    assert rows[2][2:] == ["horovod", "Gloo over TCP", "2", "128", "fp32", "3", "0", "60 s"]
    assert "12 of 15 runs to do, about 3.0 min; by their time limits 12 min at most." in text
    assert "Drawn by a program, not real images: generated-mnist." in text
    assert "Left out: fp16 on local: it sends gradients as they are." in text


def test_dry_run_without_an_estimate() -> None:
    text = printed(spec(link_mbit=[None, 1000], workers=2).expand())
    assert "1000 Mbit/s" in text and "own" in text
    assert "2 of 2 runs to do; by their time limits 20 min at most." in text


def test_durations() -> None:
    assert [about_text(s) for s in (0, 99, 150, 1200, 7200)] == [
        "0 s",
        "99 s",
        "2.5 min",
        "20 min",
        "2.0 h",
    ]
