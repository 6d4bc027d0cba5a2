"""Tiny CLIP parts, shared by the CLIP repository and by the diffusion pipelines: 77 tokens, pictures of 224 pixels."""
from __future__ import annotations

from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32  # of the text model; the pipelines' cross attention reads it


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """A text model of two layers for this tokenizer."""
    return CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=2, projection_dim=512, max_position_embeddings=77,
                          bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                          pad_token_id=tokenizer.pad_token_id)


def text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The random text encoder of a diffusion pipeline."""
    return CLIPTextModel(text_config(tokenizer)).eval()


def vision_config(width: int = 32) -> dict:
    """A vision model of patches of 32 pixels in pictures of 224."""
    return {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 224, "patch_size": 32, "projection_dim": 512}


def image_processor() -> CLIPImageProcessor:
    """CLIP's own: 224 pixels, its own mean and spread."""
    return CLIPImageProcessor()


def config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Both towers of a tiny CLIP ViT-B/32."""
    return CLIPConfig(text_config=text_config(tokenizer).to_dict(), vision_config=vision_config(), projection_dim=512)
