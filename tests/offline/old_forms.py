"""Checkpoints and configurations as older versions of the libraries wrote them: most real repositories still are so.

A library renames what it finds while it loads; a checkpoint that it has just written itself would never ask that of it.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's


def rename(folder: Path, change: Callable[[str], str], extra: dict[str, torch.Tensor] | None = None) -> None:
    """Rename the tensors of every safetensors file in a folder, and add some."""
    for path in folder.glob("*.safetensors"):
        tensors = {change(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors | (extra or {}), path, {"format": "pt"})


def clip_text(folder: Path) -> None:
    """The text encoder of a pipeline: all keys below `text_model.`, and the numbers of the positions stored with it."""
    rename(folder, lambda name: f"text_model.{name}", {"text_model.embeddings.position_ids": torch.arange(77)[None]})


def safety_checker(folder: Path) -> None:
    """The safety checker: its vision model nested twice, and the numbers of the positions stored with it."""
    rename(folder, lambda name: name.replace("vision_model.", "vision_model.vision_model."),
           {"vision_model.vision_model.embeddings.position_ids": torch.arange(50)[None]})


ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def autoencoder(folder: Path) -> None:
    """The autoencoder: its attention under the names of 2022."""
    rename(folder, lambda name: re.sub(
        r"(?<=attentions\.0\.)(to_[qkv]|to_out\.0)", lambda found: ATTENTION[found[0]], name))


def as_pickle(folder: Path, old: str, new: str) -> None:
    """One safetensors file of a folder as the pickle that it was before."""
    torch.save(load_file(folder / old), folder / new)
    (folder / old).unlink()


def without(folder: Path, file: str, *names: str) -> None:
    """Leave entries out of a JSON file: older versions did not write them."""
    values = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({name: value for name,
     value in values.items() if name not in names}, indent=2))


def clip_processor(folder: Path) -> None:
    """The processor of pictures as CLIPFeatureExtractor wrote it: sizes as numbers, and no image_processor_type."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "crop_size": 224, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3,
        "size": 224}))


def vit_processor(folder: Path, size: int, **more) -> None:
    """The processor of a ViT of 2021: the size as a number, and no type, or only that of a feature extractor."""
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
        "size": size, **more}))


def processor(folder: Path, part: str = "image_processor", **kept) -> None:
    """A processor's settings in the file of transformers 4, of its pictures or its sounds; `kept` stays in its own."""
    file = folder / "processor_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**values[part], "processor_class": values["processor_class"]}, indent=2), encoding="utf-8")
    if kept:
        file.write_text(json.dumps({**kept, "processor_class": values["processor_class"]}), encoding="utf-8")
    else:
        file.unlink()
