"""Small images to test with."""

import io
import zlib

import numpy as np
from PIL import Image


def noise(height, width, channels=3, seed=0):
    """Return an array in which every pixel is drawn."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photo(height, width, seed=0):
    """Return an array whose neighbouring pixels are alike, as those of photographs are."""
    small = Image.fromarray(noise(max(2, height // 8), max(2, width // 8), seed=seed))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(image, file_format="PNG", **options):
    """Return the bytes of a file of an image or an array."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, file_format, **options)
    return file.getvalue()


def damaged(count=1000):
    """Return so many files that something is wrong with, by what it is: cut, bits turned, sizes or headers changed."""
    random = np.random.default_rng(0)
    whole = {
        "jpeg": encode(photo(48, 64), "JPEG"),
        "progressive": encode(photo(48, 64), "JPEG", progressive=True),
        "grey": encode(photo(48, 64)[..., 0], "JPEG"),
        "png": encode(photo(48, 64)),
        "webp": encode(photo(48, 64), "WEBP"),
        "gif": encode(photo(48, 64), "GIF"),
    }
    files = {"empty": b"", "zeros": bytes(1000), "text": b"<html>not found</html>", "start": b"\xff\xd8\xff"}
    frame = whole["jpeg"].index(b"\xff\xc0") + 5  # where a JPEG has its height and width
    for sides in ((0, 64), (48, 0), (0, 0), (65500, 65500), (65535, 1), (9460, 9460)):
        sizes = b"".join(side.to_bytes(2, "big") for side in sides)
        files[f"jpeg {sides}"] = whole["jpeg"][:frame] + sizes + whole["jpeg"][frame + 4 :]
    for sides in ((0, 64), (60000, 60000), (2**31 - 1, 2**31 - 1)):  # a PNG has them from byte 16 on, with a checksum
        header = b"IHDR" + b"".join(side.to_bytes(4, "big") for side in sides) + whole["png"][24:29]
        files[f"png {sides}"] = whole["png"][:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole["png"][33:]
    for name, content in whole.items():
        files |= {f"{name} after {other}": whole[other][:20] + content[20:] for other in whole if other != name}
    while len(files) < count:
        name = random.choice(list(whole))
        content = bytearray(whole[name])
        if len(files) % 2:
            files[f"{name} cut {len(files)}"] = bytes(content[: random.integers(len(content))])
        else:
            for bit in random.integers(8 * len(content), size=random.choice([1, 3, 30])):
                content[bit // 8] ^= 1 << bit % 8
            files[f"{name} turned {len(files)}"] = bytes(content)
    return files
