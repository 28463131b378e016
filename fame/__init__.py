"""FAME: pretrain video encoders that look at motion and not at the background (CVPR 2022)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fame.weights import Encoder, load

__all__ = ["Encoder", "load"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for, so that ``import fame`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fame import weights

    return getattr(weights, name)
