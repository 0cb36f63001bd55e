"""The paper's own sizes and budgets (arXiv 2504.07951, table 1, section 2.2, appendix C) by every convention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.rows.conventions import C_CONVENTIONS, N_CONVENTIONS, apply_conventions
from analysis.rows.table import Columns, TableError, load

VOCABULARY, IMAGE_SHARE = 50_432, 0.544
# Late fusion: encoder and decoder parameters, embeddings counted, and the decoder's width.
LATE = [(42.5e6, 247.3e6, 768), (418.3e6, 2012.2e6, 2464), (679.5e6, 3027.8e6, 3072)]
TEXT = Columns(targets=("text",))


def record(arch: str, vision: float, decoder: float, width: int, idle: float = 0.0, tokens: float = 300e9) -> dict:
    """The columns of ``nmm.record.flatten`` for a model without patch projection or connector."""
    embedding = 2.0 * VOCABULARY * width
    return {
        "run_id": f"{arch}-{width}",
        "arch": arch,
        "n_total": vision + decoder + idle,
        "n_non_embedding": vision + decoder + idle - embedding,
        "n_active": vision + decoder,
        "n_active_non_embedding": vision + decoder - embedding,
        "n_decoder_non_embedding": decoder + idle - embedding,
        "n_vision": vision,
        "tokens": tokens,
        "image_tokens": IMAGE_SHARE * tokens,
        "flops_exact": 1.25e21,
        "loss_text": 3.0 - 1e-4 * width,
    }


RECORDS = [record("late", *sizes) for sizes in LATE] + [
    record("early", 0.0, 274.8e6, 800),
    record("moe", 0.0, 274.8e6, 801, idle=0.93e9),
]


def sizes(convention: str) -> pd.Series:
    frame, columns = apply_conventions(pd.DataFrame(RECORDS), Columns(), n=convention)
    return pd.Series(frame[columns.size].to_numpy(), index=["289M", "2.43B", "3.7B", "early", "moe"])


def test_sizes_by_each_convention() -> None:
    embedding = 2.0 * VOCABULARY * 800
    assert sizes("total")["moe"] == pytest.approx(1.2048e9)
    assert sizes("active")["moe"] == sizes("active")["early"] == pytest.approx(274.8e6)
    assert sizes("non_embedding")["early"] == pytest.approx(274.8e6 - embedding) == pytest.approx(194.2e6, rel=1e-3)
    assert sizes("active_non_embedding")["moe"] == pytest.approx(194.0e6, rel=1e-3)
    assert sizes("decoder_with_embedding")["289M"] == pytest.approx(247.3e6)
    assert sizes("active")["289M"] == pytest.approx(289.8e6)
    assert sizes("decoder")["289M"] == pytest.approx(247.3e6 - 2 * VOCABULARY * 768)
    assert (sizes("decoder_encoder") - sizes("decoder"))["3.7B"] == pytest.approx(679.5e6)
    # An MoE's decoder counts the experts one token uses, so it stands beside its dense twin.
    assert sizes("decoder")["moe"] == pytest.approx(274.8e6 - 2 * VOCABULARY * 801)


def test_compute_by_each_convention() -> None:
    frame = pd.DataFrame(RECORDS)

    def compute(n: str, c: str) -> np.ndarray:
        completed, columns = apply_conventions(frame, Columns(), n=n, c=c)
        return completed[columns.compute].to_numpy()

    assert compute("active", "6nd")[3] == pytest.approx(4.95e20, rel=1e-3)  # 275M at 300B tokens
    assert (compute("decoder", "exact") == 1.25e21).all()
    late = compute("decoder_with_embedding", "late")
    expected = [6 * 300e9 * (IMAGE_SHARE * vision + decoder) for vision, decoder, _ in LATE]
    np.testing.assert_allclose(late[:3], expected, rtol=1e-12)
    np.testing.assert_array_equal(late[3:], compute("decoder_with_embedding", "6nd")[3:])


def test_late_compute_counts_the_encoder_once_whatever_n_is() -> None:
    """C.2 of the paper has N = C / 6D + 0.483 N_v; by its own algebra the factor is 1 - 0.544 = 0.456."""
    frame, columns = apply_conventions(pd.DataFrame(RECORDS[:3]), Columns(), n="active", c="late")
    whole, budget = frame[columns.size], frame[columns.compute]
    np.testing.assert_allclose((whole - budget / (6 * frame["tokens"])) / frame["n_vision"], 0.456, rtol=1e-9)
    decoder_only, names = apply_conventions(pd.DataFrame(RECORDS[:3]), Columns(), "decoder_with_embedding", "late")
    np.testing.assert_allclose(decoder_only[names.compute], budget, rtol=1e-12)
    without, names = apply_conventions(pd.DataFrame(RECORDS[:3]), Columns(), "decoder", "late")
    with_encoder, other = apply_conventions(pd.DataFrame(RECORDS[:3]), Columns(), "decoder_encoder", "late")
    np.testing.assert_allclose(without[names.compute], with_encoder[other.compute], rtol=1e-12)


def test_a_column_of_the_user_is_taken_for_the_decoder() -> None:
    frame = pd.DataFrame(RECORDS[:1]).assign(mine=247.3e6)
    completed, columns = apply_conventions(frame, Columns("mine"), c="late")
    assert completed[columns.compute][0] == pytest.approx(6 * 300e9 * (IMAGE_SHARE * 42.5e6 + 247.3e6))


@pytest.mark.parametrize("n", N_CONVENTIONS)
@pytest.mark.parametrize("c", C_CONVENTIONS)
def test_a_saved_choice_gives_the_same_samples_again(n: str, c: str) -> None:
    table = load(RECORDS, replace(TEXT, n_convention=n, c_convention=c))
    assert (table.columns.n_convention, table.columns.c_convention) == (n, c)
    again = load(RECORDS, table.columns)
    assert again.columns == table.columns and not again.exclusions
    assert again.sample("late", "text")[0].digest() == table.sample("late", "text")[0].digest()


def test_without_conventions_nothing_changes() -> None:
    frame = pd.DataFrame(RECORDS)
    same, columns = apply_conventions(frame, TEXT)
    pd.testing.assert_frame_equal(same, frame)
    assert columns == TEXT
    assert load(RECORDS, replace(TEXT, n_convention="active")).columns.compute == "flops_exact"
    no_flops = frame.drop(columns="flops_exact")
    sample, _ = load(no_flops, replace(TEXT, n_convention="active")).sample("early", "text")
    np.testing.assert_array_equal(sample.compute, 6.0 * sample.size * sample.tokens)


def test_a_size_that_cannot_be_counted_is_an_exclusion() -> None:
    rows = [dict(row) for row in RECORDS]
    rows[0]["n_vision"] = None
    table = load(rows, replace(TEXT, n_convention="decoder_encoder"))
    assert [(e.run_id, e.reason) for e in table.exclusions] == [
        ("late-768", "n_decoder_encoder is missing, a positive number is needed")
    ]


def test_mistakes_name_the_column_or_the_choices() -> None:
    frame = pd.DataFrame(RECORDS)
    with pytest.raises(TableError, match="--n-convention is 'all'; allowed are total, non_embedding, active"):
        apply_conventions(frame, Columns(), n="all")
    with pytest.raises(TableError, match="--c-convention is '2nd'; allowed are 6nd, exact, late"):
        apply_conventions(frame, Columns(), c="2nd")
    for name, n, c, flag in (
        ("n_vision", "decoder_encoder", None, "--n-convention decoder_encoder"),
        ("n_active", "decoder", None, "--n-convention decoder"),
        ("n_total", "total", None, "--n-convention total"),
        ("n_vision", None, "late", "--c-convention late"),
        ("image_tokens", None, "late", "--c-convention late"),
        ("tokens", "total", "6nd", "--d"),
        ("flops_exact", None, "exact", "--c-convention exact"),
    ):
        with pytest.raises(TableError, match=f"no column '{name}' for {flag}"):
            apply_conventions(frame.drop(columns=name), Columns(), n, c)
    with pytest.raises(TableError, match="--n mine and --n-convention total both say what to use"):
        apply_conventions(frame, Columns("mine"), n="total")
    with pytest.raises(TableError, match="--c mine and --c-convention late both say what to use"):
        apply_conventions(frame, Columns(compute="mine"), c="late")
