"""Files of the data sets and generated images, without Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from spark_dlobd.characterize.subjects import cifar, datasets, frames, generated
from spark_dlobd.characterize.subjects.folder import scan_folder
from spark_dlobd.errors import ConfigurationError, DataError


def record(label: int, red: int, green: int, blue: int) -> bytes:
    """An image of one colour whose second pixel of the first row is black."""
    planes = [bytes([colour, 0]) + bytes([colour]) * 1022 for colour in (red, green, blue)]
    return bytes([label]) + b"".join(planes)


def write_cifar(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate((*cifar.TRAIN_FILES, *cifar.TEST_FILES)):
        (folder / name).write_bytes(record(number, 10, 20, 30) + record(9, 40, 50, 60))
    return folder


def test_cifar_planes_become_pixels(tmp_path: Path) -> None:
    (x_train, y_train), (x_test, y_test) = cifar.load_cifar10(write_cifar(tmp_path / "cifar"))
    assert x_train.shape == (10, 32, 32, 3) and x_train.dtype == np.uint8
    assert y_train.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert y_test.tolist() == [5, 9]
    assert x_test[0, 0, :2].tolist() == [[10, 20, 30], [0, 0, 0]]
    assert x_test[0, 1, 0].tolist() == [10, 20, 30]
    assert x_test[1, 31, 31].tolist() == [40, 50, 60]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes, expected a multiple of 3,073"),
        (record(1, 0, 0, 0)[:-1], "has 3,072 bytes, expected a multiple of 3,073"),
        (record(10, 0, 0, 0), "holds label 10, expected 0 to 9"),
    ],
)
def test_broken_cifar_file(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_cifar(tmp_path / "cifar")
    (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_3\.bin {message}"):
        cifar.load_cifar10(folder)


def test_missing_cifar_file_says_where_to_get_it(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "cifar")
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin does not exist.*cs\.toronto\.edu"):
        cifar.load_cifar10(folder)


def test_cifar_is_not_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"is not on this machine.*generated-cifar10"):
        cifar.load_cifar10()


def test_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10 = pytest.importorskip("keras.datasets.cifar10")

    def unreachable() -> None:
        raise Exception("URL fetch failure on https://www.cs.toronto.edu")

    monkeypatch.setattr(cifar10, "load_data", unreachable)
    with pytest.raises(DataError, match=r"could not load CIFAR-10: URL fetch failure.*data_batch"):
        cifar.load_cifar10(download=True)


def test_keras_labels_lose_their_second_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10 = pytest.importorskip("keras.datasets.cifar10")
    images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.array([[3], [7]])
    monkeypatch.setattr(cifar10, "load_data", lambda: ((images, labels), (images, labels)))
    (_, y_train), _ = cifar.load_cifar10(download=True)
    assert y_train.tolist() == [3, 7]


def write_images(folder: Path, per_class: int, classes: int = 2, suffix: str = ".png") -> Path:
    for label in range(classes):
        directory = folder / f"n{label:02}"
        directory.mkdir(parents=True)
        for number in range(per_class):
            image = Image.new("RGB", (8, 4), (40 * label, number, 200))
            image.save(directory / f"{number:02}{suffix}")
    return folder


def test_every_fifth_image_of_a_class_is_for_testing(tmp_path: Path) -> None:
    found = scan_folder(write_images(tmp_path / "all", 6), classes=2)
    assert found.class_names == ("n00", "n01")
    assert [(Path(path).name, label) for path, label in found.test] == [
        ("04.png", 0),
        ("04.png", 1),
    ]
    assert [label for _, label in found.train] == [0] * 5 + [1] * 5


def test_train_and_val_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "train", 2)
    write_images(tmp_path / "set" / "val", 1, suffix=".JPEG")
    (tmp_path / "set" / "train" / "n00" / "notes.txt").write_text("no image")
    found = scan_folder(tmp_path / "set", classes=2)
    assert len(found.train) == 4
    assert [Path(path).name for path, _ in found.test] == ["00.JPEG", "00.JPEG"]


def test_only_the_first_classes_are_taken(tmp_path: Path) -> None:
    found = scan_folder(write_images(tmp_path / "all", 1, classes=4), classes=3)
    assert found.class_names == ("n00", "n01", "n02")


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone is not a folder.*at least 2 directories"):
        scan_folder(tmp_path / "gone", 2)
    folder = write_images(tmp_path / "all", 1)
    with pytest.raises(DataError, match=r"holds 2 class directories. Expected .* at least 3"):
        scan_folder(folder, 3)
    (folder / "n01" / "00.png").unlink()
    with pytest.raises(DataError, match=r"n01 holds no image. Expected files that end in \.jpeg"):
        scan_folder(folder, 2)
    write_images(tmp_path / "half" / "train", 1)
    with pytest.raises(DataError, match="holds 'train' but no 'val'"):
        scan_folder(tmp_path / "half", 2)


def test_images_of_any_size_and_mode_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (30, 20), 77).save(path)
    pixels = frames.decode_file(str(path), 4, 6)
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 77).all()


def test_broken_images_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((30, 20), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.png cannot be decoded.*JPEG or PNG"):
        frames.decode_file(str(path), 4, 4)
    path.write_text("hello")
    with pytest.raises(DataError, match=r"cut\.png cannot be decoded"):
        frames.decode_file(str(path), 4, 4)
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded"):
        frames.decode_file(str(tmp_path / "gone.png"), 4, 4)


def drawn(rows: range, seed: int = 0, test: bool = False) -> tuple[Any, Any]:
    batch = pa.RecordBatch.from_arrays([pa.array(rows, pa.int64())], names=["id"])
    parts = list(generated.draw_batches(iter([batch]), (28, 28, 1), 10, seed, test))
    images = [np.frombuffer(b, np.uint8) for part in parts for b in part.column(0).to_pylist()]
    return np.stack(images), np.concatenate([part.column(1).to_numpy() for part in parts])


def test_a_generated_row_depends_on_its_number_alone() -> None:
    whole, labels = drawn(range(12))
    tail, tail_labels = drawn(range(9, 12))
    np.testing.assert_array_equal(whole[9:], tail)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert tail_labels.tolist() == [9, 0, 1]


def test_seed_and_split_give_other_images() -> None:
    first = drawn(range(3))[0]
    assert (first != drawn(range(3), seed=1)[0]).mean() > 0.9
    assert (first != drawn(range(3), test=True)[0]).mean() > 0.9


def test_generated_classes_can_be_learned_but_not_perfectly() -> None:
    """The nearest class mean, learned from training rows, decides on test rows."""
    x, y = drawn(range(2000))
    means = np.stack([x[y == label].mean(axis=0) for label in range(10)])
    x_test, y_test = drawn(range(1000), test=True)
    distances = ((x_test[:, None, :] - means[None]) ** 2).sum(axis=2)
    accuracy = float((distances.argmin(axis=1) == y_test).mean())
    assert 0.85 < accuracy < generated.BEST_ACCURACY + 0.03


def test_generated_data_are_always_called_generated() -> None:
    for name in datasets.dataset_names():
        entry = datasets.get_dataset(name)
        assert entry.generated == name.startswith("generated-") == entry.title.startswith("gen")


def test_paths_are_checked(tmp_path: Path) -> None:
    def check(name: str, path: str | None) -> None:
        datasets.check_path(datasets.get_dataset(name), path)

    check("mnist", None)
    check("imagenet", str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"'imagenet' needs the path .* 'generated-imagenet'"
    ):
        check("imagenet", None)
    with pytest.raises(ConfigurationError, match=r"'generated-mnist' takes no path. Got '/data'"):
        check("generated-mnist", "/data")
    with pytest.raises(
        ConfigurationError, match="path of data 'mnist' is not a folder: '/no/such'"
    ):
        check("mnist", "/no/such")


def test_unknown_data_lists_the_names() -> None:
    with pytest.raises(ConfigurationError, match=r"'mnist', 'cifar10'.*Got 'svhn'"):
        datasets.get_dataset("svhn")


def test_a_part_of_a_folder_keeps_all_classes() -> None:
    files = [(f"{label}-{i}", label) for label in range(3) for i in range(4)]
    assert [label for _, label in datasets._spread(files, 6)] == [0, 0, 1, 1, 2, 2]
    assert datasets._spread(files, 99) == files
