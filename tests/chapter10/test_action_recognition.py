"""Convolution over time, drawn clips, the networks, splits, frames of videos: the action notebook."""
import ast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, parse, read
from tests.offline.drawing import clips as films
from tests.stored import assert_shown

NOTEBOOK = "Chapter10/action_recognition.ipynb"
lesson = definitions(
    NOTEBOOK, "conv_over_time", "draw_look", "draw_clip", "draw_clips", "draw_videos", "two_tests", "clip_network",
    "train_clips", "predict_logits", "accuracy", "order_test", "middle_frames", "read_clip", "clip_features",
    "github_folder", "ucf_table", "ACTIONS")
quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)


@quick
@given(seeds, st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5]), st.integers(1, 6), st.integers(1, 6))
def test_convolution_over_time_is_conv3d_forwards_and_backwards(seed, K, k, frames, side):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, frames, side, side + 1, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, K, k, k, generator=generator, dtype=torch.float64, requires_grad=True)
    both = lesson.conv_over_time(x, w), F.conv3d(x, w, padding=(K // 2, k // 2, k // 2))
    torch.testing.assert_close(*both)
    upstream = torch.randn(both[0].shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(y, (x, w), upstream) for y in both))


def test_convolution_over_time_of_extreme_inputs():
    w = torch.randn(2, 1, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for x in (torch.zeros(1, 1, 4, 5, 5), torch.full((1, 1, 4, 5, 5), 1e30), torch.zeros(0, 1, 4, 5, 5)):
        torch.testing.assert_close(lesson.conv_over_time(x.double(), w), F.conv3d(x.double(), w, padding=1))
    broken = torch.zeros(1, 1, 5, 5, 5, dtype=torch.float64)
    broken[0, 0, 2, 2, 2] = float("nan")
    reached = lesson.conv_over_time(broken, w).isnan()[0, 0]
    assert reached[1:4, 1:4, 1:4].all() and reached.sum() == 27


@pytest.mark.parametrize("action", [0, 2, 4])
def test_an_odd_action_is_the_one_before_it_played_backwards(action):
    look = lesson.draw_look(np.random.default_rng(1), 32)
    both = [lesson.draw_clip(number, look, np.random.default_rng(2), 8, 32, 0.0) for number in (action, action + 1)]
    assert np.array_equal(both[0], both[1][::-1]) and not np.array_equal(*both)
    assert both[0].shape == (8, 32, 32) and both[0].dtype == np.float32


def centers(clip, background):
    """Center (T, 2), x and y, and area (T,) of what differs from the background."""
    y, x = np.mgrid[:clip.shape[1], :clip.shape[2]]
    inside = np.abs(clip - background) > 1e-6
    area = inside.sum((1, 2))
    return np.stack([(inside * x).sum((1, 2)) / area, (inside * y).sum((1, 2)) / area], 1), area


@pytest.mark.parametrize("seed", range(6))
def test_actions_are_what_their_names_say(seed):
    for number, name in enumerate(lesson.ACTIONS):
        look = lesson.draw_look(np.random.default_rng(seed), 32)
        clip = lesson.draw_clip(number, look, np.random.default_rng(seed + 50), 8, 32, 0.0)
        places, area = centers(clip, look[0].astype(np.float32))
        move, growth = places[-1] - places[0], area[-1] / area[0]
        said = {"right": move[0] > 4, "left": move[0] < -4, "down": move[1] > 4, "up": move[1] < -4,
                "grow": growth > 1.5, "shrink": growth < 1 / 1.5}
        assert said[name], (name, move, growth)
        assert sum(bool(one) for one in said.values()) == 1, (name, said)


def test_the_noise_of_frames_is_independent_and_actions_are_balanced():
    clips, actions = lesson.draw_clips(60, 0, 8, 32, 0.3)
    assert clips.shape == (60, 1, 8, 32, 32) and actions.bincount().tolist() == [10] * 6
    again, _ = lesson.draw_clips(60, 0, 8, 32, 0.3)
    other, _ = lesson.draw_clips(60, 1, 8, 32, 0.3)
    assert torch.equal(clips, again) and not torch.equal(clips, other)
    corner = clips[:, 0, :, 0, 0]  # no object comes there
    noise = corner - corner.mean(dim=1, keepdim=True)
    assert abs(noise.std().item() * (8 / 7) ** 0.5 - 0.3) < 0.04


@pytest.mark.parametrize(("time", "blind"), [(1, True), (3, False)])
def test_only_kernels_over_time_see_the_order(time, blind):
    torch.manual_seed(0)
    model = lesson.clip_network(time, 8, 6)
    model(torch.randn(16, 1, 8, 32, 32))  # batch norm sees something
    clips = torch.randn(5, 1, 8, 32, 32)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    logits = [lesson.predict_logits(model, some) for some in (clips, clips.flip(2), clips[:, :, order])]
    assert all(torch.allclose(logits[0], other, atol=1e-5) == blind for other in logits[1:])


def test_the_averaging_network_is_a_2d_network_on_each_frame():
    torch.manual_seed(0)
    model = lesson.clip_network(1, 4, 6).eval()
    clips = torch.randn(3, 1, 8, 32, 32)
    x = clips.transpose(1, 2).flatten(0, 1)  # (3 · 8, 1, 32, 32)
    for layer in model[:-3]:
        if isinstance(layer, torch.nn.Conv3d):
            x = F.conv2d(x, layer.weight[:, :, 0], stride=2, padding=1)
        elif isinstance(layer, torch.nn.BatchNorm3d):
            x = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
        else:
            x = x.relu()
    expected = model[-1](x.mean((2, 3)).view(3, 8, -1).mean(1))
    torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-5)


def test_training_changes_every_weight_and_is_repeatable():
    clips, actions = lesson.draw_clips(48, 0, 8, 32, 0.1)
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        model = lesson.clip_network(3, 2, 6)
        before = [p.clone() for p in model.parameters()]
        lesson.train_clips(model, clips, actions, 3, 8, 1e-2, 0)
        assert all(not torch.equal(one, two) for one, two in zip(before, model.parameters()))
        states.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*states)) and model.training
    lesson.predict_logits(model, clips)
    assert not model.training


def test_predictions_are_those_of_evaluation_mode_whatever_the_batch():
    torch.manual_seed(0)
    model = lesson.clip_network(3, 2, 6)
    clips = torch.randn(130, 1, 4, 16, 16)
    whole = lesson.predict_logits(model, clips)
    torch.testing.assert_close(whole[:3], lesson.predict_logits(model, clips[:3]), rtol=1e-4, atol=1e-5)
    assert whole.shape == (130, 6)


def test_the_order_test_reverses_and_shuffles():
    class Ramp(torch.nn.Module):
        """Says 0 where the clip grows brighter from first to last frame, 1 where it grows darker, 2 otherwise."""

        def forward(self, clips):
            steps = clips.mean((1, 3, 4)).diff(dim=1)
            up, down = (steps > 0).all(1), (steps < 0).all(1)
            return torch.stack([up, down, ~up & ~down], 1).float()

    clips = torch.arange(8.0)[None, None, :, None, None].expand(40, 1, 8, 4, 4)
    found = list(lesson.order_test(Ramp(), clips, torch.zeros(40, dtype=torch.int64)).values())
    assert found[:2] == [1.0, 1.0] and found[2] < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_no_source_video_is_new_and_known(seed):
    clips, actions, sources = lesson.draw_videos(8, 5, seed, 4, 16, 0.1)
    assert len(clips) == 240 and torch.equal(actions, sources % 6) and sources.bincount().tolist() == [5] * 48
    parts = lesson.two_tests(sources, seed)
    train, leaky, apart = parts.values()
    assert (train.int() + leaky.int() + apart.int() == 1).all()
    videos = {name: set(sources[rows].tolist()) for name, rows in parts.items()}
    assert not videos["new videos"] & videos["train"] and len(videos["new videos"]) == 12
    assert len(videos["known videos"] & videos["train"]) >= 20
    assert 0.1 < leaky.sum() / (~apart).sum() < 0.4


def test_clips_of_a_video_share_their_background_and_others_do_not():
    clips, _, sources = lesson.draw_videos(2, 3, 0, 4, 32, 0.0)
    corner = clips[:, 0, 0, :2, :2].flatten(1)
    same = sources[:, None] == sources
    distance = (corner[:, None] - corner).abs().amax(-1)
    assert distance[same].max() < 1e-6 and distance[~same].min() > 1e-3


@quick
@given(st.integers(1, 3000), st.integers(1, 64))
def test_middle_frames_are_middles_of_segments(N, T):
    found = lesson.middle_frames(N, T)
    assert len(found) == T and (np.diff(found) >= 0).all() and 0 <= found[0] and found[-1] < N
    exact = np.floor((np.linspace(0, N, T + 1)[:-1] + np.linspace(0, N, T + 1)[1:]) / 2 + 1e-9)
    assert np.array_equal(found, exact)
    if N % T == 0 and N // T % 2:  # segments of an odd length have one middle
        assert np.array_equal(found, N - 1 - found[::-1])


@pytest.mark.parametrize(("kind", "within"), [("avi", 25), ("mp4", 45)])
def test_a_clip_is_read_in_rgb_and_in_order(tmp_path, kind, within):
    frames = np.zeros((12, 48, 64, 3), dtype=np.uint8)
    frames[..., 0] = 220  # red
    frames[:, :, :24, 2] = np.linspace(0, 220, 12)[:, None, None]  # a blue band that grows brighter
    path = tmp_path / f"film.{kind}"
    path.write_bytes(films.encoded(frames, kind, 25))
    clip, count = lesson.read_clip(path, 4)
    assert count == 12 and clip.shape == (4, 3, 48, 64) and clip.dtype == torch.uint8
    wanted = torch.from_numpy(frames[lesson.middle_frames(12, 4)]).permute(0, 3, 1, 2)
    inner = (..., slice(8, 40), slice(32, 60))
    assert (clip[inner].int() - wanted[inner].int()).abs().max() < within
    assert (clip[:, 2, :, :16].float().mean((1, 2)).diff() > 10).all()


def test_fewer_frames_than_asked_are_repeated(tmp_path):
    path = tmp_path / "film.avi"
    path.write_bytes(films.encoded(np.full((3, 48, 64, 3), 99, dtype=np.uint8), "avi", 25))
    clip, count = lesson.read_clip(path, 8)
    assert count == 3 and len(clip) == 8


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 50])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    path = tmp_path / "broken.avi"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match="broken.avi"):
        lesson.read_clip(path, 8)


def test_features_of_clips_and_of_frames():
    clip = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 8, 8)
    networks = {"clip": (lambda x: x[:, :, -1].mean((2, 3)), lambda f: f.float().transpose(0, 1), True),
                "frames": (lambda x: x.mean((2, 3)), lambda f: f.float(), False)}
    forwards, backwards = (lesson.clip_features(some, networks, "cpu") for some in (clip, clip.flip(0)))
    assert forwards["clip"].tolist() == [3.0] * 3 and backwards["clip"].tolist() == [0.0] * 3
    assert forwards["frames"].tolist() == backwards["frames"].tolist() == [1.5] * 3


def test_a_failed_download_is_told_and_nothing_half_done_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://github.com/owner/name/archive/" + "0" * 40 + ".zip"

    def broken(url, folder, filename):
        raise RuntimeError("no network")

    monkeypatch.setitem(lesson.github_folder.__globals__, "download_and_extract_archive", broken)
    with pytest.raises(RuntimeError, match="check the network"):
        lesson.github_folder(url)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("name")]


def test_a_source_video_on_two_sides_stops_the_notebook(tmp_path, monkeypatch):
    import tarfile

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    archive = tmp_path / "UCF101_subset.tar.gz"
    with tarfile.open(archive, "w:") as opened:
        for split, clip in (("train", "g01_c01"), ("test", "g01_c02"), ("val", "g02_c01")):
            opened.addfile(tarfile.TarInfo(f"UCF101_subset/{split}/Archery/v_Archery_{clip}.avi"))
    monkeypatch.setitem(lesson.ucf_table.__globals__, "hf_hub_download", lambda *_, **__: str(archive))
    table = lesson.ucf_table("owner/name", "0" * 40)
    assert table.groupby("video")["split"].nunique().to_dict() == {"v_Archery_g01": 2, "v_Archery_g02": 1}
    cell = next(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if "sides = " in cell.source)
    statements = [node for node in parse(cell).body if not isinstance(node, (ast.FunctionDef, ast.Expr))][1:]
    with pytest.raises(AssertionError, match="v_Archery_g01"):
        exec(compile(ast.Module(statements, []), NOTEBOOK, "exec"), {"ucf": table})


def test_accuracy_counts_rows():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 0.0]])
    assert lesson.accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.75


def test_stored_results_are_what_the_notebook_shows():
    found = assert_shown(NOTEBOOK, "'averaged 2-D': '{averaged_pairs_percent:.1f} % of the pairs'",
                         "averaged 2-D: logits of a clip and of its reverse differ by at most "
                         "{averaged_logit_gap_of_reversed:.1e}")
    assert found["averaged_test_accuracy_percent"] < 51 < 85 < found["conv3d_test_accuracy_percent"]
    assert found["conv3d_reversed_called_reverse_percent"] > found["conv3d_shuffled_accuracy_percent"] + 20
    assert found["averaged_same_videos_percent"] > 50 > found["averaged_new_videos_percent"]
    assert abs(found["conv3d_same_videos_percent"] - found["conv3d_new_videos_percent"]) < 10


def test_the_reverse_of_a_test_clip_has_the_reverse_action():
    cell = next(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if "\ntest_set = " in cell.source)
    statement = next(node for node in parse(cell).body if ast.unparse(node).startswith("test_set = "))
    clips, actions = lesson.draw_clips(12, 0, 4, 16, 0.0)
    space = {"torch": torch, "forward": clips, "actions": actions}
    exec(compile(ast.Module([statement], []), NOTEBOOK, "exec"), space)
    both, labels = space["test_set"]
    assert torch.equal(both[12:].flip(2), both[:12])
    assert all(tuple(sorted(pair)) in {(0, 1), (2, 3), (4, 5)} and pair[0] != pair[1]
               for pair in zip(labels[:12].tolist(), labels[12:].tolist()))
