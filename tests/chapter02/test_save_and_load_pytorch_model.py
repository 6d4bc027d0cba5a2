"""The safetensors reader and the checkpoint of the saving notebook, against library and uninterrupted run."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save
from torch import nn

from tests.definitions import definitions

lesson = definitions("Chapter02/save_and_load_pytorch_model.ipynb", "read_safetensors", "start_training", "run_epochs",
                     "save_checkpoint", "load_checkpoint", "digit_net", "accuracy_in_this_mode", "outcome")  # fmt: skip
KINDS = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
CPU = torch.device("cpu")

tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8),
    st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0))),
    max_size=5,
)


@settings(deadline=None)
@given(tensors, st.dictionaries(st.sampled_from(("classes", "pixels", "größe")), st.text(max_size=5), max_size=3))
def test_reader_returns_every_bit(tmp_path_factory, values, metadata):
    values.pop("__metadata__", None)
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(save(values, metadata=metadata or None))
    found, found_metadata = lesson.read_safetensors(path)
    assert found_metadata == metadata and found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()  # NaN, infinities and signed zeros included


def toy(seed):
    """A small training on random digits: (training, settings of run_epochs)."""
    generator = torch.Generator().manual_seed(7)
    x, y = torch.rand(50, 64, generator=generator), torch.randint(10, (50,), generator=generator)
    return lesson.start_training(seed, 6, 8, 1e-2, CPU), dict(
        train_data=(x, y), val_data=(x, y), batch_size=16, loss_fn=nn.CrossEntropyLoss())


@pytest.mark.parametrize("interrupted", [0, 1, 5, 6])
def test_resumed_equals_uninterrupted(tmp_path, interrupted):
    training, options = toy(0)
    lesson.run_epochs(training, interrupted, **options)
    lesson.save_checkpoint(tmp_path / "a.pt", training, CPU)
    expected = lesson.run_epochs(training, 6, **options)
    resumed, _ = toy(1)
    lesson.load_checkpoint(tmp_path / "a.pt", resumed, CPU)
    assert resumed.epoch == interrupted
    np.testing.assert_array_equal(lesson.run_epochs(resumed, 6, **options), expected)
    torch.testing.assert_close(resumed.model.state_dict(), training.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.optimizer.state_dict(), training.optimizer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("forgotten", ["model", "optimizer", "scheduler", "random"])
def test_every_part_is_needed(tmp_path, forgotten):
    training, options = toy(0)
    lesson.run_epochs(training, 3, **options)
    lesson.save_checkpoint(tmp_path / "a.pt", training, CPU)
    expected = lesson.run_epochs(training, 6, **options)
    resumed, _ = toy(1)
    parts = {"model", "optimizer", "scheduler", "random"} - {forgotten}
    lesson.load_checkpoint(tmp_path / "a.pt", resumed, CPU, parts)
    assert not np.array_equal(lesson.run_epochs(resumed, 6, **options), expected)


def test_saving_leaves_the_training_as_it_was(tmp_path):
    one, options = toy(0)
    expected = lesson.run_epochs(one, 2, **options)
    two, _ = toy(0)
    lesson.save_checkpoint(tmp_path / "a.pt", two, CPU)
    np.testing.assert_array_equal(lesson.run_epochs(two, 2, **options), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    training, _ = toy(0)
    path = tmp_path / "a.pt"
    lesson.save_checkpoint(path, training, CPU)
    before = path.read_bytes()

    def power_cut(state, target):
        target.write_bytes(b"half")
        raise OSError("no power")

    monkeypatch.setattr(torch, "save", power_cut)
    with pytest.raises(OSError, match="no power"):
        lesson.save_checkpoint(path, training, CPU)
    assert path.read_bytes() == before


def test_accuracy_counts_rows_and_keeps_the_mode():
    model = nn.Identity().train()
    assert lesson.accuracy_in_this_mode(model, torch.eye(4), torch.tensor([0, 1, 0, 0])) == 0.5
    assert model.training


def test_outcome_names_the_error():
    assert lesson.outcome(lambda: None) == "loaded"

    def fail():
        raise RuntimeError("first line\nsecond line")

    assert lesson.outcome(fail) == "RuntimeError: first line second line"
