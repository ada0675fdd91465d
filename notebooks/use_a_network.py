# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Use a network and look inside
#
# Load weights, classify images, look at feature maps, and ask with Grad-CAM where in an image a network finds its
# answer. Everything runs on a CPU in under a minute and downloads nothing: the network is a small ResNet that we first
# train on handwritten digits. A note below gives the lines that differ for ResNet-50 with torchvision's weights.

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
from resnet_jax.lab.analysis import gradcam

runs = pathlib.Path(tempfile.mkdtemp(prefix="resnet_jax_"))

# %% [markdown]
# ## Weights
#
# Six epochs on scikit-learn's digits: 1,438 images of 8x8 pixels, and 359 held out. `output_stride=1` lets the later
# stages dilate their convolutions where they would stride, so that the last feature maps keep all 8x8 positions.

# %%
config = digits.get_config()
config.training.epochs = 6.0
config.model.overrides.output_stride = 1
summary = resnet_jax.train(config, str(runs / "digits"))

# %% [markdown]
# `load_weights` reads the newest checkpoint of a run, a file of torch or safetensors, or published weights by name. For
# ResNet-50 with torchvision's weights, the next cell would be
#
# ```python
# model = resnet_jax.create_model("resnet50")
# variables = resnet_jax.load_weights(model, "resnet50.tv_in1k")  # downloads about 100 MB
# ```
#
# and the images 224x224 photographs in RGB, normalized with ImageNet's mean and deviation. Nothing else changes.

# %%
model = resnet_jax.create_model("cifar_resnet8", num_classes=10, output_stride=1)
variables = resnet_jax.load_weights(model, runs / "digits")
{collection: sum(array.size for array in jax.tree.leaves(arrays)) for collection, arrays in variables.items()}

# %% [markdown]
# ## Predictions
#
# A run writes what its weights expect of an image to `preset.json`. Images are NHWC.

# %%
preset = json.loads((runs / "digits" / "preset.json").read_text())
test = open_dataset("digits", image_size=8).test
images = jnp.asarray((test.images / 255 - np.array(preset["mean"])) / np.array(preset["std"]), jnp.float32)

logits = model.apply(variables, images, train=False)
predicted = np.asarray(jnp.argmax(logits, axis=-1))
accuracy = float(np.mean(predicted == test.labels))
print(f"{accuracy:.1%} of {len(images)} images right; the training run reported {summary['top1']:.1%}")

# %%
probabilities = np.asarray(jax.nn.softmax(logits))
shown = np.array([np.flatnonzero(test.labels == label)[0] for label in range(10)])  # one image of each class
figure, axes = plt.subplots(1, 10, figsize=(14, 2))
for axis, i in zip(axes, shown, strict=True):
    axis.imshow(test.images[i, ..., 0], cmap="gray")
    axis.set_title(f"{predicted[i]}: {probabilities[i, predicted[i]]:.0%}")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Feature maps
#
# `feature_info` lists the maps with their channels and strides, and `method="features"` returns them by name. These
# are what a detector or a segmentation head reads.

# %%
maps = model.apply(variables, images[shown], train=False, method="features")
for info in model.feature_info():
    print(info, maps[info.name].shape)

# %%
figure, axes = plt.subplots(len(maps), 8, figsize=(10, 5))
for row, (name, values) in zip(axes, maps.items(), strict=True):
    strongest = np.argsort(-np.asarray(values[3]).mean(axis=(0, 1)))[:8]
    for axis, channel in zip(row, strongest, strict=True):
        axis.imshow(values[3, ..., channel], cmap="viridis")
        axis.set_title(f"{name}, {channel}", fontsize=7)
        axis.axis("off")
plt.show()

# %% [markdown]
# ## Grad-CAM
#
# The weight of a channel is the mean gradient of the class's logit with respect to it; the heat map is the weighted sum
# of the channels, with negative values set to zero (Selvaraju et al. 2017). It answers "where does the network see this
# class?" for any class, not only for the one it chose.

# %%
heat = np.asarray(gradcam(model, variables, images[shown], jnp.asarray(predicted[shown])))
heat_of_3 = np.asarray(gradcam(model, variables, images[shown], jnp.full(10, 3)))

figure, axes = plt.subplots(2, 10, figsize=(14, 3.2))
for row, heats, title in zip(axes, (heat, heat_of_3), ("the predicted class", "class 3"), strict=True):
    row[0].set_title(title, loc="left", fontsize=9)
    for axis, i, values in zip(row, shown, heats, strict=True):
        axis.imshow(test.images[i, ..., 0], cmap="gray")
        axis.imshow(values, cmap="jet", alpha=0.5, interpolation="bilinear")
        axis.axis("off")
plt.show()

# %% [markdown]
# The same from the command line, for a folder of image files:
#
# ```sh
# resnet-jax predict photos/ --weights=resnet50.tv_in1k --pictures=seen/
# ```
#
# More measurements are in `resnet_jax.lab.analysis`: deletion of blocks, gradient norms, loss surfaces, Hessian
# spectra.
