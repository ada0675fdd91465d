"""Fine-tuning: learning rates of backbone and head, and BatchNorm that stays as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax import load_weights, save_weights
from resnet_jax.data.augment import Augment
from resnet_jax.errors import DataError
from resnet_jax.models.resnet import ResNet
from resnet_jax.run.metrics import read_metrics
from resnet_jax.runner import run
from resnet_jax.training.optimizers import OPTIMIZERS, create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.steps import train_step
from tests.models.reference import scrambled

RATE, FACTOR = 0.25, 0.125  # powers of two: a product with them is not rounded
RECIPES = [
    ("sgd", dict(momentum=0.9, nesterov=True, weight_decay=0.01)),
    ("sgd", dict(momentum=0.9, weight_decay=0.01, clip_norm=0.5)),
    ("lars", dict(momentum=0.9, weight_decay=0.01, weight_decay_mask="kernels")),
    ("lamb", dict(weight_decay=0.01)),
]


def params_of(seed):
    rng = np.random.default_rng(seed)
    shapes = {
        "stem_conv": {"kernel": (3, 3, 2, 4)},
        "stem_bn": {"scale": (4,), "bias": (4,)},
        "stage1_block1": {"se": {"fc1": {"kernel": (1, 1, 4, 2), "bias": (2,)}}, "bn1": {"scale": (4,), "bias": (4,)}},
        "head": {"kernel": (4, 3), "bias": (3,)},
    }
    drawn = {path: rng.normal(size=shape).astype(np.float32) for path, shape in flatten_dict(shapes).items()}
    return unflatten_dict(drawn)


def updates_of(optimizer, steps=2):
    """The updates of some steps along given gradients, at given parameters, by path."""
    state, all_updates = optimizer.init(params_of(0)), []
    for step in range(steps):
        updates, state = optimizer.update(params_of(step + 1), state, params_of(100 + step))
        all_updates.append(flatten_dict(updates, sep="/"))
    return all_updates


def is_norm(path):
    return "bn" in path


@pytest.mark.parametrize(("name", "fields"), RECIPES)
def test_the_backbone_moves_as_at_its_share_of_the_rate_and_the_head_as_at_the_whole(name, fields):
    at_head, at_backbone = (
        updates_of(create_optimizer(name, lambda step, rate=rate: rate / (1 + step), **fields))
        for rate in (RATE, RATE * FACTOR)
    )
    found = updates_of(create_optimizer(name, lambda step: RATE / (1 + step), backbone_lr_multiplier=FACTOR, **fields))
    for head, backbone, updates in zip(at_head, at_backbone, found, strict=True):
        for path, update in updates.items():
            expected = head if path.startswith("head/") else backbone
            np.testing.assert_allclose(update, expected[path], rtol=1e-6, atol=0, err_msg=path)


@pytest.mark.parametrize(("name", "fields"), RECIPES)
def test_what_is_frozen_neither_moves_nor_decays_nor_counts_in_the_norm_that_clips(name, fields):
    for frozen, options in (
        (lambda path: not path.startswith("head/"), dict(backbone_lr_multiplier=0.0)),
        (is_norm, dict(freeze_norm=True)),
    ):
        found = updates_of(create_optimizer(name, lambda step: RATE, **fields, **options))

        # The same optimizer that never saw the frozen parameters.
        plain = create_optimizer(name, lambda step: RATE, **fields)

        def kept(params, frozen=frozen):
            return {path: value for path, value in flatten_dict(params, sep="/").items() if not frozen(path)}

        def nested(params, kept=kept):
            return {path: {path.rpartition("/")[2]: value} for path, value in kept(params).items()}

        state = plain.init(nested(params_of(0)))
        for step, updates in enumerate(found):
            expected, state = plain.update(nested(params_of(step + 1)), state, nested(params_of(100 + step)))
            for path, update in updates.items():
                if frozen(path):
                    np.testing.assert_array_equal(update, 0, err_msg=path)
                else:
                    leaf = path.rpartition("/")[2]
                    np.testing.assert_allclose(update, expected[path][leaf], rtol=1e-5, atol=1e-8, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_either_the_optimizer_is_the_one_it_was(name):
    plain = create_optimizer(name, lambda step: RATE)
    asked = create_optimizer(name, lambda step: RATE, backbone_lr_multiplier=1.0, freeze_norm=False)
    assert jax.tree.structure(plain.init(params_of(0))) == jax.tree.structure(asked.init(params_of(0)))


def test_steps_with_frozen_norms_leave_statistics_scales_and_biases_bit_for_bit_and_move_all_else():
    model = ResNet((1, 1), (8, 8), stem="cifar", stem_width=8, num_classes=5, norm_frozen=True)
    optimizer = create_optimizer("sgd", lambda step: 0.1, weight_decay=0.1, freeze_norm=True)
    variables = scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))))
    before = create_state(model, optimizer, jax.random.key(0), (8, 8, 3), variables=variables)
    augment = Augment(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=5)
    step = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer, augment=augment))
    rng, state = np.random.default_rng(0), before
    for _ in range(2):
        batch = {
            "image": jnp.asarray(rng.integers(0, 256, (4, 8, 8, 3), np.uint8)),
            "label": jnp.asarray(rng.integers(0, 5, 4, np.int32)),
            "position": jnp.arange(4, dtype=jnp.uint32),
        }
        state, _ = step(state, batch, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, before.batch_stats)
    after = flatten_dict(state.params, sep="/")
    for path, old in flatten_dict(before.params, sep="/").items():
        assert np.array_equal(after[path], old) == is_norm(path), path


# End to end


@pytest.fixture
def fine_tuning(small_config, tmp_path):
    """A config of a short run, and weights of three classes and coloured images to start from."""
    config = small_config
    config.training.steps = 4
    config.training.log_every = 2
    config.training.ema_decay = 0.0
    model = ResNet((1, 1), (8, 16), stem="cifar", stem_width=8, shortcut="A", num_classes=3)
    variables = scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))))
    save_weights(model, variables, tmp_path / "pretrained.safetensors")
    config.training.init_from = str(tmp_path / "pretrained.safetensors")
    config.training.init_adapt = True
    config.optimizer.backbone_lr_multiplier = 0.0
    config.optimizer.freeze_norm = True
    config.model.overrides.norm_frozen = True
    return config, model, variables


def test_a_run_trains_a_new_head_on_a_frozen_backbone_from_a_weights_file_and_another_starts_from_that_run(
    fine_tuning, tmp_path, capsys
):
    config, model, variables = fine_tuning
    run(config, str(tmp_path / "run"), "train")
    trained = load_weights(model.clone(num_classes=10), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, trained["batch_stats"], variables["batch_stats"])
    for path, old in flatten_dict(variables["params"], sep="/").items():
        new = flatten_dict(trained["params"], sep="/")[path]
        if path == "stem_conv/kernel":  # of grey digits: the sum over the colours
            np.testing.assert_allclose(new, old.sum(axis=2, keepdims=True), rtol=1e-5, atol=1e-6)
        elif not path.startswith("head/"):
            np.testing.assert_array_equal(new, old, err_msg=path)
    head = trained["params"]["head"]
    assert head["kernel"].shape == (16, 10) and np.abs(head["bias"]).min() > 0  # it began at 0

    config.training.init_from = str(tmp_path / "run")
    evaluated = run(config, str(tmp_path / "evaluation"), "eval")
    last = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if record["split"] == "test"][-1]
    assert evaluated["eval_examples"] == last["examples"] and evaluated["top1"] == last["top1"]
    np.testing.assert_allclose(evaluated["loss"], last["loss"], rtol=1e-6)


def test_the_evaluation_of_a_fine_tuned_run_is_of_what_it_learned(fine_tuning, tmp_path):
    config, *_ = fine_tuning
    config.training.steps = 40
    config.optimizer.backbone_lr_multiplier = 1.0
    trained = run(config, str(tmp_path / "run"), "train")
    start = run(config, str(tmp_path / "elsewhere"), "eval")
    (tmp_path / "pretrained.safetensors").unlink()
    evaluated = run(config, str(tmp_path / "run"), "eval")
    assert (evaluated["steps"], evaluated["top1"]) == (40, trained["top1"])
    assert start["steps"] == 0 and start["loss"] > 1.2 * evaluated["loss"]


def test_without_the_request_a_run_refuses_weights_of_other_images_and_classes(fine_tuning, tmp_path):
    config, *_ = fine_tuning
    config.training.init_adapt = False
    with pytest.raises(DataError, match=r"where the network has .*; adapt=True, or training\.init_adapt"):
        run(config, str(tmp_path / "run"), "train")
