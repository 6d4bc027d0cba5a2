"""timm: random checkpoints of real shapes as the hub repositories that `create_model(name, pretrained=True)` reads."""
from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import timm
import torch

from tests.offline.checkpoints import random_like
from tests.offline.hub import Repository, plant

MODELS = ("resnet18.a1_in1k", "resnet50.a1_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
          "vit_small_patch16_224.augreg_in21k_ft_in1k", "convnext_tiny.fb_in1k")


def repository_id(model: str) -> str:
    """The hub repository of a timm model."""
    repo_id = timm.models.get_pretrained_cfg(model).hf_hub_id
    return repo_id + model if repo_id.endswith("/") else repo_id


def fill(model: str, folder: Path) -> None:
    """The checkpoint and the configuration of one model."""
    config = timm.models.get_pretrained_cfg(model)
    with torch.device("meta"):
        network = timm.create_model(model, pretrained=False)
    torch.save(random_like(network.state_dict()), folder / "pytorch_model.bin")
    kept = {name: value for name, value in config.to_dict().items() if isinstance(value, (int, float, str, list,
                                                                                          tuple))}
    (folder / "config.json").write_text(json.dumps(
        {"architecture": config.architecture, "num_classes": config.num_classes, "pretrained_cfg": kept}))


def build(root: Path) -> None:
    """Plant every model of MODELS."""
    for model in MODELS:
        revision = hashlib.sha1(model.encode()).hexdigest()  # timm asks for the main branch, whatever its commit
        plant(root, repository_id(model), Repository(revision, partial(fill, model)))
