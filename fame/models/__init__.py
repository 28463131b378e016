"""Video encoders: backbones, heads and the registry that builds them by name."""

from fame.models.backbone import Backbone, set_activation_checkpointing
from fame.models.foreign import build_foreign, is_foreign
from fame.models.norm import GroupedBatchNorm3d, set_norm_group
from fame.models.registry import BACKBONES, build_backbone, build_encoder

__all__ = [
    "BACKBONES",
    "Backbone",
    "GroupedBatchNorm3d",
    "build_backbone",
    "build_encoder",
    "build_foreign",
    "is_foreign",
    "set_activation_checkpointing",
    "set_norm_group",
]
