"""`nmm index`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nmm.data.indexing import ShardReport, Summary, index_shards

INTERRUPTED = 130

DESCRIPTION = """\
Scan shards as they are, once, and write a small index beside each: where every sample's bytes lie, how long it is, and
which samples cannot be used and why. Training then reads the shards themselves; nothing is converted or unpacked.

Run it again at any time: finished indexes are kept, changed and new shards are scanned.
"""
EPILOG = """\
What is read (anything else is an error that says what was found):
  NAME.tar with      0001.jpg 0001.txt 0001.json    captions, as img2dataset writes them (jpg, jpeg, png, webp)
                     0001.jpg 0001.json             captions in a field of the json (--caption-field)
                     0001.json 0001.0.jpg ...       interleaved: "segments", or "texts" beside "images" (OBELICS)
                     0001.txt, or 0001.json         text; in the json, the field "text"
                     part.jsonl, .jsonl.gz, .zst    a text a line, {"text": ...}
  NAME.jsonl, NAME.jsonl.gz, NAME.jsonl.zst         the same without a tar (DCLM)

Exit code 2 when a shard was refused: damaged, of an unknown format, or with too many bad samples. The others are
indexed all the same; --quarantine takes that as it is.

examples:
  nmm shards data=world out=outputs/world train_tokens=100000
  nmm index outputs/world --tokenizer bytes
  nmm index 'laion/*.tar' dclm --tokenizer gpt2/tokenizer.json --into outputs/indexes
"""


def index_main(argv: list[str]) -> int:
    """Index the shards of a command line and say what was found; 2 when any was refused without leave."""
    args = _parser().parse_args(argv)
    try:
        summary = index_shards(
            args.paths,
            args.tokenizer,
            into=args.into,
            caption_field=args.caption_field,
            workers=args.workers,
            max_bad=args.max_bad,
            decode=args.decode,
            quarantine=args.quarantine,
            force=args.force,
            val_fraction=args.val_fraction,
        )
    except KeyboardInterrupt:
        print("nmm index: stopped; what is finished is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    print("\n".join(summary_lines(summary)))
    for shard in summary.refused:
        print(f"refused: {shard.error}", file=sys.stderr)
    good = len(summary.shards) - len(summary.refused)
    if summary.refused:
        left = "left out of training" if args.quarantine else "--quarantine lets training go on without them"
        print(f"nmm index: {len(summary.refused)} of {len(summary.shards)} shards refused; {left}", file=sys.stderr)
    return 2 if summary.refused and not (args.quarantine and good) else 0


def summary_lines(summary: Summary) -> list[str]:
    """What `nmm index` prints: totals, bad samples by reason, repeats."""
    good = [shard for shard in summary.shards if shard.outcome != "refused"]
    new = [shard for shard in good if shard.outcome == "indexed"]
    size, bad = sum(shard.bytes for shard in new), Counter[str]()
    for shard in good:
        bad.update(shard.bad)
    usable = sum(shard.samples for shard in good) - bad.total()
    images, tokens = sum(shard.images for shard in good), sum(shard.text_tokens for shard in good)
    lines = [
        f"{usable:,} samples ({images:,} images, {tokens:,} text tokens) "
        f"in {len(good):,} shards: {len(new):,} indexed now ({size / 1e6:,.1f} MB in {summary.seconds:,.1f} s, "
        f"{size / 1e6 / max(summary.seconds, 1e-9):,.0f} MB/s), {len(good) - len(new):,} kept"
    ]
    if bad:
        lines.append(f"{bad.total():,} bad samples are left out: " + _counted(bad))
        lines += [f"  {reason}: {text}" for reason, text in _first_examples(good, bad).items()]
    return lines + _repeat_lines(summary)


def _repeat_lines(summary: Summary) -> list[str]:
    repeats = summary.repeats
    if not repeats.repeated:
        return []
    share = repeats.repeated / repeats.samples
    lines = [f"{repeats.repeated:,} samples ({share:.2%}) have the same bytes as an earlier one; they are kept"]
    lines += [f"  {first}  =  {second}" for first, second in repeats.examples]
    if repeats.leaked:
        lines.append(f"  {repeats.leaked:,} of {repeats.held_out:,} held-out samples are trained on, too")
    return lines


def _first_examples(shards: Sequence[ShardReport], reasons: Counter[str]) -> dict[str, str]:
    """Reason -> the first bad sample of those that were scanned now."""
    found: dict[str, str] = {}
    for shard in shards:
        for reason, text in shard.examples.items():
            found.setdefault(reason, text)
    return {reason: found[reason] for reason, _ in reasons.most_common() if reason in found}


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "nmm index", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH_OR_GLOB", help="folders, globs in quotes, or files")
    parser.add_argument("--tokenizer", default="bytes", metavar="bytes|FILE", help="as data.tokenizer (default: bytes)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder for the indexes (default: beside the shards)")
    parser.add_argument("--caption-field", default="caption", metavar="NAME", help="of the json (default: caption)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--max-bad", type=float, default=0.05, metavar="SHARE", help="of bad samples (default: 0.05)")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="data.val_fraction of the runs: counts held-out samples that are trained on, too (default: 0.01)",
    )
    parser.add_argument("--decode", action="store_true", help="decode every image, too: slow, finds damaged pixels")
    parser.add_argument("--quarantine", action="store_true", help="let training go on without refused shards")
    parser.add_argument("--force", action="store_true", help="scan shards that are indexed already, too")
    return parser
