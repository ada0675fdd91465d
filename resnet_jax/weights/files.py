"""Files of named arrays: safetensors and torch's, read without torch and without executing anything.

A torch file describes its tensors by a pickle, which is a program. `pickle.Unpickler` is not used, not even with a
restricted `find_class`: three megabytes of nested tuples used as a key crash it, and five bytes make it ask for 64 GiB.
`unpickled` below interprets the few opcodes that tensors need. It calls, imports and sets attributes of nothing.
"""

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from resnet_jax.errors import DataError
from resnet_jax.printable import printable
from resnet_jax.run.reading import read_file

LARGEST = 2**34  # bytes

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
BFLOAT16 = "bf2"  # numpy has no such type; the others are numpy's codes without the byte order
# Booleans are read as bytes, of which any value is valid.
SAFETENSORS_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": BFLOAT16, "BOOL": "u1"}
SAFETENSORS_TYPES |= {f"{sign}{8 * size}": f"{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)}
STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": BFLOAT16, "Bool": "u1"}
STORAGES |= {"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1"}
STORAGES = {f"torch.{name}Storage": code for name, code in STORAGES.items()}
# What a pickle may name. Calls of the inert ones, which training scripts leave beside the weights, give `IGNORED`.
REBUILDERS = {"collections.OrderedDict", "torch.Size"} | {
    f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter", "parameter_with_state")
}
INERT = {"argparse.Namespace", "torch.device", "_codecs.encode", "numpy.dtype", "builtins.set", "__builtin__.set"}
INERT |= {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
INERT |= {"pathlib.PosixPath", "collections.defaultdict"}
KNOWN = STORAGES.keys() | REBUILDERS | INERT
IGNORED = object()
# How many values an opcode takes from the stack, and those that put one there.
TAKEN = {"STOP": 1, "APPEND": 1, "BUILD": 1, "BINPERSID": 1, "SETITEM": 2, "STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2}
TAKEN |= {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
VALUES |= {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
MODEL_PACKAGES = {"torch", "__torch__", "torchvision", "timm", "__main__", "models", "model"}
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning and torch.compile
OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)


class Refused(Exception):
    """A file that is not read, by the sentence that follows the file's name."""


class Global(NamedTuple):
    """The name of a class or function in a pickle, which is only a name here."""

    path: str


class Storage(NamedTuple):
    """Numbers in a row, shared by tensors: `numel` of type `code`, kept in the file under `key`."""

    code: str
    key: str
    numel: int


class Tensor(NamedTuple):
    """A view into a storage: all in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_arrays(file: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name: floating ones as float32, booleans as uint8, other integers as they are.

    Reads `.safetensors`, and torch's files of both formats (zip since torch 1.6, and the older one) under any other
    name. Of a training checkpoint, the dictionary under "state_dict", "model", "model_state_dict" or "net" is taken.
    The prefixes "module.", "model." and "_orig_mod." are cut off where all names have one, and torchvision's old
    names of DenseNet ("norm.1") become the present ones ("norm1"). The arrays may be read-only views of each other.

    Raises DataError, with what to do, if the file is missing, damaged, of another kind, holds more than plain arrays,
    or names anything to be run.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"there is no weights file {file}: check the name.")
    try:
        data = read_file(path, LARGEST)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): mend that, or get it once more.") from error
    try:
        return renamed(parsed(data, path.suffix == ".safetensors"))
    except Refused as refusal:
        raise DataError(f"{file} {refusal}") from refusal
    except Exception as error:  # the parsers of zip files and pickles raise dozens of kinds on damaged bytes
        raise DataError(f"{file} is damaged or cut short: get it once more.") from error


def parsed(data: bytes, is_safetensors: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a file's content; torch's formats, which have no fixed suffix, by their first bytes."""
    if is_safetensors or data[8:9] == b"{":
        return from_safetensors(data)
    if data.startswith(b"PK\x03\x04"):
        return from_zip(data)
    if data.startswith(b"\x80"):
        return from_legacy(data)
    if not data:
        raise Refused("is empty: get it once more.")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:200]):
        raise Refused("is a text, perhaps a web page or a pointer of Git LFS, and no weights: get the file itself.")
    raise Refused("is neither a safetensors nor a torch file: get one of these, best .safetensors.")


def from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file's content."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Refused(f"is no safetensors file, or a damaged one ({printable(error)}): get it once more.") from error
    for _, array in found:
        if array["dtype"] not in SAFETENSORS_TYPES:
            kind = printable(array["dtype"])
            raise Refused(f"holds numbers of the type {kind}, which is not read: convert it to float32.")
    return {
        name: decoded(array["data"], SAFETENSORS_TYPES[array["dtype"]]).reshape(array["shape"]) for name, array in found
    }


def from_zip(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of torch's zip format: NAME/data.pkl beside the storages NAME/data/KEY, none compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
            raise Refused("is a TorchScript program: save its state_dict() with torch.save and read that.")
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members.values()):
            raise Refused("is a compressed zip archive, as torch.save writes none: unpack it, or get torch's file.")
        if sum(member.file_size for member in members.values()) > len(data):
            raise ValueError("the members are larger than the file")
        root = next((name.removesuffix("data.pkl") for name in members if re.fullmatch("[^/]*/data.pkl", name)), None)
        if root is None:
            raise Refused("is a zip archive without torch's data.pkl: get weights as .safetensors or a torch file.")
        order = ">" if f"{root}byteorder" in members and archive.read(f"{root}byteorder") == b"big" else "<"
        tensors = state_dict(unpickled(io.BytesIO(archive.read(f"{root}data.pkl")), {}))
        return arrays_of(tensors, lambda storage: archive.read(f"{root}data/{storage.key}"), order)


def from_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of torch's older format: five pickles, then each storage's length and bytes."""
    stream, storages = io.BytesIO(data), {}
    if unpickled(stream, {}) != LEGACY_MAGIC:
        raise Refused("is a pickle that torch did not write: save model.state_dict() with torch.save and read that.")
    if unpickled(stream, {}) != LEGACY_VERSION:
        raise ValueError("another version of the format")
    unpickled(stream, {})  # sizes of C types where it was written; the storages are little-endian everywhere
    tensors, keys, raw = state_dict(unpickled(stream, storages)), unpickled(stream, {}), {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("no list of the storages")
    for key in keys:
        storage = storages[key]
        if int.from_bytes(stream.read(8), "little", signed=True) != storage.numel:
            raise ValueError("a storage has another length than its tensors expect")
        raw[key] = stream.read(storage.numel * itemsize(storage.code))
    return arrays_of(tensors, lambda storage: raw[storage.key], "<")


def unpickled(stream: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """Interpret the next pickle of a stream and note the storages that it names in `storages`.

    Dictionaries of any class become plain ones and keep only what has a string for a key: nothing else names weights,
    and hashing what a file made up may take forever. The state of objects is dropped.
    """
    stack, below, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(stream):
        name, items = opcode.name, []
        if name in ("APPENDS", "SETITEMS", "TUPLE"):  # these take all since the last mark
            items, stack = stack, below.pop()
        elif name in TAKEN:
            items = stack[-TAKEN[name] :]
            del stack[-TAKEN[name] :]
            if len(items) < TAKEN[name]:
                raise ValueError("an opcode without its arguments")
        match name:
            case "STOP":
                return items[0]
            case "PROTO" | "FRAME" | "BUILD":
                pass
            case "MARK":
                below.append(stack)
                stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(items))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND" | "APPENDS" if isinstance(stack[-1], list):
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" if isinstance(stack[-1], dict):
                stack[-1].update(entries(items[::2], items[1::2]))
            case "GLOBAL":
                module, name = str(argument).split(" ", 1)
                stack.append(known(module, name))
            case "STACK_GLOBAL":
                stack.append(known(*items))
            case "REDUCE" | "NEWOBJ":
                stack.append(rebuilt(*items))
            case "BINPERSID":
                stack.append(named_storage(items[0]))
                storages[stack[-1].key] = stack[-1]
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case _ if name in VALUES:
                stack.append(argument)
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS" if stack[-1] is IGNORED:
                pass
            case _:
                raise ValueError(f"{name} where torch writes none")


def entries(keys: list, values: list) -> dict[str, Any]:
    """Return the entries of a dictionary that have a string for a key."""
    return {key: value for key, value in zip(keys, values, strict=True) if isinstance(key, str)}


def known(module: Any, name: Any) -> Global:
    """Return the name of a known class or function, and refuse every other one."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    path = f"{module}.{name}"
    if path in KNOWN and "." not in name:
        return Global(path)
    if module.split(".")[0] in MODEL_PACKAGES and name[:1].isupper():
        raise Refused(f"holds {printable(path)}, not only plain arrays: save model.state_dict() instead and read that.")
    raise Refused(
        f"wants to run {printable(path)}: it is refused; get the weights from a source that you trust, "
        "best as .safetensors."
    )


def rebuilt(function: Any, arguments: Any) -> Any:
    """Return what the call of a known function would describe. Tensors are checked when they are made, not here."""
    if not isinstance(function, Global):
        raise ValueError("a call of what is no function")
    match function.path.rpartition(".")[2], arguments:
        case "OrderedDict", ():
            return {}
        case "OrderedDict", (list(pairs),):  # of Python 2
            made = entries([key for key, _ in pairs], [value for _, value in pairs])
            pairs.clear()  # so that a short file cannot multiply it
            return made
        case "Size", (tuple(size),):
            return size
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (Storage() as storage, offset, tuple(size), tuple(stride), *_):
            return Tensor(storage, offset, size, stride)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor() as tensor, *_):
            return tensor
    if function.path not in INERT:
        raise ValueError("a call with other arguments than torch's")
    return IGNORED


def named_storage(identity: Any) -> Storage:
    """Return the storage that a pickle refers to. Files of torch before 0.4 may have views in a sixth place."""
    match identity:
        case ("storage", Global(path), str(key), _, int(numel), *views):
            if path in STORAGES and 0 <= numel < 2**60 and views in ([], [None]):
                return Storage(STORAGES[path], key, numel)
    raise ValueError("a reference to no storage")


def state_dict(found: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of a training checkpoint with one."""
    if isinstance(found, dict):
        for holder in (*(found.get(key) for key in WRAPPERS), found):
            named = holder.items() if isinstance(holder, dict) else ()
            if tensors := {name: value for name, value in named if isinstance(value, Tensor)}:
                return tensors
    raise Refused("holds no tensors by name: save model.state_dict() with torch.save and read that.")


def arrays_of(tensors: dict[str, Tensor], raw: Callable[[Storage], bytes], order: str) -> dict[str, np.ndarray]:
    """Return tensors as views of their storages, each of which is read and decoded once."""
    flat = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        flat[storage] = decoded(raw(storage), storage.code, order)
        if flat[storage].size != storage.numel:
            raise ValueError("a storage has another length than its tensors expect")
    if repeating := [name for name, tensor in tensors.items() if repeats(flat[tensor.storage], tensor)]:
        raise Refused(
            f"holds {printable(repeating[0])} as an expanded tensor, whose values repeat and are kept once: save its "
            "clone() and read that."
        )
    return {name: view(flat[tensor.storage], tensor) for name, tensor in tensors.items()}


def repeats(flat: np.ndarray, tensor: Tensor) -> bool:
    """Return whether a tensor has more values than its storage because some are the same in memory."""
    sizes, steps = tensor.size, tensor.stride
    if not all(type(number) is int and 0 <= number < 2**60 for number in (tensor.offset, *sizes, *steps)):
        return False
    inside = tensor.offset + sum((size - 1) * step for size, step in zip(sizes, steps, strict=False)) < flat.size
    return inside and len(sizes) == len(steps) and 0 < flat.size < math.prod(sizes)


def view(flat: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return a tensor's view of its storage. Nothing outside of it is reached and nothing is repeated."""
    _, offset, size, stride = tensor
    numbers = (offset, *size, *stride)
    if (
        len(size) != len(stride)
        or len(size) > 32
        or not all(isinstance(number, int) and 0 <= number < 2**60 for number in numbers)
    ):
        raise ValueError("sizes, strides or an offset that no tensor has")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > flat.size or (count and last >= flat.size):
        raise ValueError("a tensor that reaches out of its storage")
    if not count:
        return np.zeros(size, flat.dtype)
    return np.ndarray(size, flat.dtype, flat, offset * flat.itemsize, tuple(step * flat.itemsize for step in stride))


def itemsize(code: str) -> int:
    """Return the bytes of one number."""
    return int(code[-1])


def decoded(raw: bytes | bytearray, code: str, order: str = "<") -> np.ndarray:
    """Return numbers from their bytes: floating ones as float32, to which bfloat16 lacks the lower 16 bits."""
    if code == BFLOAT16:
        return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    numbers = np.frombuffer(raw, order + code)
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite
        return numbers.astype(np.float32 if code[0] == "f" else code, copy=False)


def renamed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut the prefixes off that all names have, and give DenseNet's layers their present names."""
    names = list(arrays)
    while names and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)):
        names = [name.removeprefix(prefix) for name in names]
    names = [OLD_DENSENET.sub(r"\1\2", name) for name in names]
    if len(set(names)) < len(names):
        raise Refused("has an array twice, under an old and a new name: remove one of them.")
    return dict(zip(names, arrays.values(), strict=True))
