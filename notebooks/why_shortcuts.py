# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Why residual networks have shortcuts
#
# Two networks of 56 layers, equal to the last parameter. One adds the input of each block to its output, the other does
# not. Both train for five epochs on 1,438 handwritten digits of 8x8 pixels. What happens is the observation from which
# residual networks came (He et al. 2015, arXiv:1512.03385, figure 1). It takes about a minute on a CPU.

# %% [markdown]
# In Colab the next cell installs the package (on a GPU runtime, use `[all,cuda12]`). If the package index does not have
# `resnet-flax` yet, upload the project's folder and install from there: `%pip install "./resnet_jax[all]"`.

# %%
import importlib.util

if importlib.util.find_spec("resnet_jax") is None:
    # %pip install --quiet "resnet-flax[all]"
    importlib.invalidate_caches()

# %%
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import resnet_jax
from resnet_jax.configs import digits
from resnet_jax.data.sources import open_dataset
from resnet_jax.lab.analysis import delete_each, gradient_norms

runs = pathlib.Path(tempfile.mkdtemp(prefix="resnet_jax_"))
SHORTCUTS = {"plain": "none", "residual": "A"}  # A: the identity, with zero channels where the width grows
DEPTH = 56

# %% [markdown]
# ## The two networks
#
# The only difference is the field `shortcut`.

# %%
models = {
    kind: resnet_jax.create_model(f"cifar_resnet{DEPTH}", num_classes=10, shortcut=shortcut)
    for kind, shortcut in SHORTCUTS.items()
}
data = open_dataset("digits", image_size=8)
pixels = np.float32(data.test.images) / 255
images, labels = jnp.asarray((pixels - pixels.mean()) / pixels.std()), data.test.labels
initial = {kind: model.init(jax.random.key(0), images[:1]) for kind, model in models.items()}
parameters = {kind: sum(array.size for array in jax.tree.leaves(start["params"])) for kind, start in initial.items()}
parameters

# %% [markdown]
# A question before you go on: the residual network can do nothing that the plain one could not learn to do. So which of
# the two should have the lower *training* loss?


# %%
def train(kind, epochs=5.0):
    """Train a network of a kind in a folder of its own; return its summary and what was measured on the way."""
    config = digits.get_config()
    config.model.name = f"cifar_resnet{DEPTH}"
    config.model.overrides.shortcut = SHORTCUTS[kind]
    config.training.epochs = epochs
    config.training.log_every = 5
    config.optimizer.learning_rate = 0.03
    config.schedule.warmup_epochs = 2.0
    summary = resnet_jax.train(config, str(runs / kind))
    lines = (runs / kind / "metrics.jsonl").read_text().splitlines()
    return summary, [json.loads(line) for line in lines]


# %%
results = {"plain": train("plain")}

# %%
results["residual"] = train("residual")

# %% [markdown]
# ## The plain network fails on the images it was trained on
#
# This is not overfitting: the training loss itself stays high. The plain network has enough parameters, but the
# optimizer cannot find good values for them.

# %%
errors = {kind: 1 - summary["top1"] for kind, (summary, _) in results.items()}
losses = {kind: [row for row in rows if row["split"] == "train"][-1]["loss"] for kind, (_, rows) in results.items()}
for kind in SHORTCUTS:
    print(f"{kind:>8}: training loss {losses[kind]:.3f}, test error {errors[kind]:.1%}")

figure, axes = plt.subplots(1, 2, figsize=(11, 3.5))
for kind, (_, rows) in results.items():
    for axis, split, measure in zip(axes, ("train", "test"), ("loss", "error"), strict=True):
        of_split = [row for row in rows if row["split"] == split]
        values = [1 - row["top1"] if measure == "error" else row["loss"] for row in of_split]
        axis.plot([row["step"] for row in of_split], values, marker=".", label=kind)
        axis.set(xlabel="step", ylabel=f"{split} {measure}")
        axis.legend()
for axis in axes:
    axis.set_ylim(bottom=0)
plt.show()

# %% [markdown]
# ## Do the gradients vanish?
#
# With BatchNorm they do not. At initialization, the gradient with respect to a block's input *grows* from the last
# block to the first: in the plain network thousands of times, in the residual one a hundredth of that.

# %%
norms = {kind: gradient_norms(models[kind], initial[kind], images[:64], labels[:64]).inputs for kind in SHORTCUTS}
growth = {}
for kind, by_block in norms.items():
    values = list(by_block.values())
    growth[kind] = values[0] / values[-1]
    plt.semilogy(range(1, len(values) + 1), values, marker=".", label=f"{kind}: grows {growth[kind]:,.0f} times")
plt.xlabel("block")
plt.ylabel("gradient norm by the block's input")
plt.legend()
plt.show()

# %% [markdown]
# What the plain gradient loses is its relation to the input: for two almost equal images it is as different as noise
# (Balduzzi et al. 2017). `resnet_jax.lab.analysis.correlations` measures that; the page "Teaching" shows the figure.

# %% [markdown]
# ## A sum of many paths
#
# A shortcut lets a signal pass each block by. A residual network therefore still works after training with almost any
# one of its blocks removed (Veit et al. 2016). Only the first few, whose output all others read, are missed. In the
# plain network each layer reads nothing but the output of the one before.

# %%
trained = resnet_jax.load_weights(models["residual"], runs / "residual")
deleted = delete_each(models["residual"], trained, images, labels)
without = [score.error for score in deleted.without]
print(f"whole: {deleted.whole.error:.1%} error; without one block: {np.median(without):.1%} in the median")

plt.bar(range(1, len(without) + 1), without)
plt.axhline(deleted.whole.error, color="black", linestyle="--", label="the whole network")
plt.xlabel("deleted block")
plt.ylabel("test error")
plt.legend()
plt.show()

# %% [markdown]
# ## Try it
#
# 1. Set `DEPTH` to 8, 20 or 32. From which depth on does the plain network fall behind?
# 2. Give the plain network more epochs. Does it catch up?
# 3. Set the plain network's shortcut to "C", a projection in every block. Is any shortcut as good as the identity?
#
# All depths with three seeds, and a report: `resnet-jax train sweeps/degradation --workdir=runs/degradation`.
