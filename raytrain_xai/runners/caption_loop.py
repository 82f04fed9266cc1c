"""Training of a caption decoder on one worker, the same in the calling process and in a Ray worker.

What a step reads is a function of (configuration, epoch, step), so a resumed run ends with the bits of one that was
never interrupted; workers share out a step, and their gradients are those of one worker up to the order of additions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.captioning.corpus import Corpus, read_corpus
from raytrain_xai.captioning.decoder import DecoderShape, SentenceDecoder
from raytrain_xai.captioning.reading import decoder_state
from raytrain_xai.captioning.step import CaptionStep, blurred, caption_step
from raytrain_xai.checkpoint import Checkpoint, checkpoint_name, read_checkpoint
from raytrain_xai.concepts.workers import Workers
from raytrain_xai.errors import RunError
from raytrain_xai.insight.caption_scores import mention_scores, mentioned
from raytrain_xai.optimizer_state import load_optimizer_tensors, optimizer_tensors
from raytrain_xai.run_folder import CHECKPOINTS, FAILURE, Attempt, run_location, write_json
from raytrain_xai.runners.attempt import claim, commit, prune, track
from raytrain_xai.runners.collective import all_true, broadcast_json, joined_workers
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.finite import first_bad
from raytrain_xai.runners.history import Evaluated, Position, best
from raytrain_xai.runners.optimiser import apply_gradients, build_optimiser, learning_rate
from raytrain_xai.runners.pace import Pace
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker

Item = tuple[Tensor, Tensor]
"""Vectors (b, D) and tokens (b, L + 1) of a worker's share of a step."""


def train_captions(worker: Worker, config: CaptionRunConfig) -> dict[str, Any]:
    """Train from the newest checkpoint (or from the start) to the end, and measure the selected checkpoint.

    A collective: all workers call it with equal ``config``.

    Returns:
        Content of ``metrics.json``: ``val`` and, where a data set has it, ``test``, and ``selected``.
    Raises:
        RunError: a non-finite loss or gradient, or a newer attempt took over the run.
        CheckpointError: the folder of the run holds something unusable.
    """
    learner = build_learner(worker, config)
    claimed = claim(config, worker)
    position = Position()
    if claimed.checkpoint is not None:
        learner.decoder.load_state_dict(claimed.checkpoint.model)
        load_optimizer_tensors(learner.optimizer, learner.parameters, claimed.checkpoint.optimizer)
        position = Position.from_json(claimed.checkpoint.state)
    tracker = track(claimed, config, worker, position)
    learner.start(position.step)
    if tracker is not None:
        tracker.started(position, learner.num_steps, worker.world_size)
    with tracked(tracker):
        position = train_epochs(learner, tracker, position)
        return conclude(tracker, _final_metrics(learner, position))


def build_learner(worker: Worker, config: CaptionRunConfig) -> CaptionLearner:
    """Everything at the start of training, the same on every worker."""
    corpus = read_corpus(run_location(config))
    torch.manual_seed(config.seed)
    memory = corpus.memory
    shape = DecoderShape(
        dim=memory.shape[1], memory=len(memory), num_words=corpus.words.size, max_words=corpus.tokens.shape[1],
        **config.decoder.model_dump(),
    )  # fmt: skip
    decoder = SentenceDecoder(shape)
    decoder.memory.copy_(memory)
    decoder.to(worker.device)
    return CaptionLearner(
        worker, config, corpus, decoder, build_optimiser(decoder.parameters(), config.optim), joined_workers()
    )


@dataclass
class CaptionLearner:
    """The parts of :class:`raytrain_xai.runners.epochs.Learner`.

    Attributes:
        decoder: on the device.
        workers: those that share out the sentences of a step.
    """

    worker: Worker
    config: CaptionRunConfig
    corpus: Corpus
    decoder: SentenceDecoder
    optimizer: torch.optim.Optimizer
    workers: Workers

    def start(self, step: int) -> None:
        """Begin to count at an optimiser step."""
        self._pace = Pace(step, self.num_steps)
        self._totals = torch.zeros(3, dtype=torch.float64, device=self.worker.device)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By name."""
        return dict(self.decoder.named_parameters())

    @property
    def steps_per_epoch(self) -> int:
        """A last incomplete batch is dropped; another one in every epoch."""
        return len(self.corpus.tokens) // self.config.batch_size

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @cached_property
    def _sentences(self) -> Item:
        """Sources (S, F, D) and tokens, on the device."""
        return self.corpus.sources.to(self.worker.device), self.corpus.tokens.to(self.worker.device)

    def epoch(self, epoch: int, start_step: int) -> Iterator[Item]:
        """Every sentence once, with one of its vectors and noise that is drawn for the step."""
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.corpus.tokens))
        steps = (self._item(order, epoch, step) for step in range(start_step, self.steps_per_epoch))
        return self._pace.timed(steps)

    def _item(self, order: np.ndarray, epoch: int, step: int) -> Item:
        config, device = self.config, self.worker.device
        sources, tokens = self._sentences
        size, (_, num_forms, dim) = config.batch_size, sources.shape
        draw = np.random.default_rng((config.seed, epoch, step))
        forms, noise = draw.integers(num_forms, size=size), draw.standard_normal((size, dim), dtype=np.float32)
        own = slice(self.workers.rank, None, self.workers.world_size)
        rows = torch.from_numpy(order[step * size : (step + 1) * size][own]).to(device)
        vectors = sources[rows, torch.from_numpy(forms[own]).to(device)].float()
        scale = config.noise / dim**0.5  # of one coordinate, for noise of the expected length
        return blurred(vectors, torch.from_numpy(noise[own]).to(device) * scale), tokens[rows]

    def step(self, item: Item, position: Position, attempt: Attempt | None) -> None:
        """See :class:`~raytrain_xai.runners.epochs.Learner`."""
        result = caption_step(self.decoder, *item, workers=self.workers)
        norm = torch.nn.utils.get_total_norm(result.gradients.values())
        if not all_true(torch.isfinite(result.sums["loss"]) & torch.isfinite(norm)):
            _stop_non_finite(self, result, position, attempt)
        for name, parameter in self.decoder.named_parameters():
            parameter.grad = result.gradients[name]
        apply_gradients(self.optimizer, self.config.optim, self._rate(position.step), norm)
        self._totals += torch.stack([result.sums[name].double() for name in ("loss", "words", "captions")])

    def read(self, position: Position) -> dict[str, float]:
        """See :class:`~raytrain_xai.runners.epochs.Learner`; the loss is that of a word, in nats."""
        loss, words, captions = self._totals.tolist()
        self._totals.zero_()
        lap = self._pace.lap(position.step)
        return {
            "loss": loss / words, "lr": self._rate(position.step - 1), "vectors_per_s": captions / lap.elapsed_s,
            "input_wait": lap.input_wait, "seconds_left": lap.seconds_left,
        }  # fmt: skip

    def measure(self) -> dict[str, float]:
        """See :class:`~raytrain_xai.runners.epochs.Learner`."""
        return self.measure_split("val")

    def measure_split(self, split: str) -> dict[str, float]:
        """Categories that captions of the images of a split name; see
        :class:`raytrain_xai.insight.caption_scores.MentionScores`.

        Every worker writes all captions: they take less time than an exchange is worth.
        """
        held, words = self.corpus.held[split], self.corpus.words
        batches = held.vectors.split(self.config.batch_size)
        captions = [caption for part in batches for caption in words.decode(self._write(part))]
        named = mentioned(captions, self.corpus.about["categories"])
        return vars(mention_scores(named, held.present, held.known)).copy()

    def _write(self, vectors: Tensor) -> Tensor:
        return self.decoder.greedy(self.decoder.recall(vectors.to(self.worker.device)))

    def is_over(self, history: Sequence[Evaluated]) -> bool:  # noqa: ARG002 - a caption run takes all its epochs
        """See :class:`~raytrain_xai.runners.epochs.Learner`."""
        return False

    def choose(self, history: Sequence[Evaluated]) -> Evaluated:
        """The evaluation whose checkpoint is used, of one or more; see ``evaluation.select``."""
        top = history[-1] if self.config.evaluation.select == "last" else best(history, "f1")
        assert top is not None
        return top

    def save(self, tracker: Tracker | None, position: Position) -> None:
        """See :class:`~raytrain_xai.runners.epochs.Learner`."""
        if tracker is None:
            return
        state = {
            **position.to_json(),
            "decoder": decoder_state(self.decoder.shape, self.corpus.about),
            "config": self.config.model_dump(mode="json"),
            "mlflow_id": tracker.mlflow_id,
        }
        optimizer = optimizer_tensors(self.optimizer, self.parameters)
        commit(tracker, Checkpoint(position.step, self.decoder.state_dict(), optimizer, state))
        protected = {self.choose(position.history).step} if position.history else set[int]()
        prune(tracker, position.step, self.config.checkpoint.keep, protected)

    def _rate(self, step: int) -> float:
        return learning_rate(self.config.optim, step, self.num_steps, self.steps_per_epoch)


def _final_metrics(learner: CaptionLearner, position: Position) -> dict[str, Any]:
    """Measure the selected checkpoint on the test split: the content of ``metrics.json``. A collective."""
    choice = learner.choose(position.history)
    broadcast_json(choice.step, learner.worker.device)  # worker 0 arrives here when the checkpoint is written
    folder = run_location(learner.config).child(CHECKPOINTS, checkpoint_name(choice.step))
    learner.decoder.load_state_dict(read_checkpoint(folder, with_optimizer=False).model)
    metrics: dict[str, Any] = {"val": choice.val, "selected": {"step": choice.step, "epoch": choice.epoch}}
    if "test" in learner.corpus.held:
        metrics["test"] = learner.measure_split("test")
    return metrics


def _stop_non_finite(
    learner: CaptionLearner, result: CaptionStep, position: Position, attempt: Attempt | None
) -> NoReturn:
    """Name the first bad tensor in ``failure/step-<step>.json`` and stop; every worker has the same numbers."""
    candidates = [
        *((f"parameter {name}", value) for name, value in learner.parameters.items()),
        *((f"loss part {name}", value) for name, value in result.sums.items()),
        *((f"gradient of {name}", value) for name, value in result.gradients.items()),
    ]
    bad, name = first_bad(candidates) or "total gradient norm", f"step-{position.step:08d}.json"
    if attempt is not None:
        bundle = {
            "step": position.step, "epoch": position.epoch, "first_bad": bad,
            "sums": {key: repr(float(value)) for key, value in result.sums.items()},  # repr: JSON has no NaN
            "config": learner.config.model_dump(mode="json"),
        }  # fmt: skip
        attempt.check()
        write_json(attempt.run.child(FAILURE, name), bundle)
    raise RunError(
        f"non-finite {bad} at step {position.step} (epoch {position.epoch}); weights were not updated, details in "
        f"{FAILURE}/{name}; lower optim.lr, or set optim.clip_norm, and train under a new name"
    )
