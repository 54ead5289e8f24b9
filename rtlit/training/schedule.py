"""The schedule of the CLIP-LIT procedure: which stage an iteration belongs to, and when stages end.

    prompt-initialisation → enhancer-initialisation → ┌ enhancement → refinement ┐ → … until the budget ends
                                                      └──────── a round ─────────┘

Guidance without prompts (RAVE) skips the prompt stages. All functions are pure; a `Position` is the whole state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from rtlit.training.presets import ClipLitSettings, EnhancerStages, PromptStages


class Stage(StrEnum):
    """The four stages, and the end."""

    PROMPT_INITIALISATION = "prompt-initialisation"
    ENHANCER_INITIALISATION = "enhancer-initialisation"
    ENHANCEMENT = "enhancement"
    REFINEMENT = "refinement"
    DONE = "done"

    @property
    def trains_prompts(self) -> bool:
        """Whether it is the prompts that learn; else the enhancer, if anything."""
        return self in (Stage.PROMPT_INITIALISATION, Stage.REFINEMENT)


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        stage: of the next iteration.
        round: 0 during initialisation, then the cycle, from 1.
        step: iterations done in this stage, of `length`.
        extensions: how often this stage was extended.
        iteration: iterations done in all stages.
    """

    stage: Stage
    round: int = 0
    step: int = 0
    length: int = 0
    extensions: int = 0
    iteration: int = 0


@dataclass(frozen=True)
class Schedule:
    """The rules. `trains_prompts` is False for guidance that learns nothing."""

    settings: ClipLitSettings
    trains_prompts: bool = True

    def start(self) -> Position:
        """Before the first iteration."""
        return self._enter(Stage.PROMPT_INITIALISATION, 0, 0)

    def after(self, position: Position, loss: float) -> Position:
        """One iteration later, whose loss was this; a stage is extended, or the next entered, at its end."""
        position = replace(position, step=position.step + 1, iteration=position.iteration + 1)
        if position.iteration >= self.settings.iterations:
            return replace(position, stage=Stage.DONE)
        if position.step < position.length:
            return position
        if self._is_extended(position, loss):
            more = self._of(position.stage).extension
            return replace(position, length=position.length + more, extensions=position.extensions + 1)
        return self._next(position)

    def reseeded(self, position: Position) -> Position:
        """One iteration later, of an enhancer initialisation that starts over: it lasts longer."""
        position = replace(position, step=position.step + 1, iteration=position.iteration + 1)
        if position.iteration >= self.settings.iterations:
            return replace(position, stage=Stage.DONE)
        more = self.settings.enhancer.reseed_extension
        return replace(position, length=position.length + more, extensions=position.extensions + 1)

    def remaining(self, position: Position) -> dict[Stage, int]:
        """Iterations left of each stage if no stage is extended again."""
        left = dict.fromkeys(Stage, 0)
        while position.stage is not Stage.DONE:
            count = min(position.length - position.step, self.settings.iterations - position.iteration)
            left[position.stage] += count
            last = replace(position, step=position.step + count - 1, iteration=position.iteration + count - 1)
            position = self.after(last, float("-inf"))
        return left

    def _is_extended(self, position: Position, loss: float) -> bool:
        if position.stage not in (Stage.ENHANCEMENT, Stage.REFINEMENT):
            return False
        rule = self._of(position.stage)
        return loss > rule.extend_above and position.extensions < rule.extensions

    def _next(self, position: Position) -> Position:
        match position.stage:
            case Stage.PROMPT_INITIALISATION:
                return self._enter(Stage.ENHANCER_INITIALISATION, 0, position.iteration)
            case Stage.ENHANCER_INITIALISATION | Stage.REFINEMENT:
                return self._enter(Stage.ENHANCEMENT, position.round + 1, position.iteration)
            case _:
                return self._enter(Stage.REFINEMENT, position.round, position.iteration)

    def _enter(self, stage: Stage, round: int, iteration: int) -> Position:
        """A stage's beginning, or the next one's where this one has no iterations."""
        position = Position(stage, round, 0, self._length(stage), 0, iteration)
        return position if position.length else self._next(position)

    def _length(self, stage: Stage) -> int:
        if stage.trains_prompts and not self.trains_prompts:
            return 0
        initial = stage in (Stage.PROMPT_INITIALISATION, Stage.ENHANCER_INITIALISATION)
        return self._of(stage).initial_iterations if initial else self._of(stage).iterations

    def _of(self, stage: Stage) -> PromptStages | EnhancerStages:
        return self.settings.prompts if stage.trains_prompts else self.settings.enhancer
