"""What is done to a batch on the device: normalization, pad-crop-flip, and mixing of examples."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt, UInt8

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


def normalize(
    images: UInt8[Array, "batch height width channels"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Images:
    """Return (images / 255 - mean) / std in float32; `mean` and `std` are per channel, of images scaled to 0..1."""
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * scale - shift


def crop_and_flip(images: Images, keys: Key[Array, " batch"], pad: int, flip: bool) -> Images:
    """Pad by `pad` zeros (the mean colour) a side, crop back at random, mirror half (He et al. 2015, section 4.2)."""
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(image, key):
        where, mirror = jax.random.split(key)
        top, left = jax.random.randint(where, (2,), 0, 2 * pad + 1)
        image = jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))
        return jnp.where(jax.random.bernoulli(mirror) & flip, image[:, ::-1], image)

    return jax.vmap(one)(padded, keys)


def mixup(images: Images, targets: Targets, key: jax.Array, alpha: float) -> tuple[Images, Targets]:
    """Blend opposite examples of the batch by a Beta(alpha, alpha) share (Zhang et al. 2018, arXiv:1710.09412)."""
    share = jax.random.beta(key, alpha, alpha)
    return share * images + (1 - share) * images[::-1], share * targets + (1 - share) * targets[::-1]


def cutmix(images: Images, targets: Targets, key: jax.Array, alpha: float) -> tuple[Images, Targets]:
    """Paste a box of the opposite example of the batch; targets follow its area (Yun et al. 2019, arXiv:1905.04899).

    The box covers a share 1 - Beta(alpha, alpha) of the image before it is cut at the border.
    """
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha))

    def inside(key, size):
        centre, half = jax.random.randint(key, (), 0, size), (side * size).astype(jnp.int32) // 2
        index = jnp.arange(size)
        return (index >= centre - half) & (index < centre + half)

    box = inside(row_key, images.shape[1])[:, None] & inside(column_key, images.shape[2])[None, :]
    share = 1.0 - jnp.mean(box, dtype=jnp.float32)
    mixed = jnp.where(box[None, :, :, None], images[::-1], images)
    return mixed, share * targets + (1 - share) * targets[::-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """From a batch of uint8 images and labels to what the network and the loss read.

    All randomness comes from the seed's key and from the examples' positions in the stream, so that it depends neither
    on how many devices there are nor on where training was resumed.

    Attributes:
      mean, std: per channel, of images scaled to 0..1.
      num_classes: length of the target vectors.
      pad: pixels of zero padding before the random crop; 0 crops nothing.
      flip: mirror half of the images.
      label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567,
        section 7).
      mixup, cutmix: the Beta parameters, 0 for none; where both are set, each batch of a device takes one by even
        chance.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    pad: int = 0
    flip: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def inputs(self, images: UInt8[Array, "batch height width channels"]) -> Images:
        """Return what the network reads in evaluation."""
        return normalize(images, self.mean, self.std)

    def __call__(
        self,
        key: jax.Array,
        images: UInt8[Array, "batch height width channels"],
        labels: Int[Array, " batch"],
        positions: UInt[Array, " batch"],
    ) -> tuple[Images, Targets]:
        """Return augmented float32 images and target probabilities."""
        crop_key, mix_key = jax.random.split(key)
        x = self.inputs(images)
        if self.pad or self.flip:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(crop_key, positions)
            x = crop_and_flip(x, keys, self.pad, self.flip)
        targets = jax.nn.one_hot(labels, self.num_classes)
        targets = targets * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes
        mixes = [(mix, alpha) for mix, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha > 0]
        if mixes:
            choose, mix_key = jax.random.split(jax.random.fold_in(mix_key, positions[0]))
            branches = [lambda x, t, mix=mix, alpha=alpha: mix(x, t, mix_key, alpha) for mix, alpha in mixes]
            x, targets = jax.lax.switch(jax.random.randint(choose, (), 0, len(branches)), branches, x, targets)
        return x, targets
