"""What Understanding_the_Gym_environment.ipynb defines, against Gymnasium's own environments and wrappers."""
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

NOTEBOOK = "Chapter14/Understanding_the_Gym_environment.ipynb"
lesson = definitions(NOTEBOOK, "play", "random_actions", "pump", "HillCar", "CarelessCar", "trajectory", "StepLimit",
                     "visited", "starts", "returns_of", "standard_error", "steps_per_second", "transcript")
fixed = settings(deadline=None, max_examples=30)


class Scripted(gym.Env):
    """Ends after `length` steps as it is told; step k (from 1) pays k and shows k; counts how often it is asked."""

    observation_space, action_space, render_mode = gym.spaces.Discrete(1_000), gym.spaces.Discrete(4), None

    def __init__(self, length, terminates=True):
        self.length, self.terminates, self.seeds, self.steps = length, terminates, [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        end = self.steps == self.length
        return self.steps, float(self.steps), end and self.terminates, end and not self.terminates, {}


# --- the car


@fixed
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_car_is_that_of_the_library(seed, action_seed):
    ours, theirs = lesson.HillCar(), gym.make("MountainCar-v0").unwrapped
    np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    for action in np.random.default_rng(action_seed).integers(3, size=200).tolist():
        a, b = ours.step(action), theirs.step(action)
        assert a[0].dtype == np.float32 and ours.observation_space.contains(a[0])
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-6)
        assert a[1:4] == b[1:4]


@pytest.mark.parametrize("position, velocity", [(-1.2, -0.07), (-1.19, -0.07), (-1.2, 0.0), (0.49, 0.07), (0.499, 0.0),
                                                (0.6, 0.07), (0.0, 0.07), (-0.5, -0.07), (0.5, 0.0)])
@pytest.mark.parametrize("action", [0, 1, 2])
def test_the_car_at_walls_and_flag(position, velocity, action):
    ours, theirs = lesson.HillCar(), gym.make("MountainCar-v0").unwrapped
    ours.reset(seed=0), theirs.reset(seed=0)
    ours.x, ours.v = position, velocity
    theirs.state = np.array([position, velocity])
    for _ in range(3):
        a, b = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-6)
        assert a[1:4] == b[1:4]


def test_the_spaces_of_the_car_are_those_of_the_library():
    ours, theirs = lesson.HillCar(), gym.make("MountainCar-v0")
    assert ours.action_space == theirs.action_space and ours.observation_space == theirs.observation_space


def test_a_stored_observation_does_not_change():
    car = lesson.HillCar()
    first = car.reset(seed=0)[0]
    kept = first.copy()
    second = car.step(2)[0]
    again = second.copy()
    car.step(2)
    assert np.array_equal(first, kept) and np.array_equal(second, again)


def test_the_checker_passes_one_and_refuses_the_other():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(lesson.HillCar(), skip_render_check=True)
        with pytest.raises(AssertionError):
            check_env(lesson.CarelessCar(), skip_render_check=True)


def test_the_momentum_rule_pushes_with_the_motion():
    assert [lesson.pump(np.array([0.3, v])) for v in (-0.01, 0.0, 0.01)] == [0, 2, 2]


# --- the wrapper


@pytest.mark.parametrize("limit", [1, 2, 7, 200])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("terminates", [True, False])
def test_the_limit_is_that_of_the_library(limit, length, terminates):
    ours = lesson.StepLimit(Scripted(length, terminates), limit)
    theirs = gym.wrappers.TimeLimit(Scripted(length, terminates), limit)
    for _ in range(3):  # the count starts anew with every episode
        ours.reset(seed=1), theirs.reset(seed=1)
        over = False
        while not over:
            a, b = ours.step(0), theirs.step(0)
            assert a == b
            over = a[2] or a[3]
    assert ours.unwrapped.seeds == [1, 1, 1]


# --- playing and measuring


@pytest.mark.parametrize("terminates", [True, False])
def test_an_episode_ends_with_either_flag_and_keeps_every_reward(terminates):
    rewards, last, terminated, truncated, frames = lesson.play(Scripted(5, terminates), lambda observation: 0, 9)
    assert rewards.tolist() == [1, 2, 3, 4, 5] and last == 5 and frames == []
    assert (terminated, truncated) == (terminates, not terminates)


def test_frames_are_one_more_than_steps():
    env = gym.make("FrozenLake-v1", render_mode="rgb_array")
    rewards, *_, frames = lesson.play(env, lesson.random_actions(env.action_space, 3), 3)
    assert len(frames) == len(rewards) + 1 and frames[0].shape[2] == 3


def test_the_policy_sees_the_newest_observation():
    seen = []
    lesson.play(Scripted(4), lambda observation: seen.append(observation) or 0, 0)
    assert seen == [0, 1, 2, 3]


def test_returns_are_one_for_each_seed():
    env = Scripted(3)
    assert lesson.returns_of(env, lambda observation: 0, range(5, 8)).tolist() == [6, 6, 6]
    assert env.seeds == [5, 6, 7]


def test_random_actions_follow_their_seed_and_use_all_actions():
    space = gym.spaces.Discrete(4)
    one, other = lesson.random_actions(space, 1), lesson.random_actions(space, 1)
    drawn = [one(None) for _ in range(400)]
    assert drawn == [other(None) for _ in range(400)]
    assert np.bincount(drawn, minlength=4).min() > 60 and max(drawn) == 3


@fixed
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_scipy(returns):
    from scipy.stats import sem
    assert lesson.standard_error(np.array(returns)) == pytest.approx(sem(returns), rel=1e-9, abs=1e-9)


def test_both_seeds_together_repeat_an_episode():
    lake = gym.make("FrozenLake-v1")
    first = lesson.visited(lake, 7, 7)
    assert all(lesson.visited(lake, 7, 7) == first for _ in range(5))
    assert len({tuple(lesson.visited(lake, 7, None)) for _ in range(10)}) > 1
    assert len({tuple(lesson.visited(lake, None, 7)) for _ in range(10)}) > 1


def test_a_series_is_seeded_once():
    series = lesson.starts(lesson.HillCar(), 3, 6)
    assert len(set(series)) == 6 and np.array_equal(series, lesson.starts(lesson.HillCar(), 3, 6))
    assert series[0] == lesson.HillCar().reset(seed=3)[0][0]


def test_trajectory_and_transcript_hold_every_step():
    assert lesson.trajectory(lesson.HillCar(), [2, 2, 0], 0).shape == (4, 2)
    rows = lesson.transcript(lesson.StepLimit(lesson.HillCar(), 10), lesson.pump, 0)
    assert len(rows) == 11 and rows[-1][3:] == (False, True) and rows[-2][3:] == (False, False)


def test_speed_counts_the_steps_of_all_copies():
    class Counted:
        num_envs, calls, seeds = 4, 0, []

        def reset(self, seed):
            self.seeds.append(seed)

        def step(self, actions):
            assert actions.shape == (4,) and set(actions) <= {0, 1}
            self.calls += 1
            end = np.random.default_rng(0)
            return [end.normal() for _ in range(2_000)]

    envs = Counted()
    assert 0 < lesson.steps_per_second(envs, 400, 0) < 1e6 and envs.calls == 100
