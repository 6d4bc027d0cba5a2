"""transformers: repositories with tiny random models, their processors and tokenizers.

What a reader sees keeps its real size (picture size, patches, tokens, labels); width and depth are small.
"""
from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from timm.data import ImageNetInfo
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

import tests.offline.clip as clip
import tests.offline.old_forms as old
from tests.offline.hub import Repository, folder_of, home, plant, planted
from tests.offline.vocabularies import (
    ROBERTA,
    bert_tokenizer,
    clip_tokenizer,
    gpt2_tokenizer,
    roberta_tokenizer,
    save_old,
)

SERVES = ("transformers", "huggingface_hub")
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
    """A ViT of patches of 16 pixels."""
    model = model_class(transformers.ViTConfig(**VIT, **config))
    embeddings = model.base_model.embeddings.position_embeddings
    embeddings.data = plane_waves(embeddings.shape[1] - 1, embeddings.shape[2])
    model.save_pretrained(folder)


def imagenet_names() -> list[str]:
    """The 1,000 classes of ImageNet under the names that the hub's models have: all synonyms."""
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(number) for number in range(1000)]


def vit_imagenet(folder: Path) -> None:
    """With the head for the 1,000 classes of ImageNet."""
    vit(transformers.ViTForImageClassification, folder, **labels(imagenet_names()))
    transformers.ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)


def vit_body(folder: Path) -> None:
    """Without a head, as the checkpoint pretrained on ImageNet-21k comes, with the processor of its time."""
    vit(transformers.ViTModel, folder)
    old.vit_processor(folder, 224)


def convnext_body(folder: Path) -> None:
    """A convolutional network with the head for ImageNet-22k and a processor that has ImageNet's mean and deviation."""
    config = transformers.ConvNextConfig(hidden_sizes=[16, 24, 32, 64], depths=[1, 1, 2, 1], num_labels=21841,
                                         layer_scale_init_value=1.0, initializer_range=0.2)
    transformers.ConvNextForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, image_mean=[0.485, 0.456, 0.406],
                                        image_std=[0.229, 0.224, 0.225]).save_pretrained(folder)


def clip_both(folder: Path) -> None:
    """Text and picture towers, the numbers of the positions stored beside them, as until 2023."""
    tokenizer = clip_tokenizer()
    transformers.CLIPModel(clip.config(tokenizer)).save_pretrained(folder)
    transformers.CLIPProcessor(clip.image_processor(), tokenizer).save_pretrained(folder)
    old.rename(folder, lambda name: name, {"text_model.embeddings.position_ids": torch.arange(77)[None],
                                           "vision_model.embeddings.position_ids": torch.arange(50)[None]})
    (folder / "processor_config.json").unlink(missing_ok=True)
    old.clip_processor(folder)


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
    old.processor(folder)


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
    """Picture to text: a ViT at 384 pixels and a decoder that spells in bytes; a pickle, and no `tokenizer.json`."""
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
    old.as_pickle(folder, "model.safetensors", "pytorch_model.bin")
    old.vit_processor(folder, 384, feature_extractor_type="ViTFeatureExtractor")
    save_old(ROBERTA, [], folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>", sep_token="</s>",
             pad_token="<pad>", cls_token="<s>", mask_token="<mask>", tokenizer_class="RobertaTokenizer",
             model_max_length=512)


def blip_config(tokenizer) -> transformers.BlipConfig:
    """A narrow BLIP at its 384 pixels."""
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64,
            "projection_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"), "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 384, "patch_size": 16}
    return transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)


def blip(model_class: type, folder: Path) -> None:
    """Sentences about pictures, or answers to questions about them; with the tokens that begin a sentence."""
    tokenizer = bert_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    model_class(blip_config(tokenizer)).save_pretrained(folder)
    transformers.BlipProcessor(transformers.BlipImageProcessor(), tokenizer).save_pretrained(folder)
    old.processor(folder)


SMOL_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|im_start|>",
               *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def smolvlm(folder: Path) -> None:
    """A small vision-language model: parts of 512 pixels, 64 tokens each, and a chat."""
    tokenizer = gpt2_tokenizer(SMOL_TOKENS)
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192,
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
            "eos_token_id": tokenizer.convert_tokens_to_ids("<end_of_utterance>")}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 512, "patch_size": 16}
    config = transformers.Idefics3Config(
        text_config=text, vision_config=vision, scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id)
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512})
    transformers.Idefics3Processor(images, tokenizer, image_seq_len=64,
                                   chat_template=SMOL_TEMPLATE).save_pretrained(folder)
    old.processor(folder, image_seq_len=64)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": SMOL_TEMPLATE}))


def clap(folder: Path) -> None:
    """Sound and text: 10 seconds at 48 kHz; a pickle."""
    tokenizer = roberta_tokenizer()
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2,
        2],
             "projection_dim": 512}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 514, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    transformers.ClapModel(transformers.ClapConfig(text_config=text, audio_config=audio)).save_pretrained(folder)
    old.as_pickle(folder, "model.safetensors", "pytorch_model.bin")
    transformers.ClapProcessor(
    transformers.ClapFeatureExtractor(
        truncation="rand_trunc"),
         tokenizer).save_pretrained(folder)
    old.processor(folder, "feature_extractor")


def owlv2(folder: Path) -> None:
    """Boxes for words: pictures padded to 960 pixels in patches of 16, 16 tokens a text."""
    tokenizer = clip_tokenizer("!")
    text = {**clip.text_config(tokenizer).to_dict(), "max_position_embeddings": 16, "model_type": "owlv2_text_model"}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 960, "patch_size": 16}
    transformers.Owlv2ForObjectDetection(transformers.Owlv2Config(
        text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    tokenizer.model_max_length = 16
    transformers.Owlv2Processor(transformers.Owlv2ImageProcessor(), tokenizer).save_pretrained(folder)
    old.processor(folder)


def grounding_dino(folder: Path) -> None:
    """Boxes for phrases: a Swin, a BERT, and 900 queries; the shorter side has 800 pixels."""
    tokenizer = bert_tokenizer()
    backbone = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=7,
                                       image_size=224, out_indices=[2, 3, 4])
    text = {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=900)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    transformers.GroundingDinoProcessor(transformers.GroundingDinoImageProcessor(), tokenizer).save_pretrained(folder)
    old.processor(folder)


def sam2(folder: Path) -> None:
    """Prompted segmentation at 1,024 pixels, of pictures and of videos: a small Hiera and the memory."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, blocks_per_stage=[1, 2, 3, 1], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8], window_size_per_stage=[8, 4, 14, 7], global_attention_blocks=[5])
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16],
                                           fpn_hidden_size=128)
    config = transformers.Sam2VideoConfig(
        vision_config=vision, memory_attention_num_layers=1, memory_fuser_num_layers=1,
        memory_attention_hidden_size=128, memory_attention_feed_forward_hidden_size=64, memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64, memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=64,
        mask_downsampler_embed_dim=128,
        prompt_encoder_config=transformers.Sam2VideoPromptEncoderConfig(hidden_size=128),
        mask_decoder_config=transformers.Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=64, iou_head_hidden_dim=64))
    transformers.Sam2VideoModel(config).save_pretrained(folder)
    images = getattr(transformers, "Sam2ImageProcessor", None) or transformers.Sam2ImageProcessorFast  # before 5.2
    transformers.Sam2VideoProcessor(images(),
                                    transformers.Sam2VideoVideoProcessor()).save_pretrained(folder)


def depth_anything(folder: Path) -> None:
    """Depth, near is large: a DINOv2 at 518 pixels in patches of 14."""
    backbone = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=518, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False)
    transformers.DepthAnythingForDepthEstimation(transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 24], fusion_hidden_size=8,
        head_hidden_size=8)).save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]).save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """Text and picture towers trained with a sigmoid: 224 pixels, 64 tokens."""
    tokenizer = bert_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 64, "projection_size": 32,
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.sep_token_id}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 224, "patch_size": 16}
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)


def layoutlm(folder: Path) -> None:
    """Text, its places on a page and the page's picture; words and boxes come from the caller."""
    tokenizer = roberta_tokenizer()
    transformers.LayoutLMv3Model(transformers.LayoutLMv3Config(
        vocab_size=len(tokenizer), hidden_size=36, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=514, coordinate_size=6, shape_size=6, input_size=224,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)).save_pretrained(folder)
    transformers.LayoutLMv3ImageProcessor(apply_ocr=False).save_pretrained(folder)
    transformers.LayoutLMv3Tokenizer(vocab=ROBERTA, merges=[], model_max_length=512).save_pretrained(folder)


def videomae(folder: Path) -> None:
    """Clips of 16 frames of 224 pixels, 400 actions."""
    transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_frames=16, image_size=224,
        num_labels=400)).save_pretrained(folder)
    transformers.VideoMAEImageProcessor().save_pretrained(folder)


def swin2sr(folder: Path) -> None:
    """Four times as many pixels each way."""
    transformers.Swin2SRForImageSuperResolution(transformers.Swin2SRConfig(
        embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=8, upscale=4, image_size=64)).save_pretrained(folder)
    transformers.Swin2SRImageProcessor(size_divisor=8).save_pretrained(folder)


# --- use --------------------------------------------------------------------------------------------------------------

def photo() -> Image.Image:
    """A picture of noise, 160 by 120 pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))


def whole(model_class: type, repo_id: str, revision: str | None, new: str = "-", unused: str = "-", **arguments):
    """A model from the hub, for evaluation: every tensor came from the checkpoint, and all that it holds was used.

    Names that begin with `new` may be new (heads that are still to be trained), and those that begin with `unused` may
    stay behind; the numbers of the positions are no weights.
    """
    model, told = model_class.from_pretrained(repo_id, revision=revision, output_loading_info=True, **arguments)
    missing = [name for name in told["missing_keys"] if not name.startswith(new)]
    left = [name for name in told["unexpected_keys"] if not name.startswith(
        unused) and not name.endswith("position_ids")]
    assert not missing and not left and not told["mismatched_keys"], (missing, left, told["mismatched_keys"])
    return model.eval()


def keys(repo_id: str, file: str = "model.safetensors") -> set[str]:
    """The names of the tensors in a checkpoint of this family, as they are on the disk."""
    with safe_open(folder_of(home(), repo_id, ENTRIES[repo_id]) / file, "pt") as opened:
        return set(opened.keys())


def use_vit_imagenet(repo_id: str, revision: str) -> None:
    """197 tokens, 1,000 names, position embeddings as trained ones are; the checkpoint has the names of 2021."""
    assert "vit.encoder.layer.0.attention.attention.query.weight" in keys(repo_id)
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    model = whole(transformers.AutoModelForImageClassification, repo_id, revision, attn_implementation="eager")
    inputs = processor(photo(), return_tensors="pt")
    with torch.inference_mode():
        answer = model(**inputs, output_attentions=True, output_hidden_states=True)
    positions = model.vit.embeddings.position_embeddings[0, 1:].detach()
    alike = torch.nn.functional.cosine_similarity(positions[97:98], positions).reshape(14, 14)  # to row 6, column 13
    assert inputs["pixel_values"].shape == (1, 3, 224, 224) and answer.logits.shape == (1, 1000)
    assert answer.hidden_states[0].shape[1] == answer.attentions[0].shape[-1] == 197 and alike[6, 12] > alike[6, 3]
    assert model.config.id2label[281] == "tabby, tabby cat"


def use_vit_body(repo_id: str, revision: str) -> None:
    """A new head on the body; a processor without a type."""
    body = whole(transformers.ViTModel, repo_id, revision)
    fresh = whole(transformers.ViTForImageClassification, repo_id, revision, "classifier", "pooler", num_labels=3)
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    assert fresh(**processor(photo(), return_tensors="pt")).logits.shape == (1, 3)
    assert torch.equal(fresh.vit.embeddings.cls_token, body.embeddings.cls_token)


def use_convnext(repo_id: str, revision: str) -> None:
    """A new head in place of one for 21,841 classes."""
    fresh = transformers.AutoModelForImageClassification.from_pretrained(
        repo_id, revision=revision, num_labels=3, ignore_mismatched_sizes=True)
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    assert fresh(**processor(photo(), return_tensors="pt")).logits.shape == (1, 3)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]


def use_clip(repo_id: str, revision: str) -> None:
    """77 tokens, 224 pixels, one number for each pair; features come as an object."""
    processor = transformers.CLIPProcessor.from_pretrained(repo_id, revision=revision)
    both = processor(text=["a photo of a cat", "a dog"], images=photo(), return_tensors="pt", padding="max_length")
    model = whole(transformers.CLIPModel, repo_id, revision)
    assert both["input_ids"].shape == (2, 77) and both["pixel_values"].shape == (1, 3, 224, 224)
    assert model(**both).logits_per_image.shape == (1, 2)
    assert model.get_image_features(pixel_values=both["pixel_values"]).pooler_output.shape == (1, 512)
    assert processor.tokenizer.tokenize("a photo of a cat") == ["a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>"]


def use_sam(repo_id: str, revision: str) -> None:
    """Three masks for a point, in the picture's size."""
    processor = transformers.SamProcessor.from_pretrained(repo_id, revision=revision)
    points = processor(photo(), input_points=[[[40, 30]]], return_tensors="pt")
    with torch.inference_mode():
        answer = whole(transformers.SamModel, repo_id, revision)(**points)
    masks = processor.image_processor.post_process_masks(answer.pred_masks, points["original_sizes"],
                                                         points["reshaped_input_sizes"])
    assert points["pixel_values"].shape == (1, 3, 1024, 1024) and masks[0].shape == (1, 3, 120, 160)


def use_detr(repo_id: str, revision: str) -> None:
    """100 queries over 91 classes and nothing; the branch without timm; it can be trained."""
    processor = transformers.DetrImageProcessor.from_pretrained(repo_id, revision="no_timm")
    model = whole(transformers.DetrForObjectDetection, repo_id, "no_timm")
    labelled = [{"class_labels": torch.tensor([17]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    inputs = processor(photo(), return_tensors="pt", size={"shortest_edge": 120, "longest_edge": 200})
    answer = model(**inputs, labels=labelled)
    answer.loss.backward()
    boxes = processor.post_process_object_detection(answer, threshold=0.0, target_sizes=[(120, 160)])[0]["boxes"]
    assert answer.logits.shape == (1, 100, 92) and boxes.shape == (100, 4) and model.config.id2label[17] == "cat"


def use_trocr(repo_id: str, revision: str) -> None:
    """The processor is built of parts: there is no `tokenizer.json`. What is written can be trained and read."""
    processor = transformers.TrOCRProcessor(
        image_processor=transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision),
        tokenizer=transformers.RobertaTokenizer.from_pretrained(repo_id, revision=revision))
    model = whole(transformers.VisionEncoderDecoderModel, repo_id, revision, "encoder.pooler")
    pixels = processor(photo(), return_tensors="pt").pixel_values
    written = processor.tokenizer("total 7.50", return_tensors="pt").input_ids
    model(pixel_values=pixels, labels=written).loss.backward()
    assert pixels.shape == (1, 3, 384, 384) and model.generate(pixels).ndim == 2
    assert processor.tokenizer.decode(written[0], skip_special_tokens=True) == "total 7.50"


def use_blip_vqa(repo_id: str, revision: str) -> None:
    """An answer to a question about a picture."""
    processor = transformers.BlipProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(photo(), "is there a cat in the picture?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 384, 384)
    answer = whole(transformers.BlipForQuestionAnswering, repo_id, revision).generate(**inputs, max_new_tokens=4)
    assert isinstance(processor.decode(answer[0], skip_special_tokens=True), str)


def use_blip_captioning(repo_id: str, revision: str) -> None:
    """A sentence about a picture, free or begun; it can be trained."""
    processor = transformers.BlipProcessor.from_pretrained(repo_id, revision=revision)
    model = whole(transformers.BlipForConditionalGeneration, repo_id, revision)
    inputs = processor(photo(), "a photo of", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 1
    model(**inputs, labels=inputs["input_ids"]).loss.backward()


def use_smolvlm(repo_id: str, revision: str) -> None:
    """A chat about a picture, which becomes several parts of 512 pixels."""
    processor = transformers.AutoProcessor.from_pretrained(repo_id, revision=revision)
    model = whole(transformers.AutoModelForImageTextToText, repo_id, revision, dtype=torch.float32)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[photo()], return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (512, 512) and prompt.endswith("Assistant:")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 64 * inputs["pixel_values"].shape[1]
    with torch.inference_mode():
        assert model.generate(**inputs, max_new_tokens=3).shape[1] >= inputs["input_ids"].shape[1]


def use_clap(repo_id: str, revision: str) -> None:
    """A sound of 48 kHz beside two texts."""
    processor = transformers.ClapProcessor.from_pretrained(repo_id, revision=revision)
    sound = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    inputs = processor(
    text=[
        "a dog barks",
        "rain"],
        audio=sound,
        sampling_rate=48_000,
        return_tensors="pt",
         padding=True)
    model = whole(transformers.ClapModel, repo_id, revision)
    with torch.inference_mode():
        assert model(**inputs).logits_per_audio.shape == (1, 2)
        assert model.get_text_features(**processor(text=["rain"], return_tensors="pt")).pooler_output.shape == (1, 512)


def use_owlv2(repo_id: str, revision: str) -> None:
    """Boxes and the texts they belong to."""
    processor = transformers.Owlv2Processor.from_pretrained(repo_id, revision=revision)
    inputs = processor(text=[["a photo of a cat", "a dog"]], images=photo(), return_tensors="pt")
    with torch.inference_mode():
        answer = whole(transformers.Owlv2ForObjectDetection, repo_id, revision)(**inputs)
    found = processor.post_process_grounded_object_detection(answer, threshold=0.0, target_sizes=[(120, 160)],
                                                             text_labels=[["cat", "dog"]])[0]
    assert inputs["pixel_values"].shape == (1, 3, 960, 960) and inputs["input_ids"].shape == (2, 16)
    assert len(found["boxes"]) > 3000 and set(found["text_labels"]) <= {"cat", "dog"}


def use_grounding_dino(repo_id: str, revision: str) -> None:
    """Boxes for phrases that end in a full stop."""
    processor = transformers.AutoProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(images=photo(), text="a cat. a dog.", return_tensors="pt",
                       size={"shortest_edge": 240, "longest_edge": 400})
    with torch.inference_mode():
        answer = whole(transformers.AutoModelForZeroShotObjectDetection, repo_id, revision)(**inputs)
    found = processor.post_process_grounded_object_detection(
        answer, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(120, 160)])[0]
    assert answer.logits.shape[1] == 900 and found["boxes"].shape == (900, 4)


def use_sam2(repo_id: str, revision: str) -> None:
    """Masks for a point in a picture, and through a video."""
    processor = transformers.Sam2Processor.from_pretrained(repo_id, revision=revision)
    points = processor(images=photo(), input_points=[[[[40, 30]]]], input_labels=[[[1]]], return_tensors="pt")
    model = transformers.Sam2Model.from_pretrained(repo_id, revision=revision).eval()
    with torch.inference_mode():
        answer = model(**points)
    masks = processor.post_process_masks(answer.pred_masks, points["original_sizes"])
    assert points["pixel_values"].shape == (1, 3, 1024, 1024) and masks[0].shape == (1, 3, 120, 160)
    video = whole(transformers.Sam2VideoModel, repo_id, revision)
    processor = transformers.Sam2VideoProcessor.from_pretrained(repo_id, revision=revision)
    session = processor.init_video_session(video=[photo()] * 2, inference_device="cpu")
    processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=1, input_points=[[[[40, 30]]]],
                                              input_labels=[[[1]]])
    with torch.inference_mode():
        frames = [frame.pred_masks.shape for frame in video.propagate_in_video_iterator(session, start_frame_idx=0)]
    assert len(frames) == 2 and frames[0] == (1, 1, 256, 256)


def use_depth_anything(repo_id: str, revision: str) -> None:
    """One number a pixel, in the size of the picture."""
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(photo(), return_tensors="pt")
    with torch.inference_mode():
        answer = whole(transformers.AutoModelForDepthEstimation, repo_id, revision)(**inputs)
    assert inputs["pixel_values"].shape == (1, 3, 392, 518)
    depth = processor.post_process_depth_estimation(answer, target_sizes=[(120, 160)])[0]["predicted_depth"]
    assert depth.shape == (120, 160)


def use_siglip2(repo_id: str, revision: str) -> None:
    """Texts padded to 64 tokens, one number for each pair."""
    processor = transformers.AutoProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(
    text=[
        "a cat",
        "a dog"],
        images=photo(),
        padding="max_length",
        max_length=64,
         return_tensors="pt")
    with torch.inference_mode():
        assert whole(transformers.AutoModel, repo_id, revision)(**inputs).logits_per_image.shape == (1, 2)
    assert inputs["input_ids"].shape == (2, 64) and inputs["pixel_values"].shape == (1, 3, 224, 224)


def use_layoutlm(repo_id: str, revision: str) -> None:
    """One class for each token of a page whose words and boxes the caller brings."""
    processor = transformers.LayoutLMv3Processor(
        transformers.LayoutLMv3ImageProcessor.from_pretrained(repo_id, revision=revision, apply_ocr=False),
        transformers.LayoutLMv3TokenizerFast.from_pretrained(repo_id, revision=revision))
    page = processor(photo(), ["total", "7.50"], boxes=[[10, 10, 200, 40], [300, 10, 400, 40]], word_labels=[0, 1],
                     return_tensors="pt")
    model = whole(transformers.LayoutLMv3ForTokenClassification, repo_id, revision, "classifier", num_labels=3)
    answer = model(**page)
    answer.loss.backward()
    assert answer.logits.shape == (1, page["input_ids"].shape[1], 3)


def use_videomae(repo_id: str, revision: str) -> None:
    """400 logits of a clip (batch, time, channels, height, width)."""
    processor = transformers.VideoMAEImageProcessor.from_pretrained(repo_id, revision=revision)
    clip_of_16 = processor([photo()] * 16, return_tensors="pt")
    assert clip_of_16["pixel_values"].shape == (1, 16, 3, 224, 224)
    with torch.inference_mode():
        model = whole(transformers.VideoMAEForVideoClassification, repo_id, revision)
        assert model(**clip_of_16).logits.shape == (1, 400)


def use_swin2sr(repo_id: str, revision: str) -> None:
    """Four times the padded picture."""
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(photo().crop((0, 0, 30, 20)), return_tensors="pt")
    with torch.inference_mode():
        answer = whole(transformers.Swin2SRForImageSuperResolution, repo_id, revision)(**inputs)
    assert answer.reconstruction.shape[-2:] == tuple(4 * side for side in inputs["pixel_values"].shape[-2:])


IMAGE_ONLY = ("config.json", "model.safetensors", "preprocessor_config.json")
WITH_TEXT = (*IMAGE_ONLY, "tokenizer.json", "tokenizer_config.json")

ENTRIES = {
    "google/vit-base-patch16-224": Repository(
        "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", vit_imagenet, use_vit_imagenet, "apache-2.0", IMAGE_ONLY, config={
            "config.json": {"image_size": 224, "patch_size": 16, "id2label.281": "tabby, tabby cat"}}),
    "google/vit-base-patch16-224-in21k": Repository(
        "b4569560a39a0f1af58e3ddaf17facf20ab919b0", vit_body, use_vit_body, "apache-2.0", IMAGE_ONLY, config={
            "config.json": {"image_size": 224, "patch_size": 16}, "preprocessor_config.json": {"image_mean": [0.5, 0.5,
                0.5]}}),
    "facebook/convnext-base-224-22k": Repository(
        "a9df4c164aa0091a9b681b9418a8e48f60c27d1e", convnext_body, use_convnext, "apache-2.0", IMAGE_ONLY, config={
            "preprocessor_config.json": {"crop_pct": 0.875, "image_mean": [0.485, 0.456, 0.406]}}),
    "openai/clip-vit-base-patch32": Repository(
        "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", clip_both, use_clip, None, WITH_TEXT, config={
            "config.json": {"projection_dim": 512}}),
    "facebook/sam-vit-base": Repository(
        "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f", sam, use_sam, "apache-2.0", IMAGE_ONLY),
    "facebook/detr-resnet-50": Repository(
        "1d5f47bd3bdd2c4bbfa585418ffe6da5028b4c0b", detr, use_detr, "apache-2.0", IMAGE_ONLY, config={
            "config.json": {"num_queries": 100, "id2label.17": "cat"}}, refs=("main", "no_timm")),
    "microsoft/trocr-base-printed": Repository(
        "93450be3f1ed40a930690d951ef3932687cc1892", trocr, use_trocr, None,
        ("config.json", "pytorch_model.bin", "preprocessor_config.json", "vocab.json", "merges.txt",
         "tokenizer_config.json",
         "special_tokens_map.json", "generation_config.json"), lacks=("tokenizer.json",), config={
            "config.json": {"encoder.image_size": 384}}),
    "microsoft/trocr-base-handwritten": Repository(
        "eaacaf452b06415df8f10bb6fad3a4c11e609406", trocr, use_trocr, None,
        ("config.json", "pytorch_model.bin", "preprocessor_config.json", "vocab.json", "merges.txt",
         "tokenizer_config.json",
         "special_tokens_map.json", "generation_config.json"), lacks=("tokenizer.json",), config={
            "config.json": {"encoder.image_size": 384}}),
    "microsoft/layoutlmv3-base": Repository(
        "cfbbbff0762e6aab37086fdd4739ad14fe7d5db4", layoutlm, use_layoutlm, "cc-by-nc-sa-4.0",
        ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
        config={
            "config.json": {"input_size": 224, "max_position_embeddings": 514}}),
    "Salesforce/blip-vqa-base": Repository(
        "787b3d35d57e49572baabd22884b3d5a05acf072", partial(blip, transformers.BlipForQuestionAnswering), use_blip_vqa,
        "bsd-3-clause", (*WITH_TEXT, "generation_config.json"),
        config={"preprocessor_config.json": {"size.height": 384}}),
    "Salesforce/blip-image-captioning-base": Repository(
        "82a37760796d32b1411fe092ab5d4e227313294b", partial(blip, transformers.BlipForConditionalGeneration),
        use_blip_captioning, "bsd-3-clause", (*WITH_TEXT, "generation_config.json"),
        config={"preprocessor_config.json": {"size.height": 384}}),
    "HuggingFaceTB/SmolVLM-256M-Instruct": Repository(
        "7e3e67edbbed1bf9888184d9df282b700a323964", smolvlm, use_smolvlm, "apache-2.0",
        (*WITH_TEXT, "processor_config.json", "generation_config.json", "chat_template.json"), config={
            "config.json": {"model_type": "idefics3", "scale_factor": 4, "vision_config.image_size": 512}}),
    "google/siglip2-base-patch16-224": Repository(
        "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2", siglip2, use_siglip2, "apache-2.0", WITH_TEXT, config={
            "config.json": {"vision_config.image_size": 224}}),
    "google/owlv2-base-patch16-ensemble": Repository(
        "cfd3195ba4ea9592eec887ded089f4c08eff231d", owlv2, use_owlv2, "apache-2.0", WITH_TEXT, config={
            "config.json": {"vision_config.image_size": 960}}),
    "IDEA-Research/grounding-dino-tiny": Repository(
        "a2bb814dd30d776dcf7e30523b00659f4f141c71", grounding_dino, use_grounding_dino, "apache-2.0", WITH_TEXT,
        config={
            "config.json": {"num_queries": 900}}),
    "facebook/sam2.1-hiera-tiny": Repository(
        "de431c4043854a71d8101e17995dfe596bf101a5", sam2, use_sam2, "apache-2.0",
        ("config.json", "model.safetensors", "processor_config.json"),
        config={"config.json": {"model_type": "sam2_video"}}),
    "laion/clap-htsat-unfused": Repository(
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a", clap, use_clap, "apache-2.0",
        ("config.json", "pytorch_model.bin", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
        config={
            "preprocessor_config.json": {"sampling_rate": 48000}}),
    "depth-anything/Depth-Anything-V2-Small-hf": Repository(
        "5426e4f0f36572d16453bbda7a8389317b1bef99", depth_anything, use_depth_anything, "apache-2.0", IMAGE_ONLY,
        config={
            "preprocessor_config.json": {"size.height": 518, "ensure_multiple_of": 14}}),
    "MCG-NJU/videomae-base-finetuned-kinetics": Repository(
        None, videomae, use_videomae, "cc-by-nc-4.0", IMAGE_ONLY, config={
            "config.json": {"num_frames": 16, "image_size": 224}}),
    "caidas/swin2SR-classical-sr-x4-64": Repository(
        "c69ef3e2d2ac5777ff4a9f2f5afcd86d20604b7e", swin2sr, use_swin2sr, "apache-2.0", IMAGE_ONLY, config={
            "config.json": {"upscale": 4}}),
}


def use(name: str) -> None:
    """Load one repository inside the world and use it; its files and its configurations are as they are claimed."""
    planted(home(), name, ENTRIES[name])
    torch.manual_seed(0)
    ENTRIES[name].use(name, ENTRIES[name].revision)


def build(root: Path) -> None:
    """Plant every repository of ENTRIES."""
    for repo_id, repository in ENTRIES.items():
        torch.manual_seed(0)
        plant(root, repo_id, repository)
