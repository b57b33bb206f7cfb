"""Checkpoints: five formats give the same weights; broken, malicious and quantized files raise errors that name them.

PyTorch is not installed here. It wrote the golden `pytorch_model.bin`; the tests write all other files of its two
formats by hand.
"""

import functools
import io
import json
import os
import pickle
import re
import shutil
import tracemalloc
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

# The private readers, because `load` would need a complete encoder for each damaged or malicious file.
from tfxfer.backbones import _checkpoint, _pickle

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
    "float8_e4m3fn": "F8_E4M3",
}
STORAGES = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}
STORAGES |= {"int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}
MAGIC = 0x1950A86A20F9469CFC6C


# === Writing files ===


def write_safetensors(file, tensors, edit=None):
    """Writes a safetensors file; `edit` modifies its header."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": CODES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    if edit:
        edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def plain(value):
    """Returns the opcodes that push a plain value onto the stack."""
    return pickle.dumps(value, 2)[2:-1]


def named(name):
    """Returns the opcode that pushes the global `module.name` onto the stack."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def storage_code(dtype="float32", key="0", size=6):
    return b"(" + plain("storage") + named(f"torch.{STORAGES[dtype]}Storage") + plain(key) + plain("cpu") + plain(size)


def tensor_code(shape, strides, offset=0, storage=None, legacy=False):
    """Returns the opcodes that PyTorch writes for a tensor."""
    end = (plain(None) if legacy else b"") + b"tQ"
    hooks = named("collections.OrderedDict") + b")R"
    rebuild = named("torch._utils._rebuild_tensor_v2") + b"("
    values = plain(offset) + plain(shape) + plain(strides) + plain(False) + hooks
    return rebuild + (storage or storage_code()) + end + values + b"tR"


def state_code(tensors):
    """Returns the pickle of a dict of names and tensor opcodes, with PyTorch's `_metadata` attribute."""
    items = b"".join(plain(name) + code for name, code in tensors.items())
    metadata = b"}" + plain("_metadata") + plain({"": {"version": 1}}) + b"sb"
    return b"\x80\x02" + named("collections.OrderedDict") + b")R(" + items + b"u" + metadata + b"."


def write_zip(file, code, storages=None, prefix="archive", compression=zipfile.ZIP_STORED, **more):
    """Writes a file in the format of PyTorch 1.6 and later."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{prefix}/data.pkl", code)
        for name, content in more.items():
            archive.writestr(f"{prefix}/{name}", content)
        for key, content in (storages or {"0": np.arange(6, dtype="float32").tobytes()}).items():
            archive.writestr(f"{prefix}/data/{key}", content)
    return file.parent


def write_legacy(file, code, storages, keys=None):
    """Writes a file in the format before PyTorch 1.6; `storages` maps keys to arrays."""
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}]
    content = b"".join(pickle.dumps(value, 2) for value in head) + code
    content += pickle.dumps(sorted(storages) if keys is None else keys, 2)
    for key in sorted(storages):
        content += storages[key].size.to_bytes(8, "little") + storages[key].tobytes()
    file.write_bytes(content)
    return file.parent


@pytest.fixture
def bin_file(tmp_path):
    return tmp_path / "pytorch_model.bin"


def read_all(folder):
    return {name: tensor.read() for name, tensor in _checkpoint.open_tensors(folder).items()}


# === Five formats ===


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("bert_one_file", "float32"),
        ("bert_sharded", "float32"),
        ("bert_bin_only", "float32"),
        ("bert_f16", "float16"),
        ("bert_bf16", "bfloat16"),
    ],
)
def test_one_model_in_five_forms_gives_equal_arrays(golden, form, dtype):
    reference = read_all(golden / "families2" / "bert_one_file")
    tensors = _checkpoint.open_tensors(golden / "families2" / form)
    assert set(tensors) == set(reference) and len(tensors) == 39
    for name, tensor in tensors.items():
        array = tensor.read()
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, reference[name].shape)
        assert tensor.file.is_file() and tensor.file.parent == golden / "families2" / form
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, reference[name].astype(np.dtype(dtype)).astype("float32"))


def test_a_sharded_pytorch_checkpoint_is_read(golden, tmp_path):
    for i in (1, 2):
        code = state_code({f"tensor_{i}": tensor_code((2, 3), (3, 1))})
        write_zip(tmp_path / f"pytorch_model-0000{i}-of-00002.bin", code)
    weight_map = {f"tensor_{i}": f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    tensors = read_all(tmp_path)
    assert set(tensors) == {"tensor_1", "tensor_2"}
    np.testing.assert_array_equal(tensors["tensor_2"], [[0, 1, 2], [3, 4, 5]])


def test_safetensors_are_preferred(golden, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(2, "float32")})
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    assert list(read_all(tmp_path)) == ["a"]


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"model.safetensors, pytorch_model.bin or shards"):
        _checkpoint.open_tensors(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="TensorFlow 1, Keras or Flax are not read; save them as safetensors"):
        _checkpoint.open_tensors(tmp_path)


# === Tensors are read on demand ===


def peak_of(function):
    tracemalloc.start()
    result = function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


def test_opening_reads_headers_only(tmp_path):
    # A sparse file: 16 GiB, more than any test machine could hold.
    size = 2**32
    header = {"a": {"dtype": "F32", "shape": [2**16, 2**16], "data_offsets": [0, 4 * size]}}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * size)
    tensors, peak = peak_of(lambda: _checkpoint.open_tensors(tmp_path))
    assert tensors["a"].shape == (2**16, 2**16)
    assert peak < 2**20


@pytest.mark.parametrize("legacy", [False, True])
def test_opening_a_pytorch_file_reads_headers_only(bin_file, legacy):
    size = 2**20
    zeros = np.zeros(size, "float32")
    code = tensor_code((size,), (1,), storage=storage_code(size=size), legacy=legacy)
    part = tensor_code((8,), (2,), 16, storage_code(size=size), legacy)
    if legacy:
        write_legacy(bin_file, state_code({"a": code, "part": part}), {"0": zeros})
    else:
        write_zip(bin_file, state_code({"a": code, "part": part}), {"0": zeros.tobytes()})
    tensors, peak = peak_of(lambda: _checkpoint.open_tensors(bin_file.parent))
    assert peak < 2**18
    _, peak = peak_of(tensors["part"].read)
    assert peak < 2**18
    array, peak = peak_of(tensors["a"].read)
    assert array.shape == (size,) and 4 * size <= peak < 6 * size


# === PyTorch files ===


def test_strides_offsets_and_shared_storages_are_respected(bin_file):
    tensors = {
        "rows": tensor_code((2, 3), (3, 1)),
        "transposed": tensor_code((3, 2), (1, 3)),
        "column": tensor_code((2,), (3,), 1),
        "number": tensor_code((), (), 5),
        "empty": tensor_code((0, 3), (3, 1), 6),
        "parameter": named("torch._utils._rebuild_parameter")
        + b"("
        + tensor_code((2,), (1,), 4)
        + plain(True)
        + plain(None)
        + b"tR",
    }
    folder = write_zip(bin_file, state_code(tensors))
    arrays = read_all(folder)
    rows = np.arange(6, dtype="float32").reshape(2, 3)
    expected = {"rows": rows, "transposed": rows.T, "column": rows[:, 1], "number": rows[1, 2], "parameter": [4, 5]}
    for name, array in expected.items():
        assert arrays[name].shape == np.shape(array)
        np.testing.assert_array_equal(arrays[name], array)
    assert arrays["empty"].shape == (0, 3)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", list(STORAGES))
def test_each_type_of_storage_is_known(bin_file, dtype, legacy):
    values = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
    code = state_code({"a": tensor_code((2, 3), (3, 1), storage=storage_code(dtype), legacy=legacy)})
    if legacy:
        write_legacy(bin_file, code, {"0": values})
    else:
        write_zip(bin_file, code, {"0": values.tobytes()}, byteorder="little", version="3\n")
    tensor = _checkpoint.open_tensors(bin_file.parent)["a"]
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.load(), values.reshape(2, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_file_in_big_endian_is_read(bin_file, dtype):
    values = np.arange(6).astype(dtype)
    swapped = values.view(f"u{values.itemsize}").byteswap().tobytes()
    code = state_code({"a": tensor_code((6,), (1,), storage=storage_code(dtype))})
    write_zip(bin_file, code, {"0": swapped}, byteorder="big")
    np.testing.assert_array_equal(read_all(bin_file.parent)["a"], np.arange(6))


def test_the_format_before_pytorch_1_6_is_read(bin_file):
    first, second = np.arange(6, dtype="float32"), np.arange(4).astype("float16")
    code = state_code(
        {
            "a": tensor_code((3, 2), (1, 3), storage=storage_code(key="94", size=6), legacy=True),
            "b": tensor_code((3,), (1,), 1, storage_code("float16", "71", 4), legacy=True),
            "c": tensor_code((2,), (1,), 4, storage_code(key="94", size=6), legacy=True),
        }
    )
    arrays = read_all(write_legacy(bin_file, code, {"94": first, "71": second}))
    np.testing.assert_array_equal(arrays["a"], first.reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["b"], [1, 2, 3])
    np.testing.assert_array_equal(arrays["c"], [4, 5])


def test_what_python_2_wrote_is_read(bin_file):
    # Python 2 writes byte strings, and an ordered dict as a list of pairs.
    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    storage = b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + plain(6)
    tensor = tensor_code((6,), (1,), storage=storage)
    code = b"\x80\x02" + named("collections.OrderedDict") + b"(((" + text("a") + tensor + b"lltR."
    np.testing.assert_array_equal(read_all(write_zip(bin_file, code))["a"], np.arange(6))


# === Files that would execute code ===


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_calls_the_system_is_refused_by_name(bin_file, tmp_path, protocol, form):
    touched = tmp_path / "touched"
    nested = {"a": [1, (2, {"b": Call(os.system, f"touch {touched}")})]}
    code = pickle.dumps(nested, protocol)
    if form == "zip":
        write_zip(bin_file, code)
    elif form == "legacy":
        write_legacy(bin_file, code, {})
    else:
        bin_file.write_bytes(code)
    with pytest.raises(ValueError, match=r"pytorch_model.bin names '(posix|nt).system': the file would execute code"):
        _checkpoint.open_tensors(tmp_path)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (pickle.dumps({"a": Call(eval, "1 + 1")}), "builtins.eval"),
        (pickle.dumps({"a": Call(functools.partial, print)}), "functools.partial"),
        (b"\x80\x02" + named("os.system") + plain("true") + b"\x85R.", "os.system"),
        (b"(" + plain("true") + b"ios\nsystem\n.", "os.system"),  # INST
        (b"\x80\x04" + plain("os") + plain("system.__class__") + b"\x93.", "os.system.__class__"),
        (
            b"\x80\x02" + named("torch.storage._load_from_bytes") + plain("") + b"\x85R.",
            "torch.storage._load_from_bytes",
        ),
        (b"\x80\x02" + named("torch._utils._rebuild_tensor_v2.__globals__") + b".", "__globals__"),
        (state_code({"a": tensor_code((6,), (1,)) + b"0" + named("os.system") + plain("true") + b"\x85R"}), "POP"),
        (state_code({"a": named("os.system") + plain("true") + b"\x85R"}), "os.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02" + named("collections.OrderedDict") + b")\x81.", "NEWOBJ"),
        (b"\x80\x02" + named("collections.OrderedDict") + b"}" + plain("a") + plain(1) + b"sb.", "Global"),
    ],
)
def test_other_ways_to_run_something_are_refused(bin_file, code, name):
    with pytest.raises(ValueError, match=rf"pytorch_model.bin.*{re.escape(name)}"):
        _checkpoint.open_tensors(write_zip(bin_file, code))


def test_a_name_in_the_archive_does_not_lead_out_of_it(bin_file, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(24))
    for key in ("../../secret", "../../../secret", str(tmp_path / "secret")):
        code = state_code({"a": tensor_code((6,), (1,), storage=storage_code(key=key))})
        with pytest.raises(ValueError, match=r"pytorch_model.bin is broken: the archive lacks 'archive/data/"):
            _checkpoint.open_tensors(write_zip(bin_file, code))
    before = sorted(tmp_path.iterdir())
    read_all(
        write_zip(
            bin_file,
            state_code({"a": tensor_code((6,), (1,), storage=storage_code(key="../../x"))}),
            {"../../x": bytes(24)},
        )
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor_code((7,), (1,)), r"reaches beyond its storage of 6 numbers"),
        (tensor_code((6,), (1,), 1), r"reaches beyond its storage"),
        (tensor_code((2, 3), (4, 1)), r"reaches beyond its storage"),
        (tensor_code((2**62, 2**62), (1, 1)), r"reaches beyond its storage"),
        (tensor_code((2,), (-1,), 5), r"cannot be"),
        (tensor_code((2,), (1,), -1), r"cannot be"),
        (tensor_code((-2,), (1,)), r"cannot be"),
        (tensor_code((2**70,), (0,)), r"cannot be"),
        (tensor_code((1,) * 65, (1,) * 65), r"cannot be"),
        (tensor_code((2, 3), (1,)), r"cannot be"),
        (tensor_code((2.0,), (1,)), r"cannot be"),
        (tensor_code([2], (1,)), r"unknown form"),
        (
            tensor_code((7,), (1,), storage=storage_code(size=7)),
            r"'archive/data/0' is smaller than its 7 numbers in float32",
        ),
        (tensor_code((2**40,), (1,), storage=storage_code(size=2**40)), r"smaller than its 1099511627776 numbers"),
        (tensor_code((1,), (1,), storage=storage_code(size=-1)), r"unknown type or size"),
        (tensor_code((1,), (1,), storage=storage_code(key="1")), r"the archive lacks 'archive/data/1'"),
        (tensor_code((1,), (1,), storage=plain(5)), r"unknown form"),
        (plain(5), r"its entry 'a' is a int, not a tensor"),
        (named("torch._utils._rebuild_tensor_v2") + b")R", r"other arguments than PyTorch"),
        (named("torch._utils._rebuild_parameter") + b")R", r"other arguments than PyTorch"),
        (named("torch.FloatStorage") + b")R", r"other arguments than PyTorch"),
        (plain(5) + b")R", r"calls what is not a function"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_an_error(bin_file, tensor, message):
    with pytest.raises(ValueError, match=rf"pytorch_model.bin is broken: .*{message}"):
        _checkpoint.open_tensors(write_zip(bin_file, state_code({"a": tensor})))


def test_a_tensor_larger_than_its_storage_is_not_allocated(bin_file):
    tensor = _checkpoint.open_tensors(write_zip(bin_file, state_code({"a": tensor_code((2**50,), (0,))})))["a"]
    with pytest.raises(ValueError, match=r"repeats the numbers of a smaller storage"):
        tensor.read()


def test_a_storage_described_in_two_ways_is_an_error(bin_file):
    tensors = {"a": tensor_code((6,), (1,)), "b": tensor_code((1,), (1,), storage=storage_code("float16"))}
    with pytest.raises(ValueError, match=r"'b' describes its storage differently"):
        _checkpoint.open_tensors(write_zip(bin_file, state_code(tensors)))


GOOD = state_code({"a": tensor_code((6,), (1,))})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: write_zip(file, plain([1]) + b"."), r"it holds a list, not a dict of tensors"),
        (lambda file: write_zip(file, GOOD[:-1]), r"exhausted before seeing STOP"),
        (lambda file: write_zip(file, bytes(_pickle.LONGEST + 1)), r"longer than 16777216 bytes"),
        (lambda file: write_zip(file, GOOD, compression=zipfile.ZIP_DEFLATED), r"compressed or encrypted"),
        (lambda file: write_zip(file, GOOD, prefix="a/b"), r"holds 0 files NAME/data.pkl.*torch.load"),
        (lambda file: file.write_bytes(b""), r"none of PyTorch's formats.*save them as safetensors.*torch.load"),
        (lambda file: file.write_bytes(b"PK\x03\x04" + bytes(80)), r"not a zip file"),
        (lambda file: file.write_bytes(pickle.dumps(MAGIC) + pickle.dumps(1000)), r"none of PyTorch's formats"),
        (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), r"git lfs pull"),
        (
            lambda file: write_legacy(file, GOOD, {"0": np.zeros(5, "float32")}),
            r"storage '0' of 6 numbers is not whole",
        ),
        (lambda file: write_legacy(file, GOOD, {"1": np.zeros(6, "float32")}), r"list of storages does not fit"),
        (lambda file: write_legacy(file, GOOD, {}, []), r"list of storages does not fit"),
        (lambda file: write_legacy(file, GOOD, {}, ["0"]), r"storage '0' of 6 numbers is not whole"),
        (lambda file: write_legacy(file, GOOD, {}, 3), r"list of storages does not fit"),
    ],
)
def test_a_broken_pytorch_file_is_an_error_that_names_it(bin_file, write, message):
    write(bin_file)
    with pytest.raises(ValueError, match=rf"pytorch_model.bin is broken: .*{message}"):
        _checkpoint.open_tensors(bin_file.parent)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pytorch_file_cut_anywhere_is_an_error(tmp_path, bin_file, legacy):
    if legacy:
        write_legacy(bin_file, GOOD, {"0": np.arange(6, dtype="float32")})
    else:
        write_zip(bin_file, GOOD)
    whole = bin_file.read_bytes()
    for length in range(0, len(whole), 7):
        bin_file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"pytorch_model.bin is broken"):
            _checkpoint.open_tensors(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(bin_file):
    tensor = _checkpoint.open_tensors(write_legacy(bin_file, GOOD, {"0": np.arange(6, dtype="float32")}))["a"]
    bin_file.write_bytes(bin_file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"shorter while it was read"):
        tensor.read()


# === The unpickler ===


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.binary(max_size=200))
def test_random_bytes_are_a_value_error_or_plain_values(code):
    try:
        _pickle.load(io.BytesIO(code))
    except ValueError:
        pass


OPCODES = [bytes([code]) for code in b"()]}0.1234-BCGIJKLMNPQRSTUVXabcdefghijlopqrstu"]
OPCODES += [bytes([code]) for code in range(0x80, 0x99)]
PIECES = [
    named("torch._utils._rebuild_tensor_v2"),
    named("collections.OrderedDict"),
    storage_code() + b"tQ",
    plain((2,)),
]
PIECES += [plain("a"), tensor_code((2,), (1,)), b"K\x01", b"h\x00", b"q\x00", b"q\x01", b"h\x01", b")R", b"\x85R"]


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(st.lists(st.sampled_from(OPCODES + PIECES), max_size=40))
def test_random_programs_are_a_value_error_or_plain_values(pieces):
    try:
        _pickle.load(io.BytesIO(b"\x80\x02" + b"".join(pieces) + b"."))
    except ValueError:
        pass


@hypothesis.settings(
    deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.data())
def test_a_file_with_changed_bytes_is_a_value_error_or_read(tmp_path, data):
    file = tmp_path / "pytorch_model.bin"
    if data.draw(st.booleans()):
        write_legacy(file, GOOD, {"0": np.arange(6, dtype="float32")})
    else:
        write_zip(file, GOOD, byteorder="little")
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        read_all(tmp_path)
    except ValueError as error:
        assert "pytorch_model.bin" in str(error)


def test_a_pickle_that_asks_for_much_gets_nothing(monkeypatch):
    monkeypatch.setattr(_pickle, "LONGEST", 2**16)

    def fails(code):
        with pytest.raises(ValueError):
            _pickle.load(io.BytesIO(code))

    big = (2**40).to_bytes(8, "little")
    for code in (
        b"\x80\x04\x8d" + big + b"abc.",  # a string of a terabyte
        b"\x80\x05\x96" + big + b"abc.",  # a byte array of a terabyte
        b"\x80\x02X" + (2**32 - 1).to_bytes(4, "little") + b"abc.",
        b"\x80\x04\x95" + big + b"abc.",  # a frame
        b"\x80\x02Nr" + (2**31 - 1).to_bytes(4, "little"),  # a memo index too large for a list
        b"\x80\x02" + b"(" * (_pickle.LONGEST + 1),
    ):
        assert peak_of(functools.partial(fails, code))[1] < 2**22


def test_a_key_that_takes_forever_to_hash_is_refused():
    # Each of 200 tuples contains the previous one twice, so hashing the last takes 2**200 hashes.
    code = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 200
    with pytest.raises(ValueError, match="keys that are not strings"):
        _pickle.load(io.BytesIO(code + b"}h\x00K\x01s."))
    with pytest.raises(ValueError, match="keys that are not strings"):
        _pickle.load(io.BytesIO(b"\x80\x02)" + b"\x85" * 1_000_000 + b"q\x00}h\x00K\x01s."))


# === safetensors ===


def edit_entry(name, **changes):
    return lambda header: header[name].update(changes)


@pytest.mark.parametrize(
    "edit",
    [
        edit_entry("b", data_offsets=[12, 28]),  # overlapping
        edit_entry("b", data_offsets=[16, 64]),  # beyond the end
        edit_entry("b", shape=[5]),
        edit_entry("b", shape=[2**60, 2**60]),
        edit_entry("b", shape=[-4]),
        edit_entry("b", dtype="F33"),
        lambda header: header.update(c={}),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_file_is_an_error_that_names_it(tmp_path, edit):
    tensors = {"a": np.ones(4, "float32"), "b": np.ones(4, "float32")}
    write_safetensors(tmp_path / "model.safetensors", tensors, edit)
    with pytest.raises(ValueError, match=r"model.safetensors is broken"):
        _checkpoint.open_tensors(tmp_path)


@pytest.mark.parametrize("length", [0, 2**20, 2**27, 2**40, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_a_wrong_length_is_an_error_that_names_the_file(tmp_path, length):
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b'{"a": {}}')
    with pytest.raises(ValueError, match=r"model.safetensors is broken"):
        _checkpoint.open_tensors(tmp_path)


def test_a_safetensors_file_cut_anywhere_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": np.ones(4, "float32")})
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model.safetensors is broken"):
            _checkpoint.open_tensors(tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=r"pointer of Git LFS.*git lfs pull"):
        _checkpoint.open_tensors(tmp_path)


# === Index files ===


def write_shards(folder, weight_map, shards):
    for shard, tensors in shards.items():
        write_safetensors(folder / shard, {name: np.ones(2, "float32") for name in tensors})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/tmp/x.safetensors", "a/../../x", "..\\x", "C:x", "\\\\host\\x"]
)
def test_an_index_that_names_files_outside_its_folder_is_an_error(tmp_path, shard):
    write_safetensors(tmp_path / "x.safetensors", {"a": np.ones(2, "float32")})
    folder = tmp_path / "folder"
    folder.mkdir()
    write_shards(folder, {"a": shard}, {})
    with pytest.raises(ValueError, match=r"files in its own folder in .*model.safetensors.index.json"):
        _checkpoint.open_tensors(folder)


def test_a_shard_may_be_a_link_as_in_the_cache_of_the_hub(tmp_path):
    write_safetensors(tmp_path / "blob", {"a": np.ones(2, "float32")})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.safetensors").symlink_to(tmp_path / "blob")
    write_shards(folder, {"a": "1.safetensors"}, {})
    assert list(read_all(folder)) == ["a"]


def test_index_and_shards_must_agree(tmp_path):
    write_shards(tmp_path, {"a": "1", "b": "2"}, {"1": ["a"], "2": ["c"]})
    with pytest.raises(ValueError, match=r"tensors that model.safetensors.index.json names.*\['b'\].*/2 lacks them"):
        _checkpoint.open_tensors(tmp_path)
    write_shards(tmp_path, {"a": "1", "b": "3"}, {})
    with pytest.raises(ValueError, match=r"all the shards of model.safetensors.index.json.*3 is missing"):
        _checkpoint.open_tensors(tmp_path)
    # If two shards hold a tensor, the index decides. A tensor that the index does not name is still read.
    write_shards(tmp_path, {"a": "1", "b": "2"}, {"1": ["a", "b", "c"], "2": ["a", "b"]})
    tensors = _checkpoint.open_tensors(tmp_path)
    assert {name: tensor.file.name for name, tensor in tensors.items()} == {"a": "1", "b": "2", "c": "1"}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_a_broken_index_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json"):
        _checkpoint.open_tensors(tmp_path)


# === Values and dtypes ===


def test_half_and_double_precision_become_float32(tmp_path):
    values = np.array([1.5, -0.1, 3e4])
    dtypes = ["float16", ml_dtypes.bfloat16, "float64", "float32"]
    write_safetensors(tmp_path / "model.safetensors", {str(i): values.astype(d) for i, d in enumerate(dtypes)})
    arrays = read_all(tmp_path)
    for i, dtype in enumerate(dtypes):
        assert arrays[str(i)].dtype == np.float32
        np.testing.assert_array_equal(arrays[str(i)], values.astype(dtype).astype("float32"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", ml_dtypes.float8_e4m3fn])
def test_a_quantized_weight_is_an_error_and_an_unread_buffer_is_none(tmp_path, dtype):
    tensors = {"a": np.ones(2, "float32"), "q": np.ones((2, 2), dtype), "position_ids": np.arange(4)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    checkpoint = _checkpoint.Checkpoint(_checkpoint.open_tensors(tmp_path), "a", (), "here")
    message = r"q: (u?int|float8_e4m3|f8_e4m3).*model.safetensors is a quantized checkpoint.*not supported.*dequantize"
    # The shape of packed weights is wrong, too, but the error must report the quantization.
    with pytest.raises(ValueError, match=message):
        checkpoint.take("q", (8, 8))
    checkpoint.take("a", (2,))
    with pytest.raises(ValueError, match=r"\['q'\]"):
        checkpoint.check_all_used()


@pytest.mark.parametrize("function", ["_rebuild_qtensor", "_rebuild_tensor_v3"])
def test_quantized_tensors_of_pytorch_are_called_so(bin_file, function):
    code = state_code({"a": named(f"torch._utils.{function}")})
    with pytest.raises(ValueError, match=rf"{function}.*pytorch_model.bin is a quantized checkpoint"):
        _checkpoint.open_tensors(write_zip(bin_file, code))


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, np.nan], "float32"),
        np.array([np.inf, 1], "float16"),
        np.array([1e300, 1], "float64"),
        np.array([1, -np.inf], ml_dtypes.bfloat16),
    ],
)
def test_nan_and_infinity_in_a_weight_are_errors_that_name_tensor_and_file(tmp_path, values):
    write_safetensors(tmp_path / "model.safetensors", {"layer.weight": values, "fine": np.ones(1, "float32")})
    tensors = _checkpoint.open_tensors(tmp_path)
    tensors["fine"].read()
    with pytest.raises(ValueError, match=r"layer.weight: NaN or infinity.*model.safetensors"):
        tensors["layer.weight"].read()


# === Names ===


def checkpoint_of(names, anchor="a.weight", prefixes=("bert.",)):
    return _checkpoint.Checkpoint({name: np.ones((2, 3), "float32") for name in names}, anchor, prefixes, "the source")


def test_a_prefix_is_found_by_the_anchor_and_removed():
    checkpoint = checkpoint_of(["bert.b.weight", "bert.a.weight", "classifier.weight"])
    assert checkpoint.names() == ["a.weight", "b.weight"]
    assert (
        checkpoint.has("b.weight") and not checkpoint.has("bert.b.weight") and not checkpoint.has("classifier.weight")
    )
    assert checkpoint.shape("b.weight") == (2, 3)
    with pytest.raises(ValueError, match=r"tensor 'c'.*It is missing in the source"):
        checkpoint.shape("c")
    with pytest.raises(ValueError, match=r"'a.weight'.*the source.*Prefixes tried: '', 'bert.'"):
        checkpoint_of(["gpt.a.weight"])


def test_old_names_of_layer_norms_are_the_new_ones():
    checkpoint = checkpoint_of(["a.weight", "x.LayerNorm.gamma", "x.LayerNorm.beta"])
    assert checkpoint.names() == ["a.weight", "x.LayerNorm.bias", "x.LayerNorm.weight"]
    with pytest.raises(ValueError, match=r"one name for each weight.*x.LayerNorm.gamma"):
        checkpoint_of(["a.weight", "x.LayerNorm.gamma", "x.LayerNorm.weight"])


def test_a_shape_that_differs_is_an_error_that_names_tensor_shapes_and_file(golden):
    folder = golden / "families2" / "bert_sharded"
    anchor = "embeddings.word_embeddings.weight"
    checkpoint = _checkpoint.Checkpoint(_checkpoint.open_tensors(folder), anchor, (), str(folder))
    assert checkpoint.shape(anchor) == (640, 32)
    assert checkpoint.take(anchor, (None, 32)).shape == (640, 32)
    for shape in ((640, 33), (640,), (None, None, 32)):
        message = (
            rf"the tensor '{anchor}' with shape {re.escape(str(shape))}.*\(640, 32\).*model-00001-of-00003.safetensors"
        )
        with pytest.raises(ValueError, match=message):
            checkpoint.take(anchor, shape)


def test_the_shape_is_compared_before_anything_is_read(bin_file):
    tensors = _checkpoint.open_tensors(write_zip(bin_file, state_code({"a": tensor_code((2**50,), (0,))})))
    with pytest.raises(ValueError, match=r"'a' with shape \(6,\).*1125899906842624"):
        _checkpoint.Checkpoint(tensors, "a", (), "here").take("a", (6,))


@pytest.mark.parametrize(
    "extra",
    [
        "lm_head.weight",
        "lm_head.dense.bias",
        "cls.predictions.bias",
        "layers.0.self_attn.rotary_emb.inv_freq",
        "rotary_emb.inv_freq",
        "embeddings.position_ids",
        "position_ids",
        "h.0.attn.masked_bias",
        "pooler.dense.weight",
    ],
)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_heads_and_buffers_may_be_left_over(prefix, extra):
    checkpoint = checkpoint_of([f"{prefix}a.weight", prefix + extra])
    checkpoint.take("a.weight", (2, 3))
    checkpoint.check_all_used()


def test_other_tensors_may_not_be_left_over_unless_they_are_ignored():
    checkpoint = checkpoint_of(["bert.a.weight", "bert.b.0.weight", "bert.b.10.weight", "bert.classifier.weight"])
    checkpoint.take("a.weight", (2, 3))
    checkpoint.shape("b.0.weight")
    with pytest.raises(ValueError, match=r"\['b.0.weight', 'b.10.weight', 'classifier.weight'\].*the source"):
        checkpoint.check_all_used()
    with pytest.raises(ValueError, match=r"=\['b.10.weight'\]"):
        checkpoint.check_all_used([r"b\.\d\.weight", r"classifier\..*"])
    checkpoint.check_all_used([r"b\.\d+\.weight", r"classifier\..*"])


def test_a_dict_of_arrays_is_a_checkpoint_with_the_same_checks():
    arrays = {"a": np.array([1, 2], ml_dtypes.bfloat16), "q": np.ones(2, "int8"), "nan": np.array([np.nan])}
    checkpoint = _checkpoint.Checkpoint(arrays, "a", (), "the source")
    assert checkpoint.take("a", (2,)).dtype == np.float32
    with pytest.raises(ValueError, match="the source is a quantized checkpoint"):
        checkpoint.take("q", (2,))
    with pytest.raises(ValueError, match=r"nan: NaN or infinity.*In the source"):
        checkpoint.take("nan", (1,))


def test_read_tensors_keeps_the_dtypes_of_the_files(golden, tmp_path):
    shutil.copytree(golden / "families2" / "bert_bf16", tmp_path / "copy", copy_function=shutil.copyfile)
    tensors = _checkpoint.read_tensors(tmp_path / "copy")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
