"""diffusers: tiny random pipelines with the real layout, also in the fp16 variant.

Latents are an eighth of the picture and the default picture has 512 pixels, as in the real ones, so that a notebook's
own arguments run; widths are small.
"""
from __future__ import annotations

from pathlib import Path

import diffusers
import torch

from tests.offline import clip
from tests.offline.hub import Repository, plant
from tests.offline.vocabularies import clip_tokenizer

WIDTHS = (8, 16, 16, 16)


def autoencoder() -> diffusers.AutoencoderKL:
    """Four levels: latents of 4 channels, an eighth of the picture."""
    return diffusers.AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                                   up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
                                   sample_size=512)


def unet(channels: int) -> diffusers.UNet2DConditionModel:
    """The U-Net of Stable Diffusion, narrow; 4 channels in, or 9 for inpainting (latents, mask, masked latents)."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=WIDTHS, layers_per_block=1, sample_size=64, in_channels=channels, out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=clip.WIDTH, attention_head_dim=2, norm_num_groups=4)


def scheduler() -> diffusers.PNDMScheduler:
    """The schedule of Stable Diffusion 1.x."""
    return diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                   skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)


def save(pipeline_class: type, channels: int, folder: Path) -> None:
    """A Stable Diffusion pipeline, in full precision and as the fp16 variant; without a safety checker."""
    tokenizer = clip_tokenizer()
    pipeline = pipeline_class(vae=autoencoder(), text_encoder=clip.text_model(tokenizer), tokenizer=tokenizer,
                              unet=unet(channels),
                              scheduler=scheduler(), safety_checker=None, feature_extractor=clip.image_processor(),
                              requires_safety_checker=False)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, variant="fp16")
    pipeline.to(dtype=torch.float32).save_pretrained(folder)  # last: the configurations name the precision to load


def text_to_image(folder: Path) -> None:
    """Stable Diffusion 1.5."""
    save(diffusers.StableDiffusionPipeline, 4, folder)


def inpainting(folder: Path) -> None:
    """Stable Diffusion for inpainting."""
    save(diffusers.StableDiffusionInpaintPipeline, 9, folder)


def canny(folder: Path) -> None:
    """A ControlNet that fits the U-Net above."""
    diffusers.ControlNetModel(
        block_out_channels=WIDTHS, layers_per_block=1, in_channels=4, cross_attention_dim=clip.WIDTH,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 8, 8, 8)).save_pretrained(folder)


REPOSITORIES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Repository("451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                                                              text_to_image),
    "stable-diffusion-v1-5/stable-diffusion-inpainting": Repository("8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
                                                                    inpainting),
    "lllyasviel/sd-controlnet-canny": Repository("7f2f69197050967007f6bbd23ab5e52f0384162a", canny),
}


def build(root: Path) -> None:
    """Plant every repository of REPOSITORIES."""
    for repo_id, repository in REPOSITORIES.items():
        torch.manual_seed(0)
        plant(root, repo_id, repository)
