"""The shift register against a slow twin that clocks it bit by bit, and the masks against the definition."""

from math import comb

import numpy as np
import pytest

from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Declared
from rsk_deploy.masks.gf2 import CLOCKS, POLYNOMIALS, WIDTHS, images, power, prime_factors, primitive, state_chunks, states
from rsk_deploy.masks.kernels import as_kernels, pattern_table
from rsk_deploy.registry import mask_named, regenerate


def clocked(width, polynomial, state):
    """The register after one clock."""
    state <<= 1
    return state ^ polynomial if state >> width else state


def slow_states(width, polynomial, seed, count):
    found = [seed]
    for _ in range(count - 1):
        state = found[-1]
        for _ in range(CLOCKS):
            state = clocked(width, polynomial, state)
        found.append(state)
    return found


def generate(shape, **params):
    return mask_named("lfsr").generate(shape, **params)


@pytest.mark.parametrize("width", WIDTHS)
def test_states_are_those_of_the_register_clocked_bit_by_bit(width):
    seed = (0xDEADBEEF % ((1 << width) - 1)) + 1
    assert states(width, POLYNOMIALS[width], seed, 777).tolist() == slow_states(width, POLYNOMIALS[width], seed, 777)


def identity_after(matrix, exponent):
    """Whether a GF(2) matrix to this power is the identity."""
    result = np.eye(len(matrix), dtype=int)
    while exponent:
        if exponent & 1:
            result = result @ matrix % 2
        matrix = matrix @ matrix % 2
        exponent >>= 1
    return np.array_equal(result, np.eye(len(matrix)))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_polynomial_gives_the_full_period(width):
    polynomial, period = POLYNOMIALS[width], (1 << width) - 1
    clock = np.array([[clocked(width, polynomial, 1 << column) >> row & 1 for column in range(width)] for row in range(width)])
    assert identity_after(clock, period)
    assert not any(identity_after(clock, period // factor) for factor in prime_factors(period))


def test_prime_factors_are_all_and_prime():
    for number in (255, 4095, 65535, 2**31 - 1, 2**32 - 1):
        rest = number
        for factor in prime_factors(number):
            assert all(factor % divisor for divisor in range(2, int(factor**0.5) + 1))
            while rest % factor == 0:
                rest //= factor
        assert rest == 1


def test_primitive_agrees_with_walking_the_period():
    for polynomial in range(1 << 8, 1 << 9):
        state, steps = clocked(8, polynomial, 1), 1
        while state != 1 and steps < 256:
            state, steps = clocked(8, polynomial, state), steps + 1
        assert primitive(polynomial) == (steps == 255), polynomial


@pytest.mark.parametrize("width", [8, 13, 16, 17])
def test_one_period_of_chunks_visits_every_state_once(width):
    visited = np.concatenate(list(state_chunks(width, POLYNOMIALS[width], 5)))[: (1 << width) - 1]
    assert np.array_equal(np.sort(visited), np.arange(1, 1 << width))


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_a_jump_is_the_same_product_for_every_state(count):
    """What lets a file rebuild the states from a table of 32 numbers."""
    walk = states(20, POLYNOMIALS[20], 77, count + 50)
    of_bits = np.array(images(power(CLOCKS * count, POLYNOMIALS[20]), POLYNOMIALS[20]))
    moved = [np.bitwise_xor.reduce(of_bits[state >> np.arange(32) & 1 == 1]) for state in walk[:50].astype(int)]
    assert moved == walk[count:].tolist()


@pytest.mark.parametrize(("kernel", "kept"), [((3, 3), 4), ((3, 3), 2), ((5,), 3), ((2, 2, 2), 8)])
def test_the_pattern_scheme_ranks_the_pattern_of_kernel_k_by_state_k(kernel, kept):
    mask = generate((13, 17, *kernel), seed=99, taps_per_kernel=kept)
    taps = int(np.prod(kernel))
    table = pattern_table(taps, kept)
    walk = slow_states(32, POLYNOMIALS[32], 99, 13 * 17)
    assert mask.params == {"scheme": "pattern", "width": 32, "polynomial": POLYNOMIALS[32], "seed": 99, "taps_per_kernel": kept}
    assert np.array_equal(as_kernels(mask.support).reshape(-1, taps), [table[state % comb(taps, kept)] for state in walk])


@pytest.mark.parametrize("shape", [(40, 50), (7, 5, 3, 3), (3, 4)], ids=str)
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_the_position_scheme_keeps_the_first_states_inside_the_window(shape, share):
    places = int(np.prod(shape))
    kept = round(share * places)
    mask = generate(shape, scheme="position", seed=3, kept=kept)
    width = mask.params["width"]
    walk = slow_states(width, POLYNOMIALS[width], 3, (1 << width) - 1)
    chosen = [state - 1 for state in walk if state <= places][:kept]
    assert mask.kept == kept == len(set(chosen))
    assert np.flatnonzero(mask.support).tolist() == sorted(chosen)


def test_a_large_window_keeps_exactly_what_is_asked():
    mask = generate((700, 500), scheme="position", density=0.1)
    assert mask.params["kept"] == mask.kept == 35000
    assert mask.params["width"] == 19


@pytest.mark.parametrize("params", [{"taps_per_kernel": 2}, {"density": 0.3}, {"width": 16, "seed": 7, "polynomial": 0x1002D}])
def test_the_parameters_of_a_mask_rebuild_it(params):
    mask = generate((20, 30, 3, 3), **params)
    again = regenerate(Declared("lfsr", mask.params), (20, 30, 3, 3))
    assert again == mask


def test_successive_kernels_are_independent():
    """Each of the 36 × 36 pairs of successive patterns comes up as often as chance has it (chi-square of 1295 degrees, mean 1295, deviation 51)."""
    walk = states(32, POLYNOMIALS[32], 1, 1 << 18) % 36
    pairs = np.bincount(walk[:-1] * 36 + walk[1:], minlength=1296)
    expected = pairs.sum() / 1296
    assert abs(((pairs - expected) ** 2 / expected).sum() - 1295) < 4 * 51


def test_bare_weights_are_not_recognised():
    support = generate((16, 16, 3, 3)).support
    assert mask_named("lfsr").detect(support.astype(np.float32), support) is None


SCHEMES = "an LFSR mask is of scheme 'pattern' with taps_per_kernel, or of scheme 'position' with kept or density"
REFUSED = [
    ({"seed": 0}, "the LFSR seed is 0; a whole number from 1 to 4294967295 is needed"),
    ({"seed": 256, "width": 8}, "the LFSR seed is 256; a whole number from 1 to 255 is needed"),
    ({"width": 7}, "the LFSR width is 7; a whole number from 8 to 32 is needed"),
    ({"width": 33}, "the LFSR width is 33; a whole number from 8 to 32 is needed"),
    ({"width": 8, "polynomial": 0x1AA}, "the LFSR polynomial 0x1aa of degree 8 is not primitive, so its states repeat early; 0x1a9 is"),
    ({"width": 8, "polynomial": 0x11B}, "the LFSR polynomial 0x11b of degree 8 is not primitive, so its states repeat early; 0x1a9 is"),
    ({"width": 8, "polynomial": 3}, "the LFSR polynomial is 3; a whole number from 256 to 511 is needed"),
    ({"scheme": "magic"}, SCHEMES),
    ({"scheme": ["position"]}, SCHEMES),
    ({"scheme": "pattern", "kept": 5}, SCHEMES),
    ({"scheme": "position", "taps_per_kernel": 5}, SCHEMES),
    ({"kept": 5, "density": 0.5}, SCHEMES),
    ({"kept": 5, "taps_per_kernel": 4}, SCHEMES),
    ({"kept": 145}, "kept is 145; a whole number from 0 to 144 is needed"),
    ({"scheme": "position", "density": 2}, "density is 2; a number from 0 to 1 is needed"),
    ({"scheme": "position", "kept": 5, "width": 32}, "the LFSR width is 32; a register that chooses from 144 places has 8 bits"),
    ({"taps_per_kernel": 10}, "taps_per_kernel is 10; a whole number from 1 to 9 is needed"),
]


@pytest.mark.parametrize(("params", "message"), REFUSED)
def test_bad_registers_are_refused_in_a_sentence(params, message):
    with pytest.raises(UsageError) as error:
        regenerate(Declared("lfsr", params), (4, 4, 3, 3))
    assert str(error.value) == message
