"""A file of torch.save gives its tensors as they were saved, and nothing else: no code runs,
nothing hangs and nothing large is taken, whatever its bytes."""

import struct
import tracemalloc
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_writer import STORAGES, Raw, View, legacy_file, zip_file

from gentool.checkpoints import safetensors, torch_file
from gentool.errors import ModelError

GOLDEN = Path(__file__).parent.parent / "golden"
WRITERS = {"zip": zip_file, "legacy": legacy_file}
ROOT = {
    "a": np.arange(6, dtype=np.float16).reshape(2, 3),
    "b": np.ones(4, np.float32),
    "steps": 3,
}


def read_all(path, under=None):
    source = torch_file.load(path, under)
    arrays = {name: source.read(name) for name in source.shapes}
    assert {name: a.shape for name, a in arrays.items()} == source.shapes
    return arrays


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "w.pt"


@pytest.fixture(params=WRITERS.values(), ids=WRITERS)
def write(request):
    return request.param


def refused(file, content, match=r"w\.pt"):
    file.write_bytes(content)
    with pytest.raises(ModelError, match=match) as caught:
        read_all(file)
    assert "w.pt" in caught.value.message
    return caught.value.message


# values


def test_a_hub_file_equals_its_safetensors():
    arrays = read_all(GOLDEN / "bert_gpt2_chinese" / "pytorch_model.bin")
    wanted = safetensors.load(GOLDEN / "bert_gpt2_chinese" / "model.safetensors")
    for name in wanted.shapes:
        np.testing.assert_array_equal(arrays[name], wanted.read(name), strict=True)
    left = arrays.keys() - wanted.shapes.keys()
    assert {name.split(".")[-2] for name in left} == {"lm_head", "attn"}
    embedding = arrays["transformer.wte.weight"]
    assert embedding.ctypes.data == arrays["lm_head.weight"].ctypes.data  # one storage, no copy
    assert not embedding.flags.owndata
    assert arrays["transformer.h.0.attn.bias"].dtype == np.uint8


def test_companions_of_a_checkpoint_are_left_out():
    folder = GOLDEN / "cpm_megatron"
    for form in ("ckpt", "ckpt_legacy_pickle"):
        path = folder / form / "80000" / "mp_rank_00_model_states.pt"
        assert set(read_all(path)) <= {"torch_rng_state", "cuda_rng_state"}
        assert len(read_all(path, "module")) == 40


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_types(file, write, dtype):
    value = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    file.write_bytes(write({"odd": np.ones(3, np.int8), "x": value}))
    array = read_all(file)["x"]
    np.testing.assert_array_equal(array, value, strict=True)
    assert array.flags.aligned and array.astype(np.float32).sum() == 3


def test_a_key_below_the_top(file, write):
    file.write_bytes(write({"module": ROOT, "other": {"c": np.ones(1, np.int8)}}))
    assert set(read_all(file)) == {"a", "b"}  # as trainers save them
    assert set(read_all(file, "module")) == {"a", "b"}
    for under in ("weights", "steps"):
        with pytest.raises(ModelError, match=rf"w\.pt holds no mapping.*'{under}'"):
            read_all(file, under)
    refused(file, write([np.ones(2, np.float32)]), "holds no mapping")
    with pytest.raises(ModelError, match="holds no tensor zzz"):
        file.write_bytes(write(ROOT))
        torch_file.load(file).read("zzz")


@settings(max_examples=200)
@given(st.data())
@pytest.mark.parametrize("form", WRITERS)
def test_views_are_numpys_or_errors(file, form, data):
    storage = np.arange(data.draw(st.integers(0, 20)), dtype=np.int16)
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    strides = tuple(data.draw(st.integers(0, 8)) for _ in shape)
    offset = data.draw(st.integers(0, 10))
    view = View(storage, shape, strides, offset)
    file.write_bytes(WRITERS[form]({"x": view, "room": np.zeros(250, np.uint8)}))
    places = offset + sum(np.indices(shape)[i] * s for i, s in enumerate(strides))
    places = np.broadcast_to(places, shape)
    if places.size and places.max() >= storage.size:
        with pytest.raises(ModelError, match="'x' reaching past the end"):
            read_all(file)
    else:
        expected = storage[places] if places.size else np.empty(shape, np.int16)
        np.testing.assert_array_equal(read_all(file)["x"], expected, strict=True)


def test_python_2_and_parameters(file, write):
    """OrderedDict of pairs, short byte strings, integers as text, a parameter, a legacy view."""
    ordered = b"ccollections\nOrderedDict\n](](U\x01a" + b"I99999999999\n" + b"ee\x85R"
    file.write_bytes(write({"x": Raw(ordered), "b": np.ones(2, np.int8)}))
    assert set(read_all(file)) == {"b"}
    identity = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04(U\x01vK\x01K\x03ttQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + identity + b"K\x00K\x03\x85K\x01\x85tR"
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88NtR"
    whole = np.arange(4, dtype=np.float32)
    file.write_bytes(write({"whole": whole, "part": Raw(parameter)}))
    assert read_all(file)["part"].tolist() == [1, 2, 3]
    file.write_bytes(write(Raw(b"ccollections\nOrderedDict\n](]X\1\0\0\0aa" + tensor + b"ae\x85R")))
    refused(file, file.read_bytes(), "without its data|uses")


def test_attributes_of_an_ordered_dict_and_newer_protocols(file, write):
    code = b"ccollections\nOrderedDict\n)R(X\1\0\0\0n\x8f(K\1\x90X\1\0\0\0mC\2hiu}X\1\0\0\0s}sb"
    file.write_bytes(write({"x": Raw(code), "y": np.ones(1, np.int8)}))
    assert set(read_all(file)) == {"y"}


# containers


def as_zip64(content):
    """The same file, with every size and place of its directory in 64 bits."""
    entries = zipfile.ZipFile(BytesIO(content)).infolist()
    start = struct.unpack_from("<I", content, len(content) - 6)[0]
    directory = b""
    for e in entries:
        name = e.filename.encode()
        extra = struct.pack("<HHQQQ", 1, 24, e.file_size, e.compress_size, e.header_offset)
        fields = (45, 45, 0, 0, 0, 0, e.CRC, 2**32 - 1, 2**32 - 1)
        directory += b"PK\1\2" + struct.pack("<6H3I", *fields)
        directory += struct.pack("<5H2I", len(name), len(extra), 0, 0, 0, 0, 2**32 - 1)
        directory += name + extra
    n = len(entries)
    far = start + len(directory)
    end = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, n, n, len(directory), start)
    end += b"PK\6\7" + struct.pack("<IQI", 0, far, 1)
    end += b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return content[:start] + directory + end


def test_directories_of_large_files(file):
    content = as_zip64(zip_file(ROOT))
    assert zipfile.ZipFile(BytesIO(content)).testzip() is None
    file.write_bytes(content)
    assert read_all(file)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for at in range(content.index(b"PK\1\2"), len(content)):
        for flip in (1, 0x80, 0xFF):
            broken = bytearray(content)
            broken[at] ^= flip
            file.write_bytes(broken)
            try:
                read_all(file)
            except ModelError:
                pass


def test_containers_that_are_refused(file, tmp_path):
    refused(file, zip_file(ROOT, zipfile.ZIP_DEFLATED), "compressed")
    refused(file, zip_file(ROOT, folder="a/b"), "no single data.pkl")
    refused(file, zip_file(ROOT).replace(b"little", b"big\0\0\0"), "byte order")
    refused(file, b"", "is empty")
    refused(file, b"\x93NUMPY" * 9, "is not a file of torch.save")
    refused(file, legacy_file(ROOT).replace(b"\xe9\3.", b"\xe8\3."), "version")
    twice = legacy_file(ROOT).replace(
        b"](X\1\0\0\0000X\1\0\0\0001e.", b"](X\1\0\0\0000X\1\0\0\0000e."
    )
    refused(file, twice, "lists a storage twice")
    with pytest.raises(ModelError, match="cannot read .*none"):
        torch_file.load(tmp_path / "none")
    with pytest.raises(ModelError, match="is not a file"):
        torch_file.load(tmp_path)


def test_an_entry_that_is_there_twice(file):
    """torch takes one, another reader the other."""
    for again in ("archive/data.pkl", "archive/data/0"):
        out = BytesIO(zip_file(ROOT))
        with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(again, b"}.")
        assert repr(again) in refused(file, out.getvalue(), "twice")
    out = BytesIO(zip_file(ROOT))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("other/data.pkl", b"}.")
    refused(file, out.getvalue(), "no single data.pkl")


# what torch 2.14 writes for tensors and objects that are not read -> what they are called
UNREAD = {
    b"ctorch._utils\n_rebuild_tensor_v3\n": "float8",
    b"ctorch\nfloat8_e4m3fn\n": "another type",
    b"ctorch\nQInt8Storage\n": "another type",
    b"ctorch._utils\n_rebuild_qtensor\n": "quantised tensor",
    b"ctorch._utils\n_rebuild_sparse_tensor\n": "sparse tensor",
    b"ctorch._utils\n_rebuild_sparse_csr_tensor\n": "sparse tensor",
    b"ctorch._utils\n_rebuild_nested_tensor\n": "nested tensor",
    b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n": "without data",
    b"ctorch._tensor\n_rebuild_from_type_v2\n": "class of its own",
    b"ctorch.nn.modules.linear\nLinear\n": "a whole module",
    b"ctransformers.models.gpt2.modeling_gpt2\nGPT2LMHeadModel\n": "a whole model",
}


@pytest.mark.parametrize("code", UNREAD, ids=lambda code: code.split()[1].decode())
def test_what_is_not_read_is_called_by_its_name(file, write, code):
    message = refused(file, write({"a": Raw(code)}), UNREAD[code])
    assert "hostile" not in message and code.split()[1].decode() in message


@pytest.mark.parametrize(("key", "is_read"), [("neg", False), ("conj", False), ("other", True)])
def test_a_sign_that_is_not_applied_yet(file, write, key, is_read):
    """A view such as the imaginary part of a conjugate; torch saves its bytes and this bit."""
    hooks = b"ccollections\nOrderedDict\n)R"
    bits = b"}X" + struct.pack("<I", len(key)) + key.encode() + b"\x88s"
    tensor = TENSOR + b"(" + STORAGE + b"K\0K\4\x85K\1\x85\x89" + hooks + bits + b"tR"
    content = write({"x": FLOATS, "y": Raw(tensor)})
    if is_read:
        file.write_bytes(content)
        assert read_all(file)["y"].tolist() == [1, 1, 1, 1]
    else:
        refused(file, content, "sign or conjugate")


# hostile pickles; %s is where a marker would appear

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\4tQ"
NAMES_CODE = {
    "os.system": b"cos\nsystem\n(X%stR",
    "posix.system": b"cposix\nsystem\n(X%stR",
    "builtins.eval": b"cbuiltins\neval\n(X%stR",
    "__builtin__.eval": b"c__builtin__\neval\n(X%stR",
    "builtins.getattr": b"cbuiltins\ngetattr\n(X%stR",
    "subprocess.Popen": b"csubprocess\nPopen\n(X%stR",
    "nt.system": b"X\2\0\0\0ntX\6\0\0\0system\x93(X%stR",
    "torch.load": b"ctorch\nload\n(X%stR",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(X%stR",
    "torch._utils._rebuild_tensor_v2.__globals__": TENSOR[:-1] + b".__globals__\n",
    "collections.OrderedDict.__init__": b"ccollections\nOrderedDict.__init__\n",
    "numpy.load": b"cnumpy\nload\n(X%stR",
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(X%stR",
}
OTHERS = {
    "INST": b"(X%sios\nsystem\n",
    "OBJ": b"(ccollections\nOrderedDict\nX%so",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pos.system\n",
    "calls what is not a name": b"X%s)R",
    "calls what": b"ccollections\nOrderedDict\n)R)R",
    "OrderedDict that torch": b"ccollections\nOrderedDict\nX%s\x85R",
    "call of torch.FloatStorage": b"ctorch\nFloatStorage\nK\1\x85R",
    "call of numpy.ndarray": b"cnumpy\nndarray\n)R",
    "call of torch._utils._rebuild_tensor_v2": TENSOR + b"(cnumpy\nndarray\nK\0))\x89NtR",
    "call of torch._utils._rebuild_tensor_v2 ": TENSOR + b")R",
    "call of torch._utils._rebuild_parameter": b"ctorch._utils\n_rebuild_parameter\n(K\1tR",
    "broken shape": TENSOR + b"(" + STORAGE + b"K\0](K\1eK\1\x85tR",
    "broken shape ": TENSOR + b"(" + STORAGE + b"K\0J\xff\xff\xff\xff\x85K\1\x85tR",
    "broken shape  ": TENSOR + b"(" + STORAGE + b"K\0K\1\x85)tR",
    "broken shape   ": TENSOR + b"(" + STORAGE + b"J\xff\xff\xff\xffK\1\x85K\1\x85tR",
    "sets the state": b"}K\1b",
    "sets the state ": TENSOR + b"}X\x0c\0\0\0__setstate__X%ssb",
    "sets the state  ": b"ccollections\nOrderedDict\n}X\x09\0\0\0__class__K\1sb",
    "sets the state   ": TENSOR + b"(" + STORAGE + b"K\0K\1\x85K\1\x85tR}b",
    "refers to data": b"NQ",
    "refers to data ": b"X%sQ",
    "refers to data  ": b"(X\7\0\0\0storagetQ",
    "refers to data   ": b"(X\7\0\0\0storagecnumpy\nndarray\nX\1\0\0\0aNK\1tQ",
    "refers to data    ": STORAGE[:-2] + b"X%stQ",
    "refers to data     ": b"(X\6\0\0\0moduleX%sX\1\0\0\0aX\1\0\0\0btQ",
    "adds to": b"K\1K\2a",
    "adds to ": b"](K\1u",
    "asks for": b"h\x05",
    "a name is not a string": b"K\1K\2\x93",
}


def armed(code, marker):
    command = f"touch {marker}".encode()
    return Raw(code.replace(b"%s", struct.pack("<I", len(command)) + command))


@pytest.mark.parametrize("name", NAMES_CODE)
def test_a_name_outside_the_list_is_refused(file, write, name, tmp_path):
    attack = armed(NAMES_CODE[name], tmp_path / "marker")
    for root in (attack, {"a": attack}, {"a": np.ones(2, np.float32), "b": [(attack,)]}):
        message = refused(file, write(root))
        assert f"names {name}, which no checkpoint needs" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("why", OTHERS)
def test_other_tricks_are_refused(file, write, why, tmp_path):
    attack = armed(OTHERS[why], tmp_path / "marker")
    for root in (attack, {"a": attack}):
        refused(file, write(root), why.strip())
    assert not list(tmp_path.iterdir())


def test_an_allowed_call_with_a_hostile_argument(file, write, tmp_path):
    for call in (b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cbuiltins\nset\n"):
        inside = armed(call + b"(" + NAMES_CODE["os.system"] + b"tR", tmp_path / "marker")
        refused(file, write({"a": inside}), "names os.system")
        file.write_bytes(write({"a": armed(call + b"(X%sX%stR", tmp_path / "marker")}))
        assert read_all(file) == {}  # inert
    assert not list(tmp_path.iterdir())


def test_names_are_printed_harmlessly(file, write):
    message = refused(file, write({"a": Raw(b"X\1\0\0\0aX\4\0\0\0\x1b[2J\x93")}))
    assert message.isprintable() and "x1b[2J" in message


FLOATS = np.ones(4, np.float32)
HUGE = {
    "elements": {"x": View(FLOATS, (10**12,), (1,))},
    "an expanded view": {"x": View(FLOATS, (10**6, 10**6), (0, 0))},
    "a product past 64 bits": {"x": View(FLOATS, (2**61, 2**61, 8), (0, 0, 0))},
    "nothing, very wide": {"x": View(FLOATS, (0, 2**61), (0, 0))},
    "an offset": {"x": View(FLOATS, (1,), (1,), 2**61)},
    "a stride": {"x": View(FLOATS, (2,), (2**61,))},
    "dimensions": {"x": View(FLOATS, (1,) * 40, (1,) * 40)},
    "a number": {"x": View(FLOATS, (1 << 2000,), (1,))},
    "a storage": {
        "x": Raw(
            TENSOR
            + b"("
            + STORAGE.replace(b"K\4tQ", b"\x8a\6\0\0\0\0\0\1tQ")
            + b"K\0\x8a\6\0\0\0\0\0\1\x85K\1\x85tR"
        ),
        "y": FLOATS,
    },
    "text": {"x": Raw(b"\x8d" + struct.pack("<Q", 1 << 40) + b"abc")},
    "short text": {"x": Raw(b"X\xff\xff\xff\x7fabc")},
    "bytes": {"x": Raw(b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc")},
    "a byte array": {"x": Raw(b"\x96" + struct.pack("<Q", 1 << 40) + b"abc")},
    "a long": {"x": Raw(b"\x8b\xff\xff\xff\x7fabc")},
    "a long text": {"x": Raw(b"I" + b"9" * 100_000 + b"\n")},
    "a place in the memo": {"x": Raw(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff")},
}


@pytest.mark.parametrize("what", HUGE)
def test_huge_declarations_take_nothing(file, write, what):
    file.write_bytes(write(HUGE[what]))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"w\.pt"):
            read_all(file)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def collide(i):
    number = (i * (2**61 - 1)).to_bytes(12, "little")
    return b"\x8a" + bytes([len(number)]) + number + b"N"


SLOW = {
    "nested lists": b"]" * 200_000 + b"a" * 199_999,
    "nested tuples": b")" + b"\x85" * 200_000,
    "nested marks": b"(" * 200_000 + b"t" * 200_000,
    "a list inside itself": b"]q\0h\0ah\0h\0\x86",
    "keys that double": b"})" + b"2\x86" * 200 + b"Ns",
    "numbers of one hash": b"}(" + b"".join(map(collide, range(30_000))) + b"u",
    "long keys": b"}q\0"
    + text(b"k" * 10**7)
    + b"q\1"
    + text(b"k" * 10**7)
    + b"q\2"
    + b"00h\0("
    + b"h\1Nh\2N" * 20_000
    + b"u",
    "a long list, often": b"]("
    + b"N" * 100_000
    + b"eq\0ccollections\nOrderedDict\nq\1"
    + b"h\1h\0\x85R0" * 40_000,
    "more than enough": b"N0" * 600_000 + b"N",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", SLOW)
def test_nothing_takes_for_ever(file, write, what):
    file.write_bytes(write({"a": Raw(SLOW[what]), "b": np.ones(2, np.float32)}))
    try:
        assert set(read_all(file)) == {"b"}
    except ModelError as e:
        assert "w.pt" in e.message


# fuzz


@pytest.mark.parametrize("form", WRITERS)
def test_truncation_at_every_byte(file, form):
    whole = WRITERS[form](ROOT)
    for length in range(len(whole)):
        refused(file, whole[:length])


@settings(max_examples=400)
@given(st.data())
@pytest.mark.parametrize("form", WRITERS)
def test_flipped_bytes_are_errors_or_harmless(file, form, data):
    whole = WRITERS[form]({"module": ROOT, "s": Raw(b"cbuiltins\nset\n](K\1e\x85R")})
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(broken)
    try:
        arrays = read_all(file, "module")
    except ModelError as e:
        assert "w.pt" in e.message
        return
    assert all(a.nbytes <= len(whole) for a in arrays.values())


PIECES = [
    *(bytes([code]) for code in b"()]}tuasebR012.Nl\x85\x86\x87\x88\x8f\x90\x91\x93\x94Q"),
    *(b"K\0", b"K\2", b"q\0", b"q\1", b"h\0", b"h\1", b"X\1\0\0\0x", b"I7\n", b"U\1y"),
    *(STORAGE, TENSOR, TENSOR + b"(" + STORAGE + b"K\0K\2\x85K\1\x85\x89NtR"),
    *(b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n", b"cnumpy\ndtype\n"),
    b"c_codecs\nencode\n",
]


@settings(max_examples=600)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(sorted(WRITERS)))
def test_any_instructions(file, pieces, form):
    root = {"y": np.ones(4, np.float32), "x": Raw(b"".join(pieces))}
    file.write_bytes(WRITERS[form](root))
    try:
        arrays = read_all(file)
    except ModelError as e:
        assert "w.pt" in e.message
        return
    assert all(a.nbytes <= 16 for a in arrays.values())
