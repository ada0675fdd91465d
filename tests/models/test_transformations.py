"""Which of JAX's transformations the networks support, by implementation, for one network of each family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from resnet_jax import create_model
from resnet_jax.training.losses import cross_entropy
from tests.models.reference import scrambled

SMALL = dict(stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4, num_classes=3)
NETWORKS = {
    "resnet": ("resnet18", SMALL),
    "resnext": ("resnext50_32x4d", SMALL | dict(cardinality=2, base_width=32)),
    "pre-activation": ("resnetv2_50d", SMALL | dict(stem_hidden=(4, 4))),
    "squeeze-and-excitation": ("seresnet50t", SMALL | dict(stem_hidden=(4, 4))),
    "gates": ("cifar_resnet8", SMALL | dict(shortcut_gate="exclusive", activation_order="relu_preactivation")),
    "plain": ("cifar_plain8", SMALL),
    "densenet": ("densenet121", dict(block_sizes=(2, 1), growth_rate=4, stem_width=8, num_classes=3)),
}
FORWARD_MODE = {
    "jvp": lambda f, x, dx: jax.jvp(f, (x,), (dx,))[1],
    "linearize": lambda f, x, dx: jax.linearize(f, x)[1](dx),
    "forward over reverse": lambda f, x, dx: jax.jvp(jax.grad(f), (x,), (dx,))[1],
    "reverse over forward": lambda f, x, dx: jax.grad(lambda x: jax.jvp(f, (x,), (dx,))[1])(x),
}
REVERSE_MODE = {
    "gradient": lambda f, x, dx: jax.grad(f)(x),
    "reverse over reverse": lambda f, x, dx: jax.grad(lambda x: sum_of_products(jax.grad(f)(x), dx))(x),
    "checkpoint": lambda f, x, dx: jax.grad(jax.checkpoint(f))(x),
    "vmap": lambda f, x, dx: jax.vmap(f)(jax.tree.map(lambda *leaves: jnp.stack(leaves), x, dx)),
}


def sum_of_products(one, other):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, one, other)))


def images_and_labels(dtype=jnp.float32, size=24):
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(4, size, size, 3)), dtype), jnp.arange(4) % 3


@functools.cache
def network(family):
    name, fields = NETWORKS[family]
    model = create_model(name, **fields)
    return model, scrambled(jax.eval_shape(model.init, jax.random.key(0), images_and_labels()[0]))


def loss(family, implementation, train=True, dtype=jnp.float32):
    """The loss of some images as a function of the parameters, and the parameters."""
    model, variables = network(family)
    model = model.clone(implementation=implementation, dtype=dtype)
    images, labels = images_and_labels(dtype)

    def of(params):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = model.apply(state, images, train=train, mutable=["batch_stats"])
        return jnp.sum(cross_entropy(logits, jax.nn.one_hot(labels, 3)))

    return of, variables["params"]


def transformed(transformation, f, params, along):
    """What a transformation gives, as one program: JAX would compile each operation by itself otherwise."""
    return jax.jit(functools.partial((FORWARD_MODE | REVERSE_MODE)[transformation], f))(params, along)


def compare(one, other):
    for each, wanted in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(each, wanted, rtol=2e-3, atol=2e-3 * (1e-3 + np.abs(wanted).max()))


@pytest.mark.parametrize("transformation", [*FORWARD_MODE, *REVERSE_MODE])
@pytest.mark.parametrize("family", NETWORKS)
def test_the_reference_supports_every_transformation_of_a_training_loss(family, transformation):
    """Traced and lowered; the tests below hold values to finite differences and to the fast implementation's."""
    f, params = loss(family, "reference")
    program = jax.jit(functools.partial((FORWARD_MODE | REVERSE_MODE)[transformation], f))
    assert program.lower(params, scrambled(params, seed=1)).out_info is not None


@pytest.mark.parametrize("transformation", ["reverse over reverse", "checkpoint", "vmap"])  # the gradient is below
@pytest.mark.parametrize("family", NETWORKS)
def test_the_fast_implementation_supports_reverse_mode_with_equal_results(family, transformation):
    (fast, params), (reference, _) = loss(family, "fast"), loss(family, "reference")
    along = scrambled(params, seed=1)
    compare(*(transformed(transformation, f, params, along) for f in (fast, reference)))


@pytest.mark.parametrize("family", ["gates", "plain"])
def test_the_fast_implementation_has_forward_mode_in_evaluation_without_a_max_pooling(family):
    (fast, params), (reference, _) = loss(family, "fast", train=False), loss(family, "reference", train=False)
    along = scrambled(params, seed=1)
    compare(*(transformed("forward over reverse", f, params, along) for f in (fast, reference)))


@pytest.mark.parametrize("family", NETWORKS)
def test_a_hessian_vector_product_is_the_finite_difference_of_gradients(family):
    """In float64, where central differences have about ten digits."""
    with jax.enable_x64(True):
        model, variables = network(family)
        model = model.clone(implementation="reference", dtype=jnp.float64)
        images, _ = images_and_labels(jnp.float64)

        def f(params):
            """Of the maps, since logits are float32 always."""
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            maps, _ = model.apply(state, images, train=True, mutable=["batch_stats"], method="features")
            return jnp.mean(jnp.sin(list(maps.values())[-1]) ** 2)

        params = {name: arrays for name, arrays in variables["params"].items() if name != "head"}
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        along = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), scrambled(params, seed=1))
        gradient, step = jax.jit(jax.grad(f)), 1e-7
        ahead, behind = (gradient(jax.tree.map(lambda x, d: x + h * d, params, along)) for h in (step, -step))  # noqa: B023
        product = transformed("forward over reverse", f, params, along)
        expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
        for one, other in zip(jax.tree.leaves(product), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * norm)


@pytest.mark.parametrize("family", NETWORKS)
def test_the_reference_is_exported_with_a_symbolic_batch(family):
    model, variables = network(family)
    model = model.clone(implementation="reference")
    (batch,) = export.symbolic_shape("batch")
    images, _ = images_and_labels()
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
    program = export.export(jax.jit(functools.partial(model.apply, variables)), platforms=("cpu", "cuda", "tpu"))(shape)
    np.testing.assert_allclose(program.call(images[:3]), model.apply(variables, images[:3]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", NETWORKS)
def test_the_fast_implementation_is_exported_for_accelerators_with_a_symbolic_batch(family):
    model, variables = network(family)
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *images_and_labels()[0].shape[1:]), jnp.float32)
    program = export.export(jax.jit(functools.partial(model.apply, variables)), platforms=("cuda", "tpu"))(shape)
    assert str(program.out_avals[0].shape) == "(batch, 3)"


@pytest.mark.parametrize("family", NETWORKS)
def test_values_gradients_and_statistics_of_both_implementations_agree(family):
    model, variables = network(family)
    images, labels = images_and_labels()

    def measured(implementation):
        net = model.clone(implementation=implementation)

        def total(params):
            logits, moved = net.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.sum(cross_entropy(logits, jax.nn.one_hot(labels, 3))), (logits, moved)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])

    compare(measured("fast"), measured("reference"))
