"""What Building_Q_table.ipynb defines, against loops written by hand, linear systems and simulation."""
import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

NOTEBOOK = "Chapter14/Building_Q_table.ipynb"
lesson = definitions(NOTEBOOK, "epsilon_at", "exploring", "linear", "greedy_returns", "epsilon_greedy", "learn_table",
                     "largest_value", "next_action_value", "model_of", "value_iteration", "expected_return", "study",
                     "with_exploration", "policy_value", "newest", "greedy_path", EXPLORE=0.5, EPSILON_END=0.05)
fixed = settings(deadline=None, max_examples=40)


def random_model(seed, states=6, actions=3, leak=0.1):
    """P (s, a, s') whose rows add up to 1 - leak, R (s, a), some states without a future."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.3), size=(states, actions)) * (1 - leak)
    P[-1] = 0
    return P, rng.normal(size=(states, actions))


class Chain(gym.Env):
    """States 0 to n; action 1 goes on, action 0 stays; the last pays 5 and terminates, or the episode is only cut there."""

    def __init__(self, n=3, terminates=True):
        self.n, self.terminates = n, terminates
        self.observation_space, self.action_space = gym.spaces.Discrete(n + 1), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = 0
        return 0, {}

    def step(self, action):
        self.s = min(self.s + int(action), self.n)
        end = self.s == self.n
        return self.s, 5.0 * end, end and self.terminates, end and not self.terminates, {}


# --- the model


@pytest.mark.parametrize("name, options", [("FrozenLake-v1", {"is_slippery": True}), ("FrozenLake-v1", {"is_slippery": False}),
                                           ("FrozenLake-v1", {"map_name": "8x8"}), ("Taxi", {}), ("CliffWalking", {})])
def test_the_model_is_the_environments_own(name, options):
    env = gym.make(name if "-" in name else lesson.newest(name), **options)
    P, R = lesson.model_of(env)
    rng = np.random.default_rng(0)
    for s, a in zip(rng.integers(len(R), size=60), rng.integers(R.shape[1], size=60)):
        outcomes = env.unwrapped.P[int(s)][int(a)]
        assert R[s, a] == pytest.approx(sum(p * r for p, _, r, _ in outcomes))
        for t in range(len(R)):
            assert P[s, a, t] == pytest.approx(sum(p for p, after, _, end in outcomes if after == t and not end))


def test_the_lake_as_it_is_played_has_the_models_frequencies():
    env = gym.make("FrozenLake-v1")
    P, R = lesson.model_of(env)
    env.reset(seed=0)
    seen, paid = np.zeros(16), 0.0
    for _ in range(3000):
        env.reset()
        env.unwrapped.s = 14
        s, r, terminated, *_ = env.step(2)
        seen[s] += not terminated
        paid += r
    np.testing.assert_allclose(seen / 3000, P[14, 2], atol=0.03)
    assert paid / 3000 == pytest.approx(R[14, 2], abs=0.03)


def test_newest_takes_the_highest_version():
    assert lesson.newest("Taxi") in ("Taxi-v3", "Taxi-v4") and lesson.newest("FrozenLake") == "FrozenLake-v1"
    number = int(lesson.newest("Taxi").rpartition("v")[2])
    assert f"Taxi-v{number + 1}" not in gym.registry


# --- exact values


@fixed
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_the_iteration_solves_the_bellman_equation(seed, gamma):
    P, R = random_model(seed)
    Q = lesson.value_iteration(P, R, gamma)
    for s in range(len(R)):
        for a in range(R.shape[1]):
            wanted = R[s, a] + gamma * sum(P[s, a, t] * max(Q[t]) for t in range(len(R)))
            assert Q[s, a] == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_no_policy_is_better(seed):
    P, R = random_model(seed, states=4, actions=2)
    best = lesson.value_iteration(P, R, 0.9).max(axis=1)
    for number in range(2**4):
        policy = np.eye(2)[[number >> s & 1 for s in range(4)]]
        assert (lesson.policy_value(P, R, policy, 0.9) <= best + 1e-7).all()


@fixed
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_value_of_a_policy_is_its_fixed_point(seed, gamma, epsilon):
    P, R = random_model(seed)
    policy = lesson.with_exploration(np.random.default_rng(seed).normal(size=R.shape), epsilon)
    V, wanted = lesson.policy_value(P, R, policy, gamma), np.zeros(len(R))
    for _ in range(600):
        wanted = np.array([sum(policy[s, a] * (R[s, a] + gamma * P[s, a] @ wanted) for a in range(R.shape[1]))
                           for s in range(len(R))])
    np.testing.assert_allclose(V, wanted, atol=1e-6)


def test_exploration_mixes_the_greedy_with_the_uniform_policy():
    Q = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    assert lesson.with_exploration(Q, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(lesson.with_exploration(Q, 0.3), [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    np.testing.assert_allclose(lesson.with_exploration(Q, 1.0), np.full((2, 3), 1 / 3))


def test_the_expected_return_is_that_of_played_episodes():
    env = gym.make("FrozenLake-v1", max_episode_steps=20)
    P, R = lesson.model_of(env)
    Q = lesson.value_iteration(P, R, 0.99)
    exact = lesson.expected_return(P, R, Q.argmax(axis=1), 20)[0]
    assert lesson.greedy_returns(env, Q, 4000, seed=0).mean() == pytest.approx(exact, abs=0.025)
    assert lesson.expected_return(P, R, Q.argmax(axis=1), 5)[0] == 0  # six steps are the least
    assert lesson.expected_return(P, R, Q.argmax(axis=1), 6)[0] > 0


# --- learning


@pytest.mark.parametrize("terminates", [True, False])
def test_a_cut_is_no_end(terminates):
    """The last state is never left: after an end it is worth 0, after a cut what its row says (0 as well, or optimism)."""
    seen = []

    def future(values, action):
        seen.append(len(values))
        return 2.0

    Q = lesson.learn_table(Chain(1, terminates), 400, 0.5, lambda t: 1.0, lambda t: 1.0, 0, future)
    assert Q[0, 1] == (5.0 if terminates else 6.0) and Q[0, 0] == 1.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_without_chance_the_learned_values_are_exact(gamma):
    Q = lesson.learn_table(Chain(3), 3000, gamma, lambda t: 1.0, lambda t: 1.0, 0, lesson.largest_value)
    wanted = [[5 * gamma**3, 5 * gamma**2], [5 * gamma**2, 5 * gamma], [5 * gamma, 5.0], [0, 0]]
    np.testing.assert_allclose(Q, wanted, atol=1e-6)


def test_sarsa_learns_the_value_of_the_policy_that_explores():
    P, R = np.zeros((4, 2, 4)), np.zeros((4, 2))
    for s in range(3):
        P[s, 0, s], R[2, 1] = 1, 5
        if s < 2:
            P[s, 1, s + 1] = 1
    exact = lesson.policy_value(P, R, np.full((4, 2), 0.5), 0.9)[0]
    Q = lesson.learn_table(Chain(3), 60_000, 0.9, lesson.linear(0.5, 0.005, 60_000), lambda t: 1.0, 0,
                           lesson.next_action_value)
    assert Q[0].mean() == pytest.approx(exact, rel=0.03)
    assert lesson.value_iteration(P, R, 0.9)[0].max() > 1.1 * exact


def test_the_action_that_sarsa_counts_is_the_one_that_is_taken():
    class Spy(Chain):
        taken = []

        def step(self, action):
            self.taken.append(int(action))
            return super().step(action)

    promised, env = [], Spy(50)
    lesson.learn_table(env, 40, 0.9, lambda t: 0.1, lambda t: 1.0, 3,
                       lambda values, action: promised.append(int(action)) or 0.0)
    assert promised[:-1] == env.taken[1:]


def test_the_learning_rate_is_that_of_the_step():
    rates = []
    lesson.learn_table(Chain(2), 5, 0.9, lambda t: rates.append(t) or 0.1, lambda t: 1.0, 0, lesson.largest_value)
    assert rates == [1, 2, 3, 4, 5]
    Q = lesson.learn_table(Chain(1), 1, 0.9, lambda t: 0.25, lambda t: 1.0, 1, lesson.largest_value)
    assert sorted(set(Q.ravel())) in ([0.0, 1.25], [0.0])


def test_learning_follows_its_seed():
    env = gym.make("FrozenLake-v1")
    one, again, other = (lesson.learn_table(env, 2000, 0.9, lambda t: 0.3, lambda t: 1.0, seed, lesson.largest_value)
                         for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@fixed
@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=6), st.integers(0, 1000))
def test_epsilon_greedy(values, seed):
    values, rng = np.array(values), np.random.default_rng(seed)
    assert values[lesson.epsilon_greedy(values, 0.0, rng)] == values.max()
    best = np.flatnonzero(values == values.max())
    assert {lesson.epsilon_greedy(values, 0.0, rng) for _ in range(60)} <= set(best.tolist())
    assert 0 <= lesson.epsilon_greedy(values, 1.0, rng) < len(values)


def test_epsilon_is_a_share_and_ties_are_broken_at_random():
    rng = np.random.default_rng(0)
    drawn = [lesson.epsilon_greedy(np.array([0.0, 1.0, 0.0, 0.0]), 0.4, rng) for _ in range(4000)]
    assert np.mean(np.array(drawn) == 1) == pytest.approx(0.7, abs=0.03)
    ties = np.bincount([lesson.epsilon_greedy(np.zeros(4), 0.0, rng) for _ in range(4000)])
    assert ties.min() > 850


def test_schedules():
    assert [lesson.epsilon_at(t, 1000, 0.16, 0.04) for t in (0, 160, 1000)] == pytest.approx([1, 0.04, 0.04])
    assert [lesson.exploring(100)(t) for t in (0, 25, 50, 100)] == pytest.approx([1, 0.525, 0.05, 0.05])
    assert [lesson.linear(0.5, 0.1, 10)(t) for t in (0, 5, 10, 99)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_greedy_returns_are_undiscounted_and_one_for_each_episode():
    Q = np.array([[0.0, 1.0]] * 4)
    assert lesson.greedy_returns(Chain(3), Q, 3, seed=0).tolist() == [5, 5, 5]
    assert lesson.greedy_returns(Chain(3, terminates=False), Q, 2, seed=0).tolist() == [5, 5]


def test_the_study_is_exact_success_of_each_seed():
    env = gym.make("FrozenLake-v1")
    P, R = lesson.model_of(env)
    found = lesson.study(env, P, R, 1500, (0, 1), 0.99, lambda t: 0.3, lambda t: 1.0)
    for seed, value in enumerate(found):
        Q = lesson.learn_table(env, 1500, 0.99, lambda t: 0.3, lambda t: 1.0, seed, lesson.largest_value)
        assert value == lesson.expected_return(P, R, Q.argmax(axis=1), 100)[0]


def test_the_path_on_the_cliff():
    env = gym.make(lesson.newest("CliffWalking"), max_episode_steps=200)
    Q = lesson.value_iteration(*lesson.model_of(env), 1.0)
    path = lesson.greedy_path(env, Q)
    assert path[0].tolist() == [3, 0] and path[-1].tolist() == [3, 11] and len(path) == 14
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()
