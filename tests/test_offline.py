"""The miniature world: what it holds loads by the library's own call and can be learnt, everything else is refused.

The functions `inside_…` run in a process inside the world, one for each group of libraries, and return facts; the tests
judge the facts.
"""
from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import offline
from tests.offline import archives

ROOT = Path(__file__).resolve().parent.parent
README = "tests/offline/README.md"


# --- running things inside --------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """The environment of a world laid out for this module."""
    return offline.prepare(tmp_path_factory.mktemp("world"))


def python(world: dict[str, str], code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code inside the world, in a folder beside it, with this repository importable."""
    path = os.pathsep.join([world["PYTHONPATH"], str(ROOT)])
    return subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True,
                          encoding="utf-8", cwd=Path(world["MCVP_OFFLINE_LOG"]).parent,
                          env={**os.environ, **world, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **variables})


@pytest.fixture(scope="module")
def facts(world):
    """`facts("name")`: what the function `inside_name` returns when it runs in the world (once)."""
    @functools.cache
    def ask(name: str):
        run = python(world, f"""
            import json
            from tests import test_offline
            print("facts:" + json.dumps(test_offline.inside_{name}()))
        """, MCVP_OFFLINE_LOG=f"{name}.log")
        assert run.returncode == 0, run.stderr[-4000:]
        return json.loads(run.stdout.rpartition("facts:")[2])
    return ask


def outcome(call) -> str:
    """`ok` or the exception of a call, as `Type: message`."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def logged() -> list[str]:
    """What the guard has logged so far in this process's log."""
    log = Path(os.environ["MCVP_OFFLINE_LOG"])
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def misses(calls: dict) -> dict[str, dict]:
    """Of each call, by the name that its refusal must hold: the outcome, and what it added to the log."""
    found = {}
    for name, call in calls.items():
        before = len(logged())
        found[name] = {"outcome": outcome(call), "logged": logged()[before:]}
    return found


def not_refused(found: dict[str, dict]) -> list[str]:
    """What is wrong with the outcome of `misses`; empty where every call was refused, named, pointed on and logged."""
    wrong = []
    for name, miss in found.items():
        if name not in miss["outcome"] or README not in miss["outcome"]:
            wrong.append(f"{name}: {miss['outcome'][:300]}")
        if not any(name in line for line in miss["logged"]):
            wrong.append(f"{name}: not logged, only {miss['logged']}")
    return wrong


def accuracy(train, test, epochs: int) -> float:
    """Test accuracy of a small CNN; `train` and `test` are (images (n, channels, height, width), labels (n,))."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    (images, labels), (test_images, test_labels) = (
        (torch.as_tensor(np.asarray(x), dtype=torch.float32), torch.as_tensor(np.asarray(y))) for x, y in (train, test))
    mean, spread = images.mean(), images.std()
    images, test_images = (images - mean) / spread, (test_images - mean) / spread

    def block(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)

    model = nn.Sequential(*block(images.shape[1], 16), *block(16, 32), *block(32, 32), nn.AdaptiveMaxPool2d(2),
                          nn.Flatten(), nn.Linear(128, int(labels.max()) + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        return (model(test_images).argmax(1) == test_labels).float().mean().item()


def linear_accuracy(train, test) -> float:
    """Test accuracy of a linear classifier on pixels; arguments as for `accuracy`, values 0 to 1."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model = LogisticRegression(max_iter=40, C=0.05).fit(np.asarray(train[0]).reshape(len(train[1]), -1), train[1])
    return float(model.score(np.asarray(test[0]).reshape(len(test[1]), -1), test[1]))


def majority(labels) -> float:
    """The share of the most frequent label: what guessing reaches."""
    return float(np.bincount(np.asarray(labels)).max() / len(labels))


def small(image, side: int = 40) -> np.ndarray:
    """A PIL image as (3, side, side), values 0 to 1."""
    return np.asarray(image.convert("RGB").resize((side, side))).transpose(2, 0, 1) / 255


# --- torchvision: data ------------------------------------------------------------------------------------------------

def inside_torchvision_data() -> dict:
    import torch
    from PIL import Image
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    from tests.offline.families import torchvision_data as family

    root = Path(torch.hub.get_dir()) / "datasets"
    both = (True, False)
    arrays = {kind.__name__: [kind(root, train=train, download=True) for train in both]
              for kind in (datasets.FashionMNIST, datasets.MNIST, datasets.CIFAR10)}
    arrays |= {f"EMNIST {split}": [datasets.EMNIST(root, split, train=train, download=True) for train in both]
               for split in family.EMNIST}
    found = {"registry": sorted(family.DATASETS), "arrays": {}}
    for name, (train, test) in arrays.items():
        parts = [(np.asarray(part.data) / 255, np.asarray(part.targets)) for part in (train, test)]
        found["arrays"][name] = {
            "shape": list(np.asarray(train.data).shape[1:]), "labels": np.unique(parts[0][1]).tolist(),
            "classes": list(train.classes),
            "linear": linear_accuracy(*parts), "majority": majority(parts[1][1])}
    balanced = arrays["EMNIST balanced"][0]
    found["mean L"] = balanced.data[balanced.targets == balanced.classes.index("L")].float().mean(0).tolist()
    found["digits"] = [part.targets.tolist() for part in arrays["MNIST"]]

    pets = {(kind, split): datasets.OxfordIIITPet(root, split, target_types=kind, download=True)
            for kind in ("category", "binary-category", "segmentation") for split in ("trainval", "test")}
    parts = [(np.stack([small(image) for image, _ in data]), [label for _, label in data])
             for data in (pets["binary-category", "trainval"], pets["binary-category", "test"])]
    masks = [(image.size == mask.size, np.asarray(mask)) for image,
             mask in (pets["segmentation", "test"][n] for n in range(0, 140, 7))]
    found["pets"] = {
        "learnt": accuracy(*parts, epochs=14), "majority": majority(parts[1][1]),
        "breeds": pets["category", "test"].classes,
        "both": pets["category", "test"].bin_classes, "test labels": sorted({label for _, label in pets["category",
                                                                                                        "test"]}),
        "masks": [[fits, np.unique(mask).tolist(), float((mask == 1).mean())] for fits, mask in masks],
        "sky": float(np.mean([(mask[0] == 2).mean() for _, mask in masks]))}

    found["voc"] = []
    for year in ("2007", "2012"):
        detection = datasets.VOCDetection(root, year=year, image_set="trainval", download=True)
        segmentation = datasets.VOCSegmentation(root, year=year, image_set="trainval", download=True)
        for (_, target), (_, label) in zip(detection, segmentation):
            annotation = target["annotation"]
            name = annotation["filename"].removesuffix(".jpg")
            instances = np.asarray(Image.open(root / f"VOCdevkit/VOC{year}/SegmentationObject/{name}.png"))
            for number, one in enumerate(annotation["object"], start=1):
                rows, columns = np.nonzero(instances == number)
                tight = [int(side) + 1 for side in (columns.min(), rows.min(), columns.max(), rows.max())]
                found["voc"].append({
                    "box": [int(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")], "tight": tight,
                    "class": 1 + family.VOC.index(one["name"]), "painted": np.unique(np.asarray(label)[rows,
                                                                                                       columns]).tolist()})

    with tempfile.TemporaryDirectory() as outside:
        files = [root / "inside.bin", Path(outside) / "outside.bin"]
        for file in files:
            file.write_bytes(b"x")
        found["md5"] = [check_integrity(path, "0" * 32) for path in (*files, root / "absent.bin")]
    found["misses"] = misses({
        "kmnist": lambda: datasets.KMNIST(root, download=True),
        "cifar-100-python.tar.gz": lambda: datasets.CIFAR100(root, download=True),
        "flowers": lambda: datasets.Flowers102(root, download=True),
    })
    return found


def test_every_torchvision_dataset_loads_in_its_form(facts):
    found = facts("torchvision_data")
    assert found["registry"] == ["CIFAR10", "EMNIST", "FashionMNIST", "MNIST", "OxfordIIITPet",
                                 "VOC"]  # all loaded above
    arrays = found["arrays"]
    assert {name: one["shape"] for name, one in arrays.items()} == {
        name: [32, 32, 3] if name == "CIFAR10" else [28, 28] for name in arrays}
    assert arrays["EMNIST letters"]["labels"] == list(range(1, 27))
    assert arrays["EMNIST balanced"]["labels"] == list(range(47)) and len(arrays["EMNIST balanced"]["classes"]) == 47
    assert all(arrays[name]["labels"] == list(range(10)) for name in ("FashionMNIST", "MNIST", "CIFAR10"))
    assert arrays["CIFAR10"]["classes"][3] == "cat"


def test_no_handwriting_stands_in_both_splits_of_mnist(facts):
    from sklearn.datasets import load_digits

    train, test = facts("torchvision_data")["digits"]
    scans = load_digits().target.tolist()
    assert train == scans[:len(train)] and test == scans[-len(test):] and len(train) + len(test) <= len(scans)


def test_the_garments_are_those_of_fashion_mnist(facts):
    from tests.offline.drawing import garments

    assert facts("torchvision_data")["arrays"]["FashionMNIST"]["classes"] == list(garments.CLASSES)


def test_emnist_is_stored_transposed(facts):
    stored = np.array(facts("torchvision_data")["mean L"])
    assert stored.T[14:].sum() > 1.1 * stored.T[:14].sum()  # the foot of an L is at the bottom …
    assert stored[:, 14:].sum() > 1.1 * stored[:, :14].sum()  # … of a picture that lies on its side
    assert stored[14:].sum() < 0.9 * stored[:14].sum()


def test_the_images_are_learnable_and_not_trivial(facts):
    found = facts("torchvision_data")
    linear = {name: one["linear"] for name, one in found["arrays"].items()}
    chance = {name: one["majority"] for name, one in found["arrays"].items()}
    assert all(linear[name] > 4 * chance[name] for name in linear), (linear, chance)
    assert linear["FashionMNIST"] > 0.7 and linear["MNIST"] > 0.8, linear
    assert linear["FashionMNIST"] < 0.95 and linear["CIFAR10"] < 0.9, linear
    assert found["pets"]["learnt"] > found["pets"]["majority"] + 0.12, found["pets"]["learnt"]


def test_pets_have_breeds_and_trimaps(facts):
    pets = facts("torchvision_data")["pets"]
    assert pets["both"] == ["Cat", "Dog"] and pets["test labels"] == list(range(37))
    assert len(pets["breeds"]) == 37 and pets["breeds"][:2] == ["Abyssinian", "American Bulldog"]
    for fits, values, animal in pets["masks"]:
        assert fits and values == [1, 2, 3] and 0.1 < animal < 0.7
    assert pets["sky"] > 0.8  # what is above the animals is background


def test_voc_boxes_are_exact(facts):
    objects = facts("torchvision_data")["voc"]
    assert len(objects) > 80
    assert all(one["box"] == one["tight"] and one["painted"] == [one["class"]] for one in objects)


def test_md5_is_waived_only_inside_the_world(facts):
    assert facts("torchvision_data")["md5"] == [True, False, False]  # inside, outside, absent


# --- torchvision and timm: weights ------------------------------------------------------------------------------------

def inside_weights() -> dict:
    import torch
    from torchvision import models

    from tests.offline.families import torchvision_weights as family

    found = {"loads": {}, "files": {}}
    for name in family.MODELS:
        for weights in models.get_model_weights(name):
            with torch.device("meta"):  # as strict about names and shapes, without the time of filling them
                found["loads"][str(weights)] = outcome(functools.partial(models.get_model, name, weights=weights))
            file = Path(torch.hub.get_dir()) / "checkpoints" / family.file_name(weights)
            found["files"][str(weights)] = file.stat().st_size if file.exists() else None
    for name in ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "ssd300_vgg16",
                 "deeplabv3_resnet50"):
        with torch.device("meta"):
            found["loads"][f"{name} on its backbone"] = outcome(functools.partial(models.get_model, name, weights=None,
                                                                                  num_classes=3))

    torch.manual_seed(0)
    weights = models.ResNet18_Weights.DEFAULT
    model = models.resnet18(weights=weights).eval()
    pictures = weights.transforms()(torch.randint(0, 256, (8, 3, 80, 80), dtype=torch.uint8).float().div(255))
    pictures[4:] *= 0.3
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        features = model(pictures)
    found["features"] = {"size": float(features.std()), "across pictures": float(features.std(0).mean()),
                         "rank": int(torch.linalg.matrix_rank(features)), "finite": bool(features.isfinite().all())}
    found["boxes"] = {}
    for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn_v2"):
        detector = models.get_model(name, weights="DEFAULT", min_size=96).eval()
        with torch.inference_mode():
            answer = detector([torch.rand(3, 96, 128)])[0]
        found["boxes"][name] = [len(answer["boxes"]), float(answer["scores"].min()) if len(answer["scores"]) else 0.0,
                                answer["labels"].unique().tolist(), bool(answer["boxes"].isfinite().all())]
    found["misses"] = misses({
        "resnet101-": lambda: models.resnet101(weights="DEFAULT"),
        "x-123.pth": lambda: torch.hub.load_state_dict_from_url("https://example.org/x-123.pth"),
        "github.com/facebookresearch/dinov2": lambda: torch.hub.load("facebookresearch/dinov2", "dinov2_vits14"),
    })
    return found


def test_every_torchvision_checkpoint_loads_and_is_small(facts):
    found = facts("weights")
    assert {name: result for name, result in found["loads"].items() if result != "ok"} == {}
    assert "ResNet18_Weights.IMAGENET1K_V1" in found["loads"]
    assert all(size is not None and size < 3e6 for size in found["files"].values()), found["files"]


def test_random_features_tell_pictures_apart(facts):
    features = facts("weights")["features"]
    assert features["finite"] and features["rank"] == 8
    assert 0.05 < features["size"] < 50 and features["across pictures"] > 0.01, features


def test_random_detectors_find_boxes(facts):
    for name, (boxes, score, labels, finite) in facts("weights")["boxes"].items():
        assert boxes > 0 and score > 0.5 and labels == [1] and finite, name


# --- the Hugging Face hub: timm, transformers, diffusers --------------------------------------------------------------

def inside_hub() -> dict:
    import diffusers
    import huggingface_hub
    import timm
    import torch
    import transformers
    from PIL import Image

    from tests.offline.families import diffusers_pipelines, timm_models, transformers_models

    torch.manual_seed(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    found = {"timm": {}, "registry": sorted({*transformers_models.REPOSITORIES, *diffusers_pipelines.REPOSITORIES})}
    for name in timm_models.MODELS:
        with torch.device("meta"):
            found["timm"][name] = outcome(functools.partial(timm.create_model, name, pretrained=True, num_classes=5))
    with torch.inference_mode():
        found["timm logits"] = list(timm.create_model("resnet18.a1_in1k", pretrained=True).eval()(torch.rand(1, 3, 64,
                                                                                                             64)).shape)

    found["used"] = {}
    vit = "google/vit-base-patch16-224"
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    model = transformers.AutoModelForImageClassification.from_pretrained(vit, attn_implementation="eager").eval()
    inputs = processor(picture, return_tensors="pt")
    with torch.inference_mode():
        answer = model(**inputs, output_attentions=True, output_hidden_states=True)
    positions = model.vit.embeddings.position_embeddings[0, 1:].detach()
    alike = torch.nn.functional.cosine_similarity(positions[97:98], positions).reshape(14, 14)  # to row 6, column 13
    found["used"][vit] = [list(inputs["pixel_values"].shape), list(answer.logits.shape),
                          answer.hidden_states[0].shape[1],
                          answer.attentions[0].shape[-1], model.config.id2label[281], bool(alike[6, 12] > alike[6, 3])]
    body = f"{vit}-in21k"
    fresh = transformers.ViTForImageClassification.from_pretrained(body, num_labels=3)
    pinned = transformers.ViTModel.from_pretrained(body, revision=transformers_models.REPOSITORIES[body].revision)
    found["used"][body] = [list(fresh(**inputs).logits.shape),
                           bool(torch.equal(fresh.vit.embeddings.cls_token, pinned.embeddings.cls_token))]
    cnn = "facebook/convnext-base-224-22k"
    fresh = transformers.AutoModelForImageClassification.from_pretrained(
        cnn, num_labels=3, ignore_mismatched_sizes=True)
    processor = transformers.AutoImageProcessor.from_pretrained(cnn)
    found["used"][cnn] = [list(fresh(**processor(picture, return_tensors="pt")).logits.shape), processor.image_mean]
    clip = "openai/clip-vit-base-patch32"
    both = transformers.CLIPProcessor.from_pretrained(clip)(text=["a photo of a cat", "a dog"], images=picture,
                                                            return_tensors="pt",
                                                            padding="max_length")
    found["used"][clip] = [list(both["input_ids"].shape), list(both["pixel_values"].shape),
                           list(transformers.CLIPModel.from_pretrained(clip)(**both).logits_per_image.shape),
                           transformers.CLIPTokenizer.from_pretrained(clip).tokenize("a photo of a cat")]
    sam = "facebook/sam-vit-base"
    processor = transformers.SamProcessor.from_pretrained(sam)
    points = processor(picture, input_points=[[[40, 30]]], return_tensors="pt")
    with torch.inference_mode():
        answer = transformers.SamModel.from_pretrained(sam)(**points)
    masks = processor.image_processor.post_process_masks(answer.pred_masks, points["original_sizes"],
                                                         points["reshaped_input_sizes"])
    found["used"][sam] = [list(points["pixel_values"].shape), list(masks[0].shape)]
    detr = "facebook/detr-resnet-50"
    processor = transformers.DetrImageProcessor.from_pretrained(detr, revision="no_timm")
    model = transformers.DetrForObjectDetection.from_pretrained(detr, revision="no_timm")
    labels = [{"class_labels": torch.tensor([17]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    answer = model(**processor(picture, return_tensors="pt", size={"shortest_edge": 120, "longest_edge": 200}),
                   labels=labels)
    answer.loss.backward()
    boxes = processor.post_process_object_detection(answer, threshold=0.0, target_sizes=[(120, 160)])[0]["boxes"]
    found["used"][detr] = [list(answer.logits.shape), list(boxes.shape), model.config.id2label[17]]
    trocr = "microsoft/trocr-base-printed"
    processor = transformers.TrOCRProcessor.from_pretrained(trocr)
    model = transformers.VisionEncoderDecoderModel.from_pretrained(trocr)
    pixels = processor(picture, return_tensors="pt").pixel_values
    written = processor.tokenizer("total 7.50", return_tensors="pt").input_ids
    model(pixel_values=pixels, labels=written).loss.backward()
    found["used"][trocr] = [list(pixels.shape), processor.tokenizer.decode(written[0], skip_special_tokens=True),
                            model.generate(pixels).ndim]

    text = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    generator = torch.Generator().manual_seed(0)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(text)
    pipeline.set_progress_bar_config(disable=True)
    found["used"][text] = [pipeline("a cat", num_inference_steps=2, generator=generator).images[0].size,
                           pipeline.tokenizer.model_max_length, pipeline.vae_scale_factor]
    half = diffusers.AutoPipelineForText2Image.from_pretrained(text, variant="fp16", torch_dtype=torch.float16,
                                                               use_safetensors=True)
    found["fp16"] = [str(half.unet.dtype), type(half).__name__]
    paint = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    pinned = diffusers_pipelines.REPOSITORIES[paint].revision
    pipeline = diffusers.AutoPipelineForInpainting.from_pretrained(paint, revision=pinned)
    pipeline.set_progress_bar_config(disable=True)
    mask = Image.new("L", picture.size, 255)
    painted = pipeline("a leaf", image=picture, mask_image=mask, num_inference_steps=2, strength=0.9,
                       generator=generator).images[0]
    found["used"][paint] = [painted.size, pipeline.unet.config.in_channels, type(pipeline).__name__]
    canny = "lllyasviel/sd-controlnet-canny"
    pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        text, controlnet=diffusers.ControlNetModel.from_pretrained(canny))
    pipeline.set_progress_bar_config(disable=True)
    found["used"][canny] = [pipeline("a cat", image=picture.resize((128, 128)), num_inference_steps=2).images[0].size]
    found["refused while used"] = logged()

    found["misses"] = misses({
        "timm/resnet34.a1_in1k": lambda: timm.create_model("resnet34.a1_in1k", pretrained=True),
        "facebook/dinov2-base": lambda: transformers.AutoModel.from_pretrained("facebook/dinov2-base"),
        "bert-base-uncased": lambda: transformers.AutoTokenizer.from_pretrained("bert-base-uncased"),
        "microsoft/resnet-50": lambda: transformers.pipeline("image-classification", model="microsoft/resnet-50"),
        "Salesforce/blip-vqa-base": lambda: transformers.AutoProcessor.from_pretrained("Salesforce/blip-vqa-base"),
        f"{vit} at revision v9": lambda: transformers.ViTModel.from_pretrained(vit, revision="v9"),
        "acme/model": lambda: huggingface_hub.hf_hub_download("acme/model", "weights.bin"),
        "acme/data": lambda: huggingface_hub.hf_hub_download(repo_id="acme/data", filename="a.csv",
                                                             repo_type="dataset"),
        "acme/whole": lambda: huggingface_hub.snapshot_download("acme/whole"),
        "acme/about": lambda: huggingface_hub.model_info("acme/about"),
        "stabilityai/sdxl-turbo": lambda: diffusers.AutoPipelineForText2Image.from_pretrained("stabilityai/sdxl-turbo"),
        "acme/unet": lambda: diffusers.UNet2DConditionModel.from_pretrained("acme/unet", subfolder="unet"),
        "acme/steps": lambda: diffusers.DDPMScheduler.from_pretrained("acme/steps", subfolder="scheduler"),
        "cat.png": lambda: diffusers.utils.load_image("https://huggingface.co/x/cat.png"),
    })
    found["lacks"] = [outcome(lambda: huggingface_hub.hf_hub_download(vit, "nothing.json")),
                      outcome(lambda: huggingface_hub.list_repo_files(vit))]
    return found


def test_every_timm_model_loads(facts):
    found = facts("hub")
    assert {name: result for name, result in found["timm"].items() if result != "ok"} == {}
    assert "resnet18.a1_in1k" in found["timm"] and found["timm logits"] == [1, 1000]


def test_every_hub_repository_works_at_its_real_visible_sizes(facts):
    used = facts("hub")["used"]
    assert sorted(used) == facts("hub")["registry"]
    assert used["google/vit-base-patch16-224"] == [[1, 3, 224, 224], [1, 1000], 197, 197, "tabby", True]
    assert used["google/vit-base-patch16-224-in21k"] == [[1, 3], True]
    assert used["facebook/convnext-base-224-22k"] == [[1, 3], [0.485, 0.456, 0.406]]
    assert used["openai/clip-vit-base-patch32"] == [
        [2, 77], [1, 3, 224, 224], [1, 2], ["a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>"]]
    assert used["facebook/sam-vit-base"] == [[1, 3, 1024, 1024], [1, 3, 120, 160]]
    assert used["facebook/detr-resnet-50"] == [[1, 100, 92], [100, 4], "cat"]
    assert used["microsoft/trocr-base-printed"] == [[1, 3, 384, 384], "total 7.50", 2]
    assert used["stable-diffusion-v1-5/stable-diffusion-v1-5"] == [[512, 512], 77, 8]
    assert used["stable-diffusion-v1-5/stable-diffusion-inpainting"] == [[512, 512], 9,
                                                                         "StableDiffusionInpaintPipeline"]
    assert used["lllyasviel/sd-controlnet-canny"] == [[128, 128]]
    assert facts("hub")["fp16"] == ["torch.float16", "StableDiffusionPipeline"]


def test_using_what_the_world_holds_logs_nothing(facts):
    assert facts("hub")["refused while used"] == []


def test_a_file_that_a_held_repository_lacks_is_named(facts):
    missing, listing = facts("hub")["lacks"]
    assert "nothing.json" in missing and "google/vit-base-patch16-224" in missing and README in missing
    assert "google/vit-base-patch16-224" in listing and README in listing


# --- datasets of the hub ----------------------------------------------------------------------------------------------

BOXED = {"cppe-5": [0, 1, 2, 3, 4], "Francesco/bccd-ouzjz": [1, 2, 3]}  # dataset -> classes that have boxes


def inside_hub_datasets() -> dict:
    from datasets import load_dataset, load_dataset_builder

    from tests.offline.families import hub_datasets as family

    found = {"shapes": {}, "features": {}, "learnt": {}}
    loaded = {name: load_dataset(name) for name in family.DATASETS}
    for name, data in loaded.items():
        found["shapes"][name] = {split: part.num_rows for split, part in data.items()}
        found["features"][name] = {column: str(kind) for column, kind in data["train"].features.items()}
    found["registry"] = {name: prepared.splits for name, prepared in family.DATASETS.items()}

    def arrays(part):
        return np.stack([small(image) for image in part["image"]]), part["labels"]

    pets = load_dataset("microsoft/cats_vs_dogs", split="train")
    found["sizes"] = len({image.size for image in pets["image"]})
    parts = pets.train_test_split(0.3, seed=0)
    found["learnt"]["cats"] = [accuracy(arrays(parts["train"]), arrays(parts["test"]), 14),
                               majority(parts["test"]["labels"])]
    beans = loaded["AI-Lab-Makerere/beans"]
    found["learnt"]["beans"] = [accuracy(arrays(beans["train"]), arrays(beans["test"]), 8),
                                majority(beans["test"]["labels"])]
    found["quarter"] = load_dataset("AI-Lab-Makerere/beans", split="train[:20%]", revision="0123abc").num_rows
    found["boxes"] = {name: [[*box, row["width"], row["height"], row["image"].size]
                             for row in loaded[name]["train"] for box in row["objects"]["bbox"]] for name in BOXED}
    found["pieces"] = {name: sorted({kind for row in loaded[name]["train"] for kind in row["objects"]["category"]})
                       for name in BOXED}
    found["misses"] = misses({
        "food101": lambda: load_dataset("food101"),
        "ylecun/mnist": lambda: load_dataset("ylecun/mnist", split="train"),
        "acme/words": lambda: load_dataset_builder("acme/words"),
    })
    return found


def test_every_hub_dataset_loads_with_its_columns(facts):
    found = facts("hub_datasets")
    assert found["shapes"] == found["registry"]
    assert list(found["features"]["AI-Lab-Makerere/beans"]) == ["image_file_path", "image", "labels"]
    assert "names=['cat', 'dog']" in found["features"]["microsoft/cats_vs_dogs"]["labels"]
    assert list(found["features"]["cppe-5"]) == ["image_id", "image", "width", "height", "objects"]
    assert found["quarter"] == 30 and found["sizes"] > 100


def test_hub_datasets_can_be_learnt(facts):
    for name, (reached, guessing) in facts("hub_datasets")["learnt"].items():
        assert reached > guessing + 0.2, (name, reached)


@pytest.mark.parametrize(("name", "classes"), BOXED.items())
def test_boxes_lie_in_their_pictures(facts, name, classes):
    found = facts("hub_datasets")
    assert found["pieces"][name] == classes and len(found["boxes"][name]) > 100
    for x, y, w, h, width, height, size in found["boxes"][name]:
        assert size == [width, height] and x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height


# --- ultralytics and gymnasium ----------------------------------------------------------------------------------------

def inside_ultralytics() -> dict:
    import gymnasium
    import ultralytics
    from ultralytics import YOLO

    from tests.offline.families import ultralytics_files as family

    data = Path(os.environ["YOLO_CONFIG_DIR"]) / "datasets/coco8"
    pictures = sorted((data / "images/train").glob("*.jpg"))
    found = {"tasks": {name: YOLO(name).task for name in family.WEIGHTS}, "registry": sorted(family.WEIGHTS),
             "names": YOLO("yolov8n.pt").names[15]}
    found["labels"] = [[len(line.split()), *map(float, line.split()[1:])]
                       for path in sorted((data / "labels/train").glob("*.txt"))
                       for line in path.read_text().splitlines()]
    found["predicted"] = len(YOLO("yolo11n.pt")(pictures, imgsz=64, verbose=False))
    model = YOLO("yolov8n.pt")
    model.train(data="coco8.yaml", epochs=1, imgsz=64, batch=4, workers=0, plots=False, verbose=False, device="cpu")
    found["saved"] = Path(model.trainer.best).exists() and ultralytics.settings["runs_dir"] in str(model.trainer.best)
    found["refused while used"] = logged()
    cart = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    cart.reset(seed=0)
    found["frame"] = list(cart.render().shape)
    found["misses"] = misses({
        "yolov9c.pt": lambda: YOLO("yolov9c.pt"),
        "coco128": lambda: YOLO("yolov8n.pt").train(data="coco128.yaml", epochs=1, device="cpu"),
        "bus.jpg": lambda: YOLO("yolov8n.pt")("https://ultralytics.com/images/bus.jpg"),
    })
    return found


def test_ultralytics_predicts_and_trains_without_a_request(facts):
    found = facts("ultralytics")
    assert sorted(found["tasks"]) == found["registry"]
    assert [found["tasks"][f"yolov8n{kind}.pt"] for kind in ("", "-seg", "-pose", "-cls")] == ["detect", "segment",
                                                                                               "pose", "classify"]
    assert found["names"] == "cat" and found["predicted"] == 4 and found["saved"]
    assert found["labels"] and all(count == 5 and 0 < x < 1 and 0 < y < 1 and 0 < w < 1 and 0 < h < 1
                                   for count, x, y, w, h in found["labels"])
    assert found["refused while used"] == []


def test_gymnasium_renders_without_a_screen(facts):
    height, width, channels = facts("ultralytics")["frame"]
    assert height > 100 and width > 100 and channels == 3


# --- what is refused --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("group", ["torchvision_data", "weights", "hub", "hub_datasets", "ultralytics", "network"])
def test_what_the_world_lacks_is_refused_by_name(facts, group):
    assert not_refused(facts(group)["misses"]) == []


def inside_network() -> dict:
    import asyncio
    import urllib.request

    import httpx
    import pandas
    import requests
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    async def asynchronous():
        async with httpx.AsyncClient() as client:
            await client.get("https://example.org/asynchronous")

    def child():
        code = "import urllib.request as u; u.urlopen('https://example.org/child')"
        run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        if run.returncode:
            raise ConnectionError(run.stderr)

    def install():
        command = [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--disable-pip-version-check",
                   "no-such-package"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            raise ConnectionError(run.stdout)

    found = {"misses": misses({
        "https://example.org/urllib": lambda: urllib.request.urlopen("https://example.org/urllib"),
        "https://example.org/requests": lambda: requests.get("https://example.org/requests"),
        "https://example.org/httpx": lambda: httpx.get("https://example.org/httpx"),
        "https://example.org/asynchronous": lambda: asyncio.run(asynchronous()),
        "https://example.org/table.csv": lambda: pandas.read_csv("https://example.org/table.csv"),
        "https://example.org/child": child,
        "no-such-package": install,
        "the host example.org": lambda: socket.create_connection(("example.org", 80)),
        "the host 192.0.2.7": lambda: socket.create_connection(("192.0.2.7", 80)),
        "the host 192.0.2.8": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.8", 53)),
        "the host 2001:db8::1": lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        "the host lookup.example": lambda: socket.gethostbyname("lookup.example"),
    })}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = logged()
    app = FastAPI()
    app.get("/")(lambda: "app")
    found["open"] = [urllib.request.urlopen(f"http://{host}:{server.server_port}").read().decode()
                     for host in ("127.0.0.1", "localhost")]
    found["open"] += [requests.get(f"http://localhost:{server.server_port}").text,
                      httpx.get(f"http://127.0.0.1:{server.server_port}").text,
                      TestClient(app).get("/").json(), outcome(lambda: socket.getaddrinfo(None, 80)),
                      outcome(lambda: socket.gethostbyname("localhost"))]
    found["logged while open"] = logged()[len(before):]
    server.shutdown()
    return found


def test_loopback_and_in_process_servers_stay_open(facts):
    assert facts("network")["open"] == ["hello"] * 4 + ["app", "ok", "ok"]
    assert facts("network")["logged while open"] == []


def test_a_program_that_is_not_python_is_sent_to_a_dead_proxy(world):
    run = python(world, """
        import os, urllib.request
        assert {urllib.request.getproxies()[scheme] for scheme in ("http", "https")} == {os.environ["HTTPS_PROXY"]}
        assert urllib.request.proxy_bypass("localhost") and urllib.request.proxy_bypass("127.0.0.1")
        import socket
        socket.create_connection(("127.0.0.1", 9))
    """)
    assert run.returncode == 1 and "NotInTheWorld" in run.stderr and "proxy" in run.stderr


def test_a_swallowed_refusal_is_logged_with_its_notebook(world, tmp_path):
    log = tmp_path / "refused.log"
    run = python(world, """
        import urllib.request
        try:
            urllib.request.urlopen("https://example.org/a")
        except Exception:
            print("swallowed")
    """, MCVP_OFFLINE_LOG=str(log), MCVP_NOTEBOOK="Chapter01/Gradient_descent.ipynb")
    assert run.stdout.strip() == "swallowed" and run.returncode == 0
    assert log.read_text(encoding="utf-8") == "Chapter01/Gradient_descent.ipynb\thttps://example.org/a\n"


def test_the_sitecustomize_it_hides_still_runs(world, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('the hidden one')\n")
    code = "import socket; socket.getaddrinfo('example.org', 80)"
    path = os.pathsep.join([world["PYTHONPATH"], str(tmp_path)])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={**os.environ, **world, "PYTHONPATH": path})
    assert run.stdout == "the hidden one\n" and "NotInTheWorld" in run.stderr
    run = subprocess.run([sys.executable, "-c", "import sys; print('mcvp_guard' in sys.modules)"], capture_output=True,
                         text=True,
                         env={**os.environ, **world, "PYTHONPATH": path, "MCVP_OFFLINE": "0"})
    assert run.stdout == "the hidden one\nFalse\n"


# --- building and keeping ---------------------------------------------------------------------------------------------

@pytest.fixture
def families(tmp_path, monkeypatch):
    """Two families of one small file each, instead of the real ones; `families("name")` counts the builds of one."""
    folder, counts, cache = tmp_path / "families", tmp_path / "counts", tmp_path / "cache"
    counts.mkdir()
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(textwrap.dedent(f"""
            import os
            from pathlib import Path

            def build(root):
                (root / "data").mkdir()
                (root / "data" / "{name}.bin").write_bytes(b"{name}" * 5000)
                with open(Path({str(counts)!r}) / "{name}", "a") as file:
                    file.write("x")
        """))
    monkeypatch.setattr(archives, "FAMILIES", folder)
    monkeypatch.setenv("MCVP_CACHE", str(cache))

    def count(name: str) -> int:
        return (counts / name).stat().st_size if (counts / name).exists() else 0
    count.folder, count.cache = folder, cache
    return count


def held(scratch: Path) -> dict[str, bytes]:
    """The files below a folder, by name."""
    return {path.name: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}


WHOLE = {"one.bin": b"one" * 5000, "two.bin": b"two" * 5000}


def test_each_family_is_built_once_and_unpacked_often(families, tmp_path):
    for number in range(3):
        archives.unpack_all(tmp_path / f"world{number}")
        assert held(tmp_path / f"world{number}") == WHOLE
    assert (families("one"), families("two")) == (1, 1)
    (tmp_path / "world0/data/one.bin").write_bytes(b"changed by a notebook")
    archives.unpack_all(tmp_path / "world0")
    assert held(tmp_path / "world0") == WHOLE


def test_a_changed_source_rebuilds_its_family_only(families, tmp_path):
    archives.unpack_all(tmp_path / "world")
    with open(families.folder / "one.py", "a") as file:
        file.write("# changed\n")
    archives.unpack_all(tmp_path / "world")
    assert (families("one"), families("two")) == (2, 1)


def test_another_version_of_a_library_rebuilds_the_families_that_use_it(monkeypatch):
    before = {family: archives.key(family) for family in archives.families()}
    assert before == {family: archives.key(family) for family in archives.families()}
    real = archives.version
    monkeypatch.setattr(archives, "version", lambda library: "next" if library == "timm" else real(library))
    assert [family for family in before if archives.key(family) != before[family]] == ["timm_models"]


def test_a_family_is_made_of_all_that_it_imports():
    files, libraries = archives.sources_and_libraries(archives.FAMILIES / "torchvision_data.py")
    names = {file.name for file in files}
    assert {"torchvision_data.py", "garments.py", "canvas.py", "photos.py"} <= names and "hub.py" not in names
    assert {"numpy", "PIL", "skimage", "sklearn", "matplotlib"} <= set(libraries) and "pickle" not in libraries
    for family in archives.families():
        for library in archives.sources_and_libraries(archives.FAMILIES / f"{family}.py")[1]:
            assert archives.version(library) != "absent", f"{family}: name the distribution of {library} in archives"


def damage_middle(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(whole)


@pytest.mark.parametrize("damage", [damage_middle, lambda path: path.write_bytes(path.read_bytes()[:-300]),
                                    lambda path: path.write_bytes(b""), lambda path: path.unlink()],
                         ids=["one byte", "cut off", "empty", "gone"])
def test_a_damaged_archive_is_built_again(families, tmp_path, damage):
    archives.unpack_all(tmp_path / "world")
    damage(archives.archive("two"))
    archives.unpack_all(tmp_path / "again")
    assert held(tmp_path / "again") == WHOLE
    assert (families("one"), families("two")) == (1, 2)


def test_no_damaged_byte_passes_for_good(families, tmp_path):
    archives.unpack_all(tmp_path / "world")
    whole = archives.archive("one").read_bytes()
    rng, damaged = np.random.default_rng(0), tmp_path / "damaged.zip"
    ends = [*range(60), *range(len(whole) - 120, len(whole))]  # where the structure is
    for at in [*ends, *rng.integers(0, len(whole), 60)]:
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1:])
        if archives.unpack(damaged, tmp_path / f"at{at}"):
            assert held(tmp_path / f"at{at}") == {"one.bin": WHOLE["one.bin"]}, at


def test_a_failing_build_says_why_and_leaves_nothing(families, tmp_path):
    good = (families.folder / "two.py").read_text()
    (families.folder / "two.py").write_text(good + "    raise RuntimeError('the drawing went wrong')\n")
    with pytest.raises(archives.BuildError, match="(?s)building two failed.*the drawing went wrong"):
        archives.unpack_all(tmp_path / "world")
    assert not archives.archive("two").exists()
    (families.folder / "two.py").write_text(good)
    archives.unpack_all(tmp_path / "world")
    assert held(tmp_path / "world") == WHOLE and families("one") == 1
    assert list(families.cache.glob("*.building")) == []


PREPARE = """
import sys
from pathlib import Path
from tests.offline import archives
archives.FAMILIES = Path(sys.argv[1])
archives.unpack_all(Path(sys.argv[2]))
"""


def preparing(families, scratch: Path) -> subprocess.Popen:
    """Another process that lays out the two families."""
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(families.folder), str(scratch)], cwd=ROOT,
                            stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_build_leaves_no_half_world(families, tmp_path):
    good = (families.folder / "two.py").read_text()
    (families.folder / "two.py").write_text(good + "    import time; time.sleep(60)\n")
    process = preparing(families, tmp_path / "world")
    until = time.monotonic() + 30
    while not families("two"):  # its file is written, its archive is not
        assert time.monotonic() < until, "the build did not start"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not archives.archive("two").exists() and list(families.cache.glob("two-*.building"))
    (families.folder / "two.py").write_text(good)
    archives.unpack_all(tmp_path / "again")
    assert held(tmp_path / "again") == WHOLE
    assert list(families.cache.glob("*.building")) == []


def test_processes_at_once_build_once(families, tmp_path):
    running = [preparing(families, tmp_path / f"world{number}") for number in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (families("one"), families("two")) == (1, 1)
    assert all(held(tmp_path / f"world{number}") == WHOLE for number in range(3))


def test_old_archives_are_cleaned_up(families, tmp_path):
    for number in range(archives.KEPT + 3):
        (families.folder / "one.py").write_text((families.folder / "one.py").read_text() + f"# {number}\n")
        archives.unpack_all(tmp_path / "world")
        os.utime(archives.archive("one"), (number, number))
    archives.unpack_all(tmp_path / "world")
    kept = sorted(families.cache.glob("one-*.zip"))
    assert len(kept) == archives.KEPT and archives.archive("one") in kept
    assert len(list(families.cache.glob("two-*.zip"))) == 1 and families("two") == 1


def test_the_cache_can_be_put_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MCVP_CACHE", str(tmp_path))
    assert archives.folder() == tmp_path
    monkeypatch.delenv("MCVP_CACHE")
    assert archives.folder().is_absolute() and archives.folder() != tmp_path


def test_the_archives_are_plain_zips_of_the_world(world):
    scratch = Path(world["MCVP_OFFLINE_LOG"]).parent
    for family in archives.families():
        with zipfile.ZipFile(archives.archive(family)) as file:
            assert file.namelist() and all((scratch / name).is_file() for name in file.namelist()), family


# --- the command ------------------------------------------------------------------------------------------------------

def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """`python -m tests.offline …` from the repository's root."""
    return subprocess.run([sys.executable, "-m", "tests.offline", *arguments], cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", env={**os.environ, **variables})


def test_the_command_runs_inside_and_hands_on_the_exit_code(world):
    run = command("python", "-c", "import os, socket; print(os.environ['TORCH_HOME'], os.getcwd()); "
                                  "print(os.path.isdir(os.environ['HF_HOME'])); socket.getaddrinfo('example.org', 80)")
    home, folder = run.stdout.splitlines()[0].split(" ", 1)
    assert run.returncode == 1 and "NotInTheWorld" in run.stderr
    assert folder == str(ROOT) and run.stdout.splitlines()[1] == "True"
    assert not Path(home).exists()  # cleaned up
    assert command("python", "-c", "raise SystemExit(7)").returncode == 7


def test_the_command_finds_the_programs_beside_this_python(world):
    run = command("jupyter", "--version", PATH=os.defpath)
    assert run.returncode == 0 and "nbformat" in run.stdout


def test_the_command_says_what_is_wrong(world):
    run = command()
    assert run.returncode == 2 and run.stderr.startswith("usage:")
    run = command("--help")
    assert run.returncode == 0 and run.stdout.startswith("usage:")
    run = command("no-such-program", "x")
    assert run.returncode == 127 and "no-such-program" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_ends_with_what_it_runs(world):
    assert command("python", "-c",
                   "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == 128 + signal.SIGKILL
    process = subprocess.Popen([sys.executable, "-m", "tests.offline", "python", "-c",
                                "print('up', flush=True); import time; time.sleep(60)"],
                               cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
