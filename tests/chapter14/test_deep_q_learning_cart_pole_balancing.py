"""What Deep_Q_Learning_Cart_Pole_balancing.ipynb defines, against Gymnasium, PyTorch and loops written by hand."""
import copy
import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter14/Deep_Q_Learning_Cart_Pole_balancing.ipynb"
lesson = definitions(NOTEBOOK, "random_policy", "lean", "lean_and_speed", "evaluate", "discounted", "treadmill_value",
                     "ReplayBuffer", "transitions", "QNetwork", "td_targets", "Recipe", "Agent", "distance",
                     "epsilon_at", "q_values", "greedy", "first_observations", "train", "compared_in_words",
                     "three_measures", "crop_to_cart", "film")
fixed = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**31 - 1)
SCALE = (2.4, 2.0, 0.21, 2.0)
TINY = lesson.Recipe(steps=240, gamma=0.9, scale=SCALE, hidden=8, learning_rate=1e-2, batch_size=16, capacity=100,
                     warmup=40, update_every=2, copy_every=10, epsilon_end=0.1, explore=0.5, evaluate_every=80)


def random_batch(seed, n, size=4):
    """n transitions as the buffer samples them."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, size, generator=g), torch.randint(2, (n,), generator=g), torch.randn(n, generator=g),
            torch.randn(n, size, generator=g), torch.rand(n, generator=g) < 0.3)


# --- policies and evaluation


def played(policy, seed, start=None):
    """The return of one episode, in an environment of its own."""
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    if start is not None:
        env.unwrapped.state, observation = np.array(start), np.array(start, dtype=np.float32)
    total, over = 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(int(policy(observation[None])[0]))
        total, over = total + reward, terminated or truncated
    return total


@pytest.mark.parametrize("policy", [lesson.lean, lesson.lean_and_speed], ids=lambda policy: policy.__name__)
def test_episodes_side_by_side_are_the_same_episodes_one_at_a_time(policy):
    assert lesson.evaluate(policy, [5, 0, 77, 0]).tolist() == [played(policy, seed) for seed in (5, 0, 77, 0)]


def test_episodes_can_start_anywhere():
    starts = [(0, 0, 0.2, 0), (2.3, 1, 0, 0), (0, 0, 0, 0), (-1, 0, -0.1, 0.5)]
    expected = [played(lesson.lean_and_speed, 0, start) for start in starts]
    assert lesson.evaluate(lesson.lean_and_speed, range(4), starts).tolist() == expected
    assert len(set(expected)) > 1


def test_random_pushes_survive_about_22_steps():
    returns = lesson.evaluate(lesson.random_policy(0), range(200))
    assert 19 < returns.mean() < 26 and returns.min() >= 8
    one, other = (lesson.random_policy(3)(np.zeros((50, 4))) for _ in range(2))
    assert one.tolist() == other.tolist() and set(one) == {0, 1}


def test_the_hand_made_policies_push_to_the_side_of_the_lean():
    observations = np.array([[9, 9, 0.1, 0], [9, 9, -0.1, 0], [-9, -9, 0.1, -0.3], [0, 0, -0.1, 0.3]])
    assert lesson.lean(observations).tolist() == [1, 0, 1, 0]
    assert lesson.lean_and_speed(observations).tolist() == [1, 0, 0, 1]


def test_first_observations_are_those_of_the_evaluation():
    seen = []

    def watch(observations):
        seen.append(observations.copy())
        return lesson.lean(observations)

    lesson.evaluate(watch, [3, 1, 4])
    assert np.array_equal(seen[0], lesson.first_observations([3, 1, 4]))


# --- values and targets


@fixed
@given(st.integers(0, 2000), st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]))
def test_discounted_is_the_sum_of_the_powers(steps, gamma):
    assert lesson.discounted(steps, gamma) == pytest.approx(sum(gamma**k for k in range(steps)), rel=1e-9)


def test_discounted_takes_arrays_and_infinity():
    assert lesson.discounted(np.array([0, 1, np.inf]), 0.75).tolist() == [0, 1, 4]


@pytest.mark.parametrize("limit", [1, 2, 10, 333])
def test_the_treadmill_reaches_its_fixed_point(limit):
    assert lesson.treadmill_value(limit, 0.99, True) == pytest.approx(1 / (1 - 0.99 * (1 - 1 / limit)), rel=1e-9)
    assert lesson.treadmill_value(limit, 0.99, False) == pytest.approx(100, rel=1e-9)


def test_the_treadmill_agrees_with_a_simulated_td_learner():
    value = 0.0
    for step in itertools.count(1):
        value += 1e-3 * (1 + 0.9 * value * (step % 20 != 0) - value)
        if step == 40_000:
            break
    assert lesson.treadmill_value(20, 0.9, True) == pytest.approx(value, rel=0.01)


@fixed
@given(seeds, st.sampled_from([0, 1, 2, 33]), st.sampled_from([0.0, 0.9, 0.99, 1.0]))
def test_targets_are_those_of_a_loop(seed, n, gamma):
    torch.manual_seed(seed)
    network = lesson.QNetwork(8, SCALE)
    _, _, rewards, after, terminated = random_batch(seed, n)
    targets = lesson.td_targets(network, rewards, after, terminated, gamma)
    assert targets.shape == (n,) and not targets.requires_grad
    for i in range(n):
        future = 0.0 if terminated[i] else gamma * max(network(after[i : i + 1])[0].tolist())
        assert targets[i].item() == pytest.approx(rewards[i].item() + future, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("hopeless", [np.nan, np.inf, -np.inf, 1e30])
def test_what_follows_an_end_does_not_count_whatever_it_is(hopeless):
    after = torch.full((2, 4), float(hopeless))
    rewards, ends = torch.tensor([1.0, -2.0]), torch.tensor([True, True])
    targets = lesson.td_targets(lesson.QNetwork(8, SCALE), rewards, after, ends, 0.99)
    assert targets.tolist() == [1.0, -2.0]


def test_the_network_sees_scaled_observations():
    network, x = lesson.QNetwork(8, (1.0, 2.0, 4.0, 0.5)), torch.randn(5, 4)
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    hidden = x / torch.tensor([1.0, 2.0, 4.0, 0.5])
    for layer in layers[:-1]:
        hidden = torch.relu(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(x), hidden @ layers[-1].weight.T + layers[-1].bias)
    assert network(x).shape == (5, 2) and len(layers) == 3


# --- the replay buffer


@fixed
@given(st.integers(1, 12), st.integers(0, 40), seeds)
def test_the_buffer_holds_the_latest_transitions(capacity, added, seed):
    rng, buffer, everything = np.random.default_rng(seed), lesson.ReplayBuffer(capacity, 3), []
    for number in range(added):
        everything.append((rng.normal(size=3), number % 5, float(number), rng.normal(size=3), number % 4 == 0))
        buffer.add(*everything[-1])
    assert len(buffer) == min(capacity, added)
    kept = {row[2]: row for row in everything[-capacity:]}
    if not added:
        return
    before, actions, rewards, after, terminated = buffer.sample(64, np.random.default_rng(seed))
    assert before.dtype == after.dtype == rewards.dtype == torch.float32
    assert actions.dtype == torch.int64 and terminated.dtype == torch.bool
    for i, number in enumerate(rewards.tolist()):  # no row that was never filled or is overwritten, and rows stay whole
        observation, action, _, next_observation, end = kept[number]
        np.testing.assert_allclose(before[i], observation, rtol=1e-6)
        np.testing.assert_allclose(after[i], next_observation, rtol=1e-6)
        assert (actions[i].item(), terminated[i].item()) == (action, end)


def test_the_buffer_draws_all_its_rows_alike_and_by_the_generator():
    buffer = lesson.ReplayBuffer(4, 1)
    for number in range(6):
        buffer.add([0], 0, number, [0], False)
    rewards = buffer.sample(4000, np.random.default_rng(0))[2]
    assert sorted(set(rewards.tolist())) == [2, 3, 4, 5]
    assert all(900 < (rewards == number).sum() < 1100 for number in (2, 3, 4, 5))
    assert torch.equal(buffer.sample(9, np.random.default_rng(1))[2], buffer.sample(9, np.random.default_rng(1))[2])


def test_a_batch_is_a_copy():
    buffer = lesson.ReplayBuffer(1, 1)
    buffer.add([1], 0, 1, [1], False)
    batch = buffer.sample(1, np.random.default_rng(0))
    buffer.add([2], 1, 2, [2], True)
    assert [column.item() for column in batch] == [1, 0, 1, 1, False]


def test_a_cut_starts_a_new_episode_and_is_no_end():
    stream = list(itertools.islice(lesson.transitions(lesson.lean_and_speed, seed=0), 1001))
    assert not any(row[4] for row in stream)  # this policy never lets the pole fall
    for number, (row, following) in enumerate(zip(stream, stream[1:]), start=1):
        assert np.array_equal(row[3], following[0]) == (number % 500 != 0)
    assert np.abs(stream[500][0]).max() <= 0.05 and np.abs(stream[1000][0]).max() <= 0.05


def test_a_fall_is_an_end_and_starts_a_new_episode():
    stream = list(itertools.islice(lesson.transitions(lesson.lean, seed=1), 300))
    ends = [abs(row[3][0]) > 2.4 or abs(row[3][2]) > 12 * np.pi / 180 for row in stream]
    assert [row[4] for row in stream] == ends and sum(ends) > 3
    for row, following in zip(stream, stream[1:]):
        assert np.array_equal(row[3], following[0]) != row[4]


# --- the agent


def test_an_update_is_that_of_plain_pytorch():
    agent, batch = lesson.Agent(TINY, seed=0), random_batch(1, 16)
    twin = copy.deepcopy(agent.online)
    optimizer = torch.optim.Adam(twin.parameters(), lr=TINY.learning_rate)
    for _ in range(5):
        before, actions, rewards, after, terminated = batch
        with torch.no_grad():
            targets = rewards + TINY.gamma * agent.target(after).amax(1) * ~terminated
        loss = ((twin(before)[torch.arange(16), actions] - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = TINY.learning_rate * (1 - agent.updates / 101)  # steps 40, 42, ..., 240
        optimizer.step()
        assert agent.learn(batch) == pytest.approx(loss.item(), rel=1e-4)
        for p, q in zip(agent.online.parameters(), twin.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_the_target_network_moves_by_copies_alone():
    agent, batch = lesson.Agent(TINY, seed=0), random_batch(1, 16)
    initial = copy.deepcopy(agent.target)
    assert lesson.distance(agent.online, initial) == 0
    for _ in range(3):
        agent.learn(batch)
        assert lesson.distance(agent.target, initial) == 0 < lesson.distance(agent.online, initial)
    agent.copy_to_target()
    assert lesson.distance(agent.target, agent.online) == 0 < lesson.distance(agent.target, initial)
    agent.learn(batch)
    assert lesson.distance(agent.target, agent.online) > 0  # a copy, not the same network


def test_without_a_target_network_the_online_network_is_its_own():
    agent = lesson.Agent(replace(TINY, use_target=False), seed=0)
    agent.learn(random_batch(1, 16))
    assert agent.target is agent.online


def test_distance_is_the_largest_difference():
    one = lesson.QNetwork(8, SCALE)
    other = copy.deepcopy(one)
    assert lesson.distance(one, other) == 0
    with torch.no_grad():
        other.layers[2].weight[3, 4] -= 0.5
        other.layers[0].bias[1] += 0.25
    assert lesson.distance(one, other) == lesson.distance(other, one) == pytest.approx(0.5)


@pytest.mark.parametrize("step, expected", [(0, 1), (40, 0.76), (80, 0.52), (160, 0.04), (161, 0.04), (1000, 0.04)])
def test_epsilon_falls_linearly_and_stays(step, expected):
    assert lesson.epsilon_at(step, steps=1000, explore=0.16, end=0.04) == pytest.approx(expected)


def test_greedy_takes_the_larger_value():
    network, observations = lesson.QNetwork(8, SCALE), np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    values = lesson.q_values(network, observations)
    assert values.shape == (50, 2)
    np.testing.assert_allclose(values, network(torch.from_numpy(observations)).detach(), rtol=1e-6)
    assert lesson.greedy(network)(observations).tolist() == [int(right > left) for left, right in values]


# --- the training


@pytest.fixture(scope="module")
def runs():
    """Small runs: seed 0 twice, seed 1, and one without a target network."""
    variants = [(TINY, 0), (TINY, 0), (TINY, 1), (replace(TINY, use_target=False), 0)]
    return [lesson.train(recipe, seed, validation_seeds=[10, 11]) for recipe, seed in variants]


def test_the_training_copies_as_often_as_promised(runs):
    for run in runs[:3]:
        assert run.agent.updates == 101 and run.copies.shape == (10, 2)  # steps 40, 42, ..., 240
        assert run.agent.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12), "falls to zero at the end"
        assert (run.copies[:, 0] > 0).all() and (run.copies[:, 1] == 0).all()
        assert lesson.distance(run.agent.online, run.agent.target) > 0  # one update since the last copy
    assert (runs[3].copies == 0).all()


def test_the_training_follows_its_seed(runs):
    same, again, other, _ = runs
    assert same.history.equals(again.history) and lesson.distance(same.agent.online, again.agent.online) == 0
    assert lesson.distance(same.agent.online, other.agent.online) > 0


def test_the_history_is_that_of_the_snapshots(runs):
    for run in runs:
        assert run.history.index.tolist() == [80, 160, 240]
        best = run.history["return"].max()
        assert run.best_step == run.history.index[run.history["return"] == best].max()  # the later of equals
        assert lesson.evaluate(lesson.greedy(run.best), [10, 11]).mean() == best
    run = runs[0]
    starts = lesson.first_observations([10, 11])
    returns = lesson.evaluate(lesson.greedy(run.agent.online), [10, 11])
    assert run.history["return"].iloc[-1] == returns.mean()
    assert run.history["achieved"].iloc[-1] == pytest.approx(lesson.discounted(returns, TINY.gamma).mean())
    predicted = lesson.q_values(run.agent.online, starts).max(axis=1).mean()
    assert run.history["predicted"].iloc[-1] == pytest.approx(predicted, rel=1e-5)


def test_the_snapshot_is_not_the_network_that_learns_on(runs):
    for run in runs:
        assert run.best is not run.agent.online


@pytest.mark.parametrize("ours, theirs, words", [
    ([3, 4], [1, 2], "all below"), ([3, 4], [5, 6], "all above"), ([3, 5], [4, 6], "ranges overlap"),
    ([3], [3], "ranges overlap"), ([np.nan, 3], [1, 2], "ranges overlap")])
def test_the_verdict_is_by_ranges(ours, theirs, words):
    assert lesson.compared_in_words(ours, theirs) == words


@pytest.mark.parametrize("returns, speed, final, stability", [
    ([10, 20, 450, 300, 500, 500, 480, 500], 30, 490, 300), ([400, 400, 400, 400], 10, 400, 400),
    ([399, 100, 100, 100], np.nan, 100, np.nan), ([450], 10, 450, 450), ([0, 0, 0, 410], 40, 410, 410)])
def test_the_three_measures(returns, speed, final, stability):
    series = pd.Series(returns, index=range(10, 10 * len(returns) + 1, 10), dtype=float)
    found = lesson.three_measures(series, 400)
    assert found == pytest.approx({"speed": speed, "final level": final, "stability": stability}, nan_ok=True)


@pytest.mark.parametrize("steps, warmup, every", [(240, 40, 2), (10, 1, 1), (10, 10, 3), (12, 7, 3), (9_000, 500, 2)])
def test_the_recipe_counts_its_updates(steps, warmup, every):
    recipe = replace(TINY, steps=steps, warmup=warmup, update_every=every)
    assert recipe.updates == sum(step >= warmup and step % every == 0 for step in range(1, steps + 1))


@pytest.mark.parametrize("position", [-2.2, -1.0, 0.0, 1.3, 2.3])
def test_the_film_is_cropped_to_the_cart(position):
    frames, _ = lesson.film(lesson.lean, seed=0, every=1000, start=(position, 0, 0, 0))
    cropped = lesson.crop_to_cart(frames[0])
    assert cropped.shape == (180, 200, 3)
    middle = 300 + position / 2.4 * 300  # the simulator's scale: 4.8 m are 600 pixels
    left = min(max(middle - 100, 0), 400)
    assert np.abs(cropped.astype(int) - frames[0][150:330, round(left):round(left) + 200]).mean() < 6


def test_results_are_what_the_stored_run_shows():
    results = assert_shown(NOTEBOOK)
    for name in ("both", "no_replay", "no_target_network", "neither"):
        assert 2_000 <= results[f"speed_steps_{name}"] <= 40_000
        assert results[f"stability_{name}"] <= 500 >= results[f"final_level_{name}"]
    assert results["test_return_lowest"] >= 475 and results["lean_and_speed_return"] == 500
    words = ("speed_steps", "final_level", "stability")
    assert_shown(NOTEBOOK, *(f"{results[f'{word}_{name}']:,.0f} ±" for word in words
                             for name in ("both", "no_replay", "no_target_network", "neither")))
