"""Makes `resnet_jax/data/sources/digits.npz` from scikit-learn's copy: `python tests/golden/make_digits.py`.

The images are those of Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998 (doi:10.24432/C50P49), under the licence CC BY 4.0; unchanged, as bytes from 0 to 16.
"""

import pathlib

import numpy as np
from sklearn.datasets import load_digits

FILE = pathlib.Path(__file__).parents[2] / "resnet_jax" / "data" / "sources" / "digits.npz"

if __name__ == "__main__":
    values, labels = load_digits(return_X_y=True)
    np.savez_compressed(FILE, images=values.reshape(-1, 8, 8).astype(np.uint8), labels=labels.astype(np.uint8))
