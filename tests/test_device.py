"""The simulated accelerator: it computes what a GPU computes, refuses what a GPU refuses, and notebooks run on it."""
import json
import os
import subprocess
import sys

import pytest
import torch

from tests.notebooks import ROOT
from tests.offline import SITE
from tests.test_plugin import Shelf

HEAD = """
import copy, io, json, sys
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
there, here = torch.ones(3, device=device), torch.ones(3)
"""

ALLOWED = [  # each is true
    "device.type != 'cpu' and there.device.type == device.type and not there.is_cpu",
    "str(there.cpu()) == 'tensor([1., 1., 1.])' and there.cpu().numpy().tolist() == there.tolist() == [1, 1, 1]",
    "(there + 1).device == there.device and there.sum().item() == 3 and f'{there.mean():.2f}' == '1.00'",
    "all(make.device == there.device for make in (torch.zeros(2, device=device), torch.arange(3, device=device), "
    "torch.eye(2, device=device), torch.tensor([1.0], device=device), torch.zeros_like(there), here.to(device)))",
    "torch.equal((there * torch.tensor(2.0)).cpu(), 2 * here)",  # one number of the CPU
    "there[torch.tensor([0, 2])].shape == (2,)",  # indices of the CPU
    "bool((torch.where(there > 0, 1.0, 0.0) == 1).all()) and there.nonzero().shape == (3, 1)",
    "torch.randn(2, device=device, generator=torch.Generator(device).manual_seed(0)).device == there.device",
    "torch.randn(2, generator=torch.Generator().manual_seed(0)).device == here.device",
    "isinstance(torch.Generator(), torch.Generator) and isinstance(torch.default_generator, torch.Generator)",
    "vmap(grad(lambda w, x: (x @ w).sum()), (None, 0))(there, torch.ones(5, 3, device=device)).shape == (5, 3)",
    "torch.autograd.functional.hessian(lambda x: (x**3).sum(), there).cpu().diag().tolist() == [6, 6, 6]",
    "gradients()",
    "trained(torch.optim.Adam, fused=True) and trained(torch.optim.SGD, momentum=0.9, fused=True)",
    "trained(torch.optim.AdamW) and trained(torch.optim.RMSprop)",
    "torch.load(saved(there), weights_only=True, map_location=device).device == there.device",
    "torch.load(saved(there), weights_only=True, map_location='cpu').device == here.device",
    "copy.deepcopy(nn.Linear(2, 2).to(device)).weight.device == there.device",
    "torch.tensor([there[0], 2]).tolist() == [1, 2]",
    "copied()",
    "defaults() == ['meta', device.type]",
    "inferred() and not (inferred.kept.to(device, torch.float32) + there).requires_grad",
    "there[[0, 2]].tolist() == [1, 1] and there[None][[0], [1, 2]].device == there.device",
    "torch.equal(torch.get_device_module(device).get_rng_state(), torch.get_rng_state())",
]

REFUSED = [  # what raises, the error, words of its message
    ("here + there", "RuntimeError", "same device"),
    ("there + here", "RuntimeError", "same device"),
    ("torch.cat([there, here])", "RuntimeError", "same device"),
    ("nn.Linear(3, 1)(there)", "RuntimeError", "same device"),
    ("nn.Linear(3, 1).to(device)(here)", "RuntimeError", "same device"),
    ("F.mse_loss(there, here)", "RuntimeError", "same device"),
    ("here[torch.zeros(1, dtype=torch.long, device=device)]", "RuntimeError", "same device"),
    ("torch.testing.assert_close(there, here)", "AssertionError", "device"),
    ("there.numpy()", "TypeError", "Tensor.cpu()"),
    ("np.asarray(there)", "TypeError", "Tensor.cpu()"),
    ("there.double()", "TypeError", "float64"),
    ("torch.zeros(2, dtype=torch.float64, device=device)", "TypeError", "float64"),
    ("torch.tensor(np.ones(2), device=device)", "TypeError", "float64"),
    ("torch.from_numpy(np.ones(2)).to(device)", "TypeError", "float64"),
    ("torch.randn(2, device=device, generator=torch.Generator())", "RuntimeError", "generator"),
    ("torch.autocast(device.type, torch.float16)", "RuntimeError", "float32 only"),
]

TAIL = """
def gradients():
    near, far = here.clone().requires_grad_(), torch.ones(3, device=device, requires_grad=True)
    ((near.to(device) * far) ** 2).sum().backward()
    return near.grad.tolist() == [2, 2, 2] and near.grad.is_cpu and far.grad.device == there.device

def trained(kind, **options):
    torch.manual_seed(0)
    images, labels = torch.randn(30, 1, 6, 6), torch.arange(30) % 3
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    twins, losses = [nn.Sequential(*layers)], []
    twins.append(copy.deepcopy(twins[0]).to(device))
    for model, place in zip(twins, ("cpu", device)):
        optimizer = kind(model.parameters(), lr=0.01, **options)
        for step in range(5):
            loss = F.cross_entropy(model(images.to(place)), labels.to(place))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    return losses[0] == losses[1] and twins[1][0].weight.device == there.device

def copied():
    layer = nn.Linear(3, 2).to(device)
    layer(there).sum().backward()
    twin = copy.deepcopy(layer)
    return twin.weight.grad is None and twin.weight.requires_grad and isinstance(twin.weight, nn.Parameter)

def defaults():
    kinds = []
    for place in (torch.device("meta"), device):
        with place:
            kinds.append(torch.tensor([1.0]).device.type)
    return kinds

@torch.inference_mode()
def inferred():
    layer = nn.Linear(3, 2).to(device)  # made, moved, run where no gradient is wanted
    parts = torch.ones(5, 3, device=device).split(2)
    moved = here.to(device, torch.float32)  # there and back
    assert (moved + there).cpu().tolist() == [2, 2, 2] and torch.equal(there.to("cpu"), here)
    inferred.kept = moved
    return layer(moved).shape == (2,) and not torch.cat([part @ layer.weight.T for part in parts]).requires_grad

def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file

found = {}
for expression in json.load(sys.stdin):
    try:
        found[expression] = ["value", str(eval(expression))]
    except Exception as error:
        found[expression] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcome():
    """Expression -> kind and message of the exception that it raised, or `value` and its value."""
    expressions = [*ALLOWED, *(expression for expression, *_ in REFUSED)]
    environment = {**os.environ, "MCVP_OFFLINE": "1", "MCVP_DEVICE": "simulated", "PYTHONPATH": str(SITE)}
    run = subprocess.run([sys.executable, "-c", HEAD + TAIL], input=json.dumps(expressions), env=environment, text=True,
                         capture_output=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("expression", ALLOWED)
def test_it_computes(expression, outcome):
    assert outcome[expression] == ["value", "True"]


@pytest.mark.parametrize("expression, error, words", REFUSED)
def test_it_refuses(expression, error, words, outcome):
    found, message = outcome[expression]
    assert (found, words in message) == (error, True), f"{found}: {message}"


DEVICE = "device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device('cpu')"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a real one")
@pytest.mark.parametrize("options, outcome", [((), "PASSED"), (("--device", "simulated"), "FAILED")])
def test_a_device_mistake_fails_on_the_simulated_device_only(options, outcome, tmp_path):
    shelf = Shelf(tmp_path)
    for name in ("Wrong", "Wrong_too"):  # two, so that their kernels are forked where that is possible
        shelf.add(f"{name}.ipynb", f"import torch\n{DEVICE}", "print(torch.ones(2, device=device).numpy())")
    shelf.add("Right.ipynb", f"import torch\n{DEVICE}", "print(torch.ones(2, device=device).cpu().numpy())")
    run = shelf.run(*options)
    assert run.tests["Chapter01/Right.ipynb::notebook"][0] == "PASSED", run.output
    for name in ("Wrong", "Wrong_too"):
        assert run.tests[f"Chapter01/{name}.ipynb::Cell 2"][0] == outcome, run.output


def test_the_full_profile_has_the_device_there_is(tmp_path):
    run = Shelf(tmp_path).run("--full", "--device", "simulated")
    assert run.code == pytest.ExitCode.USAGE_ERROR and "quick profile" in run.output
