"""The networks compute what torch's compute from the same weights: see tests/golden/make_torch_*.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from resnet_jax import create_model
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.weights import arrays_of, by_kind, shapes, torch_arrays
from resnet_jax.weights.names import from_torch, names_of, to_torch, torch_name
from tests.golden import make_torch_logits as torch_logits
from tests.golden import make_torch_steps as torch_steps
from tests.golden.formulas import digest, images, labels, tensor


@functools.cache
def golden(file):
    with np.load(file) as arrays:
        return dict(arrays)


def network(name, fields):
    """The network and its variables, filled by the formula that filled torch's."""
    model = create_model(name, **fields)
    arrays = {}
    for path, wanted in arrays_of(shapes(model, torch_logits.channels(name))).items():
        key = torch_name(path, names_of(model))
        arrays[path] = from_torch(tensor(key, to_torch(np.broadcast_to(0.0, wanted.shape), key).shape), key)
    return model, {kind: unflatten_dict(part, sep="/") for kind, part in by_kind(arrays).items()}


def nhwc(count, size, name):
    return jnp.asarray(images(count, size, torch_logits.channels(name)).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", torch_logits.LOGITS)
def test_logits_are_those_of_torch(name):
    sizes, fields = torch_logits.LOGITS[name]
    model, variables = network(name, fields)
    for size in sizes:
        expected = golden(torch_logits.GOLDEN)[f"{name}/{size}"]
        logits = jax.jit(model.apply)(variables, nhwc(1, size, name))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=f"{size} px")


@functools.cache
@jax.enable_x64(True)
def trained(name):
    """In float64, but for the head: losses, first gradients, statistics after the first and last step, last logits."""
    batch, size, fields = torch_steps.STEPS[name]
    model, variables = network(name, fields)
    model = model.clone(dtype=jnp.float64)
    variables = jax.tree.map(np.float64, variables)
    inputs, wanted = jnp.asarray(nhwc(batch, size, name), jnp.float64), labels(batch)
    sgd = torch_steps.SGD
    optimizer = create_optimizer("sgd", lambda _: sgd["lr"], momentum=sgd["momentum"], weight_decay=sgd["weight_decay"])

    @jax.jit
    def step(variables, state):
        def loss_of(params):
            logits, updates = model.apply({**variables, "params": params}, inputs, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean(), updates

        (loss, updates), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        changes, state = optimizer.update(gradients, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], changes), **updates}, state, loss, gradients

    state, losses = optimizer.init(variables["params"]), []
    for i in range(torch_steps.COUNT):
        variables, state, loss, gradients = step(variables, state)
        losses.append(loss)
        if i == 0:
            first = dict(gradients={"params": gradients}, statistics={"batch_stats": variables["batch_stats"]})
    digests = {kind: digests_of(model, tree) for kind, tree in first.items()}
    digests["last_statistics"] = digests_of(model, {"batch_stats": variables["batch_stats"]})
    return np.array(losses), digests, jax.jit(model.apply)(variables, inputs)[0]


def digests_of(model, tree):
    """The digest of each array by its name in torch."""
    arrays = torch_arrays(model, jax.device_get(tree))
    return {name: digest(name, np.float64(arrays[name])) for name in sorted(arrays)}


def assert_digests(found, expected, tolerance):
    """A product with a direction is held to the norm: it may be next to nothing.

    So may a norm itself, where a BatchNorm takes a bias out again: what is a thousandth of the largest counts as that.
    """
    assert len(found) == len(expected)
    least = 1e-3 * expected[:, 0].max()
    for (name, pair), wanted in zip(found.items(), expected, strict=True):
        np.testing.assert_allclose(pair, wanted, rtol=0, atol=tolerance * max(wanted[0], least), err_msg=name)


@pytest.mark.parametrize("name", torch_steps.STEPS)
def test_loss_gradients_and_statistics_of_a_training_step_are_those_of_torch(name):
    expected = golden(torch_steps.GOLDEN)
    losses, digests, _ = trained(name)
    np.testing.assert_allclose(losses[0], expected[f"{name}/losses"][0], rtol=1e-4)
    assert_digests(digests["gradients"], expected[f"{name}/gradients"], 1e-4)
    assert_digests(digests["statistics"], expected[f"{name}/statistics"], 1e-4)


@pytest.mark.parametrize("name", torch_steps.STEPS)
def test_ten_steps_of_sgd_and_the_evaluation_after_them_are_those_of_torch(name):
    """The running variances are torch's too, over N - 1 values: no factor stands between them."""
    expected = golden(torch_steps.GOLDEN)
    losses, digests, logits = trained(name)
    np.testing.assert_allclose(losses, expected[f"{name}/losses"], rtol=1e-3)
    assert_digests(digests["last_statistics"], expected[f"{name}/last_statistics"], 1e-3)
    wanted = expected[f"{name}/logits"]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
