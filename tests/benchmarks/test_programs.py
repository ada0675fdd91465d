"""What is read off a program's text, against programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import programs

TEXT = """HloModule step

%called (a: f32[9]) -> f32[9] {
  %a = f32[9]{0} parameter(0)
  ROOT %b = f32[9]{0} negate(%a)
}

ENTRY %main (x: bf16[4,8], y: f32[100]) -> f32[100] {
  %x = bf16[4,8]{1,0} parameter(0)
  %y = f32[100]{0} parameter(1)
  %near = (bf16[4,8]{1,0:S(1)}, bf16[4,8]{1,0}, u32[]) copy-start(%x)
  %here = bf16[4,8]{1,0:S(1)} copy-done(%near)
  %part = ((f32[100]{0}), f32[10]{0:T(8)S(1)}, u32[]) slice-start(%y)
  %piece = f32[10]{0:T(8)S(1)} slice-done(%part)
  %made = (f32[100]{0}, pred[4,8]{1,0}) fusion(%here, %piece, %y), kind=kLoop, calls=%called
  %sum = f32[100]{0} get-tuple-element(%made), index=0
  ROOT %all = f32[100]{0} all-reduce(%sum), replica_groups={}
}
"""


def test_only_what_passes_between_chip_and_memory_counts():
    """By hand: 64 bytes copied, 40 of a slice; 400 read and 432 written; 400 each way by the all-reduce."""
    assert programs.memory_bytes(TEXT) == {"copy-start": 64, "slice-start": 40, "fusion": 832, "all-reduce": 800}


def test_collectives_are_counted_with_what_one_device_gives():
    assert programs.collectives(TEXT) == {"all-reduce": {"count": 1, "megabytes": 0.0004}}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_compiled_sum_reads_two_arrays_and_writes_one(dtype):
    x = jax.ShapeDtypeStruct((64, 32), dtype)
    text = jax.jit(lambda x, y: x + y).lower(x, x).compile().as_text()
    assert sum(programs.memory_bytes(text).values()) == 3 * 64 * 32 * jnp.dtype(dtype).itemsize


@pytest.mark.parametrize(
    "shape, sizes",
    [
        ("u16[128,4]{1,0:T(8,128)S(1)}", [(1024, False)]),
        ("(f8e4m3fn[16]{0}, pred[3], s4[8]{0}, bf16[2,3]{1,0})", [(16, True), (3, True), (4, True), (12, True)]),
        ("(c64[2]{0}, f64[], token[])", [(16, True), (8, True)]),
    ],
)
def test_arrays_of_every_type_count(shape, sizes):
    assert programs.arrays(shape) == sizes
