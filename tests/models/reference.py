"""The layers in NumPy, by their definitions, in float64: what the networks are compared with."""

import jax
import numpy as np


def convolve(x, kernel, stride=1, groups=1):
    """Convolve (batch, height, width, in) with (k, k, in / groups, out), padded by (k - 1) // 2 on all four sides."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    if groups > 1:
        inputs, kernels = np.split(x, groups, axis=3), np.split(kernel, groups, axis=3)
        return np.concatenate([convolve(*pair, stride) for pair in zip(inputs, kernels, strict=True)], axis=3)
    size, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for row in range(rows):
        for column in range(columns):
            window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            y[:, row, column] = np.tensordot(window, kernel, 3)
    return y


def normalize(x, params, statistics, epsilon=1e-5):
    """Apply a BatchNorm in evaluation."""
    params, statistics = ({k: np.asarray(v, np.float64) for k, v in d.items()} for d in (params, statistics))
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + epsilon) * params["scale"] + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def scrambled(variables, seed=0):
    """Return variables of the same shapes with no value left at 0 or 1, variances and scales near 1."""
    random = np.random.default_rng(seed)

    def draw(path, array):
        kind = path[-1].key
        if kind == "var":
            return random.uniform(0.5, 1.5, array.shape).astype(np.float32)
        noise = random.normal(size=array.shape) * (0.3 if array.ndim > 1 else 0.1)
        return (noise + (kind == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)
