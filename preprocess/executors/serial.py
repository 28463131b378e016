"""The reference executor: one shard after the other, in this process."""

from collections.abc import Iterable, Iterator

from preprocess.task import ShardResult, ShardTask, Work, make_shard


def execute(work: Work, tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
    """Make every shard in order, yielding each result as it comes."""
    with work.open_decoder() as decoder:
        for task in tasks:
            yield make_shard(work, task, decoder)
