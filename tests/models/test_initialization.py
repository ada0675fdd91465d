import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from resnet_jax import create_model
from resnet_jax.models.initialization import CHUNK, initialize, normal, without_idle_equations


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
    np.testing.assert_allclose(normal(key, shape), jax.random.normal(key, shape), rtol=1e-6, atol=1e-7)


def test_no_program_is_compiled_for_a_kernel_s_shape():
    """Random numbers compile for a quarter of a second: of two networks' shapes, one program."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, fun_name="", **_: compiled.append(fun_name) if "backend_compile" in event else None
    )
    initialize(create_model("cifar_resnet8", stage_widths=(17, 19, 23)), jax.random.key(0), (8, 8, 3))
    assert compiled and not any("normal" in name for name in compiled)


def test_nothing_of_the_network_is_run():
    model = create_model("cifar_resnet8")
    program = jax.make_jaxpr(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))).jaxpr
    left = without_idle_equations(program)
    assert "custom_vjp_call" in str(program) and "custom_vjp_call" not in str(left)
    assert len(left.eqns) < len(program.eqns) / 2


def test_an_equation_is_kept_for_any_of_its_results():
    def function(x):
        return jnp.divmod(x, 3)[1] + jnp.sum(jnp.sort(x))

    program = jax.make_jaxpr(function)(jnp.arange(5.0))
    kept = without_idle_equations(program.jaxpr)
    (made,) = jaxpr_as_fun(ClosedJaxpr(kept, program.consts))(jnp.arange(5.0))
    np.testing.assert_array_equal(made, function(jnp.arange(5.0)))
