"""Small tensors travel as one copy, and come out as they were."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fame.augment import Crop
from fame.transfer import _like, _padded, send


class Copies(TorchDispatchMode):
    """Count operations that take a tensor of the host to a device without values."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = [value for value in args if isinstance(value, torch.Tensor)]
        self.count += (
            isinstance(made, torch.Tensor)
            and made.is_meta
            and any(value.device.type == "cpu" and value.ndim for value in given)
        )
        return made


CROP = Crop(torch.arange(12.0).view(3, 4), torch.tensor([True, False, True]))
VALUE = (CROP, (torch.tensor([2, 0, 1]), torch.empty(3, 0, 0)), (3, 1))


def test_any_tuple_travels_as_one_copy():
    with Copies() as copies:
        there = send(VALUE, torch.device("meta"))
    assert copies.count == 1
    assert isinstance(there[0], Crop)
    assert there[0].box_B4.shape == (3, 4)
    assert (there[0].flip_B.dtype, there[1][0].dtype) == (torch.bool, torch.int64)
    assert there[1][1].shape == (3, 0, 0)
    assert there[2] == (3, 1)
    assert all(part.is_meta for part in (*there[0], *there[1]))


def test_bytes_are_the_tensors_again():
    for tensor in (*CROP, *VALUE[1], torch.tensor(7)):
        packed = _padded(tensor.contiguous().flatten().view(torch.uint8))
        assert len(packed) % 8 == 0
        assert torch.equal(_like(tensor, packed), tensor)


def test_on_the_cpu_nothing_moves():
    assert send(VALUE, torch.device("cpu")) is VALUE
