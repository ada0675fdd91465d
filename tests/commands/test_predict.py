import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import requests
import safetensors.numpy
from PIL import Image

from resnet_jax import create_model, runner, save_weights
from resnet_jax.__main__ import main
from resnet_jax.data.sources import open_dataset
from resnet_jax.weights import hub
from resnet_jax.weights.presets import CIFAR10_CLASSES
from tests import small
from tests.models.reference import scrambled
from tests.weights.test_weights import SHARED, cifar_images

FIELDS = dict(stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4)
TINY = ["--model=cifar_resnet20", *(f"--set={name}={value}" for name, value in FIELDS.items())]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights file of the network that `TINY` says."""
    model = create_model("cifar_resnet20", shortcut="A_both", **FIELDS)
    variables = scrambled(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model, variables, file)
    return str(file)


@pytest.fixture
def photo(tmp_path):
    """An image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def predicted(capsys):
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The folder of a short run on the digits, and its summary."""
    folder, config = tmp_path_factory.mktemp("run"), small.config()
    config.training.epochs = 1.0
    return folder, runner.run(config, folder, "train")


def test_a_run_predicts_held_out_images_as_well_as_it_said(digits_run, tmp_path, capsys):
    run, summary = digits_run
    test = open_dataset("digits", image_size=8).test
    for number, image in enumerate(test.images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number:03}.png")
    capsys.readouterr()
    assert main(["predict", str(tmp_path), f"--weights={run}", "--format=json", "--top=2"]) == 0
    rows = predicted(capsys)
    assert [row["file"] for row in rows] == [str(tmp_path / f"{number:03}.png") for number in range(359)]
    right = [row["classes"][0]["class"] == str(label) for row, label in zip(rows, test.labels, strict=True)]
    assert sum(right) / 359 == pytest.approx(summary["top1"])
    assert {len(row["classes"]) for row in rows} == {2}


@pytest.mark.skipif(not SHARED.exists(), reason="akamaster's weights and CIFAR-10 are not here")
def test_published_weights_are_known_by_their_file_and_give_torchs_probabilities(tmp_path, capsys):
    (file,) = (SHARED / "data" / "cifar10_weights").glob("akamaster_resnet20-*.th")
    expected = np.load(SHARED / "data" / "cifar10_weights" / f"logits_{file.stem}.npy")[:8]
    for number, image in enumerate(cifar_images(100)[:8]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    assert main(["predict", str(tmp_path), f"--weights={file}", "--format=json", "--top=20"]) == 0
    rows = predicted(capsys)
    assert [row["classes"][0]["class"] for row in rows[:4]] == ["cat", "ship", "ship", "airplane"]
    for row, logits in zip(rows, expected, strict=True):
        found = {best["label"]: best["probability"] for best in row["classes"]}
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose([found[label] for label in range(10)], softmax, atol=1e-4)


def test_images_of_every_kind_are_predicted_and_what_is_none_is_named(weights, tmp_path, capsys):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_text("no image")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "dot.png")
    Image.new("CMYK", (9, 7), (0, 99, 99, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("L", (9, 7), 99).save(tmp_path / "grey.png")
    Image.fromarray(np.full((7, 9), 0x6363, np.uint16)).save(deep / "grey16.PNG")
    Image.new("RGBA", (9, 7), (99, 99, 99, 0)).save(deep / "transparent.png")
    assert main(["predict", str(tmp_path), f"--weights={weights}", *TINY, "--format=json"]) == 2
    output = capsys.readouterr()
    rows = {row["file"].rpartition("/")[2]: row["classes"] for row in json.loads(output.out)}
    assert rows.keys() == {"dot.png", "cmyk.jpg", "grey.png", "grey16.PNG", "transparent.png"}
    assert rows["grey.png"] == rows["grey16.PNG"] == rows["transparent.png"] != rows["cmyk.jpg"]
    assert all(len(classes) == 5 for classes in rows.values())
    first, last = output.err.splitlines()
    assert "broken.jpg" in first and "is no image" in first
    assert last == "error: 1 of 6 files could not be read as images and are named above."


def test_the_preset_that_is_named_says_how_an_image_is_prepared(weights, photo, capsys):
    # 10 classes are not ImageNet's 1,000, so they have numbers for names.
    assert main(["predict", photo, f"--weights={weights}", *TINY, "--format=json"]) == 0
    cifar = predicted(capsys)[0]["classes"]
    arguments = [*TINY, "--preset=resnet18.IMAGENET1K_V1", "--format=json"]
    assert main(["predict", photo, f"--weights={weights}", *arguments]) == 0
    imagenet = predicted(capsys)[0]["classes"]
    assert {best["class"] for best in imagenet} <= set("0123456789")
    assert {best["class"] for best in cifar} <= set(CIFAR10_CLASSES)
    assert [best["probability"] for best in cifar] != [best["probability"] for best in imagenet]


def test_fields_of_a_published_network_are_taken_for_its_own_weights_only(weights, photo, tmp_path, capsys):
    # akamaster's networks have shortcut A_both, and weights that nobody knows have the registered shortcut A.
    probabilities = []
    for shortcut in ([], ["--set=shortcut=A"], ["--set=shortcut=A_both"], ["--preset=cifar_resnet20.akamaster"]):
        assert main(["predict", photo, f"--weights={weights}", *TINY, *shortcut, "--format=json"]) == 0
        probabilities.append([best["probability"] for best in predicted(capsys)[0]["classes"]])
    assert probabilities[0] == probabilities[1] != probabilities[2] == probabilities[3]


def test_pictures_are_drawn_beside_the_table(weights, photo, tmp_path, capsys):
    Image.new("RGB", (40, 50), (9, 99, 199)).save(tmp_path / "photo.jpg")
    arguments = [photo, str(tmp_path / "photo.jpg"), f"--weights={weights}", *TINY, f"--pictures={tmp_path / 'out'}"]
    assert main(["predict", *arguments]) == 0
    table = capsys.readouterr().out
    assert "photo.png" in table and "photo.jpg" in table and table.count("%") == 10
    pictures = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in pictures] == ["photo.png", "photo_2.png"]
    for file in pictures:
        with Image.open(file) as picture:
            assert picture.size == (1430, 468) and len(picture.getcolors(1 << 20)) > 1000


def hostile():
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    return pickle.dumps(Evil())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("cut.safetensors", lambda data: data[:-9], "or a damaged one"),
        ("cut.pth", lambda data: data[:-9], "damaged"),
        ("page.pth", lambda data: b"<html>not found</html>", "is a text, perhaps a web page"),
        ("evil.pth", lambda data: hostile(), "builtins.print"),
    ],
)
def test_bad_weights_files_are_refused_in_a_sentence(weights, photo, tmp_path, name, content, sentence, capsys):
    with open(weights, "rb") as file:
        (tmp_path / name).write_bytes(content(file.read()))
    assert main(["predict", photo, f"--weights={tmp_path / name}", *TINY]) == 2
    output = capsys.readouterr()
    assert sentence in output.err and output.err.count("\n") == 1 and output.out == ""


def test_non_finite_probabilities_are_not_shown(weights, photo, tmp_path, capsys):
    arrays = safetensors.numpy.load_file(weights)
    safetensors.numpy.save_file(arrays | {"fc.bias": np.full(10, np.nan, np.float32)}, tmp_path / "nan.safetensors")
    assert main(["predict", photo, f"--weights={tmp_path / 'nan.safetensors'}", *TINY]) == 2
    assert "the network's output is NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no network is named: name one by --model, or weights by --weights"),
        (["--model=resnet5"], "no network is registered as 'resnet5', did you mean 'resnet50'?"),
        (["--model=plain18"], "no published weights are known for plain18"),
        (["--weights=WEIGHTS"], "does not name its network: name one by --model"),
        (["--weights=WEIGHTS", "--model=resnet18"], "has the shape (4,) where the network has (64,)"),
        (["--weights=WEIGHTS", *TINY, "--set=num_classes=0"], "the network has no head"),
        (["--weights=WEIGHTS", *TINY, "--preset=resnet50.a1_ink"], "did you mean 'resnet50.a1_in1k'?"),
        (["--weights=WEIGHTS", *TINY, "--top=0"], "--top is 0"),
        (["EMPTY", "--weights=WEIGHTS", *TINY], "has no images: their names must end with .jpg"),
        (["gone.png", "--weights=WEIGHTS", *TINY], "there is no image or folder gone.png"),
    ],
)
def test_what_cannot_be_predicted_is_reported_in_a_sentence(weights, photo, tmp_path, arguments, sentence, capsys):
    (tmp_path / "empty").mkdir()
    words = [word.replace("WEIGHTS", weights).replace("EMPTY", str(tmp_path / "empty")) for word in arguments]
    assert main(["predict", photo, *words]) == 2
    output = capsys.readouterr()
    assert sentence in output.err and output.err.count("\n") == 1 and output.out == ""


def test_without_weights_those_of_the_network_are_downloaded(photo, tmp_path, monkeypatch, capsys):
    def refuse(address, file, _):
        raise requests.ConnectionError(address)

    monkeypatch.setattr(hub.pooch, "os_cache", lambda project: tmp_path / project)
    monkeypatch.setattr(hub.pooch, "HTTPDownloader", lambda progressbar: refuse)
    assert main(["predict", photo, "--model=resnet50"]) == 2
    assert "resnet50-0676ba61.pth could not be downloaded" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_refused(digits_run, photo, tmp_path, capsys):
    run, _ = digits_run
    (tmp_path / "preset.json").write_bytes((run / "preset.json").read_bytes())
    (tmp_path / "checkpoints").mkdir()
    assert main(["predict", photo, f"--weights={tmp_path}"]) == 2
    assert "it holds no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_a_run_is_of_the_runs_network_and_classes(digits_run, photo, tmp_path, capsys):
    run, _ = digits_run
    [*_, checkpoint] = sorted((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    said = []
    for weights in (run, checkpoint):
        assert main(["predict", photo, f"--weights={weights}", "--format=json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert main(["convert", str(checkpoint), str(tmp_path / "step.safetensors")]) == 0
