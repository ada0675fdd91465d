import ast
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax import create_model, load_weights, save_weights
from resnet_jax.__main__ import main
from tests.golden.make_torch_export import GOLDEN, NETWORKS, digest
from tests.models.reference import scrambled
from tests.weights.test_weights import bits

KEYS = pathlib.Path(__file__).parents[2].parent / "shared" / "reference" / "state_dict_keys"
TINY = ["--model=resnet18", "--set=stage_sizes=(1, 1)", "--set=stage_widths=(4, 8)", "--set=stem_width=4"]


@pytest.fixture
def saved(tmp_path):
    """A small network, its variables, and their file."""
    model = create_model("resnet18", stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4)
    variables = scrambled(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    save_weights(model, variables, tmp_path / "weights.safetensors")
    return model, variables, tmp_path / "weights.safetensors"


def test_converted_weights_are_the_same_bit_for_bit(saved, tmp_path, capsys):
    model, variables, file = saved
    target = tmp_path / "converted.safetensors"
    assert main(["convert", str(file), str(target), *TINY]) == 0
    assert bits(load_weights(model, target)) == bits(variables)
    assert target.read_bytes() == file.read_bytes()
    parameters = sum(array.size for array in jax.tree.leaves(variables["params"]))
    assert f"32 arrays of resnet18, of which {parameters:,} values" in capsys.readouterr().out


def test_a_file_that_is_there_is_replaced_only_where_that_is_asked_for(saved, tmp_path, capsys):
    target = tmp_path / "mine.safetensors"
    target.write_text("mine")
    assert main(["convert", str(saved[2]), str(target), *TINY]) == 2
    assert "is there already" in capsys.readouterr().err and target.read_text() == "mine"
    assert main(["convert", str(saved[2]), str(target), *TINY, "--force"]) == 0
    assert safetensors.numpy.load_file(target).keys() == safetensors.numpy.load_file(saved[2]).keys()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone.pth", "out.safetensors", "--model=resnet18"], "there is no weights file gone.pth"),
        (["FILE", "out.safetensors"], "do not say of which network they are: name it by --model"),
        (["FILE", "out.safetensors", "--model=resnet118"], "did you mean 'resnet18'?"),
        (["FILE", "out.safetensors", "--model=resnet18"], "has the shape (4,) where the network has (64,)"),
        (["FILE", "out.pth", *TINY], "end the name of out.pth with .safetensors"),
        (["FILE", "gone/out.safetensors", *TINY], "cannot be written"),
    ],
)
def test_what_cannot_be_converted_is_refused(saved, tmp_path, monkeypatch, arguments, sentence, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *(str(saved[2]) if word == "FILE" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


# What the files hold that torch has loaded strictly: see the script that made the golden file.


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    """A network's name, and the names and shapes of the arrays in its file."""
    file = tmp_path_factory.mktemp("exported") / "weights.safetensors"
    model = create_model(request.param)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    save_weights(model, jax.tree.map(lambda array: np.zeros(array.shape, np.float32), variables), file)
    with safetensors.safe_open(file, "np") as arrays:
        found = {name: tuple(arrays.get_slice(name).get_shape()) for name in arrays.keys()}  # noqa: SIM118
    file.unlink()
    return request.param, found


def test_the_arrays_are_those_that_torch_has_loaded_strictly(exported):
    name, found = exported
    assert {"arrays": len(found), "sha256": digest(found)} == json.loads(GOLDEN.read_text())[name]


@pytest.mark.skipif(not KEYS.is_dir(), reason="../shared/reference/state_dict_keys, torch's listings, are not here")
def test_only_the_counters_of_batches_are_missing_from_torchs_state_dict(exported):
    name, found = exported
    lines = [line.split("\t") for line in (KEYS / f"tv_{name}.tsv").read_text().splitlines()[1:]]
    listed = {key: ast.literal_eval(shape) for key, shape, _ in lines if not key.endswith("num_batches_tracked")}
    assert found == listed
