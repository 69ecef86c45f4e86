"""A file is read as what its content is, and one that is not read is called by its name."""

import numpy as np
import pytest
from torch_writer import zip_file

from gentool import checkpoints
from gentool.errors import ModelError


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "Git LFS"),
        (b"GGUF\3\0\0\0", "GGUF"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_not_read_is_named(tmp_path, content, named, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=named):
        checkpoints.open_checkpoint(tmp_path / name)


def test_a_torch_file_under_another_name(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(zip_file({"a": np.ones(2, np.float32)}))
    assert checkpoints.open_checkpoint(path).shapes == {"a": (2,)}


@pytest.mark.parametrize("key", ["module", "model", "state_dict"])
def test_weights_under_the_key_of_a_trainer(tmp_path, key):
    path = tmp_path / "w.bin"
    path.write_bytes(zip_file({key: {"a": np.ones(2, np.float32)}, "step": 5}))
    assert checkpoints.open_checkpoint(path).shapes == {"a": (2,)}


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_header_as_long_as_the_first_bytes_of_a_pickle(tmp_path, name):
    """The length of a header of 640 bytes, 80 02, is what a pickle of protocol 2 begins with."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(0x280)
    data = np.ones(2, np.float32).tobytes()
    (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert checkpoints.open_checkpoint(tmp_path / name).shapes == {"a": (2,)}
