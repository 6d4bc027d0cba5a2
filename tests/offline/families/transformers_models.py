"""transformers: repositories with tiny random models, their processors and tokenizers.

What a reader sees keeps its real size (picture size, patches, tokens, labels); width and depth are small.
"""
from __future__ import annotations

from pathlib import Path

import torch
import transformers
from torchvision.models import ResNet18_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from tests.offline import clip
from tests.offline.hub import Repository, plant
from tests.offline.vocabularies import clip_tokenizer, roberta_tokenizer

VIT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 224,
       "patch_size": 16, "initializer_range": 0.15}


def labels(names: list[str]) -> dict:
    """The configuration of a head with these classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def plane_waves(positions: int, width: int) -> torch.Tensor:
    """Position embeddings as trained ones are, near patches alike: (1, 1 + positions, width), CLS first."""
    side = int(positions ** 0.5)
    at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2).float()
    frequency = torch.logspace(-1.3, 0, width // 4)
    phase = (at[:, :, None] * frequency).flatten(1)
    return torch.cat([torch.zeros(1, width), torch.cat([phase.sin(), phase.cos()], 1)])[None]


def vit(model_class: type, folder: Path, **config) -> None:
    """A ViT of patches of 16 pixels with its processor."""
    model = model_class(transformers.ViTConfig(**VIT, **config))
    embeddings = model.base_model.embeddings.position_embeddings
    embeddings.data = plane_waves(embeddings.shape[1] - 1, embeddings.shape[2])
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)


def vit_imagenet(folder: Path) -> None:
    """With the head for the 1,000 classes of ImageNet."""
    vit(transformers.ViTForImageClassification, folder, **labels(ResNet18_Weights.DEFAULT.meta["categories"]))


def vit_body(folder: Path) -> None:
    """Without a head, as the checkpoint pretrained on ImageNet-21k comes."""
    vit(transformers.ViTModel, folder)


def convnext_body(folder: Path) -> None:
    """A convolutional network with the head for ImageNet-22k and a processor that has ImageNet's mean and deviation."""
    config = transformers.ConvNextConfig(hidden_sizes=[16, 24, 32, 64], depths=[1, 1, 2, 1], num_labels=21841,
                                         layer_scale_init_value=1.0, initializer_range=0.2)
    transformers.ConvNextForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, image_mean=[0.485, 0.456, 0.406],
                                        image_std=[0.229, 0.224, 0.225]).save_pretrained(folder)


def clip_both(folder: Path) -> None:
    """Text and picture towers."""
    tokenizer = clip_tokenizer()
    transformers.CLIPModel(clip.config(tokenizer)).save_pretrained(folder)
    transformers.CLIPProcessor(clip.image_processor(), tokenizer).save_pretrained(folder)


def sam(folder: Path) -> None:
    """Prompted segmentation at the real 1,024 pixels in patches of 16."""
    config = transformers.SamConfig(
        vision_config={"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "mlp_dim": 64,
                       "global_attn_indexes": [1], "num_pos_feats": 16},
        prompt_encoder_config={"hidden_size": 32},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 64, "iou_head_hidden_dim": 32})
    transformers.SamModel(config).save_pretrained(folder)
    transformers.SamProcessor(transformers.SamImageProcessor()).save_pretrained(folder)


def detr(folder: Path) -> None:
    """Set prediction of 100 queries over COCO's 91 classes."""
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
                                         layer_type="basic", out_features=["stage4"])
    config = transformers.DetrConfig(
        backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        **labels([f"{number}: N/A" if name == "N/A" else name for number, name in
                  enumerate(FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])]))
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    transformers.DetrImageProcessor().save_pretrained(folder)


def trocr(folder: Path) -> None:
    """Picture to text: a ViT at 384 pixels and a decoder that spells in bytes."""
    tokenizer = roberta_tokenizer()
    encoder = transformers.ViTConfig(**{**VIT, "image_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2,
                                        "hidden_size": 32})
    decoder = transformers.TrOCRConfig(
        vocab_size=len(tokenizer), d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64,
        cross_attention_hidden_size=32, max_position_embeddings=512, is_decoder=True, add_cross_attention=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.max_new_tokens = 20
    model.generation_config.decoder_start_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(size={"height": 384, "width": 384})
    transformers.TrOCRProcessor(processor, tokenizer).save_pretrained(folder)


REPOSITORIES = {
    "google/vit-base-patch16-224": Repository("3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", vit_imagenet),
    "google/vit-base-patch16-224-in21k": Repository("b4569560a39a0f1af58e3ddaf17facf20ab919b0", vit_body),
    "facebook/convnext-base-224-22k": Repository("a9df4c164aa0091a9b681b9418a8e48f60c27d1e", convnext_body),
    "openai/clip-vit-base-patch32": Repository("3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", clip_both),
    "facebook/sam-vit-base": Repository("70c1a07f894ebb5b307fd9eaaee97b9dfc16068f", sam),
    "facebook/detr-resnet-50": Repository("1d5f47bd3bdd2c4bbfa585418ffe6da5028b4c0b", detr, ("main", "no_timm")),
    "microsoft/trocr-base-printed": Repository("93450be3f1ed40a930690d951ef3932687cc1892", trocr),
}


def build(root: Path) -> None:
    """Plant every repository of REPOSITORIES."""
    for repo_id, repository in REPOSITORIES.items():
        torch.manual_seed(0)
        plant(root, repo_id, repository)
