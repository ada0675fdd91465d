"""Draw the README's figure of training speeds from the committed records.

`python benchmarks/speed_figure.py [--out=docs/images/speed.png]`
"""

import argparse
import json
import pathlib
import sys

from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from resnet_jax.run.drawing import dress, png  # noqa: E402

# Title, record and network of each panel.
PANELS = (
    ("ResNet-50, batch 256, bfloat16\nNVIDIA H200", "h200_train", "resnet50"),
    ("ResNet-50, batch 8, float32\n2 CPU cores", "cpu_train", "resnet50"),
    ("ResNet-18, batch 8, float32\n2 CPU cores", "cpu_train", "resnet18"),
)
BARS = {"ours": ("resnet_jax", "#1b4f8a"), "torch": ("torch", "#d55e00"), "flax": ("Flax example", "#999999")}


def draw() -> bytes:
    """Return the figure: images a second of a train step, one panel a network and machine."""
    figure = Figure(figsize=(9, 2.6), dpi=150, layout="constrained")
    for axes, (title, record, network) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        rows = json.loads((ROOT / "results" / "step" / f"{record}.json").read_text())["rows"]
        [speeds] = [row["images_per_second"] for row in rows if row["network"] == network]
        labels, colors = zip(*BARS.values(), strict=True)
        heights = [speeds[name] for name in BARS]
        bars = axes.bar(labels, heights, color=colors, width=0.65)
        axes.bar_label(bars, [f"{each:,.0f}" if each >= 100 else f"{each:.3g}" for each in heights])
        axes.margins(y=0.15)
        axes.set_title(title, fontsize=9)
        dress(axes, "", "images/s" if axes.get_subplotspec().is_first_col() else "")
    return png(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "images" / "speed.png")
    parser.parse_args().out.write_bytes(draw())
