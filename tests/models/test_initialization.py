import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.models.initialization import CHUNK, initialize, normal
from resnet_jax.models.layers import kaiming_fan_out


@pytest.mark.parametrize(
    "name, generator",
    [("cifar_resnet8", "threefry2x32"), ("cifar_densenet_bc100_12", "threefry2x32"), ("cifar_resnet8", "unsafe_rbg")],
)
def test_variables_are_those_of_init(name, generator):
    fields = dict(block_sizes=(2, 2)) if "densenet" in name else dict(zero_init_last=True)
    model, key = create_model(name, **fields), jax.random.key(3, impl=generator)
    expected = model.init(key, jnp.zeros((1, 8, 8, 3)))
    made = initialize(model, key, (8, 8, 3))
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(5,), (3, 3, 60, 128)])
def test_normal_numbers_are_those_of_jax(shape):
    assert np.prod(shape) < CHUNK / 2 or np.prod(shape) > CHUNK
    key = jax.random.key(7)
    np.testing.assert_allclose(
        normal(jax.random.key_data(key), shape), jax.random.normal(key, shape), rtol=1e-6, atol=1e-7
    )


def test_an_initializer_draws_the_same_in_a_program_and_for_several_keys():
    keys = jax.random.split(jax.random.key(5), 3)
    draw = lambda key: kaiming_fan_out(key, (3, 3, 4, 8))  # noqa: E731
    expected = np.stack([draw(key) for key in keys])
    np.testing.assert_allclose(jax.vmap(draw)(keys), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.jit(draw)(keys[1]), expected[1], rtol=1e-5, atol=1e-7)


class Centred(nn.Module):
    """A user's network, one of whose variables depends on the images."""

    @nn.compact
    def __call__(self, x, train=False):
        mean = self.variable("constants", "mean", lambda: jnp.mean(x) + 1)
        return nn.Dense(3)(jnp.reshape(x - mean.value, (len(x), -1)))


def test_a_variable_that_depends_on_the_images_is_that_of_black_ones():
    key = jax.random.key(2)
    expected = Centred().init(key, jnp.zeros((1, 4, 4, 3)))
    jax.tree.map(np.testing.assert_array_equal, initialize(Centred(), key, (4, 4, 3)), expected)
    assert expected["constants"]["mean"] == 1


def compiled(run):
    """The names of the functions that are compiled meanwhile."""
    names = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, fun_name="", **_: names.append(fun_name) if "backend_compile" in event else None
    )
    run()
    return names


def test_no_program_is_compiled_for_a_kernel_s_shape():
    """Random numbers compile for a quarter of a second: of two networks' shapes, one program."""
    model = create_model("cifar_resnet8", stage_widths=(17, 19, 23))
    names = compiled(lambda: initialize(model, jax.random.key(0), (8, 8, 3)))
    assert names and not any("_normal" in name for name in names)


def test_nothing_of_the_network_is_run():
    model = create_model("cifar_resnet8", stage_widths=(18, 20, 22))
    names = compiled(lambda: initialize(model, jax.random.key(0), (8, 8, 3)))
    assert names and not any("conv" in name or "relu" in name for name in names)
    run = compiled(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    assert any("evaluate" in name for name in run)  # the convolution's
