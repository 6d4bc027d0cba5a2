"""Face_generation_using_Conditional_GAN.ipynb: where the label goes, the step, the judge's table, variety, faces."""
import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter12/Face_generation_using_Conditional_GAN.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "ConditionalGenerator", "ProjectionDiscriminator", "BlindDiscriminator",
                     "ConcatenationDiscriminator", "game_step", "train_conditional_gan", "generate_as_asked",
                     "new_conditional_gan", "spread", "between", "to_range", "obedience", "load_faces", "FaceGenerator",
                     "FaceDiscriminator", "yes_or_no", "film_steps", "new_garment_judge", "look")
KINDS = ["ProjectionDiscriminator", "BlindDiscriminator", "ConcatenationDiscriminator"]


def small(kind="ProjectionDiscriminator", seed=0):
    torch.manual_seed(seed)
    return lesson.ConditionalGenerator(5, 10, 3, 2), getattr(lesson, kind)(10, 2)


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1
    return images, torch.randint(10, (count,), generator=generator), torch.randn(count, 5, generator=generator)


# ---- the networks


@pytest.mark.parametrize("kind", KINDS)
def test_who_looks_at_the_label(kind):
    G, D = small(kind)
    images, labels, noise = batch(6)
    made = G.eval()(noise, labels)
    assert made.shape == images.shape and made.abs().max() <= 1
    assert not torch.allclose(made, G(noise, (labels + 1) % 10)) and not torch.allclose(made, G(noise + 1, labels))
    D.eval()
    logits = D(images, labels)
    assert logits.shape == (6,)
    changed = (logits - D(images, (labels + 1) % 10)).abs()
    assert (changed == 0).all() if kind == "BlindDiscriminator" else (changed > 0).all()
    assert not torch.allclose(logits, D(-images, labels))


def test_projection_is_a_linear_discriminator_for_each_class():
    _, D = small()
    images, labels, _ = batch(9)
    D.eval()
    phi = D.phi(images)
    for row in range(9):
        u = D.linear.weight[0] + D.embed.weight[labels[row]]
        torch.testing.assert_close(D(images, labels)[row], phi[row] @ u + D.linear.bias[0])


def test_concatenation_is_a_one_hot_plane():
    _, D = small("ConcatenationDiscriminator")
    images, labels, _ = batch(4)
    D.eval()
    planes = torch.zeros(4, 10, 28, 28)
    planes[torch.arange(4), labels] = 1
    torch.testing.assert_close(D(images, labels), D.linear(D.phi(torch.cat([images, planes], 1)))[:, 0])


def test_faces_have_the_said_shapes_and_attributes_count():
    G, D = lesson.FaceGenerator(5, 3, 4, 2), lesson.FaceDiscriminator(3, 2)
    asked, noise = torch.tensor([[0.0, 0, 0], [1, 0, 1]]), torch.randn(2, 5)
    made = G.eval()(noise, asked)
    assert made.shape == (2, 3, 64, 64) and made.abs().max() <= 1
    D.eval()
    assert D(made, asked).shape == (2,) and not torch.allclose(D(made, asked), D(made, 1 - asked))
    assert not torch.allclose(made, G(noise, 1 - asked))
    with_bias = F.linear(D.phi(made), D.linear.weight, D.linear.bias)[:, 0]
    torch.testing.assert_close(D(made, asked)[0], with_bias[0])  # asked for nothing: the projection adds nothing


# ---- the step and the loop


def test_a_step_is_two_steps_of_adam_with_the_right_labels():
    (G, D), (G2, D2) = small(), small()
    real, asked, noise = batch(8)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (D, G)]
    losses = lesson.game_step(G, D, *optimizers, real, asked, noise)
    fake = G2(noise, asked)
    bce = F.binary_cross_entropy_with_logits
    ours = []
    for net, loss in (
            (D2, lambda: bce(D2(real, asked), torch.ones(8)) + bce(D2(fake.detach(), asked), torch.zeros(8))),
            (G2, lambda: bce(D2(fake, asked), torch.ones(8)))):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        value = loss()
        ours.append(value.detach())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    torch.testing.assert_close([loss.detach() for loss in losses], ours, rtol=1e-4, atol=1e-5)
    for p, q in zip([*G.parameters(), *D.parameters()], [*G2.parameters(), *D2.parameters()]):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_the_discriminators_step_leaves_no_gradient_in_the_generator():
    G, D = small()
    real, asked, noise = batch(8)
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(any(p.grad is not None and p.grad.any() for p in G.parameters()))

    lesson.game_step(G, D, Spy(D.parameters(), 0.1), Spy(G.parameters(), 0.1), real, asked, noise)
    assert seen == [False, True]


def test_the_loop_pairs_images_with_their_labels_and_is_repeatable(monkeypatch):
    seen, space = [], lesson.train_conditional_gan.__globals__
    original = space["game_step"]

    def spy(G, D, optimizer_D, optimizer_G, real, asked, noise):
        seen.append((real[:, 0, 0, 0], asked, noise))
        return original(G, D, optimizer_D, optimizer_G, real, asked, noise)

    monkeypatch.setitem(space, "game_step", spy)
    images = torch.arange(40.0)[:, None, None, None].expand(-1, 1, 28, 28) / 40
    labels = torch.arange(40) % 10
    watched = torch.randn(3, 5), torch.tensor([1, 2, 3])
    histories = []
    for _ in range(2):
        G, D = small()
        histories.append(lesson.train_conditional_gan(G, D, images, labels, 6, 7, 1e-2, 0, watched, 3))
    for real, asked, noise in seen:
        assert torch.equal((real * 40).round().long() % 10, asked) and noise.shape == (7, 5)
    assert len(seen) == 12 and len({row for real, _, _ in seen for row in real.tolist()}) > 10
    expected = lesson.generate_as_asked(G, *watched)
    assert histories[0]["g_loss"] == histories[1]["g_loss"] and len(histories[0]["d_loss"]) == 6
    assert [step for step, _ in histories[0]["film"]] == lesson.film_steps(6, 3) == [0, 2, 6]
    torch.testing.assert_close(histories[0]["film"][-1][1], expected)


def test_generate_as_asked_is_in_evaluation_mode_and_keeps_the_order():
    G, _ = small()
    _, labels, noise = batch(1203)
    for training in (True, False):
        G.train(training)
        made = lesson.generate_as_asked(G, noise, labels)
        assert G.training is training
        torch.testing.assert_close(made, G.eval()(noise, labels).detach(), rtol=1e-4, atol=1e-5)


# ---- what is measured


def test_obedience_counts_what_was_asked_for(monkeypatch):
    """With a judge that reads the label off the image, and a training that does nothing but remember."""
    trained, space = [], lesson.obedience.__globals__
    monkeypatch.setitem(space, "train_conditional_gan", lambda *arguments: trained.append(arguments))
    monkeypatch.setitem(space, "generate_as_asked", lambda G, noise, asked: (asked + (noise[:, 0] > 0)) % 10)
    monkeypatch.setitem(space, "look", lambda judge, images: (None, F.one_hot(images.long(), 10).float()))
    noise, asked = torch.tensor([[1.0], [-1], [-1], [-1]]), torch.tensor([9, 0, 5, 7])
    images = torch.zeros(3, 1, 28, 28)
    found = lesson.obedience(lesson.BlindDiscriminator, 4, None, images, "labels", noise, asked)
    assert found == 75 and isinstance(trained[0][1], lesson.BlindDiscriminator) and trained[0][-1] == 4
    assert trained[0][2] is images and trained[0][3] == "labels"


def test_spread_is_the_variance_within_classes():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(200) % 10
    expected = [features[labels == k].numpy().var(axis=0, ddof=1).sum() for k in range(10)]
    torch.testing.assert_close(lesson.spread(features, labels), torch.tensor(expected, dtype=torch.float64))
    assert lesson.spread(features + 100 * labels[:, None], labels) == pytest.approx(expected)
    assert lesson.spread(labels[:, None].double().expand(-1, 4), labels).abs().max() == 0


def test_between_starts_and_ends_at_the_classes():
    G, _ = small()
    noise = torch.randn(2, 5)
    made = lesson.between(G, noise, 3, 8, 4)
    assert made.shape == (8, 1, 28, 28)
    for row in range(2):
        for place, label in ((0, 3), (3, 8)):
            expected = G.eval()(noise[row:row + 1], torch.tensor([label]))[0].detach()
            torch.testing.assert_close(made[4 * row + place], expected, rtol=1e-4, atol=1e-5)


def test_range_of_the_images():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(-1, 28, 28)
    torch.testing.assert_close(lesson.to_range(images)[:, 0, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert lesson.to_range(images).shape == (3, 1, 28, 28)


def test_faces_are_read_with_their_attributes(tmp_path):
    rows = []
    for k in range(7):
        pixels = np.full((218, 178, 3), (30 * k, 10, 200), np.uint8)
        pixels[:40] = 255  # the crop leaves the top out
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        rows.append({"image": {"bytes": data.getvalue(), "path": None}, "celeb_id": 100 + k, "a": k % 2 == 0,
                     "b": k > 3})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "faces.parquet")
    for count, expected in ((4, 4), (100, 7)):
        faces, asked, people = lesson.load_faces(tmp_path / "faces.parquet", ("b", "a"), count, 16)
        assert faces.shape == (expected, 3, 16, 16) and people.tolist() == [100 + k for k in range(expected)]
        torch.testing.assert_close(faces[:, 0, 8, 8], 30 * torch.arange(expected) / 127.5 - 1, rtol=0, atol=0.01)
        assert faces[:, 2].min() > 0.5 and faces[:, 1].max() < -0.9
        assert asked.tolist() == [[float(k > 3), float(k % 2 == 0)] for k in range(expected)]


def test_yes_or_no_is_the_sign_of_the_logit():
    judge = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    images = torch.tensor([[-1.0, 2.0], [0.0, -3.0]])[:, :, None, None]
    assert lesson.yes_or_no(judge, images).tolist() == [[0, 1], [0, 0]]


# ---- the stored run


def test_results_are_those_that_were_shown():
    results = assert_shown(
        NOTEBOOK, "the judge names {judge_accuracy:.1%} of", "as asked: {asked_percent:.1f} %; with a blind "
        "discriminator {blind_percent:.1f} %", "median distance: generated {nearest_generated:.3f}, real test images "
        "{nearest_test:.3f}", "'generated': {frechet:.0f}, 'other real': {frechet_real:.0f}, 'random pixels': "
        "{frechet_noise:.0f}")
    assert results["asked_percent"] >= 80 and results["frechet_real"] < results["frechet"] < results["frechet_noise"]
    assert 0 < results["variety_least"] <= results["variety_mean"] < 1.5


def test_the_prose_says_what_was_found():
    assert_said(
        NOTEBOOK, "{asked_percent:.1f}% of the garments are what was asked for; the judge itself names "
        "{judge_accuracy:.1%} of real ones", "blind discriminator leaves {blind_percent:.1f} ± {blind_sd_points:.1f}%",
        "{concatenation_percent:.1f} ± {concatenation_sd_points:.1f}%, projection {projection_percent:.1f} ± "
        "{projection_sd_points:.1f}%: a lead of {projection_lead_points:.0f} ± {projection_lead_sd_points:.0f} points",
        "variety is {variety_mean:.0%} of that of real garments, on average, and {variety_least:.0%} for trousers",
        "distance of {frechet:.0f} lies near that of other real garments ({frechet_real:.0f}) and far from random "
        "pixels ({frechet_noise:.0f})", "are {nearest_generated:.2f} away from the nearest training image, new real "
        "ones {nearest_test:.2f}")
