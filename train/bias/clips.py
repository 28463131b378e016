"""The clips of a store with their parts exchanged: what the bias report shows an encoder.

Shapes: V videos, N clips, P variants, T frames, S crop size.
"""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fame.bias import choose_partners, draw_variants
from fame.clipstore import ClipStore, Window
from fame.foreground import top_fraction
from fame.randomness import generator
from fame.reading import read_text
from fame.words import shown
from train.evaluate.activation import centre_map
from train.evaluate.features import SquareClips, centre_crop, check_labelled


class VariantClips(SquareClips):
    """All variants of each clip that has a foreground, as centre crops: (clip_PTSS3 uint8, video
    number).

    The foreground lies within the top ``beta`` of a clip's stored map, where that is above 0. Clips
    with a map of only zeros cannot be taken apart: they are left out and counted
    (``without_foreground``). Each video borrows from one partner of another class, clip for clip;
    which, and every order of frames, is decided by ``seed``.

    ``video_V`` are the videos that have such clips, ``label_V`` their classes, ``partner_V`` their
    partners as places in ``video_V``. Where ``background_by_video`` is given, a partner has another
    background too. Raise ``ValueError`` for a store without labels or maps, or with too few videos
    or classes.
    """

    def __init__(
        self,
        store: ClipStore,
        *,
        window: Window,
        clips: int,
        crop: int,
        beta: float,
        seed: int,
        background_by_video: Int[Tensor, " videos"] | None = None,
    ) -> None:
        super().__init__(store, window=window, clips=clips, crop=crop)
        check_separable(store)
        self._beta, self._seed = beta, seed
        moving = [place for place in range(len(self)) if self._map(place).any()]
        self.without_foreground = len(self) - len(moving)
        self._clip_N2 = self._clip_N2[moving]
        self.video_V = torch.from_numpy(np.unique(self._clip_N2[:, 0]))
        self.label_V = torch.from_numpy(store.labels_V[self.video_V.numpy()])
        if len(self.video_V) < 3:
            raise ValueError(
                f"{store.path}: only {len(self.video_V)} of its videos show a "
                "foreground; 3 are needed"
            )
        self.partner_V = choose_partners(
            self.label_V,
            seed=seed,
            background_V=None if background_by_video is None else background_by_video[self.video_V],
            names=[store.names[video] for video in self.video_V.tolist()],
        )
        self._places_of: dict[int, list[int]] = {}
        for place, video in enumerate(self._clip_N2[:, 0].tolist()):
            # Clips of videos 4 4 6 give {4: [0, 1], 6: [2]}.
            self._places_of.setdefault(video, []).append(place)
        self._partner_of = dict(
            zip(self.video_V.tolist(), self.video_V[self.partner_V].tolist(), strict=True)
        )

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Decode a clip and the one of its partner. Raise :class:`~fame.clipstore.CorruptChunk` as
        its base does.
        """
        video, start = self._clip_N2[position].tolist()
        # The third clip of a video takes the first clip of a partner that has only two.
        others = self._places_of[self._partner_of[video]]
        other = others[self._places_of[video].index(position) % len(others)]
        drawn = generator(self._seed, start, video, "bias/frames")
        clip_PTSS3 = draw_variants(
            self._square(position),
            self._mask(position),
            self._square(other),
            self._mask(other),
            generator=drawn,
        )
        return clip_PTSS3, video

    def _square(self, position: int) -> Tensor:
        video, start = self._clip_N2[position].tolist()
        clip_THWC = self.store.clip(video, start, self._window)
        return torch.from_numpy(centre_crop(clip_THWC, self.crop))

    def _map(self, position: int) -> Tensor:
        video, start = self._clip_N2[position].tolist()
        map_1hw = torch.from_numpy(self.store.foreground(video, start, self._window))[None]
        return centre_map(
            map_1hw, crop=self.crop, frame=(self.store.spec.height, self.store.spec.width)
        )

    def _mask(self, position: int) -> Bool[Tensor, "s s"]:
        score_1SS = self._map(position)
        # A map with little foreground would fill its share with background pixels of score 0.
        return (top_fraction(score_1SS, self._beta) & (score_1SS > 0))[0]


def check_separable(store: ClipStore) -> None:
    """Raise ``ValueError`` unless clips can be taken apart and swapped: the store has labels of two
    classes or more, and maps.
    """
    check_labelled(store)
    if store.spec.foreground == "none":
        raise ValueError(
            f"{store.path}: was made without foreground maps, which tell a clip's "
            "foreground from its background;"
            " preprocess it with --foreground flow"
        )
    if len(present := np.unique(store.labels_V)) < 2:
        only = store.header.class_names[present[0]]
        raise ValueError(
            f"{store.path}: every video is of class {only!r}; what is swapped comes "
            "from another class"
        )


def read_backgrounds(path: Path, store: ClipStore) -> Int[Tensor, " videos"]:
    """Return the number of the background of each video of the store, read from a CSV file with
    columns ``video`` and ``background``.

    Videos of other splits may be listed too; any text names a background. Raise ``ValueError``
    naming what is missing.
    """
    text = read_text(path, most=1 << 28)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    by_name: dict[str, str] = {}
    try:
        if missing := {"video", "background"} - set(reader.fieldnames or ()):
            raise ValueError(f"has no column {' and no column '.join(sorted(missing))}")
        for row in reader:
            if by_name.setdefault(row["video"], row["background"]) != row["background"]:
                raise ValueError(f"gives another background for {shown(row['video'])} than before")
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}, line {max(1, reader.line_num)}: {error}") from None
    if unknown := [name for name in store.names if not by_name.get(name)]:
        raise ValueError(
            f"{path}: gives no background for {unknown[0]} ({len(unknown)} videos of "
            f"{store.path} in all)"
        )
    _, number_V = np.unique([by_name[name] for name in store.names], return_inverse=True)
    return torch.from_numpy(number_V.astype(np.int64))
