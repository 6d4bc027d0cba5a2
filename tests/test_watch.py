"""The watch (tests/checks/kernel) finds each kind of fault in a small notebook, and leaves a sound one alone."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.checks import records
from tests.notebooks import ROOT, name_of, notebooks

SOUND = [
    """
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
""",
    """
def load():
    images = torch.randint(0, 256, (120, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = (images.flatten(1).float().mean(1) > 127).long()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    val, test, train = order[:30], order[30:60], order[60:]
    return {name: (images[rows], labels[rows]) for name, rows in (('train', train), ('val', val), ('test', test))}
data = load()
""",
    """
def to_inputs(images):
    return images.flatten(1).float() / 255
def new_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
def train_one_epoch(model, images, labels, optimizer, scheduler, generator):
    model.train()
    total = 0
    for batch in torch.randperm(len(images), generator=generator).split(16):
        loss = F.cross_entropy(model(to_inputs(images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.detach() * len(batch)
    return (total / len(images)).item()
@torch.inference_mode()
def evaluate(model, images, labels):
    model.eval()
    logits = torch.cat([model(to_inputs(part)) for part in images.split(20)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
""",
    """
models, history = {}, []
for seed in (0, 1):
    model = models[seed] = new_model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=8)
    generator = torch.Generator().manual_seed(seed)
    for epoch in (1, 2):
        loss = train_one_epoch(model, *data['train'], optimizer, scheduler, generator)
        val_loss, val = evaluate(model, *data['val'])
        history.append({'seed': seed, 'epoch': epoch, 'kind': f'seed {seed}', 'train loss': loss,
                        'val loss': val_loss, 'val': val})
history = pd.DataFrame(history)
""",
    """
fig, ax = plt.subplots()
for kind, rows in history.groupby('kind'):
    ax.plot(rows['epoch'], rows['train loss'], label=kind)
ax.set(xlabel='epoch', ylabel='training loss', title=f"Ends at {history['train loss'].iloc[-1]:.2f}")
ax.legend()
plt.show()
""",
    """
most_frequent = data['train'][1].bincount().argmax()
baseline = (data['test'][1] == most_frequent).float().mean().item()
test_loss, test_accuracy = evaluate(models[0], *data['test'])
print(f'test accuracy {test_accuracy:.1%}, baseline {baseline:.1%}')
""",
    """
classes = ['dark', 'light', 'colored']
with torch.inference_mode():
    answers = models[0](to_inputs(data['val'][0])).argmax(1)
truth = data['val'][1]
fig, axes = plt.subplots(1, 3)
wrong = (answers != truth).nonzero()[:, 0].tolist()
for ax, i in zip(axes, wrong):
    ax.imshow(data['val'][0][i], cmap='gray')
    ax.set_title(f'{classes[answers[i]]} 90%\\n({classes[truth[i]]})')
fig.suptitle('Mistakes; true class in brackets')
plt.show()
""",
    """
confusion = torch.zeros(2, 2)
for answer, label in zip(answers, truth):
    confusion[label, answer] += 1
share = confusion / confusion.sum(1, keepdim=True)
fig, ax = plt.subplots()
ax.imshow(share)
ax.set(xlabel='predicted', ylabel='true')
plt.show()
""",
    "history.groupby('kind')[['train loss', 'val loss']].mean().rename(columns={'val loss': 'validation'})",
    "results = {'test_accuracy': test_accuracy, 'val_loss': history['val loss'].mean()}",
]

SPLITS = ["import torch\nfrom torch import nn\nimages, animals = torch.rand(40, 3), torch.rand(40, 3)", """
for seed in (0, 1):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    train_rows, val_rows = order[:30], order[30:]
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(images[train_rows]).mean().backward()
        optimizer.step()
""", "test_rows, own_rows = torch.arange(10), torch.arange(10, 40)\nprint(model(animals[own_rows]).mean().item())"]

GAN = [SPLITS[0], """
critic, generator = nn.Linear(3, 1), nn.Linear(2, 3)
of_critic, of_generator = (torch.optim.Adam(net.parameters(), lr=0.01) for net in (critic, generator))
train_rows, test_rows = images[:30], images[30:]
for part in train_rows.split(10):
    of_critic.zero_grad()
    (critic(generator(torch.rand(10, 2)).detach()).mean() - critic(part).mean()).backward()
    of_critic.step()
    of_generator.zero_grad()
    critic(generator(torch.rand(10, 2))).mean().neg().backward()
    of_generator.step()
noise = torch.zeros(10, 1, 3, requires_grad=True)
attack = torch.optim.SGD([noise], lr=0.1)
for _ in range(3):
    attack.zero_grad()
    critic(test_rows[:, None] + noise).mean().backward()
    attack.step()
"""]

FAULTS = {  # name -> (what is replaced, by what, words of the finding)
    "trained on validation rows": (
        "(model, *data['train'], optimizer", "(model, *data['val'], optimizer", "validation reached a training step"),
    "trained on validation rows too": (
        "train = order[:30], order[30:60], order[60:]", "train = order[:30], order[30:60], order[20:]",
        "are also rows of"),
    "test rows from all rows": (
        "order[30:60]", "order[30:70]", "are also rows of"),
    "validation is named test": (
        "evaluate(models[0], *data['test'])", "evaluate(models[0], *data['val'])", "named after test"),
    "no test row was looked at": (
        "(data['test'][1] == most_frequent).float().mean().item()\n"
        "test_loss, test_accuracy = evaluate(models[0], *data['test'])",
        "0.5\ntest_loss, test_accuracy = 0.4, 0.6", "no number was read off test rows"),
    "a baseline fitted on what it is judged on": (
        "most_frequent = data['train']", "most_frequent = data['test']", "judged on these same rows"),
    "columns exchanged": (
        "'val loss': val_loss, 'val'", "'val loss': loss, 'val'", "named after validation"),
    "zero_grad removed": ("        optimizer.zero_grad()\n", "", "zero_grad is missing"),
    "trained in evaluation mode": ("    model.train()\n", "    model.eval()\n", "trained in evaluation mode"),
    "schedule never stepped": ("        scheduler.step()\n", "", "never stepped"),
    "schedule twice as long": ("total_steps=8", "total_steps=16", "ends after 16 steps"),
    "seed not used": ("new_model(seed)\n    optim", "new_model(0)\n    optim", None),
    "seeds not used": ("seed in (0, 1)", "seed in (0, 0)", "the same parameters to the last bit"),
    "legend exchanged": (
        "for kind, rows in history.groupby('kind'):",
        "for kind, (_, rows) in zip(['seed 1', 'seed 0'], history.groupby('kind')):", "the line labelled 'seed"),
    "predicted and true exchanged": (
        "{classes[answers[i]]} 90%\\n({classes[truth[i]]})", "{classes[truth[i]]} 90%\\n({classes[answers[i]]})",
        "in truth"),
    "axes of the confusion matrix exchanged": (
        "xlabel='predicted', ylabel='true'", "xlabel='true', ylabel='predicted'", "axes of a matrix of shares"),
    "another column": (
        "rows['epoch'], rows['train loss']", "rows['epoch'], rows['val loss']", "draws validation numbers"),
}


@pytest.fixture(scope="module")
def told() -> dict[str, dict]:
    """What is told of the sound notebook and of each with a fault; all run in one process."""
    jobs = {"sound": SOUND, "again": SOUND, "splits": SPLITS,
            "gan": GAN, "gan, not cleared": [cell.replace("    of_critic.zero_grad()\n", "") for cell in GAN],
            "splits that share": [cell.replace("order[30:]", "order[20:]") for cell in SPLITS],
            "trained on the other part": [cell.replace("s[train_rows]", "s[val_rows]") for cell in SPLITS],
            "values": [*SOUND, "shares = [(data['test'][1] == k).float().mean().item() for k in "
                               "data['test'][1].unique()]"],
            "another variable": [*SOUND[:-1], SOUND[-1].replace("history['val loss'].mean()", "test_loss")],
            "another network": [cell.replace("manual_seed(seed)", "manual_seed(seed + 5)") for cell in SOUND],
            "longer": [cell.replace("epoch in (1, 2)", "epoch in (1, 2, 2)").replace("steps=8", "steps=12")
                       for cell in SOUND],
            "another label": [cell.replace("ylabel='training loss'", "ylabel='accuracy'") for cell in SOUND],
            "another column in a table": [cell.replace("{'val loss': 'validation'}", "{'val loss': 'train'}").replace(
                "kind')[['train loss', 'val loss']]", "kind')[['val loss', 'train loss']]") for cell in SOUND],
            "by chance": [cell.replace("rows['train loss'], label", "rows['train loss'] * 2, label") for cell in SOUND]}
    for name, (old, new, words) in FAULTS.items():
        assert sum(cell.count(old) for cell in SOUND) == 1, f"{name}: not once in the notebook"
        drawn = words is None or any(old in cell and "plt.show" in cell for cell in SOUND)  # drawing takes longest
        jobs[name] = [cell.replace(old, new) for cell in SOUND if drawn or "plt.show" not in cell]
    done = subprocess.run([sys.executable, "-m", "tests.checks.trial"], input=json.dumps(jobs), cwd=ROOT, text=True,
                          capture_output=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {name: one | {"code": "5e", "cells": jobs[name]} for name, one in told.items()}


def test_a_sound_notebook_is_left_alone(told):
    assert told["sound"]["failed"] is None
    assert told["sound"]["findings"] == [] and told["sound"]["errors"] == []


def test_the_watch_changes_nothing_and_tells_the_same_each_time(told):
    assert told["sound"] == told["again"]
    assert told["sound"]["results"]["test_accuracy"] > 0.5


def test_row_numbers_lend_their_role(told):
    """To what they choose there, not to the rows: each seed may split them otherwise, other rows have numbers, too."""
    assert told["splits"]["findings"] == [] and told["values"]["findings"] == []
    assert "also rows of" in told["splits that share"]["findings"][0][2]
    assert "validation reached a training step" in told["trained on the other part"]["findings"][0][2]


def test_a_gradient_may_be_added_to_what_is_cleared_before_it_is_used(told):
    """As the generator's loss to the critic's gradients; and what is trained in an attack is a picture."""
    assert told["gan"]["findings"] == [] and told["gan"]["errors"] == []
    assert ["zero_grad"] in [key for *_, key in told["gan, not cleared"]["findings"]]


def test_the_story(told):
    story = ["; ".join(map(str, line)) for line in told["sound"]["story"]]
    assert "6; numbers were read off test rows" in story
    training = next(line for line in story if "trainings" in line)
    assert "2 trainings from 2 starting points in 2 orders of rows" in training
    assert "Adam, 8 steps of 12/16 rows, 120 of train (60 different)" in training
    assert any("OneCycleLR for 8 steps, stepped 8 times" in line for line in story)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_or_told(told, name):
    """By a finding that says it or, where no rule can know it, by another story or other numbers than the record's."""
    words = FAULTS[name][2]
    texts = [text for _, _, text, _ in told[name]["findings"]]
    if words is None:
        assert told[name]["story"] != told["sound"]["story"]
    else:
        assert any(words in text for text in texts), texts


@pytest.fixture(scope="module")
def record(told):
    return json.loads(json.dumps(records.make(told["sound"])))


def test_a_record_holds_for_another_network(record, told):
    """One of other parameters: its losses, mistakes and titles are others, what went where is not."""
    assert told["another network"]["results"] != told["sound"]["results"]
    assert records.differences(record, told["sound"]) == records.differences(record, told["another network"]) == []


@pytest.mark.parametrize("name, said", [
    ("another variable", "results, val_loss: it was history['val loss'] mean, and is no more"),
    ("longer", "code cell 4, rows and loops: recorded 2 trainings"),
    ("another column in a table", "code cell 9, draws of its tables: recorded ['column train loss ', 'column val"),
    ("another label", "code cell 5, labels of its figures: recorded epoch | training loss |"),
    ("by chance", "code cell 5, line seed … was drawn from history['train loss'], and is no more"),
])
def test_what_is_other_than_in_the_record_is_said(record, told, name, said):
    assert any(line.startswith(said) for line in records.differences(record, told[name])), (
        records.differences(record, told[name]))


def test_a_cell_that_is_new_is_held_to_nothing(record, told):
    """And those behind it are known again."""
    run = told["sound"]
    moved = run | {"cells": ["new = 1", *run["cells"]], "story": [[cell + 1, line] for cell, line in run["story"]],
                   **{kind: [[cell + 1, figure] for cell, figure in run[kind]] for kind in ("figures", "tables")}}
    assert records.differences(record, moved) == []
    moved["story"] = [[1, "a training"], *moved["story"][1:]]
    assert any(line.startswith("code cell 5, rows") for line in records.differences(record, moved))


def test_with_other_versions_only_the_names_of_results_are_held(record, told):
    assert records.differences(record, told["longer"] | {"environment": {}}) == []
    said, = records.differences(record, told["longer"] | {"environment": {}, "results": {}})
    assert said.startswith("results: recorded")


def test_a_share_of_few_rows_needs_words_that_speak_for_its_source(told):
    run = told["sound"] | {
        "results": {"accuracy": 0.8, "test_loss": 0.5128374651, "percent_right": 100 * 21 / 86},
        "routes": {"accuracy": ["found[0]", "best accuracy", "accuracy['mean']", "accuracy"],
                   "test_loss": ["found[1]"], "percent_right": ["right[0]", "right['percent'] max"]}}
    sure = {"accuracy": ["accuracy"], "test_loss": ["found[1]"], "percent_right": ["right['percent'] max"]}
    assert records.make(run)["routes"] == records.make(run, run)["routes"] == sure
    moved = run | {"results": run["results"] | {"accuracy": 0.7}}
    assert records.make(run, moved)["routes"] == sure | {"accuracy": run["routes"]["accuracy"]}


def test_a_record_of_two_runs_holds_what_both_tell(told):
    """The second of another arithmetic: here, of another network."""
    runs = [json.loads(json.dumps(told[name])) for name in ("sound", "another network")]
    record = json.loads(json.dumps(records.make(*runs)))
    assert record["open"] == [] and record["routes"]["val_loss"][0] == "history['val loss'] mean"
    assert [records.differences(record, run) for run in runs] == [[], []]
    runs[1]["story"][0][1] += " and more"
    cell = runs[1]["story"][0][0]
    record = records.make(*runs)
    assert record["open"] == [f"story {cell}"] and all(line[0] != cell for line in record["story"])
    assert [records.differences(record, run) for run in runs] == [[], []]


def test_figures_are_read_back(told):
    figure = next(figure for cell, figure in told["sound"]["figures"] if cell == 5)
    axes, = figure["axes"]
    assert axes["x"] == "epoch" and axes["y"] == "training loss"
    assert [artist[:2] for artist in axes["draws"]] == [["line", "seed 0"], ["line", "seed 1"]]
    assert [entry[:6] for entry in axes["legend"]] == ["seed 0", "seed 1"]


def test_every_record_has_a_notebook():
    """Not the other way round: a notebook may have no record yet."""
    known = {records.path_of(name_of(path)) for path in notebooks()}
    assert set(records.FOLDER.glob("*/*.json")) <= known, "git rm the others"
