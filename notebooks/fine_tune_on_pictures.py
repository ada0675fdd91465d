# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Fine-tune on a folder of pictures
#
# Start from trained weights, train on a folder of pictures with classes of your own, evaluate, predict, and look at the
# worst mistakes. It runs on a CPU in about a minute and downloads nothing: the weights come from a short run on
# handwritten digits, and the pictures are coloured digits with a new question, whether the digit has a hole.

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
import subprocess
import sys
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import resnet_jax
from resnet_jax.configs import digits
from resnet_jax.data.sources import open_dataset

runs = pathlib.Path(tempfile.mkdtemp(prefix="resnet_jax_"))

# %% [markdown]
# ## Pictures
#
# The layout is torchvision's ImageFolder: `train/CLASS/*` and `val/CLASS/*`. Put your own pictures there instead (skip
# the next cell, and set `pictures`). Here there are only 20 training pictures of each digit; the 4, which is written
# with and without a hole, is left out.

# %%
pictures = runs / "pictures"
random = np.random.default_rng(0)


def write(split, examples, per_digit):
    """Write coloured 64x64 pictures of some digits, in a folder for each class."""
    for digit in (0, 1, 2, 3, 5, 6, 7, 8, 9):
        folder = pictures / split / ("hole" if digit in (0, 6, 8, 9) else "no_hole")
        folder.mkdir(parents=True, exist_ok=True)
        for i in np.flatnonzero(examples.labels == digit)[:per_digit]:
            ink, paper = random.uniform(0.6, 1, 3), random.uniform(0, 0.3, 3)
            share = examples.images[i] / 255
            image = Image.fromarray(np.uint8(255 * (share * ink + (1 - share) * paper)))
            image.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{digit}_{i}.png")


data = open_dataset("digits", image_size=8)
write("train", data.train, per_digit=20)
write("val", data.test, per_digit=100)
files = sorted(pictures.glob("train/*/*.png"))
print(len(files), "training pictures,", len(list(pictures.glob("val/*/*.png"))), "for validation")

# %%
figure, axes = plt.subplots(1, 8, figsize=(12, 2))
for axis, file in zip(axes, files[:: len(files) // 8], strict=False):
    axis.imshow(Image.open(file))
    axis.set_title(file.parent.name)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Weights to start from
#
# A short run on the grey digits, enlarged to 16x16, with their ten classes.

# %%
config = digits.get_config()
config.training.epochs = 6.0
config.data.input_size = 16
before = resnet_jax.train(config, str(runs / "digits"))

# %% [markdown]
# ## Fine-tuning
#
# `training.init_from` names the weights: a run, a file, or published ones such as `resnet18.tv_in1k`.
# `training.init_adapt` gives them a new head for the new classes and, as these pictures have three channels and the
# digits had one, repeats the first kernel. Everything before the head learns at three tenths of the head's rate.
#
# For photographs, `resnet_jax.configs.finetune.get_config("resnet18")` has the settings: 224 pixels, bfloat16, and
# ImageNet's weights to start from.


# %%
def picture_config():
    """Return the config of a run on the pictures, from random weights."""
    config = resnet_jax.default_config()
    config.model.name = "cifar_resnet8"
    config.data.source = "folder"
    config.data.path = str(pictures)
    config.data.image_size = config.data.resize = 16
    config.data.crop_scale = (0.7, 1.0)
    config.training.batch_size = 32
    config.training.epochs = 15.0
    config.training.log_every = 10
    config.optimizer.learning_rate = 0.1
    config.schedule.name = "cosine"
    config.evaluation.every_epochs = 5
    return config


config = picture_config()
config.training.init_from = str(runs / "digits")
config.training.init_adapt = True
config.optimizer.backbone_lr_multiplier = 0.3
tuned = resnet_jax.train(config, str(runs / "fine_tuned"))

# %% [markdown]
# What did the weights gain? The same network, from random weights:

# %%
scratch = resnet_jax.train(picture_config(), str(runs / "from_scratch"))
print(f"from random weights {scratch['top1']:.1%}, from the digits' weights {tuned['top1']:.1%}")

# %% [markdown]
# ## Evaluate and predict
#
# `evaluate` counts each validation picture exactly once. `predict` reads a folder of pictures, prepares them as the run
# did, and can draw each with Grad-CAM (`--pictures=DIR`).

# %%
evaluation = resnet_jax.evaluate(config, str(runs / "fine_tuned"))
evaluation["top1"], evaluation["eval_examples"]

# %%
predict = [sys.executable, "-m", "resnet_jax", "predict", pictures / "val", "--weights", runs / "fine_tuned"]
shown = subprocess.run([*predict, "--top=2", "--format=json"], capture_output=True, text=True, check=True)
predictions = json.loads(shown.stdout)
predictions[0]

# %% [markdown]
# ## The worst mistakes
#
# The pictures whose true class got the lowest probability. Look at them before you change anything: they may be
# mislabelled, cropped badly, or of a kind that the training folder lacks.


# %%
def probability_of_truth(prediction):
    """Return the probability that the network gives to the class whose folder holds the picture."""
    by_class = {each["class"]: each["probability"] for each in prediction["classes"]}
    return by_class[pathlib.Path(prediction["file"]).parent.name]


worst = sorted(predictions, key=probability_of_truth)[:8]
mistakes = sum(probability_of_truth(prediction) < 0.5 for prediction in predictions)
print(f"{mistakes} of {len(predictions)} pictures are classified wrongly")

figure, axes = plt.subplots(1, 8, figsize=(14, 2.2))
for axis, prediction in zip(axes, worst, strict=True):
    file = pathlib.Path(prediction["file"])
    axis.imshow(Image.open(file))
    axis.set_title(f"{file.parent.name}:\n{probability_of_truth(prediction):.1%}", fontsize=9)
    axis.axis("off")
plt.show()
