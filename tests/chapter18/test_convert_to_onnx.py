"""Convert to ONNX: the notebook's functions on random and hostile networks and inputs."""
import re
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_said

NOTEBOOK = "Chapter18/convert_to_onnx.ipynb"
lesson = definitions(NOTEBOOK, "Preprocessing", "garment_net", "Served", "export", "session_of", "answers_of",
                     "difference", "rounds_of", "unoptimized", "installed_mb", "race", "accuracy_of",
                     ROUNDS=2, BUDGET=1e-6)


@pytest.fixture(scope="module")
def network():
    """A garment network with batch normalization that has seen something, in eval mode."""
    torch.manual_seed(0)
    network = lesson.garment_net(10).train()
    for _ in range(5):
        network(2 * torch.randn(32, 1, 28, 28) + 1)
    return network.eval()


@pytest.fixture(scope="module")
def bare(network, tmp_path_factory):
    """The session of the network alone: standardized images -> logits."""
    path = tmp_path_factory.mktemp("onnx") / "bare.onnx"
    return lesson.session_of(lesson.export(network, torch.randn(2, 1, 28, 28), path))


@pytest.fixture(scope="module")
def served(network, tmp_path_factory):
    """The module that takes pixels, and the file that it was exported to."""
    module = lesson.Served(lesson.Preprocessing(28, 0.3, 0.35), network).eval()
    path = tmp_path_factory.mktemp("onnx") / "served.onnx"
    return module, lesson.export(module, torch.zeros(2, 28, 28, dtype=torch.uint8), path, classes='["a", "b"]')


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1e-6, 1e4, -1e4])
def test_the_file_answers_as_the_network(network, bare, batch, factor):
    images = factor * torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        expected = network(images)
    found = lesson.answers_of(bare, images)
    assert found.shape == (batch, 10)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * max(1, expected.abs().max().item()))
    assert lesson.difference(network, bare, images) < 1e-4


@pytest.mark.parametrize("pixels", [
    torch.zeros(1, 28, 28, dtype=torch.uint8), torch.full((3, 28, 28), 255, dtype=torch.uint8),
    torch.tensor([0, 255], dtype=torch.uint8).repeat(64, 28, 14),
    torch.randint(0, 256, (7, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)])
def test_pixels_give_probabilities(served, pixels):
    module, path = served
    found = lesson.answers_of(lesson.session_of(path), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(found, module(pixels), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(len(pixels)), rtol=0, atol=1e-5)


def test_the_module_prepares_its_pixels_as_training_did(network, served):
    pixels = torch.randint(0, 256, (5, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(((pixels / 255 - 0.3) / 0.35)[:, None]).softmax(dim=1)
        torch.testing.assert_close(served[0](pixels), expected, rtol=0, atol=1e-5)


def test_sessions_have_the_threads_that_they_are_given(served):
    for threads in (1, 2):
        assert lesson.session_of(served[1], threads).get_session_options().intra_op_num_threads == threads


def test_each_candidate_of_a_race_is_what_its_name_says(served, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", (asked := []).append)
    images, calls = torch.zeros(1, 28, 28, dtype=torch.uint8), []
    found = lesson.race(lambda x: calls.append("eager"), None, served[1], images, 2)
    assert list(found) == ["eager", "onnxruntime"] and asked == [2] and set(calls) == {"eager"}
    found = lesson.race(lambda x: time.sleep(0.02), lambda x: calls.append("compiled"), served[1], images, 1)
    assert set(found) == {"eager", "onnxruntime", "compiled"} and "compiled" in calls and asked == [2, 1]
    assert found["eager"].min() >= 0.02 > np.median(found["onnxruntime"])


def test_everything_is_in_one_file(served):
    _, path = served
    assert [file.name for file in path.parent.iterdir()] == [path.name], "weights beside the file"
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    weights = sum(onnx.numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
    assert weights > 64 * 4 * 4 * 10
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == '["a", "b"]'
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is not free"


def test_export_means_eval_mode(tmp_path):
    """Whatever mode a module is in: the file answers as in eval mode, and the same twice."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4)).train()
    session = lesson.unoptimized(lesson.export(module, torch.randn(2, 3, 4), tmp_path / "a.onnx"))
    images = torch.randn(5, 3, 4)
    assert torch.equal(lesson.answers_of(session, images), lesson.answers_of(session, images))
    with torch.inference_mode():
        torch.testing.assert_close(lesson.answers_of(session, images), module.eval()(images), rtol=0, atol=1e-5)


def test_difference_sees_a_difference(network, bare):
    images = torch.randn(3, 1, 28, 28)
    for error in (0.1, -0.1):
        assert lesson.difference(lambda x, error=error: network(x) + error, bare, images) > 1e-3
    with pytest.raises(AssertionError):
        lesson.difference(lambda x: network(x)[:, :9], bare, images)


def test_rounds_take_turns_and_time_each_function():
    calls = []
    found = lesson.rounds_of({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4, budget=1e-6)
    assert set(found) == {"a", "b"} and all(values.shape == (4,) and (values > 0).all() for values in found.values())
    timed = re.sub(r"a+", "a", re.sub(r"b+", "b", "".join(calls[6:])))
    assert timed == "ab" * 4 and calls[:6] == ["a"] * 3 + ["b"] * 3


def test_size_of_a_package():
    import importlib.util
    from pathlib import Path

    folder = Path(importlib.util.find_spec("tqdm").origin).parent
    sources = sum(file.stat().st_size for file in folder.rglob("*.py")) / 1e6
    assert sources <= lesson.installed_mb("tqdm") < sources + 5


def test_the_program_without_pytorch_imports_none():
    source = next(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if cell.source.startswith("ASK ="))
    program = source.split('"""')[1]
    assert "import torch" not in program
    assert all(name in program for name in ("onnxruntime", "numpy", "garments.onnx"))


def test_what_colab_lacks_has_the_bounds_of_the_requirements():
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for notebook in (NOTEBOOK, "Chapter18/quantization.ipynb", "Chapter18/Deploying_in_a_container.ipynb"):
        pip = next(cell.source for cell in code_cells(read(ROOT / notebook)) if "%pip" in cell.source)
        for requirement in re.findall(r'"([^" ]+[<>=][^" ]+)"', pip):
            assert re.search(rf"^{re.escape(requirement)} ", requirements, re.MULTILINE), requirement


# --- what tables, drawing and results say


TIMES = {("garments", 1, 1): {"eager": np.array([9.0, 0.2, 0.2]), "onnxruntime": np.array([0.05, 0.05, 9.0])},
         ("ResNet-18", 8, 1): {"eager": np.full(3, 0.1), "onnxruntime": np.full(3, 0.2)}}


def test_a_call_takes_as_long_as_it_takes():
    found = lesson.rounds_of({"sleep": lambda: time.sleep(0.01)}, rounds=3, budget=0.5)["sleep"]
    assert 0.01 <= np.median(found) < 0.2  # not the time of all calls together


def test_medians_throughput_and_winners():
    found = run_cell(NOTEBOOK, "medians = pd.DataFrame", times=TIMES)
    speed = found["speed"]
    assert speed.loc[("garments", 1, 1), ("ms per call", "eager")] == pytest.approx(200)
    assert speed.loc[("ResNet-18", 8, 1), ("images per second", "onnxruntime")] == pytest.approx(40)
    drawn = run_cell(NOTEBOOK, "# @title Who wins when", medians=found["medians"])
    assert [text.get_text() for text in drawn["ax"].texts] == ["1.00 ×", "4.00 × ★", "1.00 × ★", "0.50 ×"]
    assert "fastest in 1 of 2" in drawn["ax"].get_title()


def test_the_accuracy_is_the_files_and_changes_are_counted():
    right = torch.eye(10)[torch.arange(2000) % 10]
    by_file, by_module = right.clone(), right.clone()
    by_file[:500], by_module[300:1300] = right[:500].roll(1, 1), right[300:1300].roll(1, 1)
    test_set = SimpleNamespace(data=torch.arange(2000), targets=torch.arange(2000) % 10)
    found = run_cell(NOTEBOOK, "by_file = torch.cat", test_set=test_set, session=None, network=None,
                     train_set=SimpleNamespace(targets=torch.tensor([3, 3, 4])), train_rows=slice(None),
                     answers_of=lambda session, rows: by_file[rows], preprocess=lambda images: images,
                     probabilities=lambda network, rows: by_module[rows], accuracy_of=lesson.accuracy_of)
    assert found["file_accuracy"] == pytest.approx(0.75) and found["module_accuracy"] == pytest.approx(0.5)
    assert found["changed"] == 1100 and found["baseline"] == pytest.approx(0.1)  # 200 are wrong in both, and alike


def test_each_file_is_asked_about_all_test_images():
    right = torch.eye(10)[torch.arange(2000) % 10]
    answers = {"in eval mode": right, "as written": right.roll(1, 0)}
    answers["as written"][:500] = right[:500]
    found = run_cell(
        NOTEBOOK, "mode_accuracy = {", trials={name: name for name in answers}, accuracy_of=lesson.accuracy_of,
        answers_of=lambda name, rows: answers[name][rows],
        test_set=SimpleNamespace(data=torch.arange(2000), targets=torch.arange(2000) % 10))["mode_accuracy"]
    assert found == {"in eval mode": 1, "as written": 0.25}


def test_results_are_taken_from_where_they_belong(tmp_path):
    medians = run_cell(NOTEBOOK, "medians = pd.DataFrame", times=TIMES)["medians"]
    (tmp_path / "garments.onnx").write_bytes(bytes(5000))
    cost = pd.DataFrame({"on disk, MB": {"torch": 500.0, "onnxruntime": 50.0}})
    found = run_cell(
        NOTEBOOK, '"test_accuracy": file_accuracy', file_accuracy=0.9, baseline=0.1, changed=3, compile_seconds=7.0,
        differences=pd.Series([1e-7, 1e-6]), garments=tmp_path / "garments.onnx", cost=cost, medians=medians,
        spread={"eval mode": 0.0, "training mode, optimized": 0.1, "training mode, as written": 0.8},
        gain=medians.rdiv(medians["eager"], axis=0),
        mode_accuracy={"eval mode": 0.9, "training mode, as written": 0.8})["results"]
    assert all(re.fullmatch(r"\w+", name) for name in found), "a key is not a name"
    expected = {"test_accuracy": 0.9, "most_frequent_class_accuracy": 0.1, "answers_changed": 3, "file_kb": 5,
                "largest_difference": 1e-6, "torch_mb": 500, "onnxruntime_mb": 50, "spread_eval_mode": 0,
                "spread_training_mode_as_written": 0.8, "accuracy_eval_mode": 0.9,
                "accuracy_training_mode_as_written": 0.8, "compile_seconds": 7,
                "garments_batch_1_1_threads_eager_ms": 200,
                "resnet18_batch_8_1_threads_onnxruntime_ms": 200, "gain_batch_1": 4, "gain_large": 0.5}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_text_says_what_the_stored_run_found():
    assert_said(
        NOTEBOOK, "{garments_batch_1_1_threads_onnxruntime_ms:.3f} ms, eager PyTorch in "
        "{garments_batch_1_1_threads_eager_ms:.3f} ms, and the compiled module in "
        "{garments_batch_1_1_threads_compiled_ms:.3f} ms", "only {gain_large:.1f} times as fast as eager",
        "({resnet18_batch_8_2_threads_onnxruntime_ms:.0f} ms in place of "
        "{resnet18_batch_8_1_threads_onnxruntime_ms:.0f} ms",
        "({garments_batch_1_2_threads_onnxruntime_ms:.3f} ms for one garment)",
        "eager PyTorch took {garments_batch_256_2_threads_eager_ms:.0f} ms for 256 garments; with one thread it took "
        "{garments_batch_256_1_threads_eager_ms:.0f} ms",
        "is right for {accuracy_training_mode_as_written:.1%} of the test images, and the file from eval mode for "
        "{accuracy_eval_mode:.1%}")
