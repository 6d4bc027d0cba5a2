"""The parts of Unet_Components_from_scratch against those of diffusers, forwards and backwards."""
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from tests.definitions import definitions

lesson = definitions(
    "Chapter16/Unet_Components_from_scratch.ipynb", "add_noise", "timestep_embedding", "TimeMLP", "ResBlock",
    "Attention", "GEGLU", "FeedForward", "TransformerBlock", "SpatialTransformer", "Downsample", "Upsample", "Stage",
    "UNet", "largest_difference", "DigitDenoiser", "denoised", "without", "noise_error", "trivial_error")  # fmt: skip


def assert_same(ours, theirs, *inputs, rename=str):
    """Equal parameters, outputs and gradients of the inputs and of every parameter, in double precision."""
    ours, theirs = ours.double(), theirs.double()
    state = {rename(name): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    results = []
    for module in (ours, theirs):
        leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        output = module(*leaves)
        output = getattr(output, "sample", output)
        output.backward(torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output))
        grads = {rename(name): p.grad for name, p in module.named_parameters()}
        results.append((output.detach(), [x.grad for x in leaves if x.is_floating_point()], grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 6, 32, 320])
def test_timestep_embedding(dim):
    t = torch.tensor([0, 1, 7, 500, 999])
    expected = get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(lesson.timestep_embedding(t, dim), expected, rtol=1e-4, atol=1e-4)


def test_time_mlp():
    assert_same(lesson.TimeMLP(8, 32), TimestepEmbedding(8, 32), randn(3, 8))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 16), (16, 8)])
@pytest.mark.parametrize("side", [1, 5])
def test_residual_block(inputs, outputs, side):
    theirs = ResnetBlock2D(in_channels=inputs, out_channels=outputs, temb_channels=12, groups=4, eps=1e-5)
    assert_same(lesson.ResBlock(inputs, outputs, 12, 4), theirs, randn(2, inputs, side, side), randn(2, 12, seed=1))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("tokens", [1, 7])
def test_attention(heads, tokens):
    theirs = Attention(query_dim=16, cross_attention_dim=6, heads=heads, dim_head=16 // heads)
    ours = lesson.Attention(16, 6, heads)
    assert_same(ours, theirs, randn(2, 5, 16), randn(2, tokens, 6, seed=1))
    assert ours.weights.shape == (2, heads, 5, tokens)
    torch.testing.assert_close(ours.weights.sum(dim=3), torch.ones(2, heads, 5, dtype=torch.float64))


def test_attention_without_a_context_looks_at_itself_and_huge_inputs_stay_finite():
    ours = lesson.Attention(8, 8, 2).double()
    x = randn(1, 4, 8)
    torch.testing.assert_close(ours(x), ours(x, x))
    assert ours(1e6 * x).isfinite().all()


def test_transformer_block_and_its_frame():
    block = BasicTransformerBlock(16, 4, 4, cross_attention_dim=6)
    x, c = randn(2, 9, 16), randn(2, 3, 6, seed=1)
    ours = lesson.TransformerBlock(16, 6, 4).double()
    block = block.double()
    ours.load_state_dict(block.state_dict())
    torch.testing.assert_close(ours(x, c), block(x, encoder_hidden_states=c), rtol=1e-9, atol=1e-10)
    frame = Transformer2DModel(4, 4, in_channels=16, norm_num_groups=4, cross_attention_dim=6)
    assert_same(lesson.SpatialTransformer(16, 6, 4, 4), frame, randn(2, 16, 3, 5), c)


def test_down_and_up():
    assert_same(lesson.Downsample(4), Downsample2D(4, use_conv=True, name="op"), randn(2, 4, 6, 8))
    assert_same(lesson.Upsample(4), Upsample2D(4, use_conv=True), randn(2, 4, 3, 5))


@pytest.mark.parametrize(("widths", "layers", "attention"), [
    ((8, 16), 1, (False, True)), ((8, 16), 2, (True, False)), ((8, 16, 16), 2, (True, True, False)),
    ((8,), 1, (True,))])
def test_the_whole(widths, layers, attention):
    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1])
    theirs = UNet2DConditionModel(sample_size=8, in_channels=3, out_channels=3, block_out_channels=widths,
                                  layers_per_block=layers, norm_num_groups=4, down_block_types=down, up_block_types=up,
                                  cross_attention_dim=6, attention_head_dim=2)
    ours = lesson.UNet(3, widths, layers, 6, 2, 4, attention)
    assert_same(ours, theirs, randn(2, 3, 8, 8), torch.tensor([0, 999]), randn(2, 3, 6, seed=1))


def test_add_noise_is_that_of_the_scheduler():
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    x, noise, t = randn(4, 1, 5, 5).float(), randn(4, 1, 5, 5, seed=1).float(), torch.tensor([0, 10, 500, 999])
    ours = lesson.add_noise(x, t, noise, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours, scheduler.add_noise(x, noise, t))


class Truth(torch.nn.Module):
    """Says a fixed noise, whatever it sees."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.told = noise, []

    def forward(self, x, t, labels):
        self.told.append((t.tolist(), labels.tolist()))
        return self.noise


def test_who_knows_the_noise_gets_the_image_back_and_no_error():
    alpha_bar = DDPMScheduler(num_train_timesteps=1000).alphas_cumprod
    x, noise, labels = randn(3, 1, 4, 4).float().clamp(-1, 1), randn(3, 1, 4, 4, seed=1).float(), torch.arange(3)
    t = torch.tensor([5, 300, 700])
    model = Truth(noise)
    noisy = lesson.add_noise(x, t, noise, alpha_bar)
    torch.testing.assert_close(lesson.denoised(model, noisy, t, labels, alpha_bar), x, rtol=0, atol=1e-4)
    assert lesson.noise_error(model, x, noise, 300, 42, labels, alpha_bar) == 0
    assert model.told[-1] == ([42] * 3, [0, 1, 2])
    zero, whole = lesson.trivial_error(x, noise, 999, alpha_bar)
    assert zero == pytest.approx(noise.square().mean().item()) and whole < 0.02


def test_switching_off_changes_only_the_copy():
    torch.manual_seed(0)
    model = lesson.DigitDenoiser((8, 16), 6, 2, 4).eval()
    x, t, labels = randn(2, 1, 8, 8).float(), torch.tensor([3, 700]), torch.tensor([1, 2])
    with torch.no_grad():
        complete = model(x, t, labels)
        answers = {part: lesson.without(model, part)(x, t, labels) for part in ("complete", "no skips", "no attention")}
        torch.testing.assert_close(answers["complete"], complete)
        assert not any(torch.allclose(answers[part], complete) for part in ("no skips", "no attention"))
        other = lesson.without(model, "no attention")(x, t, torch.tensor([5, 6]))
        torch.testing.assert_close(other, answers["no attention"])  # without attention nobody sees the class
        assert not torch.allclose(model(x, t, torch.tensor([5, 6])), complete)
        torch.testing.assert_close(model(x, t, labels), complete)
