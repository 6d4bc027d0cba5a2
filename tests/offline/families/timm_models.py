"""timm: random checkpoints of real shapes as the hub repositories that `create_model(name, pretrained=True)` reads."""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch

from tests.offline.checkpoints import random_like
from tests.offline.hub import Repository, home, plant, planted

SERVES = ("timm",)


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


def classifier(size: int) -> Callable[[str, str | None], None]:
    """How a classifier is used: a new head loads, and a picture of this size gives 1,000 logits."""
    def use(model: str, revision: str | None) -> None:
        with torch.device("meta"):
            timm.create_model(model, pretrained=True, num_classes=5)
        with torch.inference_mode():
            logits = timm.create_model(model, pretrained=True).eval()(torch.rand(1, 3, size, size))
        assert logits.shape == (1, 1000) and logits.isfinite().all()
    return use


def model_of(name: str, size: int, licence: str | None = "apache-2.0") -> Repository:
    """An entry of the registry: the main branch of the repository that timm names."""
    return Repository(None, partial(fill, name), classifier(size), licence, ("config.json", "pytorch_model.bin"),
                      config={
        "config.json": {"architecture": name.partition(".")[0], "num_classes": 1000}})


ENTRIES = {
    "resnet18.a1_in1k": model_of("resnet18.a1_in1k", 64),
    "resnet50.a1_in1k": model_of("resnet50.a1_in1k", 64),
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": model_of("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 224),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": model_of("vit_small_patch16_224.augreg_in21k_ft_in1k", 224),
    "convnext_tiny.fb_in1k": model_of("convnext_tiny.fb_in1k", 64),
    "mobilenetv3_small_100.lamb_in1k": model_of("mobilenetv3_small_100.lamb_in1k", 64),
    "efficientnet_b0.ra_in1k": model_of("efficientnet_b0.ra_in1k", 64),
    "tf_efficientnet_lite0.in1k": model_of("tf_efficientnet_lite0.in1k", 64),
    "vgg16.tv_in1k": model_of("vgg16.tv_in1k", 64, "bsd-3-clause"),
}


def use(name: str) -> None:
    """Load one model inside the world and run it."""
    planted(home(), repository_id(name), ENTRIES[name])
    ENTRIES[name].use(name, None)


def build(root: Path) -> None:
    """Plant every model of ENTRIES; timm asks for the main branch, whatever its commit."""
    for name, repository in ENTRIES.items():
        plant(root, repository_id(name), repository)
