"""torchvision.models: random checkpoints of real shapes under the file names that each `weights=` looks for.

All weights of a listed model are planted, also those that serve as backbones (`weights=None, weights_backbone=…`).
"""
from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from unittest import mock
from urllib.parse import urlsplit

import torch
from torchvision.models import WeightsEnum, get_model, get_model_builder, get_model_weights

from tests.offline.checkpoints import random_like
from tests.offline.downloads import Size

SERVES = ("torchvision.models", "torchmetrics.image")
CHECKPOINTS = "torch/hub/checkpoints"


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


# --- use --------------------------------------------------------------------------------------------------------------

def on_meta(model: str, **arguments) -> None:
    """Load a network as strictly as ever about names and shapes, without the time of filling it."""
    with torch.device("meta"):
        get_model(model, **arguments)


def ready(model: str, **arguments) -> torch.nn.Module:
    """The network with its default weights, for evaluation."""
    torch.manual_seed(0)
    return get_model(model, weights="DEFAULT", **arguments).eval()


def classifier(model: str) -> None:
    """1,000 logits that tell pictures apart."""
    weights = get_model_weights(model).DEFAULT
    pictures = torch.rand(4, 3, 96, 96) * torch.tensor([1, 1, 0.3, 0.3]).reshape(4, 1, 1, 1)
    with torch.inference_mode():
        logits = ready(model)(weights.transforms()(pictures) if model.startswith("vit") else pictures - 0.45)
    assert logits.shape == (4, len(weights.meta["categories"])) and logits.isfinite().all()
    assert torch.linalg.matrix_rank(logits - logits.mean(0)) == 3 and 1e-6 < logits.std(0).mean() < 100


def resnet(model: str) -> None:
    """A classifier whose features differ from picture to picture, too."""
    classifier(model)
    network, weights = ready(model), get_model_weights(model).DEFAULT
    network.fc = torch.nn.Identity()
    pictures = weights.transforms()(torch.randint(0, 256, (8, 3, 80, 80), dtype=torch.uint8).float().div(255))
    pictures[4:] *= 0.3
    with torch.inference_mode():
        features = network(pictures)
    assert features.isfinite().all() and torch.linalg.matrix_rank(features) == 8
    assert 0.05 < features.std() < 50 and features.std(0).mean() > 0.01, (features.std(), features.std(0).mean())


def rcnn(model: str) -> None:
    """Boxes of class 1 whatever the picture, with masks or joints where the network has them."""
    with torch.inference_mode():
        answer = ready(model, min_size=96)([torch.rand(3, 96, 128)])[0]
    count = len(answer["boxes"])
    assert count > 0 and answer["scores"].min() > 0.5 and answer["labels"].unique().tolist() == [1]
    assert answer["boxes"].isfinite().all()
    if "mask" in model:
        assert answer["masks"].shape == (count, 1, 96, 128)
    if "keypoint" in model:
        assert answer["keypoints"].shape == (count, 17, 3)
    on_meta(model, weights=None, num_classes=3)  # on its backbone's weights


def dense_detector(model: str, **arguments) -> None:
    """Boxes of some of COCO's 91 classes."""
    with torch.inference_mode():
        answer = ready(model, score_thresh=0.0, **arguments)([torch.rand(3, 96, 128)])[0]
    assert len(answer["boxes"]) and answer["boxes"].isfinite().all() and 0 <= answer["labels"].min() < 91
    on_meta(model, weights=None, num_classes=3)


def segmenter(model: str) -> None:
    """A map of 21 classes."""
    with torch.inference_mode():
        answer = ready(model)(torch.rand(1, 3, 64, 64))["out"]
    assert answer.shape == (1, 21, 64, 64) and answer.isfinite().all()
    on_meta(model, weights=None, num_classes=3)


def video(model: str) -> None:
    """400 logits of a clip (batch, channels, time, height, width)."""
    clip = torch.rand(1, 3, 16, *((224, 224) if model.startswith(("mvit", "s3d")) else (64, 64)))
    with torch.inference_mode():
        assert ready(model)(clip).shape == (1, 400)


ENTRIES: dict[str, Callable[[str], None]] = {
    "resnet18": resnet, "resnet34": resnet, "resnet50": resnet,
    "vgg11": classifier, "vgg13": classifier, "vgg16": classifier, "vgg19": classifier, "vgg16_bn": classifier,
    "mobilenet_v3_small": classifier, "mobilenet_v3_large": classifier, "efficientnet_b0": classifier,
    "convnext_tiny": classifier, "squeezenet1_1": classifier, "alexnet": classifier, "vit_b_16": classifier,
    "fasterrcnn_resnet50_fpn": rcnn, "fasterrcnn_resnet50_fpn_v2": rcnn,
    "fasterrcnn_mobilenet_v3_large_320_fpn": rcnn, "maskrcnn_resnet50_fpn": rcnn, "maskrcnn_resnet50_fpn_v2": rcnn,
    "keypointrcnn_resnet50_fpn": rcnn,
    "ssd300_vgg16": dense_detector, "ssdlite320_mobilenet_v3_large": dense_detector,
    "retinanet_resnet50_fpn_v2": functools.partial(dense_detector, min_size=96),
    "fcos_resnet50_fpn": functools.partial(dense_detector, min_size=96),
    "deeplabv3_resnet50": segmenter, "fcn_resnet50": segmenter, "lraspp_mobilenet_v3_large": segmenter,
    "r3d_18": video, "s3d": video, "mvit_v2_s": video,
}


def urls(name: str) -> dict[str, Size | None]:
    """Where the weights of a model come from, and their size, which torchvision tells in MiB with three decimals."""
    return {weights.url: Size(round(weights.meta["_file_size"] * 2**20), 600) for weights in get_model_weights(name)}


def use(name: str) -> None:
    """Load all weights of a model inside the world, and run the default ones."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for weights in get_model_weights(name):
        assert os.path.getsize(folder / file_name(weights)) < 3.6e6, weights
        on_meta(name, weights=weights)
    ENTRIES[name](name)


def build(root: Path) -> None:
    """Plant every weights entry of every model of ENTRIES."""
    folder = root / CHECKPOINTS
    folder.mkdir(parents=True)
    for model in ENTRIES:
        for weights in get_model_weights(model):
            torch.save(checkpoint(model, weights), folder / file_name(weights))
