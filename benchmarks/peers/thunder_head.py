"""Linear probing by thunder-bench itself: ``PYTHON thunder_head.py INPUT.npz OUTPUT.npz``, run by its own Python.

INPUT holds x_train, y_train, x_val, y_val, weight_TKD and bias_TK (initial weights of the grid's heads), order_EN (rows
of every epoch). thunder-bench's own ``train_probe`` trains and chooses; given are its data, its initial weights and its
batch order, and its logging is silenced.
"""

from __future__ import annotations

import importlib.machinery
import sys
import tempfile
import types

import numpy as np
import torch

# thunder-bench 0.2.2 imports torchaudio for a task that is not run here; its builds lag behind torch's.
for name in ("torchaudio", "torchaudio.functional"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)

from given_order import GivenOrder
from omegaconf import OmegaConf
from thunder.models.task_specific_models import GridSearchClassificationHead
from thunder.tasks import train_eval_probe

BATCH, LR, DECAY = 64, [1e-3, 1e-4, 1e-5], [0.0, 1e-3, 1e-4]


class Rows(torch.utils.data.Dataset):
    """Embeddings in memory, as thunder-bench preloads them."""

    def __init__(self, x, y):
        self.x, self.y = torch.tensor(x), torch.tensor(y)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return {"emb": self.x[row], "label": self.y[row]}


def main():
    data, out = dict(np.load(sys.argv[1])), sys.argv[2]
    n_classes, dim = int(data["y_train"].max()) + 1, data["x_train"].shape[1]
    found, state = {}, {"hooked": False, "steps": 0}

    class GivenHeads(GridSearchClassificationHead):
        """thunder-bench's heads with given weights."""

        def __init__(self, *sizes):
            super().__init__(*sizes)
            for head, weight, bias in zip(self.heads, data["weight_TKD"], data["bias_TK"], strict=True):
                head.linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            state["heads"] = self

    def logits():
        with torch.no_grad():
            return torch.stack([head(torch.tensor(data["x_val"])) for head in state["heads"].heads]).numpy().copy()

    def after_step(*_):
        state["steps"] += 1
        if state["steps"] in (1, 100):
            found[f"logits_{state['steps']}"] = logits()

    trains = train_eval_probe.train_eval

    def hooked(*args, **kwargs):
        if not state["hooked"]:
            args[9].register_step_post_hook(after_step)
            state["hooked"] = True
        return trains(*args, **kwargs)

    def dataset(*args, **_):
        split = args[6].rsplit("/", 1)[-1]
        return Rows(data[f"x_{split}"], data[f"y_{split}"])

    def loader(rows, batch_size, shuffle, num_workers):
        sampler = GivenOrder(data["order_EN"]) if shuffle else None
        return torch.utils.data.DataLoader(rows, batch_size=batch_size, sampler=sampler)

    train_eval_probe.GridSearchClassificationHead = GivenHeads
    train_eval_probe.train_eval = hooked
    train_eval_probe.PatchDataset, train_eval_probe.DataLoader = dataset, loader
    train_eval_probe.log_loss = train_eval_probe.log_metrics = lambda *_, **__: None
    cfg = OmegaConf.create({
        "adaptation": {"batch_size": BATCH, "num_workers": 0, "lr": LR, "weight_decay": DECAY,
                       "epochs": len(data["order_EN"])},
        "pretrained_model": {"emb_dim": dim}, "dataset": {"nb_classes": n_classes}, "ckpt_saving": {"best_only": True},
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        best = train_eval_probe.train_probe(
            cfg, {}, "given", "given", True, False, "frozen", "linear_probing", torch.nn.CrossEntropyLoss(), "cpu",
            folder, folder, "", folder,
        )  # fmt: skip
    found |= {"logits_last": logits(), "n_steps": state["steps"]}
    np.savez(out, lr=best["lr"], weight_decay=best["weight_decay"], epoch=best["epoch"] + 1, **found)


if __name__ == "__main__":
    main()
