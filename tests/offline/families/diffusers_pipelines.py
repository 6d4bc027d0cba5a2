"""diffusers: tiny random pipelines with the real layout, also in the fp16 variant.

Latents are an eighth of the picture and the default picture has 512 pixels, as in the real ones, so that a notebook's
own arguments run; widths are small. The repositories of 2022 keep the forms of their time: names of tensors, classes,
tokenizers without `tokenizer.json`, configurations that lack what came later.
"""
from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors import safe_open
from transformers import CLIPConfig, CLIPTextModelWithProjection

import tests.offline.clip as clip
import tests.offline.old_forms as old
from tests.offline.hub import Repository, folder_of, home, plant, planted
from tests.offline.vocabularies import clip_tokenizer, clip_vocabulary, merges, save_old

SERVES = ("diffusers",)
WIDTHS = (8, 16, 16, 16)
CROSS = {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
         "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}


def autoencoder(size: int = 512, **more) -> diffusers.AutoencoderKL:
    """Four levels: latents of 4 channels, an eighth of the picture."""
    return diffusers.AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                                   up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
                                   sample_size=size, **more)


def unet(channels: int) -> diffusers.UNet2DConditionModel:
    """The U-Net of Stable Diffusion, narrow; 4 channels in, or 9 for inpainting (latents, mask, masked latents)."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=WIDTHS, layers_per_block=1, sample_size=64, in_channels=channels, out_channels=4, **CROSS,
        cross_attention_dim=clip.WIDTH, attention_head_dim=2, norm_num_groups=4)


def checker() -> StableDiffusionSafetyChecker:
    """A safety checker whose 17 concepts no picture comes near; one that lowers a threshold gets black pictures."""
    vision = clip.vision_config()
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=512))
    for name in ("concept_embeds", "special_care_embeds"):
        embeddings = getattr(model, name)
        embeddings.data = torch.randn(embeddings.shape)
        getattr(model, f"{name}_weights").data.fill_(0.9)
    return model


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
            "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
OLD_FILES = {  # the part: what its configuration did not hold yet
    "vae": ("scaling_factor", "force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention",
            "shift_factor", "latents_mean", "latents_std", "_name_or_path"),
    "unet": ("use_linear_projection", "class_embed_type", "num_class_embeds", "upcast_attention",
             "only_cross_attention",
             "resnet_time_scale_shift", "dual_cross_attention", "num_attention_heads", "time_embedding_type",
             "attention_type", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "_name_or_path")}


def old_tokenizer(folder: Path, pad: str) -> None:
    """CLIP's tokenizer in place of the one that a pipeline has just written: there is no `tokenizer.json`."""
    shutil.rmtree(folder)
    save_old(clip_vocabulary(), merges(), folder, bos_token="<|startoftext|>", eos_token="<|endoftext|>",
             unk_token="<|endoftext|>", pad_token=pad, model_max_length=77, do_lower_case=True,
             tokenizer_class="CLIPTokenizer")


def old_pipeline(pipeline_class: type, channels: int, scheduler: str, folder: Path, pickled: bool) -> None:
    """Stable Diffusion in the files of 2022, in full precision and as the fp16 variant.

    With `pickled` the full precision lies there as pickles only, as it does where safetensors came later.
    """
    tokenizer = clip_tokenizer()
    steps = diffusers.DDIMScheduler() if scheduler == "DDIMScheduler" else diffusers.PNDMScheduler()
    pipeline = pipeline_class(vae=autoencoder(), text_encoder=clip.text_model(tokenizer), tokenizer=tokenizer,
                              unet=unet(channels), scheduler=steps, safety_checker=checker(),
                              feature_extractor=clip.image_processor())
    pipeline.save_pretrained(folder)
    old.clip_text(folder / "text_encoder")
    old.safety_checker(folder / "safety_checker")
    old.autoencoder(folder / "vae")
    for file in list(folder.glob("*/*.safetensors")):
        half = {name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in old.load_file(file).items()}
        old.save_file(half, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        if pickled:
            name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
            old.as_pickle(file.parent, file.name, name)
    for part, names in OLD_FILES.items():
        old.without(folder / part, "config.json", *names)
    old.clip_processor(folder / "feature_extractor")
    old_tokenizer(folder / "tokenizer", "<|endoftext|>")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(
        {"_class_name": scheduler, "_diffusers_version": "0.6.0", "clip_sample": False, **SCHEDULE}, indent=2))
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"_diffusers_version": "0.6.0", "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
              "scheduler": ["diffusers", scheduler],
              "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    for name in ("image_encoder", "requires_safety_checker", "_name_or_path"):
        index.pop(name, None)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def controlnet(folder: Path, half: bool, cross_attention: int = clip.WIDTH, **more) -> None:
    """A ControlNet that fits the U-Net above, in full precision or in half, or both."""
    model = diffusers.ControlNetModel(**{
        "block_out_channels": WIDTHS, "layers_per_block": 1, "in_channels": 4, "cross_attention_dim": cross_attention,
        "attention_head_dim": 2, "down_block_types": CROSS["down_block_types"], "norm_num_groups": 4,
        "conditioning_embedding_out_channels": (4, 8, 8, 8), **more})
    if half:
        model.half().save_pretrained(folder, variant="fp16")
    model.float().save_pretrained(folder)


XL = {"block_out_channels": (8, 16, 16), "transformer_layers_per_block": (1, 1, 1), "norm_num_groups": 4,
      "layers_per_block": 1, "attention_head_dim": 2, "cross_attention_dim": 2 * clip.WIDTH,
      "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
      "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
      "projection_class_embeddings_input_dim": 6 * 8 + clip.WIDTH}


def sdxl(pipeline_class: type, channels: int, size: int, scheduler: diffusers.SchedulerMixin, folder: Path) -> None:
    """Stable Diffusion XL: two text encoders, one of them with a projection; 1,024 pixels, or 512 for Turbo."""
    tokenizers = clip_tokenizer(), clip_tokenizer("!")
    second = clip.text_config(tokenizers[1])
    second.projection_dim, second.pad_token_id = clip.WIDTH, tokenizers[1].pad_token_id
    network = diffusers.UNet2DConditionModel(
        sample_size=size // 8, in_channels=channels, out_channels=4, **XL,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
    pipeline = pipeline_class(vae=autoencoder(1024, scaling_factor=0.13025, force_upcast=True),
                              text_encoder=clip.text_model(tokenizers[0]),
                              text_encoder_2=CLIPTextModelWithProjection(second).eval(), tokenizer=tokenizers[0],
                              tokenizer_2=tokenizers[1], unet=network, scheduler=scheduler)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, variant="fp16")
    pipeline.to(dtype=torch.float32).save_pretrained(folder)  # last: the configurations name the precision to load
    old.clip_text(folder / "text_encoder")
    old_tokenizer(folder / "tokenizer", "<|endoftext|>")
    old_tokenizer(folder / "tokenizer_2", "!")
    old.rename(folder / "text_encoder_2", lambda name: name if name.startswith("text_") else f"text_model.{name}")


def euler() -> diffusers.EulerDiscreteScheduler:
    """The schedule of SDXL."""
    return diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                            timestep_spacing="leading", steps_offset=1)


def turbo() -> diffusers.EulerAncestralDiscreteScheduler:
    """The schedule of the Turbo models."""
    return diffusers.EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                     timestep_spacing="trailing", steps_offset=1)


def sd_turbo(folder: Path) -> None:
    """Stable Diffusion in one step: no safety checker, a U-Net as version 2 had it."""
    tokenizer = clip_tokenizer("!")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(768), text_encoder=clip.text_model(tokenizer), tokenizer=tokenizer, unet=unet(4),
        scheduler=turbo(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, variant="fp16")
    pipeline.to(dtype=torch.float32).save_pretrained(folder)
    old.clip_text(folder / "text_encoder")
    old_tokenizer(folder / "tokenizer", "!")


def fixed_vae(folder: Path) -> None:
    """The autoencoder of SDXL that does not overflow in half precision."""
    autoencoder(1024, scaling_factor=0.13025, force_upcast=False).save_pretrained(folder)


def motion(folder: Path) -> None:
    """Motion modules between the blocks of Stable Diffusion 1.5, for 32 frames at most."""
    model = diffusers.MotionAdapter(block_out_channels=WIDTHS, motion_layers_per_block=1,
                                    motion_mid_block_layers_per_block=1, motion_num_attention_heads=2,
                                    motion_norm_num_groups=4, motion_max_seq_length=32)
    model.half().save_pretrained(folder, variant="fp16")
    model.float().save_pretrained(folder)


# --- use --------------------------------------------------------------------------------------------------------------

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def photo(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def quiet(pipeline_class: type, repo_id: str, **arguments):
    """A pipeline without its progress bars."""
    pipeline = pipeline_class.from_pretrained(repo_id, **arguments)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def in_files(repo_id: str, file: str) -> dict[str, torch.Tensor]:
    """The tensors of a planted file, under the names that they have there."""
    with safe_open(folder_of(home(), repo_id, ENTRIES[repo_id]) / file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}


def loads_old_names(repo_id: str, pipeline, suffix: str = "") -> None:
    """Tensors under the names of 2022 arrive in the networks of today."""
    text = in_files(repo_id, f"text_encoder/model{suffix}.safetensors")
    assert "text_model.embeddings.position_ids" in text
    arrived = pipeline.text_encoder.state_dict()
    arrived = {name.removeprefix("text_model."): tensor for name, tensor in arrived.items()}
    assert torch.equal(arrived["embeddings.token_embedding.weight"].float(),
                       text["text_model.embeddings.token_embedding.weight"].float())
    vae = in_files(repo_id, f"vae/diffusion_pytorch_model{suffix}.safetensors")
    attention = pipeline.vae.encoder.mid_block.attentions[0]
    assert torch.equal(attention.to_q.weight.float(), vae["encoder.mid_block.attentions.0.query.weight"].float())
    checked = in_files(repo_id, f"safety_checker/model{suffix}.safetensors")
    nested = "vision_model.vision_model.embeddings.class_embedding"
    arrived = {name.replace("vision_model.", ""): tensor for name,
                            tensor in pipeline.safety_checker.state_dict().items()}
    assert torch.equal(arrived["embeddings.class_embedding"].float(), checked[nested].float())


def use_text_to_image(repo_id: str, revision: str) -> None:
    """512 pixels, 77 tokens; the checker lets pictures pass, and turns them black when a threshold is low."""
    pipeline = quiet(diffusers.StableDiffusionPipeline, repo_id, revision=revision)
    loads_old_names(repo_id, pipeline)
    assert pipeline.tokenizer.tokenize("a cat") == ["a</w>", "cat</w>"]
    answer = pipeline("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert answer.images[0].size == (512, 512) and answer.nsfw_content_detected == [False]
    assert pipeline.tokenizer.model_max_length == 77 and pipeline.vae_scale_factor == 8
    pipeline.safety_checker.concept_embeds_weights.data.fill_(-1)
    answer = pipeline("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert answer.nsfw_content_detected == [True] and np.asarray(answer.images[0]).max() == 0
    half = diffusers.AutoPipelineForText2Image.from_pretrained(repo_id, variant="fp16", torch_dtype=torch.float16,
                                                               use_safetensors=True)
    assert half.unet.dtype == torch.float16 and type(half) is diffusers.StableDiffusionPipeline
    assert type(half.scheduler) is diffusers.PNDMScheduler


def use_inpainting(repo_id: str, revision: str) -> None:
    """Nine channels, DDIM; safetensors in half precision only."""
    pipeline = quiet(
    diffusers.AutoPipelineForInpainting,
    repo_id,
    revision=revision,
    variant="fp16",
     use_safetensors=True)
    loads_old_names(repo_id, pipeline, ".fp16")
    try:
        diffusers.StableDiffusionInpaintPipeline.from_pretrained(repo_id, revision=revision, use_safetensors=True)
    except OSError:
        pass
    else:
        raise AssertionError("the real repository has no safetensors in full precision")
    assert type(pipeline) is diffusers.StableDiffusionInpaintPipeline and pipeline.unet.config.in_channels == 9
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler and not pipeline.scheduler.config.clip_sample
    whole = quiet(diffusers.StableDiffusionInpaintPipeline, repo_id, revision=revision)
    mask = Image.new("L", (160, 120), 255)
    answer = whole("a leaf", image=photo(), mask_image=mask, num_inference_steps=2, strength=0.9)
    assert answer.images[0].size == (512, 512) and answer.nsfw_content_detected == [False]


def use_controlnet(repo_id: str, revision: str) -> None:
    """Steers Stable Diffusion by a picture."""
    control = diffusers.ControlNetModel.from_pretrained(repo_id, revision=revision)
    pipeline = quiet(diffusers.StableDiffusionControlNetPipeline, SD, controlnet=control)
    assert pipeline("a cat", image=photo((128, 128)), num_inference_steps=2).images[0].size == (128, 128)


def use_controlnet_half(repo_id: str, revision: str) -> None:
    """There in half precision, too."""
    use_controlnet(repo_id, revision)
    half = diffusers.ControlNetModel.from_pretrained(repo_id, variant="fp16", torch_dtype=torch.float16)
    assert half.dtype == torch.float16


def use_xl(repo_id: str, revision: str) -> None:
    """Two text encoders; 1,024 pixels by default."""
    pipeline = quiet(
    diffusers.AutoPipelineForText2Image,
    repo_id,
    revision=revision,
    variant="fp16",
     use_safetensors=True)
    assert type(pipeline) is diffusers.StableDiffusionXLPipeline and pipeline.unet.config.sample_size == 128
    whole = quiet(diffusers.StableDiffusionXLPipeline, repo_id, revision=revision)
    assert whole("a cat", num_inference_steps=1, height=256, width=256).images[0].size == (256, 256)


def use_xl_turbo(repo_id: str, revision: str) -> None:
    """One step without guidance gives 512 pixels; from a picture, steps times strength is at least one."""
    pipeline = quiet(diffusers.AutoPipelineForText2Image, repo_id, revision=revision)
    assert pipeline("a cat", num_inference_steps=1, guidance_scale=0.0).images[0].size == (512, 512)
    again = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    answer = again("a cat", image=photo((128, 128)), num_inference_steps=2, strength=0.5, guidance_scale=0.0)
    assert answer.images[0].size == (128, 128)


def use_xl_inpainting(repo_id: str, revision: str) -> None:
    """Nine channels in the U-Net of SDXL."""
    pipeline = quiet(diffusers.AutoPipelineForInpainting, repo_id, revision=revision)
    answer = pipeline("a leaf", image=photo((256, 256)), mask_image=Image.new("L", (256, 256), 255),
                      num_inference_steps=2,
                      strength=0.9, height=256, width=256)
    assert pipeline.unet.config.in_channels == 9 and answer.images[0].size == (256, 256)


def use_xl_control(repo_id: str, revision: str) -> None:
    """Steers SDXL by a picture."""
    control = diffusers.ControlNetModel.from_pretrained(repo_id, revision=revision)
    pipeline = quiet(diffusers.StableDiffusionXLControlNetPipeline, "stabilityai/stable-diffusion-xl-base-1.0",
                     controlnet=control)
    assert pipeline("a cat", image=photo((128, 128)), num_inference_steps=1).images[0].size == (128, 128)


def use_fixed_vae(repo_id: str, revision: str) -> None:
    """Takes the place of SDXL's own."""
    vae = diffusers.AutoencoderKL.from_pretrained(repo_id, revision=revision)
    assert vae.config.scaling_factor == 0.13025 and not vae.config.force_upcast
    with torch.inference_mode():
        assert vae.encode(torch.rand(1, 3, 64, 64)).latent_dist.mean.shape == (1, 4, 8, 8)


def use_sd_turbo(repo_id: str, revision: str) -> None:
    """One step without guidance."""
    pipeline = quiet(diffusers.AutoPipelineForText2Image, repo_id, revision=revision)
    answer = pipeline("a cat", num_inference_steps=1, guidance_scale=0.0)
    assert answer.images[0].size == (512, 512) and pipeline.safety_checker is None


def use_motion(repo_id: str, revision: str) -> None:
    """Frames from Stable Diffusion 1.5 and the schedule that the adapter was trained with."""
    adapter = diffusers.MotionAdapter.from_pretrained(repo_id, revision=revision)
    pipeline = quiet(diffusers.AnimateDiffPipeline, SD, motion_adapter=adapter)
    pipeline.scheduler = diffusers.DDIMScheduler.from_pretrained(
        SD, subfolder="scheduler", clip_sample=False, timestep_spacing="linspace", beta_schedule="linear",
        steps_offset=1)
    frames = pipeline("a cat walks", num_frames=4, num_inference_steps=2, height=64, width=64).frames[0]
    assert len(frames) == 4 and frames[0].size == (64, 64)


def files_of(parts: dict[str, str], *halves: str, pickled: bool = False) -> tuple[str, ...]:
    """The weights of a pipeline, of each part the file without ending: in half precision, and in full or pickled."""
    found = []
    for part, stem in parts.items():
        found += [f"{part}/{stem}.fp16.safetensors"]
        full = {"model": "pytorch_model"}.get(stem, stem) if pickled else stem
        found += [f"{part}/{full}.{'bin' if pickled else 'safetensors'}", f"{part}/config.json"]
    return (*found, *halves)


WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
TOKENIZER = ("tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer/tokenizer_config.json",
             "tokenizer/special_tokens_map.json")
AROUND = ("model_index.json", "scheduler/scheduler_config.json", *TOKENIZER)
OLD = (*AROUND, "feature_extractor/preprocessor_config.json")
SAFE = {**WEIGHTS, "safety_checker": "model"}
XL_FILES = (*files_of({**WEIGHTS, "text_encoder_2": "model"}, *AROUND),
            *(name.replace("tokenizer/", "tokenizer_2/") for name in TOKENIZER))
LACKS = ("tokenizer/tokenizer.json",)
CONTROL = ("config.json", "diffusion_pytorch_model.safetensors")
OPEN_RAIL = "creativeml-openrail-m"

ENTRIES: dict[str, Repository] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Repository(
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        partial(old_pipeline, diffusers.StableDiffusionPipeline, 4, "PNDMScheduler", pickled=False), use_text_to_image,
        OPEN_RAIL, files_of(SAFE, *OLD), LACKS, {
            "model_index.json": {"_class_name": "StableDiffusionPipeline"},
            "unet/config.json": {"in_channels": 4, "sample_size": 64},
            "scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}}),
    "stable-diffusion-v1-5/stable-diffusion-inpainting": Repository(
        "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
        partial(old_pipeline, diffusers.StableDiffusionInpaintPipeline,
                9, "DDIMScheduler", pickled=True), use_inpainting,
        OPEN_RAIL, files_of(SAFE, *OLD, pickled=True), (*LACKS, "unet/diffusion_pytorch_model.safetensors"), {
            "model_index.json": {"_class_name": "StableDiffusionInpaintPipeline"},
            "unet/config.json": {"in_channels": 9, "sample_size": 64},
            "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", "clip_sample": False}}),
    "lllyasviel/sd-controlnet-canny": Repository(
        "7f2f69197050967007f6bbd23ab5e52f0384162a", partial(controlnet, half=False), use_controlnet, "openrail",
        CONTROL),
    "lllyasviel/sd-controlnet-scribble": Repository(
        "864edcd5ccc6ee2695eeebea5b4512100c83e7b3", partial(controlnet, half=False), use_controlnet, "openrail",
        CONTROL),
    "lllyasviel/control_v11p_sd15_canny": Repository(
        "115a470d547982438f70198e353a921996e2e819", partial(controlnet, half=True), use_controlnet_half, "openrail",
        (*CONTROL, "diffusion_pytorch_model.fp16.safetensors")),
    "lllyasviel/control_v11f1p_sd15_depth": Repository(
        "539f99181d33db39cf1af2e517cd8056785f0a87", partial(controlnet, half=True), use_controlnet_half, "openrail",
        (*CONTROL, "diffusion_pytorch_model.fp16.safetensors")),
    "lllyasviel/control_v11p_sd15_openpose": Repository(
        "9ae9f970358db89e211b87c915f9535c6686d5ba", partial(controlnet, half=False), use_controlnet, "openrail",
        CONTROL),
    "stabilityai/stable-diffusion-xl-base-1.0": Repository(
        "462165984030d82259a11f4367a4eed129e94a7b",
        lambda folder: sdxl(diffusers.StableDiffusionXLPipeline, 4, 1024, euler(), folder), use_xl, "openrail++",
        XL_FILES, LACKS, {"unet/config.json": {"sample_size": 128},
                          "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"}}),
    "stabilityai/sdxl-turbo": Repository(
        "71153311d3dbb46851df1931d3ca6e939de83304",
        lambda folder: sdxl(diffusers.StableDiffusionXLPipeline, 4, 512, turbo(), folder), use_xl_turbo, "other",
        XL_FILES, LACKS, {"unet/config.json": {"sample_size": 64},
                          "scheduler/scheduler_config.json": {"_class_name": "EulerAncestralDiscreteScheduler"}}),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": Repository(
        "115134f363124c53c7d878647567d04daf26e41e",
        lambda folder: sdxl(diffusers.StableDiffusionXLInpaintPipeline, 9, 1024, euler(), folder), use_xl_inpainting,
        "openrail++", XL_FILES, LACKS, {"unet/config.json": {"in_channels": 9}}),
    "diffusers/controlnet-canny-sdxl-1.0": Repository(
        "eb115a19a10d14909256db740ed109532ab1483c",
        lambda folder: controlnet(folder, True, **{k: v for k, v in XL.items() if k != "cross_attention_dim"},
                                  cross_attention=2 * clip.WIDTH),
        use_xl_control, "openrail++", (*CONTROL, "diffusion_pytorch_model.fp16.safetensors")),
    "madebyollin/sdxl-vae-fp16-fix": Repository(
        "207b116dae70ace3637169f1ddd2434b91b3a8cd", fixed_vae, use_fixed_vae, "mit", CONTROL, config={
            "config.json": {"scaling_factor": 0.13025, "force_upcast": False}}),
    "stabilityai/sd-turbo": Repository(
        "b261bac6fd2cf515557d5d0707481eafa0485ec2", sd_turbo, use_sd_turbo, "other", files_of(WEIGHTS, *AROUND), LACKS),
    "guoyww/animatediff-motion-adapter-v1-5-2": Repository(
        "6167b88ffe39b4441fdf2113e77b99a6f56b7906", motion, use_motion, "apache-2.0",
        (*CONTROL, "diffusion_pytorch_model.fp16.safetensors")),
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
