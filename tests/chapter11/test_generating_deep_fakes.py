"""What Generating_deep_fakes.ipynb defines: drawn faces, the swap, judges and detectors, and who is shown what."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn
from torchvision.transforms import v2

from tests.cells import find_cell, run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter11/Generating_deep_fakes.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "PEOPLE", "POSE", "ellipse", "render_faces", "sample_scenes", "sample_faces", "new_encoder",
    "new_decoder", "new_judge", "train_judge", "outputs_of", "train_together", "measure_swap", "sharpness",
    "through_file", "disturbed", "detect")  # fmt: skip
LIGHT = torch.tensor([[0.5, 1.0]])


def face(name, side=64, light=LIGHT, **pose):
    """One face (3, side, side); the pose by the names of POSE, 0 where not given."""
    values = torch.tensor([[pose.get(part.replace("-", "_"), 0.0) for part in lesson.POSE]])
    return lesson.render_faces(lesson.PEOPLE[name], values, light, side)[0]


def center(picture, background=0.5):
    """Center of everything that is not background, (x, y) in shares of the side."""
    y, x = (picture - background).abs().amax(0).gt(0.05).nonzero().float().mean(0) / picture.shape[-1]
    return x.item(), y.item()


# ---- the drawings


def test_an_ellipse_has_its_area_and_place():
    axis = (torch.arange(200) + 0.5) / 200 * 2 - 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    mask = lesson.ellipse(u[None], v[None], 0.2, -0.3, 0.4, 0.2)[0]
    assert mask.min() >= 0 and mask.max() <= 1
    assert (mask.sum() * 4 / 200**2).item() == pytest.approx(math.pi * 0.4 * 0.2, rel=0.02)
    assert ((mask * u).sum() / mask.sum()).item() == pytest.approx(0.2, abs=0.01)
    assert ((mask * v).sum() / mask.sum()).item() == pytest.approx(-0.3, abs=0.01)
    assert mask[70, 120] > 0.99 and mask[0, 0] < 0.01


@pytest.mark.parametrize("name", lesson.PEOPLE)
def test_the_pose_moves_the_head_and_opens_the_mouth(name):
    x, y = center(face(name))
    right, down = center(face(name, left_right=1.0)), center(face(name, up_down=0.5))
    assert right[0] - x == pytest.approx(0.1, abs=0.01) and right[1] == pytest.approx(y, abs=0.01)
    assert down[1] - y == pytest.approx(0.05, abs=0.005) and down[0] == pytest.approx(x, abs=0.01)
    color = torch.tensor(lesson.PEOPLE[name]["mouth"]).view(3, 1, 1)

    def mouth(picture):
        return ((picture - color).abs().amax(0) < 0.1).sum().item()

    assert mouth(face(name, mouth=1.0)) > 1.8 * mouth(face(name, mouth=-1.0))


@pytest.mark.parametrize("name", lesson.PEOPLE)
def test_a_tilt_is_a_rotation_of_the_picture(name):
    """By 25 degrees; about the middle, since the head stands there."""
    tilted, straight = face(name, 96, tilt=1.0), face(name, 96)
    same = {sign: (v2.functional.rotate(straight, sign * 25.0, v2.InterpolationMode.BILINEAR, fill=0.5) - tilted).abs()
            .mean().item() for sign in (-1, 1)}
    assert min(same.values()) < 0.015 < 0.05 < max(same.values())


@pytest.mark.parametrize("name", lesson.PEOPLE)
def test_turning_moves_the_features_and_not_the_head(name):
    left, right = face(name, turn=-1.0), face(name, turn=1.0)
    assert center(left) == pytest.approx(center(right), abs=0.01)
    torch.testing.assert_close(left, right.flip(2), atol=0.01, rtol=0)
    assert (left - right).abs().mean() > 0.01


def test_light_is_background_and_factor_and_identity_is_not_light():
    light = torch.tensor([[0.3, 0.7]])
    picture = face("Ada", light=light)
    torch.testing.assert_close(picture[:, 0, 0], torch.full((3,), 0.21), atol=1e-3, rtol=0)
    torch.testing.assert_close(picture[:, 32, 32], 0.7 * face("Ada")[:, 32, 32], atol=1e-3, rtol=0)
    assert (face("Ada") - face("Bo")).abs().mean() > 0.05


def test_a_batch_is_drawn_like_single_pictures_and_scenes_follow_the_seed():
    pose, light = lesson.sample_scenes(5, 3)
    many = lesson.render_faces(lesson.PEOPLE["Bo"], pose, light, 24)
    for k in range(5):
        one = lesson.render_faces(lesson.PEOPLE["Bo"], pose[k:k + 1], light[k:k + 1], 24)
        torch.testing.assert_close(many[k:k + 1], one)
    assert many.min() >= 0 and many.max() <= 1 and many.shape == (5, 3, 24, 24)
    again, other = lesson.sample_scenes(5, 3), lesson.sample_scenes(5, 4)
    assert torch.equal(pose, again[0]) and torch.equal(light, again[1]) and not torch.equal(pose, other[0])
    pose, light = lesson.sample_scenes(4_000, 0)
    assert pose.min() < -0.99 and pose.max() > 0.99 and pose.mean().abs() < 0.03
    assert np.abs(np.corrcoef(torch.cat([pose, light], 1).T) - np.eye(7)).max() < 0.06  # nothing tells of another


def test_training_and_test_faces_are_of_different_scenes():
    source = find_cell(NOTEBOOK, "def sample_faces")
    space = run_cell(NOTEBOOK, "def sample_faces", PEOPLE=lesson.PEOPLE, sample_scenes=lesson.sample_scenes, SIDE=16,
                     render_faces=lesson.render_faces, FACES=6, TEST_FACES=6, device=CPU, draw_rows=lambda *_: None)
    poses = torch.cat([part[name][1] for part in (space["train"], space["test"]) for name in ("Ada", "Bo")])
    assert len(poses.unique(dim=0)) == 24, source
    for part in (space["train"], space["test"]):
        for name in ("Ada", "Bo"):
            pictures, pose, light = part[name]
            torch.testing.assert_close(pictures, lesson.render_faces(lesson.PEOPLE[name], pose, light, 16))


# ---- the swap


def tiny(seed, shared=True):
    torch.manual_seed(seed)
    encoder = lesson.new_encoder(2, 6, 16)
    encoders = [encoder, encoder if shared else lesson.new_encoder(2, 6, 16)]
    return encoders, [lesson.new_decoder(2, 6, 16) for _ in range(2)]


@pytest.mark.parametrize("side", [16, 48])
def test_networks_have_the_shapes_that_they_promise(side):
    x = torch.rand(3, 3, side, side)
    code = lesson.new_encoder(4, 7, side)(x)
    picture = lesson.new_decoder(4, 7, side)(code)
    assert code.shape == (3, 7) and picture.shape == x.shape and picture.min() >= 0 and picture.max() <= 1
    assert lesson.new_judge(4, 5, side, 0, CPU)(x).shape == (3, 5)


@pytest.mark.parametrize("shared", [True, False])
def test_each_parameter_is_stepped_once_per_batch(shared):
    encoders, decoders = tiny(0, shared)
    faces = [torch.rand(8, 3, 16, 16) for _ in range(2)]
    optimizer, losses = lesson.train_together(encoders, decoders, faces, 7, 4, 1e-3, 0)
    parameters = {id(p) for part in [*encoders, *decoders] for p in part.parameters()}
    assert {id(p) for p in optimizer.state} == parameters and len(losses) == 7
    assert {int(state["step"]) for state in optimizer.state.values()} == {7}


def test_the_first_steps_go_against_the_gradient_of_the_sum_of_both_losses():
    encoders, decoders = tiny(1)
    faces = [torch.rand(1, 3, 16, 16) for _ in range(2)]  # one picture of each: every batch holds it
    parts = nn.ModuleList([encoders[0], *decoders])
    loss = sum(F.mse_loss(decoder(encoders[0](x)), x) for decoder, x in zip(decoders, faces))
    gradients = torch.autograd.grad(loss, list(parts.parameters()))
    before = [p.detach().clone() for p in parts.parameters()]
    _, losses = lesson.train_together(encoders, decoders, faces, 3, 3, 1e-4, 0)
    assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    for p, start, gradient in zip(parts.parameters(), before, gradients):
        clear = gradient.abs() >= gradient.abs().median()
        assert (((p.detach() - start)[clear] < 0) == (gradient[clear] > 0)).float().mean() > 0.9  # AdamW: by the sign


def test_person_k_goes_through_decoder_k_alone():
    """A person whose pictures are all white makes one decoder white; the other one knows only black."""
    encoders, decoders = tiny(2)
    faces = [torch.ones(4, 3, 16, 16), torch.zeros(4, 3, 16, 16)]
    lesson.train_together(encoders, decoders, faces, 150, 4, 2e-2, 0)
    white, black = (lesson.outputs_of(nn.Sequential(encoders[0], decoder), torch.rand(5, 3, 16, 16))
                    for decoder in decoders)
    assert white.mean() > 0.9 and black.mean() < 0.1


def test_swappers_share_the_encoder_or_do_not():
    make = definitions(NOTEBOOK, "new_swapper", WIDTH=2, CODE=4, SIDE=16).new_swapper
    (a, b), decoders = make(0, True, CPU)
    assert a is b and decoders[0] is not decoders[1] and decoders[0][0].weight is not decoders[1][0].weight
    assert all(torch.equal(one, other) for one, other in zip(decoders[0].parameters(), decoders[1].parameters()))
    (c, d), _ = make(0, False, CPU)
    assert c is not d and not torch.equal(c[0].weight, d[0].weight) and torch.equal(a[0].weight, c[0].weight)


def test_the_first_swap_goes_from_ada_to_bo():
    encoders, decoders = tiny(3)
    found = run_cell(NOTEBOOK, "swapper = nn.Sequential(encoders[0], decoders[1])  # from Ada",
                     train={"Ada": (torch.ones(1), 0, 0), "Bo": (torch.zeros(1), 0, 0)}, SEEDS=(0,), STEPS=1,
                     BATCH_SIZE=1, LEARNING_RATE=1, device=CPU, new_swapper=lambda *_: (encoders, decoders),
                     train_together=lambda encoders, decoders, faces, *_: (faces, None))
    assert [some.item() for some in found["optimizer"]] == [1, 0]  # first Ada, then Bo, as their decoders
    assert found["swapper"][0] is encoders[0] and found["swapper"][1] is decoders[1]


def test_the_measured_swaps_are_the_trained_ones_and_keep_their_names():
    trained, made = [], []

    def new_swapper(seed, shared, device):
        made.append([nn.Identity(), nn.Identity()])
        return made[-1], [nn.Identity(), nn.Flatten(0) if shared else nn.Flatten(1)]

    first = nn.Sequential(nn.Identity(), nn.Flatten(0))
    found = run_cell(
        NOTEBOOK, 'name = "swap, shared encoder" if shared', SEEDS=(0, 1), swapper=first, rows=[], device=CPU, STEPS=1,
        new_swapper=new_swapper, train_together=lambda *given: trained.append((given[1][1], given[-1])),
        faces=0, BATCH_SIZE=1, LEARNING_RATE=1, ada=torch.rand(2, 3), pose=0, truth=0, who=0, reader=0,
        outputs_of=lambda model, x: model(x), measure_swap=lambda pictures, *_: {"dimensions": pictures.dim()})
    assert [(row["picture"], row["dimensions"]) for row in found["rows"]] == 2 * [
        ("swap, shared encoder", 1), ("swap, separate encoders", 2)]
    assert found["swappers"][0, True] is first and len(found["swappers"]) == 4
    assert [seed for _, seed in trained] == [0, 1, 1]
    for swapper, encoders in zip(list(found["swappers"].values())[1:], made, strict=True):
        assert swapper[0] is encoders[0]
    for (_, shared), swapper in found["swappers"].items():
        assert swapper[1].start_dim == (0 if shared else 1)


# ---- the judges


def test_a_judge_learns_and_its_answers_are_in_evaluation_mode():
    x = torch.rand(300, 3, 16, 16)
    x[150:] += 0.3
    y = torch.arange(2).repeat_interleave(150)
    model = lesson.new_judge(2, 2, 16, 0, CPU)
    lesson.train_judge(model, x, y, F.cross_entropy, 60, 1e-2, 0)
    found = lesson.outputs_of(model, x)
    assert (found.argmax(1) == y).float().mean() > 0.95 and not model.training
    torch.testing.assert_close(found, model.eval()(x).detach())
    assert not torch.equal(lesson.new_judge(2, 2, 16, 1, CPU)[0].weight, lesson.new_judge(2, 2, 16, 0, CPU)[0].weight)


def test_a_swap_is_measured_by_identity_pose_and_distance():
    pictures = torch.full((4, 3, 2, 2), 0.25)
    found = lesson.measure_swap(
        pictures, torch.zeros(4, 5), torch.full((4, 3, 2, 2), 0.5),
        who=torch.nn.Sequential(nn.Flatten(), Constant(torch.tensor([[0.0, 1], [2, 0], [0, 3], [0, 1]]))),
        reader=torch.nn.Sequential(nn.Flatten(), Constant(torch.tensor(4 * [[-1.0, 1, 0, 0, 3]]))))
    assert found == pytest.approx({"taken for Bo (%)": 75, "error of the pose": 1, "distance": 0.25})


class Constant(nn.Module):
    """A network whose answer is known."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer[:len(x)]


def test_swaps_are_compared_with_ada_with_bo_and_with_the_truth():
    found = run_cell(NOTEBOOK, '("random picture of Bo", test["Bo"][0])', ada="ada", test={"Bo": ("bo", 0, 0)},
                     truth="truth", pose="pose", who="who", reader="reader",
                     measure_swap=lambda *given: {"shown": " ".join(given)})["rows"]
    assert [(row["picture"], row["shown"]) for row in found] == [
        ("Ada as she is", "ada pose truth who reader"), ("random picture of Bo", "bo pose truth who reader"),
        ("perfect swap", "truth pose truth who reader")]


def test_the_figure_draws_each_number_of_the_pose_against_itself():
    import matplotlib.pyplot as plt

    draw = definitions(NOTEBOOK, "draw_points").draw_points
    known = torch.arange(15.0).view(3, 5)
    plt.close("all")
    draw(known, {"a": known + 100, "b": known + 200}, lesson.POSE, "title")
    for ax, place in zip(plt.gcf().axes, (0, 2, 4), strict=True):
        assert ax.get_xlabel().startswith(lesson.POSE[place])
        for line, shift in zip(ax.lines, (100, 200)):
            assert line.get_xdata().tolist() == known[:, place].tolist()
            assert line.get_ydata().tolist() == (known[:, place] + shift).tolist()
    plt.close("all")


# ---- the detectors


def test_sharpness_is_the_mean_laplacian():
    pictures = torch.rand(4, 3, 9, 11)
    gray = pictures.mean(1).numpy()
    expected = [np.abs(ndimage.laplace(one, mode="constant")[1:-1, 1:-1]).mean() for one in gray]
    np.testing.assert_allclose(lesson.sharpness(pictures).squeeze(1), expected, rtol=1e-4)
    assert lesson.sharpness(torch.ones(2, 3, 8, 8)).abs().max() < 1e-6
    blurred = v2.functional.gaussian_blur(pictures, 5, 0.8)
    assert (lesson.sharpness(blurred) < lesson.sharpness(pictures)).all()


def test_conditions_change_the_pictures_and_keep_their_order():
    pictures = torch.stack([torch.full((3, 16, 16), k / 10) for k in range(10)])
    found = lesson.disturbed(pictures, 0)
    assert list(found) == ["as they are", "blurred", "JPEG", "noise"]
    for name, some in found.items():
        assert some.shape == pictures.shape and some.min() >= 0 and some.max() <= 1
        torch.testing.assert_close(some.mean(dim=(1, 2, 3)), pictures.mean(dim=(1, 2, 3)), atol=0.02, rtol=0)
        assert (name == "as they are") == torch.equal(some, pictures)
    scene = lesson.sample_faces("Ada", 3, 0, 32, CPU)[0]
    assert lesson.sharpness(lesson.disturbed(scene, 0)["noise"]).min() > lesson.sharpness(scene).max()
    torch.testing.assert_close(lesson.disturbed(scene, 1)["noise"], lesson.disturbed(scene, 1)["noise"])


def test_real_pictures_are_bo_and_fakes_are_swapped_adas_half_and_half():
    make = definitions(NOTEBOOK, "real_and_fake", SIDE=16).real_and_fake
    negatives = [Negative(1.0), Negative(2.0)]
    pictures, labels = make(negatives, 3, 5, CPU)
    assert labels.tolist() == 6 * [0] + 6 * [1] and pictures.shape == (12, 3, 16, 16)
    ada = lesson.sample_faces("Ada", 6, 2_005, 16, CPU)[0]
    torch.testing.assert_close(pictures[:6], lesson.sample_faces("Bo", 6, 1_005, 16, CPU)[0])
    torch.testing.assert_close(pictures[6:], torch.cat([1 - ada[:3], 2 - ada[3:]]))


class Negative(nn.Module):
    """A swapper whose fakes say which one it is."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return self.number - x


def test_detectors_learn_from_what_their_names_say():
    made = []

    def real_and_fake(swappers, count, seed, device):
        made.append((tuple(swappers), count))
        n = 2 * count * len(swappers)
        labels = torch.arange(2).repeat_interleave(n // 2)
        return labels[:, None, None, None] * 0.5 + torch.rand(n, 3, 16, 16) / 10, labels

    learned = {}
    parts = definitions(
        NOTEBOOK, "train_detectors", real_and_fake=real_and_fake, FACES=20, WIDTH=2, SIDE=16, DETECTOR_STEPS=3,
        new_judge=lambda *_: object(),
        train_judge=lambda model, x, y, loss, steps, rate, seed: learned.update({len(x): (x, y)}),
        disturbed=lambda x, seed: {name: x + k for k, name in enumerate(("as they are", "blurred", "JPEG", "noise"))})
    found = parts.train_detectors("own", "second", 0, CPU)
    assert list(found) == ["sharpness", "network", "network, rich"]
    assert made == [(("own",), 20), (("own", "second"), 10)]
    x, y = learned[120]
    assert [round(part.mean().item() - x[:40].mean().item()) for part in x.split(40)] == [0, 1, 2]  # no noise
    assert torch.equal(y, torch.arange(2).repeat_interleave(20).repeat(3))
    assert len(learned[40][0]) == 40


def test_a_detector_answers_one_for_fakes():
    tree = definitions(NOTEBOOK, "detect").detect
    from sklearn.tree import DecisionTreeClassifier

    real = lesson.sample_faces("Bo", 20, 0, 32, CPU)[0]
    fake = v2.functional.gaussian_blur(real, 9, 3.0)
    both, labels = torch.cat([real, fake]), torch.arange(2).repeat_interleave(20)
    threshold = DecisionTreeClassifier(max_depth=1).fit(lesson.sharpness(both).numpy(), labels.numpy())
    assert torch.equal(tree(threshold, both), labels)
    network = nn.Sequential(nn.Flatten(), Constant(torch.tensor([[0.0, 1], [1, 0]])))
    assert tree(network, both[:2]).tolist() == [1, 0]


def test_each_detector_meets_its_own_generator_and_one_that_it_does_not_know():
    trained, made = [], []

    def real_and_fake(swappers, count, seed, device):
        made.append((tuple(swappers), seed))
        return torch.zeros(4), torch.tensor([0, 0, 1, 1])

    found = run_cell(
        NOTEBOOK, "detectors = train_detectors(", SEEDS=(0, 1, 2), TEST_FACES=2, device=CPU,
        swappers={(seed, shared): f"{seed}{shared}" for seed in range(3) for shared in (True, False)},
        train_detectors=lambda own, second, seed, device: trained.append((own, second, seed)) or {"network": seed},
        real_and_fake=real_and_fake, disturbed=lambda pictures, seed: {"as they are": pictures},
        detect=lambda detector, some: torch.tensor([0, 1, 1, 1]))["caught"]
    assert trained == [("0True", "1True", 0), ("1True", "2True", 1), ("2True", "0True", 2)]
    assert [swapper for swapper, _ in made] == [(f"{seed}True",) for seed in (0, 2, 1, 0, 2, 1)]
    assert all(seed >= 500 for _, seed in made)  # other scenes than in training
    assert found["right"].tolist() == [75] * 6 and found["real"].tolist() == [50] * 6
    assert found["fake"].tolist() == [100] * 6


def test_results_are_taken_from_where_they_belong():
    names = ["swap, shared encoder", "swap, separate encoders"]
    columns = pd.MultiIndex.from_product([["taken for Bo (%)", "error of the pose", "distance"], ["mean", "std"]])
    measured = pd.DataFrame([[99, 0, 0.1, 0, 0.01, 0], [98, 0, 0.4, 0, 0.2, 0]], index=names, columns=columns)
    order = ["as they are", "other generator"]
    detectors = pd.MultiIndex.from_product([["sharpness", "network", "network, rich"], ["mean", "std"]])
    shares = pd.DataFrame([[80, 0, 97, 0, 96, 0], [70, 0, 60, 0, 90, 0]], index=order, columns=detectors)
    results = run_cell(NOTEBOOK, '"judge_identity_percent"', who_right=0.99, read=torch.ones(2, 5),
                       test_known=torch.zeros(2, 5), constant=0.5, measured=measured, order=order,
                       shares=shares)["results"]
    assert results == pytest.approx({
        "judge_identity_percent": 99, "judge_pose_error": 1, "constant_pose_error": 0.5,
        "shared_taken_for_bo_percent": 99, "shared_pose_error": 0.1, "shared_distance": 0.01,
        "separate_taken_for_bo_percent": 98, "separate_pose_error": 0.4, "separate_distance": 0.2,
        "sharpness_as_they_are_percent": 80, "network_as_they_are_percent": 97, "rich_as_they_are_percent": 96,
        "sharpness_other_generator_percent": 70, "network_other_generator_percent": 60,
        "rich_other_generator_percent": 90})


def test_the_check_fails_for_swaps_that_lose_pose_or_identity_and_for_blind_detectors():
    columns = pd.MultiIndex.from_product([["taken for Bo (%)", "error of the pose", "distance"], ["mean", "std"]])
    test = {"Ada": (0, torch.full((4, 5), 0.5), 0)}

    def check(identity=99.0, error=0.1, right=97.0):
        row = pd.DataFrame([[identity, 0, error, 0, 0, 0]], index=["swap, shared encoder"], columns=columns)
        run_cell(NOTEBOOK, "constant = test[", test=test, REQUIRED_IDENTITY=0.9, REQUIRED_POSE=0.5, measured=row,
                 REQUIRED_DETECTION=0.9, shares=pd.DataFrame([[right]], index=["as they are"],
                                     columns=pd.MultiIndex.from_tuples([("network", "mean")])))

    check()
    for wrong in ({"identity": 80.0}, {"error": 0.3}, {"right": 60.0}):
        with pytest.raises(AssertionError):
            check(**wrong)
