"""What a network tells about its feature maps."""

from typing import NamedTuple


class Feature(NamedTuple):
    """A feature map of a network.

    Attributes:
      name: under which `features` returns it.
      channels: its last axis.
      stride: pixels of the image that a step in it spans.
    """

    name: str
    channels: int
    stride: int
