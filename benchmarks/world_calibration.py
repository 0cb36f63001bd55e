"""Do the world's log-probabilities agree with a trained model? The mean of q / p over the words must not exceed 1.

    python benchmarks/world_calibration.py [RUN_DIR]     (a finished run; default: one of the demo's)

For words drawn from p, the mean of q / p in a context is the share of its mass that the model q gives to the words that
are possible there: at most 1, and the missing part is what the model still spends on impossible words (a wrong name,
say). A choice that the generator charged twice would lift the mean above 1. Prints the mean and four standard errors
for each source, on the held-out words of the run's own shards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from nmm.config import from_dict
from nmm.model.build import build
from nmm.model.loss import target_losses
from nmm.record import newest_checkpoint, read_json
from nmm.training import checkpoint
from nmm.training.run import validation


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = sorted(Path("outputs/demo/runs").glob("early-d64-branch-*/record.json"))
    default = demo[-1].parent if demo else None
    parser.add_argument("run", type=Path, nargs="?", default=default, help="directory of a finished run")
    run = parser.parse_args().run
    if run is None:
        print("needs a finished run: give its directory, or `make demo` first")
        return
    config = from_dict(read_json(run / "config.json")["settings"])
    newest = newest_checkpoint(run)
    if newest is None:
        raise SystemExit(f"{run} holds no checkpoint; give the directory of a finished run")
    model = build(config)
    model.load_state_dict(checkpoint.load(newest[1], config)["model"])
    model.eval()
    for source, batches in validation(config).items():
        ratios = []
        for batch in batches:
            output = model(batch)
            logprob = batch.logprobs.reshape(-1)[output.at]
            ratios.append((-target_losses(output, batch) - logprob).double().exp())
        ratio = torch.cat(ratios)
        error = 4.0 * ratio.std().item() / len(ratio) ** 0.5
        print(f"{source:12} mean q / p = {ratio.mean().item():.3f} +- {error:.3f} over {len(ratio):,} words")


if __name__ == "__main__":
    main()
