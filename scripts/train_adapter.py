"""Fine-tune MiniLM on SQuAD v1.1 with LoRA, and write the adapter that the export merges.

A developer's command, for a GPU; it needs requirements.txt and requirements-train.txt. The
model card in assets/minilm-squad-adapter has the commands that made the adapter there.

Trained are low-rank changes to every linear of the encoder (Hu et al. 2021), its biases and
layer norms, and the QA head; the embeddings stay. Labels are all occurrences of the answer in
the window: the loss is the negative log of the probability that the model gives to any of them
(Clark & Gardner 2018, section 3.2, over spans), so a dataset whose `answer_start` names the
wrong one does little harm. With `--teachers`, adapters made by earlier runs, a part of the loss
is the divergence from their mean prediction (Hinton et al. 2015; Furlanello et al. 2018).

Each epoch ends with the adapter written, read back, merged and scored in float32 as the
pipeline does it.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.adapter import Adapter, merge_adapter, read_adapter, write_adapter
from harness.answers import answer_texts
from harness.batches import assemble, plan_batches, scatter
from harness.errors import BAD_INPUT, INTERRUPTED, OK, UserError, one_line
from harness.files import sha256_file, to_json, write_atomic
from harness.profile import load_profile
from harness.scoring import score
from harness.squad import Question, read_dataset
from harness.weights import QA_OUTPUTS, Architecture, Weights, check_weights, read_weights
from harness.windows import Float32, Int32, Windows, cut_windows, load_tokenizer

Array = npt.NDArray[Any]

PROFILE = "minilm-squad"
# Batches are padded to a multiple of this many tokens: fewer shapes, aligned rows.
PADDING = 32
# Training batches are cut from pools of this many, each sorted by length: little padding, and
# still a different batch for every window each epoch.
POOL_BATCHES = 50
SCORING_BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """The options that shape the result.

    Rates are AdamW's peaks: the first for the low-rank factors, the second for what is trained
    whole. `average` is the decay of the moving average that becomes the adapter, `teaching` the
    teachers' part in the loss where there are any.
    """

    rank: int = 64
    alpha: float = 128.0
    epochs: int = 9
    batch: int = 64
    learning_rate: float = 5e-4
    direct_learning_rate: float = 3e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    dropout: float = 0.1
    clip: float = 1.0
    average: float = 0.999
    teaching: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rank, self.epochs, self.batch) < 1:
            raise UserError("--rank, --epochs and --batch are at least 1; raise them")
        if not (0 <= self.dropout < 1 and 0 <= self.average < 1 and 0 <= self.teaching <= 1):
            raise UserError("--dropout, --average and --teaching are parts of 1; lower them")


@dataclass(frozen=True)
class Base:
    """The model that is adapted, and the SHA-256 of its file."""

    weights: Weights
    sha256: str
    architecture: Architecture

    def merged(self, adapter: Path) -> Weights:
        """The weights with a stored adapter's change."""
        return merge_adapter(self.weights, read_adapter(adapter), base_sha256=self.sha256)


class Flat:
    """Named tensors laid out in one vector, so that the optimizer sees a single parameter."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.vector = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensors as views of `vector`, which is laid out like this one's."""
        pieces = vector.split_with_sizes([shape.numel() for shape in self.shapes.values()])
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }


class Student:
    """The base model with what is trained of it, in `dtype` for the forward pass.

    Linears of one shape are stacked, (n, out, in), so that all their changes cost one product.
    `low_rank` holds the factors, `direct` what is trained whole; both are float32.
    """

    def __init__(
        self, base: Weights, recipe: Recipe, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        self.recipe = recipe
        self.linears: dict[str, list[str]] = defaultdict(list)
        direct: dict[str, Tensor] = {}
        self.frozen: dict[str, Tensor] = {}
        for name, array in base.items():
            tensor = torch.from_numpy(array).to(device)
            if name.startswith("layer.") and tensor.ndim == 2:
                self.linears["x".join(map(str, tensor.shape))].append(name)
            elif tensor.ndim == 1:
                direct[name] = tensor
            else:
                self.frozen[name] = tensor.to(dtype)
        hidden = base["embeddings.word"].shape[1]
        direct["qa.weight"] = torch.randn(QA_OUTPUTS, hidden, device=device) * 0.02
        direct["qa.bias"] = torch.zeros(QA_OUTPUTS, device=device)
        self.stacks = {
            group: torch.from_numpy(np.stack([base[name] for name in names])).to(device)
            for group, names in self.linears.items()
        }
        factors: dict[str, Tensor] = {}
        for group, stack in self.stacks.items():
            count, outputs, inputs = stack.shape
            # B starts at zero: the first forward pass is the base model's.
            bound = inputs**-0.5
            a = torch.empty(count, recipe.rank, inputs, device=device).uniform_(-bound, bound)
            factors[f"{group}.a"] = a
            factors[f"{group}.b"] = torch.zeros(count, outputs, recipe.rank, device=device)
        self.low_rank, self.direct = Flat(factors), Flat(direct)

    def weights(self, low_rank: Tensor, direct: Tensor) -> dict[str, Tensor]:
        """All weights in `dtype`, from vectors laid out as `low_rank` and `direct` are."""
        result = dict(self.frozen)
        result |= self.direct.views(direct.to(self.dtype))
        factors = self.low_rank.views(low_rank)
        scale = self.recipe.alpha / self.recipe.rank
        for group, names in self.linears.items():
            a, b = factors[f"{group}.a"], factors[f"{group}.b"]
            merged = torch.baddbmm(self.stacks[group], b, a, alpha=scale).to(self.dtype)
            result |= dict(zip(names, merged.unbind(), strict=True))
        return result

    def adapter(self, low_rank: Tensor, direct: Tensor, base_sha256: str) -> Adapter:
        """The tensors of such vectors under the adapter's names."""
        factors = self.low_rank.views(low_rank.cpu())
        return Adapter(
            rank=self.recipe.rank,
            alpha=self.recipe.alpha,
            base_sha256=base_sha256,
            factors={
                name.removesuffix(".weight"): (a.numpy(), b.numpy())
                for group, names in self.linears.items()
                for name, a, b in zip(
                    names, factors[f"{group}.a"], factors[f"{group}.b"], strict=True
                )
            },
            replacements={k: v.numpy() for k, v in self.direct.views(direct.cpu()).items()},
        )


@dataclass(frozen=True)
class Inputs:
    """A padded batch on the device, each (b, s) int32."""

    ids: Tensor
    segments: Tensor
    mask: Tensor


def qa_logits(
    weights: dict[str, Tensor], architecture: Architecture, inputs: Inputs, dropout: float
) -> Tensor:
    """Start and end logits (b, s, 2) in float32 of BERT with post-layer norms (Devlin et al.)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        gamma, beta = weights[f"{name}.gamma"], weights[f"{name}.beta"]
        return F.layer_norm(x, gamma.shape, gamma, beta, architecture.layer_norm_eps)

    def drop(x: Tensor) -> Tensor:
        return F.dropout(x, dropout, training=dropout > 0)

    batch, sequence = inputs.ids.shape
    visible = inputs.mask.bool()[:, None, None, :].expand(-1, 1, sequence, -1)
    x = F.embedding(inputs.ids, weights["embeddings.word"])
    x = x + F.embedding(inputs.segments, weights["embeddings.segment"])
    x = drop(norm("embeddings.norm", x + weights["embeddings.position"][:sequence]))
    for i in range(architecture.layers):
        query, key, value = (
            linear(f"layer.{i}.attention.{part}", x)
            .view(batch, sequence, architecture.heads, architecture.head_size)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(query, key, value, visible, dropout_p=dropout)
        y = linear(f"layer.{i}.attention.output", y.transpose(1, 2).flatten(2))
        x = norm(f"layer.{i}.attention.norm", x + drop(y))
        y = linear(f"layer.{i}.ffn.out", F.gelu(linear(f"layer.{i}.ffn.in", x)))
        x = norm(f"layer.{i}.ffn.norm", x + drop(y))
    return linear("qa", x).float()


def passage_log_p(logits: Tensor, inputs: Inputs) -> Tensor:
    """Log-probabilities (b, s, 2) over the passage's tokens, -inf elsewhere."""
    followed = F.pad(inputs.mask[:, 1:], (0, 1))  # the window's last [SEP] is not
    passage = (inputs.segments * followed).bool()
    return logits.masked_fill(~passage[..., None], -torch.inf).log_softmax(1)


def span_loss(logits: Tensor, inputs: Inputs, occurrences: Tensor) -> Tensor:
    """Mean of -log P(any occurrence), for `occurrences` (b, k, 2), -1 where there is none.

    Start and end are distributions over the passage's tokens alone, as in decoding.
    """
    log_p = passage_log_p(logits, inputs)
    real = occurrences[..., 0] >= 0
    chosen = log_p.gather(1, occurrences.clamp(min=0)).sum(2)
    return -chosen.masked_fill(~real, -torch.inf).logsumexp(1).mean()


def teaching_loss(logits: Tensor, inputs: Inputs, taught: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, start plus end, from the logits `taught` (b, s, 2)."""
    log_p, log_q = passage_log_p(logits, inputs), passage_log_p(taught, inputs)
    outside = torch.isinf(log_q)
    terms = log_q.exp() * (log_q - log_p).masked_fill(outside, 0.0)
    return terms.sum((1, 2)).mean()


def answer_spans(question: Question) -> list[tuple[int, int]]:
    """Begin and end characters of each place where the answer stands as whole words.

    An answer that nowhere does (a part of a word) has the one place the dataset names.
    """
    spans = set()
    for answer, start in zip(question.answers, question.answer_starts, strict=True):
        pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
        found = {match.span() for match in pattern.finditer(question.context)}
        spans |= found or {(start, start + len(answer))}
    return sorted(spans)


def label_windows(questions: tuple[Question, ...], windows: Windows) -> Int32:
    """First and last token, counted from the window's start, of each occurrence of the answer
    that lies in the window whole: (W, k, 2), -1 beyond a window's occurrences."""
    spans = [answer_spans(question) for question in questions]
    labels: list[list[tuple[int, int]]] = []
    starts = windows.starts
    for window, owner in enumerate(windows.questions):
        head = int(windows.context_starts[window])
        chars = windows.char_spans[starts[window] + head : starts[window + 1] - 1]
        found = []
        for begin, end in spans[owner]:
            first = int(np.searchsorted(chars[:, 1], begin, side="right"))
            last = int(np.searchsorted(chars[:, 0], end)) - 1
            if first <= last and chars[first, 0] <= begin and end <= chars[last, 1]:
                found.append((head + first, head + last))
        labels.append(found)
    packed = np.full((len(labels), max(map(len, labels)), 2), -1, dtype=np.int32)
    for row, found in zip(packed, labels, strict=True):
        row[: len(found)] = np.reshape(found, (-1, 2))
    return packed


def epoch_batches(lengths: Int32, rows: Array, batch: int, rng: np.random.Generator) -> list[Array]:
    """`rows` in random batches of windows of like length; what fills none is left out."""
    shuffled = rng.permutation(rows)
    batches = []
    for pool in range(0, len(shuffled), POOL_BATCHES * batch):
        part = shuffled[pool : pool + POOL_BATCHES * batch]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch] for i in range(0, len(part) - batch + 1, batch)]
    return [batches[index] for index in rng.permutation(len(batches))]


def to_device(array: Array, device: torch.device) -> Tensor:
    """A copy of `array` on the device."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        # From pinned memory the copy does not wait for the kernels before it.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def padded_inputs(windows: Windows, rows: Array, device: torch.device) -> Inputs:
    """The windows `rows`, padded to the longest and on to a multiple of PADDING tokens."""
    batch = assemble(windows, rows)
    padding = ((0, 0), (0, -batch.input_ids.shape[1] % PADDING))
    return Inputs(
        *(
            to_device(np.pad(array, padding), device)
            for array in (batch.input_ids, batch.segment_ids, batch.input_mask)
        )
    )


def packed_logits(
    weights: Weights, architecture: Architecture, windows: Windows, device: torch.device
) -> Float32:
    """Start and end logits (2, T) of float32 `weights`, packed like `windows.tokens`."""
    tensors = {name: torch.from_numpy(array).to(device) for name, array in weights.items()}
    packed = np.zeros((QA_OUTPUTS, len(windows.tokens)), dtype=np.float32)
    with torch.inference_mode():
        for rows in plan_batches(windows.lengths, SCORING_BATCH):
            batch = assemble(windows, rows)
            inputs = padded_inputs(windows, rows, device)
            logits = qa_logits(tensors, architecture, inputs, dropout=0.0).cpu().numpy()
            for output in range(QA_OUTPUTS):
                real = logits[:, : batch.input_ids.shape[1], output]
                scatter(windows, batch, real, packed[output])
    return packed


def padded_logits(windows: Windows, rows: Array, packed: Float32, sequence: int) -> Float32:
    """The logits of the windows `rows`, (b, sequence, 2), zero where there is no token."""
    column = np.arange(sequence)
    real = column < windows.lengths[rows, None]
    index = np.where(real, windows.starts[rows, None] + column, 0)
    return np.where(real[..., None], packed.T[index], np.float32(0))


class Training:
    """A student, the windows it learns from, and its optimizer.

    `labels` is what `label_windows` returns, `taught` the teachers' mean logits (2, T), or None.
    """

    def __init__(
        self,
        base: Base,
        recipe: Recipe,
        windows: Windows,
        labels: Int32,
        taught: Float32 | None,
        device: torch.device,
    ) -> None:
        self.recipe, self.device, self.architecture = recipe, device, base.architecture
        self.windows, self.labels, self.taught = windows, labels, taught
        self.rows = np.flatnonzero(labels[:, 0, 0] >= 0)
        if len(self.rows) < recipe.batch:
            raise UserError(f"{len(self.rows)} windows make no batch of {recipe.batch}; lower it")
        self.rng = np.random.default_rng(recipe.seed)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.student = Student(base.weights, recipe, device, dtype)
        self.low_rank = self.student.low_rank.vector.requires_grad_()
        self.direct = self.student.direct.vector.requires_grad_()
        self.averages = [v.detach().clone() for v in (self.low_rank, self.direct)]
        self.rates = (recipe.learning_rate, recipe.direct_learning_rate)
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.low_rank]}, {"params": [self.direct]}],
            weight_decay=recipe.weight_decay,
            fused=device.type == "cuda",
        )

    def adapter(self, base_sha256: str) -> Adapter:
        """The moving average of what is trained."""
        low_rank, direct = self.averages
        return self.student.adapter(low_rank, direct, base_sha256)

    def epoch(self, index: int) -> float:
        """Train one epoch, counted from 0; returns the mean loss."""
        batches = epoch_batches(self.windows.lengths, self.rows, self.recipe.batch, self.rng)
        total = torch.zeros((), device=self.device)
        for number, rows in enumerate(batches, start=index * len(batches) + 1):
            self._set_rates(number, self.recipe.epochs * len(batches))
            total += self._step(rows)
        return float(total.item()) / len(batches)

    def _set_rates(self, step: int, steps: int) -> None:
        """Linear warm-up to the peak, then linear decay to almost zero at the last step."""
        warmup = max(1, round(self.recipe.warmup * steps))
        factor = min(step / warmup, (steps - step + 1) / (steps - warmup + 1))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _step(self, rows: Array) -> Tensor:
        recipe, vectors = self.recipe, (self.low_rank, self.direct)
        inputs = padded_inputs(self.windows, rows, self.device)
        occurrences = to_device(self.labels[rows].astype(np.int64), self.device)
        weights = self.student.weights(self.low_rank, self.direct)
        logits = qa_logits(weights, self.architecture, inputs, recipe.dropout)
        loss = span_loss(logits, inputs, occurrences)
        if self.taught is not None:
            shown = padded_logits(self.windows, rows, self.taught, inputs.ids.shape[1])
            lesson = teaching_loss(logits, inputs, to_device(shown, self.device))
            loss = (1 - recipe.teaching) * loss + recipe.teaching * lesson
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vectors, recipe.clip)
        self.optimizer.step()
        for average, vector in zip(self.averages, vectors, strict=True):
            average.lerp_(vector.detach(), 1 - recipe.average)
        return loss.detach()


def train(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Train, and write `adapter.safetensors` and `training.json` to the output folder."""
    device = torch.device(arguments.device)
    torch.manual_seed(recipe.seed)
    # cuDNN's attention plans anew for every shape, which costs more than it gains here.
    torch.backends.cuda.enable_cudnn_sdp(False)

    profile = load_profile(PROFILE)
    weights = read_weights(arguments.base)
    check_weights(weights, profile.architecture, qa_head=False)
    base = Base(weights, sha256_file(arguments.base), profile.architecture)
    teachers = [base.merged(path) for path in arguments.teachers]
    tokenizer = load_tokenizer(arguments.vocab)
    train_set = read_dataset(arguments.train, arguments.limit)
    dev_set = read_dataset(arguments.dev, arguments.limit)
    windows = cut_windows(train_set.questions, tokenizer, profile.windows)
    dev_windows = cut_windows(dev_set.questions, tokenizer, profile.windows)

    labels = label_windows(train_set.questions, windows)
    taught = None
    if teachers:
        taught = np.zeros((QA_OUTPUTS, len(windows.tokens)), dtype=np.float32)
        for teacher in teachers:
            taught += packed_logits(teacher, base.architecture, windows, device) / len(teachers)
    training = Training(base, recipe, windows, labels, taught, device)
    print(f"{len(training.rows)} of {len(windows)} windows hold their answer", flush=True)

    target = arguments.out / "adapter.safetensors"
    history: list[dict[str, float]] = []
    for index in range(recipe.epochs):
        began = time.perf_counter()
        loss = training.epoch(index)
        seconds = time.perf_counter() - began
        if not math.isfinite(loss):
            raise UserError("the loss is no longer finite; lower --learning-rate")
        write_adapter(target, training.adapter(base.sha256))
        logits = packed_logits(base.merged(target), base.architecture, dev_windows, device)
        result = score(dev_set.questions, answer_texts(dev_set.questions, dev_windows, *logits))
        history.append({"loss": loss, "seconds": seconds, **asdict(result)})
        print(
            f"epoch {index + 1}/{recipe.epochs}: loss {loss:.4f}, EM {result.exact_match:.2f}, "
            f"F1 {result.f1:.2f}, {seconds:.1f} s",
            flush=True,
        )

    record = {
        "recipe": asdict(recipe),
        "questions": {"train": len(train_set.questions), "dev": len(dev_set.questions)},
        "windows": {"cut": len(windows), "trained_on": len(training.rows)},
        "trained_parameters": training.low_rank.numel() + training.direct.numel(),
        "sha256": {
            "adapter": sha256_file(target),
            "base": base.sha256,
            "vocab": sha256_file(arguments.vocab),
            "train": train_set.sha256,
            "dev": dev_set.sha256,
            "teachers": [sha256_file(path) for path in arguments.teachers],
        },
        "environment": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")},
        },
        "epochs": history,
    }
    write_atomic(arguments.out / "training.json", to_json(record))


def parse_arguments() -> argparse.Namespace:
    """The command line: files, and one option for each field of the recipe."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, what in (
        ("train", "SQuAD v1.1 file to train on, .json or .json.gz"),
        ("dev", "SQuAD v1.1 file to score on"),
        ("base", "the encoder's weights, model.safetensors"),
        ("vocab", "the encoder's vocab.txt"),
        ("out", "folder for adapter.safetensors and training.json"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    parser.add_argument(
        "--teachers", type=Path, nargs="*", default=[], help="adapters to learn from as well"
    )
    parser.add_argument("--limit", type=int, help="first questions of both files, for a trial")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="what trains")
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help="recipe")
    return parser.parse_args()


def main() -> int:
    """Train as the command line says; returns the exit code."""
    arguments = parse_arguments()
    try:
        recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
        if arguments.device == "cuda" and not torch.cuda.is_available():
            raise UserError("PyTorch sees no CUDA device; give --device cpu for a trial")
        train(arguments, recipe)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {one_line(error)}; check the path and free space", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the adapter of the last whole epoch is kept", file=sys.stderr)
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
