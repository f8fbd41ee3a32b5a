"""Claims about addressed randomness: the mapping is pinned, no two addresses meet, and dropout drops what it should."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import config
import randomness
from randomness import device_key, dropout_levels, dropout_threshold, generator, key

addresses = st.tuples(
    st.integers(0, 2**40),
    st.sampled_from(randomness.STREAMS),
    st.integers(0, 10**6),
    st.integers(0, 100) | st.sampled_from(["head.weight", "1", "blocks.0.norm1.weight"]),
)


# --- stored vectors: whoever has to change one of these raises its version ---------------------------------------


def test_the_stored_vectors_belong_to_these_versions():
    assert randomness.NUMERICS_VERSIONS == {"float32": 1, "bfloat16": 2}
    assert randomness.COMPILED_VERSIONS == {"float32": 2, "bfloat16": 3}
    assert set(randomness.NUMERICS_VERSIONS) == set(randomness.COMPILED_VERSIONS) == set(config.DTYPES)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            (42, "init", 0, "head.weight"),
            [618261462, 3969435662, 1014457054, 963598094, 4064031549, 1829195310, 2046210908, 689509991],
        ),
        (
            (42, "data", 1),
            [3487270789, 2551977764, 3705673580, 3323881446, 265798745, 2084524678, 1128655476, 2078444162],
        ),
        (
            (42, "dropout", 7, 3),
            [1294642884, 3902290203, 1563064106, 873964084, 1164753493, 3102950798, 2125364028, 2574731],
        ),
        (
            (42, "bit"),
            [524290122, 3596139406, 3642037246, 1339219920, 3129187789, 2625166036, 1473224761, 3659076488],
        ),
    ],
)
def test_the_keys_are_the_stored_ones(address, words):
    assert key(*address).tolist() == words


def test_the_first_draws_of_each_stream_are_the_stored_ones():
    weights = generator(42, "init", 0, "head.weight").standard_normal(4).tolist()
    assert weights == [-1.5384737611232848, 1.3552645226492346, 0.8762150549311574, -0.2252788097272489]
    starts = [634392, 647987, 285248, 208679, 297484, 435331]
    assert generator(42, "data", 0).integers(0, 1003726, size=6).tolist() == starts
    starts = [118607, 787353, 353737, 479187, 866301, 411677]
    assert generator(42, "data", 99).integers(0, 1003726, size=6).tolist() == starts
    assert generator(42, "bit").integers(0, 2**31, size=3).tolist() == [10395708, 644245471, 1663454592]


def test_the_dropout_levels_are_the_stored_ones():
    first = [20745, 19969, 1736, 11285, 17253, 5826, 10385, 5490, -6212, -12052]
    assert dropout_levels(42, 0, 0, 10).tolist() == first
    assert dropout_levels(42, 99, 5, 7).tolist() == [-14536, 19782, -22527, -20313, -16866, 16774, -1772]
    assert dropout_levels(42, 0, 0, 10).dtype == np.dtype("int16")


def test_the_keys_of_a_device_are_the_stored_ones():
    assert device_key(42, "dropout", 0, 0) == 3702974056285499640
    assert device_key(42, "dropout", 99, 5) == 3146408025686814637


# --- addresses ------------------------------------------------------------------------------------------------------


@given(addresses, addresses)
def test_different_addresses_draw_different_numbers(one, other):
    assume(one != other)
    assert key(*one).tolist() != key(*other).tolist()
    drawn, drawn_there = (generator(*address).integers(0, 2**63, size=4).tolist() for address in (one, other))
    assert not set(drawn) & set(drawn_there)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((42, "data", 1), (43, "data", 0)),  # seeds and steps are not added up
        ((42, "data", 0), (42, "dropout", 0)),
        ((42, "dropout", 0, 1), (42, "dropout", 1, 0)),
        ((42, "dropout", 1, 11), (42, "dropout", 11, 1)),
        ((1, "dropout", 11, 0), (11, "dropout", 1, 0)),
        ((42, "init", 0, 1), (42, "init", 0, "1")),
        ((42, "data", 0), (42 + 2**32, "data", 0)),  # PyTorch's CPU generator would keep 32 bits of the seed
    ],
)
def test_addresses_that_a_sum_would_confuse_are_apart(one, other):
    assert key(*one).tolist() != key(*other).tolist()
    assert generator(*one).integers(0, 2**63) != generator(*other).integers(0, 2**63)
    if isinstance(one[-1], int) and len(one) == 4 and one[1] == "dropout":
        assert device_key(*one) != device_key(*other)


@given(addresses)
def test_a_draw_depends_on_its_address_alone(address):
    expected = generator(*address).standard_normal(3).tolist()
    np.random.seed(0)  # noqa: NPY002 - the global generator is just what must not matter
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    generator(1, "data", 5).standard_normal(100)
    assert generator(*address).standard_normal(3).tolist() == expected
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@given(addresses)
def test_keys_of_a_device_fit_its_generator(address):
    seed, stream, step, site = address
    assert 0 <= device_key(seed, stream, step, site) < 2**63


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="no stream 'init '; the streams are init, data, dropout, bit"):
        generator(42, "init ")


# --- dropout --------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True))
def test_the_drop_probability_is_exact_to_one_in_ten_thousand(probability):
    """Counted over all levels, not sampled: each of the 65,536 is as likely as any other."""
    threshold, keep = dropout_threshold(probability)
    every_level = np.arange(-(2**15), 2**15)
    assert np.mean(every_level >= threshold) == keep
    assert abs((1 - keep) - probability) <= 1e-4
    assert keep > 0


def test_no_dropout_drops_nothing():
    threshold, keep = dropout_threshold(0.0)
    assert keep == 1 and threshold == -(2**15)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_smaller_mask_is_the_beginning_of_a_larger_one(few, more):
    few, more = sorted((few, more))
    levels = dropout_levels(42, 3, 1, more)
    assert len(levels) == more
    assert dropout_levels(42, 3, 1, few).tolist() == levels[:few].tolist()


@pytest.mark.parametrize("address", [(42, 0, 0), (43, 17, 5)])
def test_levels_are_uniform_and_their_bits_independent(address):
    """Limits are five standard deviations; an address is not random, so this passes always or never."""
    n = 2**20
    levels = dropout_levels(*address, n)
    counts = np.bincount((levels.astype(int) + 2**15) >> 8, minlength=256)
    chi_square = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)
    bits = np.unpackbits(levels.view(np.uint8)).reshape(n, 16).astype(np.float64) - 0.5
    assert np.abs(bits.mean(0)).max() < 5 * 0.5 / np.sqrt(n)
    together = bits.T @ bits / n - 0.25 * np.eye(16)
    assert np.abs(together).max() < 5 * 0.25 / np.sqrt(n)
    for distance in (1, 2, 3, 4):  # four levels come from one 64-bit word
        product = np.mean(levels[:-distance].astype(float) * levels[distance:]) * 12 / 2**32
        assert abs(product) < 5 / np.sqrt(n)


def test_masks_of_neighbouring_steps_and_sites_are_independent():
    n = 2**18
    kept = [dropout_levels(42, step, site, n) >= 0 for step, site in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    kept += [dropout_levels(43, 0, 0, n) >= 0]
    for i, one in enumerate(kept):
        for other in kept[:i]:
            assert abs(np.mean(one == other) - 0.5) < 5 * 0.5 / np.sqrt(n)
