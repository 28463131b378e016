"""Addressable random numbers: every draw is a pure function of where it is used, never of what ran
before.

A generator made from (seed, epoch, index, purpose) gives the same numbers in every process, for any
number of loader workers and after any resume, so nothing about randomness has to be saved in a
checkpoint.
"""

import hashlib

import numpy as np
import torch

_WORD_BITS = 64


def _address(seed: int, epoch: int, index: int, purpose: str) -> int:
    """Hash an address to 64 bits; the decimal fields are delimited, so no two addresses spell the
    same text.
    """
    text = f"{int(seed)}/{int(epoch)}/{int(index)}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=_WORD_BITS // 8).digest(), "little")


def generator(seed: int, epoch: int, index: int, purpose: str) -> torch.Generator:
    """Return a CPU torch generator for one purpose (e.g. ``"crop"``) of one sample or step of one
    epoch.
    """
    return torch.Generator().manual_seed(_address(seed, epoch, index, purpose))


def numpy_generator(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """Return the NumPy counterpart of :func:`generator`, for code that must not touch torch
    (loader, planner).
    """
    return np.random.Generator(np.random.Philox(_address(seed, epoch, index, purpose)))
