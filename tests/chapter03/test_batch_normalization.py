"""The layer of Batch_normalization.ipynb against torch.nn.BatchNorm1d, in both modes, forward and backward."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

lesson = definitions("Chapter03/Batch_normalization.ipynb", "BatchNorm", "new_model", "train_steps")


def pair(units, eps, momentum, generator):
    """The lesson's layer and the library's, with the same random scale and shift, in double precision."""
    ours = lesson.BatchNorm(units, eps=eps, momentum=momentum).double()
    theirs = nn.BatchNorm1d(units, eps=eps, momentum=momentum).double()
    with torch.no_grad():
        for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            mine.copy_(torch.randn(units, generator=generator, dtype=torch.float64))
            other.copy_(mine)
    return ours, theirs


@settings(deadline=None, derandomize=True, max_examples=40)
@given(b=st.integers(2, 9), units=st.integers(1, 5), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e5]),
       offset=st.sampled_from([0.0, -3.0, 1e4]), momentum=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 99))
def test_equal_to_the_library_in_both_modes(b, units, scale, offset, momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = pair(units, 1e-5, momentum, generator)
    for training in (True, True, False, True):
        ours.train(training), theirs.train(training)
        batch = scale * torch.randn(b, units, generator=generator, dtype=torch.float64) + offset
        inputs = [batch.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(x) for layer, x in zip((ours, theirs), inputs)]
        upstream = torch.randn(b, units, generator=generator, dtype=torch.float64)
        for output in outputs:
            output.backward(upstream)
        size = max(1.0, float(inputs[1].grad.abs().max()))
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6 * size)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_running_statistics_are_saved_and_get_no_gradient():
    layer = lesson.BatchNorm(3)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    layer(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert not layer.running_mean.requires_grad and layer.running_mean.grad_fn is None


def test_a_batch_of_one_is_refused_in_training_mode_only():
    layer = lesson.BatchNorm(3)
    with pytest.raises(ValueError, match="evaluation mode"):
        layer(torch.zeros(1, 3))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert layer.eval()(torch.zeros(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d, nn.LayerNorm])
def test_the_deep_network(norm):
    model = lesson.new_model(0, "cpu", norm=norm, depth=3, width=16, gain=2.0)
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [16, 16, 16, 10]
    assert all((layer.bias is None) == (norm is not None) for layer in linears[:-1]) and linears[-1].bias is not None
    assert linears[1].weight.std().item() == pytest.approx(2 * (2 / 16) ** 0.5, rel=0.2)
    again = lesson.new_model(0, "cpu", norm=norm, depth=3, width=16, gain=2.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


@pytest.mark.parametrize("training", [True, False])
def test_training_leaves_the_mode_alone_and_makes_the_steps_asked_for(training):
    model = lesson.new_model(0, "cpu", norm=nn.BatchNorm1d, depth=1, width=8).train(training)
    images = torch.randint(0, 256, (21, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steps = []
    lesson.train_steps(model, images, torch.arange(21) % 10, 0.1, 5, 9, 0, look=steps.append)
    assert model.training is training and steps == list(range(1, 10))
    assert int(model[1].num_batches_tracked) == (9 if training else 0)
