"""Clips of one or several stores as a PyTorch dataset, for anyone's loop and for our own training.

Which clips an epoch shows is a function of (seed, epoch) alone, whatever the workers and processes.

Shapes: C = 3 RGB channels, T frames of a clip, H W height/width, h w size of a foreground map, S
samples (videos that can be shown), N samples of an epoch.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fame.clipstore import ClipStore, StorePath, Window
from fame.randomness import numpy_generator

Address = tuple[int, int]  # epoch, position in the epoch's order
Sample = dict[str, Any]
Mixture = tuple[tuple[int, int], ...]  # of each store: its videos, how many an epoch shows

_AXES = {"CTHW": (3, 0, 1, 2), "TCHW": (0, 3, 1, 2), "THWC": (0, 1, 2, 3)}


class ClipDataset(Dataset[Any]):
    """Clips of the videos of one or several stores, drawn again in each epoch.

    An item is a dictionary: ``clip`` (uint8 ``[3, T, H, W]``), ``label`` (number of its class in
    ``class_names``, -1 unknown), ``name`` (of the video), ``sample`` (a number of its own within
    the epoch), and ``map`` (uint8 ``[h, w]`` or ``[T, h, w]``, higher where foreground is likelier)
    if maps are read.

    Args:
        stores: a store or several, opened or by their paths; an epoch shows every video once.
        window: which frames are a clip, for instance ``fame.Window(frames=16, step=2)``.
        clips: clips of each video. With 2 or more, ``clip`` and ``map`` have them as first axis.
        evenly: spread the clips evenly over the video, always the same, as for a test. Otherwise
            they start anywhere, drawn independently and again each epoch.
        maps: ``"clip"`` reads one map of each clip, ``"frames"`` one of every frame.
        proportion: shares of the stores in an epoch, relative to each other. An epoch is as long
            as without them: 60 and 40 videos in proportion 1, 3 give 25 videos of the first store
            and 75 of the second, of which 35 are shown a second time, by another clip. Each epoch
            draws other ones.
        transform: a function of the item; what it returns takes the item's place.
        layout: axes of a clip, ``"CTHW"``, ``"TCHW"`` or ``"THWC"``.
        seed: decides every draw.

    Raise ``ValueError`` for stores that do not fit each other or the window, that have no maps
    though maps are read, or no video that can be shown.

    Example:
        >>> dataset = fame.ClipDataset("data/stores/ucf101-train1.zarr", maps="clip")
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
        >>> for epoch in range(20):
        ...     dataset.set_epoch(epoch)
        ...     for batch in loader:
        ...         clips = merge(batch["clip"].float() / 255, batch["map"])
    """

    def __init__(
        self,
        stores: StorePath | ClipStore | Sequence[StorePath | ClipStore],
        *,
        window: Window | None = None,
        clips: int = 1,
        evenly: bool = False,
        maps: str = "none",
        proportion: Sequence[float] | None = None,
        transform: Callable[[Sample], Any] | None = None,
        layout: str = "CTHW",
        seed: int = 0,
    ) -> None:
        if layout not in _AXES:
            raise ValueError(f"layout must be CTHW, TCHW or THWC, got {layout!r}")
        if maps not in ("none", "clip", "frames"):
            raise ValueError(f"maps must be none, clip or frames, got {maps!r}")
        if clips < 1:
            raise ValueError(f"clips must be at least 1, got {clips}")
        several = [stores] if isinstance(stores, str | Path | ClipStore) else stores
        self.stores = [s if isinstance(s, ClipStore) else ClipStore.open(s) for s in several]
        self.window = window or Window()
        _check_stores(self.stores, self.window, maps=maps)
        self.clips, self.evenly, self.maps, self.seed = clips, evenly, maps, seed
        self.transform, self.layout, self.epoch = transform, layout, 0
        shown = [np.flatnonzero(store.valid_V) for store in self.stores]
        if not sum(map(len, shown)):
            named = ", ".join(str(store.path) for store in self.stores)
            raise ValueError(f"{named}: no video could be decoded, nothing to train on")
        # Stores with 2 and 3 videos give 0 0 1 1 1.
        number_S = np.repeat(np.arange(len(shown)), [len(videos) for videos in shown])
        self.video_S2 = np.stack([number_S, np.concatenate(shown)], axis=1)
        self.class_names, self.label_S = _labels(self.stores, self.video_S2)
        paths = [str(store.path) for store in self.stores]
        self.mixture = _mixture([len(videos) for videos in shown], proportion, paths)

    def __len__(self) -> int:
        return len(self.video_S2)

    def __getitem__(self, index: int | Address) -> Any:
        """Return an item of the epoch that was set, or of an address (epoch, position in that
        epoch's shuffled order), which a sampler may give.
        """
        if isinstance(index, tuple):
            epoch, position = index
            return self._item(epoch, int(self.order(epoch)[position]))
        return self._item(self.epoch, int(_samples(self.seed, self.epoch, self._counts)[index]))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch from which clips are drawn. Workers that persist keep the old one."""
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch [N] in shuffled order.

        Sample s < S is the video ``video_S2[s]``; s + S, s + 2 S are the same one, shown again in
        the epoch by other clips.
        """
        return _order(self.seed, epoch, self._counts)

    def starts_of(self, epoch: int, sample: int) -> tuple[int, ...]:
        """Return the starts of the clips of a sample in an epoch."""
        number, video = self.video_S2[sample % len(self)].tolist()
        store = self.stores[number]
        if self.evenly:
            return store.spread(video, self.window, self.clips)
        start_S = store.starts(video, self.window)
        drawn = numpy_generator(self.seed, epoch, sample, "clips").integers(
            len(start_S), size=self.clips
        )
        return tuple(start_S[drawn].tolist())

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the clips of a sample, [clips, T, H, W, 3], and of their maps."""
        spec = self.stores[0].spec
        size = (spec.foreground_height, spec.foreground_width)
        frames = (self.window.frames,) if self.maps == "frames" else ()
        maps = (self.clips, *frames, *size) if self.maps != "none" else (self.clips, 0, 0)
        return (self.clips, self.window.frames, spec.height, spec.width, 3), maps

    def read(self, epoch: int, sample: int, clips: np.ndarray, maps: np.ndarray) -> None:
        """Decode a sample into arrays of :meth:`shapes`. Raise :class:`CorruptChunk`."""
        number, video = self.video_S2[sample % len(self)].tolist()
        store = self.stores[number]
        for row, start in enumerate(self.starts_of(epoch, sample)):
            store.clip(video, start, self.window, out=clips[row])
        self.read_maps(epoch, sample, maps)

    def read_maps(self, epoch: int, sample: int, maps: np.ndarray) -> None:
        """Read the maps of a sample into an array of :meth:`shapes`, where maps are read at all.
        Raise as :meth:`read`.
        """
        if self.maps == "none":
            return
        number, video = self.video_S2[sample % len(self)].tolist()
        store = self.stores[number]
        read = store.maps if self.maps == "frames" else store.foreground
        for row, start in enumerate(self.starts_of(epoch, sample)):
            maps[row] = read(video, start, self.window)

    @property
    def _counts(self) -> Mixture:
        return self.mixture or ((len(self), len(self)),)

    def _item(self, epoch: int, sample: int) -> Any:
        clip_shape, map_shape = self.shapes()
        clips, maps = np.empty(clip_shape, np.uint8), np.empty(map_shape, np.uint8)
        self.read(epoch, sample, clips, maps)
        number, video = self.video_S2[sample % len(self)].tolist()
        # The axis of clips comes first: CTHW of [clips, T, H, W, 3] are the axes 0 4 1 2 3.
        clip = torch.from_numpy(clips).permute(0, *(axis + 1 for axis in _AXES[self.layout]))
        several = self.clips > 1
        item: Sample = {
            "clip": (clip if several else clip[0]).contiguous(),
            "label": int(self.label_S[sample % len(self)]),
            "name": self.stores[number].names[video],
            "sample": sample,
        }
        if self.maps != "none":
            item["map"] = torch.from_numpy(maps if several else maps[0])
        return self.transform(item) if self.transform else item


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, counts: Mixture) -> np.ndarray:
    sample_N = _samples(seed, epoch, counts)
    return sample_N[numpy_generator(seed, epoch, 0, "order").permutation(len(sample_N))]


@lru_cache(maxsize=2)
def _samples(seed: int, epoch: int, counts: Mixture) -> np.ndarray:
    """Return the samples of an epoch [N], store by store.

    Stores of 3 and 2 videos of which 1 and 4 are shown: for example 2 (drawn of 0, 1, 2), then 3
    and 4, then 8 and 9, which are 3 and 4 again (S = 5).
    """
    total, first = sum(size for size, _ in counts), 0
    parts: list[np.ndarray] = []
    for number, (size, count) in enumerate(counts):
        # 7 samples of a store of 3 videos: all of them twice, and one drawn a third time.
        again, rest = divmod(count, size)
        parts += [first + total * time + np.arange(size) for time in range(again)]
        if rest:
            drawn = numpy_generator(seed, epoch, number, "mixture").permutation(size)[:rest]
            parts.append(first + total * again + np.sort(drawn))
        first += size
    return np.concatenate(parts)


def _mixture(
    size_N: list[int], proportion: Sequence[float] | None, paths: Sequence[str]
) -> Mixture | None:
    """Return how many samples of each store an epoch shows; the shares left by rounding down go
    to those that lost most.
    """
    if proportion is None:
        return None
    if len(proportion) != len(paths):
        raise ValueError(f"proportion has {len(proportion)} numbers for {len(paths)} stores")
    share_N = np.asarray(proportion, np.float64)
    if not (np.isfinite(share_N).all() and (share_N > 0).all()):
        raise ValueError(f"proportion must be numbers above 0, got {list(proportion)}")
    wanted_N = share_N / share_N.sum() * sum(size_N)
    count_N = np.floor(wanted_N).astype(np.int64)
    # Three equal shares of 100 are 33.3 each: 33, and the one that is left goes to the first store.
    most_lost = np.argsort(count_N - wanted_N, kind="stable")
    count_N[most_lost[: sum(size_N) - int(count_N.sum())]] += 1
    for path, size, count in zip(paths, size_N, count_N.tolist(), strict=True):
        if not size:
            raise ValueError(f"{path}: no video could be decoded, nothing to mix in")
        if not count:
            raise ValueError(f"{path}: its proportion is less than one video of an epoch")
    return tuple(zip(size_N, count_N.tolist(), strict=True))


def _labels(stores: Sequence[ClipStore], video_S2: np.ndarray) -> tuple[tuple[str, ...], Tensor]:
    """Return the classes of all stores, each name once, and the class [S] of every sample."""
    names = dict.fromkeys(name for store in stores for name in store.header.class_names)
    number_of: Mapping[str, int] = {name: number for number, name in enumerate(names)}
    label_S = np.full(len(video_S2), -1, np.int64)
    for number, store in enumerate(stores):
        class_K = np.array([*(number_of[name] for name in store.header.class_names), -1])
        mine = video_S2[:, 0] == number
        label_S[mine] = class_K[store.labels_V[video_S2[mine, 1]]]  # -1 is the last
    return tuple(names), torch.from_numpy(label_S)


def _check_stores(stores: Sequence[ClipStore], window: Window, *, maps: str) -> None:
    if not stores:
        raise ValueError("no store was given to train on")
    shape = ("kept", "height", "width")
    shape += ("foreground_height", "foreground_width") if maps != "none" else ()
    first = stores[0]
    for store in stores:
        store.check(window)
        if maps != "none" and store.spec.foreground == "none":
            raise ValueError(
                f"{store.path}: the store has no foreground maps; use mask=online, or "
                "make it with maps"
            )
        for name in shape:
            mine, other = getattr(first.spec, name), getattr(store.spec, name)
            if mine != other:
                raise ValueError(
                    f"{store.path}: {name} is {other}, but {mine} in {first.path}: they do not mix"
                )
