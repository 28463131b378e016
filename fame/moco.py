"""Momentum contrast: two encoders, a queue of keys, and the symmetric step, free of process groups.

Shapes: B clips of this process, G clips of all processes, C channels, T frames, H W height/width, D
feature dim, K queue length.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from fame.contrast import feature_spread, info_nce
from fame.models.norm import in_passes, only_grouped
from fame.randomness import generator
from fame.transfer import send

Enqueue = Literal["between", "after"]
Clips = Float[Tensor, "b c t h w"]
NOBODY = -1  # the owner of a key whose video was not given


@runtime_checkable
class Collectives(Protocol):
    """The exchange between processes that the step needs. Rows of process r are rows r*B..(r+1)*B
    of the whole batch.
    """

    rank: int
    world: int

    def gather(self, row_B: Tensor) -> Tensor:
        """Return the rows of all processes, in order of rank."""
        ...

    def exchange(self, row_B: Tensor, wanted_G: Tensor) -> Tensor:
        """Return this process's share of the rows ``wanted_G`` of the whole batch; all processes
        pass the same ``wanted_G``.
        """
        ...


class SingleProcess:
    """The collectives of one process."""

    rank = 0
    world = 1

    def gather(self, row_B: Tensor) -> Tensor:
        """Return the rows themselves."""
        return row_B

    def exchange(self, row_B: Tensor, wanted_G: Tensor) -> Tensor:
        """Return the wanted rows."""
        return row_B[send(wanted_G, row_B.device)]


class StepResult(NamedTuple):
    """Means over the clips of this process: loss, share of queries that found their key, and signs
    of collapse.

    ``batch_loss`` is the loss among the keys of the clips at hand. They are all of one age, so it
    can be compared along a run. The loss cannot: the keys in the queue are older than a query's own
    key, and the faster the encoder changes, the more easily age alone separates them.
    """

    loss: Float[Tensor, ""]
    batch_loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    feature_norm: Float[Tensor, ""]
    spread: Float[Tensor, ""]


class MoCo(nn.Module):
    """A query encoder, its moving average, and the queue; all of it in the state dict under the
    reference's names.

    ``build`` makes an encoder from clips to [B, D]; the queue begins as random unit vectors drawn
    by ``seed``. With ``bf16`` the encoders run in autocast; unit vectors, products with the queue,
    the loss and the backward never do. With ``one_forward`` an encoder sees both views at once,
    which gives the same by half as many kernels; one with batch norms other than ours never does.
    ``queue_sample`` holds the number of the video of each key in the queue, or NOBODY.
    """

    queue: Tensor
    queue_ptr: Tensor
    queue_sample: Tensor

    def __init__(
        self,
        build: Callable[[], nn.Module],
        *,
        dim: int,
        queue: int,
        temperature: float,
        seed: int = 0,
        bf16: bool = False,
        one_forward: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.bf16 = temperature, bf16
        self.encoder_q, self.encoder_k = build(), build()
        self.one_forward = one_forward and only_grouped(self.encoder_q)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        start_DK = torch.randn(dim, queue, generator=generator(seed, 0, 0, "moco/queue"))
        self.register_buffer("queue", F.normalize(start_DK, dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.register_buffer("queue_sample", torch.full((queue,), NOBODY))

    @torch.no_grad()
    def update_key_encoder_(self, momentum: float) -> None:
        """Move the key encoder's parameters (not its buffers): k <- momentum * k + (1 - momentum) *
        q.
        """
        keys: list[Tensor] = list(self.encoder_k.parameters())
        queries: list[Tensor] = list(self.encoder_q.parameters())
        # One kernel for all parameters; torch's own optimisers and moving averages use it.
        torch._foreach_lerp_(keys, queries, 1 - momentum)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    @torch.no_grad()
    def keys(
        self,
        views: Sequence[Clips],
        shuffles: Sequence[Int64[Tensor, " g"]],
        collectives: Collectives,
    ) -> list[Float[Tensor, "g d"]]:
        """Return unit keys of the whole batch for each view, in the batch's order, from encoders
        that processed it in the order of its shuffle.

        Shuffling keeps a query and its key from sharing batch statistics, which would give the
        answer away.
        """
        shuffled = [
            collectives.exchange(clip_BCTHW, shuffle_G)
            for clip_BCTHW, shuffle_G in zip(views, shuffles, strict=True)
        ]
        keys: list[Tensor] = []
        outputs = self._encoded(self.encoder_k, shuffled)
        for output_BD, shuffle_G in zip(outputs, shuffles, strict=True):
            # Shuffle [2 0 1] makes the keys of clips 2, 0, 1. Its argsort [1 2 0] names the row of
            # each clip's key and so restores the order.
            key_GD = collectives.gather(F.normalize(output_BD, dim=1))
            keys.append(key_GD[send(torch.argsort(shuffle_G), key_GD.device)])
        return keys

    @torch.no_grad()
    def enqueue_(
        self, key_GD: Float[Tensor, "g d"], sample_G: Int64[Tensor, " g"] | None = None
    ) -> None:
        """Replace the oldest keys, and the numbers of their videos where they are given; any number
        of keys, the queue wraps and keeps the last K.
        """
        # With K = 4 and the pointer at 3, keys a b go to slots 3 0, and the pointer to 1. Of six
        # keys a-f the last four stay, c-f in slots 1 2 3 0, and the pointer goes to 1 too.
        length = self.queue.shape[1]
        kept_GD = key_GD[-length:]
        start = self.queue_ptr + (len(key_GD) - len(kept_GD))
        slot_G = (start + torch.arange(len(kept_GD), device=self.queue.device)) % length
        self.queue[:, slot_G] = kept_GD.T
        self.queue_sample[slot_G] = NOBODY if sample_G is None else sample_G[-length:]
        self.queue_ptr.copy_((self.queue_ptr + len(key_GD)) % length)

    def step(
        self,
        view_1: Clips,
        view_2: Clips,
        *,
        shuffles: tuple[Int64[Tensor, " g"], Int64[Tensor, " g"]],
        sample_B: Int64[Tensor, " b"] | None = None,
        enqueue: Enqueue = "after",
        accumulate: int = 1,
        collectives: Collectives | None = None,
    ) -> StepResult:
        """Make one symmetric step: each view queries the other's keys; gradients are accumulated.

        View 1 queries the keys of view 2 and view 2 those of view 1. With ``enqueue="after"`` both
        sets of keys enter the queue when the step is over, view 2's first. With ``"between"`` the
        keys of view 2 enter before view 2 queries, as in the reference: each of these queries then
        has its own view's key among the negatives. ``sample_B`` numbers the videos of the clips: a
        query's negatives are then the keys of other videos; without it the whole queue, as in the
        reference. The caller moves the key encoder before and the query encoder after.
        ``accumulate`` parts give the gradients of one if batch-norm groups do not straddle them.
        """
        peers = collectives or SingleProcess()
        # With 4 clips in each process, rank 1 owns rows 4 to 7 of the whole batch.
        mine = slice(peers.rank * len(view_1), (peers.rank + 1) * len(view_1))
        own = None if sample_B is None else send(sample_B, self.queue.device)
        sample_G = None if own is None else peers.gather(own)
        key_2_GD, key_1_GD = self.keys((view_2, view_1), shuffles[::-1], peers)
        before = after = (self.queue, self.queue_sample)
        if enqueue == "between":
            before = (self.queue.clone(), self.queue_sample.clone())  # changed in place below
            self.enqueue_(key_2_GD, sample_G)
        parts = zip(
            view_1.chunk(accumulate),
            view_2.chunk(accumulate),
            key_1_GD[mine].chunk(accumulate),
            key_2_GD[mine].chunk(accumulate),
            [None] * accumulate if own is None else own.chunk(accumulate),
            strict=True,
        )
        results: list[StepResult] = []
        for part_1, part_2, key_1_BD, key_2_BD, part_own in parts:
            result = self._contrast(
                part_own, (part_1, key_2_BD, *before), (part_2, key_1_BD, *after)
            )
            (result.loss / accumulate).backward()  # the parts add up to the mean's gradients
            results.append(StepResult(*(value.detach() for value in result)))
        if enqueue == "after":
            self.enqueue_(key_2_GD, sample_G)
        self.enqueue_(key_1_GD, sample_G)
        return StepResult(*(torch.stack(values).mean() for values in zip(*results, strict=True)))

    def _encoded(self, encoder: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for each view, of one forward of both where that gives the same."""
        device = views[0].device.type
        with torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext():
            if not self.one_forward:
                return [encoder(clip_BCTHW).to(self.queue.dtype) for clip_BCTHW in views]
            with in_passes(encoder, len(views)):
                output = encoder(torch.cat(list(views)))
        return list(output.to(self.queue.dtype).chunk(len(views)))

    def _contrast(
        self, sample_B: Tensor | None, *directions: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> StepResult:
        """Return the mean over directions, each a (clips, their keys, queue, its keys' owners)."""
        values: list[StepResult] = []
        outputs = self._encoded(self.encoder_q, [clips for clips, *_ in directions])
        for output_BD, (_, key_BD, queue_DK, owner_K) in zip(outputs, directions, strict=True):
            query_BD = F.normalize(output_BD, dim=1)
            # True for keys of the query's own video, which are no negatives.
            own_BK = None if sample_B is None else sample_B[:, None] == owner_K
            contrast = info_nce(
                query_BD, key_BD, queue_DK, temperature=self.temperature, leave_out_BK=own_BK
            )
            # The key of query i is key i: the diagonal holds the positives.
            likeness_BB = query_BD.detach() @ key_BD.T / self.temperature
            itself_B = torch.arange(len(key_BD), device=key_BD.device)
            norm = output_BD.detach().norm(dim=1).mean()
            values.append(
                StepResult(
                    contrast.loss_B.mean(),
                    F.cross_entropy(likeness_BB.float(), itself_B),
                    contrast.correct_B.mean(),
                    norm,
                    feature_spread(query_BD),
                )
            )
        return StepResult(*(torch.stack(value).mean() for value in zip(*values, strict=True)))


def shuffle(
    size: int, *, seed: int, epoch: int, step: int, view: int, shares: int = 1
) -> Int64[Tensor, " g"]:
    """Return the order in which the key encoder gets the clips of a view, a pure function of its
    address.

    With ``shares`` clips stay within their share of the batch, one of so many equal runs of rows.
    """
    draws = generator(seed, epoch, step, f"moco/shuffle/{view}")
    # 6 clips in 2 shares: for instance [1 2 0 | 5 3 4].
    share = size // shares
    orders = [torch.randperm(share, generator=draws) for _ in range(shares)]
    return torch.cat([number * share + order for number, order in enumerate(orders)])
