"""Blocks of the ablations of He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027).

Where BatchNorm and ReLU are (figure 4 and table 2), and what an information path is scaled by (figure 2 and table 1).
The standard networks need none of this: theirs are in `blocks.py`.
"""

import flax.linen as nn
import jax

from resnet_jax import ops
from resnet_jax.models.blocks import BasicBlock, Block, Bottleneck, Maps, OutMaps
from resnet_jax.models.layers import check_choices, conv_norm, kaiming_fan_out

ACTIVATION_ORDERS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_preactivation",
    "preactivation",
)
SHORTCUT_GATES = ("constant", "exclusive", "shortcut_only", "dropout")


class IdentityBlock(Block):
    """A block with any of the orders of activation and any of the gates.

    Attributes:
      activation_order: one of `ACTIVATION_ORDERS`:
        "original": conv-BN-ReLU, and the last ReLU after the sum;
        "bn_after_addition": the last BatchNorm is after the sum too, before its ReLU;
        "relu_before_addition": the last ReLU ends the branch, and the sum is left as it is;
        "relu_preactivation": ReLU-conv-BN, and the sum is left as it is. A projection reads the activated input;
        "preactivation": BN-ReLU-conv, and the sum is left as it is. A projection reads the activated input and has no
        BatchNorm of its own.
      shortcut_gate: one of `SHORTCUT_GATES` or empty. With gates g = sigmoid(W x + b), of a 1x1 convolution with the
        block's stride: "constant": branch and shortcut are halved; "exclusive": the branch is multiplied by g and the
        shortcut by 1 - g; "shortcut_only": only the shortcut, by 1 - g; "dropout": half of the shortcut's values are
        dropped.
      gate_bias: first value of b.
    """

    activation_order: str = "original"
    shortcut_gate: str = ""
    gate_bias: float = 0.0

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return shortcut + branch, activated where the order says so. Needs the rng "dropout" to drop anything."""
        check_choices(self, activation_order=ACTIVATION_ORDERS, shortcut_gate=("", *SHORTCUT_GATES))
        convs, order = self.convs(), self.activation_order
        y, shortcut, bn = x, x, None
        for i, conv in enumerate(convs, start=1):
            last = i == len(convs)
            bn = self.last_norm(f"bn{i}") if last else self.norm(name=f"bn{i}")
            if order.endswith("preactivation"):
                y = bn(y, not train, activate=True) if order == "preactivation" else ops.relu(y)
                if i == 1 and self.projects(x):
                    shortcut = y
                y = conv(y) if order == "preactivation" else conv_norm(conv, bn, y, train)
            elif last and order == "bn_after_addition":
                y = conv(y)
            else:
                y = conv_norm(conv, bn, y, train, activate=not last or order == "relu_before_addition")

        y = self.regularized(y, train)
        if self.shortcut != "none":
            shortcut = self.shortcut_of(shortcut, train, normalize=order != "preactivation")
            y = self.join(*self.gated(x, y, shortcut, train))
        if order == "bn_after_addition" and bn is not None:
            y = bn(y, not train, activate=True)
        return ops.relu(y) if order == "original" else y

    def gated(self, x: Maps, y: OutMaps, shortcut: OutMaps, train: bool) -> tuple[OutMaps, OutMaps]:
        """Return branch and shortcut as `shortcut_gate` scales them, with gates that read the block's input."""
        if not self.shortcut_gate:
            return y, shortcut
        if self.shortcut_gate == "constant":
            return 0.5 * y, 0.5 * shortcut
        if self.shortcut_gate == "dropout":
            return y, drop_values(shortcut, self.make_rng("dropout") if train else None)
        bias = nn.initializers.constant(self.gate_bias)
        strides = (self.stride, self.stride)
        gate = nn.Conv(
            y.shape[-1], (1, 1), strides, dtype=self.dtype, kernel_init=kaiming_fan_out, bias_init=bias, name="gate"
        )
        gates = nn.sigmoid(gate(x))
        return (gates * y if self.shortcut_gate == "exclusive" else y), (1.0 - gates) * shortcut


class IdentityBasicBlock(IdentityBlock, BasicBlock):
    """`BasicBlock` with an order of activation and a gate."""


class IdentityBottleneck(IdentityBlock, Bottleneck):
    """`Bottleneck` with an order of activation and a gate."""


def drop_values(x: Maps, key: jax.Array | None) -> Maps:
    """Zero half of the values; without a `key`, as in evaluation, halve all (Hinton et al. 2012, arXiv:1207.0580)."""
    return x * (0.5 if key is None else jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))
