"""What Pong_Deep_Q_Learning_with_Fixed_targets.ipynb defines, against loops written by hand, PyTorch and Gymnasium."""
import copy
from dataclasses import replace

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

NOTEBOOK = "Chapter14/Pong_Deep_Q_Learning_with_Fixed_targets.ipynb"
lesson = definitions(NOTEBOOK, "Catch", "epsilon_at", "distance", "caught_by_rule", "chase", "oracle", "PixelQNetwork",
                     "FrameReplay", "double_td_targets", "PixelRecipe", "PixelAgent", "Trainer", "greedy_returns_of",
                     "moving_share", "save", "load", "shrink", "PongScreen", "random_return", "COLUMNS")
gym.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
fixed = settings(deadline=None, max_examples=15)
CPU = torch.device("cpu")
TINY = lesson.PixelRecipe(steps=400, side=12, update_every=4, stack=2, gamma=0.9, learning_rate=1e-3, batch_size=16,
                          copy_every=10, warmup=40, capacity=300)


def random_batch(seed, n, stack=2, side=12):
    """n transitions as the buffer samples them."""
    g = torch.Generator().manual_seed(seed)
    images = [torch.randint(256, (n, stack, side, side), generator=g, dtype=torch.uint8) for _ in range(2)]
    return (images[0], torch.randint(3, (n,), generator=g), torch.randn(n, generator=g), images[1],
            torch.rand(n, generator=g) < 0.3)


# --- the game


def test_the_game_is_a_proper_environment():
    check_env(lesson.Catch(12, 3), skip_render_check=True)


@fixed
@given(st.integers(0, 2**31 - 1), st.integers(5, 20), st.integers(1, 4))
def test_the_ball_bounces_and_the_paddle_decides(seed, side, width):
    game = lesson.Catch(side, width)
    frame, _ = game.reset(seed=seed)
    column, speed, paddle = game.column, game.speed, game.paddle
    assert abs(speed) in (1, 2) and 0 <= paddle <= side - width
    rng = np.random.default_rng(seed)
    for row in range(1, side):
        action = int(rng.integers(3))
        frame, reward, terminated, truncated, _ = game.step(action)
        column += speed
        if column < 0:
            column, speed = -column, -speed
        elif column > side - 1:
            column, speed = 2 * (side - 1) - column, -speed
        paddle = min(max(paddle + (action == 2) - (action == 0), 0), side - width)
        assert frame.dtype == np.uint8 and frame[row, column] == 255 and not truncated
        bar = {paddle + k for k in range(width)}
        assert {int(c) for c in np.flatnonzero(frame[-1])} == bar | ({column} if row == side - 1 else set())
        assert terminated == (row == side - 1)
        assert reward == ((1 if column in bar else -1) if terminated else 0)


def test_every_ball_can_be_caught_and_chasing_is_not_enough():
    game, seeds = lesson.Catch(12, 3), range(300)
    assert lesson.caught_by_rule(lesson.oracle, game, seeds) == 1
    assert 0.4 < lesson.caught_by_rule(lesson.chase, game, seeds) < 0.7
    assert lesson.caught_by_rule(lambda game: 1, game, seeds) < 0.4


def test_a_frame_is_not_changed_by_the_next_step():
    game = lesson.Catch(12, 3)
    first, _ = game.reset(seed=0)
    kept = first.copy()
    game.step(0)
    assert np.array_equal(first, kept)


# --- the replay buffer


def filled(capacity, stack, lengths, seed=0):
    """A buffer after episodes of these lengths (steps), and what a list would hold: all transitions, oldest first."""
    replay, rng = lesson.FrameReplay(capacity, 1, stack), np.random.default_rng(seed)
    everything, number = [], 0
    for length in lengths:
        numbers = list(range(number, number + length + 1))
        number += length + 1
        row = replay.add(np.array([[numbers[0]]]), 0)
        for k in range(length):
            action, reward, end = int(rng.integers(3)), float(rng.normal()), bool(k == length - 1 and rng.random() < 0.5)
            replay.record(row, action, reward, end)
            row = replay.add(np.array([[numbers[k + 1]]]), k + 1)
            seen = [numbers[max(0, k - j)] for j in reversed(range(stack))]
            after = [numbers[max(0, k + 1 - j)] for j in reversed(range(stack))]
            everything.append((seen, action, reward, after, end, numbers[k]))
    return replay, everything, number


@fixed
@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=14), st.integers(14, 40), st.integers(0, 999))
def test_batches_hold_true_transitions_only(stack, lengths, capacity, seed):
    replay, everything, frames = filled(capacity, stack, lengths, seed)
    possible = {row[5]: row for row in everything}
    before, actions, rewards, after, ends = replay.sample(300, np.random.default_rng(seed))
    assert before.dtype == after.dtype == torch.uint8 and before.shape == (300, stack, 1, 1)
    assert actions.dtype == torch.int64 and rewards.dtype == torch.float32 and ends.dtype == torch.bool
    drawn = set()
    for i in range(300):
        seen = before[i].flatten().tolist()
        row = possible[seen[-1]]
        drawn.add(seen[-1])
        assert (seen, actions[i].item(), after[i].flatten().tolist(), ends[i].item()) == (row[0], row[1], row[3], row[4])
        assert rewards[i].item() == pytest.approx(row[2], rel=1e-6)
    oldest = max(0, frames - capacity + stack - 1)
    assert drawn <= {number for number in possible if number >= oldest}
    if sum(number >= oldest for number in possible) < 20:
        assert drawn == {number for number in possible if number >= oldest}


def test_the_stack_that_acts_is_the_stack_that_learns():
    replay, *_ = filled(50, 3, [5, 4])
    rows = np.flatnonzero(~replay.open)
    assert torch.equal(replay.stacks(rows)[0], replay.stacks(rows[:1])[0])
    assert replay.stacks(np.array([4])).flatten().tolist() == [2, 3, 4]
    assert replay.stacks(np.array([6])).flatten().tolist() == [6, 6, 6]  # the first frame of the second episode
    assert replay.stacks(np.array([7])).flatten().tolist() == [6, 6, 7]


def test_a_batch_is_a_copy_and_follows_the_generator():
    replay, *_ = filled(50, 2, [5, 4])
    one, other = (replay.sample(8, np.random.default_rng(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other))
    kept = [part.clone() for part in one]
    replay.frames[:], replay.rewards[:], replay.actions[:] = 99, 99, 99
    assert all(torch.equal(a, b) for a, b in zip(one, kept))


# --- network, targets, updates


@pytest.mark.parametrize("stack, side", [(1, 12), (2, 12), (4, 40)])
def test_the_network_takes_bytes_and_scales_them(stack, side):
    network = lesson.PixelQNetwork(stack, side, 3)
    images = torch.randint(256, (5, stack, side, side), dtype=torch.uint8)
    assert network(images).shape == (5, 3)
    torch.testing.assert_close(network(images), network.head(network.features(images.double().div(255).float())))


@fixed
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.9, 1.0]))
def test_double_targets_are_those_of_a_loop(seed, gamma):
    torch.manual_seed(seed)
    online, target = (lesson.PixelQNetwork(2, 12, 3) for _ in range(2))
    _, _, rewards, after, ends = random_batch(seed, 9)
    found = lesson.double_td_targets(online, target, rewards, after, ends, gamma)
    assert found.shape == (9,) and not found.requires_grad
    for i in range(9):
        best = int(online(after[i:i + 1])[0].argmax())
        wanted = rewards[i].item() + (0 if ends[i] else gamma * target(after[i:i + 1])[0, best].item())
        assert found[i].item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_an_update_is_that_of_plain_pytorch_and_copies_when_due():
    recipe = replace(TINY, copy_every=3)
    agent = lesson.PixelAgent(recipe, 0, CPU)
    twin, frozen = copy.deepcopy(agent.online), copy.deepcopy(agent.online)
    optimizer = torch.optim.Adam(twin.parameters(), lr=recipe.learning_rate)
    for update in range(7):
        before, actions, rewards, after, ends = random_batch(update, 16)
        rewards = 4 * rewards  # errors on both sides of the bend of the Huber loss
        with torch.no_grad():
            best = twin(after).argmax(1)
            targets = rewards + recipe.gamma * frozen(after)[torch.arange(16), best] * ~ends
        error = (twin(before)[torch.arange(16), actions] - targets).abs()
        loss = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - update / 100)  # 400 steps, every fourth
        optimizer.step()
        assert agent.learn((before, actions, rewards, after, ends)) == pytest.approx(loss.item(), rel=1e-3)
        if (update + 1) % 3 == 0:
            frozen = copy.deepcopy(twin)
        assert lesson.distance(agent.online, twin) < 1e-4 and lesson.distance(agent.target, frozen) < 1e-4
    assert lesson.distance(agent.online, agent.target) > 0


def test_the_agent_takes_the_largest_value():
    agent, images = lesson.PixelAgent(TINY, 0, CPU), random_batch(0, 20)[0]
    assert agent.act(images).tolist() == agent.online(images).argmax(1).tolist()


# --- training


@pytest.fixture(scope="module")
def trained():
    """The same small run twice, and one with another seed."""
    return [lesson.Trainer(lesson.Catch(12, 3), TINY, seed, CPU).run(400) for seed in (0, 0, 1)]


def test_training_follows_its_seed(trained):
    same, again, other = trained
    assert same.returns == again.returns and lesson.distance(same.agent.online, again.agent.online) == 0
    assert lesson.distance(same.agent.online, other.agent.online) > 0


def test_training_keeps_count(trained):
    for trainer in trained:
        assert trainer.step == 11 * len(trainer.returns) == trainer.ends[-1] >= 400  # 11 steps a game of 12 rows
        assert trainer.agent.updates == trainer.step // 4 - 39 // 4
        assert trainer.replay.added == trainer.step + len(trainer.returns)
        assert set(trainer.returns) <= {-1.0, 1.0} and len(set(trainer.returns[:20])) == 2


def test_the_buffer_of_a_run_holds_its_games(trained):
    replay = trained[0].replay
    finals = np.flatnonzero(replay.terminated & ~replay.open)
    assert (np.abs(replay.rewards[finals]) == 1).all() and (replay.moments[finals] == 10).all()
    assert (replay.rewards[~replay.open & ~replay.terminated] == 0).all()
    balls = (replay.frames[:, :-1] == 255).reshape(len(replay.frames), -1).sum(axis=1)
    assert (balls == (replay.moments < 11)).all()


def test_games_differ_and_exploration_falls():
    class Spy(lesson.Catch):
        seeds = []

        def reset(self, *, seed=None, options=None):
            self.seeds.append(seed)
            return super().reset(seed=seed)

    trainer = lesson.Trainer(Spy(12, 3), TINY, 2, CPU).run(60)
    assert trainer.env.seeds == [200_000 + k for k in range(len(trainer.returns))]
    trainer.step, greedy = 10_000, int(trainer.agent.act(trainer.replay.stacks(np.array([5])))[0])
    share = np.mean([trainer.choose(5) == greedy for _ in range(600)])
    assert share > 0.93
    trainer.step = 0
    assert np.bincount([trainer.choose(5) for _ in range(600)], minlength=3).min() > 150


def test_what_is_saved_goes_on_as_if_nothing_was(tmp_path):
    through, halted, resumed = (lesson.Trainer(lesson.Catch(12, 3), TINY, 5, CPU) for _ in range(3))
    lesson.save(halted.run(150), tmp_path / "run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    lesson.load(resumed, tmp_path / "run.pt")
    assert resumed.step == halted.step and lesson.distance(resumed.agent.target, halted.agent.target) == 0
    through.run(400), resumed.run(400)
    assert through.returns == resumed.returns and through.ends == resumed.ends
    assert lesson.distance(through.agent.online, resumed.agent.online) == 0
    assert lesson.distance(through.agent.target, resumed.agent.target) == 0
    assert all(np.array_equal(getattr(through.replay, name), getattr(resumed.replay, name)) for name in lesson.COLUMNS)


def test_a_broken_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    trainer = lesson.Trainer(lesson.Catch(12, 3), TINY, 5, CPU).run(60)
    lesson.save(trainer, tmp_path / "run.pt")
    good = (tmp_path / "run.pt").read_bytes()

    def broken(parts, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError):
        lesson.save(trainer, tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == good


def test_side_by_side_is_one_at_a_time(trained):
    agent = trained[0].agent
    returns, steps = lesson.greedy_returns_of(agent, [lesson.Catch(12, 3) for _ in range(6)], range(6), 2)
    assert steps == 11
    for seed in range(6):
        game = lesson.Catch(12, 3)
        frames, over = [game.reset(seed=seed)[0]], False
        while not over:
            stack = torch.from_numpy(np.stack([frames[max(0, len(frames) - 2)], frames[-1]]))
            frame, reward, over, *_ = game.step(int(agent.act(stack[None])[0]))
            frames.append(frame)
        assert reward == returns[seed]


class Third(gym.Env):
    """One step: a bright column stands in the left, middle or right third of the picture, and names the right action."""

    observation_space, action_space = gym.spaces.Box(0, 255, (12, 12), np.uint8), gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        column = int(self.np_random.integers(12))
        self.right, frame = column // 4, np.zeros((12, 12), np.uint8)
        frame[:, column] = 255
        return frame, {}

    def step(self, action):
        return np.zeros((12, 12), np.uint8), 1.0 if action == self.right else -1.0, True, False, {}


def test_the_agent_learns_a_tiny_game():
    recipe = replace(TINY, steps=600, update_every=2, learning_rate=2e-3, batch_size=32, capacity=2000)
    trainer = lesson.Trainer(Third(), recipe, 0, CPU).run(600)
    envs = [Third() for _ in range(60)]
    learned, _ = lesson.greedy_returns_of(trainer.agent, envs, range(5000, 5060), 2)
    untrained, _ = lesson.greedy_returns_of(lesson.PixelAgent(recipe, 0, CPU), envs, range(5000, 5060), 2)
    assert (learned > 0).mean() > 0.9 > 0.7 > (untrained > 0).mean()


def test_the_moving_share():
    returns = [1, -1, 1, 1, -1.0]
    assert lesson.moving_share(returns, 2).tolist() == [0.5, 0.5, 1.0, 0.5]


# --- Pong


def test_shrinking_averages_what_differs_from_the_background():
    screen = np.full((210, 160), 87, np.uint8)
    screen[:34], screen[194:] = 200, 200  # score and border do not count
    screen[34 + 8:34 + 12, 16:20] = 236  # one whole block: row 2, column 4
    screen[34 + 20:34 + 22, 40:44] = 10  # half a block: row 5, column 10
    small = lesson.shrink(screen)
    assert small.shape == (40, 40) and small.dtype == np.uint8
    assert small[2, 4] == 255 and small[5, 10] == 127 and np.count_nonzero(small) == 2


def test_pong_is_played_in_steps_of_four_frames():
    pong = lesson.PongScreen()
    frame, _ = pong.reset(seed=0)
    assert pong.observation_space.contains(frame) and pong.action_space.n == 3
    for k in range(30):
        frame, reward, terminated, truncated, info = pong.step(k % 3)
    assert pong.frames == 120 and info["episode_frame_number"] == 120 and not terminated
    assert pong.observation_space.contains(frame) and 0 < np.count_nonzero(frame) < 80  # two paddles and a ball


def test_up_moves_the_paddle_up():
    heights = {}
    for action in (1, 2):
        pong = lesson.PongScreen()
        pong.reset(seed=0)
        for _ in range(30):
            frame, *_ = pong.step(action)
        heights[action] = np.flatnonzero(frame[:, 33:37].max(axis=1)).mean()  # the right paddle
    assert heights[1] < heights[2]


def test_rewards_of_all_four_frames_count():
    class Script(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 255, (210, 160), np.uint8), gym.spaces.Discrete(6)
        step_number, actions = 0, []

        def step(self, action):
            self.actions.append(action)
            self.step_number += 1
            screen = np.full((210, 160), 87, np.uint8)
            screen[50 + 4 * self.step_number, 20:24] = 236
            return screen, float(self.step_number), self.step_number == 6, False, {}

    pong = lesson.PongScreen()
    pong.env = Script()
    frame, total, terminated, *_ = pong.step(2)
    assert total == 10 and not terminated and pong.env.actions == [3] * 4
    assert np.count_nonzero(frame) == 2  # the last two frames
    _, total, terminated, *_ = pong.step(0)
    assert total == 11 and terminated and len(pong.env.actions) == 6  # stops at the end


def test_a_random_game_of_pong_is_lost():
    assert -21 <= lesson.random_return(lesson.PongScreen(), 3) < -14
