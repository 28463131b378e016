"""FAME: pretrain video encoders that look at motion and not at the background (CVPR 2022).

What other programs use is named here and imported when it is first asked for, so that
``import fame`` loads neither torch nor anything else that is heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fame.clipstore import ClipStore, Window
    from fame.dataset import ClipDataset
    from fame.flow import flow_score as flow_map
    from fame.foreground import motion_score, paper_score, top_fraction
    from fame.merging import derangement, merge
    from fame.transform import Merge
    from fame.weights import Encoder, load

    __version__: str

_HOME = {
    "ClipDataset": "fame.dataset:ClipDataset",
    "ClipStore": "fame.clipstore:ClipStore",
    "Encoder": "fame.weights:Encoder",
    "Merge": "fame.transform:Merge",
    "Window": "fame.clipstore:Window",
    "derangement": "fame.merging:derangement",
    "flow_map": "fame.flow:flow_score",
    "load": "fame.weights:load",
    "merge": "fame.merging:merge",
    "motion_score": "fame.foreground:motion_score",
    "paper_score": "fame.foreground:paper_score",
    "top_fraction": "fame.foreground:top_fraction",
}

__all__ = [
    "ClipDataset",
    "ClipStore",
    "Encoder",
    "Merge",
    "Window",
    "derangement",
    "flow_map",
    "load",
    "merge",
    "motion_score",
    "paper_score",
    "top_fraction",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fame-video")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """Return the public names, which TAB completes."""
    return sorted([*_HOME, "__version__", "__doc__"])
