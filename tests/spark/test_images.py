"""Columns of images: the same pixels in fit, transform, evaluate and predict, and broken files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from PIL import Image

from spark_dlobd import DLEstimator, DLModel, ImageColumn
from spark_dlobd.data.images import decode_images
from spark_dlobd.data.materialize import materialize
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.estimators.columns import input_columns
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.plan import ShardPlan
from spark_dlobd.training.signature import Tensor

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SIZE = (8, 6)


def picture(number: int) -> Image.Image:
    """Red for odd numbers, blue for even ones, in many sizes."""
    height, width = 20 + 3 * number, 30 + 2 * number
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0 if number % 2 else 2] = 200 + number
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        kind = "png" if number % 3 == 0 else "jpeg"
        picture(number).save(folder / f"{number:02d}.{kind}")
    return folder


@pytest.fixture(scope="module")
def files(spark: SparkSession, folder: Path) -> DataFrame:
    read = spark.read.format("binaryFile").load(str(folder))
    number = "int(regexp_extract(path, '(\\\\d+)\\\\.', 1))"
    rows = read.selectExpr("content photo", f"{number} number", f"{number} % 2 label")
    return rows.coalesce(2).cache()


def network() -> Any:
    keras.utils.set_random_seed(0)
    photo = keras.Input((*SIZE, 3), name="photo")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(photo))
    return keras.Model(photo, keras.layers.Dense(2, "softmax")(mean))


def estimator(**changes: Any) -> DLEstimator:
    settings: dict[str, Any] = {
        "model": network(),
        "inputs": {"photo": ImageColumn("photo", size=SIZE)},
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "optimizer": "sgd",
        "learningRate": 2.0,
        "epochs": 10,
        "batchSize": 4,
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(**{**settings, **changes})


@pytest.fixture(scope="module")
def fitted(files: DataFrame) -> DLModel:
    return estimator().fit(files)


def test_trains_scores_and_is_saved(fitted: DLModel, files: DataFrame, tmp_path: Path) -> None:
    assert fitted.history["accuracy"][-1] == 1.0
    scored = fitted.transform(files)
    assert scored.filter("prediction = label").count() == 12
    assert fitted.evaluate(files)["loss"] == pytest.approx(
        float(np.mean([-np.log(r.probability[r.label]) for r in scored.collect()])), rel=1e-5
    )
    fitted.write().save(f"file://{tmp_path}/model")
    loaded = DLModel.load(f"file://{tmp_path}/model")
    columns = ["number", "probability"]
    assert loaded.transform(files).select(columns).collect() == scored.select(columns).collect()
    first = files.orderBy("number").first()
    assert loaded.predict(bytes(first.photo)) == first.label


def test_an_application_of_keras_trains_and_scores(files: DataFrame) -> None:
    """A real network, with batch norms and depthwise convolutions."""
    keras.utils.set_random_seed(0)
    net = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=2)
    photo = ImageColumn("photo", size=(32, 32))
    flips = keras.layers.RandomFlip()
    model = estimator(
        model=net, inputs={"photo": photo}, epochs=1, learningRate=0.01, transformation=flips
    ).fit(files)
    rows = model.transform(files).orderBy("number").limit(3).collect()
    pixels = decode_images(np.array([r.photo for r in rows], object), _column((32, 32)))
    wanted = model.getKerasModel().predict(pixels.astype("float32"), verbose=0)
    found = np.stack([row.probability.toArray() for row in rows])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def _column(size: tuple[int, int]) -> TensorColumn:
    return TensorColumn("photo", "uint8", (*size, 3), stored="image")


def test_rows_lie_encoded_and_are_decoded_by_the_reader(files: DataFrame) -> None:
    stage = DLModel(inputs={"photo": ImageColumn("photo", size=SIZE)})
    tensor = Tensor("photo", (*SIZE, 3), "float32")
    inputs = input_columns(stage, files.schema, [tensor], [""])
    columns = ColumnSpec(inputs, (TensorColumn("number", "float32", ()),))
    encoded = sum(len(row.photo) for row in files.collect())
    with materialize(files, columns) as data:
        assert data.bytes < 1.1 * encoded + 10_000
        plan = ShardPlan.of(data.train, 1, 4, seed=0)
        for block in ShardReader(data, "train", plan, 0).blocks():
            pixels, numbers = block.arrays
            assert pixels.dtype == np.uint8 and pixels.shape[1:] == (*SIZE, 3)
            for image, number in zip(pixels, numbers, strict=True):
                wanted = 0 if number % 2 else 2
                assert np.abs(image[..., wanted].astype(int) - (200 + number)).max() <= 3


def test_sparks_image_struct_gives_the_same(
    spark: SparkSession, folder: Path, fitted: DLModel, files: DataFrame
) -> None:
    struct = (
        spark.read.format("image")
        .load(str(folder))
        .selectExpr("image photo", "int(regexp_extract(image.origin, '(\\\\d+)\\\\.', 1)) number")
    )
    ours = {r.number: r.probability[1] for r in fitted.transform(files).collect()}
    theirs = {r.number: r.probability[1] for r in fitted.transform(struct).collect()}
    assert ours.keys() == theirs.keys()
    for number, probability in ours.items():
        assert theirs[number] == pytest.approx(probability, abs=0.02)


def test_broken_files_are_counted_with_what_is_wrong(
    spark: SparkSession, files: DataFrame, fitted: DLModel
) -> None:
    content = io.BytesIO()
    picture(1).save(content, "GIF")
    bad = [(bytearray(b""), 1), (bytearray(content.getvalue()), 0), (None, 1)]
    rows = files.select("photo", "label").union(
        spark.createDataFrame(bad, "photo binary, label int")
    )
    with pytest.raises(DataError) as caught:
        estimator(epochs=1).fit(rows)
    text = str(caught.value)
    assert "3 of 15 rows are not valid" in text
    assert "'photo' (features): 1 null" in text
    assert "'photo' (features): 2 no image that can be read: " in text
    assert "no bytes (0 bytes)" in text and "no JPEG, PNG or BMP (" in text
    model = estimator(epochs=1, handleInvalid="skip").fit(rows)
    assert (model.report["skipped_rows"], model.transform(rows).count()) == (3, 12)
    with pytest.raises(Exception, match="no image that can be read: no bytes"):
        fitted.transform(rows.filter("length(photo) = 0")).collect()


def test_the_broken_file_is_named_where_its_path_is_known(
    spark: SparkSession, folder: Path, fitted: DLModel, tmp_path: Path
) -> None:
    (tmp_path / "broken one.jpeg").write_bytes((folder / "01.jpeg").read_bytes()[:150])
    files = spark.read.format("binaryFile").load(str(tmp_path))
    rows = files.selectExpr("path", "content photo", "1 label")
    with pytest.raises(DataError, match=r"can be read: .*broken one\.jpeg, 150 bytes"):
        estimator(epochs=1).fit(rows)
    with pytest.raises(Exception, match=r"broken one\.jpeg, 150 bytes"):
        fitted.transform(rows).collect()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (ImageColumn("label", SIZE), r"'label' must hold the content of files .* Got int"),
        (ImageColumn("photo", (6, 8)), r"is brought to \(6, 8, 3\), the model expects shape"),
        (ImageColumn("picture", SIZE), r"'picture' is not in the DataFrame"),
    ],
)
def test_what_does_not_fit(files: DataFrame, column: ImageColumn, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        estimator(inputs={"photo": column}).transformSchema(files.schema)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 224}, r"size of ImageColumn must be \(height, width\)"),
        ({"size": (0, 5)}, r"size of ImageColumn must be an int of at least 1"),
        ({"channels": 2}, r"channels of ImageColumn must be 1, 3 or 4\. Got 2"),
        ({"column": ""}, r"column of ImageColumn must be a str"),
    ],
)
def test_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ImageColumn(**{"column": "photo", "size": SIZE, **changes})
