"""What the installation notebook says of packages and devices, on environments that this machine does not have."""
import sys
from importlib.metadata import version

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from tests.definitions import definitions

lesson = definitions("Chapter02/Installing_PyTorch.ipynb", "as_numbers", "examine", "explain_devices", "memory_gb",
                     "exact_product", "gradient_of_small_network", "median_seconds")  # fmt: skip
versions = st.lists(st.integers(0, 300), min_size=3, max_size=3)


@settings(deadline=None)
@given(versions, versions, st.sampled_from(["", "+cu130", "+cpu"]))
def test_versions_compare_as_packaging_does(a, b, build):
    a, b = (".".join(map(str, numbers)) for numbers in (a, b))
    assert (lesson.as_numbers(a + build) < lesson.as_numbers(b)) == (Version(a) < Version(b))


@pytest.mark.parametrize("version, numbers", [("2.10.0+cu130", (2, 10, 0)), ("3.0a1", (3,)), ("1", (1,)), ("dev", ())])
def test_as_numbers(version, numbers):
    assert lesson.as_numbers(version) == numbers


def test_examine_tells_missing_broken_old_and_good_apart():
    assert lesson.examine("no-such-package", "sys", "1.0") == ("-", 'missing: pip install "no-such-package>=1.0"')
    assert lesson.examine("torch", "torch", "2.6") == (version("torch"), "good")
    assert "too old" in lesson.examine("torch", "torch", "99")[1]
    assert "broken, there is no module nowhere" in lesson.examine("torch", "nowhere", "2.6")[1]


@pytest.mark.parametrize("cuda_build, gpu, mps, expected", [
    ("13.0", True, False, "Fake card"), ("13.0", False, False, "driver"), (None, False, True, "MPS"),
    (None, False, False, "pytorch.org"),
])  # fmt: skip
def test_explain_devices(monkeypatch, cuda_build, gpu, mps, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda_build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu or mps)
    assert expected in lesson.explain_devices()


def test_the_product_test_would_notice_a_wrong_device(monkeypatch):
    assert lesson.exact_product(torch.device("cpu")) == 0
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + (1e-3 if a.is_floating_point() else 0))
    assert lesson.exact_product(torch.device("cpu")) > 0


def test_gradient_by_hand():
    generator = torch.Generator().manual_seed(0)
    W1, W2 = (torch.randn(shape, generator=generator) for shape in ((3, 2), (1, 3)))
    h = torch.sigmoid(W1.sum(dim=1))
    expected = (2 * (W2[0] @ h) * W2[0] * h * (1 - h))[:, None].expand(3, 2)
    torch.testing.assert_close(lesson.gradient_of_small_network(torch.device("cpu")), expected)


def test_time_is_that_of_one_call():
    calls = []
    assert 0 < lesson.median_seconds(lambda: calls.append(1), 1, 0.01) < 1e-3
    assert len(calls) > 1


def test_memory_is_in_gigabytes():
    free, total = lesson.memory_gb(torch.device("cpu"))
    assert 0 < free <= total < 1e5 and total > 0.1
    assert sys.maxsize > 2**32  # 64-bit Python: PyTorch has no other
