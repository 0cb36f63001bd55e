"""What N and C mean is chosen at analysis time: the same runs, counted another way.

Columns of this project's records (``nmm.record.flatten``), for every run:
    n_total                    everything that is stored
    n_non_embedding            without token embedding and output head
    n_active                   n_total without the experts that a token does not use
    n_active_non_embedding     both subtractions
    n_decoder_non_embedding    trunk alone: no embedding, head, patch projection or vision; all experts
    n_vision                   encoder of late fusion (N_v), 0 for early fusion
    tokens, image_tokens       all multimodal tokens D, and the image tokens among them (D_v)
    flops_exact                matrix products counted one by one

Every name but ``n_decoder_non_embedding`` and ``n_vision`` includes the vision encoder of a late-fusion model.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from analysis.rows.columns import SIX_ND, Array, Columns, TableError, missing_column, numbers

LATE_FLOPS = "6(NvDv+ND)"
DECODER, DECODER_EMBEDDED, DECODER_ENCODER = "n_decoder_active", "n_decoder_with_embedding", "n_decoder_encoder"
_STORED = {
    "total": "n_total",
    "non_embedding": "n_non_embedding",
    "active": "n_active",
    "active_non_embedding": "n_active_non_embedding",
}
_DERIVED = {"decoder": DECODER, "decoder_with_embedding": DECODER_EMBEDDED, "decoder_encoder": DECODER_ENCODER}
N_CONVENTIONS = _STORED | _DERIVED
C_CONVENTIONS = {"6nd": SIX_ND, "exact": "flops_exact", "late": LATE_FLOPS}
_WITH_ENCODER = {*_STORED.values(), DECODER_ENCODER}


def apply_conventions(
    frame: pd.DataFrame, columns: Columns, n: str | None = None, c: str | None = None
) -> tuple[pd.DataFrame, Columns]:
    """The frame with the columns of N and C that the conventions name, and ``columns`` pointing at them.

    n, c: keys of ``N_CONVENTIONS`` and ``C_CONVENTIONS``; None keeps what ``columns`` records, and where that is None
    too, its column. Applying twice changes nothing, so a saved study can be loaded again from the raw table.
    Raises ``TableError`` for an unknown name, a missing column, or a column named beside a convention.
    """
    n, c = n or columns.n_convention, c or columns.c_convention
    frame = frame.copy()
    if n is not None:
        name = _known("--n-convention", n, N_CONVENTIONS)
        _refuse_both("--n", columns.size, Columns.size, name, f"--n-convention {n}")
        frame[name] = size_values(frame, n)
        columns = replace(columns, size=name, n_convention=n)
    if c is not None:
        name = _known("--c-convention", c, C_CONVENTIONS)
        _refuse_both("--c", columns.compute, Columns.compute, name, f"--c-convention {c}", also=SIX_ND)
        frame[name] = compute_values(frame, columns, c)
        columns = replace(columns, compute=name, c_convention=c)
    return frame, columns


def size_values(frame: pd.DataFrame, convention: str) -> Array:
    """(rows,) parameters N by one of ``N_CONVENTIONS``. Raises ``TableError`` naming a missing column."""
    match convention:
        case "decoder":
            return decoder(frame)
        case "decoder_with_embedding":
            return decoder_with_embedding(frame)
        case "decoder_encoder":
            return decoder_encoder(frame)
    return _column(frame, _known("--n-convention", convention, N_CONVENTIONS), f"--n-convention {convention}")


def compute_values(frame: pd.DataFrame, columns: Columns, convention: str) -> Array:
    """(rows,) FLOPs by one of ``C_CONVENTIONS``, with the N and D of ``columns``. Raises ``TableError``."""
    match convention:
        case "6nd":
            return six_nd(frame, columns)
        case "late":
            return late_flops(frame, columns)
    return _column(frame, _known("--c-convention", convention, C_CONVENTIONS), f"--c-convention {convention}")


def decoder(frame: pd.DataFrame, flag: str = "--n-convention decoder") -> Array:
    """Decoder without embeddings, of an MoE only the experts one token uses (N of arXiv 2504.07951, table 1)."""
    idle = _column(frame, "n_total", flag) - _column(frame, "n_active", flag)
    return _column(frame, "n_decoder_non_embedding", flag) - idle


def decoder_with_embedding(frame: pd.DataFrame) -> Array:
    """Everything active but the vision encoder: the sizes printed in arXiv 2504.07951 count embedding and head.

    The patch projection, norms and connector are in; the paper leaves them out (below 1 % from 275M on).
    """
    flag = "--n-convention decoder_with_embedding"
    return _column(frame, "n_active", flag) - _column(frame, "n_vision", flag)


def decoder_encoder(frame: pd.DataFrame) -> Array:
    """``decoder`` + vision encoder, neither with embeddings."""
    flag = "--n-convention decoder_encoder"
    return decoder(frame, flag) + _column(frame, "n_vision", flag)


def six_nd(frame: pd.DataFrame, columns: Columns) -> Array:
    """C = 6 N D with the chosen N (early fusion: arXiv 2504.07951, table 1)."""
    return 6.0 * _column(frame, columns.size, "--n") * _column(frame, columns.tokens, "--d")


def late_flops(frame: pd.DataFrame, columns: Columns) -> Array:
    """C = 6 (N_v D_v + N D), N the decoder: the encoder sees image tokens only (arXiv 2504.07951, table 1).

    N_v is subtracted from the chosen N where that includes the encoder (all conventions but the two decoder-only
    ones); a column named by the user is taken for the decoder. Early-fusion rows, with N_v = 0, get 6 N D.
    """
    flag = "--c-convention late"
    vision = _column(frame, "n_vision", flag)
    size = _column(frame, columns.size, "--n")
    trunk = size - vision if columns.size in _WITH_ENCODER else size
    return 6.0 * (vision * _column(frame, "image_tokens", flag) + trunk * _column(frame, columns.tokens, "--d"))


def _column(frame: pd.DataFrame, name: str, flag: str) -> Array:
    if name not in frame.columns:
        raise missing_column(frame, name, flag)
    return numbers(frame[name])


def _known(flag: str, convention: str, allowed: dict[str, str]) -> str:
    if convention not in allowed:
        raise TableError(f"{flag} is {convention!r}; allowed are {', '.join(allowed)}")
    return allowed[convention]


def _refuse_both(flag: str, given: str, default: str, chosen: str, asked: str, also: str = "") -> None:
    if given not in (default, chosen, also):
        raise TableError(f"{flag} {given} and {asked} both say what to use; give one of the two")
