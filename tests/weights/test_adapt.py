import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from resnet_jax import load_weights, save_weights
from resnet_jax.errors import CheckpointError, DataError
from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.weights.adapt import adapt_kernel
from tests.golden.formulas import tensor
from tests.golden.make_torch_backbones import CHANNELS, GOLDEN
from tests.models.reference import scrambled

FAMILIES = {
    "resnet": ResNet((1,), (8,), stem="cifar", stem_width=8, num_classes=5),
    "deep": ResNet((1,), (8,), stem="deep", stem_hidden=(4, 4), stem_width=8, num_classes=5),
    "densenet": DenseNet((1, 1), growth_rate=4, stem_width=8, stem="cifar", num_classes=5),
}
FIRST = {"resnet": ("stem_conv",), "deep": ("stem_conv", "conv1"), "densenet": ("stem_conv",)}


def filled(model, channels=3, seed=0):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, channels))))
    return scrambled(shapes, seed)


def without(tree, *path):
    """A copy of nested dicts without what lies at `path`."""
    first, *rest = path
    kept = {name: value for name, value in tree.items() if name != first}
    return kept | {first: without(tree[first], *rest)} if rest else kept


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    """The name of a family, its network, its variables, and their file."""
    model, file = FAMILIES[request.param], tmp_path / "weights.safetensors"
    variables = filled(model)
    save_weights(model, variables, file)
    return request.param, model, variables, file


# Another number of channels


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_first_kernel_is_adapted_as_timm_does(channels):
    with np.load(GOLDEN) as golden:
        expected = golden[f"adapted/{channels}"]
    found = adapt_kernel(tensor("conv1.weight", (4, 3, 3, 3)), channels)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_first_kernel_of_as_many_channels_is_left_alone():
    kernel = tensor("conv1.weight", (4, 3, 3, 3))
    np.testing.assert_array_equal(adapt_kernel(kernel, 3), kernel)


def test_a_grey_kernel_answers_a_grey_image_as_before_when_all_its_colours_are_alike():
    kernel = tensor("conv1.weight", (4, 1, 3, 3))
    np.testing.assert_allclose(adapt_kernel(kernel, 3).sum(axis=1), kernel[:, 0], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_other_images_differ_in_the_first_kernel_alone(saved, channels):
    name, model, variables, file = saved
    loaded = load_weights(model, file, channels=channels, adapt=True)
    path = ("params", *FIRST[name], "kernel")
    same(without(loaded, *path), without(variables, *path))
    kernel, old = loaded, variables
    for part in path:
        kernel, old = kernel[part], old[part]
    expected = old.sum(axis=2, keepdims=True) if channels == 1 else old[:, :, [0, 1, 2, 0]] * 0.75
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_other_images_need_a_request_and_the_refusal_names_both_shapes(saved):
    _, model, _, file = saved
    with pytest.raises(DataError, match=r"the shape \(3, 3, 3, \d\) where the network has \(3, 3, 1, \d\); adapt=True"):
        load_weights(model, file, channels=1)


# Another number of classes


@pytest.mark.parametrize("classes", [3, 7])
def test_other_classes_get_a_new_head_and_everything_else_from_the_file(saved, classes):
    _, model, variables, file = saved
    other = model.clone(num_classes=classes)
    loaded = load_weights(other, file, adapt=True, key=jax.random.key(1))
    same(without(loaded, "params", "head"), without(variables, "params", "head"))
    head = loaded["params"]["head"]
    features = model.feature_info()[-1].channels
    assert head["kernel"].shape == (features, classes) and head["kernel"].dtype == np.float32
    # torch's linear layer: uniform within 1 / sqrt(inputs).
    assert 0.5 / np.sqrt(features) < np.abs(head["kernel"]).max() <= 1 / np.sqrt(features)
    np.testing.assert_array_equal(head["bias"], np.zeros(classes))
    again, another = (load_weights(other, file, adapt=True, key=jax.random.key(seed)) for seed in (1, 2))
    same(again, loaded)
    assert not np.array_equal(another["params"]["head"]["kernel"], head["kernel"])


def test_as_many_classes_keep_their_head_though_adaptation_is_asked_for(saved):
    _, model, variables, file = saved
    same(load_weights(model, file, adapt=True), variables)


def test_a_head_is_left_out_and_added_on_request(saved, tmp_path):
    _, model, variables, file = saved
    headless = model.clone(num_classes=0)
    loaded = load_weights(headless, file, adapt=True)
    same(loaded, without(variables, "params", "head"))
    save_weights(headless, loaded, tmp_path / "backbone.safetensors")
    regained = load_weights(model, tmp_path / "backbone.safetensors", adapt=True)
    same(without(regained, "params", "head"), loaded)
    assert jax.tree.map(np.shape, regained) == jax.tree.map(np.shape, variables)


def test_other_classes_need_a_request_and_the_refusal_says_how(saved, tmp_path):
    _, model, variables, file = saved
    with pytest.raises(DataError, match=r"the shape \(5,\) where the network has \(7,\); adapt=True, or train"):
        load_weights(model.clone(num_classes=7), file)
    with pytest.raises(DataError, match=r"has \w+\.bias, which the network has not: .*; adapt=True, or training"):
        load_weights(model.clone(num_classes=0), file)
    save_weights(model.clone(num_classes=0), without(variables, "params", "head"), tmp_path / "backbone.safetensors")
    with pytest.raises(DataError, match=r"has no \w+\.(weight|bias): .*; adapt=True, or training\.init_adapt"):
        load_weights(model, tmp_path / "backbone.safetensors")


def test_adaptation_hides_no_other_difference(saved):
    name, model, _, file = saved
    other = model.clone(growth_rate=8) if name == "densenet" else model.clone(stage_widths=(16,))
    with pytest.raises(DataError, match=r"the shape .* where the network has [^;]*$"):
        load_weights(other, file, adapt=True)


# Runs


MODEL = FAMILIES["resnet"]


def state_of(seed, keep_average):
    optimizer = create_optimizer("sgd", lambda step: 0.1)
    state = create_state(MODEL, optimizer, jax.random.key(0), (8, 8, 3), keep_average, filled(MODEL, seed=seed))
    if keep_average:
        average = filled(MODEL, seed=seed + 100)
        moving = state.average.replace(params=average["params"], batch_stats=average["batch_stats"])
        state = state.replace(average=moving)
    return state


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "averaged"])
def run(request, tmp_path_factory):
    """A run with the checkpoints of steps 2 and 10, and whether it keeps moving averages."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in (2, 10):
        checkpoints.save(step, state_of(step, request.param))
    checkpoints.close()
    return folder, request.param


def test_a_run_gives_the_variables_of_its_newest_checkpoint_bit_for_bit(run):
    folder, _ = run
    loaded = load_weights(MODEL, folder)
    assert {type(array) for array in jax.tree.leaves(loaded)} == {np.ndarray}
    same(loaded, filled(MODEL, seed=10))
    same(load_weights(MODEL, str(folder / "checkpoints" / "2")), filled(MODEL, seed=2))


def test_a_run_gives_its_moving_averages_on_request_if_it_keeps_them(run):
    folder, averaged = run
    if averaged:
        same(load_weights(MODEL, folder, average=True), filled(MODEL, seed=110))
    else:
        with pytest.raises(CheckpointError, match="keeps no moving averages"):
            load_weights(MODEL, folder, average=True)


def test_a_run_of_another_network_is_refused_by_the_array_that_differs_and_its_head_adapted_on_request(run):
    folder, _ = run
    with pytest.raises(DataError, match=r"has no layer1\.1\.\w+\.\w+: it belongs to another network"):
        load_weights(MODEL.clone(stage_sizes=(2,)), folder)
    with pytest.raises(DataError, match=r"has no features\."):
        load_weights(FAMILIES["densenet"], folder)
    with pytest.raises(DataError, match=r"the shape \(5,\) where the network has \(3,\); adapt=True"):
        load_weights(MODEL.clone(num_classes=3), folder)
    loaded = load_weights(MODEL.clone(num_classes=3), folder, adapt=True)
    same(without(loaded, "params", "head"), without(filled(MODEL, seed=10), "params", "head"))


def test_a_run_without_a_readable_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no weights file .*holds no checkpoint"):
        load_weights(MODEL, tmp_path)
    (tmp_path / "checkpoints" / "3" / "default").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"the checkpoint .*/3 is damaged"):
        load_weights(MODEL, tmp_path)


@pytest.mark.parametrize("holder", ["state_dict", "model_ema"])
def test_moving_averages_are_asked_of_runs_alone(tmp_path, holder):
    save_weights(MODEL, filled(MODEL), tmp_path / "weights.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    safetensors.numpy.save_file({f"{holder}.{name}": a for name, a in arrays.items()}, tmp_path / "both.safetensors")
    with pytest.raises(
        DataError, match=r"averages are taken from runs alone, and .* is none: leave them out"
    ) as refused:
        load_weights(MODEL, tmp_path / "both.safetensors", average=True)
    assert "holds no" not in str(refused.value)


def test_adaptation_is_advised_only_where_it_makes_the_weights_fit(saved, tmp_path):
    name, model, _, file = saved
    wider = model.clone(num_classes=7, **({"growth_rate": 8} if name == "densenet" else {"stage_widths": (16,)}))
    with pytest.raises(DataError) as refused:
        load_weights(wider, file)
    assert "adapt=True" not in str(refused.value)
    with pytest.raises(DataError):
        load_weights(wider, file, adapt=True)
    other_stem = model.clone(stem="imagenet") if name != "deep" else model.clone(stem_hidden=(8, 4))
    with pytest.raises(DataError) as refused:
        load_weights(other_stem, file)
    assert "adapt=True" not in str(refused.value)


@pytest.mark.parametrize("prefix", ["backbone.", "encoder_q.0."])
def test_arrays_under_a_prefix_are_refused_for_it_and_not_as_another_network(saved, tmp_path, prefix):
    _, model, _, file = saved
    arrays = {prefix + name: array for name, array in safetensors.numpy.load_file(file).items()}
    safetensors.numpy.save_file(arrays | {"queue": np.zeros(3, np.float32)}, tmp_path / "prefixed.safetensors")
    with pytest.raises(DataError, match=f"has its arrays under the prefix '{prefix}', which is not read") as refused:
        load_weights(model, tmp_path / "prefixed.safetensors")
    assert "another network" not in str(refused.value)
