"""Batches are the tensors of torch_brain's data path."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.arrays import Windows, first_part, inside, to_arrays
from recipes.data.batches import Batches, batch_size, n_steps, units_to_keep
from recipes.data.windows import random_windows, sequential_windows
from support.sessions import MODEL, params, session, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("torch_brain")

DROPOUT = params()["unit_dropout"]


@pytest.fixture(scope="module")
def model():
    from torch_brain.models import POYO

    poyo = POYO(**MODEL)
    arrays = to_arrays(sessions(), params())
    poyo.unit_emb.initialize_vocab(sorted(arrays.units, reverse=True))
    poyo.session_emb.initialize_vocab(sorted(arrays.sessions, reverse=True))
    return poyo


@pytest.fixture(scope="module")
def batches(model):
    return make_batches(model)


def make_batches(model, seed=42, unit_dropout=DROPOUT):
    arrays = to_arrays(sessions(), params())
    return Batches(
        arrays,
        unit_rows=model.unit_emb.tokenizer(arrays.units),
        session_rows=model.session_emb.tokenizer(arrays.sessions),
        model=MODEL,
        unit_dropout=unit_dropout,
        seed=seed,
    )


def upstream(model, windows, *, keep=None):
    """Return the collated samples of torch_brain for windows, and the targets of its example."""
    from torch_brain.batching import collate, pad8
    from torch_brain.utils import np_string_prefix
    from torch_brain.utils.weights import isin_interval

    recordings, samples = sessions(), []
    for i, (which, start, end) in enumerate(
        zip(windows.session, windows.start, windows.end, strict=True)
    ):
        data = recordings[which].slice(start, end)
        data.units.id = np_string_prefix(f"{data.session.id}/", data.units.id.astype(str))
        if keep is not None:
            data = keep(i, data)
        times = data.cursor.timestamps
        weights = np.ones_like(times, dtype=np.float32)
        for name, weight in params()["target"]["loss_weights"].items():
            weights[isin_interval(times, data.get_nested_attribute(name))] *= weight
        sample = model.tokenize(data) | {
            "output_timestamps": pad8(times.astype(np.float32)),
            "values": pad8((data.cursor.vel / 20.0).astype(np.float32)),
            "weights": pad8(weights),
            "mask": pad8(np.ones(len(times), dtype=bool)),
            "evaluated": pad8(isin_interval(times, data.movement_phases.reach_period)),
            "start": data.absolute_start,
        }
        samples.append(sample)
    return collate(samples)


def assert_same(ours, theirs):
    tensors = ours.inputs | {
        name: getattr(ours, name) for name in ("values", "weights", "mask", "evaluated")
    }
    for name, tensor in tensors.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    np.testing.assert_array_equal(ours.start, theirs["start"].numpy())


def windows_of(batches, seed=3):
    return random_windows(batches.arrays.intervals["train"], 1.0, seed=seed)


def test_a_batch_has_the_bits_of_tokenize_and_collate(model, batches):
    windows = windows_of(batches).take(slice(0, 13))
    assert_same(batches.assemble(windows), upstream(model, windows))


def test_a_batch_of_evaluation_has_the_bits_of_tokenize_and_collate(model, batches):
    windows = sequential_windows(batches.arrays.intervals["test"], 1.0, 0.5)
    (batch,) = batches.evaluation("test", 64, 0.5)
    assert_same(batch, upstream(model, windows))


def test_a_batch_with_dropped_units_has_the_bits_of_unit_dropout(model, batches):
    from torch_brain.transforms import UnitDropout

    windows = windows_of(batches).take(slice(0, 9))
    dropout = UnitDropout(min_units=2, mode_units=4, max_units=9, seed=0)
    stays = []

    def keep(i, data):
        np.random.seed(i)  # noqa: NPY002 -- UnitDropout shuffles with NumPy's global generator
        names = data.units.id
        data = dropout(data)
        stays.append(np.isin(names, data.units.id))
        return data

    theirs = upstream(model, windows, keep=keep)
    kept = np.concatenate(stays)
    assert 0.2 < kept.mean() < 0.8
    batch = batches.assemble(windows, kept)
    assert batch.kept == kept.mean()
    assert_same(batch, theirs)


def test_training_windows_are_those_of_the_random_sampler(batches):
    from torch_brain.data import Interval
    from torch_brain.samplers import RandomFixedWindowSampler

    rng = np.random.default_rng(0)
    places = np.cumsum(rng.uniform(0.1, 4.0, (60, 2)).ravel()).reshape(-1, 2)
    intervals = Windows(np.arange(60) // 20, *places.T, np.arange(60))
    for seed in range(20):
        sampler = RandomFixedWindowSampler(
            sampling_intervals={
                i: Interval(places[20 * i : 20 * i + 20, 0], places[20 * i : 20 * i + 20, 1])
                for i in range(3)
            },
            window_length=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        theirs = [(i.recording_id, i.start, i.end) for i in sampler]
        ours = random_windows(intervals, 1.0, seed=seed)
        assert list(zip(*(v.tolist() for v in ours[:3]), strict=True)) == theirs
        assert len(theirs) == len(sampler)
        assert (places[ours.interval, 0] <= ours.start).all()
        assert (ours.end <= places[ours.interval, 1]).all()


def test_evaluation_windows_are_those_of_the_sequential_sampler():
    from torch_brain.data import Interval
    from torch_brain.samplers import SequentialFixedWindowSampler

    rng = np.random.default_rng(1)
    places = np.cumsum(rng.uniform(1.0, 4.0, (40, 2)).ravel()).reshape(-1, 2)
    sampler = SequentialFixedWindowSampler(
        sampling_intervals={0: Interval(*places.T)}, window_length=1.0, step=0.5
    )
    intervals = Windows(np.zeros(40, int), *places.T, np.arange(40))
    ours = sequential_windows(intervals, 1.0, 0.5)
    theirs = [(i.start, i.end) for i in sampler]
    assert list(zip(ours.start.tolist(), ours.end.tolist(), strict=True)) == theirs


def test_any_batch_can_be_made_without_the_earlier_ones(model, batches):
    later = make_batches(model).train(11, 8)
    for step in range(12):
        in_order = batches.train(step, 8)
    assert torch.equal(later.inputs["input_unit_index"], in_order.inputs["input_unit_index"])
    assert torch.equal(later.values, in_order.values)
    assert later.kept == in_order.kept < 1


def test_windows_differ_between_steps_epochs_and_seeds(model, batches):
    first = batches.train(0, 8).start.tolist()
    assert first != batches.train(1, 8).start.tolist()
    assert first != batches.train(batches.n_windows // 8, 8).start.tolist()
    assert first != make_batches(model, seed=43).train(0, 8).start.tolist()


def test_the_shares_of_all_processes_are_the_batch(batches):
    whole = batches.train(5, 8)
    shares = [batches.train(5, 8, rank=rank, world=2) for rank in range(2)]
    for rank, share in enumerate(shares):
        mine = whole.inputs["input_unit_index"][rank::2]
        width = share.inputs["input_unit_index"].shape[1]
        assert torch.equal(share.inputs["input_unit_index"], mine[:, :width])
        assert torch.equal(share.inputs["session_index"], whole.inputs["session_index"][rank::2])
        assert share.start.tolist() == whole.start[rank::2].tolist()


def test_without_dropout_all_units_are_kept(model):
    assert make_batches(model, unit_dropout={"level": "off"}).train(0, 8).kept == 1.0


def test_the_number_of_kept_units_has_the_distribution_that_torch_brain_draws():
    from torch_brain.transforms.unit_dropout import TriangleDistribution

    settings = {"max_units": 300, "min_units": 30, "mode_units": 100, "peak": 4.0}
    theirs = TriangleDistribution(min_units=30, mode_units=100, max_units=300, peak=4, seed=0)
    drawn = np.sort([int(theirs.sample(400)) for _ in range(20000)])
    uniform = (np.arange(20000) + 0.5) / 20000
    ours = np.sort(units_to_keep(np.full(20000, 400), uniform, settings))
    grid = np.arange(30, 301)
    distance = np.abs(np.searchsorted(drawn, grid) - np.searchsorted(ours, grid)).max() / 20000
    assert distance < 1.95 / np.sqrt(20000)  # Kolmogorov-Smirnov, level 0.001


def test_all_units_of_small_populations_are_kept():
    settings = {"max_units": 300, "min_units": 30, "mode_units": 100, "peak": 4.0}
    n_units = np.array([29, 31, 31])
    kept = units_to_keep(n_units, np.array([0.0, 0.0, 0.999]), settings)
    assert kept.tolist() == [29, 30, 31]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=8),
    st.lists(st.integers(-5, 65), min_size=1, max_size=30),
)
def test_a_time_is_inside_if_any_interval_contains_it(intervals, times):
    bounds = np.array([(a, a + n) for a, n in intervals], float).reshape(-1, 2)
    expected = [any(a <= t < b for a, b in bounds) for t in times]
    assert inside(np.array(times, float), bounds).tolist() == expected


def test_the_first_part_of_intervals_is_cut_by_their_length():
    bounds = np.array([[0.0, 2.0], [5.0, 9.0], [10.0, 14.0]])
    assert first_part(bounds, 1.0).tolist() == bounds.tolist()
    assert first_part(bounds, 0.5).tolist() == [[0.0, 2.0], [5.0, 8.0]]
    assert first_part(bounds, 0.2).tolist() == [[0.0, 2.0]]


def test_intervals_around_an_event_skip_trials_without_the_event():
    data = session()
    data.trials.move_onset_time = np.array([0.5, np.nan] * 6)
    target = params()["target"] | {
        "evaluate_in": {"around": "move_onset", "from": -0.05, "to": 0.65}
    }
    arrays = to_arrays([data], params(target=target))
    times = arrays.times[arrays.evaluated]
    assert times.min() == pytest.approx(0.45)
    assert len(times) == 70


def test_windows_can_be_drawn_from_trials():
    arrays = to_arrays(sessions(1), params(data=params()["data"] | {"within": "trial"}))
    assert arrays.intervals["train"].start.tolist() == np.arange(0, 16, 2.0).tolist()
    assert arrays.intervals["test"].start.tolist() == [20.0, 22.0]


def test_the_batch_depends_on_the_number_of_windows():
    rule = [[0, 16], [256, 32], [1024, 64]]
    assert [batch_size(rule, n) for n in (16, 255, 256, 1023, 5000)] == [16, 16, 32, 32, 64]
    assert batch_size(8, 100) == 8


def test_an_epoch_has_complete_batches_only():
    assert n_steps({"epochs": 10}, 16, 100) == 60
    assert n_steps({"steps": 7}, 16, 100) == n_steps({"steps": 7}, 16, 4) == 7


@pytest.mark.parametrize(("training", "n"), [({"epochs": 10}, 40), ({"steps": 10}, 0)])
def test_an_epoch_with_fewer_windows_than_a_batch_is_refused(training, n):
    with pytest.raises(ValueError) as error:
        n_steps(training, 64, n)
    assert str(error.value) == (
        f"an epoch has {n} windows, a batch 64: declare a smaller batch, or more data"
    )


def test_a_batch_with_more_windows_than_an_epoch_takes_several_epochs(batches):
    n = batches.n_windows
    first, second = (batches.train(step, 2 * n + 3) for step in range(2))
    epochs = [batches.windows_of_epoch(i).start.tolist() for i in range(6)]
    assert first.start.tolist() == epochs[0] + epochs[1] + epochs[2][:3]
    assert second.start.tolist() == epochs[3] + epochs[4] + epochs[5][:3]


NAMED = "session c_20131003_center_out_reaching"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variable": "hand.vel"},
            f"{NAMED} has no hand: prepare the recording again, or declare another target",
        ),
        (
            {"evaluate_in": {"random_target_reaching": "movement_phases.random_period"}},
            (
                f"{NAMED}: evaluate_in has intervals for random_target_reaching only; "
                "declare those of this session"
            ),
        ),
    ],
)
def test_a_recording_without_a_declared_attribute_is_named(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        to_arrays(sessions(1), params(target=params()["target"] | change))


def test_a_training_needs_recordings():
    with pytest.raises(ValueError, match=r"^no recordings: a training needs at least one$"):
        to_arrays([], params())
