"""Every encoding: the bytes are what the formula counts, the vectorised way is the way through bytes, and its error."""

import numpy as np
import pytest
import torch

from fedsim import seeding
from fedsim.client_store import ClientStore
from fedsim.errors import FieldError
from fedsim.links.link import NoCompression, transmit
from fedsim.links.packing import pack, packed_size, unpack
from fedsim.links.quantize import Quantize
from fedsim.links.randk import RandK
from fedsim.links.sign import Sign
from fedsim.links.topk import TopK

COMPRESSORS = [
    NoCompression(),
    *(TopK(fraction=fraction) for fraction in (0.01, 0.3)),
    *(RandK(fraction=0.2, error_feedback=feedback) for feedback in (False, True)),
    *(Quantize(bits=bits, norm=norm, bucket=16) for bits in (2, 3, 8, 16) for norm in ("l2", "max")),
    Quantize(error_feedback=True, norm="l2"),
    Sign(),
]
named = {"ids": str}
KEY = seeding.stream_key(0, "link", 1)


def rows(count, n=5, dtype=torch.float32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, count))).to(dtype)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compressor", COMPRESSORS, **named)
def test_bytes_and_back(compressor, dtype, count):
    matrix, clients = rows(count, dtype=dtype), torch.tensor([7, 0, 3, 123456, 2])
    matrix[1] = 0
    arrived = compressor.decoded(matrix, clients, KEY)
    for row, client, expected in zip(matrix, clients.tolist(), arrived, strict=True):
        data = compressor.encode(row, client, KEY)
        assert isinstance(data, bytes)
        assert len(data) == compressor.size(count, dtype.itemsize)
        found = compressor.decode(data, torch.empty_like(row))
        assert found.dtype == dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("compressor", COMPRESSORS[1:], **named)
def test_a_client_is_encoded_alike_wherever_it_stands(compressor):
    matrix, clients = rows(50), torch.arange(5)
    whole = compressor.decoded(matrix, clients, KEY)
    backwards = compressor.decoded(matrix.flip(0), clients.flip(0), KEY).flip(0)
    assert torch.equal(whole, backwards)
    assert not torch.equal(whole, matrix)  # it does something


def test_sizes_by_hand():
    """1000 numbers of 4 bytes. topk: 50 numbers, 50 positions of 10 bits. randk: 50 numbers and 8 bytes of seed.
    quantize: 1000 codes of 3 bits and 2 norms. sign: 1000 bits and a magnitude."""
    assert NoCompression().size(1000, 4) == 4000
    assert TopK(fraction=0.05).size(1000, 4) == 50 * 4 + 63
    assert RandK(fraction=0.05).size(1000, 4) == 50 * 4 + 8
    assert Quantize(bits=3, bucket=512).size(1000, 4) == 375 + 2 * 4
    assert Sign().size(1000, 4) == 125 + 4


def test_topk_keeps_the_largest():
    row = torch.tensor([[0.1, -5.0, 3.0, 0.0, -0.2, 3.0, 1.0, 2.0]])
    assert TopK(fraction=0.25).decoded(row, torch.tensor([0]), KEY).tolist() == [[0, -5, 3, 0, 0, 0, 0, 0]]


def test_sign_by_hand():
    row = torch.tensor([[1.0, -2.0, 0.0, 3.0]])  # mean magnitude 6 / 4
    assert Sign().decoded(row, torch.tensor([0]), KEY).tolist() == [[1.5, -1.5, 1.5, 1.5]]


@pytest.mark.parametrize(
    ("compressor", "omega"),
    [
        (RandK(fraction=0.25), 3.0),  # n / k - 1 (Beznosikov 2020)
        (Quantize(bits=3, norm="l2", bucket=64), Quantize(bits=3, norm="l2", bucket=64).omega(64)),
        (Quantize(bits=3, norm="max", bucket=64), Quantize(bits=3, norm="max", bucket=64).omega(64)),
    ],
    **named,
)
def test_unbiased_with_bounded_variance(compressor, omega):
    """20,000 encodings of one row: their mean is the row, to 5 standard errors, and their variance keeps the bound."""
    row, draws = rows(64, n=1, dtype=torch.float64)[0], 20000
    found = compressor.decoded(row.expand(draws, -1), torch.arange(draws), KEY)
    error = found - row
    square = float(row @ row)
    assert float(error.square().sum(1).mean()) <= 1.02 * omega * square
    assert float(error.mean(0).norm()) <= 5 * (omega * square / draws) ** 0.5


def exact_variance(row, levels):
    """``E|Q(x) - x|^2 / |x|^2`` of a bucket, ``norm=max``: a value at r between two levels has r (1 - r) steps^2."""
    step = np.abs(row).max() / levels
    between = (np.abs(row) / step) % 1
    return (between * (1 - between)).sum() * step**2 / (row @ row)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_omega_of_the_largest_norm(bits):
    """It holds for every row that was tried, and for two bits there is a row that comes near it.

    That row has one value of 1 and all others t = 1 / sqrt(b): b (t - t^2) over 1 + b t^2 is nearly sqrt(b) / 2.
    """
    quantize, width, s = Quantize(bits=bits, norm="max"), 512, 2 ** (bits - 1) - 1
    omega = quantize.omega(width)
    assert omega == pytest.approx(min(width / (4 * s**2), width**0.5 / (2 * s)))
    rng, found = np.random.default_rng(bits), []
    for small in np.geomspace(1e-4, 1, 60):
        for row in (np.full(width, small), small * rng.normal(size=width), small * rng.laplace(size=width)):
            row[0] = max(1.0, np.abs(row).max())
            found.append(exact_variance(row, s))
    assert max(found) <= omega
    assert max(found) > (0.9 if bits == 2 else 0.3) * omega
    row = torch.full((1, width), width**-0.5, dtype=torch.float64)
    row[0, 0] = 1
    sent = quantize.decoded(row.expand(2000, -1), torch.arange(2000), KEY) - row
    variance = float(sent.square().sum(1).mean() / row.square().sum())
    assert variance == pytest.approx(exact_variance(row[0].numpy(), s), rel=0.03)


def test_feedback_is_contractive_and_not_throttled():
    """``E|C(x) - x|^2 <= (1 - 1 / (1 + omega)) |x|^2`` for that row, of which x / (1 + omega) arrives on average."""
    width, quantize = 512, Quantize(bits=2, error_feedback=True)
    row = torch.full((1, width), width**-0.5, dtype=torch.float64)
    row[0, 0] = 1
    sent = quantize.decoded(row.expand(4000, -1), torch.arange(4000), KEY)
    omega = 512**0.5 / 2
    assert float((sent - row).square().sum(1).mean()) <= (1 - 1 / (1 + omega)) * float(row.square().sum())
    assert float(sent[:, 0].mean()) == pytest.approx(1 / (1 + omega))


def test_levels_are_those_of_the_paper():
    """3 bits: a sign and s = 3 levels. 0.5 of norm 1 lies between 1/3 and 2/3."""
    row = torch.tensor([[1.0, 0.5, -0.5, 0.0]], dtype=torch.float64).expand(1000, -1)
    found = Quantize(bits=3).decoded(row, torch.arange(1000), KEY)
    assert found[:, 0].unique().tolist() == [1]
    assert found[:, 1].unique().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found[:, 2].unique().tolist() == pytest.approx([-2 / 3, -1 / 3])
    assert found[:, 3].unique().tolist() == [0]


@pytest.mark.parametrize(
    "compressor",
    [
        TopK(fraction=0.1),
        RandK(fraction=0.1, error_feedback=True),
        Sign(),
        Quantize(bits=2, norm="l2", error_feedback=True),
    ],
    **named,
)
def test_error_feedback_delivers_everything_in_the_end(compressor):
    """The same row sent T times: what arrived in all is T rows less what is still kept, which stays bounded."""
    row, clients, store = rows(40, n=2, dtype=torch.float64), torch.tensor([4, 1]), ClientStore(6)
    total, rounds = torch.zeros_like(row), 400
    for number in range(rounds):
        total += transmit(compressor, row, clients, seeding.stream_key(0, "link", number), store)
    kept = store.read("link.error", clients, torch.zeros_like(row))
    torch.testing.assert_close(total + kept, rounds * row)
    assert (kept.norm(dim=1) <= 0.3 * rounds * row.norm(dim=1)).all()
    np.testing.assert_allclose(total / rounds, row, atol=0.3 * float(row.abs().max()))


@pytest.mark.parametrize("bits", [1, 3, 8, 11, 16])
def test_packing(bits):
    values = torch.from_numpy(np.random.default_rng(bits).integers(0, 2**bits, 77))
    data = pack(values, bits)
    assert len(data) == packed_size(77, bits) == -(-77 * bits // 8)
    assert torch.equal(unpack(data, 77, bits), values)


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        *((cls, "fraction", value) for cls in (TopK, RandK) for value in (0, 1, -0.1, float("nan"))),
        *((Quantize, "bits", value) for value in (1, 17)),
        (Quantize, "bucket", 0),
        (Quantize, "norm", "l1"),
    ],
)
def test_wrong_values(cls, field, value):
    with pytest.raises(FieldError, match=f"^{field}="):
        cls(**{field: value})
