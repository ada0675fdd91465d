"""What each layer of a network makes, costs and sees, read off the traced program: it is the function that runs."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import Literal

# Primitives that pool, and those that only call another program.
POOLS = {"reduce_window_max": "max_pool", "reduce_window_sum": "avg_pool", "reduce_sum": "mean"}
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: a module with parameters, or a pooling.

    Attributes:
      name: Flax path; a pooling has the name of what pools, behind the path of its module.
      kind: "convolution", "normalization", "dense" or "pooling".
      output: shape for one image: (height, width, channels), or (channels,).
      parameters: trained values.
      multiply_adds: of one image, as torchvision and papers count: convolutions and dense layers only.
      receptive_field: pixels a side of the square of the input that a value can depend on, if the image is large
        enough; None where it depends on the whole image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: int | None


class View(NamedTuple):
    """What row i of some maps sees of the image: the rows from `first + i * step` to `last + i * step`.

    Rows outside of the image are padding. `step` is 0 where each row sees the whole image.
    """

    first: int = 0
    last: int = 0
    step: int = 1

    @property
    def size(self) -> int | None:
        """Rows that are seen; None for the whole image."""
        return self.last - self.first + 1 if self.step else None


WHOLE = View(0, 0, 0)


def layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Return the layers of a network in the order in which they are computed, for images of (height, width, channels).

    The receptive field is the theoretical one (Araujo, Norris and Sim 2019, Computing Receptive Fields of Convolutional
    Neural Networks, Distill).
    """
    if hasattr(model, "implementation"):
        model = model.clone(implementation="reference")  # the fast one multiplies by zeros too, or inside a library
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    begin = functools.partial(model.init_with_output, jax.random.key(0))
    program, (_, variables) = jax.make_jaxpr(begin, return_shape=True)(images)
    owned = {}
    leaves: dict[tuple[str, ...], Any] = flatten_dict(variables["params"])
    for path, leaf in leaves.items():
        name = "/".join(path[:-1])
        owned[name] = owned.get(name, 0) + math.prod(leaf.shape)

    found: dict[str, Layer] = {}
    for equation, module, view in _computed(program.jaxpr, [View()]):
        if view is None:
            continue
        macs, output = _multiply_adds(equation), equation.outvars[0].aval.shape[1:]
        if module in owned:
            name, kind = module, _kind(macs, output)
        elif pool := _pool(equation):
            name, kind = f"{module}/{pool}".lstrip("/"), "pooling"
        elif macs:
            name, kind = module, _kind(macs, output)
        else:
            continue
        if name in found:
            kind, macs = found[name].kind, macs + found[name].multiply_adds
        found[name] = Layer(name, kind, output, owned.get(name, 0), macs, view.size)
    return list(found.values())


def _kind(macs: int, output: tuple[int, ...]) -> str:
    if not macs:
        return "normalization"
    return "convolution" if len(output) == 3 else "dense"


def _pool(equation: Any) -> str | None:
    """Return the name of a pooling that an equation is."""
    name = POOLS.get(equation.primitive.name)
    return None if name and math.prod(equation.params.get("window_dimensions", (0,))) == 1 else name


def _multiply_adds(equation: Any) -> int:
    if equation.primitive.name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        return equation.outvars[0].aval.size * math.prod(kernel) // kernel[layout[0]]
    if equation.primitive.name == "dot_general":
        left, ((contracted, _), _) = equation.invars[0].aval.shape, equation.params["dimension_numbers"]
        return equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    return 0


def _computed(jaxpr: Any, views: list[View | None], path: str = "") -> Iterator[tuple[Any, str, View | None]]:
    """Give the equations of a program and of those that it calls, with the Flax path of the module and the view.

    `views` are those of the program's inputs; None says that a value does not depend on the image.
    """
    seen = dict(zip(jaxpr.invars, views, strict=True))
    for equation in jaxpr.eqns:
        here = f"{path}/{equation.source_info.name_stack}"
        inputs = [None if isinstance(value, Literal) else seen.get(value) for value in equation.invars]
        if equation.primitive.name in CALLS:
            inner = equation.params.get("call_jaxpr") or equation.params["jaxpr"]
            inner = getattr(inner, "jaxpr", inner)
            outputs = yield from _computed(inner, inputs, here)
        else:
            outputs = [_view(equation, inputs)] * len(equation.outvars)
            # Flax names the root by its class, a method by "Class.method", and a module twice that calls its parent's.
            parts = [part for part, _ in itertools.groupby(here.split("/")) if part and "." not in part]
            module = "/".join(parts[1:])
            yield equation, module, outputs[0]
        seen.update(zip(equation.outvars, outputs, strict=True))
    return [None if isinstance(value, Literal) else seen.get(value) for value in jaxpr.outvars]


def _view(equation: Any, inputs: list[View | None]) -> View | None:
    """Return what the result of an equation sees, from what its inputs see. Rows are axis 1, as in NHWC."""
    views, name, params = [view for view in inputs if view], equation.primitive.name, equation.params
    if not views:
        return None
    view = views[0]
    rows, made = (var.aval.shape[1:2] for var in (equation.invars[inputs.index(view)], equation.outvars[0]))
    flat = equation.outvars[0].aval.ndim != 4
    if WHOLE in views or flat or name == "rev":
        return WHOLE
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape[params["dimension_numbers"].rhs_spec[2]]
        return _window(view, kernel, params["window_strides"][0], params["padding"][0][0], params["rhs_dilation"][0])
    if name.startswith("reduce_window"):
        fields = ("window_dimensions", "window_strides", "padding", "window_dilation")
        size, stride, padding, dilation = (params[field][1] for field in fields)
        return _window(view, size, stride, padding[0], dilation)
    if name == "slice":
        return _window(view, 1, (params["strides"] or (1, 1))[1], -params["start_indices"][1])
    if name == "pad":
        return _window(view, 1, 1, int(params["padding_config"][1][0]))
    if name == "concatenate" and params["dimension"] in (1, 2):
        return _inside(equation, inputs)
    # What is left works on each pixel for itself, if it keeps the rows.
    if rows not in (made, (1,)) or len({view.step for view in views}) > 1:
        return WHOLE
    return View(min(view.first for view in views), max(view.last for view in views), view.step)


def _window(view: View, size: int, stride: int, padding: int, dilation: int = 1) -> View:
    """Return what sees `size` rows of a view, the first one `padding` rows before it."""
    first = view.first - padding * view.step
    return View(first, first + view.last - view.first + (size - 1) * dilation * view.step, stride * view.step)


def _inside(equation: Any, inputs: list[View | None]) -> View | None:
    """Return the view of the largest of the maps that are put side by side: the others are a border around it."""
    axis = equation.params["dimension"]
    sizes = [value.aval.shape[axis] for value in equation.invars]
    largest = sizes.index(max(sizes))
    before = sum(sizes[:largest]) if axis == 1 else 0
    view = inputs[largest]
    return view and _window(view, 1, 1, before)


class Costs(NamedTuple):
    """Attributes:
    params: trained values; running statistics do not count.
    macs: multiply-adds of all convolutions and dense layers for one image, as torchvision and papers count.
    """

    params: int
    macs: int


def costs(model: nn.Module, image_shape: tuple[int, int, int]) -> Costs:
    """Return what a network costs for one image of (height, width, channels): the sums over its `layers`."""
    found = layers(model, image_shape)
    return Costs(sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found))
