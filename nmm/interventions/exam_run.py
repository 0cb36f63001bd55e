"""The settings of an exam answered and marked, one after another, in one process.

Shape legend: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nmm.batch import END_ID
from nmm.config import ConfigError, RunConfig
from nmm.data.late_bar import LateBar
from nmm.data.manifest import Shards
from nmm.data.reasoning import FAST, SLOW
from nmm.data.tasks import Task, Verifier, tasks, verifier
from nmm.generate_command import settings_of, shards_of
from nmm.interventions.exam import Options, Setting
from nmm.interventions.guide import guided
from nmm.interventions.guide_controls import other_pictures
from nmm.interventions.guide_cost import prompt_flops, token_flops
from nmm.interventions.guide_nll import guided_nll, scored
from nmm.interventions.guide_session import change_of, device_of
from nmm.interventions.guide_stats import StepStatistics
from nmm.interventions.guide_vocab import Speaker, Vocabulary, align
from nmm.interventions.passk import mean_pass_at_k, voted
from nmm.interventions.rft_rollout import draw_answers
from nmm.model.decode import Prompt
from nmm.model.fusion import NativeMultimodalModel
from nmm.start import load_run

KEPT_MODELS = 8
NLL_BATCH_ROWS = 256


def mark(missing: Sequence[tuple[str, Setting]], options: Options, out: Path) -> None:
    """Answer and mark every setting; a line of ``out`` each, written when it is done."""
    torch.set_num_threads(options.threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(out)
    room = Room(options)
    bar = LateBar("settings", len(missing))
    for key, setting in missing:
        marks = {"setting": asdict(setting), **room.marks(setting)}
        line = json.dumps({"key": key, "marks": marks}, allow_nan=False)
        with open(out, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if options.progress:
            bar.advance()
    bar.close()


def _end_last_line(path: Path) -> None:
    """A line that a kill has cut off must not swallow the next one."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


class Room:
    """Models and questions that are kept from one setting to the next."""

    def __init__(self, options: Options) -> None:
        self.options, self.device = options, device_of(options.device, 0)
        self.model = lru_cache(maxsize=KEPT_MODELS)(self._model)
        self.shards = lru_cache(maxsize=None)(self._shards)
        self.questions = lru_cache(maxsize=4)(self._questions)

    def marks(self, setting: Setting) -> dict[str, Any]:
        """Everything that is measured of a setting."""
        shards, config = self.shards(setting.asked)
        _check_words(setting, shards, self.shards(setting.runs["base"])[0])
        check = verifier(shards.tokenizer)
        asked = self.questions(setting.asked, setting.split, setting.questions, setting.kinds)
        said = self._answers(setting, asked, check, shards)
        found = _marked(setting, asked, said, check) if not setting.samples else _drawn(setting, asked, said, check)
        found |= self._flops(setting, asked, said)
        found["shards"] = shards.fingerprint
        if setting.stats:
            found["stats"] = self._statistics(setting, asked, check, shards)
        if setting.nll:
            found["nll"] = self._nll(setting, asked, check, shards, config)
        return found

    def _model(self, run: Path) -> NativeMultimodalModel:
        return load_run(run).to(self.device)

    def _shards(self, run: Path) -> tuple[Shards, RunConfig]:
        config = settings_of(run)
        shards = shards_of(config, None, "")
        if not isinstance(shards, Shards):
            raise ConfigError(
                f"{run} was trained on indexed tars, which ask no questions; take a run on rendered shards"
            )
        return shards, config

    def _questions(self, run: Path, split: str, count: int, kinds: tuple[str, ...]) -> list[Task]:
        shards, config = self.shards(run)
        return tasks(shards, config, split, count, kinds)

    def _vocabulary(self, setting: Setting) -> Vocabulary:
        speakers = []
        for role, run in setting.runs.items():
            shards, config = self.shards(run)
            speakers.append(Speaker(role, config.data.vocab_size, shards.tokenizer))
        return align(speakers[0], speakers[1:])

    def _answers(
        self,
        setting: Setting,
        asked: Sequence[Task],
        check: Verifier,
        shards: Shards,
        listen: StepStatistics | None = None,
    ) -> list[list[int]]:
        """What is said to every question (``samples`` times), a first word that was given among it."""
        given = {"free": [], "slow": [shards.tokenizer.ids[SLOW]], "fast": [shards.tokenizer.ids[FAST]]}[setting.style]
        prompts = [Prompt([*task.tokens, *given], task.patches) for task in asked]
        models = {role: self.model(run) for role, run in setting.runs.items()}
        if setting.samples and set(models) == {"base"}:
            said = draw_answers(
                models["base"], prompts, setting.samples, setting.max_new_tokens, check.stops, setting.temperature,
                setting.seed,
            )  # fmt: skip
            return [[*given, *words] for words in said]
        prompts = [prompt for prompt in prompts for _ in range(max(setting.samples, 1))]
        others = other_pictures(prompts) if setting.control == "other_pictures" else None
        said = guided(
            models["base"],
            models.get("expert"),
            models.get("amateur"),
            prompts,
            setting.alpha,
            setting.max_new_tokens,
            check.stops,
            temperature=setting.temperature if setting.samples else 0.0,
            seed=setting.seed,
            batch_rows=self.options.batch_rows,
            expert_prompts=others if "expert" in models else None,
            amateur_prompts=others if "amateur" in models else None,
            vocabulary=self._vocabulary(setting),
            change=change_of(setting.control, setting.seed),
            listen=listen,
        )
        return [[*given, *words] for words in said]

    def _flops(self, setting: Setting, asked: Sequence[Task], said: Sequence[Sequence[int]]) -> dict[str, float]:
        """A question, mean: every model reads the question once, and every word but the last of each answer."""
        times, prompts, words_read = max(setting.samples, 1), 0.0, 0.0
        for run in setting.runs.values():
            config = self.shards(run)[1]
            for number, task in enumerate(asked):
                prompts += prompt_flops(config, len(task.tokens), len(task.patches))
                for words in said[number * times : (number + 1) * times]:
                    words_read += (len(words) - 1) * token_flops(config, len(task.tokens) + len(words) / 2)
        count = len(asked)
        return {"flops_a_question": (prompts + words_read) / count, "prompt_flops_a_question": prompts / count}

    def _statistics(self, setting: Setting, asked: Sequence[Task], check: Verifier, shards: Shards) -> dict[str, Any]:
        heard = StepStatistics()
        said = self._answers(setting, asked, check, shards, heard)
        return heard.report(said, check.stops, lambda token: shards.tokenizer.words[token])

    def _nll(
        self, setting: Setting, asked: Sequence[Task], check: Verifier, shards: Shards, config: RunConfig
    ) -> dict[str, float]:
        """Loss of what documents tell step by step, up to their end: nats a token, and a whole answer."""
        told = [(Prompt(task.tokens, task.patches), [*task.told, END_ID]) for task in asked if check.is_slow(task.told)]
        if not told:
            raise ConfigError(f"nll: none of {len(asked)} {setting.split} questions is answered step by step; ask more")
        models = {role: self.model(run) for role, run in setting.runs.items()}
        batches = [
            scored(config, [prompt for prompt, _ in some], [words for _, words in some]).to(self.device)
            for some in (told[n : n + NLL_BATCH_ROWS] for n in range(0, len(told), NLL_BATCH_ROWS))
        ]
        vocabulary = self._vocabulary(setting)
        loss = guided_nll(
            models["base"], models.get("expert"), models.get("amateur"), {"told": batches}, [setting.alpha], vocabulary
        )[0]
        return {
            "nats_a_token": loss.loss["told"],
            "nats_an_answer": loss.loss["told"] * loss.targets / len(told),
            "answers": len(told),
        }


def _check_words(setting: Setting, asks: Shards, answers: Shards) -> None:
    if asks.tokenizer.words != answers.tokenizer.words:
        raise ConfigError(
            f"questions_of={setting.questions_of}: its shards have other words than those of base={setting.base}; "
            "take a run on shards with the same words"
        )


def _marked(setting: Setting, asked: Sequence[Task], said: Sequence[Sequence[int]], check: Verifier) -> dict[str, Any]:
    right = [check.is_right(task, words) for task, words in zip(asked, said, strict=True)]
    return {"asked": len(asked), "right": sum(right), "accuracy": sum(right) / len(asked), **_manner(said, check)}


def _manner(said: Sequence[Sequence[int]], check: Verifier) -> dict[str, float]:
    return {
        "length": sum(map(len, said)) / len(said),
        "slow": sum(map(check.is_slow, said)) / len(said),
        "ended": sum(bool(words) and words[-1] in check.stops for words in said) / len(said),
    }


def _drawn(setting: Setting, asked: Sequence[Task], said: Sequence[Sequence[int]], check: Verifier) -> dict[str, Any]:
    """Of several answers to each question: mean accuracy, pass@k, and the accuracy of the commonest of the first k."""
    times = setting.samples
    groups = [said[n * times : (n + 1) * times] for n in range(len(asked))]
    right = [sum(check.is_right(task, words) for words in group) for task, group in zip(asked, groups, strict=True)]
    votes = {
        str(k): sum(
            voted([check.final(task.kind, words) for words in group[:k]]) == task.answer
            for task, group in zip(asked, groups, strict=True)
        ) / len(asked)
        for k in setting.counts
    }  # fmt: skip
    passed = mean_pass_at_k(right, times, setting.counts) if setting.counts else {}
    return {
        "asked": len(asked),
        "right": sum(right) / times,
        "accuracy": sum(right) / times / len(asked),
        "pass": {str(k): share for k, share in passed.items()},
        "vote": votes,
        **_manner(said, check),
    }
