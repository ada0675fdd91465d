"""The picture of one prediction: the image, where the network looked, and what it says."""

import io
import os

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image

from resnet_jax.printable import printable
from resnet_jax.run.drawing import LONGEST_LABEL, drawn
from resnet_jax.run.files import write_atomically

LEVELS = (0.25, 0.5, 0.75)  # of the contours, as shares of the largest value
FINE = 256  # pixels a side to which the heat is smoothed


def draw_prediction(
    image: UInt8[np.ndarray, "height width channels"],
    heat: Float[np.ndarray, "rows columns"],
    best: list[tuple[str, float]],
    file: str | os.PathLike,
    title: str,
) -> None:
    """Draws a prediction to a PNG.

    Args:
        image: What the network saw, before its colours were normalized; 1 or 3 channels.
        heat: Grad-CAM of the first class, 0 or more; it covers the image.
        best: Classes with their probabilities, the likeliest first.
        file: The picture's path.
        title: The line above.
    """
    figure = Figure(figsize=(11, 3.6), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=11)
    seen, place, bars = figure.subplots(1, 3, width_ratios=(3, 3.6, 4))
    height, width, channels = image.shape
    seen.imshow(image if channels == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    seen.set_title("what the network sees", fontsize=9)

    grey = np.asarray(Image.fromarray(image if channels == 3 else image[..., 0]).convert("L"))
    share = heat / heat.max() if heat.max() > 0 else heat
    share = np.asarray(Image.fromarray(share.astype(np.float32)).resize((FINE, FINE), Image.Resampling.BICUBIC))
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    place.imshow(grey, cmap="gray", vmin=-160, vmax=255)  # lighter, so that the overlay can be seen
    # The colours rise in brightness, and the lines say the same without colour.
    shown = place.imshow(share, cmap="viridis", vmin=0, vmax=1, alpha=0.45, extent=extent)
    if heat.max() > 0:
        lines = place.contour(
            share, levels=LEVELS, colors="black", linewidths=(0.8, 1.4, 2.0), extent=extent, origin="upper"
        )
        place.clabel(lines, fmt=lambda level: f"{100 * level:.0f} %", fontsize=7)
    place.set_title(f"Grad-CAM of {best[0][0]}", fontsize=9)
    figure.colorbar(shown, ax=place, ticks=(0, *LEVELS, 1), format=lambda value, _: f"{100 * value:.0f} %", shrink=0.8)
    for axes in (seen, place):
        axes.set(xticks=(), yticks=())

    names, shares = [printable(name, LONGEST_LABEL) for name, _ in best], [100 * probability for _, probability in best]
    bars.barh(range(len(best)), shares, color="#56758f")
    bars.set_yticks(range(len(best)), names, fontsize=9, parse_math=False)
    bars.invert_yaxis()
    for row, percent in enumerate(shares):
        bars.text(percent + 1, row, f"{percent:.1f} %", va="center", fontsize=9)
    bars.set(xlim=(0, 118), xticks=(0, 25, 50, 75, 100), xlabel="probability (%)")
    bars.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    drawn(figure).save(picture, "PNG")
    write_atomically(file, picture.getvalue())
