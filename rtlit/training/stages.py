"""One iteration of each stage of the CLIP-LIT procedure, and what they leave to each other."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtlit.training.clip import Clip
from rtlit.training.enhancers import TrainableEnhancer
from rtlit.training.features import SetFeatures
from rtlit.training.guidance import AnchoredGuidance, Guidance
from rtlit.training.losses import identity_loss, ranking_loss, refinement_pairs
from rtlit.training.presets import ClipLitSettings
from rtlit.training.ranks import Ranks
from rtlit.training.schedule import Position, Schedule, Stage
from rtlit.training.unpaired import DRAWS, Squares, augment, generator_for, shuffled

Terms = dict[str, float]


@dataclass(frozen=True)
class Networks:
    """What learns (`enhancer`, and by its kind `guidance`) and what is frozen."""

    enhancer: TrainableEnhancer
    guidance: Guidance
    clip: Clip
    identity: Clip


@dataclass(frozen=True)
class Sets:
    """Pictures and their embeddings.

    Attributes:
        pictures, small: the backlit ones at the enhancer's size and at the prompts'.
        backlit, well_lit: embeddings [N, V, E] and [M, V, E], in V augmentations of each picture.
        features: what embeds a set.
    """

    pictures: Squares
    small: Squares
    backlit: Tensor
    well_lit: Tensor
    features: SetFeatures


class Procedure:
    """Networks, optimisers and memory of a run.

    Attributes:
        position: where the run stands.
    """

    def __init__(self, settings: ClipLitSettings, networks: Networks, sets: Sets, seed: int, ranks: Ranks) -> None:
        """Raises: UsageError, for a batch that the processes can't share evenly."""
        self.settings, self.networks, self.sets, self.seed, self.ranks = settings, networks, sets, seed, ranks
        self.schedule = Schedule(settings, networks.guidance.trains_prompts)
        self.position = self.schedule.start()
        self._enhancer_share, self._prompt_share = (ranks.share(s.batch) for s in (settings.enhancer, settings.prompts))
        networks.guidance.initialise(sets.backlit[:, 0], sets.well_lit[:, 0])
        ranks.broadcast([*networks.enhancer.state_dict().values(), *networks.guidance.state_dict().values()])
        self._optimizers = {True: self._prompt_optimizer(), False: self._enhancer_optimizer()}
        self._window: list[float] = []  # losses of this stage, or PSNR while the enhancer is initialised
        self._least: float | None = None
        self._snapshots: list[dict[str, Tensor]] = []  # of the enhancer, older → newer, at most two
        self._is_taken = False  # whether the newest is of this round
        self._enhanced: list[Tensor] = []  # embeddings of the snapshots' pictures, while the prompts are refined
        self._reseeds, self._reseeded_at = 0, 0

    def step(self, is_stopping: bool = False) -> tuple[Terms, bool]:
        """One iteration: its losses by term (means over the batch of all processes), and whether any is stopping."""
        stage, place = self.position.stage, self.position
        optimizer = self._optimizers[stage.trains_prompts]
        assert optimizer is not None
        terms = self._stages()[stage]()
        optimizer.zero_grad()
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        stopping = terms["loss"].new_tensor(float(is_stopping))
        values = torch.stack([*(term.detach() for term in terms.values()), stopping])
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self.ranks.average([values, *(each.grad for each in parameters if each.grad is not None)])
        optimizer.step()
        *means, stops = values.tolist()
        result = dict(zip(terms, means, strict=True))
        self._remember(result)
        if self.position is place:  # not reseeded
            self.position = self.schedule.after(self.position, result["loss"])
        if (self.position.stage, self.position.round) != (stage, place.round):
            self._enter(place)
        return result, stops > 0

    @property
    def is_done(self) -> bool:
        """Whether the budget has ended."""
        return self.position.stage is Stage.DONE

    def learning_rate(self, stage: Stage) -> float:
        """Of the optimiser that works in a stage."""
        settings = self.settings.prompts if stage.trains_prompts else self.settings.enhancer
        return settings.learning_rate

    @torch.no_grad()
    def probabilities(self) -> Terms:
        """Mean P(backlit) of the inputs, of them enhanced as of now and by the snapshots, and of the well-lit."""
        sets, enhancer = self.sets, self.networks.enhancer
        now = sets.features.of(sets.small, enhancer, variants=1)
        features = {"input": sets.backlit, "enhanced": now, "well_lit": sets.well_lit}
        if self._enhanced:
            features |= dict(zip(("newer", "older"), reversed(self._enhanced), strict=False))
        probability = self.networks.guidance.probability
        return {name: float(probability(each[:, 0]).mean()) for name, each in features.items()}

    def state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        return {
            "position": {**vars(self.position), "stage": str(self.position.stage)},
            "enhancer": self.networks.enhancer.state_dict(),
            "guidance": self.networks.guidance.state_dict(),
            "optimizers": [each and each.state_dict() for each in self._optimizers.values()],
            "window": self._window,
            "least": self._least,
            "snapshots": self._snapshots,
            "is_taken": self._is_taken,
            "enhanced": self._enhanced,
            "reseeds": (self._reseeds, self._reseeded_at),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        position = state["position"]
        self.position = Position(**position | {"stage": Stage(position["stage"])})
        self.networks.enhancer.load_state_dict(state["enhancer"])
        self.networks.guidance.load_state_dict(state["guidance"])
        for optimizer, stored in zip(self._optimizers.values(), state["optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(stored)
        self._window, self._least = state["window"], state["least"]
        self._snapshots, self._is_taken = state["snapshots"], state["is_taken"]
        self._enhanced = [each.to(self.sets.backlit.device) for each in state["enhanced"]]
        self._reseeds, self._reseeded_at = state["reseeds"]

    def _stages(self) -> dict[Stage, Callable[[], dict[str, Tensor]]]:
        return {
            Stage.PROMPT_INITIALISATION: self._initialise_prompts,
            Stage.ENHANCER_INITIALISATION: self._initialise_enhancer,
            Stage.ENHANCEMENT: self._enhance,
            Stage.REFINEMENT: self._refine,
        }

    def _initialise_prompts(self) -> dict[str, Tensor]:
        """Cross-entropy of telling backlit (0) from well-lit (1), half a batch of each."""
        batch = self.settings.prompts.batch
        labels = torch.arange(batch) % 2
        backlit = self._draw(self.sets.backlit, "backlit")[0]
        well_lit = self._draw(self.sets.well_lit, "well-lit")[0]
        features = torch.where(labels[self._prompt_share, None].to(backlit.device) == 0, backlit, well_lit)
        labels = labels[self._prompt_share].to(features.device)
        assert isinstance(self.networks.guidance, AnchoredGuidance)
        return {"loss": self.networks.guidance.initial_loss(features, labels)}

    def _refine(self) -> dict[str, Tensor]:
        """Margin ranking: each round's pictures should look less backlit than those of the round before."""
        backlit, which = self._draw(self.sets.backlit, "backlit")
        well_lit, _ = self._draw(self.sets.well_lit, "well-lit")
        features = [backlit, well_lit, *(each[which] for each in self._enhanced)]
        p_backlit = self.networks.guidance.probability(torch.cat(features))
        given, reference, *enhanced = torch.split(p_backlit, len(backlit))
        pairs = refinement_pairs(given, reference, enhanced)
        terms = {"loss": self.settings.prompts.ranking_weight * ranking_loss(pairs)}
        terms |= {"p_input": given.mean(), "p_well_lit": reference.mean()}
        return terms | ({"p_enhanced": enhanced[-1].mean()} if enhanced else {})

    def _initialise_enhancer(self) -> dict[str, Tensor]:
        """Self-reconstruction: the enhanced picture's features are to be the input's."""
        settings = self.settings.enhancer
        pictures, enhanced, _ = self._enhanced_batch()
        identity = self._identity(enhanced, pictures, settings.initial_layer_weights)
        error = (enhanced.detach() - pictures).square().mean((1, 2, 3)).clamp(min=1e-10)
        return {"loss": settings.initial_identity_weight * identity, "psnr": -10 * error.log10().mean()}

    def _enhance(self) -> dict[str, Tensor]:
        """The enhanced picture is to look well-lit to CLIP and to stay the same picture."""
        settings = self.settings.enhancer
        pictures, enhanced, unevenness = self._enhanced_batch()
        features = self.networks.clip.encode_image(enhanced)
        guided = settings.guidance_weight * self.networks.guidance.enhance_loss(features)
        identity = settings.identity_weight * self._identity(enhanced, pictures, settings.layer_weights)
        with torch.no_grad():  # so that the text tower needn't run
            p_enhanced = self.networks.guidance.probability(features).mean()
        rough = settings.roughness_weight * unevenness
        terms = {"guidance": guided, "identity": identity, "roughness": rough}
        return {"loss": guided + identity + rough, **terms, "p_enhanced": p_enhanced}

    def _identity(self, enhanced: Tensor, pictures: Tensor, layer_weights: tuple[float, ...]) -> Tensor:
        with torch.no_grad():
            wanted = self.networks.identity.features(pictures)
        features = self.networks.identity.features(enhanced)
        return self.settings.enhancer.identity_batch * identity_loss(features, wanted, layer_weights)

    def _enhanced_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """(pictures, enhanced pictures, roughness) of this process' share of the batch, augmented."""
        settings, iteration = self.settings.enhancer, self.position.iteration
        names = [self._which(iteration + ahead) for ahead in (0, 1)]
        pictures = self.sets.pictures.batch(names[0])
        self.sets.pictures.prefetch(names[1])
        draws = torch.rand(settings.batch, DRAWS, generator=generator_for(self.seed, "augment", iteration))
        pictures = augment(pictures, draws[self._enhancer_share], settings.augmentation)
        enhanced, unevenness = self.networks.enhancer.with_roughness(pictures)
        return pictures, enhanced, unevenness

    def _which(self, iteration: int) -> list[int]:
        batch = self.settings.enhancer.batch
        return shuffled(len(self.sets.pictures), iteration * batch, batch, self.seed, "order")[self._enhancer_share]

    def _draw(self, features: Tensor, name: str) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(embeddings [b, E], their pictures and augmentations) of this process' share of a batch.

        All sets are drawn in the same augmentations.
        """
        batch, iteration = self.settings.prompts.batch, self.position.iteration
        pictures = torch.tensor(shuffled(len(features), iteration * batch, batch, self.seed, name))
        variants = torch.randint(features.shape[1], (batch,), generator=generator_for(self.seed, "variant", iteration))
        which = tuple(each[self._prompt_share].to(features.device) for each in (pictures, variants))
        return features[which], which  # type: ignore[return-value]

    def _remember(self, terms: Terms) -> None:
        """Follow the loss; take the enhancer when it is at its best, or start it over when it is hopeless."""
        settings, place = self.settings.enhancer, self.position
        self._window = [*self._window, terms.get("psnr", terms["loss"])][-settings.window :]
        if len(self._window) < settings.window:
            return
        mean = sum(self._window) / len(self._window)
        if place.stage is Stage.ENHANCER_INITIALISATION and mean < settings.reseed_below:
            self._reseed()
        is_due = place.stage is Stage.ENHANCEMENT and (place.step + 1) % settings.check_every == 0
        if is_due and (self._least is None or mean < self._least):
            self._least = mean
            self._take()

    def _reseed(self) -> None:
        settings, step = self.settings.enhancer, self.position.step + 1
        if step - self._reseeded_at <= settings.reseed_after or self._reseeds >= settings.reseeds:
            return
        self._reseeds, self._reseeded_at, self._window = self._reseeds + 1, step, []
        self.networks.enhancer.reset(self.seed + self._reseeds)
        self._optimizers[False] = self._enhancer_optimizer()
        self.position = self.schedule.reseeded(self.position)

    def _take(self) -> None:
        """Keep the enhancer as it is: its pictures are made when the prompts are to be refined with them."""
        newest = deepcopy(self.networks.enhancer.state_dict())
        kept = self._snapshots[:-1] if self._is_taken else self._snapshots
        self._snapshots, self._is_taken = [*kept, newest][-2:], True

    def _enter(self, left: Position) -> None:
        """A stage has ended and another begins."""
        self._window, self._least = [], None
        if self.is_done:
            return
        if left.stage is Stage.ENHANCEMENT and self.networks.guidance.trains_prompts:
            if not self._is_taken:  # the cycle was too short for a window
                self._take()
            self._enhanced = [self._features_by(snapshot) for snapshot in self._snapshots]
        elif left.stage is Stage.REFINEMENT:
            self._enhanced, self._is_taken = [], False

    def _features_by(self, snapshot: dict[str, Tensor]) -> Tensor:
        """Embeddings of the backlit pictures as an earlier enhancer makes them."""
        now = deepcopy(self.networks.enhancer.state_dict())
        self.networks.enhancer.load_state_dict(snapshot)
        features = self.sets.features.of(self.sets.small, self.networks.enhancer)
        self.networks.enhancer.load_state_dict(now)
        return features

    def _enhancer_optimizer(self) -> torch.optim.Adam:
        settings = self.settings.enhancer
        parameters = self.networks.enhancer.parameters()
        return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)

    def _prompt_optimizer(self) -> torch.optim.Adam | None:
        settings, guidance = self.settings.prompts, self.networks.guidance
        if not guidance.trains_prompts:
            return None
        return torch.optim.Adam(guidance.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
