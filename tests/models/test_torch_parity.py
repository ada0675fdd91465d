"""The networks compute what torch's compute from the same weights: see tests/golden/make_torch_logits.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax import create_model
from resnet_jax.weights.names import from_torch, to_torch, torch_name
from tests.golden.make_torch_logits import GOLDEN, LOGITS, TRAINING, TRAINING_BATCH, images, labels, tensor

MOMENTUM = 0.9


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.lru_cache(maxsize=1)
def network(name):
    """The network and its variables, filled by the formula that filled torch's."""
    model = create_model(name)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    arrays = {}
    for path, wanted in flatten_dict(shapes, sep="/").items():
        key = torch_name(path.partition("/")[2])
        arrays[path] = from_torch(tensor(key, to_torch(np.empty(wanted.shape)).shape))
    return model, unflatten_dict(arrays, sep="/")


def nhwc(count, size):
    return jnp.asarray(images(count, size).transpose(0, 2, 3, 1))


def by_torch_name(tree):
    return {torch_name(path): to_torch(np.asarray(array)) for path, array in flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in LOGITS.items() for size in sizes])
def test_logits_are_those_of_torch(golden, name, size):
    model, variables = network(name)
    logits = jax.jit(model.apply)(variables, nhwc(2, size))
    expected = golden[f"{name}/logits/{size}"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@functools.cache
def train_step(name):
    """Loss, gradients and new statistics of one step in training, all but the loss under torchvision's names."""
    model, variables = network(name)
    wanted = labels(TRAINING_BATCH)

    def loss_of(params):
        logits, updates = model.apply(
            {**variables, "params": params}, nhwc(TRAINING_BATCH, TRAINING[name]), train=True, mutable=["batch_stats"]
        )
        picked = jax.nn.log_softmax(logits)[jnp.arange(TRAINING_BATCH), wanted]
        return -picked.mean(), updates["batch_stats"]

    (loss, statistics), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])
    return loss, by_torch_name(gradients), by_torch_name(statistics)


@pytest.mark.parametrize("name", TRAINING)
def test_the_loss_of_a_training_step_is_that_of_torch(golden, name):
    np.testing.assert_allclose(train_step(name)[0], golden[f"{name}/loss"], rtol=1e-4)


@pytest.mark.parametrize("name", TRAINING)
def test_the_gradients_of_a_training_step_are_those_of_torch(golden, name):
    gradients = train_step(name)[1]
    prefix = f"{name}/gradient_norm/"
    assert gradients.keys() == {key.removeprefix(prefix) for key in golden if key.startswith(prefix)}
    for key, gradient in gradients.items():
        norm = golden[prefix + key]
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-4, err_msg=key)
        product = np.vdot(gradient, tensor(f"{key}.direction", gradient.shape))
        np.testing.assert_allclose(
            product, golden[f"{name}/gradient_product/{key}"], rtol=0, atol=1e-4 * norm, err_msg=key
        )


def values_per_channel(name, key):
    """How many values a BatchNorm averages in training. All norms of a basic block come after its stride."""
    halvings = int(key[len("layer")]) - 1 if key.startswith("layer") else 0
    if name == "resnet18":  # stride 2 in the stem, and once more in its max-pool
        halvings += 2 if key.startswith("layer") else 1
    return TRAINING_BATCH * (TRAINING[name] >> halvings) ** 2


@pytest.mark.parametrize("name", TRAINING)
def test_the_statistics_after_a_training_step_are_those_of_torch(golden, name):
    """Torch keeps variances over N - 1 values and Flax over N; what the step added is corrected by N / (N - 1)."""
    statistics = train_step(name)[2]
    prefix = f"{name}/statistics/"
    assert statistics.keys() == {key.removeprefix(prefix) for key in golden if key.startswith(prefix)}
    for key, array in statistics.items():
        if key.endswith("running_var"):
            old, count = MOMENTUM * tensor(key, array.shape), values_per_channel(name, key)
            array = old + (array - old) * count / (count - 1)
        expected = golden[prefix + key]
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=key)
