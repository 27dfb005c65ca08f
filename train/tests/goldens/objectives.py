"""Writes the losses and gradients of every objective on random inputs, from PyTorch in f64: objectives.safetensors.

    python objectives.py

needs torch and safetensors. Inputs are rounded to f32 first. `NAME.loss` is the total, `NAME.parts.PART` its terms, `NAME.ds` and `NAME.draw`
the gradients for the student's embedding (or logits) and its pooled feature before the activation.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
B, C, D, WIDTH, QUEUE, CLASSES = 6, 7, 16, 10, 9, 5
ALPHA, TAU_T, TAU_S, TAU_CAPTION, TAU_COMPRESS = 0.3, 0.05, 0.2, 0.07, 0.04
# Rows of the batch, and the entries of the queue that are of the same samples, in the cases `_own`.
OWN = [(0, 0), (3, 5)]
COUNTS = torch.tensor([4, 0, 1, 30, 7, 0, 12])
# The paper's weights would hide a part that is missing: these are all different.
LGD, SEED, KDEP = 1.5, 0.25, 3.0


def rounded(t):
    return t.to(torch.float32).double()


def unit(rows):
    return rounded(F.normalize(torch.randn(rows, D), dim=-1))


def soft_cross_entropy(logits, p):
    return -(p * F.log_softmax(logits, -1)).sum(-1).mean()


def visual_logits(x, positive, bank):
    return torch.cat([positive, x @ bank.T], 1)


class Inputs:
    def __init__(self):
        self.tsb, self.queue, self.caption = unit(C), unit(QUEUE), unit(B)
        self.t = rounded(F.normalize(self.tsb[torch.arange(B) % C] + 0.8 * unit(B), dim=-1))
        self.vsb = rounded(0.6 * self.tsb + 0.5 * unit(C))
        self.s = unit(B)
        self.raw, self.kdep = rounded(torch.randn(B, WIDTH)), rounded(torch.randn(B, WIDTH))
        self.logits = rounded(3 * torch.randn(B, CLASSES))
        self.label = torch.tensor([3, 0, 4, 1, 1, 2])
        # What a bank stores: every category one slot, none left out; slot 0 of the visual one is exactly 1.
        self.p_text = rounded(torch.softmax(self.t @ self.tsb.T / TAU_T, -1))
        one = torch.ones(B, 1).double()
        self.p_visual = rounded(torch.softmax(visual_logits(self.t, one, self.vsb) / TAU_T, -1))


def lgd_term(logits, p, weights):
    """Slots of weight 0 are left out on both sides; the others count as often as their weight."""
    on = weights > 0
    weights = weights[on].double()
    p = p[:, on] * weights
    p = p / p.sum(-1, keepdim=True)
    logits = logits[:, on] / TAU_S
    loss = soft_cross_entropy(logits + weights.log(), p)
    # The same with every slot repeated: the gradient's loss, up to what does not depend on the student.
    times = weights.long()
    repeated = soft_cross_entropy(logits.repeat_interleave(times, 1), (p / weights).repeat_interleave(times, 1))
    torch.testing.assert_close(loss, repeated - (p * weights.log()).sum(-1).mean())
    return loss


def lgd(i, s, counts, online):
    """`counts`: views per category, or None for one slot each. The online bank takes the teacher's distribution anew."""
    text_weights = torch.ones(C) if counts is None else counts.clamp(min=1)
    assigned = (COUNTS > 0).double() if counts is None else counts.double()
    visual_weights = torch.cat([torch.ones(1).double(), assigned])
    text = lgd_term(s @ i.tsb.T, i.p_text, text_weights)
    positive = (i.t * i.t).sum(-1, keepdim=True)
    p = torch.softmax(visual_logits(i.t, positive, i.vsb) / TAU_T, -1) if online else i.p_visual
    visual = lgd_term(visual_logits(s, (s * i.t).sum(-1, keepdim=True), i.vsb), p, visual_weights)
    return ALPHA * visual + (1 - ALPHA) * text, {"text": text, "visual": visual}


def left_out(filled, own):
    """Added to similarities to the queue: entries of a row's own sample get no probability."""
    offsets = torch.zeros(B, filled).double()
    for row, entry in own:
        offsets[row, entry] = -1e30
    return offsets


def seed(i, s, filled, own=()):
    queue, offsets = i.queue[:filled], left_out(filled, own)
    teacher = torch.cat([torch.ones(B, 1).double(), i.t @ queue.T + offsets], 1)
    student = torch.cat([(s * i.t).sum(-1, keepdim=True), s @ queue.T + offsets], 1)
    loss = soft_cross_entropy(student / TAU_S, torch.softmax(teacher / TAU_T, -1))
    return loss, {"seed": loss}


def compress(i, s, filled, own=()):
    """CompRess with one queue: KL(teacher | student) of the distributions over the queue of teacher embeddings."""
    if filled == 0:
        return (s * 0).sum(), {"compress": (s * 0).sum()}
    queue, offsets = i.queue[:filled], left_out(filled, own)
    target = torch.softmax((i.t @ queue.T + offsets) / TAU_COMPRESS, -1)
    log_student = F.log_softmax((s @ queue.T + offsets) / TAU_COMPRESS, -1)
    loss = F.kl_div(log_student, target, reduction="batchmean")
    return loss, {"compress": loss}


def kdep(i, raw):
    loss = F.mse_loss(raw, i.kdep)
    return loss, {"kdep": loss}


def caption(i, s):
    logits, own = s @ i.caption.T / TAU_CAPTION, torch.arange(B)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, {"caption": loss}


def supervised(i, s):
    loss = F.cross_entropy(s, i.label)
    return loss, {"supervised": loss}


def combined(i, s, raw):
    parts = [(LGD, lgd(i, s, None, False)), (SEED, seed(i, s, QUEUE)), (KDEP, kdep(i, raw))]
    terms = {name: term for _, (_, terms) in parts for name, term in terms.items()}
    return sum(weight * loss for weight, (loss, _) in parts), terms


def main():
    torch.manual_seed(4)
    i = Inputs()
    cases = {
        "lgd_balanced": lambda s, raw: lgd(i, s, None, False),
        "lgd_views": lambda s, raw: lgd(i, s, COUNTS, False),
        "lgd_balanced_online": lambda s, raw: lgd(i, s, None, True),
        "lgd_views_online": lambda s, raw: lgd(i, s, COUNTS, True),
        "seed": lambda s, raw: seed(i, s, QUEUE),
        "seed_partly_filled": lambda s, raw: seed(i, s, 4),
        "seed_empty": lambda s, raw: seed(i, s, 0),
        "seed_own": lambda s, raw: seed(i, s, QUEUE, OWN),
        "compress": lambda s, raw: compress(i, s, QUEUE),
        "compress_partly_filled": lambda s, raw: compress(i, s, 4),
        "compress_empty": lambda s, raw: compress(i, s, 0),
        "compress_own": lambda s, raw: compress(i, s, QUEUE, OWN),
        "kdep": lambda s, raw: kdep(i, raw),
        "caption": lambda s, raw: caption(i, s),
        "supervised": lambda s, raw: supervised(i, s),
        "combined": lambda s, raw: combined(i, s, raw),
    }
    fixture = {name: value for name, value in vars(i).items()}
    fixture["counts"] = COUNTS.double()
    for name, loss_of in cases.items():
        s = (i.logits if name == "supervised" else i.s).clone().requires_grad_()
        raw = i.raw.clone().requires_grad_()
        loss, parts = loss_of(s, raw)
        loss.backward()
        fixture[f"{name}.loss"] = loss.reshape(1)
        fixture |= {f"{name}.parts.{part}": value.reshape(1) for part, value in parts.items()}
        fixture |= {f"{name}.{key}": x.grad for key, x in [("ds", s), ("draw", raw)] if x.grad is not None}
    arrays = {name: np.ascontiguousarray(value.detach().to(torch.float32).numpy()) for name, value in fixture.items()}
    save_file(arrays, HERE / "objectives.safetensors")


if __name__ == "__main__":
    main()
