"""Small pipelines of diffusers with random weights, one family a function; nothing is loaded.

Prompts are given as embeddings, so most have neither text encoder nor tokenizer. A family is a
pipeline and the arguments of a call, without the generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from diffusers.utils import logging

logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)

Family = tuple[Any, dict[str, Any]]
FAMILIES: dict[str, Callable[[], Family]] = {}


def family(make: Callable[[], Family]) -> Callable[[], Family]:
    def made() -> Family:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            pipe, call = make()
        pipe.set_progress_bar_config(disable=True)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
        return pipe, {"num_inference_steps": 5, **call}

    FAMILIES[make.__name__] = made
    return made


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


# ---- U-Nets ------------------------------------------------------------------------------------

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD = {"height": 16, "width": 16, "output_type": "pt"}


def unet(channels: int = 4, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            **more,
        }
    )


def vae(**more: Any) -> Any:
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 16,
            **more,
        }
    )


def scheduler(name: str = "DDIMScheduler", **more: Any) -> Any:
    kind = getattr(diffusers, name)
    wanted = {**BETAS, "clip_sample": False, "steps_offset": 1, **more}
    known = kind.__init__.__wrapped__.__code__.co_varnames
    return kind(**{key: value for key, value in wanted.items() if key in known})


def sd_pipe(kind: str, channels: int = 4, **more: Any) -> Any:
    parts = {"unet": unet(channels), "vae": vae(), "scheduler": scheduler(), **more}
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    return getattr(diffusers, kind)(**nothing, **parts, requires_safety_checker=False)


def sd_call(**more: Any) -> dict[str, Any]:
    embeds = {"prompt_embeds": noise(1, 7, 8), "negative_prompt_embeds": noise(1, 7, 8)}
    return {**embeds, **SD, **more}


def picture(size: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, size, size)


def mask(size: int = 16) -> torch.Tensor:
    half = torch.zeros(1, 1, size, size)
    half[..., size // 2 :] = 1
    return half


@family
def sd() -> Family:
    return sd_pipe("StableDiffusionPipeline"), sd_call()


@family
def sd_two_pictures() -> Family:
    return sd_pipe("StableDiffusionPipeline"), sd_call(
        num_images_per_prompt=2, guidance_rescale=0.7
    )


@family
def sd_img2img() -> Family:
    call = sd_call(image=picture(), strength=0.6, num_inference_steps=8)
    return sd_pipe("StableDiffusionImg2ImgPipeline"), without(call, "height", "width")


@family
def sd_inpaint() -> Family:
    pipe = sd_pipe("StableDiffusionInpaintPipeline")
    return pipe, sd_call(image=picture(), mask_image=mask(), strength=0.9, num_inference_steps=6)


@family
def sd_inpaint_9_channels() -> Family:
    pipe = sd_pipe("StableDiffusionInpaintPipeline", channels=9)
    return pipe, sd_call(image=picture(), mask_image=mask())


@family
def sd_controlnet() -> Family:
    net = unet()
    control = diffusers.ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 8))
    pipe = sd_pipe("StableDiffusionControlNetPipeline", unet=net, controlnet=control)
    return pipe, sd_call(image=picture(), control_guidance_end=0.6)


def xl_unet() -> Any:
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )


def xl_call(**more: Any) -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": noise(1, 8), "negative_pooled_prompt_embeds": noise(1, 8)}
    return sd_call(**pooled, **more)


def xl_pipe(kind: str, **more: Any) -> Any:
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    parts = {"unet": xl_unet(), "vae": vae(), "scheduler": scheduler("EulerDiscreteScheduler")}
    return getattr(diffusers, kind)(**dict.fromkeys(names), **parts, **more)


@family
def sdxl() -> Family:
    return xl_pipe("StableDiffusionXLPipeline"), xl_call()


@family
def sdxl_base_of_refiner() -> Family:
    call = xl_call(denoising_end=0.6, num_inference_steps=8, output_type="latent")
    return xl_pipe("StableDiffusionXLPipeline"), call


@family
def sdxl_refiner() -> Family:
    call = xl_call(denoising_start=0.4, num_inference_steps=8, image=noise(1, 4, 8, 8))
    return xl_pipe("StableDiffusionXLImg2ImgPipeline"), without(call, "height", "width")


@family
def kandinsky() -> Family:
    net = unet(
        out_channels=8,
        encoder_hid_dim=8,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        num_vq_embeddings=8,
        vq_embed_dim=4,
        norm_type="spatial",
    )
    steps = scheduler("DDPMScheduler", variance_type="learned_range")
    pipe = diffusers.KandinskyV22Pipeline(unet=net, scheduler=steps, movq=movq)
    call = {"image_embeds": noise(1, 8), "negative_image_embeds": noise(1, 8)}
    return pipe, {**call, "height": 64, "width": 64, "output_type": "pt"}


def unconditional() -> Any:
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


@family
def ddpm() -> Family:
    pipe = diffusers.DDPMPipeline(unconditional(), diffusers.DDPMScheduler())
    return pipe, {"batch_size": 2, "output_type": "np"}


@family
def ddim() -> Family:
    pipe = diffusers.DDIMPipeline(unconditional(), diffusers.DDIMScheduler())
    return pipe, {"batch_size": 2, "eta": 0.5, "output_type": "np"}


# ---- transformers ------------------------------------------------------------------------------

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


@family
def pixart() -> Family:
    net = diffusers.PixArtTransformer2DModel(
        **HEADS,
        sample_size=8,
        num_layers=1,
        cross_attention_dim=16,
        caption_channels=8,
        norm_num_groups=4,
        use_additional_conditions=False,
    )
    pipe = diffusers.PixArtAlphaPipeline(None, None, vae(), net, scheduler())
    masks = dict.fromkeys(
        ("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 7)
    )
    call = sd_call(negative_prompt=None, use_resolution_binning=False, **masks)
    return pipe, call


@family
def dit() -> Family:
    net = diffusers.DiTTransformer2DModel(
        **HEADS,
        out_channels=8,
        sample_size=8,
        num_layers=1,
        norm_num_groups=4,
        num_embeds_ada_norm=1000,
    )
    pipe = diffusers.DiTPipeline(net, vae(), scheduler("DDPMScheduler"))
    return pipe, {"class_labels": [1, 3], "output_type": "np"}


def flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


@family
def sd3_skip_layers() -> Family:
    net = diffusers.SD3Transformer2DModel(
        **HEADS,
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
    )
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3")
    parts = dict.fromkeys((*names, "tokenizer_3"))
    coder = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    pipe = diffusers.StableDiffusion3Pipeline(net, flow(), coder, **parts)
    call = xl_call(skip_guidance_layers=[0], skip_layer_guidance_stop=0.7)
    return pipe, {**call, "num_inference_steps": 6}


def flux_pipe(kind: str = "FluxPipeline", channels: int = 16, **more: Any) -> Any:
    net = diffusers.FluxTransformer2DModel(
        **HEADS,
        in_channels=channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    coder = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    steps = flow(use_dynamic_shifting=True)
    kind = getattr(diffusers, kind)
    return kind(scheduler=steps, vae=coder, transformer=net, **parts, **more)


def flux_call(**more: Any) -> dict[str, Any]:
    embeds = {"prompt_embeds": noise(1, 7, 8), "pooled_prompt_embeds": noise(1, 8)}
    return {**embeds, **SD, **more}


def flux_negative() -> dict[str, Any]:
    return {
        "negative_prompt_embeds": noise(1, 7, 8),
        "negative_pooled_prompt_embeds": noise(1, 8),
        "true_cfg_scale": 2.0,
    }


@family
def flux() -> Family:
    return flux_pipe(), flux_call()


@family
def flux_bfloat16() -> Family:
    call = {
        name: one.bfloat16() if isinstance(one, torch.Tensor) else one
        for name, one in flux_call().items()
    }
    return flux_pipe().to(torch.bfloat16), {**call, "output_type": "latent"}


@family
def flux_true_guidance() -> Family:
    return flux_pipe(), flux_call(**flux_negative())


@family
def flux_img2img() -> Family:
    call = flux_call(image=picture(), strength=0.7, num_inference_steps=8)
    return flux_pipe("FluxImg2ImgPipeline"), call


@family
def flux_inpaint() -> Family:
    call = flux_call(image=picture(), mask_image=mask(), strength=0.7, num_inference_steps=8)
    return flux_pipe("FluxInpaintPipeline"), call


@family
def qwen_image() -> Family:
    net = diffusers.QwenImageTransformer2DModel(
        **HEADS,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    coder = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False]
    )
    coder.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    pipe = diffusers.QwenImagePipeline(flow(use_dynamic_shifting=True), coder, None, None, net)
    masks = dict.fromkeys(
        ("prompt_embeds_mask", "negative_prompt_embeds_mask"), torch.ones(1, 7).long()
    )
    return pipe, sd_call(**masks, true_cfg_scale=3.0)


@family
def z_image() -> Family:
    net = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 32, 32],
    )
    coder = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    pipe = diffusers.ZImagePipeline(flow(use_dynamic_shifting=True), coder, None, None, net)
    embeds = {"prompt_embeds": [noise(7, 8)], "negative_prompt_embeds": [noise(5, 8)]}
    return pipe, {**SD, **embeds, "cfg_normalization": True, "cfg_truncation": 0.7}


# ---- video and sound ---------------------------------------------------------------------------


def wan_net() -> Any:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def wan_call() -> dict[str, Any]:
    video = {"height": 16, "width": 16, "num_frames": 5, "output_type": "pt"}
    return {**sd_call(), **video}


@family
def wan() -> Family:
    steps = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = diffusers.WanPipeline(None, None, wan_vae(), steps, transformer=wan_net())
    return pipe, wan_call()


@family
def wan_two_experts() -> Family:
    pipe = diffusers.WanPipeline(
        None,
        None,
        wan_vae(),
        flow(shift=3.0),
        transformer=wan_net(),
        transformer_2=wan_net(),
        boundary_ratio=0.8,
    )
    return pipe, {**wan_call(), "guidance_scale_2": 3.0}


@family
def ltx() -> Family:
    net = diffusers.LTXVideoTransformer3DModel(
        **HEADS,
        in_channels=8,
        out_channels=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=8,
    )
    coder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
    )
    coder.use_framewise_encoding = coder.use_framewise_decoding = False
    pipe = diffusers.LTXPipeline(flow(use_dynamic_shifting=True), coder, None, None, net)
    masks = dict.fromkeys(
        ("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 7).bool()
    )
    video = {"height": 32, "width": 32, "num_frames": 9, "output_type": "pt"}
    return pipe, {**sd_call(**masks, guidance_rescale=0.5), **video}


def cogvideox_pipe(steps: Any) -> Any:
    net = diffusers.CogVideoXTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        max_text_seq_length=7,
    )
    coder = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return diffusers.CogVideoXPipeline(None, None, coder, net, steps)


def cogvideox_call() -> dict[str, Any]:
    video = {"height": 16, "width": 16, "num_frames": 8, "output_type": "pt"}
    return {**sd_call(), **video, "use_dynamic_cfg": True}


@family
def cogvideox() -> Family:
    return cogvideox_pipe(diffusers.CogVideoXDDIMScheduler()), cogvideox_call()


@family
def cogvideox_dpm() -> Family:
    return cogvideox_pipe(diffusers.CogVideoXDPMScheduler()), cogvideox_call()


@family
def ltx2_video_and_sound() -> Family:
    net = diffusers.LTX2VideoTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=8,
        rope_double_precision=False,
        rope_type="split",
    )
    heads = ("num_attention_heads", "attention_head_dim", "num_layers", "num_learnable_registers")
    connectors = LTX2TextConnectors(
        caption_channels=8,
        text_proj_in_factor=2,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
        **{
            f"{stream}_connector_{name}": value
            for stream in ("video", "audio")
            for name, value in zip(heads, (2, 4, 1, None), strict=True)
        },
    )
    coder = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
    )
    coder.use_framewise_encoding = coder.use_framewise_decoding = False
    sound = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
    )
    pipe = diffusers.LTX2Pipeline(flow(), coder, sound, None, None, connectors, net, vocoder)
    masks = dict.fromkeys(
        ("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 8).long()
    )
    embeds = {"prompt_embeds": noise(1, 8, 16), "negative_prompt_embeds": noise(1, 8, 16)}
    video = {"height": 32, "width": 32, "num_frames": 5, "output_type": "pt"}
    guidance = {"spatio_temporal_guidance_blocks": [0]}
    return pipe, {**masks, **embeds, **video, **guidance}


@family
def hunyuan_video_guider() -> Family:
    net = diffusers.HunyuanVideo15Transformer3DModel(
        **HEADS,
        in_channels=9,
        out_channels=4,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=8,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    coder = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.HunyuanVideo15Pipeline(
        transformer=net, vae=coder, scheduler=flow(), guider=guider, **parts
    )
    embeds = {
        f"{sign}prompt_embeds{which}": noise(1, 7, 8)
        for sign in ("", "negative_")
        for which in ("", "_2")
    }
    masks = {name.replace("embeds", "embeds_mask"): torch.ones(1, 7) for name in embeds}
    video = {"height": 16, "width": 16, "num_frames": 5, "output_type": "pt"}
    return pipe, {**embeds, **masks, **video}


@family
def stable_audio() -> Family:
    net = diffusers.StableAudioDiTModel(
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_key_value_attention_heads=2,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    coder = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=8,
    )
    projection = diffusers.StableAudioProjectionModel(8, 8, 0, 32)
    steps = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=500, prediction_type="v_prediction", sigma_schedule="exponential"
    )
    pipe = diffusers.StableAudioPipeline(coder, None, projection, None, net, steps)
    return pipe, {**without(sd_call(), "height", "width"), "audio_end_in_s": 2.0}


def without(call: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in names}


@lru_cache
def made(name: str) -> Family:
    """Return a family's pipeline and call; the same objects every time."""
    return FAMILIES[name]()


class Remembering(diffusers.DDPMPipeline):
    """A pipeline that keeps a mean of the outputs from turn to turn, beside the state."""

    @torch.no_grad()
    def __call__(self, generator=None, num_inference_steps=5):
        x = torch.randn((1, 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        mean = 0.0
        for _, t in enumerate(self.scheduler.timesteps):
            mean = 0.5 * mean + self.unet(x, t).sample
            x = self.scheduler.step(mean, t, x).prev_sample
        return (x,)
