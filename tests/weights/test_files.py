import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from resnet_jax.errors import DataError
from resnet_jax.weights.files import read_arrays

GOLDEN = Path(__file__).parents[1] / "golden"
AKAMASTER = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10_weights"
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
# The formulas of tests/golden/make_torch_files.py.
EVERY_KIND = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3) / np.float32(8),
    "transposed": BASE.T,
    "sliced": BASE[1:, 1::2],
    "half": np.array([-0.5, -0.25, 0, 0.25, 0.5], np.float32),
    "bfloat16": np.array([-1.5, 1.5, 4.5, 7.5, 10.5], np.float32),
    "double": np.array([0, 1 / 3, 2 / 3], np.float32),
    "bn.num_batches_tracked": np.array(2**40 + 1),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "flags": np.array([1, 0, 1], np.uint8),
    "parameter": np.array([-2, -1, 0, 1], np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
RAW = np.arange(4, dtype="<f4").tobytes()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def op(opcode, *parts):
    return opcode + b"".join(parts)


def text(string):
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name_of(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(numel=4, key="0", kind="FloatStorage"):
    return b"(" + text("storage") + name_of("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(offset=0, size=(4,), stride=(1,), stored=None):
    """The opcodes of a tensor, as torch writes them, with numbers that torch would never write."""
    inside = (stored or storage()) + number(offset) + numbers(*size) + numbers(*stride) + b"\x89}"
    return name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + inside + b"tR"


def named(**values):
    return b"\x80\x02}" + b"".join(text(name) + value + b"s" for name, value in values.items()) + b"."


def zipped(program, raw=RAW, compression=zipfile.ZIP_STORED, **members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in {"data.pkl": program, "data/0": raw, **members}.items():
            archive.writestr(f"weights/{name}", data)
    return content.getvalue()


def legacy(program, raw=RAW, numel=4, keys=("0",)):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    pickles = [pickle.dumps(value, 2) for value in head] + [program, pickle.dumps(list(keys), 2)]
    return b"".join(pickles) + struct.pack("<q", numel) + raw


FORMATS = pytest.mark.parametrize("packed", [zipped, legacy])


@pytest.fixture
def refusal(tmp_path):
    """A function that reads a file's content and returns the sentence that refuses it."""

    def read(content, name="weights.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_arrays(tmp_path / name)
        sentence = str(caught.value)
        assert sentence.startswith(str(tmp_path / name))
        assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
        return sentence.removeprefix(f"{tmp_path / name} ")

    return read


@pytest.fixture
def read(tmp_path):
    def read(content, name="weights.pth"):
        (tmp_path / name).write_bytes(content)
        return read_arrays(tmp_path / name)

    return read


@pytest.mark.parametrize("name", ["zip", "legacy", "protocol4"])
def test_every_kind_of_tensor_is_what_torch_wrote(name):
    assert_same(read_arrays(GOLDEN / f"torch_{name}.pth"), EVERY_KIND)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_legacy"])
def test_a_training_checkpoint_gives_its_state_dict_without_prefix(name):
    expected = {
        "weight": np.array([1, 2, 3], np.float32),
        "bias": np.zeros(3, np.float32),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.array([0.5, 1.5, 2.5], np.float32),
        "num_batches_tracked": np.array(0),
    }
    assert_same(read_arrays(str(GOLDEN / f"torch_{name}.pth")), expected)


def test_old_names_of_densenet_become_the_present_ones():
    names = ["norm1.weight", "norm1.running_mean", "conv1.weight", "norm2.bias", "conv2.weight"]
    expected = {f"features.denseblock1.denselayer10.{name}": np.float32([i]) for i, name in enumerate(names)}
    assert_same(read_arrays(GOLDEN / "torch_densenet.pth"), expected | {"features.norm5.weight": np.float32([5])})


@pytest.mark.parametrize(("name", "tensors", "trained"), [("20-12fca82f", 97, 269722), ("32-d509ac18", 157, 464154)])
@pytest.mark.skipif(not AKAMASTER.is_dir(), reason="../shared/data/cifar10_weights, the real files, are not here")
def test_published_cifar_files_have_the_published_number_of_parameters(name, tensors, trained):
    arrays = read_arrays(AKAMASTER / f"akamaster_resnet{name}.th")
    assert len(arrays) == tensors
    assert sum(array.size for key, array in arrays.items() if "running" not in key) == trained
    assert list(arrays)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert list(arrays)[-2:] == ["linear.weight", "linear.bias"]
    assert {"layer1.0.conv1.weight", "layer3.2.bn2.running_var"} < arrays.keys()
    assert arrays["conv1.weight"].shape == (16, 3, 3, 3) and arrays["linear.weight"].shape == (10, 64)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    assert all((array > 0).all() for key, array in arrays.items() if key.endswith("running_var"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8"])
def test_safetensors_come_back(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    safetensors.numpy.save_file({"fc.weight": array, "n": np.array(7)}, tmp_path / "weights.safetensors")
    wanted = np.float32 if dtype.startswith("float") else dtype
    assert_same(read_arrays(tmp_path / "weights.safetensors"), {"fc.weight": array.astype(wanted), "n": np.array(7)})


def with_type(kind, raw, count):
    header = json.dumps({"x": {"dtype": kind, "shape": [count], "data_offsets": [0, len(raw)]}}).encode()
    return struct.pack("<Q", len(header)) + header + raw


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_bfloat16_has_the_upper_half_of_float32(read, name):
    content = with_type("BF16", bytes.fromhex("803f 20c0 0000 807f"), 4)  # the last is infinity
    assert_same(read(content, name), {"x": np.float32([1, -2.5, 0, np.inf])})


def test_a_type_that_is_not_read_is_named(refusal):
    assert "type F8_E4M3, which is not read" in refusal(with_type("F8_E4M3", b"\0", 1), "weights.safetensors")


def test_double_beyond_float32_is_infinite(read):
    raw = np.array([1e300, -1e300]).tobytes()
    program = named(x=tensor(0, (2,), (1,), storage(2, kind="DoubleStorage")))
    assert_same(read(zipped(program, raw)), {"x": np.float32([np.inf, -np.inf])})


@pytest.mark.parametrize("order", ["big", "little"])
def test_the_byte_order_of_a_zip_file_is_kept_to(read, order):
    raw = np.arange(4).astype(">f4" if order == "big" else "<f4").tobytes()
    assert_same(read(zipped(named(x=tensor()), raw, byteorder=order)), {"x": np.arange(4, dtype=np.float32)})


@FORMATS
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["model.a", "b"], ["model.a", "b"]),
    ],
)
def test_prefixes_are_cut_off_where_all_names_have_them(read, packed, names, expected):
    assert list(read(packed(named(**dict.fromkeys(names, tensor()))))) == expected


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_a_wrapped_state_dict_is_found(read, key):
    inner = named(x=tensor())[2:-1]
    assert list(read(zipped(named(**{"state_dict_ema": b"}", "net": b"}", key: inner})))) == ["x"]


def test_an_ordered_dict_of_python_2_is_read(read):
    pairs = b"]" + b"](" + text("x") + tensor() + b"e" + b"a"
    assert list(read(legacy(b"\x80\x02" + name_of("collections", "OrderedDict") + pairs + b"\x85R."))) == ["x"]


def test_names_that_collide_are_refused(refusal):
    layer = "denseblock1.denselayer1."
    program = named(**{f"{layer}norm.1.weight": tensor(), f"{layer}norm1.weight": tensor()})
    assert "has an array twice" in refusal(zipped(program))


HOSTILE = {
    "posix.system": lambda target: pickle.dumps(Call(os.system, f"touch {target}"), 2),
    "__builtin__.eval": lambda target: pickle.dumps(Call(eval, f"open({str(target)!r}, 'w')"), 2),
    "builtins.eval": lambda target: pickle.dumps(Call(eval, f"open({str(target)!r}, 'w')"), 4),
    "os.system": lambda target: b"\x80\x02" + name_of("os", "system") + text(f"touch {target}") + b"\x85R.",
    "torch.hub.load": lambda target: b"\x80\x02" + name_of("torch.hub", "load") + text(str(target)) + b"\x85R.",
    "subprocess.Popen": lambda target: b"\x80\x02" + name_of("subprocess", "Popen") + text("id") + b"\x85\x81.",
    "torch._utils.os.system": lambda target: (
        b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93" + text(f"touch {target}") + b"\x85R."
    ),
}


class Call:
    def __init__(self, function, argument):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


@FORMATS
@pytest.mark.parametrize("function", HOSTILE)
def test_a_file_that_wants_to_run_something_is_refused_by_its_name_and_runs_nothing(
    refusal, tmp_path, packed, function
):
    program = HOSTILE[function](tmp_path / "ran")
    sentence = refusal(packed(program))
    assert sentence == (
        f"wants to run {function}: it is refused; get the weights from a source that you trust, best as .safetensors."
    )
    assert not (tmp_path / "ran").exists()


def test_the_hostile_pickles_of_these_tests_do_run_where_nobody_refuses(tmp_path):
    for function in ("posix.system", "builtins.eval", "os.system"):
        result = pickle.loads(HOSTILE[function](tmp_path / function))
        if hasattr(result, "close"):
            result.close()
        assert (tmp_path / function).exists()


@pytest.mark.parametrize("place", range(4))
def test_every_pickle_of_the_older_format_is_guarded(refusal, tmp_path, place):
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})] + [named(x=tensor())]
    parts[place] = HOSTILE["os.system"](tmp_path / "ran")
    assert "os.system" in refusal(b"".join(parts))
    assert not (tmp_path / "ran").exists()


ODD_TENSORS = {
    "beyond the end": tensor(1),
    "a stride beyond the end": tensor(0, (2, 2), (3, 1)),
    "before the start": tensor(-1),
    "a negative stride": tensor(3, (4,), (-1,)),
    "a negative size": tensor(0, (-4,), (1,)),
    "two negative sizes": tensor(0, (-2, -2), (2, 1)),
    "a size that overflows": tensor(0, (2**62, 4), (0, 1)),
    "a stride that overflows": tensor(0, (2,), (2**62,)),
    "numbers without end": tensor(0, (1 << 5000,), (1,)),
    "an empty giant": tensor(0, (0, 2**59, 2**59), (1, 1, 1)),
    "other numbers of sizes and strides": tensor(0, (2, 2), (1,)),
    "100 dimensions": tensor(0, (1,) * 100, (1,) * 100),
    "a size that is text": tensor(0, ("4",), (1,)),
    "a storage that is longer than its bytes": tensor(0, (5,), (1,), storage(5)),
    "a storage that is shorter than its bytes": tensor(0, (3,), (1,), storage(3)),
    "a storage of another type": tensor(0, (4,), (1,), storage(4, kind="DoubleStorage")),
    "a storage of negative length": tensor(0, (4,), (1,), storage(-4)),
    "a storage of giant length": tensor(0, (4,), (1,), storage(2**63)),
    "a storage that is not there": tensor(0, (4,), (1,), storage(4, key="1")),
    "a storage outside of its folder": tensor(0, (4,), (1,), storage(4, key="../data.pkl")),
    "a storage by a bare tuple": tensor(0, (4,), (1,), storage()[:-1]),
    "a tensor for a storage": tensor(0, (4,), (1,), tensor()),
    "another persistent id": b"(" + text("module") + text("x") + b"tQ",
    "a function for an argument": name_of("torch._utils", "_rebuild_tensor_v2") * 2 + b"\x85R",
    "a call of a tensor": tensor() + b")R",
    "a call of a storage's class": name_of("torch", "FloatStorage") + number(4) + b"\x85R",
}


@FORMATS
@pytest.mark.parametrize("odd", ODD_TENSORS)
def test_a_tensor_that_torch_would_not_write_is_refused(refusal, packed, odd):
    assert "damaged" in refusal(packed(named(x=ODD_TENSORS[odd])))


def test_the_tensors_of_these_tests_are_read_where_they_are_sane(read):
    for packed in (zipped, legacy):
        assert_same(read(packed(named(x=tensor(1, (3,))))), {"x": np.float32([1, 2, 3])})
        assert_same(read(packed(named(x=tensor(0, (2, 2), (1, 2))))), {"x": np.float32([[0, 2], [1, 3]])})


DEEP = b")" + b"\x85" * 500_000
BOMBS = {
    "a deep key": b"\x80\x02}" + DEEP + b"Ns.",
    "a wide key": b"\x80\x02})q\0" + b"h\0h\0\x86q\0" * 200 + b"Ns.",
    "a giant memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "a giant text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "a deep value": named(x=DEEP),
    "a deep name": b"\x80\x04" + DEEP + b"q\0h\0\x93.",
    "a deep call": b"\x80\x02" + name_of("torch", "Size") + DEEP + b"R.",
    "a deep storage": b"\x80\x02" + DEEP + b"Q.",
    "marks": b"\x80\x02" + b"(" * 500_000 + b".",
    "a dictionary in itself": b"\x80\x02}q\0" + text("state_dict") + b"h\0s.",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "an empty stack": b"\x80\x02R.",
    "the state of a function": b"\x80\x02" + name_of("torch", "Size") + b"}" + text("__call__") + b"Nsb.",
    "an extension": b"\x80\x02\x82\x01.",
}


@FORMATS
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_exhaust_the_machine_is_refused(refusal, packed, bomb):
    refusal(packed(BOMBS[bomb]))


@pytest.mark.parametrize("keys", [b"](" + DEEP + b"e", DEEP, b"}", b"K\1", b"](" + text("7") + b"e", b"]"])
def test_a_list_of_storages_that_is_none_is_refused(refusal, keys):
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    assert "damaged" in refusal(head + named(x=tensor()) + b"\x80\x02" + keys + b".")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_refused_unread(refusal, compression):
    assert "compressed" in refusal(zipped(named(x=tensor()), bytes(10_000_000), compression))


def test_a_torchscript_program_is_called_one(refusal):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # as torch.jit.save lays it out: its code is compressed
        archive.writestr("net/data.pkl", named(x=tensor()))
        archive.writestr("net/code/__torch__/net.py", "class Net(Module):\n" * 99, zipfile.ZIP_DEFLATED)
        archive.writestr("net/constants.pkl", b"\x80\x02).")
        archive.writestr("net/data/0", RAW)
    assert refusal(content.getvalue()).startswith("is a TorchScript program: save its state_dict()")


@FORMATS
@pytest.mark.parametrize(
    ("size", "stride"), [((3, 4), (0, 1)), ((4, 4), (1, 0)), ((2, 2, 4), (0, 0, 1)), ((3, 2), (1, 1))]
)
def test_an_expanded_tensor_is_called_one_and_not_damaged(refusal, packed, size, stride):
    said = refusal(packed(named(x=tensor(size=size, stride=stride))))
    assert said.startswith("holds x as an expanded tensor, whose values repeat") and "damaged" not in said


def test_members_that_declare_more_than_the_file_has_are_refused(refusal):
    content = bytearray(zipped(named(x=tensor())))
    entry = content.rindex(b"PK\1\2")
    content[entry + 20 : entry + 28] = struct.pack("<II", 10**9, 10**9)
    assert "damaged" in refusal(bytes(content))


def test_an_archive_of_something_else_is_refused(refusal):
    content = io.BytesIO()
    np.savez(content, x=np.zeros(3))
    assert "without torch's data.pkl" in refusal(content.getvalue())


SMALL = {"zip": zipped(named(x=tensor(), y=tensor())), "legacy": legacy(named(x=tensor(), y=tensor()))}
SMALL["safetensors"] = safetensors.numpy.save({"x": np.arange(4, dtype=np.float32), "y": np.zeros(4, np.float32)})


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_that_ends_too_early_is_refused_wherever_it_ends(refusal, kind):
    content = SMALL[kind]
    for end in range(len(content)):
        refusal(content[:end])


@pytest.mark.parametrize("name", ["zip", "legacy", "protocol4", "checkpoint_legacy"])
def test_a_file_of_torch_that_ends_too_early_is_refused(refusal, name):
    content = (GOLDEN / f"torch_{name}.pth").read_bytes()
    for end in range(0, len(content), 10):
        refusal(content[:end])


@pytest.mark.parametrize("kind", [*SMALL, "golden zip", "golden legacy"])
def test_flipped_bits_give_arrays_or_a_refusal_and_nothing_else(read, kind):
    content = SMALL[kind] if kind in SMALL else (GOLDEN / f"torch_{kind.split()[1]}.pth").read_bytes()
    draw = random.Random(kind)
    for _ in range(300):
        flipped = bytearray(content)
        for _ in range(draw.choice([1, 1, 4])):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        try:
            arrays = read(bytes(flipped))
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert all(array.dtype == np.float32 or array.dtype.kind in "iu" for array in arrays.values())
            assert all(np.array(array).size <= len(content) for array in arrays.values())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: get it once more."),
        (b"<!DOCTYPE html>\n<html>Not found</html>", "is a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a text"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", "is a text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "is neither a safetensors nor a torch file"),
        (pickle.dumps({"x": [1.0]}), "is a pickle that torch did not write"),
        (zipped(named(x=b"K\1")), "holds no tensors by name"),
        (zipped(b"\x80\x02" + tensor() + b"."), "holds no tensors by name"),
        (b"PK\x03\x04 and no more", "is damaged or cut short"),
    ],
)
def test_what_is_no_weights_file_is_named_for_what_it_is(refusal, content, sentence):
    assert sentence in refusal(content)


def test_a_pickled_model_is_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"holds torch\.nn\.modules\.linear\.Linear, .* save model\.state_dict\(\)"):
        read_arrays(GOLDEN / "torch_module.pth")


def test_a_file_without_tensors_is_refused():
    with pytest.raises(DataError, match=r"torch_nothing\.pth holds no tensors by name"):
        read_arrays(GOLDEN / "torch_nothing.pth")


def test_a_refused_name_is_printed_on_one_line(refusal):
    program = b"\x80\x04" + text("os\n\x1b[31m" + "x" * 10_000) + text("system") + b"\x93."
    assert r"wants to run os\n\x1b[31mxxx" in refusal(zipped(program))


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"there is no weights file .*: check the name\."):
        read_arrays(tmp_path / name)
