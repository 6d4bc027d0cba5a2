"""torchvision.models: random checkpoints of real shapes under the file names that each `weights=` looks for.

All weights of a listed model are planted, also those that serve as backbones (`weights=None, weights_backbone=…`).
"""
from __future__ import annotations

from pathlib import Path, PurePosixPath
from unittest import mock
from urllib.parse import urlsplit

import torch
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights

from tests.offline.checkpoints import random_like

CHECKPOINTS = "torch/hub/checkpoints"
MODELS = (
    "resnet18", "resnet34", "resnet50", "vgg11", "vgg16", "mobilenet_v3_small", "mobilenet_v3_large",
    "vit_b_16",
    "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50",
)


def file_name(weights: WeightsEnum) -> str:
    """The file in the checkpoint folder that torchvision takes these weights from."""
    return PurePosixPath(urlsplit(weights.url).path).name


def empty(model: str, weights: WeightsEnum) -> torch.nn.Module:
    """The network that `model` fills from `weights`, on the meta device: its own builder makes it."""
    filled = []

    def load_state_dict(module, *args, **kwargs):
        filled.append(module)

    with torch.device("meta"), mock.patch.object(WeightsEnum, "get_state_dict", lambda *args, **kwargs: {}), \
            mock.patch.object(torch.nn.Module, "load_state_dict", load_state_dict):
        get_model_builder(model)(weights=weights)
    return filled[-1]


def detector(name: str) -> float | None:
    """Constants that make an R-CNN answer with boxes: its anchors as they are, and class 1 whatever the picture."""
    blind = ("rpn.head.bbox_pred.weight", ".cls_score.weight", ".box_predictor.bbox_pred.weight", "_logits.weight")
    return 0.0 if name.endswith(blind) and "rpn.head.cls_logits" not in name else None


def checkpoint(model: str, weights: WeightsEnum) -> dict[str, torch.Tensor]:
    """A small random checkpoint for these weights; a detector's finds boxes."""
    state = random_like(empty(model, weights).state_dict(), detector)
    bias = state.get("roi_heads.box_predictor.cls_score.bias")
    if bias is not None:
        state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(bias.shape).index_fill_(0, torch.tensor(1), 6.0)
    return state


def build(root: Path) -> None:
    """Plant every weights entry of every model of MODELS."""
    folder = root / CHECKPOINTS
    folder.mkdir(parents=True)
    for model in MODELS:
        for weights in get_model_weights(model):
            torch.save(checkpoint(model, weights), folder / file_name(weights))
