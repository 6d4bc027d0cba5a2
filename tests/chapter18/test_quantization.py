"""Quantization: the notebook's arithmetic against PyTorch and onnxruntime, on random and hostile numbers."""
import ast

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper
from scipy.stats import binomtest
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, parse, read

NOTEBOOK = "Chapter18/quantization.ipynb"
lesson = definitions(NOTEBOOK, "affine", "quantize", "dequantize", "rounded_weights", "with_rounded_weights", "folded",
                     "garment_net", "clip_error", "wilson", "Batches", "export", "session_of", "answers_of",
                     "quantized", "pair_sums", "integer_convolution")
RNG = torch.Generator().manual_seed(0)
HOSTILE = [
    torch.randn(10_000, generator=RNG), torch.zeros(5), torch.tensor([0.0]), torch.tensor([3.0]), torch.tensor([-3.0]),
    torch.tensor([1e-30, 0.0]), torch.tensor([1e20, -1e20, 1.0]), torch.tensor([0.5, 1.5, 2.5, 255.0]), torch.empty(0),
    torch.full((7,), -2.5), 1e-3 * torch.randn(100, generator=RNG) + 100]


@pytest.mark.parametrize("x", HOSTILE)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_down_and_up_again(x, bits):
    low, high = (x.min().item(), x.max().item()) if len(x) else (0.0, 0.0)
    scale, zero_point = lesson.affine(low, high, bits)
    assert scale > 0 and 0 <= zero_point <= 2**bits - 1 and isinstance(zero_point, int)
    q = lesson.quantize(x, scale, zero_point, bits)
    assert q.shape == x.shape and not q.is_floating_point()
    assert ((q >= 0) & (q <= 2**bits - 1)).all()
    back = lesson.dequantize(q, scale, zero_point)
    assert ((x - back).abs() <= scale * 1.01).all()  # half a step for x, half for the rounded zero point
    assert lesson.dequantize(lesson.quantize(torch.zeros(1), scale, zero_point, bits), scale, zero_point) == 0


@pytest.mark.parametrize("x", HOSTILE)
@pytest.mark.parametrize("low, high", [(-2.0, 3.0), (0.0, 1.0), (-1e-3, 0.0), (5.0, 9.0), (-1e6, 1e6)])
def test_equals_pytorch_and_onnxruntime(x, low, high):
    scale, zero_point = lesson.affine(low, high)
    q = lesson.quantize(x, scale, zero_point)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
    # PyTorch multiplies by 1 / scale: at a tie its neighbor is as good
    assert ((lesson.dequantize(q, scale, zero_point) - expected).abs() <= scale * 1.01).all()
    same = (lesson.dequantize(q, scale, zero_point) - expected).abs() <= scale * 1e-2
    assert same.float().mean() > 0.999 if len(x) > 100 else True
    if len(x):
        np.testing.assert_array_equal(q.numpy(), by_onnxruntime(x.numpy(), scale, zero_point))


def by_onnxruntime(x, scale, zero_point):
    """QuantizeLinear of onnxruntime."""
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
                              [helper.make_tensor_value_info("q", TensorProto.UINT8, ["n"])],
                              [helper.make_tensor("s", TensorProto.FLOAT, [], [scale]),
                               helper.make_tensor("z", TensorProto.UINT8, [], [zero_point])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("shape", [(4, 3), (8, 2, 3, 3), (1, 1), (16, 1, 5, 5)])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_symmetric_weights_equal_pytorch(shape, bits):
    weight = torch.randn(shape, generator=RNG) * torch.logspace(-2, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
    most = 2 ** (bits - 1) - 1
    scales = weight.abs().flatten(1).max(dim=1).values / most
    found = lesson.rounded_weights(weight, bits, per_channel=True)
    zero_points = torch.zeros(len(weight), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, -most, most)
    ties = (found - expected).abs() > scales.view(-1, *[1] * (len(shape) - 1)) * 1e-2
    assert ties.float().mean() < 0.01
    whole = lesson.rounded_weights(weight, bits, per_channel=False)
    one = (weight.abs().max() / most).item()
    expected = torch.fake_quantize_per_tensor_affine(weight, one, 0, -most, most)
    assert ((whole - expected).abs() > one * 1e-2).float().mean() < 0.01
    assert (found - weight).square().mean() <= (whole - weight).square().mean() + 1e-12


def test_a_channel_of_zeros_stays_zero():
    for per_channel in (True, False):
        assert not lesson.rounded_weights(torch.zeros(3, 2, 3, 3), 8, per_channel).any()


def test_folding_changes_nothing_but_the_layers():
    torch.manual_seed(0)
    network = lesson.garment_net(10).train()
    for _ in range(3):
        network(torch.randn(16, 1, 28, 28) * 3)
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = lesson.folded(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain)
    images = torch.randn(5, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), network(images), rtol=1e-4, atol=1e-4)
        rounded = lesson.with_rounded_weights(plain, 8, True)
        assert 0 < (rounded(images) - plain(images)).abs().max() < 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("channels, out, kernel, stride, padding, side", [
    (1, 16, 3, 2, 1, 28), (3, 5, 3, 1, 0, 7), (2, 4, 5, 2, 2, 11), (4, 2, 1, 1, 0, 3)])
@pytest.mark.parametrize("bits, limit", [(8, 2**31), (7, 2**31), (7, 2**15 - 1)])
def test_integers_convolve_as_rounded_numbers(channels, out, kernel, stride, padding, side, bits, limit):
    torch.manual_seed(side)
    layer, x = nn.Conv2d(channels, out, kernel, stride, padding), 2 * torch.randn(6, channels, side, side)
    scale, zero_point = lesson.affine(-2.0, 3.0)
    rounded = lesson.dequantize(lesson.quantize(x, scale, zero_point), scale, zero_point)
    weight = lesson.rounded_weights(layer.weight.data, bits, per_channel=True)
    expected = nn.functional.conv2d(rounded, weight, layer.bias.data, stride, padding)
    found = lesson.integer_convolution(layer, x, (-2.0, 3.0), bits, limit)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pairs_saturate_at_both_ends():
    q, w = torch.tensor([[255.0, 255, 255]]), torch.tensor([[127.0, 127, 127], [-127, -127, 127], [127, -127, 0]])
    high, low = 2**15 - 1, -(2**15)
    assert lesson.pair_sums(q, w, high).tolist() == [[high + 255 * 127, low + 255 * 127, 0]]
    assert lesson.pair_sums(q, w, 2**31).tolist() == [[3 * 255 * 127, -255 * 127, 0]]
    assert torch.equal(lesson.pair_sums(q, w // 2, high), q @ (w // 2).T)  # 7 bits always fit


def test_clipping_costs_where_values_are():
    x = torch.rand(10_000, generator=RNG)
    assert lesson.clip_error(x, 0.5, 8) > 10 * lesson.clip_error(x, 1.0, 8)
    assert abs(lesson.clip_error(x, 1.0, 8) / (1 / 255 / 12**0.5) - 1) < 0.05  # a step over the root of 12
    assert lesson.clip_error(torch.zeros(10), 1.0, 8) == 0


@pytest.mark.parametrize("right, n", [(0, 10), (10, 10), (5, 10), (9115, 10_000), (1, 1), (1, 100_000)])
def test_wilson_equals_scipy(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(lesson.wilson(right, n, c=1.959964), (expected.low, expected.high), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 64, 65, 130])
def test_calibration_sees_every_image_once(n):
    images = torch.randn(n, 1, 4, 4)
    batches, reader = [], lesson.Batches(images)
    while (batch := reader.get_next()) is not None:
        batches.append(batch["images"])
    assert sum(map(len, batches)) == n and all(len(batch) <= 64 for batch in batches)
    if n:
        np.testing.assert_array_equal(np.concatenate(batches), images.numpy())


@pytest.mark.parametrize("per_channel, bits, method", [
    (False, 8, "MinMax"), (True, 7, "MinMax"), (True, 7, "Percentile")])
def test_a_quantized_file_is_smaller_and_near(tmp_path, per_channel, bits, method):
    torch.manual_seed(0)
    network = lesson.garment_net(10).eval()
    images = torch.randn(64, 1, 28, 28)
    path = lesson.export(network, images[:2], tmp_path / "float32.onnx")
    small = lesson.quantized(path, images, "int8.onnx", per_channel, bits, method)
    assert small.stat().st_size < path.stat().st_size / 2.5
    expected, found = (lesson.answers_of(lesson.session_of(one), images) for one in (path, small))
    assert 0 < (expected - found).abs().max() < 0.2 * expected.abs().max()


# --- which images go where


def test_calibration_and_choices_never_see_the_test_images():
    trees = [parse(cell.source) for cell in code_cells(read(ROOT / NOTEBOOK))]
    calls = [node for tree in trees for node in ast.walk(tree)
             if isinstance(node, ast.Call) and ast.unparse(node.func) == "quantized"]
    assert len(calls) >= 3 and {ast.unparse(call.args[1]) for call in calls} <= {"x_calibration", "photos"}
    assigned = {ast.unparse(target): ast.unparse(node.value) for tree in trees for node in tree.body
                if isinstance(node, ast.Assign) for target in node.targets}
    assert assigned["x_calibration"] == "x_train[:CALIBRATION]"
    first_use = next(place for place, tree in enumerate(trees)
                     if "x_test" in ast.unparse(tree) or "test_set." in ast.unparse(tree))
    last_choice = max(place for place, tree in enumerate(trees) if "x_val" in ast.unparse(tree))
    assert first_use > last_choice, "test images are looked at before the last choice"


# --- what files, tables and results say


def integers_in(path):
    """All 8-bit weights of a quantized file, and the scales of its activations (those that are single numbers)."""
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    weights = [tensor.ravel() for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim > 1]
    scales = [float(tensor) for tensor in tensors if tensor.dtype == np.float32 and tensor.ndim == 0]
    return np.concatenate(weights), scales


def test_bits_and_method_reach_the_file(tmp_path):
    torch.manual_seed(0)
    path = lesson.export(lesson.garment_net(10).eval(), torch.randn(2, 1, 28, 28), tmp_path / "float32.onnx")
    images = torch.randn(64, 1, 28, 28)
    images[0, 0, 0, 0] = 1000  # an outlier
    eight, seven, cut = (integers_in(lesson.quantized(path, images, f"{bits}{method}.onnx", True, bits, method))
                         for bits, method in ((8, "MinMax"), (7, "MinMax"), (7, "Percentile")))
    assert np.abs(eight[0]).max() == 127 and np.abs(seven[0]).max() <= 64
    assert max(cut[1]) < max(seven[1]) / 2, "the percentile must give up the outlier"


def test_the_comparison_is_made_image_by_image():
    labels = torch.randint(0, 10, (2000,), generator=RNG)
    outputs = {}
    for n, name in enumerate(("float32", "float16", "bfloat16", "int8 dynamic", "int8 static")):
        outputs[name] = nn.functional.one_hot(labels, 10) + (0.3 + 0.1 * n) * torch.randn(2000, 10, generator=RNG)
    found = run_cell(NOTEBOOK, "comparison = pd.DataFrame(rows)", outputs=outputs, y_test=labels, wilson=lesson.wilson,
                     kilobytes=dict.fromkeys(outputs, 1.0))["comparison"]
    right = {name: (values.argmax(1) == labels).double() for name, values in outputs.items()}
    for name, row in found.iterrows():
        change = right[name] - right["float32"]
        assert row["accuracy"] == pytest.approx(right[name].mean().item())
        assert row["difference"] == pytest.approx(change.mean().item(), abs=1e-9)
        assert row["standard error"] == pytest.approx(change.std(correction=0).item() / 2000**0.5, abs=1e-9)
        assert row["low"] < row["accuracy"] < row["high"]
        assert row["lost"] == (change < 0).sum() and row["won"] == (change > 0).sum()


def test_each_name_stands_for_its_file_and_type(tmp_path):
    network = lesson.garment_net(10).eval()
    path = lesson.export(network, torch.randn(2, 1, 28, 28), tmp_path / "float32.onnx")
    found = run_cell(NOTEBOOK, "halves = {name", folder=tmp_path, float_file=path, int8_file="int8", network=network)
    assert {name: next(half.parameters()).dtype for name, half in found["halves"].items()} == {
        "float16": torch.float16, "bfloat16": torch.bfloat16}
    assert next(network.parameters()).dtype == torch.float32, "the network itself was changed"
    assert found["files"] == {"float32": path, "int8 dynamic": tmp_path / "dynamic.onnx", "int8 static": "int8"}
    assert (tmp_path / "dynamic.onnx").stat().st_size < path.stat().st_size / 2.5


def test_the_explanation_compares_the_bits_and_limits_that_it_names():
    def convolution(layer, x, input_range, bits, limit):
        return torch.tensor([[bits, limit.bit_length()]])

    found = run_cell(NOTEBOOK, "8 bits, exact sums", integer_convolution=convolution, x_calibration=torch.zeros(1),
                     plain=[None], x_val=None, y_val=None, full=0.0,
                     probabilities=lambda rest, first: first.tolist()[0],
                     accuracy_of=lambda first, labels: float(100 * first[0] + first[1]))["clamped"]
    assert found == {"8 bits, exact sums": 832, "8 bits, 16-bit sums": 815, "7 bits, 16-bit sums": 715}


def test_results_are_taken_from_where_they_belong():
    numbers = [[10.0 * n + m for m in range(5)] for n in range(3)]
    comparison = pd.DataFrame(numbers, ("float32", "int8 dynamic", "int8 static"),
                              ("accuracy", "low", "high", "difference", "standard error"))
    cases = ("garments, 1 image", "garments, 256 images", "ResNet-18, 1 image")
    ratio = pd.DataFrame({"int8 static": [1.0, 0.5, 4], "int8 dynamic": [0.1, 0.2, 0.3]}, index=cases)
    milliseconds = pd.DataFrame([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], cases, ("float32", "int8 static", "int8 dynamic"))
    found = run_cell(
        NOTEBOOK, '"accuracy_fp32"', comparison=comparison, static=comparison.loc["int8 static"], baseline=0.1,
        full=0.9, kilobytes={"float32": 60, "int8 static": 20, "int8 dynamic": 30}, BITS=range(2, 9),
        ratio=ratio, by_bits={"one scale per channel": list(range(7)), "one scale per tensor": list(range(10, 17))},
        choices={"per channel, 8 bits": 0.8}, milliseconds=milliseconds,
        clamped={"8 bits, 16-bit sums": 0.7, "7 bits, 16-bit sums": 0.6})["results"]
    expected = {"accuracy_fp32": 0, "accuracy_int8": 20, "accuracy_int8_low": 21, "accuracy_int8_high": 22,
                "accuracy_difference": 23, "difference_standard_error": 24, "most_frequent_class_accuracy": 0.1,
                "size_ratio": 3, "three_bits_per_channel_accuracy": 1, "three_bits_per_tensor_accuracy": 11,
                "validation_accuracy": 0.9, "per_channel_8_bit_accuracy": 0.8, "clamped_8_bit_accuracy": 0.7,
                "clamped_7_bit_accuracy": 0.6, "int8_time_ratio": 2, "int8_time_ratio_one_image": 1,
                "int8_time_ratio_resnet18": 0.25, "float32_ms": 4, "int8_static_ms": 5, "int8_dynamic_ms": 6}
    assert found == pytest.approx(expected)


def test_speed_is_relative_to_float32():
    milliseconds = pd.DataFrame(
        {"float32": [1.0, 10, 100], "int8 dynamic": [2.0, 80, 200], "int8 static": [0.5, 20, 25]},
        index=["garments, 1 image", "garments, 256 images", "ResNet-18, 1 image"])
    drawn = run_cell(NOTEBOOK, "ratio = milliseconds.rdiv", milliseconds=milliseconds)
    assert drawn["ax"].get_title() == "Static int8 is 0.50 × as fast on garments, 4.00 × on ResNet-18"
    assert drawn["ratio"].loc["garments, 1 image"].to_dict() == {"int8 static": 2, "int8 dynamic": 0.5}
