"""What is done to a batch on the device: normalization, pad-crop-flip, erasing, and mixing of examples."""

import dataclasses
import math
from collections.abc import Callable

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


def erase(images: Images, keys: Key[Array, " batch"], probability: float) -> Images:
    """Set a random rectangle of some images to zeros, the mean colour (Zhong et al. 2020, arXiv:1708.04896).

    As in torchvision's `RandomErasing`: up to ten times an area of 2 to 33 % of the image and, uniformly on a log
    scale, a ratio of height to width of 0.3 to 3.3 are drawn; the first rectangle that is smaller than the image in
    both directions is put anywhere in it. If none is, the image stays as it is.
    """
    height, width = images.shape[1:3]

    def box(key):
        chance, area_key, ratio_key, place_key = jax.random.split(key, 4)
        area = height * width * jax.random.uniform(area_key, (10,), minval=0.02, maxval=0.33)
        ratio = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=math.log(0.3), maxval=math.log(3.3)))
        sides = jnp.round(jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], axis=1)).astype(jnp.int32)
        fits = (sides[:, 0] < height) & (sides[:, 1] < width)
        side = sides[jnp.argmax(fits)]
        start = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]) - side + 1)
        erases = jax.random.bernoulli(chance, probability) & fits.any()
        rows, columns = (
            (index >= start[axis]) & (index < start[axis] + side[axis])
            for axis, index in enumerate((jnp.arange(height), jnp.arange(width)))
        )
        return erases & rows[:, None] & columns[None, :]

    return jnp.where(jax.vmap(box)(keys)[..., None], 0.0, images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """From a batch of uint8 images and labels to what the network and the loss read.

    All randomness comes from the seed's key and from the examples' positions in the stream, so that it depends neither
    on how many devices there are nor on where training was resumed.

    Attributes:
      mean, std: per channel, of images scaled to 0..1.
      num_classes: length of the target vectors.
      size: pixels a side to which images are resized, bilinear and antialiased; None: they keep theirs.
      pad: pixels of zero padding before the random crop; 0 crops nothing.
      flip: mirror half of the images.
      erase: probability that a rectangle of an image is set to its mean colour.
      label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567,
        section 7).
      mixup, cutmix: the Beta parameters, 0 for none; where both are set, each batch of a device takes one by even
        chance.
      transforms: (images, targets, key) to both, after all others; the key is that of the batch's first position.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    size: int | None = None
    pad: int = 0
    flip: bool = False
    erase: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    transforms: tuple[Callable[[Images, Targets, jax.Array], tuple[Images, Targets]], ...] = ()

    def inputs(
        self, images: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Return what the network reads in evaluation."""
        x = normalize(images, self.mean, self.std)
        if self.size is None:
            return x
        return jax.image.resize(x, (len(x), self.size, self.size, x.shape[-1]), "bilinear")

    def __call__(
        self,
        key: jax.Array,
        images: UInt8[Array, "batch height width channels"],
        labels: Int[Array, " batch"],
        positions: UInt[Array, " batch"],
    ) -> tuple[Images, Targets]:
        """Return augmented float32 images and target probabilities."""
        crop_key, mix_key, erase_key = jax.random.split(key, 3)
        x = self.inputs(images)
        if self.pad or self.flip:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(crop_key, positions)
            x = crop_and_flip(x, keys, self.pad, self.flip)
        if self.erase:
            x = erase(x, jax.vmap(jax.random.fold_in, (None, 0))(erase_key, positions), self.erase)
        targets = jax.nn.one_hot(labels, self.num_classes)
        targets = targets * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes
        mixes = [(mix, alpha) for mix, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha > 0]
        if mixes:
            choose, mix_key = jax.random.split(jax.random.fold_in(mix_key, positions[0]))
            branches = [lambda x, t, mix=mix, alpha=alpha: mix(x, t, mix_key, alpha) for mix, alpha in mixes]
            x, targets = jax.lax.switch(jax.random.randint(choose, (), 0, len(branches)), branches, x, targets)
        for number, transform in enumerate(self.transforms, start=3):  # the keys 0 to 2 are those of the split above
            own_key = jax.random.fold_in(jax.random.fold_in(key, number), positions[0])
            x, targets = transform(x, targets, own_key)
        return x, targets
