"""Names, keys and labels of the notebooks hold what they speak of: tests/checks/wording.py, which runs nothing."""
from __future__ import annotations

import pytest

from tests.checks import watched, wording
from tests.notebooks import code_cells, name_of, notebooks, read

WRONG = {
    "def judge(images, labels):\n    pass\njudge(labels, images)": "judge is given labels as images",
    "def judge():\n    return loss, accuracy\naccuracy, loss = judge()": "accuracy and loss take what judge returns",
    "results = {'loss': found.accuracy.item(), 'accuracy': float(found.loss)}": "the entries 'loss' and 'acc",
    "results = {'test_accuracy': val_accuracy}": "'test_accuracy' speaks of test and is val_accuracy",
    "results = {'answer': difference, 'difference': model(x).item()}": "the entry 'answer' holds difference, and",
    "pd.DataFrame({'a': losses, 'b': 1, 'c': losses})": "the entries 'a' and 'c' of a frame are both losses",
    "results['test_loss'] = found['val']['loss']": "results['test_loss'] speaks of test and is",
    "test_accuracy = round(val_accuracy, 3)": "test_accuracy speaks of test and is",
    "print(f'chosen on validation rows, test accuracy {val_accuracy:.3f}')": "the text 'test accuracy' speaks of test",
    "ax.plot(epochs, history['val'], label='training')": "the label 'training' speaks of train and is",
    "ax.plot(x, y, label='one')\nax.plot(x, z, label='one')": "two things drawn on ax have the label 'one'",
    "results = {'first': score(a), 'second': score(a)}": "the entries 'first' and 'second' of results are both",
}

RIGHT = [
    "def judge(images, labels):\n    pass\njudge(images, labels)\njudge(*images, labels, images)",
    "def judge():\n    return loss, accuracy\nloss, accuracy = judge()\na, b = judge()",
    "results = {'loss': found.loss, 'accuracy': found.accuracy, 'test': scores.mean(), 'one': 1.0, 'two': 1.0}",
    "train_rows = order[len(val_rows):]\ntest = load('validation')\nparts = {'train': 1 - test, 'val': ~train}",
    "print(f'validation {val:.2f}, {test:.2f} on test images; of test rows {n}')",
    "left.plot(x, y, label='one')\nright.plot(x, z, label='one')\nax.plot(x, train['val'], label='validation')",
]


@pytest.mark.parametrize("source", WRONG)
def test_what_speaks_of_another_thing_is_found(source):
    found = wording.findings([source])
    assert len(found) == 1 and found[0].startswith(f"code cell 1: {WRONG[source]}"), found


@pytest.mark.parametrize("source", RIGHT)
def test_the_rest_is_left_alone(source):
    assert wording.findings([source]) == []


def test_the_notebooks():
    wrong = []
    for path in notebooks():
        notebook = read(path)
        if "wording" not in watched.excuses(notebook):
            found = wording.findings([cell.source for cell in code_cells(notebook)])
            wrong += [f"{name_of(path)}, {text} [wording]" for text in found]
    assert not wrong, "\n".join(wrong)
